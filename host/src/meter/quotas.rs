//! What a principal may use: the numbers that its standing may hold, their bounds, and the host's defaults. Pure.

use serde::{Deserialize, Serialize};

/// As the authenticator publishes them; none means the host's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quotas {
    /// Linear memory of one instance, in bytes.
    pub max_memory_bytes: Option<u64>,
    /// Seconds of one call (1 to 86400).
    pub max_timeout_secs: Option<u64>,
    pub max_cpu_fuel_per_sec: Option<u64>,
    /// Payloads sent, in bytes per second.
    pub max_ipc_throughput_bytes: Option<u64>,
    /// Names, keys and values in all of its buckets, in bytes.
    pub max_storage_bytes: Option<u64>,
    pub max_concurrent_calls: Option<u64>,
    /// Sandboxed children at once (1 to 256).
    pub max_background_processes: Option<u64>,
}

const MAX_TIMEOUT_SECS: u64 = 86_400;
const MAX_PROCESSES: u64 = 256;

impl Quotas {
    /// The error names the field, its value and the bound.
    pub fn check(&self) -> Result<(), String> {
        if let Some(value) = self.max_timeout_secs.filter(|v| !(1..=MAX_TIMEOUT_SECS).contains(v)) {
            return Err(format!("max_timeout_secs = {value} must be 1 to {MAX_TIMEOUT_SECS}"));
        }
        if let Some(value) = self.max_background_processes.filter(|v| !(1..=MAX_PROCESSES).contains(v)) {
            return Err(format!("max_background_processes = {value} must be 1 to {MAX_PROCESSES}"));
        }
        for (field, value) in [
            ("max_memory_bytes", self.max_memory_bytes),
            ("max_cpu_fuel_per_sec", self.max_cpu_fuel_per_sec),
            ("max_ipc_throughput_bytes", self.max_ipc_throughput_bytes),
            ("max_storage_bytes", self.max_storage_bytes),
            ("max_concurrent_calls", self.max_concurrent_calls),
        ] {
            if value == Some(0) {
                return Err(format!("{field} = 0 must be at least 1"));
            }
        }
        Ok(())
    }
}

/// What is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effective {
    pub memory_bytes: u64,
    pub timeout_secs: u64,
    pub fuel_per_sec: u64,
    pub bus_bytes_per_sec: u64,
    pub storage_bytes: u64,
    pub concurrent_calls: usize,
    pub processes: usize,
}

impl Effective {
    /// The host's defaults; how many calls run at once is the operator's choice (`runtime.max-concurrent-calls`).
    pub fn defaults(concurrent_calls: usize) -> Self {
        Self {
            memory_bytes: 64 << 20,
            timeout_secs: 300,
            fuel_per_sec: 2_000_000_000,
            bus_bytes_per_sec: 10 << 20,
            storage_bytes: 1 << 30,
            concurrent_calls,
            processes: 8,
        }
    }

    /// These, where a quota says nothing else.
    pub fn with(self, quotas: &Quotas) -> Self {
        let count = |most: Option<u64>| most.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        Self {
            memory_bytes: quotas.max_memory_bytes.unwrap_or(self.memory_bytes),
            timeout_secs: quotas.max_timeout_secs.unwrap_or(self.timeout_secs),
            fuel_per_sec: quotas.max_cpu_fuel_per_sec.unwrap_or(self.fuel_per_sec),
            bus_bytes_per_sec: quotas.max_ipc_throughput_bytes.unwrap_or(self.bus_bytes_per_sec),
            storage_bytes: quotas.max_storage_bytes.unwrap_or(self.storage_bytes),
            concurrent_calls: count(quotas.max_concurrent_calls).unwrap_or(self.concurrent_calls),
            processes: count(quotas.max_background_processes).unwrap_or(self.processes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_out_of_bounds_is_refused_by_name_and_one_not_given_is_the_default() {
        let none = Quotas::default();
        assert_eq!(none.check(), Ok(()));
        let error = |quotas: Quotas| quotas.check().unwrap_err();
        assert_eq!(error(Quotas { max_storage_bytes: Some(0), ..none }), "max_storage_bytes = 0 must be at least 1");
        for secs in [0, 86_401] {
            let text = error(Quotas { max_timeout_secs: Some(secs), ..none });
            assert_eq!(text, format!("max_timeout_secs = {secs} must be 1 to 86400"));
        }
        for many in [0, 257] {
            let text = error(Quotas { max_background_processes: Some(many), ..none });
            assert_eq!(text, format!("max_background_processes = {many} must be 1 to 256"));
        }
        let defaults = Effective::defaults(64);
        assert_eq!(defaults.with(&none), defaults);
        let with = defaults.with(&Quotas { max_concurrent_calls: Some(2), ..none });
        assert_eq!(with, Effective { concurrent_calls: 2, ..defaults });
    }

    #[test]
    fn a_record_without_a_field_reads_as_the_default_of_that_field() {
        assert_eq!(serde_json::from_str::<Quotas>("{}").unwrap(), Quotas::default());
        let some: Quotas = serde_json::from_str(r#"{"max_timeout_secs":5}"#).unwrap();
        assert_eq!(some, Quotas { max_timeout_secs: Some(5), ..Quotas::default() });
    }
}
