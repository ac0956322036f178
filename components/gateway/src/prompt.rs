//! `POST /api/agent/prompt`: a prompt, and what comes of it as server-sent events.
//!
//! The prompt is published as `user.v1.prompt` on behalf of whoever asks, and the stream is a relay of a subscription to what
//! agents publish on the same behalf. That is opened first, so that no answer is missed. Of what comes, the client gets what
//! names the prompt's session, in order; another principal's never comes at all. A request for approval names no session: the
//! client gets it if the request that began the stream has caused it.
//!
//! The agent's next response in the session ends the stream. An agent that dies says nothing, so the stream also ends when
//! nothing of its session has come for a while. When that was is what [`Followed`] carries from call to call.
//!
//! Events: `ready`, `delta`, `session_changed`, `elicit`, `response`, `gap`, `error`. Bounded by [`MAX_TEXT`], the body of a
//! request, the queue of the subscription, and what the host allows for relays. Refuses to know what an agent is.

use std::time::{SystemTime, UNIX_EPOCH};

use astrid_sdk::authority::Session;
use astrid_sdk::bus::Message;
use astrid_sdk::http::{Event, Output, Request, Response};
use astrid_sdk::log;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::errors::{self, Asked, Problem};
use crate::sse::{self, COMMENT};

/// What whoever prompts must hold, at least for itself.
pub const CAPABILITY: &str = "agent:prompt";
/// The field that says how long a stream waits.
pub const IDLE: &str = "PROMPT_IDLE_SECS";
/// Seconds that a stream waits unless the field says otherwise: what was published acts for no longer.
pub const USUAL_IDLE_SECS: u64 = 300;
/// The longest prompt, in bytes.
pub const MAX_TEXT: usize = 32 << 10;
/// The longest name of a session, in bytes.
pub const MAX_SESSION: usize = 128;

const PROMPT: &str = "user.v1.prompt";
const RESPONSE: &str = "agent.v1.response";
const APPROVAL: &str = "identity.v1.approval.asked";
/// What is told, and as which event.
const TOLD: [(&str, &str); 5] = [
    ("agent.v1.stream.delta", "delta"),
    (RESPONSE, "response"),
    ("agent.v1.session_changed", "session_changed"),
    ("agent.v1.elicit", "elicit"),
    (APPROVAL, "elicit"),
];
/// After so long without an event there is a comment, in milliseconds.
const COMMENT_MS: u32 = 15_000;

/// Seconds that a stream waits for something of its session.
///
/// # Errors
/// Where it is not a whole number of 1 to 86,400.
pub fn idle(text: Option<&str>) -> Result<u64, String> {
    let Some(text) = text else { return Ok(USUAL_IDLE_SECS) };
    let seconds = text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
    seconds.ok_or_else(|| format!("{IDLE} = {text} must be a whole number of 1 to 86400"))
}

/// What a client asks.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    text: String,
    #[serde(default)]
    session_id: Option<String>,
    /// For the agent, as it is.
    #[serde(default)]
    context: Option<Map<String, Value>>,
}

impl Prompt {
    /// From a body that is JSON.
    ///
    /// # Errors
    /// 400, with what does not fit.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::bad_request("the body must be a JSON object"));
        }
        let prompt: Self = serde_json::from_slice(body)
            .map_err(|error| Problem::bad_request(format!("the body does not fit: {error}")))?;
        if prompt.text.trim().is_empty() || prompt.text.len() > MAX_TEXT {
            return Err(Problem::bad_request(format!("text must be 1 to {MAX_TEXT} bytes, and not white space alone")));
        }
        let legal = |id: &String| {
            (1..=MAX_SESSION).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        if prompt.session_id.as_ref().is_some_and(|id| !legal(id)) {
            return Err(Problem::bad_request(format!("session_id must be 1 to {MAX_SESSION} of A-Z a-z 0-9 _ -")));
        }
        Ok(prompt)
    }

    /// Hands the prompt over, and begins its stream.
    ///
    /// # Errors
    /// 403 without the capability, 503 where nobody takes it, and what the bus says.
    pub fn open(self, session: &Session, request: &Request, idle_secs: u64) -> Result<Response, Problem> {
        let principal = session.principal();
        if !session.holds(CAPABILITY, Some(&principal)) {
            return Err(Problem::forbidden(format!("requires {CAPABILITY}")));
        }
        let session_id = self.session_id.map_or_else(unguessable, Ok)?;
        let mut payload = json!({ "session_id": session_id, "principal": principal, "text": self.text });
        if let Some(context) = self.context {
            payload["context"] = context.into();
        }
        let failed = |failure| errors::of_failure(failure, Asked::OwnTopic(PROMPT));
        let subscription = session.subscribe(&TOLD.map(|(topic, _)| topic.to_owned())).map_err(failed)?;
        if session.publish(PROMPT, payload.to_string().as_bytes(), None).map_err(failed)? == 0 {
            return Err(Problem::nobody("no agent takes prompts now: none is installed, or it has no room"));
        }
        let body = sse::event("ready", &json!({ "session_id": session_id, "principal": principal }));
        let followed = Followed { session_id, request: request.id.clone(), heard_at: now(), idle_secs };
        let idle_ms = u32::try_from(idle_secs.saturating_mul(1000)).map_or(COMMENT_MS, |ms| ms.min(COMMENT_MS));
        Ok(sse::stream(body).relaying(subscription, followed.written(), idle_ms))
    }
}

/// 128 bits of randomness, in hex.
fn unguessable() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Problem::internal(format!("no name for a session can be made: {error}")))?;
    Ok(hex::encode(bytes))
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a stream must know between two calls.
#[derive(Debug, Serialize, Deserialize)]
pub struct Followed {
    session_id: String,
    /// The id of the request that began it.
    request: String,
    /// When something of its session came last, in seconds since the Unix epoch.
    heard_at: u64,
    idle_secs: u64,
}

#[derive(Deserialize)]
struct Named {
    session_id: Option<String>,
}

impl Followed {
    /// None: the context of another kind of stream.
    pub fn read(context: &[u8]) -> Option<Self> {
        serde_json::from_slice(context).ok()
    }

    fn written(&self) -> Vec<u8> {
        json!(self).to_string().into_bytes()
    }

    /// The bytes of what has come.
    pub fn relay(self, events: Vec<Event>) -> Output {
        self.relay_at(events, now())
    }

    fn relay_at(mut self, events: Vec<Event>, now: u64) -> Output {
        let mut body = String::new();
        for one in events {
            match one {
                Event::Message(message) => {
                    let Some((name, data)) = self.told(&message) else { continue };
                    self.heard_at = now;
                    body.push_str(&sse::event(name, &data));
                    if message.topic == RESPONSE {
                        return Output::last(body);
                    }
                }
                Event::Gap(gap) => body.push_str(&sse::gap(gap.lost)),
                Event::Idle => body.push_str(COMMENT),
                Event::End(_) => {
                    return Output::last(
                        body + &sse::error("unavailable", "what the agent says can't be received any more"),
                    );
                }
                Event::Piece(_) => {}
            }
        }
        if now.saturating_sub(self.heard_at) >= self.idle_secs {
            let reason = format!("the agent has said nothing for {} seconds", self.idle_secs);
            return Output::last(body + &sse::error("timeout", &reason));
        }
        Output::more(body).with_context(self.written())
    }

    /// What the client gets of a message, if it is of this prompt's session.
    fn told(&self, message: &Message) -> Option<(&'static str, Value)> {
        let (_, name) = TOLD.into_iter().find(|(topic, _)| *topic == message.topic)?;
        let is_approval = message.topic == APPROVAL;
        if is_approval && message.cause.as_ref() != Some(&self.request) {
            return None;
        }
        let named: Named = self.parsed(message)?;
        if !is_approval && named.session_id.as_ref() != Some(&self.session_id) {
            return None;
        }
        let data: Value = self.parsed(message)?;
        Some((name, if is_approval { json!({ "session_id": self.session_id, "approval": data }) } else { data }))
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, message: &Message) -> Option<T> {
        let parsed = serde_json::from_slice(&message.payload);
        parsed.inspect_err(|error| log::warn!("a message of {} can't be read: {error}", message.topic)).ok()
    }
}

#[cfg(test)]
mod tests {
    use astrid_sdk::bus::Gap;

    use super::*;

    const STARTED: u64 = 1_000;

    fn followed() -> Followed {
        Followed { session_id: "s".into(), request: "r-1".into(), heard_at: STARTED, idle_secs: 60 }
    }

    fn message(topic: &str, cause: Option<&str>, payload: &Value) -> Event {
        Event::Message(Message {
            id: 1,
            topic: topic.into(),
            principal: "alice".into(),
            sender: "agent".into(),
            target: None,
            remaining_ms: 0,
            streams: false,
            cause: cause.map(str::to_owned),
            traceparent: None,
            payload: payload.to_string().into(),
        })
    }

    fn text(output: &Output) -> &str {
        str::from_utf8(&output.body).unwrap()
    }

    fn reason(body: &Value) -> Option<String> {
        Prompt::read(body.to_string().as_bytes()).err().map(|problem| {
            assert_eq!(problem.kind.status(), 400);
            problem.reason.unwrap()
        })
    }

    #[test]
    fn what_is_no_prompt_is_refused_with_the_field_and_its_bounds() {
        let longest = json!({ "text": "x".repeat(MAX_TEXT), "session_id": "s".repeat(MAX_SESSION), "context": {} });
        for good in [json!({ "text": " hello\n" }), longest] {
            assert_eq!(reason(&good), None, "{good}");
        }
        for (bad, word) in [
            (json!([]), "object"),
            (json!(["text"]), "object"),
            (json!({}), "text"),
            (json!({ "text": "" }), "text"),
            (json!({ "text": " \n" }), "text"),
            (json!({ "text": 1 }), "string"),
            (json!({ "text": "x".repeat(MAX_TEXT + 1) }), "32768"),
            (json!({ "text": "a", "session_id": "" }), "session_id"),
            (json!({ "text": "a", "session_id": "a b" }), "session_id"),
            (json!({ "text": "a", "session_id": "s".repeat(MAX_SESSION + 1) }), "session_id"),
            (json!({ "text": "a", "context": "c" }), "map"),
            (json!({ "text": "a", "principal": "root" }), "principal"),
        ] {
            let reason = reason(&bad).unwrap_or_else(|| panic!("{bad}"));
            assert!(reason.contains(word), "{bad}: {reason}");
        }
        assert!(Prompt::read(br#"{"text":"a","text":"b"}"#).is_err());
    }

    #[test]
    fn how_long_a_stream_waits_is_a_number_of_seconds_within_a_day() {
        assert_eq!((idle(None), idle(Some("1")), idle(Some("86400"))), (Ok(300), Ok(1), Ok(86_400)));
        for bad in ["", "0", "-1", "1.5", "86401", "soon"] {
            assert!(idle(Some(bad)).unwrap_err().contains(IDLE), "{bad}");
        }
    }

    #[test]
    fn what_names_the_session_is_told_in_order_and_the_response_ends_it() {
        let of = |session: &str, n: u64| json!({ "session_id": session, "n": n });
        let output = followed().relay_at(
            vec![
                message("agent.v1.stream.delta", None, &of("s", 1)),
                message("agent.v1.stream.delta", None, &of("other", 2)),
                message("agent.v1.stream.delta", None, &json!({ "n": 3 })),
                message("agent.v1.stream.delta", None, &json!([4])),
                message("agent.v1.session_changed", None, &of("s", 5)),
                Event::Gap(Gap { principal: "alice".into(), lost: 7 }),
                message("agent.v1.response", None, &of("other", 8)),
                message("agent.v1.elicit", None, &of("s", 9)),
                message("agent.v1.response", None, &of("s", 10)),
                message("agent.v1.stream.delta", None, &of("s", 11)),
            ],
            STARTED,
        );
        let event = |name: &str, n: u64| format!("event: {name}\ndata: {{\"n\":{n},\"session_id\":\"s\"}}\n\n");
        let gap = "event: gap\ndata: {\"lost\":7}\n\n".to_owned();
        let want = [event("delta", 1), event("session_changed", 5), gap, event("elicit", 9), event("response", 10)];
        assert_eq!((text(&output), output.last), (&*want.concat(), true));
    }

    #[test]
    fn an_approval_is_told_to_the_stream_of_the_request_that_it_came_of() {
        let asked = json!({ "id": "a1", "action": "delete" });
        let output = followed().relay_at(
            vec![
                message(APPROVAL, Some("r-2"), &asked),
                message(APPROVAL, None, &asked),
                message(APPROVAL, Some("r-1"), &asked),
            ],
            STARTED,
        );
        let data = json!({ "session_id": "s", "approval": asked });
        assert_eq!((text(&output), output.last), (format!("event: elicit\ndata: {data}\n\n").as_str(), false));
    }

    #[test]
    fn a_stream_ends_with_an_error_when_nothing_of_its_session_has_come_for_a_while_and_whatever_comes_begins_that_anew()
     {
        let delta = |session: &str| message("agent.v1.stream.delta", None, &json!({ "session_id": session }));
        let output = followed().relay_at(vec![delta("s")], STARTED + 59);
        let on = Followed::read(&output.context.unwrap()).unwrap();
        let output = on.relay_at(vec![delta("other"), Event::Idle], STARTED + 118);
        assert_eq!((text(&output), output.last), (": here\n\n", false));
        let on = Followed::read(&output.context.unwrap()).unwrap();
        let output = on.relay_at(vec![Event::Idle], STARTED + 119);
        assert!(
            output.last && text(&output).contains("event: error\ndata: {\"error\":\"timeout\""),
            "{}",
            text(&output)
        );
        let output = followed().relay_at(vec![Event::End(None)], STARTED);
        assert!(output.last && text(&output).contains("unavailable"), "{}", text(&output));
    }

    #[test]
    fn the_context_of_another_stream_is_none() {
        assert!(Followed::read(br#"{"from":7}"#).is_none() && Followed::read(b"").is_none());
    }
}
