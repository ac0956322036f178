//! Messages of any topic, for capsules that have no routes of their own.

use serde_json::json;

use super::Answers::Json;
use super::{Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    vec![
        op(
            "POST /api/bus/request/{topic}",
            "requestTopic",
            "bus",
            "Send a request and get the handler's answer",
            json!({ "text": "milk" }),
            Json(json!({ "added": 1 })),
        )
        .notes(
            "Requires `bus:request`, and what the topic's binding requires. The answer is the handler's, byte for byte: \
             `application/octet-stream` if it is no JSON, and without a body if it is empty.",
        )
        .refuses(&[404, 409])
        .own(200, Some("gateway.any"), Some("gateway.any")),
        op(
            "POST /api/bus/publish/{topic}",
            "publishTopic",
            "bus",
            "Publish a message",
            json!({ "text": "milk" }),
            Json(json!({ "delivered": 2 })),
        )
        .notes("Requires `bus:publish`; it reaches those bindings that the caller may reach.")
        .own(202, Some("gateway.any"), Some("gateway.delivered")),
    ]
}
