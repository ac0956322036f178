//! Pages, the live feed, and waiting for more.

use super::*;

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
