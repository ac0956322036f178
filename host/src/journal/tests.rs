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

#[test]
fn what_was_recorded_is_there_after_a_restart_and_the_log_verifies_with_the_public_key_alone() {
    let place = Place::new();
    for (round, count) in [1, 255, 300, 1000, 70].into_iter().enumerate() {
        let journal = place.open();
        assert_eq!(journal.fault(), None);
        record(&journal, count);
        let before = all(&journal);
        journal.close();
        assert_eq!(before.iter().filter(|fact| fact.action == "host.unclean").count(), 0);
        assert_eq!(before.iter().filter(|fact| fact.action == "host.start").count(), 2 * round + 1);
        let verified = place.verify().unwrap();
        assert_eq!((verified.checkpoint.size, verified.pruned), (before.len() as u64 + 1, 0), "and the stop");
        let again = place.open();
        assert_eq!(all(&again)[..before.len()], before);
        let public = Key::parse(&place.key().to_string()).unwrap();
        assert_eq!(verify(&place.audit(), &public, &[]).unwrap().checkpoint.size, verified.checkpoint.size);
        drop(again);
    }
    let other = Place::new();
    let wrong = verify(&place.audit(), &other.key(), &[]).unwrap_err();
    assert!(wrong.file == "checkpoint" && wrong.found.contains("no signature of"), "{wrong}");
}

#[test]
fn a_tail_that_was_replaced_again_and_again_still_leads_to_every_fact() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 40_000);
    let size = journal.size();
    let facts = all(&journal);
    drop(journal);
    assert!(tail::Tail::open(&tail_path(&place.audit())).unwrap().tail.header.start > 16_000);
    let journal = place.open();
    assert_eq!(all(&journal)[..size as usize], facts);
    drop(journal);
    assert_eq!(place.verify().unwrap().checkpoint.size, size + 3, "a stop, a start, a stop");
}

#[test]
fn a_host_that_was_not_stopped_says_so_at_its_next_start_and_what_never_ended_is_told() {
    let place = Place::new();
    let journal = place.open();
    let began = |id: &str| Fact { id: id.into(), outcome: Outcome::Began, ..journal.fact("process.spawn") };
    let ended = |id: &str| Fact { id: id.into(), ..journal.fact("process.spawn") };
    for fact in [began("a"), began("b"), ended("a"), began("c")] {
        journal.append(fact);
    }
    settle(&journal);
    let copy = Place { folder: tempfile::tempdir().unwrap(), keys: place.keys.clone() };
    copy_folder(&place.audit(), &copy.audit());
    drop(journal);

    let journal = copy.open();
    settle(&journal);
    let facts = all(&journal);
    let spawned = facts.iter().filter(|fact| fact.action == "process.spawn" && fact.outcome == Outcome::Unknown);
    let mut unknown: Vec<_> = spawned.map(|fact| fact.id.as_str()).collect();
    unknown.sort();
    assert_eq!(unknown, ["b", "c"]);
    assert!(facts.iter().any(|fact| fact.action == "host.unclean"));
    drop(journal);
    let journal = copy.open();
    settle(&journal);
    assert_eq!(all(&journal).iter().filter(|fact| fact.outcome == Outcome::Unknown).count(), 3, "and never again");
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

/// What was done to a log, the file that must be named, and the entry.
type Deed = (&'static str, fn(&Path), &'static str, Option<u64>);

fn edit(folder: &Path, file: &str, at: usize) {
    let path = folder.join(file);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn with_entries(folder: &Path, file: &str, width: u64, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let path = folder.join(file);
    let bytes = fs::read(&path).unwrap();
    let mut entries: Vec<Vec<u8>> = tiles::entries(&bytes, width).unwrap().into_iter().map(<[u8]>::to_vec).collect();
    change(&mut entries);
    let mut bytes = Vec::new();
    entries.iter().for_each(|entry| tiles::put_entry(&mut bytes, entry));
    fs::write(path, bytes).unwrap();
}

fn swap(folder: &Path, one: &str, two: &str) {
    let (one, two) = (folder.join(one), folder.join(two));
    let first = fs::read(&one).unwrap();
    fs::write(&one, fs::read(&two).unwrap()).unwrap();
    fs::write(two, first).unwrap();
}

#[test]
fn whatever_is_edited_truncated_reordered_swapped_or_rewritten_is_named() {
    let place = Place::new();
    let journal = place.open();
    // With the start, what `record` waits for, and the stop: 1000 facts, so the last bundle has 232.
    record(&journal, 997);
    drop(journal);
    assert_eq!(place.verify().unwrap().checkpoint.size, 1000);
    const LAST: &str = "tile/entries/003.p/232";
    let deeds: [Deed; 19] = [
        ("an entry was edited", |f| edit(f, "tile/entries/001", 30), "tile/entries/001", Some(0)),
        ("the last entry was edited", |f| edit(f, LAST, fs::read(f.join(LAST)).unwrap().len() - 3), LAST, Some(231)),
        ("a hash was edited", |f| edit(f, "tile/0/001", 32 * 5), "tile/0/001", Some(5)),
        ("a partial tile's hash was edited", |f| edit(f, "tile/0/003.p/232", 32 * 7), "tile/0/003.p/232", Some(7)),
        ("a higher tile's hash was edited", |f| edit(f, "tile/1/000.p/3", 40), "tile/1/000.p/3", Some(1)),
        (
            "a bundle was cut off",
            |f| {
                let bytes = fs::read(f.join("tile/entries/002")).unwrap();
                fs::write(f.join("tile/entries/002"), &bytes[..bytes.len() - 10]).unwrap();
            },
            "tile/entries/002",
            Some(255),
        ),
        (
            "a bundle lacks its last entry",
            |f| with_entries(f, "tile/entries/002", 256, |e| drop(e.pop())),
            "tile/entries/002",
            Some(255),
        ),
        ("a bundle has one more", |f| with_entries(f, LAST, 232, |e| e.push(b"more".to_vec())), LAST, None),
        (
            "a tile was cut off",
            |f| {
                let bytes = fs::read(f.join("tile/0/000")).unwrap();
                fs::write(f.join("tile/0/000"), &bytes[..8000]).unwrap();
            },
            "tile/0/000",
            None,
        ),
        (
            "two entries changed places",
            |f| with_entries(f, "tile/entries/000", 256, |e| e.swap(17, 200)),
            "tile/entries/000",
            Some(17),
        ),
        (
            "an entry was taken out and another put in",
            |f| {
                with_entries(f, "tile/entries/000", 256, |e| {
                    e.remove(3);
                    e.push(b"x".to_vec());
                })
            },
            "tile/entries/000",
            Some(3),
        ),
        (
            "two bundles changed places",
            |f| swap(f, "tile/entries/000", "tile/entries/002"),
            "tile/entries/000",
            Some(0),
        ),
        ("two tiles changed places", |f| swap(f, "tile/0/001", "tile/0/002"), "tile/0/001", Some(0)),
        (
            "bundles and tiles changed places",
            |f| {
                swap(f, "tile/0/001", "tile/0/002");
                swap(f, "tile/entries/001", "tile/entries/002");
            },
            "tile/0/001",
            None,
        ),
        ("a bundle is gone", |f| fs::remove_file(f.join("tile/entries/001")).unwrap(), "tile/entries/001", None),
        (
            "the first bundle is gone",
            |f| fs::remove_file(f.join("tile/entries/000")).unwrap(),
            "tile/entries/000",
            None,
        ),
        ("a tile is gone", |f| fs::remove_file(f.join("tile/0/002")).unwrap(), "tile/0/002", None),
        (
            "an entry and its hash were rewritten",
            |f| {
                let mut leaf = [0; 32];
                with_entries(f, "tile/entries/000", 256, |e| {
                    e[9] = b"{}".to_vec();
                    leaf = tree::leaf(&e[9]);
                });
                let mut hashes = fs::read(f.join("tile/0/000")).unwrap();
                hashes[9 * 32..10 * 32].copy_from_slice(&leaf);
                fs::write(f.join("tile/0/000"), hashes).unwrap();
            },
            "tile/0/000",
            None,
        ),
        (
            "the checkpoint was edited",
            |f| {
                let text = fs::read_to_string(f.join("checkpoint")).unwrap();
                fs::write(f.join("checkpoint"), text.replacen("\n1000\n", "\n999\n", 1)).unwrap();
            },
            "checkpoint",
            None,
        ),
    ];
    for (what, deed, file, entry) in deeds {
        let copy = Place { folder: tempfile::tempdir().unwrap(), keys: place.keys.clone() };
        copy_folder(&place.audit(), &copy.audit());
        assert!(copy.verify().is_ok());
        deed(&copy.audit());
        let named = copy.verify().expect_err(what);
        assert_eq!((named.file.as_str(), named.entry), (file, entry), "{what}: {named}");
    }
}

#[test]
fn a_log_that_was_rewritten_from_its_beginning_does_not_go_on_from_a_checkpoint_that_somebody_kept() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 300);
    drop(journal);
    let kept = place.verify().unwrap().checkpoint;
    let journal = place.open();
    record(&journal, 900);
    drop(journal);
    let (key, size) = (place.key(), place.verify().unwrap().checkpoint.size);
    assert_eq!(verify(&place.audit(), &key, std::slice::from_ref(&kept)).unwrap().checkpoint.size, size);
    let (proof, now) = consistency(&place.audit(), &key, &kept).unwrap();
    assert!(tree::is_consistent(kept.size, &kept.root, now.size, &now.root, &proof));

    let again = Place { folder: tempfile::tempdir().unwrap(), keys: place.keys.clone() };
    let journal = again.open();
    record(&journal, 600);
    drop(journal);
    assert!(again.verify().is_ok(), "it is signed, and whole");
    let named = verify(&again.audit(), &key, &[kept]).unwrap_err();
    assert!(named.file == "checkpoint of 303 facts" && named.found.contains("rewritten"), "{named}");
    let named = verify(&again.audit(), &key, &[now]).unwrap_err();
    assert!(named.found.contains("cut off"), "{named}");
}

#[test]
fn every_fact_is_proven_by_a_file_that_needs_nothing_but_the_public_key() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 600);
    drop(journal);
    for index in [0, 1, 255, 256, 511, 512, 602] {
        let (proof, entry) = Inclusion::of(&place.audit(), &place.key(), index).unwrap();
        let read = Inclusion::parse(&proof.to_string()).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.check(&entry, &place.key()).unwrap().size, 603);
        assert!(read.check(b"another", &place.key()).is_err());
        assert!(Inclusion { index: (index + 1) % 603, ..read }.check(&entry, &place.key()).is_err());
    }
    assert!(Inclusion::of(&place.audit(), &place.key(), 603).unwrap_err().to_string().contains("603 facts"));
}

#[test]
fn a_checkpoint_comes_a_thousand_facts_or_a_second_after_the_first_that_it_adds_whichever_is_sooner() {
    use std::time::Duration;
    const SECOND: Duration = Duration::from_secs(1);
    // Milliseconds until so many facts come at once.
    let arrivals = proptest::collection::vec((0u64..1500, 0usize..2500), 1..12);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(8));
    runner
        .run(&arrivals, |arrivals| {
            let place = Place::new();
            let (shared, time) = (Arc::new(Shared::new()), Arc::new(Mutex::new(Instant::now())));
            let (keys, clock) = (place.keys.clone(), time.clone());
            let found = recover::recover(&place.audit(), &place.key()).unwrap();
            let sign = Box::new(move |text: &[u8]| keys.sign(PURPOSE, text));
            let clock = Box::new(move || *clock.lock().unwrap());
            let mut writer = writer::Writer::new(shared.clone(), found, place.key(), sign, clock);
            let signed = || shared.view.read().unwrap().signed as usize;
            // When each fact was recorded.
            let mut recorded: Vec<Instant> = Vec::new();
            let mut arrivals = arrivals.into_iter();
            let mut next = arrivals.next();
            let mut arrives = *time.lock().unwrap() + Duration::from_millis(next.map_or(0, |next| next.0));
            while next.is_some() || writer.due().is_some() {
                let due = writer.due().filter(|due| next.is_none() || *due < arrives);
                let now = due.unwrap_or(arrives);
                *time.lock().unwrap() = now;
                let mut waiting = 0;
                if due.is_none() {
                    waiting = next.unwrap().1;
                    next = arrivals.next();
                    arrives = now + Duration::from_millis(next.map_or(0, |next| next.0));
                }
                loop {
                    let (before, many) = (signed(), writer.room().min(waiting));
                    let fact = || Fact::new("1-1".into(), 1, "test.one");
                    writer.step(&mut (0..many).map(|_| job(fact(), None)).collect(), false).unwrap();
                    recorded.extend(std::iter::repeat_n(now, many));
                    waiting -= many;
                    let due =
                        recorded.len() - before == 1000 || recorded.get(before).is_some_and(|t| now - *t >= SECOND);
                    prop_assert_eq!(signed(), if due { recorded.len() } else { before });
                    if waiting == 0 {
                        break;
                    }
                }
            }
            prop_assert_eq!(signed(), recorded.len());
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_writer_that_nothing_comes_for_is_woken_when_the_next_checkpoint_is_due() {
    let queue = Queue::new(10, 1000, 5);
    let (mut batch, due) = (Vec::new(), Instant::now() + std::time::Duration::from_millis(30));
    assert!(!queue.take(5, Some(due), &mut batch));
    assert!(batch.is_empty() && Instant::now() >= due);
}

#[test]
fn a_page_is_what_a_naive_search_finds_and_a_cursor_stays_what_it_is_while_the_log_grows() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 3000);
    let facts = all(&journal);
    let strategy = (any::<[bool; 5]>(), 0..facts.len(), 1usize..400);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(60));
    runner
        .run(&strategy, |(parts, at, limit)| {
            let one = &facts[at];
            let filter = Filter {
                principal: one.principal.clone().filter(|_| parts[0]),
                action: one.action.split('.').next().map(str::to_owned).filter(|_| parts[1]),
                outcome: Some(one.outcome).filter(|_| parts[2]),
                since: Some(one.time).filter(|_| parts[3]),
                until: Some(one.time).filter(|_| parts[4]),
            };
            let fits = |fact: &Fact| {
                filter.principal.as_ref().is_none_or(|p| fact.principal.as_ref() == Some(p))
                    && filter.action.as_ref().is_none_or(|a| fact.action.starts_with(&format!("{a}.")))
                    && filter.outcome.is_none_or(|o| fact.outcome == o)
                    && filter.since.is_none_or(|t| fact.time >= t)
                    && filter.until.is_none_or(|t| fact.time < t)
            };
            let wanted: Vec<u64> = (0..facts.len()).rev().filter(|n| fits(&facts[*n])).map(|n| n as u64).collect();
            let (mut found, mut before) = (Vec::new(), Some(facts.len() as u64));
            while before.is_some() {
                journal.append(journal.fact("test.meanwhile"));
                let page = journal.page(&filter, before, limit).unwrap();
                prop_assert!(page.facts.len() <= limit);
                found.extend(page.facts.iter().map(|fact| fact.index));
                before = page.next;
            }
            prop_assert_eq!(found, wanted);
            Ok(())
        })
        .unwrap();
}

#[test]
fn while_the_disk_refuses_durable_facts_are_refused_and_the_others_wait_and_then_everything_is_there() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 10);
    let size = journal.size();
    // Nothing can be renamed over a folder that holds something.
    let (checkpoint, aside) = (place.audit().join("checkpoint"), place.audit().join("aside"));
    while fs::create_dir_all(checkpoint.join("in-the-way")).is_err() {
        let _ = fs::rename(&checkpoint, &aside);
    }
    journal.append(journal.fact("test.waits"));
    while journal.fault().is_none() {
        std::thread::yield_now();
    }
    assert!(journal.fault().unwrap().contains("audit/checkpoint"), "{:?}", journal.fault());
    let refused = wait(journal.append_durable(journal.fact("test.strict")));
    assert!(matches!(refused, Err(Unavailable::Failing(_))), "{refused:?}");
    for _ in 0..QUEUE_FACTS + 100 {
        journal.append(journal.fact("test.many"));
    }
    fs::remove_dir_all(&checkpoint).unwrap();
    while journal.fault().is_some() {
        std::thread::yield_now();
    }
    while journal.waiting() > 0 {
        std::thread::yield_now();
    }
    settle(&journal);
    let found = all(&journal);
    let count = |action: &str| found.iter().filter(|fact| fact.action == action).count();
    assert_eq!((count("test.waits"), count("test.strict"), count("test.many")), (1, 0, QUEUE_FACTS));
    let lost: Vec<_> = found.iter().filter(|fact| fact.action == "journal.lost").collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].detail.as_deref(), Some("100 facts"));
    assert!(found.len() as u64 > size);
    drop(journal);
    place.verify().unwrap();
}

#[test]
fn a_log_that_contradicts_its_checkpoint_is_left_as_it_is_and_nothing_is_recorded() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 400);
    drop(journal);
    let damages: [Damage; 4] = [
        ("was cut off", |folder| {
            let tail = tail_path(folder);
            let bytes = fs::read(&tail).unwrap();
            fs::write(tail, &bytes[..bytes.len() - 100]).unwrap();
        }),
        ("has no tail", |folder| fs::remove_file(tail_path(folder)).unwrap()),
        ("has no checkpoint and no tail", |folder| {
            fs::remove_file(tail_path(folder)).unwrap();
            fs::remove_file(checkpoint_path(folder)).unwrap();
        }),
        ("has another checkpoint", |folder| edit(folder, "checkpoint", 40)),
    ];
    for (what, damage) in damages {
        let copy = Place { folder: tempfile::tempdir().unwrap(), keys: place.keys.clone() };
        copy_folder(&place.audit(), &copy.audit());
        damage(&copy.audit());
        let journal = copy.open();
        let fault = journal.fault().expect(what);
        assert!(fault.starts_with("audit/"), "{what}: {fault}");
        let refused = wait(journal.append_durable(journal.fact("test.strict")));
        assert_eq!(refused, Err(Unavailable::Failing(fault)), "{what}");
        journal.append(journal.fact("test.lost"));
        assert_eq!(journal.shared.lost.load(Ordering::Relaxed), 1, "{what}");
    }
}

#[test]
fn whoever_listens_gets_every_fact_in_order_and_is_told_how_many_it_missed() {
    let place = Place::new();
    let journal = place.open();
    settle(&journal);
    let mut live = journal.live();
    let first = journal.size();
    record(&journal, 100);
    wait(async {
        for n in 0..101 {
            assert_eq!(live.recv().await.unwrap().index, first + n);
        }
    });
    record(&journal, 5000);
    wait(async {
        let Err(RecvError::Lagged(missed)) = live.recv().await else { panic!("it was not told") };
        let next = live.recv().await.unwrap();
        assert_eq!(next.index, first + 101 + missed);
        assert_eq!(Fact::parse(&next.bytes), Some(all(&journal)[next.index as usize].clone()));
    });
}

#[test]
fn a_tile_can_be_had_in_every_width_that_a_checkpoint_could_have_needed() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 700);
    let facts = all(&journal);
    drop(journal);
    let journal = place.open();
    let leaves: Vec<_> = facts.iter().map(|fact| tree::leaf(&fact.clone().seal())).collect();
    for width in [1, 100, 255, 256] {
        let tile = journal.tile(tiles::Kind::Hashes(0), 1, width).unwrap();
        assert_eq!(tile, leaves[256..256 + width as usize].as_flattened());
        let bundle = journal.tile(tiles::Kind::Entries, 1, width).unwrap();
        assert_eq!(tiles::entries(&bundle, width).unwrap().len() as u64, width);
    }
    for (kind, index, width) in [
        (tiles::Kind::Entries, 0, 0),
        (tiles::Kind::Entries, 0, 257),
        (tiles::Kind::Entries, 2, 256),
        (tiles::Kind::Entries, 3, 1),
        (tiles::Kind::Hashes(1), 0, 3),
        (tiles::Kind::Hashes(63), 0, 1),
        (tiles::Kind::Hashes(0), u64::MAX, 1),
    ] {
        assert_eq!(journal.tile(kind, index, width), Err(ReadError::NotFound), "{kind:?} {index} {width}");
    }
}

#[test]
fn a_fact_is_proven_in_the_tree_of_every_checkpoint_since_while_the_log_grows() {
    let place = Place::new();
    let journal = place.open();
    let mut signed = Vec::new();
    for _ in 0..4 {
        record(&journal, 700);
        while journal.signed() < journal.size() {
            std::thread::yield_now();
        }
        signed.push(Checkpoint::open(journal.checkpoint().as_bytes(), &place.key()).unwrap());
    }
    let facts = all(&journal);
    for checkpoint in &signed {
        for index in [0, 255, 256, 700, checkpoint.size - 1] {
            let hashes = journal.prove(index, checkpoint.size).unwrap();
            let leaf = tree::leaf(&facts[index as usize].clone().seal());
            assert!(tree::is_included(leaf, index, checkpoint.size, &hashes, &checkpoint.root), "{index}");
        }
        assert_eq!(journal.prove(checkpoint.size, checkpoint.size), Err(ReadError::NotFound));
    }
    assert_eq!(journal.prove(0, journal.size() + 1), Err(ReadError::NotFound));
}

#[test]
fn some_facts_with_their_proofs_are_checked_without_the_log_and_the_first_that_is_wrong_is_named() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 700);
    drop(journal);
    let folder = tempfile::tempdir().unwrap();
    let proven = |index: u64| {
        let (proof, entry) = Inclusion::of(&place.audit(), &place.key(), index).unwrap();
        let hashes = proof.hashes.iter().map(|hash| Base64::encode_string(hash)).collect();
        verify::Proven { index, fact: String::from_utf8(entry).unwrap(), proof: Some(hashes) }
    };
    fs::copy(checkpoint_path(&place.audit()), folder.path().join("checkpoint")).unwrap();
    let write = |lines: &[verify::Proven]| {
        let lines: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        fs::write(folder.path().join(verify::FACTS), lines.concat()).unwrap();
        verify::verify_facts(folder.path(), &place.key())
    };
    let mut whole: Vec<_> = [0, 5, 300, 702].map(proven).into();
    let cut = verify::Proven { proof: None, ..proven(701) };
    whole.insert(3, cut);
    assert!(!verify::holds_proofs(&place.audit()));
    let found = write(&whole).unwrap();
    assert!(verify::holds_proofs(folder.path()));
    assert_eq!((found.proven, found.redacted, found.checkpoint.size), (4, 1, 703));
    let edits: [fn(&mut Vec<verify::Proven>); 7] = [
        |lines| lines[2].fact = lines[2].fact.replace("number", "another"),
        |lines| lines[2].index += 1,
        |lines| lines[2].proof.as_mut().unwrap().swap(0, 1),
        |lines| lines[2] = lines[1].clone(),
        |lines| lines[2].proof = Some(vec!["no".into()]),
        |lines| lines[2] = verify::Proven { index: 703, proof: None, ..lines[3].clone() },
        |lines| lines[2] = verify::Proven { index: u64::MAX, proof: None, ..lines[3].clone() },
    ];
    for edit in edits {
        let mut lines = whole.clone();
        edit(&mut lines);
        let named = write(&lines).unwrap_err();
        assert_eq!((named.file.as_str(), named.entry), (verify::FACTS, Some(2)), "{named}");
    }
    let other = Place::new();
    assert_eq!(verify::verify_facts(folder.path(), &other.key()).unwrap_err().file, "checkpoint");
}

#[test]
fn the_hash_of_a_payload_is_this_hosts_own() {
    let (one, two) = (Place::new(), Place::new());
    let (journal, other) = (one.open(), two.open());
    assert_eq!(journal.digest(b"payload"), journal.digest(b"payload"));
    assert_ne!(journal.digest(b"payload"), other.digest(b"payload"));
    assert_ne!(journal.digest(b"payload"), blake3::hash(b"payload").to_hex().to_string());
}

const CHILD: &str = "ASTRID_JOURNAL_CHILD";
const CALLERS: usize = 8;

/// Each caller durably records 0, 1, 2, … and says on stdout what was acknowledged; others don't wait.
fn child(folder: &Path) {
    let keys = Arc::new(Keys::open(&folder.join("host.key")).unwrap());
    let journal = Arc::new(Journal::open(&folder.join("audit"), &Config::default(), &keys).unwrap());
    assert_eq!(journal.fault(), None);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let journal = journal.clone();
            std::thread::spawn(move || {
                for n in 0_u64.. {
                    let detail = Some(format!("{n}"));
                    let principal = Some(format!("{}-{caller}", std::process::id()));
                    let fact = Fact { principal, detail, ..journal.fact("test.durable") };
                    let index = wait(journal.append_durable(fact)).unwrap();
                    println!("acknowledged {index} {}-{caller} {n}", std::process::id());
                    journal.append(journal.fact("test.other"));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
}

#[test]
fn a_process_killed_fifty_times_while_recording_loses_nothing_that_was_acknowledged_or_signed() {
    if let Some(folder) = env::var_os(CHILD) {
        return child(Path::new(&folder));
    }
    let place = Place::new();
    let this = concat!(
        module_path!(),
        "::a_process_killed_fifty_times_while_recording_loses_nothing_that_was_acknowledged_or_signed"
    );
    let (_crate, this) = this.split_once("::").unwrap();
    let (mut acknowledged, mut signed) = (Vec::new(), None);
    for round in 1..=50 {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", this, "--nocapture"])
            .env(CHILD, place.folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut note = |line: String| {
            let words: Vec<&str> = line.split_whitespace().skip_while(|word| *word != "acknowledged").collect();
            let [_, index, who, n] = words[..] else { return false };
            acknowledged.push((index.parse::<u64>().unwrap(), who.to_owned(), n.to_owned()));
            true
        };
        // Not always at the same point between two checkpoints, nor of a bundle.
        let mut left = 100 + 37 * (round % 13);
        while left > 0 {
            left -= usize::from(note(lines.next().expect("the child records until it is killed")));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // What the pipe still holds was acknowledged as well; the last line may be cut off.
        let mut rest: Vec<_> = lines.collect();
        rest.pop();
        rest.into_iter().for_each(|line| {
            note(line);
        });
        // As it lies there, before anything is repaired: what is signed is whole.
        if checkpoint_path(&place.audit()).exists() {
            let (_, checkpoint) = verify::checkpoint(&place.audit(), &place.key()).unwrap();
            assert!(signed.as_ref().is_none_or(|before: &note::Checkpoint| before.size <= checkpoint.size));
            signed = Some(checkpoint);
        }
        if round % 10 == 0 {
            let journal = place.open();
            assert_eq!(journal.fault(), None);
            let facts = all(&journal);
            for (index, who, n) in &acknowledged {
                let fact = &facts[*index as usize];
                assert_eq!((fact.principal.as_deref(), fact.detail.as_deref()), (Some(&**who), Some(&**n)), "{index}");
            }
            drop(journal);
            let older: Vec<_> = signed.iter().cloned().collect();
            verify(&place.audit(), &place.key(), &older).unwrap();
        }
    }
    let facts = all(&place.open());
    assert_eq!(facts.iter().filter(|fact| fact.action == "host.unclean").count(), 50);
}

#[test]
fn what_was_pruned_is_gone_by_a_fact_and_everything_else_is_still_proven() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 1900);
    let blocking = crate::runtime::Blocking::new(1);
    let by = || Fact { capsule: Some("audit".into()), ..journal.fact(verify::PRUNED) };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    while journal.signed() < 1902 {
        std::thread::yield_now();
    }
    assert_eq!(runtime.block_on(journal.prune(700, by(), &blocking)), Ok(512));
    assert_eq!(runtime.block_on(journal.prune(100, by(), &blocking)), Ok(512), "nothing comes back");
    assert_eq!(runtime.block_on(journal.prune(1400, by(), &blocking)), Ok(1280), "what is not whole stays");
    assert_eq!((journal.first(), journal.entries(0, 1).unwrap().facts[0].index), (1280, 1280));
    let (mut seen, mut before) = (0, Some(journal.size()));
    while let Some(cursor) = before {
        let page = journal.page(&Filter::default(), Some(cursor), 100).unwrap();
        (seen, before) = (seen + page.facts.len() as u64, page.next);
    }
    assert_eq!(seen, journal.size() - 1280);
    let found = journal.page(&Filter { action: Some(verify::PRUNED.into()), ..Filter::default() }, None, 10).unwrap();
    let targets: Vec<_> = found.facts.iter().map(|f| Fact::parse(&f.bytes).unwrap().target.unwrap()).collect();
    assert_eq!(targets, ["1280", "512"]);
    drop(journal);
    assert_eq!(place.verify().unwrap().pruned, 1280);
    assert!(Inclusion::of(&place.audit(), &place.key(), 1280).is_ok());
    let journal = place.open();
    assert_eq!(journal.first(), 1280);
    assert!(!place.audit().join("tile/entries/004").exists(), "and nothing comes back");
    drop(journal);
    let tail = tail::Tail::open(&tail_path(&place.audit())).unwrap();
    assert!(tail.tail.header.start >= 1280, "nor is it left in the tail");
    // More than any fact says.
    fs::remove_file(place.audit().join("tile/entries/005")).unwrap();
    assert_eq!(place.verify().unwrap_err().file, "tile/entries/000");
}

#[test]
fn whoever_waits_for_more_facts_is_woken_or_gives_up_in_time() {
    let place = Place::new();
    let journal = place.open();
    let size = settle(&journal) + 1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let now = tokio::time::Instant::now();
        let later = now + std::time::Duration::from_secs(3600);
        assert_eq!(journal.wait(size - 1, later).await, size, "there are");
        assert_eq!(journal.wait(size, now).await, size, "there are not, and it is late");
        let more = async { journal.append_durable(journal.fact("test.more")).await.unwrap() };
        let (seen, index) = tokio::join!(journal.wait(size, later), more);
        assert_eq!((seen, index), (size + 1, size));
    });
}
