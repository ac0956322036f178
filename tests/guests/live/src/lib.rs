//! A front end whose answers go on, as server-sent events: `/live/said` and `/live/heard` of a subscription, `/live/count`
//! of an answer in pieces. What a path says behind that, its relay does: it traps, it ends, it talks to itself, it counts in its
//! context (`seen0`). `?idle=` is the relay's `idle-ms`, `?context=` the size of its context in place of what a path says.

use astrid_sdk::authority::{Credential, Session, authenticate};
use astrid_sdk::bus::{Options, RefusalCode, publish, send_piece};
use astrid_sdk::http::{Event, Output, Request, Response, Source};
use astrid_sdk::prelude::*;

/// Which version made an event; a test that wants another one puts as many other letters here.
const VERSION: &str = "live-one";

fn serve(request: Request) -> Response {
    let bearer = request.header("authorization").next().and_then(|value| value.strip_prefix(b"Bearer "));
    let Some(bearer) = bearer.and_then(|bearer| String::from_utf8(bearer.to_vec()).ok()) else {
        return Response::new(401);
    };
    let Ok(session) = authenticate(&Credential::Bearer(bearer)) else { return Response::new(401) };
    let mut words = request.path.split('/').skip(2);
    let (source, then) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let asked = |name: &str| {
        let query = request.query.as_deref().unwrap_or_default();
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<usize>().ok())
    };
    let context = asked("context").map_or_else(|| then.as_bytes().to_vec(), |bytes| vec![b'x'; bytes]);
    let idle_ms = u32::try_from(asked("idle").unwrap_or(0)).unwrap_or(u32::MAX);
    match open(&session, source, asked("to").unwrap_or(0)) {
        Err(status) => Response::new(status),
        Ok(source) => Response { body: format!(": {VERSION}\n\n").into(), ..Response::new(200) }
            .with_header("content-type", "text/event-stream")
            .relaying(source, context, idle_ms),
    }
}

fn open(session: &Session, source: &str, to: usize) -> Result<Source, u16> {
    match source {
        "said" | "heard" => match session.subscribe(&[format!("live.v1.{source}")]) {
            Ok(subscription) => Ok(subscription.into()),
            Err(Failure::Overloaded(_)) => Err(503),
            Err(_) => Err(500),
        },
        "count" => Ok(session.request_stream("live.v1.count", to.to_string().as_bytes(), &Options::default()).into()),
        _ => Err(404),
    }
}

/// Counts to what the payload says, a piece for each number.
fn count(message: Message) -> Answer {
    let to: u64 = message.json()?;
    for n in 1..=to {
        send_piece(n.to_string().as_bytes())?;
    }
    Err(Refusal::new(RefusalCode::Conflict, "there are more numbers"))
}

fn relay(context: Vec<u8>, events: Vec<Event>) -> Output {
    let mut body = Vec::new();
    let mut put = |name: &str, data: &[u8]| {
        body.extend(format!("event: {name}\nid: {VERSION}\ndata: ").bytes());
        body.extend(data);
        body.extend(b"\n\n");
    };
    let seen = str::from_utf8(&context).ok().and_then(|text| text.strip_prefix("seen")?.parse::<usize>().ok());
    if let Some(seen) = seen {
        put("seen", seen.to_string().as_bytes());
    }
    for event in &events {
        match event {
            Event::Message(message) if context == b"trap" => panic!("asked to by {}", message.id),
            Event::Message(message) => {
                put("message", &message.payload);
                if let Some(number) = message.json::<u64>().ok().filter(|_| context == b"circle")
                    && publish("live.v1.heard", &(number + 1)).is_err()
                {
                    put("deep", b"");
                }
            }
            Event::Gap(gap) => put("gap", format!("{} {}", gap.principal, gap.lost).as_bytes()),
            Event::Piece(piece) => put("piece", piece),
            Event::Idle => {
                put("idle", b"");
                if context == b"circle" {
                    publish("live.v1.heard", &0).expect("it is due to no message");
                }
            }
            Event::End(None) => put("end", b""),
            Event::End(Some(Failure::Refused(refusal))) => put("end", refusal.reason.as_bytes()),
            Event::End(Some(failure)) => put("end", format!("{failure:?}").as_bytes()),
        }
    }
    match &*context {
        b"last" => Output::last(body),
        b"context" => Output::more(body).with_context(vec![b'x'; (16 << 10) + 1]),
        _ if seen.is_some() => {
            Output::more(body).with_context(format!("seen{}", seen.unwrap_or_default() + events.len()))
        }
        b"large" => Output::more(vec![b'x'; (1 << 20) + 1]),
        _ => Output::more(body),
    }
}

front_end! { serve }
relay! { relay }
handlers! { "count" => count }
