//! Log lines for whoever may read them.

use super::*;

fn line(sequence: u64, level: &str, capsule: &str) -> LogLine {
    LogLine {
        sequence,
        time_ms: 1_000 + sequence,
        level: level.into(),
        capsule: capsule.into(),
        message: format!("line {sequence}"),
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
fn who_may_not_read_the_log_gets_no_more_of_it_than_of_its_beginning() {
    let mut system = system();
    system.host().log_lines = vec![line(1, "warn", "host"), line(2, "warn", "host")];
    let refusal = ask(&mut system, "logs-more", json!({ "after": 1 })).unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (RefusalCode::Denied, "requires system:logs"));
    system.grant("alice", "system:logs");
    let answer = ask(&mut system, "logs-more", json!({ "after": 1 })).unwrap();
    assert_eq!(answer["lines"][0]["sequence"], 2);
    system.set_session(None, Some(&["self:*"]));
    assert!(ask(&mut system, "logs-more", json!({})).is_err(), "not within such a session");
}
