//! The bus over HTTP, for whoever holds its capability.

use super::*;

#[test]
fn the_bus_is_open_to_whoever_holds_its_capability() {
    let mut gateway = gateway();
    gateway.on_request("echo.v1.say", |message| Ok(message.payload.clone()));
    let request = || Request::post("/api/bus/request/echo.v1.say?target=bob&timeout_ms=250", json!({ "a": 1 }));
    assert_error(&as_alice(&mut gateway, request()), 403, "forbidden");
    gateway.grant("alice", "bus:publish");
    gateway.grant("alice", "self:bus:request");
    assert_error(&as_alice(&mut gateway, request()), 403, "forbidden");
    assert!(gateway.requested().is_empty());

    gateway.grant("alice", "bus:request");
    let response = as_alice(&mut gateway, request());
    assert_eq!((response.status, response.json()), (200, json!({ "a": 1 })));
    let sent = &gateway.requested()[0];
    assert_eq!((sent.principal.as_str(), sent.target.as_deref(), sent.remaining_ms), ("alice", Some("bob"), 250));
}

#[test]
fn a_publication_says_how_many_took_it() {
    let mut gateway = gateway();
    gateway.set_delivered(2);
    let request = || Request::post("/api/bus/publish/news.v1.all?target=bob", json!("x"));
    assert_error(&as_alice(&mut gateway, request()), 403, "forbidden");
    assert!(gateway.published().is_empty());
    gateway.grant("alice", "bus:publish");
    let response = as_alice(&mut gateway, request());
    assert_eq!((response.status, response.json()), (202, json!({ "delivered": 2 })));
    let sent = &gateway.published()[0];
    assert_eq!((sent.topic.as_str(), sent.principal.as_str()), ("news.v1.all", "alice"));
    assert_eq!((sent.target.as_deref(), payload(sent)), (Some("bob"), json!("x")));
}

#[test]
fn a_topic_or_target_that_is_none_is_a_400() {
    let mut gateway = gateway();
    gateway.grant("alice", "bus:*");
    for target in [
        "/api/bus/request/a..b",
        "/api/bus/request/a.*",
        "/api/bus/publish/a%20b",
        "/api/bus/request/a.b?target=a%20b",
        "/api/bus/request/a.b?timeout_ms=4294967296",
        "/api/bus/publish/a.b?timeout_ms=1",
    ] {
        assert_error(&as_alice(&mut gateway, Request::post(target, json!({}))), 400, "bad_request");
    }
    assert!(gateway.requested().is_empty() && gateway.published().is_empty());
}
