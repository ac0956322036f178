//! The operator's desk: every topic, and what of it reaches the host.

use astrid_sdk_test::{
    Applied, Branding, Capability, Capsule, CapsuleLoad, CapsuleRow, Change, Direction, Distribution, EnvError, Field,
    HostStatus, Icon, InstallError, Installed, Kind, Load, LogLine, PrincipalLoad, PrincipalUsage, Refusal,
    RefusalCode, Setting, Step, Topic, TopicType, Variable,
};
use serde_json::{Value, json};

const HANDLERS: [&str; 24] = [
    "status",
    "logs",
    "shutdown",
    "capabilities",
    "config",
    "config-reload",
    "load",
    "capsule-list",
    "capsule-install",
    "capsule-topics",
    "capsule-show",
    "capsule-rollback",
    "capsule-swap",
    "capsule-reload",
    "capsule-remove",
    "capsule-history",
    "capsule-gc",
    "distribution-show",
    "distribution-onboarding",
    "distro-apply",
    "env-get",
    "env-set",
    "env-clear",
    "usage",
];

fn system() -> Capsule {
    crate::capsule("system")
}

fn ask(system: &mut Capsule, handler: &str, payload: Value) -> Result<Value, Refusal> {
    let answer = system.as_principal("alice").handle(handler, payload);
    let answer = answer.unwrap_or_else(|error| panic!("{handler}: {error}"));
    answer.inspect(|answer| crate::types::check_answer("system", handler, answer))
}

fn line(sequence: u64, level: &str, capsule: &str) -> LogLine {
    LogLine {
        sequence,
        time_ms: 1_000 + sequence,
        level: level.into(),
        capsule: capsule.into(),
        message: format!("line {sequence}"),
    }
}

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
fn status_is_the_hosts_with_connections_as_an_object() {
    let mut system = system();
    system.host().status = HostStatus {
        pid: 42,
        uptime_secs: 7,
        version: "0.1.0".into(),
        connected_clients: 3,
        connections_by_principal: vec![("default".into(), 2), ("alice".into(), 1)],
        loaded_capsules: vec!["gateway".into(), "identity".into()],
    };
    let want = json!({
        "pid": 42, "uptime_secs": 7, "version": "0.1.0", "connected_clients": 3,
        "connections_by_principal": { "alice": 1, "default": 2 },
        "loaded_capsules": ["gateway", "identity"],
    });
    assert_eq!(ask(&mut system, "status", json!({})), Ok(want));
}

#[test]
fn a_distribution_says_who_it_is_whether_it_is_open_and_what_it_asks_and_never_a_value() {
    let mut system = system();
    for handler in ["distribution-show", "distribution-onboarding"] {
        let refusal = system.as_principal("anonymous").handle(handler, json!({})).unwrap().unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NotFound, "{}", refusal.reason);
    }
    let variable = |name: &str, secret, description: Option<&str>, default: Option<&str>| Variable {
        name: name.into(),
        secret,
        description: description.map(Into::into),
        default: default.map(Into::into),
    };
    let least = Distribution {
        id: "notes".into(),
        name: "Notes".into(),
        description: None,
        homepage: None,
        open: false,
        branding: None,
        variables: vec![variable("key", true, Some("Which?"), None), variable("region", false, None, Some("eu"))],
    };
    system.host().distribution = Some(least.clone());
    let want = json!({ "id": "notes", "name": "Notes", "invites_enabled": false });
    assert_eq!(ask(&mut system, "distribution-show", json!({})), Ok(want));
    let want = json!({ "fields": [
        { "key": "key", "secret": true, "description": "Which?" },
        { "key": "region", "secret": false, "default": "eu" },
    ] });
    assert_eq!(ask(&mut system, "distribution-onboarding", json!({})), Ok(want));

    let icon = Icon { media_type: "image/png".into(), bytes: b"\x89PNG".into() };
    system.host().distribution = Some(Distribution {
        description: Some("For teams".into()),
        homepage: Some("https://notes.example".into()),
        open: true,
        branding: Some(Branding { icon: Some(icon), primary_color: Some("#fa0".into()), accent_color: None }),
        ..least
    });
    let want = json!({
        "id": "notes", "name": "Notes", "description": "For teams", "homepage": "https://notes.example",
        "invites_enabled": true,
        "branding": { "icon": "data:image/png;base64,iVBORw==", "primary_color": "#fa0" },
    });
    assert_eq!(ask(&mut system, "distribution-show", json!({})), Ok(want));
}

#[test]
fn usage_is_the_targets_or_the_callers_with_the_limits_in_force() {
    let mut system = system();
    let used = PrincipalUsage {
        fuel_total: 1,
        calls_total: 2,
        wall_ms_total: 3,
        bus_bytes_total: 4,
        memory_peak_bytes: 5,
        storage_bytes: 6,
        exempt: true,
        fuel_per_sec_limit: 7,
        bus_bytes_per_sec_limit: 8,
        memory_bytes_limit: 9,
        timeout_secs_limit: 10,
        storage_bytes_limit: 11,
        concurrent_calls_limit: 12,
        processes: 13,
        processes_limit: 14,
    };
    system.host().usage.insert("alice".into(), used);
    system.host().usage.insert("bob".into(), PrincipalUsage { exempt: false, ..used });
    let want = json!({
        "principal": "alice", "cpu_fuel_consumed_total": 1, "cpu_fuel_per_sec_limit": 7, "exempt": true,
        "memory_bytes_limit_per_instance": 9, "memory_bytes_peak_total": 5, "storage_bytes_used": 6,
        "storage_bytes_limit": 11, "ipc_bytes_sent_total": 4, "ipc_bytes_per_sec_limit": 8, "calls_total": 2,
        "concurrent_calls_limit": 12, "wall_ms_total": 3, "timeout_secs_limit": 10,
        "processes_running": 13, "processes_limit": 14,
    });
    assert_eq!(ask(&mut system, "usage", json!({})), Ok(want));
    let mut about = |target: &str| system.as_principal("alice").with_target(target).handle("usage", json!({})).unwrap();
    let bob = about("bob").unwrap();
    assert_eq!((&bob["principal"], &bob["exempt"]), (&json!("bob"), &json!(false)));
    assert_eq!(about("nobody").unwrap_err().code, RefusalCode::NotFound);
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
fn the_catalogue_is_the_hosts_with_each_category_once() {
    let mut system = system();
    let declared = |id: &str, category: &str| Capability {
        id: id.into(),
        label: "Label".into(),
        description: "What it is for".into(),
        category: category.into(),
        scope: "both".into(),
        danger: "safe".into(),
    };
    system.host().capabilities = vec![declared("a:b", "x"), declared("c:d", "w"), declared("e:f", "x")];
    let found = ask(&mut system, "capabilities", json!({})).unwrap();
    assert_eq!(found["categories"], json!(["w", "x"]));
    let first = json!({
        "id": "a:b", "label": "Label", "description": "What it is for", "category": "x", "scope": "both", "danger": "safe",
    });
    assert_eq!((&found["capabilities"][0], found["capabilities"].as_array().unwrap().len()), (&first, 3));
}

#[test]
fn the_configuration_is_the_hosts_with_the_source_of_every_key() {
    let mut system = system();
    let setting =
        |key: &str, value: &str, source: &str| Setting { key: key.into(), value: value.into(), source: source.into() };
    system.host().config = vec![setting("log.level", "info", "default"), setting("runtime.instances", "64", "file")];
    let want = json!({ "settings": [
        { "key": "log.level", "value": "info", "source": "default" },
        { "key": "runtime.instances", "value": "64", "source": "file" },
    ] });
    assert_eq!(ask(&mut system, "config", json!({})), Ok(want));
}

#[test]
fn a_reload_says_what_became_of_each_key_and_one_that_fails_says_why() {
    let mut system = system();
    let change = Change {
        key: "log.level".into(),
        before: "info".into(),
        value: "debug".into(),
        source: "file".into(),
        applied: true,
    };
    system.host().reloaded = Ok(vec![change]);
    let row = json!({ "key": "log.level", "before": "info", "value": "debug", "source": "file", "applied": true });
    assert_eq!(ask(&mut system, "config-reload", json!({})), Ok(json!({ "changes": [row] })));
    system.host().reloaded = Err("nothing was changed: no".into());
    let refusal = ask(&mut system, "config-reload", json!({})).unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (RefusalCode::Invalid, "nothing was changed: no"));
}

#[test]
fn the_load_is_told_for_as_many_principals_as_are_asked_for() {
    let mut system = system();
    let principal = |name: &str| PrincipalLoad {
        principal: name.into(),
        calls_total: 1,
        fuel_total: 2,
        memory_peak_bytes: 3,
        bus_bytes_total: 4,
    };
    let capsule =
        CapsuleLoad { id: "notes".into(), calls_total: 5, fuel_total: 6, memory_peak_bytes: 7, queue_bytes: 8 };
    system.host().load = Load {
        uptime_ms: 9,
        instances: 10,
        instances_in_use: 11,
        calls_waiting: 12,
        capsules: vec![capsule],
        principals: vec![principal("ada"), principal("bo")],
    };
    let row = |name: &str| json!({ "principal": name, "calls_total": 1, "fuel_total": 2, "memory_peak_bytes": 3, "bus_bytes_total": 4 });
    let want = |principals: Vec<Value>| {
        json!({ "uptime_ms": 9, "instances": 10, "instances_in_use": 11, "calls_waiting": 12, "principals": principals,
                "capsules": [{ "id": "notes", "calls_total": 5, "fuel_total": 6, "memory_peak_bytes": 7, "queue_bytes": 8 }] })
    };
    assert_eq!(ask(&mut system, "load", json!({})), Ok(want(vec![row("ada"), row("bo")])));
    assert_eq!(ask(&mut system, "load", json!({ "limit": 1 })), Ok(want(vec![row("ada")])));
    for limit in [0, 1001] {
        assert_eq!(ask(&mut system, "load", json!({ "limit": limit })).unwrap_err().code, RefusalCode::Invalid);
    }
}

#[test]
fn logs_are_filtered_by_capsule_level_and_sequence_and_the_newest_are_kept() {
    let mut system = system();
    system.host().log_lines =
        vec![line(1, "error", "notes"), line(2, "debug", "notes"), line(3, "warn", "host"), line(4, "info", "notes")];
    let mut sequences = |query: Value| -> Vec<u64> {
        let answer = ask(&mut system, "logs", query).unwrap();
        answer["lines"].as_array().unwrap().iter().map(|line| line["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!(sequences(json!({})), [1, 2, 3, 4]);
    assert_eq!(sequences(json!({ "capsule": "notes" })), [1, 2, 4]);
    assert_eq!(sequences(json!({ "level": "warn" })), [1, 3]);
    assert_eq!(sequences(json!({ "after": 2 })), [3, 4]);
    assert_eq!(sequences(json!({ "limit": 1 })), [4]);
    assert_eq!(sequences(json!({ "capsule": "notes", "level": "info", "after": 1, "limit": 1000 })), [4]);
}

#[test]
fn a_log_line_has_every_field() {
    let mut system = system();
    system.host().log_lines = vec![line(1, "warn", "host")];
    let want = json!({ "lines": [
        { "sequence": 1, "time_ms": 1001, "level": "warn", "capsule": "host", "message": "line 1" },
    ] });
    assert_eq!(ask(&mut system, "logs", json!({})), Ok(want));
}

#[test]
fn a_log_query_without_a_limit_gets_the_newest_200() {
    let mut system = system();
    system.host().log_lines = (1..=300).map(|n| line(n, "info", "host")).collect();
    let answer = ask(&mut system, "logs", json!({})).unwrap();
    let lines = answer["lines"].as_array().unwrap();
    assert_eq!((lines.len(), lines[0]["sequence"].as_u64()), (200, Some(101)));
}

#[test]
fn a_log_query_out_of_bounds_names_the_field() {
    let mut system = system();
    for (query, want) in
        [(json!({ "limit": 0 }), "limit"), (json!({ "limit": 1001 }), "limit"), (json!({ "level": "loud" }), "level")]
    {
        let refusal = ask(&mut system, "logs", query.clone()).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Invalid, "{query}");
        assert!(refusal.reason.contains(want), "{query}: {}", refusal.reason);
    }
}

#[test]
fn shutdown_reaches_the_host_once_and_the_log_says_who_asked() {
    let mut system = system();
    assert_eq!(ask(&mut system, "shutdown", json!({})), Ok(json!({})));
    assert_eq!(system.host().shutdowns, 1);
    assert!(system.logs().iter().any(|line| line.message.contains("alice")), "{:?}", system.logs());
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

#[test]
fn what_is_no_request_is_invalid_on_every_topic_and_reaches_nothing() {
    let mut system = system();
    for handler in HANDLERS {
        for payload in ["", "{", "[]", "null", "\"x\"", "{\"surprise\":1}", &"[".repeat(100_000)] {
            let answer = system.as_principal("alice").handle_bytes(handler, payload.into()).unwrap();
            let shown: String = payload.chars().take(20).collect();
            assert_eq!(answer.unwrap_err().code, RefusalCode::Invalid, "{handler} {shown}");
        }
    }
    assert_eq!(system.host().shutdowns, 0);
    assert!(system.host().installs.is_empty());
    assert!(system.host().env_reads.is_empty() && system.host().env_writes.is_empty());
}

#[test]
fn an_unknown_field_is_refused_by_its_name() {
    let mut system = system();
    for handler in HANDLERS {
        let payload = match handler {
            "capsule-install" => json!({ "source": "/a", "surprise": 1 }),
            "capsule-show" | "capsule-rollback" | "capsule-swap" | "capsule-remove" | "capsule-history"
            | "capsule-topics" => {
                json!({ "capsule": "a", "surprise": 1 })
            }
            "env-get" => json!({ "capsule": "a", "surprise": 1 }),
            "env-set" => json!({ "capsule": "a", "field": "A", "value": 1, "surprise": 1 }),
            "env-clear" => json!({ "capsule": "a", "field": "A", "surprise": 1 }),
            _ => json!({ "surprise": 1 }),
        };
        let refusal = ask(&mut system, handler, payload).unwrap_err();
        assert!(refusal.reason.contains("surprise"), "{handler}: {}", refusal.reason);
    }
}

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
