//! One queue shared by principals: deficit round robin by bytes (Shreedhar and Varghese, 1995), under byte budgets.
//!
//! Pure: no clock, no tasks. Items of one principal come out in their order: while one of them is out, the next waits for
//! [`FairQueue::release`]. A principal without items costs nothing.
//!
//! Every item belongs to a class (a binding), and each class has a budget of its own. Over budget, whoever holds most
//! bytes in the class pays with its newest items; an item that belongs to the heaviest itself is turned away. An item that
//! has the class to itself fits whatever its size, so that a message that may be sent can also wait.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::QuickMap;

/// What a principal's turn adds to its credit, in bytes.
pub const QUANTUM: usize = 4 * 1024;
/// Empty lanes that are kept, and the room for items that each may have.
const SPARE: usize = 64;
const SPARE_ITEMS: usize = 16;

pub struct FairQueue<K, T> {
    classes: Vec<Class>,
    bytes: usize,
    lanes: QuickMap<K, Lane<T>>,
    /// Principals whose turn comes, in order. Exactly those with items and nothing out.
    turns: VecDeque<K>,
    /// Principals with an item out: as many as are served at once, or have to wait for something else than a turn.
    out: Vec<K>,
    starved: u64,
    /// Lanes of principals that have gone, for the next that come: at most [`SPARE`], none of them large.
    spare: Vec<Lane<T>>,
}

#[derive(Clone, Copy)]
struct Class {
    budget: usize,
    bytes: usize,
    /// No principal holds more than this; exact whenever it mattered last. So a flooder is turned away without a look at
    /// everybody.
    most: usize,
}

struct Lane<T> {
    items: VecDeque<Item<T>>,
    /// Bytes in each class that the principal has items in.
    held: Vec<(usize, usize)>,
    credit: usize,
}

struct Item<T> {
    class: usize,
    size: usize,
    value: T,
}

/// What became of a pushed item.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<T> {
    Queued,
    /// Queued; these items of the heaviest principal had to go, the newest first.
    Evicted(Vec<T>),
    /// There is no room that this principal is entitled to.
    Refused(T),
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), held: Vec::new(), credit: 0 }
    }
}

impl<T> Lane<T> {
    fn held(&self, class: usize) -> usize {
        self.held.iter().find(|(c, _)| *c == class).map_or(0, |(_, bytes)| *bytes)
    }

    fn add(&mut self, class: usize, size: usize) -> usize {
        match self.held.iter_mut().find(|(c, _)| *c == class) {
            Some((_, bytes)) => {
                *bytes += size;
                *bytes
            }
            None => {
                self.held.push((class, size));
                size
            }
        }
    }

    fn take(&mut self, class: usize, size: usize) {
        if let Some((_, bytes)) = self.held.iter_mut().find(|(c, _)| *c == class) {
            *bytes -= size;
        }
    }
}

impl<K: Clone + Eq + Hash + Ord, T> FairQueue<K, T> {
    /// One class. `budget`: the bytes that may wait in it.
    pub fn new(budget: usize) -> Self {
        Self::with_budgets([budget])
    }

    /// A class for each budget, named by its place.
    pub fn with_budgets(budgets: impl IntoIterator<Item = usize>) -> Self {
        let classes = budgets.into_iter().map(|budget| Class { budget, bytes: 0, most: 0 }).collect();
        Self {
            classes,
            bytes: 0,
            lanes: QuickMap::default(),
            turns: VecDeque::new(),
            out: Vec::new(),
            starved: 0,
            spare: Vec::new(),
        }
    }

    /// Another budget for the first class. What waits beyond it goes when something is pushed.
    pub fn set_budget(&mut self, budget: usize) {
        self.classes[0].budget = budget;
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that wait of one principal.
    pub fn held(&self, key: &K) -> usize {
        self.lanes.get(key).map_or(0, |lane| lane.items.iter().map(|item| item.size).sum())
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

    /// Turns that passed because the next item was larger than its principal's credit, since this was asked last.
    pub fn take_starved(&mut self) -> u64 {
        std::mem::take(&mut self.starved)
    }

    /// Adds an item of `size` bytes, counted once, here, to the first class.
    pub fn push(&mut self, key: K, size: usize, item: T) -> Pushed<T> {
        self.push_in(0, key, size, item)
    }

    /// Adds an item of `size` bytes to a class.
    pub fn push_in(&mut self, class: usize, key: K, size: usize, item: T) -> Pushed<T> {
        let Some(evicted) = self.make_room(class, &key, size) else { return Pushed::Refused(item) };
        let lane = match self.lanes.entry(key) {
            Entry::Occupied(lane) => lane.into_mut(),
            Entry::Vacant(idle) => {
                if !self.out.contains(idle.key()) {
                    self.turns.push_back(idle.key().clone());
                }
                idle.insert(self.spare.pop().unwrap_or_default())
            }
        };
        lane.items.push_back(Item { class, size, value: item });
        let own = lane.add(class, size);
        self.bytes += size;
        let class = &mut self.classes[class];
        class.bytes += size;
        class.most = class.most.max(own);
        if evicted.is_empty() { Pushed::Queued } else { Pushed::Evicted(evicted) }
    }

    /// Puts `item` in the place of the principal's newest that waits in the first class and for which `same` holds, and
    /// gives that back. Nothing happens, and `item` comes back, if there is none or the budget is too small for the
    /// difference. Costs a look at what the principal has waiting.
    pub fn replace(&mut self, key: &K, same: impl Fn(&T) -> bool, size: usize, item: T) -> Result<T, T> {
        let class = &mut self.classes[0];
        let Some(lane) = self.lanes.get_mut(key) else { return Err(item) };
        let Some(old) = lane.items.iter_mut().rev().find(|old| old.class == 0 && same(&old.value)) else {
            return Err(item);
        };
        let others = class.bytes - old.size;
        if others > 0 && others + size > class.budget {
            return Err(item);
        }
        let before = std::mem::replace(old, Item { class: 0, size, value: item });
        lane.take(0, before.size);
        class.most = class.most.max(lane.add(0, size));
        class.bytes = class.bytes - before.size + size;
        self.bytes = self.bytes - before.size + size;
        Ok(before.value)
    }

    /// The next item, and whose it is. Nothing more of that principal comes out until it is released.
    pub fn pop(&mut self) -> Option<(K, T)> {
        loop {
            let key = self.turns.pop_front()?;
            let lane = self.lanes.get_mut(&key).expect("a principal with a turn has a lane");
            let size = lane.items.front().expect("a lane holds items").size;
            if lane.credit < size {
                lane.credit += QUANTUM;
            }
            if lane.credit < size {
                self.starved += 1;
                self.turns.push_back(key);
                continue;
            }
            let item = lane.items.pop_front().expect("a lane holds items");
            lane.credit -= size;
            lane.take(item.class, size);
            self.bytes -= size;
            self.classes[item.class].bytes -= size;
            if lane.items.is_empty() {
                self.remove_lane(&key);
            }
            self.out.push(key.clone());
            return Some((key, item.value));
        }
    }

    /// The item that was out for this principal is done with.
    pub fn release(&mut self, key: &K) {
        let Some(place) = self.out.iter().position(|out| out == key) else { return };
        let key = self.out.swap_remove(place);
        if let Some(lane) = self.lanes.get(&key) {
            // In front while its credit lasts, else to the back: the turn goes on where it stopped.
            if lane.credit >= lane.items[0].size {
                self.turns.push_front(key);
            } else {
                self.turns.push_back(key);
            }
        }
    }

    fn remove_lane(&mut self, key: &K) {
        let Some(mut lane) = self.lanes.remove(key) else { return };
        if self.spare.len() < SPARE && lane.items.capacity() <= SPARE_ITEMS {
            lane.held.clear();
            lane.credit = 0;
            self.spare.push(lane);
        }
    }

    /// Puts an item of the first class in front of what its principal has waiting. Nothing of that principal comes out until
    /// it is released.
    pub fn put_back(&mut self, key: K, size: usize, item: T) {
        self.turns.retain(|other| *other != key);
        if !self.out.contains(&key) {
            self.out.push(key.clone());
        }
        let lane = self.lanes.entry(key).or_default();
        lane.items.push_front(Item { class: 0, size, value: item });
        // It had its turn already.
        lane.credit += size;
        let own = lane.add(0, size);
        self.bytes += size;
        self.classes[0].bytes += size;
        self.classes[0].most = self.classes[0].most.max(own);
    }

    /// Drops what has to go for `size` more bytes of `key`, or nothing at all if the room can't be made by taking from
    /// principals that hold more than this one would.
    fn make_room(&mut self, class: usize, key: &K, size: usize) -> Option<Vec<T>> {
        let Class { budget, bytes, most } = self.classes[class];
        if bytes == 0 || bytes + size <= budget {
            return Some(Vec::new());
        }
        let own = self.lanes.get(key).map_or(0, |lane| lane.held(class)) + size;
        if own >= most || size > budget {
            return None;
        }
        // What everybody holds here, and how many of its newest items it would lose.
        let mut left: HashMap<&K, (usize, usize)> =
            self.lanes.iter().map(|(k, lane)| (k, (lane.held(class), 0))).filter(|(_, (held, _))| *held > 0).collect();
        self.classes[class].most = left.values().map(|(held, _)| *held).max().unwrap_or(0);
        let mut total = bytes;
        let mut victims = Vec::new();
        while total + size > budget {
            // Ties go to the smaller key, so that a run can be repeated.
            let (held, heaviest) = left.iter().map(|(k, (held, _))| (*held, Reverse(*k))).max()?;
            if held <= own {
                return None;
            }
            let gone = left.get_mut(heaviest.0)?;
            let mut newest = self.lanes[heaviest.0].items.iter().rev().filter(|item| item.class == class);
            let newest = newest.nth(gone.1)?.size;
            *gone = (gone.0 - newest, gone.1 + 1);
            total -= newest;
            victims.push(heaviest.0.clone());
        }
        Some(victims.iter().filter_map(|victim| self.drop_newest(class, victim)).collect())
    }

    fn drop_newest(&mut self, class: usize, key: &K) -> Option<T> {
        let lane = self.lanes.get_mut(key)?;
        let at = lane.items.iter().rposition(|item| item.class == class)?;
        let Item { size, value, .. } = lane.items.remove(at)?;
        lane.take(class, size);
        self.bytes -= size;
        self.classes[class].bytes -= size;
        if lane.items.is_empty() {
            self.remove_lane(key);
            self.turns.retain(|k| k != key);
        }
        Some(value)
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
    fn each_class_has_its_own_budget_and_what_is_full_costs_the_others_nothing() {
        let mut queue = FairQueue::with_budgets([100, 50]);
        assert_eq!(queue.push_in(0, 1, 60, 10), Pushed::Queued);
        assert_eq!(queue.push_in(1, 1, 20, 11), Pushed::Queued);
        assert_eq!(queue.push_in(0, 1, 30, 12), Pushed::Queued);
        assert_eq!(queue.push_in(1, 1, 40, 13), Pushed::Refused(13));
        // Its newest of that class, not its newest of all.
        assert_eq!(queue.push_in(1, 2, 35, 20), Pushed::Refused(20));
        assert_eq!(queue.push_in(1, 2, 10, 21), Pushed::Queued);
        assert_eq!(queue.push_in(1, 3, 15, 30), Pushed::Queued);
        assert_eq!(queue.push_in(1, 4, 15, 40), Pushed::Evicted(vec![11]));
        assert_eq!(queue.bytes(), 60 + 30 + 10 + 15 + 15);
        let own: Vec<u32> = drain(&mut queue, 9).into_iter().filter(|(k, _)| *k == 1).map(|(_, n)| n).collect();
        assert_eq!(own, [10, 12], "and what is left keeps its order");
    }

    #[test]
    fn turns_that_pass_for_want_of_credit_are_counted() {
        let mut queue = FairQueue::new(1 << 20);
        queue.push(1, 3 * QUANTUM, 1);
        assert_eq!(queue.pop(), Some((1, 1)));
        assert_eq!((queue.take_starved(), queue.take_starved()), (2, 0));
    }

    #[test]
    fn what_is_larger_than_the_budget_is_refused_and_costs_nobody_anything() {
        let mut queue = FairQueue::new(100);
        queue.push(1, 60, 1);
        assert_eq!(queue.push(2, 101, 2), Pushed::Refused(2));
        assert_eq!(queue.bytes(), 60);
    }

    #[test]
    fn what_is_larger_than_the_budget_fits_alone_and_makes_way_for_whoever_holds_less() {
        let mut queue = FairQueue::new(100);
        assert_eq!(queue.push(1, 200, 1), Pushed::Queued);
        assert_eq!(queue.push(1, 1, 2), Pushed::Refused(2));
        assert_eq!(queue.push(2, 50, 3), Pushed::Evicted(vec![1]));
        assert_eq!(queue.replace(&2, |item| *item == 3, 200, 4), Ok(3));
        assert_eq!((queue.bytes(), queue.held(&2)), (200, 200));
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
            steps in prop::collection::vec((0usize..2, 0u32..5, 1usize..6000, prop::bool::weighted(0.6)), 1..200)
        ) {
            let budgets = [20_000, 9_000];
            let mut queue = FairQueue::with_budgets(budgets);
            let mut model: BTreeMap<u32, VecDeque<(usize, usize, u32)>> = BTreeMap::new();
            let mut out: Vec<u32> = Vec::new();
            for (serial, (class, key, size, push)) in steps.into_iter().enumerate() {
                let serial = serial as u32;
                let held = |model: &BTreeMap<u32, VecDeque<(usize, usize, u32)>>, key: u32| -> usize {
                    model.get(&key).into_iter().flatten().filter(|x| x.0 == class).map(|x| x.1).sum()
                };
                if push {
                    let own = held(&model, key) + size;
                    let most = (0..5).map(|k| held(&model, k)).max().unwrap();
                    match queue.push_in(class, key, size, serial) {
                        Pushed::Refused(item) => prop_assert_eq!(item, serial),
                        pushed => {
                            if let Pushed::Evicted(gone) = pushed {
                                prop_assert!(own < most, "another paid for the heaviest");
                                for item in gone {
                                    let whose = model.iter().find(|(_, l)| l.iter().any(|x| x.2 == item));
                                    let whose = *whose.unwrap().0;
                                    prop_assert_eq!(held(&model, whose), (0..5).map(|k| held(&model, k)).max().unwrap());
                                    let lane = model.get_mut(&whose).unwrap();
                                    let newest = lane.iter().rposition(|x| x.0 == class).unwrap();
                                    prop_assert_eq!(lane.remove(newest).unwrap().2, item, "not its newest");
                                }
                            }
                            model.entry(key).or_default().push_back((class, size, serial));
                        }
                    }
                } else if let Some((key, item)) = queue.pop() {
                    prop_assert!(!out.contains(&key), "two of one principal at once");
                    prop_assert_eq!(model.get_mut(&key).unwrap().pop_front().unwrap().2, item);
                    out.push(key);
                } else {
                    prop_assert!(model.iter().all(|(k, lane)| lane.is_empty() || out.contains(k)));
                    for key in out.drain(..) {
                        queue.release(&key);
                    }
                }
                let waiting: usize = model.values().flatten().map(|x| x.1).sum();
                prop_assert_eq!(queue.bytes(), waiting);
                for (class, budget) in budgets.into_iter().enumerate() {
                    let bytes: usize = model.values().flatten().filter(|x| x.0 == class).map(|x| x.1).sum();
                    prop_assert!(bytes <= budget);
                }
                prop_assert_eq!(queue.active(), model.values().filter(|l| !l.is_empty()).count());
            }
        }
    }
}
