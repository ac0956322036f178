//! What is there after a restart, a stop that was none, and a disk that refuses.

use super::*;

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
