//! Computes what capsules compute, for benches: JSON, which branches at every byte, and a hash, which hardly does.
//!
//! The `-held` handlers do their work and then sleep within the host until their call ends: instances to be counted.

use std::time::Duration;

use astrid_sdk::prelude::*;
use serde_json::Value;

/// How often `hash` takes its payload: 64 KiB become 1 MiB without the cost of handing it over.
const TIMES: usize = 16;
/// Longer than any call.
const HELD: Duration = Duration::from_secs(3600);

/// Parses the payload and writes it again.
fn rewrite(message: Message) -> Answer {
    json(&message.json::<Value>()?)
}

fn hash(message: Message) -> Answer {
    let mut hasher = blake3::Hasher::new();
    for _ in 0..TIMES {
        hasher.update(&message.payload);
    }
    Ok(hasher.finalize().as_bytes().to_vec())
}

fn echo(message: Message) -> Answer {
    Ok(message.payload)
}

fn echo_held(message: Message) -> Answer {
    let answer = echo(message);
    std::thread::sleep(HELD);
    answer
}

fn rewrite_held(message: Message) -> Answer {
    let answer = rewrite(message);
    std::thread::sleep(HELD);
    answer
}

handlers! {
    "echo" => echo,
    "json" => rewrite,
    "hash" => hash,
    "echo-held" => echo_held,
    "json-held" => rewrite_held,
}
