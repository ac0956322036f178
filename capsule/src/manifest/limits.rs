//! `[limits]`: what one call may use.

use serde::{Deserialize, Serialize};

/// What one call may use at most. The host's own ceilings are lower bounds to these.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Linear memory of one instance: 1 to 4096 MiB in bytes, further bounded by the host's pool.
    pub max_memory_bytes: u64,
    /// One call, in milliseconds: 1 to 86,400,000.
    pub timeout_ms: u64,
    /// Fuel of one call.
    pub max_fuel: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_memory_bytes: 64 << 20, timeout_ms: 30_000, max_fuel: 10_000_000_000 }
    }
}

impl Limits {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if !(1 << 20..=4 << 30).contains(&self.max_memory_bytes) {
            return Err(format!("limits.max-memory-bytes = {} must be 1 MiB to 4 GiB", self.max_memory_bytes));
        }
        if !(1..=86_400_000).contains(&self.timeout_ms) {
            return Err(format!("limits.timeout-ms = {} must be 1 to 86400000", self.timeout_ms));
        }
        if !(1_000..=i64::MAX as u64).contains(&self.max_fuel) {
            return Err(format!("limits.max-fuel = {} must be 1000 to {}", self.max_fuel, i64::MAX));
        }
        Ok(())
    }
}
