//! What the store remembers of capsules: what is installed, what was before, and what happened to it.

use anyhow::Context;
use astrid_capsule::schema::{SchemaError, Schemas};
use serde::{Deserialize, Serialize};

use crate::pool::Concurrency;
use crate::store::{Commit, Store};

/// Steps of one capsule that are kept.
const MAX_STEPS: u64 = 100;

const INSTALLED: &[u8] = b"h\0capsule\0";
const BEFORE: &[u8] = b"h\0capsule-before\0";
const HISTORY: &[u8] = b"h\0capsule-history\0";
const REMOVED: &[u8] = b"h\0capsule-removed\0";
const APPLIED: &[u8] = b"h\0distro\0";

/// An installed version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: String,
    /// BLAKE3 of the component, hex.
    pub(super) hash: String,
    /// What it was granted of what its manifest asks.
    pub(super) grants: Vec<String>,
    pub(super) manifest: String,
    /// Whether it needs the engine with component-model concurrency.
    pub(super) concurrent: bool,
    /// Its `schema.json`; empty if no topic has a type.
    #[serde(default)]
    pub(super) schema: String,
}

impl Record {
    pub(super) fn concurrency(&self) -> Concurrency {
        if self.concurrent { Concurrency::With } else { Concurrency::Without }
    }

    pub(super) fn schemas(&self) -> Result<Schemas, SchemaError> {
        if self.schema.is_empty() { Ok(Schemas::default()) } else { Schemas::parse(self.schema.as_bytes()) }
    }
}

/// What happened to a capsule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// `installed`, `upgraded`, `swapped`, `rolled-back`, `removed` or `state-lost`.
    pub what: String,
    /// The version that is live afterwards, or was, and the hash of its component.
    pub version: String,
    pub hash: String,
    /// Why, where it was not somebody's wish.
    pub why: Option<String>,
}

impl Step {
    pub(super) fn now(what: &str, record: &Record, why: Option<&str>) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            what: what.into(),
            version: record.version.clone(),
            hash: record.hash.clone(),
            why: why.map(Into::into),
        }
    }
}

fn key(prefix: &[u8], id: &str) -> Vec<u8> {
    [prefix, id.as_bytes()].concat()
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain records serialise")
}

/// Adds to a commit what makes `record` the installed version, and `before` the one to go back to.
pub(super) fn put(commit: &mut Commit, id: &str, record: &Record, before: Option<&Record>) {
    commit.writes.push((key(INSTALLED, id), Some(bytes(record))));
    if let Some(before) = before {
        commit.writes.push((key(BEFORE, id), Some(bytes(before))));
    }
    commit.writes.push((key(REMOVED, id), None));
}

/// Adds to a commit what makes nothing of this id installed, also after the next start.
pub(super) fn remove(commit: &mut Commit, id: &str) {
    commit.writes.push((key(INSTALLED, id), None));
    commit.writes.push((key(BEFORE, id), None));
    commit.writes.push((key(REMOVED, id), Some(b"1".to_vec())));
}

/// Adds to a commit what makes the next start install what the distribution brings, as if nothing had been before.
pub(super) fn forget(commit: &mut Commit, id: &str) {
    commit.writes.extend([INSTALLED, BEFORE, REMOVED, APPLIED].map(|prefix| (key(prefix, id), None)));
}

/// Adds to a commit that this archive of the distribution was applied.
pub(super) fn applied(commit: &mut Commit, name: &str, archive: &str) {
    commit.writes.push((key(APPLIED, name), Some(archive.into())));
}

/// Whether the distribution's archive of this name has nothing to bring: it was applied last, and what it brought was not
/// lost since. What an operator installed over it, or removed, stays until the distribution itself changes.
pub(super) fn is_applied(store: &Store, name: &str, archive: &str) -> anyhow::Result<bool> {
    let applied = store.get(&key(APPLIED, name)).context("reading what was applied")?;
    let installed = store.get(&key(INSTALLED, name)).context("reading what is installed")?;
    let removed = store.get(&key(REMOVED, name)).context("reading what was removed")?;
    Ok(applied.is_some_and(|applied| applied.value == archive.as_bytes()) && (installed.is_some() || removed.is_some()))
}

/// Whether it was installed once and somebody removed it.
pub(super) fn was_removed(store: &Store, id: &str) -> bool {
    store.get(&key(REMOVED, id)).is_ok_and(|entry| entry.is_some())
}

/// Every installed version, by id.
pub(super) fn all(store: &Store) -> anyhow::Result<Vec<(String, Record)>> {
    let page = store.scan(INSTALLED, None, 100_000, 256 << 20).context("reading the installed capsules")?;
    let mut records = Vec::new();
    for (key, entry) in page.entries {
        let id = String::from_utf8_lossy(&key[INSTALLED.len()..]).into_owned();
        match serde_json::from_slice(&entry.value) {
            Ok(record) => records.push((id, record)),
            Err(error) => tracing::error!(id, "the record of a capsule can't be read: {error}"),
        }
    }
    Ok(records)
}

/// The installed version, whether it runs or not.
pub(super) fn installed(store: &Store, id: &str) -> anyhow::Result<Option<Record>> {
    let entry = store.get(&key(INSTALLED, id)).context("reading what is installed")?;
    entry.map(|entry| serde_json::from_slice(&entry.value).context("the record of the version")).transpose()
}

/// The version to go back to.
pub(super) fn before(store: &Store, id: &str) -> anyhow::Result<Option<Record>> {
    let entry = store.get(&key(BEFORE, id)).context("reading the version before")?;
    entry.map(|entry| serde_json::from_slice(&entry.value).context("the record of the version before")).transpose()
}

/// Adds a step to a commit, and takes the oldest away when there are many.
pub(super) fn step(store: &Store, commit: &mut Commit, id: &str, step: &Step) -> anyhow::Result<()> {
    let prefix = [&key(HISTORY, id)[..], b"\0"].concat();
    let steps = store.scan(&prefix, None, 2 * MAX_STEPS as usize, 16 << 20).context("reading the history")?.entries;
    let last = steps.last().and_then(|(key, _)| number(&prefix, key)).unwrap_or(0);
    commit.writes.push(([&prefix[..], format!("{:016x}", last + 1).as_bytes()].concat(), Some(bytes(step))));
    let surplus = (steps.len() + 1).saturating_sub(MAX_STEPS as usize);
    commit.writes.extend(steps.into_iter().take(surplus).map(|(key, _)| (key, None)));
    Ok(())
}

/// What happened to a capsule, oldest first, [`MAX_STEPS`] at most.
pub(super) fn history(store: &Store, id: &str) -> anyhow::Result<Vec<Step>> {
    let prefix = [&key(HISTORY, id)[..], b"\0"].concat();
    let page = store.scan(&prefix, None, 2 * MAX_STEPS as usize, 16 << 20).context("reading the history")?;
    Ok(page.entries.into_iter().filter_map(|(_, entry)| serde_json::from_slice(&entry.value).ok()).collect())
}

fn number(prefix: &[u8], key: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(key.strip_prefix(prefix)?).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("s"), &crate::store::Config::default()).unwrap();
        (folder, store)
    }

    #[test]
    fn what_happened_is_kept_in_order_for_each_capsule_and_only_so_much_of_it() {
        let (_folder, store) = store();
        for n in 0..130 {
            let record = Record { version: n.to_string(), ..Record::default() };
            let mut commit = Commit::default();
            step(&store, &mut commit, "a", &Step::now("upgraded", &record, None)).unwrap();
            store.commit_blocking(commit).unwrap();
        }
        let mut commit = Commit::default();
        step(&store, &mut commit, "ab", &Step::now("installed", &Record::default(), Some("why"))).unwrap();
        store.commit_blocking(commit).unwrap();
        let versions: Vec<String> = history(&store, "a").unwrap().into_iter().map(|step| step.version).collect();
        assert_eq!(versions, (30..130).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(history(&store, "ab").unwrap()[0].why.as_deref(), Some("why"));
    }

    #[test]
    fn what_was_removed_stays_removed_until_the_distribution_changes() {
        let (_folder, store) = store();
        let change = |make: &dyn Fn(&mut Commit)| {
            let mut commit = Commit::default();
            make(&mut commit);
            store.commit_blocking(commit).unwrap();
        };
        assert!(!is_applied(&store, "a", "1").unwrap());
        change(&|commit| {
            put(commit, "a", &Record::default(), None);
            applied(commit, "a", "1");
        });
        assert!(is_applied(&store, "a", "1").unwrap() && !is_applied(&store, "a", "2").unwrap());
        change(&|commit| remove(commit, "a"));
        assert!(is_applied(&store, "a", "1").unwrap() && !is_applied(&store, "a", "2").unwrap());
        assert!(all(&store).unwrap().is_empty() && before(&store, "a").unwrap().is_none());
    }
}
