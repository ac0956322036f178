//! Dies when it starts, once `die` has told it to; until the host starts it again it lives on.

use astrid_sdk::prelude::*;

const KEY: &str = "die";

fn bucket() -> Result<Bucket, kv::Error> {
    Bucket::open("orders", Scope::Capsule)
}

fn start() -> Result<(), String> {
    let told = bucket().and_then(|bucket| bucket.get(KEY)).map_err(|error| error.to_string())?;
    assert!(told.is_none(), "told to die");
    Ok(())
}

fn die(_: Message) -> Answer {
    json(&bucket()?.put(KEY, b"")?)
}

fn say(message: Message) -> Answer {
    Ok(message.payload)
}

handlers! { "die" => die, "say" => say }
starter!(start);
