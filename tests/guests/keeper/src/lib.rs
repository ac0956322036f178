//! A run loop that keeps a program running for whoever asks, for as long as it runs itself.

use astrid_sdk::bindings::imports::astrid::bus::bus::{Event, Subscription};
use astrid_sdk::prelude::*;
use astrid_sdk::process::{self, Options};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keep {
    script: String,
}

fn run() -> Result<(), String> {
    let wanted = Subscription::open(&["keeper.v1.wanted".to_owned()]).map_err(|failure| failure.to_string())?;
    let nobodys = process::start("/bin/sh", &Options { args: vec![], env: vec![], timeout_ms: 1000 });
    if nobodys.is_ok() {
        return Err("a program was started for nobody".to_owned());
    }
    run::ready();
    let mut kept = Vec::new();
    loop {
        match wanted.next(60_000) {
            Ok(Some(Event::Message(received))) => {
                let Ok(Keep { script }) = received.message.json() else { continue };
                let args = vec!["-c".to_owned(), script];
                let env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
                match process::start_for(&received.caller, "/bin/sh", &Options { args, env, timeout_ms: 600_000 }) {
                    Ok(child) => kept.push(child),
                    Err(error) => log::warn!("not kept: {error:?}"),
                }
            }
            Ok(_) => {}
            Err(Failure::Closed) => return Ok(()),
            Err(failure) => return Err(failure.to_string()),
        }
    }
}

/// Publishes what it is given, so that whoever may ask may have it kept.
fn keep(message: Message) -> Answer {
    json(&bus::publish_raw("keeper.v1.wanted", &message.payload, None)?)
}

handlers! {
    "keep" => keep,
}

run_loop!(run);
