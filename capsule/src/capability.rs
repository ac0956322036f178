//! Capabilities: colon-separated segments, each `*` or `[A-Za-z0-9_-]+`, at most 256 bytes.
//!
//! Held capabilities may have wildcards: a lone `*` holds everything, a trailing `*` one or more remaining segments,
//! an inner `*` exactly one. `self:x` is a string of its own: neither implied by `x` nor implying it, and a lone `*`
//! is the only wildcard that reaches it from outside `self:`.

use std::sync::Arc;

use crate::topic::segments_match;
use crate::{Invalid, shown};

/// The longest capability, in bytes.
pub const MAX_BYTES: usize = 256;

/// A capability, with or without wildcards. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability(Arc<str>);

impl Capability {
    /// Checks the grammar.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let fail = |why: &str| Err(Invalid(format!("capability `{}` {why}", shown(text))));
        if text.is_empty() {
            return fail("is empty");
        }
        if text.len() > MAX_BYTES {
            return fail("is longer than 256 bytes");
        }
        for segment in text.split(':') {
            if segment.is_empty() {
                return fail("has an empty segment");
            }
            if segment != "*" && !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
                return fail("has a segment with characters other than A-Z a-z 0-9 _ - (a `*` stands alone)");
            }
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split(':')
    }

    /// Whether it holds more than itself.
    pub fn is_pattern(&self) -> bool {
        self.segments().any(|s| s == "*")
    }

    /// Whether holding `self` means holding `required`.
    pub fn covers(&self, required: &Capability) -> bool {
        if &*self.0 == "*" {
            return true;
        }
        // `*:x` must not reach `self:x`: the self form is never implied by a wildcard in its place.
        is_own(self) == is_own(required) && segments_match(self.segments(), required.segments())
    }

    /// The one capability that covers exactly what this one and the other both cover; none if that is nothing.
    pub fn meet(&self, other: &Capability) -> Option<Capability> {
        match (&*self.0, &*other.0) {
            ("*", _) => return Some(other.clone()),
            (_, "*") => return Some(self.clone()),
            _ => {}
        }
        if is_own(self) != is_own(other) {
            return None;
        }
        let (one, two): (Vec<_>, Vec<_>) = (self.segments().collect(), other.segments().collect());
        let mut met = Vec::new();
        for at in 0.. {
            match (&one[at..], &two[at..]) {
                ([], []) => break,
                // A `*` at the end stands for all that remains.
                (["*"], rest @ [_, ..]) | (rest @ [_, ..], ["*"]) => {
                    met.extend(rest);
                    break;
                }
                (["*", ..], [segment, ..]) | ([segment, ..], ["*", ..]) => met.push(*segment),
                ([segment, ..], [same, ..]) if segment == same => met.push(*segment),
                _ => return None,
            }
        }
        let met = met.join(":");
        // Nothing that long can be required.
        (met.len() <= MAX_BYTES).then(|| Self(met.into()))
    }

    /// `self:` and this capability, which is enough where the target is the caller.
    pub fn self_form(&self) -> Capability {
        Capability(format!("self:{}", self.0).into())
    }
}

fn is_own(capability: &Capability) -> bool {
    capability.segments().next() == Some("self")
}

shows_its_text!(Capability);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(held: &str, required: &str) -> bool {
        Capability::parse(held).unwrap().covers(&Capability::parse(required).unwrap())
    }

    #[test]
    fn wildcards_cover_what_the_rule_book_says() {
        assert!(covers("*", "a:b:c"));
        assert!(covers("*", "self:a"));
        assert!(covers("agent:*", "agent:list"));
        assert!(covers("agent:*", "agent:list:deep"));
        assert!(!covers("agent:*", "agent"));
        assert!(covers("a:*:c", "a:b:c"));
        assert!(!covers("a:*:c", "a:b:b:c"));
        assert!(!covers("agent:list", "agent:delete"));
    }

    #[test]
    fn self_is_neither_implied_nor_implying() {
        assert!(!covers("agent:list", "self:agent:list"));
        assert!(!covers("self:agent:list", "agent:list"));
        assert!(!covers("self:*", "agent:list"));
        assert!(covers("self:*", "self:agent:list"));
        assert!(!covers("*:agent:list", "self:agent:list"));
        assert!(!covers("*:list", "self:list"));
    }

    #[test]
    fn what_is_no_capability_is_refused() {
        for bad in ["", ":", "a:", ":a", "a::b", "a:**", "a:b*", "a b", "ä", &"a".repeat(257)] {
            assert!(Capability::parse(bad).is_err(), "{bad:?}");
        }
    }

    fn model(held: &[&str], required: &[&str]) -> bool {
        match (held, required) {
            ([], []) => true,
            (["*"], [_, ..]) => true,
            (["*", h @ ..], [_, r @ ..]) => model(h, r),
            ([a, h @ ..], [b, r @ ..]) => a == b && model(h, r),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn what_two_meet_in_is_exactly_what_both_cover(
            one in prop::collection::vec(prop::sample::select(vec!["a", "b", "self", "*"]), 1..5),
            two in prop::collection::vec(prop::sample::select(vec!["a", "b", "self", "*"]), 1..5),
            required in prop::collection::vec(prop::sample::select(vec!["a", "b", "self", "c"]), 1..6),
        ) {
            let [one, two, required] = [one, two, required].map(|c| Capability::parse(&c.join(":")).unwrap());
            let met = one.meet(&two);
            let both = one.covers(&required) && two.covers(&required);
            prop_assert_eq!(met.as_ref().is_some_and(|met| met.covers(&required)), both, "{:?}", met);
            prop_assert_eq!(met, two.meet(&one));
        }

        #[test]
        fn covering_agrees_with_the_written_rule(
            held in prop::collection::vec(prop::sample::select(vec!["a", "self", "*"]), 1..5),
            required in prop::collection::vec(prop::sample::select(vec!["a", "self", "b"]), 1..5),
        ) {
            let expected = held == ["*"]
                || ((held[0] == "self") == (required[0] == "self") && model(&held, &required));
            prop_assert_eq!(covers(&held.join(":"), &required.join(":")), expected);
        }
    }
}
