//! The publications for one capsule: `bus::fair::FairQueue` beside a plain list for each principal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use astrid_host::bus::fair::{FairQueue, Pushed};

use crate::world::Publication;

pub(crate) struct Inbox {
    queue: FairQueue<usize, Publication>,
    budget: usize,
    /// Publications in hand at once, at most.
    workers: usize,
    lines: BTreeMap<usize, VecDeque<Publication>>,
    /// Principals with a publication in hand.
    out: BTreeSet<usize>,
    /// The newest that came out, for each principal.
    newest: BTreeMap<usize, u64>,
    pub(crate) fates: Fates,
}

/// What became of the publications that were sent here: each is counted once in the end.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Fates {
    pub(crate) sent: u64,
    /// Told to the sender.
    pub(crate) refused: u64,
    pub(crate) evicted: u64,
    /// Its handler's call was refused.
    pub(crate) overloaded: u64,
    /// A handler had it, whatever came of that.
    pub(crate) handled: u64,
}

impl Inbox {
    pub(crate) fn new(budget: usize, workers: usize) -> Self {
        Self {
            queue: FairQueue::new(budget),
            budget,
            workers,
            lines: BTreeMap::new(),
            out: BTreeSet::new(),
            newest: BTreeMap::new(),
            fates: Fates::default(),
        }
    }

    pub(crate) fn push(&mut self, publication: Publication) {
        let Publication { principal, size, .. } = publication;
        self.fates.sent += 1;
        let own = self.held(principal) + size;
        match self.queue.push(principal, size, publication) {
            Pushed::Queued => {}
            Pushed::Evicted(gone) => {
                for one in gone {
                    let heaviest = self.lines.keys().map(|p| self.held(*p)).max().unwrap_or_default();
                    let held = self.held(one.principal);
                    assert_eq!(held, heaviest, "another held more than the principal that paid");
                    assert!(held > own, "a principal that held less than the newcomer paid");
                    let newest = self.lines.get_mut(&one.principal).and_then(VecDeque::pop_back);
                    assert_eq!(newest, Some(one), "what was evicted was not the newest");
                    self.fates.evicted += 1;
                }
            }
            Pushed::Refused(back) => {
                assert_eq!(back, publication, "another was refused");
                assert!(self.bytes() + size > self.budget, "refused though there is room");
                self.fates.refused += 1;
                return;
            }
        }
        self.lines.entry(principal).or_default().push_back(publication);
    }

    /// The next publication, if somebody is free to take it. It must be released.
    pub(crate) fn pop(&mut self) -> Option<Publication> {
        if self.out.len() >= self.workers {
            return None;
        }
        let (principal, next) = self.queue.pop()?;
        assert!(self.out.insert(principal), "two publications of one principal in hand");
        let first = self.lines.get_mut(&principal).and_then(VecDeque::pop_front);
        assert_eq!(first, Some(next), "out of its principal's order");
        let before = self.newest.insert(principal, next.serial);
        assert!(before.is_none_or(|before| before < next.serial), "an older or the same publication again");
        Some(next)
    }

    pub(crate) fn release(&mut self, principal: usize) {
        assert!(self.out.remove(&principal), "nothing of that principal was in hand");
        self.queue.release(&principal);
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.queue.bytes(), self.bytes(), "bytes were lost or doubled");
        assert!(self.queue.bytes() <= self.budget || self.queue.len() == 1, "over the budget");
        assert_eq!(self.queue.len(), self.lines.values().map(VecDeque::len).sum::<usize>(), "items lost or doubled");
        let takeable = self.lines.iter().any(|(principal, line)| !line.is_empty() && !self.out.contains(principal));
        assert!(!takeable || self.out.len() >= self.workers, "a publication waits beside a free worker");
    }

    pub(crate) fn check_empty(&self) {
        assert!(self.queue.is_empty() && self.out.is_empty(), "publications are left");
        let Fates { sent, refused, evicted, overloaded, handled } = self.fates;
        assert_eq!(sent, refused + evicted + overloaded + handled, "a publication without an end: {:?}", self.fates);
    }

    fn held(&self, principal: usize) -> usize {
        self.lines.get(&principal).map_or(0, |line| line.iter().map(|one| one.size).sum())
    }

    fn bytes(&self) -> usize {
        self.lines.keys().map(|principal| self.held(*principal)).sum()
    }
}
