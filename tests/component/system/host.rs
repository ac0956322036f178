//! What the host says of itself: how it is, who uses it, how it is configured, and that it stops.

use super::*;

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
fn shutdown_reaches_the_host_once_and_the_log_says_who_asked() {
    let mut system = system();
    assert_eq!(ask(&mut system, "shutdown", json!({})), Ok(json!({})));
    assert_eq!(system.host().shutdowns, 1);
    assert!(system.logs().iter().any(|line| line.message.contains("alice")), "{:?}", system.logs());
}

#[test]
fn processes_are_everybodys_or_the_targets_and_one_is_stopped_where_it_is_seen() {
    let mut system = system();
    let of = |id: &str, principal: &str| Process {
        id: id.into(),
        principal: principal.into(),
        capsule: "notes".into(),
        program: "/usr/bin/git".into(),
        started_ms: 7_999,
    };
    system.host().processes = vec![of("a", "alice"), of("b", "bob")];
    let alices = json!({
        "id": "a", "principal": "alice", "capsule": "notes", "program": "/usr/bin/git", "started_at": 7,
    });
    let all = ask(&mut system, "process-list", json!({})).unwrap();
    assert_eq!((all["processes"].as_array().map(Vec::len), &all["processes"][0]), (Some(2), &alices));
    let mut own =
        |handler: &str, payload| system.as_principal("alice").with_target("alice").handle(handler, payload).unwrap();
    assert_eq!(own("process-list", json!({})), Ok(json!({ "processes": [alices] })));
    assert_eq!(own("process-stop", json!({ "process": "b" })).unwrap_err().code, RefusalCode::NotFound);
    assert_eq!(own("process-stop", json!({ "process": "a" })), Ok(json!({})));
    assert_eq!(ask(&mut system, "process-stop", json!({ "process": "b" })), Ok(json!({})));
    assert!(system.host().processes.is_empty());
}
