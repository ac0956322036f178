//! A subscription and whoever reads it: `bus::mailbox::Mailbox` beside a count for each principal of what was sent, what
//! was read and what was told as lost.

use std::collections::{BTreeMap, BTreeSet};

use astrid_capsule::manifest::Delivery;
use astrid_host::bus::mailbox::{Mail, Mailbox, Posted};

use crate::world::CallId;

/// Who waits for room: a call, or a client that publishes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Call(CallId),
    Client(usize),
}

/// What was sent to this subscription, as the reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Letter {
    topic: usize,
    /// Counts the principal's letters to this subscription, from 0.
    number: u64,
}

pub(crate) struct Reader {
    delivery: Delivery,
    budget: usize,
    mailbox: Mailbox<usize, Letter, Holder>,
    holders: BTreeSet<Holder>,
    /// Of each principal.
    sent: BTreeMap<usize, u64>,
    /// Of each principal: read, replaced by a newer one, or told as lost.
    accounted: BTreeMap<usize, u64>,
    stalled: bool,
    pub(crate) fates: Fates,
}

/// What became of letters.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Fates {
    pub(crate) read: u64,
    pub(crate) lost: u64,
    pub(crate) replaced: u64,
    /// Publishers that were held up.
    pub(crate) held: u64,
    /// Holders that went on because the reader had stalled.
    pub(crate) stalled: u64,
}

impl Reader {
    pub(crate) fn new(delivery: Delivery, budget: usize) -> Self {
        Self {
            delivery,
            budget,
            mailbox: Mailbox::new(delivery, budget),
            holders: BTreeSet::new(),
            sent: BTreeMap::new(),
            accounted: BTreeMap::new(),
            stalled: false,
            fates: Fates::default(),
        }
    }

    /// Whether `holder` is to wait.
    pub(crate) fn post(&mut self, principal: usize, topic: usize, size: usize, holder: Holder) -> bool {
        let number = self.sent.entry(principal).or_default();
        let letter = Letter { topic, number: *number };
        *number += 1;
        let full = self.mailbox.bytes() + size > self.budget;
        let before = self.mailbox.len();
        match self.mailbox.post(principal, size, letter, |other| other.topic == topic, holder) {
            Posted::Taken => {
                if self.mailbox.len() == before {
                    assert_eq!(self.delivery, Delivery::Latest, "only there is anything replaced");
                    *self.accounted.entry(principal).or_default() += 1;
                    self.fates.replaced += 1;
                }
                false
            }
            Posted::Full => {
                assert!(full && self.delivery == Delivery::Lossless && !self.stalled, "held up for nothing");
                self.holders.insert(holder);
                self.fates.held += 1;
                true
            }
            Posted::Evicted(_) => {
                assert!(full && self.delivery != Delivery::Lossless, "a loss that nothing excuses");
                false
            }
            Posted::Refused(_) => {
                assert!(full && (self.delivery != Delivery::Lossless || self.stalled), "a loss that nothing excuses");
                false
            }
        }
    }

    /// The reader takes one thing; the answer is who waits no more, or none if there was nothing.
    pub(crate) fn take(&mut self) -> Option<Vec<Holder>> {
        let (mail, done) = self.mailbox.take();
        self.stalled = false;
        self.let_go(&done);
        match mail? {
            Mail::Letter(principal, letter) => {
                let accounted = self.accounted.entry(principal).or_default();
                if self.delivery == Delivery::Latest {
                    assert!(letter.number < self.sent[&principal], "a letter that nobody sent");
                } else {
                    assert_eq!(letter.number, *accounted, "out of order, doubled, or lost without a word");
                }
                *accounted += 1;
                self.fates.read += 1;
            }
            Mail::Gap(principal, lost) => {
                *self.accounted.entry(principal).or_default() += lost;
                self.fates.lost += lost;
            }
        }
        Some(done)
    }

    /// Nobody has read for too long.
    pub(crate) fn stall(&mut self) -> Vec<Holder> {
        let done = self.mailbox.stall();
        self.stalled = true;
        self.fates.stalled += done.len() as u64;
        self.let_go(&done);
        assert!(self.holders.is_empty(), "somebody waits for one that has stalled");
        done
    }

    /// Whoever waited is gone; what it brought stays.
    pub(crate) fn forget(&mut self, holder: Holder) {
        self.holders.remove(&holder);
    }

    pub(crate) fn holds(&self, holder: Holder) -> bool {
        self.holders.contains(&holder)
    }

    fn let_go(&mut self, done: &[Holder]) {
        for holder in done {
            self.holders.remove(holder);
        }
    }

    pub(crate) fn check(&self) {
        if self.delivery != Delivery::Lossless {
            assert!(self.mailbox.bytes() <= self.budget, "over the budget");
        }
        assert!(self.holders.is_empty() || self.mailbox.bytes() > self.budget, "held up beside free room");
    }

    pub(crate) fn check_empty(&self) {
        assert!(self.mailbox.is_empty() && self.holders.is_empty(), "letters are left");
        assert_eq!(self.sent, self.accounted, "a letter without an end");
        if self.delivery == Delivery::Lossless && self.fates.stalled == 0 {
            assert_eq!(self.fates.lost, 0, "a lossless one lost something");
        }
    }
}
