//! Principals, invites and bearers: from the bootstrap to a session, and every way in which that must not work.

use std::collections::BTreeSet;

use astrid_sdk_test::{CallError, Capsule, ClientCertificate, Identified, Presented, Refusal, RefusalCode, UnixPeer};
use base64ct::{Base64UrlUnpadded, Encoding};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

const DAY: u64 = 86_400;
const SESSION: u64 = 28_800;
const HANDLERS: [&str; 39] = [
    "invite-issue",
    "invite-list",
    "invite-revoke",
    "invite-redeem",
    "principal-create",
    "principal-list",
    "principal-show",
    "principal-modify",
    "principal-enable",
    "principal-disable",
    "principal-delete",
    "group-create",
    "group-list",
    "group-show",
    "group-modify",
    "group-delete",
    "caps-grant",
    "caps-revoke",
    "caps-show",
    "caps-check",
    "me",
    "device-pair",
    "device-redeem",
    "device-list",
    "device-remove",
    "certificate-bind",
    "certificate-list",
    "certificate-remove",
    "login-challenge",
    "login",
    "session-refresh",
    "session-end",
    "session-rotate",
    "approval-request",
    "approval-list",
    "approval-answer",
    "approval-withdraw",
    "quota-get",
    "quota-set",
];

#[test]
fn every_handler_is_tried_with_what_no_handler_takes() {
    let manifest = astrid_tests::pack::read("identity").manifest;
    let bound: BTreeSet<&str> = manifest.subscribe.iter().filter_map(|binding| binding.handler.as_deref()).collect();
    assert_eq!(bound, BTreeSet::from(HANDLERS));
}

/// After its first start.
fn identity() -> Capsule {
    let mut identity = crate::capsule("identity");
    start(&mut identity).unwrap();
    identity
}

fn start(identity: &mut Capsule) -> Result<(), String> {
    identity.start().unwrap_or_else(|error| panic!("start: {error}"))
}

fn ask_as(identity: &mut Capsule, principal: &str, handler: &str, payload: Value) -> Result<Value, Refusal> {
    let call = identity.as_principal(principal);
    let answer = call.handle(handler, payload).unwrap_or_else(|error| panic!("{handler}: {error}"));
    answer.inspect(|answer| crate::types::check_answer("identity", handler, answer))
}

/// About another, or about oneself in a `self:` form.
fn ask_about(
    identity: &mut Capsule,
    principal: &str,
    target: &str,
    handler: &str,
    payload: Value,
) -> Result<Value, Refusal> {
    let call = identity.as_principal(principal).with_target(target);
    let answer = call.handle(handler, payload).unwrap_or_else(|error| panic!("{handler}: {error}"));
    answer.inspect(|answer| crate::types::check_answer("identity", handler, answer))
}

/// As the administrator.
fn ask(identity: &mut Capsule, handler: &str, payload: Value) -> Result<Value, Refusal> {
    ask_as(identity, "default", handler, payload)
}

/// As everybody who holds a token.
fn redeem(identity: &mut Capsule, token: &str, key: u8) -> Result<Value, Refusal> {
    ask_as(identity, "anonymous", "invite-redeem", json!({ "token": token, "public_key": public_key(key) }))
}

fn redeem_named(identity: &mut Capsule, token: &str, key: u8, name: &str) -> Result<Value, Refusal> {
    let payload = json!({ "token": token, "public_key": public_key(key), "display_name": name });
    ask_as(identity, "anonymous", "invite-redeem", payload)
}

fn issue(identity: &mut Capsule, group: &str, max_uses: u32) -> String {
    let answer = ask(identity, "invite-issue", json!({ "group": group, "max_uses": max_uses })).unwrap();
    text(&answer["invite"]["token"])
}

fn bearer(identity: &mut Capsule, token: &str) -> Option<Identified> {
    identity.authenticate(Presented::Bearer(token.into())).unwrap_or_else(|error| panic!("{token}: {error}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

/// A real key, another for every number.
fn public_key(n: u8) -> String {
    hex::encode(SigningKey::from_bytes(&[n + 1; 32]).verifying_key().as_bytes())
}

/// A challenge of a principal, signed with the key of this number.
fn signed_login(identity: &mut Capsule, principal: &str, key: u8) -> Value {
    let challenge = ask_as(identity, "anonymous", "login-challenge", json!({ "principal": principal })).unwrap();
    let signature = SigningKey::from_bytes(&[key + 1; 32]).sign(text(&challenge["challenge"]).as_bytes());
    json!({ "principal": principal, "challenge": challenge["challenge"], "public_key": public_key(key),
            "signature": hex::encode(signature.to_bytes()) })
}

fn log_in(identity: &mut Capsule, principal: &str, key: u8) -> Result<Value, Refusal> {
    let login = signed_login(identity, principal, key);
    ask_as(identity, "anonymous", "login", login)
}

/// A bearer as the specification spells it, signed with the key of a purpose.
fn forged(identity: &Capsule, purpose: &str, principal: &str, issued: u64, expires: u64) -> String {
    let signature = identity.sign(purpose, format!("{principal}:{issued}:{expires}").as_bytes());
    spelled(principal, issued, expires, &signature)
}

fn spelled(principal: &str, issued: u64, expires: u64, signature: &[u8]) -> String {
    let part = |text: String| Base64UrlUnpadded::encode_string(text.as_bytes());
    let parts = [part(principal.into()), part(issued.to_string()), part(expires.to_string()), hex::encode(signature)];
    parts.join(".")
}

fn ids(list: &Value) -> Vec<String> {
    list["principals"].as_array().unwrap().iter().map(|row| text(&row["principal"])).collect()
}

fn fingerprints(list: &Value) -> Vec<String> {
    list["invites"].as_array().unwrap().iter().map(|row| text(&row["token_fingerprint"])).collect()
}

fn invites(identity: &mut Capsule) -> Value {
    ask(identity, "invite-list", json!({})).unwrap()
}

fn standings(identity: &Capsule) -> Vec<String> {
    identity.registrar().principals().map(str::to_owned).collect()
}

mod bootstrap {
    use super::*;

    #[test]
    fn the_first_start_registers_the_built_in_groups_and_one_administrator() {
        let identity = identity();
        let registrar = identity.registrar();
        assert_eq!(registrar.group("admin"), Some(&["*".to_owned()][..]));
        assert_eq!(registrar.group("agent"), Some(&["self:*".to_owned()][..]));
        assert_eq!(registrar.group("restricted"), Some(&[][..]));
        assert_eq!(standings(&identity), ["default"]);
        let standing = identity.standing("default").unwrap();
        assert!(standing.enabled && standing.revokes.is_empty());
        assert_eq!(standing.groups, ["admin"]);
    }

    #[test]
    fn a_start_can_be_repeated_and_leaves_everybody_as_they_are() {
        let mut identity = identity();
        let token = issue(&mut identity, "agent", 1);
        let redeemed = redeem(&mut identity, &token, 0).unwrap();
        let before = ask(&mut identity, "principal-list", json!({})).unwrap();
        let standing = identity.standing(&text(&redeemed["principal"])).cloned();
        start(&mut identity).unwrap();
        assert_eq!(ask(&mut identity, "principal-list", json!({})).unwrap(), before);
        assert_eq!(identity.standing(&text(&redeemed["principal"])).cloned(), standing);
        assert!(bearer(&mut identity, &text(&redeemed["session_token"])).is_some());
    }

    #[test]
    fn a_start_is_retried_on_conflicts() {
        let mut identity = crate::capsule("identity");
        identity.store().conflict_next(3);
        start(&mut identity).unwrap();
        assert_eq!(standings(&identity), ["default"]);
    }

    #[test]
    fn a_start_without_a_store_is_refused() {
        let mut identity = crate::capsule("identity");
        identity.store().set_unavailable(true);
        assert!(!start(&mut identity).unwrap_err().is_empty());
        assert!(standings(&identity).is_empty());
    }

    #[test]
    fn before_the_start_nobody_is_known() {
        let mut identity = crate::capsule("identity");
        assert_eq!(ask(&mut identity, "me", json!({})).unwrap_err().code, RefusalCode::Denied);
        let (now, expires) = (identity.time(), identity.time() + 60);
        let token = forged(&identity, "session", "default", now, expires);
        assert_eq!(bearer(&mut identity, &token), None);
    }
}

mod redeeming {
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
}

mod inviting {
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
}

mod bearers {
    use super::*;

    /// With a principal `bo`, and its bearer.
    fn with_bo() -> (Capsule, String) {
        let mut identity = identity();
        let token = issue(&mut identity, "agent", 1);
        let redeemed = redeem_named(&mut identity, &token, 0, "Bo").unwrap();
        (identity, text(&redeemed["session_token"]))
    }

    #[test]
    fn a_bearer_is_spelled_as_specified_and_verifies_with_the_session_key() {
        let (identity, token) = with_bo();
        let (issued, expires) = (identity.time(), identity.time() + SESSION);
        assert_eq!(token, forged(&identity, "session", "bo", issued, expires));
    }

    #[test]
    fn a_bearer_ends_at_the_second_at_which_it_expires() {
        let (mut identity, token) = with_bo();
        identity.advance(SESSION - 1);
        assert!(bearer(&mut identity, &token).is_some());
        identity.advance(1);
        assert_eq!(bearer(&mut identity, &token), None);
    }

    #[test]
    fn a_bearer_that_somebody_else_could_have_made_is_nobodys() {
        let (mut identity, good) = with_bo();
        let (now, later) = (identity.time(), identity.time() + SESSION);
        let stranger = SigningKey::from_bytes(&[9; 32]);
        let by_stranger = stranger.sign(format!("bo:{now}:{later}").as_bytes()).to_bytes();
        let signature = identity.sign("session", format!("bo:{now}:{later}").as_bytes());
        let cases = [
            spelled("bo", now, later, &by_stranger),
            spelled("bo", now, later, &[0; 64]),
            spelled("default", now, later, &signature),
            spelled("bo", now + 1, later, &signature),
            spelled("bo", now, later + 1, &signature),
            forged(&identity, "other", "bo", now, later),
            forged(&identity, "session", "nobody-of-that-name", now, later),
            forged(&identity, "session", "anonymous", now, later),
            forged(&identity, "session", "", now, later),
            forged(&identity, "session", "bo", now + DAY, now + 2 * DAY),
            forged(&identity, "session", "bo", now - SESSION, now),
        ];
        for token in cases {
            assert_eq!(bearer(&mut identity, &token), None, "{token}");
        }
        assert!(bearer(&mut identity, &good).is_some());
    }

    #[test]
    fn a_bearer_has_one_spelling() {
        let (mut identity, good) = with_bo();
        let parts: Vec<_> = good.split('.').collect();
        let cases = [
            String::new(),
            ".".into(),
            "...".into(),
            parts[..3].join("."),
            format!("{good}."),
            format!("{good}.00"),
            format!(" {good}"),
            format!("{good} "),
            format!("{good}00"),
            good[..good.len() - 2].to_owned(),
            format!("{}={}", parts[0], &good[parts[0].len()..]),
            format!("{}.{}", parts[..3].join("."), parts[3].to_uppercase()),
            "x".repeat(50_000),
            "\0".into(),
            "ä.ä.ä.ä".into(),
        ];
        for token in cases {
            assert_eq!(bearer(&mut identity, &token), None, "{token:.80}");
        }
    }

    #[test]
    fn every_change_of_one_character_makes_a_bearer_nobodys() {
        let (mut identity, good) = with_bo();
        for at in 0..good.len() {
            let mut changed = good.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(bearer(&mut identity, &changed), None, "{changed}");
        }
    }

    #[test]
    fn the_user_that_runs_the_host_is_the_administrator_and_no_other_user_is_anybody() {
        let mut identity = identity();
        let mut peer = |uid, owner| identity.authenticate(Presented::Unix(UnixPeer { uid, owner })).unwrap();
        assert_eq!(peer(1000, true).map(|who| who.principal).as_deref(), Some("default"));
        assert_eq!(peer(1001, false), None);
        assert_eq!(peer(0, false), None);
    }

    #[test]
    fn a_certificate_is_its_principal_from_when_it_is_bound_until_it_is_removed() {
        let (mut identity, _) = with_bo();
        let shown = || Presented::Certificate(ClientCertificate { fingerprint: "ab".repeat(32), common_name: None });
        assert_eq!(identity.authenticate(shown()).unwrap(), None);
        let named = json!({ "fingerprint": "ab".repeat(32) });
        ask_about(&mut identity, "default", "bo", "certificate-bind", named.clone()).unwrap();
        let who = identity.authenticate(shown()).unwrap().unwrap();
        assert_eq!((who.principal.as_str(), who.ceiling), ("bo", None));
        let listed = ask_as(&mut identity, "bo", "certificate-list", json!({})).unwrap();
        assert_eq!(listed["certificates"][0]["fingerprint"], named["fingerprint"]);
        ask_as(&mut identity, "bo", "certificate-remove", named).unwrap();
        assert_eq!(identity.authenticate(shown()).unwrap(), None);
    }

    #[test]
    fn a_store_that_is_away_never_reads_as_a_bad_bearer() {
        let (mut identity, good) = with_bo();
        identity.store().set_unavailable(true);
        let judged = identity.authenticate(Presented::Bearer(good));
        assert!(matches!(judged, Err(CallError::Trapped(_))), "{judged:?}");
    }
}

mod principals {
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

mod principals_and_groups {
    use super::*;

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
            assert!(
                refusal.code == RefusalCode::Invalid && refusal.reason.contains("target"),
                "{handler}: {refusal:?}"
            );
        }
    }
}

mod sessions {
    use super::*;

    #[test]
    fn a_bearer_is_renewed_ended_and_outlives_a_change_of_keys_unless_it_shall_not() {
        let mut identity = identity();
        let token = issue(&mut identity, "agent", 1);
        let first = text(&redeem_named(&mut identity, &token, 0, "bo").unwrap()["session_token"]);
        identity.advance(60);
        let with = |token: &str| json!({ "token": token });
        let renewed = ask_as(&mut identity, "bo", "session-refresh", with(&first)).unwrap();
        assert_eq!(renewed["session_expires_at_epoch"], identity.time() + SESSION);
        let second = text(&renewed["session_token"]);
        assert_eq!(ask_as(&mut identity, "bo", "session-end", with(&first)), Ok(json!({})));
        assert_eq!(bearer(&mut identity, &first), None);
        assert!(bearer(&mut identity, &second).is_some());
        let rotated = ask(&mut identity, "session-rotate", json!({})).unwrap();
        assert_eq!(rotated, json!({ "generation": 1, "ended": false }));
        identity.advance(60);
        let third = text(&ask_as(&mut identity, "bo", "session-refresh", with(&second)).unwrap()["session_token"]);
        let (issued, expires) = (identity.time(), identity.time() + SESSION);
        assert_eq!(third, forged(&identity, "session.1", "bo", issued, expires));
        assert!(bearer(&mut identity, &second).is_some() && bearer(&mut identity, &third).is_some());
        ask(&mut identity, "session-rotate", json!({ "now": true })).unwrap();
        assert!(bearer(&mut identity, &second).is_none() && bearer(&mut identity, &third).is_none());
        let stranger = ask_as(&mut identity, "default", "session-refresh", with(&third)).unwrap_err();
        assert_eq!(stranger.code, RefusalCode::Denied);
    }
}

mod devices {
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
        assert_eq!(
            (&devices["devices"][0]["label"], devices["devices"].as_array().unwrap().len()),
            (&json!("phone"), 2)
        );
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
}

mod approvals {
    use super::*;

    #[test]
    fn nobody_answers_in_time_is_a_denial_and_the_principal_was_told() {
        let mut identity = identity();
        let ask = json!({ "action": "delete", "resource": "/a\nb" });
        let call = identity.as_principal("bo");
        let outcome = call.handle("approval-request", ask).unwrap().unwrap();
        crate::types::check_answer("identity", "approval-request", &outcome);
        assert_eq!(outcome, json!({ "approved": false, "by": "timeout" }));
        let told: Vec<_> = identity.published().iter().map(|p| (p.topic.clone(), p.principal.clone())).collect();
        let own = |topic: &str| (format!("identity.v1.approval.{topic}"), "bo".to_owned());
        assert_eq!(told, [own("asked"), own("over")]);
        let listed = ask_about(&mut identity, "bo", "bo", "approval-list", json!({})).unwrap();
        assert_eq!(listed, json!({ "requests": [], "standing": [] }));
        let late = json!({ "id": "x", "decision": "approve_once" });
        let late = ask_about(&mut identity, "bo", "bo", "approval-answer", late).unwrap_err();
        assert_eq!(late.code, RefusalCode::NotFound);
    }
}

mod notes {
    use super::*;

    #[test]
    fn the_log_says_who_changed_whom_and_why_not_and_never_a_token_or_a_key() {
        let mut identity = identity();
        let token = issue(&mut identity, "agent", 1);
        let redeemed = redeem_named(&mut identity, &token, 0, "bo").unwrap();
        let bearer = text(&redeemed["session_token"]);
        ask(&mut identity, "principal-disable", json!({ "principal": "bo" })).unwrap();
        ask(&mut identity, "principal-disable", json!({ "principal": "default" })).unwrap_err();
        ask(&mut identity, "principal-delete", json!({ "principal": token })).unwrap_err();
        ask(&mut identity, "invite-revoke", json!({ "fingerprint": bearer })).unwrap_err();
        redeem(&mut identity, &token, 1).unwrap_err();
        let lines: Vec<String> = identity.logs().iter().map(|logged| logged.message.clone()).collect();
        for part in [
            "by `default` about the name `bo`",
            "about the name `default` refused: `default` never is disabled",
            "refused: the invite",
        ] {
            assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:?}");
        }
        for secret in [&token, &bearer, &public_key(0), &public_key(1)] {
            assert!(!lines.iter().any(|line| line.contains(&secret[12..])), "{lines:?}");
        }
    }

    #[test]
    fn the_record_of_a_call_says_what_was_asked_and_why_not_and_never_a_token_or_a_key() {
        let mut identity = identity();
        let token = issue(&mut identity, "agent", 1);
        let issued = identity.take_detail().unwrap();
        assert_eq!(issued["group"], "agent");
        let redeemed = redeem_named(&mut identity, &token, 0, "bo").unwrap();
        let joined = identity.take_detail().unwrap();
        assert_eq!(joined["token_fingerprint"], issued["token_fingerprint"], "{joined}");
        assert_eq!(joined["public_key_fingerprint"], redeemed["public_key_fingerprint"]);
        assert_eq!(joined["principal"], "bo");
        redeem(&mut identity, &token, 1).unwrap_err();
        let refused = identity.take_detail().unwrap();
        assert_eq!(refused["refused"], "the invite is not valid");
        let login = json!({ "principal": "bo", "challenge": token, "public_key": public_key(0), "signature": "00" });
        ask_as(&mut identity, "anonymous", "login", login).unwrap_err();
        let failed = identity.take_detail().unwrap();
        assert!(failed["principal"] == "bo" && failed["refused"].is_string(), "{failed}");
        let bearer = text(&redeemed["session_token"]);
        ask_as(&mut identity, "bo", "session-end", json!({ "token": bearer })).unwrap();
        let ended = identity.take_detail().unwrap();
        assert_eq!(ended["token_fingerprint"], joined["session_token_fingerprint"]);
        for detail in [issued, joined, refused, failed, ended].map(|detail| detail.to_string()) {
            for secret in [&token, &bearer, &public_key(0), &public_key(1)] {
                assert!(!detail.contains(&secret[12..]), "{detail}");
            }
        }
    }
}
