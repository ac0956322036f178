//! A line for each call in the file that `$ASTRID_USAGE` names: which test made it, and what it used.
//!
//! Written by one append for each call, so that the threads and processes of a run can share a file. Without the variable
//! nothing is written. A line that can't be written is lost: tests don't fail for it.

use std::env;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::thread;

use serde_json::json;

use crate::Usage;

static FILE: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| env::var_os("ASTRID_USAGE").filter(|path| !path.is_empty()).map(PathBuf::from));

/// Notes what a call of the running test has used.
pub(crate) fn note(usage: Usage) {
    let Some(path) = &*FILE else { return };
    let line = json!({
        "program": program(),
        "test": test(),
        "fuel": usage.fuel,
        "peak_memory_bytes": usage.peak_memory_bytes,
    });
    if let Ok(mut file) = File::options().create(true).append(true).open(path) {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// The test program, without the hash that cargo puts behind its name.
fn program() -> String {
    let path = env::current_exe().ok();
    let name = path.as_ref().and_then(|path| path.file_stem()?.to_str()).unwrap_or("");
    match name.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => name.into(),
        _ => name.into(),
    }
}

/// The running test: its thread is called like it. Where tests run on the main thread, a single one is named on the
/// command line.
fn test() -> String {
    let thread = thread::current();
    match thread.name() {
        Some(name) if name != "main" => name.into(),
        _ => {
            let exact = env::args().any(|word| word == "--exact");
            let named = env::args().skip(1).find(|word| exact && !word.starts_with('-'));
            named.unwrap_or_else(|| "(no test's thread)".into())
        }
    }
}
