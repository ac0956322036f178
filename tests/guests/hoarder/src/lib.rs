//! Keeps in memory whatever it can, from one call to the next: a count, secrets, handles. Its manifest says that an
//! instance serves one principal, so that only that one ever meets what it has left.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use astrid_sdk::authority::{Credential, Session, authenticate as ask};
use astrid_sdk::bus::Options;
use astrid_sdk::prelude::*;

static COUNT: AtomicU64 = AtomicU64::new(0);
static INSIDE: AtomicBool = AtomicBool::new(false);
static HELD: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// What a byte of a secret is written as where the secret itself must not stand in memory.
const MASK: u8 = 0x5a;

thread_local! {
    static TRANSACTION: RefCell<Option<(Bucket, Transaction)>> = const { RefCell::new(None) };
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
    static BUCKETS: RefCell<Vec<Bucket>> = const { RefCell::new(Vec::new()) };
}

/// How many calls this instance has served, by this handler and the interceptor.
fn count(_: Message) -> Answer {
    json(&(COUNT.fetch_add(1, Ordering::Relaxed) + 1))
}

fn watch(_: Message) -> Verdict {
    COUNT.fetch_add(1, Ordering::Relaxed);
    Verdict::Pass
}

/// Keeps the payload, unmasked.
fn hold(message: Message) -> Answer {
    let masked: String = message.json()?;
    HELD.lock().map_err(|_| poisoned())?.push(masked.bytes().map(|byte| byte ^ MASK).collect());
    json(&())
}

/// How often the secret that is given masked stands anywhere in this instance's memory.
fn find(message: Message) -> Answer {
    let masked: String = message.json()?;
    json(&found(masked.as_bytes()))
}

#[cfg(target_family = "wasm")]
#[allow(unsafe_code, reason = "it looks where a capsule has no business, within its own memory")]
fn found(masked: &[u8]) -> usize {
    let end = core::arch::wasm32::memory_size(0) << 16;
    // SAFETY: every address below the memory's size can be read, and nothing else runs in this instance meanwhile.
    let byte = |address: usize| unsafe { (address as *const u8).read_volatile() };
    let here = |start: usize| masked.iter().enumerate().all(|(n, mask)| byte(start + n) ^ MASK == *mask);
    (1..end - masked.len()).filter(|start| here(*start)).count()
}

#[cfg(not(target_family = "wasm"))]
fn found(_: &[u8]) -> usize {
    0
}

/// Takes so many MiB and keeps them.
fn fill(message: Message) -> Answer {
    let mebibytes: usize = message.json()?;
    HELD.lock().map_err(|_| poisoned())?.push(black_box(vec![1; mebibytes << 20]));
    json(&())
}

/// Wants more memory than there is, and survives that.
fn exceed(_: Message) -> Answer {
    json(&Vec::<u8>::new().try_reserve_exact(64 << 20).is_err())
}

/// Keeps a transaction with a write in it.
fn stash(_: Message) -> Answer {
    let (bucket, transaction) = (Bucket::open("stash", Scope::Principal)?, Transaction::new());
    transaction.put(&bucket, "key", b"value")?;
    TRANSACTION.set(Some((bucket, transaction)));
    json(&())
}

/// Commits the transaction that an earlier call has begun.
fn spend(_: Message) -> Answer {
    let Some((_bucket, transaction)) = TRANSACTION.take() else { return json(&"nothing") };
    Transaction::commit(transaction)?;
    json(&"committed")
}

/// Gives up what an earlier call has begun beside a transaction of this one, and uses the bucket that it has opened.
fn take(_: Message) -> Answer {
    let transaction = Transaction::new();
    let Some((bucket, old)) = TRANSACTION.take() else { return json(&"nothing") };
    transaction.put(&bucket, "key", b"new")?;
    drop(old);
    Transaction::commit(transaction)?;
    json(&bucket.get("key")?.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// Keeps so many handles of buckets.
fn keep(message: Message) -> Answer {
    for _ in 0..message.json::<u32>()? {
        let bucket = Bucket::open("kept", Scope::Capsule)?;
        BUCKETS.with_borrow_mut(|buckets| buckets.push(bucket));
    }
    json(&())
}

/// Whether another call is in this instance meanwhile.
fn meet(_: Message) -> Answer {
    let alone = !INSIDE.swap(true, Ordering::SeqCst);
    let mut n = 0_u64;
    while n < 2_000_000 {
        n = black_box(n + 1);
    }
    INSIDE.store(false, Ordering::SeqCst);
    json(&alone)
}

/// Keeps the session of the bearer that it is given.
fn authenticate(message: Message) -> Answer {
    let session = ask(&Credential::Bearer(message.json()?));
    SESSION.set(Some(session.map_err(|_| Refusal::denied("no session"))?));
    json(&())
}

/// Speaks through the session that an earlier call has got.
fn speak(_: Message) -> Answer {
    let Some(session) = SESSION.take() else { return json(&"nothing") };
    Ok(session.request("identity.v1.me", b"{}", &Options { target: None, timeout_ms: 0 })?)
}

fn panic(_: Message) -> Answer {
    panic!("asked to")
}

fn poisoned() -> Refusal {
    Refusal::internal("an earlier call has died here")
}

handlers! {
    "count" => count,
    "hold" => hold,
    "find" => find,
    "fill" => fill,
    "exceed" => exceed,
    "stash" => stash,
    "spend" => spend,
    "take" => take,
    "keep" => keep,
    "meet" => meet,
    "authenticate" => authenticate,
    "speak" => speak,
    "panic" => panic,
}

interceptor! { "watch" => watch }
