//! How often something may happen: the memory of rate limits that capsules set.
//!
//! Owns, for each capsule and key, when the key will be as if it had never been used: then it is forgotten. What a key
//! stands for and how fast it may go the capsule says each time. The core ([`Shard`]) is pure; its clock is an argument.
//!
//! Bounded by: [`MAX_KEYS`] keys of a capsule; of more than that those that are nearest to being forgotten are forgotten
//! early. Kept in memory alone: a new process begins anew.
//! Refuses to know: addresses, principals, what is limited.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use crate::QuickMap;

/// Keys of a capsule that are remembered at once.
pub const MAX_KEYS: usize = SHARDS * SHARD_KEYS;
/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 256;
/// The slowest rate: once in a day.
pub const MAX_INTERVAL_MS: u32 = 86_400_000;
/// The most at once.
pub const MAX_BURST: u32 = 1_000_000;

const SHARDS: usize = 8;
const SHARD_KEYS: usize = 2048;

/// Half of a key's hash: clients choose keys.
type Digest = [u8; 16];

/// One more each `interval`, and `burst` at once at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub interval: Duration,
    pub burst: u32,
}

/// Why nothing was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("there is one again in {0:?}")]
    Later(Duration),
    #[error("{0}")]
    Invalid(String),
}

/// The keys of every capsule.
pub struct Limits {
    started: Instant,
    tables: RwLock<QuickMap<String, Arc<Table>>>,
}

#[derive(Default)]
struct Table {
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for Limits {
    fn default() -> Self {
        Self { started: Instant::now(), tables: RwLock::default() }
    }
}

impl Limits {
    /// Takes one of what `key` of `capsule` has left.
    ///
    /// # Errors
    /// How long until there is one; or what is wrong with the arguments.
    pub fn take(&self, capsule: &str, key: &str, rate: Rate) -> Result<(), Refused> {
        check(key, rate).map_err(Refused::Invalid)?;
        let hash = blake3::hash(key.as_bytes());
        let (mut digest, bytes) = (Digest::default(), hash.as_bytes());
        digest.copy_from_slice(&bytes[..16]);
        let table = self.table(capsule);
        let mut shard = table.shards[usize::from(bytes[16]) % SHARDS].lock().expect("no panic under this lock");
        shard.take(digest, rate, self.started.elapsed(), SHARD_KEYS).map_err(Refused::Later)
    }

    fn table(&self, capsule: &str) -> Arc<Table> {
        if let Some(table) = self.tables.read().expect("no panic under this lock").get(capsule) {
            return table.clone();
        }
        self.tables.write().expect("no panic under this lock").entry(capsule.to_owned()).or_default().clone()
    }

    /// Forgets what is as if it had never been used.
    pub fn sweep(&self) {
        let now = self.started.elapsed();
        self.tables.write().expect("no panic under this lock").retain(|_, table| {
            let mut kept = 0;
            for shard in &table.shards {
                let mut shard = shard.lock().expect("no panic under this lock");
                shard.forget(now);
                kept += shard.due.len();
            }
            // Whoever has found it before this writes into what nobody finds again: at most one attempt is not counted.
            kept > 0
        });
    }
}

fn check(key: &str, rate: Rate) -> Result<(), String> {
    let interval = rate.interval.as_millis();
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(format!("a key of {} bytes; it must have 1 to {MAX_KEY_BYTES}", key.len()));
    }
    if !(1..=MAX_INTERVAL_MS.into()).contains(&interval) {
        return Err(format!("interval-ms = {interval} must be 1 to {MAX_INTERVAL_MS}"));
    }
    if !(1..=MAX_BURST).contains(&rate.burst) {
        return Err(format!("burst = {} must be 1 to {MAX_BURST}", rate.burst));
    }
    Ok(())
}

/// When each key will be as if it had never been used; a key that is not here is so now.
#[derive(Default)]
struct Shard {
    due: HashMap<Digest, Duration>,
    /// The same, the first to be forgotten first.
    order: BTreeSet<(Duration, Digest)>,
}

impl Shard {
    /// The error is how long it takes until there is one.
    fn take(&mut self, key: Digest, rate: Rate, now: Duration, most: usize) -> Result<(), Duration> {
        self.forget(now);
        let before = self.due.get(&key).copied();
        let due = before.unwrap_or(now).max(now);
        // Of a whole burst it takes as long as this until all of it is there again.
        let latest = now + rate.interval * (rate.burst - 1);
        if due > latest {
            return Err(due - latest);
        }
        match before {
            Some(before) => {
                self.order.remove(&(before, key));
            }
            None if self.due.len() >= most => {
                if let Some((_, first)) = self.order.pop_first() {
                    self.due.remove(&first);
                }
            }
            None => {}
        }
        let due = due + rate.interval;
        self.due.insert(key, due);
        self.order.insert((due, key));
        Ok(())
    }

    fn forget(&mut self, now: Duration) {
        while let Some((due, key)) = self.order.first().copied().filter(|(due, _)| *due <= now) {
            self.order.remove(&(due, key));
            self.due.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { interval: Duration::from_millis(1000), burst: 3 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_there_at_once_and_then_one_more_in_each_interval() {
        let mut shard = Shard::default();
        let mut take = |now| shard.take([0; 16], RATE, ms(now), 9);
        for _ in 0..3 {
            assert_eq!(take(0), Ok(()));
        }
        assert_eq!(take(0), Err(ms(1000)));
        assert_eq!(take(400), Err(ms(600)));
        assert_eq!(take(1000), Ok(()));
        assert_eq!(take(1000), Err(ms(1000)), "what was refused cost nothing");
        for _ in 0..3 {
            assert_eq!(take(60_000), Ok(()));
        }
        assert_eq!(take(60_000), Err(ms(1000)), "never more than a burst");
    }

    #[test]
    fn keys_and_capsules_do_not_share_and_what_is_out_of_bounds_is_named() {
        let limits = Limits::default();
        let one = Rate { interval: Duration::from_secs(3600), burst: 1 };
        assert_eq!(limits.take("a", "x", one), Ok(()));
        assert!(matches!(limits.take("a", "x", one), Err(Refused::Later(_))));
        assert_eq!(limits.take("a", "y", one), Ok(()));
        assert_eq!(limits.take("b", "x", one), Ok(()));
        limits.sweep();
        assert!(matches!(limits.take("b", "x", one), Err(Refused::Later(_))), "it is not due yet");
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        for (key, interval, burst, want) in [
            ("", 1, 1, "a key of 0 bytes"),
            (&*long, 1, 1, "a key of 257 bytes"),
            ("x", 0, 1, "interval-ms = 0"),
            ("x", u64::from(MAX_INTERVAL_MS) + 1, 1, "interval-ms = 86400001"),
            ("x", 1, 0, "burst = 0"),
            ("x", 1, MAX_BURST + 1, "burst = 1000001"),
        ] {
            let refused = limits.take("a", key, Rate { interval: ms(interval), burst });
            let Err(Refused::Invalid(why)) = refused else { panic!("{refused:?}") };
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn of_more_keys_than_there_is_room_for_the_one_that_has_used_least_is_forgotten() {
        let mut shard = Shard::default();
        let mut take = |key: u8| shard.take([key; 16], RATE, ms(0), 2);
        assert_eq!((take(1), take(1), take(1), take(2)), (Ok(()), Ok(()), Ok(()), Ok(())));
        assert_eq!(take(3), Ok(()), "in the place of 2");
        assert!(take(1).is_err(), "who has used most is remembered");
        assert_eq!((take(2), take(2), take(2)), (Ok(()), Ok(()), Ok(())));
        assert_eq!((shard.due.len(), shard.order.len()), (2, 2));
    }

    proptest! {
        /// The model: what each key has, filled up as time goes by.
        #[test]
        fn it_is_a_bucket_of_tokens_for_each_key(
            interval in 1..2000_u64,
            burst in 1..6_u32,
            steps in proptest::collection::vec((0..3000_u64, 0..3_u8), 1..200),
        ) {
            let rate = Rate { interval: ms(interval), burst };
            let (mut shard, mut model) = (Shard::default(), HashMap::<u8, (u64, u64)>::new());
            let (mut now, full) = (0, interval * u64::from(burst));
            for (passed, key) in steps {
                now += passed;
                let (level, seen) = model.entry(key).or_insert((full, now));
                *level = full.min(*level + (now - *seen));
                *seen = now;
                let want = if *level >= interval { Ok(()) } else { Err(ms(interval - *level)) };
                if want.is_ok() {
                    *level -= interval;
                }
                prop_assert_eq!(shard.take([key; 16], rate, ms(now), 9), want);
                prop_assert_eq!(shard.due.len(), shard.order.len());
                prop_assert!(shard.due.len() <= 3);
            }
            shard.forget(ms(now) + rate.interval * burst);
            prop_assert!(shard.due.is_empty() && shard.order.is_empty());
        }

        #[test]
        fn whatever_keys_come_there_are_never_more_than_fit(keys in proptest::collection::vec(0..50_u8, 0..300)) {
            let mut shard = Shard::default();
            for (n, key) in keys.into_iter().enumerate() {
                let _ = shard.take([key; 16], RATE, ms(n as u64 * 10), 8);
                prop_assert!(shard.due.len() <= 8 && shard.order.len() == shard.due.len());
            }
        }
    }
}
