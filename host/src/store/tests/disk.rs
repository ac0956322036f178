//! A disk that fails and works again.

use super::*;

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
