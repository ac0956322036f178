//! What is used: by the whole host, by each capsule, by each principal.

use astrid_sdk::bus::Refusal;
use astrid_sdk::host;
use serde::{Deserialize, Serialize};

/// How many principals are answered with their load if the request doesn't say.
const DEFAULT_PRINCIPALS: u32 = 100;
/// The most principals of one answer.
const MAX_PRINCIPALS: u32 = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// 1 to [`MAX_PRINCIPALS`].
    pub limit: Option<u32>,
}

impl LoadRequest {
    /// How many principals; `invalid` if that is out of bounds.
    pub fn checked(self) -> Result<u32, Refusal> {
        let limit = self.limit.unwrap_or(DEFAULT_PRINCIPALS);
        if !(1..=MAX_PRINCIPALS).contains(&limit) {
            return Err(Refusal::invalid(format!("limit = {limit} must be 1 to {MAX_PRINCIPALS}")));
        }
        Ok(limit)
    }
}

/// Totals begin with the host's process.
#[derive(Debug, Serialize)]
pub struct Load {
    pub uptime_ms: u64,
    pub instances: u32,
    pub instances_in_use: u32,
    pub calls_waiting: u32,
    /// Sorted by id.
    pub capsules: Vec<CapsuleLoad>,
    /// Those that did something last, the latest first.
    pub principals: Vec<PrincipalLoad>,
}

#[derive(Debug, Serialize)]
pub struct CapsuleLoad {
    pub id: String,
    pub calls_total: u64,
    pub fuel_total: u64,
    pub memory_peak_bytes: u64,
    pub queue_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct PrincipalLoad {
    pub principal: String,
    pub calls_total: u64,
    pub fuel_total: u64,
    pub memory_peak_bytes: u64,
    pub bus_bytes_total: u64,
}

impl From<host::Load> for Load {
    fn from(load: host::Load) -> Self {
        let capsule = |one: host::CapsuleLoad| CapsuleLoad {
            id: one.id,
            calls_total: one.calls_total,
            fuel_total: one.fuel_total,
            memory_peak_bytes: one.memory_peak_bytes,
            queue_bytes: one.queue_bytes,
        };
        let principal = |one: host::PrincipalLoad| PrincipalLoad {
            principal: one.principal,
            calls_total: one.calls_total,
            fuel_total: one.fuel_total,
            memory_peak_bytes: one.memory_peak_bytes,
            bus_bytes_total: one.bus_bytes_total,
        };
        Self {
            uptime_ms: load.uptime_ms,
            instances: load.instances,
            instances_in_use: load.instances_in_use,
            calls_waiting: load.calls_waiting,
            capsules: load.capsules.into_iter().map(capsule).collect(),
            principals: load.principals.into_iter().map(principal).collect(),
        }
    }
}

/// What a principal has used since the host started, what it stores, and the limits in force.
#[derive(Debug, Serialize)]
pub struct Usage {
    pub principal: String,
    pub cpu_fuel_consumed_total: u64,
    pub cpu_fuel_per_sec_limit: u64,
    /// Not held to the two limits per second.
    pub exempt: bool,
    pub memory_bytes_limit_per_instance: u64,
    /// The most that one instance has had.
    pub memory_bytes_peak_total: u64,
    pub storage_bytes_used: u64,
    pub storage_bytes_limit: u64,
    pub ipc_bytes_sent_total: u64,
    pub ipc_bytes_per_sec_limit: u64,
    pub calls_total: u64,
    pub concurrent_calls_limit: u64,
    pub wall_ms_total: u64,
    pub timeout_secs_limit: u64,
    pub processes_running: u32,
    pub processes_limit: u32,
}

impl Usage {
    pub fn new(principal: &str, usage: host::PrincipalUsage) -> Self {
        Self {
            principal: principal.into(),
            cpu_fuel_consumed_total: usage.fuel_total,
            cpu_fuel_per_sec_limit: usage.fuel_per_sec_limit,
            exempt: usage.exempt,
            memory_bytes_limit_per_instance: usage.memory_bytes_limit,
            memory_bytes_peak_total: usage.memory_peak_bytes,
            storage_bytes_used: usage.storage_bytes,
            storage_bytes_limit: usage.storage_bytes_limit,
            ipc_bytes_sent_total: usage.bus_bytes_total,
            ipc_bytes_per_sec_limit: usage.bus_bytes_per_sec_limit,
            calls_total: usage.calls_total,
            concurrent_calls_limit: usage.concurrent_calls_limit,
            wall_ms_total: usage.wall_ms_total,
            timeout_secs_limit: usage.timeout_secs_limit,
            processes_running: usage.processes,
            processes_limit: usage.processes_limit,
        }
    }
}
