use std::thread;

use serde_json::json;

use super::*;
use crate::bearer;
use crate::groups;
use crate::keys::PublicKey;
use crate::ports::Bucket;
use crate::principals;
use crate::testing::{Fake, NOW, all_different, public_key};

#[test]
fn redeeming_makes_a_principal_with_its_key_its_standing_and_a_working_bearer() {
    let fake = Fake::started();
    let token = token(&fake, 2);
    let redeemed = redeem_with(&fake, &token, 1).unwrap();
    let key = PublicKey::parse("public_key", &public_key(1)).unwrap();
    assert_eq!((redeemed.principal.as_str(), redeemed.group.as_str()), ("agent", "agent"));
    assert_eq!(redeemed.public_key_fingerprint, key.fingerprint());
    assert_eq!(redeemed.session_expires_at_epoch, NOW + 28_800);
    let who = bearer::authenticate(&fake, &redeemed.session_token).unwrap().unwrap();
    assert_eq!((who.principal.as_str(), who.expires_at), ("agent", NOW + 28_800));

    assert_eq!(
        fake.value(Bucket::Principals, "agent").unwrap(),
        json!({"enabled": true, "groups": ["agent"], "grants": [], "revokes": [], "created_at": NOW, "keys_had": 1,
               "keys": [{"fingerprint": key.fingerprint(), "public_key": public_key(1), "added_at": NOW,
                         "number": 0}]})
    );
    let told = &fake.told()["agent"];
    assert!(told.enabled && told.groups == ["agent"] && told.grants.is_empty() && told.revokes.is_empty());
    assert!(fake.text().contains(&format!("Keys {} agent\n", key.fingerprint())));
    assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
    let fields = serde_json::to_value(&redeemed).unwrap();
    let mut fields: Vec<_> = fields.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["group", "principal", "public_key_fingerprint", "session_expires_at_epoch", "session_token"]);
}

#[test]
fn wrong_expired_used_up_and_revoked_tokens_get_the_same_refusal() {
    let fake = Fake::started();
    let used_up = token(&fake, 1);
    redeem_with(&fake, &used_up, 1).unwrap();
    let revoked = token(&fake, 1);
    revoke_with(&fake, &json!({"token": revoked})).unwrap();
    let expired = issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "expires_secs": 5})).unwrap().token;
    fake.set_now(NOW + 5);
    let live = token(&fake, 1);
    let foreign = format!("astrid-inv-{}", "A".repeat(43));
    let endless = "x".repeat(100_000);
    for wrong in [&used_up, &revoked, &expired, &foreign, "", "astrid-inv-", &live[..53], &endless] {
        not_valid(redeem_with(&fake, wrong, 2));
    }
    assert_eq!(fake.keys(Bucket::Principals), ["agent", "default"]);
    redeem_with(&fake, &live, 2).unwrap();
}

#[test]
fn a_key_that_has_a_principal_is_a_conflict_and_spends_no_use() {
    let fake = Fake::started();
    let token = token(&fake, 2);
    redeem_with(&fake, &token, 1).unwrap();
    assert!(matches!(redeem_with(&fake, &token, 1), Err(Refusal::Conflict(_))));
    assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
    assert_eq!(fake.keys(Bucket::Principals).len(), 2);
    let foreign = format!("astrid-inv-{}", "A".repeat(43));
    not_valid(redeem_with(&fake, &foreign, 1));
}

#[test]
fn a_bad_key_or_field_is_invalid_and_spends_no_use() {
    let fake = Fake::started();
    let token = token(&fake, 1);
    for (request, want) in [
        (json!({"token": token, "public_key": "00"}), "public_key must be 64 hexadecimal"),
        (json!({"token": token, "public_key": "0".repeat(64)}), "weak"),
        (json!({"token": token, "public_key": public_key(1), "display_name": "n".repeat(257)}), "display_name"),
        (json!({"token": token, "public_key": public_key(1), "group": "admin"}), "unknown field `group`"),
        (json!({"token": token}), "missing field `public_key`"),
    ] {
        let got = reason(redeem(&fake, request.to_string().as_bytes()));
        assert!(got.contains(want) && !got.contains(&token), "{got}");
    }
    assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
}

#[test]
fn an_invite_is_worth_nothing_while_its_issuer_is_disabled_and_once_it_is_deleted() {
    let fake = Fake::started();
    principals::create(&fake, "default", br#"{"name":"eve","groups":["admin"]}"#).unwrap();
    let request = json!({"group": "agent", "max_uses": 9}).to_string();
    let token = issue(&fake, "eve", request.as_bytes()).unwrap().invite.token;
    redeem_with(&fake, &token, 1).unwrap();
    let eve = br#"{"principal":"eve"}"#;
    principals::disable(&fake, eve).unwrap();
    not_valid(redeem_with(&fake, &token, 2));
    principals::enable(&fake, eve).unwrap();
    redeem_with(&fake, &token, 2).unwrap();
    principals::delete(&fake, eve).unwrap();
    not_valid(redeem_with(&fake, &token, 3));
    assert_eq!(listed(&fake, &json!({})), json!({"invites": []}));
    assert!(fake.keys(Bucket::Invites).is_empty(), "the list sweeps it");
}

#[test]
fn an_invite_to_a_group_that_is_gone_is_not_valid() {
    let fake = Fake::started();
    groups::create(&fake, "default", br#"{"name":"ops","capabilities":["a:b"]}"#).unwrap();
    let token = issue_with(&fake, &json!({"group": "ops", "max_uses": 9})).unwrap().token;
    let made = redeem_with(&fake, &token, 1).unwrap().principal;
    assert!(matches!(groups::delete(&fake, br#"{"name":"ops"}"#), Err(Refusal::Conflict(_))));
    let leave = json!({"principal": made, "remove_groups": ["ops"]});
    principals::modify(&fake, "default", leave.to_string().as_bytes()).unwrap();
    groups::delete(&fake, br#"{"name":"ops"}"#).unwrap();
    not_valid(redeem_with(&fake, &token, 2));
}

#[test]
fn names_become_ids_and_taken_or_reserved_ones_get_a_suffix() {
    let fake = Fake::started();
    let token = token(&fake, 100);
    assert_eq!(named(&fake, &token, 1, "Ada  Lovelace (2)"), "ada-lovelace-2");
    let second = named(&fake, &token, 2, "ada lovelace 2");
    assert!(second.starts_with("ada-lovelace-2-") && second.len() == "ada-lovelace-2-".len() + 8, "{second}");
    for (seed, reserved) in (3..).zip(["anonymous", "Default", "host", "SYSTEM"]) {
        let id = named(&fake, &token, seed, reserved);
        assert!(id.starts_with(&format!("{}-", reserved.to_lowercase())), "{id}");
    }
    assert_eq!(named(&fake, &token, 10, "\u{202e}日本"), "agent");
    assert!(named(&fake, &token, 11, "--").starts_with("agent-"));
    assert_eq!(named(&fake, &token, 12, &"x".repeat(256)), "x".repeat(48));
    assert_eq!(named(&fake, &token, 13, &"x".repeat(256)).len(), 57);
    assert_eq!(fake.told()["default"].groups, ["admin"]);
}

#[test]
fn a_suffix_that_is_taken_is_drawn_again() {
    let fake = Fake::started();
    let token = token(&fake, 3);
    redeem_with(&fake, &token, 1).unwrap();
    fake.repeat_random(3);
    let ids = [redeem_with(&fake, &token, 2).unwrap().principal, redeem_with(&fake, &token, 3).unwrap().principal];
    assert!(all_different(ids));
}

#[test]
fn a_conflict_is_read_again_and_tried_again_and_after_64_times_given_up() {
    let fake = Fake::started();
    let token = token(&fake, 2);
    fake.force_conflicts(63);
    redeem_with(&fake, &token, 1).unwrap();
    fake.force_conflicts(64);
    assert!(matches!(redeem_with(&fake, &token, 2), Err(Refusal::Unavailable(_))));
    assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
    redeem_with(&fake, &token, 2).unwrap();
}

#[test]
fn an_invite_revoked_while_it_is_redeemed_makes_nobody() {
    let fake = Fake::started();
    let token = token(&fake, 1);
    let request = json!({"token": token});
    fake.before_commit(move |fake| assert!(revoke_with(fake, &request).is_ok()));
    not_valid(redeem_with(&fake, &token, 1));
    assert_eq!(fake.keys(Bucket::Principals), ["default"]);
    assert!(fake.keys(Bucket::Keys).is_empty());
}

#[test]
fn two_who_want_the_same_name_at_once_get_different_ones() {
    let fake = Fake::started();
    let token = token(&fake, 2);
    let same = token.clone();
    fake.before_commit(move |fake| drop(redeem_with(fake, &same, 1).unwrap()));
    assert_ne!(redeem_with(&fake, &token, 2).unwrap().principal, "agent");
    assert_eq!(fake.keys(Bucket::Principals).len(), 3);
}

#[test]
fn one_key_redeemed_twice_at_once_is_one_principal() {
    let fake = Fake::started();
    let token = token(&fake, 2);
    let same = token.clone();
    fake.before_commit(move |fake| drop(redeem_with(fake, &same, 1).unwrap()));
    assert!(matches!(redeem_with(&fake, &token, 1), Err(Refusal::Conflict(_))));
    assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
}

#[test]
fn a_hundred_at_once_on_an_invite_for_ten_make_ten_principals() {
    let fake = Fake::started();
    let token = token(&fake, 10);
    fake.force_conflicts(30);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = (0..100)
            .map(|seed| {
                scope.spawn({
                    let (fake, token) = (&fake, &token);
                    move || redeem_with(fake, token, seed)
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (redeemed, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((redeemed.len(), refused.len()), (10, 90));
    refused.into_iter().for_each(not_valid);
    assert!(all_different(redeemed.into_iter().map(|redeemed| redeemed.unwrap().principal)));
    assert_eq!(fake.keys(Bucket::Principals).len(), 11);
    assert_eq!(fake.keys(Bucket::Keys).len(), 10);
    assert_eq!(fake.told().len(), 11);
    assert!(fake.keys(Bucket::Invites).is_empty());
}

#[test]
fn a_hundred_who_redeem_at_once_become_as_many_principals_as_there_is_room_for() {
    let fake = Fake::started();
    fake.say("DISTRO_MAX_PRINCIPALS", "12");
    // Invites of their own, so that nothing but the bound is between them.
    let tokens: Vec<String> = (0..100).map(|_| token(&fake, 1)).collect();
    let results: Vec<_> = thread::scope(|scope| {
        let fake = &fake;
        let threads: Vec<_> = (0..)
            .zip(&tokens)
            .map(|(seed, token)| scope.spawn(move || redeem_with(fake, token, seed).map(drop)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 11, "`default` is one of them");
    assert_eq!(fake.keys(Bucket::Principals).len(), 12);
    assert_eq!(fake.keys(Bucket::Invites).len(), 89, "whoever was refused has spent nothing");
    for refused in results.into_iter().filter_map(Result::err) {
        assert!(matches!(&refused, Refusal::Conflict(why) if why.contains("max-principals = 12")), "{refused:?}");
    }
}

#[test]
fn a_bound_counts_every_page_and_room_that_comes_back_is_used() {
    let fake = Fake::started();
    for n in 0..2_499 {
        fake.set(Bucket::Principals, &format!("p{n:04}"), &json!({}));
    }
    let token = token(&fake, 10);
    fake.say("DISTRO_MAX_PRINCIPALS", "2500");
    assert!(matches!(redeem_with(&fake, &token, 1), Err(Refusal::Conflict(_))));
    fake.say("DISTRO_MAX_PRINCIPALS", "2501");
    assert!(redeem_with(&fake, &token, 1).is_ok());
    assert!(matches!(redeem_with(&fake, &token, 2), Err(Refusal::Conflict(_))));
    let first = fake.keys(Bucket::Principals).into_iter().find(|id| id.starts_with("agent")).unwrap();
    principals::delete(&fake, json!({ "principal": first }).to_string().as_bytes()).unwrap();
    fake.calls();
    assert!(redeem_with(&fake, &token, 2).is_ok());
    assert!(!fake.calls().iter().any(|call| call == "scan Principals"), "they are counted once");
    assert!(matches!(redeem_with(&fake, &token, 3), Err(Refusal::Conflict(_))));

    // While there is no bound, nobody counts; once there is one again, what was counted before is not believed.
    fake.unsay("DISTRO_MAX_PRINCIPALS");
    assert!(redeem_with(&fake, &token, 3).is_ok());
    fake.say("DISTRO_MAX_PRINCIPALS", "2502");
    assert!(matches!(redeem_with(&fake, &token, 4), Err(Refusal::Conflict(_))));
    fake.say("DISTRO_MAX_PRINCIPALS", "2503");
    assert!(redeem_with(&fake, &token, 4).is_ok());
    fake.say("DISTRO_MAX_PRINCIPALS", "many");
    assert!(matches!(redeem_with(&fake, &token, 9), Err(Refusal::Internal(_))));
}

#[test]
fn without_a_store_everything_is_unavailable() {
    let fake = Fake::started();
    let token = token(&fake, 1);
    fake.go_away();
    assert!(matches!(redeem_with(&fake, &token, 1), Err(Refusal::Unavailable(_))));
    assert!(matches!(issue_with(&fake, &json!({"group": "agent", "max_uses": 1})), Err(Refusal::Unavailable(_))));
    assert!(matches!(list(&fake, b"{}"), Err(Refusal::Unavailable(_))));
    assert!(matches!(revoke_with(&fake, &json!({"token": token})), Err(Refusal::Unavailable(_))));
}
