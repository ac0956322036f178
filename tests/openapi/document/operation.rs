//! One route as the document has it: what goes in, what comes out, and whom it lets in.

use std::collections::BTreeSet;

use astrid_gateway::logs;
use astrid_gateway::routes::{Action, Auth, Body, Route, Value as Kind};
use serde_json::{Map, Value, json};

use super::problems::response_name;
use super::reference;
use crate::operations::{Answers, Operation};
use crate::types::{Topic, Types, merge};

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

pub(super) fn operation(route: &Route, about: &Operation, types: &Types) -> Value {
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
