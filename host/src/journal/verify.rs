//! Checking a log without the host: a folder and the public key of its checkpoints are enough.
//!
//! Owns finding the first place where a log is not what was signed, and saying which file it is: every tile that the
//! signed root vouches for says what is below it. Streams: one bundle and one tile of each level are in memory.
//! Refuses to know: what entries mean, but for one thing: that facts were deleted on purpose is a fact itself.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use super::note::{Checkpoint, Key, MAX_NOTE, Note};
use super::tiles::{self, Difference, Edge, Full, Kind, Stored, Tiles, WIDTH};
use super::tree::{self, Hash};
use super::{Fact, checkpoint_path};
use crate::files;

/// The action of the fact that says that the entries below an index, its target, were deleted.
pub const PRUNED: &str = "journal.prune";

/// What was found to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub checkpoint: Checkpoint,
    /// The entries before this are gone, and a fact says so. Their hashes are there.
    pub pruned: u64,
}

/// Reads a log's checkpoint, which must be signed by this key.
pub fn checkpoint(folder: &Path, key: &Key) -> Result<(Note, Checkpoint), Difference> {
    let wrong = |found: String| Difference::new("checkpoint", format!("a checkpoint signed by {key}"), found);
    let path = checkpoint_path(folder);
    let bytes = File::open(&path).and_then(|file| files::read_capped(file, MAX_NOTE as u64));
    let bytes = bytes.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Difference::new("checkpoint", "a file", "none"),
        _ => wrong(error.to_string()),
    })?;
    let checkpoint = Checkpoint::open(&bytes, key).map_err(|error| wrong(error.to_string()))?;
    Ok((Note::parse(&bytes).expect("it was read"), checkpoint))
}

/// Checks all of a log against its checkpoint. `older` are checkpoints that it must go on from, from wherever they were
/// kept; whoever passes them has checked their signatures.
pub fn verify(folder: &Path, key: &Key, older: &[Checkpoint]) -> Result<Verified, Difference> {
    let (_, signed) = checkpoint(folder, key)?;
    let tiles = Tiles::new(folder);
    let mut log = Log { tiles: &tiles, signed: &signed };
    let pruned = log.first_entries()?;
    log.check(pruned)?;
    for before in older {
        log.goes_on_from(before)?;
    }
    Ok(Verified { checkpoint: signed, pruned })
}

struct Log<'a> {
    tiles: &'a Tiles,
    signed: &'a Checkpoint,
}

impl Log<'_> {
    fn size(&self) -> u64 {
        self.signed.size
    }

    fn width(&self, level: u8, index: u64) -> u64 {
        tiles::width(level, index, self.size())
    }

    /// Where the entries begin that were not deleted: at a bundle's first.
    fn first_entries(&self) -> Result<u64, Difference> {
        let bundles = self.size().div_ceil(WIDTH);
        let there = |index| self.tiles.bundle(index, self.width(0, index));
        let Some(first) = (0..bundles).find(|index| there(*index).is_ok()) else {
            return if bundles == 0 { Ok(0) } else { there(0).map(|_| 0) };
        };
        if first == 0 {
            return Ok(0);
        }
        // It is recorded before anything goes, so what is left says so.
        for index in (first..bundles).rev() {
            let bundle = there(index)?;
            let file = || tiles::path(Kind::Entries, index, self.width(0, index));
            let entries = tiles::entries(&bundle, self.width(0, index)).map_err(|misfit| misfit.of(file()))?;
            let facts = entries.iter().rev().filter_map(|entry| Fact::parse(entry));
            let mut prunes = facts.filter(|fact| fact.action == PRUNED).filter_map(|fact| fact.target?.parse().ok());
            if prunes.any(|before: u64| first * WIDTH <= before) {
                return Ok(first * WIDTH);
            }
        }
        there(0).map(|_| 0)
    }

    /// Every entry against its tile and every tile against the one above it, from the first; then the root.
    fn check(&mut self, pruned: u64) -> Result<(), Difference> {
        let (mut edge, mut full) = (Edge::default(), Vec::new());
        for index in 0..self.size().div_ceil(WIDTH) {
            let width = self.width(0, index);
            let hashes = self.tiles.hashes(0, index, width)?;
            if index * WIDTH >= pruned {
                let bundle = self.tiles.bundle(index, width)?;
                let file = || tiles::path(Kind::Entries, index, width);
                let entries = tiles::entries(&bundle, width).map_err(|misfit| misfit.of(file()))?;
                let leaves: Vec<Hash> = entries.iter().map(|entry| tree::leaf(entry)).collect();
                if let Some(at) = (0..leaves.len()).find(|at| leaves[*at] != hashes[*at]) {
                    return Err(self.at_fault(index, at, &leaves, &hashes));
                }
            }
            hashes.iter().for_each(|hash| edge.push(*hash, &mut full));
            for made in full.drain(..).filter(|made| made.level > 0) {
                self.same(&made)?;
            }
        }
        for (level, hashes) in edge.levels().iter().enumerate().skip(1).filter(|(_, hashes)| !hashes.is_empty()) {
            let index = self.size() >> (8 * (level + 1));
            self.same(&Full { level: level as u8, index, hashes: hashes.clone() })?;
        }
        if edge.root() != self.signed.root {
            return Err(self.root_differs(&edge.root()));
        }
        Ok(())
    }

    /// A tile as it must be, by those below it.
    fn same(&self, made: &Full) -> Result<(), Difference> {
        let stored = self.tiles.hashes(made.level, made.index, made.hashes.len() as u64)?;
        let Some(at) = (0..stored.len()).find(|at| stored[*at] != made.hashes[*at]) else { return Ok(()) };
        // Either this tile is wrong, or the one below that hashes to something else.
        let below = made.index * WIDTH + at as u64;
        if self.vouched(made.level, made.index).is_some() {
            let file = tiles::path(Kind::Hashes(made.level - 1), below, WIDTH);
            let expected = format!("hashes below {}, as the signed tiles above it say", text(&stored[at]));
            return Err(Difference::new(file, expected, format!("hashes below {}", text(&made.hashes[at]))));
        }
        let file = tiles::path(Kind::Hashes(made.level), made.index, made.hashes.len() as u64);
        Err(differ(file, at, &made.hashes[at], &stored[at]))
    }

    /// An entry and its hash in the tile are not the same: which of the two files is not what was signed.
    fn at_fault(&self, index: u64, at: usize, leaves: &[Hash], hashes: &[Hash]) -> Difference {
        let width = leaves.len() as u64;
        let entries = tiles::path(Kind::Entries, index, width);
        let tile = tiles::path(Kind::Hashes(0), index, width);
        if self.vouched(0, index).is_some() {
            return differ(entries, at, &hashes[at], &leaves[at]);
        }
        if self.would_be_vouched(index, leaves) {
            return differ(tile, at, &leaves[at], &hashes[at]);
        }
        let mut neither = differ(entries, at, &hashes[at], &leaves[at]);
        neither.expected += &format!(" (by {tile}, which is not what was signed either)");
        neither
    }

    /// The tile, if the signed root vouches for it.
    fn vouched(&self, level: u8, index: u64) -> Option<Vec<Hash>> {
        let hashes = self.tiles.hashes(level, index, self.width(level, index)).ok()?;
        let vouches = if hashes.len() as u64 == WIDTH && self.width(level + 1, index / WIDTH) > 0 {
            let above = self.vouched(level + 1, index / WIDTH)?;
            above.get((index % WIDTH) as usize) == Some(&tree::fold(&hashes))
        } else {
            // At the right edge, all partial tiles together make the root.
            tree::root(&mut Stored::new(self.tiles, self.size()), 0, self.size()).ok()? == self.signed.root
        };
        vouches.then_some(hashes)
    }

    /// Whether the signed root vouches for a tile of level 0 with these hashes in the place of the one that is there.
    fn would_be_vouched(&self, index: u64, hashes: &[Hash]) -> bool {
        if hashes.len() as u64 == WIDTH {
            let above = self.vouched(1, index / WIDTH);
            return above.is_some_and(|above| above.get((index % WIDTH) as usize) == Some(&tree::fold(hashes)));
        }
        let mut stored = Stored::new(self.tiles, self.size());
        stored.put(0, index, hashes.to_vec());
        tree::root(&mut stored, 0, self.size()) == Ok(self.signed.root)
    }

    /// Entries and tiles agree, and not with what was signed.
    fn root_differs(&self, found: &Hash) -> Difference {
        let expected = format!("root {} for {} facts", text(&self.signed.root), self.size());
        Difference::new(
            "checkpoint",
            expected,
            format!("root {} in tiles and entries: both were rewritten", text(found)),
        )
    }

    fn goes_on_from(&self, before: &Checkpoint) -> Result<(), Difference> {
        let file = format!("checkpoint of {} facts", before.size);
        if before.origin != self.signed.origin {
            return Err(Difference::new(file, format!("of {}", self.signed.origin), format!("of {}", before.origin)));
        }
        if before.size > self.size() {
            let found = format!("{} facts in the log: it was cut off", self.size());
            return Err(Difference::new(file, format!("at least {} facts", before.size), found));
        }
        let mut stored = Stored::new(self.tiles, self.size());
        let root = tree::root(&mut stored, 0, before.size)?;
        if root != before.root {
            let found = format!("root {} in the log: it was rewritten", text(&root));
            return Err(Difference::new(file, format!("root {}", text(&before.root)), found));
        }
        Ok(())
    }
}

fn differ(file: String, at: usize, expected: &Hash, found: &Hash) -> Difference {
    Difference { file, entry: Some(at as u64), expected: format!("hash {}", text(expected)), found: text(found) }
}

fn text(hash: &Hash) -> String {
    Base64::encode_string(hash)
}

/// The file of facts with their proofs, and of facts alone beside a whole log.
pub const FACTS: &str = "facts.jsonl";
/// The longest line of it, in bytes: a fact, escaped once more, and 64 hashes.
const MAX_LINE: u64 = 256 << 10;

/// A line of [`FACTS`] where there is no whole log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    pub index: u64,
    /// Exactly what the log attests; without a proof, what was left of it.
    pub fact: String,
    /// Hashes, in base64. None where something was cut out of the fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Vec<String>>,
}

/// What some of a log's facts were found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedFacts {
    pub checkpoint: Checkpoint,
    /// So many stand in the log, each as it was signed.
    pub proven: u64,
    /// So many have something cut out of them, and no proof.
    pub redacted: u64,
}

/// Whether a folder holds some of a log's facts with their proofs, and not the log.
pub fn holds_proofs(folder: &Path) -> bool {
    folder.join(FACTS).is_file() && !folder.join("tile").exists()
}

/// Checks facts with proofs against the checkpoint beside them, which must be signed by this key. What stands there is proven
/// to be in the log; what does not may have been left out.
pub fn verify_facts(folder: &Path, key: &Key) -> Result<VerifiedFacts, Difference> {
    let (_, signed) = checkpoint(folder, key)?;
    let mut found = VerifiedFacts { checkpoint: signed, proven: 0, redacted: 0 };
    let file = File::open(folder.join(FACTS)).map_err(|error| Difference::new(FACTS, "a file", error.to_string()))?;
    let (mut lines, mut next) = (BufReader::new(file), 0);
    for number in 0.. {
        let wrong = |expected: &str, what: &str| Difference {
            file: FACTS.to_owned(),
            entry: Some(number),
            expected: expected.to_owned(),
            found: what.to_owned(),
        };
        let mut line = String::new();
        let read = (&mut lines).take(MAX_LINE).read_line(&mut line);
        if read.map_err(|error| wrong("a line", &error.to_string()))? == 0 {
            break;
        }
        let proven: Proven =
            serde_json::from_str(&line).map_err(|error| wrong("a fact with its proof", &error.to_string()))?;
        if proven.index < next {
            return Err(wrong("facts in the order of the log", "one that comes earlier, or again"));
        }
        let size = found.checkpoint.size;
        if proven.index >= size {
            return Err(wrong(
                &format!("a fact of the {size} that are signed"),
                &format!("one of index {}", proven.index),
            ));
        }
        next = proven.index + 1;
        let Some(proof) = proven.proof else {
            found.redacted += 1;
            continue;
        };
        let hash = |text: &String| -> Option<Hash> { Base64::decode_vec(text).ok()?.try_into().ok() };
        let hashes: Option<Vec<Hash>> = proof.iter().map(hash).collect();
        let hashes = hashes.ok_or_else(|| wrong("hashes in base64", "something else"))?;
        let (leaf, checkpoint) = (tree::leaf(proven.fact.as_bytes()), &found.checkpoint);
        if !tree::is_included(leaf, proven.index, checkpoint.size, &hashes, &checkpoint.root) {
            let expected = format!("fact {} of the log", proven.index);
            return Err(wrong(&expected, "one whose proof does not lead to the signed root"));
        }
        found.proven += 1;
    }
    Ok(found)
}

/// That a fact stands in a signed log: C2SP tlog-proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    pub index: u64,
    pub hashes: Vec<Hash>,
    /// The checkpoint, with its signatures.
    pub note: Note,
}

const PROOF: &str = "c2sp.org/tlog-proof@v1";

impl fmt::Display for Inclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{PROOF}\nindex {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", text(hash))?;
        }
        write!(f, "\n{}", self.note)
    }
}

impl Inclusion {
    /// Of one fact of a log, with the fact.
    pub fn of(folder: &Path, key: &Key, index: u64) -> Result<(Self, Vec<u8>), Difference> {
        let (note, signed) = checkpoint(folder, key)?;
        if index >= signed.size {
            let expected = format!("a log of more than {index} facts");
            return Err(Difference::new("checkpoint", expected, format!("{} facts", signed.size)));
        }
        let tiles = Tiles::new(folder);
        let hashes = tree::inclusion(&mut Stored::new(&tiles, signed.size), index, signed.size)?;
        let (bundle, width) = (index / WIDTH, tiles::width(0, index / WIDTH, signed.size));
        let bytes = tiles.bundle(bundle, width)?;
        let entries = tiles::entries(&bytes, width);
        let entries = entries.map_err(|misfit| misfit.of(tiles::path(Kind::Entries, bundle, width)))?;
        let entry = entries[(index % WIDTH) as usize].to_vec();
        let proof = Self { index, hashes, note };
        proof.check(&entry, key).map(|_| (proof, entry))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (head, note) = text.split_once("\n\n")?;
        let mut lines = head.lines();
        if lines.next() != Some(PROOF) {
            return None;
        }
        let index = lines.next()?.strip_prefix("index ")?;
        let number = index.parse::<u64>().ok().filter(|n| n.to_string() == index)?;
        let hashes = lines.map(|line| Base64::decode_vec(line).ok()?.try_into().ok()).collect::<Option<_>>()?;
        Some(Self { index: number, hashes, note: Note::parse(note.as_bytes()).ok()? })
    }

    /// Whether it proves this fact in the log of this key.
    pub fn check(&self, entry: &[u8], key: &Key) -> Result<Checkpoint, Difference> {
        let wrong = |found: String| Difference::new("proof", format!("a proof of fact {}", self.index), found);
        let signed = Checkpoint::open(self.note.to_string().as_bytes(), key).map_err(|e| wrong(e.to_string()))?;
        let included = tree::is_included(tree::leaf(entry), self.index, signed.size, &self.hashes, &signed.root);
        if included { Ok(signed) } else { Err(wrong("hashes that don't lead to the signed root".to_owned())) }
    }
}

/// The hashes that prove that the log goes on from an older checkpoint of it.
pub fn consistency(folder: &Path, key: &Key, older: &Checkpoint) -> Result<(Vec<Hash>, Checkpoint), Difference> {
    let (_, signed) = checkpoint(folder, key)?;
    let tiles = Tiles::new(folder);
    Log { tiles: &tiles, signed: &signed }.goes_on_from(older)?;
    let mut stored = Stored::new(&tiles, signed.size);
    let root = tree::root(&mut stored, 0, signed.size)?;
    let proof = tree::consistency(&mut stored, older.size, signed.size)?;
    if root == signed.root && tree::is_consistent(older.size, &older.root, signed.size, &root, &proof) {
        return Ok((proof, signed));
    }
    Err(Difference::new("tile", format!("root {}", text(&signed.root)), format!("root {}", text(&root))))
}
