//! Who sends a request, and what is never said of a credential.

use super::*;

#[test]
fn redeeming_needs_no_session_and_looks_at_no_credential() {
    let mut gateway = gateway();
    gateway.on_request("identity.v1.invite.redeem", answering(json!({ "principal": "bob" })));
    let request = || Request::post("/api/auth/redeem", json!({ "token": "t", "public_key": "k" }));
    for request in [request(), request().bearer("wrong"), request().bearer("nobody-to-ask")] {
        assert_eq!(send(&mut gateway, request).json(), json!({ "principal": "bob" }));
    }
    assert!(gateway.requested().iter().all(|message| message.principal == "anonymous"));
}

#[test]
fn a_token_that_is_no_good_is_a_401_like_any_other_credential() {
    let mut gateway = gateway();
    gateway.on_request("identity.v1.invite.redeem", failing(refused(RefusalCode::Denied)));
    let request = Request::post("/api/auth/redeem", json!({ "token": "t", "public_key": "k" }));
    let response = send(&mut gateway, request);
    assert_error(&response, 401, "unauthorized");
    assert_eq!(response.json(), json!({ "error": "unauthorized" }));
}

#[test]
fn a_401_never_says_why() {
    let mut gateway = gateway();
    let me = || Request::get("/api/auth/me");
    let cases = [
        me(),
        me().header("authorization", ""),
        me().header("authorization", "alice-token"),
        me().header("authorization", "Basic alice-token"),
        me().header("authorization", "Bearer"),
        me().header("authorization", "Bearer "),
        me().header("authorization", "Bearer alice token"),
        me().header("authorization", b"Bearer \xff"),
        me().bearer("wrong"),
        me().bearer(&"x".repeat(20_000)),
        me().bearer("alice-token").bearer("alice-token"),
        me().from_unix(OWNER_UID + 1),
        me().with_certificate("cd", Some("alice")),
        me().with_certificate(ALICES, None).bearer("wrong"),
        me().with_certificate(ALICES, None).header("authorization", ""),
    ];
    for request in cases {
        let response = send(&mut gateway, request);
        assert_error(&response, 401, "unauthorized");
        assert_eq!(response.json(), json!({ "error": "unauthorized" }));
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    }
    assert!(gateway.requested().is_empty());
}

#[test]
fn a_certificate_is_a_credential_where_no_header_says_who_it_is() {
    let mut gateway = gateway();
    gateway.on_request("identity.v1.me", answering(json!({ "principal": "alice" })));
    let me = || Request::get("/api/auth/me").with_certificate(ALICES, Some("anybody"));
    assert_eq!(send(&mut gateway, me()).status, 200);
    assert_eq!(send(&mut gateway, me().bearer("alice-token")).status, 200);
    assert!(gateway.requested().iter().all(|message| message.principal == "alice"));
}

#[test]
fn the_scheme_is_taken_in_any_case() {
    let mut gateway = gateway();
    gateway.on_request("identity.v1.me", answering(json!({ "principal": "alice" })));
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let request = Request::get("/api/auth/me").header("authorization", format!("{scheme} alice-token"));
        assert_eq!(send(&mut gateway, request).status, 200, "{scheme}");
    }
}

#[test]
fn an_authenticator_that_is_away_or_busy_is_not_a_401() {
    let mut gateway = gateway();
    let away = send(&mut gateway, Request::get("/api/auth/me").bearer("nobody-to-ask"));
    assert_error(&away, 502, "unavailable");
    let busy = send(&mut gateway, Request::get("/api/auth/me").bearer("too-many-asking"));
    assert_error(&busy, 503, "overloaded");
    assert!(busy.header("retry-after").is_some());
}

#[test]
fn the_owners_connection_is_a_credential_unless_a_header_says_otherwise() {
    let mut gateway = gateway();
    gateway
        .on_request("identity.v1.me", |message| Ok(json!({ "principal": message.principal }).to_string().into_bytes()));
    let me = || Request::get("/api/auth/me").from_unix(OWNER_UID);
    assert_eq!(send(&mut gateway, me()).json()["principal"], "default");
    assert_eq!(send(&mut gateway, me().bearer("alice-token")).json()["principal"], "alice");
    assert_error(&send(&mut gateway, me().bearer("wrong")), 401, "unauthorized");
    assert_error(&send(&mut gateway, me().header("authorization", "Basic x")), 401, "unauthorized");
}

#[test]
fn no_credential_or_token_reaches_the_log_or_an_error() {
    let mut gateway = gateway();
    gateway.on_request("identity.v1.invite.redeem", failing(refused(RefusalCode::Denied)));
    let secret = "secret-that-stays-secret";
    let redeem = json!({ "token": secret, "public_key": "k" });
    let requests = [
        Request::get("/api/auth/me").bearer(secret),
        Request::post("/api/auth/redeem", &redeem),
        Request::post("/api/auth/redeem", &redeem).header("content-type", "text/plain"),
    ];
    for request in requests {
        let response = send(&mut gateway, request);
        assert!(!String::from_utf8_lossy(&response.body).contains(secret));
    }
    assert!(gateway.logs().iter().all(|line| !line.message.contains(secret)), "{:?}", gateway.logs());
}
