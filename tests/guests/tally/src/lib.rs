//! A run loop that counts in memory what comes, and hands its count over. For each message of `tally.v1.come` it asks its own
//! handler to keep the message's number and the count that it made.
//!
//! What goes wrong stands in [`MODE`], which tests patch: `serves`, `denies` its state, `breaks` in giving it, has one that
//! `bloats`, `spurns` or `chokes` on the one that it gets, `sleeps` without getting ready, `stalls` when it is told to stop,
//! or `errors` in the handler `try`.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use astrid_sdk::bindings::imports::astrid::bus::bus::{Event, Options, Subscription};
use astrid_sdk::prelude::*;
use astrid_sdk::run::Snapshot;

static MODE: &str = "tally serves";
static COUNT: AtomicU64 = AtomicU64::new(0);
const SCHEMA: u32 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Come {
    number: u64,
}

/// A message's number, and how many there had been with it.
type Entry = (u64, u64);

fn is(mode: &str) -> bool {
    black_box(MODE).ends_with(mode)
}

fn run() -> Result<(), String> {
    let come = Subscription::open(&["tally.v1.come".to_owned()]).map_err(|failure| failure.to_string())?;
    if !is("sleeps") {
        run::ready();
    }
    loop {
        match come.next(60_000) {
            Ok(Some(Event::Message(received))) => {
                let Ok(Come { number }) = received.message.json() else { continue };
                let entry: Entry = (number, COUNT.fetch_add(1, Ordering::Relaxed) + 1);
                let entry = json(&entry).map_err(|refusal| refusal.reason)?;
                let kept = received.caller.request("tally.v1.keep", &entry, &Options { target: None, timeout_ms: 0 });
                if let Err(failure) = kept {
                    log::warn!("not kept for {}: {failure}", received.message.principal);
                }
            }
            Err(Failure::Closed) if !is("stalls") => return Ok(()),
            Ok(_) | Err(Failure::Closed) => {}
            Err(failure) => return Err(failure.to_string()),
        }
    }
}

fn export() -> Result<Snapshot, String> {
    match () {
        () if is("denies") => Err("it is mine".into()),
        () if is("breaks") => panic!("told to break"),
        () if is("bloats") => Ok(Snapshot { schema: SCHEMA, bytes: vec![0; (16 << 20) + 1] }),
        () => Snapshot::json(SCHEMA, &COUNT.load(Ordering::Relaxed)),
    }
}

fn import(snapshot: Snapshot) -> Result<(), String> {
    match () {
        () if is("chokes") => panic!("told to choke"),
        () if is("spurns") || snapshot.schema != SCHEMA => Err(format!("no schema {} here", snapshot.schema)),
        () => {
            COUNT.store(snapshot.read()?, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// Publishes what it is given, so that whoever may ask may be counted.
fn send(message: Message) -> Answer {
    json(&bus::publish_raw("tally.v1.come", &message.payload, None)?)
}

fn keep(message: Message) -> Answer {
    let entry: Entry = message.json()?;
    let bucket = Bucket::open("entries", Scope::Principal)?;
    kv::transact(|transaction| {
        let mut entries = transaction.get_json::<Vec<Entry>>(&bucket, "all")?.unwrap_or_default();
        entries.push(entry);
        transaction.put_json(&bucket, "all", &entries)
    })?;
    json(&())
}

fn kept(_: Message) -> Answer {
    let bucket = Bucket::open("entries", Scope::Principal)?;
    json(&kv::transact(|transaction| {
        Ok::<_, kv::Error>(transaction.get_json::<Vec<Entry>>(&bucket, "all")?.unwrap_or_default())
    })?)
}

fn attempt(_: Message) -> Answer {
    if is("errors") {
        panic!("told to fail");
    }
    json(&())
}

run_loop!(run);
state! { export, import }
handlers! { "send" => send, "keep" => keep, "kept" => kept, "try" => attempt }
