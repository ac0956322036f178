//! What a principal may use, and has used.

use serde_json::json;

use super::Answers::Json;
use super::{Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    let quotas = || {
        json!({
            "max_memory_bytes": null, "max_timeout_secs": 60, "max_cpu_fuel_per_sec": null,
            "max_ipc_throughput_bytes": null, "max_storage_bytes": 104_857_600, "max_concurrent_calls": null,
            "max_background_processes": null,
        })
    };
    let answer = || Json(json!({ "principal": "ada", "quotas": quotas() }));
    vec![
        op(
            "GET /api/sys/principals/{principal}/quotas",
            "showQuotas",
            "quotas",
            "The quotas of a principal",
            json!({}),
            answer(),
        )
        .refuses(&[404]),
        op(
            "PUT /api/sys/principals/{principal}/quotas",
            "setQuotas",
            "quotas",
            "Set quotas of a principal",
            json!({ "principal": "ada", "quotas": { "max_timeout_secs": 60, "max_storage_bytes": 104_857_600 } }),
            answer(),
        )
        .notes("A field that is absent stays as it is; null is the host's default.")
        .refuses(&[404]),
        op(
            "GET /api/sys/principals/{principal}/usage",
            "showUsage",
            "quotas",
            "What a principal has used",
            json!({}),
            Json(json!({
                "principal": "ada", "cpu_fuel_consumed_total": 91_000_000, "cpu_fuel_per_sec_limit": 1_000_000_000,
                "exempt": false, "memory_bytes_limit_per_instance": 67_108_864, "memory_bytes_peak_total": 1_310_720,
                "storage_bytes_used": 4096, "storage_bytes_limit": 104_857_600, "ipc_bytes_sent_total": 2048,
                "ipc_bytes_per_sec_limit": 10_485_760, "calls_total": 12, "concurrent_calls_limit": 64,
                "wall_ms_total": 35, "timeout_secs_limit": 60, "processes_running": 1, "processes_limit": 8,
            })),
        )
        .notes("Totals begin with the host's process; what is stored is exact across restarts.")
        .refuses(&[404]),
    ]
}
