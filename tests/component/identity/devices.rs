//! A principal gets another key, with all of its rights or with some.

use super::*;

#[test]
fn a_principal_without_a_key_gets_one_by_a_pair_token_and_logs_in_with_it() {
    let mut identity = identity();
    ask(&mut identity, "principal-create", json!({ "name": "bo" })).unwrap();
    let pair = ask_about(&mut identity, "bo", "bo", "device-pair", json!({ "label": "phone" })).unwrap();
    assert_eq!((&pair["principal"], &pair["expires_at_epoch"]), (&json!("bo"), &json!(identity.time() + 300)));
    let redeem = json!({ "token": pair["token"], "public_key": public_key(0) });
    let device = ask_as(&mut identity, "anonymous", "device-redeem", redeem.clone()).unwrap();
    assert!(bearer(&mut identity, &text(&device["session_token"])).is_some());
    assert_eq!(ask_as(&mut identity, "anonymous", "device-redeem", redeem).unwrap_err().code, RefusalCode::Denied);

    let login = signed_login(&mut identity, "bo", 0);
    let session = ask_as(&mut identity, "anonymous", "login", login.clone()).unwrap();
    let token = text(&session["session_token"]);
    assert!(bearer(&mut identity, &token).is_some());
    assert_eq!(ask_as(&mut identity, "anonymous", "login", login).unwrap_err().code, RefusalCode::Denied);

    let again = ask_about(&mut identity, "bo", "bo", "device-pair", json!({})).unwrap();
    let redeem = json!({ "token": again["token"], "public_key": public_key(1) });
    let other = ask_as(&mut identity, "anonymous", "device-redeem", redeem).unwrap();

    let remove = json!({ "fingerprint": device["public_key_fingerprint"] });
    let devices = ask_about(&mut identity, "default", "bo", "device-list", json!({})).unwrap();
    assert_eq!((&devices["devices"][0]["label"], devices["devices"].as_array().unwrap().len()), (&json!("phone"), 2));
    assert_eq!(ask_about(&mut identity, "default", "bo", "device-remove", remove), Ok(json!({})));
    assert_eq!(bearer(&mut identity, &token), None);
    assert!(bearer(&mut identity, &text(&other["session_token"])).is_some(), "another device's");
}

#[test]
fn a_device_with_a_scope_has_sessions_with_that_ceiling_and_they_neither_give_nor_pair_more() {
    let mut identity = identity();
    let scope = json!({ "scope": ["invite:*", "self:auth:pair", "group:create"] });
    let pair = ask_about(&mut identity, "default", "default", "device-pair", scope).unwrap();
    let redeem = json!({ "token": pair["token"], "public_key": public_key(0) });
    let device = ask_as(&mut identity, "anonymous", "device-redeem", redeem).unwrap();
    let who = bearer(&mut identity, &text(&device["session_token"])).unwrap();
    let ceiling = ["group:create", "invite:*", "self:auth:pair"];
    assert_eq!(who.ceiling.unwrap(), ceiling);

    identity.set_session(who.session.as_deref(), Some(&ceiling));
    let me = ask(&mut identity, "me", json!({})).unwrap();
    assert_eq!(me["capabilities"], json!(ceiling), "of what an administrator holds");
    for (handler, payload) in [
        ("invite-issue", json!({ "group": "admin", "max_uses": 1 })),
        ("principal-create", json!({ "name": "bo", "groups": ["admin"] })),
        ("principal-create", json!({ "name": "bo", "grants": ["agent:list"] })),
        ("principal-modify", json!({ "principal": "default", "add_groups": ["helpers"] })),
        ("group-create", json!({ "name": "more", "capabilities": ["agent:list"] })),
        ("device-pair", json!({ "scope": ["*"] })),
    ] {
        if handler == "principal-modify" {
            identity.set_session(None, None);
            let helpers = json!({ "name": "helpers", "capabilities": ["agent:list"] });
            ask(&mut identity, "group-create", helpers).unwrap();
            identity.set_session(None, Some(&ceiling));
        }
        let refusal = ask(&mut identity, handler, payload).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Denied, "{handler}: {}", refusal.reason);
    }
    ask(&mut identity, "group-create", json!({ "name": "less", "capabilities": ["invite:list"] })).unwrap();
    let pair = ask_about(&mut identity, "default", "default", "device-pair", json!({})).unwrap();
    assert_eq!(pair["scope"], json!(ceiling), "unless it is said, as much as the session has");
}
