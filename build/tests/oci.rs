//! Pushing to an OCI registry, through the program as it is called: a registry in this process, over TLS, that wants to know
//! who asks.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Manifest;
use astrid_capsule::signature::SecretKey;
use base64ct::{Base64, Encoding};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A component with nothing in it.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
const LOGIN: &str = "ada:correct horse: battery";
/// How many requests a token is good for.
const TOKEN_USES: usize = 3;

/// Whom a registry serves.
#[derive(Clone)]
enum Guard {
    Anybody,
    Basic,
    /// Whoever has a token of its own, which needs the login, or of the place that is named.
    Bearer(Option<String>),
}

#[derive(Default)]
struct State {
    /// What was pushed, by path.
    kept: BTreeMap<String, Vec<u8>>,
    /// Every request line, and what it was authorized with.
    asked: Vec<(String, Option<String>)>,
    /// How often each token was used.
    tokens: BTreeMap<String, usize>,
}

#[derive(Clone)]
struct Registry {
    port: u16,
    guard: Guard,
    tls: bool,
    /// The certificate that it shows, which is its own root.
    certificate: String,
    state: Arc<Mutex<State>>,
}

struct Asked {
    line: String,
    authorization: Option<String>,
    body: Vec<u8>,
}

impl Registry {
    fn start(tls: bool, guard: Guard) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let registry = Self { port, guard, tls, certificate: made.cert.pem(), state: Arc::default() };
        let serving = registry.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                match tls {
                    true => serving.serve(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream)),
                    false => serving.serve::<TcpStream>(stream),
                }
            }
        });
        registry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The requests for tokens.
    fn token_requests(&self) -> Vec<(String, Option<String>)> {
        self.state().asked.iter().filter(|(line, _)| line.starts_with("GET /token")).cloned().collect()
    }

    /// One request. A client that goes away, as one does that trusts no such certificate, is no matter.
    fn serve<S: Read + Write>(&self, stream: S) {
        let mut stream = BufReader::new(stream);
        let Some(asked) = read(&mut stream) else { return };
        self.state().asked.push((asked.line.clone(), asked.authorization.clone()));
        let answer = self.answer(&asked);
        let _ = stream.get_mut().write_all(answer.as_bytes()).and_then(|()| stream.get_mut().flush());
    }

    fn answer(&self, asked: &Asked) -> String {
        let empty = |status: u16, headers: &str| format!("HTTP/1.1 {status} x\r\n{headers}content-length: 0\r\n\r\n");
        let basic = format!("Basic {}", Base64::encode_string(LOGIN.as_bytes()));
        let own = format!("{}://localhost:{}", if self.tls { "https" } else { "http" }, self.port);
        if let Some(query) = asked.line.strip_prefix("GET /token?") {
            if asked.authorization.as_ref() != Some(&basic) {
                return empty(401, "");
            }
            assert_eq!(query, "of=1&scope=repository%3Aa%2Fnotes%3Apull%2Cpush&service=the%20registry HTTP/1.1");
            let mut state = self.state();
            let token = format!("token-{}", state.tokens.len());
            state.tokens.insert(token.clone(), 0);
            // In chunks, as such servers like it.
            let json = format!("{{\"expires_in\":60,\"access_token\":\"{token}\"}}");
            return format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{json}\r\n0\r\n\r\n",
                json.len()
            );
        }
        let challenge = match &self.guard {
            Guard::Anybody => None,
            Guard::Basic => (asked.authorization.as_ref() != Some(&basic)).then(|| "Basic realm=\"r\"".to_owned()),
            Guard::Bearer(realm) => {
                let mut state = self.state();
                let token = asked.authorization.as_deref().and_then(|value| value.strip_prefix("Bearer "));
                let uses = token.and_then(|token| state.tokens.get_mut(token)).filter(|uses| **uses < TOKEN_USES);
                let realm = realm.clone().unwrap_or_else(|| format!("{own}/token?of=1"));
                match uses {
                    Some(uses) => {
                        *uses += 1;
                        None
                    }
                    None => Some(format!("Bearer realm=\"{realm}\",service=\"the registry\",scope=\"repository:a\"")),
                }
            }
        };
        if let Some(challenge) = challenge {
            return empty(401, &format!("WWW-Authenticate: {challenge}\r\n"));
        }
        let mut words = asked.line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap().to_owned());
        let mut state = self.state();
        match method {
            "HEAD" => match state.kept.get(&path) {
                Some(bytes) => empty(200, &format!("Docker-Content-Digest: {}\r\n", digest(bytes))),
                None => empty(404, ""),
            },
            "POST" => empty(202, &format!("Location: {own}/upload/7?state=a\r\n")),
            "PUT" => {
                let blob = path.strip_prefix("/upload/7?state=a&digest=").map(|digest| digest.replace("%3A", ":"));
                if let Some(said) = &blob {
                    assert_eq!(*said, digest(&asked.body));
                }
                let at = blob.map_or(path, |digest| format!("/v2/a/notes/blobs/{digest}"));
                state.kept.insert(at, asked.body.clone());
                empty(201, "")
            }
            _ => empty(405, ""),
        }
    }
}

fn read(stream: &mut impl BufRead) -> Option<Asked> {
    let mut lines = Vec::new();
    while !lines.last().is_some_and(String::is_empty) {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        lines.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        let mut fields = lines.iter().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some(Asked { line: lines[0].clone(), authorization: header("authorization"), body })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A folder with signed archives `a` and `b` of one version, and the registry's certificate.
fn folder(registry: &Registry) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, description) in [("a", "one"), ("b", "other")] {
        let text = format!("[package]\nname = \"notes\"\nversion = \"1.0.0\"\ndescription = \"{description}\"\n");
        let mut archive = Archive::new(&Manifest::parse(&text).unwrap(), COMPONENT.to_vec());
        archive.sign(&SecretKey::from_bytes(&[1; 32])).unwrap();
        archive.write(fs::File::create(folder.path().join(name)).unwrap()).unwrap();
    }
    fs::write(folder.path().join("roots.pem"), &registry.certificate).unwrap();
    folder
}

/// Publishes `archive` as `a/notes:1.0.0`; the login stands in the environment, if there is one. Nothing that is printed
/// has a password or a token.
fn publish(folder: &Path, registry: &Registry, archive: &str, login: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_astrid-build"));
    command.current_dir(folder).args(["--json", "publish", archive]);
    command.arg(format!("oci://localhost:{}/a/notes:1.0.0", registry.port)).args(args);
    command
        .env("SSL_CERT_FILE", folder.join("roots.pem"))
        .env_remove("SSL_CERT_DIR")
        .env_remove("ASTRID_REGISTRY_LOGIN");
    command.envs(login.map(|login| ("ASTRID_REGISTRY_LOGIN", login)));
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8(said).unwrap();
    let encoded = Base64::encode_string(LOGIN.as_bytes());
    for secret in ["correct horse", &encoded, "token-"] {
        assert!(!said.contains(secret), "{said}");
    }
    output
}

#[track_caller]
fn published(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["error"].as_str().unwrap().contains(why), "{said}");
}

#[test]
fn a_push_over_tls_gets_tokens_for_its_login_and_a_tag_never_moves() {
    let registry = Registry::start(true, Guard::Bearer(None));
    let folder = folder(&registry);
    let push = |archive: &str| publish(folder.path(), &registry, archive, Some(LOGIN), &[]);
    let first = published(&push("a"));
    assert_eq!(first["changed"], true);
    let kept = registry.state().kept.clone();
    assert_eq!(kept.len(), 3);
    let manifest = &kept["/v2/a/notes/manifests/1.0.0"];
    assert!(first["at"].as_str().unwrap().ends_with(&format!("/a/notes@{}", digest(manifest))), "{first}");
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    assert_eq!(manifest["artifactType"], "application/vnd.astrid.capsule.v1");
    let archive = fs::read(folder.path().join("a")).unwrap();
    for (blob, bytes) in [(&manifest["config"], &b"{}"[..]), (&manifest["layers"][0], &archive)] {
        assert_eq!(kept[&format!("/v2/a/notes/blobs/{}", blob["digest"].as_str().unwrap())], bytes);
        assert_eq!(blob["size"], bytes.len());
    }
    // Eight requests, three for a token: each time that one is used up, the request goes on with the next.
    assert_eq!(registry.token_requests().len(), 3);

    assert_eq!(published(&push("a"))["changed"], false);
    refused(&push("b"), "never changes");
    assert_eq!(registry.state().kept, kept);
    // The login goes where tokens are made, and nowhere else.
    let state = registry.state();
    let told =
        state.asked.iter().filter(|(_, authorization)| authorization.as_ref().is_some_and(|a| a.starts_with("Basic")));
    assert!(told.clone().count() > 0 && told.clone().all(|(line, _)| line.starts_with("GET /token")));
}

#[test]
fn a_login_comes_from_a_file_that_nobody_else_can_read_and_wins_over_the_environment() {
    let registry = Registry::start(true, Guard::Basic);
    let folder = folder(&registry);
    let file = folder.path().join("login");
    let push = |login: Option<&str>| publish(folder.path(), &registry, "a", login, &["--login", "login"]);
    refused(&push(None), "can't read login");
    fs::write(&file, format!("{LOGIN}\n")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    refused(&push(None), "mode 0640 lets others read it");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(published(&push(Some("eve:wrong")))["changed"], true);
    fs::write(&file, "correct horse: battery\nada").unwrap();
    refused(&push(None), "NAME:PASSWORD");
}

#[test]
fn a_registry_that_wants_a_login_or_another_one_is_told_apart() {
    for guard in [Guard::Basic, Guard::Bearer(None)] {
        let registry = Registry::start(true, guard);
        let folder = folder(&registry);
        let push = |login: Option<&str>| publish(folder.path(), &registry, "a", login, &[]);
        refused(&push(None), "it wants a login: --login FILE, or ASTRID_REGISTRY_LOGIN");
        refused(&push(Some("ada:wrong")), "it does not take this login");
        refused(&push(Some("ada")), "ASTRID_REGISTRY_LOGIN: a login is one line");
        assert!(registry.state().kept.is_empty());
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_gets_nothing() {
    let registry = Registry::start(true, Guard::Basic);
    let folder = folder(&Registry::start(true, Guard::Basic));
    refused(&publish(folder.path(), &registry, "a", Some(LOGIN), &[]), "certificate");
    fs::write(folder.path().join("roots.pem"), "").unwrap();
    refused(&publish(folder.path(), &registry, "a", Some(LOGIN), &[]), "no certificates are trusted here");
    assert!(registry.state().asked.is_empty());
}

#[test]
fn plain_http_must_be_said_and_carries_no_login_to_another_machine() {
    let registry = Registry::start(false, Guard::Bearer(None));
    let folder = folder(&registry);
    refused(&publish(folder.path(), &registry, "a", Some(LOGIN), &[]), "TLS");
    assert!(registry.state().asked.is_empty());
    assert_eq!(published(&publish(folder.path(), &registry, "a", Some(LOGIN), &["--plain-http"]))["changed"], true);
    assert_eq!(registry.state().kept.len(), 3);

    let open = Registry::start(false, Guard::Anybody);
    assert_eq!(published(&publish(folder.path(), &open, "a", None, &["--plain-http"]))["changed"], true);

    let mut command = Command::new(env!("CARGO_BIN_EXE_astrid-build"));
    command.current_dir(folder.path()).args(["--json", "publish", "a", "oci://192.0.2.1:5000/a:b", "--plain-http"]);
    refused(&command.env("ASTRID_REGISTRY_LOGIN", LOGIN).output().unwrap(), "is not sent there unencrypted");
}

#[test]
fn a_login_is_not_sent_to_a_place_for_tokens_that_nothing_encrypts_the_way_to() {
    for (realm, why) in [
        ("http://192.0.2.1/token", "without encryption"),
        ("http://localhost:1/token", "without encryption"),
        ("https://ada@localhost/token", "no usable URL"),
        ("/token", "no usable URL"),
    ] {
        let registry = Registry::start(true, Guard::Bearer(Some(realm.into())));
        let folder = folder(&registry);
        refused(&publish(folder.path(), &registry, "a", Some(LOGIN), &[]), why);
        assert!(registry.state().asked.iter().all(|(_, authorization)| authorization.is_none()));
    }
}
