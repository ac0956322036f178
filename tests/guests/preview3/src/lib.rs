//! A guest of WASI 0.3: it runs on the engine with component-model concurrency. `compute` and `draws` never end, and
//! `reach` asks for what its manifest does not name.

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

use std::hint::black_box;

use astrid_sdk::prelude::*;

/// Eight random bytes as a number, from WASI 0.3.
fn draw(_: Message) -> Answer {
    json(&preview3::wasi::random::random::get_random_u64())
}

fn compute(_: Message) -> Answer {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

fn draws(_: Message) -> Answer {
    loop {
        black_box(preview3::wasi::random::random::get_random_u64());
    }
}

fn reach(_: Message) -> Answer {
    Ok(bus::request_raw("system.v1.status", b"{}", &bus::Options::default())?)
}

handlers! { "draw" => draw, "compute" => compute, "draws" => draws, "reach" => reach }
