//! Durable bytes: one redb file, one thread that writes to it.
//!
//! Owns the file, its format, and the order in which commits happen. Callers hand over a [`Commit`] and wait; the
//! writer thread takes everything that is waiting, checks and applies it in the order of arrival inside one redb
//! transaction, makes that durable with one sync, and only then answers. So a lone caller pays one sync and a crowd
//! shares one. Reads run on the caller's thread, from redb's latest durable state, and never wait for the writer.
//!
//! Bounds: the commits that wait are limited in number and in bytes ([`Config`]); above that a commit is refused at
//! once. The batch being written is limited in the same way, so at most twice `queue-bytes` are held in memory beside
//! the page cache.
//!
//! A disk that fails costs the batch that met it. The writer then reopens the file, now and again until it succeeds,
//! and goes on; nothing is acknowledged that redb did not report as durable.
//!
//! Knows nothing of capsules, principals, or what the bytes mean. A namespace is a prefix that the caller chose.

mod file;
mod queue;
#[cfg(test)]
mod tests;
mod writer;

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, StorageBackend};
use tokio::sync::oneshot;

pub use file::OpenError;
use queue::{Job, Queue};

/// What the store may use. `store` in the host's configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: u64,
    /// How many commits share one sync at most.
    pub max_batch: usize,
    /// How many commits may wait; above it they are refused as [`CommitError::Overloaded`].
    pub queue: usize,
    /// How many bytes of keys and values may wait. A commit is admitted while fewer than this wait, so the last one
    /// may exceed it.
    pub queue_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, max_batch: 1024, queue: 8192, queue_bytes: 64 << 20 }
    }
}

impl Config {
    /// The error names the key, its bounds and what it is.
    pub fn check(&self) -> Result<(), String> {
        for (key, value, min, max) in [
            ("cache-bytes", self.cache_bytes, 1 << 20, 1 << 40),
            ("max-batch", self.max_batch as u64, 1, 65_536),
            ("queue", self.queue as u64, 1, 1_048_576),
            ("queue-bytes", self.queue_bytes, 1 << 20, 1 << 34),
        ] {
            if !(min..=max).contains(&value) {
                return Err(format!("store.{key} must be from {min} to {max}; it is {value}"));
            }
        }
        Ok(())
    }
}

/// A value and the version of the commit that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Vec<u8>,
    /// Never 0.
    pub version: u64,
}

/// Part of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// In ascending byte order of the keys.
    pub entries: Vec<(Vec<u8>, Entry)>,
    /// Whether entries follow that did not fit.
    pub more: bool,
}

/// Runs on the writer thread once its commit is durable, with the commit's version. Must be short and may not commit.
pub type Then = Box<dyn FnOnce(u64) + Send>;

/// Bytes that are counted: a commit's writes below `prefix` change the counter at `counter` by what they add or take, in
/// the same redb transaction, so that it is exact after a crash as well. Counted are keys, without the prefix, and
/// values.
#[derive(Debug, Clone)]
pub struct Counted {
    pub prefix: Vec<u8>,
    pub counter: Vec<u8>,
    /// A commit that would raise the counter above this is refused as [`CommitError::Quota`].
    pub limit: u64,
}

/// Reads that must still hold and writes that take effect together, or not at all.
#[derive(Default)]
pub struct Commit {
    /// The version that each key must have; none means that it must not exist.
    pub expect: Vec<(Vec<u8>, Option<u64>)>,
    /// New values; none deletes. Of two writes to one key the later counts.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Whose bytes are counted, and how many there may be.
    pub counted: Option<Counted>,
    /// Runs before the caller is answered and before every later commit's; see [`Store::commit`].
    pub then: Option<Then>,
}

impl Commit {
    /// Bytes of keys and values.
    fn bytes(&self) -> u64 {
        let expected: usize = self.expect.iter().map(|(key, _)| key.len()).sum();
        let written: usize =
            self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        (expected + written) as u64
    }
}

/// Why a commit was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    #[error("a key does not have the version that the commit expects; nothing was written")]
    Conflict,
    #[error("the counted bytes would exceed their limit; nothing was written")]
    Quota,
    #[error("too many commits are waiting; nothing was written")]
    Overloaded,
    /// If the disk failed in the last step, the sync, the file may turn out to hold the commit when it can be read
    /// again: all of it, with its [`Commit::then`] run, or none of it.
    #[error("the store is closed, or its disk failed; the commit is not acknowledged")]
    Unavailable,
}

/// Why the store could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the store is closed, or its disk failed")]
    Unavailable,
    #[error("the store cannot be read: {0}")]
    Failed(String),
}

/// An open store. Shared behind an `Arc`; dropping it closes it.
pub struct Store {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What callers and the writer thread have in common.
struct Shared {
    /// None while the writer reopens the file, and once it has ended. Only the writer changes it.
    database: RwLock<Option<Database>>,
    queue: Queue,
}

impl Shared {
    fn set_database(&self, database: Option<Database>) -> Option<Database> {
        std::mem::replace(&mut *self.database.write().unwrap_or_else(PoisonError::into_inner), database)
    }
}

impl Store {
    /// Opens the file, or makes one that only its owner can read (mode 0600). `config` has been checked.
    ///
    /// After a crash redb verifies every page first, which takes time in proportion to the file's size; the log says so.
    pub fn open(path: &Path, config: &Config) -> Result<Self, OpenError> {
        Self::open_with(path, config, |backend| backend)
    }

    /// `wrap` stands between redb and the file.
    fn open_with<B: StorageBackend>(
        path: &Path,
        config: &Config,
        wrap: impl Fn(FileBackend) -> B + Send + 'static,
    ) -> Result<Self, OpenError> {
        let place = file::Place { path: path.to_owned(), cache_bytes: config.cache_bytes };
        let opened = place.open_or_create(&wrap)?;
        let shared = Arc::new(Shared {
            database: RwLock::new(Some(opened.database)),
            queue: Queue::new(config.queue, config.queue_bytes),
        });
        let reopen = Box::new(move || place.open(&wrap));
        let writer = writer::Writer::new(Arc::clone(&shared), reopen, config.max_batch, opened.version);
        let thread = thread::Builder::new().name("store-writer".into()).spawn(move || writer.run());
        let thread = thread.map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { shared, writer: Mutex::new(Some(thread)) })
    }

    /// The value of one key. Sees every commit that was acknowledged before. May wait for the disk.
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>, ReadError> {
        self.read(|table| table.get(key)?.map(|raw| decode(raw.value())).transpose())
    }

    /// What a counter of [`Counted`] is at; 0 if nothing was ever counted.
    pub fn count(&self, counter: &[u8]) -> Result<u64, ReadError> {
        let entry = self.get(counter)?;
        Ok(entry.and_then(|e| e.value.first_chunk().copied()).map_or(0, u64::from_le_bytes))
    }

    /// The entries whose keys begin with `prefix` and come after `after`: at most `limit`, and at most `max_bytes` of
    /// keys and values unless the first alone exceeds that. A `limit` of 0 only says whether there are any. Sees one
    /// state of the store throughout, with every commit that was acknowledged before. May wait for the disk.
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize, max_bytes: usize) -> Result<Page, ReadError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.read(|table| {
            let mut page = Page::default();
            let mut bytes = 0;
            for item in table.range::<&[u8]>((from, Bound::Unbounded))? {
                let (key, raw) = item?;
                let (key, raw) = (key.value(), raw.value());
                if !key.starts_with(prefix) {
                    break;
                }
                bytes += key.len() + raw.len().saturating_sub(VERSION_BYTES);
                if page.entries.len() == limit || (!page.entries.is_empty() && bytes > max_bytes) {
                    page.more = true;
                    break;
                }
                page.entries.push((key.to_vec(), decode(raw)?));
            }
            Ok(page)
        })
    }

    fn read<T>(
        &self,
        with: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, ReadError> {
        let database = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = database.as_ref().map(ReadableDatabase::begin_read);
        drop(database);
        let Some(transaction) = transaction else {
            self.shared.queue.report_failure();
            return Err(ReadError::Unavailable);
        };
        transaction
            .map_err(redb::Error::from)
            .and_then(|transaction| with(&transaction.open_table(file::ENTRIES)?))
            .map_err(|error| {
                self.shared.queue.report_failure();
                ReadError::Failed(error.to_string())
            })
    }

    /// Durable when it returns the commit's version, which is higher than that of every commit before it, across
    /// restarts as well.
    ///
    /// Commits take effect in the order in which they were first polled. What a commit expects is checked against all
    /// those before it; one that conflicts writes nothing. Dropping the future does not take the commit back: it
    /// happens as a whole or not at all.
    pub async fn commit(&self, commit: Commit) -> Result<u64, CommitError> {
        self.submit(commit)?.await.unwrap_or(Err(CommitError::Unavailable))
    }

    /// [`Self::commit`] for a thread that may block: not a worker of an async runtime, which would panic.
    pub fn commit_blocking(&self, commit: Commit) -> Result<u64, CommitError> {
        self.submit(commit)?.blocking_recv().unwrap_or(Err(CommitError::Unavailable))
    }

    fn submit(&self, commit: Commit) -> Result<oneshot::Receiver<Result<u64, CommitError>>, CommitError> {
        let (answer, receiver) = oneshot::channel();
        let submitted = self.shared.queue.push(Job { bytes: commit.bytes(), commit, answer });
        if submitted == Err(CommitError::Overloaded) {
            metrics::counter!(COMMITS, "outcome" => "overloaded").increment(1);
        }
        submitted.map(|()| receiver)
    }

    /// Takes no more commits, finishes those that wait, and closes the file. Blocks until that is done. Reads and
    /// commits are refused from then on. Closing twice does nothing.
    pub fn close(&self) {
        self.shared.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A `then` that drops the last reference runs on the writer thread, which cannot wait for itself.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != thread::current().id())
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// In front of every stored value: its version, little-endian.
const VERSION_BYTES: usize = size_of::<u64>();

fn decode(raw: &[u8]) -> Result<Entry, redb::Error> {
    let (version, value) = raw
        .split_first_chunk::<VERSION_BYTES>()
        .ok_or_else(|| redb::Error::Corrupted("a value is shorter than its version".into()))?;
    Ok(Entry { value: value.to_vec(), version: u64::from_le_bytes(*version) })
}

const COMMITS: &str = "astrid_store_commits_total";
const BATCH_COMMITS: &str = "astrid_store_batch_commits";
const COMMIT_SECONDS: &str = "astrid_store_commit_seconds";
const QUEUE_COMMITS: &str = "astrid_store_queue_commits";
