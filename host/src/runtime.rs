//! How much of the machine the host uses at once: `[runtime]` of the configuration, what is taken from the machine
//! where the operator says nothing, and the bound on blocking work.
//!
//! Owns the figures. Instances and the calls that wait for them are counted in [`crate::pool`], host calls that wait
//! for the disk in [`Waits`], work that keeps a thread busy in [`Blocking`]; each of them is one bound for the whole
//! process, never one for each capsule. Why these and no others: docs/decisions/0009-what-is-bounded.md.

use std::num::NonZero;
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::pool::{self, Gate, Lane, Overloaded};
use crate::sched::Bounds;

/// `[runtime]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Instances that may be alive at once (16 to 4000). Derived: what memory carries if every one of them takes all
    /// that it may have, at most 1000.
    pub instances: u32,
    /// The most linear memory that any instance can have, in bytes (1 MiB to 4 GiB).
    pub max_memory_bytes: u64,
    /// Calls that may wait for an instance (1 to 1,000,000).
    pub max_waiting: usize,
    /// Calls of one principal that run at once, where no quota says otherwise (1 to 4000); more wait their turn.
    pub max_concurrent_calls: usize,
    /// Pieces of blocking work at once: compiling, checking and reading archives (1 to 1024). Derived: cores − 2, at
    /// least 2.
    pub blocking: usize,
    /// Commits of guests that wait for the disk at once (1 to 1,000,000); more wait their turn. Derived: 64 for each
    /// core, at most half of the open files that the process may have.
    pub async_io: usize,
    /// Whether a manifest may ask for instances that serve more than one call.
    pub isolation: Isolation,
}

/// `runtime.isolation`: an operator can only tighten what manifests say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// As each manifest says.
    Manifest,
    /// An instance for each call, whatever manifests say.
    Call,
}

/// More instances than this are had by asking for them: each costs address space.
const MAX_DERIVED_INSTANCES: u64 = 1000;
const MIN_INSTANCES: u32 = 16;

impl Default for Config {
    fn default() -> Self {
        Self {
            instances: 1000,
            max_memory_bytes: 64 << 20,
            max_waiting: 4096,
            max_concurrent_calls: 64,
            blocking: 2,
            async_io: 64,
            isolation: Isolation::Manifest,
        }
    }
}

impl Config {
    /// The error names the key, what it is and its bounds.
    pub fn check(&self) -> Result<(), String> {
        for (key, value, min, max) in [
            ("instances", u64::from(self.instances), u64::from(MIN_INSTANCES), 4000),
            ("max-memory-bytes", self.max_memory_bytes, 1 << 20, 4 << 30),
            ("max-waiting", self.max_waiting as u64, 1, 1_000_000),
            ("max-concurrent-calls", self.max_concurrent_calls as u64, 1, 4000),
            ("blocking", self.blocking as u64, 1, 1024),
            ("async-io", self.async_io as u64, 1, 1_000_000),
        ] {
            if !(min..=max).contains(&value) {
                return Err(format!("runtime.{key} = {value} must be {min} to {max}"));
            }
        }
        Ok(())
    }

    /// Takes from the machine what nobody set; the answer is which keys those are.
    pub fn derive(&mut self, machine: &Machine, is_set: impl Fn(&str) -> bool) -> Vec<&'static str> {
        let mut derived = Vec::new();
        if !is_set("instances") {
            let fit = (machine.memory_bytes / self.max_memory_bytes.max(1)).min(MAX_DERIVED_INSTANCES);
            self.instances = u32::try_from(fit).unwrap_or(u32::MAX).max(MIN_INSTANCES);
            derived.push("instances");
        }
        if !is_set("blocking") {
            self.blocking = machine.cores.saturating_sub(2).clamp(2, 1024);
            derived.push("blocking");
        }
        if !is_set("async-io") {
            let half = usize::try_from(machine.open_files / 2).unwrap_or(usize::MAX);
            self.async_io = machine.cores.saturating_mul(64).min(half).clamp(1, 1_000_000);
            derived.push("async-io");
        }
        derived
    }

    /// What the pool is told.
    pub fn pool(&self) -> pool::Config {
        pool::Config {
            instances: self.instances,
            max_memory_bytes: self.max_memory_bytes,
            max_waiting: self.max_waiting,
            max_concurrent_calls: self.max_concurrent_calls,
        }
    }
}

/// What the process may use of the machine that it runs on.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// As the scheduler gives them to this process (affinity, cgroup).
    pub cores: usize,
    /// Memory in bytes: the machine's, or the control group's limit if that is less.
    pub memory_bytes: u64,
    /// The soft limit of open files; without a limit, the largest number.
    pub open_files: u64,
}

impl Machine {
    pub fn probe() -> Self {
        let info = rustix::system::sysinfo();
        let total = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
        let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        // No file, or "max": no limit.
        let limit = limits.iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok()).min();
        Self {
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            memory_bytes: limit.map_or(total, |limit| total.min(limit)),
            open_files: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        }
    }
}

/// Room for work that keeps a thread busy. In the order of arrival; work whose caller has gone away still counts until
/// it is done, because it still runs.
#[derive(Debug, Clone)]
pub struct Blocking(Arc<Semaphore>);

impl Blocking {
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Runs `work` on a thread that may block, once there is room. Fails if it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        let room = self.0.clone().acquire_owned().await.expect("it is never closed");
        metrics::counter!("astrid_blocking_jobs_total").increment(1);
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop(room);
            done
        })
        .await
    }
}

/// Room for host calls that wait for the disk. What waits for another guest never takes any: its room would be held
/// while that guest needs some itself.
pub struct Waits(Gate);

impl Waits {
    pub fn new(config: &Config) -> Self {
        let bounds = Bounds { slots: config.async_io, waiting: config.max_waiting };
        Self(Gate::new(bounds))
    }

    /// Runs `wait` in its turn: principals take turns, each its calls in order. Overloaded if too many are in line, or
    /// the turn does not come before the deadline.
    pub async fn run<T>(&self, lane: Lane, deadline: Instant, wait: impl Future<Output = T>) -> Result<T, Overloaded> {
        let room = self.0.admit((lane, false), usize::MAX, deadline).await;
        let outcome = if room.is_ok() { "admitted" } else { "overloaded" };
        metrics::counter!("astrid_async_io_total", "outcome" => outcome).increment(1);
        let _room = room?;
        Ok(wait.await)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use astrid_capsule::PrincipalId;

    use super::*;

    fn derived(cores: usize, memory_bytes: u64, open_files: u64, set: &[&str]) -> (Config, Vec<&'static str>) {
        let mut config = Config::default();
        let keys = config.derive(&Machine { cores, memory_bytes, open_files }, |key| set.contains(&key));
        config.check().unwrap();
        (config, keys)
    }

    #[test]
    fn what_nobody_set_is_taken_from_the_machine_and_within_bounds() {
        let (config, keys) = derived(8, 16 << 30, 1 << 20, &[]);
        assert_eq!((config.instances, config.blocking, config.async_io), (256, 6, 512));
        assert_eq!(keys, ["instances", "blocking", "async-io"]);
        let (config, _) = derived(1, 256 << 20, 60, &[]);
        assert_eq!((config.instances, config.blocking, config.async_io), (16, 2, 30));
        let (config, _) = derived(4096, u64::MAX, u64::MAX, &[]);
        assert_eq!((config.instances, config.blocking, config.async_io), (1000, 1024, 262_144));
        let (config, keys) = derived(8, 16 << 30, 1 << 20, &["instances", "async-io"]);
        assert_eq!((config.instances, config.async_io, keys), (1000, 64, vec!["blocking"]));
    }

    #[test]
    fn zero_is_refused_by_the_name_of_its_key() {
        let keys = ["instances", "max-memory-bytes", "max-waiting", "max-concurrent-calls", "blocking", "async-io"];
        for key in keys {
            let config: Config = toml::from_str(&format!("{key} = 0")).unwrap();
            let error = config.check().unwrap_err();
            assert!(error.starts_with(&format!("runtime.{key} = 0 must be ")), "{error}");
        }
    }

    #[test]
    fn this_machine_has_something() {
        let machine = Machine::probe();
        assert!(machine.cores >= 1 && machine.memory_bytes >= 64 << 20 && machine.open_files >= 16, "{machine:?}");
    }

    #[tokio::test]
    async fn blocking_work_runs_so_much_at_once_whoever_asks_and_whoever_goes_away() {
        let blocking = Blocking::new(2);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let (running, most) = (running.clone(), most.clone());
            move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let mut asked = tokio::task::JoinSet::new();
        for n in 0..20 {
            let (blocking, work) = (blocking.clone(), work());
            asked.spawn(async move {
                // Half of them don't wait for the end.
                let patience = Duration::from_millis(if n % 2 == 0 { 1 } else { 60_000 });
                let _ = tokio::time::timeout(patience, blocking.run(work)).await;
            });
        }
        while asked.join_next().await.is_some() {}
        blocking.run(|| ()).await.unwrap();
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    #[tokio::test]
    async fn waiting_host_calls_are_bounded_take_turns_and_end_at_their_deadline() {
        let config = Config { async_io: 1, max_waiting: 3, ..Config::default() };
        let waits = Arc::new(Waits::new(&config));
        let lane = |who: &str| Lane::Principal(PrincipalId::parse(who).unwrap());
        let far = Instant::now() + Duration::from_secs(60);
        let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
        let (open, door) = tokio::sync::oneshot::channel::<()>();
        let ask = |who: &'static str| {
            let (waits, order) = (waits.clone(), order.clone());
            tokio::spawn(async move { waits.run(lane(who), far, async { order.send(who) }).await })
        };
        let holder = {
            let waits = waits.clone();
            tokio::spawn(async move { waits.run(lane("flood"), far, door).await })
        };
        tokio::task::yield_now().await;
        let mut asked = Vec::new();
        for who in ["flood", "flood", "polite"] {
            asked.push(ask(who));
            tokio::task::yield_now().await;
        }
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(waits.run(lane("late"), soon, async {}).await, Err(Overloaded), "three are in line");
        open.send(()).unwrap();
        assert!(holder.await.unwrap().is_ok());
        for asked in asked {
            assert!(asked.await.unwrap().is_ok());
        }
        let mut order = Vec::new();
        while let Ok(who) = served.try_recv() {
            order.push(who);
        }
        assert!(order.len() == 3 && order[2] == "flood", "{order:?}");
    }
}
