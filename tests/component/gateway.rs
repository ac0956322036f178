//! The HTTP surface: every route with fakes at the other end, every failure, and the shape of everything.

use astrid_sdk_test::{
    Capsule, Event, Failure, Identified, Message, OWNER_UID, Presented, Refusal, RefusalCode, Rejection, Request,
    Response,
};
use serde_json::{Value, json};

/// When every session of these tests ends.
const EXPIRES: u64 = 1_800_000_000;

/// The fingerprint of a certificate that stands for `alice`.
const ALICES: &str = "abababababababababababababababababababababababababababababababab";

/// A gateway that knows the bearer `alice-token`, her certificate and the user that runs the host, and counts no attempts.
fn gateway() -> Capsule {
    let mut gateway = crate::capsule("gateway");
    gateway.set_distribution_env("PUBLIC_INTERVAL_MS", "0");
    gateway.on_authenticate(|presented| match presented {
        Presented::Bearer(token) => match token.as_str() {
            "alice-token" => Ok(Identified::new("alice", EXPIRES)),
            "nobody-to-ask" => Err(Rejection::Unavailable),
            "too-many-asking" => Err(Rejection::Overloaded),
            _ => Err(Rejection::Rejected),
        },
        Presented::Unix(peer) if peer.owner => Ok(Identified::new("default", EXPIRES)),
        Presented::Certificate(shown) if shown.fingerprint == ALICES => Ok(Identified::new("alice", EXPIRES)),
        Presented::Unix(_) | Presented::Certificate(_) => Err(Rejection::Rejected),
    });
    gateway
}

fn send(gateway: &mut Capsule, request: Request) -> Response {
    let shown = format!("{} {}", request.method, request.path);
    gateway.http(request).unwrap_or_else(|error| panic!("{shown}: {error}"))
}

fn as_alice(gateway: &mut Capsule, request: Request) -> Response {
    send(gateway, request.bearer("alice-token"))
}

fn answering(value: Value) -> impl FnMut(&Message) -> Result<Vec<u8>, Failure> + Send + 'static {
    move |_| Ok(value.to_string().into_bytes())
}

fn failing(failure: Failure) -> impl FnMut(&Message) -> Result<Vec<u8>, Failure> + Send + 'static {
    move |_| Err(failure.clone())
}

fn refused(code: RefusalCode) -> Failure {
    Failure::Refused(Refusal { code, reason: "because".into() })
}

fn payload(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

/// The status and the one error shape.
#[track_caller]
fn assert_error(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status, status, "{:?}", String::from_utf8_lossy(&response.body));
    assert_eq!(response.header("content-type"), Some("application/json"));
    let body = response.json();
    assert_eq!(body["error"], error, "{body}");
    let known = ["error", "reason", "retry_after_secs"];
    assert!(body.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{body}");
}

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
fn me_is_identitys_answer_with_the_end_of_the_session() {
    let mut gateway = gateway();
    let who = json!({ "principal": "alice", "groups": ["agent"], "capabilities": ["self:*"] });
    gateway.on_request("identity.v1.me", answering(who));
    let response = as_alice(&mut gateway, Request::get("/api/auth/me"));
    let want = json!({
        "principal": "alice", "groups": ["agent"], "capabilities": ["self:*"], "expires_at_epoch": EXPIRES,
    });
    assert_eq!((response.status, response.json()), (200, want));
}

#[test]
fn who_may_only_see_themselves_gets_their_own_row() {
    let mut gateway = gateway();
    gateway.on_request("identity.v1.principal.list", |message| match &message.target {
        None => Err(Failure::Denied("requires agent:list".into())),
        Some(target) => Ok(json!({ "principals": [{ "principal": target }] }).to_string().into_bytes()),
    });
    let response = as_alice(&mut gateway, Request::get("/api/sys/principals?limit=5"));
    assert_eq!(response.json(), json!({ "principals": [{ "principal": "alice" }] }));
    let sent: Vec<_> = gateway.requested().iter().map(|m| (m.target.as_deref(), payload(m))).collect();
    assert_eq!(sent, [(None, json!({ "limit": 5 })), (Some("alice"), json!({ "limit": 5 }))]);
}

#[test]
fn who_may_not_even_see_themselves_is_forbidden_and_nothing_else_is_tried_again() {
    for (failure, status, error, times) in [
        (Failure::Denied("requires agent:list".into()), 403, "forbidden", 2),
        (Failure::Timeout, 504, "timeout", 1),
        (refused(RefusalCode::Denied), 403, "forbidden", 1),
    ] {
        let mut gateway = gateway();
        gateway.on_request("identity.v1.principal.list", failing(failure));
        assert_error(&as_alice(&mut gateway, Request::get("/api/sys/principals")), status, error);
        assert_eq!(gateway.requested().len(), times);
    }
}

#[test]
fn an_environment_is_about_the_caller_unless_the_query_names_somebody() {
    let request = |method: &str, query: &str| match method {
        "GET" => Request::get(&format!("/api/capsules/notes/env{query}")),
        "POST" => Request::post(&format!("/api/capsules/notes/env/KEY{query}"), json!({ "value": "v" })),
        _ => Request::new(method, &format!("/api/capsules/notes/env/KEY{query}")),
    };
    let key = json!({ "capsule": "notes", "field": "KEY" });
    let value = json!({ "capsule": "notes", "field": "KEY", "value": "v" });
    let routes = [
        ("GET", "system.v1.env.get", json!({ "capsule": "notes" }), 200),
        ("POST", "system.v1.env.set", value, 204),
        ("DELETE", "system.v1.env.clear", key, 204),
    ];
    for (method, topic, want, status) in routes {
        for (query, target) in [("", "alice"), ("?principal=bob", "bob")] {
            let mut gateway = gateway();
            gateway.on_request(topic, answering(json!({ "fields": {} })));
            let response = as_alice(&mut gateway, request(method, query));
            assert_eq!((response.status, response.body.is_empty()), (status, status == 204), "{topic}");
            let [sent] = gateway.requested() else { panic!("{topic}: {:?}", gateway.requested()) };
            assert_eq!((sent.topic.as_str(), payload(sent)), (topic, want.clone()));
            assert_eq!((sent.principal.as_str(), sent.target.as_deref()), ("alice", Some(target)));

            gateway.on_request(topic, failing(Failure::Denied("requires env".into())));
            assert_error(&as_alice(&mut gateway, request(method, query)), 403, "forbidden");
            gateway.on_request(topic, failing(refused(RefusalCode::NotFound)));
            assert_error(&as_alice(&mut gateway, request(method, query)), 404, "not_found");
            gateway.on_request(topic, failing(refused(RefusalCode::Invalid)));
            assert_error(&as_alice(&mut gateway, request(method, query)), 400, "bad_request");
        }
    }
    let mut gateway = gateway();
    assert_error(
        &as_alice(&mut gateway, Request::post("/api/capsules/notes/env/KEY", json!(["v"]))),
        400,
        "bad_request",
    );
    assert!(gateway.requested().is_empty());
}

#[test]
fn shutdown_is_accepted_with_and_without_a_body() {
    for request in [Request::new("POST", "/api/sys/shutdown"), Request::post("/api/sys/shutdown", json!({}))] {
        let mut gateway = gateway();
        gateway.on_request("system.v1.shutdown", answering(json!({})));
        assert_eq!(as_alice(&mut gateway, request).status, 202);
        assert_eq!(payload(&gateway.requested()[0]), json!({}));
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

#[test]
fn a_tile_and_a_checkpoint_pass_as_they_are() {
    let mut gateway = gateway();
    gateway.on_request("audit.v1.checkpoint", |_| Ok(b"origin\n7\n".to_vec()));
    gateway.on_request_stream("audit.v1.tile", |_| (vec![vec![0, 255], vec![1]], Ok(vec![])));
    let note = as_alice(&mut gateway, Request::get("/api/sys/audit/checkpoint"));
    assert_eq!((note.status, &note.body[..]), (200, &b"origin\n7\n"[..]));
    assert_eq!(note.header("content-type"), Some("text/plain; charset=utf-8"));
    let tile = as_alice(&mut gateway, Request::get("/api/sys/audit/tile/entries/x001/234.p/5"));
    assert_eq!((tile.status, &tile.body[..]), (200, &[0, 255, 1][..]));
    assert_eq!(tile.header("content-type"), Some("application/octet-stream"));
    assert_eq!(payload(gateway.requested().last().unwrap()), json!({ "path": "entries/x001/234.p/5" }));
    assert_error(&as_alice(&mut gateway, Request::get("/api/sys/audit/tile/0%2F%2F0")), 400, "bad_request");
}

#[test]
fn events_begin_with_what_was_missed_and_go_on_with_what_is_told() {
    let mut gateway = gateway();
    gateway.grant("alice", "audit:read_all");
    let entries = json!([{ "index": 42, "line": "a" }, { "index": 44, "line": "b" }]);
    gateway.on_request("audit.v1.query", answering(json!({ "entries": entries, "next_from": 45, "size": 50 })));
    let request = Request::get("/api/events").header("last-event-id", "41");
    let response = as_alice(&mut gateway, request);
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")));
    let body = String::from_utf8(response.body.clone()).unwrap();
    let events: Vec<&str> = body.split_terminator("\n\n").collect();
    assert_eq!(events[0], "event: ready\ndata: {\"firehose\":true,\"principal\":\"alice\"}");
    assert!(events[1].starts_with("id: 42\nevent: audit\ndata: ") && events[2].starts_with("id: 44\n"), "{body}");
    assert_eq!(events[3..], ["event: gap\ndata: {\"lost\":5}"], "what is too much is told");
    assert_eq!(payload(&gateway.requested()[0]), json!({ "from": 42, "limit": 1000 }));
    let [follow] = gateway.published() else { panic!("{:?}", gateway.published()) };
    assert_eq!((follow.topic.as_str(), follow.principal.as_str()), ("audit.v1.follow", "alice"));
    assert_eq!(payload(follow), json!({ "from": 50 }));

    let told = json!({ "entries": [{ "index": 49 }, { "index": 50 }], "lost": 0, "renew_from": 51 });
    let told = Event::message("alice", "audit.v1.fact", told.to_string());
    let relayed = gateway.as_principal("alice").relay(br#"{"from":50}"#, &[told, Event::Idle]).unwrap();
    assert_eq!(String::from_utf8(relayed.body).unwrap(), "id: 50\nevent: audit\ndata: {\"index\":50}\n\n: here\n\n");
    let renewed: Vec<Value> = gateway.published().iter().skip(1).map(payload).collect();
    assert_eq!(renewed, [json!({ "from": 51 }), json!({})]);
    assert_error(&as_alice(&mut gateway, Request::get("/api/events").header("last-event-id", "x")), 400, "bad_request");
}

#[test]
fn a_prompt_is_published_for_whoever_asks_and_its_stream_is_told_what_comes_of_its_session() {
    let mut gateway = gateway();
    let body = || json!({ "text": "hello", "session_id": "s-1", "context": { "page": 1 } });
    let ask = || Request::post("/api/agent/prompt", body());
    assert_error(&as_alice(&mut gateway, ask()), 403, "forbidden");
    gateway.grant("alice", "self:agent:prompt");
    gateway.set_delivered(0);
    let nobody = as_alice(&mut gateway, ask());
    assert_error(&nobody, 503, "overloaded");
    assert_eq!(nobody.header("retry-after"), Some("1"));

    gateway.set_delivered(1);
    let response = as_alice(&mut gateway, ask());
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(response.route.as_deref(), Some("/api/agent/prompt"));
    let body = String::from_utf8(response.body.clone()).unwrap();
    assert_eq!(body, "event: ready\ndata: {\"principal\":\"alice\",\"session_id\":\"s-1\"}\n\n");
    let sent = gateway.published().last().unwrap();
    assert_eq!((sent.topic.as_str(), sent.principal.as_str(), &sent.target), ("user.v1.prompt", "alice", &None));
    let prompt = json!({ "session_id": "s-1", "principal": "alice", "text": "hello", "context": { "page": 1 } });
    assert_eq!(payload(sent), prompt);
    let published = gateway.published().len();

    let unnamed = || Request::post("/api/agent/prompt", json!({ "text": "hello" }));
    let names = [as_alice(&mut gateway, unnamed()), as_alice(&mut gateway, unnamed())].map(|answer| answer.body);
    assert_ne!(names[0], names[1], "nobody guesses the name of a session that nobody named");
    assert_eq!(gateway.published().len(), published + 2);

    let context = json!({ "session_id": "s-1", "request": "r", "heard_at": u64::MAX, "idle_secs": 60 }).to_string();
    let said = |session: &str| {
        let delta = json!({ "session_id": session, "text": "a\nb" });
        Event::message("alice", "agent.v1.stream.delta", delta.to_string())
    };
    let events = [said("s-2"), said("s-1"), Event::Idle];
    let relayed = gateway.as_principal("alice").relay(context.as_bytes(), &events).unwrap();
    let delta = "event: delta\ndata: {\"session_id\":\"s-1\",\"text\":\"a\\nb\"}\n\n: here\n\n";
    assert_eq!((String::from_utf8(relayed.body).unwrap(), relayed.last), (delta.to_owned(), false));
    let context = relayed.context.expect("when it was heard of last");
    let end = Event::message("alice", "agent.v1.response", json!({ "session_id": "s-1" }).to_string());
    assert!(gateway.as_principal("alice").relay(&context, &[end]).unwrap().last);
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
