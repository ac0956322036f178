//! The one thread that writes: takes what waits, applies it in one transaction, syncs once, answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use redb::{Database, ReadableTable, Table};

use super::file::{ENTRIES, META, OpenError, Opened, VERSION};
use super::queue::Job;
use super::{BATCH_COMMITS, COMMIT_SECONDS, COMMITS, Commit, CommitError, QUEUE_COMMITS, Shared, Then, VERSION_BYTES};

/// The least time between two attempts to reopen a file that failed. Each may check all of it.
pub(super) const REOPEN_INTERVAL: Duration = Duration::from_millis(500);

type Reopen = Box<dyn Fn() -> Result<Opened, OpenError> + Send>;

pub(super) struct Writer {
    shared: Arc<Shared>,
    reopen: Reopen,
    max_batch: usize,
    /// The last version given out. Failed commits use theirs up.
    version: u64,
    /// The last version known to be in the file.
    durable: u64,
    /// Of the last batch that failed, what is to run should the file turn out to hold it.
    doubtful: Vec<(u64, Then)>,
    reopened: Option<Instant>,
    /// So that the log hears of a failing disk once.
    failing: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, reopen: Reopen, max_batch: usize, version: u64) -> Self {
        Self {
            shared,
            reopen,
            max_batch,
            version,
            durable: version,
            doubtful: Vec::new(),
            reopened: None,
            failing: false,
        }
    }

    /// Until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        while let Some(taken) = self.shared.queue.take(self.max_batch, &mut batch) {
            metrics::gauge!(QUEUE_COMMITS).set(taken.waiting as f64);
            if taken.read_failed || self.failing {
                self.recover();
            }
            if !batch.is_empty() {
                self.serve(&mut batch);
            }
            metrics::gauge!(QUEUE_COMMITS).set((taken.waiting.saturating_sub(self.max_batch)) as f64);
        }
    }

    fn serve(&mut self, batch: &mut Vec<Job>) {
        let began = Instant::now();
        // Of each commit, its version; none if it conflicts.
        let mut versions = Vec::with_capacity(batch.len());
        let written = match &*self.shared.database.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => {
                let write = || write(database, batch, self.version, &mut versions);
                catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| Err(redb::Error::TransactionPoisoned))
            }
            None => Err(redb::Error::DatabaseClosed),
        };
        metrics::histogram!(BATCH_COMMITS).record(batch.len() as f64);
        metrics::histogram!(COMMIT_SECONDS).record(began.elapsed());
        self.version = versions.iter().flatten().last().copied().unwrap_or(self.version);
        match written {
            Ok(()) => self.acknowledge(batch, &versions),
            Err(error) => self.fail(batch, &versions, &error),
        }
    }

    fn acknowledge(&mut self, batch: &mut Vec<Job>, versions: &[Option<u64>]) {
        self.durable = self.version;
        if std::mem::take(&mut self.failing) {
            tracing::info!("the store can be written again");
        }
        let committed = versions.iter().flatten().count();
        metrics::counter!(COMMITS, "outcome" => "committed").increment(committed as u64);
        metrics::counter!(COMMITS, "outcome" => "conflict").increment((batch.len() - committed) as u64);
        for (mut job, version) in batch.drain(..).zip(versions) {
            let answer = match (*version, job.commit.then.take()) {
                (Some(version), Some(then)) => {
                    run(then, version);
                    Ok(version)
                }
                (Some(version), None) => Ok(version),
                (None, _) => Err(CommitError::Conflict),
            };
            // A caller that went away does not want to know.
            let _ = job.answer.send(answer);
        }
    }

    fn fail(&mut self, batch: &mut Vec<Job>, versions: &[Option<u64>], error: &redb::Error) {
        self.report(&error.to_string());
        metrics::counter!(COMMITS, "outcome" => "unavailable").increment(batch.len() as u64);
        let mut versions = versions.iter().copied().chain(std::iter::repeat(None));
        for mut job in batch.drain(..) {
            if let (Some(version), Some(then)) = (versions.next().flatten(), job.commit.then.take()) {
                self.doubtful.push((version, then));
            }
            let _ = job.answer.send(Err(CommitError::Unavailable));
        }
        self.recover();
    }

    /// After a failure: if redb takes no more transactions, which it does not once the disk failed, reopens the file.
    fn recover(&mut self) {
        let usable = match &*self.shared.database.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => catch_unwind(AssertUnwindSafe(|| database.begin_write().is_ok())).unwrap_or(false),
            None => false,
        };
        if usable {
            // What failed was rolled back.
            self.doubtful.clear();
            return;
        }
        if self.reopened.is_some_and(|at| at.elapsed() < REOPEN_INTERVAL) {
            return;
        }
        self.reopened = Some(Instant::now());
        // Gives up the lock on the file.
        drop(self.shared.set_database(None));
        match (self.reopen)() {
            Ok(Opened { version, .. }) if version < self.durable => {
                let durable = self.durable;
                self.report(&format!("the file ends at version {version}, but {durable} was acknowledged"));
            }
            Ok(Opened { database, version }) => {
                self.durable = version;
                self.version = self.version.max(version);
                for (of, then) in self.doubtful.drain(..) {
                    if of <= version {
                        run(then, of);
                    }
                }
                self.shared.set_database(Some(database));
                tracing::info!("the store's file is open again");
            }
            Err(error) => self.report(&error.to_string()),
        }
    }

    fn report(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(reason, "the store cannot be written; commits fail until it can");
        }
    }
}

impl Drop for Writer {
    /// However the thread ends, nobody waits for it in vain.
    fn drop(&mut self) {
        self.shared.queue.abandon();
        if let Some(Err(error)) = self.shared.set_database(None).map(Database::close) {
            tracing::error!(%error, "the store was not closed properly; the next start checks all of it");
        }
    }
}

/// A `then` that panics has failed alone.
fn run(then: Then, version: u64) {
    if catch_unwind(AssertUnwindSafe(|| then(version))).is_err() {
        tracing::error!(version, "what was to follow a commit panicked");
    }
}

/// Applies the batch and makes it durable. `version` is the last one given out; `versions` gets one entry for each
/// commit, as far as it came.
fn write(
    database: &Database,
    batch: &[Job],
    mut version: u64,
    versions: &mut Vec<Option<u64>>,
) -> Result<(), redb::Error> {
    // Durability::Immediate is redb's default.
    let transaction = database.begin_write()?;
    let before = version;
    {
        let mut table = transaction.open_table(ENTRIES)?;
        let mut buffer = Vec::new();
        for Job { commit, .. } in batch {
            if holds(&table, commit)? {
                version += 1;
                versions.push(Some(version));
                apply(&mut table, commit, version, &mut buffer)?;
            } else {
                versions.push(None);
            }
        }
    }
    if version == before {
        return Ok(transaction.abort()?);
    }
    transaction.open_table(META)?.insert(VERSION, version)?;
    Ok(transaction.commit()?)
}

fn holds(table: &Table<'_, &'static [u8], &'static [u8]>, commit: &Commit) -> Result<bool, redb::Error> {
    for (key, expected) in &commit.expect {
        // A value too short to have a version, which only damage can cause, has one that nobody expects.
        let version = |raw: &[u8]| raw.first_chunk::<VERSION_BYTES>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if table.get(key.as_slice())?.map(|raw| version(raw.value())) != *expected {
            return Ok(false);
        }
    }
    Ok(true)
}

fn apply(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    commit: &Commit,
    version: u64,
    buffer: &mut Vec<u8>,
) -> Result<(), redb::Error> {
    for (key, value) in &commit.writes {
        match value {
            Some(value) => {
                buffer.clear();
                buffer.extend_from_slice(&version.to_le_bytes());
                buffer.extend_from_slice(value);
                table.insert(key.as_slice(), buffer.as_slice())?;
            }
            None => {
                table.remove(key.as_slice())?;
            }
        }
    }
    Ok(())
}
