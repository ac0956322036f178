//! What many principals hold together.

use serde_json::json;

use super::Answers::{Json, Nothing};
use super::{Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    let row = || {
        json!({
            "name": "ops", "capabilities": ["capsule:list"], "description": "whoever keeps it running",
            "unsafe_admin": false, "builtin": false,
        })
    };
    vec![
        op(
            "GET /api/sys/groups",
            "listGroups",
            "groups",
            "The groups",
            json!({ "after": "ops", "limit": 100 }),
            Json(json!({ "groups": [row()] })),
        )
        .notes("Whoever holds the `self:` form alone sees the groups that it is in."),
        op(
            "POST /api/sys/groups",
            "createGroup",
            "groups",
            "Make a group",
            json!({ "name": "ops", "capabilities": ["capsule:list"], "description": "whoever keeps it running" }),
            Json(row()),
        )
        .refuses(&[409]),
        op("GET /api/sys/groups/{name}", "showGroup", "groups", "One group", json!({ "name": "ops" }), Json(row()))
            .refuses(&[404]),
        op(
            "PATCH /api/sys/groups/{name}",
            "modifyGroup",
            "groups",
            "Change a group",
            json!({ "name": "ops", "description": null }),
            Json(json!({ "name": "ops", "capabilities": ["capsule:list"], "unsafe_admin": false, "builtin": false })),
        )
        .notes("A field that is absent stays as it is; null clears.")
        .refuses(&[404, 409]),
        op(
            "DELETE /api/sys/groups/{name}",
            "deleteGroup",
            "groups",
            "Delete a group",
            json!({ "name": "ops" }),
            Nothing,
        )
        .notes("Only one that nobody is in.")
        .refuses(&[404, 409]),
    ]
}
