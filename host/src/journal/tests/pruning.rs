//! What was pruned, and what stays.

use super::*;

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
