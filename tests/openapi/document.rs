//! The document: what the route table, the types of the topics and [`crate::operations`] say, put together.

use std::collections::{BTreeMap, BTreeSet};

use astrid_gateway::logs;
use astrid_gateway::routes::{Action, Auth, Body, ROUTES, Route, Value as Kind};
use serde_json::{Map, Value, json};

use crate::operations::{Answers, Operation, TAGS, operations};
use crate::types::{PLACE, Topic, Types, merge};

const ABOUT: &str = "\
What a host of Astrid serves, on TCP and on its Unix socket, made of the gateway's table of routes and the WIT types of the \
topics that they stand for. Names are in snake_case, times in seconds since the Unix epoch unless their names say otherwise.

On the Unix socket a request without `Authorization` is its owner's. `HEAD` is `GET` without the body, and `OPTIONS` on every \
path answers 204 with `Allow`; any other method is a 405 with `Allow`. A key of a query that is not described, or that stands \
twice, is a 400. What is no HTTP at all is answered without a body: 400, or 431 where the head is too large.

Every answer that is no success has the shape of `gateway.problem`. On every answer stand `x-content-type-options`, \
`x-frame-options`, `referrer-policy` and `content-security-policy`, over TLS `strict-transport-security`; no answer may be \
stored.";

/// Status, name and what it says of everything that is no success.
const PROBLEMS: [(u16, &str, &str); 13] = [
    (400, "bad_request", "A parameter, the query, the body or a field of it does not fit."),
    (401, "unauthorized", "There is no valid credential. It never says why."),
    (403, "forbidden", "The caller lacks a capability, or asks for what is not its to have."),
    (404, "not_found", "What is named does not exist."),
    (408, "timeout", "The body did not arrive in time."),
    (409, "conflict", "It exists already, or stands against what is there."),
    (413, "payload_too_large", "The body, or an answer on the bus, is above its limit."),
    (415, "unsupported_media_type", "The body is not labelled as JSON, or has a content-encoding."),
    (429, "rate_limited", "Too many requests from this address without a session."),
    (500, "internal", "A handler met a state that should not be."),
    (502, "unavailable", "A capsule that the route needs is missing or failed."),
    (503, "overloaded", "There is no room now, or a rate of the principal is used up."),
    (504, "timeout", "The deadline passed."),
];

/// The document, as text: an operation and a schema on a line.
pub(crate) fn text() -> String {
    let document = document();
    let mut text = String::from("{\n");
    let keys = ["openapi", "info", "servers", "security", "tags", "paths", "components"];
    for (n, key) in keys.into_iter().enumerate() {
        let depth = if ["paths", "components"].contains(&key) { 2 } else { 0 };
        text.push_str(if n == 0 { "" } else { ",\n" });
        text.push_str(&format!("{}: ", json!(key)));
        lines(&document[key], depth, &mut text);
    }
    text.push_str("\n}\n");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("it is JSON"), document);
    text
}

/// Objects on lines of their own down to this depth.
fn lines(value: &Value, depth: u32, text: &mut String) {
    let (Value::Object(fields), true) = (value, depth > 0) else {
        text.push_str(&value.to_string());
        return;
    };
    text.push('{');
    for (n, (key, value)) in fields.iter().enumerate() {
        text.push_str(if n == 0 { "\n" } else { ",\n" });
        text.push_str(&format!("{}: ", json!(key)));
        lines(value, depth - 1, text);
    }
    text.push_str("\n}");
}

fn document() -> Value {
    let types = Types::read();
    let mut described: BTreeMap<&str, Operation> = operations().into_iter().map(|one| (one.route, one)).collect();
    let mut paths: Map<String, Value> = own_paths();
    for route in &ROUTES {
        let at = format!("{} {}", route.method, route.template);
        let about = described.remove(at.as_str()).unwrap_or_else(|| panic!("operations.rs does not describe {at}"));
        let path = route.template.replace("{+", "{");
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[route.method.to_ascii_lowercase()] = operation(route, &about, &types);
    }
    assert!(described.is_empty(), "no route: {:?}", described.keys());

    let mut schemas = types.schemas.clone();
    schemas.extend(own_schemas(&types));
    let problems = PROBLEMS.map(|(status, name, about)| (response_name(status), problem(status, name, about)));
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Astrid", "summary": "A host of plugins", "description": ABOUT,
            "version": env!("CARGO_PKG_VERSION"), "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "The host that serves this document." }],
        "security": [{ "bearer": [] }],
        "tags": TAGS.iter().map(|(name, about)| json!({ "name": name, "description": about })).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": {
                "type": "http", "scheme": "bearer",
                "description": "The `session_token` of `redeemInvite`, `logIn` or `refreshSession`.",
            } },
            "headers": {
                "x-request-id": {
                    "description": "The host's id of the request, as it stands in its log.",
                    "required": true, "schema": { "type": "string" }, "example": "01k2xq3",
                },
                "retry-after": {
                    "description": "In so many seconds there may be room.",
                    "required": true, "schema": { "type": "integer", "minimum": 1 }, "example": 1,
                },
                "www-authenticate": {
                    "description": "`Bearer`.",
                    "required": true, "schema": { "type": "string", "const": "Bearer" }, "example": "Bearer",
                },
            },
            "responses": Map::from_iter(problems),
        },
    });
    let reached = reached(&document, &schemas);
    schemas.retain(|name, _| reached.contains(name));
    document["components"]["schemas"] = Map::from_iter(schemas).into();
    document
}

/// The names of the schemas that a document refers to, at whatever depth.
fn reached(document: &Value, schemas: &BTreeMap<String, Value>) -> BTreeSet<String> {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match (name.as_str(), value.as_str()) {
                ("$ref", Some(place)) => found.extend(place.strip_prefix(PLACE).map(str::to_owned)),
                _ => references(value, found),
            }),
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let (mut next, mut reached) = (Vec::new(), BTreeSet::new());
    references(document, &mut next);
    while let Some(name) = next.pop() {
        if reached.insert(name.clone()) {
            references(schemas.get(&name).unwrap_or_else(|| panic!("there is no schema {name}")), &mut next);
        }
    }
    reached
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{PLACE}{name}") })
}

fn response_name(status: u16) -> String {
    let name = PROBLEMS.iter().find(|(known, ..)| *known == status).expect("a status of a problem").1;
    if status == 504 { "deadline".into() } else { name.into() }
}

fn problem(status: u16, name: &str, about: &str) -> Value {
    let mut example = json!({ "error": name, "reason": "one sentence for people" });
    let mut headers = json!({ "x-request-id": { "$ref": "#/components/headers/x-request-id" } });
    match status {
        401 => {
            example = json!({ "error": name });
            headers["www-authenticate"] = json!({ "$ref": "#/components/headers/www-authenticate" });
        }
        429 | 503 => {
            example["retry_after_secs"] = json!(1);
            headers["retry-after"] = json!({ "$ref": "#/components/headers/retry-after" });
        }
        _ => {}
    }
    let content = json!({ "application/json": { "schema": reference("gateway.problem"), "example": example } });
    json!({ "description": about, "headers": headers, "content": content })
}

/// What the gateway itself takes and answers, of no topic's types.
fn own_schemas(types: &Types) -> Vec<(String, Value)> {
    let object = |properties: Value, required: &[&str], about: &str| {
        json!({
            "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            "description": about,
        })
    };
    let mut me = types.schemas["identity.principals.me"].clone();
    me["properties"]["expires_at_epoch"] =
        json!({ "type": "integer", "minimum": 0, "description": "The end of the session." });
    me["required"].as_array_mut().expect("a list").push("expires_at_epoch".into());
    let names: BTreeSet<&str> = PROBLEMS.iter().map(|(_, name, _)| *name).collect();
    let count = || json!({ "type": "integer", "minimum": 0 });
    let health = json!({
        "status": { "type": "string", "enum": ["ok", "degraded", "stopping"] },
        "version": { "type": "string" },
        "uptime_secs": count(),
        "capsules": object(json!({ "live": count(), "failed": { "type": "array", "items": { "type": "string" } } }), &["live", "failed"], "How many are live, and which are not."),
        "pool": object(json!({ "instances": count(), "in_use": count(), "warnings": { "type": "array", "items": { "type": "string" } } }), &["instances", "in_use", "warnings"], "Instances, and what the machine can't give."),
        "audit": object(json!({ "facts": count(), "fault": { "type": ["string", "null"] } }), &["facts", "fault"], "Facts, and why none can be recorded."),
    });
    let problem = json!({
        "error": { "type": "string", "enum": names, "description": "For programs." },
        "reason": { "type": "string", "description": "One sentence for people. A 401 has none." },
        "retry_after_secs": { "type": "integer", "minimum": 1, "description": "With 429 and 503." },
    });
    let session = || json!({ "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9_-]+$" });
    let own = [
        (
            "prompt",
            object(
                json!({
                    "text": { "type": "string", "minLength": 1, "maxLength": 32_768, "pattern": "\\S", "description": "At most 32 KiB." },
                    "session_id": {
                        "anyOf": [session(), { "type": "null" }],
                        "description": "Goes on with this session; a new one unless given.",
                    },
                    "context": { "type": ["object", "null"], "description": "For the agent, as it is." },
                }),
                &["text"],
                "What an agent is asked.",
            ),
        ),
        (
            "prompt-ready",
            object(
                json!({ "session_id": session(), "principal": { "type": "string" } }),
                &["session_id", "principal"],
                "Whose prompt it is.",
            ),
        ),
        (
            "prompt-event",
            json!({
                "type": "object", "properties": { "session_id": session() }, "required": ["session_id"],
                "description": "As the agent says it.",
            }),
        ),
        ("any", json!({ "description": "Any JSON value." })),
        ("document", json!({ "type": "object", "description": "A document of OpenAPI 3.1." })),
        ("me", me),
        ("problem", object(problem, &["error"], "What every answer is that is no success.")),
        (
            "health",
            object(health, &["status", "version", "uptime_secs", "capsules", "pool", "audit"], "How the host is."),
        ),
        (
            "delivered",
            object(
                json!({ "delivered": { "type": "integer", "minimum": 0, "description": "How many bindings and subscriptions took it." } }),
                &["delivered"],
                "What became of a publication.",
            ),
        ),
        (
            "ready",
            object(
                json!({ "principal": { "type": "string" }, "firehose": { "type": "boolean", "description": "Whether everybody's facts come." } }),
                &["principal", "firehose"],
                "Who reads.",
            ),
        ),
        (
            "gap",
            object(
                json!({ "lost": { "type": "integer", "minimum": 1 } }),
                &["lost"],
                "At least so many are missing here.",
            ),
        ),
    ];
    own.into_iter().map(|(name, schema)| (format!("gateway.{name}"), schema)).collect()
}

/// The paths that the host itself answers.
fn own_paths() -> Map<String, Value> {
    let headers = json!({ "x-request-id": { "$ref": "#/components/headers/x-request-id" } });
    let health = |description: &str, status: &str| {
        let example = json!({
            "status": status, "version": env!("CARGO_PKG_VERSION"), "uptime_secs": 3600,
            "capsules": { "live": 4, "failed": [] }, "pool": { "instances": 1000, "in_use": 1, "warnings": [] },
            "audit": { "facts": 42, "fault": null },
        });
        let content = json!({ "application/json": { "schema": reference("gateway.health"), "example": example } });
        json!({ "description": description, "headers": headers, "content": content })
    };
    let metrics = json!({ "text/plain": { "schema": { "type": "string" }, "example": "astrid_up 1\n" } });
    let get = |id: &str, summary: &str, responses: Value| {
        json!({ "get": {
            "operationId": id, "tags": ["host"], "summary": summary, "security": [], "responses": responses,
            "description": "The host's own: it answers while every capsule is broken.",
        } })
    };
    let health = json!({ "200": health("It serves.", "ok"), "503": health("It stops.", "stopping") });
    let metrics =
        json!({ "200": { "description": "Prometheus' text format.", "headers": headers, "content": metrics } });
    Map::from_iter([
        ("/healthz".to_owned(), get("checkHealth", "How the host is", health)),
        ("/metrics".to_owned(), get("readMetrics", "Every series of the host", metrics)),
    ])
}

/// The topic that a route is a request of, and the status of its success.
fn topic_of(action: Action) -> Option<(&'static str, u16)> {
    match action {
        Action::Topic(topic, status)
        | Action::About(topic, status)
        | Action::Change(topic, status)
        | Action::Nearest(topic, status)
        | Action::Presented(topic, status) => Some((topic, status)),
        Action::Listed(topic) | Action::Bytes(topic, _) => Some((topic, 200)),
        Action::Logs => Some((logs::LOGS, 200)),
        _ => None,
    }
}

fn operation(route: &Route, about: &Operation, types: &Types) -> Value {
    let (topic, status) = match (topic_of(route.action), about.own) {
        (Some((topic, status)), None) => (Some(types.topic(topic)), status),
        (None, Some(own)) => (None, own.status),
        _ => panic!("{}: either a topic answers, or the gateway", about.route),
    };
    let mut payload = topic.map_or_else(|| json!({ "properties": {} }), |topic| types.payload(topic));
    let mut takes = about.takes.clone();
    if let Some(topic) = topic {
        let mut whole = takes.clone();
        if matches!(route.action, Action::Presented(..)) {
            // The credential that the request comes with.
            whole["token"] = "a bearer".into();
            take(&mut payload, "token");
        }
        types.check_payload(topic, &whole);
    }
    let mut parameters = Vec::new();
    let segments = route.template.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    for name in segments.map(|name| name.trim_start_matches('+')) {
        parameters.push(parameter(name, "path", &mut payload, &mut takes, None));
    }
    for (name, kind) in route.query {
        parameters.push(parameter(name, "query", &mut payload, &mut takes, Some(*kind)));
    }
    if matches!(route.action, Action::Events | Action::Logs) {
        parameters.push(json!({
            "name": "last-event-id", "in": "header", "description": "The id of the last event that was read: goes on behind it.",
            "schema": { "type": "string", "pattern": "^[0-9]{1,19}$" }, "example": "41",
        }));
    }
    let mut operation = json!({
        "operationId": about.id, "tags": [about.tag], "summary": about.summary,
        "description": description(route, about, topic), "responses": responses(route, about, topic, status, types),
    });
    if route.auth != Auth::Bearer {
        operation["security"] = json!([]);
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if route.body == Body::Nothing {
        assert_eq!(takes.as_object().map(Map::len), Some(0), "{}: not all of its example goes in", about.route);
    } else {
        let own = about.own.map(|own| reference(own.body.expect("a route with a body describes it")));
        let whole = topic.filter(|topic| types.payload(topic) == payload).and_then(|topic| types.payload_place(topic));
        let schema = own.or(whole.map(|name| reference(&name))).unwrap_or(payload);
        operation["requestBody"] = json!({
            "required": route.body == Body::Json,
            "content": { "application/json": { "schema": schema, "example": takes } },
        });
    }
    operation
}

/// Takes a field out of an object's schema; a value of it is never null.
fn take(schema: &mut Value, name: &str) -> Option<(Value, bool)> {
    let mut field = schema["properties"].as_object_mut()?.remove(name)?;
    let required = schema["required"].as_array_mut().is_some_and(|required| {
        let before = required.len();
        required.retain(|one| one != name);
        required.len() < before
    });
    if let Some(mut some) = field.get_mut("anyOf").and_then(Value::as_array_mut).map(|either| either[0].take()) {
        if field["description"].is_string() {
            some["description"] = field["description"].take();
        }
        field = some;
    }
    Some((field, required))
}

/// A parameter of the path or the query: a field of the payload, else what the gateway itself makes of it.
fn parameter(name: &str, place: &str, payload: &mut Value, takes: &mut Value, kind: Option<Kind>) -> Value {
    let example = takes.as_object_mut().and_then(|takes| takes.remove(name));
    let (own_schema, about, own_example) = own_parameter(name);
    let (mut schema, required) = take(payload, name).unwrap_or((own_schema.clone(), false));
    let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    // In a path it names what the route is about, whatever it is to the topic.
    let description = description.filter(|_| place != "path" || about.is_empty()).unwrap_or_else(|| about.into());
    let text = schema["type"] == "string" || schema["$ref"].is_string();
    let fits = match kind {
        None | Some(Kind::Text) => text,
        Some(Kind::Number) => schema["type"] == "integer",
        Some(Kind::Flag) => schema["type"] == "boolean",
    };
    assert!(fits, "{name} in the {place} is of another kind than its type: {schema}");
    if place == "path" && schema["$ref"].is_null() && schema["pattern"].is_null() {
        merge(&mut schema, &own_schema);
    }
    assert_ne!(description, "", "nothing says what {name} is");
    let mut parameter = json!({ "name": name, "in": place, "description": description, "schema": schema });
    if let Some(example) = example.or(own_example) {
        parameter["example"] = example;
    }
    if place == "path" || required {
        parameter["required"] = true.into();
    }
    parameter
}

/// What the gateway itself makes of a parameter: the schema that its grammar gives it, what it is, and an example.
fn own_parameter(name: &str) -> (Value, &'static str, Option<Value>) {
    let pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let id = || pattern("^[A-Za-z0-9_-]{1,64}$");
    match name {
        "principal" => (id(), "Whom it is about.", Some(json!("ada"))),
        "name" => (id(), "The name of a group.", None),
        "target" => (id(), "The principal that it is about.", Some(json!("ada"))),
        "topic" => (
            json!({ "type": "string", "maxLength": 256, "pattern": "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+){0,15}$" }),
            "A topic.",
            Some(json!("notes.v1.add")),
        ),
        "timeout_ms" => (
            json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            "How long the handler has, in milliseconds; never more than what is left of the gateway's own time. 0: as much as that.",
            Some(json!(5000)),
        ),
        "capsule" => {
            (json!({ "type": "string", "pattern": "^[a-z][a-z0-9-]*$", "maxLength": 64 }), "The id of a capsule.", None)
        }
        "process" => (pattern("^[0-9a-f]{16}$"), "The id of a process.", None),
        "field" => (json!({ "type": "string" }), "A field of its environment.", None),
        "follow" => (
            json!({ "type": "boolean" }),
            "Goes on with lines as they are written, as server-sent events `line`, `gap` and `error`.",
            Some(json!(false)),
        ),
        "fingerprint" => (pattern("^[0-9A-Fa-f]{32}$"), "The name of a key or a token.", None),
        "id" => (pattern("^[0-9a-f]{32}$"), "The id of a request or an approval.", None),
        _ => (json!({ "type": "string" }), "", None),
    }
}

fn description(route: &Route, about: &Operation, topic: Option<&Topic>) -> String {
    let required = topic.map(|topic| topic.requires.join("` and `")).unwrap_or_default();
    let right = match (route.auth, required.as_str()) {
        (Auth::Public | Auth::Attempt, _) => "For everybody, as often as an address may without a session.".into(),
        (Auth::Bearer, "") if about.notes.contains("Requires `") => String::new(),
        (Auth::Bearer, "") => "For everybody with a session.".into(),
        (Auth::Bearer, required) => match route.action {
            Action::About(..) | Action::Listed(_) | Action::Nearest(..) => {
                format!("Requires `{required}`; about oneself `self:{required}` is enough.")
            }
            _ => format!("Requires `{required}`."),
        },
    };
    format!("{} {right}", about.notes).trim().to_owned()
}

fn responses(route: &Route, about: &Operation, topic: Option<&Topic>, status: u16, types: &Types) -> Value {
    let mut statuses = BTreeSet::from([400, 413, 502, 503, 504]);
    if !matches!(route.action, Action::Document) {
        statuses.extend([403, 500]);
    }
    match route.auth {
        Auth::Public => drop(statuses.insert(429)),
        Auth::Attempt => statuses.extend([401, 429]),
        Auth::Bearer => drop(statuses.insert(401)),
    }
    if route.body != Body::Nothing {
        statuses.extend([408, 415]);
    }
    statuses.extend(about.refuses);
    let refused = |status: u16| {
        let reference = json!({ "$ref": format!("#/components/responses/{}", response_name(status)) });
        (status.to_string(), reference)
    };
    let mut responses: Map<String, Value> = statuses.into_iter().map(refused).collect();
    responses.insert(status.to_string(), success(about, topic, status, types));
    responses.into()
}

fn success(about: &Operation, topic: Option<&Topic>, status: u16, types: &Types) -> Value {
    let mut response = json!({
        "description": match status {
            201 => "It is made.",
            202 => "It is on its way.",
            204 => "It is done.",
            _ => about.summary,
        },
        "headers": { "x-request-id": { "$ref": "#/components/headers/x-request-id" } },
    });
    let content = match &about.answers {
        Answers::Nothing => {
            assert_eq!(status, 204, "{}: nothing comes with 204 alone", about.route);
            return response;
        }
        Answers::Json(example) => {
            let schema = match (topic, about.own.and_then(|own| own.answer)) {
                (Some(topic), _) => {
                    types.check_answer(topic, example);
                    types.answer(topic).map_or_else(
                        || json!({ "type": "object", "properties": {}, "additionalProperties": false }),
                        |name| reference(&name),
                    )
                }
                (None, Some(name)) => reference(name),
                (None, None) => panic!("{}: nothing says what it answers", about.route),
            };
            let mut content = json!({ "application/json": { "schema": schema, "example": example } });
            if about.route == "GET /api/sys/logs" {
                content["text/event-stream"] =
                    json!({ "schema": { "type": "string" }, "example": "event: line\ndata: {}\n\n" });
            }
            if about.own.is_some_and(|own| own.answer == Some("gateway.any")) {
                content["application/octet-stream"] = json!({ "schema": { "type": "string", "format": "binary" } });
            }
            content
        }
        Answers::Text(example) => {
            json!({ "text/plain": { "schema": { "type": "string" }, "example": example } })
        }
        Answers::Bytes => json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } }),
        Answers::Events(events) => {
            let rows = events.iter().map(|(name, schema, says)| format!("\n- `{name}` ({schema}): {says}"));
            response["description"] =
                format!("Server-sent events, each with JSON for its data:{}", rows.collect::<String>()).into();
            let schemas = events.iter().map(|(name, schema, _)| ((*name).to_owned(), reference(schema)));
            response["x-events"] = schemas.collect::<Map<_, _>>().into();
            json!({ "text/event-stream": { "schema": { "type": "string" }, "example": "event: ready\ndata: {}\n\n" } })
        }
    };
    response["content"] = content;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::Own;

    #[test]
    fn a_stream_that_a_body_begins_is_described_by_its_row_alone() {
        let route = Route {
            method: "POST",
            template: "/api/agent/{name}",
            auth: Auth::Bearer,
            query: &[],
            body: Body::Json,
            action: Action::Events,
        };
        let about = Operation {
            route: "POST /api/agent/{name}",
            id: "prompt",
            tag: "bus",
            summary: "Ask an agent",
            notes: "Requires `agent:prompt`.",
            refuses: &[404],
            takes: json!({ "name": "notes", "text": "hello" }),
            answers: Answers::Events(&[
                ("gap", "gateway.gap", "What is missing."),
                ("delta", "gateway.any", "A piece."),
            ]),
            own: Some(Own { status: 200, body: Some("gateway.any"), answer: None }),
        };
        let made = operation(&route, &about, &Types::read());
        let body = &made["requestBody"];
        assert_eq!(body["required"], true);
        let json = &body["content"]["application/json"];
        assert_eq!((&json["schema"], &json["example"]), (&reference("gateway.any"), &json!({ "text": "hello" })));
        let stream = &made["responses"]["200"];
        assert!(stream["content"]["text/event-stream"].is_object(), "{stream}");
        assert_eq!(stream["x-events"], json!({ "delta": reference("gateway.any"), "gap": reference("gateway.gap") }));
        let statuses: Vec<&str> = made["responses"].as_object().unwrap().keys().map(String::as_str).collect();
        let want = ["200", "400", "401", "403", "404", "408", "413", "415", "500", "502", "503", "504"];
        assert_eq!(statuses, want);
        assert_eq!(made["parameters"][0]["example"], "notes");
        assert_eq!(made["description"], "Requires `agent:prompt`.");
    }
}
