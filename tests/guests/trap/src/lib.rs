//! Dies in every way that a guest can choose: by a panic, by an abort, and by asking WASI to exit.

use astrid_sdk::prelude::*;

fn panic(message: Message) -> Answer {
    panic!("asked to by {}", message.principal)
}

fn abort(_: Message) -> Answer {
    std::process::abort()
}

fn exit(_: Message) -> Answer {
    std::process::exit(0)
}

handlers! { "panic" => panic, "abort" => abort, "exit" => exit }
