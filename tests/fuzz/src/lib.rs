//! Fuzz targets for everything that reads what others wrote: manifest, archive, a registry's index, distribution, types,
//! and the grammar of names.
//!
//! A target is a function of bytes that says whether it took them, and panics where a property does not hold. Nothing that
//! is read may panic; what is taken, printed and read again must be the same; and an archive may never cost more than its
//! caps. Owns the targets and, in [`mutate`], how inputs are made of the seeds in `corpus/<target>/`. Inputs have at most
//! [`MAX_INPUT_BYTES`]. Refuses to know what runs it:
//!
//! - `cargo astrid test` changes the seeds by chance, a thousand times for each target. `cargo astrid test fuzz --seeds N
//!   --from S` does it with other chances, and what fails says how to repeat it.
//! - With nightly Rust and cargo-fuzz, an input that reaches new code becomes a seed itself. From the checkout's root, here
//!   for the target `manifest`:
//!
//!   ```sh
//!   mkdir -p target/fuzz/manifest
//!   cargo +nightly fuzz run --fuzz-dir tests/fuzz/coverage --target-dir target/fuzz manifest \
//!       target/fuzz/manifest tests/fuzz/corpus/manifest -- -max_total_time=300 -max_len=65536 -malloc_limit_mb=256
//!   ```
//!
//!   An input that it finds goes into the corpus, under a name that says what it is.

pub mod mutate;
mod targets;

use std::fs;
use std::path::PathBuf;

/// The largest input.
pub const MAX_INPUT_BYTES: usize = 64 << 10;

/// Something that reads bytes, and what must hold of it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Whether the bytes were taken. Panics where a property does not hold.
    pub run: fn(&[u8]) -> bool,
    /// Texts that inputs are made of, beside the seeds.
    pub words: &'static [&'static str],
}

const TOML: &[&str] =
    &["\n[", "]]\n", " = ", "\"\"", "\"\"\"", "'", "true", "-1", "[]", "{}", "\\u0000", "1.0.0", "inf", "# "];
const NAMES: &[&str] = &["*", ".", ":", ".*", ":*", "self", "self:", "\n", "a", "-", "_", "anonymous", "\u{e9}"];
const JSON: &[&str] = &["$defs", "#/$defs/a.b", "\"type\":", "{}", "[]", ",", "null", "false", "1e9", "-0", "\\u0000"];

/// Every target.
pub const TARGETS: [Target; 8] = [
    Target { name: "manifest", run: targets::manifest, words: TOML },
    Target { name: "archive", run: targets::archive, words: &[] },
    Target {
        name: "contents",
        run: targets::contents,
        words: &["ustar", "Capsule.toml", "hashes", "signatures", "\0"],
    },
    Target { name: "sealed", run: targets::sealed, words: &["\0", "[[subscribe]]", "[[tool]]", "wit", "nothing"] },
    Target { name: "schema", run: targets::schema, words: JSON },
    Target { name: "index", run: targets::index, words: TOML },
    Target { name: "distro", run: targets::distro, words: TOML },
    Target { name: "grammar", run: targets::grammar, words: NAMES },
];

impl Target {
    /// The one with this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn named(name: &str) -> Self {
        let target = TARGETS.into_iter().find(|target| target.name == name);
        target.unwrap_or_else(|| panic!("there is no target `{name}`"))
    }

    /// Its seeds by name, sorted.
    ///
    /// # Panics
    /// If they can't be read.
    pub fn corpus(&self) -> Vec<(String, Vec<u8>)> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let read = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (name, bytes)
        };
        let mut seeds: Vec<_> = files.flatten().map(|file| read(file.path())).collect();
        seeds.sort();
        seeds
    }
}
