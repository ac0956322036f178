//! Instances that wait for another call: which, how many, and which goes first.
//!
//! Pure: no lock, no clock, no engine. An instance is kept under a key, and only whoever asks with the same key takes it.
//! Taking it out is the only way to use it, so no two calls ever have the same one. Of several under one key the latest
//! goes first: then one that lay here for a whole window is one that its key's most calls at once in that window did not
//! need. Were it the one that has waited longest, every spare one would be used a little and none would ever go.
//!
//! Instances that wait take slots of the pool, so those that run are counted here as well. Whoever needs a slot gets it:
//! the one that has waited longest goes, before the call begins.
//!
//! Bounded by [`Bounds`]. Refuses to know what an instance is and what a key means.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Instances alive at once, running and waiting. Admission sees to it that no more of them run.
    pub(super) alive: usize,
    /// Instances that wait.
    pub(super) idle: usize,
    /// Of these, under one key.
    pub(super) each: usize,
    /// How long one waits before it goes.
    pub(super) window: Duration,
}

/// Why an instance is kept no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its call did not end with an answer, or wanted more memory than it may have.
    Failed,
    /// It has more memory than one that waits may have.
    Large,
    /// As many wait as may.
    Full,
    /// Its slot was needed.
    Room,
    /// Nobody needed it for a whole window.
    Unneeded,
    /// What its principal holds has changed.
    Standing,
    /// Its generation was replaced.
    Retired,
}

impl Why {
    pub const ALL: [Self; 7] =
        [Self::Failed, Self::Large, Self::Full, Self::Room, Self::Unneeded, Self::Standing, Self::Retired];

    /// One word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Large => "large",
            Self::Full => "full",
            Self::Room => "room",
            Self::Unneeded => "unneeded",
            Self::Standing => "standing",
            Self::Retired => "retired",
        }
    }
}

/// What a call that begins has got.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begun<V> {
    /// An instance that its key has used before.
    Warm(V),
    /// A slot for a new one. What had to go for it must be gone before the new one is made.
    Fresh { gone: Option<V> },
}

struct Idle<K, V> {
    key: K,
    value: V,
    since: Duration,
}

pub(super) struct Shelf<K, V> {
    bounds: Bounds,
    /// Calls that have a slot.
    busy: usize,
    serial: u64,
    /// By serial: whoever has waited longest is first.
    idle: BTreeMap<u64, Idle<K, V>>,
    /// The serials of each key, the latest last; none is empty.
    keys: HashMap<K, Vec<u64>>,
}

impl<K: Clone + Eq + Hash, V> Shelf<K, V> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, busy: 0, serial: 0, idle: BTreeMap::new(), keys: HashMap::new() }
    }

    /// Instances that wait.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// A call begins; without a key it wants a new instance.
    pub(super) fn begin(&mut self, key: Option<&K>) -> Begun<V> {
        self.busy += 1;
        let latest = key.and_then(|key| self.keys.get(key)).and_then(|serials| serials.last().copied());
        if let Some(value) = latest.and_then(|serial| self.take(serial)) {
            return Begun::Warm(value);
        }
        let gone = if self.busy + self.idle.len() > self.bounds.alive { self.take_oldest() } else { None };
        Begun::Fresh { gone }
    }

    /// A call has ended, and its instance is gone.
    pub(super) fn end(&mut self) {
        self.busy -= 1;
    }

    /// A call has ended, and its instance waits for the next one of `key`. Comes back: the one that goes instead, itself
    /// if its key has enough.
    pub(super) fn keep(&mut self, key: K, value: V, now: Duration) -> Option<V> {
        self.busy -= 1;
        if self.keys.get(&key).map_or(0, Vec::len) >= self.bounds.each || self.bounds.idle == 0 {
            return Some(value);
        }
        let gone = if self.idle.len() >= self.bounds.idle { self.take_oldest() } else { None };
        self.serial += 1;
        self.keys.entry(key.clone()).or_default().push(self.serial);
        self.idle.insert(self.serial, Idle { key, value, since: now });
        gone
    }

    /// Takes out what has waited for a whole window, and what `unfit` has a reason against.
    pub(super) fn sweep(&mut self, now: Duration, unfit: impl Fn(&K, &V) -> Option<Why>) -> Vec<(V, Why)> {
        let window = self.bounds.window;
        let cold = |one: &Idle<K, V>| (now.saturating_sub(one.since) >= window).then_some(Why::Unneeded);
        let goes = self.idle.iter().filter_map(|(serial, one)| {
            let why = unfit(&one.key, &one.value).or_else(|| cold(one))?;
            Some((*serial, why))
        });
        let goes: Vec<(u64, Why)> = goes.collect();
        goes.into_iter().filter_map(|(serial, why)| Some((self.take(serial)?, why))).collect()
    }

    fn take_oldest(&mut self) -> Option<V> {
        let serial = *self.idle.first_key_value()?.0;
        self.take(serial)
    }

    fn take(&mut self, serial: u64) -> Option<V> {
        let Idle { key, value, .. } = self.idle.remove(&serial)?;
        if let Some(serials) = self.keys.get_mut(&key) {
            serials.retain(|other| *other != serial);
            if serials.is_empty() {
                self.keys.remove(&key);
            }
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { alive: 6, idle: 4, each: 2, window: Duration::from_secs(10) };

    /// An instance: its number, and whose it is.
    type Instance = (u32, u8);

    #[derive(Debug, Clone)]
    enum Step {
        Begin(Option<u8>),
        /// Of the calls that run, this one ends, and its instance is kept or not.
        End(usize, bool),
        /// So many seconds pass, then it is swept; instances of this key are unfit.
        Sweep(u64, Option<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::option::of(0_u8..4).prop_map(Step::Begin),
            4 => (0_usize..6, any::<bool>()).prop_map(|(which, kept)| Step::End(which, kept)),
            1 => (0_u64..12, prop::option::of(0_u8..4)).prop_map(|(seconds, unfit)| Step::Sweep(seconds, unfit)),
        ]
    }

    /// The rules as a list of what waits, in order, and searches through all of it.
    #[derive(Default)]
    struct Model {
        idle: Vec<(Instance, u64)>,
    }

    impl Model {
        fn of(&self, key: u8) -> usize {
            self.idle.iter().filter(|((_, whose), _)| *whose == key).count()
        }
    }

    proptest! {
        #[test]
        fn nothing_is_used_twice_at_once_or_by_another_key_and_no_bound_is_passed(
            steps in prop::collection::vec(step(), 1..200)
        ) {
            let (mut shelf, mut model) = (Shelf::<u8, Instance>::new(BOUNDS), Model::default());
            let mut running: Vec<(Option<u8>, Instance)> = Vec::new();
            let mut gone = HashSet::new();
            let (mut made, mut now) = (0, 0);
            // How many calls of each key ran at once, and when.
            let mut peaks: Vec<(u64, u8, usize)> = Vec::new();
            let count = |running: &[(Option<u8>, Instance)], key| running.iter().filter(|(k, _)| *k == Some(key)).count();
            for step in steps {
                match step {
                    Step::Begin(_) if running.len() >= BOUNDS.alive => {}
                    Step::Begin(key) => {
                        let latest = key.and_then(|key| model.idle.iter().rposition(|((_, whose), _)| *whose == key));
                        let expected = latest.map(|place| model.idle.remove(place).0);
                        let instance = match shelf.begin(key.as_ref()) {
                            Begun::Warm(instance) => {
                                prop_assert_eq!(Some(instance), expected);
                                prop_assert_eq!(Some(instance.1), key, "another's");
                                instance
                            }
                            Begun::Fresh { gone: left } => {
                                prop_assert_eq!(None, expected);
                                let full = running.len() + 1 + model.idle.len() > BOUNDS.alive;
                                prop_assert_eq!(left, full.then(|| model.idle.remove(0).0), "the longest goes");
                                gone.extend(left);
                                made += 1;
                                (made, key.unwrap_or(u8::MAX))
                            }
                        };
                        prop_assert!(!gone.contains(&instance) && running.iter().all(|(_, other)| *other != instance));
                        running.push((key, instance));
                    }
                    Step::End(which, kept) if which < running.len() => {
                        let (key, instance) = running.swap_remove(which);
                        match key.filter(|_| kept) {
                            None => {
                                shelf.end();
                                gone.insert(instance);
                            }
                            Some(key) => {
                                peaks.push((now, key, count(&running, key) + 1));
                                let left = shelf.keep(key, instance, Duration::from_secs(now));
                                let expected = if model.of(key) >= BOUNDS.each {
                                    Some(instance)
                                } else {
                                    model.idle.push((instance, now));
                                    (model.idle.len() > BOUNDS.idle).then(|| model.idle.remove(0).0)
                                };
                                prop_assert_eq!(left, expected);
                                gone.extend(left);
                            }
                        }
                    }
                    Step::End(..) => {}
                    Step::Sweep(seconds, unfit) => {
                        now += seconds;
                        let swept = shelf.sweep(Duration::from_secs(now), |key, _| {
                            (Some(*key) == unfit).then_some(Why::Standing)
                        });
                        let goes = |(_, whose): &Instance, since: u64| {
                            if Some(*whose) == unfit { Some(Why::Standing) }
                            else { (now - since >= 10).then_some(Why::Unneeded) }
                        };
                        let expected: Vec<_> =
                            model.idle.iter().filter_map(|(one, since)| Some((*one, goes(one, *since)?))).collect();
                        model.idle.retain(|(one, since)| goes(one, *since).is_none());
                        prop_assert_eq!(&swept, &expected);
                        gone.extend(swept.into_iter().map(|(one, _)| one));
                        // What stays was needed: by as many calls at once, within the window.
                        for key in 0..4 {
                            let recent = peaks.iter().filter(|(at, whose, _)| *whose == key && now - at < 10);
                            let most = recent.map(|(_, _, peak)| *peak).max().unwrap_or(0);
                            prop_assert!(model.of(key) <= most, "{} wait, {most} ran", model.of(key));
                        }
                    }
                }
                prop_assert_eq!(shelf.idle(), model.idle.len());
                prop_assert!(shelf.idle() <= BOUNDS.idle && running.len() + shelf.idle() <= BOUNDS.alive);
                prop_assert_eq!(shelf.keys.values().map(Vec::len).sum::<usize>(), shelf.idle());
                prop_assert!((0..4).all(|key| model.of(key) <= BOUNDS.each));
            }
        }
    }
}
