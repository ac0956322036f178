//! The log of facts: what lasts, what is proven, what is read and what is told when something is wrong.

mod checkpoints;
mod damage;
mod killed;
mod lasts;
mod proofs;
mod pruning;
mod reading;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use proptest::prelude::*;
use tokio::sync::broadcast::error::RecvError;

use super::note::Checkpoint;
use super::verify::{Inclusion, Verified, consistency, verify};
use super::*;
use crate::keys::Keys;

struct Place {
    folder: tempfile::TempDir,
    keys: Arc<Keys>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(Keys::open(&folder.path().join("host.key")).unwrap());
        Self { folder, keys }
    }

    fn audit(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    fn open(&self) -> Journal {
        Journal::open(&self.audit(), &Config::default(), &self.keys).unwrap()
    }

    fn key(&self) -> Key {
        log_key(&Config::default(), &self.keys).unwrap()
    }

    fn verify(&self) -> Result<Verified, tiles::Difference> {
        verify(&self.audit(), &self.key(), &[])
    }
}

/// Durably records so many facts, many at a time.
fn record(journal: &Journal, count: usize) {
    for n in 0..count {
        while journal.waiting() > QUEUE_FACTS / 2 {
            std::thread::yield_now();
        }
        journal.append(numbered(journal, n));
    }
    settle(journal);
}

fn numbered(journal: &Journal, n: usize) -> Fact {
    let principal = Some(format!("p{}", n % 7));
    let detail = Some(format!("number {n}"));
    Fact { principal, detail, ..journal.fact(["bus.request", "env.write", "capsule.install"][n % 3]) }
}

/// Waits until everything before is recorded.
fn settle(journal: &Journal) -> u64 {
    wait(journal.append_durable(journal.fact("test.settled"))).unwrap()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn all(journal: &Journal) -> Vec<Fact> {
    let (mut facts, mut next) = (Vec::new(), Some(0));
    while let Some(first) = next {
        let page = journal.entries(first, MAX_PAGE).unwrap();
        for recorded in &page.facts {
            assert_eq!(recorded.index, facts.len() as u64);
            facts.push(Fact::parse(&recorded.bytes).expect("what was recorded is a fact"));
        }
        next = page.next;
    }
    facts
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What is wrong with a log, and what made it so.
type Damage = (&'static str, fn(&Path));

fn edit(folder: &Path, file: &str, at: usize) {
    let path = folder.join(file);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}
