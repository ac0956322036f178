//! Invites are issued, listed and revoked.

use super::*;

#[test]
fn values_out_of_bounds_are_invalid_and_name_the_field() {
    let mut identity = identity();
    let long = "v".repeat(257);
    let many: Value = (0..17).map(|n| (n.to_string(), json!(""))).collect::<serde_json::Map<_, _>>().into();
    let with = |field: &str, value: Value| {
        let mut request = json!({ "group": "agent", "max_uses": 1 });
        request[field] = value;
        request
    };
    for (request, word) in [
        (with("group", json!("nobody")), "group"),
        (with("group", json!("")), "group"),
        (with("group", json!(7)), "line 1"),
        (with("max_uses", json!(0)), "max_uses"),
        (with("max_uses", json!(10_001)), "max_uses"),
        (with("max_uses", json!(-1)), "max_uses"),
        (with("max_uses", json!(1.5)), "max_uses"),
        (with("expires_secs", json!(0)), "expires_secs"),
        (with("expires_secs", json!(30 * DAY + 1)), "expires_secs"),
        (with("expires_secs", json!(u64::MAX)), "expires_secs"),
        (with("metadata", many), "metadata"),
        (with("metadata", json!({ "": "v" })), "metadata"),
        (with("metadata", json!({ "k".repeat(65): "v" })), "metadata"),
        (with("metadata", json!({ "k": long })), "metadata"),
        (json!({ "group": "agent" }), "max_uses"),
    ] {
        let refusal = ask(&mut identity, "invite-issue", request.clone()).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Invalid, "{request}");
        assert!(refusal.reason.contains(word), "{request}: {}", refusal.reason);
    }
    assert!(fingerprints(&invites(&mut identity)).is_empty());
    for request in [
        with("max_uses", json!(10_000)),
        with("expires_secs", json!(1)),
        with("expires_secs", json!(30 * DAY)),
        with("metadata", json!({ "k".repeat(64): "v".repeat(256) })),
    ] {
        assert!(ask(&mut identity, "invite-issue", request.clone()).is_ok(), "{request}");
    }
}

#[test]
fn every_token_is_another() {
    let mut identity = identity();
    let tokens: BTreeSet<_> = (0..20).map(|_| issue(&mut identity, "agent", 1)).collect();
    assert_eq!(tokens.len(), 20);
    assert!(tokens.iter().all(|token| token.len() >= 43), "256 bits need 43 characters");
}

#[test]
fn a_list_names_invites_by_fingerprint_and_says_who_issued_what() {
    let mut identity = identity();
    let request = json!({ "group": "agent", "max_uses": 2, "metadata": { "for": "Bo" } });
    let token = text(&ask(&mut identity, "invite-issue", request).unwrap()["invite"]["token"]);
    let list = invites(&mut identity);
    let row = &list["invites"][0];
    assert_eq!((&row["group"], &row["remaining_uses"]), (&json!("agent"), &json!(2)));
    assert_eq!(row["metadata"], json!({ "for": "Bo" }));
    assert_eq!((&row["issued_by"], &row["issued_at_epoch"]), (&json!("default"), &json!(identity.time())));
    assert!(!list.to_string().contains(&token));
}

#[test]
fn a_list_pages_through_every_invite_once() {
    let mut identity = identity();
    for _ in 0..7 {
        issue(&mut identity, "agent", 1);
    }
    let all = fingerprints(&invites(&mut identity));
    let mut paged = Vec::new();
    let mut request = json!({ "limit": 3 });
    loop {
        let page = ask(&mut identity, "invite-list", request.clone()).unwrap();
        assert!(fingerprints(&page).len() <= 3);
        paged.extend(fingerprints(&page));
        match page.get("next_after") {
            Some(after) => request["after"] = after.clone(),
            None => break,
        }
    }
    assert_eq!((all.len(), &paged), (7, &all));
    for bad in [json!({ "limit": 0 }), json!({ "limit": 10_001 }), json!({ "after": "x" })] {
        assert_eq!(ask(&mut identity, "invite-list", bad).unwrap_err().code, RefusalCode::Invalid);
    }
}

#[test]
fn an_invite_is_revoked_by_its_fingerprint_or_its_token_and_only_once() {
    let mut identity = identity();
    let first = issue(&mut identity, "agent", 1);
    let by_fingerprint = json!({ "fingerprint": fingerprints(&invites(&mut identity))[0] });
    let second = issue(&mut identity, "agent", 1);
    let by_token = json!({ "token": second });
    for (request, token) in [(by_fingerprint, first), (by_token, second)] {
        assert_eq!(ask(&mut identity, "invite-revoke", request.clone()), Ok(json!({})));
        assert_eq!(redeem(&mut identity, &token, 0).unwrap_err().code, RefusalCode::Denied);
        assert_eq!(ask(&mut identity, "invite-revoke", request).unwrap_err().code, RefusalCode::NotFound);
    }
}

#[test]
fn revoking_wants_exactly_one_name_that_can_be_one() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 1);
    let fingerprint = fingerprints(&invites(&mut identity))[0].clone();
    for (request, code) in [
        (json!({}), RefusalCode::Invalid),
        (json!({ "token": token, "fingerprint": fingerprint }), RefusalCode::Invalid),
        (json!({ "fingerprint": &fingerprint[..31] }), RefusalCode::Invalid),
        (json!({ "fingerprint": "" }), RefusalCode::Invalid),
        (json!({ "fingerprint": "g".repeat(32) }), RefusalCode::Invalid),
        (json!({ "fingerprint": "0".repeat(32) }), RefusalCode::NotFound),
        (json!({ "token": "" }), RefusalCode::NotFound),
    ] {
        assert_eq!(ask(&mut identity, "invite-revoke", request.clone()).unwrap_err().code, code, "{request}");
    }
    assert!(redeem(&mut identity, &token, 0).is_ok());
}

#[test]
fn a_list_deletes_the_expired_however_many_they_are() {
    let mut identity = identity();
    let before = identity.store().entries().count();
    let brief = json!({ "group": "agent", "max_uses": 1, "expires_secs": 1 });
    for _ in 0..4_200 {
        ask(&mut identity, "invite-issue", brief.clone()).unwrap();
    }
    identity.advance(1);
    assert!(fingerprints(&invites(&mut identity)).is_empty());
    assert_eq!(identity.store().entries().count(), before);
}

#[test]
fn issuing_is_one_write() {
    let mut identity = identity();
    let before: BTreeSet<_> = identity.store().entries().map(|(slot, _)| slot.clone()).collect();
    issue(&mut identity, "agent", 1);
    let after: BTreeSet<_> = identity.store().entries().map(|(slot, _)| slot.clone()).collect();
    assert_eq!(after.difference(&before).count(), 1);
}
