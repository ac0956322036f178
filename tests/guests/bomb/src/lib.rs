//! Takes memory and stack without end. Every byte is touched, so nothing is saved by lazy allocation.

use std::hint::black_box;

use astrid_sdk::prelude::*;

fn allocate(_: Message) -> Answer {
    let mut held = Vec::new();
    loop {
        held.push(black_box(vec![1_u8; 1 << 20]));
    }
}

fn recurse(_: Message) -> Answer {
    Ok(deeper(0).to_string().into_bytes())
}

fn deeper(n: u64) -> u64 {
    // Not a tail call, and not foreseeable: neither the sum nor the condition is known to the compiler.
    if black_box(true) { black_box(deeper(n + 1)).wrapping_add(n) } else { n }
}

handlers! { "allocate" => allocate, "recurse" => recurse }
