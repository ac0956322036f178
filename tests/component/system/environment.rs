//! Values of environments go in and never come out.

use super::*;

#[test]
fn an_environment_is_the_targets_or_else_the_callers_own() {
    let mut system = system();
    system.host().env_fields = Ok(vec![Field {
        name: "KEY".into(),
        kind: Kind::Secret,
        description: None,
        request: Some("Which key?".into()),
        default: None,
        enum_values: vec![],
        placeholder: None,
        is_set: true,
    }]);
    let want = json!({ "capsule_id": "notes", "fields": {
        "KEY": { "type": "secret", "request": "Which key?", "enum_values": [], "is_set": true },
    }});
    assert_eq!(ask(&mut system, "env-get", json!({ "capsule": "notes" })), Ok(want.clone()));
    let about_bob = |system: &mut Capsule, handler: &str, payload: Value| {
        system.as_principal("alice").with_target("bob").handle(handler, payload).unwrap()
    };
    assert_eq!(about_bob(&mut system, "env-get", json!({ "capsule": "notes" })), Ok(want));
    let read = |principal: &str| ("notes".to_owned(), principal.to_owned());
    assert_eq!(system.host().env_reads, [read("alice"), read("bob")]);

    for value in [json!("hunter2"), json!(7), json!(false)] {
        let set = json!({ "capsule": "notes", "field": "KEY", "value": value });
        assert_eq!(ask(&mut system, "env-set", set.clone()), Ok(json!({})));
        assert_eq!(about_bob(&mut system, "env-set", set), Ok(json!({})));
    }
    let clear = json!({ "capsule": "notes", "field": "KEY" });
    assert_eq!(ask(&mut system, "env-clear", clear.clone()), Ok(json!({})));
    assert_eq!(about_bob(&mut system, "env-clear", clear), Ok(json!({})));
    let mut want = Vec::new();
    for value in [Some("hunter2"), Some("7"), Some("false"), None] {
        for principal in ["alice", "bob"] {
            want.push(("notes".to_owned(), "KEY".to_owned(), principal.to_owned(), value.map(String::from)));
        }
    }
    assert_eq!(system.host().env_writes, want);
    let said = |word: &str| system.logs().iter().any(|line| line.message.contains(word));
    assert!(said("alice set KEY of notes for bob") && said("cleared KEY") && !said("hunter2"), "{:?}", system.logs());
}

#[test]
fn an_environment_that_can_not_be_read_or_written_says_why_and_never_the_value() {
    let mut system = system();
    for (error, code, words) in [
        (EnvError::NotFound("no capsule `notes`".into()), RefusalCode::NotFound, "no capsule"),
        (EnvError::Invalid("must be one of: a, b".into()), RefusalCode::Invalid, "one of"),
        (EnvError::Unavailable, RefusalCode::Unavailable, "can't be stored"),
    ] {
        system.host().env_fields = Err(error.clone());
        system.host().env_write = Err(error.clone());
        for (handler, payload) in [
            ("env-get", json!({ "capsule": "notes" })),
            ("env-set", json!({ "capsule": "notes", "field": "KEY", "value": "hunter2" })),
            ("env-clear", json!({ "capsule": "notes", "field": "KEY" })),
        ] {
            let refusal = ask(&mut system, handler, payload).unwrap_err();
            assert_eq!(refusal.code, code, "{handler}");
            assert!(refusal.reason.contains(words) && !refusal.reason.contains("hunter2"), "{}", refusal.reason);
        }
    }
    for value in [json!(["hunter2"]), json!({ "hunter2": 1 })] {
        let refusal = ask(&mut system, "env-set", json!({ "capsule": "a", "field": "A", "value": value })).unwrap_err();
        assert!(refusal.code == RefusalCode::Invalid && !refusal.reason.contains("hunter2"), "{}", refusal.reason);
    }
    assert!(!system.logs().iter().any(|line| line.message.contains("hunter2")));
}
