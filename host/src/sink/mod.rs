//! Places outside that take bytes: a file, a syslog receiver, an HTTP collector, as the operator has named them.
//!
//! Owns one delivery at a time to each: a task of its own, which whoever began it need not wait for, and its fact. Which place
//! a URL means is [`config`]'s, how entries get there [`transport`]'s.
//!
//! Bounded by: [`MAX_ENTRIES`], [`MAX_BYTES`] and [`MAX_ENTRY`] of a delivery, one delivery to each sink at a time,
//! [`TIMEOUT`]. Nothing is queued, nothing tried again. A fact says how the first delivery of a run ended, and each that ended
//! otherwise than the one before, given up by whoever began it as well: one for each would be delivered itself, for ever.
//! Refuses to know: what the bytes mean, who may see them, when to try again.

mod config;
mod transport;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use config::{Collector, Target};
pub use config::{Config, check_key, key_of_variable};
use transport::{connector, send};

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

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

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
            let siem = json!({ "to": format!("https://localhost:{port}/in"), "ca-file": roots });
            let config: Config = serde_json::from_value(json!({ "siem": siem })).unwrap();
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
}
