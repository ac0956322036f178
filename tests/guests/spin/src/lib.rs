//! Never ends: computes for ever, or calls the host for ever, cheaply or dearly. Only a deadline or fuel stops it; but
//! for `ask`, which ends after as many calls as it is told, `fill`, which ends when it is refused, and `heard`, which
//! hears what the others publish.

use std::hint::black_box;

use astrid_sdk::bus::Options;
use astrid_sdk::prelude::*;

fn compute(_: Message) -> Answer {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

fn call(_: Message) -> Answer {
    let bucket = Bucket::open("spin", Scope::Capsule)?;
    loop {
        bucket.get("nothing")?;
    }
}

/// As `call`, as often as the payload says; then it answers.
fn ask(message: Message) -> Answer {
    let bucket = Bucket::open("spin", Scope::Capsule)?;
    for _ in 0..message.json::<u32>()? {
        bucket.get("nothing")?;
    }
    json(&"asked")
}

/// Each call keeps the host busy for a while and costs next to no fuel.
fn random(_: Message) -> Answer {
    let mut bytes = vec![0; 1 << 20];
    loop {
        getrandom::fill(&mut bytes).map_err(|error| Refusal::internal(error.to_string()))?;
        black_box(&bytes);
    }
}

/// Each call hands the host two megabytes.
fn shout(_: Message) -> Answer {
    let text = "a".repeat(2 << 20);
    loop {
        log::debug!("{text}");
    }
}

/// Lines as fast as they go.
fn chatter(_: Message) -> Answer {
    let text = "chatter ".repeat(16);
    loop {
        log::info!("{text}");
    }
}

/// Asks again and again, and gives up after a millisecond each time.
fn poll(_: Message) -> Answer {
    let options = Options { target: None, timeout_ms: 1 };
    loop {
        // Whether it is too late or there is no room: the next one.
        let _ = black_box(bus::request_raw("spin.v1.compute", b"", &options));
    }
}

/// Sleeps within the host, for as long as another call takes.
fn wait(_: Message) -> Answer {
    Ok(bus::request_raw("spin.v1.compute", b"", &Options::default())?)
}

/// Publishes without end to the topics of its payload; its own may be among them.
fn storm(message: Message) -> Answer {
    let topics: Vec<String> = message.json()?;
    loop {
        for topic in &topics {
            // Nobody took it, or there is no room: the next one.
            let _ = black_box(bus::publish_raw(topic, &message.payload, None));
        }
    }
}

/// Publishes a kibibyte at a time to one that never ends, until it is told that nobody took it: how many were taken.
fn fill(_: Message) -> Answer {
    let mut taken = 0_u32;
    while bus::publish_raw("spin.v1.compute", &[0; 1024], None)? > 0 {
        taken += 1;
    }
    json(&taken)
}

/// Hears what is published, and has nothing to say.
fn heard(_: Message) -> Answer {
    Ok(Vec::new())
}

handlers! {
    "compute" => compute,
    "call" => call,
    "random" => random,
    "ask" => ask,
    "shout" => shout,
    "chatter" => chatter,
    "poll" => poll,
    "wait" => wait,
    "storm" => storm,
    "fill" => fill,
    "heard" => heard,
}
