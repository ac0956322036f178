//! Which bodies are taken, how answers pass, and which headers each has.

use super::*;

#[test]
fn only_json_is_taken_whatever_its_parameters() {
    let mut gateway = gateway();
    gateway.on_request("identity.v1.invite.issue", answering(json!({})));
    let body = || br#"{"group":"agent","max_uses":1}"#.to_vec();
    let post = || Request::new("POST", "/api/sys/invites");
    for kind in ["application/json", "Application/JSON", "application/json; charset=utf-8"] {
        assert_eq!(as_alice(&mut gateway, post().body(kind, body())).status, 200, "{kind}");
    }
    let mut without = post();
    without.body = body();
    let mut cases = vec![without, post().body("application/json", body()).header("content-encoding", "gzip")];
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", "json"] {
        cases.push(post().body(kind, body()));
    }
    for request in cases {
        assert_error(&as_alice(&mut gateway, request), 415, "unsupported_media_type");
    }
    assert_eq!(gateway.requested().len(), 3);
}

#[test]
fn a_body_that_is_no_json_is_a_400_and_goes_no_further() {
    let mut gateway = gateway();
    gateway.grant("alice", "bus:request");
    gateway.on_request("*", answering(json!({})));
    let deep = "[".repeat(30_000) + &"]".repeat(30_000);
    for path in ["/api/sys/invites", "/api/capsules", "/api/bus/request/a.b", "/api/auth/redeem", "/api/sys/shutdown"] {
        for body in [&b"{"[..], b"{}x", b"{'a':1}", b"\xff\xfe", b"nul", deep.as_bytes()] {
            let response = as_alice(&mut gateway, Request::new("POST", path).body("application/json", body));
            assert_error(&response, 400, "bad_request");
        }
    }
    for path in ["/api/sys/invites", "/api/capsules", "/api/bus/request/a.b", "/api/auth/redeem"] {
        assert_error(&as_alice(&mut gateway, Request::new("POST", path)), 400, "bad_request");
    }
    assert!(gateway.requested().is_empty());
}

#[test]
fn a_body_where_none_is_taken_is_a_400() {
    let mut gateway = gateway();
    gateway.on_request("*", answering(json!({})));
    for (method, path) in [("GET", "/api/auth/me"), ("DELETE", "/api/sys/invites/abc")] {
        let response = as_alice(&mut gateway, Request::new(method, path).json(json!({ "a": 1 })));
        assert_error(&response, 400, "bad_request");
    }
    assert!(gateway.requested().is_empty());
}

#[test]
fn bodies_and_answers_pass_byte_for_byte() {
    let mut gateway = gateway();
    gateway.grant("alice", "bus:request");
    gateway.on_request("echo.v1.say", |message| Ok(message.payload.clone()));
    let body = "{ \"b\" : 1.0e2,\n \"a\":\"\\u00e4 ä\", \"n\": 123456789012345678901234567890 }";
    let request = Request::new("POST", "/api/bus/request/echo.v1.say").body("application/json", body);
    let response = as_alice(&mut gateway, request);
    assert_eq!((response.status, &response.body[..]), (200, body.as_bytes()));
}

#[test]
fn an_answer_that_is_no_json_is_not_labelled_as_json() {
    let mut gateway = gateway();
    gateway.grant("alice", "bus:request");
    gateway.on_request("raw.v1.bytes", |_| Ok(b"<script>\xff".to_vec()));
    let response = as_alice(&mut gateway, Request::post("/api/bus/request/raw.v1.bytes", json!({})));
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    gateway.on_request("identity.v1.me", |_| Ok(b"[1]".to_vec()));
    assert_error(&as_alice(&mut gateway, Request::get("/api/auth/me")), 502, "unavailable");
}

#[test]
fn every_response_has_the_headers_that_protect_a_browser() {
    let mut gateway = gateway();
    gateway.on_request("system.v1.status", answering(json!({})));
    gateway.on_request("identity.v1.invite.revoke", answering(json!({})));
    let requests = [
        Request::get("/api/sys/status").bearer("alice-token"),
        Request::delete("/api/sys/invites/abc").bearer("alice-token"),
        Request::get("/api/sys/status"),
        Request::get("/api/nothing"),
        Request::delete("/api/auth/me"),
        Request::new("OPTIONS", "/api/auth/me"),
        Request::new("POST", "/api/auth/redeem").body("text/plain", "x"),
    ];
    for request in requests {
        let mut tls = request.clone();
        tls.connection.tls = true;
        for (request, hsts) in [(request, None), (tls, Some("max-age=63072000; includeSubDomains"))] {
            let response = send(&mut gateway, request);
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "no-referrer"),
                ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ] {
                assert_eq!(response.header(name), Some(value), "{} {name}", response.status);
            }
            assert_eq!(response.header("strict-transport-security"), hsts, "{}", response.status);
        }
    }
}
