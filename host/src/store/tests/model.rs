//! Batches of random commits, beside a map that does the same.

use super::*;

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
