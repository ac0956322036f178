//! Never ends: computes for ever, or calls the host for ever, cheaply or dearly. Only a deadline or fuel stops it.

use std::hint::black_box;

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

handlers! { "compute" => compute, "call" => call, "random" => random, "shout" => shout }
