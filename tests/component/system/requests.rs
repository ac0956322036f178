//! What no topic takes.

use super::*;

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
            "process-stop" => json!({ "process": "a", "surprise": 1 }),
            "env-get" => json!({ "capsule": "a", "surprise": 1 }),
            "env-set" => json!({ "capsule": "a", "field": "A", "value": 1, "surprise": 1 }),
            "env-clear" => json!({ "capsule": "a", "field": "A", "surprise": 1 }),
            _ => json!({ "surprise": 1 }),
        };
        let refusal = ask(&mut system, handler, payload).unwrap_err();
        assert!(refusal.reason.contains("surprise"), "{handler}: {}", refusal.reason);
    }
}
