//! The host process itself.

use serde_json::json;

use super::Answers::{Json, Nothing};
use super::{NOW, Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    vec![
        op(
            "GET /api/sys/processes",
            "listProcesses",
            "host",
            "Sandboxed programs that capsules have started",
            json!({}),
            Json(json!({ "processes": [{
                "id": "8f14e45fceea167a", "principal": "ada", "capsule": "notes", "program": "/usr/bin/git", "started_at": NOW,
            }] })),
        )
        .notes("Everybody's, or one's own."),
        op(
            "POST /api/sys/processes/{process}/stop",
            "stopProcess",
            "host",
            "End such a program, with everything that it has started",
            json!({ "process": "8f14e45fceea167a" }),
            Nothing,
        )
        .refuses(&[404]),
        op(
            "GET /api/sys/status",
            "showStatus",
            "host",
            "Version, connections and loaded capsules",
            json!({}),
            Json(json!({
                "pid": 4711, "uptime_secs": 3600, "version": "0.1.0", "connected_clients": 2,
                "connections_by_principal": { "ada": 1, "default": 1 },
                "loaded_capsules": ["audit", "gateway", "identity", "system"],
            })),
        ),
        op(
            "GET /api/sys/logs",
            "readLogs",
            "host",
            "Log lines, oldest first",
            json!({ "capsule": "gateway", "level": "warn", "since": NOW * 1000, "after": 0, "limit": 200 }),
            Json(json!({ "lines": [{
                "sequence": 17, "time_ms": NOW * 1000, "level": "warn", "capsule": "gateway", "message": "no other origin is let in",
            }] })),
        ),
        op(
            "GET /api/sys/capabilities",
            "listCapabilities",
            "host",
            "Every capability that installed manifests declare",
            json!({}),
            Json(json!({
                "capabilities": [{
                    "id": "capsule:list", "label": "List capsules", "description": "See the installed capsules",
                    "category": "capsule", "scope": "both", "danger": "safe",
                }],
                "categories": ["capsule"],
            })),
        ),
        op(
            "GET /api/sys/config",
            "showConfig",
            "host",
            "The configuration that the host runs with",
            json!({}),
            Json(json!({ "settings": [{ "key": "http.listen", "value": "\"127.0.0.1:2787\"", "source": "default" }] })),
        ),
        op(
            "POST /api/sys/config/reload",
            "reloadConfig",
            "host",
            "Read the configuration again",
            json!({}),
            Json(json!({ "changes": [{
                "key": "log.level", "before": "\"info\"", "value": "\"debug\"", "source": "file", "applied": true,
            }] })),
        )
        .notes("What does not read or is out of bounds is a 400, and changes nothing."),
        op(
            "GET /api/sys/load",
            "showLoad",
            "host",
            "What capsules and principals have used",
            json!({ "limit": 100 }),
            Json(json!({
                "uptime_ms": 3_600_000, "instances": 1000, "instances_in_use": 2, "calls_waiting": 0,
                "capsules": [{
                    "id": "notes", "calls_total": 17, "fuel_total": 1_000_000, "memory_peak_bytes": 1_048_576,
                    "queue_bytes": 0,
                }],
                "principals": [{
                    "principal": "ada", "calls_total": 17, "fuel_total": 1_000_000, "memory_peak_bytes": 1_048_576,
                    "bus_bytes_total": 4096,
                }],
            })),
        )
        .notes("Totals begin with the host's process."),
        op("POST /api/sys/shutdown", "shutDown", "host", "Drain and end the host", json!({}), Json(json!({}))),
    ]
}
