//! A run loop. For each message of `pump.v1.work` it asks its own handler, on behalf of whoever sent it, to add one to
//! what that principal has, and to note the message's number and how many this run has worked on.
//!
//! A message may say what else to do: `trap`, `spin`, `return`, `grow` by 24 MiB, or `compute` for a while. What it does before the first
//! message stands in [`MODE`], which tests patch: `serve`, `never` gets ready, `spins` without a host call, or `traps`.

use std::hint::black_box;

use astrid_sdk::bindings::imports::astrid::bus::bus::{Event, Options, Received, Subscription};
use astrid_sdk::prelude::*;

static MODE: &str = "mode=serve";

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Work {
    number: u64,
    #[serde(default)]
    act: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Add {
    number: u64,
    served: u64,
}

#[derive(Default, Deserialize, Serialize)]
struct Total {
    /// In the order in which they were worked on.
    numbers: Vec<u64>,
    /// How many messages the run had worked on when it came to the last of them.
    served: u64,
}

fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = black_box(n + 1);
    }
}

fn run() -> Result<(), String> {
    let mode = black_box(MODE);
    match mode {
        "mode=spins" => spin(),
        "mode=traps" => panic!("told to trap"),
        _ => {}
    }
    let work = Subscription::open(&["pump.v1.work".to_owned()]).map_err(|failure| failure.to_string())?;
    if mode == "mode=serve" {
        run::ready();
    }
    let mut served = 0;
    loop {
        match work.next(60_000) {
            Ok(Some(Event::Message(received))) => {
                served += 1;
                serve(received, served)?;
            }
            Ok(_) => {}
            Err(Failure::Closed) => return Ok(()),
            Err(failure) => return Err(failure.to_string()),
        }
    }
}

fn serve(received: Received, served: u64) -> Result<(), String> {
    let Ok(Work { number, act }) = received.message.json() else { return Ok(()) };
    match act.as_str() {
        "trap" => panic!("told to trap"),
        "grow" => drop(black_box(vec![1u8; 24 << 20])),
        "return" => return Err("told to return".into()),
        "spin" => spin(),
        "compute" => {
            for n in 0..20_000_000u64 {
                black_box(n);
            }
        }
        _ => {}
    }
    let add = json(&Add { number, served }).map_err(|refusal| refusal.reason)?;
    let added = received.caller.request("pump.v1.add", &add, &Options { target: None, timeout_ms: 0 });
    if let Err(failure) = added {
        log::warn!("not added for {}: {failure}", received.message.principal);
    }
    Ok(())
}

/// Publishes what it is given as work, so that whoever may ask may have work done: one piece, or a list of them.
fn send(message: Message) -> Answer {
    let Ok(pieces) = message.json::<Vec<Work>>() else {
        return json(&bus::publish_raw("pump.v1.work", &message.payload, None)?);
    };
    let sent = pieces.iter().map(|piece| bus::publish("pump.v1.work", piece)).sum::<Result<u32, _>>()?;
    json(&sent)
}

fn add(message: Message) -> Answer {
    let Add { number, served } = message.json()?;
    let bucket = Bucket::open("totals", Scope::Principal)?;
    let total = kv::transact(|transaction| {
        let mut total = transaction.get_json::<Total>(&bucket, "total")?.unwrap_or_default();
        total.numbers.push(number);
        total.served = served;
        transaction.put_json(&bucket, "total", &total)?;
        Ok::<_, kv::Error>(total)
    })?;
    json(&total)
}

fn total(_: Message) -> Answer {
    let bucket = Bucket::open("totals", Scope::Principal)?;
    json(&kv::transact(|transaction| {
        Ok::<_, kv::Error>(transaction.get_json::<Total>(&bucket, "total")?.unwrap_or_default())
    })?)
}

run_loop!(run);
handlers! { "send" => send, "add" => add, "total" => total }
