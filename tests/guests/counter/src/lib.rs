//! Keeps values, counts with a transaction, and counts in memory what an instance has served: always 1, because every
//! call meets an instance of its own.
//!
//! `own` in a payload chooses the caller's bucket instead of the capsule's.

use std::sync::atomic::{AtomicU64, Ordering};

use astrid_sdk::prelude::*;

static CALLS: AtomicU64 = AtomicU64::new(0);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    key: String,
    value: String,
    #[serde(default)]
    own: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    key: String,
    #[serde(default)]
    own: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: u32,
    #[serde(default)]
    own: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Serialize)]
struct Version {
    version: u64,
}

#[derive(Serialize)]
struct Value {
    value: String,
    version: u64,
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<String>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Count {
    count: u64,
}

fn open(own: bool) -> Result<Bucket, kv::Error> {
    Bucket::open("values", if own { Scope::Principal } else { Scope::Capsule })
}

fn put(message: Message) -> Answer {
    let Put { key, value, own } = message.json()?;
    json(&Version { version: open(own)?.put(&key, value.as_bytes())? })
}

fn get(message: Message) -> Answer {
    let Key { key, own } = message.json()?;
    let entry = open(own)?.get(&key)?.ok_or_else(|| Refusal::not_found(format!("no value for {key}")))?;
    json(&Value { value: String::from_utf8_lossy(&entry.value).into_owned(), version: entry.version })
}

fn list(message: Message) -> Answer {
    let List { prefix, after, limit, own } = message.json()?;
    let page = open(own)?.scan(&prefix, after.as_deref(), limit)?;
    json(&Keys { keys: page.entries.into_iter().map(|(key, _)| key).collect(), next: page.next })
}

fn increment(message: Message) -> Answer {
    let Key { key, own } = message.json()?;
    let bucket = open(own)?;
    let count = kv::transact(|transaction| {
        let count = transaction.get_json::<u64>(&bucket, &key)?.unwrap_or(0) + 1;
        transaction.put_json(&bucket, &key, &count)?;
        Ok::<_, kv::Error>(count)
    })?;
    json(&Count { count })
}

fn calls(message: Message) -> Answer {
    let Nothing {} = message.json()?;
    json(&Count { count: CALLS.fetch_add(1, Ordering::Relaxed) + 1 })
}

handlers! {
    "put" => put,
    "get" => get,
    "list" => list,
    "increment" => increment,
    "calls" => calls,
}
