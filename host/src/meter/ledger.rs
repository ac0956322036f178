//! The ledger: what each payer has used, and whether a call or a message fits into its rates now.
//!
//! Pure but for its locks: time is an argument, in the time since some beginning. A payer's rate is a bucket of tokens
//! that refills with `rate` a second and holds a second's worth, `burst = rate`. Before a call, fuel is *reserved*: the
//! call's estimate, at most `burst`; if there is less in the bucket the call is refused, with the time until there is
//! enough. After the call the reservation is exchanged for what was used. What a call uses beyond its reservation can
//! make the bucket negative: a debt, which refilling pays before the next call is admitted.
//!
//! So of calls that are admitted at `rate`, at any time `t` after the first:
//!
//! ```text
//! used(t) ≤ rate·t + burst + Σ max(0, used − reserved) over the calls in flight at the last admission
//! ```
//!
//! Proof in two lines: every token used or reserved was in the bucket, which got `burst + rate·t` at most; and at the
//! last admission the bucket was not negative afterwards, so since then only those calls can have overdrawn it.
//! Messages are charged as they are sent, at once: one that is larger than `burst` needs a full bucket and leaves a debt.
//!
//! Bounded: [`SHARDS`] shards and [`MAX_ACCOUNTS`] accounts. An account may go when nothing of it is in flight and its
//! buckets are full: a new one would be the same but for its totals. So whoever holds a debt is never forgotten. Of
//! those the longest idle go first, an eighth of the shard at a time. A payer for whom there is no room even so is
//! refused.
//!
//! Refuses to know where a rate comes from and who is exempt: `None` for a rate counts and never refuses.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use astrid_capsule::PrincipalId;

pub const SHARDS: usize = 16;
/// The most payers that are remembered.
pub const MAX_ACCOUNTS: usize = 100_000;

const NANO: i128 = 1_000_000_000;

/// There is no room before this time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait(pub Duration);

impl Wait {
    /// In milliseconds, at least 1.
    pub fn millis(self) -> u32 {
        u32::try_from(self.0.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1)
    }
}

/// Fuel that was taken in advance; none if the payer was not held to a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved(Option<u64>);

/// What one call used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    pub fuel: u64,
    pub wall: Duration,
    pub peak_memory_bytes: u64,
}

/// What a payer has used since it is remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub fuel: u64,
    pub calls: u64,
    pub wall: Duration,
    pub bus_bytes: u64,
    pub peak_memory_bytes: u64,
}

/// A bucket of tokens, counted in billionths so that refilling is exact.
#[derive(Debug, Clone)]
struct Tokens {
    level: i128,
    rate: u64,
    at: Duration,
}

impl Tokens {
    fn full(rate: u64, now: Duration) -> Self {
        Self { level: i128::from(rate) * NANO, rate, at: now }
    }

    fn refill(&mut self, rate: u64, now: Duration) {
        // Threads may come in another order than they looked at the clock.
        let elapsed = i128::try_from(now.saturating_sub(self.at).as_nanos()).unwrap_or(i128::MAX);
        let gained = i128::from(rate).saturating_mul(elapsed);
        self.level = self.level.saturating_add(gained).min(i128::from(rate) * NANO);
        self.rate = rate;
        self.at = self.at.max(now);
    }

    /// Takes `amount` once `needed` is there.
    fn take(&mut self, needed: u64, amount: u64) -> Result<(), Wait> {
        let missing = i128::from(needed) * NANO - self.level;
        if missing > 0 {
            let rate = u128::from(self.rate.max(1));
            let nanos = missing.unsigned_abs().div_ceil(rate);
            return Err(Wait(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))));
        }
        self.level -= i128::from(amount) * NANO;
        Ok(())
    }

    fn is_full(&self, now: Duration) -> bool {
        let mut later = self.clone();
        later.refill(self.rate, now);
        later.level == i128::from(self.rate) * NANO
    }
}

#[derive(Debug, Default)]
struct Account {
    totals: Totals,
    in_flight: u32,
    /// None as long as no rate was asked for: full.
    fuel: Option<Tokens>,
    bytes: Option<Tokens>,
    last: Duration,
}

impl Account {
    /// Whether a new account would be the same but for its totals.
    fn is_idle(&self, now: Duration) -> bool {
        let full = |tokens: &Option<Tokens>| tokens.as_ref().is_none_or(|tokens| tokens.is_full(now));
        self.in_flight == 0 && full(&self.fuel) && full(&self.bytes)
    }
}

pub struct Ledger {
    hasher: RandomState,
    shards: [Mutex<HashMap<PrincipalId, Account>>; SHARDS],
    per_shard: usize,
}

/// What somebody waits for whom the ledger has no room for.
const NO_ROOM: Wait = Wait(Duration::from_secs(1));

impl Default for Ledger {
    fn default() -> Self {
        Self::with_capacity(MAX_ACCOUNTS)
    }
}

impl Ledger {
    /// For at most `accounts` payers, at least one for each shard.
    pub fn with_capacity(accounts: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            per_shard: (accounts / SHARDS).max(1),
        }
    }

    /// Takes the fuel that a call is thought to need, at least 1 and at most what the bucket holds.
    pub fn reserve(
        &self,
        payer: &PrincipalId,
        rate: Option<u64>,
        estimate: u64,
        now: Duration,
    ) -> Result<Reserved, Wait> {
        self.with(payer, now, |account| {
            let reserved = rate.map(|rate| estimate.clamp(1, rate.max(1)));
            if let (Some(rate), Some(amount)) = (rate, reserved) {
                let tokens = account.fuel.get_or_insert_with(|| Tokens::full(rate, now));
                tokens.refill(rate, now);
                tokens.take(amount, amount)?;
            }
            account.in_flight += 1;
            Ok(Reserved(reserved))
        })?
    }

    /// Exchanges a reservation for what the call used, or for nothing if it never ran.
    pub fn settle(&self, payer: &PrincipalId, reserved: Reserved, used: Option<Used>, now: Duration) {
        let mut shard = self.shard(payer);
        // It is there: an account with something in flight is never forgotten.
        let Some(account) = shard.get_mut(payer) else { return };
        account.in_flight = account.in_flight.saturating_sub(1);
        account.last = account.last.max(now);
        let fuel = used.as_ref().map_or(0, |used| used.fuel);
        if let (Some(reserved), Some(tokens)) = (reserved.0, &mut account.fuel) {
            tokens.refill(tokens.rate, now);
            let level = tokens.level + (i128::from(reserved) - i128::from(fuel)) * NANO;
            tokens.level = level.min(i128::from(tokens.rate) * NANO);
        }
        if let Some(used) = used {
            let totals = &mut account.totals;
            totals.fuel = totals.fuel.saturating_add(used.fuel);
            totals.calls += 1;
            totals.wall += used.wall;
            totals.peak_memory_bytes = totals.peak_memory_bytes.max(used.peak_memory_bytes);
        }
    }

    /// Charges a message of this many bytes.
    pub fn send(&self, payer: &PrincipalId, rate: Option<u64>, bytes: u64, now: Duration) -> Result<(), Wait> {
        self.with(payer, now, |account| {
            if let Some(rate) = rate {
                let tokens = account.bytes.get_or_insert_with(|| Tokens::full(rate, now));
                tokens.refill(rate, now);
                tokens.take(bytes.min(rate), bytes)?;
            }
            account.totals.bus_bytes = account.totals.bus_bytes.saturating_add(bytes);
            Ok(())
        })?
    }

    pub fn totals(&self, payer: &PrincipalId) -> Totals {
        self.shard(payer).get(payer).map_or_else(Totals::default, |account| account.totals)
    }

    /// Those that did something last, the latest first, at most `most`. Looks at every account.
    pub fn latest(&self, most: usize) -> Vec<(PrincipalId, Totals)> {
        let mut latest: Vec<(Duration, PrincipalId, Totals)> = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("no panic under this lock");
            latest.extend(shard.iter().map(|(payer, account)| (account.last, payer.clone(), account.totals)));
            latest.sort_unstable_by(|a, b| (b.0, &a.1).cmp(&(a.0, &b.1)));
            latest.truncate(most);
        }
        latest.into_iter().map(|(_, payer, totals)| (payer, totals)).collect()
    }

    fn shard(&self, payer: &PrincipalId) -> MutexGuard<'_, HashMap<PrincipalId, Account>> {
        let shard = self.hasher.hash_one(payer) as usize % SHARDS;
        self.shards[shard].lock().expect("no panic under this lock")
    }

    fn with<T>(&self, payer: &PrincipalId, now: Duration, f: impl FnOnce(&mut Account) -> T) -> Result<T, Wait> {
        let mut shard = self.shard(payer);
        if shard.len() >= self.per_shard && !shard.contains_key(payer) {
            make_room(&mut shard, now);
            if shard.len() >= self.per_shard {
                return Err(NO_ROOM);
            }
        }
        let account = shard.entry(payer.clone()).or_default();
        account.last = account.last.max(now);
        Ok(f(account))
    }
}

/// Forgets those that have been idle longest, an eighth of the shard, so that making room is rare.
fn make_room(shard: &mut HashMap<PrincipalId, Account>, now: Duration) {
    let idle = shard.iter().filter(|(_, account)| account.is_idle(now));
    let mut idle: Vec<(Duration, PrincipalId)> = idle.map(|(payer, account)| (account.last, payer.clone())).collect();
    idle.sort_unstable();
    for (_, payer) in idle.into_iter().take(shard.len() / 8 + 1) {
        shard.remove(&payer);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ada() -> PrincipalId {
        PrincipalId::parse("ada").unwrap()
    }

    fn other(n: u32) -> PrincipalId {
        PrincipalId::parse(&format!("p{n}")).unwrap()
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn fuel(fuel: u64) -> Option<Used> {
        Some(Used { fuel, ..Used::default() })
    }

    #[test]
    fn what_was_reserved_and_not_used_comes_back_and_an_overdraft_is_paid_before_the_next_call() {
        let ledger = Ledger::default();
        let reserve = |amount, now| ledger.reserve(&ada(), Some(1000), amount, at(now));
        let first = reserve(600, 0).unwrap();
        // Together they would overrun.
        assert_eq!(reserve(600, 0), Err(Wait(at(200))));
        ledger.settle(&ada(), first, fuel(100), at(0));
        let second = reserve(900, 0).unwrap();
        ledger.settle(&ada(), second, fuel(2900), at(0));
        // 2000 of debt, and one more for the smallest reservation.
        assert_eq!(reserve(1, 0), Err(Wait(at(2001))));
        assert_eq!(reserve(1, 2000), Err(Wait(at(1))));
        assert!(reserve(1, 2001).is_ok());
        assert_eq!((ledger.totals(&ada()).fuel, ledger.totals(&ada()).calls), (3000, 2));
    }

    #[test]
    fn a_call_that_never_ran_costs_nothing_and_counts_as_none() {
        let ledger = Ledger::default();
        let reserved = ledger.reserve(&ada(), Some(1000), 1000, at(0)).unwrap();
        ledger.settle(&ada(), reserved, None, at(0));
        assert!(ledger.reserve(&ada(), Some(1000), 1000, at(0)).is_ok());
        assert_eq!(ledger.totals(&ada()), Totals::default());
    }

    #[test]
    fn an_exempt_payer_is_counted_and_never_refused() {
        let ledger = Ledger::default();
        for _ in 0..100 {
            let reserved = ledger.reserve(&ada(), None, u64::MAX, at(0)).unwrap();
            ledger.settle(&ada(), reserved, fuel(1 << 40), at(0));
            ledger.send(&ada(), None, 1 << 30, at(0)).unwrap();
        }
        let totals = ledger.totals(&ada());
        assert_eq!((totals.fuel, totals.calls, totals.bus_bytes), (100 << 40, 100, 100 << 30));
    }

    #[test]
    fn a_message_larger_than_a_seconds_worth_goes_when_the_bucket_is_full_and_leaves_a_debt() {
        let ledger = Ledger::default();
        let send = |bytes, now| ledger.send(&ada(), Some(1000), bytes, at(now));
        send(3000, 0).unwrap();
        assert_eq!(send(1, 0), Err(Wait(at(2001))));
        send(1, 2001).unwrap();
        assert_eq!(ledger.totals(&ada()).bus_bytes, 3001);
    }

    #[test]
    fn those_that_did_something_last_come_first_and_only_so_many() {
        let ledger = Ledger::default();
        for n in 0..100 {
            ledger.send(&other(n), None, u64::from(n), at(u64::from(n))).unwrap();
        }
        ledger.send(&ada(), None, 7, at(50)).unwrap();
        let latest = ledger.latest(3);
        let bytes: Vec<_> = latest.iter().map(|(payer, totals)| (payer.as_str(), totals.bus_bytes)).collect();
        assert_eq!(bytes, [("p99", 99), ("p98", 98), ("p97", 97)]);
        assert_eq!(ledger.latest(1000).len(), 101);
    }

    #[test]
    fn accounts_are_bounded_and_the_idle_go_and_debtors_never() {
        let ledger = Ledger::with_capacity(16 * SHARDS);
        let debtor = other(0);
        ledger.send(&debtor, Some(1), 1000, at(0)).unwrap();
        for n in 1..10_000 {
            // Each comes when those before it are idle again.
            ledger.send(&other(n), Some(1000), 1, at(u64::from(n) * 10)).unwrap();
        }
        let kept: usize = ledger.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(kept <= 16 * SHARDS, "{kept}");
        assert_eq!(ledger.totals(&debtor).bus_bytes, 1000);
        assert_eq!(ledger.totals(&other(9_999)).bus_bytes, 1);
        assert_eq!(ledger.totals(&other(1)).bus_bytes, 0);
        assert!(ledger.send(&debtor, Some(1), 1, at(0)).is_err());
    }

    #[test]
    fn who_finds_no_room_is_told_to_wait_and_nobody_who_is_busy_is_forgotten() {
        let ledger = Ledger::with_capacity(SHARDS);
        let busy: Vec<_> = (0..1000)
            .filter_map(|n| {
                let reserved = ledger.reserve(&other(n), Some(1000), 1, at(0)).ok()?;
                Some((other(n), reserved))
            })
            .collect();
        assert_eq!(busy.len(), SHARDS);
        assert!(ledger.reserve(&ada(), Some(1000), 1, at(5)).is_err());
        for (payer, reserved) in busy {
            ledger.settle(&payer, reserved, fuel(1), at(10));
            assert_eq!(ledger.totals(&payer).fuel, 1);
        }
        assert!(ledger.reserve(&ada(), Some(1000), 1, at(2000)).is_ok());
    }

    proptest! {
        /// Any interleaving of admissions, ends and pauses, against the plain sums of the module's bound and of what
        /// was used.
        #[test]
        fn nobody_exceeds_rate_times_time_and_burst_by_more_than_what_calls_in_flight_overran(
            rate in 1u64..2_000,
            steps in prop::collection::vec((0u8..3, 0u64..3_000, 0u64..400), 1..200),
        ) {
            let ledger = Ledger::default();
            let mut now = Duration::ZERO;
            // Reserved, and used so far or in the end.
            let mut running: Vec<(Reserved, u64)> = Vec::new();
            let (mut used, mut settled) = (0u64, 0u64);
            // What the calls in flight at the last admission have overrun since then.
            let mut overrun = 0u64;
            for (action, amount, millis) in steps {
                match action {
                    0 => {
                        if let Ok(reserved) = ledger.reserve(&ada(), Some(rate), amount, now) {
                            running.push((reserved, 0));
                            overrun = running.iter().map(|(r, u)| u.saturating_sub(r.0.unwrap())).sum();
                        }
                    }
                    1 if !running.is_empty() => {
                        let (reserved, before) = running.remove(millis as usize % running.len());
                        // It uses some more and ends.
                        let all = before + amount;
                        overrun += all.saturating_sub(reserved.0.unwrap()) - before.saturating_sub(reserved.0.unwrap());
                        used += amount;
                        settled += all;
                        ledger.settle(&ada(), reserved, fuel(all), now);
                    }
                    _ => now += Duration::from_millis(millis),
                }
                let earned = u128::from(rate) * now.as_nanos() / 1_000_000_000;
                prop_assert!(u128::from(used) <= earned + u128::from(rate) + u128::from(overrun));
                prop_assert_eq!(ledger.totals(&ada()).fuel, settled);
            }
            // Nothing is lost either: once it is paid and nothing runs, a whole burst is there again.
            for (reserved, used) in running {
                ledger.settle(&ada(), reserved, fuel(used), now);
            }
            if let Err(Wait(wait)) = ledger.reserve(&ada(), Some(rate), rate, now) {
                prop_assert!(ledger.reserve(&ada(), Some(rate), rate, now + wait).is_ok());
            }
        }

        /// The time that a refusal names is exact: then there is room, and a nanosecond before there is none.
        #[test]
        fn a_refusal_names_the_moment_from_which_there_is_room(
            rate in 1u64..5_000_000_000, overdraft in 1u64..100_000_000_000, estimate in 1u64..10_000_000_000,
        ) {
            let ledger = Ledger::default();
            let first = ledger.reserve(&ada(), Some(rate), estimate, at(0)).unwrap();
            ledger.settle(&ada(), first, fuel(overdraft), at(0));
            if let Err(Wait(wait)) = ledger.reserve(&ada(), Some(rate), estimate, at(0)) {
                let early = wait - Duration::from_nanos(1);
                prop_assert!(ledger.reserve(&ada(), Some(rate), estimate, early).is_err());
                prop_assert!(ledger.reserve(&ada(), Some(rate), estimate, wait).is_ok());
            }
        }
    }
}
