//! The engine, its instance pool, and admission to it.
//!
//! Owns compiled code's engines and the count of live instances. Ordinary capsules run on an engine without
//! component-model concurrency; guests of WASI 0.3 get one that has it, made when the first of them is loaded. A fresh
//! instance costs about 9 µs with the allocator settings that are probed here at boot. A store is never shared by two
//! calls at once; what may be used by one call after another waits in [`Warm`], under the key that alone gets it.
//!
//! Bounded by `instances`: a call that finds no room waits for its turn ([`crate::sched`]) until its deadline, and at
//! most `max-waiting` calls wait; the others are told `overloaded` at once. Calls made by calls have three quarters of
//! the instances to themselves, so those who hold one while they wait for another can't lock each other out.
//! Refuses to know: what runs in an instance, and for whom.

mod admission;
mod shelf;
mod warm;

use std::sync::Mutex;

use tokio::time::Instant;
use wasmtime::{Config as EngineConfig, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::meter::{MAX_CORE_INSTANCES, MAX_MEMORIES};
use crate::sched::Bounds;
pub(crate) use admission::Gate;
pub use admission::{Lane, Permit, Rank};
pub use shelf::Why;
pub use warm::{Seat, Warm};

/// How large the pool is; checked before it gets here.
#[derive(Debug, Clone)]
pub struct Config {
    /// Instances that may be alive at once, at least 16.
    pub instances: u32,
    /// The most linear memory that any instance can have, in bytes.
    pub max_memory_bytes: u64,
    /// Calls that may wait for an instance.
    pub max_waiting: usize,
    /// Calls of one principal that run at once, where no quota says otherwise; more wait their turn.
    pub max_concurrent_calls: usize,
}

/// What boot found out about the machine.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Instances that fit, at most as many as configured.
    pub instances: u32,
    /// What is not as it should be, in sentences; empty where all is well.
    pub warnings: Vec<String>,
}

/// Which of the two engines a component needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// Sync-typed guests: three times cheaper calls (docs/decisions/0003-two-engines.md).
    Without,
    /// Guests of WASI 0.3.
    With,
}

pub struct Pool {
    config: Config,
    engine: Engine,
    concurrent: Mutex<Option<Engine>>,
    probe: Probe,
    /// For calls from outside.
    outer: Gate,
    /// For calls made by calls.
    nested: Gate,
    pagemap: bool,
}

/// There is no room for this call now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded;

/// Bytes of an instance's memory that stay resident when it ends, reset in place instead of unmapped.
const KEEP_RESIDENT: usize = 1 << 20;

impl Pool {
    /// Builds the engine with the largest pool that fits, up to the configured one. What had to give is in
    /// [`Probe::warnings`], never silent.
    pub fn new(config: &Config) -> wasmtime::Result<Self> {
        let mut warnings = Vec::new();
        let (mut instances, mut pagemap) = (config.instances, true);
        let engine = loop {
            let error = match Engine::new(&engine_config(config, instances, pagemap, Concurrency::Without)) {
                Ok(engine) => break engine,
                Err(error) => error,
            };
            if pagemap {
                // Tell the two reasons apart: the same size without the page-map scan.
                pagemap = false;
                if Engine::new(&engine_config(config, instances, false, Concurrency::Without)).is_ok() {
                    warnings.push(format!(
                        "the kernel has no PAGEMAP_SCAN (Linux 6.7): fresh instances cost several times as much ({error:#})"
                    ));
                    continue;
                }
                pagemap = true;
            }
            if instances <= 16 {
                return Err(error.context("not even 16 instances fit into the address space"));
            }
            warnings.push(format!(
                "a pool of {instances} instances does not fit: {error:#}; trying {}",
                (instances / 2).max(16)
            ));
            instances = (instances / 2).max(16);
        };
        for warning in &warnings {
            tracing::error!("instance pool degraded: {warning}");
        }
        metrics::gauge!("astrid_pool_instances").set(instances);
        metrics::gauge!("astrid_pool_degraded").set(if warnings.is_empty() { 0 } else { 1 });
        let outer = (instances as usize / 4).max(1);
        let nested = instances as usize - outer;
        let waiting = config.max_waiting;
        Ok(Self {
            outer: Gate::new(Bounds { slots: outer, waiting }),
            nested: Gate::new(Bounds { slots: nested, waiting }),
            config: config.clone(),
            engine,
            concurrent: Mutex::new(None),
            pagemap,
            probe: Probe { instances, warnings },
        })
    }

    /// The engine for a component. The second one is made on first use, with as many instances as the first.
    pub fn engine(&self, concurrency: Concurrency) -> wasmtime::Result<Engine> {
        if concurrency == Concurrency::Without {
            return Ok(self.engine.clone());
        }
        let mut concurrent = self.concurrent.lock().expect("no panic under this lock");
        if let Some(engine) = &*concurrent {
            return Ok(engine.clone());
        }
        let engine = Engine::new(&engine_config(&self.config, self.probe.instances, self.pagemap, concurrency))?;
        tracing::info!("made the engine for guests of WASI 0.3");
        Ok(concurrent.insert(engine).clone())
    }

    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Instances that are alive now.
    pub fn in_use(&self) -> u64 {
        let live = |engine: &Engine| engine.pooling_allocator_metrics().map_or(0, |m| m.component_instances());
        live(&self.engine) + self.concurrent.lock().expect("no panic under this lock").as_ref().map_or(0, live)
    }

    /// Capsules that may have a run loop, each of which holds an instance: a quarter of those for calls made by calls.
    pub fn run_loops(&self) -> usize {
        let instances = self.probe.instances as usize;
        (instances - (instances / 4).max(1)) / 4
    }

    /// Calls that wait for an instance.
    pub fn waiting(&self) -> usize {
        self.outer.waiting() + self.nested.waiting()
    }

    /// Room for one instance, held until the permit is dropped. Of the lane's calls from outside at most `most` run at
    /// once, and as many of its first ones.
    pub async fn admit(
        &self,
        lane: Lane,
        rank: Rank,
        most: usize,
        deadline: Instant,
    ) -> Result<Permit<'_>, Overloaded> {
        match rank {
            Rank::Outer => self.outer.admit((lane, false), most, deadline).await,
            Rank::First => self.nested.admit((lane, false), most, deadline).await,
            Rank::Deeper => self.nested.admit((lane, true), usize::MAX, deadline).await,
        }
    }
}

fn engine_config(config: &Config, instances: u32, pagemap: bool, concurrency: Concurrency) -> EngineConfig {
    let mut pooling = PoolingAllocationConfig::default();
    pooling
        .total_component_instances(instances)
        .total_core_instances(instances * MAX_CORE_INSTANCES)
        // Most components have one; JavaScript ones have two.
        .total_memories(instances * MAX_MEMORIES)
        .total_tables(instances * 4)
        .total_stacks(instances)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(4)
        .max_memory_size(usize::try_from(config.max_memory_bytes).unwrap_or(usize::MAX))
        .table_elements(10_000)
        .max_unused_warm_slots(100)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .pagemap_scan(if pagemap { Enabled::Yes } else { Enabled::No })
        .decommit_batch_size(1);
    let mut engine = EngineConfig::new();
    engine
        .wasm_component_model(true)
        .concurrency_support(concurrency == Concurrency::With)
        .wasm_component_model_async(concurrency == Concurrency::With)
        // Preemption and accounting by fuel alone; epochs beside it would cost as much again.
        .consume_fuel(true)
        .memory_init_cow(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    engine
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pool(max_waiting: usize) -> Pool {
        let (max_memory_bytes, max_concurrent_calls) = (64 << 20, 64);
        Pool::new(&Config { instances: 16, max_memory_bytes, max_waiting, max_concurrent_calls }).unwrap()
    }

    #[tokio::test]
    async fn calls_from_outside_never_take_the_instances_of_calls_made_by_calls() {
        let pool = pool(1);
        let soon = || Instant::now() + Duration::from_millis(20);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(pool.admit(Lane::Host, Rank::Outer, usize::MAX, soon()).await.unwrap());
        }
        assert!(pool.admit(Lane::Host, Rank::Outer, usize::MAX, soon()).await.is_err());
        for _ in 0..12 {
            held.push(pool.admit(Lane::Host, Rank::First, usize::MAX, soon()).await.unwrap());
        }
        assert!(pool.admit(Lane::Host, Rank::First, usize::MAX, soon()).await.is_err());
        held.clear();
        assert!(pool.admit(Lane::Host, Rank::Outer, usize::MAX, soon()).await.is_ok());
    }

    #[tokio::test]
    async fn a_lane_at_its_bound_waits_but_what_its_calls_wait_for_runs() {
        let pool = pool(8);
        let far = Instant::now() + Duration::from_secs(60);
        let lane = || Lane::Principal(astrid_capsule::PrincipalId::parse("ada").unwrap());
        let first = pool.admit(lane(), Rank::First, 1, far).await.unwrap();
        let mut second = Box::pin(pool.admit(lane(), Rank::First, 1, far));
        assert!(poll(&mut second).is_none());
        let deeper = poll(&mut Box::pin(pool.admit(lane(), Rank::Deeper, 1, far)));
        assert!(deeper.is_some_and(|permit| permit.is_ok()));
        drop(first);
        assert!(poll(&mut second).is_some_and(|permit| permit.is_ok()));
    }

    #[tokio::test]
    async fn only_so_many_wait_and_a_caller_that_gives_up_makes_room() {
        let pool = pool(1);
        let far = Instant::now() + Duration::from_secs(60);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(pool.admit(Lane::Host, Rank::Outer, usize::MAX, far).await.unwrap());
        }
        let mut first = Box::pin(pool.admit(Lane::Host, Rank::Outer, usize::MAX, far));
        assert!(poll(&mut first).is_none());
        assert!(pool.admit(Lane::Host, Rank::Outer, usize::MAX, far).await.is_err());
        drop(first);
        assert_eq!(pool.waiting(), 0);
        held.pop();
        assert!(pool.admit(Lane::Host, Rank::Outer, usize::MAX, far).await.is_ok());
    }

    #[tokio::test]
    async fn a_turn_that_comes_while_its_caller_gives_up_goes_to_the_next() {
        let pool = pool(8);
        let far = Instant::now() + Duration::from_secs(60);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(pool.admit(Lane::Host, Rank::Outer, usize::MAX, far).await.unwrap());
        }
        let mut first = Box::pin(pool.admit(Lane::Host, Rank::Outer, usize::MAX, far));
        let mut second = Box::pin(pool.admit(Lane::Host, Rank::Outer, usize::MAX, far));
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        // The slot is given to the first, who goes away without having looked.
        held.pop();
        drop(first);
        assert!(poll(&mut second).is_some_and(|permit| permit.is_ok()));
    }

    fn poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
