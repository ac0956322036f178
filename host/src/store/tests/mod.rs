//! The store: what lasts, what is refused, and what a failing disk or a killed process leaves.

mod commits;
mod disk;
mod files;
mod killed;
mod model;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;
use std::{env, fs, io};

use proptest::prelude::*;
use redb::TableDefinition;

use super::*;

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    (folder, path)
}

fn open(path: &Path) -> Store {
    Store::open(path, &Config::default()).unwrap()
}

fn put(key: &[u8], value: &[u8]) -> Commit {
    Commit { writes: vec![(key.to_vec(), Some(value.to_vec()))], ..Commit::default() }
}

fn swap(key: &[u8], expected: Option<u64>, value: &[u8]) -> Commit {
    Commit { expect: vec![(key.to_vec(), expected)], ..put(key, value) }
}

fn keys(page: &Page) -> Vec<&[u8]> {
    page.entries.iter().map(|(key, _)| key.as_slice()).collect()
}

/// Keeps the writer busy until the sender is dropped, so that what is submitted meanwhile becomes one batch.
fn hold(store: &Store) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (began, begun) = mpsc::channel();
    let then: Then = Box::new(move |_| {
        began.send(()).unwrap();
        let _ = held.recv();
    });
    store.submit(Commit { then: Some(then), ..Commit::default() }).unwrap();
    begun.recv().unwrap();
    release
}

#[test]
fn configuration_out_of_bounds_is_refused_by_key_and_unknown_keys_as_well() {
    Config::default().check().unwrap();
    let parse = |text: &str| toml::from_str::<Config>(text).map_err(|error| error.to_string());
    let config = parse("max-batch = 0").unwrap();
    assert_eq!(config.check().unwrap_err(), "store.max-batch must be from 1 to 65536; it is 0");
    let config = parse("cache-bytes = 5").unwrap();
    assert_eq!(config.check().unwrap_err(), "store.cache-bytes must be from 1048576 to 1099511627776; it is 5");
    assert!(parse("cache_bytes = 5").unwrap_err().contains("unknown field `cache_bytes`"));
}
