//! The document: what the route table, the types of the topics and [`crate::operations`] say, put together.

mod operation;
mod own;
mod problems;

use std::collections::{BTreeMap, BTreeSet};

use astrid_gateway::routes::ROUTES;
use serde_json::{Map, Value, json};

use operation::operation;
use own::{own_paths, own_schemas};
use problems::{PROBLEMS, problem, response_name};

use crate::operations::{Operation, TAGS, operations};
use crate::types::{PLACE, Types};

const ABOUT: &str = "\
What a host of Astrid serves, on TCP and on its Unix socket, made of the gateway's table of routes and the WIT types of the \
topics that they stand for. Names are in snake_case, times in seconds since the Unix epoch unless their names say otherwise.

On the Unix socket a request without `Authorization` is its owner's. `HEAD` is `GET` without the body, and `OPTIONS` on every \
path answers 204 with `Allow`; any other method is a 405 with `Allow`. A key of a query that is not described, or that stands \
twice, is a 400. What is no HTTP at all is answered without a body: 400, or 431 where the head is too large.

Every answer that is no success has the shape of `gateway.problem`. On every answer stand `x-content-type-options`, \
`x-frame-options`, `referrer-policy` and `content-security-policy`, over TLS `strict-transport-security`; no answer may be \
stored.";

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
        let about = described.remove(at.as_str()).unwrap_or_else(|| panic!("no file of operations/ describes {at}"));
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
