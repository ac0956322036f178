//! Dies when it starts, once `die` has told it to, or never comes to the end of its start, once `linger` has; until the
//! host starts it again it lives on.

use std::hint::black_box;

use astrid_sdk::prelude::*;

const KEY: &str = "order";
const LINGER: &[u8] = b"linger";

fn bucket() -> Result<Bucket, kv::Error> {
    Bucket::open("orders", Scope::Capsule)
}

fn start() -> Result<(), String> {
    let told = bucket().and_then(|bucket| bucket.get(KEY)).map_err(|error| error.to_string())?;
    match told {
        None => Ok(()),
        Some(order) if order.value == LINGER => loop {
            black_box(());
        },
        Some(_) => panic!("told to die"),
    }
}

fn die(_: Message) -> Answer {
    json(&bucket()?.put(KEY, b"")?)
}

fn linger(_: Message) -> Answer {
    json(&bucket()?.put(KEY, LINGER)?)
}

fn say(message: Message) -> Answer {
    Ok(message.payload)
}

handlers! { "die" => die, "linger" => linger, "say" => say }
starter!(start);
