//! What caused a message: a request from outside, and the trace by which its client follows it.
//!
//! Goes with every message that comes of that request, at any depth. Bounded by [`MAX_TRACEPARENT`]. Refuses to know: how the
//! request came in, what a trace is for. The host makes no spans of its own, so a client's `traceparent` goes on as it is.

use std::fmt;
use std::sync::Arc;

/// The longest `traceparent` that is taken, in bytes.
pub const MAX_TRACEPARENT: usize = 128;

/// Written as the request's id and, if there is one, the id of its trace behind a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The id of the request from outside.
    pub id: Arc<str>,
    pub trace: Option<Traceparent>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        self.trace.as_ref().map_or(Ok(()), |trace| write!(f, "/{}", trace.trace_id()))
    }
}

/// A `traceparent` of W3C Trace Context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traceparent(Arc<str>);

impl Traceparent {
    /// Version, trace, parent and flags in lower-case hex with dashes between. Version `00` has nothing behind those; a later
    /// one, but for `ff`, may. Neither trace nor parent is zero.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = str::from_utf8(value).ok().filter(|text| text.len() <= MAX_TRACEPARENT)?;
        let mut parts = text.splitn(5, '-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            (part.len() == digits && part.bytes().all(lower)).then_some(part)
        };
        let (version, trace, parent, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let zero = |part: &str| part.bytes().all(|b| b == b'0');
        let more = parts.next();
        let fits = match version {
            "ff" => false,
            "00" => more.is_none(),
            _ => more.is_none_or(|more| more.bytes().all(|b| b.is_ascii_graphic())),
        };
        (fits && !zero(trace) && !zero(parent)).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// 32 hex characters.
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_traceparent_is_taken_as_it_is_or_not_at_all() {
        for good in [
            format!("00-{TRACE}-00f067aa0ba902b7-01"),
            format!("cc-{TRACE}-00f067aa0ba902b7-00"),
            format!("cc-{TRACE}-00f067aa0ba902b7-00-what-comes"),
        ] {
            let read = Traceparent::parse(good.as_bytes()).unwrap();
            assert_eq!((read.as_str(), read.trace_id()), (good.as_str(), TRACE));
            let cause = Cause { id: "1-2".into(), trace: Some(read) };
            assert_eq!(cause.to_string(), format!("1-2/{TRACE}"));
        }
        for bad in [
            String::new(),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01-a b"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01-{}", "x".repeat(MAX_TRACEPARENT)),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-00f067aa0ba902b-701"),
            format!(" 00-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-0é"),
        ] {
            assert_eq!(Traceparent::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
