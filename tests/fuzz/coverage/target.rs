//! The target that has the program's name.

#![no_main]

use std::sync::LazyLock;

use astrid_fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| Target::named(env!("CARGO_BIN_NAME")));

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = (TARGET.run)(input);
});
