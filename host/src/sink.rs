//! Places outside that take bytes: a file, a syslog receiver, an HTTP collector, as the operator has named them.
//!
//! Owns the transports and their framing: a line for each entry in a file, a datagram over UDP and a Unix socket, an octet
//! count before each over TCP (RFC 6587), one POST of lines to a collector; and whether all of it has arrived. An entry is
//! delivered again where that is not known. A delivery is a task of its own: whoever began it need not wait.
//!
//! Bounded by: [`MAX_ENTRIES`], [`MAX_BYTES`] and [`MAX_ENTRY`] of a delivery, one delivery to each sink at a time,
//! [`TIMEOUT`]. Nothing is queued, nothing tried again. A fact says how the first delivery of a run ended, and each that ended
//! otherwise than the one before, given up by whoever began it as well: one for each would be delivered itself, for ever.
//! Refuses to know: what the bytes mean, who may see them, when to try again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use astrid_capsule::near::meant;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, lookup_host};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::files;
use crate::journal::{Fact, Journal, Outcome};
use crate::runtime::Blocking;

/// The most entries of one delivery.
pub const MAX_ENTRIES: usize = 1000;
/// The most bytes of them together.
pub const MAX_BYTES: usize = 1 << 20;
/// The most bytes of one: it fits a datagram.
pub const MAX_ENTRY: usize = 60 << 10;
/// How long a delivery may take.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// The most sinks.
const MAX_SINKS: usize = 64;
/// The longest answer of a collector that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// The longest Authorization header, in bytes.
const MAX_AUTHORIZATION: u64 = 8 << 10;
/// The largest file of certificates, in bytes.
const MAX_ROOTS: u64 = 4 << 20;

/// `[sinks.NAME]` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Config(BTreeMap<String, Named>);

/// One sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Named {
    /// `file:///PATH`, `udp://HOST:PORT`, `tcp://HOST:PORT`, `unix:///PATH`, `http://HOST[:PORT]/PATH` or `https://…`.
    to: String,
    /// A file that holds the Authorization header for a collector. Read for each delivery.
    #[serde(skip_serializing_if = "String::is_empty")]
    authorization_file: String,
    /// A file of certificates in PEM that vouch for a collector by `https://`. Read once, at the start.
    #[serde(skip_serializing_if = "String::is_empty")]
    ca_file: String,
}

const FIELDS: [&str; 3] = ["to", "authorization-file", "ca-file"];

/// Whether a key below `sinks.` is one, `NAME.FIELD`; the error says which part is not.
pub fn check_key(key: &str) -> Result<(), String> {
    let Some((name, field)) = key.split_once('.') else {
        return Err(format!("`sinks.{key}` is no key; write [sinks.{key}] with to = \"…\" below it"));
    };
    check_name(name)?;
    if FIELDS.contains(&field) {
        return Ok(());
    }
    Err(format!("there is no key `sinks.{key}`{}", meant(field, FIELDS.iter().copied())))
}

/// The key that a variable's name stands for in which dots are dashes, if it is one of a sink.
pub fn key_of_variable(name: &str) -> Option<String> {
    FIELDS.iter().find_map(|field| Some(format!("{}.{field}", name.strip_suffix(field)?.strip_suffix('-')?)))
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(()) } else { Err(format!("sinks.{name}: a sink's name must be 1 to 64 of a-z 0-9 -")) }
}

impl Config {
    /// The error names the key, its value and what would do.
    pub fn check(&self) -> Result<(), String> {
        self.targets().map(drop)
    }

    fn targets(&self) -> Result<BTreeMap<String, Target>, String> {
        if self.0.len() > MAX_SINKS {
            return Err(format!("sinks: there are {}, and {MAX_SINKS} at most", self.0.len()));
        }
        let target = |(name, named): (&String, &Named)| {
            check_name(name)?;
            Ok((name.clone(), named.target().map_err(|(field, why)| format!("sinks.{name}.{field} {why}"))?))
        };
        self.0.iter().map(target).collect()
    }
}

/// Where bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    File(PathBuf),
    Udp(String),
    Tcp(String),
    Unix(PathBuf),
    Http(Collector),
}

/// An HTTP collector.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Collector {
    /// Where to connect to.
    address: String,
    /// As it stands in the Host header.
    authority: String,
    path: String,
    authorization: Option<PathBuf>,
    /// Whose certificate it must have, and who may vouch for that.
    tls: Option<(ServerName<'static>, PathBuf)>,
}

impl Named {
    /// The error is the field and what is wrong with it.
    fn target(&self) -> Result<Target, (&'static str, String)> {
        let to = self.to.as_str();
        let wrong = |why: &str| ("to", format!("= {to:?}: {why}"));
        let Some((scheme, rest)) = to.split_once("://") else {
            return Err(wrong(
                "write file:///PATH, udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH or https://HOST/PATH",
            ));
        };
        let collector = ["http", "https"].contains(&scheme);
        if !collector && !self.authorization_file.is_empty() {
            return Err(("authorization-file", "is for http:// and https:// alone; leave it out".to_owned()));
        }
        if scheme != "https" && !self.ca_file.is_empty() {
            return Err(("ca-file", "is for https:// alone; leave it out".to_owned()));
        }
        let absolute = |rest: &str| match rest.strip_prefix('/') {
            Some(path) if !path.is_empty() => Ok(PathBuf::from(rest)),
            _ => Err(wrong(&format!("the path must be absolute, as in {scheme}:///var/log/facts"))),
        };
        let address =
            |rest: &str| match rest.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
                Some((host, port)) if port > 0 && !host.is_empty() && !rest.contains(['/', '@', ' ']) => {
                    Ok(rest.to_owned())
                }
                _ => Err(wrong(&format!("write {scheme}://HOST:PORT"))),
            };
        match scheme {
            "file" => absolute(rest).map(Target::File),
            "unix" => absolute(rest).map(Target::Unix),
            "udp" => address(rest).map(Target::Udp),
            "tcp" => address(rest).map(Target::Tcp),
            _ if collector => self.collector(scheme == "https").map_err(|why| wrong(&why)),
            _ => Err(wrong("the scheme must be file, udp, tcp, unix, http or https")),
        }
    }

    fn collector(&self, tls: bool) -> Result<Target, String> {
        let url: Uri = self.to.parse().map_err(|error| format!("no URL: {error}"))?;
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or("name a host, and no user: that is for authorization-file")?;
        let address = match authority.port_u16() {
            Some(_) => authority.as_str().to_owned(),
            None => format!("{}:{}", authority.host(), if tls { 443 } else { 80 }),
        };
        let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let file = |field: &str, path: &str| match Path::new(path).is_absolute() {
            _ if path.is_empty() => Ok(None),
            true => Ok(Some(PathBuf::from(path))),
            false => Err(format!("{field} must be an absolute path")),
        };
        let authorization = file("authorization-file", &self.authorization_file)?;
        let tls = match (tls, file("ca-file", &self.ca_file)?) {
            (false, _) => None,
            (true, None) => {
                let why = "name in ca-file who vouches for it; of public ones that is often ";
                return Err(format!("{why}/etc/ssl/certs/ca-certificates.crt"));
            }
            (true, Some(roots)) => {
                let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name).map_err(|_| "no name that a certificate can have".to_owned())?;
                Some((name, roots))
            }
        };
        Ok(Target::Http(Collector { address, authority: authority.as_str().to_owned(), path, authorization, tls }))
    }
}

/// Why something was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the configuration has no sink `{0}`")]
    NotFound(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("another delivery to the sink is on its way")]
    Busy,
    #[error("{0}")]
    Failed(String),
}

/// One sink and what is known of it.
struct Sink {
    target: Target,
    /// For a collector by `https://`.
    connector: Option<TlsConnector>,
    /// One delivery at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// How the last delivery ended.
    last: Mutex<Option<Outcome>>,
}

/// The fact that a delivery leaves, if it ends otherwise than the one before; also where it is given up on its way.
struct Ending {
    sink: Arc<Sink>,
    journal: Arc<Journal>,
    fact: Option<Fact>,
}

impl Ending {
    fn record(&mut self, outcome: Outcome, reason: Option<String>) {
        let Some(fact) = self.fact.take() else { return };
        let before = self.sink.last.lock().unwrap_or_else(PoisonError::into_inner).replace(outcome);
        if before != Some(outcome) {
            self.journal.append(Fact { outcome, reason, ..fact });
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.record(Outcome::Failed, Some("it was given up; some of it may have arrived".to_owned()));
    }
}

/// All that are configured.
pub struct Sinks {
    sinks: BTreeMap<String, Arc<Sink>>,
    journal: Arc<Journal>,
    blocking: Blocking,
}

/// What is on its way; dropping it gives up.
pub struct Delivery(Option<JoinHandle<Result<(), Error>>>);

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Delivery {
    /// How it ended, if it does until then. That is told once.
    pub async fn done(&mut self, until: tokio::time::Instant) -> Option<Result<(), Error>> {
        let Some(task) = &mut self.0 else { return Some(Err(Error::Failed("it has ended already".to_owned()))) };
        let ended = tokio::time::timeout_at(until, task).await.ok()?;
        self.0 = None;
        Some(ended.unwrap_or_else(|error| Err(Error::Failed(error.to_string()))))
    }
}

impl Sinks {
    /// Reads the certificates that collectors need. The error names the sink and the file.
    pub fn new(config: &Config, journal: Arc<Journal>, blocking: Blocking) -> anyhow::Result<Self> {
        let mut sinks = BTreeMap::new();
        for (name, target) in config.targets().map_err(anyhow::Error::msg)? {
            let connector = match &target {
                Target::Http(Collector { tls: Some((_, roots)), .. }) => {
                    let what = format!("sinks.{name}.ca-file: {}", roots.display());
                    Some(connector(roots).context(what)?)
                }
                _ => None,
            };
            sinks.insert(name, Arc::new(Sink { target, connector, turn: Arc::default(), last: Mutex::default() }));
        }
        Ok(Self { sinks, journal, blocking })
    }

    /// Begins to deliver entries, in their order. `fact` says who does.
    pub fn deliver(&self, name: &str, entries: Vec<Vec<u8>>, fact: Fact) -> Result<Delivery, Error> {
        let begun = self.begin(name, &entries);
        let fact = Fact { target: Some(crate::log::clean(name)), ..fact };
        let (sink, turn) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                if !matches!(error, Error::Busy) {
                    let reason = Some(error.to_string());
                    self.journal.append(Fact { outcome: Outcome::Refused, reason, ..fact });
                }
                return Err(error);
            }
        };
        let fact = Some(Fact { detail: Some(format!("{} entries", entries.len())), ..fact });
        let mut ending = Ending { sink: sink.clone(), journal: self.journal.clone(), fact };
        let blocking = self.blocking.clone();
        let work = async move {
            let sent = send(&sink, entries, &blocking, turn);
            let done = tokio::time::timeout(TIMEOUT, sent).await.unwrap_or_else(|_| {
                let seconds = TIMEOUT.as_secs();
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("it did not take them within {seconds} s")))
            });
            match &done {
                Ok(()) => ending.record(Outcome::Ok, None),
                Err(error) => ending.record(Outcome::Failed, Some(error.to_string())),
            }
            done.map_err(|error| Error::Failed(error.to_string()))
        };
        Ok(Delivery(Some(tokio::spawn(work))))
    }

    fn begin(&self, name: &str, entries: &[Vec<u8>]) -> Result<(Arc<Sink>, Turn), Error> {
        let sink = self.sinks.get(name).ok_or_else(|| Error::NotFound(crate::log::clean(name)))?;
        let bytes: usize = entries.iter().map(Vec::len).sum();
        let largest = entries.iter().map(Vec::len).max().unwrap_or(0);
        if entries.len() > MAX_ENTRIES || bytes > MAX_BYTES || largest > MAX_ENTRY {
            return Err(Error::TooLarge(format!(
                "{} entries of {bytes} bytes, the largest of {largest}: at most {MAX_ENTRIES}, {MAX_BYTES} and {MAX_ENTRY}",
                entries.len()
            )));
        }
        let turn = sink.turn.clone().try_lock_owned().map_err(|_| Error::Busy)?;
        Ok((sink.clone(), turn))
    }
}

/// Held for as long as bytes may still go out, whoever waits for that.
type Turn = tokio::sync::OwnedMutexGuard<()>;

async fn send(sink: &Sink, entries: Vec<Vec<u8>>, blocking: &Blocking, turn: Turn) -> io::Result<()> {
    match &sink.target {
        Target::File(path) => {
            let path = path.clone();
            let work = move || {
                let _turn = turn;
                append(&path, &entries)
            };
            return blocking.run(work).await.map_err(io::Error::other)?;
        }
        Target::Udp(address) => {
            let to = lookup_host(address).await?.next().ok_or_else(|| io::Error::other("its name has no address"))?;
            let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(to).await?;
            for entry in &entries {
                socket.send(entry).await?;
            }
        }
        Target::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            for entry in &entries {
                socket.send(entry).await?;
            }
        }
        Target::Tcp(address) => stream(address, &entries).await?,
        Target::Http(collector) => {
            let stream = TcpStream::connect(&collector.address).await?;
            stream.set_nodelay(true)?;
            match (&sink.connector, &collector.tls) {
                (Some(connector), Some((name, _))) => {
                    let stream = connector.connect(name.clone(), stream).await?;
                    post(stream, collector, &entries).await?;
                }
                _ => post(stream, collector, &entries).await?,
            }
        }
    }
    drop(turn);
    Ok(())
}

/// Durable when it returns. What a crash has left of a line stays a line of its own.
fn append(path: &Path, entries: &[Vec<u8>]) -> io::Result<()> {
    let mut file = File::options().create(true).read(true).append(true).mode(0o600).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        bytes.extend((last != *b"\n").then_some(b'\n'));
    }
    bytes.extend(lines(entries));
    file.write_all(&bytes)?;
    file.sync_data()
}

fn lines(entries: &[Vec<u8>]) -> Vec<u8> {
    entries.iter().flat_map(|entry| [entry.as_slice(), b"\n"]).flatten().copied().collect()
}

/// A connection for each delivery, because its orderly end is the only sign that the other side has read it all.
async fn stream(address: &str, entries: &[Vec<u8>]) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(format!("{} ", entry.len()).bytes());
        bytes.extend(entry);
    }
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    let mut said = [0; 1024];
    while stream.read(&mut said).await? > 0 {}
    Ok(())
}

fn header(path: &Path) -> io::Result<HeaderValue> {
    let text = File::open(path).and_then(|file| files::read_capped(file, MAX_AUTHORIZATION));
    let text = text.map_err(|error| io::Error::new(error.kind(), format!("authorization-file: {error}")))?;
    let mut value = HeaderValue::from_bytes(text.trim_ascii())
        .map_err(|_| io::Error::other("authorization-file: its content is no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn connector(roots: &Path) -> anyhow::Result<TlsConnector> {
    let pem = files::read_capped(File::open(roots)?, MAX_ROOTS)?;
    let mut store = RootCertStore::empty();
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().context("it is no PEM")?;
    let (taken, _) = store.add_parsable_certificates(found);
    anyhow::ensure!(taken > 0, "it holds no certificate in PEM that can vouch for anybody");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_root_certificates(store).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Without its cause it says little.
fn with_cause(error: hyper::Error) -> io::Error {
    let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    io::Error::other(format!("{error}{cause}"))
}

async fn post(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    collector: &Collector,
    entries: &[Vec<u8>],
) -> io::Result<()> {
    let mut request = Request::builder().method(Method::POST).uri(&collector.path).header(HOST, &collector.authority);
    request = request.header(CONTENT_TYPE, "application/x-ndjson");
    if let Some(file) = &collector.authorization {
        request = request.header(AUTHORIZATION, header(file)?);
    }
    let request = request.body(Full::new(Bytes::from(lines(entries)))).map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(with_cause)?;
    let work = async {
        let answer = sender.send_request(request).await.map_err(with_cause)?;
        let status = answer.status();
        let said = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map(|said| said.to_bytes());
        if status.is_success() {
            return Ok(());
        }
        let mut why = format!("the collector answered {status}");
        if let Ok(said) = said {
            let said: String = String::from_utf8_lossy(&said).chars().take(200).collect();
            let _ = write!(why, ": {}", crate::log::clean(&said));
        }
        Err(io::Error::other(why))
    };
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        // It ends by itself where the other side closes it, in order or not. The answer has come by then, or never does.
        _ = connection => work.await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn named(to: &str) -> Named {
        Named { to: to.to_owned(), ..Named::default() }
    }

    #[test]
    fn a_sink_says_by_its_url_where_it_is_and_what_would_do_where_it_does_not() {
        for to in [
            "file:///var/log/facts.jsonl",
            "udp://siem:514",
            "tcp://[::1]:601",
            "unix:///dev/log",
            "http://127.0.0.1:8088/in?x=1",
            "http://collector",
        ] {
            assert!(named(to).target().is_ok(), "{to}");
        }
        for (to, want) in [
            ("", "write file:///PATH"),
            ("file://facts", "absolute, as in file:///var"),
            ("unix:///", "absolute"),
            ("udp://siem", "write udp://HOST:PORT"),
            ("udp://siem:0", "write udp://HOST:PORT"),
            ("tcp://:5", "write tcp://HOST:PORT"),
            ("tcp://a@b:5", "write tcp://HOST:PORT"),
            ("https://siem/", "name in ca-file who vouches"),
            ("http://a:b@c/", "authorization-file"),
            ("ftp://a/", "scheme must be"),
        ] {
            let (field, why) = named(to).target().unwrap_err();
            assert!(field == "to" && why.starts_with(&format!("= {to:?}")) && why.contains(want), "{to}: {why}");
        }
        let udp = Named { authorization_file: "/a".into(), ..named("udp://a:1") };
        assert_eq!(udp.target().unwrap_err().0, "authorization-file");
        let with_ca = |to: &str| Named { ca_file: "/ca.pem".into(), ..named(to) };
        assert_eq!(with_ca("http://a/").target().unwrap_err().0, "ca-file");
        assert!(with_ca("https://a/").target().is_ok());
        assert!(check_key("siem.to").is_ok() && check_key("siem").is_err() && check_key("Siem.to").is_err());
        assert!(check_key("siem.too").unwrap_err().contains("did you mean `to`"));
        assert_eq!(key_of_variable("my-siem-authorization-file"), Some("my-siem.authorization-file".into()));
    }

    #[tokio::test]
    async fn a_collector_by_https_must_have_a_certificate_that_the_operators_file_vouches_for() {
        use tokio_rustls::rustls::ServerConfig;
        use tokio_rustls::rustls::pki_types::PrivateKeyDer;

        let folder = tempfile::tempdir().unwrap();
        let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (own, other) = (pair(), pair());
        let key = PrivateKeyDer::from_pem_slice(own.signing_key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heard, mut got) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            loop {
                let Ok(mut stream) = acceptor.accept(listener.accept().await.unwrap().0).await else { continue };
                let mut said = Vec::new();
                while !said.ends_with(b"one\n") {
                    stream.read_buf(&mut said).await.unwrap();
                }
                heard.send(String::from_utf8(said).unwrap()).unwrap();
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
        });
        let keys = Arc::new(crate::keys::Keys::open(&folder.path().join("host.key")).unwrap());
        let journal = Journal::open(&folder.path().join("audit"), &crate::journal::Config::default(), &keys).unwrap();
        let journal = Arc::new(journal);
        let deliver = async |vouches: &str| {
            let roots = folder.path().join("ca.pem");
            fs::write(&roots, vouches).unwrap();
            let ca_file = roots.display().to_string();
            let named = Named { ca_file, ..named(&format!("https://localhost:{port}/in")) };
            let config = Config(BTreeMap::from([("siem".to_owned(), named)]));
            let sinks = Sinks::new(&config, journal.clone(), Blocking::new(1)).map_err(|error| format!("{error:#}"))?;
            let mut delivery = sinks.deliver("siem", vec![b"one".to_vec()], journal.fact("sink.deliver")).unwrap();
            let until = tokio::time::Instant::now() + TIMEOUT;
            delivery.done(until).await.unwrap().map_err(|error| error.to_string())
        };
        assert_eq!(deliver(&own.cert.pem()).await, Ok(()));
        let request = got.recv().await.unwrap();
        assert!(request.starts_with("POST /in HTTP/1.1\r\n") && request.ends_with("\r\n\r\none\n"), "{request}");
        let refused = deliver(&other.cert.pem()).await.unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
        let named = deliver("nothing").await.unwrap_err();
        assert!(named.starts_with("sinks.siem.ca-file: ") && named.contains("no certificate"), "{named}");
    }

    #[test]
    fn what_a_crash_has_left_of_a_line_is_never_joined_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facts");
        append(&path, &[b"one".to_vec(), b"two".to_vec()]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        fs::write(&path, "one\ntw").unwrap();
        append(&path, &[b"two".to_vec()]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntw\ntwo\n");
        assert!(append(folder.path(), &[]).is_err());
    }
}
