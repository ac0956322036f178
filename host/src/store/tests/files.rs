//! Which files are opened, and which are refused by name.

use super::*;

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
