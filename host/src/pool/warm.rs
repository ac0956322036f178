//! The shelf of instances that wait ([`super::shelf`]) as calls see it: behind a lock, counted, and told who runs.
//!
//! Every call takes a [`Seat`] once it is admitted, whether it may meet an instance again or not: only so is it known how
//! many slots of the pool are left for instances that wait.

use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use metrics::{Counter, counter};

use super::shelf::{Begun, Bounds, Shelf, Why};

/// Instances of one key that wait, at most: one, and one for the call that runs beside it.
const EACH: usize = 2;
/// How long an instance waits that nobody needs.
const WINDOW: Duration = Duration::from_secs(60);

pub struct Warm<K, V> {
    shelf: Mutex<Shelf<K, V>>,
    hit: Counter,
    miss: Counter,
    dropped: [Counter; Why::ALL.len()],
}

impl<K: Clone + Eq + Hash, V> Warm<K, V> {
    /// Of `instances` that the pool has, at most half wait.
    pub fn new(instances: u32) -> Self {
        let alive = instances as usize;
        let outcome = |outcome| counter!("astrid_warm_calls_total", "outcome" => outcome);
        Self {
            shelf: Mutex::new(Shelf::new(Bounds { alive, idle: alive / 2, each: EACH, window: WINDOW })),
            hit: outcome("hit"),
            miss: outcome("miss"),
            dropped: Why::ALL.map(|why| counter!("astrid_warm_dropped_total", "why" => why.as_str())),
        }
    }

    /// Instances that wait.
    pub fn idle(&self) -> usize {
        self.shelf().idle()
    }

    /// A call that was admitted begins. With a key it may meet an instance of that key again, and leave one behind;
    /// without one it gets a new instance, of which nothing stays.
    pub fn begin(&self, key: Option<K>) -> (Seat<'_, K, V>, Option<V>) {
        let begun = self.shelf().begin(key.as_ref());
        let found = match begun {
            Begun::Warm(value) => Some(value),
            Begun::Fresh { gone } => {
                // Here, outside of the lock and before the new one is made: the slot must be free by then.
                self.drop_all(gone.map(|value| (value, Why::Room)));
                None
            }
        };
        if key.is_some() {
            if found.is_some() { &self.hit } else { &self.miss }.increment(1);
        }
        (Seat { warm: self, key, left: false }, found)
    }

    /// Drops what has waited for a whole window at `now`, and what `unfit` has a reason against. `now` counts from any
    /// moment, always the same.
    pub fn sweep(&self, now: Duration, unfit: impl Fn(&K, &V) -> Option<Why>) {
        let swept = self.shelf().sweep(now, unfit);
        self.drop_all(swept);
    }

    fn drop_all(&self, values: impl IntoIterator<Item = (V, Why)>) {
        for (value, why) in values {
            self.dropped[why as usize].increment(1);
            drop(value);
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<K, V>> {
        self.shelf.lock().expect("no panic under this lock")
    }
}

/// A call's slot, until it is dropped. The call's instance must be gone by then, or kept.
pub struct Seat<'a, K: Clone + Eq + Hash, V> {
    warm: &'a Warm<K, V>,
    key: Option<K>,
    left: bool,
}

impl<K: Clone + Eq + Hash, V> Seat<'_, K, V> {
    /// The key of a call whose instance may be kept.
    pub fn key(&self) -> Option<&K> {
        self.key.as_ref()
    }

    /// Leaves the instance for the next call of the same key, and the slot with it. Without a key it is dropped.
    pub fn keep(&mut self, value: V, now: Duration) {
        let Some(key) = self.key.take() else { return };
        self.left = true;
        let gone = self.warm.shelf().keep(key, value, now);
        self.warm.drop_all(gone.map(|value| (value, Why::Full)));
    }

    /// Drops the instance of a call with a key, and says why.
    pub fn discard(&self, value: V, why: Why) {
        self.warm.drop_all([(value, why)]);
    }
}

impl<K: Clone + Eq + Hash, V> Drop for Seat<'_, K, V> {
    fn drop(&mut self) {
        if !self.left {
            self.warm.shelf().end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_dropped_before_the_call_that_needs_its_slot_goes_on_and_no_slot_is_lost() {
        let alive = std::sync::Arc::new(());
        let warm: Warm<u8, std::sync::Arc<()>> = Warm::new(4);
        for key in 0..4 {
            let (mut seat, found) = warm.begin(Some(key));
            assert!(found.is_none());
            seat.keep(alive.clone(), Duration::ZERO);
        }
        let count = || std::sync::Arc::strong_count(&alive) - 1;
        assert_eq!((warm.idle(), count()), (2, 2), "half of the pool");
        let seats: Vec<_> = (0..4).map(|n| (warm.begin(None), n)).collect();
        assert_eq!((warm.idle(), count()), (0, 0));
        drop(seats);
        // Every slot is there again, and one that was given up without an instance as well.
        let (mut seat, found) = warm.begin(Some(9));
        assert!(found.is_none());
        seat.keep(alive.clone(), Duration::ZERO);
        drop(seat);
        let seats: Vec<_> = (0..3).map(|_| warm.begin(None)).collect();
        assert_eq!(warm.idle(), 1);
        let (seat, found) = warm.begin(Some(9));
        seat.discard(found.expect("it was kept"), Why::Failed);
        drop((seats, seat));
        assert_eq!((warm.idle(), count()), (0, 0));
    }
}
