//! From a matched route and a request to what is sent. Pure: everything that can be wrong with a request, beside its
//! credential, is found here.
//!
//! A body goes on unparsed, after it was checked to be one JSON value nested within serde_json's bound (128): what its
//! fields mean is the handler's business.

use astrid_sdk::authority::Credential;
use astrid_sdk::bus::Options;
use astrid_sdk::http::Request;
use serde_json::{Map, Value as Json};

use crate::credential;
use crate::errors::Problem;
use crate::logs;
use crate::prompt::Prompt;
use crate::routes::{Action, Body, Matched, Value};
use crate::sse;
use crate::uri;

/// Who am I.
pub const ME: &str = "identity.v1.me";

#[derive(Debug)]
pub enum Plan {
    /// `success` is the status of an answer.
    Request {
        topic: &'static str,
        payload: Vec<u8>,
        success: u16,
    },
    /// About `principal`, or about the caller.
    About {
        topic: &'static str,
        payload: Vec<u8>,
        success: u16,
        principal: Option<String>,
    },
    Me,
    Nearest {
        topic: &'static str,
        payload: Vec<u8>,
        success: u16,
    },
    Bytes {
        topic: &'static str,
        payload: Vec<u8>,
        content_type: &'static str,
    },
    /// From this index, else from what is recorded next.
    Events {
        from: Option<u64>,
    },
    Logs {
        query: Map<String, Json>,
        from: Option<u64>,
    },
    Document,
    Prompt(Prompt),
    BusRequest {
        topic: String,
        payload: Vec<u8>,
        options: Options,
    },
    BusPublish {
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    },
}

/// Checks parameters, query, content type and body, in this order.
pub fn of(matched: &Matched<'_>, request: &Request) -> Result<Plan, Problem> {
    let mut arguments = arguments(matched, request.query.as_deref())?;
    let body = body(matched.route.body, request)?;
    Ok(match matched.route.action {
        Action::Topic(topic, success) => {
            Plan::Request { topic, payload: body.unwrap_or_else(|| written(arguments)), success }
        }
        Action::Change(topic, success) => Plan::Request { topic, payload: joined(arguments, body)?, success },
        Action::About(topic, success) => Plan::About {
            topic,
            success,
            principal: text(&mut arguments, "principal"),
            payload: joined(arguments, body)?,
        },
        Action::Presented(topic, success) => {
            let Some(Credential::Bearer(token)) = credential::of(request) else {
                return Err(Problem::bad_request(
                    "this route is about the bearer of the request; send it in the authorization header",
                ));
            };
            arguments.insert("token".into(), token.into());
            Plan::Request { topic, payload: joined(arguments, body)?, success }
        }
        Action::Me => Plan::Me,
        Action::Listed(topic) => Plan::Nearest { topic, payload: written(arguments), success: 200 },
        Action::Nearest(topic, success) => Plan::Nearest { topic, payload: joined(arguments, body)?, success },
        Action::Bytes(topic, content_type) => Plan::Bytes { topic, payload: written(arguments), content_type },
        Action::Events => Plan::Events { from: sse::resumed(request)? },
        Action::Logs => match arguments.remove("follow") {
            Some(Json::Bool(true)) => Plan::Logs { query: arguments, from: sse::resumed(request)? },
            _ => Plan::Request { topic: logs::LOGS, payload: written(arguments), success: 200 },
        },
        Action::Document => Plan::Document,
        Action::Prompt => Plan::Prompt(Prompt::read(&body.unwrap_or_default())?),
        Action::BusRequest => Plan::BusRequest {
            topic: text(&mut arguments, "topic").unwrap_or_default(),
            options: Options { target: text(&mut arguments, "target"), timeout_ms: timeout(&arguments)? },
            payload: body.unwrap_or_default(),
        },
        Action::BusPublish => Plan::BusPublish {
            topic: text(&mut arguments, "topic").unwrap_or_default(),
            target: text(&mut arguments, "target"),
            payload: body.unwrap_or_default(),
        },
    })
}

/// The path's parameters and the query, as one object.
fn arguments(matched: &Matched<'_>, query: Option<&str>) -> Result<Map<String, Json>, Problem> {
    let mut arguments = Map::new();
    for (name, raw) in &matched.parameters {
        // Clients that are generated write the `/` of one value as they write every other `/` in a value.
        let plain = matched.route.template.contains("{+").then(|| raw.replace("%2F", "/").replace("%2f", "/"));
        let segments = plain.as_deref().unwrap_or(raw).split('/').map(|segment| uri::parameter(name, segment));
        arguments.insert((*name).into(), segments.collect::<Result<Vec<_>, _>>()?.join("/").into());
    }
    let takes = matched.route.query;
    let known: Vec<_> = takes.iter().map(|(key, _)| *key).collect();
    for (key, value) in uri::query(query, &known)? {
        let kind = takes.iter().find(|(name, _)| *name == key).map_or(Value::Text, |(_, kind)| *kind);
        let value = match kind {
            Value::Text => value.into(),
            Value::Number => whole(key, &value)?.into(),
            Value::Flag => flag(key, &value)?.into(),
        };
        arguments.insert(key.into(), value);
    }
    Ok(arguments)
}

fn flag(key: &str, value: &str) -> Result<bool, Problem> {
    value.parse().map_err(|_| Problem::bad_request(format!("query key {key} must be true or false")))
}

fn whole(key: &str, value: &str) -> Result<u64, Problem> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    value
        .parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| Problem::bad_request(format!("query key {key} must be a whole number of at most 64 bits")))
}

fn text(arguments: &mut Map<String, Json>, key: &str) -> Option<String> {
    match arguments.remove(key) {
        Some(Json::String(text)) => Some(text),
        _ => None,
    }
}

fn timeout(arguments: &Map<String, Json>) -> Result<u32, Problem> {
    let milliseconds = arguments.get("timeout_ms").and_then(Json::as_u64).unwrap_or(0);
    u32::try_from(milliseconds)
        .map_err(|_| Problem::bad_request(format!("query key timeout_ms must be at most {}", u32::MAX)))
}

fn written(arguments: Map<String, Json>) -> Vec<u8> {
    Json::Object(arguments).to_string().into_bytes()
}

/// The arguments, and the fields of the body after them, unparsed: a field that stands twice is the handler's to refuse.
fn joined(arguments: Map<String, Json>, body: Option<Vec<u8>>) -> Result<Vec<u8>, Problem> {
    let mut payload = written(arguments);
    let Some(body) = body else { return Ok(payload) };
    let fields =
        body.trim_ascii().strip_prefix(b"{").ok_or_else(|| Problem::bad_request("the body must be a JSON object"))?;
    payload.pop();
    if fields.trim_ascii() != b"}" && payload.len() > 1 {
        payload.push(b',');
    }
    payload.extend(fields);
    Ok(payload)
}

/// The body, if the route takes one.
fn body(wanted: Body, request: &Request) -> Result<Option<Vec<u8>>, Problem> {
    let given = !request.body.is_empty();
    match wanted {
        Body::Nothing if given => return Err(Problem::bad_request("this route takes no body")),
        Body::Nothing => return Ok(None),
        Body::JsonOrNothing if !given => return Ok(Some(b"{}".to_vec())),
        Body::Json if !given => return Err(Problem::bad_request("the body is empty; this route takes JSON")),
        Body::Json | Body::JsonOrNothing => {}
    }
    if !is_json(request) {
        return Err(Problem::unsupported_media_type("the body must have content-type application/json"));
    }
    if request.header("content-encoding").any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::unsupported_media_type("the body must not have a content-encoding"));
    }
    // A `Json`, because ignoring values would pass over nesting and invalid text as well.
    serde_json::from_slice::<Json>(&request.body)
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
    Ok(Some(request.body.clone()))
}

/// Whether there is exactly one content type and it is JSON's, whatever its parameters.
fn is_json(request: &Request) -> bool {
    let mut values = request.header("content-type");
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let essence = value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
mod tests {
    use astrid_sdk::http::Connection;
    use serde_json::json;

    use super::*;
    use crate::routes::{Found, find};

    fn plan(method: &str, uri: &str, content_types: &[&str], body: &[u8]) -> Result<Plan, Problem> {
        let (path, query) = match uri.split_once('?') {
            Some((path, query)) => (path, Some(query.to_string())),
            None => (uri, None),
        };
        let Found::Route(matched) = find(method, path)? else { panic!("{method} {uri} is no route") };
        let request = Request {
            id: "1".into(),
            method: method.into(),
            path: path.into(),
            query,
            headers: content_types.iter().map(|v| ("content-type".into(), v.as_bytes().to_vec())).collect(),
            body: body.to_vec(),
            connection: Connection { address: None, unix_uid: None, tls: false, certificate: None },
        };
        of(&matched, &request)
    }

    fn refused(method: &str, uri: &str, content_types: &[&str], body: &[u8]) -> (u16, String) {
        let problem = plan(method, uri, content_types, body).unwrap_err();
        (problem.kind.status(), problem.reason.unwrap_or_default())
    }

    const JSON: &[&str] = &["application/json"];

    #[test]
    fn a_parameter_of_many_segments_may_have_its_slashes_encoded() {
        for path in ["entries/x001/234.p/5", "entries%2Fx001%2f234.p/5"] {
            let Plan::Bytes { payload, .. } = plan("GET", &format!("/api/sys/audit/tile/{path}"), &[], b"").unwrap()
            else {
                panic!()
            };
            assert_eq!(payload, br#"{"path":"entries/x001/234.p/5"}"#);
        }
        assert_eq!(refused("GET", "/api/sys/audit/tile/0%2F%2F000", &[], b"").0, 400);
        assert_eq!(refused("DELETE", "/api/sys/invites/a%2Fb", &[], b"").0, 400);
    }

    #[test]
    fn a_body_becomes_the_payload_as_it_is() {
        let body = br#" {"group": "agent", "max_uses":1,"max_uses":2} "#;
        let Plan::Request { topic, payload, success } = plan("POST", "/api/sys/invites", JSON, body).unwrap() else {
            panic!()
        };
        assert_eq!((topic, &payload[..], success), ("identity.v1.invite.issue", &body[..], 200));
    }

    #[test]
    fn without_a_body_parameters_and_query_become_the_payload() {
        for (method, uri, want_topic, want_payload, want_success) in [
            ("DELETE", "/api/sys/invites/a%20b", "identity.v1.invite.revoke", json!({"fingerprint": "a b"}), 204),
            ("GET", "/api/sys/invites", "identity.v1.invite.list", json!({}), 200),
            (
                "GET",
                "/api/sys/invites?limit=2&after=x",
                "identity.v1.invite.list",
                json!({"limit": 2, "after": "x"}),
                200,
            ),
            ("HEAD", "/api/sys/status", "system.v1.status", json!({}), 200),
            (
                "GET",
                "/api/sys/logs?capsule=echo&level=warn&after=7&limit=10",
                "system.v1.logs",
                json!({"capsule": "echo", "level": "warn", "after": 7, "limit": 10}),
                200,
            ),
            ("POST", "/api/sys/shutdown", "system.v1.shutdown", json!({}), 202),
            ("GET", "/api/capsules", "system.v1.capsule.list", json!({}), 200),
        ] {
            let Plan::Request { topic, payload, success } = plan(method, uri, &[], b"").unwrap() else {
                panic!("{uri}")
            };
            let payload: Json = serde_json::from_slice(&payload).unwrap();
            assert_eq!((topic, payload, success), (want_topic, want_payload, want_success), "{uri}");
        }
    }

    #[test]
    fn an_environments_payload_is_the_path_and_the_body_and_its_target_is_in_the_query() {
        let about = |method, uri, body: &[u8]| match plan(method, uri, if body.is_empty() { &[] } else { JSON }, body) {
            Ok(Plan::About { topic, payload, success, principal }) => {
                Ok((topic, String::from_utf8(payload).unwrap(), success, principal))
            }
            Ok(other) => panic!("{other:?}"),
            Err(problem) => Err(problem.kind.status()),
        };
        let own = |topic, payload: &str, success| Ok((topic, payload.to_owned(), success, None));
        let env = "/api/capsules/notes/env";
        let (of_bob, unknown) = (format!("{env}/KEY?principal=bob"), format!("{env}?target=bob"));
        assert_eq!(about("GET", env, b""), own("system.v1.env.get", r#"{"capsule":"notes"}"#, 200));
        let key = "/api/capsules/notes/env/KEY";
        let set = |body: &str, payload: &str| {
            assert_eq!(about("POST", key, body.as_bytes()), own("system.v1.env.set", payload, 204));
        };
        set(r#" {"value" : "a"} "#, r#"{"capsule":"notes","field":"KEY","value" : "a"}"#);
        set("{ }", r#"{"capsule":"notes","field":"KEY" }"#);
        set(r#"{"field":"X","value":1}"#, r#"{"capsule":"notes","field":"KEY","field":"X","value":1}"#);
        assert_eq!(about("DELETE", key, b""), own("system.v1.env.clear", r#"{"capsule":"notes","field":"KEY"}"#, 204));
        let other = about("DELETE", &of_bob, b"").unwrap();
        assert_eq!((other.1.as_str(), other.3.as_deref()), (r#"{"capsule":"notes","field":"KEY"}"#, Some("bob")));
        for body in ["[]", "\"x\"", "1", "null"] {
            assert_eq!(about("POST", key, body.as_bytes()), Err(400), "{body}");
        }
        assert_eq!(about("GET", &unknown, b""), Err(400));
        assert_eq!(about("POST", key, b""), Err(400));
    }

    #[test]
    fn a_route_about_a_principal_has_it_for_its_target_and_a_change_names_it_in_the_payload() {
        for (what, want) in [("quotas", "identity.v1.quota.get"), ("usage", "system.v1.usage")] {
            let uri = format!("/api/sys/principals/ada/{what}");
            let Plan::About { topic, payload, success: 200, principal } = plan("GET", &uri, &[], b"").unwrap() else {
                panic!("{uri}")
            };
            assert_eq!((topic, &payload[..], principal.as_deref()), (want, &b"{}"[..], Some("ada")));
        }
        let put = |body: &[u8]| match plan("PUT", "/api/sys/principals/a%22b/quotas", JSON, body)? {
            Plan::Request { topic: "identity.v1.quota.set", payload, success: 200 } => {
                Ok(String::from_utf8(payload).unwrap())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(put(br#"{"quotas":{"x":1}}"#).unwrap(), r#"{"principal":"a\"b","quotas":{"x":1}}"#);
        let twice = put(br#"{"principal":"other"}"#).unwrap();
        assert_eq!(twice, r#"{"principal":"a\"b","principal":"other"}"#, "which is refused as a duplicate");
        for body in [&b"[]"[..], b"1", b"null"] {
            assert_eq!(put(body).map_err(|problem: Problem| problem.kind.status()), Err(400));
        }
    }

    #[test]
    fn the_bus_routes_take_topic_target_and_timeout_from_the_uri() {
        let uri = "/api/bus/request/echo%2Ev1.say?target=alice&timeout_ms=250";
        let Plan::BusRequest { topic, payload, options } = plan("POST", uri, JSON, b"null").unwrap() else { panic!() };
        assert_eq!((topic.as_str(), &payload[..]), ("echo.v1.say", &b"null"[..]));
        assert_eq!((options.target.as_deref(), options.timeout_ms), (Some("alice"), 250));

        let Plan::BusRequest { options, .. } = plan("POST", "/api/bus/request/a", JSON, b"1").unwrap() else {
            panic!()
        };
        assert_eq!((options.target, options.timeout_ms), (None, 0));

        let uri = "/api/bus/publish/a.b?target=alice";
        let Plan::BusPublish { topic, payload, target } = plan("POST", uri, JSON, b"[]").unwrap() else { panic!() };
        assert_eq!((topic.as_str(), &payload[..], target.as_deref()), ("a.b", &b"[]"[..], Some("alice")));
    }

    #[test]
    fn a_query_that_a_route_does_not_take_is_400() {
        for uri in [
            "/api/auth/me?x=1",
            "/api/sys/status?limit=1",
            "/api/sys/logs?limit=1&limit=2",
            "/api/sys/logs?limit=",
            "/api/sys/logs?limit=%2B1",
            "/api/sys/logs?limit=-1",
            "/api/sys/logs?after=18446744073709551616",
        ] {
            assert_eq!(refused("GET", uri, &[], b"").0, 400, "{uri}");
        }
        for uri in
            ["/api/bus/request/a?timeout_ms=4294967296", "/api/bus/publish/a?timeout_ms=1", "/api/bus/request/a%2Fb"]
        {
            assert_eq!(refused("POST", uri, JSON, b"{}").0, 400, "{uri}");
        }
    }

    #[test]
    fn a_body_must_be_labelled_as_json() {
        let status =
            |types: &[&str]| plan("POST", "/api/capsules", types, b"{}").map_or_else(|p| p.kind.status(), |_| 200);
        for fine in ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json ;x=y"]
        {
            assert_eq!(status(&[fine]), 200, "{fine}");
        }
        for not in ["", "text/plain", "application/jsonx", "application/problem+json", "text/plain; application/json"] {
            assert_eq!(status(&[not]), 415, "{not}");
        }
        assert_eq!(status(&[]), 415);
        assert_eq!(status(&["application/json", "application/json"]), 415);
    }

    #[test]
    fn a_body_that_is_not_json_is_400_with_line_and_column() {
        for body in ["{", "{\"a\":1,\n}", "{}{}", "nul", "\"\\ud800\"", "[1,]"] {
            let (status, reason) = refused("POST", "/api/capsules", JSON, body.as_bytes());
            assert_eq!(status, 400, "{body}");
            assert!(reason.contains("line") && reason.contains("column"), "{body}: {reason}");
        }
        assert_eq!(refused("POST", "/api/capsules", JSON, b"\"\xff\"").0, 400);
        assert_eq!(refused("POST", "/api/capsules", &[], b"").0, 400);
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(plan("POST", "/api/bus/request/a", JSON, deep(100).as_bytes()).is_ok());
        for n in [128, 30_000] {
            let (status, reason) = refused("POST", "/api/bus/request/a", JSON, deep(n).as_bytes());
            assert_eq!(status, 400);
            assert!(reason.contains("recursion limit"), "{reason}");
        }
    }

    #[test]
    fn a_body_where_none_is_taken_is_400() {
        for (method, uri) in [("GET", "/api/auth/me"), ("DELETE", "/api/sys/invites/a")] {
            assert_eq!(refused(method, uri, JSON, b"{}").0, 400, "{uri}");
        }
    }

    #[test]
    fn a_compressed_body_is_415() {
        let Found::Route(matched) = find("POST", "/api/capsules").unwrap() else { panic!() };
        let mut request = Request {
            id: "1".into(),
            method: "POST".into(),
            path: "/api/capsules".into(),
            query: None,
            headers: vec![("content-type".into(), b"application/json".to_vec())],
            body: b"{}".to_vec(),
            connection: Connection { address: None, unix_uid: None, tls: false, certificate: None },
        };
        assert!(of(&matched, &request).is_ok());
        request.headers.push(("content-encoding".into(), b"gzip".to_vec()));
        assert_eq!(of(&matched, &request).unwrap_err().kind.status(), 415);
    }

    #[test]
    fn no_public_route_needs_a_session_to_be_carried_out() {
        use crate::routes::{Auth, ROUTES};
        for route in ROUTES.iter().filter(|r| r.auth != Auth::Bearer) {
            assert!(matches!(route.action, Action::Topic(..) | Action::Document), "{}", route.template);
        }
    }
}
