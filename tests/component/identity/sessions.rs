//! Bearers are renewed and ended, and the key that signs them changes.

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
    assert_eq!(identity.registrar().ended().len(), 1, "a change of keys alone ends nothing");
    ask(&mut identity, "session-rotate", json!({ "now": true })).unwrap();
    assert!(bearer(&mut identity, &second).is_none() && bearer(&mut identity, &third).is_none());
    let [_, end] = identity.registrar().ended() else { panic!("{:?}", identity.registrar().ended()) };
    assert_eq!((&*end.principal, &end.session, &*end.why), ("bo", &None, "the key that signs bearers was changed"));
    let stranger = ask_as(&mut identity, "default", "session-refresh", with(&third)).unwrap_err();
    assert_eq!(stranger.code, RefusalCode::Denied);
}
