//! `GET /api/events`: facts as they are recorded, as server-sent events.
//!
//! Nothing waits here: a stream is a relay of the subscription to `audit.v1.fact`, and [`relay`] is called when something has
//! come. What it must know, the first index that the client has not got, stands in the relay's context. What the client wants
//! of what was recorded before is asked of `audit.v1.query` and sent first.
//!
//! Audit tells a stream of facts only while it is asked to (`audit.v1.follow`). The stream asks with every sign of life, which
//! no message has caused, and when audit wants to know whether it still listens. Those answers cause one another, so their
//! chain ends at the bus's depth; then the stream ends, and its client goes on from the last id that it has.
//!
//! Audit decides who sees what. Bounded by [`MAX_MISSED`] facts from before the stream, and by what the host allows for
//! relays. Events: `ready`, `audit` with its index as its id, `gap`.

use astrid_sdk::authority::Session;
use astrid_sdk::bus::{self, Options};
use astrid_sdk::http::{Event, Output, Response};
use astrid_sdk::log;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::errors::{self, Asked, Problem};
use crate::sse::{self, COMMENT, gap};

const QUERY: &str = "audit.v1.query";
const FACT: &str = "audit.v1.fact";
const FOLLOW: &str = "audit.v1.follow";
/// The most facts from before that a stream sends when it begins.
pub const MAX_MISSED: u32 = 1000;
/// How often there is a comment, and audit hears that somebody listens, in milliseconds.
const IDLE_MS: u32 = 15_000;

#[derive(Serialize, Deserialize)]
struct Resumed {
    /// The first index that was not sent when the stream began.
    from: u64,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<Value>,
    next_from: Option<u64>,
    size: u64,
}

/// As `audit.v1.fact` has it.
#[derive(Deserialize)]
struct Told {
    entries: Vec<Value>,
    #[serde(default)]
    lost: u64,
    #[serde(default)]
    renew_from: Option<u64>,
}

/// Begins a stream.
pub fn open(session: &Session, from: Option<u64>) -> Result<Response, Problem> {
    let own = |topic| move |failure| errors::of_failure(failure, Asked::OwnTopic(topic));
    // In this order nothing is missed: what is recorded after the question comes through the subscription.
    let subscription = session.subscribe(&[FACT.to_owned()]).map_err(own(FACT))?;
    let asked = match from {
        Some(from) => json!({ "from": from, "limit": MAX_MISSED }),
        None => json!({ "limit": 1 }),
    };
    let answer = session.request(QUERY, asked.to_string().as_bytes(), &Options::default()).map_err(own(QUERY))?;
    let page: Page = serde_json::from_slice(&answer)
        .map_err(|error| Problem::unavailable(format!("audit's answer can't be read: {error}")))?;
    let ready = json!({ "principal": session.principal(), "firehose": session.holds("audit:read_all", None) });
    let mut body = sse::event("ready", &ready);
    let next = match from {
        None => page.size,
        Some(_) => {
            page.entries.iter().for_each(|entry| body.push_str(&audit(entry)));
            let next = page.next_from.unwrap_or(page.size);
            if next < page.size {
                body.push_str(&gap(page.size - next));
            }
            next.max(page.size)
        }
    };
    let follow = json!({ "from": next }).to_string();
    session.publish(FOLLOW, follow.as_bytes(), None).map_err(own(FOLLOW))?;
    let context = json!(Resumed { from: next }).to_string();
    Ok(sse::stream(body).relaying(subscription, context, IDLE_MS))
}

/// The bytes of what has come.
pub fn relay(context: Vec<u8>, events: Vec<Event>) -> Output {
    let from = serde_json::from_slice::<Resumed>(&context).map_or(0, |resumed| resumed.from);
    let (mut body, mut follows) = (String::new(), true);
    for event in &events {
        match event {
            Event::Message(message) => match serde_json::from_slice::<Told>(&message.payload) {
                Ok(told) => {
                    if told.lost > 0 {
                        body.push_str(&gap(told.lost));
                    }
                    // What the stream began with came through the subscription as well.
                    let later = |entry: &&Value| index(entry).is_none_or(|index| index >= from);
                    told.entries.iter().filter(later).for_each(|entry| body.push_str(&audit(entry)));
                    if told.renew_from.is_some() {
                        follows &= follow(told.renew_from);
                    }
                }
                Err(error) => log::warn!("a message of {FACT} can't be read: {error}"),
            },
            Event::Gap(missing) => {
                body.push_str(&gap(missing.lost));
                follows &= follow(None);
            }
            Event::Idle => {
                body.push_str(COMMENT);
                follows &= follow(None);
            }
            Event::Piece(_) | Event::End(_) => {}
        }
    }
    Output { body: body.into(), last: !follows, context: None }
}

/// Asks audit to go on, on behalf of the principal whose stream it is. False if that could not be sent.
fn follow(from: Option<u64>) -> bool {
    let wish = from.map_or_else(|| json!({}), |from| json!({ "from": from }));
    bus::publish(FOLLOW, &wish).inspect_err(|failure| log::debug!("a stream ends: {FOLLOW}: {failure}")).is_ok()
}

fn index(entry: &Value) -> Option<u64> {
    entry.get("index").and_then(Value::as_u64)
}

fn audit(entry: &Value) -> String {
    index(entry).map_or_else(|| sse::event("audit", entry), |index| sse::event_with_id(index, "audit", entry))
}

#[cfg(test)]
mod tests {
    use astrid_sdk::bus::Message;

    use super::*;

    fn told(payload: &Value) -> Event {
        Event::Message(Message {
            id: 1,
            topic: FACT.into(),
            principal: "alice".into(),
            sender: "audit".into(),
            target: None,
            remaining_ms: 0,
            streams: false,
            cause: None,
            traceparent: None,
            payload: payload.to_string().into(),
        })
    }

    fn text(events: Vec<Event>) -> String {
        String::from_utf8(relay(json!({ "from": 5 }).to_string().into(), events).body).unwrap()
    }

    #[test]
    fn a_fact_is_an_event_with_its_index_and_what_was_sent_already_is_left_out() {
        let entries: Vec<Value> = (3..7).map(|index| json!({ "index": index, "fact": { "id": "a\nb" } })).collect();
        let body = text(vec![told(&json!({ "entries": entries, "lost": 2 }))]);
        let audit = |n| format!("id: {n}\nevent: audit\ndata: {{\"fact\":{{\"id\":\"a\\nb\"}},\"index\":{n}}}\n\n");
        assert_eq!(body, format!("event: gap\ndata: {{\"lost\":2}}\n\n{}{}", audit(5), audit(6)));
    }

    #[test]
    fn what_does_not_read_costs_no_stream() {
        assert_eq!(
            text(vec![told(&json!([1])), told(&json!({ "entries": [{ "index": 9 }] }))]).matches("id: 9").count(),
            1
        );
    }
}
