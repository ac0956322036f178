//! What a capsule sees of the store: named buckets in a namespace of its own, and optimistic transactions over them.
//!
//! Owns how a bucket's key becomes a key of the store, and the bounds of keys, values and transactions. A capsule can't
//! name another's namespace, and of a principal's buckets only its caller's: neither id is ever taken from it. Refuses
//! to know what the bytes mean.

use std::collections::BTreeMap;

use astrid_capsule::PrincipalId;

use crate::authority::Change;
use crate::store::{Commit, CommitError, Counted, Entry, ReadError, Store};

/// The longest key of a bucket, in bytes.
pub const MAX_KEY: usize = 512;
/// The largest value, in bytes.
pub const MAX_VALUE: usize = 1 << 20;
/// The most bytes that one transaction may write.
pub const MAX_TRANSACTION: usize = 4 << 20;
/// The most keys that one transaction may touch.
pub const MAX_TOUCHED: usize = 4096;
/// The most bytes in a page of a scan.
const MAX_PAGE: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    Conflict,
    TooLarge { limit: u64 },
    Invalid(String),
    Quota,
    Unavailable,
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => Error::Conflict,
            CommitError::Quota => Error::Quota,
            CommitError::Overloaded | CommitError::Unavailable => Error::Unavailable,
        }
    }
}

/// What counts against a principal's quota in its calls of one capsule: what its own buckets there hold. Everything
/// in a capsule's own buckets counts against nobody.
pub fn counted(capsule: &str, owner: &PrincipalId, limit: u64) -> Counted {
    let prefix = [b"c", capsule.as_bytes(), owner.as_str().as_bytes(), b""].join(&0);
    Counted { prefix, counter: counter(owner), limit }
}

/// Bytes that a principal's buckets hold in all capsules.
pub fn held(store: &Store, owner: &PrincipalId) -> Result<u64, ReadError> {
    store.count(&counter(owner))
}

fn counter(owner: &PrincipalId) -> Vec<u8> {
    [b"h\0held\0", owner.as_str().as_bytes()].concat()
}

/// Deletes everything that a capsule has stored, its own and every principal's, and counts it off their quotas.
pub async fn purge(store: &Store, capsule: &str) -> Result<(), Error> {
    let prefix = [b"c", capsule.as_bytes(), b""].join(&0);
    loop {
        let page = store.scan(&prefix, None, MAX_TOUCHED, MAX_TRANSACTION).map_err(|_| Error::Unavailable)?;
        let Some((first, _)) = page.entries.first() else { return Ok(()) };
        // One owner at a time: a commit counts for one.
        let owner = |key: &[u8]| key[prefix.len()..].split(|b| *b == 0).next().unwrap_or_default().to_vec();
        let whose = owner(first);
        let mine = page.entries.iter().map(|(key, _)| key).take_while(|key| owner(key) == whose);
        let writes = mine.map(|key| (key.clone(), None)).collect();
        let principal = std::str::from_utf8(&whose).ok().and_then(|id| PrincipalId::parse(id).ok());
        let counted = principal.map(|principal| counted(capsule, &principal, u64::MAX));
        store.commit(Commit { writes, counted, ..Commit::default() }).await?;
    }
}

/// A bucket: a prefix of the store's keys.
#[derive(Debug, Clone)]
pub struct Bucket {
    prefix: Vec<u8>,
}

/// Part of a bucket, keys without its prefix.
#[derive(Debug)]
pub struct Page {
    pub entries: Vec<(String, Entry)>,
    pub more: bool,
}

impl Bucket {
    /// `owner`: the principal whose bucket it is, or none for the capsule's own.
    pub fn open(capsule: &str, owner: Option<&PrincipalId>, name: &str) -> Result<Self, Error> {
        let fine = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fine {
            return Err(Error::Invalid("a bucket's name must be 1 to 64 of a-z 0-9 -".into()));
        }
        // No part can hold a NUL, so no two buckets share a prefix.
        let owner = owner.map_or("", |o| o.as_str());
        Ok(Self { prefix: [b"c", capsule.as_bytes(), owner.as_bytes(), name.as_bytes(), b""].join(&0) })
    }

    fn key(&self, key: &str) -> Result<Vec<u8>, Error> {
        if key.is_empty() {
            return Err(Error::Invalid("a key can't be empty".into()));
        }
        if key.len() > MAX_KEY {
            return Err(Error::TooLarge { limit: MAX_KEY as u64 });
        }
        Ok([&self.prefix, key.as_bytes()].concat())
    }

    pub fn get(&self, store: &Store, key: &str) -> Result<Option<Entry>, Error> {
        store.get(&self.key(key)?).map_err(|_| Error::Unavailable)
    }

    /// What [`Store::commit`] has to do for a put (or, without a value, a delete), with what must hold before.
    pub fn write(&self, key: &str, value: Option<Vec<u8>>, expected: Option<Option<u64>>) -> Result<Commit, Error> {
        check_value(value.as_deref())?;
        let key = self.key(key)?;
        let expect = expected.map(|version| (key.clone(), version)).into_iter().collect();
        Ok(Commit { expect, writes: vec![(key, value)], ..Commit::default() })
    }

    /// Deletes what is there, and says whether anything was.
    pub async fn delete(&self, store: &Store, key: &str, counted: &Counted) -> Result<bool, Error> {
        // Between looking and deleting somebody may write; then look again. Each round somebody else made progress.
        loop {
            let Some(entry) = self.get(store, key)? else { return Ok(false) };
            let commit = self.write(key, None, Some(Some(entry.version)))?;
            match store.commit(Commit { counted: Some(counted.clone()), ..commit }).await {
                Ok(_) => return Ok(true),
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub fn scan(&self, store: &Store, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page, Error> {
        if !(1..=1000).contains(&limit) {
            return Err(Error::Invalid(format!("limit = {limit} must be 1 to 1000")));
        }
        if prefix.len() > MAX_KEY || after.is_some_and(|a| a.len() > MAX_KEY) {
            return Err(Error::TooLarge { limit: MAX_KEY as u64 });
        }
        let full = [&self.prefix, prefix.as_bytes()].concat();
        let after = after.map(|a| [&self.prefix, a.as_bytes()].concat());
        let page = store.scan(&full, after.as_deref(), limit as usize, MAX_PAGE).map_err(|_| Error::Unavailable)?;
        let entries = page
            .entries
            .into_iter()
            .map(|(key, entry)| (String::from_utf8_lossy(&key[self.prefix.len()..]).into_owned(), entry))
            .collect();
        Ok(Page { entries, more: page.more })
    }
}

fn check_value(value: Option<&[u8]>) -> Result<(), Error> {
    if value.is_some_and(|v| v.len() > MAX_VALUE) { Err(Error::TooLarge { limit: MAX_VALUE as u64 }) } else { Ok(()) }
}

/// Reads and writes that take effect together. Holds no lock: what it read is expected at the commit.
#[derive(Debug, Default)]
pub struct Transaction {
    read: BTreeMap<Vec<u8>, Option<u64>>,
    written: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    changes: Vec<Change>,
    ended: Vec<Ended>,
}

/// That a principal's session has ended, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub principal: PrincipalId,
    /// None: all that `why` tells.
    pub session: Option<String>,
    pub why: String,
}

impl Transaction {
    pub fn get(&mut self, store: &Store, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let key = bucket.key(key)?;
        if let Some(own) = self.written.get(&key) {
            return Ok(own.clone());
        }
        self.room(&key)?;
        let entry = store.get(&key).map_err(|_| Error::Unavailable)?;
        // The first read counts: what it saw must still hold, whatever a later one sees.
        self.read.entry(key).or_insert(entry.as_ref().map(|e| e.version));
        Ok(entry.map(|e| e.value))
    }

    pub fn put(&mut self, bucket: &Bucket, key: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        check_value(value.as_deref())?;
        let key = bucket.key(key)?;
        self.room(&key)?;
        self.write(key, value)
    }

    /// Adds a change of the authority, in force when the commit is durable.
    pub fn stage(&mut self, change: Change) -> Result<(), String> {
        let full = |_| format!("a transaction can't touch more than {MAX_TOUCHED} keys or {MAX_TRANSACTION} bytes");
        let (key, value) = change.to_write();
        self.room(&key).and_then(|()| self.write(key, value)).map_err(full)?;
        self.changes.push(change);
        Ok(())
    }

    /// Adds what is to be recorded once the commit is durable. It counts as a key.
    pub fn record(&mut self, ended: Ended) -> Result<(), String> {
        self.room(b"").map_err(|_| format!("a transaction can't touch more than {MAX_TOUCHED} keys"))?;
        self.ended.push(ended);
        Ok(())
    }

    /// What the store has to do, the changes that are in force once it has, and what is to be recorded then.
    pub fn finish(self) -> (Commit, Vec<Change>, Vec<Ended>) {
        let (expect, writes) = (self.read.into_iter().collect(), self.written.into_iter().collect());
        (Commit { expect, writes, ..Commit::default() }, self.changes, self.ended)
    }

    fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), Error> {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        if self.bytes > MAX_TRANSACTION {
            return Err(Error::TooLarge { limit: MAX_TRANSACTION as u64 });
        }
        self.written.insert(key, value);
        Ok(())
    }

    fn room(&self, key: &[u8]) -> Result<(), Error> {
        let touched = self.read.len() + self.written.len() + self.ended.len();
        if touched >= MAX_TOUCHED && !self.read.contains_key(key) && !self.written.contains_key(key) {
            return Err(Error::Invalid(format!("a transaction can't touch more than {MAX_TOUCHED} keys")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Config;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb"), &Config::default()).unwrap();
        (dir, store)
    }

    fn alice() -> PrincipalId {
        PrincipalId::parse("alice").unwrap()
    }

    fn put(store: &Store, bucket: &Bucket, key: &str, value: &[u8]) {
        store.commit_blocking(bucket.write(key, Some(value.to_vec()), None).unwrap()).unwrap();
    }

    #[test]
    fn no_bucket_sees_anothers_keys() {
        let (_dir, store) = store();
        let open = |capsule, owner: Option<&PrincipalId>, name| Bucket::open(capsule, owner, name).unwrap();
        let alice = alice();
        let buckets = [
            open("notes", None, "a"),
            open("notes", None, "ab"),
            open("notes", Some(&alice), "a"),
            open("note", None, "a"),
            open("notes", Some(&PrincipalId::parse("a").unwrap()), "a"),
        ];
        for (n, bucket) in buckets.iter().enumerate() {
            put(&store, bucket, "k", &[n as u8]);
        }
        for (n, bucket) in buckets.iter().enumerate() {
            assert_eq!(bucket.get(&store, "k").unwrap().unwrap().value, [n as u8]);
            assert_eq!(bucket.scan(&store, "", None, 10).unwrap().entries.len(), 1);
        }
    }

    #[test]
    fn hostile_names_keys_and_sizes_are_refused() {
        let (_dir, store) = store();
        for name in ["", "A", "a\0b", "../x", &"a".repeat(65)] {
            assert!(matches!(Bucket::open("c", None, name), Err(Error::Invalid(_))), "{name:?}");
        }
        let bucket = Bucket::open("c", None, "b").unwrap();
        assert!(matches!(bucket.get(&store, ""), Err(Error::Invalid(_))));
        assert_eq!(bucket.get(&store, &"k".repeat(513)), Err(Error::TooLarge { limit: 512 }));
        assert!(bucket.get(&store, "a\0b").unwrap().is_none());
        assert!(matches!(bucket.write("k", Some(vec![0; MAX_VALUE + 1]), None), Err(Error::TooLarge { .. })));
        for limit in [0, 1001, u32::MAX] {
            assert!(matches!(bucket.scan(&store, "", None, limit), Err(Error::Invalid(_))));
        }
        let mut transaction = Transaction::default();
        let full = (0..10).find_map(|n| transaction.put(&bucket, &n.to_string(), Some(vec![0; MAX_VALUE])).err());
        assert_eq!(full, Some(Error::TooLarge { limit: MAX_TRANSACTION as u64 }));
        let mut transaction = Transaction::default();
        let full = (0..=MAX_TOUCHED).find_map(|n| transaction.get(&store, &bucket, &n.to_string()).err());
        assert!(matches!(full, Some(Error::Invalid(_))));
    }

    #[test]
    fn a_transaction_sees_its_own_writes_and_fails_when_what_it_read_has_changed() {
        let (_dir, store) = store();
        let bucket = Bucket::open("c", None, "b").unwrap();
        put(&store, &bucket, "a", b"1");
        let mut transaction = Transaction::default();
        assert_eq!(transaction.get(&store, &bucket, "a").unwrap().unwrap(), b"1");
        assert_eq!(transaction.get(&store, &bucket, "none").unwrap(), None);
        transaction.put(&bucket, "a", Some(b"2".to_vec())).unwrap();
        assert_eq!(transaction.get(&store, &bucket, "a").unwrap().unwrap(), b"2");
        put(&store, &bucket, "none", b"now there");
        assert_eq!(store.commit_blocking(transaction.finish().0), Err(CommitError::Conflict));
        assert_eq!(bucket.get(&store, "a").unwrap().unwrap().value, b"1");
    }

    #[test]
    fn bytes_of_a_principals_buckets_are_counted_exactly_and_a_write_over_the_quota_changes_nothing() {
        let (dir, store) = store();
        let alice = alice();
        let own = Bucket::open("notes", Some(&alice), "b").unwrap();
        let elsewhere = Bucket::open("other", Some(&alice), "b").unwrap();
        let shared = Bucket::open("notes", None, "b").unwrap();
        let write = |capsule, bucket: &Bucket, key: &str, len: Option<usize>, limit| {
            let commit = bucket.write(key, len.map(|len| vec![0; len]), None).unwrap();
            store.commit_blocking(Commit { counted: Some(counted(capsule, &alice, limit)), ..commit })
        };
        // A name, a separator and a key, three bytes in all, and the value.
        assert!(write("notes", &own, "k", Some(7), 20).is_ok());
        assert_eq!(held(&store, &alice).unwrap(), 10);
        assert!(write("notes", &own, "k", Some(17), 20).is_ok(), "replacing counts the difference");
        assert_eq!(write("notes", &own, "k", Some(18), 20), Err(CommitError::Quota));
        assert_eq!(write("other", &elsewhere, "k", Some(0), 20), Err(CommitError::Quota), "over all capsules");
        assert_eq!(own.get(&store, "k").unwrap().unwrap().value.len(), 17);
        assert!(write("notes", &shared, "k", Some(1000), 20).is_ok(), "a capsule's own bytes count against nobody");
        assert!(write("other", &elsewhere, "k", Some(9), 40).is_ok());
        assert_eq!(held(&store, &alice).unwrap(), 32);
        // The quota was lowered: what shrinks still works, what grows does not, and a transaction is judged as a whole.
        assert!(write("notes", &own, "k", Some(5), 1).is_ok());
        assert_eq!(write("notes", &own, "k", Some(6), 1), Err(CommitError::Quota));
        let mut transaction = Transaction::default();
        transaction.put(&own, "k", None).unwrap();
        transaction.put(&own, "l", Some(vec![0; 5])).unwrap();
        let commit = Commit { counted: Some(counted("notes", &alice, 1)), ..transaction.finish().0 };
        assert!(store.commit_blocking(commit).is_ok());
        assert_eq!(held(&store, &alice).unwrap(), 20);
        assert!(write("other", &elsewhere, "k", None, 1).is_ok());
        drop(store);
        let store = Store::open(&dir.path().join("store.redb"), &Config::default()).unwrap();
        assert_eq!(held(&store, &alice).unwrap(), 8);
    }

    proptest::proptest! {
        /// Whatever is written and deleted in whatever batches: the counter is the sum of what is there, and never above
        /// the limit.
        #[test]
        fn the_count_is_what_a_scan_finds(
            steps in proptest::collection::vec((0u8..6, proptest::option::of(0usize..40), 0u8..2), 1..40)
        ) {
            let (_dir, store) = store();
            let alice = alice();
            let own = Bucket::open("notes", Some(&alice), "b").unwrap();
            let mut pending = Vec::new();
            for (key, len, wait) in steps {
                let commit = own.write(&key.to_string(), len.map(|len| vec![1; len]), None).unwrap();
                let commit = Commit { counted: Some(counted("notes", &alice, 100)), ..commit };
                if wait == 0 {
                    let _ = store.commit_blocking(commit);
                } else {
                    pending.push(commit);
                }
                if pending.len() == 3 {
                    std::thread::scope(|scope| {
                        for commit in pending.drain(..) {
                            let store = &store;
                            scope.spawn(move || store.commit_blocking(commit));
                        }
                    });
                }
                let page = own.scan(&store, "", None, 1000).unwrap();
                let sum: usize = page.entries.iter().map(|(k, e)| 2 + k.len() + e.value.len()).sum();
                proptest::prop_assert_eq!(held(&store, &alice).unwrap(), sum as u64);
                proptest::prop_assert!(sum <= 100);
            }
        }
    }

    #[tokio::test]
    async fn of_many_who_delete_one_key_exactly_one_is_told_that_it_was_there() {
        let (_dir, store) = store();
        let store = std::sync::Arc::new(store);
        let bucket = Bucket::open("c", None, "b").unwrap();
        store.commit(bucket.write("k", Some(b"v".to_vec()), None).unwrap()).await.unwrap();
        let deletes = (0..20).map(|_| {
            let (store, bucket) = (store.clone(), bucket.clone());
            tokio::spawn(async move { bucket.delete(&store, "k", &counted("c", &alice(), 0)).await.unwrap() })
        });
        let mut told = 0;
        for delete in deletes.collect::<Vec<_>>() {
            told += usize::from(delete.await.unwrap());
        }
        assert_eq!(told, 1);
    }

    #[test]
    fn scanning_pages_through_everything_once() {
        let (_dir, store) = store();
        let bucket = Bucket::open("c", None, "b").unwrap();
        for n in 0..25 {
            put(&store, &bucket, &format!("k{n:02}"), b"v");
        }
        put(&store, &bucket, "other", b"v");
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = bucket.scan(&store, "k", after.as_deref(), 10).unwrap();
            seen.extend(page.entries.iter().map(|(k, _)| k.clone()));
            if !page.more {
                break;
            }
            after = seen.last().cloned();
        }
        assert_eq!(seen, (0..25).map(|n| format!("k{n:02}")).collect::<Vec<_>>());
    }
}
