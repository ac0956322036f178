//! `astrid:store/kv` in memory: versions, transactions, conflicts and bounds as the host's, without durability.

use std::collections::BTreeMap;
use std::ops::Bound;

use wasmtime::Result as Wasm;
use wasmtime::component::Resource;

use crate::bindings::astrid::store::kv::{self, Entry, Error, Page, Scope};
use crate::engine::State;
use crate::registrar::Change;

const MAX_KEY_BYTES: usize = 512;
const MAX_VALUE_BYTES: usize = 1 << 20;
const MAX_TRANSACTION_BYTES: usize = 4 << 20;
/// Read, written or staged, as the host counts them.
const MAX_TRANSACTION_KEYS: usize = 4096;
const MAX_PAGE_BYTES: usize = 1 << 20;
const MAX_PAGE_ENTRIES: u32 = 1000;

/// Whose bytes a bucket holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The capsule: buckets opened with `scope.capsule`.
    Capsule,
    /// A principal: buckets opened with `scope.principal` in its calls.
    Principal(String),
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub bucket: String,
    pub owner: Owner,
    pub key: String,
}

impl Slot {
    /// Names a value.
    pub fn new(bucket: &str, owner: Owner, key: &str) -> Self {
        Self { bucket: bucket.into(), owner, key: key.into() }
    }
}

/// Everything that the capsule has stored. Lives as long as its [`Capsule`](crate::Capsule), across calls.
#[derive(Debug, Default, Clone)]
pub struct MemoryStore {
    entries: BTreeMap<Slot, Entry>,
    version: u64,
    conflicts: u32,
    unavailable: bool,
}

impl MemoryStore {
    /// The value in a slot.
    pub fn get(&self, slot: &Slot) -> Option<&Entry> {
        self.entries.get(slot)
    }

    /// Writes as somebody else would between two calls, and returns the new version.
    pub fn put(&mut self, slot: Slot, value: impl Into<Vec<u8>>) -> u64 {
        self.version += 1;
        self.entries.insert(slot, Entry { value: value.into(), version: self.version });
        self.version
    }

    /// Removes a value; false if there was none.
    pub fn remove(&mut self, slot: &Slot) -> bool {
        let removed = self.entries.remove(slot).is_some();
        self.version += u64::from(removed);
        removed
    }

    /// Every value with its slot, ordered by bucket, owner and key.
    pub fn entries(&self) -> impl Iterator<Item = (&Slot, &Entry)> {
        self.entries.iter()
    }

    /// Makes the next `n` commits and swaps answer `conflict`, as if somebody had been quicker.
    pub fn conflict_next(&mut self, n: u32) {
        self.conflicts = n;
    }

    /// How many of the conflicts of [`Self::conflict_next`] nobody has met yet.
    pub fn conflicts_left(&self) -> u32 {
        self.conflicts
    }

    /// While set, every operation answers `unavailable`.
    pub fn set_unavailable(&mut self, unavailable: bool) {
        self.unavailable = unavailable;
    }

    pub(crate) fn available(&self) -> Result<(), Error> {
        if self.unavailable { Err(Error::Unavailable) } else { Ok(()) }
    }

    fn version_of(&self, slot: &Slot) -> Option<u64> {
        self.entries.get(slot).map(|entry| entry.version)
    }

    fn forced_conflict(&mut self) -> Result<(), Error> {
        if self.conflicts == 0 {
            return Ok(());
        }
        self.conflicts -= 1;
        Err(Error::Conflict)
    }

    fn swap(&mut self, slot: Slot, expected: Option<u64>, value: Option<Vec<u8>>) -> Result<u64, Error> {
        self.forced_conflict()?;
        if self.version_of(&slot) != expected {
            return Err(Error::Conflict);
        }
        match value {
            Some(value) => Ok(self.put(slot, value)),
            None => {
                self.version += 1;
                self.entries.remove(&slot);
                Ok(self.version)
            }
        }
    }

    fn scan(&self, bucket: &Bucket, prefix: &str, after: Option<&str>, limit: u32) -> Page {
        // Every key with the prefix is at or after the prefix itself, so the later of the two is where the page begins.
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(bucket.slot(after)),
            _ => Bound::Included(bucket.slot(prefix)),
        };
        let mut page = Page { entries: Vec::new(), next: None };
        let mut bytes = 0;
        for (slot, entry) in self.entries.range((from, Bound::Unbounded)) {
            if slot.bucket != bucket.name || slot.owner != bucket.owner || !slot.key.starts_with(prefix) {
                break;
            }
            bytes += slot.key.len() + entry.value.len();
            let full = page.entries.len() == limit as usize || bytes > MAX_PAGE_BYTES;
            if let (true, Some((last, _))) = (full, page.entries.last()) {
                page.next = Some(last.clone());
                break;
            }
            page.entries.push((slot.key.clone(), entry.clone()));
        }
        page
    }

    /// Takes effect whole or not at all; the changes are for the registrar.
    pub(crate) fn commit(&mut self, transaction: Transaction) -> Result<Vec<Change>, Error> {
        self.forced_conflict()?;
        if transaction.reads.iter().any(|(slot, version)| self.version_of(slot) != *version) {
            return Err(Error::Conflict);
        }
        for (slot, value) in transaction.writes {
            match value {
                Some(value) => {
                    self.put(slot, value);
                }
                None => {
                    self.remove(&slot);
                }
            }
        }
        Ok(transaction.changes)
    }
}

/// An opened bucket.
#[allow(unreachable_pub, reason = "the generated bindings name it")]
pub struct Bucket {
    name: String,
    owner: Owner,
}

impl Bucket {
    fn slot(&self, key: &str) -> Slot {
        Slot { bucket: self.name.clone(), owner: self.owner.clone(), key: key.into() }
    }
}

/// What a transaction has seen and wants to write.
#[allow(unreachable_pub, reason = "the generated bindings name it")]
#[derive(Default)]
pub struct Transaction {
    reads: BTreeMap<Slot, Option<u64>>,
    writes: BTreeMap<Slot, Option<Vec<u8>>>,
    bytes: usize,
    changes: Vec<Change>,
}

impl Transaction {
    /// Adds a change of somebody's standing, to be in force when the transaction is.
    pub(crate) fn stage(&mut self, change: Change) -> Result<(), String> {
        if self.touched() >= MAX_TRANSACTION_KEYS {
            return Err(full());
        }
        self.changes.push(change);
        Ok(())
    }

    fn get(&mut self, store: &MemoryStore, slot: Slot) -> Result<Option<Vec<u8>>, Error> {
        if let Some(written) = self.writes.get(&slot) {
            return Ok(written.clone());
        }
        self.room(&slot)?;
        let entry = store.get(&slot);
        self.reads.entry(slot).or_insert(entry.map(|e| e.version));
        Ok(entry.map(|e| e.value.clone()))
    }

    fn write(&mut self, slot: Slot, value: Option<Vec<u8>>) -> Result<(), Error> {
        self.room(&slot)?;
        let bytes = self.bytes + slot.key.len() + value.as_ref().map_or(0, Vec::len);
        if bytes > MAX_TRANSACTION_BYTES {
            return Err(Error::TooLarge(MAX_TRANSACTION_BYTES as u64));
        }
        self.bytes = bytes;
        self.writes.insert(slot, value);
        Ok(())
    }

    fn touched(&self) -> usize {
        self.reads.len() + self.writes.len() + self.changes.len()
    }

    fn room(&self, slot: &Slot) -> Result<(), Error> {
        let known = self.reads.contains_key(slot) || self.writes.contains_key(slot);
        if known || self.touched() < MAX_TRANSACTION_KEYS { Ok(()) } else { Err(Error::Invalid(full())) }
    }
}

fn full() -> String {
    format!("a transaction can't touch more than {MAX_TRANSACTION_KEYS} keys")
}

fn check_bucket(name: &str) -> Result<(), Error> {
    let fine = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fine { Ok(()) } else { Err(Error::Invalid("a bucket's name must be 1 to 64 of a-z 0-9 -".into())) }
}

fn check_key(key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::Invalid("a key may not be empty".into()));
    }
    check_length(key)
}

fn check_length(key: &str) -> Result<(), Error> {
    if key.len() > MAX_KEY_BYTES { Err(Error::TooLarge(MAX_KEY_BYTES as u64)) } else { Ok(()) }
}

fn check_value(value: &[u8]) -> Result<(), Error> {
    if value.len() > MAX_VALUE_BYTES { Err(Error::TooLarge(MAX_VALUE_BYTES as u64)) } else { Ok(()) }
}

impl kv::Host for State {}

impl kv::HostBucket for State {
    fn open(&mut self, name: String, scope: Scope) -> Wasm<Result<Resource<Bucket>, Error>> {
        if let Err(error) = check_bucket(&name) {
            return Ok(Err(error));
        }
        let owner = match scope {
            Scope::Capsule => Owner::Capsule,
            Scope::Principal => Owner::Principal(self.caller.principal.clone()),
        };
        Ok(Ok(self.table.push(Bucket { name, owner })?))
    }

    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Wasm<Result<Option<Entry>, Error>> {
        let slot = self.table.get(&bucket)?.slot(&key);
        let store = &self.fakes.store;
        Ok(check_key(&key).and_then(|()| store.available()).map(|()| store.get(&slot).cloned()))
    }

    fn put(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Wasm<Result<u64, Error>> {
        let slot = self.table.get(&bucket)?.slot(&key);
        let store = &mut self.fakes.store;
        Ok(check_key(&key)
            .and_then(|()| check_value(&value))
            .and_then(|()| store.available())
            .map(|()| store.put(slot, value)))
    }

    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Wasm<Result<bool, Error>> {
        let slot = self.table.get(&bucket)?.slot(&key);
        let store = &mut self.fakes.store;
        Ok(check_key(&key).and_then(|()| store.available()).map(|()| store.remove(&slot)))
    }

    fn swap(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        expected: Option<u64>,
        value: Option<Vec<u8>>,
    ) -> Wasm<Result<u64, Error>> {
        let slot = self.table.get(&bucket)?.slot(&key);
        let store = &mut self.fakes.store;
        Ok(check_key(&key)
            .and_then(|()| check_value(value.as_deref().unwrap_or_default()))
            .and_then(|()| store.available())
            .and_then(|()| store.swap(slot, expected, value)))
    }

    fn scan(
        &mut self,
        bucket: Resource<Bucket>,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Wasm<Result<Page, Error>> {
        let bucket = self.table.get(&bucket)?;
        if !(1..=MAX_PAGE_ENTRIES).contains(&limit) {
            return Ok(Err(Error::Invalid(format!("a scan's limit must be 1 to {MAX_PAGE_ENTRIES}, not {limit}"))));
        }
        let store = &self.fakes.store;
        Ok(check_length(&prefix)
            .and_then(|()| check_length(after.as_deref().unwrap_or_default()))
            .and_then(|()| store.available())
            .map(|()| store.scan(bucket, &prefix, after.as_deref(), limit)))
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> Wasm<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl kv::HostTransaction for State {
    fn new(&mut self) -> Wasm<Resource<Transaction>> {
        Ok(self.table.push(Transaction::default())?)
    }

    fn get(
        &mut self,
        transaction: Resource<Transaction>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Wasm<Result<Option<Vec<u8>>, Error>> {
        let slot = self.table.get(&bucket)?.slot(&key);
        let transaction = self.table.get_mut(&transaction)?;
        let store = &self.fakes.store;
        Ok(check_key(&key).and_then(|()| store.available()).and_then(|()| transaction.get(store, slot)))
    }

    fn put(
        &mut self,
        transaction: Resource<Transaction>,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Wasm<Result<(), Error>> {
        let slot = self.table.get(&bucket)?.slot(&key);
        let transaction = self.table.get_mut(&transaction)?;
        Ok(check_key(&key).and_then(|()| check_value(&value)).and_then(|()| transaction.write(slot, Some(value))))
    }

    fn delete(
        &mut self,
        transaction: Resource<Transaction>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Wasm<Result<(), Error>> {
        let slot = self.table.get(&bucket)?.slot(&key);
        let transaction = self.table.get_mut(&transaction)?;
        Ok(check_key(&key).and_then(|()| transaction.write(slot, None)))
    }

    fn commit(&mut self, transaction: Resource<Transaction>) -> Wasm<Result<(), Error>> {
        let transaction = self.table.delete(transaction)?;
        let committed = self.fakes.store.available().and_then(|()| self.fakes.store.commit(transaction));
        Ok(committed.map(|changes| self.fakes.registrar.apply(changes)))
    }

    fn drop(&mut self, transaction: Resource<Transaction>) -> Wasm<()> {
        self.table.delete(transaction)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(key: &str) -> Slot {
        Slot::new("b", Owner::Capsule, key)
    }

    fn bucket() -> Bucket {
        Bucket { name: "b".into(), owner: Owner::Capsule }
    }

    #[test]
    fn a_commit_conflicts_when_what_it_read_has_changed_and_then_writes_nothing() {
        let mut store = MemoryStore::default();
        store.put(slot("a"), "1");
        let mut transaction = Transaction::default();
        assert_eq!(transaction.get(&store, slot("a")), Ok(Some(b"1".to_vec())));
        transaction.write(slot("b"), Some(b"2".to_vec())).unwrap();
        store.put(slot("a"), "1");
        assert_eq!(store.commit(transaction).err(), Some(Error::Conflict));
        assert!(store.get(&slot("b")).is_none());
    }

    #[test]
    fn a_commit_conflicts_when_what_it_found_missing_exists_now() {
        let mut store = MemoryStore::default();
        let mut transaction = Transaction::default();
        assert_eq!(transaction.get(&store, slot("a")), Ok(None));
        store.put(slot("a"), "1");
        assert_eq!(store.commit(transaction).err(), Some(Error::Conflict));
    }

    #[test]
    fn a_transaction_sees_its_own_writes_and_blind_writes_never_conflict() {
        let mut store = MemoryStore::default();
        let mut transaction = Transaction::default();
        transaction.write(slot("a"), Some(b"mine".to_vec())).unwrap();
        assert_eq!(transaction.get(&store, slot("a")), Ok(Some(b"mine".to_vec())));
        transaction.write(slot("gone"), None).unwrap();
        assert_eq!(transaction.get(&store, slot("gone")), Ok(None));
        store.put(slot("a"), "theirs");
        store.commit(transaction).unwrap();
        assert_eq!(store.get(&slot("a")).unwrap().value, b"mine");
    }

    #[test]
    fn forced_conflicts_are_met_once_each() {
        let mut store = MemoryStore::default();
        store.conflict_next(1);
        assert_eq!(store.commit(Transaction::default()).err(), Some(Error::Conflict));
        assert!(store.commit(Transaction::default()).is_ok());
    }

    #[test]
    fn versions_grow_and_swap_wants_the_current_one() {
        let mut store = MemoryStore::default();
        let first = store.swap(slot("a"), None, Some(b"1".to_vec())).unwrap();
        assert!(first > 0);
        assert_eq!(store.swap(slot("a"), None, Some(b"2".to_vec())), Err(Error::Conflict));
        let second = store.swap(slot("a"), Some(first), Some(b"2".to_vec())).unwrap();
        assert!(second > first);
        assert_eq!(store.swap(slot("a"), Some(first), None), Err(Error::Conflict));
        assert!(store.swap(slot("a"), Some(second), None).unwrap() > second);
        assert!(store.get(&slot("a")).is_none());
    }

    #[test]
    fn a_scan_pages_through_its_own_bucket_only() {
        let mut store = MemoryStore::default();
        for key in ["a", "p/1", "p/2", "p/3", "q"] {
            store.put(slot(key), key);
        }
        store.put(Slot::new("b", Owner::Principal("alice".into()), "p/4"), "other");
        store.put(Slot::new("c", Owner::Capsule, "p/5"), "other");
        let keys = |page: &Page| page.entries.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        let first = store.scan(&bucket(), "p/", None, 2);
        assert_eq!((keys(&first), first.next.as_deref()), (vec!["p/1".into(), "p/2".into()], Some("p/2")));
        let second = store.scan(&bucket(), "p/", first.next.as_deref(), 2);
        assert_eq!((keys(&second), second.next), (vec!["p/3".into()], None));
        assert_eq!(keys(&store.scan(&bucket(), "p/", Some("a"), 1)), ["p/1"]);
        assert_eq!(keys(&store.scan(&bucket(), "p/", Some("q"), 1)), Vec::<String>::new());
        assert_eq!(store.scan(&bucket(), "", None, 5).next, None);
    }

    #[test]
    fn a_page_ends_at_one_mebibyte_and_still_makes_progress() {
        let mut store = MemoryStore::default();
        for key in ["a", "b"] {
            store.put(slot(key), vec![0; MAX_VALUE_BYTES]);
        }
        let page = store.scan(&bucket(), "", None, 10);
        assert_eq!((page.entries.len(), page.next.as_deref()), (1, Some("a")));
    }

    #[test]
    fn bounds_are_those_of_the_contract() {
        assert!(check_bucket("invites-2").is_ok());
        for bad in ["", "A", "a_b", "a/b", &"a".repeat(65)] {
            assert!(matches!(check_bucket(bad), Err(Error::Invalid(_))), "{bad}");
        }
        assert!(matches!(check_key(""), Err(Error::Invalid(_))));
        assert_eq!(check_key(&"k".repeat(513)), Err(Error::TooLarge(512)));
        assert_eq!(check_value(&vec![0; MAX_VALUE_BYTES + 1]), Err(Error::TooLarge(1 << 20)));
        let mut transaction = Transaction::default();
        for n in 0..3 {
            transaction.write(slot(&n.to_string()), Some(vec![0; MAX_VALUE_BYTES])).unwrap();
        }
        assert_eq!(transaction.write(slot("x"), Some(vec![0; MAX_VALUE_BYTES])), Err(Error::TooLarge(4 << 20)));
        let mut transaction = Transaction::default();
        for n in 0..MAX_TRANSACTION_KEYS {
            transaction.write(slot(&n.to_string()), None).unwrap();
        }
        assert!(matches!(transaction.write(slot("x"), None), Err(Error::Invalid(_))));
        assert_eq!(transaction.write(slot("0"), None), Ok(()));
    }
}
