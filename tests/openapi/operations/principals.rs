//! On whose behalf things happen, and what they hold.

use serde_json::json;

use super::Answers::{Json, Nothing};
use super::{Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    let row = || json!({ "principal": "ada", "enabled": true, "groups": ["agent"], "grants": [], "revokes": [] });
    let enabled = |enabled: bool| Json(json!({ "principal": "ada", "enabled": enabled, "changed": true }));
    let named = || json!({ "principal": "ada" });
    let change = || json!({ "principal": "ada", "capabilities": ["capsule:list"] });
    vec![
        op(
            "GET /api/sys/principals",
            "listPrincipals",
            "principals",
            "The principals",
            json!({ "after": "ada", "limit": 100 }),
            Json(json!({ "principals": [row()], "next_after": "ada" })),
        )
        .notes("Whoever holds the `self:` form alone sees its own row."),
        op(
            "POST /api/sys/principals",
            "createPrincipal",
            "principals",
            "Make a principal",
            json!({ "name": "ada", "groups": ["agent"] }),
            Json(row()),
        )
        .refuses(&[409]),
        op(
            "GET /api/sys/principals/{principal}",
            "showPrincipal",
            "principals",
            "One principal",
            json!({}),
            Json(row()),
        )
        .refuses(&[404]),
        op(
            "PATCH /api/sys/principals/{principal}",
            "modifyPrincipal",
            "principals",
            "Change the groups of a principal",
            json!({ "principal": "ada", "add_groups": ["restricted"] }),
            Json(json!({ "principal": "ada", "groups": ["agent", "restricted"], "changed": true })),
        )
        .refuses(&[404, 409]),
        op(
            "DELETE /api/sys/principals/{principal}",
            "deletePrincipal",
            "principals",
            "Delete a principal",
            named(),
            Nothing,
        )
        .notes("Its id is never given again.")
        .refuses(&[404]),
        op(
            "POST /api/sys/principals/{principal}/enable",
            "enablePrincipal",
            "principals",
            "Enable a principal",
            named(),
            enabled(true),
        )
        .refuses(&[404]),
        op(
            "POST /api/sys/principals/{principal}/disable",
            "disablePrincipal",
            "principals",
            "Disable a principal",
            named(),
            enabled(false),
        )
        .notes("Its sessions end.")
        .refuses(&[404]),
        op(
            "GET /api/sys/principals/{principal}/caps",
            "showCapabilities",
            "principals",
            "Everything that decides what a principal may do",
            json!({}),
            Json(json!({
                "principal": "ada", "enabled": true, "groups": [{ "name": "agent", "capabilities": ["self:*"] }],
                "grants": ["capsule:list"], "revokes": [], "capabilities": ["capsule:list", "self:*"],
            })),
        )
        .refuses(&[404]),
        op(
            "POST /api/sys/principals/{principal}/caps",
            "grantCapabilities",
            "principals",
            "Grant capabilities to a principal",
            change(),
            Json(json!({ "principal": "ada", "capabilities": ["capsule:list", "self:*"] })),
        )
        .refuses(&[404]),
        op(
            "DELETE /api/sys/principals/{principal}/caps",
            "revokeCapabilities",
            "principals",
            "Revoke capabilities of a principal",
            change(),
            Nothing,
        )
        .notes("With a body, which some clients do not send with DELETE.")
        .refuses(&[404]),
        op(
            "GET /api/sys/principals/{principal}/caps/check",
            "checkCapability",
            "principals",
            "Whether a principal may do something and which rule says so",
            json!({ "capability": "capsule:list" }),
            Json(json!({
                "principal": "ada", "capability": "capsule:list", "allowed": true, "rule": "granted",
                "by": "capsule:list",
                "about_oneself": { "capability": "self:capsule:list", "allowed": true, "rule": "group", "by": "self:*", "group": "agent" },
            })),
        )
        .refuses(&[404]),
    ]
}
