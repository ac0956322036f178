//! Who a request is from, how often strangers may try, and which pages of other origins may ask.

use std::fs;
use std::time::Instant;

use astrid_tests::DEADLINE;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Response};
use serde_json::json;

use crate::observation::{metrics, sum};
use crate::{assert_well, install_guests, redemption};

/// A home whose distribution tells the gateway this.
fn telling(env: &str) -> Home {
    let home = Home::new();
    let path = home.path().join("distro/Distro.toml");
    let text = fs::read_to_string(&path).unwrap();
    let off = "env = { PUBLIC_INTERVAL_MS = 0 }";
    assert!(text.contains(off), "{text}");
    fs::write(&path, text.replace(off, &format!("env = {{ {env} }}"))).unwrap();
    home
}

#[tokio::test]
async fn a_proxy_that_is_trusted_says_who_its_client_is_and_nobody_else_does() {
    let trusting = Daemon::start_with(&["--set", "http.trust-forwarded-from=[\"127.0.0.1\", \"10.0.0.1\"]"]);
    let plain = Daemon::start_with(&["--set", "http.trust-forwarded-from=[\"10.0.0.1\"]"]);
    for daemon in [&trusting, &plain] {
        install_guests(daemon, &["front"]);
    }
    let ask = |header: &str, value: &str| Request::get("/front/echo").header(header, value);
    let mut kept = trusting.connect().await;
    for (request, want) in [
        (ask("x-forwarded-for", "6.6.6.6, 203.0.113.9"), "203.0.113.9"),
        (ask("x-forwarded-for", "203.0.113.9, 10.0.0.1"), "203.0.113.9"),
        (ask("x-forwarded-for", "2001:db8::1"), "2001:db8::1"),
        (ask("x-real-ip", "203.0.113.8"), "203.0.113.8"),
        (ask("x-real-ip", "6.6.6.6").header("x-forwarded-for", "203.0.113.9"), "203.0.113.9"),
        (ask("x-forwarded-for", "rubbish"), "127.0.0.1"),
        (Request::get("/front/echo"), "127.0.0.1"),
    ] {
        let told = kept.send(request.clone()).await.unwrap().expect(200);
        assert_eq!(told["address"], want, "{request:?}");
        assert_eq!(plain.tcp(request.clone()).await.expect(200)["address"], "127.0.0.1", "{request:?}");
        let unix = trusting.unix(request).await.expect(200);
        assert_eq!((&unix["address"], unix["unix_uid"].is_u64()), (&json!(null), true));
    }
}

/// An attempt at each of the public routes, none of which can succeed.
fn attempts() -> [Request; 4] {
    let nothing = json!({ "principal": "nobody", "token": "x", "public_key": "x", "challenge": "x", "signature": "x" });
    ["/api/auth/redeem", "/api/auth/pair-device/redeem", "/api/auth/challenge", "/api/auth/login"]
        .map(|path| Request::post(path, &nothing))
}

#[track_caller]
fn assert_limited(response: &Response) {
    let body = response.expect(429);
    assert_eq!((&body["error"], response.header("content-type")), (&json!("rate_limited"), Some("application/json")));
    let seconds = body["retry_after_secs"].as_u64().unwrap();
    assert!(seconds >= 1);
    assert_eq!(response.header("retry-after"), Some(&*seconds.to_string()));
}

#[tokio::test]
async fn all_public_routes_together_take_so_many_attempts_of_an_address_and_the_owner_is_not_counted() {
    let home = telling("PUBLIC_INTERVAL_MS = 86400000, PUBLIC_BURST = 4");
    let daemon = home.start_with(&["--set", "http.trust-forwarded-from=[\"127.0.0.1\"]"]);
    let from = |request: &Request, address: &str| request.clone().header("x-forwarded-for", address);
    for address in ["203.0.113.9", "2001:db8:1:2::1"] {
        for request in &attempts() {
            let refused = daemon.tcp(from(request, address)).await;
            assert!([400, 401].contains(&refused.status), "{refused:?}");
        }
        for request in &attempts() {
            assert_limited(&daemon.tcp(from(request, address)).await);
        }
    }
    // The same network of IPv6 is the same client; another address and another network are others.
    let [redeem, ..] = &attempts();
    assert_limited(&daemon.tcp(from(redeem, "2001:db8:1:2:3:4:5:6")).await);
    for address in ["203.0.113.10", "2001:db8:1:3::1"] {
        daemon.tcp(from(redeem, address)).await.refusal(400, "bad_request");
    }
    // What is none of them is not counted, whoever asks.
    for _ in 0..10 {
        daemon.tcp(from(&Request::get("/api/auth/me"), "203.0.113.9")).await.refusal(401, "unauthorized");
        assert_eq!(daemon.tcp(from(&Request::new("OPTIONS", "/api/auth/redeem"), "203.0.113.9")).await.status, 204);
        daemon.unix(redemption("x", "x")).await.refusal(400, "bad_request");
    }
    let counted = sum(&metrics(&daemon).await, "astrid_http_requests_total", &[("status", "429")]);
    assert_eq!(counted, 9.0);
    assert_well(&daemon).await;
}

#[tokio::test]
async fn unless_it_is_told_otherwise_an_address_has_five_attempts_and_one_more_each_second() {
    let daemon = telling("").start();
    let attempt = || daemon.tcp(redemption("x", "x"));
    let mut statuses = Vec::new();
    let limited = loop {
        let answer = attempt().await;
        statuses.push(answer.status);
        if answer.status == 429 {
            break answer;
        }
        assert!(statuses.len() < 60, "{statuses:?}");
    };
    assert!(statuses.len() > 5, "{statuses:?}");
    assert_limited(&limited);
    assert_eq!(limited.header("retry-after"), Some("1"));
    let started = Instant::now();
    while attempt().await.status == 429 {
        assert!(started.elapsed() < DEADLINE, "it never ends");
    }
}

#[tokio::test]
async fn a_page_of_an_origin_on_the_list_may_ask_and_read_even_what_is_refused_and_no_other_page() {
    let daemon =
        telling("PUBLIC_INTERVAL_MS = 0, CORS_ORIGINS = \"https://console.example, http://localhost:5173\"").start();
    let from = |origin: &str, request: Request| request.header("origin", origin);
    let allowed = |response: &Response| response.header("access-control-allow-origin").map(str::to_owned);
    for origin in ["https://console.example", "http://localhost:5173"] {
        let ask = Request::new("OPTIONS", "/api/sys/invites").header("access-control-request-method", "POST");
        let preflight = daemon.tcp(from(origin, ask)).await;
        assert_eq!((preflight.status, allowed(&preflight).as_deref()), (204, Some(origin)));
        let methods = preflight.header("access-control-allow-methods");
        assert_eq!(methods, Some("GET, POST, PUT, PATCH, DELETE, OPTIONS"));
        let headers = preflight.header("access-control-allow-headers");
        assert_eq!(headers, Some("authorization, content-type, accept, last-event-id"));
        assert_eq!(
            (preflight.header("access-control-max-age"), preflight.header("vary")),
            (Some("3600"), Some("Origin"))
        );
        for (request, status) in [
            (Request::get("/api/auth/me"), 401),
            (Request::get("/api/nothing"), 404),
            (Request::new("PUT", "/api/auth/me"), 405),
            (redemption("x", "x"), 400),
        ] {
            let answer = daemon.tcp(from(origin, request)).await;
            assert_eq!((answer.status, allowed(&answer).as_deref()), (status, Some(origin)));
            assert_eq!(
                (answer.header("vary"), answer.header("access-control-allow-credentials")),
                (Some("Origin"), None)
            );
        }
    }
    for origin in ["https://evil.example", "null", "http://console.example", "https://console.example:8443"] {
        let ask = Request::new("OPTIONS", "/api/sys/invites").header("access-control-request-method", "POST");
        for request in [ask, Request::get("/api/auth/me")] {
            let answer = daemon.tcp(from(origin, request)).await;
            assert_eq!((allowed(&answer), answer.header("vary")), (None, Some("Origin")), "{origin}");
            assert_eq!(answer.header("access-control-allow-methods"), None);
        }
    }
    let off = Daemon::start();
    let answer = off.tcp(from("https://console.example", Request::get("/api/auth/me"))).await;
    assert_eq!((allowed(&answer), answer.header("vary")), (None, None));
}

#[tokio::test]
async fn what_the_gateway_is_told_and_can_not_use_is_named_with_what_to_write() {
    for (env, wants) in [
        ("CORS_ORIGINS = \"https://a.example/\"", ["CORS_ORIGINS = `https://a.example/`", "leave out the slash"]),
        ("CORS_ORIGINS = \"ftp://a.example\"", ["CORS_ORIGINS = `ftp://a.example`", "http or https"]),
        ("PUBLIC_INTERVAL_MS = 0.5", ["PUBLIC_INTERVAL_MS = `0.5`", "write a whole number, 0 to 86400000"]),
        ("PUBLIC_BURST = 0", ["PUBLIC_BURST = `0`", "write a whole number, 1 to 1000000"]),
    ] {
        let daemon = telling(env).start();
        let said = daemon.stderr();
        assert!(wants.iter().all(|want| said.contains(want)), "{env}: {said}");
        let unserved = daemon.unix(Request::get("/api/auth/me")).await;
        unserved.refusal(404, "not_found");
    }
}
