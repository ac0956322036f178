//! Never ends: computes for ever, or calls the host for ever. Only a deadline or fuel stops either.

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

handlers! { "compute" => compute, "call" => call }
