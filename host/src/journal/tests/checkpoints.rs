//! When checkpoints come.

use super::*;

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
