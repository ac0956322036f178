//! Reading the log: pages of facts, newest first, and what is needed to check them.
//!
//! A cursor is an index, so a page stays what it is while the log grows. Summaries say which bundles are not worth
//! reading. Bounded by [`MAX_PAGE`] facts and [`PAGE_BYTES`] for a page, and by what is looked through for one: a page may
//! be short, or empty, and still have a next. May wait for the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::fact::Head;
use super::summary::{self, Filter, Summary};
use super::tiles::{self, Difference, Kind, Stored, WIDTH};
use super::tree::{self, Hash};
use super::{Journal, Recorded, View, summary_place};

/// Facts of a page.
pub const MAX_PAGE: usize = 1000;
/// Bytes of a page's facts; the last one may exceed it.
const PAGE_BYTES: usize = 1 << 20;
/// Bundles that are read for one page.
const PAGE_BUNDLES: u64 = 256;
/// Bundles whose summaries are looked at for one page: four million facts.
const PAGE_SUMMARIES: u64 = 16_384;

/// Some of the facts that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Newest first, or oldest first where that was asked for.
    pub facts: Vec<Arc<Recorded>>,
    /// From where to go on; none at the end.
    pub next: Option<u64>,
}

/// Why the log could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A file is missing or damaged.
    #[error("{0}")]
    Damaged(Difference),
    /// There is nothing of this name in the log.
    #[error("the log has no such tile")]
    NotFound,
}

impl From<Difference> for ReadError {
    fn from(difference: Difference) -> Self {
        ReadError::Damaged(difference)
    }
}

impl Journal {
    /// How many facts there are.
    pub fn size(&self) -> u64 {
        self.view(|view| view.size)
    }

    /// The last checkpoint, a signed note; empty before the first.
    pub fn checkpoint(&self) -> Arc<str> {
        self.view(|view| view.checkpoint.clone())
    }

    /// How many facts the last checkpoint covers.
    pub(super) fn signed(&self) -> u64 {
        self.view(|view| view.signed)
    }

    /// The facts before index `before` (none: all) that fit, newest first.
    pub fn page(&self, filter: &Filter, before: Option<u64>, limit: usize) -> Result<Page, ReadError> {
        let (size, last) = self.view(|view| (view.size, view.last.clone()));
        let (mut page, mut at) = (Collector::new(filter, limit), before.unwrap_or(size).min(size));
        let whole = size - last.len() as u64;
        if at > whole && page.take(last[..(at - whole) as usize].iter().rev().cloned()) {
            return Ok(page.end());
        }
        at = at.min(whole);
        let (mut summaries, mut read, mut seen) = (Summaries::default(), 0, 0);
        while at > self.first() {
            let bundle = (at - 1) / WIDTH;
            if read == PAGE_BUNDLES || seen == PAGE_SUMMARIES {
                page.page.next = Some(at);
                return Ok(page.page);
            }
            seen += 1;
            if summaries.of(self, bundle).is_none_or(|summary| summary.may_fit(filter)) {
                read += 1;
                let bytes = match self.tiles.bundle(bundle, WIDTH) {
                    // It was pruned meanwhile.
                    Err(_) if bundle * WIDTH < self.first() => break,
                    read => read?,
                };
                let entries = entries(&bytes, bundle)?;
                let first = bundle * WIDTH;
                let numbered = entries[..(at - first) as usize].iter().enumerate().rev();
                if page.take_raw(numbered.map(|(n, entry)| (first + n as u64, *entry))) {
                    return Ok(page.end());
                }
            }
            at = bundle * WIDTH;
        }
        Ok(page.page)
    }

    /// All facts from index `first`, oldest first, for whoever carries the log elsewhere.
    pub fn entries(&self, first: u64, limit: usize) -> Result<Page, ReadError> {
        let (size, last) = self.view(|view| (view.size, view.last.clone()));
        let filter = Filter::default();
        let (mut page, mut at) = (Collector::new(&filter, limit), first.max(self.first()).min(size));
        let whole = size - last.len() as u64;
        while at < whole {
            let bundle = at / WIDTH;
            let bytes = self.tiles.bundle(bundle, WIDTH)?;
            let entries = entries(&bytes, bundle)?;
            let from = bundle * WIDTH;
            let numbered = entries.iter().enumerate().skip((at - from) as usize);
            if page.take_raw(numbered.map(|(n, entry)| (from + n as u64, *entry))) {
                break;
            }
            at = from + WIDTH;
        }
        if !page.full() {
            page.take(last.into_iter().skip((at - whole) as usize));
        }
        let after = page.page.facts.last().map_or(first, |fact| fact.index + 1);
        page.page.next = (after < size).then_some(after);
        Ok(page.page)
    }

    /// A tile or a bundle, `width` wide (1 to 256), of the log as its last checkpoint has it. Narrower ones than there are
    /// can be had too: their trees were real once.
    pub fn tile(&self, kind: Kind, index: u64, width: u64) -> Result<Vec<u8>, ReadError> {
        let size = self.view(|view| view.signed);
        let level = match kind {
            Kind::Hashes(level) => level,
            Kind::Entries => 0,
        };
        if width == 0 || width > tiles::width(level, index, size) {
            return Err(ReadError::NotFound);
        }
        match kind {
            Kind::Hashes(level) => Ok(self.tiles.hashes(level, index, width)?.as_flattened().to_vec()),
            Kind::Entries => Ok(self.tiles.bundle(index, width)?),
        }
    }

    /// What proves that entry `index` stands in the tree of the first `size` facts, which a checkpoint has signed.
    pub fn prove(&self, index: u64, size: u64) -> Result<Vec<Hash>, ReadError> {
        if index >= size || size > self.signed() {
            return Err(ReadError::NotFound);
        }
        Ok(tree::inclusion(&mut Stored::new(&self.tiles, size), index, size)?)
    }

    fn view<R>(&self, with: impl FnOnce(&View) -> R) -> R {
        with(&self.shared.view.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The entries of a whole bundle.
fn entries(bytes: &[u8], bundle: u64) -> Result<Vec<&[u8]>, Difference> {
    tiles::entries(bytes, WIDTH).map_err(|misfit| misfit.of(tiles::path(Kind::Entries, bundle, WIDTH)))
}

/// A page that grows.
struct Collector<'f> {
    filter: &'f Filter,
    limit: usize,
    bytes: usize,
    page: Page,
}

impl<'f> Collector<'f> {
    fn new(filter: &'f Filter, limit: usize) -> Self {
        Self { filter, limit: limit.clamp(1, MAX_PAGE), bytes: 0, page: Page::default() }
    }

    fn full(&self) -> bool {
        self.page.facts.len() >= self.limit || self.bytes >= PAGE_BYTES
    }

    /// Whether the page is full now.
    fn take(&mut self, facts: impl Iterator<Item = Arc<Recorded>>) -> bool {
        for fact in facts {
            if self.fits(&fact.bytes) {
                self.bytes += fact.bytes.len();
                self.page.facts.push(fact);
            }
            if self.full() {
                return true;
            }
        }
        false
    }

    fn take_raw<'b>(&mut self, facts: impl Iterator<Item = (u64, &'b [u8])>) -> bool {
        for (index, bytes) in facts {
            if self.fits(bytes) {
                self.bytes += bytes.len();
                self.page.facts.push(Arc::new(Recorded { index, bytes: bytes.into() }));
            }
            if self.full() {
                return true;
            }
        }
        false
    }

    fn fits(&self, bytes: &[u8]) -> bool {
        *self.filter == Filter::default() || Head::parse(bytes).is_some_and(|head| self.filter.fits(&head))
    }

    /// A full page, newest first.
    fn end(mut self) -> Page {
        self.page.next = self.page.facts.last().map(|fact| fact.index).filter(|index| *index > 0);
        self.page
    }
}

/// Summaries of 256 bundles at a time.
#[derive(Default)]
struct Summaries {
    file: Option<PathBuf>,
    bytes: Vec<u8>,
}

impl Summaries {
    /// None where there is no such summary.
    fn of(&mut self, journal: &Journal, bundle: u64) -> Option<Summary> {
        let (file, at) = summary_place(journal.tiles.folder(), bundle);
        if self.file.as_ref() != Some(&file) {
            self.bytes = read_some(&file).unwrap_or_default();
            self.file = Some(file);
        }
        let at = usize::try_from(at).ok()?;
        Summary::parse(self.bytes.get(at..at + summary::BYTES)?)
    }
}

/// As much of a file as 256 summaries take.
fn read_some(path: &std::path::Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len().min(WIDTH * summary::BYTES as u64);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
