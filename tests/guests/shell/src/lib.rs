//! Runs programs of the system and tells what they say: what any script can do in its sandbox, its caller can.

use astrid_sdk::prelude::*;
use astrid_sdk::process::{self, Options, Outcome};

/// The most that it tells, in bytes.
const MOST: usize = 256 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    program: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<(String, String)>,
    #[serde(default)]
    input: String,
    timeout_ms: u32,
}

#[derive(Serialize)]
struct Ran {
    id: String,
    output: String,
    errors: String,
    outcome: String,
}

fn run(message: Message) -> Answer {
    let Run { program, args, env, input, timeout_ms } = message.object()?;
    let child = process::start(&program, &Options { args, env, timeout_ms })?;
    let finished = child.finish(input.as_bytes(), MOST)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let outcome = match finished.outcome {
        Outcome::Exited(code) => format!("exited {code}"),
        Outcome::Killed(signal) => format!("killed {signal}"),
        Outcome::TimedOut => "timed out".to_owned(),
        Outcome::Stopped => "stopped".to_owned(),
    };
    json(&Ran { id: child.id(), output: text(finished.output), errors: text(finished.errors), outcome })
}

/// Starts it and lets go of it at once.
fn forget(message: Message) -> Answer {
    let Run { program, args, env, timeout_ms, .. } = message.object()?;
    let child = process::start(&program, &Options { args, env, timeout_ms })?;
    json(&child.id())
}

handlers! {
    "run" => run,
    "forget" => forget,
}
