//! What runs next: fair shares of a bounded number of slots.
//!
//! Pure: no lock, no clock, no tasks. Callers are grouped in lanes (a principal, or an address before anybody has said
//! who they are). A free slot goes to whoever asks; when none is free, callers wait, and each slot that becomes free
//! goes to the lane that has used least: start-time fair queueing (Goyal, Vin and Cheng, 1996) with fuel as the cost.
//! A lane carries a tag in virtual time, which the fuel of its calls moves on when they end; the lane with the lowest
//! tag is next, and its tag is the virtual time then. So a lane that burns much fuel in few calls gets no more than one
//! that makes many small ones. A lane that idles saves nothing up, and keeps its debt for as long as others wait. One
//! with callers that wait can fall behind the virtual time while it is at its bound and others pass it; it catches up
//! later, by [`MAX_OWED`] at most.
//!
//! Bounded by: slots, calls that wait, calls of one lane that run at once (a bound that each arrival brings: the
//! latest holds, and a raised one counts as soon as nobody of the lane waits), [`MAX_DEBTORS`]. While nobody waits, a
//! lane with nothing running costs nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

/// Idle lanes whose debt is remembered; when there are more, all are forgiven.
pub const MAX_DEBTORS: usize = 10_000;

/// How far a lane with callers that wait may be behind the virtual time, in fuel: so nobody who was at its bound for long
/// pushes the others aside for longer than that.
pub const MAX_OWED: u64 = 1_000_000_000;

/// The bounds of one set of slots.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Calls that run at once.
    pub slots: usize,
    /// Calls that wait at once.
    pub waiting: usize,
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
    /// Names tickets, and breaks ties between turns in the order in which they came.
    serial: u64,
    /// The tag of the lane that was served last: fuel.
    now: u64,
    lanes: HashMap<K, Lane<T>>,
    /// Lanes that idle and are in debt.
    debtors: usize,
    /// Lanes with callers that wait and room to run one, by tag.
    turns: BTreeMap<(u64, u64), K>,
}

struct Lane<T> {
    waiting: VecDeque<(Ticket, T)>,
    running: usize,
    /// Calls of it that run at once.
    most: usize,
    tag: u64,
    /// Its place in `turns`.
    turn: Option<(u64, u64)>,
}

impl<K: Clone + Eq + Hash, T> Shares<K, T> {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            running: 0,
            waiting: 0,
            serial: 0,
            now: 0,
            lanes: HashMap::new(),
            debtors: 0,
            turns: BTreeMap::new(),
        }
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// A call of `key`, of whose calls at most `most` run at once, asks for a slot.
    pub fn arrive(&mut self, key: &K, call: T, most: usize) -> Arrived<T> {
        let fresh = || Lane { waiting: VecDeque::new(), running: 0, most, tag: self.now, turn: None };
        let lane = self.lanes.entry(key.clone()).or_insert_with(fresh);
        lane.most = most;
        let back = lane.is_idle() && lane.tag > self.now;
        self.debtors -= usize::from(back);
        // Whoever waits with room in its lane waits for a slot, so a free slot means that nobody is passed over.
        if self.running < self.bounds.slots && lane.running < lane.most && lane.waiting.is_empty() {
            lane.running += 1;
            self.running += 1;
            return Arrived::Runs(call);
        }
        if self.waiting >= self.bounds.waiting {
            self.forget_if_idle(key);
            return Arrived::Refused(call);
        }
        self.serial += 1;
        let ticket = Ticket(self.serial);
        lane.waiting.push_back((ticket, call));
        self.waiting += 1;
        self.queue(key);
        Arrived::Waits(ticket)
    }

    /// A call that ran has ended, having used `fuel`. Whoever gets its slot comes back.
    pub fn leave(&mut self, key: &K, fuel: u64) -> Option<(K, T)> {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.running -= 1;
            // Others may have been served before it because it was at its bound; it keeps some of that.
            let owed = if lane.waiting.is_empty() { 0 } else { MAX_OWED };
            lane.tag = lane.tag.max(self.now.saturating_sub(owed)).saturating_add(fuel);
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
        self.queue(key);
        self.forget_if_idle(key);
        gone > 0
    }

    /// Gives a free slot to the lane whose turn it is.
    fn next(&mut self) -> Option<(K, T)> {
        if self.running >= self.bounds.slots {
            return None;
        }
        let ((tag, _), key) = self.turns.pop_first()?;
        let lane = self.lanes.get_mut(&key).expect("a lane with a turn exists");
        let (_, call) = lane.waiting.pop_front().expect("a lane with a turn has callers that wait");
        lane.turn = None;
        lane.running += 1;
        self.running += 1;
        self.waiting -= 1;
        self.now = self.now.max(tag);
        self.queue(&key);
        Some((key, call))
    }

    /// Puts the lane where it belongs among the turns: by its tag if it has callers that wait and room to run one, else
    /// nowhere.
    fn queue(&mut self, key: &K) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let wants = !lane.waiting.is_empty() && lane.running < lane.most;
        match lane.turn {
            Some((tag, _)) if wants && tag == lane.tag => return,
            Some(turn) => {
                self.turns.remove(&turn);
            }
            None => {}
        }
        lane.turn = wants.then(|| {
            self.serial += 1;
            (lane.tag, self.serial)
        });
        if let Some(turn) = lane.turn {
            self.turns.insert(turn, key.clone());
        }
    }

    fn forget_if_idle(&mut self, key: &K) {
        let Some(lane) = self.lanes.get(key).filter(|lane| lane.is_idle()) else { return };
        if lane.tag > self.now {
            self.debtors += 1;
        } else {
            self.lanes.remove(key);
        }
        if self.debtors > 0 && (self.waiting == 0 || self.debtors > MAX_DEBTORS) {
            self.lanes.retain(|_, lane| !lane.is_idle());
            self.debtors = 0;
        }
    }
}

impl<T> Lane<T> {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 2;

    fn shares(slots: usize, waiting: usize) -> Shares<u32, u32> {
        Shares::new(Bounds { slots, waiting })
    }

    #[test]
    fn a_free_slot_goes_to_whoever_asks_and_the_waiting_are_bounded() {
        let mut shares = shares(1, 1);
        assert_eq!(shares.arrive(&1, 10, MOST), Arrived::Runs(10));
        assert!(matches!(shares.arrive(&2, 20, MOST), Arrived::Waits(_)));
        assert_eq!(shares.arrive(&3, 30, MOST), Arrived::Refused(30));
        assert_eq!(shares.leave(&1, 5), Some((2, 20)));
        assert_eq!(shares.leave(&2, 5), None);
        assert_eq!((shares.lanes.len(), shares.turns.len()), (0, 0));
    }

    #[test]
    fn a_lane_never_runs_more_than_its_bound_and_leaves_the_rest_to_others() {
        let mut shares = shares(4, 100);
        assert!(matches!(shares.arrive(&1, 1, MOST), Arrived::Runs(_)));
        assert!(matches!(shares.arrive(&1, 2, MOST), Arrived::Runs(_)));
        assert!(matches!(shares.arrive(&1, 3, MOST), Arrived::Waits(_)));
        assert!(matches!(shares.arrive(&2, 4, MOST), Arrived::Runs(_)));
        assert_eq!(shares.leave(&1, 0), Some((1, 3)));
    }

    #[test]
    fn a_bound_that_was_changed_holds_for_whoever_arrives_next() {
        let mut shares = shares(4, 100);
        assert!(matches!(shares.arrive(&1, 1, 1), Arrived::Runs(_)));
        assert!(matches!(shares.arrive(&1, 2, 1), Arrived::Waits(_)));
        assert!(matches!(shares.arrive(&1, 3, 2), Arrived::Waits(_)));
        assert_eq!(shares.leave(&1, 0), Some((1, 2)));
        assert_eq!(shares.leave(&1, 0), Some((1, 3)));
        assert!(matches!(shares.arrive(&1, 4, 2), Arrived::Runs(_)));
        assert!(matches!(shares.arrive(&1, 5, 1), Arrived::Waits(_)));
    }

    #[test]
    fn equal_fuel_is_equal_share_however_it_is_cut() {
        // One lane makes calls of 100 million, the other of one million; both always have callers that wait.
        let mut shares = shares(1, 10_000);
        let cost = |key: u32| if key == 1 { 100_000_000 } else { 1_000_000 };
        assert!(matches!(shares.arrive(&1, 0, MOST), Arrived::Runs(_)));
        for _ in 0..200 {
            shares.arrive(&1, 0, MOST);
        }
        for _ in 0..2_000 {
            shares.arrive(&2, 0, MOST);
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
    fn one_heavy_call_at_a_time_is_paid_for_as_well() {
        // Each lane has one call at a time and asks again as soon as it has ended; four light ones and a heavy one.
        let mut shares = shares(1, 100);
        let cost = |key: u32| if key == 0 { 8_000_000 } else { 1_000_000 };
        let mut running = 0;
        assert!(matches!(shares.arrive(&0, 0, MOST), Arrived::Runs(_)));
        for key in 1..5 {
            shares.arrive(&key, 0, MOST);
        }
        let mut used: BTreeMap<u32, u64> = BTreeMap::new();
        for _ in 0..1_000 {
            *used.entry(running).or_default() += cost(running);
            let next = shares.leave(&running, cost(running)).unwrap().0;
            shares.arrive(&running, 0, MOST);
            running = next;
        }
        let (most, least) = (used.values().max().unwrap(), used.values().min().unwrap());
        assert!(most * 4 < least * 5, "{used:?}");
    }

    #[test]
    fn a_lane_that_others_pass_at_its_bound_catches_up() {
        // Neither may have all slots, so one is often passed; all calls take the time of their fuel.
        let mut shares = shares(4, 100);
        let cost = |key: u32| if key == 1 { 16_000_000 } else { 1_000_000 };
        let (mut ends, mut used) = (std::collections::BTreeSet::new(), BTreeMap::<u32, u64>::new());
        for serial in 0..40 {
            let key = 1 + serial % 2;
            if let Arrived::Runs(_) = shares.arrive(&key, serial, 3) {
                ends.insert((cost(key), serial, key));
            }
        }
        for serial in 40..5_000 {
            let (now, _, key) = ends.pop_first().unwrap();
            *used.entry(key).or_default() += cost(key);
            let next = shares.leave(&key, cost(key)).unwrap().0;
            ends.insert((now + cost(next), serial, next));
            assert!(matches!(shares.arrive(&key, serial, 3), Arrived::Waits(_)));
        }
        let ratio = used[&1] as f64 / used[&2] as f64;
        assert!((0.9..1.1).contains(&ratio), "{used:?}");
    }

    #[test]
    fn what_a_lane_is_owed_is_bounded() {
        let mut shares = shares(2, 1_000);
        for _ in 0..200 {
            shares.arrive(&1, 0, 1);
            shares.arrive(&2, 0, 2);
        }
        for _ in 0..100 {
            shares.leave(&2, MAX_OWED);
            shares.leave(&1, 0);
        }
        assert!(shares.lanes[&1].tag + MAX_OWED >= shares.now, "{} at {}", shares.lanes[&1].tag, shares.now);
    }

    #[test]
    fn debts_are_forgiven_when_nobody_waits_and_are_bounded() {
        let mut shares = shares(1, 100_000);
        shares.arrive(&0, 0, MOST);
        let lanes = MAX_DEBTORS as u32 + 10;
        for key in 1..=lanes {
            shares.arrive(&key, 0, MOST);
        }
        let mut running = 0;
        while let Some((next, _)) = shares.leave(&running, 1_000) {
            assert!(shares.debtors <= MAX_DEBTORS);
            running = next;
        }
        assert_eq!((shares.lanes.len(), shares.debtors), (0, 0));
    }

    #[test]
    fn a_light_lane_is_served_while_a_heavy_one_floods() {
        let mut shares = shares(1, 10_000);
        shares.arrive(&1, 0, MOST);
        for _ in 0..1_000 {
            shares.arrive(&1, 0, MOST);
        }
        shares.arrive(&2, 0, MOST);
        let first = shares.leave(&1, 1_000_000_000).unwrap().0;
        assert_eq!(first, 2);
    }

    #[test]
    fn who_gives_up_is_not_served_and_leaves_nothing_behind() {
        let mut shares = shares(1, 10);
        shares.arrive(&1, 0, MOST);
        let Arrived::Waits(ticket) = shares.arrive(&2, 0, MOST) else { panic!("no slot was free") };
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
            let bounds = Bounds { slots: 3, waiting: 12 };
            // Each lane has a bound of its own.
            let most = |key: u32| 1 + key as usize % 3;
            let mut shares: Shares<u32, u32> = Shares::new(bounds);
            let mut running: Vec<u32> = Vec::new();
            let mut waiting: BTreeMap<u32, VecDeque<(Ticket, u32)>> = BTreeMap::new();
            for (serial, (key, action, fuel)) in steps.into_iter().enumerate() {
                let serial = serial as u32;
                if action < 6 {
                    match shares.arrive(&key, serial, most(key)) {
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
                let servable = waiting.iter().any(|(k, w)| !w.is_empty() && of(*k) < most(*k));
                prop_assert!((0..4).all(|k| of(k) <= most(k)));
                prop_assert!(!servable || running.len() == bounds.slots, "a slot idles");
            }
        }
    }
}
