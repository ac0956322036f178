//! Sends to the topic that it is told, and answers what came of it: the answer, or the failure by its name.

use astrid_sdk::bus::{Options, RefusalCode};
use astrid_sdk::prelude::*;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    topic: String,
    payload: Value,
    target: Option<String>,
    #[serde(default)]
    timeout_ms: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Answer(Value),
    Delivered(u32),
    Failure { name: &'static str, detail: Option<String> },
}

fn request(message: Message) -> Answer {
    let Send { topic, payload, target, timeout_ms } = message.json()?;
    let options = Options { target, timeout_ms };
    json(&bus::request_with(&topic, &payload, &options).map_or_else(failure, Outcome::Answer))
}

fn publish(message: Message) -> Answer {
    let Send { topic, payload, target, timeout_ms } = message.json()?;
    if timeout_ms != 0 {
        return Err(Refusal::invalid("a publication has no timeout_ms"));
    }
    let payload = serde_json::to_vec(&payload).map_err(|error| Refusal::internal(error.to_string()))?;
    json(&bus::publish_raw(&topic, &payload, target.as_deref()).map_or_else(failure, Outcome::Delivered))
}

/// The names are those of WIT.
fn failure(failure: Failure) -> Outcome {
    let (name, detail) = match failure {
        Failure::NoResponder => ("no-responder", None),
        Failure::Denied(reason) => ("denied", Some(reason)),
        Failure::Timeout => ("timeout", None),
        Failure::Overloaded(milliseconds) => ("overloaded", Some(milliseconds.to_string())),
        Failure::TooLarge(most) => ("too-large", Some(most.to_string())),
        Failure::Invalid(reason) => ("invalid", Some(reason)),
        Failure::Trapped => ("trapped", None),
        Failure::Closed => ("closed", None),
        Failure::Refused(refusal) => {
            let name = match refusal.code {
                RefusalCode::Invalid => "refused-invalid",
                RefusalCode::Denied => "refused-denied",
                RefusalCode::NotFound => "refused-not-found",
                RefusalCode::Conflict => "refused-conflict",
                RefusalCode::Unavailable => "refused-unavailable",
                RefusalCode::Internal => "refused-internal",
            };
            (name, Some(refusal.reason))
        }
    };
    Outcome::Failure { name, detail }
}

handlers! { "request" => request, "publish" => publish }
