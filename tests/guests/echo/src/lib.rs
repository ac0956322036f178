//! Answers with what it was sent: the whole payload, untouched.

use astrid_sdk::prelude::*;

fn say(message: Message) -> Answer {
    Ok(message.payload)
}

handlers! { "say" => say }
