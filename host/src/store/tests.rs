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
fn what_was_acknowledged_is_there_after_reopening_and_versions_go_on() {
    let (_folder, path) = folder();
    let store = open(&path);
    assert_eq!(store.commit_blocking(put(b"a", b"1")), Ok(1));
    assert_eq!(store.commit_blocking(put(b"b", b"")), Ok(2));
    assert_eq!(store.commit_blocking(Commit { writes: vec![(b"a".to_vec(), None)], ..Commit::default() }), Ok(3));
    drop(store);

    let store = open(&path);
    assert_eq!(store.get(b"a").unwrap(), None);
    assert_eq!(store.get(b"b").unwrap(), Some(Entry { value: vec![], version: 2 }));
    assert_eq!(store.commit_blocking(put(b"a", b"2")), Ok(4));
    assert_eq!(store.get(b"a").unwrap(), Some(Entry { value: b"2".to_vec(), version: 4 }));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_commit_that_expects_another_version_writes_nothing() {
    let (_folder, path) = folder();
    let store = open(&path);
    let first = store.commit_blocking(swap(b"a", None, b"1")).unwrap();
    for expected in [None, Some(0), Some(first + 1)] {
        let mut commit = swap(b"a", expected, b"2");
        commit.writes.push((b"b".to_vec(), Some(vec![])));
        commit.then = Some(Box::new(|_| panic!("a conflicting commit has no consequence")));
        assert_eq!(store.commit_blocking(commit), Err(CommitError::Conflict));
    }
    assert_eq!(store.commit_blocking(swap(b"b", Some(first), b"")), Err(CommitError::Conflict));
    assert_eq!(store.get(b"b").unwrap(), None);
    assert_eq!(store.get(b"a").unwrap(), Some(Entry { value: b"1".to_vec(), version: first }));
    let second = store.commit_blocking(swap(b"a", Some(first), b"2")).unwrap();
    assert!(second > first);
    // An expectation need not concern what is written.
    let mut commit = put(b"b", b"3");
    commit.expect = vec![(b"a".to_vec(), Some(second)), (b"c".to_vec(), None)];
    store.commit_blocking(commit).unwrap();
}

#[test]
fn within_a_batch_earlier_commits_count_and_a_conflict_disturbs_nobody() {
    let (_folder, path) = folder();
    let store = open(&path);
    let release = hold(&store);
    let batch = [
        swap(b"a", None, b"1"),
        swap(b"a", None, b"2"),
        swap(b"a", Some(2), b"3"),
        swap(b"a", Some(2), b"4"),
        put(b"b", b"5"),
        Commit { writes: vec![(b"c".to_vec(), Some(vec![])), (b"c".to_vec(), None)], ..Commit::default() },
        swap(b"c", None, b"6"),
    ];
    let receivers: Vec<_> = batch.into_iter().map(|commit| store.submit(commit).unwrap()).collect();
    drop(release);
    let answers: Vec<_> = receivers.into_iter().map(|receiver| receiver.blocking_recv().unwrap()).collect();
    let conflict = Err(CommitError::Conflict);
    assert_eq!(answers, [Ok(2), conflict, Ok(3), conflict, Ok(4), Ok(5), Ok(6)]);
    let page = store.scan(b"", None, 9, 999).unwrap();
    let values: Vec<_> = page.entries.iter().map(|(_, entry)| entry.value.as_slice()).collect();
    assert_eq!(values, [b"3", b"5", b"6"]);
}

#[test]
fn scans_stay_in_their_prefix_and_within_their_limits() {
    let (_folder, path) = folder();
    let store = open(&path);
    let all: [&[u8]; 8] = [b"", b"a", b"a\x00", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\x01"];
    let writes = all.iter().map(|key| (key.to_vec(), Some(vec![7; 10]))).collect();
    store.commit_blocking(Commit { writes, ..Commit::default() }).unwrap();
    let scan = |prefix: &[u8], after: Option<&[u8]>, limit, max_bytes| {
        let page = store.scan(prefix, after, limit, max_bytes).unwrap();
        (keys(&page).iter().map(|key| key.to_vec()).collect::<Vec<_>>(), page.more)
    };
    let of = |range: std::ops::Range<usize>, more| (all[range].iter().map(|key| key.to_vec()).collect(), more);

    assert_eq!(scan(b"", None, 100, 1000), of(0..8, false));
    assert_eq!(scan(b"a", None, 100, 1000), of(1..5, false));
    assert_eq!(scan(b"a\xff", None, 100, 1000), of(3..5, false));
    assert_eq!(scan(b"\xff", None, 100, 1000), of(6..8, false));
    assert_eq!(scan(b"\xff\xff\xff", None, 100, 1000), of(0..0, false));
    assert_eq!(scan(b"c", None, 100, 1000), of(0..0, false));

    assert_eq!(scan(b"a", Some(b"a"), 100, 1000), of(2..5, false));
    assert_eq!(scan(b"a", Some(b"a\x00\x00"), 100, 1000), of(3..5, false));
    assert_eq!(scan(b"a", Some(b"a\xff\xff"), 100, 1000), of(0..0, false));
    assert_eq!(scan(b"a", Some(b""), 100, 1000), of(1..5, false), "before the prefix is from its start");
    assert_eq!(scan(b"a", Some(b"z"), 100, 1000), of(0..0, false), "after the prefix is nothing");

    assert_eq!(scan(b"a", None, 3, 1000), of(1..4, true));
    assert_eq!(scan(b"a", None, 4, 1000), of(1..5, false));
    assert_eq!(scan(b"a", None, 0, 1000), of(0..0, true));
    assert_eq!(scan(b"c", None, 0, 1000), of(0..0, false));
    // `a` and ten bytes, `a\0` and ten bytes: 23.
    assert_eq!(scan(b"a", None, 100, 23), of(1..3, true));
    assert_eq!(scan(b"a", None, 100, 22), of(1..2, true));
    assert_eq!(scan(b"a", None, 100, 0), of(1..2, true), "one is always given");
}

#[test]
fn a_second_open_of_the_same_file_is_refused_until_the_first_is_closed() {
    let (_folder, path) = folder();
    let store = open(&path);
    let error = Store::open(&path, &Config::default()).err().unwrap();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    store.close();
    store.close();
    open(&path);
}

#[test]
fn a_closed_store_finishes_what_waits_and_refuses_the_rest() {
    let (_folder, path) = folder();
    let store = Arc::new(open(&path));
    let release = hold(&store);
    let waiting = store.submit(put(b"a", b"1")).unwrap();
    let closing = Arc::clone(&store);
    let closing = thread::spawn(move || closing.close());
    while store.submit(put(b"b", b"")).is_ok() {
        thread::yield_now();
    }
    drop(release);
    closing.join().unwrap();
    assert_eq!(waiting.blocking_recv().unwrap(), Ok(2));
    assert_eq!(store.commit_blocking(put(b"c", b"")), Err(CommitError::Unavailable));
    assert!(matches!(store.get(b"a"), Err(ReadError::Unavailable)));
    assert_eq!(open(&path).get(b"a").unwrap().unwrap().value, b"1");
}

#[test]
fn a_store_that_its_own_writer_drops_last_closes() {
    let (_folder, path) = folder();
    let store = Arc::new(open(&path));
    let (release, held) = mpsc::channel::<()>();
    let last = Arc::clone(&store);
    let then: Then = Box::new(move |_| {
        let _ = held.recv();
        drop(last);
    });
    let answer = store.submit(Commit { then: Some(then), ..put(b"a", b"1") }).unwrap();
    drop(store);
    drop(release);
    assert_eq!(answer.blocking_recv().unwrap(), Ok(1));
    let store = loop {
        match Store::open(&path, &Config::default()) {
            Err(OpenError::Locked { .. }) => thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    assert_eq!(store.get(b"a").unwrap().unwrap().version, 1);
}

#[test]
fn files_that_are_no_store_are_refused_by_name_and_left_alone() {
    let (folder, path) = folder();
    let refused = |contents: &[u8], want: &str| {
        fs::write(&path, contents).unwrap();
        let error = Store::open(&path, &Config::default()).err().unwrap().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains(want), "{error}");
        assert_eq!(fs::read(&path).unwrap(), contents);
        fs::remove_file(&path).unwrap();
    };
    refused(b"", "it is empty");
    refused(b"SQLite format 3\0", "is not a store of this program");
    refused(&[0; 100_000], "is not a store of this program");

    let error = Store::open(folder.path(), &Config::default()).err().unwrap().to_string();
    assert!(error.contains("directory"), "{error}");
    let error = Store::open(&path.join("x/y"), &Config::default()).err().unwrap().to_string();
    assert!(error.contains("check the disk, the folder"), "{error}");

    let other = Database::create(&path).unwrap();
    let transaction = other.begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("other")).unwrap();
    transaction.commit().unwrap();
    drop(other);
    let error = Store::open(&path, &Config::default()).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[test]
fn a_truncated_or_overwritten_file_is_refused_by_name() {
    let (_folder, path) = folder();
    let store = open(&path);
    for n in 0..100u32 {
        store.commit_blocking(put(&n.to_be_bytes(), &[7; 4000])).unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    let mut overwritten = whole.clone();
    overwritten[9..4096].fill(0x5a);
    for damaged in [&whole[..5], &whole[..64], &whole[..5000], &whole[..whole.len() / 2], &overwritten] {
        fs::write(&path, damaged).unwrap();
        let error = Store::open(&path, &Config::default()).err().unwrap();
        assert!(matches!(error, OpenError::Foreign { .. } | OpenError::Damaged { .. }), "{error}");
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(open(&path).scan(b"", None, 1000, 1 << 20).unwrap().entries.len(), 100);
}

#[test]
fn a_newer_format_is_refused_with_both_numbers() {
    let (_folder, path) = folder();
    open(&path);
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(file::META).unwrap().insert(file::FORMAT, file::CURRENT_FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open(&path, &Config::default()).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 2, .. }), "{error}");
    assert!(error.to_string().contains("has format 2, and this program knows 1 at most"), "{error}");
}

#[test]
fn a_creation_that_was_cut_short_is_begun_again() {
    let (folder, path) = folder();
    let unfinished = folder.path().join("store.redb.new");
    fs::write(&unfinished, [0; 20_000]).unwrap();
    let store = open(&path);
    store.commit_blocking(put(b"a", b"1")).unwrap();
    assert!(!unfinished.exists());
}

#[test]
fn a_file_that_others_could_read_becomes_private() {
    let (_folder, path) = folder();
    open(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    open(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_callers_that_increment_one_counter_lose_no_increment() {
    const CALLERS: u64 = 64;
    const INCREMENTS: u64 = 20;
    let (_folder, path) = folder();
    let store = Arc::new(open(&path));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut done = 0;
                while done < INCREMENTS {
                    let now = store.get(b"counter").unwrap();
                    let count = now.as_ref().map_or(0, |e| u64::from_le_bytes(*e.value.first_chunk().unwrap()));
                    let next = swap(b"counter", now.map(|entry| entry.version), &(count + 1).to_le_bytes());
                    match store.commit(next).await {
                        Ok(_) => done += 1,
                        Err(error) => assert_eq!(error, CommitError::Conflict),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(store.get(b"counter").unwrap().unwrap().value, (CALLERS * INCREMENTS).to_le_bytes());
}

#[test]
fn what_follows_a_commit_runs_in_order_when_it_is_durable_and_before_its_answer() {
    let (_folder, path) = folder();
    let store = Arc::new(open(&path));
    let order = Arc::new(Mutex::new(Vec::new()));
    let release = hold(&store);
    let receivers: Vec<_> = (0..100u8)
        .map(|n| {
            let (order, reader) = (Arc::clone(&order), Arc::clone(&store));
            let then: Then = Box::new(move |version| {
                assert_eq!(reader.get(&[n]).unwrap().unwrap().version, version);
                order.lock().unwrap().push((n, version));
            });
            store.submit(Commit { then: Some(then), ..put(&[n], b"") }).unwrap()
        })
        .collect();
    assert!(order.lock().unwrap().is_empty());
    drop(release);
    for (n, receiver) in receivers.into_iter().enumerate() {
        let version = receiver.blocking_recv().unwrap().unwrap();
        assert_eq!(order.lock().unwrap()[n], (n as u8, version));
    }
}

#[test]
fn a_panic_after_a_commit_stops_neither_its_answer_nor_the_writer() {
    let (_folder, path) = folder();
    let store = open(&path);
    let panicking = Commit { then: Some(Box::new(|_| panic!("on purpose"))), ..put(b"a", b"1") };
    assert_eq!(store.commit_blocking(panicking), Ok(1));
    assert_eq!(store.commit_blocking(put(b"a", b"2")), Ok(2));
}

#[test]
fn a_full_queue_refuses_at_once_and_keeps_what_it_took() {
    let (_folder, path) = folder();
    let by_count = Config { queue: 3, ..Config::default() };
    let by_bytes = Config { queue_bytes: 3 << 20, ..Config::default() };
    for (config, size) in [(by_count, 1), (by_bytes, 1 << 20)] {
        let store = Store::open(&path, &config).unwrap();
        let release = hold(&store);
        let waiting: Vec<_> = (0..3u8).map(|n| store.submit(put(&[n], &vec![n; size])).unwrap()).collect();
        assert_eq!(store.commit_blocking(put(b"x", b"")), Err(CommitError::Overloaded));
        drop(release);
        for receiver in waiting {
            receiver.blocking_recv().unwrap().unwrap();
        }
        store.commit_blocking(put(b"y", b"")).unwrap();
        assert_eq!(store.get(b"x").unwrap(), None);
        assert_eq!(store.get(&[2]).unwrap().unwrap().value.len(), size);
    }
}

#[test]
fn a_caller_that_goes_away_leaves_a_whole_commit() {
    let (_folder, path) = folder();
    let store = open(&path);
    let release = hold(&store);
    let writes = (0..50u8).map(|n| (vec![n], Some(vec![]))).collect();
    drop(store.submit(Commit { writes, ..Commit::default() }).unwrap());
    drop(release);
    store.commit_blocking(put(b"z", b"")).unwrap();
    assert_eq!(store.scan(b"", None, 100, 1 << 20).unwrap().entries.len(), 51);
}

#[test]
fn a_batch_holds_no_more_commits_than_configured() {
    let (_folder, path) = folder();
    let store = Arc::new(Store::open(&path, &Config { max_batch: 2, ..Config::default() }).unwrap());
    let release = hold(&store);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let receivers: Vec<_> = (0..5u8)
        .map(|n| {
            let (reader, seen) = (Arc::clone(&store), Arc::clone(&seen));
            let then: Then = Box::new(move |_| {
                seen.lock().unwrap().push(reader.scan(b"", None, 100, 1000).unwrap().entries.len());
            });
            store.submit(Commit { then: Some(then), ..put(&[n], b"") }).unwrap()
        })
        .collect();
    drop(release);
    for receiver in receivers {
        receiver.blocking_recv().unwrap().unwrap();
    }
    assert_eq!(*seen.lock().unwrap(), [2, 2, 4, 4, 5]);
}

/// A disk whose operations fail on demand.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    switches: Arc<Switches>,
}

#[derive(Debug, Default)]
struct Switches {
    fails: AtomicBool,
    sync_fails: AtomicBool,
}

impl Disk {
    fn check(&self, switch: &AtomicBool) -> io::Result<()> {
        if switch.load(Ordering::SeqCst) { Err(io::Error::other("disk on fire")) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.check(&self.switches.fails)?;
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(&self.switches.fails)?;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check(&self.switches.fails)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check(&self.switches.fails)?;
        self.file.sync_data()?;
        self.check(&self.switches.sync_fails)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(&self.switches.fails)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, redb::BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), redb::BackendError> {
        self.file.unlock_range(start, end)
    }
}

fn on_disk(path: &Path) -> (Store, Arc<Switches>) {
    let switches = Arc::new(Switches::default());
    let of_disk = Arc::clone(&switches);
    let wrap = move |file| Disk { file, switches: Arc::clone(&of_disk) };
    (Store::open_with(path, &Config::default(), wrap).unwrap(), switches)
}

fn until_it_works(store: &Store, commit: impl Fn() -> Commit) -> u64 {
    loop {
        match store.commit_blocking(commit()) {
            Ok(version) => return version,
            Err(error) => assert_eq!(error, CommitError::Unavailable),
        }
        thread::yield_now();
    }
}

#[test]
fn a_failing_disk_fails_its_commits_and_the_store_goes_on_when_it_works_again() {
    let (_folder, path) = folder();
    let (store, disk) = on_disk(&path);
    let acknowledged = store.commit_blocking(put(b"a", b"1")).unwrap();
    disk.fails.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let commit = Commit { then: Some(Box::new(|_| panic!("it was not written"))), ..put(b"a", b"2") };
        assert_eq!(store.commit_blocking(commit), Err(CommitError::Unavailable));
    }
    disk.fails.store(false, Ordering::SeqCst);
    let version = until_it_works(&store, || put(b"b", b"3"));
    assert!(version > acknowledged);
    assert_eq!(store.get(b"a").unwrap(), Some(Entry { value: b"1".to_vec(), version: acknowledged }));
    drop(store);
    assert_eq!(open(&path).get(b"b").unwrap().unwrap().version, version);
}

#[test]
fn reads_come_back_after_a_disk_failure_without_any_commit() {
    let (_folder, path) = folder();
    let (store, disk) = on_disk(&path);
    store.commit_blocking(put(b"a", b"1")).unwrap();
    disk.fails.store(true, Ordering::SeqCst);
    assert_eq!(store.commit_blocking(put(b"a", b"2")), Err(CommitError::Unavailable));
    // The answer comes before the writer has let go of the file, so an early read may still succeed from its cache.
    while store.get(b"a").is_ok() {
        thread::yield_now();
    }
    disk.fails.store(false, Ordering::SeqCst);
    while store.get(b"a").is_err() {
        thread::yield_now();
    }
    assert_eq!(store.get(b"a").unwrap().unwrap().value, b"1");
}

#[test]
fn a_commit_that_the_file_holds_though_its_sync_failed_is_followed_up_and_its_version_not_reused() {
    let (_folder, path) = folder();
    let (store, disk) = on_disk(&path);
    store.commit_blocking(put(b"a", b"1")).unwrap();
    disk.sync_fails.store(true, Ordering::SeqCst);
    let followed = Arc::new(AtomicU64::new(0));
    let version = Arc::clone(&followed);
    let commit = Commit { then: Some(Box::new(move |of| version.store(of, Ordering::SeqCst))), ..put(b"a", b"2") };
    assert_eq!(store.commit_blocking(commit), Err(CommitError::Unavailable));
    disk.sync_fails.store(false, Ordering::SeqCst);
    let next = until_it_works(&store, || put(b"b", b""));
    let now = store.get(b"a").unwrap().unwrap();
    assert_eq!(now.value, b"2", "the fixture syncs before it fails");
    assert_eq!(followed.load(Ordering::SeqCst), now.version);
    assert!(next > now.version);
}

#[test]
fn a_file_that_lost_acknowledged_commits_while_the_disk_failed_is_not_taken_back() {
    let (folder, path) = folder();
    let (store, disk) = on_disk(&path);
    store.commit_blocking(put(b"a", b"1")).unwrap();
    let other = folder.path().join("other");
    open(&other);
    disk.fails.store(true, Ordering::SeqCst);
    assert_eq!(store.commit_blocking(put(b"a", b"2")), Err(CommitError::Unavailable));
    let kept = folder.path().join("kept");
    fs::rename(&path, &kept).unwrap();
    disk.fails.store(false, Ordering::SeqCst);
    let refuses_at_every_attempt = || {
        let begun = Instant::now();
        while begun.elapsed() < writer::REOPEN_INTERVAL * 2 {
            assert_eq!(store.commit_blocking(put(b"a", b"3")), Err(CommitError::Unavailable));
            thread::yield_now();
        }
    };
    refuses_at_every_attempt();
    assert!(!path.exists(), "no empty store in place of the missing one");
    fs::rename(&other, &path).unwrap();
    refuses_at_every_attempt();
    fs::rename(&kept, &path).unwrap();
    until_it_works(&store, || put(b"a", b"4"));
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

#[derive(Debug, Clone)]
enum Expectation {
    Met,
    Missing,
    Wrong,
}

/// Keys of the expectations and writes are few, so that they meet.
type Plan = (Vec<(u8, Expectation)>, Vec<(u8, Option<u8>)>);

fn plan() -> impl Strategy<Value = Plan> {
    // Mostly met, or nothing would ever be written.
    let expectation =
        prop_oneof![8 => Just(Expectation::Met), 1 => Just(Expectation::Missing), 1 => Just(Expectation::Wrong)];
    (
        prop::collection::vec((0..6u8, expectation), 0..3),
        prop::collection::vec((0..6u8, prop::option::weighted(0.7, any::<u8>())), 0..4),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches_of_random_commits_behave_like_a_map(batches in prop::collection::vec(prop::collection::vec(plan(), 1..12), 1..6)) {
        let (_folder, path) = folder();
        let mut model: BTreeMap<u8, (u8, u64)> = BTreeMap::new();
        let mut version = 0;
        for batch in batches {
            let store = open(&path);
            let release = hold(&store);
            version += 1;
            let mut expected = Vec::new();
            let mut receivers = Vec::new();
            for (expectations, writes) in batch {
                let expect: Vec<_> = expectations
                    .iter()
                    .map(|(key, expectation)| {
                        let now = model.get(key).map(|(_, version)| *version);
                        let version = match expectation {
                            Expectation::Met => now,
                            Expectation::Missing => None,
                            Expectation::Wrong => Some(now.unwrap_or(0) + 1),
                        };
                        (*key, version)
                    })
                    .collect();
                let holds = expect.iter().all(|(key, version)| model.get(key).map(|(_, version)| *version) == *version);
                if holds {
                    version += 1;
                    for (key, value) in &writes {
                        match value {
                            Some(value) => { model.insert(*key, (*value, version)); }
                            None => { model.remove(key); }
                        }
                    }
                }
                expected.push(if holds { Ok(version) } else { Err(CommitError::Conflict) });
                receivers.push(store.submit(Commit {
                    expect: expect.into_iter().map(|(key, version)| (vec![key], version)).collect(),
                    writes: writes.into_iter().map(|(key, value)| (vec![key], value.map(|value| vec![value]))).collect(),
                    ..Commit::default()
                }).unwrap());
            }
            drop(release);
            let answers: Vec<_> = receivers.into_iter().map(|receiver| receiver.blocking_recv().unwrap()).collect();
            prop_assert_eq!(answers, expected);
            let want: Vec<_> = model
                .iter()
                .map(|(key, (value, version))| (vec![*key], Entry { value: vec![*value], version: *version }))
                .collect();
            prop_assert_eq!(store.scan(b"", None, 100, 1 << 20).unwrap(), Page { entries: want, more: false });
        }
    }
}

const CHILD: &str = "ASTRID_STORE_CHILD";
const CALLERS: u8 = 8;

/// Each caller writes 0, 1, 2, … under keys of its own and says on stdout what was acknowledged.
fn child(path: &Path) {
    let store = Arc::new(open(path));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                for n in acknowledged_by(&store, caller).. {
                    let key = [[caller].as_slice(), &n.to_be_bytes()].concat();
                    store.commit_blocking(swap(&key, None, &[caller; 100])).unwrap();
                    println!("acknowledged {caller} {n}");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
}

/// How many numbers of a caller are there, without a gap.
fn acknowledged_by(store: &Store, caller: u8) -> u64 {
    let page = store.scan(&[caller], None, usize::MAX, usize::MAX).unwrap();
    for (n, (key, entry)) in page.entries.iter().enumerate() {
        assert_eq!(key[1..], (n as u64).to_be_bytes(), "a gap in what caller {caller} wrote");
        assert_eq!(entry.value, [caller; 100]);
    }
    page.entries.len() as u64
}

#[test]
fn a_process_killed_while_writing_loses_nothing_that_was_acknowledged() {
    if let Some(path) = env::var_os(CHILD) {
        return child(Path::new(&path));
    }
    let (_folder, path) = folder();
    let this = concat!(module_path!(), "::a_process_killed_while_writing_loses_nothing_that_was_acknowledged");
    let (_crate, this) = this.split_once("::").unwrap();
    let mut acknowledged = [0; CALLERS as usize];
    for round in 1..=4 {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", this, "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut note = |line: String| -> bool {
            let mut words = line.split_whitespace().skip_while(|word| *word != "acknowledged").skip(1);
            let (Some(caller), Some(n)) = (words.next(), words.next()) else { return false };
            let (caller, n) = (caller.parse::<usize>().unwrap(), n.parse::<u64>().unwrap());
            acknowledged[caller] = acknowledged[caller].max(n + 1);
            true
        };
        let mut seen = 0;
        while seen < 500 * round {
            seen += u64::from(note(lines.next().expect("the child writes until it is killed")));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // What the pipe still holds was acknowledged as well; the last line may be cut off.
        let mut rest: Vec<_> = lines.collect();
        rest.pop();
        rest.into_iter().for_each(|line| {
            note(line);
        });

        let store = open(&path);
        for (caller, acknowledged) in (0..CALLERS).zip(acknowledged) {
            let there = acknowledged_by(&store, caller);
            assert!(there >= acknowledged, "caller {caller}: {there} of {acknowledged} are there");
        }
    }
}
