//! A guest of WASI 0.3: it runs on the engine with component-model concurrency.

#[allow(unsafe_code, unreachable_pub, reason = "generated code")]
mod preview3 {
    wit_bindgen::generate!({
        inline: "
            package guest:preview3;

            world imports {
                import wasi:random/random@0.3.0;
            }

            package wasi:random@0.3.0 {
                interface random {
                    get-random-u64: func() -> u64;
                }
            }
        ",
        world: "guest:preview3/imports",
        generate_all,
    });
}

use astrid_sdk::prelude::*;

/// Eight random bytes as a number, from WASI 0.3.
fn draw(_: Message) -> Answer {
    json(&preview3::wasi::random::random::get_random_u64())
}

handlers! { "draw" => draw }
