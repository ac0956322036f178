//! Reads the facts of its host, prunes them, and delivers to places outside, for whoever calls.

use astrid_sdk::journal::{self, Filter, TileKind};
use astrid_sdk::prelude::*;
use astrid_sdk::sink;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    action: Option<String>,
    principal: Option<String>,
    before: Option<u64>,
    limit: u32,
}

#[derive(Serialize)]
struct Page {
    /// Indices and facts.
    facts: Vec<(u64, String)>,
    next: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    beyond: u64,
    timeout_ms: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Serialize)]
struct Proof {
    size: u64,
    key: String,
    checkpoint: Option<String>,
    /// Bytes of the first tile's first hash, if there is one.
    tile: Option<usize>,
    first: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prune {
    before: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deliver {
    to: String,
    entries: Vec<String>,
    wait_ms: u32,
}

fn query(message: Message) -> Answer {
    let Query { action, principal, before, limit } = message.object()?;
    let filter = Filter { principal, action, outcome: None, since: None, until: None };
    let page = journal::query(&filter, before, limit).map_err(|error| Refusal::unavailable(format!("{error:?}")))?;
    json(&Page { facts: page.facts.into_iter().map(|fact| (fact.index, fact.fact)).collect(), next: page.next })
}

fn wait(message: Message) -> Answer {
    let Wait { beyond, timeout_ms } = message.object()?;
    json(&journal::wait(beyond, timeout_ms))
}

fn proof(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&Proof {
        size: journal::size(),
        key: journal::key(),
        checkpoint: journal::checkpoint(),
        tile: journal::tile(TileKind::Hashes(0), 0, 1).ok().map(|tile| tile.len()),
        first: journal::first(),
    })
}

fn prune(message: Message) -> Answer {
    let Prune { before } = message.object()?;
    json(&journal::prune(before).map_err(Refusal::unavailable)?)
}

/// How it ended; null if it has not yet.
fn deliver(message: Message) -> Answer {
    let Deliver { to, entries, wait_ms } = message.object()?;
    let entries: Vec<Vec<u8>> = entries.into_iter().map(String::into_bytes).collect();
    let delivery = sink::deliver(&to, &entries).map_err(|error| Refusal::invalid(format!("{error:?}")))?;
    json(&delivery.done(wait_ms).map(|done| done.map_or_else(|error| format!("{error:?}"), |()| "arrived".to_owned())))
}

handlers! {
    "query" => query,
    "wait" => wait,
    "proof" => proof,
    "prune" => prune,
    "deliver" => deliver,
}
