use serde_json::{Value, json};

use super::*;
use crate::groups;
use crate::ports::Bucket;
use crate::principals;
use crate::testing::{Fake, NOW};

#[test]
fn the_distribution_names_the_issuers_and_without_one_there_is_one_tenant() {
    let fake = Fake::started();
    let ask = |issuer: &str| issue(&fake, issuer, br#"{"group":"agent","max_uses":1}"#).map(drop);
    assert_eq!((ask("default"), ask("eve")), (Ok(()), Ok(())), "no rule");
    fake.say("DISTRO_ISSUERS", "default,ada");
    assert_eq!((ask("default"), ask("ada")), (Ok(()), Ok(())));
    for other in ["eve", "ad", "default,ada", ""] {
        assert!(matches!(ask(other), Err(Refusal::Denied(why)) if why.contains("as an issuer")), "{other}");
    }
    fake.say("DISTRO_ISSUERS", "");
    assert!(matches!(ask("default"), Err(Refusal::Denied(why)) if why.contains("one tenant")));
}

#[test]
fn an_invite_without_group_and_time_has_those_of_the_distribution() {
    let fake = Fake::started();
    let bare = json!({"max_uses": 1});
    let invite = issue_with(&fake, &bare).unwrap();
    assert_eq!((&*invite.group, invite.expires_at_epoch), ("agent", NOW + 604_800));
    fake.say("DISTRO_DEFAULT_GROUP", "restricted");
    fake.say("DISTRO_DEFAULT_EXPIRES_SECS", "60");
    let invite = issue_with(&fake, &bare).unwrap();
    assert_eq!((&*invite.group, invite.expires_at_epoch), ("restricted", NOW + 60));
    let invite = issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "expires_secs": 5})).unwrap();
    assert_eq!((&*invite.group, invite.expires_at_epoch), ("agent", NOW + 5));
    fake.say("DISTRO_DEFAULT_GROUP", "gone");
    assert!(reason(issue_with(&fake, &bare)).contains("`gone` is not defined"));
    fake.say("DISTRO_DEFAULT_GROUP", "agent");
    fake.say("DISTRO_DEFAULT_EXPIRES_SECS", "soon");
    assert!(matches!(issue_with(&fake, &bare), Err(Refusal::Internal(_))), "a rule that does not read is no default");
}

#[test]
fn issuing_is_one_durable_write_and_no_read() {
    let fake = Fake::started();
    token(&fake, 1);
    assert_eq!(fake.calls(), ["random", "put"]);
}

#[test]
fn an_issued_invite_has_what_was_asked_for_and_the_store_has_only_the_hash_of_its_token() {
    let fake = Fake::started();
    let request = json!({"group": "agent", "max_uses": 3, "expires_secs": 60, "metadata": {"team": "blue"}});
    let issued = serde_json::to_value(issue(&fake, "alice", request.to_string().as_bytes()).unwrap()).unwrap();
    let token = issued["invite"]["token"].as_str().unwrap().to_owned();
    assert_eq!(
        issued,
        json!({"invite": {"token": token, "group": "agent", "remaining_uses": 3, "expires_at_epoch": NOW + 60,
                          "metadata": {"team": "blue"}}})
    );
    assert_eq!((token.len(), &token[..11]), (54, "astrid-inv-"));
    assert_eq!(
        fake.value(Bucket::Invites, &hash(&token)).unwrap(),
        json!({"group": "agent", "remaining_uses": 3, "expires_at": NOW + 60, "issued_at": NOW,
               "issued_by": "alice", "metadata": {"team": "blue"}})
    );
    assert!(!fake.text().contains(&token[11..]));
}

#[test]
fn an_invite_lasts_seven_days_unless_said_otherwise_and_has_no_metadata_unless_given() {
    let issued = issue(&Fake::started(), "default", br#"{"group":"agent","max_uses":1}"#).unwrap();
    assert_eq!(issued.invite.expires_at_epoch, NOW + 604_800);
    assert!(serde_json::to_value(issued).unwrap()["invite"].get("metadata").is_none());
}

#[test]
fn every_bound_of_an_invite_is_inclusive_and_names_field_value_and_bound() {
    let fake = Fake::started();
    let with = |field: &str, value: Value| {
        let mut request = json!({"group": "agent", "max_uses": 1});
        request[field] = value;
        issue_with(&fake, &request)
    };
    for (field, value, want) in [
        ("max_uses", json!(0), "max_uses = 0 must be 1 to 10000"),
        ("max_uses", json!(10_001), "max_uses = 10001 must be 1 to 10000"),
        ("max_uses", json!(-1), "max_uses = -1 must be 1 to 10000"),
        ("max_uses", json!(1.5), "max_uses = 1.5 must be"),
        ("max_uses", json!(u64::MAX), "max_uses = 18446744073709551615 must be"),
        ("expires_secs", json!(0), "expires_secs = 0 must be 1 to 2592000"),
        ("expires_secs", json!(2_592_001), "expires_secs = 2592001 must be 1 to 2592000"),
        ("group", json!("nobody"), "group `nobody` is not defined"),
        ("uses", json!(1), "unknown field `uses`"),
        ("metadata", json!({"": "x"}), "metadata key `` must be 1 to 64 bytes long"),
        ("metadata", json!({"k".repeat(65): "x"}), "metadata key of 65 bytes must be 1 to 64 bytes long"),
        ("metadata", json!({"k": "v".repeat(257)}), "metadata key `k` must be at most 256 bytes long; it has 257"),
        ("metadata", json!({"k": 1}), "integer `1`"),
    ] {
        let got = reason(with(field, value));
        assert!(got.contains(want), "{got}");
    }
    let entries = |count: u32| (0..count).map(|n| (n.to_string(), json!("v"))).collect::<serde_json::Map<_, _>>();
    assert!(reason(with("metadata", entries(17).into())).contains("metadata must be at most 16 entries; it has 17"));
    assert!(reason(issue(&fake, "default", br#"{"group":"agent"}"#)).contains("missing field `max_uses`"));
    for (field, value) in [
        ("max_uses", json!(10_000)),
        ("expires_secs", json!(1)),
        ("expires_secs", json!(2_592_000)),
        ("group", json!("admin")),
        ("group", json!("restricted")),
        ("metadata", entries(16).into()),
        ("metadata", json!({"k".repeat(64): "v".repeat(256)})),
    ] {
        assert!(with(field, value.clone()).is_ok(), "{field} {value}");
    }
}

#[test]
fn whoever_may_only_invite_invites_nobody_to_more_than_they_hold() {
    let fake = Fake::started();
    let group = json!({"name": "ops", "capabilities": ["invite:issue"]});
    groups::create(&fake, "default", group.to_string().as_bytes()).unwrap();
    let eve = json!({"name": "eve", "groups": ["ops"]});
    principals::create(&fake, "default", eve.to_string().as_bytes()).unwrap();
    let invite = |group: &str| {
        let request = json!({"group": group, "max_uses": 1}).to_string();
        issue(&fake, "eve", request.as_bytes()).map(drop)
    };
    assert_eq!(
        invite("admin"),
        Err(Refusal::Denied("an invite to `admin` gives more than the caller holds, which needs caps:grant".into()))
    );
    assert!(fake.keys(Bucket::Invites).is_empty());
    assert_eq!((invite("agent"), invite("ops")), (Ok(()), Ok(())));
    let more = json!({"name": "ops", "capabilities": ["invite:issue", "capsule:install"]});
    groups::modify(&fake, "default", more.to_string().as_bytes()).unwrap();
    assert_eq!(invite("ops"), Ok(()), "being in it, one holds the same");
}
