//! Whether a generation that has just gone live keeps what it was given, or has used up its budget of errors.
//!
//! Pure: no clock, no lock. Calls are counted by lane (whose they are), so that one caller who makes its own calls fail
//! can't have a version taken back that serves the others. Bounded by [`MAX_LANES`].

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Lanes that are counted apart; calls of further ones count for nobody.
pub const MAX_LANES: usize = 1000;
/// Failures that make a lane a failing one, if they are at least half of its calls.
const FAILING: u32 = 3;

/// What a generation is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Since it went live.
    pub lasts: Duration,
    /// Failures of all lanes below which nothing is concluded.
    pub failures: u32,
}

/// What the calls so far say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on counting.
    Serving,
    /// It is taken back.
    Exhausted,
    /// It has stood the test.
    Passed,
}

pub struct Probation<K> {
    rule: Rule,
    lanes: HashMap<K, Lane>,
    failures: u32,
}

#[derive(Default)]
struct Lane {
    calls: u32,
    failures: u32,
}

impl Lane {
    fn is_failing(&self) -> bool {
        self.failures >= FAILING && self.failures.saturating_mul(2) >= self.calls
    }
}

impl<K: Hash + Eq> Probation<K> {
    pub fn new(rule: Rule) -> Self {
        Self { rule, lanes: HashMap::new(), failures: 0 }
    }

    /// A call of a lane has ended, so long after the generation went live. Exhausted: more than half of the lanes that
    /// called fail.
    pub fn count(&mut self, lane: K, failed: bool, age: Duration) -> Verdict {
        if age > self.rule.lasts {
            return Verdict::Passed;
        }
        let known = self.lanes.contains_key(&lane);
        if known || self.lanes.len() < MAX_LANES {
            let lane = self.lanes.entry(lane).or_default();
            lane.calls = lane.calls.saturating_add(1);
            lane.failures = lane.failures.saturating_add(u32::from(failed));
            self.failures = self.failures.saturating_add(u32::from(failed));
        }
        if !failed || self.failures < self.rule.failures {
            return Verdict::Serving;
        }
        let failing = self.lanes.values().filter(|lane| lane.is_failing()).count();
        if failing * 2 > self.lanes.len() { Verdict::Exhausted } else { Verdict::Serving }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Rule = Rule { lasts: Duration::from_secs(60), failures: 5 };

    /// What a run of calls ends with.
    fn run(calls: impl IntoIterator<Item = (u32, bool)>) -> Verdict {
        let mut probation = Probation::new(RULE);
        let mut verdicts =
            calls.into_iter().map(|(lane, failed)| probation.count(lane, failed, Duration::from_secs(1)));
        verdicts.find(|verdict| *verdict != Verdict::Serving).unwrap_or(Verdict::Serving)
    }

    #[test]
    fn a_version_that_fails_everybody_is_taken_back_after_a_few_calls() {
        assert_eq!(run([(1, true); 5]), Verdict::Exhausted);
        assert_eq!(run([(1, true); 4]), Verdict::Serving);
        assert_eq!(run((0..2).flat_map(|lane| [(lane, true); 3])), Verdict::Exhausted);
    }

    #[test]
    fn whoever_fails_alone_takes_nothing_back_from_the_others() {
        assert_eq!(run([(1, false)].into_iter().chain([(2, true); 10_000])), Verdict::Serving);
        assert_eq!(run((0..100).map(|lane| (lane, false)).chain([(7, true); 1000])), Verdict::Serving);
    }

    #[test]
    fn a_failure_now_and_then_is_none_of_its_business_and_time_ends_it() {
        assert_eq!(run((0..10_000).map(|n| (1, n % 3 == 2))), Verdict::Serving);
        let mut probation = Probation::new(RULE);
        assert_eq!(probation.count(1, true, Duration::from_secs(61)), Verdict::Passed);
    }

    #[test]
    fn lanes_are_bounded() {
        let mut probation = Probation::new(RULE);
        for lane in 0..100_000 {
            assert_eq!(probation.count(lane, false, Duration::ZERO), Verdict::Serving);
        }
        assert_eq!(probation.lanes.len(), MAX_LANES);
    }

    proptest! {
        #[test]
        fn it_is_exhausted_exactly_when_most_lanes_fail_mostly(
            calls in prop::collection::vec((0u32..5, prop::bool::weighted(0.5)), 0..60)
        ) {
            let mut probation = Probation::new(RULE);
            for n in 0..calls.len() {
                let (lane, failed) = calls[n];
                let verdict = probation.count(lane, failed, Duration::ZERO);
                let so_far = &calls[..=n];
                let tally = |lane: u32, only: bool| so_far.iter().filter(|c| c.0 == lane && (c.1 || !only)).count();
                let called: Vec<u32> = (0..5).filter(|lane| tally(*lane, false) > 0).collect();
                let failing = called.iter().filter(|l| tally(**l, true) >= 3 && tally(**l, true) * 2 >= tally(**l, false));
                let all = so_far.iter().filter(|c| c.1).count();
                let exhausted = failed && all >= 5 && failing.count() * 2 > called.len();
                prop_assert_eq!(verdict == Verdict::Exhausted, exhausted);
            }
        }
    }
}
