//! A capsule whose versions differ in one word: what goes wrong in it, if anything. A test that wants another version puts
//! another word of as many letters there.

use std::hint::black_box;

use astrid_sdk::http::{Request, Response};
use astrid_sdk::prelude::*;

/// `well`: nothing goes wrong. `trap`, `hang`, `leak`, `oops` (says that it failed), `lies` (answers something else): its
/// calls. `sick`: its health. `stop`: its start; `once`: every start but the first. `deny`, `dies`: its hooks, after they
/// have written.
const MODE: &str = "fickle is well";

fn is(mode: &str) -> bool {
    black_box(MODE).ends_with(mode)
}

/// What every call goes through.
fn fail() -> Result<(), Refusal> {
    if is("trap") {
        panic!("this version traps");
    }
    while is("hang") {
        black_box(());
    }
    let mut held = Vec::new();
    while is("leak") {
        held.push(black_box(vec![1_u8; 1 << 20]));
    }
    if is("oops") { Err(Refusal::internal("this version fails")) } else { Ok(()) }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Words {
    #[serde(default)]
    text: String,
}

/// The same text again. Every version dies of `poison`.
fn say(message: Message) -> Answer {
    let Words { text } = message.json()?;
    assert_ne!(text, "poison", "asked to by {}", message.principal);
    fail()?;
    json(&Words { text: if is("lies") { format!("not {text}") } else { text } })
}

fn bucket() -> Result<Bucket, kv::Error> {
    Bucket::open("kept", Scope::Capsule)
}

fn count(key: &str) -> Result<u64, kv::Error> {
    let bucket = bucket()?;
    kv::transact(|transaction| {
        let count = transaction.get_json::<u64>(&bucket, key)?.unwrap_or(0) + 1;
        transaction.put_json(&bucket, key, &count)?;
        Ok::<_, kv::Error>(count)
    })
}

/// Leaves traces in every way that there is, its caller's bucket included.
fn write(message: Message) -> Answer {
    count("writes")?;
    bucket()?.put("last", message.principal.as_bytes())?;
    if message.principal != "anonymous" {
        Bucket::open("own", Scope::Principal)?.put("last", &[b'x'; 1000])?;
    }
    bus::publish("fickle.v1.written", &Words { text: String::new() })?;
    json(&Words { text: String::new() })
}

/// Hears of every publication of [`write`].
fn written(_: Message) -> Answer {
    json(&count("heard")?)
}

/// Everything that is stored, but for [`write`]'s caller's.
fn kept(_: Message) -> Answer {
    let page = bucket()?.scan("", None, 100)?;
    let shown = page.entries.iter().map(|(key, entry)| (key.as_str(), String::from_utf8_lossy(&entry.value)));
    json(&shown.collect::<std::collections::BTreeMap<_, _>>())
}

fn hook(transaction: &Transaction, phase: &str) -> Result<(), String> {
    let (text, bucket) = (|error: kv::Error| format!("{error:?}"), bucket().map_err(|error| format!("{error:?}"))?);
    let hooks = transaction.get_json::<u64>(&bucket, "hooks").map_err(text)?.unwrap_or(0) + 1;
    transaction.put_json(&bucket, "hooks", &hooks).map_err(text)?;
    transaction.put(&bucket, "phase", phase.as_bytes()).map_err(text)?;
    // Beside the transaction: it must not last.
    bucket.put("beside", phase.as_bytes()).map_err(text)?;
    assert!(!is("dies"), "this version's hooks die");
    if is("deny") { Err("this version does not want to be installed".to_owned()) } else { Ok(()) }
}

fn install(transaction: &Transaction) -> Result<(), String> {
    hook(transaction, "install")
}

fn upgrade(transaction: &Transaction, from: String) -> Result<(), String> {
    hook(transaction, &format!("upgrade from {from}"))
}

fn health() -> Result<(), String> {
    // What is written in a rehearsal is dropped.
    count("checks").map_err(|error| format!("{error:?}"))?;
    if is("sick") { Err("this version is sick".to_owned()) } else { Ok(()) }
}

fn start() -> Result<(), String> {
    if is("stop") {
        return Err("this version does not start".to_owned());
    }
    if is("once") && count("starts").map_err(|error| format!("{error:?}"))? > 1 {
        return Err("this version starts once".to_owned());
    }
    Ok(())
}

fn serve(request: Request) -> Response {
    match fail() {
        Err(_) => Response::new(500),
        Ok(()) => Response::json(200, &Words { text: request.path }),
    }
}

handlers! { "say" => say, "write" => write, "written" => written, "kept" => kept }
installer! { install, upgrade }
health! { health }
starter! { start }
front_end! { serve }
