//! A set of slots: `sched::Shares` beside the plain lists that it must agree with.

use std::collections::{BTreeMap, VecDeque};

use astrid_host::sched::{Arrived, Bounds, Shares, Ticket};

use crate::world::CallId;

/// As in the host's pool: whose share, and whether it is that of its deeper calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    Principal(usize),
    Deeper(usize),
    Address(usize),
}

pub(crate) enum Admission {
    Runs,
    Waits(Ticket),
    Refused,
}

pub(crate) struct Gate {
    shares: Shares<Lane, CallId>,
    bounds: Bounds,
    lanes: BTreeMap<Lane, Line>,
}

struct Line {
    most: usize,
    running: usize,
    waiting: VecDeque<(Ticket, CallId)>,
}

impl Gate {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { shares: Shares::new(bounds), bounds, lanes: BTreeMap::new() }
    }

    /// `most` is the same for all calls of a lane: of a bound that changes the unit tests of `sched` speak.
    pub(crate) fn arrive(&mut self, lane: Lane, call: CallId, most: usize) -> Admission {
        let (running, waiting) = self.counts();
        let line = self.lanes.entry(lane).or_insert(Line { most, running: 0, waiting: VecDeque::new() });
        match self.shares.arrive(&lane, call, most) {
            Arrived::Runs(who) => {
                assert_eq!(who, call, "somebody else runs");
                line.running += 1;
                Admission::Runs
            }
            Arrived::Waits(ticket) => {
                line.waiting.push_back((ticket, call));
                Admission::Waits(ticket)
            }
            Arrived::Refused(who) => {
                assert_eq!(who, call, "somebody else is refused");
                assert_eq!(waiting, self.bounds.waiting, "refused though there is room to wait");
                assert!(running >= self.bounds.slots || line.running >= line.most, "refused beside a free slot");
                Admission::Refused
            }
        }
    }

    /// Who gets the slot.
    pub(crate) fn leave(&mut self, lane: Lane, fuel: u64) -> Option<CallId> {
        self.line(lane).running -= 1;
        let (next, call) = self.shares.leave(&lane, fuel)?;
        let line = self.line(next);
        let first = line.waiting.pop_front().map(|(_, first)| first);
        assert_eq!(first, Some(call), "out of its lane's order");
        line.running += 1;
        Some(call)
    }

    pub(crate) fn cancel(&mut self, lane: Lane, ticket: Ticket) {
        let line = self.line(lane);
        let before = line.waiting.len();
        line.waiting.retain(|(waiting, _)| *waiting != ticket);
        assert_eq!(before, line.waiting.len() + 1, "the world and its gates disagree about who waits");
        assert!(self.shares.cancel(&lane, ticket), "a call that waits could not give up");
    }

    pub(crate) fn check(&self) {
        let (running, waiting) = self.counts();
        assert_eq!((self.shares.running(), self.shares.waiting()), (running, waiting), "calls were lost or doubled");
        assert!(running <= self.bounds.slots, "{running} calls on {} slots", self.bounds.slots);
        assert!(waiting <= self.bounds.waiting, "{waiting} calls wait");
        for (lane, line) in &self.lanes {
            assert!(line.running <= line.most, "{lane:?} runs {} of {} calls", line.running, line.most);
            let servable = !line.waiting.is_empty() && line.running < line.most;
            assert!(!servable || running == self.bounds.slots, "a slot idles while {lane:?} waits");
        }
    }

    pub(crate) fn check_empty(&self) {
        assert_eq!((self.shares.running(), self.shares.waiting()), (0, 0), "slots or callers are left");
    }

    fn counts(&self) -> (usize, usize) {
        self.lanes.values().fold((0, 0), |(r, w), line| (r + line.running, w + line.waiting.len()))
    }

    fn line(&mut self, lane: Lane) -> &mut Line {
        self.lanes.get_mut(&lane).expect("somebody arrived there")
    }
}
