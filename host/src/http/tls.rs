//! TLS on the TCP listener.
//!
//! Owns the certificate and its key, whose certificates clients may show and which of those were revoked, and takes them anew
//! when their files change: connections that are there stay as they are, and new files that can't be used leave those before
//! in use. A client's certificate is judged in every handshake: no session is resumed where one may be shown.
//!
//! Bounded by: [`MAX_FILE_BYTES`] a file. What a handshake may take is the listener's to say.
//! Refuses to know: what is said over it.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::{certificate, revocation};

/// The most bytes of a file of certificates, of lists or of a key.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// What a client may choose from, the best first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// `[http.tls]` of the configuration: PEM files. A relative path is one below the home's `etc/`; an empty one is none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The certificate, and after it those that lead to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Those that vouch for clients' certificates. Without them none is asked for.
    pub client_ca: PathBuf,
    /// Which of those certificates were revoked: a list of each of `client_ca`, and of each authority between it and a client.
    /// With it a certificate is taken only where a list in date says nothing of it. Without it nothing is looked up.
    pub client_crl: PathBuf,
    /// Whether a client must have one.
    pub client_auth: ClientAuth,
}

/// What becomes of a client that shows no certificate. One that shows a certificate which nobody vouches for gets no
/// connection in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAuth {
    /// It is served, and must say otherwise who it is.
    #[default]
    Optional,
    /// It gets no connection.
    Required,
}

fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

impl Config {
    /// Says what is missing of what belongs together.
    pub fn check(&self) -> Result<(), String> {
        match (is_set(&self.cert), is_set(&self.key)) {
            (true, false) => {
                return Err("http.tls.cert is set and http.tls.key is not; name the certificate's key".into());
            }
            (false, true) => {
                return Err("http.tls.key is set and http.tls.cert is not; name the key's certificate".into());
            }
            _ => {}
        }
        if is_set(&self.client_ca) && !self.is_on() {
            return Err(
                "http.tls.client-ca is set and http.tls.cert is not; without TLS nobody shows a certificate".into()
            );
        }
        if is_set(&self.client_crl) && !is_set(&self.client_ca) {
            return Err(
                "http.tls.client-crl is set and http.tls.client-ca is not; name whose certificates it revokes".into()
            );
        }
        if self.client_auth == ClientAuth::Required && !is_set(&self.client_ca) {
            return Err(
                "http.tls.client-auth is required and http.tls.client-ca is not set; name who vouches for clients"
                    .into(),
            );
        }
        Ok(())
    }

    pub fn is_on(&self) -> bool {
        is_set(&self.cert)
    }

    /// Its files, absolute; `etc` is where relative paths begin.
    fn files(&self, etc: &Path) -> Files {
        let set = |path: &PathBuf| is_set(path).then(|| etc.join(path));
        Files {
            cert: etc.join(&self.cert),
            key: etc.join(&self.key),
            client_ca: set(&self.client_ca),
            client_crl: set(&self.client_crl),
            client_auth: self.client_auth,
        }
    }
}

/// Which files make up TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_crl: Option<PathBuf>,
    client_auth: ClientAuth,
}

/// By what a change of a file is noticed: when it was changed, which file it is, how large.
type Stamp = [Option<(i64, i64, u64, u64)>; 4];

impl Files {
    fn stamp(&self) -> Stamp {
        let of = |meta: Metadata| (meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len());
        let of = |path: &Path| std::fs::metadata(path).ok().map(of);
        let [ca, crl] = [&self.client_ca, &self.client_crl].map(|path| path.as_deref().and_then(of));
        [of(&self.cert), of(&self.key), ca, crl]
    }

    /// What new connections get, and when the first of the lists of revoked certificates is out of date.
    fn load(&self) -> anyhow::Result<(Arc<ServerConfig>, Option<SystemTime>)> {
        let Self { cert, key, client_ca, .. } = self;
        let chain = certificates("http.tls.cert", cert)?;
        let private = PrivateKeyDer::from_pem_slice(&read("http.tls.key", key)?)
            .map_err(|error| anyhow::anyhow!("http.tls.key: {} is no private key in PEM: {error}", key.display()))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let (builder, until) = match client_ca {
            None => (builder.with_no_client_auth(), None),
            Some(path) => {
                let (verifier, until) = self.verifier(path, provider)?;
                (builder.with_client_cert_verifier(verifier), until)
            }
        };
        let mut config = builder.with_single_cert(chain, private).with_context(|| {
            format!("http.tls.cert and http.tls.key: {} and {} do not belong together", cert.display(), key.display())
        })?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        if client_ca.is_some() {
            // A session that is taken up again would bring its certificate along, unchecked: it may have ended since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok((Arc::new(config), until))
    }

    /// Who judges clients' certificates, and when the first of the lists that it goes by is out of date.
    fn verifier(
        &self,
        ca: &Path,
        provider: Arc<CryptoProvider>,
    ) -> anyhow::Result<(Arc<dyn ClientCertVerifier>, Option<SystemTime>)> {
        let unusable = |key: &str, path: &Path| format!("http.tls.{key}: {} can't be used", path.display());
        let mut roots = RootCertStore::empty();
        for root in certificates("http.tls.client-ca", ca)? {
            roots.add(root).with_context(|| unusable("client-ca", ca))?;
        }
        let roots = Arc::new(roots);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
        let mut until = None;
        if let Some(path) = &self.client_crl {
            let lists: Vec<CertificateRevocationListDer<'_>> = all("http.tls.client-crl", path, "revocation list")?;
            let read = |list: &CertificateRevocationListDer<'_>| revocation::next_update(list);
            let ends: Option<Vec<SystemTime>> = lists.iter().map(read).collect();
            let ends =
                ends.with_context(|| format!("{}: a list without its next update", unusable("client-crl", path)))?;
            until = ends.into_iter().min();
            for root in &roots.roots {
                let listed = lists.iter().any(|list| revocation::issuer(list) == Some(&*root.subject));
                ensure!(
                    listed,
                    "http.tls.client-crl: {} holds no list of {}, which http.tls.client-ca names; none of its clients \
                     would get in",
                    path.display(),
                    certificate::name(&root.subject).unwrap_or("an authority without a common name"),
                );
            }
            // Of every authority down to the client; what no list in date speaks of is refused.
            builder = builder.with_crls(lists).enforce_revocation_expiration();
        }
        if self.client_auth == ClientAuth::Optional {
            builder = builder.allow_unauthenticated();
        }
        let named = self.client_crl.as_deref().map_or(("client-ca", ca), |crl| ("client-crl", crl));
        Ok((builder.build().with_context(|| unusable(named.0, named.1))?, until))
    }
}

/// What became of a look at the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// They are as they were.
    Same,
    /// New connections get what they hold now.
    Changed,
    /// They can't be used, and new connections get what was there before. The log says why.
    Kept,
}

/// TLS as it is spoken now.
pub struct Tls {
    etc: PathBuf,
    current: Mutex<Loaded>,
}

/// Files that fit together, as they were read.
pub struct Loaded {
    files: Files,
    stamp: Stamp,
    config: Arc<ServerConfig>,
    /// When the first list of revoked certificates is out of date.
    until: Option<SystemTime>,
    /// Whether the log says that it is.
    said: bool,
}

impl Loaded {
    fn of(files: Files) -> anyhow::Result<Self> {
        // Before they are read: what changes meanwhile is seen the next time.
        let stamp = files.stamp();
        let (config, until) = files.load()?;
        Ok(Self { files, stamp, config, until, said: false })
    }

    /// That a list is out of date, and what to do.
    fn overdue(&self) -> Option<(String, String)> {
        let path =
            self.files.client_crl.as_ref().filter(|_| self.until.is_some_and(|until| until <= SystemTime::now()))?;
        Some((
            format!(
                "http.tls.client-crl: {} holds a list that is out of date; no certificate of its authority is taken",
                path.display()
            ),
            "put the authority's latest list there".into(),
        ))
    }
}

impl Tls {
    /// Reads the files, if there shall be TLS. `etc`: where relative paths begin.
    ///
    /// # Errors
    /// A file that is missing, not readable or no PEM of what it should be, by its path and key; a key that is another
    /// certificate's.
    pub fn open(config: &Config, etc: &Path) -> anyhow::Result<Option<Self>> {
        if !config.is_on() {
            return Ok(None);
        }
        let current = Mutex::new(Loaded::of(config.files(etc))?);
        Ok(Some(Self { etc: etc.to_owned(), current }))
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.lock().expect("no panic under this lock").config.clone().into()
    }

    /// Reads the files of a configuration that is on; nobody gets them yet. Errors as [`Self::open`].
    pub fn read(&self, config: &Config) -> anyhow::Result<Loaded> {
        Loaded::of(config.files(&self.etc))
    }

    /// New connections get these from now on.
    pub fn put(&self, loaded: Loaded) {
        *self.current.lock().expect("no panic under this lock") = loaded;
    }

    /// Looks whether the files have changed, and takes them if so. A list of revoked certificates that is out of date is said
    /// in the log, once.
    pub fn refresh(&self) -> Refreshed {
        let files = {
            let mut current = self.current.lock().expect("no panic under this lock");
            let stamp = current.files.stamp();
            if stamp == current.stamp {
                if let Some((what, next)) = current.overdue().filter(|_| !current.said) {
                    tracing::warn!("{what}; {next}");
                    current.said = true;
                }
                return Refreshed::Same;
            }
            // What can't be used is tried once.
            current.stamp = stamp;
            current.files.clone()
        };
        match Loaded::of(files) {
            Ok(loaded) => {
                let cert = loaded.files.cert.clone();
                if !self.replace(loaded) {
                    return Refreshed::Same;
                }
                tracing::info!(cert = %cert.display(), "new connections get the certificate as it is now");
                Refreshed::Changed
            }
            Err(error) => {
                tracing::warn!("the certificate that was there before stays in use: {error:#}");
                Refreshed::Kept
            }
        }
    }

    /// False: meanwhile the configuration has come to name other files, which were read then.
    fn replace(&self, loaded: Loaded) -> bool {
        let mut current = self.current.lock().expect("no panic under this lock");
        let same = current.files == loaded.files;
        if same {
            *current = loaded;
        }
        same
    }

    /// That a list of revoked certificates is out of date, and what to do.
    pub fn overdue(&self) -> Option<(String, String)> {
        self.current.lock().expect("no panic under this lock").overdue()
    }

    /// What is not as it should be and no reason to stop, with what to do.
    pub fn warning(&self) -> Option<(String, String)> {
        let path = self.current.lock().expect("no panic under this lock").files.key.clone();
        let mode = std::fs::metadata(&path).ok()?.mode() & 0o7777;
        let key = path.display();
        (mode & 0o077 != 0).then(|| {
            (format!("http.tls.key: {key} may be read by others (mode {mode:04o})"), format!("chmod 600 {key}"))
        })
    }
}

fn certificates(what: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    all(what, path, "certificate")
}

/// All of a kind in a PEM file; at least one.
fn all<T: PemObject>(what: &str, path: &Path, kind: &str) -> anyhow::Result<Vec<T>> {
    let pem = read(what, path)?;
    let found = T::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| anyhow::anyhow!("{what}: {} is no PEM: {error}", path.display()))?;
    ensure!(!found.is_empty(), "{what}: {} holds no {kind} in PEM", path.display());
    Ok(found)
}

fn read(what: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    let cant = || format!("{what}: can't read {}", path.display());
    let mut bytes = Vec::new();
    File::open(path).with_context(cant)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(cant)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        bail!("{what}: {} has more than {MAX_FILE_BYTES} bytes", path.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::{ClientConfig, HandshakeKind};

    use super::*;

    /// A certificate and its key, in PEM.
    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// A folder with a pair, and what `[http.tls]` says of it.
    fn folder() -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = pair();
        std::fs::write(dir.path().join("cert.pem"), cert).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        let config = Config { cert: "cert.pem".into(), key: "key.pem".into(), ..Config::default() };
        (dir, config)
    }

    #[test]
    fn what_belongs_together_is_asked_for_by_key() {
        let check = |cert: &str, key: &str, client_ca: &str, client_crl: &str, client_auth| {
            let [cert, key, client_ca, client_crl] = [cert, key, client_ca, client_crl].map(PathBuf::from);
            Config { cert, key, client_ca, client_crl, client_auth }.check()
        };
        for (cert, key, ca, crl, auth, want) in [
            ("a", "", "", "", ClientAuth::Optional, "http.tls.key is not"),
            ("", "a", "", "", ClientAuth::Optional, "http.tls.cert is not"),
            ("", "", "a", "", ClientAuth::Optional, "http.tls.cert is not"),
            ("a", "a", "", "a", ClientAuth::Optional, "http.tls.client-ca is not"),
            ("a", "a", "", "", ClientAuth::Required, "http.tls.client-ca is not set"),
        ] {
            let error = check(cert, key, ca, crl, auth).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        check("a", "a", "a", "a", ClientAuth::Required).unwrap();
        Config::default().check().unwrap();
        assert!(Tls::open(&Config::default(), Path::new("/")).unwrap().is_none());
    }

    #[test]
    fn a_file_that_is_missing_or_is_something_else_is_named_with_its_key() {
        let (dir, config) = folder();
        let at = |name: &str| dir.path().join(name);
        assert!(Tls::open(&config, dir.path()).unwrap().is_some());
        std::fs::write(at("rubbish.pem"), "-----BEGIN CERTIFICATE-----\nzz\n").unwrap();
        std::fs::write(at("empty.pem"), "").unwrap();
        std::fs::write(at("large.pem"), vec![b'a'; 1 + MAX_FILE_BYTES as usize]).unwrap();
        std::fs::write(at("other.pem"), pair().1).unwrap();
        let with = |change: fn(&mut Config)| {
            let mut changed = config.clone();
            change(&mut changed);
            let error = Tls::open(&changed, dir.path()).map(|_| ()).unwrap_err();
            format!("{error:#}")
        };
        for (change, key, file, why) in [
            ((|c| c.cert = "none.pem".into()) as fn(&mut Config), "http.tls.cert", "none.pem", "can't read"),
            (|c| c.key = "none.pem".into(), "http.tls.key", "none.pem", "can't read"),
            (|c| c.cert = "rubbish.pem".into(), "http.tls.cert", "rubbish.pem", "no PEM"),
            (|c| c.cert = "empty.pem".into(), "http.tls.cert", "empty.pem", "no certificate"),
            (|c| c.cert = "key.pem".into(), "http.tls.cert", "key.pem", "no certificate"),
            (|c| c.key = "cert.pem".into(), "http.tls.key", "cert.pem", "no private key"),
            (|c| c.key = "large.pem".into(), "http.tls.key", "large.pem", "more than 1048576 bytes"),
            (|c| c.key = "other.pem".into(), "http.tls.key", "other.pem", "do not belong together"),
            (|c| c.client_ca = "none.pem".into(), "http.tls.client-ca", "none.pem", "can't read"),
            (|c| c.client_ca = "key.pem".into(), "http.tls.client-ca", "key.pem", "no certificate"),
        ] {
            let error = with(change);
            assert!(error.contains(key) && error.contains(file) && error.contains(why), "{error}");
        }
        // A certificate of nobody's can be the one that vouches.
        let mut config = Config { client_ca: "cert.pem".into(), ..config };
        assert!(Tls::open(&config, dir.path()).unwrap().is_some());
        let damaged = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
        std::fs::write(at("damaged.pem"), damaged).unwrap();
        for (file, why) in
            [("none.pem", "can't read"), ("cert.pem", "no revocation list"), ("damaged.pem", "next update")]
        {
            config.client_crl = file.into();
            let error = Tls::open(&config, dir.path()).map(|_| ()).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains("http.tls.client-crl") && error.contains(file) && error.contains(why), "{error}");
        }
    }

    #[test]
    fn changed_files_are_taken_and_broken_ones_leave_what_was_there_and_are_tried_once() {
        let (dir, config) = folder();
        let tls = Tls::open(&config, dir.path()).unwrap().unwrap();
        let current = || tls.current.lock().unwrap().config.clone();
        let first = current();
        assert_eq!(tls.refresh(), Refreshed::Same);
        assert!(Arc::ptr_eq(&first, &current()));

        let (cert, key) = pair();
        // Half of a change: the key is still the one before.
        std::fs::write(dir.path().join("new.pem"), cert).unwrap();
        std::fs::rename(dir.path().join("new.pem"), dir.path().join("cert.pem")).unwrap();
        assert_eq!(tls.refresh(), Refreshed::Kept);
        assert_eq!(tls.refresh(), Refreshed::Same);
        assert!(Arc::ptr_eq(&first, &current()));
        std::fs::write(dir.path().join("new.pem"), key).unwrap();
        std::fs::rename(dir.path().join("new.pem"), dir.path().join("key.pem")).unwrap();
        assert_eq!(tls.refresh(), Refreshed::Changed);
        let second = current();
        assert!(!Arc::ptr_eq(&first, &second));

        tls.put(tls.read(&config).unwrap());
        assert!(!Arc::ptr_eq(&second, &current()), "asked for, they are read anyway");
        std::fs::remove_file(dir.path().join("key.pem")).unwrap();
        assert!(tls.read(&config).is_err());
        assert_eq!(tls.refresh(), Refreshed::Kept);
    }

    /// How each of two connections of the same client begins.
    async fn twice(tls: &Tls, dir: &Path) -> [HandshakeKind; 2] {
        let mut roots = RootCertStore::empty();
        roots.add(certificates("", &dir.join("cert.pem")).unwrap().remove(0)).unwrap();
        let provider = Arc::new(ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let connector = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let server = async {
                let mut stream = tls.acceptor().accept(ours).await.unwrap();
                stream.write_all(b"x").await.unwrap();
                stream.shutdown().await.unwrap();
            };
            let client = async {
                let mut stream = connector.connect("localhost".try_into().unwrap(), theirs).await.unwrap();
                // To the end: tickets come after the handshake.
                stream.read_to_end(&mut Vec::new()).await.unwrap();
                stream.get_ref().1.handshake_kind().unwrap()
            };
            kinds.push(tokio::join!(server, client).1);
        }
        kinds.try_into().unwrap()
    }

    #[tokio::test]
    async fn where_clients_show_certificates_every_connection_shows_them_anew() {
        let (dir, config) = folder();
        let tls = Tls::open(&config, dir.path()).unwrap().unwrap();
        assert_eq!(twice(&tls, dir.path()).await, [HandshakeKind::Full, HandshakeKind::Resumed]);
        let config = Config { client_ca: "cert.pem".into(), ..config };
        let tls = Tls::open(&config, dir.path()).unwrap().unwrap();
        assert_eq!(twice(&tls, dir.path()).await, [HandshakeKind::Full, HandshakeKind::Full]);
    }

    #[test]
    fn what_is_read_anew_does_not_replace_files_that_were_named_meanwhile() {
        let (dir, config) = folder();
        let tls = Tls::open(&config, dir.path()).unwrap().unwrap();
        std::fs::copy(dir.path().join("cert.pem"), dir.path().join("ca.pem")).unwrap();
        let of = |config: &Config| Loaded::of(config.files(dir.path())).unwrap();
        let (before, now) = (of(&config), of(&Config { client_ca: "ca.pem".into(), ..config.clone() }));
        let files = now.files.clone();
        tls.put(now);
        assert!(!tls.replace(before));
        assert_eq!(tls.current.lock().unwrap().files, files);
        assert!(tls.replace(of(&Config { client_ca: "ca.pem".into(), ..config })));
    }

    #[test]
    fn a_key_that_others_can_read_is_said_with_what_to_do() {
        let (dir, config) = folder();
        let key = dir.path().join("key.pem");
        let tls = Tls::open(&config, dir.path()).unwrap().unwrap();
        for (mode, warns) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(tls.warning().is_some(), warns, "{mode:o}");
        }
        let (what, next) = tls.warning().unwrap();
        assert!(what.contains("key.pem") && what.contains("0604") && next.starts_with("chmod 600"), "{what} {next}");
    }
}
