//! What one call may use, and what it used.
//!
//! Owns the resource limits of a store and the figures of each call. Bounded by construction. Refuses to know who
//! pays: principals' quotas and rates are judged before a call is admitted.

mod breath;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use breath::Breath;

use astrid_capsule::manifest::Limits;
use wasmtime::ResourceLimiter;

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
const MAX_INSTANCES: usize = 8;
const MAX_TABLES: usize = 4;
const MAX_MEMORIES: usize = 1;

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
    memory_bytes: usize,
    peak_memory_bytes: usize,
    /// Growth was refused: what a trap that follows is about.
    exceeded: bool,
}

impl Limiter {
    pub fn new(bounds: &Bounds) -> Self {
        Self { memory_bytes: bounds.memory_bytes, peak_memory_bytes: 0, exceeded: false }
    }

    pub fn peak_memory_bytes(&self) -> usize {
        self.peak_memory_bytes
    }

    pub fn exceeded(&self) -> bool {
        self.exceeded
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.memory_bytes;
        if fits {
            self.peak_memory_bytes = self.peak_memory_bytes.max(desired);
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
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
