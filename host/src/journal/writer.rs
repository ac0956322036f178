//! The one thread that writes: takes the facts that wait, appends them to the tail, syncs once if somebody waits for
//! that, and now and then publishes a checkpoint with the tiles that it needs.
//!
//! The tail is what makes facts durable; tiles and bundles are synced before a shorter tail takes its place. A
//! checkpoint is renamed into its place when all that it covers is durable. What fails is tried again every
//! [`RETRY`]; meanwhile the queue fills, and who waits for durability is refused.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::fact::{Fact, Outcome};
use super::note::{Checkpoint, Key, Note};
use super::queue::{Answer, Job};
use super::recover::{Recovered, Unsaved, note_open};
use super::summary::Summary;
use super::tail::{self, Header, Tail};
use super::tiles::{self, Edge, Kind, WIDTH};
use super::tree::{self, Hash};
use super::{Open, Recorded, Shared, Unavailable, WRITE_SECONDS, checkpoint_path, now, tail_path};

/// At most so many facts after the last checkpoint comes the next.
pub(super) const PUBLISH_FACTS: usize = 1000;
/// At most so long after a fact comes the checkpoint that covers it.
const PUBLISH_AFTER: Duration = Duration::from_secs(1);
/// Between two attempts to write what could not be written.
const RETRY: Duration = Duration::from_millis(500);
/// Facts and bytes in the tail after which it is made shorter.
const ROTATE_FACTS: u64 = 16_384;
const ROTATE_BYTES: u64 = 16 << 20;

type Sign = Box<dyn Fn(&[u8]) -> [u8; 64] + Send>;
/// What time it is.
pub(super) type Clock = Box<dyn Fn() -> Instant + Send>;

pub(super) struct Writer {
    shared: Arc<Shared>,
    folder: PathBuf,
    key: Key,
    sign: Sign,
    clock: Clock,
    edge: Edge,
    tail: Tail,
    /// The last bundle, while it is not whole.
    last: Vec<Arc<Recorded>>,
    /// What nobody has been shown yet.
    fresh: Vec<Arc<Recorded>>,
    summary: Summary,
    open: Open,
    /// Whole tiles and bundles that are not in their files yet.
    unsaved: Vec<Unsaved>,
    /// Files that are written and may not be durable.
    unsynced: BTreeSet<PathBuf>,
    /// Whether the tail has facts that may not be durable.
    tail_unsynced: bool,
    /// Partial tiles of the last checkpoint, and of the one before.
    partials: [Vec<PathBuf>; 2],
    /// The size of the last checkpoint.
    published: u64,
    checkpoint: Arc<str>,
    /// When the next must come.
    due: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, found: Recovered, key: Key, sign: Sign, clock: Clock) -> Self {
        let (checkpoint, published) = found.checkpoint.unwrap_or_default();
        let mut writer = Self {
            shared,
            folder: found.folder,
            key,
            sign,
            clock,
            edge: found.edge,
            tail: found.tail,
            last: found.last.into_iter().map(Arc::new).collect(),
            fresh: Vec::new(),
            summary: found.summary,
            open: found.open,
            unsaved: found.files,
            unsynced: BTreeSet::new(),
            tail_unsynced: true,
            partials: Default::default(),
            published,
            checkpoint: checkpoint.into(),
            due: None,
        };
        writer.partials[0] = writer.leftovers();
        // What can't be saved now is tried again with the first fact.
        if writer.save().is_ok() {
            writer.show();
        }
        writer
    }

    /// Until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut batch: Vec<Job> = Vec::new();
        loop {
            let failing = self.shared.failing.load(Ordering::Acquire);
            let closed = if failing {
                self.shared.queue.pause(RETRY)
            } else {
                self.shared.queue.take(self.room(), self.due, &mut batch)
            };
            match self.step(&mut batch, closed) {
                Ok(()) if failing => {
                    tracing::info!("facts are recorded again");
                    self.shared.set_fault(None);
                }
                Ok(()) if closed => return,
                Ok(()) => {}
                Err(fault) => {
                    let fault = fault.to_string();
                    if !failing {
                        tracing::error!(fault, "facts can't be recorded; they wait, and durable ones are refused");
                    }
                    self.shared.set_fault(Some(fault.clone()));
                    // Who came before that was known must not wait for the disk either.
                    let waiting = batch.iter_mut().filter_map(|job| job.answer.take());
                    for answer in waiting.chain(self.shared.queue.take_answers()) {
                        let _ = answer.send(Err(Unavailable::Failing(fault.clone())));
                    }
                    if closed {
                        return;
                    }
                }
            }
        }
    }

    /// How many facts there may be at most until the next checkpoint.
    pub(super) fn room(&self) -> usize {
        PUBLISH_FACTS.saturating_sub((self.edge.size() - self.published) as usize).max(1)
    }

    /// When it must be woken, whatever comes until then.
    #[cfg(test)]
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Records a batch, at most [`Self::room`], and publishes a checkpoint if one is due. What fails stays in `batch`.
    pub(super) fn step(&mut self, batch: &mut Vec<Job>, closed: bool) -> Result<(), Failed> {
        let began = Instant::now();
        let count = batch.len();
        let answers = self.append(batch)?;
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            batch.push(loss(lost));
        }
        let saved = self.append(batch).and_then(|_| self.save());
        if saved.is_ok() {
            self.show();
        }
        for (answer, index) in answers {
            // A caller that went away does not want to know.
            let _ = answer.send(Ok(index));
        }
        saved?;
        let unpublished = self.edge.size() - self.published;
        let due = self.due.is_some_and(|due| due <= (self.clock)());
        if unpublished > 0 && (closed || due || unpublished >= PUBLISH_FACTS as u64) {
            self.publish()?;
        }
        let held = self.edge.size() - self.tail.header.start;
        let shorten = self.shared.shorten.load(Ordering::Acquire);
        let long = held >= ROTATE_FACTS || self.tail.bytes() >= ROTATE_BYTES;
        if shorten || (!closed && long && held >= WIDTH) {
            self.rotate()?;
            self.shared.shorten.store(false, Ordering::Release);
        }
        if count > 0 {
            metrics::histogram!(WRITE_SECONDS).record(began.elapsed());
        }
        Ok(())
    }

    /// To the tail, and only then to the tree. The answer is who waits, and for which index. What fails stays in `batch`.
    fn append(&mut self, batch: &mut Vec<Job>) -> Result<Vec<(Answer, u64)>, Failed> {
        let mut answers = Vec::new();
        if batch.is_empty() {
            return Ok(answers);
        }
        let leaves: Vec<Hash> = batch.iter().map(|job| tree::leaf(&job.bytes)).collect();
        let mut records = Vec::with_capacity(batch.iter().map(|job| job.bytes.len() + 16).sum());
        batch.iter().zip(&leaves).for_each(|(job, leaf)| tail::put(&mut records, &job.bytes, leaf));
        self.tail.write(&records).map_err(failed("tail"))?;
        self.tail_unsynced = true;
        if batch.iter().any(|job| job.answer.is_some()) {
            self.sync_tail()?;
        }
        self.tail.keep(&records);
        let latest = (self.clock)() + PUBLISH_AFTER;
        self.due.get_or_insert(latest);
        metrics::counter!(super::FACTS, "outcome" => "recorded").increment(batch.len() as u64);
        let mut full = Vec::new();
        for (job, leaf) in batch.drain(..).zip(leaves) {
            let index = self.edge.size();
            self.edge.push(leaf, &mut full);
            note_open(&mut self.open, &job.id, &job.head.action, job.head.outcome);
            self.summary.add(&job.head);
            let recorded = Arc::new(Recorded { index, bytes: job.bytes.into() });
            self.fresh.push(recorded.clone());
            self.last.push(recorded);
            if self.last.len() as u64 == WIDTH {
                let mut bundle = Vec::new();
                self.last.drain(..).for_each(|entry| tiles::put_entry(&mut bundle, &entry.bytes));
                self.unsaved.push(Unsaved::bundle(&self.folder, index / WIDTH, bundle));
                let summary = mem::take(&mut self.summary);
                self.unsaved.push(Unsaved::summary(&self.folder, index / WIDTH, &summary));
            }
            answers.extend(job.answer.map(|answer| (answer, index)));
        }
        self.unsaved.extend(full.iter().map(|full| Unsaved::tile(&self.folder, full)));
        Ok(answers)
    }

    fn sync_tail(&mut self) -> Result<(), Failed> {
        if self.tail_unsynced {
            self.tail.sync().map_err(failed("tail"))?;
            self.tail_unsynced = false;
        }
        Ok(())
    }

    /// Puts whole tiles and bundles into their files.
    fn save(&mut self) -> Result<(), Failed> {
        for unsaved in &self.unsaved {
            put(unsaved).map_err(failed(&unsaved.path))?;
            self.unsynced.insert(unsaved.path.clone());
        }
        self.unsaved.clear();
        Ok(())
    }

    /// Lets readers see what is there.
    fn show(&mut self) {
        let mut view = self.shared.view.write().unwrap_or_else(PoisonError::into_inner);
        view.size = self.edge.size();
        view.signed = self.published;
        view.last.clone_from(&self.last);
        view.checkpoint = self.checkpoint.clone();
        drop(view);
        for recorded in self.fresh.drain(..) {
            // Nobody may be listening.
            let _ = self.shared.live.send(recorded);
        }
        let now = self.edge.size();
        self.shared.grown.send_if_modified(|size| mem::replace(size, now) != now);
    }

    /// Signs how long the log is now, and what its root is.
    fn publish(&mut self) -> Result<(), Failed> {
        self.sync_tail()?;
        let mut partials = Vec::new();
        let mut put_partial = |kind, index, width, bytes: Vec<u8>, known: &[PathBuf]| {
            let path = self.folder.join(tiles::path(kind, index, width));
            if !known.contains(&path) {
                put(&Unsaved { path: path.clone(), at: None, bytes }).map_err(failed(&path))?;
            }
            partials.push(path);
            Ok::<(), Failed>(())
        };
        let (size, known) = (self.edge.size(), &self.partials[1]);
        if !self.last.is_empty() {
            let mut bundle = Vec::new();
            self.last.iter().for_each(|entry| tiles::put_entry(&mut bundle, &entry.bytes));
            put_partial(Kind::Entries, size / WIDTH, self.last.len() as u64, bundle, known)?;
        }
        for (level, hashes) in self.edge.levels().iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()) {
            let (index, width) = (size >> (8 * (level + 1)), hashes.len() as u64);
            put_partial(Kind::Hashes(level as u8), index, width, hashes.as_flattened().to_vec(), known)?;
        }
        let checkpoint = Checkpoint { origin: self.key.name().to_owned(), size, root: self.edge.root() };
        let mut note = Note::new(checkpoint.text());
        note.sign(&self.key, &self.sign);
        let text = note.to_string();
        let path = checkpoint_path(&self.folder);
        replace(&path, text.as_bytes()).map_err(failed(&path))?;
        self.checkpoint = text.into();
        self.published = size;
        self.due = None;
        self.show();
        // Whoever reads by the last checkpoint may still want its partial tiles; nobody those of the one before.
        let [before, last] = mem::replace(&mut self.partials, [Vec::new(), partials]);
        let [kept, current] = &mut self.partials;
        for path in before.into_iter().filter(|path| !last.contains(path) && !current.contains(path)) {
            let _ = fs::remove_file(&path);
            // And its folder, once it is empty: the tile may be whole by now.
            let _ = path.parent().map(fs::remove_dir);
        }
        *kept = last;
        Ok(())
    }

    /// Makes all tiles and bundles durable, then begins a tail with what is in no whole bundle.
    fn rotate(&mut self) -> Result<(), Failed> {
        if self.published < self.edge.size() {
            self.publish()?;
        }
        let mut folders = BTreeSet::from([self.folder.as_path()]);
        for path in &self.unsynced {
            match File::open(path).and_then(|file| file.sync_data()) {
                // It was pruned meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced.map_err(failed(path))?,
            }
            folders.extend(path.ancestors().skip(1).take_while(|folder| *folder != self.folder));
        }
        for folder in folders {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
        }
        let mut levels = self.edge.levels().to_vec();
        if let Some(lowest) = levels.first_mut() {
            lowest.clear();
        }
        let whole = self.edge.size() / WIDTH * WIDTH;
        let edge =
            Edge::from_levels(whole, levels).expect("the partial tiles above the lowest are those of whole bundles");
        let open = self.open.clone().into_iter().collect();
        let mut records = Vec::new();
        self.last.iter().for_each(|entry| tail::put(&mut records, &entry.bytes, &tree::leaf(&entry.bytes)));
        let path = tail_path(&self.folder);
        self.tail = Tail::create(&path, Header::new(&edge, open), &records).map_err(failed(&path))?;
        self.unsynced.clear();
        Ok(())
    }

    /// Partial tiles that a run before this one has left.
    fn leftovers(&self) -> Vec<PathBuf> {
        let size = self.edge.size();
        let levels = (0..self.edge.levels().len().max(1)).map(|level| (Kind::Hashes(level as u8), level));
        let mut found = Vec::new();
        for (kind, level) in levels.chain([(Kind::Entries, 0)]) {
            let index = size >> (8 * (level + 1));
            for index in [index.checked_sub(1), Some(index)].into_iter().flatten() {
                let folder = self.folder.join(tiles::path(kind, index, WIDTH)).with_added_extension("p");
                found.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
            }
        }
        found
    }
}

impl Drop for Writer {
    /// However the thread ends, nobody waits for it in vain.
    fn drop(&mut self) {
        let left = self.shared.queue.abandon();
        if !left.is_empty() {
            tracing::error!(lost = left.len(), "facts that waited are lost");
        }
        if std::thread::panicking() {
            self.shared.set_fault(Some("the journal's thread panicked".to_owned()));
        }
    }
}

/// The fact that so many could not be taken.
fn loss(count: u64) -> Job {
    let time = now();
    let mut fact = Fact::new(format!("lost-{time:x}"), time, "journal.lost");
    fact.outcome = Outcome::Failed;
    fact.detail = Some(format!("{count} facts"));
    super::job(fact, None)
}

/// What could not be written, and where.
#[derive(Debug, thiserror::Error)]
#[error("audit/{path}: {error}")]
pub(super) struct Failed {
    path: String,
    error: io::Error,
}

fn failed(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Failed {
    let path = path.as_ref();
    // Below the log's folder, whatever that is.
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let below = parts.iter().rposition(|part| part == "audit").map_or(0, |at| at + 1);
    let path = parts[below..].join("/");
    move |error| Failed { path, error }
}

/// Writes bytes to their place in a file that nobody but the owner can read. Not durable.
fn put(unsaved: &Unsaved) -> io::Result<()> {
    let whole = unsaved.at.is_none();
    let open = || File::options().create(true).truncate(whole).write(true).mode(0o600).open(&unsaved.path);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = unsaved.path.parent() {
                fs::create_dir_all(folder)?;
            }
            open()?
        }
        opened => opened?,
    };
    file.write_all_at(&unsaved.bytes, unsaved.at.unwrap_or(0))
}

/// Replaces a file: a crash leaves the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    fs::rename(new, path)
}
