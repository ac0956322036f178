//! The one thread that writes: takes what waits, applies it in one transaction, syncs once, answers.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use redb::{Database, ReadableTable, Table};

use super::file::{ENTRIES, META, OpenError, Opened, VERSION};
use super::queue::Job;
use super::{
    BATCH_COMMITS, COMMIT_SECONDS, COMMITS, Commit, CommitError, Counted, QUEUE_COMMITS, Shared, Then, VERSION_BYTES,
};

/// The least time between two attempts to reopen a file that failed. Each may check all of it.
pub(super) const REOPEN_INTERVAL: Duration = Duration::from_millis(500);

type Entries<'t> = Table<'t, &'static [u8], &'static [u8]>;
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
        // Of each commit, its version, or why it was refused.
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

    fn acknowledge(&mut self, batch: &mut Vec<Job>, versions: &[Result<u64, CommitError>]) {
        self.durable = self.version;
        if std::mem::take(&mut self.failing) {
            tracing::info!("the store can be written again");
        }
        let count = |fits: fn(&Result<u64, CommitError>) -> bool| versions.iter().filter(|v| fits(v)).count() as u64;
        metrics::counter!(COMMITS, "outcome" => "committed").increment(count(Result::is_ok));
        metrics::counter!(COMMITS, "outcome" => "conflict").increment(count(|v| *v == Err(CommitError::Conflict)));
        metrics::counter!(COMMITS, "outcome" => "quota").increment(count(|v| *v == Err(CommitError::Quota)));
        for (mut job, version) in batch.drain(..).zip(versions) {
            if let (Ok(version), Some(then)) = (*version, job.commit.then.take()) {
                run(then, version);
            }
            // A caller that went away does not want to know.
            let _ = job.answer.send(*version);
        }
    }

    fn fail(&mut self, batch: &mut Vec<Job>, versions: &[Result<u64, CommitError>], error: &redb::Error) {
        self.report(&error.to_string());
        metrics::counter!(COMMITS, "outcome" => "unavailable").increment(batch.len() as u64);
        let mut versions = versions.iter().copied();
        for mut job in batch.drain(..) {
            if let (Some(Ok(version)), Some(then)) = (versions.next(), job.commit.then.take()) {
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
    versions: &mut Vec<Result<u64, CommitError>>,
) -> Result<(), redb::Error> {
    // Durability::Immediate is redb's default.
    let transaction = database.begin_write()?;
    let before = version;
    {
        let mut table = transaction.open_table(ENTRIES)?;
        let mut buffer = Vec::new();
        for Job { commit, .. } in batch {
            versions.push(match judge(&table, commit)? {
                Ok(counted) => {
                    version += 1;
                    apply(&mut table, commit, counted, version, &mut buffer)?;
                    Ok(version)
                }
                Err(refusal) => Err(refusal),
            });
        }
    }
    if version == before {
        return Ok(transaction.abort()?);
    }
    transaction.open_table(META)?.insert(VERSION, version)?;
    Ok(transaction.commit()?)
}

/// Whether a commit may be applied, and where its counter is afterwards if it has one that changes.
fn judge(table: &Entries<'_>, commit: &Commit) -> Result<Result<Option<u64>, CommitError>, redb::Error> {
    if !holds(table, commit)? {
        return Ok(Err(CommitError::Conflict));
    }
    let Some(counted) = &commit.counted else { return Ok(Ok(None)) };
    let before = match table.get(counted.counter.as_slice())? {
        Some(raw) => {
            raw.value().get(VERSION_BYTES..).and_then(|v| v.first_chunk()).map_or(0, |v| u64::from_le_bytes(*v))
        }
        None => 0,
    };
    let (added, taken) = difference(table, commit, &counted.prefix)?;
    if added == taken {
        return Ok(Ok(None));
    }
    let after = before.saturating_add(added).saturating_sub(taken);
    Ok(if after > before && after > counted.limit { Err(CommitError::Quota) } else { Ok(Some(after)) })
}

/// The bytes below `prefix` that a commit adds, and those that it takes away.
fn difference(table: &Entries<'_>, commit: &Commit, prefix: &[u8]) -> Result<(u64, u64), redb::Error> {
    // Of two writes to one key the later counts.
    let writes: BTreeMap<&[u8], Option<&[u8]>> =
        commit.writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
    let (mut added, mut taken) = (0, 0);
    for (key, value) in writes {
        let Some(rest) = key.strip_prefix(prefix) else { continue };
        added += value.map_or(0, |value| (rest.len() + value.len()) as u64);
        if let Some(old) = table.get(key)? {
            taken += (rest.len() + old.value().len().saturating_sub(VERSION_BYTES)) as u64;
        }
    }
    Ok((added, taken))
}

fn holds(table: &Entries<'_>, commit: &Commit) -> Result<bool, redb::Error> {
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
    table: &mut Entries<'_>,
    commit: &Commit,
    counted: Option<u64>,
    version: u64,
    buffer: &mut Vec<u8>,
) -> Result<(), redb::Error> {
    let mut insert = |table: &mut Entries<'_>, key: &[u8], value: &[u8]| {
        buffer.clear();
        buffer.extend_from_slice(&version.to_le_bytes());
        buffer.extend_from_slice(value);
        table.insert(key, buffer.as_slice()).map(drop)
    };
    if let (Some(count), Some(Counted { counter, .. })) = (counted, &commit.counted) {
        insert(table, counter, &count.to_le_bytes())?;
    }
    for (key, value) in &commit.writes {
        match value {
            Some(value) => insert(table, key, value)?,
            None => {
                table.remove(key.as_slice())?;
            }
        }
    }
    Ok(())
}
