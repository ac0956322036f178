//! Which request is which topic, who may send it, and what is no route.

use super::*;

/// A route that is one request of one topic.
struct Route {
    method: &'static str,
    path: &'static str,
    body: Option<Value>,
    topic: &'static str,
    payload: Value,
    target: Option<&'static str>,
    status: u16,
}

fn routes() -> Vec<Route> {
    let route =
        |method, path, body, topic, payload, status| Route { method, path, body, topic, payload, target: None, status };
    let about = |path, topic| Route { target: Some("bob"), ..route("GET", path, None, topic, json!({}), 200) };
    let quotas = json!({ "quotas": { "max_timeout_secs": 5 } });
    let change = json!({ "principal": "bob", "quotas": { "max_timeout_secs": 5 } });
    let invite = json!({ "group": "agent", "max_uses": 1 });
    let redeem = json!({ "token": "t", "public_key": "k" });
    let install = json!({ "source": "/srv/a.capsule" });
    let (label, pair) = (json!({ "label": "phone" }), json!({ "token": "t", "public_key": "k" }));
    let (asked, signed) = (json!({ "principal": "bob" }), json!({ "principal": "bob", "signature": "s" }));
    let device = json!({ "fingerprint": "ab" });
    let (token, rotate) = (json!({ "token": "alice-token" }), json!({ "now": true }));
    let person = json!({ "name": "bob", "groups": ["ops"] });
    let (bob, bobs) = ("/api/sys/principals/bob", "/api/sys/principals/bob/caps");
    let named = json!({ "principal": "bob" });
    let moved = json!({ "add_groups": ["ops"] });
    let moving = json!({ "principal": "bob", "add_groups": ["ops"] });
    let held = json!({ "capabilities": ["a:b"] });
    let holding = json!({ "principal": "bob", "capabilities": ["a:b"] });
    let group = json!({ "name": "ops", "capabilities": ["a:b"] });
    let ops = json!({ "name": "ops" });
    let described = json!({ "description": null });
    let describing = json!({ "name": "ops", "description": null });
    vec![
        Route {
            target: Some("alice"),
            ..route("POST", "/api/auth/pair-device", Some(label.clone()), "identity.v1.device.pair", label, 200)
        },
        route("POST", "/api/auth/pair-device/redeem", Some(pair.clone()), "identity.v1.device.redeem", pair, 200),
        route("POST", "/api/auth/challenge", Some(asked.clone()), "identity.v1.login.challenge", asked, 200),
        route("POST", "/api/auth/login", Some(signed.clone()), "identity.v1.login", signed, 200),
        about("/api/sys/principals/bob/devices", "identity.v1.device.list"),
        Route {
            target: Some("bob"),
            ..route("DELETE", "/api/sys/principals/bob/devices/ab", None, "identity.v1.device.remove", device, 204)
        },
        route("POST", "/api/auth/refresh", None, "identity.v1.session.refresh", token.clone(), 200),
        route("DELETE", "/api/auth/session", None, "identity.v1.session.end", token, 204),
        route("POST", "/api/sys/sessions/rotate", Some(rotate.clone()), "identity.v1.session.rotate", rotate, 200),
        route("POST", "/api/sys/principals", Some(person.clone()), "identity.v1.principal.create", person, 201),
        about(bob, "identity.v1.principal.show"),
        route("PATCH", bob, Some(moved), "identity.v1.principal.modify", moving, 200),
        route("DELETE", bob, None, "identity.v1.principal.delete", named.clone(), 204),
        route(
            "POST",
            "/api/sys/principals/bob/enable",
            Some(json!({})),
            "identity.v1.principal.enable",
            named.clone(),
            200,
        ),
        route("POST", "/api/sys/principals/bob/disable", None, "identity.v1.principal.disable", named, 200),
        about(bobs, "identity.v1.caps.show"),
        route("POST", bobs, Some(held.clone()), "identity.v1.caps.grant", holding.clone(), 200),
        route("DELETE", bobs, Some(held), "identity.v1.caps.revoke", holding, 204),
        Route {
            payload: json!({ "capability": "a:b" }),
            ..about("/api/sys/principals/bob/caps/check?capability=a%3Ab", "identity.v1.caps.check")
        },
        route("GET", "/api/sys/groups", None, "identity.v1.group.list", json!({}), 200),
        route("POST", "/api/sys/groups", Some(group.clone()), "identity.v1.group.create", group, 201),
        route("GET", "/api/sys/groups/ops", None, "identity.v1.group.show", ops.clone(), 200),
        route("PATCH", "/api/sys/groups/ops", Some(described), "identity.v1.group.modify", describing, 200),
        route("DELETE", "/api/sys/groups/ops", None, "identity.v1.group.delete", ops, 204),
        route("GET", "/api/distribution", None, "system.v1.distribution.show", json!({}), 200),
        route("GET", "/api/distribution/onboarding", None, "system.v1.distribution.onboarding", json!({}), 200),
        route("POST", "/api/auth/redeem", Some(redeem.clone()), "identity.v1.invite.redeem", redeem, 200),
        route("GET", "/api/sys/invites", None, "identity.v1.invite.list", json!({}), 200),
        route("POST", "/api/sys/invites", Some(invite.clone()), "identity.v1.invite.issue", invite, 200),
        route(
            "DELETE",
            "/api/sys/invites/abcdef",
            None,
            "identity.v1.invite.revoke",
            json!({ "fingerprint": "abcdef" }),
            204,
        ),
        route("GET", "/api/sys/principals", None, "identity.v1.principal.list", json!({}), 200),
        about("/api/sys/principals/bob/quotas", "identity.v1.quota.get"),
        about("/api/sys/principals/bob/usage", "system.v1.usage"),
        route("PUT", "/api/sys/principals/bob/quotas", Some(quotas), "identity.v1.quota.set", change, 200),
        route("GET", "/api/sys/status", None, "system.v1.status", json!({}), 200),
        route("GET", "/api/sys/config", None, "system.v1.config", json!({}), 200),
        route("POST", "/api/sys/config/reload", None, "system.v1.config.reload", json!({}), 200),
        route("GET", "/api/sys/load", None, "system.v1.load", json!({}), 200),
        about("/api/sys/principals/bob/certificates", "identity.v1.certificate.list"),
        route("GET", "/api/sys/audit", None, "audit.v1.query", json!({}), 200),
        route("GET", "/api/sys/audit/proofs", None, "audit.v1.proofs", json!({}), 200),
        route("GET", "/api/sys/logs", None, "system.v1.logs", json!({}), 200),
        route("GET", "/api/capsules", None, "system.v1.capsule.list", json!({}), 200),
        route("POST", "/api/capsules", Some(install.clone()), "system.v1.capsule.install", install, 200),
    ]
}

impl Route {
    fn request(&self) -> Request {
        let request = Request::new(self.method, self.path);
        match &self.body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    fn is_public(&self) -> bool {
        let public = [
            "/api/distribution",
            "/api/distribution/onboarding",
            "/api/auth/redeem",
            "/api/auth/pair-device/redeem",
            "/api/auth/challenge",
            "/api/auth/login",
        ];
        public.contains(&self.path)
    }
}

#[test]
fn every_route_is_one_request_of_its_topic_and_passes_the_answer_on() {
    for route in routes() {
        let mut gateway = gateway();
        gateway.on_request(route.topic, answering(json!({ "from": route.topic })));
        let response = as_alice(&mut gateway, route.request());
        let at = format!("{} {}", route.method, route.path);
        assert_eq!(response.status, route.status, "{at}");
        if route.status == 204 {
            assert!(response.body.is_empty(), "{at}");
        } else {
            assert_eq!(response.json(), json!({ "from": route.topic }), "{at}");
            assert_eq!(response.header("content-type"), Some("application/json"), "{at}");
        }
        let [sent] = gateway.requested() else { panic!("{at}: {:?}", gateway.requested()) };
        assert_eq!((sent.topic.as_str(), payload(sent)), (route.topic, route.payload.clone()), "{at}");
        let principal = if route.is_public() { "anonymous" } else { "alice" };
        assert_eq!((sent.principal.as_str(), sent.target.as_deref()), (principal, route.target), "{at}");
    }
}

#[test]
fn every_route_but_redeem_wants_a_session_before_it_sends_anything() {
    let mut others = routes();
    let plain =
        |method, path, body| Route { method, path, body, topic: "", payload: json!({}), target: None, status: 200 };
    others.push(plain("GET", "/api/auth/me", None));
    others.push(plain("GET", "/api/sys/audit/checkpoint", None));
    others.push(plain("GET", "/api/sys/audit/tile/0/000", None));
    others.push(plain("GET", "/api/events", None));
    others.push(plain("POST", "/api/sys/shutdown", None));
    others.push(plain("GET", "/api/capsules/notes/env", None));
    others.push(plain("POST", "/api/capsules/notes/env/KEY", Some(json!({ "value": "x" }))));
    others.push(plain("DELETE", "/api/capsules/notes/env/KEY", None));
    others.push(plain("POST", "/api/bus/request/echo.v1.say", Some(json!(1))));
    others.push(plain("POST", "/api/bus/publish/echo.v1.say", Some(json!(1))));
    for route in others.iter().filter(|route| !route.is_public()) {
        let mut gateway = gateway();
        gateway.on_request("*", answering(json!({})));
        assert_error(&send(&mut gateway, route.request()), 401, "unauthorized");
        assert_error(&send(&mut gateway, route.request().bearer("wrong")), 401, "unauthorized");
        assert!(gateway.requested().is_empty() && gateway.published().is_empty(), "{} {}", route.method, route.path);
    }
}

#[test]
fn a_query_becomes_fields_of_the_request() {
    let mut gateway = gateway();
    gateway.on_request("*", answering(json!({})));
    let target = "/api/sys/logs?capsule=notes&level=warn&after=7&limit=10";
    assert_eq!(as_alice(&mut gateway, Request::get(target)).status, 200);
    let want = json!({ "capsule": "notes", "level": "warn", "after": 7, "limit": 10 });
    assert_eq!(payload(&gateway.requested()[0]), want);
    assert_eq!(as_alice(&mut gateway, Request::get("/api/sys/invites?after=%61b&limit=2")).status, 200);
    assert_eq!(payload(&gateway.requested()[1]), json!({ "after": "ab", "limit": 2 }));
}

#[test]
fn a_query_that_the_route_does_not_take_is_a_400_that_names_it() {
    let mut gateway = gateway();
    gateway.on_request("*", answering(json!({})));
    for (target, word) in [
        ("/api/auth/me?verbose=1", "verbose"),
        ("/api/sys/logs?until=1", "until"),
        ("/api/sys/logs?limit=ten", "limit"),
        ("/api/sys/logs?limit=-1", "limit"),
        ("/api/sys/logs?limit=1&limit=2", "limit"),
        ("/api/sys/logs?level=%ff", "level"),
    ] {
        let response = as_alice(&mut gateway, Request::get(target));
        assert_error(&response, 400, "bad_request");
        assert!(response.json()["reason"].as_str().unwrap().contains(word), "{target}: {}", response.json());
    }
    assert!(gateway.requested().is_empty());
}

#[test]
fn a_path_parameter_is_decoded_once_and_refused_where_it_could_be_read_in_two_ways() {
    let mut gateway = gateway();
    gateway.on_request("identity.v1.invite.revoke", answering(json!({})));
    assert_eq!(as_alice(&mut gateway, Request::delete("/api/sys/invites/%61%2562")).status, 204);
    assert_eq!(payload(&gateway.requested()[0]), json!({ "fingerprint": "a%62" }));
    for bad in ["%", "%zz", "%ff", "%00", "a%2fb"] {
        let response = as_alice(&mut gateway, Request::delete(&format!("/api/sys/invites/{bad}")));
        assert_error(&response, 400, "bad_request");
        assert!(response.json()["reason"].as_str().unwrap().contains("fingerprint"), "{bad}");
    }
    assert_eq!(gateway.requested().len(), 1);
}

#[test]
fn what_is_no_path_is_a_404_in_the_one_shape_with_or_without_a_bearer() {
    let mut gateway = gateway();
    for path in [
        "/api",
        "/api/",
        "/api/nothing",
        "/api/auth/me/",
        "/api//auth/me",
        "/api/AUTH/me",
        "/api/sys/invites/",
        "/api/sys/invites/a/b",
        "/api/bus/request/",
        "/api/bus/request",
    ] {
        for method in ["GET", "POST", "BREW"] {
            assert_error(&send(&mut gateway, Request::new(method, path)), 404, "not_found");
            assert_error(&as_alice(&mut gateway, Request::new(method, path)), 404, "not_found");
        }
    }
}

#[test]
fn a_wrong_method_is_a_405_that_lists_the_right_ones() {
    let mut gateway = gateway();
    for (method, path, allowed) in [
        ("POST", "/api/auth/me", &["GET"][..]),
        ("GET", "/api/auth/redeem", &["POST"]),
        ("PATCH", "/api/sys/invites", &["GET", "POST"]),
        ("GET", "/api/sys/invites/abc", &["DELETE"]),
        ("GET", "/api/bus/request/a.b", &["POST"]),
        ("get", "/api/auth/me", &["GET"]),
        ("BREW", "/api/capsules", &["GET", "POST"]),
    ] {
        let response = send(&mut gateway, Request::new(method, path));
        assert_error(&response, 405, "method_not_allowed");
        let allow: Vec<_> = response.header("allow").unwrap().split(", ").collect();
        assert!(allowed.iter().all(|method| allow.contains(method)), "{method} {path}: {allow:?}");
        assert!(!allow.contains(&method), "{method} {path}: {allow:?}");
    }
}

#[test]
fn head_is_get_and_options_lists_methods_without_a_session() {
    let mut gateway = gateway();
    gateway.on_request("system.v1.status", answering(json!({})));
    assert_eq!(as_alice(&mut gateway, Request::new("HEAD", "/api/sys/status")).status, 200);
    assert_error(&send(&mut gateway, Request::new("HEAD", "/api/sys/status")), 401, "unauthorized");
    let options = send(&mut gateway, Request::new("OPTIONS", "/api/sys/invites"));
    assert_eq!((options.status, options.body.len()), (204, 0));
    let allow = options.header("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
}

#[test]
fn a_path_is_judged_before_a_method_a_method_before_a_credential_and_a_credential_before_a_body() {
    let mut gateway = gateway();
    let bad = |method: &str, path: &str| Request::new(method, path).body("text/plain", "{").bearer("wrong");
    assert_error(&send(&mut gateway, bad("BREW", "/api/nothing")), 404, "not_found");
    assert_error(&send(&mut gateway, bad("BREW", "/api/sys/invites")), 405, "method_not_allowed");
    assert_error(&send(&mut gateway, bad("POST", "/api/sys/invites")), 401, "unauthorized");
    let typed = Request::new("POST", "/api/sys/invites").body("text/plain", "{");
    assert_error(&as_alice(&mut gateway, typed), 415, "unsupported_media_type");
}
