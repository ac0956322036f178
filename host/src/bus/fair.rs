//! The queue of one capsule: a FIFO for each principal, drained by deficit round robin under a byte budget.
//!
//! Pure: no lock, no clock, no sockets. Each principal's turn adds a quantum of bytes to its credit; it may send while
//! its credit lasts, so one that sends much cannot delay one that sends little (Shreedhar and Varghese, "Efficient
//! Fair Queuing using Deficit Round Robin", 1995). A principal's items keep their order: while one of them is out, the
//! next waits for [`FairQueue::release`]. A principal without items costs nothing.
//!
//! Over budget, whoever holds most bytes pays with its newest items; an item that belongs to the heaviest itself is
//! turned away.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// What a principal's turn adds to its credit, in bytes.
pub const QUANTUM: usize = 4 * 1024;

pub struct FairQueue<K, T> {
    budget: usize,
    bytes: usize,
    lanes: HashMap<K, Lane<T>>,
    /// Principals whose turn comes, in order. Exactly those with items and nothing out.
    turns: VecDeque<K>,
    /// Principals with an item out: a few, as many as are served at once.
    out: Vec<K>,
}

struct Lane<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
    credit: usize,
}

/// What became of a pushed item.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<T> {
    Queued,
    /// Queued; these items of the heaviest principal had to go.
    Evicted(Vec<T>),
    /// There is no room that this principal is entitled to.
    Refused(T),
}

impl<K: Clone + Eq + Hash + Ord, T> FairQueue<K, T> {
    /// `budget`: the bytes that may wait in all.
    pub fn new(budget: usize) -> Self {
        Self { budget, bytes: 0, lanes: HashMap::new(), turns: VecDeque::new(), out: Vec::new() }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.lanes.values().map(|lane| lane.items.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Principals with items that wait.
    pub fn active(&self) -> usize {
        self.lanes.len()
    }

    /// Principals with items and nothing out: so many can be served now.
    pub fn ready(&self) -> usize {
        self.turns.len()
    }

    /// Adds an item of `size` bytes, counted once, here.
    pub fn push(&mut self, key: K, size: usize, item: T) -> Pushed<T> {
        let Some(evicted) = self.make_room(&key, size) else { return Pushed::Refused(item) };
        let lane = match self.lanes.entry(key) {
            Entry::Occupied(lane) => lane.into_mut(),
            Entry::Vacant(idle) => {
                if !self.out.contains(idle.key()) {
                    self.turns.push_back(idle.key().clone());
                }
                idle.insert(Lane { items: VecDeque::new(), bytes: 0, credit: 0 })
            }
        };
        lane.items.push_back((size, item));
        lane.bytes += size;
        self.bytes += size;
        if evicted.is_empty() { Pushed::Queued } else { Pushed::Evicted(evicted) }
    }

    /// The next item, and whose it is. Nothing more of that principal comes out until it is released.
    pub fn pop(&mut self) -> Option<(K, T)> {
        loop {
            let key = self.turns.pop_front()?;
            let lane = self.lanes.get_mut(&key).expect("a principal with a turn has a lane");
            let size = lane.items.front().expect("a lane holds items").0;
            if lane.credit < size {
                lane.credit += QUANTUM;
            }
            if lane.credit < size {
                self.turns.push_back(key);
                continue;
            }
            let (size, item) = lane.items.pop_front().expect("a lane holds items");
            lane.credit -= size;
            lane.bytes -= size;
            self.bytes -= size;
            if lane.items.is_empty() {
                self.lanes.remove(&key);
            }
            self.out.push(key.clone());
            return Some((key, item));
        }
    }

    /// The item that was out for this principal is done with.
    pub fn release(&mut self, key: &K) {
        let Some(place) = self.out.iter().position(|out| out == key) else { return };
        let key = self.out.swap_remove(place);
        if let Some(lane) = self.lanes.get(&key) {
            // In front while its credit lasts, else to the back: the turn goes on where it stopped.
            if lane.credit >= lane.items[0].0 {
                self.turns.push_front(key);
            } else {
                self.turns.push_back(key);
            }
        }
    }

    /// Drops what has to go for `size` more bytes of `key`, or nothing at all if the room can't be made by taking from
    /// principals that hold more than this one would.
    fn make_room(&mut self, key: &K, size: usize) -> Option<Vec<T>> {
        if self.bytes + size <= self.budget {
            return Some(Vec::new());
        }
        let own = self.lanes.get(key).map_or(0, |lane| lane.bytes) + size;
        let mut total = self.bytes;
        let mut left: HashMap<&K, (usize, usize)> =
            self.lanes.iter().map(|(k, lane)| (k, (lane.bytes, lane.items.len()))).collect();
        let mut victims = Vec::new();
        while total + size > self.budget {
            // Ties go to the smaller key, so that a run can be repeated.
            let (bytes, heaviest) = left.iter().map(|(k, (bytes, _))| (*bytes, Reverse(*k))).max()?;
            if bytes <= own {
                return None;
            }
            let lane = left.get_mut(heaviest.0)?;
            let newest = self.lanes[heaviest.0].items[lane.1 - 1].0;
            *lane = (lane.0 - newest, lane.1 - 1);
            total -= newest;
            victims.push(heaviest.0.clone());
        }
        Some(victims.iter().filter_map(|victim| self.drop_newest(victim)).collect())
    }

    fn drop_newest(&mut self, key: &K) -> Option<T> {
        let lane = self.lanes.get_mut(key)?;
        let (size, item) = lane.items.pop_back()?;
        lane.bytes -= size;
        self.bytes -= size;
        if lane.items.is_empty() {
            self.lanes.remove(key);
            self.turns.retain(|k| k != key);
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn drain(queue: &mut FairQueue<u32, u32>, n: usize) -> Vec<(u32, u32)> {
        (0..n)
            .map_while(|_| {
                let next = queue.pop()?;
                queue.release(&next.0);
                Some(next)
            })
            .collect()
    }

    #[test]
    fn a_flooder_delays_nobody_by_more_than_a_quantum_for_each_active_principal() {
        let mut queue = FairQueue::new(1 << 20);
        for n in 0..900 {
            queue.push(1, 1000, n);
        }
        queue.push(2, 1000, 0);
        queue.push(3, 1000, 0);
        let first: Vec<u32> = drain(&mut queue, 12).into_iter().map(|(k, _)| k).collect();
        assert!(first.contains(&2) && first.contains(&3), "{first:?}");
    }

    #[test]
    fn over_budget_the_heaviest_pays_with_its_newest() {
        let mut queue = FairQueue::new(100);
        assert_eq!(queue.push(1, 40, 10), Pushed::Queued);
        assert_eq!(queue.push(1, 40, 11), Pushed::Queued);
        assert_eq!(queue.push(2, 30, 20), Pushed::Evicted(vec![11]));
        assert_eq!(queue.push(1, 40, 12), Pushed::Refused(12));
        assert_eq!(queue.bytes(), 70);
    }

    #[test]
    fn a_push_that_is_refused_in_the_end_evicts_nothing() {
        let mut queue = FairQueue::new(100);
        queue.push(1, 50, 10);
        queue.push(1, 10, 11);
        queue.push(2, 40, 20);
        // Taking 11 from the heaviest would not be enough, and then it holds no more than the newcomer would.
        assert_eq!(queue.push(3, 55, 30), Pushed::Refused(30));
        assert_eq!(queue.bytes(), 100);
    }

    #[test]
    fn what_is_larger_than_the_budget_is_refused_and_costs_nobody_anything() {
        let mut queue = FairQueue::new(100);
        queue.push(1, 60, 1);
        assert_eq!(queue.push(2, 101, 2), Pushed::Refused(2));
        assert_eq!(queue.bytes(), 60);
    }

    #[test]
    fn a_principal_with_an_item_out_waits_and_idle_ones_cost_nothing() {
        let mut queue = FairQueue::new(1000);
        queue.push(1, 1, 1);
        queue.push(1, 1, 2);
        assert_eq!(queue.pop(), Some((1, 1)));
        assert_eq!(queue.pop(), None);
        queue.release(&1);
        assert_eq!(queue.pop(), Some((1, 2)));
        queue.release(&1);
        assert_eq!((queue.active(), queue.turns.len(), queue.out.len()), (0, 0, 0));
    }

    proptest! {
        /// Against one list per principal: nothing is lost, doubled or reordered, the budget holds, and every active
        /// principal gets a turn within the rounds that its first item's size needs.
        #[test]
        fn nothing_is_lost_doubled_or_reordered_and_the_budget_holds(
            steps in prop::collection::vec((0u32..5, 1usize..6000, prop::bool::weighted(0.6)), 1..200)
        ) {
            let budget = 20_000;
            let mut queue = FairQueue::new(budget);
            let mut model: BTreeMap<u32, VecDeque<(usize, u32)>> = BTreeMap::new();
            let mut out: Vec<u32> = Vec::new();
            for (serial, (key, size, push)) in steps.into_iter().enumerate() {
                let serial = serial as u32;
                if push {
                    match queue.push(key, size, serial) {
                        Pushed::Refused(item) => prop_assert_eq!(item, serial),
                        pushed => {
                            if let Pushed::Evicted(gone) = pushed {
                                for item in gone {
                                    let lane = model.values_mut().find(|l| l.back().is_some_and(|x| x.1 == item));
                                    prop_assert!(lane.is_some(), "evicted what was not somebody's newest");
                                    lane.unwrap().pop_back();
                                }
                            }
                            model.entry(key).or_default().push_back((size, serial));
                        }
                    }
                } else if let Some((key, item)) = queue.pop() {
                    prop_assert!(!out.contains(&key), "two of one principal at once");
                    prop_assert_eq!(model.get_mut(&key).unwrap().pop_front().unwrap().1, item);
                    out.push(key);
                } else {
                    prop_assert!(model.iter().all(|(k, lane)| lane.is_empty() || out.contains(k)));
                    for key in out.drain(..) {
                        queue.release(&key);
                    }
                }
                let held: usize = model.values().flatten().map(|x| x.0).sum();
                prop_assert_eq!(queue.bytes(), held);
                prop_assert!(queue.bytes() <= budget);
                prop_assert_eq!(queue.active(), model.values().filter(|l| !l.is_empty()).count());
            }
        }
    }
}
