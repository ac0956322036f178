//! What a fact says, and its one form in bytes: JSON on one line, fields in the order in which they stand here, absent
//! ones left out. Those bytes are the leaf of the log, so its hash covers every field.
//!
//! Bounded by a length for each field. Refuses to know: which facts there are to write down, and what they mean.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The longest fact, in bytes. Fields are cut so that none is longer.
pub const MAX_FACT: usize = 24 << 10;
const MAX_ID: usize = 128;
/// A topic, and the word before it.
const MAX_ACTION: usize = 264;
const MAX_NAME: usize = 256;
const MAX_TEXT: usize = 1024;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Allowed,
    Denied,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It has not: another fact with the same id says how it did.
    Began,
    Ok,
    /// It was not let happen.
    Refused,
    /// It was tried, and did not work.
    Failed,
    /// The host ended before it did.
    Unknown,
}

impl Outcome {
    pub const ALL: [Outcome; 5] = [Outcome::Began, Outcome::Ok, Outcome::Refused, Outcome::Failed, Outcome::Unknown];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Began => "began",
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// Something that happened, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Of what happened: of the two facts of one call, one says that it began.
    pub id: String,
    /// Nanoseconds since the Unix epoch, when the outcome was known.
    pub time: u64,
    /// What happened, in dotted words: `capsule.install`.
    pub action: String,
    pub outcome: Outcome,
    /// On whose behalf. None: the host's own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// How the session is called that it came through; where a session was to begin and has no name, the beginning of its
    /// credential's keyed hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Whose code did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capsule: Option<String>,
    /// BLAKE3 of that code, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// To what or whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The capability that was needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why the outcome is what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Nanoseconds that it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    /// The id of the request from outside that caused it; behind a slash that of its client's trace, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// More, cleaned of secrets by whoever owns what happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// A keyed hash of the payload, which only this host can make: [`super::Journal::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

impl Fact {
    /// One that says no more than what happened, and that it went well.
    pub(super) fn new(id: String, time: u64, action: &str) -> Self {
        Self {
            id,
            time,
            action: action.to_owned(),
            outcome: Outcome::Ok,
            principal: None,
            session: None,
            capsule: None,
            hash: None,
            target: None,
            requires: None,
            decision: None,
            rule: None,
            reason: None,
            duration: None,
            cause: None,
            detail: None,
            payload: None,
        }
    }

    /// Its bytes, at most [`MAX_FACT`]. Fields that are too long are cut first, with a mark.
    pub fn seal(&mut self) -> Vec<u8> {
        cut(&mut self.id, MAX_ID);
        cut(&mut self.action, MAX_ACTION);
        let fields = [
            (&mut self.principal, MAX_ID),
            (&mut self.session, MAX_ID),
            (&mut self.capsule, MAX_ID),
            (&mut self.hash, MAX_ID),
            (&mut self.target, MAX_NAME),
            (&mut self.requires, MAX_NAME),
            (&mut self.rule, MAX_NAME),
            (&mut self.reason, MAX_TEXT),
            (&mut self.cause, MAX_ID),
            (&mut self.detail, MAX_TEXT),
            (&mut self.payload, MAX_ID),
        ];
        for (field, max) in fields {
            if let Some(field) = field {
                cut(field, max);
            }
        }
        serde_json::to_vec(self).expect("plain records serialise")
    }

    /// None if the bytes are not exactly those of a fact.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fact: Self = serde_json::from_slice(bytes).ok()?;
        (fact.seal() == bytes).then_some(fact)
    }
}

fn cut(field: &mut String, max: usize) {
    const MARK: &str = "…";
    if field.len() > max {
        field.truncate(field.floor_char_boundary(max - MARK.len()));
        field.push_str(MARK);
    }
}

/// What a query looks at.
#[derive(Debug, Deserialize)]
pub(super) struct Head<'a> {
    pub(super) time: u64,
    #[serde(borrow)]
    pub(super) action: Cow<'a, str>,
    pub(super) outcome: Outcome,
    #[serde(borrow, default)]
    pub(super) principal: Option<Cow<'a, str>>,
}

impl<'a> Head<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl From<Fact> for Head<'static> {
    fn from(fact: Fact) -> Self {
        let Fact { time, action, outcome, principal, .. } = fact;
        Self { time, action: action.into(), outcome, principal: principal.map(Cow::Owned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(id: &str, action: &str) -> Fact {
        Fact::new(id.to_owned(), 1, action)
    }

    #[test]
    fn a_fact_has_one_form_and_nothing_else_is_read() {
        let mut whole = Fact {
            principal: Some("alice".into()),
            decision: Some(Decision::Denied),
            duration: Some(17),
            detail: Some("a \"b\"\n".into()),
            ..fact("1-1", "bus.request")
        };
        let bytes = whole.seal();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"id":"1-1","time":1,"action":"bus.request","outcome":"ok","principal":"alice","decision":"denied","duration":17,"detail":"a \"b\"\n"}"#
        );
        assert_eq!(Fact::parse(&bytes), Some(whole));
        for other in [
            r#"{"time":1,"id":"1-1","action":"a","outcome":"ok"}"#,
            r#"{"id":"1-1","time":1,"action":"a","outcome":"ok","more":1}"#,
            r#"{"id":"1-1","time":1,"action":"a","outcome":"ok","detail":null}"#,
            r#"{"id": "1-1","time":1,"action":"a","outcome":"ok"}"#,
        ] {
            assert_eq!(Fact::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_with_a_mark_and_every_fact_fits_a_bundle() {
        let long = || Some("\u{1}".repeat(4000));
        let mut whole = Fact {
            principal: long(),
            session: long(),
            capsule: long(),
            hash: long(),
            target: long(),
            requires: long(),
            rule: long(),
            reason: long(),
            cause: long(),
            detail: long(),
            payload: long(),
            ..fact(&"\u{1}".repeat(4000), &"\u{1}".repeat(4000))
        };
        let bytes = whole.seal();
        assert!(bytes.len() <= MAX_FACT, "{}", bytes.len());
        let fact = Fact::parse(&bytes).unwrap();
        assert!(fact.detail.unwrap().ends_with('…') && fact.id.ends_with('…'));
    }
}
