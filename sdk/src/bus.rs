//! Messages: what a handler is given and answers, and how a capsule sends.
//!
//! Payloads are JSON here; the `_raw` functions move bytes. A capsule may send only to the topics of its manifest's
//! `[[publish]]`, and what it sends carries the principal of the call that sends it.

mod stream;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::imports::astrid::bus::bus as raw;
pub use crate::bindings::imports::astrid::bus::bus::{Caller, Event, Options, Received};
pub use crate::bindings::imports::astrid::bus::types::{Failure, Gap, Message, Refusal, RefusalCode};
pub use crate::bindings::interceptor::exports::astrid::bus::interceptor::Verdict;
use crate::{env, keys, kv, log};
pub use stream::{
    Pieces, RawPieces, Subscription, request_stream, request_stream_raw, request_stream_with, send_piece,
    send_piece_json,
};

/// What a handler answers: the payload of the answer, or why there is none.
pub type Answer = Result<Vec<u8>, Refusal>;

/// The longest sentence that a refusal made here carries, in bytes.
pub const MAX_REASON_BYTES: usize = 512;

/// An answer of JSON.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Answer {
    serde_json::to_vec(value).map_err(|error| {
        log::error!("an answer can't be written as JSON: {error}");
        Refusal::internal("the answer can't be written as JSON")
    })
}

/// Asks the handler of `topic` and waits for its answer, at most for what is left of the caller's own deadline.
///
/// An answer that is not an `R` is `Failure::Refused` with the code `internal`.
pub fn request<T: Serialize + ?Sized, R: DeserializeOwned>(topic: &str, payload: &T) -> Result<R, Failure> {
    request_with(topic, payload, &Options::default())
}

/// As [`request`], about a target or with a shorter deadline.
pub fn request_with<T, R>(topic: &str, payload: &T, options: &Options) -> Result<R, Failure>
where
    T: Serialize + ?Sized,
    R: DeserializeOwned,
{
    decode(topic, &raw::request(topic, &encode(payload)?, options)?)
}

fn decode<R: DeserializeOwned>(topic: &str, answer: &[u8]) -> Result<R, Failure> {
    serde_json::from_slice(answer).map_err(|error| {
        let reason = format!("the answer of `{topic}` is not what was expected: {error}");
        Failure::Refused(Refusal::internal(reason))
    })
}

/// As [`request_with`], with bytes.
pub fn request_raw(topic: &str, payload: &[u8], options: &Options) -> Result<Vec<u8>, Failure> {
    raw::request(topic, payload, options)
}

/// Hands the payload to every binding whose pattern matches and to every open subscription; the answer is how many took
/// it. Handlers run later. Waits, for 30 seconds at most, while a `lossless` subscription has no room.
pub fn publish<T: Serialize + ?Sized>(topic: &str, payload: &T) -> Result<u32, Failure> {
    raw::publish(topic, &encode(payload)?, None)
}

/// As [`publish`], with bytes, and about `target` if there is one.
pub fn publish_raw(topic: &str, payload: &[u8], target: Option<&str>) -> Result<u32, Failure> {
    raw::publish(topic, payload, target)
}

fn encode<T: Serialize + ?Sized>(payload: &T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(payload)
        .map_err(|error| Failure::Invalid(format!("the payload can't be written as JSON: {error}")))
}

impl Default for Options {
    /// Without a target, with exactly what is left of the caller's own deadline.
    fn default() -> Self {
        Self { target: None, timeout_ms: 0 }
    }
}

impl Message {
    /// The payload as a `T`. What does not fit is refused as `invalid`, with the field, line and column.
    ///
    /// Nesting is bounded by serde_json (128 levels). Derive `T` with `#[serde(deny_unknown_fields)]`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.payload)
            .map_err(|error| Refusal::invalid(format!("the payload does not fit: {error}")))
    }

    /// As [`Message::json`], of a payload that must be an object: a struct would also read from an array of its fields.
    pub fn object<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        if self.payload.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
            return Err(Refusal::invalid("the payload must be a JSON object"));
        }
        self.json()
    }
}

impl Refusal {
    /// The sentence reaches the caller; what exceeds [`MAX_REASON_BYTES`] is cut.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self { code, reason: cut(reason.into()) }
    }

    /// The payload is not what the handler takes, or a value in it is out of bounds.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::new(RefusalCode::Invalid, reason)
    }

    /// The handler's own rule says no.
    pub fn denied(reason: impl Into<String>) -> Self {
        Self::new(RefusalCode::Denied, reason)
    }

    /// What the message names does not exist.
    pub fn not_found(reason: impl Into<String>) -> Self {
        Self::new(RefusalCode::NotFound, reason)
    }

    /// It exists already, or it changed while the handler worked.
    pub fn conflict(reason: impl Into<String>) -> Self {
        Self::new(RefusalCode::Conflict, reason)
    }

    /// Something that the handler needs is away; the same request may succeed later.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::new(RefusalCode::Unavailable, reason)
    }

    /// The handler found itself in a state that it should not be in. The detail belongs into the log.
    pub fn internal(reason: impl Into<String>) -> Self {
        Self::new(RefusalCode::Internal, reason)
    }
}

fn cut(mut reason: String) -> String {
    if reason.len() > MAX_REASON_BYTES {
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES - '…'.len_utf8()));
        reason.push('…');
    }
    reason
}

impl Verdict {
    /// Ends the message. The sentence reaches its sender; what exceeds [`MAX_REASON_BYTES`] is cut.
    pub fn denied(reason: impl Into<String>) -> Self {
        Self::Deny(cut(reason.into()))
    }
}

impl From<Refusal> for Verdict {
    /// A denial with the refusal's sentence, whatever its code.
    fn from(refusal: Refusal) -> Self {
        Self::denied(refusal.reason)
    }
}

impl From<Failure> for Refusal {
    /// For a handler whose own request failed: a refusal goes on unchanged, a denial stays one, the rest is
    /// `unavailable` where trying again may help and `internal`, with a line in the log, where it can't.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Denied(reason) => Self::denied(reason),
            Failure::NoResponder => Self::unavailable("nothing handles a topic that this needs"),
            Failure::Timeout => Self::unavailable("something that this needs took too long"),
            Failure::Overloaded(_) => Self::unavailable("something that this needs has no room now"),
            Failure::Trapped => Self::unavailable("something that this needs died"),
            Failure::Closed => Self::unavailable("nobody reads the answer any more, or what was read has ended"),
            Failure::TooLarge(_) | Failure::Invalid(_) => {
                log::error!("a request of this capsule failed: {failure:?}");
                Self::internal("a request of this capsule failed")
            }
        }
    }
}

impl From<kv::Error> for Refusal {
    /// `conflict` and `unavailable` keep their names, too large is `invalid`, and a name or limit out of bounds is
    /// the capsule's own fault: `internal`, with a line in the log.
    fn from(error: kv::Error) -> Self {
        match error {
            kv::Error::Conflict => Self::conflict("it changed meanwhile; try again"),
            kv::Error::TooLarge(most) => Self::invalid(format!("what this would store has more than {most} bytes")),
            kv::Error::Unavailable => Self::unavailable("the store is away"),
            kv::Error::Quota => Self::denied("the caller's quota of stored bytes is used up; delete something first"),
            kv::Error::Invalid(reason) => {
                log::error!("the store refused: {reason}");
                Self::internal("the store refused what this capsule asked")
            }
        }
    }
}

impl From<env::Error> for Refusal {
    /// A field that the manifest does not have is the capsule's own fault: `internal`, with a line in the log.
    fn from(error: env::Error) -> Self {
        match error {
            env::Error::Unavailable => Self::unavailable("the environment of this capsule is away"),
            env::Error::UnknownField(reason) => {
                log::error!("env: {reason}");
                Self::internal("this capsule asked for a field that its manifest does not have")
            }
        }
    }
}

impl From<keys::Error> for Refusal {
    /// A missing grant is `internal`, with a line in the log.
    fn from(keys::Error::Denied(reason): keys::Error) -> Self {
        log::error!("keys: {reason}");
        Self::internal("this capsule may not use a key that it needs")
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Payload {
        #[expect(dead_code, reason = "only parsed")]
        limit: u32,
    }

    fn message(payload: &str) -> Message {
        Message {
            id: 1,
            topic: "a".into(),
            principal: "p".into(),
            sender: "s".into(),
            target: None,
            remaining_ms: 0,
            streams: false,
            cause: None,
            traceparent: None,
            payload: payload.into(),
        }
    }

    #[test]
    fn a_payload_that_does_not_fit_is_invalid_and_says_where() {
        for (payload, want) in [
            ("", "EOF while parsing"),
            ("{}", "missing field `limit`"),
            ("{\"limit\":1,\n\"limt\":2}", "unknown field `limt`, expected `limit` at line 2"),
            ("{\"limit\":-1}", "line 1 column"),
            ("{\"limit\":1,\"limit\":1}", "duplicate field `limit`"),
            (&"[".repeat(100_000), "line 1 column"),
        ] {
            let refusal = message(payload).json::<Payload>().unwrap_err();
            assert_eq!(refusal.code, RefusalCode::Invalid);
            assert!(refusal.reason.contains(want), "{}", refusal.reason);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(message(&deep(100)).json::<serde_json::Value>().is_ok());
        let refusal = message(&deep(200)).json::<serde_json::Value>().unwrap_err();
        assert!(refusal.reason.contains("recursion limit"), "{}", refusal.reason);
    }

    #[test]
    fn a_reason_is_cut_at_a_character_and_says_so() {
        let reason = Refusal::invalid("ä".repeat(1000)).reason;
        assert!(reason.len() <= MAX_REASON_BYTES && reason.ends_with('…'));
        assert_eq!(Refusal::invalid("short").reason, "short");
        let Verdict::Deny(reason) = Verdict::denied("ä".repeat(1000)) else { panic!("a denial") };
        assert!(reason.len() <= MAX_REASON_BYTES && reason.ends_with('…'));
    }
}
