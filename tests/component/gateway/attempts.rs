//! How often strangers may try.

use super::*;

#[test]
fn strangers_have_as_many_attempts_as_it_says_on_all_public_routes_together_and_are_told_when_there_is_another() {
    let mut gateway = gateway();
    gateway.set_distribution_env("PUBLIC_INTERVAL_MS", "10000");
    gateway.set_distribution_env("PUBLIC_BURST", "2");
    let from = |path: &str, address: &str| {
        let mut request = Request::post(path, json!({}));
        request.connection.address = Some(address.into());
        request
    };
    gateway.on_request("identity.v1.*", failing(refused(RefusalCode::Denied)));
    for address in ["203.0.113.9", "2001:db8:1:2::1"] {
        for path in ["/api/auth/redeem", "/api/auth/login"] {
            assert_ne!(send(&mut gateway, from(path, address)).status, 429);
        }
        for path in ["/api/auth/redeem", "/api/auth/pair-device/redeem", "/api/auth/challenge", "/api/auth/login"] {
            let limited = send(&mut gateway, from(path, address));
            assert_error(&limited, 429, "rate_limited");
            assert_eq!((limited.header("retry-after"), &limited.json()["retry_after_secs"]), (Some("10"), &json!(10)));
        }
    }
    gateway.advance(10);
    assert_error(&send(&mut gateway, from("/api/auth/nothing", "203.0.113.9")), 404, "not_found");
    assert_ne!(send(&mut gateway, from("/api/auth/login", "203.0.113.9")).status, 429);
    assert_eq!(send(&mut gateway, from("/api/auth/login", "203.0.113.9")).status, 429);
    for _ in 0..9 {
        assert_ne!(send(&mut gateway, Request::post("/api/auth/login", json!({})).from_unix(OWNER_UID)).status, 429);
    }
}

#[test]
fn what_the_host_says_of_itself_costs_strangers_no_attempt_and_they_have_ten_looks_for_one() {
    let mut gateway = gateway();
    gateway.set_distribution_env("PUBLIC_INTERVAL_MS", "10000");
    gateway.set_distribution_env("PUBLIC_BURST", "1");
    gateway.on_request("system.v1.distribution.show", answering(json!({ "id": "notes" })));
    let from = |method: &str, path: &str| {
        let mut request = Request::new(method, path);
        request.connection.address = Some("203.0.113.9".into());
        request
    };
    for _ in 0..5 {
        assert_eq!(
            send(&mut gateway, from("GET", "/api/distribution").bearer("wrong")).json(),
            json!({ "id": "notes" })
        );
        let document = send(&mut gateway, from("GET", "/api/openapi.json").bearer("wrong"));
        assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
        assert_eq!(document.json()["openapi"], "3.1.0");
    }
    assert_eq!(gateway.requested().len(), 5, "the document asks nobody");
    assert!(gateway.requested().iter().all(|message| message.principal == "anonymous"));
    for path in ["/api/distribution", "/api/distribution/onboarding", "/api/openapi.json"] {
        let limited = send(&mut gateway, from("GET", path));
        assert_error(&limited, 429, "rate_limited");
        assert_eq!(limited.header("retry-after"), Some("1"));
    }
    assert_ne!(send(&mut gateway, from("POST", "/api/auth/login")).status, 429);
    gateway.advance(1);
    assert_error(&send(&mut gateway, from("GET", "/api/openapi.json?x=1")), 400, "bad_request");
    assert_error(&send(&mut gateway, from("POST", "/api/openapi.json")), 405, "method_not_allowed");
}

#[test]
fn it_does_not_start_with_what_it_can_not_use_and_goes_on_without_it_if_it_comes_later() {
    let mut gateway = gateway();
    assert_eq!(gateway.start().unwrap(), Ok(()));
    for (field, value) in [("CORS_ORIGINS", "https://a.example/"), ("PUBLIC_BURST", "0.5")] {
        let mut told = crate::capsule("gateway");
        told.set_distribution_env(field, value);
        let why = told.start().unwrap().unwrap_err();
        assert!(why.contains(&format!("{field} = `{value}`")), "{why}");
        let asked = Request::post("/api/auth/redeem", json!({})).header("origin", "https://a.example");
        let answer = send(&mut told, asked);
        assert_ne!(answer.status, 500);
        assert_eq!(answer.header("access-control-allow-origin"), None);
        assert!(told.logs().iter().any(|line| line.message.contains(field)), "{:?}", told.logs());
    }
}
