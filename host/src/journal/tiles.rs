//! The layout of the log on disk: C2SP tlog-tiles.
//!
//! Owns the names of tiles and entry bundles, how a bundle holds its entries, which tiles a tree of a size has ([`Edge`]),
//! and reading them back ([`Tiles`]). A tile is 256 hashes of one height, a bundle 256 entries. What is partial now is a
//! prefix of what it will be, so a partial tile may also be read from a wider one.
//! Bounded by: one tile for each level, and one bundle. Refuses to know: signatures, what an entry means.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::tree::{self, Hash, Subtrees};
use crate::files;

/// Hashes of a full tile, entries of a full bundle.
pub const WIDTH: u64 = 256;
/// The longest entry, in bytes: what a bundle's length prefix can say.
pub const MAX_ENTRY: usize = u16::MAX as usize;
/// No bundle is longer, in bytes.
const MAX_BUNDLE: u64 = WIDTH * (2 + MAX_ENTRY as u64);

/// What a file of the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Hashes of subtrees of 256^level leaves.
    Hashes(u8),
    Entries,
}

/// A tile's or bundle's path below the log's folder. `width` is 256 for a full one.
pub fn path(kind: Kind, index: u64, width: u64) -> String {
    let mut path = match kind {
        Kind::Hashes(level) => format!("tile/{level}/"),
        Kind::Entries => "tile/entries/".to_owned(),
    };
    path += &number(index);
    if width < WIDTH {
        path += &format!(".p/{width}");
    }
    path
}

/// 1234067 is `x001/x234/067`.
pub fn number(index: u64) -> String {
    let mut text = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    text
}

/// How wide tile `index` of this level is in a tree of `size` leaves; 0 if the tree has none such.
pub fn width(level: u8, index: u64, size: u64) -> u64 {
    let hashes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
    hashes.saturating_sub(index.saturating_mul(WIDTH)).min(WIDTH)
}

/// Adds an entry to a bundle. It is at most [`MAX_ENTRY`] bytes long.
pub fn put_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    let length = u16::try_from(entry.len()).expect("entries are bounded");
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
}

/// The entries of a bundle that has `width` of them; else what is wrong with which.
pub fn entries(bundle: &[u8], width: u64) -> Result<Vec<&[u8]>, Misfit> {
    let (mut rest, mut found) = (bundle, Vec::with_capacity(width as usize));
    while (found.len() as u64) < width {
        let misfit = |wanted: usize, there: usize| Misfit {
            entry: Some(found.len() as u64),
            expected: format!("{wanted} bytes"),
            found: format!("{there} bytes before the end of the file"),
        };
        let Some((length, after)) = rest.split_first_chunk() else { return Err(misfit(2, rest.len())) };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((entry, after)) = after.split_at_checked(length) else { return Err(misfit(length, after.len())) };
        found.push(entry);
        rest = after;
    }
    if !rest.is_empty() {
        let expected = format!("the end of the file after {width} entries");
        return Err(Misfit { entry: None, expected, found: format!("{} more bytes", rest.len()) });
    }
    Ok(found)
}

/// What is wrong inside of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Counted from the file's first.
    pub entry: Option<u64>,
    pub expected: String,
    pub found: String,
}

impl Misfit {
    /// Names the file.
    pub fn of(self, file: String) -> Difference {
        Difference { file, entry: self.entry, expected: self.expected, found: self.found }
    }
}

/// Where a log is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Below the log's folder.
    pub file: String,
    /// In that file, counted from 0: the entry of a bundle, the hash of a tile.
    pub entry: Option<u64>,
    pub expected: String,
    pub found: String,
}

impl Difference {
    pub fn new(file: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { file: file.into(), entry: None, expected: expected.into(), found: found.into() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(entry) = self.entry {
            write!(f, ", entry {entry}")?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}

impl std::error::Error for Difference {}

/// The partial tiles at a tree's right edge: all that is needed to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

/// A tile that has become full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    pub level: u8,
    pub index: u64,
    pub hashes: Vec<Hash>,
}

impl Edge {
    /// None unless these are the partial tiles of a tree of this size, from the lowest level.
    pub fn from_levels(size: u64, levels: Vec<Vec<Hash>>) -> Option<Self> {
        let fits = |(level, hashes): (usize, &Vec<Hash>)| {
            hashes.len() as u64 == size.checked_shr(8 * level as u32).unwrap_or(0) % WIDTH
        };
        let covered = size.checked_shr(8 * levels.len() as u32).unwrap_or(0) == 0;
        (covered && levels.iter().enumerate().all(fits)).then_some(Self { size, levels })
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of each level's partial tile, from the lowest.
    pub fn levels(&self) -> &[Vec<Hash>] {
        &self.levels
    }

    /// Adds a leaf; the tiles that it completes go to `full`.
    pub fn push(&mut self, leaf: Hash, full: &mut Vec<Full>) {
        self.size += 1;
        let (mut hash, mut level) = (leaf, 0);
        loop {
            if level == self.levels.len() {
                self.levels.push(Vec::with_capacity(WIDTH as usize));
            }
            let hashes = &mut self.levels[level];
            hashes.push(hash);
            if (hashes.len() as u64) < WIDTH {
                return;
            }
            let hashes = std::mem::replace(hashes, Vec::with_capacity(WIDTH as usize));
            hash = tree::fold(&hashes);
            full.push(Full { level: level as u8, index: (self.size >> (8 * (level + 1))) - 1, hashes });
            level += 1;
        }
    }

    /// The root of the tree. Hashes at most 255 times for each level.
    pub fn root(&self) -> Hash {
        let mut root: Option<Hash> = None;
        for hashes in &self.levels {
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let (before, last) = rest.split_at(rest.len() & (rest.len() - 1));
                let peak = tree::fold(last);
                root = Some(root.map_or(peak, |right| tree::node(&peak, &right)));
                rest = before;
            }
        }
        root.unwrap_or_else(tree::empty)
    }
}

/// A log's folder, for reading.
#[derive(Debug, Clone)]
pub struct Tiles {
    folder: PathBuf,
}

impl Tiles {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A tile of exactly `width` hashes.
    pub fn hashes(&self, level: u8, index: u64, width: u64) -> Result<Vec<Hash>, Difference> {
        let file = path(Kind::Hashes(level), index, width);
        let bytes = self.read(Kind::Hashes(level), index, width)?;
        if bytes.len() as u64 != 32 * width {
            return Err(Difference::new(file, format!("{} bytes", 32 * width), format!("{} bytes", bytes.len())));
        }
        Ok(bytes.as_chunks().0.to_vec())
    }

    /// A bundle of `width` entries, which [`entries`] takes apart.
    pub fn bundle(&self, index: u64, width: u64) -> Result<Vec<u8>, Difference> {
        self.read(Kind::Entries, index, width)
    }

    /// The file with this name, else the beginning of a wider one.
    fn read(&self, kind: Kind, index: u64, width: u64) -> Result<Vec<u8>, Difference> {
        let file = path(kind, index, width);
        let absent = match read(&self.folder.join(&file)) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Difference::new(&file, "a file", "none"),
            Err(error) => return Err(Difference::new(file, "a file that can be read", error.to_string())),
        };
        if width == WIDTH {
            return Err(absent);
        }
        // A checkpoint's partial tile goes when the log has grown.
        let full = self.folder.join(path(kind, index, WIDTH));
        let partial = std::fs::read_dir(full.with_added_extension("p"));
        let widths = partial.into_iter().flatten().flatten();
        let wider = widths.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).filter(|w| *w > width);
        let wider = wider.min().map(|wider| self.folder.join(path(kind, index, wider)));
        for candidate in [Some(full), wider].into_iter().flatten() {
            if let Ok(bytes) = read(&candidate) {
                return prefix(kind, bytes, width).ok_or(absent);
            }
        }
        Err(absent)
    }
}

/// The first `width` hashes or entries.
fn prefix(kind: Kind, mut bytes: Vec<u8>, width: u64) -> Option<Vec<u8>> {
    let mut length = 0;
    for _ in 0..width {
        length += match kind {
            Kind::Hashes(_) => 32,
            Kind::Entries => 2 + usize::from(u16::from_be_bytes(*bytes.get(length..)?.first_chunk()?)),
        };
    }
    (length <= bytes.len()).then(|| {
        bytes.truncate(length);
        bytes
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    files::read_capped(File::open(path)?, MAX_BUNDLE)
}

/// The tree of one size, from its tiles. Remembers the tiles that it has read: a few for a proof.
pub struct Stored<'a> {
    tiles: &'a Tiles,
    size: u64,
    known: HashMap<(u8, u64), Vec<Hash>>,
}

impl<'a> Stored<'a> {
    pub fn new(tiles: &'a Tiles, size: u64) -> Self {
        Self { tiles, size, known: HashMap::new() }
    }

    /// As if a tile had these hashes.
    pub fn put(&mut self, level: u8, index: u64, hashes: Vec<Hash>) {
        self.known.insert((level, index), hashes);
    }
}

impl Subtrees for Stored<'_> {
    type Error = Difference;

    fn subtree(&mut self, height: u32, index: u64) -> Result<Hash, Difference> {
        let level = (height / 8) as u8;
        let (first, count) = (index << (height % 8), 1_u64 << (height % 8));
        let tile = first / WIDTH;
        let hashes = match self.known.entry((level, tile)) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(self.tiles.hashes(level, tile, width(level, tile, self.size))?)
            }
        };
        let from = (first % WIDTH) as usize;
        let outside = || Difference::new(path(Kind::Hashes(level), tile, WIDTH), "a hash", "the end of the tree");
        hashes.get(from..from + count as usize).map(tree::fold).ok_or_else(outside)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        assert_eq!(number(1_234_067), "x001/x234/067");
        assert_eq!(path(Kind::Hashes(3), 5, 17), "tile/3/005.p/17");
        assert_eq!(path(Kind::Entries, 1000, WIDTH), "tile/entries/x001/000");
        // The specification's example: 70,000 leaves.
        let widths = |level| [0, 1, 273].map(|index| width(level, index, 70_000));
        assert_eq!([widths(0), widths(1), widths(2)], [[256, 256, 112], [256, 17, 0], [1, 0, 0]]);
        assert_eq!([width(0, 0, 256), width(1, 0, 256), width(63, 0, u64::MAX)], [256, 1, 0]);
    }

    #[test]
    fn a_bundle_gives_back_its_entries_and_names_the_one_that_is_cut_off() {
        let mut bundle = Vec::new();
        for entry in [&b"one"[..], b"", b"three"] {
            put_entry(&mut bundle, entry);
        }
        assert_eq!(entries(&bundle, 3).unwrap(), [&b"one"[..], b"", b"three"]);
        assert_eq!(entries(&bundle[..bundle.len() - 1], 3).unwrap_err().entry, Some(2));
        assert_eq!(entries(&bundle, 4).unwrap_err().entry, Some(3));
        assert!(entries(&bundle, 2).unwrap_err().found.contains("7 more bytes"));
    }

    /// Writes the tiles of a tree as a log does.
    fn write(folder: &Path, leaves: u64) -> (Edge, Vec<Hash>) {
        let (mut edge, mut full, mut all) = (Edge::default(), Vec::new(), Vec::new());
        for n in 0..leaves {
            all.push(tree::leaf(&n.to_be_bytes()));
            edge.push(all[n as usize], &mut full);
        }
        let put = |kind, index, hashes: &[Hash]| {
            let path = folder.join(path(kind, index, hashes.len() as u64));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, hashes.as_flattened()).unwrap();
        };
        for tile in full {
            put(Kind::Hashes(tile.level), tile.index, &tile.hashes);
        }
        for (level, hashes) in edge.levels().iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()) {
            put(Kind::Hashes(level as u8), edge.size() >> (8 * (level + 1)), hashes);
        }
        (edge, all)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn proofs_from_tiles_hold_for_every_tree_that_the_log_once_was(
            size in 1u64..140_000, at in any::<u64>(), old in any::<u64>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (edge, leaves) = write(folder.path(), size);
            prop_assert_eq!(Edge::from_levels(size, edge.levels().to_vec()), Some(edge.clone()));
            prop_assert_eq!(Edge::from_levels(size + 1, edge.levels().to_vec()), None);
            let (tiles, old) = (Tiles::new(folder.path()), 1 + old % size);
            let mut before = Edge::default();
            leaves[..old as usize].iter().for_each(|leaf| before.push(*leaf, &mut Vec::new()));
            for (edge, size) in [(&edge, size), (&before, old)] {
                let mut stored = Stored::new(&tiles, size);
                prop_assert_eq!(tree::root(&mut stored, 0, size).unwrap(), edge.root());
                let index = at % size;
                let proof = tree::inclusion(&mut stored, index, size).unwrap();
                prop_assert!(tree::is_included(leaves[index as usize], index, size, &proof, &edge.root()));
            }
            let proof = tree::consistency(&mut Stored::new(&tiles, size), old, size).unwrap();
            prop_assert!(tree::is_consistent(old, &before.root(), size, &edge.root(), &proof));
        }
    }
}
