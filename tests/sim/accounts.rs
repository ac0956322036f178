//! Who pays: `meter::ledger::Ledger` beside a plain bucket for each payer and rate.

use std::collections::BTreeMap;
use std::time::Duration;

use astrid_capsule::PrincipalId;
use astrid_host::meter::ledger::{Ledger, Reserved, Used, Wait};

use crate::world::{CallId, Time};

const NANO: i128 = 1_000_000_000;

pub(crate) struct Accounts {
    ledger: Ledger,
    payers: Vec<Payer>,
}

struct Payer {
    id: PrincipalId,
    fuel: Option<Bucket>,
    bytes: Option<Bucket>,
    in_flight: BTreeMap<CallId, (Reserved, u64)>,
    /// Of those in flight at the last admission: what the ones that ended have overrun their reservations by.
    overrun: u64,
    settled: u64,
    calls: u64,
    sent: u64,
    last_sent: u64,
}

/// What is there, in billionths of a unit: at most a second's worth.
struct Bucket {
    rate: u64,
    level: i128,
    at: Time,
}

impl Bucket {
    fn full(rate: u64) -> Self {
        Self { rate, level: i128::from(rate) * NANO, at: 0 }
    }

    fn change(&mut self, by: i128, now: Time) {
        self.refill(now);
        self.level = (self.level + by * NANO).min(i128::from(self.rate) * NANO);
    }

    fn refill(&mut self, now: Time) {
        let earned = i128::from(self.rate) * i128::from(now - self.at);
        (self.level, self.at) = ((self.level + earned).min(i128::from(self.rate) * NANO), now);
    }

    /// What must pass until so much is there.
    fn wait(&mut self, amount: u64, now: Time) -> Result<(), Wait> {
        self.refill(now);
        let missing = i128::from(amount) * NANO - self.level;
        if missing <= 0 {
            return Ok(());
        }
        let nanos = missing.unsigned_abs().div_ceil(u128::from(self.rate));
        Err(Wait(Duration::from_nanos(u64::try_from(nanos).expect("rates are not that small"))))
    }

    /// Rate times time and a second's worth.
    fn earned(&self, now: Time) -> u128 {
        u128::from(self.rate) * u128::from(now) / NANO.unsigned_abs() + u128::from(self.rate)
    }
}

impl Accounts {
    /// One payer for each pair of rates (fuel, bytes; a second); None: exempt.
    pub(crate) fn new(rates: impl IntoIterator<Item = (Option<u64>, Option<u64>)>) -> Self {
        let payers = rates.into_iter().enumerate().map(|(n, (fuel, bytes))| Payer {
            id: PrincipalId::parse(&format!("p{n}")).expect("a valid id"),
            fuel: fuel.map(Bucket::full),
            bytes: bytes.map(Bucket::full),
            in_flight: BTreeMap::new(),
            overrun: 0,
            settled: 0,
            calls: 0,
            sent: 0,
            last_sent: 0,
        });
        Self { ledger: Ledger::default(), payers: payers.collect() }
    }

    /// Reserves for a call; `used` tells what a call in flight has used.
    pub(crate) fn reserve(&mut self, payer: usize, call: CallId, estimate: u64, now: Time) -> Result<(), Time> {
        let Payer { id, fuel, in_flight, overrun, .. } = &mut self.payers[payer];
        let rate = fuel.as_ref().map(|bucket| bucket.rate);
        let amount = rate.map_or(estimate, |rate| estimate.clamp(1, rate));
        let expected = fuel.as_mut().map_or(Ok(()), |bucket| bucket.wait(amount, now));
        let reserved = self.ledger.reserve(id, rate, estimate, Duration::from_nanos(now));
        assert_eq!(reserved.map(|_| ()), expected, "the ledger's word on a call of {id} is wrong");
        let reserved = reserved.map_err(|wait| nanos(wait.0))?;
        if let Some(bucket) = fuel {
            bucket.change(-i128::from(amount), now);
        }
        assert!(in_flight.insert(call, (reserved, amount)).is_none(), "reserved twice");
        *overrun = 0;
        Ok(())
    }

    /// Ends a call: what it used, or None if it never ran.
    pub(crate) fn settle(&mut self, payer: usize, call: CallId, used: Option<u64>, now: Time) {
        let one = &mut self.payers[payer];
        let (reserved, amount) = one.in_flight.remove(&call).expect("settled once, what was reserved");
        let fuel = used.unwrap_or(0);
        if let Some(bucket) = &mut one.fuel {
            bucket.change(i128::from(amount) - i128::from(fuel), now);
        }
        one.overrun += fuel.saturating_sub(amount);
        one.settled += fuel;
        one.calls += u64::from(used.is_some());
        let used = used.map(|fuel| Used { fuel, ..Used::default() });
        self.ledger.settle(&one.id, reserved, used, Duration::from_nanos(now));
        let totals = self.ledger.totals(&one.id);
        assert_eq!((totals.fuel, totals.calls), (one.settled, one.calls), "the ledger's totals of {}", one.id);
    }

    /// Charges a message.
    pub(crate) fn send(&mut self, payer: usize, size: usize, now: Time) -> Result<(), Time> {
        let one = &mut self.payers[payer];
        let (rate, size) = (one.bytes.as_ref().map(|bucket| bucket.rate), size as u64);
        let needed = rate.map_or(0, |rate| size.min(rate));
        let expected = one.bytes.as_mut().map_or(Ok(()), |bucket| bucket.wait(needed, now));
        let sent = self.ledger.send(&one.id, rate, size, Duration::from_nanos(now));
        assert_eq!(sent, expected, "the ledger's word on a message of {} is wrong", one.id);
        sent.map_err(|wait| nanos(wait.0))?;
        if let Some(bucket) = &mut one.bytes {
            bucket.change(-i128::from(size), now);
        }
        (one.sent, one.last_sent) = (one.sent + size, size);
        Ok(())
    }

    /// What a payer's calls have used, those in flight included.
    pub(crate) fn used(&self, payer: usize, used: impl Fn(CallId) -> u64) -> u64 {
        let one = &self.payers[payer];
        one.settled + one.in_flight.keys().map(|call| used(*call)).sum::<u64>()
    }

    /// The bounds of docs/decisions/0010-quotas.md: rate times time, a second's worth, and what those in flight at the last
    /// admission overran.
    pub(crate) fn check(&self, now: Time, used: impl Fn(CallId) -> u64 + Copy) {
        for (n, one) in self.payers.iter().enumerate() {
            if let Some(bucket) = &one.fuel {
                let over = |(call, (_, amount)): (&CallId, &(Reserved, u64))| used(*call).saturating_sub(*amount);
                let overrun = one.overrun + one.in_flight.iter().map(over).sum::<u64>();
                let (all, bound) = (self.used(n, used), bucket.earned(now) + u128::from(overrun));
                assert!(u128::from(all) <= bound, "{} used {all} units of at most {bound}", one.id);
            }
            if let Some(bucket) = &one.bytes {
                let bound = bucket.earned(now) + u128::from(one.last_sent.saturating_sub(bucket.rate));
                assert!(u128::from(one.sent) <= bound, "{} sent {} bytes of at most {bound}", one.id, one.sent);
            }
        }
    }

    /// No reservation is left, and nothing of one: once the debt is paid, a whole second's worth is there, neither
    /// earlier nor later.
    pub(crate) fn check_empty(&mut self, now: Time) {
        for n in 0..self.payers.len() {
            assert!(self.payers[n].in_flight.is_empty(), "reservations are left");
            if let Some(rate) = self.payers[n].fuel.as_ref().map(|bucket| bucket.rate)
                && let Err(wait) = self.reserve(n, CallId::MAX, rate, now)
            {
                self.reserve(n, CallId::MAX, rate, now + wait).expect("the time that a refusal names is enough");
            }
        }
    }
}

fn nanos(wait: Duration) -> Time {
    u64::try_from(wait.as_nanos()).expect("made from nanoseconds")
}
