//! The file that makes facts durable: everything since the last time that all tiles and bundles were synced.
//!
//! A header says where it begins and what the tree's edge was there, so that a start needs this file, the checkpoint and
//! nothing else. Behind it, each entry has a length and the beginning of its leaf hash, so that a torn end is told from
//! the rest. It is replaced as a whole by a shorter one (rename) and appended to otherwise.
//! Bounded by the writer, which replaces it; at most [`MAX_TAIL`] is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::tiles::{Edge, MAX_ENTRY};
use super::tree::{self, Hash};
use crate::files;

const MAGIC: &[u8] = b"astrid tail 1\n";
const CHECK: usize = 8;
/// The longest file that is read, in bytes.
const MAX_TAIL: u64 = 256 << 20;

/// What was so where the tail begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Leaves before it: whole bundles.
    pub(super) start: u64,
    /// The hashes of the partial tiles then, by level, in hex.
    levels: Vec<String>,
    /// The ids and actions of what had begun and not ended.
    pub(super) open: Vec<(String, String)>,
}

impl Header {
    pub(super) fn new(edge: &Edge, open: Vec<(String, String)>) -> Self {
        let levels = edge.levels().iter().map(|hashes| hex::encode(hashes.as_flattened())).collect();
        Self { start: edge.size(), levels, open }
    }

    /// None if the hashes are not those of a tree of that size.
    pub(super) fn edge(&self) -> Option<Edge> {
        let level = |text: &String| -> Option<Vec<Hash>> {
            let bytes = hex::decode(text).ok()?;
            let (hashes, rest) = bytes.as_chunks();
            rest.is_empty().then(|| hashes.to_vec())
        };
        Edge::from_levels(self.start, self.levels.iter().map(level).collect::<Option<_>>()?)
    }
}

/// The open file.
pub(super) struct Tail {
    path: PathBuf,
    file: File,
    pub(super) header: Header,
    /// Behind the last entry that counts.
    end: u64,
    /// A sync has failed: nobody knows what the disk has.
    suspect: bool,
}

/// What a file held.
pub(super) struct Found {
    pub(super) tail: Tail,
    pub(super) entries: Vec<Vec<u8>>,
    /// Bytes of an end that was being written when the host died.
    pub(super) torn: u64,
}

/// Adds an entry in the tail's form.
pub(super) fn put(records: &mut Vec<u8>, entry: &[u8], leaf: &Hash) {
    let length = u16::try_from(entry.len()).expect("entries are bounded");
    records.extend_from_slice(&length.to_be_bytes());
    records.extend_from_slice(entry);
    records.extend_from_slice(&leaf[..CHECK]);
}

impl Tail {
    /// Durably replaces the file.
    pub(super) fn create(path: &Path, header: Header, records: &[u8]) -> io::Result<Self> {
        let text = serde_json::to_vec(&header)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?.to_be_bytes();
        let mut bytes = [MAGIC, &length, &text, Sha256::digest(&text).as_slice()].concat();
        bytes.extend_from_slice(records);
        files::write_private(path, &bytes)?;
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self { path: path.to_owned(), file, header, end: bytes.len() as u64, suspect: false })
    }

    /// Reads the file; what is torn at its end is cut off.
    pub(super) fn open(path: &Path) -> io::Result<Found> {
        let file = File::options().read(true).write(true).open(path)?;
        let bytes = files::read_capped(file.try_clone()?, MAX_TAIL)?;
        let damaged = || io::Error::other("its header is damaged");
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(damaged)?;
        let (check, mut rest) = rest.split_first_chunk::<32>().ok_or_else(damaged)?;
        if Sha256::digest(text).as_slice() != check {
            return Err(damaged());
        }
        let header: Header = serde_json::from_slice(text)?;
        let mut entries = Vec::new();
        while let Some((entry, after)) = record(rest) {
            entries.push(entry.to_vec());
            rest = after;
        }
        let torn = rest.len() as u64;
        let end = bytes.len() as u64 - torn;
        if torn > 0 {
            file.set_len(end)?;
            file.sync_all()?;
        }
        Ok(Found { tail: Self { path: path.to_owned(), file, header, end, suspect: false }, entries, torn })
    }

    /// How long it is, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Writes records behind the last that count. They count, and the next come behind them, once [`Self::keep`] is called.
    pub(super) fn write(&mut self, records: &[u8]) -> io::Result<()> {
        if self.suspect {
            let whole = Self::open(&self.path)?;
            let mut all = Vec::new();
            whole.entries.iter().for_each(|entry| put(&mut all, entry, &tree::leaf(entry)));
            if whole.tail.end < self.end {
                return Err(io::Error::other("the disk has lost what was written to it"));
            }
            all.truncate(all.len() - (whole.tail.end - self.end) as usize);
            *self = Self::create(&self.path, self.header.clone(), &all)?;
        }
        self.file.write_all_at(records, self.end)
    }

    pub(super) fn keep(&mut self, records: &[u8]) {
        self.end += records.len() as u64;
    }

    /// Makes everything that was written durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.sync_data();
        // After a failure the kernel may call clean what never reached the disk; only a new file is trusted.
        self.suspect |= synced.is_err();
        synced
    }
}

/// The first record and what follows; none if it is no whole one.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)).min(MAX_ENTRY))?;
    let (check, rest) = rest.split_first_chunk::<CHECK>()?;
    tree::leaf(entry).starts_with(check).then_some((entry, rest))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_cut_of_a_tail_gives_back_whole_entries_and_names_what_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tail");
        let mut edge = Edge::default();
        (0..512).for_each(|n: u64| edge.push(tree::leaf(&n.to_be_bytes()), &mut Vec::new()));
        let header = Header::new(&edge, vec![("1".into(), "a.b".into())]);
        let mut tail = Tail::create(&path, header.clone(), &[]).unwrap();
        let entries: [&[u8]; 3] = [b"one", b"", b"three"];
        let mut ends = vec![tail.bytes()];
        for entry in entries {
            let mut records = Vec::new();
            put(&mut records, entry, &tree::leaf(entry));
            tail.write(&records).unwrap();
            tail.keep(&records);
            ends.push(tail.bytes());
        }
        tail.sync().unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.len() as u64, ends[3]);
        for length in ends[0]..=ends[3] {
            fs::write(&path, &whole[..length as usize]).unwrap();
            let found = Tail::open(&path).unwrap();
            let there = ends.iter().filter(|end| **end <= length).count() - 1;
            assert_eq!(found.entries, entries[..there], "{length}");
            assert_eq!((found.tail.bytes(), found.torn), (ends[there], length - ends[there]));
            assert_eq!(fs::metadata(&path).unwrap().len(), ends[there]);
            assert_eq!((found.tail.header.edge(), found.tail.header), (Some(edge.clone()), header.clone()));
        }
        // The header is another thing: without it nothing can go on.
        fs::write(&path, &whole[..ends[0] as usize - 1]).unwrap();
        assert!(Tail::open(&path).is_err());
        let mut other = whole.clone();
        other[30] ^= 1;
        fs::write(&path, other).unwrap();
        assert!(Tail::open(&path).is_err());
    }
}
