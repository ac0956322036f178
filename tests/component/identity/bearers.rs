//! Whose a credential is, and every way in which it is nobody's.

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
