//! One version gives way to the next: what it must show before, who notices, and what takes it back.
//!
//! The versions are those of the guest `fickle`, which differ in what goes wrong in them.

mod back;
mod before;
mod killed;
mod load;
mod repair;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use astrid_capsule::Capability;
use astrid_capsule::archive::Archive;
use astrid_capsule::distro::lock::{Lock, Locked};
use astrid_capsule::distro::{Distro, bundle};
use astrid_capsule::manifest::{Manifest, Probe};
use astrid_host::fault::Point;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Streaming};
use astrid_tests::{DEADLINE, pack};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::observation::{metrics, sum};
use crate::{Load, Person, assert_well, bus, install, install_guests, install_with, join};

/// Calls that may fail until a version that fails everybody is taken back, in a test that makes one after the other: the
/// five or six that it takes with one or two callers, and those that arrive while it goes.
const FAILURES: usize = 12;

/// A version of `fickle` in which this goes wrong, with a changed manifest.
#[track_caller]
fn changed(home: &Home, version: &str, mode: &str, change: impl FnOnce(&mut Manifest)) -> PathBuf {
    let Archive { mut manifest, component, .. } = pack::read("fickle");
    manifest.package.version = version.parse().expect("a version");
    change(&mut manifest);
    let component = match mode {
        "well" => component,
        mode => pack::patched(&component, "fickle is well", &format!("fickle is {mode}")),
    };
    pack::write(home.beside(), &format!("fickle-{version}-{mode}"), &manifest, &component)
}

#[track_caller]
fn made(home: &Home, version: &str, mode: &str) -> PathBuf {
    changed(home, version, mode, |_| {})
}

fn probe(probe: Value) -> Probe {
    serde_json::from_value(probe).expect("a probe")
}

/// What `astrid capsule install` says when it installs nothing.
#[track_caller]
fn refused(daemon: &Daemon, archive: &std::path::Path, more: &[&str]) -> String {
    let mut arguments = vec!["capsule", "install", archive.to_str().unwrap(), "--grant", "http:mount"];
    arguments.extend(more);
    daemon.astrid(&arguments).refusal(1).to_owned()
}

fn say(text: &str) -> Request {
    bus("fickle.v1.say", &json!({ "text": text }))
}

async fn kept(daemon: &Daemon) -> Value {
    daemon.unix(bus("fickle.v1.kept", &json!({}))).await.expect(200)
}

/// The version that is live, which answers.
async fn live(daemon: &Daemon) -> String {
    let answer = daemon.unix(say("x")).await.expect(200);
    assert_eq!(answer, json!({ "text": "x" }));
    version(daemon, "fickle").await
}

async fn version(daemon: &Daemon, capsule: &str) -> String {
    let row = daemon.unix(Request::get(&format!("/api/capsules/{capsule}"))).await.expect(200);
    assert_eq!(row["state"], "live", "{row}");
    row["version"].as_str().unwrap().to_owned()
}

/// What happened to a capsule, oldest first: what and to which version.
async fn history(daemon: &Daemon, capsule: &str) -> Vec<(String, String, Option<String>)> {
    let shown = daemon.unix(Request::get(&format!("/api/capsules/{capsule}/history"))).await.expect(200);
    let text = |step: &Value, field: &str| step[field].as_str().map(str::to_owned);
    let steps = shown["steps"].as_array().unwrap().iter();
    steps.map(|s| (text(s, "what").unwrap(), text(s, "version").unwrap(), text(s, "why"))).collect()
}

/// The last of it.
async fn last(daemon: &Daemon) -> (String, String, Option<String>) {
    history(daemon, "fickle").await.pop().expect("something happened")
}

fn step(what: &str, version: &str) -> (String, String, Option<String>) {
    (what.into(), version.into(), None)
}

async fn generations(daemon: &Daemon, capsule: &str) -> f64 {
    sum(&metrics(daemon).await, "astrid_capsule_generations", &[("capsule", capsule)])
}

async fn until_generations(daemon: &Daemon, capsule: &str, wanted: f64) {
    let started = Instant::now();
    while generations(daemon, capsule).await != wanted {
        assert!(started.elapsed() < DEADLINE, "{capsule} never has {wanted} generations");
        tokio::task::yield_now().await;
    }
}
