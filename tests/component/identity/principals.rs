//! Principals and groups are made, shown, changed and deleted, and what they may use is set.

use super::*;

#[test]
fn everybody_is_listed_and_a_target_alone() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 2);
    redeem_named(&mut identity, &token, 0, "Bo").unwrap();
    redeem_named(&mut identity, &token, 1, "Al").unwrap();
    let list = ask(&mut identity, "principal-list", json!({})).unwrap();
    assert_eq!(ids(&list), ["al", "bo", "default"]);
    let row = json!({ "principal": "bo", "enabled": true, "groups": ["agent"], "grants": [], "revokes": [] });
    assert_eq!(list["principals"][1], row);

    let call = identity.as_principal("bo").with_target("bo");
    let own = call.handle("principal-list", json!({})).unwrap().unwrap();
    assert_eq!(own, json!({ "principals": [row] }));
    let call = identity.as_principal("bo").with_target("nobody");
    let refusal = call.handle("principal-list", json!({})).unwrap().unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NotFound);
}

#[test]
fn a_list_pages_through_everybody_once() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 5);
    for key in 0..5 {
        redeem_named(&mut identity, &token, key, &format!("P{key}")).unwrap();
    }
    let first = ask(&mut identity, "principal-list", json!({ "limit": 4 })).unwrap();
    assert_eq!(ids(&first), ["default", "p0", "p1", "p2"]);
    let after = json!({ "limit": 4, "after": first["next_after"] });
    let second = ask(&mut identity, "principal-list", after).unwrap();
    assert_eq!((ids(&second), second.get("next_after")), (vec!["p3".into(), "p4".into()], None));
    for bad in [json!({ "limit": 0 }), json!({ "limit": 1001 }), json!({ "after": "a b" })] {
        assert_eq!(ask(&mut identity, "principal-list", bad).unwrap_err().code, RefusalCode::Invalid);
    }
}

#[test]
fn me_is_the_caller_and_nothing_in_the_payload_says_otherwise() {
    let mut identity = identity();
    let me = ask(&mut identity, "me", json!({})).unwrap();
    assert_eq!(me, json!({ "principal": "default", "groups": ["admin"], "capabilities": ["*"] }));
    let refusal = ask_as(&mut identity, "bo", "me", json!({ "principal": "default" })).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Invalid);
    for nobody in ["anonymous", "never-redeemed"] {
        assert_eq!(ask_as(&mut identity, nobody, "me", json!({})).unwrap_err().code, RefusalCode::Denied);
    }
}

fn code(result: Result<Value, Refusal>) -> Option<RefusalCode> {
    result.err().map(|refusal| refusal.code)
}

#[test]
fn a_principal_lives_from_create_to_delete_and_the_host_is_told_at_each_step() {
    let mut identity = identity();
    let group = json!({ "name": "ops", "capabilities": ["invite:issue"] });
    ask(&mut identity, "group-create", group).unwrap();
    assert_eq!(identity.registrar().group("ops"), Some(&["invite:issue".to_owned()][..]));
    let row = ask(&mut identity, "principal-create", json!({ "name": "bo", "groups": ["ops"] })).unwrap();
    let want = json!({ "principal": "bo", "enabled": true, "groups": ["ops"], "grants": [], "revokes": [] });
    assert_eq!(row, want);
    assert_eq!(ask_about(&mut identity, "default", "bo", "principal-show", json!({})), Ok(want));
    let modify = json!({ "principal": "bo", "add_groups": ["agent"] });
    let modified = ask(&mut identity, "principal-modify", modify).unwrap();
    assert_eq!(modified, json!({ "principal": "bo", "groups": ["ops", "agent"], "changed": true }));
    assert_eq!(identity.standing("bo").unwrap().groups, ["ops", "agent"]);
    let grant = json!({ "principal": "bo", "capabilities": ["system:status"] });
    let granted = ask(&mut identity, "caps-grant", grant.clone()).unwrap();
    assert_eq!(granted["capabilities"], json!(["invite:issue", "self:*", "system:status"]));
    assert_eq!(ask(&mut identity, "caps-revoke", grant), Ok(json!({})));
    let standing = identity.standing("bo").unwrap();
    assert!(standing.grants.is_empty() && standing.revokes == ["system:status"]);
    let asked = json!({ "capability": "invite:issue" });
    let check = ask_about(&mut identity, "default", "bo", "caps-check", asked).unwrap();
    assert_eq!((&check["rule"], &check["group"]), (&json!("group"), &json!("ops")));
    let held = ask_about(&mut identity, "default", "bo", "caps-show", json!({})).unwrap();
    assert_eq!(held["groups"][0], json!({ "name": "ops", "capabilities": ["invite:issue"] }));
    assert_eq!(held["revokes"], json!(["system:status"]));
    let described = json!({ "name": "ops", "description": "whoever keeps it running" });
    let described = ask(&mut identity, "group-modify", described).unwrap();
    assert_eq!(ask(&mut identity, "group-show", json!({ "name": "ops" })), Ok(described.clone()));
    assert_eq!(ask(&mut identity, "group-list", json!({ "after": "n" })).unwrap()["groups"], json!([described]));
    let delete = json!({ "name": "ops" });
    assert_eq!(code(ask(&mut identity, "group-delete", delete.clone())), Some(RefusalCode::Conflict));
    assert_eq!(ask(&mut identity, "principal-delete", json!({ "principal": "bo" })), Ok(json!({})));
    assert!(identity.standing("bo").is_none());
    assert_eq!(ask(&mut identity, "group-delete", delete), Ok(json!({})));
    assert!(identity.registrar().group("ops").is_none());
    assert_eq!(code(ask(&mut identity, "principal-create", json!({ "name": "bo" }))), Some(RefusalCode::Conflict));
}

#[test]
fn disabling_and_deleting_end_bearers_and_enabling_brings_none_back() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 2);
    let first = text(&redeem_named(&mut identity, &token, 0, "bo").unwrap()["session_token"]);
    let bo = json!({ "principal": "bo" });
    ask(&mut identity, "principal-disable", bo.clone()).unwrap();
    assert_eq!(bearer(&mut identity, &first), None);
    ask(&mut identity, "principal-enable", bo).unwrap();
    assert_eq!(bearer(&mut identity, &first), None);
    let second = text(&redeem_named(&mut identity, &token, 1, "al").unwrap()["session_token"]);
    assert!(bearer(&mut identity, &second).is_some());
    ask(&mut identity, "principal-delete", json!({ "principal": "al" })).unwrap();
    assert_eq!(bearer(&mut identity, &second), None);
    let token = issue(&mut identity, "agent", 1);
    assert!(redeem(&mut identity, &token, 1).is_ok(), "its key is free again");
}

#[test]
fn a_disabled_principal_keeps_its_keys_and_logs_in_again_once_it_is_enabled() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 2);
    redeem_named(&mut identity, &token, 0, "bo").unwrap();
    let bo = json!({ "principal": "bo" });
    ask(&mut identity, "principal-disable", bo.clone()).unwrap();
    assert_eq!(code(log_in(&mut identity, "bo", 0)), Some(RefusalCode::Denied));
    assert_eq!(code(redeem(&mut identity, &token, 0)), Some(RefusalCode::Conflict), "its key is nobody else's");
    ask(&mut identity, "principal-enable", bo).unwrap();
    identity.advance(1);
    let session = log_in(&mut identity, "bo", 0).unwrap();
    assert!(bearer(&mut identity, &text(&session["session_token"])).is_some());
}

#[test]
fn a_principal_is_in_64_groups_at_most_and_has_256_revokes_at_most() {
    let mut identity = identity();
    let groups: Vec<String> = (0..65).map(|n| format!("g{n}")).collect();
    for name in &groups {
        ask(&mut identity, "group-create", json!({ "name": name, "capabilities": [] })).unwrap();
    }
    let create = |name: &str, groups: &[String]| json!({ "name": name, "groups": groups });
    assert_eq!(code(ask(&mut identity, "principal-create", create("al", &groups))), Some(RefusalCode::Invalid));
    ask(&mut identity, "principal-create", create("bo", &groups[..64])).unwrap();
    let join = json!({ "principal": "bo", "add_groups": ["g64"] });
    assert_eq!(code(ask(&mut identity, "principal-modify", join)), Some(RefusalCode::Invalid));
    assert_eq!(identity.standing("bo").unwrap().groups.len(), 64);
    let change = json!({ "principal": "bo", "add_groups": ["g64"], "remove_groups": ["g0"] });
    ask(&mut identity, "principal-modify", change).expect("one for another");

    let revoke = |range: std::ops::Range<u32>| json!({ "principal": "bo", "capabilities": range.map(|n| format!("a:{n}")).collect::<Vec<_>>() });
    ask(&mut identity, "caps-revoke", revoke(0..256)).unwrap();
    ask(&mut identity, "caps-revoke", revoke(0..256)).expect("the same again adds nothing");
    assert_eq!(code(ask(&mut identity, "caps-revoke", revoke(256..257))), Some(RefusalCode::Invalid));
    assert_eq!(identity.standing("bo").unwrap().revokes.len(), 256);
}

#[test]
fn what_changes_somebody_takes_no_target_so_that_no_self_form_reaches_it() {
    let mut identity = identity();
    for handler in HANDLERS {
        let free = [
            "invite-",
            "principal-list",
            "principal-show",
            "group-list",
            "caps-show",
            "caps-check",
            "me",
            "quota-get",
            "session-refresh",
            "session-end",
            "device-",
            "certificate-",
            "approval-",
            "login",
        ];
        if free.iter().any(|prefix| handler.starts_with(prefix)) {
            continue;
        }
        let answer = identity.as_principal("default").with_target("default").handle(handler, json!({})).unwrap();
        let refusal = answer.expect_err(handler);
        assert!(refusal.code == RefusalCode::Invalid && refusal.reason.contains("target"), "{handler}: {refusal:?}");
    }
}

#[test]
fn quotas_are_read_and_changed_in_part_and_reach_the_registrar() {
    let mut identity = identity();
    let quota = |identity: &Capsule| identity.standing("default").unwrap().quotas;
    assert_eq!(quota(&identity).max_timeout_secs, None);
    let change = json!({ "principal": "default", "quotas": { "max_timeout_secs": 5, "max_memory_bytes": 1048576 } });
    let changed = ask(&mut identity, "quota-set", change).unwrap();
    assert_eq!((&changed["principal"], &changed["quotas"]["max_timeout_secs"]), (&json!("default"), &json!(5)));
    let registered = quota(&identity);
    assert_eq!((registered.max_timeout_secs, registered.max_memory_bytes), (Some(5), Some(1 << 20)));
    let reset = json!({ "principal": "default", "quotas": { "max_timeout_secs": null } });
    ask(&mut identity, "quota-set", reset).unwrap();
    let registered = quota(&identity);
    assert_eq!((registered.max_timeout_secs, registered.max_memory_bytes), (None, Some(1 << 20)));
    start(&mut identity).unwrap();
    assert_eq!(quota(&identity).max_memory_bytes, Some(1 << 20), "a start keeps them");

    let read = ask(&mut identity, "quota-get", json!({})).unwrap();
    assert_eq!((&read["principal"], &read["quotas"]["max_memory_bytes"]), (&json!("default"), &json!(1 << 20)));
    let about = identity.as_principal("default").with_target("nobody").handle("quota-get", json!({})).unwrap();
    assert_eq!(about.unwrap_err().code, RefusalCode::NotFound);
    // About oneself the self form would be enough, and nobody raises their own quotas.
    let raise = json!({ "principal": "default", "quotas": { "max_memory_bytes": null } });
    let own = identity.as_principal("default").with_target("default").handle("quota-set", raise).unwrap();
    assert_eq!(own.unwrap_err().code, RefusalCode::Invalid);
    for (quotas, reason) in [
        (json!({ "max_timeout_secs": 86401 }), "max_timeout_secs = 86401 must be 1 to 86400"),
        (json!({ "max_storage_bytes": 0 }), "max_storage_bytes = 0 must be 1"),
        (json!({ "max_of_everything": 1 }), "max_of_everything"),
    ] {
        let payload = json!({ "principal": "default", "quotas": quotas });
        let refusal = ask(&mut identity, "quota-set", payload).unwrap_err();
        assert!(refusal.code == RefusalCode::Invalid && refusal.reason.contains(reason), "{}", refusal.reason);
    }
    assert_eq!(quota(&identity).max_memory_bytes, Some(1 << 20));
}
