//! What a start of the component makes sure of.

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
