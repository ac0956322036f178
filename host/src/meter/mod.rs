//! What may be used, and what was: by one call, by a principal, by a capsule.
//!
//! Owns the resource limits of a store, the quotas in force ([`quotas`]), the ledger of payers ([`ledger`]) and the
//! totals of each capsule. Every call goes through [`Meter::begin`] and every message through [`Meter::send`]; both ask
//! [`Meter::is_exempt`], which is also what usage shows. The host's own doings (starting a capsule, authenticating) are
//! held to the manifest alone. A client who has not said who they are has the default memory and time, and no account:
//! behind one address there may be many, and who floods would lock them out; fair shares keep these apart.
//!
//! Bounded: the ledger's accounts, and one record for each capsule that was ever loaded by this process. Refuses to
//! know who should have which quota, and what a call is for.

mod breath;
pub mod ledger;
pub mod quotas;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

pub use breath::Breath;

use astrid_capsule::manifest::Limits;
use astrid_capsule::{Capability, PrincipalId};
use wasmtime::ResourceLimiter;

use crate::authority::{Authority, Mandate};
use crate::pool::Lane;
use ledger::{Ledger, Reserved, Totals, Used, Wait};
use quotas::Effective;

/// Fuel between two points at which a guest lets others run: about a third of a millisecond here. Smaller slices cost
/// more than they give (figures in docs/specification.md).
pub const FUEL_SLICE: u64 = 1_000_000;
/// The most bytes that a guest may hand to the host in one host call or in its answer.
pub const HOST_CALL_BYTES: usize = 32 << 20;
/// The most random bytes of one host call.
pub const RANDOM_BYTES: u64 = 1 << 20;
/// The most resource handles that one instance may hold.
pub const MAX_HANDLES: usize = 1024;

const MAX_TABLE_ELEMENTS: usize = 10_000;
/// Core instances of one component: a JavaScript one has nine.
pub const MAX_CORE_INSTANCES: u32 = 16;
const MAX_TABLES: usize = 4;
/// Linear memories of one component: a JavaScript one has two. Their bytes count together.
pub const MAX_MEMORIES: u32 = 2;

/// The bounds of one call, after the host's own ceilings.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub memory_bytes: usize,
    pub fuel: u64,
    pub timeout: Duration,
}

impl Bounds {
    /// What a manifest wants, lowered to what the host's pool can give.
    pub fn new(limits: &Limits, pool_memory_bytes: usize) -> Self {
        Self {
            memory_bytes: usize::try_from(limits.max_memory_bytes).unwrap_or(usize::MAX).min(pool_memory_bytes),
            fuel: limits.max_fuel,
            timeout: Duration::from_millis(limits.timeout_ms),
        }
    }

    /// These, lowered to what the payer may use; the fuel of one call is the manifest's business.
    fn within(self, limits: &Effective) -> Self {
        Self {
            memory_bytes: self.memory_bytes.min(usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX)),
            timeout: self.timeout.min(Duration::from_secs(limits.timeout_secs)),
            ..self
        }
    }
}

/// Exempts from the two rates.
static UNBOUNDED: LazyLock<Capability> =
    LazyLock::new(|| Capability::parse("system:resources:unbounded").expect("it fits the grammar"));

pub struct Meter {
    authority: Arc<Authority>,
    ledger: Ledger,
    capsules: Mutex<BTreeMap<Arc<str>, Arc<Tally>>>,
    defaults: Effective,
    started: Instant,
}

/// What the calls into one capsule have used since the host started, and what the next is thought to need.
#[derive(Debug, Default)]
pub struct Tally {
    fuel: AtomicU64,
    calls: AtomicU64,
    peak_memory_bytes: AtomicU64,
    /// Of the fuel of a call; moves an eighth of the way with each. Two calls that end at once may count as one.
    average_fuel: AtomicU64,
}

/// A capsule's totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapsuleTotals {
    pub fuel: u64,
    pub calls: u64,
    pub peak_memory_bytes: u64,
}

impl Tally {
    /// Twice the average, at least a slice, at most `bound`.
    fn estimate(&self, bound: u64) -> u64 {
        self.average_fuel.load(Ordering::Relaxed).saturating_mul(2).max(FUEL_SLICE).min(bound)
    }

    fn add(&self, used: &Used) {
        self.fuel.fetch_add(used.fuel, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.peak_memory_bytes.fetch_max(used.peak_memory_bytes, Ordering::Relaxed);
        let average = self.average_fuel.load(Ordering::Relaxed);
        let moved = if average == 0 { used.fuel } else { average - average / 8 + used.fuel / 8 };
        self.average_fuel.store(moved, Ordering::Relaxed);
    }

    pub fn totals(&self) -> CapsuleTotals {
        CapsuleTotals {
            fuel: self.fuel.load(Ordering::Relaxed),
            calls: self.calls.load(Ordering::Relaxed),
            peak_memory_bytes: self.peak_memory_bytes.load(Ordering::Relaxed),
        }
    }
}

/// What a principal has used and may use.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub totals: Totals,
    pub limits: Effective,
    pub exempt: bool,
}

impl Meter {
    /// `concurrent_calls`: the default of that quota.
    pub fn new(authority: Arc<Authority>, concurrent_calls: usize) -> Self {
        Self {
            authority,
            ledger: Ledger::default(),
            capsules: Mutex::default(),
            defaults: Effective::defaults(concurrent_calls),
            started: Instant::now(),
        }
    }

    /// Whether the two rates do not bind this principal.
    pub fn is_exempt(&self, principal: &PrincipalId) -> bool {
        self.authority.decide(principal, &Mandate::default(), &UNBOUNDED, None).allowed
    }

    /// The limits in force; the defaults for whoever has no standing.
    pub fn limits(&self, principal: &PrincipalId) -> Effective {
        self.defaults.with(&self.authority.quotas(principal).unwrap_or_default())
    }

    /// None if nobody has published a standing for it.
    pub fn usage(&self, principal: &PrincipalId) -> Option<Usage> {
        let quotas = self.authority.quotas(principal)?;
        let totals = self.ledger.totals(principal);
        Some(Usage { totals, limits: self.defaults.with(&quotas), exempt: self.is_exempt(principal) })
    }

    /// Sandboxed children that a principal may have at once.
    pub fn children(&self, principal: &PrincipalId) -> usize {
        self.defaults.with(&self.authority.quotas(principal).unwrap_or_default()).processes
    }

    /// The record of a capsule, the same for all of its generations.
    pub fn capsule(&self, id: &Arc<str>) -> Arc<Tally> {
        let mut capsules = self.capsules.lock().expect("no panic under this lock");
        capsules.entry(id.clone()).or_default().clone()
    }

    /// Every capsule's totals, sorted by id.
    pub fn capsules(&self) -> Vec<(Arc<str>, CapsuleTotals)> {
        let capsules = self.capsules.lock().expect("no panic under this lock");
        capsules.iter().map(|(id, tally)| (id.clone(), tally.totals())).collect()
    }

    /// The totals of those principals that did something last, the latest first, at most `most`.
    pub fn latest(&self, most: usize) -> Vec<(PrincipalId, Totals)> {
        self.ledger.latest(most)
    }

    /// Judges a call before it is admitted: its bounds, how many of its lane may run, and its reservation of fuel, held
    /// until the charge is dropped.
    pub fn begin(self: &Arc<Self>, lane: &Lane, capsule: &Arc<Tally>, bounds: Bounds) -> Result<Charge, Wait> {
        let (payer, limits) = match lane {
            Lane::Host => (None, None),
            Lane::Expected(_) | Lane::Address(_) | Lane::User(_) => (None, Some(self.defaults)),
            Lane::Principal(id) => (Some(id), Some(self.limits(id))),
        };
        let bounds = limits.as_ref().map_or(bounds, |limits| bounds.within(limits));
        let (Some(payer), Some(limits)) = (payer, limits) else {
            let concurrent_calls = match lane {
                // As many as anybody has of whom nothing else is said.
                Lane::Expected(_) => self.defaults.concurrent_calls,
                _ => usize::MAX,
            };
            let (meter, capsule) = (self.clone(), capsule.clone());
            return Ok(Charge { meter, capsule, payer: None, bounds, concurrent_calls, used: None });
        };
        let rate = (!self.is_exempt(payer)).then_some(limits.fuel_per_sec);
        let reserved = self.ledger.reserve(payer, rate, capsule.estimate(bounds.fuel), self.started.elapsed());
        let payer = Some((payer.clone(), reserved.inspect_err(|_| refused("fuel"))?));
        let concurrent_calls = limits.concurrent_calls;
        Ok(Charge { meter: self.clone(), capsule: capsule.clone(), payer, bounds, concurrent_calls, used: None })
    }

    /// Judges and charges a message that a principal's call sends.
    pub fn send(&self, principal: &PrincipalId, bytes: usize) -> Result<(), Wait> {
        let rate = (!self.is_exempt(principal)).then(|| self.limits(principal).bus_bytes_per_sec);
        let sent = self.ledger.send(principal, rate, bytes as u64, self.started.elapsed());
        sent.inspect_err(|_| refused("bus-bytes"))
    }
}

fn refused(rate: &'static str) {
    metrics::counter!("astrid_quota_refusals_total", "rate" => rate).increment(1);
}

/// A call that was let in: its bounds, and what it owes. Settles when it is dropped, however the call ended.
pub struct Charge {
    meter: Arc<Meter>,
    capsule: Arc<Tally>,
    payer: Option<(PrincipalId, Reserved)>,
    pub bounds: Bounds,
    /// How many calls of its lane may run at once.
    pub concurrent_calls: usize,
    used: Option<Used>,
}

impl Charge {
    /// It ran, and used this.
    pub fn used(&mut self, used: Used) {
        self.used = Some(used);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(used) = &self.used {
            self.capsule.add(used);
        }
        if let Some((payer, reserved)) = &self.payer {
            self.meter.ledger.settle(payer, *reserved, self.used, self.meter.started.elapsed());
        }
    }
}

/// How long a call has waited inside host functions, so that "slow" can be told from "busy": what is left of its
/// duration it computed, or stood in line for an instance or a core. Counted around the functions of `astrid:*` that
/// wait (requests, commits, credentials, installations); a wait that is given up counts up to then. Time in which a
/// future is polled would not do: a request's callee runs within it.
#[derive(Debug, Clone, Default)]
pub struct HostWait(Arc<AtomicU64>);

impl HostWait {
    pub fn around<F: Future>(&self, wait: F) -> impl Future<Output = F::Output> + use<F> {
        let counted = self.clone();
        async move {
            let _counting = Counting { counted, since: Instant::now() };
            wait.await
        }
    }

    pub fn so_far(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

struct Counting {
    counted: HostWait,
    since: Instant,
}

impl Drop for Counting {
    fn drop(&mut self) {
        let nanoseconds = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counted.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

/// Enforces a store's limits and remembers its peak.
#[derive(Debug)]
pub struct Limiter {
    /// What all memories of the instance together may have.
    memory_bytes: usize,
    /// What they have.
    held_bytes: usize,
    peak_memory_bytes: usize,
    /// Growth was refused: what a trap that follows is about.
    exceeded: bool,
}

impl Limiter {
    pub fn new(bounds: &Bounds) -> Self {
        Self { memory_bytes: bounds.memory_bytes, held_bytes: 0, peak_memory_bytes: 0, exceeded: false }
    }

    pub fn peak_memory_bytes(&self) -> usize {
        self.peak_memory_bytes
    }

    /// From now on so many bytes; what is there stays.
    pub fn bound(&mut self, memory_bytes: usize) {
        self.memory_bytes = memory_bytes;
    }

    pub fn exceeded(&self) -> bool {
        self.exceeded
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let held = self.held_bytes.saturating_add(desired.saturating_sub(current));
        let fits = held <= self.memory_bytes;
        if fits {
            self.held_bytes = held;
            self.peak_memory_bytes = self.peak_memory_bytes.max(held);
        } else {
            self.exceeded = true;
        }
        Ok(fits)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= MAX_TABLE_ELEMENTS;
        self.exceeded |= !fits;
        Ok(fits)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Change, Standing};
    use quotas::Quotas;

    const BOUNDS: Bounds = Bounds { memory_bytes: 32 << 20, fuel: 10_000_000_000, timeout: Duration::from_secs(30) };

    fn id(text: &str) -> PrincipalId {
        PrincipalId::parse(text).unwrap()
    }

    fn meter(quotas: Quotas, grants: &[&str]) -> Arc<Meter> {
        let authority = Arc::new(Authority::new());
        let grants = grants.iter().map(|g| Capability::parse(g).unwrap()).collect();
        let standing = Standing::new(true, vec![], grants, vec![]).with_quotas(quotas);
        authority.apply(1, vec![Change::SetPrincipal(id("ada"), standing)]);
        Arc::new(Meter::new(authority, 64))
    }

    fn tiny() -> Quotas {
        Quotas {
            max_memory_bytes: Some(1 << 20),
            max_timeout_secs: Some(2),
            max_cpu_fuel_per_sec: Some(1000),
            max_ipc_throughput_bytes: Some(1000),
            max_concurrent_calls: Some(3),
            ..Quotas::default()
        }
    }

    #[test]
    fn a_call_gets_the_least_of_what_its_capsule_and_its_payer_may_use() {
        let meter = meter(tiny(), &[]);
        let tally = meter.capsule(&"notes".into());
        let charge = meter.begin(&Lane::Principal(id("ada")), &tally, BOUNDS).unwrap();
        assert_eq!((charge.bounds.memory_bytes, charge.bounds.timeout), (1 << 20, Duration::from_secs(2)));
        assert_eq!(charge.concurrent_calls, 3);
        let host = meter.begin(&Lane::Host, &tally, BOUNDS).unwrap();
        assert_eq!((host.bounds.memory_bytes, host.bounds.timeout), (BOUNDS.memory_bytes, BOUNDS.timeout));
    }

    #[test]
    fn an_exemption_lifts_the_rates_and_nothing_else_and_usage_shows_it() {
        for (grants, exempt) in [(&["system:resources:unbounded"][..], true), (&["*"], true), (&["self:*"], false)] {
            let meter = meter(tiny(), grants);
            let (lane, tally) = (Lane::Principal(id("ada")), meter.capsule(&"notes".into()));
            let mut first = meter.begin(&lane, &tally, BOUNDS).unwrap();
            assert_eq!((first.bounds.memory_bytes, first.concurrent_calls), (1 << 20, 3));
            first.used(Used { fuel: 1 << 40, ..Used::default() });
            drop(first);
            assert_eq!(meter.begin(&lane, &tally, BOUNDS).is_ok(), exempt, "{grants:?}");
            meter.send(&id("ada"), 1 << 20).unwrap();
            assert_eq!(meter.send(&id("ada"), 1).is_ok(), exempt, "{grants:?}");
            let usage = meter.usage(&id("ada")).unwrap();
            assert_eq!((usage.exempt, usage.totals.fuel, usage.limits.fuel_per_sec), (exempt, 1 << 40, 1000));
        }
        assert!(meter(tiny(), &[]).usage(&id("bob")).is_none());
    }

    #[test]
    fn memories_of_an_instance_count_together_and_what_is_refused_takes_nothing() {
        let mut limiter = Limiter::new(&Bounds { memory_bytes: 100, ..BOUNDS });
        let mut grow = |from, to| limiter.memory_growing(from, to, None).unwrap();
        assert!(grow(0, 60) && grow(0, 30) && !grow(60, 80) && grow(60, 70));
        assert_eq!((limiter.peak_memory_bytes(), limiter.exceeded()), (100, true));
    }

    #[test]
    fn calls_add_up_by_capsule_and_the_estimate_follows_them() {
        let meter = meter(Quotas::default(), &[]);
        let tally = meter.capsule(&"notes".into());
        assert_eq!(tally.estimate(BOUNDS.fuel), FUEL_SLICE);
        for _ in 0..3 {
            let mut charge = meter.begin(&Lane::Host, &tally, BOUNDS).unwrap();
            charge.used(Used { fuel: 40_000_000, peak_memory_bytes: 7, ..Used::default() });
        }
        // Never ran.
        drop(meter.begin(&Lane::Host, &tally, BOUNDS).unwrap());
        assert_eq!(tally.estimate(BOUNDS.fuel), 80_000_000);
        assert_eq!(tally.estimate(5), 5);
        let totals = CapsuleTotals { fuel: 120_000_000, calls: 3, peak_memory_bytes: 7 };
        assert_eq!(meter.capsules(), [("notes".into(), totals)]);
    }

    #[test]
    fn clients_without_a_name_have_the_default_memory_and_time_and_no_account() {
        let meter = meter(Quotas::default(), &[]);
        let tally = meter.capsule(&"gateway".into());
        let large = Bounds { memory_bytes: 1 << 30, timeout: Duration::from_secs(3600), ..BOUNDS };
        for _ in 0..2 {
            let lane = Lane::Address(std::net::IpAddr::from([127, 0, 0, 1]));
            let mut charge = meter.begin(&lane, &tally, large).unwrap();
            assert_eq!((charge.bounds.memory_bytes, charge.bounds.timeout), (64 << 20, Duration::from_secs(300)));
            charge.used(Used { fuel: 1 << 40, ..Used::default() });
        }
        assert_eq!(tally.totals().calls, 2);
    }

    #[tokio::test]
    async fn waits_add_up_and_one_that_is_given_up_counts() {
        let waited = HostWait::default();
        waited.around(tokio::time::sleep(Duration::from_millis(10))).await;
        let first = waited.so_far();
        assert!(first >= Duration::from_millis(10));
        let given_up = waited.around(std::future::pending::<()>());
        assert!(tokio::time::timeout(Duration::from_millis(10), given_up).await.is_err());
        assert!(waited.so_far() >= first + Duration::from_millis(10));
    }
}
