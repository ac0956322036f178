//! What capsules are told from outside.

use serde_json::json;

use super::Answers::{Json, Nothing};
use super::{Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    let named = || json!({ "capsule": "notes" });
    vec![
        op(
            "GET /api/capsules/{capsule}/env",
            "showEnvironment",
            "environment",
            "The fields of a capsule's environment",
            named(),
            Json(json!({ "capsule_id": "notes", "fields": { "API_KEY": {
                "type": "secret", "description": "The key of the provider", "enum_values": [], "is_set": true,
            } } })),
        )
        .notes("As they stand for `principal`, else for the caller. Values never come back.")
        .refuses(&[404]),
        op(
            "POST /api/capsules/{capsule}/env/{field}",
            "setField",
            "environment",
            "Set a field of a capsule's environment",
            json!({ "capsule": "notes", "field": "API_KEY", "value": "sk-sample" }),
            Nothing,
        )
        .notes("For `principal`, else for the caller.")
        .refuses(&[404]),
        op(
            "DELETE /api/capsules/{capsule}/env/{field}",
            "clearField",
            "environment",
            "Clear a field of a capsule's environment",
            json!({ "capsule": "notes", "field": "API_KEY" }),
            Nothing,
        )
        .notes("For `principal`, else for the caller. Fine if there was no value.")
        .refuses(&[404]),
    ]
}
