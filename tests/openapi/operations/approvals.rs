//! What capsules ask their principals' consent for.

use serde_json::json;

use super::Answers::{Json, Nothing};
use super::{FINGERPRINT, NOW, Operation, SOON, op};

pub(super) fn rows() -> Vec<Operation> {
    vec![
        op(
            "GET /api/approvals",
            "listApprovals",
            "approvals",
            "What waits for the caller's answer and what it has approved",
            json!({}),
            Json(json!({
                "requests": [{
                    "id": FINGERPRINT, "capsule": "notes", "action": "delete", "resource": "/inbox",
                    "reason": "to tidy up", "asked_at_epoch": NOW, "expires_at_epoch": SOON,
                }],
                "standing": [{
                    "id": FINGERPRINT, "capsule": "notes", "action": "read", "session": false, "granted_at_epoch": NOW,
                }],
            })),
        ),
        op(
            "POST /api/approvals/{id}",
            "answerApproval",
            "approvals",
            "Answer a request",
            json!({ "id": FINGERPRINT, "decision": "approve_once" }),
            Json(json!({})),
        )
        .refuses(&[404, 409]),
        op(
            "DELETE /api/approvals/{id}",
            "withdrawApproval",
            "approvals",
            "Withdraw an approval that stands",
            json!({ "id": FINGERPRINT }),
            Nothing,
        )
        .refuses(&[404]),
    ]
}
