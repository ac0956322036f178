//! What no topic's types describe: what the gateway itself takes and answers, and the paths that the host itself answers.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::problems::PROBLEMS;
use super::reference;
use crate::types::Types;

/// What the gateway itself takes and answers, of no topic's types.
pub(super) fn own_schemas(types: &Types) -> Vec<(String, Value)> {
    let object = |properties: Value, required: &[&str], about: &str| {
        json!({
            "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            "description": about,
        })
    };
    let mut me = types.schemas["identity.principals.me"].clone();
    me["properties"]["expires_at_epoch"] =
        json!({ "type": "integer", "minimum": 0, "description": "The end of the session." });
    me["required"].as_array_mut().expect("a list").push("expires_at_epoch".into());
    let names: BTreeSet<&str> = PROBLEMS.iter().map(|(_, name, _)| *name).collect();
    let count = || json!({ "type": "integer", "minimum": 0 });
    let health = json!({
        "status": { "type": "string", "enum": ["ok", "degraded", "stopping"] },
        "version": { "type": "string" },
        "uptime_secs": count(),
        "capsules": object(json!({ "live": count(), "failed": { "type": "array", "items": { "type": "string" } } }), &["live", "failed"], "How many are live, and which are not."),
        "pool": object(json!({ "instances": count(), "in_use": count(), "warnings": { "type": "array", "items": { "type": "string" } } }), &["instances", "in_use", "warnings"], "Instances, and what the machine can't give."),
        "audit": object(json!({ "facts": count(), "fault": { "type": ["string", "null"] } }), &["facts", "fault"], "Facts, and why none can be recorded."),
    });
    let problem = json!({
        "error": { "type": "string", "enum": names, "description": "For programs." },
        "reason": { "type": "string", "description": "One sentence for people. A 401 has none." },
        "retry_after_secs": { "type": "integer", "minimum": 1, "description": "With 429 and 503." },
    });
    let session = || json!({ "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9_-]+$" });
    let own = [
        (
            "prompt",
            object(
                json!({
                    "text": { "type": "string", "minLength": 1, "maxLength": 32_768, "pattern": "\\S", "description": "At most 32 KiB." },
                    "session_id": {
                        "anyOf": [session(), { "type": "null" }],
                        "description": "Goes on with this session; a new one unless given.",
                    },
                    "context": { "type": ["object", "null"], "description": "For the agent, as it is." },
                }),
                &["text"],
                "What an agent is asked.",
            ),
        ),
        (
            "prompt-ready",
            object(
                json!({ "session_id": session(), "principal": { "type": "string" } }),
                &["session_id", "principal"],
                "Whose prompt it is.",
            ),
        ),
        (
            "prompt-event",
            json!({
                "type": "object", "properties": { "session_id": session() }, "required": ["session_id"],
                "description": "As the agent says it.",
            }),
        ),
        ("any", json!({ "description": "Any JSON value." })),
        ("document", json!({ "type": "object", "description": "A document of OpenAPI 3.1." })),
        ("me", me),
        ("problem", object(problem, &["error"], "What every answer is that is no success.")),
        (
            "health",
            object(health, &["status", "version", "uptime_secs", "capsules", "pool", "audit"], "How the host is."),
        ),
        (
            "delivered",
            object(
                json!({ "delivered": { "type": "integer", "minimum": 0, "description": "How many bindings and subscriptions took it." } }),
                &["delivered"],
                "What became of a publication.",
            ),
        ),
        (
            "ready",
            object(
                json!({ "principal": { "type": "string" }, "firehose": { "type": "boolean", "description": "Whether everybody's facts come." } }),
                &["principal", "firehose"],
                "Who reads.",
            ),
        ),
        (
            "gap",
            object(
                json!({ "lost": { "type": "integer", "minimum": 1 } }),
                &["lost"],
                "At least so many are missing here.",
            ),
        ),
    ];
    own.into_iter().map(|(name, schema)| (format!("gateway.{name}"), schema)).collect()
}

/// The paths that the host itself answers.
pub(super) fn own_paths() -> Map<String, Value> {
    let headers = json!({ "x-request-id": { "$ref": "#/components/headers/x-request-id" } });
    let health = |description: &str, status: &str| {
        let example = json!({
            "status": status, "version": env!("CARGO_PKG_VERSION"), "uptime_secs": 3600,
            "capsules": { "live": 4, "failed": [] }, "pool": { "instances": 1000, "in_use": 1, "warnings": [] },
            "audit": { "facts": 42, "fault": null },
        });
        let content = json!({ "application/json": { "schema": reference("gateway.health"), "example": example } });
        json!({ "description": description, "headers": headers, "content": content })
    };
    let metrics = json!({ "text/plain": { "schema": { "type": "string" }, "example": "astrid_up 1\n" } });
    let get = |id: &str, summary: &str, responses: Value| {
        json!({ "get": {
            "operationId": id, "tags": ["host"], "summary": summary, "security": [], "responses": responses,
            "description": "The host's own: it answers while every capsule is broken.",
        } })
    };
    let health = json!({ "200": health("It serves.", "ok"), "503": health("It stops.", "stopping") });
    let metrics =
        json!({ "200": { "description": "Prometheus' text format.", "headers": headers, "content": metrics } });
    Map::from_iter([
        ("/healthz".to_owned(), get("checkHealth", "How the host is", health)),
        ("/metrics".to_owned(), get("readMetrics", "Every series of the host", metrics)),
    ])
}
