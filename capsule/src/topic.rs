//! Topics and topic patterns: the only matcher. Permission and delivery both use it.
//!
//! A topic is 1 to 16 dot-separated segments of `[A-Za-z0-9_-]+`, at most 256 bytes. In a pattern a segment may also
//! be `*`: an inner `*` stands for exactly one segment, a trailing `*` for one or more. A lone `*` matches everything.

use std::sync::Arc;

use crate::{Invalid, shown};

/// The longest topic or pattern, in bytes.
pub const MAX_BYTES: usize = 256;
/// The most segments of a topic or pattern.
pub const MAX_SEGMENTS: usize = 16;

/// A topic without wildcards. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// A topic in which segments may be `*`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

fn check(kind: &str, text: &str, wildcard: bool) -> Result<(), Invalid> {
    let fail = |why: &str| Err(Invalid(format!("{kind} `{}` {why}", shown(text))));
    if text.is_empty() {
        return fail("is empty");
    }
    if text.len() > MAX_BYTES {
        return fail("is longer than 256 bytes");
    }
    let mut segments = 0;
    for segment in text.split('.') {
        segments += 1;
        if segment.is_empty() {
            return fail("has an empty segment");
        }
        if segment == "*" {
            if !wildcard {
                return fail("may not hold `*`");
            }
        } else if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return fail("has a segment with characters other than A-Z a-z 0-9 _ - (a `*` stands alone)");
        }
    }
    if segments > MAX_SEGMENTS {
        return fail("has more than 16 segments");
    }
    Ok(())
}

impl Topic {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        check("topic", text, false)?;
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn segments(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.split('.')
    }
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        check("topic pattern", text, true)?;
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    pub fn matches(&self, topic: &Topic) -> bool {
        segments_match(self.segments(), topic.segments())
    }

    /// Whether there can be a topic that both match.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        let (mut ours, mut theirs) = (self.segments().peekable(), other.segments().peekable());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) => {
                    if (a == "*" && ours.peek().is_none()) || (b == "*" && theirs.peek().is_none()) {
                        return true;
                    }
                    if a != b && a != "*" && b != "*" {
                        return false;
                    }
                }
                _ => return false,
            }
        }
    }

    /// Orders patterns that match the same topic: the one with the longer literal beginning is the better match,
    /// then the one with more literal segments, then the one with more segments.
    pub fn specificity(&self) -> (usize, usize, usize) {
        let leading = self.segments().take_while(|s| *s != "*").count();
        let literal = self.segments().filter(|s| *s != "*").count();
        (leading, literal, self.segments().count())
    }
}

/// The rule of this module and of [`crate::capability`], over segments of either kind.
pub(crate) fn segments_match<'a>(
    pattern: impl Iterator<Item = &'a str>,
    subject: impl Iterator<Item = &'a str>,
) -> bool {
    let mut pattern = pattern.peekable();
    let mut subject = subject.peekable();
    while let Some(want) = pattern.next() {
        let Some(have) = subject.next() else { return false };
        if want == "*" && pattern.peek().is_none() {
            return true;
        }
        if want != "*" && want != have {
            return false;
        }
    }
    subject.peek().is_none()
}

shows_its_text!(Topic);
shows_its_text!(Pattern);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(&Topic::parse(topic).unwrap())
    }

    #[test]
    fn an_inner_star_is_one_segment_and_a_trailing_star_is_one_or_more() {
        assert!(matches("a.*.c", "a.b.c"));
        assert!(!matches("a.*.c", "a.b.b.c"));
        assert!(!matches("a.*.c", "a.c"));
        assert!(matches("a.*", "a.b"));
        assert!(matches("a.*", "a.b.c.d"));
        assert!(!matches("a.*", "a"));
        assert!(!matches("a.*", "ab.c"));
        assert!(matches("*", "anything.at.all"));
        assert!(matches("a.b", "a.b"));
        assert!(!matches("a.b", "a.b.c"));
        assert!(!matches("a.b.c", "a.b"));
    }

    #[test]
    fn what_is_no_topic_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "is empty"),
            ("a..b", "empty segment"),
            (".a", "empty segment"),
            ("a.", "empty segment"),
            ("a.*", "may not hold"),
            ("a.b*", "other than"),
            ("a b", "other than"),
            ("ä", "other than"),
            (&"a".repeat(257), "256 bytes"),
            (&["a"; 17].join("."), "16 segments"),
        ] {
            let error = Topic::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!(Pattern::parse("a.**").is_err());
        assert!(Pattern::parse("a.x*").is_err());
        assert!(Topic::parse(&["a"; 16].join(".")).is_ok());
    }

    /// What the grammar says, written as plainly as possible and as slowly.
    fn model(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            (["*"], [_, ..]) => true,
            (["*", p @ ..], [_, t @ ..]) => model(p, t),
            ([a, p @ ..], [b, t @ ..]) => a == b && model(p, t),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_the_written_rule(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..6),
            topic in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..6),
        ) {
            prop_assert_eq!(matches(&pattern.join("."), &topic.join(".")), model(&pattern, &topic));
        }

        #[test]
        fn patterns_overlap_exactly_when_there_is_a_topic_that_both_match(
            a in prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..4),
            b in prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..4),
        ) {
            // No longer topic and no third name can make a difference.
            let longer = |short: &[Vec<&'static str>]| -> Vec<Vec<&'static str>> {
                short.iter().flat_map(|t| ["a", "b"].map(|s| [&t[..], &[s]].concat())).collect()
            };
            let lengths = std::iter::successors(Some(longer(&[vec![]])), |topics| Some(longer(topics)));
            let both = lengths.take(4).flatten().any(|topic| model(&a, &topic) && model(&b, &topic));
            let [a, b] = [a, b].map(|pattern| Pattern::parse(&pattern.join(".")).unwrap());
            prop_assert_eq!((a.overlaps(&b), b.overlaps(&a)), (both, both), "{} and {}", a, b);
        }

        #[test]
        fn no_text_makes_the_parsers_panic_and_what_they_take_keeps_its_bounds(text in ".{0,300}") {
            if let Ok(pattern) = Pattern::parse(&text) {
                prop_assert!(pattern.as_str().len() <= MAX_BYTES && pattern.segments().count() <= MAX_SEGMENTS);
            }
            prop_assert!(Topic::parse(&text).is_err() || Pattern::parse(&text).is_ok());
        }
    }
}
