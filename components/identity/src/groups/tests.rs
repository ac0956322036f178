use serde_json::{Value, json};

use super::*;
use crate::principals::DEFAULT;
use crate::testing::Fake;

fn make(fake: &Fake, request: Value) -> Result<Row, Refusal> {
    create(fake, DEFAULT, request.to_string().as_bytes())
}

fn change(fake: &Fake, request: Value) -> Result<Row, Refusal> {
    modify(fake, DEFAULT, request.to_string().as_bytes())
}

fn named(name: &str) -> Vec<u8> {
    json!({ "name": name }).to_string().into_bytes()
}

fn principal(fake: &Fake, id: &str, group: &str) {
    let request = json!({"name": id, "groups": [group]}).to_string();
    principals::create(fake, DEFAULT, request.as_bytes()).unwrap();
}

#[test]
fn a_group_is_made_shown_changed_and_deleted_and_the_host_is_told_each_time() {
    let fake = Fake::started();
    let row = make(&fake, json!({"name": "ops", "capabilities": ["b:c", "a", "a"], "description": "x"})).unwrap();
    let shown = json!({"name": "ops", "capabilities": ["a", "b:c"], "description": "x", "unsafe_admin": false,
                       "builtin": false});
    assert_eq!(serde_json::to_value(&row).unwrap(), shown);
    assert_eq!(show(&fake, &named("ops")).unwrap(), row);
    assert_eq!(fake.told_groups()["ops"], ["a", "b:c"]);
    let changed = change(&fake, json!({"name": "ops", "capabilities": ["d"], "description": null})).unwrap();
    assert_eq!((&changed.capabilities[..], changed.description), (&["d".to_owned()][..], None));
    assert_eq!(fake.told_groups()["ops"], ["d"]);
    assert!(change(&fake, json!({"name": "ops", "capabilities": null})).unwrap().capabilities.is_empty());
    delete(&fake, &named("ops")).unwrap();
    assert!(!fake.told_groups().contains_key("ops") && fake.keys(Bucket::Groups).is_empty());
    for gone in [show(&fake, &named("ops")).map(drop), delete(&fake, &named("ops")).map(drop)] {
        assert!(matches!(gone, Err(Refusal::NotFound(_))), "{gone:?}");
    }
    assert!(matches!(change(&fake, json!({"name": "ops"})), Err(Refusal::NotFound(_))));
}

#[test]
fn everything_is_held_only_where_that_is_said() {
    let fake = Fake::started();
    let all = json!(["*"]);
    assert!(matches!(make(&fake, json!({"name": "all", "capabilities": all})), Err(Refusal::Invalid(_))));
    make(&fake, json!({"name": "all", "capabilities": all, "unsafe_admin": true})).unwrap();
    let off = change(&fake, json!({"name": "all", "unsafe_admin": null}));
    assert!(matches!(off, Err(Refusal::Invalid(_))), "not while it holds it");
    assert!(!change(&fake, json!({"name": "all", "unsafe_admin": null, "capabilities": []})).unwrap().unsafe_admin);
    assert!(matches!(change(&fake, json!({"name": "all", "capabilities": all})), Err(Refusal::Invalid(_))));
}

#[test]
fn built_in_groups_stay_as_they_are_and_a_taken_name_is_a_conflict() {
    let fake = Fake::started();
    make(&fake, json!({"name": "ops", "capabilities": []})).unwrap();
    for taken in ["admin", "agent", "restricted", "ops"] {
        let again = make(&fake, json!({"name": taken, "capabilities": []}));
        assert!(matches!(again, Err(Refusal::Conflict(_))), "{again:?}");
    }
    let before = fake.told_groups();
    for (name, _) in BUILT_IN {
        assert!(matches!(change(&fake, json!({"name": name, "capabilities": []})), Err(Refusal::Denied(_))));
        assert!(matches!(delete(&fake, &named(name)), Err(Refusal::Denied(_))));
        assert!(show(&fake, &named(name)).unwrap().builtin);
    }
    assert_eq!(fake.told_groups(), before);
}

#[test]
fn what_does_not_fit_is_invalid() {
    let fake = Fake::started();
    let many: Vec<String> = (0..=MAX_CAPABILITIES).map(|n| format!("a:{n}")).collect();
    for request in [
        json!({"name": "", "capabilities": []}),
        json!({"name": "a/b", "capabilities": []}),
        json!({"name": "a".repeat(65), "capabilities": []}),
        json!({"name": "x", "capabilities": ["a**"]}),
        json!({"name": "x", "capabilities": [""]}),
        json!({"name": "x", "capabilities": many}),
        json!({"name": "x", "capabilities": "a"}),
        json!({"name": "x"}),
        json!({"name": "x", "capabilities": [], "description": "d".repeat(MAX_DESCRIPTION + 1)}),
        json!({"name": "x", "capabilities": [], "members": []}),
    ] {
        let made = make(&fake, request.clone());
        assert!(matches!(made, Err(Refusal::Invalid(_))), "{request}: {made:?}");
    }
    let description = "d".repeat(MAX_DESCRIPTION);
    make(&fake, json!({"name": "x", "capabilities": many[1..], "description": description})).unwrap();
}

#[test]
fn whoever_may_change_groups_gives_none_more_than_they_hold() {
    let fake = Fake::started();
    make(&fake, json!({"name": "lead", "capabilities": ["group:*", "a:b"]})).unwrap();
    make(&fake, json!({"name": "strong", "capabilities": ["z"]})).unwrap();
    principal(&fake, "lee", "lead");
    let by_lee = |f: fn(&Fake, &str, &[u8]) -> Result<Row, Refusal>, request: Value| {
        f(&fake, "lee", request.to_string().as_bytes()).map(drop)
    };
    by_lee(create, json!({"name": "team", "capabilities": ["a:b", "self:*"]})).unwrap();
    by_lee(modify, json!({"name": "strong", "capabilities": ["z", "a:b"]})).unwrap();
    for (f, request) in [
        (create as fn(&Fake, &str, &[u8]) -> _, json!({"name": "t2", "capabilities": ["capsule:install"]})),
        (modify, json!({"name": "lead", "capabilities": ["group:*", "a:b", "caps:grant"]})),
        (modify, json!({"name": "team", "capabilities": ["*"], "unsafe_admin": true})),
    ] {
        assert!(matches!(by_lee(f, request.clone()), Err(Refusal::Denied(_))), "{request}");
    }
}

#[test]
fn nobody_is_left_in_a_group_that_is_deleted_even_if_they_join_meanwhile() {
    let fake = Fake::started();
    make(&fake, json!({"name": "ops", "capabilities": ["a:b"]})).unwrap();
    principal(&fake, "bo", "ops");
    let refused = delete(&fake, &named("ops")).unwrap_err();
    assert!(matches!(&refused, Refusal::Conflict(reason) if reason.contains("`bo`")), "{refused:?}");
    principal(&fake, "al", "ops");
    for id in ["al", "bo"] {
        let leave = json!({"principal": id, "remove_groups": ["ops"]}).to_string();
        principals::modify(&fake, DEFAULT, leave.as_bytes()).unwrap();
    }
    // Joins before the group is closed: the attempt is repeated, sees the member and opens the group again.
    fake.before_commit(|fake| principal(fake, "cy", "ops"));
    assert!(matches!(delete(&fake, &named("ops")), Err(Refusal::Conflict(_))));
    principals::delete(&fake, br#"{"principal":"cy"}"#).unwrap();
    delete(&fake, &named("ops")).unwrap();
    let late = json!({"name": "di", "groups": ["ops"]}).to_string();
    assert!(matches!(principals::create(&fake, DEFAULT, late.as_bytes()), Err(Refusal::Invalid(_))));
}

#[test]
fn a_group_that_is_being_deleted_takes_nobody_until_the_next_attempt_ends_it() {
    let fake = Fake::started();
    make(&fake, json!({"name": "ops", "capabilities": []})).unwrap();
    let mut record = fake.value(Bucket::Groups, "ops").unwrap();
    record["closing"] = 7.into();
    fake.set(Bucket::Groups, "ops", &record);
    let join = json!({"name": "bo", "groups": ["ops"]}).to_string();
    assert!(matches!(principals::create(&fake, DEFAULT, join.as_bytes()), Err(Refusal::Conflict(_))));
    assert!(matches!(change(&fake, json!({"name": "ops"})), Err(Refusal::Conflict(_))));
    delete(&fake, &named("ops")).unwrap();
}

#[test]
fn a_list_begins_with_the_built_in_groups_and_goes_on_page_by_page_and_about_oneself_has_ones_own() {
    let fake = Fake::started();
    (0..5).for_each(|n| drop(make(&fake, json!({"name": format!("g{n}"), "capabilities": []})).unwrap()));
    let names = |target: Option<&str>, request: &str| {
        let list = list(&fake, target, request.as_bytes()).unwrap();
        (list.groups.into_iter().map(|row| row.name).collect::<Vec<_>>(), list.next_after)
    };
    let (first, next) = names(None, r#"{"limit":2}"#);
    assert_eq!(
        (first, next.as_deref()),
        (["admin", "agent", "restricted", "g0", "g1"].map(String::from).into(), Some("g1"))
    );
    assert_eq!(names(None, r#"{"limit":9,"after":"g1"}"#).0, ["g2", "g3", "g4"]);
    principal(&fake, "bo", "g3");
    assert_eq!(names(Some("bo"), "{}").0, ["g3"]);
    assert!(matches!(list(&fake, Some("none"), b"{}"), Err(Refusal::NotFound(_))));
    for bad in [&br#"{"limit":0}"#[..], br#"{"limit":1001}"#, br#"{"after":"a b"}"#] {
        assert!(matches!(list(&fake, None, bad), Err(Refusal::Invalid(_))));
    }
}
