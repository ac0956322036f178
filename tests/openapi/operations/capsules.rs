//! What is installed, and what becomes of it.

use serde_json::json;

use super::Answers::{Json, Nothing};
use super::{HASH, NOW, Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    let capsule = || json!({ "id": "notes", "version": "1.1.0", "state": "live", "hash": HASH });
    let named = || json!({ "capsule": "notes" });
    vec![
        op(
            "GET /api/capsules",
            "listCapsules",
            "capsules",
            "The installed capsules",
            json!({}),
            Json(json!({ "capsules": [capsule()] })),
        ),
        op(
            "POST /api/capsules",
            "installCapsule",
            "capsules",
            "Install a capsule or replace it by another version",
            json!({ "source": "/srv/notes.capsule", "grants": ["bus:send:identity:v1:me"] }),
            Json(json!({
                "id": "notes", "target_dir": "/home/astrid/.astrid/bin", "phase": "upgrade", "installed_version": "1.1.0",
                "previous_version": "1.0.0", "wasm_hash": HASH, "env_path": "/api/capsules/notes/env",
                "env_needs_prompt": false,
                "missing_imports": [{ "namespace": "translate", "interface": "translate.v1.text", "requirement": "handler" }],
                "export_conflicts": [{ "interface": "/api/notes", "existing_capsule": "gateway" }],
                "asks": ["bus:send:identity:v1:me"], "grants": ["bus:send:identity:v1:me"], "publisher": "acme",
            })),
        )
        .notes("Compiles, for up to minutes. 403 also where nobody whom the operator trusts vouches for the archive and somebody must.")
        .refuses(&[404, 409]),
        op("GET /api/capsules/{capsule}", "showCapsule", "capsules", "One capsule", named(), Json(capsule()))
            .refuses(&[404]),
        op(
            "DELETE /api/capsules/{capsule}",
            "removeCapsule",
            "capsules",
            "Uninstall a capsule",
            json!({ "capsule": "notes", "purge": false }),
            Nothing,
        )
        .refuses(&[404, 409]),
        op(
            "POST /api/capsules/{capsule}/rollback",
            "rollBackCapsule",
            "capsules",
            "Go back to the version before",
            named(),
            Json(json!({ "version": "1.0.0", "previous_version": "1.1.0" })),
        )
        .refuses(&[404, 409]),
        op(
            "POST /api/capsules/{capsule}/swap",
            "swapCapsule",
            "capsules",
            "The same version again, as a new generation",
            named(),
            Json(json!({ "version": "1.1.0" })),
        )
        .refuses(&[404, 409]),
        op(
            "GET /api/capsules/{capsule}/history",
            "showHistory",
            "capsules",
            "What happened to a capsule",
            named(),
            Json(json!({ "steps": [{ "time_ms": NOW * 1000, "what": "installed", "version": "1.1.0", "hash": HASH }] })),
        )
        .refuses(&[404]),
        op("POST /api/sys/capsules/reload", "reloadCapsules", "capsules", "Swap every capsule", json!({}), Nothing)
            .refuses(&[404, 409]),
        op(
            "POST /api/sys/capsules/gc",
            "collectGarbage",
            "capsules",
            "Delete components that nothing needs any more",
            json!({}),
            Json(json!({ "files": 2, "bytes": 1_048_576 })),
        ),
        op(
            "POST /api/sys/distro/apply",
            "applyDistribution",
            "capsules",
            "Apply the distribution that lies in the host's folder",
            json!({}),
            Json(json!({ "capsules": [
                { "name": "identity", "version": "0.1.0", "what": "unchanged" },
                { "name": "notes", "what": "failed", "why": "notes.capsule: there is none" },
            ] })),
        )
        .refuses(&[404, 409]),
        op(
            "GET /api/capsules/{capsule}/topics",
            "listTopics",
            "capsules",
            "The topics of a capsule with their types",
            named(),
            Json(json!({ "topics": [{
                "topic": "notes.v1.add", "direction": "subscribe", "handler": "add",
                "wit": { "payload": "notes.add", "answer": "nothing" },
                "schema": { "payload": { "type": "object" }, "answer": { "type": "object" } },
            }] })),
        )
        .refuses(&[404]),
    ]
}
