//! What holds for every topic: what is no request, a store that is away, what is never written down.

use super::*;

#[test]
fn every_handler_is_tried_with_what_no_handler_takes() {
    let manifest = astrid_tests::pack::read("identity").manifest;
    let bound: BTreeSet<&str> = manifest.subscribe.iter().filter_map(|binding| binding.handler.as_deref()).collect();
    assert_eq!(bound, BTreeSet::from(HANDLERS));
}

#[test]
fn an_unknown_field_is_refused_by_its_name_on_every_topic() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 1);
    for handler in HANDLERS {
        let mut payload = match handler {
            "invite-issue" => json!({ "group": "agent", "max_uses": 1 }),
            "invite-revoke" => json!({ "token": token }),
            "invite-redeem" => json!({ "token": token, "public_key": public_key(0) }),
            "principal-create" | "group-show" | "group-modify" | "group-delete" => json!({ "name": "bo" }),
            "group-create" => json!({ "name": "bo", "capabilities": [] }),
            "principal-modify" | "principal-enable" | "principal-disable" | "principal-delete" => {
                json!({ "principal": "bo" })
            }
            "caps-grant" | "caps-revoke" => json!({ "principal": "bo", "capabilities": ["a"] }),
            "caps-check" => json!({ "capability": "a" }),
            "device-redeem" => json!({ "token": "x", "public_key": public_key(0) }),
            "device-remove" => json!({ "fingerprint": "x" }),
            "login-challenge" => json!({ "principal": "bo" }),
            "login" => {
                json!({ "principal": "bo", "challenge": "x", "public_key": public_key(0), "signature": "x" })
            }
            "session-refresh" | "session-end" => json!({ "token": "x" }),
            "approval-request" => json!({ "action": "a" }),
            "approval-answer" => json!({ "id": "x", "decision": "deny" }),
            "approval-withdraw" => json!({ "id": "x" }),
            _ => json!({}),
        };
        payload["surprise"] = json!(1);
        let refusal = ask(&mut identity, handler, payload).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Invalid, "{handler}");
        assert!(refusal.reason.contains("surprise"), "{handler}: {}", refusal.reason);
    }
    assert!(redeem(&mut identity, &token, 0).is_ok());
}

#[test]
fn what_is_no_request_is_invalid_on_every_topic() {
    let mut identity = identity();
    let deep = "[".repeat(100_000);
    for handler in HANDLERS {
        for payload in ["{", "[]", "null", "\"x\"", "{}x", "{\"a\":1,\"a\":1}", &deep] {
            let answer = identity.as_principal("default").handle_bytes(handler, payload.into()).unwrap();
            let shown: String = payload.chars().take(20).collect();
            assert_eq!(answer.unwrap_err().code, RefusalCode::Invalid, "{handler} {shown}");
        }
    }
}

#[test]
fn a_store_that_is_away_is_said_to_be_and_nothing_is_half_done() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 1);
    identity.store().set_unavailable(true);
    for (handler, payload) in [
        ("invite-issue", json!({ "group": "agent", "max_uses": 1 })),
        ("invite-list", json!({})),
        ("invite-revoke", json!({ "token": token })),
        ("invite-redeem", json!({ "token": token, "public_key": public_key(0) })),
        ("principal-list", json!({})),
        ("me", json!({})),
    ] {
        assert_eq!(ask(&mut identity, handler, payload).unwrap_err().code, RefusalCode::Unavailable, "{handler}");
    }
    identity.store().set_unavailable(false);
    assert!(redeem(&mut identity, &token, 0).is_ok());
}

#[test]
fn no_token_and_no_bearer_is_ever_written_down() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 2);
    let redeemed = redeem(&mut identity, &token, 0).unwrap();
    let session = text(&redeemed["session_token"]);
    bearer(&mut identity, &session).unwrap();
    let mut said = String::new();
    for payload in [
        json!({ "token": token, "public_key": token }),
        json!({ "token": token, "public_key": public_key(0) }),
        json!({ "token": token, "public_key": public_key(1), token.clone(): 1 }),
        json!({ "token": { "a": token }, "public_key": token }),
        json!({ "token": token, "public_key": public_key(1), "display_name": [token] }),
    ] {
        said += &ask_as(&mut identity, "anonymous", "invite-redeem", payload).unwrap_err().reason;
    }
    for payload in [json!({ "fingerprint": token }), json!({ "token": token, "fingerprint": token })] {
        said += &ask(&mut identity, "invite-revoke", payload).unwrap_err().reason;
    }
    let request = json!({ "group": token, "max_uses": 1 });
    said += &ask(&mut identity, "invite-issue", request).unwrap_err().reason;
    said.extend(identity.logs().iter().map(|line| line.message.as_str()));
    for (slot, entry) in identity.store().entries() {
        said += &format!("{slot:?} {}", String::from_utf8_lossy(&entry.value));
    }
    for secret in [&token, &session] {
        assert!(!said.contains(secret.as_str()), "{secret} stands in: {said}");
        // What it is without its beginning, which is the same for all.
        assert!(!said.contains(&secret[secret.len() - 30..]), "the end of {secret} stands in: {said}");
    }
}
