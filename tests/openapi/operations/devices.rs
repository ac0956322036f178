//! The keys by which a principal logs in.

use serde_json::json;

use super::Answers::{Json, Nothing};
use super::{FINGERPRINT, HASH, KEY, NOW, Operation, PAIRING, SOON, logged_in, op};

pub(super) fn rows() -> Vec<Operation> {
    vec![
        op(
            "POST /api/auth/pair-device",
            "pairDevice",
            "devices",
            "A token for one more device of the caller",
            json!({ "expires_secs": 300, "label": "phone" }),
            Json(json!({ "token": PAIRING, "principal": "ada", "expires_at_epoch": SOON, "label": "phone" })),
        )
        .refuses(&[409]),
        op(
            "POST /api/auth/pair-device/redeem",
            "redeemPairing",
            "devices",
            "Add a device by a pair token",
            json!({ "token": PAIRING, "public_key": KEY }),
            Json(logged_in()),
        )
        .refuses(&[409]),
        op(
            "GET /api/sys/principals/{principal}/devices",
            "listDevices",
            "devices",
            "The devices of a principal",
            json!({}),
            Json(json!({ "devices": [{ "fingerprint": FINGERPRINT, "label": "phone", "added_at_epoch": NOW }] })),
        )
        .refuses(&[404]),
        op(
            "DELETE /api/sys/principals/{principal}/devices/{fingerprint}",
            "removeDevice",
            "devices",
            "Remove a device",
            json!({ "fingerprint": FINGERPRINT }),
            Nothing,
        )
        .notes("The sessions that began with it end, and the principal's open streams.")
        .refuses(&[404]),
        op(
            "GET /api/sys/principals/{principal}/certificates",
            "listCertificates",
            "devices",
            "The certificates that stand for a principal",
            json!({}),
            Json(json!({ "certificates": [{ "fingerprint": HASH, "label": "build", "added_at_epoch": NOW }] })),
        )
        .refuses(&[404]),
        op(
            "POST /api/sys/principals/{principal}/certificates",
            "bindCertificate",
            "devices",
            "Let a client certificate stand for a principal",
            json!({ "fingerprint": HASH, "label": "build", "scope": ["self:quota:get"] }),
            Json(json!({ "fingerprint": HASH, "label": "build", "scope": ["self:quota:get"], "added_at_epoch": NOW })),
        )
        .notes("Whoever shows it over TLS, and no bearer, is that principal.")
        .refuses(&[404, 409]),
        op(
            "DELETE /api/sys/principals/{principal}/certificates/{fingerprint}",
            "removeCertificate",
            "devices",
            "A certificate stands for a principal no more",
            json!({ "fingerprint": HASH }),
            Nothing,
        )
        .refuses(&[404]),
    ]
}
