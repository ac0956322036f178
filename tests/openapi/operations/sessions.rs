//! How one becomes somebody, stays so, and stops being so.

use serde_json::json;

use super::Answers::{Json, Nothing};
use super::{BEARER, CHALLENGE, FINGERPRINT, INVITE, KEY, Operation, SOON, logged_in, op};

pub(super) fn rows() -> Vec<Operation> {
    vec![
        op(
            "POST /api/auth/redeem",
            "redeemInvite",
            "sessions",
            "Become a principal by an invite",
            json!({ "token": INVITE, "public_key": KEY, "display_name": "Ada Lovelace" }),
            Json(json!({
                "principal": "ada-lovelace", "group": "agent", "public_key_fingerprint": FINGERPRINT,
                "session_token": BEARER, "session_expires_at_epoch": SOON,
            })),
        )
        .refuses(&[409]),
        op(
            "GET /api/auth/me",
            "whoAmI",
            "sessions",
            "Who the caller is and what it holds",
            json!({}),
            Json(json!({
                "principal": "ada", "groups": ["agent"], "capabilities": ["self:*"], "expires_at_epoch": SOON,
            })),
        )
        .own(200, None, Some("gateway.me")),
        op(
            "POST /api/auth/challenge",
            "requestChallenge",
            "sessions",
            "A challenge to be signed for a login",
            json!({ "principal": "ada" }),
            Json(json!({ "challenge": CHALLENGE, "expires_at_epoch": SOON })),
        )
        .notes("Answers the same whether or not there is such a principal. Good for 60 seconds and one login."),
        op(
            "POST /api/auth/login",
            "logIn",
            "sessions",
            "Begin a session by a signature",
            json!({ "principal": "ada", "challenge": CHALLENGE, "public_key": KEY, "signature": KEY.repeat(2) }),
            Json(logged_in()),
        )
        .notes("The signature is Ed25519 over the challenge as it is, in ASCII."),
        op(
            "POST /api/auth/refresh",
            "refreshSession",
            "sessions",
            "A new bearer for the one that is presented",
            json!({}),
            Json(json!({ "principal": "ada", "session_token": BEARER, "session_expires_at_epoch": SOON })),
        )
        .notes("Until seven days after the session's first bearer; the old one stays good until it expires.")
        .refuses(&[409]),
        op(
            "DELETE /api/auth/session",
            "endSession",
            "sessions",
            "End the bearer that is presented",
            json!({}),
            Nothing,
        )
        .notes("It is dead from now on, and the principal's open streams end."),
        op(
            "POST /api/sys/sessions/rotate",
            "rotateSessionKey",
            "sessions",
            "Change the key that signs bearers",
            json!({ "now": false }),
            Json(json!({ "generation": 2, "ended": false })),
        )
        .refuses(&[409]),
    ]
}
