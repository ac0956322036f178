//! What has happened, as it was recorded.

use serde_json::json;

use super::Answers::{Bytes, Events, Json, Text};
use super::{NOW, Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    vec![
        op(
            "GET /api/sys/audit",
            "queryFacts",
            "audit",
            "Facts, newest first or from an index on",
            json!({ "since": NOW, "method": "capsule", "outcome": "ok", "limit": 100, "format": "json" }),
            Json(json!({
                "entries": [{ "index": 41, "fact": {
                    "id": "01k2x", "time": NOW * 1_000_000_000, "action": "capsule.install", "outcome": "ok",
                    "principal": "default", "capsule": "notes",
                } }],
                "next_cursor": 41, "size": 42,
            })),
        )
        .notes("One's own; everybody's with `audit:read_all`. With `from` oldest first, and not with `cursor`."),
        op(
            "GET /api/sys/audit/checkpoint",
            "readCheckpoint",
            "audit",
            "The signed checkpoint of the log",
            json!({}),
            Text("example.org/log\n42\nqINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=\n\n\u{2014} example.org/log c2FtcGxl\n"),
        )
        .notes("A signed note of C2SP tlog-checkpoint. Requires `audit:read_all`.")
        .refuses(&[404]),
        op(
            "GET /api/sys/audit/proofs",
            "proveFacts",
            "audit",
            "Facts as the log attests them, each with its inclusion proof",
            json!({ "from": 0, "size": 42, "limit": 100 }),
            Json(json!({
                "entries": [{ "index": 41, "fact": "{\"id\":\"01k2x\"}", "proof": ["qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs="] }],
                "size": 42,
            })),
        )
        .notes("One's own; everybody's with `audit:read_all`. Without `size` the newest checkpoint comes with them.")
        .refuses(&[404]),
        op(
            "GET /api/sys/audit/tile/{+path}",
            "readTile",
            "audit",
            "A tile or an entry bundle of the log",
            json!({ "path": "entries/000.p/42" }),
            Bytes,
        )
        .notes("As C2SP tlog-tiles has it. Requires `audit:read_all`.")
        .refuses(&[404]),
        op(
            "GET /api/events",
            "followFacts",
            "audit",
            "Facts as they are recorded",
            json!({}),
            Events(&[
                ("ready", "gateway.ready", "First: whose facts come."),
                ("audit", "audit.facts.entry", "A fact; the event's id is its index."),
                ("gap", "gateway.gap", "At least so many are missing here; they are in the history."),
            ]),
        )
        .notes(
            "One's own; everybody's with `audit:read_all`. A comment comes after 15 s of silence. It ends with its session, or \
             when its principal's standing changes: connect again with `Last-Event-ID`.",
        )
        .own(200, None, None),
    ]
}
