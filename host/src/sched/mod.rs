//! What runs next: fair shares of a bounded number of slots.
//!
//! Pure: no lock, no clock, no tasks. Callers are grouped in lanes (a principal, or an address before anybody has said
//! who they are). A free slot goes to whoever asks; when none is free, callers wait, and each slot that becomes free
//! goes to the next lane whose turn it is. Turns follow a deficit round robin on fuel: what a lane's calls used is
//! taken from its credit when they end, and a lane in debt waits while others catch up. So a lane that burns much fuel
//! in few calls gets no more than one that makes many small ones.
//!
//! Bounded by: slots, calls that wait, calls of one lane that run at once. A lane with nothing running or waiting costs
//! nothing.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Fuel that a turn adds to a lane's credit.
pub const QUANTUM: i64 = 10_000_000;

/// The bounds of one set of slots.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Calls that run at once.
    pub slots: usize,
    /// Calls that wait at once.
    pub waiting: usize,
    /// Calls of one lane that run at once.
    pub per_lane: usize,
}

/// Names a call that waits, to take it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What becomes of a call that asks for a slot.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived<T> {
    /// It has a slot.
    Runs(T),
    Waits(Ticket),
    /// As many wait as may.
    Refused(T),
}

pub struct Shares<K, T> {
    bounds: Bounds,
    running: usize,
    waiting: usize,
    tickets: u64,
    lanes: HashMap<K, Lane<T>>,
    /// Lanes with callers that wait and room to run them, in order.
    turns: VecDeque<K>,
}

struct Lane<T> {
    waiting: VecDeque<(Ticket, T)>,
    running: usize,
    credit: i64,
    queued: bool,
}

impl<K: Clone + Eq + Hash, T> Shares<K, T> {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, running: 0, waiting: 0, tickets: 0, lanes: HashMap::new(), turns: VecDeque::new() }
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// A call of `key` asks for a slot.
    pub fn arrive(&mut self, key: &K, call: T) -> Arrived<T> {
        let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            running: 0,
            credit: 0,
            queued: false,
        });
        // Whoever waits with room in its lane waits for a slot, so a free slot means that nobody is passed over.
        if self.running < self.bounds.slots && lane.running < self.bounds.per_lane && lane.waiting.is_empty() {
            lane.running += 1;
            self.running += 1;
            return Arrived::Runs(call);
        }
        if self.waiting >= self.bounds.waiting {
            self.forget_if_idle(key);
            return Arrived::Refused(call);
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        lane.waiting.push_back((ticket, call));
        self.waiting += 1;
        self.queue(key);
        Arrived::Waits(ticket)
    }

    /// A call that ran has ended, having used `fuel`. Whoever gets its slot comes back.
    pub fn leave(&mut self, key: &K, fuel: u64) -> Option<(K, T)> {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.running -= 1;
            lane.credit = lane.credit.saturating_sub_unsigned(fuel);
            self.running -= 1;
        }
        self.queue(key);
        let next = self.next();
        self.forget_if_idle(key);
        next
    }

    /// A call that waits gives up. False: it does not wait (any more).
    pub fn cancel(&mut self, key: &K, ticket: Ticket) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        let before = lane.waiting.len();
        lane.waiting.retain(|(t, _)| *t != ticket);
        let gone = before - lane.waiting.len();
        self.waiting -= gone;
        if lane.waiting.is_empty() && lane.queued {
            lane.queued = false;
            self.turns.retain(|k| k != key);
        }
        self.forget_if_idle(key);
        gone > 0
    }

    /// Gives a free slot to the lane whose turn it is.
    fn next(&mut self) -> Option<(K, T)> {
        if self.running >= self.bounds.slots || self.turns.is_empty() {
            return None;
        }
        self.pay_off();
        // After paying off, a lane out of debt is at most one round away.
        for _ in 0..self.turns.len() {
            let key = self.turns.pop_front()?;
            let lane = self.lanes.get_mut(&key).expect("a lane with a turn exists");
            if lane.credit < 0 {
                self.turns.push_back(key);
                continue;
            }
            let (_, call) = lane.waiting.pop_front().expect("a lane with a turn has callers that wait");
            lane.queued = false;
            lane.running += 1;
            self.running += 1;
            self.waiting -= 1;
            self.queue(&key);
            return Some((key, call));
        }
        None
    }

    /// The rounds in which no lane could run, all at once: each gives every lane a quantum. Credit does not pile up:
    /// there are no more rounds than the lane with the least debt needs, so it is left with less than a quantum, and
    /// no other with more.
    fn pay_off(&mut self) {
        let debt = |lane: &Lane<T>| lane.credit.saturating_neg().max(0);
        let least = self.turns.iter().map(|k| debt(&self.lanes[k])).min().unwrap_or(0);
        if least == 0 {
            return;
        }
        let rounds = least.unsigned_abs().div_ceil(QUANTUM.unsigned_abs());
        let paid = i64::try_from(rounds).unwrap_or(i64::MAX).saturating_mul(QUANTUM);
        for key in &self.turns {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.credit = lane.credit.saturating_add(paid);
            }
        }
    }

    /// Puts the lane in line if it has callers that wait and room to run one.
    fn queue(&mut self, key: &K) {
        if let Some(lane) = self.lanes.get_mut(key)
            && !lane.queued
            && !lane.waiting.is_empty()
            && lane.running < self.bounds.per_lane
        {
            lane.queued = true;
            self.turns.push_back(key.clone());
        }
    }

    fn forget_if_idle(&mut self, key: &K) {
        if self.lanes.get(key).is_some_and(|lane| lane.running == 0 && lane.waiting.is_empty()) {
            self.lanes.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn shares(slots: usize, waiting: usize, per_lane: usize) -> Shares<u32, u32> {
        Shares::new(Bounds { slots, waiting, per_lane })
    }

    #[test]
    fn a_free_slot_goes_to_whoever_asks_and_the_waiting_are_bounded() {
        let mut shares = shares(1, 1, 8);
        assert_eq!(shares.arrive(&1, 10), Arrived::Runs(10));
        assert!(matches!(shares.arrive(&2, 20), Arrived::Waits(_)));
        assert_eq!(shares.arrive(&3, 30), Arrived::Refused(30));
        assert_eq!(shares.leave(&1, 5), Some((2, 20)));
        assert_eq!(shares.leave(&2, 5), None);
        assert_eq!((shares.lanes.len(), shares.turns.len()), (0, 0));
    }

    #[test]
    fn a_lane_never_runs_more_than_its_bound_and_leaves_the_rest_to_others() {
        let mut shares = shares(4, 100, 2);
        assert!(matches!(shares.arrive(&1, 1), Arrived::Runs(_)));
        assert!(matches!(shares.arrive(&1, 2), Arrived::Runs(_)));
        assert!(matches!(shares.arrive(&1, 3), Arrived::Waits(_)));
        assert!(matches!(shares.arrive(&2, 4), Arrived::Runs(_)));
        assert_eq!(shares.leave(&1, 0), Some((1, 3)));
    }

    #[test]
    fn equal_fuel_is_equal_share_however_it_is_cut() {
        // One lane makes calls of 100 million, the other of one million; both always have callers that wait.
        let mut shares = shares(1, 10_000, 8);
        let cost = |key: u32| if key == 1 { 100_000_000 } else { 1_000_000 };
        assert!(matches!(shares.arrive(&1, 0), Arrived::Runs(_)));
        for _ in 0..20 {
            shares.arrive(&1, 0);
        }
        for _ in 0..2_000 {
            shares.arrive(&2, 0);
        }
        let mut used: BTreeMap<u32, u64> = BTreeMap::new();
        let mut running = 1;
        for _ in 0..1_000 {
            *used.entry(running).or_default() += cost(running);
            running = shares.leave(&running, cost(running)).unwrap().0;
        }
        let ratio = used[&1] as f64 / used[&2] as f64;
        assert!((0.8..1.25).contains(&ratio), "{used:?}");
    }

    #[test]
    fn a_light_lane_is_served_while_a_heavy_one_floods() {
        let mut shares = shares(1, 10_000, 64);
        shares.arrive(&1, 0);
        for _ in 0..1_000 {
            shares.arrive(&1, 0);
        }
        shares.arrive(&2, 0);
        let first = shares.leave(&1, 1_000_000_000).unwrap().0;
        assert_eq!(first, 2);
    }

    #[test]
    fn who_gives_up_is_not_served_and_leaves_nothing_behind() {
        let mut shares = shares(1, 10, 8);
        shares.arrive(&1, 0);
        let Arrived::Waits(ticket) = shares.arrive(&2, 0) else { panic!("no slot was free") };
        assert!(shares.cancel(&2, ticket));
        assert!(!shares.cancel(&2, ticket));
        assert_eq!(shares.leave(&1, 1), None);
        assert_eq!((shares.waiting(), shares.running(), shares.lanes.len()), (0, 0, 0));
    }

    proptest! {
        /// Against a list of calls: bounds hold, a slot is never idle while somebody may have it, and everybody who
        /// waits is served in the order of its lane.
        #[test]
        fn no_slot_idles_while_somebody_may_have_it_and_bounds_hold(
            steps in prop::collection::vec((0u32..4, 0u8..10, 0u64..50_000_000), 1..300)
        ) {
            let bounds = Bounds { slots: 3, waiting: 12, per_lane: 2 };
            let mut shares: Shares<u32, u32> = Shares::new(bounds);
            let mut running: Vec<u32> = Vec::new();
            let mut waiting: BTreeMap<u32, VecDeque<(Ticket, u32)>> = BTreeMap::new();
            for (serial, (key, action, fuel)) in steps.into_iter().enumerate() {
                let serial = serial as u32;
                if action < 6 {
                    match shares.arrive(&key, serial) {
                        Arrived::Runs(_) => running.push(key),
                        Arrived::Waits(ticket) => waiting.entry(key).or_default().push_back((ticket, serial)),
                        Arrived::Refused(_) => {
                            prop_assert_eq!(waiting.values().map(VecDeque::len).sum::<usize>(), bounds.waiting);
                        }
                    }
                } else if action < 9 && !running.is_empty() {
                    let key = running.remove(fuel as usize % running.len());
                    if let Some((next, served)) = shares.leave(&key, fuel) {
                        prop_assert_eq!(waiting.get_mut(&next).unwrap().pop_front().unwrap().1, served);
                        running.push(next);
                    }
                } else if let Some((ticket, _)) = waiting.get(&key).and_then(|w| w.back()).copied() {
                    prop_assert!(shares.cancel(&key, ticket));
                    waiting.get_mut(&key).unwrap().pop_back();
                }
                prop_assert_eq!(shares.running(), running.len());
                prop_assert!(running.len() <= bounds.slots);
                let of = |key: u32| running.iter().filter(|k| **k == key).count();
                let servable = waiting.iter().any(|(k, w)| !w.is_empty() && of(*k) < bounds.per_lane);
                prop_assert!((0..4).all(|k| of(k) <= bounds.per_lane));
                prop_assert!(!servable || running.len() == bounds.slots, "a slot idles");
            }
        }
    }
}
