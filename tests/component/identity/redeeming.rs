//! An invite becomes a principal, once for each of its uses.

use super::*;

#[test]
fn an_invite_becomes_a_principal_whose_bearer_authenticates() {
    let mut identity = identity();
    let request = json!({ "group": "agent", "max_uses": 3, "expires_secs": 60, "metadata": { "for": "Bo" } });
    let invite = ask(&mut identity, "invite-issue", request).unwrap()["invite"].clone();
    assert_eq!(invite["group"], "agent");
    assert_eq!(invite["remaining_uses"], 3);
    assert_eq!(invite["expires_at_epoch"], identity.time() + 60);
    assert_eq!(invite["metadata"], json!({ "for": "Bo" }));

    let redeemed = redeem_named(&mut identity, &text(&invite["token"]), 0, "Bo Li").unwrap();
    assert_eq!(redeemed["principal"], "bo-li");
    assert_eq!(redeemed["group"], "agent");
    assert_eq!(redeemed["session_expires_at_epoch"], identity.time() + SESSION);
    assert_eq!(text(&redeemed["public_key_fingerprint"]).len(), 32);

    let standing = identity.standing("bo-li").unwrap();
    assert!(standing.enabled && standing.grants.is_empty() && standing.revokes.is_empty());
    assert_eq!(standing.groups, ["agent"]);
    let who = bearer(&mut identity, &text(&redeemed["session_token"]));
    let who = who.expect("somebody");
    assert_eq!((who.principal.as_str(), who.expires_at), ("bo-li", identity.time() + SESSION));
    assert!(who.ceiling.is_none() && who.session.is_some());
    let me = ask_as(&mut identity, "bo-li", "me", json!({})).unwrap();
    assert_eq!(me, json!({ "principal": "bo-li", "groups": ["agent"], "capabilities": ["self:*"] }));
}

#[test]
fn an_invite_makes_as_many_principals_as_it_has_uses() {
    let mut identity = identity();
    let token = issue(&mut identity, "restricted", 3);
    let made: BTreeSet<_> =
        (0..3).map(|key| text(&redeem_named(&mut identity, &token, key, "Bo").unwrap()["principal"])).collect();
    assert_eq!(made.len(), 3, "{made:?}");
    assert_eq!(redeem(&mut identity, &token, 3).unwrap_err().code, RefusalCode::Denied);
    assert_eq!(standings(&identity).len(), 4);
    assert!(fingerprints(&invites(&mut identity)).is_empty());
}

#[test]
fn tokens_that_are_not_good_are_refused_in_the_same_words_whatever_is_wrong() {
    let mut identity = identity();
    let used_up = issue(&mut identity, "agent", 1);
    redeem(&mut identity, &used_up, 0).unwrap();
    let revoked = issue(&mut identity, "agent", 1);
    ask(&mut identity, "invite-revoke", json!({ "token": revoked })).unwrap();
    let brief = json!({ "group": "agent", "max_uses": 1, "expires_secs": 1 });
    let expired = text(&ask(&mut identity, "invite-issue", brief).unwrap()["invite"]["token"]);
    identity.advance(1);
    let good = issue(&mut identity, "agent", 1);
    let (head, last) = good.split_at(good.len() - 1);
    let another = format!("{head}{}", if last == "A" { "B" } else { "A" });
    let longer = format!("{good}A");
    let (upper, spaced, huge) = (good.to_uppercase(), format!(" {good}"), "x".repeat(50_000));
    let tokens = [&used_up, &revoked, &expired, &another, &longer, &upper, &spaced, &huge, "", head];
    let refusals: Vec<_> = tokens.map(|token| redeem(&mut identity, token, 1).unwrap_err()).into();
    assert_eq!(refusals[0].code, RefusalCode::Denied);
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    assert_eq!(standings(&identity).len(), 2);
    assert!(redeem(&mut identity, &good, 1).is_ok());
}

#[test]
fn an_invite_is_good_until_the_second_at_which_it_expires() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 2);
    let row = invites(&mut identity)["invites"][0].clone();
    assert_eq!(row["expires_at_epoch"], identity.time() + 7 * DAY);
    identity.advance(7 * DAY - 1);
    redeem(&mut identity, &token, 0).unwrap();
    identity.advance(1);
    assert_eq!(redeem(&mut identity, &token, 1).unwrap_err().code, RefusalCode::Denied);
    assert!(fingerprints(&invites(&mut identity)).is_empty());
}

#[test]
fn a_key_that_is_no_good_is_invalid_and_spends_no_use() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 1);
    let fits = public_key(0);
    let low_order = format!("01{}", "0".repeat(62));
    let no_point = format!("02{}", "0".repeat(62));
    let not_canonical = format!("f0{}7f", "f".repeat(60));
    let non_ascii = "ä".repeat(32);
    for key in [
        "",
        &fits[..62],
        &format!("{fits}00"),
        &format!("{}zz", &fits[..62]),
        &format!("0x{}", &fits[..62]),
        &"0".repeat(64),
        &low_order,
        &no_point,
        &not_canonical,
        &non_ascii,
    ] {
        let payload = json!({ "token": token, "public_key": key });
        let refusal = ask_as(&mut identity, "anonymous", "invite-redeem", payload).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Invalid, "{key}");
        assert!(refusal.reason.contains("public_key"), "{key}: {}", refusal.reason);
    }
    assert!(redeem(&mut identity, &token, 0).is_ok());
}

#[test]
fn a_key_has_one_principal_and_a_second_redemption_spends_no_use() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 2);
    redeem(&mut identity, &token, 0).unwrap();
    assert_eq!(redeem(&mut identity, &token, 0).unwrap_err().code, RefusalCode::Conflict);
    let shouted = json!({ "token": token, "public_key": public_key(0).to_uppercase() });
    let refusal = ask_as(&mut identity, "anonymous", "invite-redeem", shouted).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict);
    assert_eq!(invites(&mut identity)["invites"][0]["remaining_uses"], 1);
    assert!(redeem(&mut identity, &token, 1).is_ok());
}

#[test]
fn whoever_has_no_token_does_not_learn_whether_a_key_is_known() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 1);
    redeem(&mut identity, &token, 0).unwrap();
    let known = redeem(&mut identity, &token, 0).unwrap_err();
    assert_eq!(known, redeem(&mut identity, &token, 1).unwrap_err());
    assert_eq!(known.code, RefusalCode::Denied);
}

#[test]
fn a_display_name_becomes_an_id_that_is_legal_free_and_not_reserved() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 20);
    let long = "n".repeat(256);
    let names = ["Bo Li", "bo/li", "../../x", "default", "anonymous", "host", "system", "ü", "", "\0", &long];
    let mut seen = BTreeSet::from(["default".to_owned()]);
    for (key, name) in names.into_iter().enumerate() {
        let redeemed = redeem_named(&mut identity, &token, key as u8, name).unwrap();
        let id = text(&redeemed["principal"]);
        let legal = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        assert!(legal && (1..=64).contains(&id.len()), "{name}: {id}");
        assert!(!["anonymous", "host", "system"].contains(&id.as_str()), "{name}: {id}");
        assert!(seen.insert(id.clone()), "{name}: {id} twice");
    }
    assert_eq!(identity.standing("default").unwrap().groups, ["admin"]);
    let refusal = redeem_named(&mut identity, &token, 100, &"n".repeat(257)).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Invalid);
    assert!(refusal.reason.contains("display_name"), "{}", refusal.reason);
}

#[test]
fn conflicts_are_retried_and_a_use_is_spent_once() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 2);
    identity.store().conflict_next(5);
    redeem(&mut identity, &token, 0).unwrap();
    assert_eq!(identity.store().conflicts_left(), 0);
    assert_eq!(invites(&mut identity)["invites"][0]["remaining_uses"], 1);
    assert_eq!(standings(&identity).len(), 2);
}

#[test]
fn endless_conflicts_end_in_a_refusal_and_nothing_is_written() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 1);
    let before = identity.store().entries().count();
    identity.store().conflict_next(u32::MAX);
    let refusal = redeem(&mut identity, &token, 0).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    assert_eq!(identity.store().entries().count(), before);
    assert_eq!(standings(&identity), ["default"]);
    identity.store().conflict_next(0);
    assert!(redeem(&mut identity, &token, 0).is_ok());
}
