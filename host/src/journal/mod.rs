//! Facts: what was decided, what reached outside, what was loaded, what failed; in an append-only Merkle log.
//!
//! Owns the form of a fact ([`Fact`]), the log on disk (`<home>/audit`, C2SP tlog-tiles with signed checkpoints) and its
//! order. Whoever has a fact hands it over and goes on ([`Journal::append`]), or waits until it is durable
//! ([`Journal::append_durable`]); one thread writes. A checkpoint comes at most a second or a thousand facts after the
//! last. A start reads the checkpoint and what came after the last whole tiles, never the log.
//!
//! Bounded by: [`QUEUE_FACTS`] and [`QUEUE_BYTES`] that wait, one bundle in memory, [`LIVE_FACTS`] of the live feed.
//! Where there is no room, or the disk fails, a durable fact is refused at once, and any other is lost: counted, in the
//! log, and as a fact of its own (`journal.lost`) once there is room. A slow disk must not stop who does not ask for
//! durability.
//! Refuses to know: who may read facts, how a line looks, how long entries are kept.

mod fact;
pub mod note;
mod prune;
mod queue;
mod read;
mod recover;
mod summary;
mod tail;
#[cfg(test)]
mod tests;
pub mod tiles;
pub mod tree;
pub mod verify;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use metrics::{Counter, counter};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, oneshot, watch};
use zeroize::Zeroizing;

pub use fact::{Decision, Fact, MAX_FACT, Outcome};
use note::{Key, Kind};
use queue::{Answer, Job, Queue};
pub use read::{MAX_PAGE, Page, ReadError};
pub use summary::Filter;
use tiles::Tiles;

use crate::keys::Keys;

/// Facts that may wait for the writer.
pub const QUEUE_FACTS: usize = 16_384;
/// Bytes of facts that may wait; the last one may exceed it.
pub const QUEUE_BYTES: usize = 16 << 20;
/// Facts that a reader of the live feed may be behind; beyond that it is told how many it has missed.
pub const LIVE_FACTS: usize = 1024;

/// What its key is derived for. No grant can name it, so no capsule signs checkpoints.
const PURPOSE: &str = "journal/checkpoint";
const DIGEST_PURPOSE: &str = "journal/payload";

/// `[audit]` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The name of this host's log: what checkpoints begin with, without spaces and `+`. Best a URL without its scheme.
    /// Empty: derived from the key that signs them.
    pub origin: String,
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        if self.origin.is_empty() || note::is_name(&self.origin) {
            return Ok(());
        }
        Err("audit.origin must be 1 to 256 bytes without spaces, control characters and +".to_owned())
    }
}

/// Why a fact is not durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("too many facts are waiting to be recorded")]
    Overloaded,
    #[error("facts can't be recorded: {0}")]
    Failing(String),
    #[error("the host has stopped recording")]
    Closed,
}

/// A fact and its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub index: u64,
    /// As [`Fact::parse`] reads them.
    pub bytes: Box<[u8]>,
}

tokio::task_local! {
    static WISH: Wish;
}

/// At whose wish something is done that the host does itself.
#[derive(Debug, Clone)]
pub struct Wish {
    pub principal: String,
    /// How the session is called that it came through.
    pub session: Option<String>,
    /// The id of the request from outside.
    pub cause: Option<String>,
}

impl Wish {
    /// Facts of what is done by `work` say whose wish it was.
    pub fn within<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        WISH.scope(self, work)
    }

    /// As [`Self::within`], for what blocks.
    pub fn around<T>(self, work: impl FnOnce() -> T) -> T {
        WISH.sync_scope(self, work)
    }
}

/// The log of one host. Dropping it closes it.
pub struct Journal {
    shared: Arc<Shared>,
    tiles: Tiles,
    key: Key,
    digest: Zeroizing<[u8; 32]>,
    /// Of this run, so that ids are never given twice.
    run: u32,
    serial: AtomicU64,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Entries are deleted by one at a time.
    pruning: tokio::sync::Mutex<()>,
    figures: Figures,
}

struct Figures {
    lost: Counter,
    refused: Counter,
}

/// What callers and the writer have in common.
struct Shared {
    queue: Queue,
    view: RwLock<View>,
    /// Why nothing can be written now.
    fault: Mutex<Option<String>>,
    /// Whether there is a fault, for who must be quick.
    failing: AtomicBool,
    /// Facts lost since the last `journal.lost`.
    lost: AtomicU64,
    live: broadcast::Sender<Arc<Recorded>>,
    /// How many facts can be read.
    grown: watch::Sender<u64>,
    /// The first index whose entry is kept.
    first: AtomicU64,
    /// The tail is to be made shorter, because it has entries that must go.
    shorten: AtomicBool,
}

/// What can be read without the disk.
#[derive(Default)]
struct View {
    size: u64,
    /// The last bundle's, while it is not whole.
    last: Vec<Arc<Recorded>>,
    /// How many of them the last checkpoint covers.
    signed: u64,
    /// The last checkpoint that was published; empty before the first.
    checkpoint: Arc<str>,
}

impl Shared {
    fn new() -> Self {
        Self {
            queue: Queue::new(QUEUE_FACTS, QUEUE_BYTES, writer::PUBLISH_FACTS),
            view: RwLock::default(),
            fault: Mutex::default(),
            failing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            live: broadcast::Sender::new(LIVE_FACTS),
            grown: watch::Sender::new(0),
            first: AtomicU64::new(0),
            shorten: AtomicBool::new(false),
        }
    }

    fn set_fault(&self, fault: Option<String>) {
        self.failing.store(fault.is_some(), Ordering::Release);
        metrics::gauge!(FAILING).set(if fault.is_some() { 1.0 } else { 0.0 });
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl Journal {
    /// Opens the log in `folder`, or begins one there. What can't be trusted is left as it is: then the journal records
    /// nothing, and says why ([`Self::fault`]).
    ///
    /// Writes that the host has started; before that, what the last run left open, and that it did not stop in order.
    pub fn open(folder: &Path, config: &Config, keys: &Arc<Keys>) -> anyhow::Result<Self> {
        let key = log_key(config, keys)?;
        let mut run = [0; 4];
        getrandom::fill(&mut run)?;
        let shared = Arc::new(Shared::new());
        let outcome = |outcome| counter!(FACTS, "outcome" => outcome);
        let journal = Self {
            shared,
            tiles: Tiles::new(folder),
            key,
            digest: keys.mac_key(DIGEST_PURPOSE),
            run: u32::from_be_bytes(run),
            serial: AtomicU64::new(1),
            writer: Mutex::default(),
            pruning: tokio::sync::Mutex::default(),
            figures: Figures { lost: outcome("lost"), refused: outcome("refused") },
        };
        journal.shared.set_fault(None);
        match recover::recover(folder, &journal.key) {
            Ok(found) => journal.begin(found, keys)?,
            Err(reason) => {
                tracing::error!(reason, "the log of facts can't be trusted; no facts are recorded");
                journal.shared.set_fault(Some(reason));
                // Nobody takes what would wait.
                journal.shared.queue.close();
            }
        }
        Ok(journal)
    }

    fn begin(&self, found: recover::Recovered, keys: &Arc<Keys>) -> anyhow::Result<()> {
        let (unclean, open) = (found.unclean, found.open.clone());
        self.shared.first.store(found.first, Ordering::Release);
        let (signing, key) = (keys.clone(), self.key.clone());
        let sign = Box::new(move |text: &[u8]| signing.sign(PURPOSE, text));
        let writer = writer::Writer::new(self.shared.clone(), found, key, sign, Box::new(Instant::now));
        let thread = thread::Builder::new().name("journal".into()).spawn(move || writer.run())?;
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        for (id, action) in open {
            let reason = Some("the host ended before it did".to_owned());
            self.append(Fact { id, outcome: Outcome::Unknown, reason, ..self.fact(&action) });
        }
        if unclean {
            tracing::warn!("the host did not stop in order the last time");
            let reason = Some("no host.stop was recorded".to_owned());
            self.append(Fact { outcome: Outcome::Unknown, reason, ..self.fact("host.unclean") });
        }
        self.append(Fact { detail: Some(format!("version {}", crate::VERSION)), ..self.fact("host.start") });
        Ok(())
    }

    /// A fact of this moment that says no more than what happened, at whose wish if that is known, and that it went well.
    pub fn fact(&self, action: &str) -> Fact {
        let id = format!("{:08x}-{:x}", self.run, self.serial.fetch_add(1, Ordering::Relaxed));
        let fact = Fact::new(id, now(), action);
        match WISH.try_with(Clone::clone) {
            Ok(Wish { principal, session, cause }) => Fact { principal: Some(principal), session, cause, ..fact },
            Err(_) => fact,
        }
    }

    /// A payload's hash as facts have it: BLAKE3 under a key of this host, in hex. Nobody else can tell from it what the
    /// payload was, even by guessing.
    pub fn digest(&self, payload: &[u8]) -> String {
        blake3::keyed_hash(&self.digest, payload).to_hex().to_string()
    }

    /// Hands a fact over. It is durable by the next checkpoint; where it can't be taken it is lost, which is counted.
    pub fn append(&self, fact: Fact) {
        if !self.shared.queue.push(job(fact, None)) {
            self.figures.lost.increment(1);
            if self.shared.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::error!("facts are lost: too many wait, or none can be recorded");
            }
        }
    }

    /// The fact's index in the log, once it is durable. Refused at once where it can't be; if the disk fails meanwhile,
    /// it may be recorded later all the same.
    pub async fn append_durable(&self, fact: Fact) -> Result<u64, Unavailable> {
        let recorded = match self.fault() {
            Some(fault) => Err(Unavailable::Failing(fault)),
            None => {
                let (answer, receiver) = oneshot::channel();
                match self.shared.queue.push(job(fact, Some(answer))) {
                    true => receiver.await.unwrap_or(Err(Unavailable::Closed)),
                    false => Err(Unavailable::Overloaded),
                }
            }
        };
        if recorded.is_err() {
            self.figures.refused.increment(1);
        }
        recorded
    }

    /// Why nothing can be recorded now.
    pub fn fault(&self) -> Option<String> {
        if !self.shared.failing.load(Ordering::Acquire) {
            return None;
        }
        self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key that its checkpoints are signed with, as others write it down.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Every fact from now on, in order. A reader that falls behind by [`LIVE_FACTS`] is told how many it has missed.
    pub fn live(&self) -> broadcast::Receiver<Arc<Recorded>> {
        self.shared.live.subscribe()
    }

    /// Waits until there are more than `beyond` facts, at most until then. The answer is how many there are.
    pub async fn wait(&self, beyond: u64, until: tokio::time::Instant) -> u64 {
        let mut grown = self.shared.grown.subscribe();
        // In time or not, what counts is how many there are.
        let _ = tokio::time::timeout_at(until, grown.wait_for(|size| *size > beyond)).await;
        self.size()
    }

    /// Facts that wait for the writer.
    pub fn waiting(&self) -> usize {
        self.shared.queue.len()
    }

    /// Writes that the host has stopped, takes no more facts, and publishes the last checkpoint. Blocks until that is
    /// done. Closing twice does nothing.
    pub fn close(&self) {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.append(self.fact("host.stop"));
        self.shared.queue.close();
        if writer.join().is_err() {
            tracing::error!("the journal's thread panicked");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// The public key of a host's log, by its configuration and its secret.
pub fn log_key(config: &Config, keys: &Keys) -> anyhow::Result<Key> {
    let public = keys.public_key(PURPOSE);
    let origin = match config.origin.as_str() {
        "" => format!("astrid.host/{}", &blake3::hash(&public).to_hex()[..16]),
        given => given.to_owned(),
    };
    Ok(Key::new(&origin, Kind::Log, &public)?)
}

fn job(mut fact: Fact, answer: Option<Answer>) -> Job {
    let bytes = fact.seal();
    let id = std::mem::take(&mut fact.id);
    Job { bytes, id, head: fact.into(), answer }
}

/// Nanoseconds since the Unix epoch; 0 on a clock that is set before it.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// What has begun and not ended, by id.
type Open = HashMap<String, String>;

fn checkpoint_path(folder: &Path) -> PathBuf {
    folder.join("checkpoint")
}

fn tail_path(folder: &Path) -> PathBuf {
    folder.join("tail")
}

fn pruned_path(folder: &Path) -> PathBuf {
    folder.join("pruned")
}

/// The file that has a bundle's summary, and where in it.
fn summary_place(folder: &Path, bundle: u64) -> (PathBuf, u64) {
    let file = folder.join("summary").join(tiles::number(bundle / tiles::WIDTH));
    (file, bundle % tiles::WIDTH * summary::BYTES as u64)
}

const FACTS: &str = "astrid_facts_total";
const WRITE_SECONDS: &str = "astrid_facts_write_seconds";
const FAILING: &str = "astrid_facts_failing";
