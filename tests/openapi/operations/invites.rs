//! Who may become a principal.

use serde_json::json;

use super::Answers::{Json, Nothing};
use super::{FINGERPRINT, INVITE, NOW, Operation, SOON, op};

pub(super) fn rows() -> Vec<Operation> {
    vec![
        op(
            "GET /api/sys/invites",
            "listInvites",
            "invites",
            "The open invites",
            json!({ "after": FINGERPRINT, "limit": 100 }),
            Json(json!({ "invites": [{
                "token_fingerprint": FINGERPRINT, "group": "agent", "remaining_uses": 1, "expires_at_epoch": SOON,
                "issued_at_epoch": NOW, "issued_by": "default", "metadata": { "for": "Ada" },
            }] })),
        ),
        op(
            "POST /api/sys/invites",
            "issueInvite",
            "invites",
            "Issue an invite",
            json!({ "group": "agent", "max_uses": 1, "expires_secs": 86_400, "metadata": { "for": "Ada" } }),
            Json(json!({ "invite": {
                "token": INVITE, "group": "agent", "remaining_uses": 1, "expires_at_epoch": SOON,
                "metadata": { "for": "Ada" },
            } })),
        )
        .notes("The token is shown this once."),
        op(
            "DELETE /api/sys/invites/{fingerprint}",
            "revokeInvite",
            "invites",
            "Revoke an invite",
            json!({ "fingerprint": FINGERPRINT }),
            Nothing,
        )
        .refuses(&[404]),
    ]
}
