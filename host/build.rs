//! What `astrid_build_info` says: the compiler, and in release builds the commit.
//!
//! Development builds say `unknown`: knowing the commit would mean building the host again after every one. Outside of
//! a checkout it is `unknown` as well, unless `ASTRID_GIT_SHA` says it.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=ASTRID_GIT_SHA");
    let given = env::var("ASTRID_GIT_SHA").ok().filter(|sha| is_hex(sha));
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let sha = given.or_else(|| release.then(commit).flatten()).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=ASTRID_GIT_SHA={sha}");
    let rustc = env::var("RUSTC").ok().and_then(|rustc| said(&rustc, &["--version"]));
    println!("cargo::rustc-env=ASTRID_RUSTC={}", rustc.as_deref().and_then(version).unwrap_or("unknown"));
}

/// The checked-out commit. Its files are watched, those of them that are there: one that is missing would count as
/// changed at every build.
fn commit() -> Option<String> {
    for watched in ["HEAD", "logs/HEAD"] {
        let path = said("git", &["rev-parse", "--git-path", watched])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    said("git", &["rev-parse", "--short=12", "HEAD"]).filter(|sha| is_hex(sha))
}

/// `1.95.0` of `rustc 1.95.0 (…)`.
fn version(line: &str) -> Option<&str> {
    line.split_whitespace().nth(1)
}

/// The one line that a program says, if it does well.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !line.is_empty() && !line.contains('\n')).then_some(line)
}

fn is_hex(text: &str) -> bool {
    (7..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}
