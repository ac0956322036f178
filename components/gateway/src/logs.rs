//! `GET /api/sys/logs?follow=true`: log lines as they are written, as server-sent events.
//!
//! The host tells nobody of a new line. So a stream asks once a second for what came after the last line that it sent, on
//! behalf of whoever follows: whoever may no longer read the log gets no more of it. Its relay's source is a subscription to
//! [`NOTHING`], on which nothing is published: only the sign of life calls it. What it asks for stands in its context.
//!
//! Events: `line` with its sequence number as its id, `gap`, `error`. Bounded by what one answer holds, each second, and by
//! what the host allows for relays.

use astrid_sdk::authority::Session;
use astrid_sdk::bus::{self, Failure, Options};
use astrid_sdk::http::{Event, Output, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::errors::{self, Asked, Problem};
use crate::sse::{self, COMMENT};

pub const LOGS: &str = "system.v1.logs";
/// A topic of the gateway's own.
const NOTHING: &str = "gateway.v1.nothing";
/// How often a stream asks, in milliseconds.
const EVERY_MS: u32 = 1000;
/// After so many times without a line there is a comment.
const QUIET: u32 = 15;
/// The most lines that one answer holds.
const MOST: u64 = 1000;

/// What a stream must know between two calls.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follower {
    /// What is asked for: a capsule and a level, if the client has named them.
    query: Map<String, Value>,
    /// The last line that was sent.
    after: u64,
    /// Times in a row without a line.
    quiet: u32,
}

#[derive(Deserialize)]
struct Lines {
    lines: Vec<Value>,
}

/// Begins a stream with what is there. `query` is what `system.v1.logs` takes; `from` is the first line that is wanted.
///
/// # Errors
/// What the bus says.
pub fn open(session: &Session, mut query: Map<String, Value>, from: Option<u64>) -> Result<Response, Problem> {
    let own = |topic| move |failure| errors::of_failure(failure, Asked::OwnTopic(topic));
    if let Some(from) = from {
        query.insert("after".into(), from.saturating_sub(1).into());
    }
    let subscription = session.subscribe(&[NOTHING.to_owned()]).map_err(own(NOTHING))?;
    let asked = Value::Object(query.clone()).to_string();
    let answer = session.request(LOGS, asked.as_bytes(), &Options::default()).map_err(own(LOGS))?;
    let lines: Lines = serde_json::from_slice(&answer)
        .map_err(|error| Problem::unavailable(format!("the log's answer can't be read: {error}")))?;
    let after = query.get("after").and_then(Value::as_u64).unwrap_or(0);
    query.retain(|name, _| ["capsule", "level"].contains(&name.as_str()));
    let mut follower = Follower { query, after, quiet: 0 };
    // The reader has said how many of the lines so far it wants: the others are not lost.
    let body = follower.told(&lines.lines, false);
    Ok(sse::stream(body).relaying(subscription, follower.written(), EVERY_MS))
}

impl Follower {
    /// None: the context of another kind of stream.
    pub fn read(context: &[u8]) -> Option<Self> {
        serde_json::from_slice(context).ok()
    }

    fn written(&self) -> Vec<u8> {
        json!(self).to_string().into_bytes()
    }

    /// The bytes of what was written since.
    pub fn relay(self, _events: Vec<Event>) -> Output {
        let mut query = self.query.clone();
        query.insert("after".into(), self.after.into());
        query.insert("limit".into(), MOST.into());
        let answer = bus::request_raw(LOGS, Value::Object(query).to_string().as_bytes(), &Options::default());
        self.answered(answer)
    }

    fn answered(mut self, answer: Result<Vec<u8>, Failure>) -> Output {
        let lines = match answer {
            Ok(answer) => serde_json::from_slice::<Lines>(&answer).map(|lines| lines.lines).unwrap_or_default(),
            Err(Failure::Denied(_)) => {
                return Output::last(sse::error("forbidden", "this session may no longer read the log"));
            }
            // It asks again in a second.
            Err(_) => Vec::new(),
        };
        let mut body = self.told(&lines, true);
        self.quiet = if lines.is_empty() { self.quiet + 1 } else { 0 };
        if self.quiet >= QUIET {
            self.quiet = 0;
            body.push_str(COMMENT);
        }
        Output::more(body).with_context(self.written())
    }

    /// The events of these lines, oldest first. Every number is some line's, so where all are wanted a hole is a loss.
    fn told(&mut self, lines: &[Value], whole: bool) -> String {
        let mut body = String::new();
        for line in lines {
            let Some(sequence) = line.get("sequence").and_then(Value::as_u64) else { continue };
            // The host was started again, and its numbers began anew.
            let next = if sequence <= self.after { sequence } else { self.after + 1 };
            if whole && self.query.is_empty() && sequence > next {
                body.push_str(&sse::gap(sequence - next));
            }
            body.push_str(&sse::event_with_id(sequence, "line", line));
            self.after = sequence;
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(query: Value) -> Follower {
        Follower { query: query.as_object().unwrap().clone(), after: 4, quiet: 0 }
    }

    fn lines(sequences: &[u64]) -> Result<Vec<u8>, Failure> {
        let lines: Vec<Value> = sequences.iter().map(|n| json!({ "sequence": n, "message": "a\nb" })).collect();
        Ok(json!({ "lines": lines }).to_string().into_bytes())
    }

    fn text(output: &Output) -> String {
        String::from_utf8(output.body.clone()).unwrap()
    }

    #[test]
    fn each_line_is_an_event_with_its_number_and_a_hole_is_told_where_every_line_is_wanted() {
        let output = follower(json!({})).answered(lines(&[5, 8]));
        let line = |n| format!("id: {n}\nevent: line\ndata: {{\"message\":\"a\\nb\",\"sequence\":{n}}}\n\n");
        assert_eq!(text(&output), format!("{}event: gap\ndata: {{\"lost\":2}}\n\n{}", line(5), line(8)));
        assert_eq!(Follower::read(&output.context.unwrap()).unwrap().after, 8);
        let output = follower(json!({ "capsule": "echo" })).answered(lines(&[5, 8]));
        assert_eq!(text(&output), line(5) + &line(8));
    }

    #[test]
    fn silence_is_broken_by_a_comment_and_who_may_read_no_more_gets_an_end() {
        let mut one = follower(json!({}));
        for time in 1..=QUIET {
            let output = one.answered(if time == 3 { Err(Failure::Timeout) } else { lines(&[]) });
            assert_eq!(text(&output), if time == QUIET { ": here\n\n" } else { "" });
            one = Follower::read(&output.context.unwrap()).unwrap();
        }
        let output = one.answered(Err(Failure::Denied("no".into())));
        assert!(output.last && text(&output).starts_with("event: error\n"));
    }

    #[test]
    fn the_contexts_of_other_streams_are_not_its_own() {
        assert!(Follower::read(b"{\"from\":1}").is_none());
        assert!(Follower::read(&follower(json!({ "level": "warn" })).written()).is_some());
    }
}
