//! What the first-party components say of their topics' types, beside what they really take and answer.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use astrid_capsule::archive::Archive;
use astrid_capsule::schema::{Schemas, Wit};
use astrid_sdk_test::{Capsule, RefusalCode};
use astrid_tests::pack;
use serde_json::{Value, json};

/// The types of a capsule: of the handler's topic.
fn types(capsule: &str, handler: &str) -> (Schemas, Wit) {
    static READ: Mutex<BTreeMap<String, Archive>> = Mutex::new(BTreeMap::new());
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let archive = read.entry(capsule.into()).or_insert_with(|| pack::read(capsule));
    let binding = archive.manifest.subscribe.iter().find(|binding| binding.handler.as_deref() == Some(handler));
    let wit = binding.and_then(|binding| binding.wit.clone());
    (archive.schemas.clone(), wit.unwrap_or_else(|| panic!("{capsule}: the topic of `{handler}` has no types")))
}

/// Fails if an answer is not what the capsule says that it answers.
#[track_caller]
pub(crate) fn check_answer(capsule: &str, handler: &str, answer: &Value) {
    let (schemas, wit) = types(capsule, handler);
    let name = wit.answer.unwrap_or_else(|| panic!("{capsule}: the topic of `{handler}` has no answer type"));
    if let Err(misfit) = schemas.fit(&name, answer.to_string().as_bytes()) {
        panic!("{capsule} {handler} answers {answer}, which is no `{name}` {misfit}");
    }
}

/// The payload with one thing changed, at every place: a value of every other kind, a field gone, a field too many.
fn changed(value: &Value) -> Vec<Value> {
    let mut all: Vec<Value> = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!("x"),
        json!([]),
        json!([1]),
        json!({}),
    ]
    .into();
    if let Value::Object(fields) = value {
        let with = |name: &str, inner: Value| {
            let mut changed = fields.clone();
            changed.insert(name.into(), inner);
            Value::Object(changed)
        };
        all.push(with("no_such_field", json!(1)));
        for (name, inner) in fields {
            let mut without = fields.clone();
            without.remove(name);
            all.push(without.into());
            all.extend(changed(inner).into_iter().map(|inner| with(name, inner)));
        }
    }
    all
}

/// A payload of every handler, with all that may stand in it.
fn payloads(capsule: &str) -> Vec<(&'static str, Value)> {
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let quotas = json!({
        "max_memory_bytes": 1_048_576, "max_timeout_secs": 1, "max_cpu_fuel_per_sec": null, "max_storage_bytes": 1,
        "max_ipc_throughput_bytes": 1, "max_concurrent_calls": 1, "max_background_processes": 1,
    });
    let metadata = json!({ "for": "Bo" });
    let group = json!({ "name": "ops", "capabilities": ["a:b"], "description": "whoever keeps it running", "unsafe_admin": true });
    let caps = json!({ "principal": "bo", "capabilities": ["a:b"], "unsafe_admin": true });
    match capsule {
        "identity" => vec![
            ("invite-issue", json!({ "group": "agent", "max_uses": 1, "expires_secs": 60, "metadata": metadata })),
            ("invite-list", json!({ "after": "ab".repeat(16), "limit": 1 })),
            ("invite-revoke", json!({ "token": "x" })),
            ("invite-revoke", json!({ "fingerprint": "ab".repeat(16) })),
            ("invite-redeem", json!({ "token": "x", "public_key": key, "display_name": "Bo" })),
            ("principal-list", json!({ "after": "a", "limit": 1 })),
            ("principal-create", json!({ "name": "bo", "groups": ["agent"], "grants": ["self:x"] })),
            ("principal-show", json!({})),
            ("principal-modify", json!({ "principal": "bo", "add_groups": ["agent"], "remove_groups": [] })),
            ("principal-enable", json!({ "principal": "bo" })),
            ("principal-disable", json!({ "principal": "bo" })),
            ("principal-delete", json!({ "principal": "bo" })),
            ("group-create", group.clone()),
            ("group-list", json!({ "after": "a", "limit": 1 })),
            ("group-show", json!({ "name": "ops" })),
            ("group-modify", group),
            ("group-delete", json!({ "name": "ops" })),
            ("caps-grant", caps.clone()),
            ("caps-revoke", caps),
            ("caps-show", json!({})),
            ("caps-check", json!({ "capability": "a:b" })),
            ("me", json!({})),
            ("device-pair", json!({ "expires_secs": 60, "label": "phone", "scope": ["self:*"] })),
            ("device-redeem", json!({ "token": "x", "public_key": key })),
            ("device-list", json!({})),
            ("device-remove", json!({ "fingerprint": "ab".repeat(16) })),
            ("certificate-bind", json!({ "fingerprint": "ab".repeat(32), "label": "door", "scope": ["self:*"] })),
            ("certificate-list", json!({})),
            ("certificate-remove", json!({ "fingerprint": "ab".repeat(32) })),
            ("login-challenge", json!({ "principal": "bo" })),
            ("login", json!({ "principal": "bo", "challenge": "x", "public_key": key, "signature": "ab".repeat(64) })),
            ("session-refresh", json!({ "token": "x" })),
            ("session-end", json!({ "token": "x" })),
            ("session-rotate", json!({ "now": true })),
            ("approval-request", json!({ "action": "delete", "resource": "/a", "reason": "to tidy up" })),
            ("approval-list", json!({})),
            ("approval-answer", json!({ "id": "ab".repeat(16), "decision": "approve_once" })),
            ("approval-withdraw", json!({ "id": "ab".repeat(16) })),
            ("quota-get", json!({})),
            ("quota-set", json!({ "principal": "default", "quotas": quotas })),
        ],
        "audit" => vec![
            (
                "query",
                json!({
                    "since": 1, "until": 2, "method": "a", "principal": "default", "outcome": "ok", "limit": 1, "cursor": 1,
                    "format": "cef",
                }),
            ),
            ("query", json!({ "from": 1 })),
            ("checkpoint", json!({})),
            ("proofs", json!({ "from": 1, "size": 2, "limit": 1 })),
            ("tile", json!({ "path": "0/000" })),
        ],
        _ => vec![
            ("status", json!({})),
            ("logs", json!({ "capsule": "a", "level": "warn", "since": 1, "after": 1, "limit": 1 })),
            ("logs-more", json!({ "capsule": "a", "level": "warn", "since": 1, "after": 1, "limit": 1 })),
            ("shutdown", json!({})),
            ("capabilities", json!({})),
            ("config", json!({})),
            ("config-reload", json!({})),
            ("load", json!({ "limit": 1 })),
            ("capsule-list", json!({})),
            ("capsule-install", json!({ "source": "/a.capsule", "grants": ["sys:host"], "shadow": 1 })),
            ("capsule-topics", json!({ "capsule": "a" })),
            ("capsule-show", json!({ "capsule": "a" })),
            ("capsule-rollback", json!({ "capsule": "a" })),
            ("process-list", json!({})),
            ("process-stop", json!({ "process": "0123456789abcdef" })),
            ("capsule-swap", json!({ "capsule": "a" })),
            ("capsule-reload", json!({})),
            ("capsule-remove", json!({ "capsule": "a", "purge": true })),
            ("capsule-history", json!({ "capsule": "a" })),
            ("capsule-gc", json!({})),
            ("distribution-show", json!({})),
            ("distribution-onboarding", json!({})),
            ("distro-apply", json!({})),
            ("usage", json!({})),
            ("env-get", json!({ "capsule": "a" })),
            ("env-set", json!({ "capsule": "a", "field": "A", "value": "b" })),
            ("env-clear", json!({ "capsule": "a", "field": "A" })),
        ],
    }
}

/// Everything that its schema refuses, its handler refuses; what the schema takes, the handler reads.
fn hold_to_types(name: &str, capsule: &mut Capsule) {
    let manifest = pack::read(name).manifest;
    for handler in manifest.subscribe.iter().filter_map(|binding| binding.handler.as_deref()) {
        assert!(payloads(name).iter().any(|(known, _)| *known == handler), "no payload for `{handler}`");
    }
    for (handler, payload) in payloads(name) {
        let (schemas, wit) = types(name, handler);
        let fits = |payload: &Value| schemas.fit(&wit.payload, payload.to_string().as_bytes());
        fits(&payload).unwrap_or_else(|misfit| panic!("{handler} {payload}: {misfit}"));
        let mut refused = 0;
        for payload in changed(&payload) {
            let Err(misfit) = fits(&payload) else { continue };
            refused += 1;
            let answer = capsule.as_principal("default").handle(handler, payload.clone());
            let answer = answer.unwrap_or_else(|error| panic!("{handler} {payload}: {error}"));
            let refusal = answer.expect_err(&format!("{handler} takes {payload}, which its schema refuses {misfit}"));
            assert_eq!(refusal.code, RefusalCode::Invalid, "{handler} {payload}: {}", refusal.reason);
        }
        assert!(refused >= 9, "{handler}: only {refused} changes are refused");
    }
}

#[test]
fn what_identitys_schemas_refuse_identity_refuses() {
    let mut identity = crate::capsule("identity");
    identity.start().expect("it starts").expect("and is fine");
    hold_to_types("identity", &mut identity);
}

#[test]
fn what_audits_schemas_refuse_audit_refuses() {
    hold_to_types("audit", &mut crate::capsule("audit"));
}

#[test]
fn what_systems_schemas_refuse_system_refuses() {
    hold_to_types("system", &mut crate::capsule("system"));
}
