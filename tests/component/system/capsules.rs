//! What is installed, changed and removed.

use super::*;

fn installed(previous_version: Option<&str>) -> Installed {
    Installed {
        id: "notes".into(),
        version: "1.1.0".into(),
        previous_version: previous_version.map(Into::into),
        hash: "ab".repeat(32),
        grants: vec!["keys:notes".into()],
        asks: vec!["keys:notes".into()],
        target_dir: "/home/bin".into(),
        env_needs_prompt: false,
        unhandled: vec!["translate.v1.text".into()],
        overlaps: vec![],
        shadowed: 0,
        publisher: previous_version.map(|_| "acme".into()),
    }
}

#[test]
fn a_capsules_topics_come_with_their_types_and_an_unknown_capsule_is_not_found() {
    let mut system = system();
    let of = |name: &str, schema: &str| Some(TopicType { name: name.into(), schema: schema.into() });
    let topic = Topic {
        topic: "notes.v1.add".into(),
        direction: Direction::Subscribe,
        handler: Some("add".into()),
        priority: None,
        payload: of("notes.add", "{\"type\":\"object\"}"),
        answer: of("nothing", "{}"),
    };
    let judged =
        Topic { direction: Direction::Intercept, priority: Some(7), payload: None, answer: None, ..topic.clone() };
    system.host().topics.insert("notes".into(), vec![topic, judged]);
    let want = json!({ "topics": [
        { "topic": "notes.v1.add", "direction": "subscribe", "handler": "add",
          "wit": { "payload": "notes.add", "answer": "nothing" },
          "schema": { "payload": { "type": "object" }, "answer": {} } },
        { "topic": "notes.v1.add", "direction": "intercept", "handler": "add", "priority": 7 },
    ] });
    assert_eq!(ask(&mut system, "capsule-topics", json!({ "capsule": "notes" })), Ok(want));
    let refusal = ask(&mut system, "capsule-topics", json!({ "capsule": "gone" })).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NotFound);
}

#[test]
fn capsules_are_listed_with_version_state_and_hash() {
    let mut system = system();
    assert_eq!(ask(&mut system, "capsule-list", json!({})), Ok(json!({ "capsules": [] })));
    let row = |id: &str, state: &str| CapsuleRow {
        id: id.into(),
        version: "0.1.0".into(),
        state: state.into(),
        hash: "00".into(),
    };
    system.host().capsules = vec![row("a", "live"), row("b", "failed")];
    let want = json!({ "capsules": [
        { "id": "a", "version": "0.1.0", "state": "live", "hash": "00" },
        { "id": "b", "version": "0.1.0", "state": "failed", "hash": "00" },
    ] });
    assert_eq!(ask(&mut system, "capsule-list", json!({})), Ok(want));
}

#[test]
fn an_install_passes_path_and_grants_and_answers_what_is_live_now() {
    let mut system = system();
    system.host().install = Ok(installed(Some("1.0.0")));
    let request = json!({ "source": "/srv/notes.capsule", "grants": ["keys:notes"] });
    let want = json!({
        "id": "notes", "target_dir": "/home/bin", "phase": "upgrade", "installed_version": "1.1.0",
        "previous_version": "1.0.0", "wasm_hash": "ab".repeat(32), "env_path": "/api/capsules/notes/env",
        "env_needs_prompt": false, "publisher": "acme", "asks": ["keys:notes"], "grants": ["keys:notes"],
        "missing_imports": [{ "namespace": "translate", "interface": "translate.v1.text", "requirement": "handler" }],
        "export_conflicts": [],
    });
    assert_eq!(ask(&mut system, "capsule-install", request), Ok(want));
    let (path, options) = &system.host().installs[0];
    assert_eq!(
        (path.as_str(), &options.grants[..], options.shadow),
        ("/srv/notes.capsule", &["keys:notes".into()][..], 0)
    );
    assert!(system.logs().iter().any(|l| l.message.contains("alice") && l.message.contains("notes")));
    let detail = system.take_detail().unwrap();
    assert_eq!(
        (&detail["capsule"], &detail["version"], &detail["publisher"]),
        (&json!("notes"), &json!("1.1.0"), &json!("acme"))
    );
}

#[test]
fn a_first_install_has_no_previous_version_and_grants_are_optional() {
    let mut system = system();
    system.host().install = Ok(installed(None));
    let answer = ask(&mut system, "capsule-install", json!({ "source": "/srv/notes.capsule" })).unwrap();
    assert!(answer.get("previous_version").is_none() && answer.get("publisher").is_none(), "{answer}");
    assert!(system.host().installs[0].1.grants.is_empty());
}

#[test]
fn every_change_of_what_is_installed_reaches_the_host_and_its_answer_the_caller() {
    let mut system = system();
    let notes = || json!({ "capsule": "notes" });
    let rolled = json!({ "version": "1.0.0", "previous_version": "1.1.0" });
    assert_eq!(ask(&mut system, "capsule-rollback", notes()), Ok(rolled));
    assert_eq!(ask(&mut system, "capsule-swap", notes()), Ok(json!({ "version": "1.0.0" })));
    assert_eq!(ask(&mut system, "capsule-remove", notes()), Ok(json!({})));
    assert_eq!(ask(&mut system, "capsule-remove", json!({ "capsule": "notes", "purge": true })), Ok(json!({})));
    assert_eq!(ask(&mut system, "capsule-gc", json!({})), Ok(json!({ "files": 2, "bytes": 1000 })));
    let applied = |name: &str, version: Option<&str>, what: &str, why: Option<&str>| Applied {
        name: name.into(),
        version: version.map(Into::into),
        what: what.into(),
        why: why.map(Into::into),
    };
    system.host().applied =
        Ok(vec![applied("a", Some("1.0.0"), "installed", None), applied("b", None, "failed", Some("gone"))]);
    let rows = json!([
        { "name": "a", "version": "1.0.0", "what": "installed" },
        { "name": "b", "what": "failed", "why": "gone" },
    ]);
    assert_eq!(ask(&mut system, "distro-apply", json!({})), Ok(json!({ "capsules": rows })));
    let changes = ["rollback", "swap", "remove", "purge"].map(|what| (what, "notes".to_owned()));
    assert_eq!(system.host().changes, changes);
    for handler in ["capsule-rollback", "capsule-swap", "capsule-remove"] {
        system.host().change = Err(InstallError::NotFound("no capsule `notes` is installed".into()));
        assert_eq!(ask(&mut system, handler, notes()).unwrap_err().code, RefusalCode::NotFound);
    }
}

#[test]
fn a_reload_swaps_every_capsule_and_one_is_shown_by_its_id() {
    let mut system = system();
    let row = |id: &str| CapsuleRow { id: id.into(), version: "1.0.0".into(), state: "live".into(), hash: "00".into() };
    system.host().capsules = vec![row("a"), row("b")];
    assert_eq!(ask(&mut system, "capsule-reload", json!({})), Ok(json!({})));
    assert_eq!(system.host().changes, [("swap", "a".to_owned()), ("swap", "b".to_owned())]);
    let shown = json!({ "id": "b", "version": "1.0.0", "state": "live", "hash": "00" });
    assert_eq!(ask(&mut system, "capsule-show", json!({ "capsule": "b" })), Ok(shown));
    assert_eq!(ask(&mut system, "capsule-show", json!({ "capsule": "c" })).unwrap_err().code, RefusalCode::NotFound);
    let unknown = ask(&mut system, "capsule-history", json!({ "capsule": "b" })).unwrap_err();
    assert_eq!(unknown.code, RefusalCode::NotFound, "{}", unknown.reason);
    system.host().history = vec![Step {
        time_ms: 7,
        what: "rolled-back".into(),
        version: "1.0.0".into(),
        hash: "00".into(),
        why: Some("it died".into()),
    }];
    let step = json!({ "time_ms": 7, "what": "rolled-back", "version": "1.0.0", "hash": "00", "why": "it died" });
    assert_eq!(ask(&mut system, "capsule-history", json!({ "capsule": "b" })), Ok(json!({ "steps": [step] })));
}

#[test]
fn every_way_in_which_an_install_fails_has_its_code_and_the_hosts_words() {
    let mut system = system();
    for (error, code, words) in [
        (InstallError::Invalid("Capsule.toml: line 3".into()), RefusalCode::Invalid, "line 3"),
        (InstallError::NotFound("/srv/notes.capsule".into()), RefusalCode::NotFound, "/srv/notes.capsule"),
        (InstallError::Ungranted(vec!["sys:host".into()]), RefusalCode::Denied, "sys:host"),
        (InstallError::Untrusted("nobody vouches".into()), RefusalCode::Denied, "nobody vouches"),
        (InstallError::Conflict("/api belongs to gateway".into()), RefusalCode::Conflict, "gateway"),
        (InstallError::Failed("start said no".into()), RefusalCode::Unavailable, "start said no"),
    ] {
        system.host().install = Err(error.clone());
        let refusal = ask(&mut system, "capsule-install", json!({ "source": "/srv/notes.capsule" })).unwrap_err();
        assert_eq!(refusal.code, code, "{error:?}");
        assert!(refusal.reason.contains(words), "{error:?}: {}", refusal.reason);
    }
}

#[test]
fn a_source_that_is_no_absolute_path_never_reaches_the_host() {
    let mut system = system();
    let long = format!("/{}", "a".repeat(5000));
    for source in ["", "notes.capsule", "../notes.capsule", "https://example.org/notes.capsule", "/a\0b", &long] {
        let refusal = ask(&mut system, "capsule-install", json!({ "source": source })).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Invalid, "{source}");
        assert!(refusal.reason.contains("source"), "{}", refusal.reason);
    }
    assert!(system.host().installs.is_empty());
}
