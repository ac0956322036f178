//! What of a host's facts is shown, to whom, and how.

use astrid_sdk_test::{Capsule, Refusal, RefusalCode};
use serde_json::{Value, json};

/// An audit over nine facts: three of alice's, three of bob's, three of nobody's.
fn audit() -> Capsule {
    let mut audit = crate::capsule("audit");
    for n in 0..9_u64 {
        let mut fact =
            json!({ "id": n.to_string(), "time": n * 1_000_000_000, "action": "env.write", "outcome": "ok" });
        if let Some(principal) = [Some("alice"), Some("bob"), None][n as usize % 3] {
            fact["principal"] = principal.into();
        }
        fact["detail"] = r#"{"ip":"::1","token":"t"}"#.into();
        audit.journal().facts.push(fact.to_string());
    }
    audit
}

#[track_caller]
fn ask(audit: &mut Capsule, principal: &str, payload: Value) -> Result<Value, Refusal> {
    let answer = audit.as_principal(principal).handle("query", payload).unwrap();
    answer.inspect(|answer| crate::types::check_answer("audit", "query", answer))
}

fn indices(page: &Value) -> Vec<u64> {
    page["entries"].as_array().unwrap().iter().map(|entry| entry["index"].as_u64().unwrap()).collect()
}

#[test]
fn everybody_sees_their_own_and_who_may_read_all_everything() {
    let mut audit = audit();
    audit.grant("root", "audit:*");
    audit.grant("eve", "self:*");
    let own = ask(&mut audit, "alice", json!({})).unwrap();
    assert_eq!((indices(&own), &own["size"]), (vec![6, 3, 0], &json!(9)));
    assert_eq!(indices(&ask(&mut audit, "alice", json!({ "from": 1 })).unwrap()), [3, 6]);
    assert_eq!(indices(&ask(&mut audit, "root", json!({})).unwrap()), (0..9).rev().collect::<Vec<_>>());
    assert_eq!(indices(&ask(&mut audit, "root", json!({ "principal": "bob", "since": 4 })).unwrap()), [7, 4]);
    assert!(indices(&ask(&mut audit, "eve", json!({})).unwrap()).is_empty());
    for (principal, other) in [("alice", "bob"), ("eve", "bob")] {
        let refusal = ask(&mut audit, principal, json!({ "principal": other })).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Denied);
    }
}

#[test]
fn a_format_changes_the_line_and_a_rule_what_stands_in_it() {
    let mut audit = audit();
    let whole = ask(&mut audit, "alice", json!({ "limit": 1 })).unwrap();
    assert_eq!(whole["entries"][0]["fact"]["detail"], r#"{"ip":"::1","token":"t"}"#);
    for (format, begins) in [("cef", "CEF:0|Astrid|"), ("line", "1970-01-01T00:00:06"), ("ocsf", "{")] {
        let page = ask(&mut audit, "alice", json!({ "format": format, "limit": 1 })).unwrap();
        let line = page["entries"][0]["line"].as_str().unwrap();
        assert!(line.starts_with(begins) && page["entries"][0].get("fact").is_none(), "{line}");
    }
    audit.set_env("alice", "REDACT", "/detail/token");
    let cut = ask(&mut audit, "alice", json!({ "limit": 1 })).unwrap();
    assert_eq!(cut["entries"][0]["fact"]["detail"], r#"{"ip":"::1","token":"[redacted]"}"#);
    audit.set_env("alice", "REDACT", "no such field");
    assert_eq!(ask(&mut audit, "alice", json!({})).unwrap_err().code, RefusalCode::Unavailable);
    assert_eq!(audit.journal().facts.len(), 9, "what is in the log is as it was");
}

#[test]
fn everybody_gets_their_own_facts_with_what_proves_them() {
    let mut audit = audit();
    let ask = |audit: &mut Capsule, payload: Value| {
        let answer = audit.as_principal("alice").handle("proofs", payload).unwrap();
        answer.inspect(|answer| crate::types::check_answer("audit", "proofs", answer))
    };
    assert_eq!(ask(&mut audit, json!({})).unwrap_err().code, RefusalCode::NotFound, "nothing is signed");
    audit.journal().checkpoint = Some("origin\n7\nroot\n".into());
    audit.journal().proof = Some(vec![vec![7; 32]]);
    let page = ask(&mut audit, json!({})).unwrap();
    assert_eq!((indices(&page), &page["size"], page["next_from"].as_u64()), (vec![0, 3, 6], &json!(7), None));
    assert_eq!(page["entries"][0]["fact"], json!(audit.journal().facts[0]), "as it is attested");
    assert_eq!(page["entries"][0]["proof"], json!(["BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="]));
    let rest = ask(&mut audit, json!({ "from": 1, "size": 4, "limit": 1 })).unwrap();
    assert_eq!((indices(&rest), rest.get("checkpoint")), (vec![3], None));
}

#[test]
fn the_logs_own_files_are_for_who_may_read_all() {
    let mut audit = audit();
    audit.grant("root", "audit:read_all");
    audit.journal().checkpoint = Some("origin\n9\n".into());
    audit.journal().tile = Some(vec![7; 300]);
    let mut pieces = |principal: &str, handler: &str, payload: Value| {
        audit.as_principal(principal).stream(handler, payload).unwrap()
    };
    let note = pieces("root", "checkpoint", json!({}));
    assert_eq!((note.pieces.concat(), note.end), (b"origin\n9\n".to_vec(), Ok(())));
    for path in ["0/000", "entries/x001/000.p/3"] {
        let tile = pieces("root", "tile", json!({ "path": path }));
        assert_eq!((tile.pieces.concat().len(), tile.end), (300, Ok(())), "{path}");
    }
    let code = |refused: Result<(), Refusal>| refused.unwrap_err().code;
    assert_eq!(code(pieces("root", "tile", json!({ "path": "../0" })).end), RefusalCode::Invalid);
    assert_eq!(code(pieces("alice", "tile", json!({ "path": "0/000" })).end), RefusalCode::Denied);
    assert_eq!(code(pieces("alice", "checkpoint", json!({})).end), RefusalCode::Denied);
}
