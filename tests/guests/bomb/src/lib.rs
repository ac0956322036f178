//! Takes memory, stack and handles without end. Every byte is touched, so nothing is saved by lazy allocation.

use std::hint::black_box;

use astrid_sdk::bus::Options;
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

/// The same memory in small pieces.
fn crumbs(_: Message) -> Answer {
    let mut held = Vec::new();
    loop {
        held.push(black_box(Box::new([1_u8; 24])));
    }
}

fn buckets(_: Message) -> Answer {
    let mut held = Vec::new();
    loop {
        held.push(black_box(Bucket::open("held", Scope::Capsule)?));
    }
}

fn transactions(_: Message) -> Answer {
    let mut held = Vec::new();
    loop {
        held.push(black_box(Transaction::new()));
    }
}

/// As many handles as there may be, given back at once, twice.
fn thousand(_: Message) -> Answer {
    for _ in 0..2 {
        let held: Result<Vec<Bucket>, _> = (0..1000).map(|_| Bucket::open("held", Scope::Capsule)).collect();
        drop(black_box(held?));
    }
    json(&2000)
}

/// Answers with a number of as many digits as the payload says.
fn digits(message: Message) -> Answer {
    Ok(vec![b'1'; message.json()?])
}

/// Asks itself, without end.
fn ask(_: Message) -> Answer {
    Ok(bus::request_raw("bomb.v1.ask", b"", &Options::default())?)
}

handlers! {
    "allocate" => allocate,
    "crumbs" => crumbs,
    "recurse" => recurse,
    "buckets" => buckets,
    "transactions" => transactions,
    "thousand" => thousand,
    "digits" => digits,
    "ask" => ask,
}
