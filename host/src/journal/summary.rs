//! What a query knows of a bundle without reading it: when, how things ended, and, in a Bloom filter, who and what.
//!
//! Owns the form of a summary and of the files that hold 256 of them. It is derived from the bundle and attests nothing;
//! where one is missing, its bundle is read. Bounded by [`BYTES`] for each bundle.

use super::fact::{Head, Outcome};

/// A summary's length, in bytes.
pub(super) const BYTES: usize = 24 + BLOOM;
/// For about 500 words with one false answer in a hundred.
const BLOOM: usize = 640;
const PROBES: u64 = 5;

/// What a query wants. Empty: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub principal: Option<String>,
    /// An action, or its first dotted words: `capsule` for `capsule.install` and its like.
    pub action: Option<String>,
    pub outcome: Option<Outcome>,
    /// Nanoseconds since the Unix epoch; this and later.
    pub since: Option<u64>,
    /// Before this.
    pub until: Option<u64>,
}

impl Filter {
    pub(super) fn fits(&self, head: &Head<'_>) -> bool {
        self.principal.as_deref().is_none_or(|wanted| head.principal.as_deref() == Some(wanted))
            && self.action.as_deref().is_none_or(|wanted| words(&head.action).any(|words| words == wanted))
            && self.outcome.is_none_or(|wanted| head.outcome == wanted)
            && self.since.is_none_or(|since| head.time >= since)
            && self.until.is_none_or(|until| head.time < until)
    }
}

/// `a`, `a.b` and `a.b.c` of `a.b.c`.
fn words(action: &str) -> impl Iterator<Item = &str> {
    action.match_indices('.').map(|(at, _)| &action[..at]).chain([action])
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    first: u64,
    last: u64,
    /// A bit for each outcome.
    outcomes: u8,
    bloom: [u8; BLOOM],
}

impl Default for Summary {
    fn default() -> Self {
        Self { first: u64::MAX, last: 0, outcomes: 0, bloom: [0; BLOOM] }
    }
}

impl Summary {
    pub(super) fn add(&mut self, head: &Head<'_>) {
        self.first = self.first.min(head.time);
        self.last = self.last.max(head.time);
        self.outcomes |= bit(head.outcome);
        if let Some(principal) = &head.principal {
            self.mark(b'p', principal);
        }
        words(&head.action).for_each(|words| self.mark(b'a', words));
    }

    /// False: no entry of the bundle fits.
    pub(super) fn may_fit(&self, filter: &Filter) -> bool {
        filter.principal.as_deref().is_none_or(|wanted| self.has(b'p', wanted))
            && filter.action.as_deref().is_none_or(|wanted| self.has(b'a', wanted))
            && filter.outcome.is_none_or(|wanted| self.outcomes & bit(wanted) != 0)
            && filter.since.is_none_or(|since| self.last >= since)
            && filter.until.is_none_or(|until| self.first < until)
    }

    fn mark(&mut self, kind: u8, word: &str) {
        for at in places(kind, word) {
            self.bloom[at / 8] |= 1 << (at % 8);
        }
    }

    fn has(&self, kind: u8, word: &str) -> bool {
        places(kind, word).all(|at| self.bloom[at / 8] & (1 << (at % 8)) != 0)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.first.to_be_bytes());
        bytes.extend_from_slice(&self.last.to_be_bytes());
        // What was never written, or is a hole in its file, is all zeros.
        bytes.extend_from_slice(&[1, self.outcomes, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&self.bloom);
        bytes
    }

    /// None: these bytes are no summary.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        let (last, rest) = rest.split_first_chunk()?;
        let ([1, outcomes, 0, 0, 0, 0, 0, 0], bloom) = rest.split_first_chunk::<8>()? else { return None };
        let (first, last) = (u64::from_be_bytes(*first), u64::from_be_bytes(*last));
        Some(Self { first, last, outcomes: *outcomes, bloom: bloom.try_into().ok()? })
    }
}

fn bit(outcome: Outcome) -> u8 {
    1 << outcome as u8
}

/// The bits of a word: FNV-1a, split in two that are added up (Kirsch and Mitzenmacher). Must never change.
fn places(kind: u8, word: &str) -> impl Iterator<Item = usize> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in std::iter::once(kind).chain(word.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // Its high bits know little of the last bytes.
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (one, two) = (hash & 0xffff_ffff, hash >> 32 | 1);
    (0..PROBES).map(move |n| ((one + n * two) % (8 * BLOOM as u64)) as usize)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    fn head(principal: Option<String>, action: &str, outcome: Outcome, time: u64) -> Head<'_> {
        Head { time, action: Cow::Borrowed(action), outcome, principal: principal.map(Cow::Owned) }
    }

    proptest! {
        #[test]
        fn what_fits_an_entry_may_fit_its_bundle(
            facts in prop::collection::vec((0u32..500, 0usize..4, 0usize..5, 0u64..1000), 1..256),
            at in any::<prop::sample::Index>(), parts in prop::array::uniform5(any::<bool>()),
        ) {
            let actions = ["a", "a.b", "a.b.c", "d.e"];
            let heads: Vec<_> = facts.iter()
                .map(|&(who, what, how, when)| head(Some(format!("p{who}")), actions[what], Outcome::ALL[how], when))
                .collect();
            let mut summary = Summary::default();
            heads.iter().for_each(|head| summary.add(head));
            let summary = Summary::parse(&summary.to_bytes()).unwrap();
            let one = at.get(&heads);
            let filter = Filter {
                principal: one.principal.as_deref().filter(|_| parts[0]).map(str::to_owned),
                action: Some(one.action.split('.').next().unwrap().to_owned()).filter(|_| parts[1]),
                outcome: Some(one.outcome).filter(|_| parts[2]),
                since: Some(one.time).filter(|_| parts[3]),
                until: Some(one.time + 1).filter(|_| parts[4]),
            };
            prop_assert!(filter.fits(one) && summary.may_fit(&filter));
        }
    }

    #[test]
    fn few_bundles_are_read_in_vain() {
        let mut summary = Summary::default();
        for n in 0..256 {
            summary.add(&head(Some(format!("principal-{n}")), "bus.request", Outcome::Ok, n));
        }
        let wrong = (1000..11_000).filter(|n| summary.has(b'p', &format!("principal-{n}"))).count();
        assert!(wrong < 200, "{wrong} of 10,000");
        for filter in [
            Filter { action: Some("bus.re".into()), ..Filter::default() },
            Filter { outcome: Some(Outcome::Failed), ..Filter::default() },
            Filter { since: Some(256), ..Filter::default() },
            Filter { until: Some(0), ..Filter::default() },
        ] {
            assert!(!summary.may_fit(&filter), "{filter:?}");
        }
        assert!(Summary::parse(&[0; BYTES]).is_none() && Summary::parse(&summary.to_bytes()[1..]).is_none());
    }
}
