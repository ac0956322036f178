//! What a commit does, and what is told of it: versions, expectations, batches, order.

use super::*;

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
