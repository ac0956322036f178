//! Where a log stands when a host starts: from its checkpoint and its tail.
//!
//! What is whole in the tail counts, whether or not a checkpoint covers it; tiles and bundles that it covers are made
//! again where they are missing. What contradicts the checkpoint is an error, and nothing is changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::fact::{Fact, Head, Outcome};
use super::note::{self, Checkpoint};
use super::summary::Summary;
use super::tail::{Header, Tail};
use super::tiles::{self, Edge, Full, Kind, WIDTH};
use super::{Open, Recorded, checkpoint_path, pruned_path, summary_place, tail_path, tree};

/// Calls of which it is remembered that they have begun: more than ever run at once.
const MAX_OPEN: usize = 65_536;

/// All that the writer needs to go on.
pub(super) struct Recovered {
    pub(super) folder: PathBuf,
    pub(super) edge: Edge,
    pub(super) tail: Tail,
    /// Entries of the last bundle, which is not whole.
    pub(super) last: Vec<Recorded>,
    pub(super) summary: Summary,
    /// What had begun and not ended.
    pub(super) open: Open,
    /// The checkpoint's text and size; none before the first.
    pub(super) checkpoint: Option<(String, u64)>,
    /// Facts were recorded before, and the last of them is not that the host stopped.
    pub(super) unclean: bool,
    /// The first index whose entry is kept.
    pub(super) first: u64,
    /// What must be on disk.
    pub(super) files: Vec<Unsaved>,
}

/// Bytes that belong into a file.
pub(super) struct Unsaved {
    pub(super) path: PathBuf,
    /// Where they belong in it; none: they are all of it.
    pub(super) at: Option<u64>,
    pub(super) bytes: Vec<u8>,
}

impl Unsaved {
    pub(super) fn tile(folder: &Path, full: &Full) -> Self {
        let path = folder.join(tiles::path(Kind::Hashes(full.level), full.index, WIDTH));
        Self { path, at: None, bytes: full.hashes.as_flattened().to_vec() }
    }

    pub(super) fn bundle(folder: &Path, index: u64, bytes: Vec<u8>) -> Self {
        Self { path: folder.join(tiles::path(Kind::Entries, index, WIDTH)), at: None, bytes }
    }

    pub(super) fn summary(folder: &Path, bundle: u64, summary: &Summary) -> Self {
        let (path, at) = summary_place(folder, bundle);
        Self { path, at: Some(at), bytes: summary.to_bytes() }
    }
}

/// The error says what is wrong with which file.
pub(super) fn recover(folder: &Path, key: &note::Key) -> Result<Recovered, String> {
    let at = |path: &Path| path.strip_prefix(folder).unwrap_or(path).display().to_string();
    let (checkpoint_path, tail_path) = (checkpoint_path(folder), tail_path(folder));
    let failed = |path: &Path, error: io::Error| format!("audit/{}: {error}", at(path));
    let checkpoint = match read_note(&checkpoint_path) {
        Ok(bytes) => Some(open(&bytes, key).map_err(|error| format!("audit/checkpoint: {error}"))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&checkpoint_path, error)),
    };
    let found = match Tail::open(&tail_path) {
        Ok(found) => found,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && checkpoint.is_none() && !folder.join("tile").exists() =>
        {
            crate::home::create_folder(folder).map_err(|error| error.to_string())?;
            let tail = Tail::create(&tail_path, Header::default(), &[]);
            let tail = tail.map_err(|error| failed(&tail_path, error))?;
            super::tail::Found { tail, entries: Vec::new(), torn: 0 }
        }
        Err(error) => return Err(failed(&tail_path, error)),
    };
    let pruned = super::prune::read(folder).map_err(|error| failed(&pruned_path(folder), error))?;
    if found.torn > 0 {
        tracing::warn!(bytes = found.torn, "the end of the log of facts was being written when the host died");
    }
    replay(folder, found, checkpoint, pruned.first)
}

/// The checkpoint, if this host has signed it; under whatever name that its log had then.
fn open(bytes: &[u8], key: &note::Key) -> Result<(String, Checkpoint), note::Malformed> {
    let note = note::Note::parse(bytes)?;
    let checkpoint = Checkpoint::parse(note.text())?;
    note.verify(&key.named(&checkpoint.origin)?)?;
    Ok((note.to_string(), checkpoint))
}

fn replay(
    folder: &Path,
    found: super::tail::Found,
    checkpoint: Option<(String, Checkpoint)>,
    first: u64,
) -> Result<Recovered, String> {
    let header = &found.tail.header;
    let Some(mut edge) = header.edge().filter(|edge| edge.size().is_multiple_of(WIDTH)) else {
        return Err("audit/tail: its header has the hashes of no tree of its size".to_owned());
    };
    let mut open: Open = header.open.iter().cloned().collect();
    let (mut files, mut full, mut last, mut summary) = (Vec::new(), Vec::new(), Vec::new(), Summary::default());
    let proven = |edge: &Edge| match &checkpoint {
        Some((_, checkpoint)) if checkpoint.size == edge.size() => checkpoint.root == edge.root(),
        _ => true,
    };
    let contradicts = |size: u64| Err(format!("audit/tail: its first {size} facts are not those of audit/checkpoint"));
    if !proven(&edge) {
        return contradicts(edge.size());
    }
    let mut unclean = edge.size() > 0;
    for entry in found.entries {
        let Some(fact) = Fact::parse(&entry) else {
            return Err(format!("audit/tail: entry {} is not a fact", edge.size()));
        };
        unclean = fact.action != "host.stop";
        note_open(&mut open, &fact.id, &fact.action, fact.outcome);
        summary.add(&Head::from(fact));
        edge.push(tree::leaf(&entry), &mut full);
        if !proven(&edge) {
            return contradicts(edge.size());
        }
        last.push(Recorded { index: edge.size() - 1, bytes: entry.into() });
        if edge.size().is_multiple_of(WIDTH) {
            let index = edge.size() / WIDTH - 1;
            let summary = std::mem::take(&mut summary);
            // What was pruned stays so.
            if index * WIDTH >= first {
                files.push(Unsaved::bundle(folder, index, bundle(&last)));
                files.push(Unsaved::summary(folder, index, &summary));
            }
            last.clear();
        }
    }
    files.extend(full.iter().map(|full| Unsaved::tile(folder, full)));
    let checkpoint = checkpoint.map(|(text, checkpoint)| (text, checkpoint.size));
    if let Some((_, size)) = &checkpoint
        && *size > edge.size()
    {
        return Err(format!("audit/tail: the log ends after {} facts, and {size} were signed", edge.size()));
    }
    Ok(Recovered {
        folder: folder.to_owned(),
        edge,
        tail: found.tail,
        last,
        summary,
        open,
        checkpoint,
        unclean,
        first,
        files,
    })
}

/// A bundle of these.
pub(super) fn bundle(entries: &[Recorded]) -> Vec<u8> {
    let mut bundle = Vec::new();
    entries.iter().for_each(|entry| tiles::put_entry(&mut bundle, &entry.bytes));
    bundle
}

/// Remembers what began until it has ended.
pub(super) fn note_open(open: &mut Open, id: &str, action: &str, outcome: Outcome) {
    if outcome == Outcome::Began {
        if open.len() >= MAX_OPEN {
            return;
        }
        open.insert(id.to_owned(), action.to_owned());
    } else if !open.is_empty() {
        open.remove(id);
    }
}

fn read_note(path: &Path) -> io::Result<Vec<u8>> {
    crate::files::read_capped(fs::File::open(path)?, note::MAX_NOTE as u64)
}
