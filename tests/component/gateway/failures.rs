//! What becomes of a request that fails at its other end.

use super::*;

#[test]
fn every_failure_at_the_other_end_has_its_status_and_name() {
    for (failure, status, error, reason) in [
        (Failure::Denied("requires system:status".into()), 403, "forbidden", "system:status"),
        (Failure::Timeout, 504, "timeout", ""),
        (Failure::TooLarge(1 << 20), 413, "payload_too_large", "1048576"),
        (Failure::Invalid("target `x`".into()), 400, "bad_request", "target"),
        (Failure::Trapped, 502, "unavailable", ""),
        (refused(RefusalCode::Invalid), 400, "bad_request", "because"),
        (refused(RefusalCode::Denied), 403, "forbidden", "because"),
        (refused(RefusalCode::NotFound), 404, "not_found", "because"),
        (refused(RefusalCode::Conflict), 409, "conflict", "because"),
        (refused(RefusalCode::Unavailable), 502, "unavailable", "because"),
        (refused(RefusalCode::Internal), 500, "internal", "because"),
    ] {
        let mut gateway = gateway();
        gateway.grant("alice", "bus:request");
        gateway.on_request("*", failing(failure));
        for request in [Request::get("/api/sys/status"), Request::post("/api/bus/request/a.b", json!({}))] {
            let response = as_alice(&mut gateway, request);
            assert_error(&response, status, error);
            assert!(response.json()["reason"].as_str().unwrap_or_default().contains(reason), "{}", response.json());
        }
    }
}

#[test]
fn overload_says_when_to_come_back() {
    for (milliseconds, seconds) in [(1, 1), (1000, 1), (1500, 2)] {
        let mut gateway = gateway();
        gateway.on_request("system.v1.status", failing(Failure::Overloaded(milliseconds)));
        let response = as_alice(&mut gateway, Request::get("/api/sys/status"));
        assert_error(&response, 503, "overloaded");
        assert_eq!(response.header("retry-after"), Some(seconds.to_string().as_str()));
        assert_eq!(response.json()["retry_after_secs"], seconds);
    }
}

#[test]
fn a_missing_subsystem_is_a_502_and_a_missing_topic_of_the_client_a_404() {
    let mut gateway = gateway();
    gateway.grant("alice", "bus:request");
    assert_error(&as_alice(&mut gateway, Request::get("/api/sys/status")), 502, "unavailable");
    let missing = as_alice(&mut gateway, Request::post("/api/bus/request/nobody.v1.here", json!({})));
    assert_error(&missing, 404, "not_found");
}
