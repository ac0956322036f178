use astrid_capsule::Capability;
use astrid_capsule::principal::ANONYMOUS;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Fake, NOW};

fn add(fake: &Fake, id: &str, groups: &[&str], grants: &[&str], revokes: &[&str]) {
    let record = json!({"enabled": true, "groups": groups, "grants": grants, "revokes": revokes,
                        "created_at": NOW, "keys": []});
    fake.set(Bucket::Principals, id, &record);
}

fn listed(fake: &Fake, target: Option<&str>, request: &Value) -> Value {
    serde_json::to_value(list(fake, target, request.to_string().as_bytes()).unwrap()).unwrap()
}

fn ids(list: &Value) -> Vec<&str> {
    list["principals"].as_array().unwrap().iter().map(|row| row["principal"].as_str().unwrap()).collect()
}

#[test]
fn the_first_start_makes_default_an_administrator_and_puts_the_groups_in_force() {
    let fake = Fake::started();
    let record = fake.value(Bucket::Principals, DEFAULT).unwrap();
    assert_eq!((&record["enabled"], &record["groups"]), (&json!(true), &json!(["admin"])));
    assert_eq!(record["created_at"], NOW);
    let told = fake.told();
    assert!(told.len() == 1 && told[DEFAULT].enabled && told[DEFAULT].groups == ["admin"]);
    let groups: Vec<_> = fake.told_groups().into_iter().collect();
    assert_eq!(
        groups,
        [
            ("admin".into(), vec!["*".to_owned()]),
            ("agent".into(), vec!["self:*".to_owned()]),
            ("restricted".into(), vec![])
        ]
    );
}

#[test]
fn every_capability_of_a_built_in_group_fits_the_grammar() {
    for capability in groups::BUILT_IN.iter().flat_map(|(_, capabilities)| *capabilities) {
        Capability::parse(capability).unwrap();
    }
}

#[test]
fn a_second_start_changes_nothing_and_looks_at_nobody_else() {
    let fake = Fake::started();
    add(&fake, "eve", &["agent"], &[], &[]);
    let before = (fake.text(), fake.told(), fake.told_groups());
    fake.set_now(NOW + 1_000);
    fake.calls();
    bootstrap(&fake).unwrap();
    assert_eq!((fake.text(), fake.told(), fake.told_groups()), before);
    assert_eq!(fake.calls(), ["transaction.get", "commit"]);
}

#[test]
fn a_start_restores_a_default_that_was_disabled_or_stripped_and_keeps_the_rest() {
    let fake = Fake::started();
    let mut record = fake.value(Bucket::Principals, DEFAULT).unwrap();
    record["enabled"] = false.into();
    record["groups"] = json!(["agent"]);
    record["grants"] = json!(["a:b"]);
    fake.set(Bucket::Principals, DEFAULT, &record);
    bootstrap(&fake).unwrap();
    record["enabled"] = true.into();
    record["groups"] = json!(["agent", "admin"]);
    assert_eq!(fake.value(Bucket::Principals, DEFAULT).unwrap(), record);
    assert_eq!(fake.told()[DEFAULT].grants, ["a:b"]);
}

#[test]
fn a_start_that_others_get_in_the_way_of_is_repeated() {
    let fake = Fake::new();
    fake.force_conflicts(3);
    bootstrap(&fake).unwrap();
    assert!(fake.told().contains_key(DEFAULT));
}

#[test]
fn a_record_that_does_not_read_is_an_error_and_is_left_alone() {
    let fake = Fake::new();
    fake.set(Bucket::Principals, DEFAULT, &json!({"enabled": "yes"}));
    assert!(matches!(bootstrap(&fake), Err(Refusal::Internal(reason)) if reason.contains("`default`")));
    assert_eq!(fake.value(Bucket::Principals, DEFAULT), Some(json!({"enabled": "yes"})));
}

#[test]
fn with_a_target_the_list_is_its_row_alone() {
    let fake = Fake::started();
    add(&fake, "eve", &["agent"], &["a:b"], &["c:d"]);
    let row = json!({"principal": "eve", "enabled": true, "groups": ["agent"], "grants": ["a:b"], "revokes": ["c:d"]});
    assert_eq!(listed(&fake, Some("eve"), &json!({})), json!({"principals": [row]}));
    assert!(ids(&listed(&fake, Some("eve"), &json!({"after": "eve"}))).is_empty());
    assert!(matches!(list(&fake, Some("nobody"), b"{}"), Err(Refusal::NotFound(_))));
}

#[test]
fn without_a_target_the_list_is_everybody_sorted_a_page_at_a_time() {
    let fake = Fake::started();
    for n in 0..1_500 {
        add(&fake, &format!("p{n:04}"), &[], &[], &[]);
    }
    let first = listed(&fake, None, &json!({}));
    assert_eq!(ids(&first).len(), 1_000);
    let second = listed(&fake, None, &json!({"after": first["next_after"]}));
    assert!(second.get("next_after").is_none());
    let all = [ids(&first), ids(&second)].concat();
    assert!(all.len() == 1_501 && all.is_sorted());

    let small = listed(&fake, None, &json!({"after": "p0000", "limit": 2}));
    assert_eq!((ids(&small), &small["next_after"]), (vec!["p0001", "p0002"], &json!("p0002")));
    let last = listed(&fake, None, &json!({"after": "p1497", "limit": 2}));
    assert_eq!((ids(&last), last.get("next_after")), (vec!["p1498", "p1499"], None));
}

#[test]
fn a_list_takes_only_its_own_bounds() {
    for (request, want) in [
        (json!({"limit": 0}), "limit = 0 must be 1 to 1000"),
        (json!({"limit": 1_001}), "limit = 1001 must be 1 to 1000"),
        (json!({"after": "a b"}), "after `a b` must be a principal id: 1 to 64 of"),
        (json!({"before": "a"}), "unknown field `before`"),
    ] {
        match list(&Fake::started(), None, request.to_string().as_bytes()) {
            Err(Refusal::Invalid(reason)) => assert!(reason.contains(want), "{reason}"),
            other => panic!("{request} gives {other:?}"),
        }
    }
}

#[test]
fn me_is_the_callers_groups_and_capabilities() {
    let fake = Fake::started();
    add(&fake, "eve", &["restricted", "agent", "gone"], &["z:y", "a:b", "a:b", "c:d"], &["c:*"]);
    assert_eq!(
        serde_json::to_value(me(&fake, "eve", b"{}").unwrap()).unwrap(),
        json!({"principal": "eve", "groups": ["restricted", "agent", "gone"], "capabilities": ["a:b", "self:*", "z:y"]})
    );
    assert_eq!(me(&fake, DEFAULT, b"").unwrap().capabilities, ["*"]);
}

#[test]
fn nobody_is_denied_to_ask_who_they_are() {
    let fake = Fake::started();
    add(&fake, ANONYMOUS, &["admin"], &[], &[]);
    for nobody in [ANONYMOUS, "unknown"] {
        assert!(matches!(me(&fake, nobody, b"{}"), Err(Refusal::Denied(_))), "{nobody}");
    }
    assert!(matches!(me(&fake, DEFAULT, br#"{"principal":"eve"}"#), Err(Refusal::Invalid(_))));
}

fn made(fake: &Fake, request: &Value) -> Result<Row, Refusal> {
    create(fake, DEFAULT, request.to_string().as_bytes())
}

fn of(id: &str) -> Vec<u8> {
    json!({ "principal": id }).to_string().into_bytes()
}

#[test]
fn a_new_principal_has_what_was_named_and_inherits_nothing_of_its_maker() {
    let fake = Fake::started();
    let row = made(&fake, &json!({"name": "Bo_1-x"})).unwrap();
    assert_eq!((row.groups, row.grants, row.revokes), (vec!["agent".to_owned()], vec![], vec![]));
    let told = fake.told()["Bo_1-x"].clone();
    assert!(told.enabled && told.grants.is_empty() && told.groups == ["agent"]);
    assert_eq!(told.quotas, Quotas::default());
    let both = made(&fake, &json!({"name": "al", "groups": ["restricted", "agent", "agent"], "grants": ["b:c", "a"]}));
    let both = both.unwrap();
    assert_eq!((both.groups, both.grants), (vec!["restricted".into(), "agent".into()], vec!["a".into(), "b:c".into()]));
}

#[test]
fn an_id_that_does_not_fit_is_reserved_or_taken_is_refused_each_in_its_way() {
    let fake = Fake::started();
    let code = |request: Value| match made(&fake, &request) {
        Ok(_) => "made",
        Err(Refusal::Invalid(_)) => "invalid",
        Err(Refusal::Conflict(_)) => "conflict",
        Err(other) => panic!("{other:?}"),
    };
    let name = |name: &str| code(json!({ "name": name }));
    for bad in ["", "a b", "a/b", "ä", &"a".repeat(65), "anonymous", "host", "system", "a:b", ".."] {
        assert_eq!(name(bad), "invalid", "{bad}");
    }
    assert_eq!((name(&"a".repeat(64)), name(&"a".repeat(64)), name(DEFAULT)), ("made", "conflict", "conflict"));
    for wrong in [
        json!({"name": "x", "groups": ["nobody"]}),
        json!({"name": "x", "grants": ["a::b"]}),
        json!({"name": "x", "grants": ["*"]}),
        json!({"name": "x", "role": "admin"}),
        json!({"name": "x", "groups": "agent"}),
        json!({"groups": []}),
    ] {
        assert_eq!(code(wrong.clone()), "invalid", "{wrong}");
    }
    assert_eq!(fake.keys(Bucket::Principals).len(), 2);
}

#[test]
fn whoever_makes_and_places_principals_makes_nobody_mightier_than_they_are() {
    let fake = Fake::started();
    groups::create(&fake, DEFAULT, br#"{"name":"hr","capabilities":["agent:create","agent:modify"]}"#).unwrap();
    made(&fake, &json!({"name": "hr1", "groups": ["hr"]})).unwrap();
    let by_hr = |request: Value| create(&fake, "hr1", request.to_string().as_bytes()).map(drop);
    let denied = |result: Result<(), Refusal>| assert!(matches!(result, Err(Refusal::Denied(_))), "{result:?}");
    denied(by_hr(json!({"name": "x", "groups": ["admin"]})));
    denied(by_hr(json!({"name": "x", "grants": ["capsule:install"]})));
    by_hr(json!({"name": "x", "groups": ["hr", "agent"], "grants": ["agent:create", "self:*"]})).unwrap();
    let place = |id: &str, group: &str| {
        let request = json!({"principal": id, "add_groups": [group]}).to_string();
        modify(&fake, "hr1", request.as_bytes()).map(drop)
    };
    denied(place("hr1", "admin"));
    denied(place("x", "admin"));
    place("x", "restricted").unwrap();
    assert!(!fake.told()["hr1"].groups.contains(&"admin".into()));
}

#[test]
fn groups_are_left_and_joined_in_one_change_that_says_whether_there_was_any() {
    let fake = Fake::started();
    groups::create(&fake, DEFAULT, br#"{"name":"ops","capabilities":["a:b"]}"#).unwrap();
    made(&fake, &json!({"name": "bo"})).unwrap();
    let change = |request: Value| modify(&fake, DEFAULT, request.to_string().as_bytes());
    let moved = change(json!({"principal": "bo", "add_groups": ["ops"], "remove_groups": ["agent", "none"]})).unwrap();
    assert_eq!((moved.groups, moved.changed), (vec!["ops".to_owned()], true));
    assert_eq!(
        (&fake.told()["bo"].groups[..], fake.keys(Bucket::Members)),
        (&["ops".into()][..], vec!["ops/bo".into()])
    );
    assert!(!change(json!({"principal": "bo", "add_groups": ["ops"]})).unwrap().changed);
    assert!(!change(json!({"principal": "bo"})).unwrap().changed);
    assert!(change(json!({"principal": "bo", "remove_groups": ["ops"]})).unwrap().changed);
    assert!(fake.keys(Bucket::Members).is_empty());
    let invalid = |request: Value| assert!(matches!(change(request), Err(Refusal::Invalid(_))));
    invalid(json!({"principal": "bo", "add_groups": ["none"]}));
    invalid(json!({"principal": "bo", "add_groups": ["ops"], "remove_groups": ["ops"]}));
    invalid(json!({"principal": "b o"}));
    assert!(matches!(change(json!({"principal": "none"})), Err(Refusal::NotFound(_))));
}

#[test]
fn default_is_never_deleted_disabled_or_stripped() {
    let fake = Fake::started();
    let before = (fake.text(), fake.told());
    let strip = json!({"principal": DEFAULT, "remove_groups": ["admin"]}).to_string();
    let revoke = json!({"principal": DEFAULT, "capabilities": ["agent:list"]}).to_string();
    let refused = [
        delete(&fake, &of(DEFAULT)).map(drop),
        disable(&fake, &of(DEFAULT)).map(drop),
        modify(&fake, DEFAULT, strip.as_bytes()).map(drop),
        crate::caps::revoke(&fake, revoke.as_bytes()).map(drop),
    ];
    assert!(refused.iter().all(|result| matches!(result, Err(Refusal::Denied(_)))), "{refused:?}");
    assert_eq!((fake.text(), fake.told()), before);
    assert!(!enable(&fake, &of(DEFAULT)).unwrap().changed);
}

#[test]
fn disabling_ends_what_was_issued_and_enabling_gives_back_all_else() {
    let fake = Fake::started();
    made(&fake, &json!({"name": "bo", "grants": ["a:b"]})).unwrap();
    fake.set_now(NOW + 5);
    assert!(disable(&fake, &of("bo")).unwrap().changed && !disable(&fake, &of("bo")).unwrap().changed);
    assert!(!fake.told()["bo"].enabled);
    assert!(enable(&fake, &of("bo")).unwrap().changed);
    let told = fake.told()["bo"].clone();
    assert!(told.enabled && told.grants == ["a:b"]);
    assert_eq!(fake.value(Bucket::Principals, "bo").unwrap()["revoked_at"], NOW + 5);
    assert!(matches!(disable(&fake, &of("none")), Err(Refusal::NotFound(_))));
}

#[test]
fn a_deleted_principal_leaves_nothing_but_an_id_that_is_not_given_again() {
    let fake = Fake::started();
    groups::create(&fake, DEFAULT, br#"{"name":"ops","capabilities":["a:b"]}"#).unwrap();
    made(&fake, &json!({"name": "bo", "groups": ["ops"]})).unwrap();
    let mut record = fake.value(Bucket::Principals, "bo").unwrap();
    record["keys"] = json!([{"fingerprint": "f", "public_key": "k", "added_at": NOW}]);
    fake.set(Bucket::Principals, "bo", &record);
    fake.set(Bucket::Keys, "f", &json!("bo"));
    delete(&fake, &of("bo")).unwrap();
    assert!(!fake.told().contains_key("bo"));
    assert!([Bucket::Keys, Bucket::Members].into_iter().all(|bucket| fake.keys(bucket).is_empty()));
    assert_eq!(fake.keys(Bucket::Principals), [DEFAULT]);
    assert!(matches!(delete(&fake, &of("bo")), Err(Refusal::NotFound(_))));
    assert!(matches!(made(&fake, &json!({"name": "bo"})), Err(Refusal::Conflict(_))));
    let mut transaction = fake.begin();
    assert_ne!(free_id(&fake, &mut transaction, "bo").unwrap(), "bo");
    assert!(matches!(show(&fake, "bo", b""), Err(Refusal::NotFound(_))));
}

#[test]
fn a_read_costs_the_same_however_many_there_are() {
    let fake = Fake::started();
    let cost = || {
        fake.calls();
        list(&fake, None, br#"{"after":"d","limit":10}"#).unwrap();
        show(&fake, DEFAULT, b"").unwrap();
        list(&fake, Some(DEFAULT), b"").unwrap();
        fake.calls()
    };
    let few = cost();
    (0..5_000).for_each(|n| add(&fake, &format!("p{n:05}"), &["agent"], &[], &[]));
    assert_eq!(cost(), few);
}
