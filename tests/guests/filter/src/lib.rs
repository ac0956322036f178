//! Intercepts, and does with a message what its payload says, or leaves a mark on it so that an order shows.

use std::hint::black_box;

use astrid_sdk::bus::Options;
use astrid_sdk::prelude::*;
use serde_json::{Value, json};

/// Does what the payload says; whatever says nothing passes.
fn judge(message: Message) -> Verdict {
    match message.json::<String>().as_deref() {
        Ok("replace") => replace(&json!(format!("replaced for {}", message.principal))),
        Ok("oversize") => Verdict::Replace(vec![b'0'; (1 << 20) + 1]),
        Ok("deny") => Verdict::denied("the filter says no"),
        Ok("trap") => panic!("asked to by {}", message.principal),
        Ok("loop") => spin(),
        _ => Verdict::Pass,
    }
}

fn first(message: Message) -> Verdict {
    mark(message, "first")
}

fn second(message: Message) -> Verdict {
    mark(message, "second")
}

/// Adds a mark to a payload that is a list.
fn mark(message: Message, mark: &str) -> Verdict {
    match message.json::<Vec<Value>>() {
        Ok(mut list) => {
            list.push(mark.into());
            replace(&Value::from(list))
        }
        Err(refusal) => refusal.into(),
    }
}

/// Sends the payload to the same topic, and replaces it with the answer.
fn ask(message: Message) -> Verdict {
    match bus::request_raw(&message.topic, &message.payload, &Options::default()) {
        Ok(answer) => Verdict::Replace(answer),
        Err(Failure::Denied(reason)) => Verdict::denied(reason),
        Err(failure) => Refusal::from(failure).into(),
    }
}

fn replace(payload: &Value) -> Verdict {
    Verdict::Replace(payload.to_string().into_bytes())
}

fn spin() -> ! {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

interceptor! { "judge" => judge, "first" => first, "second" => second, "ask" => ask }
