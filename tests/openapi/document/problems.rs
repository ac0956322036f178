//! Everything that is no success: each status has one name, one description and the one shape.

use serde_json::{Value, json};

use super::reference;

/// Status, name and what it says of everything that is no success.
pub(super) const PROBLEMS: [(u16, &str, &str); 13] = [
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

pub(super) fn response_name(status: u16) -> String {
    let name = PROBLEMS.iter().find(|(known, ..)| *known == status).expect("a status of a problem").1;
    if status == 504 { "deadline".into() } else { name.into() }
}

pub(super) fn problem(status: u16, name: &str, about: &str) -> Value {
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
