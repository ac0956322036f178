//! Answers in pieces, reads answers that come in pieces, and reads what is published; as well as it should, and as badly as
//! it can.

use std::hint::black_box;
use std::time::Duration;

use astrid_sdk::bus::{Event, Options, Subscription};
use astrid_sdk::prelude::*;
use serde_json::{Value, json as value};

/// How long a reader waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a handler tells about itself while it works, under a name, for `told`.
fn tell(name: &str, what: &impl Serialize) -> Result<(), kv::Error> {
    Bucket::open("told", Scope::Capsule)?.put_json(name, what).map(drop)
}

/// What was told under a name.
fn told(message: Message) -> Answer {
    let name: String = message.json()?;
    json(&Bucket::open("told", Scope::Capsule)?.get_json::<Value>(&name)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    pieces: u32,
    bytes: usize,
    /// Where it tells how many were sent.
    tell: Option<String>,
}

/// So many pieces of so many bytes, each begun with its number.
fn count(message: Message) -> Answer {
    let Count { pieces, bytes, tell: name } = message.json()?;
    for n in 0..pieces {
        let mut piece = format!("{n:08}").into_bytes();
        piece.resize(bytes.max(8), b'.');
        bus::send_piece(&piece)?;
        if let Some(name) = &name {
            tell(name, &(n + 1))?;
        }
    }
    Ok(Vec::new())
}

/// Pieces until somebody says no: what was said, and after how many.
fn endless(_: Message) -> Answer {
    let mut sent = 0_u64;
    let end = loop {
        match bus::send_piece(&[0; 1024]) {
            Ok(()) => sent += 1,
            Err(failure) => break failure,
        }
    };
    json(&value!({ "sent": sent, "end": format!("{end:?}") }))
}

/// A piece, and then all the memory that it gets.
fn eat(_: Message) -> Answer {
    bus::send_piece(b"first")?;
    let mut held = Vec::new();
    loop {
        held.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// A piece for whoever reads any, and then it computes for ever.
fn spin(message: Message) -> Answer {
    if message.streams {
        bus::send_piece(b"first")?;
    }
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    topic: String,
    payload: Value,
    #[serde(default)]
    timeout_ms: u32,
    /// Reads no more than this.
    take: Option<usize>,
}

impl Ask {
    fn begin(&self) -> Result<bus::RawPieces, Refusal> {
        let payload = serde_json::to_vec(&self.payload).map_err(|error| Refusal::internal(error.to_string()))?;
        let options = Options { target: None, timeout_ms: self.timeout_ms };
        Ok(bus::request_stream_raw(&self.topic, &payload, &options))
    }
}

/// Asks another for pieces, and sends them on as they come.
fn relay(message: Message) -> Answer {
    for piece in message.json::<Ask>()?.begin()? {
        bus::send_piece(&piece?)?;
    }
    Ok(Vec::new())
}

/// Asks another for pieces: the first eight bytes of each, how many bytes there were, and how they ended.
fn collect(message: Message) -> Answer {
    let ask: Ask = message.json()?;
    let (mut heads, mut bytes, mut end) = (Vec::new(), 0, None);
    for piece in ask.begin()?.take(ask.take.unwrap_or(usize::MAX)) {
        match piece {
            Ok(piece) => {
                heads.push(String::from_utf8_lossy(&piece[..piece.len().min(8)]).into_owned());
                bytes += piece.len();
            }
            Err(failure) => end = Some(format!("{failure:?}")),
        }
    }
    json(&value!({ "heads": heads, "bytes": bytes, "end": end }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slow {
    pieces: u32,
    bytes: usize,
    read: usize,
    /// How many the other has sent when it is looked at for the last time, at least.
    until: u32,
}

/// Reads some pieces and no more, until the other has sent so many: how many it has sent a while later.
fn slow(message: Message) -> Answer {
    let Slow { pieces, bytes, read, until } = message.json()?;
    let payload = serde_json::to_vec(&value!({ "pieces": pieces, "bytes": bytes, "tell": "slow" }));
    let payload = payload.map_err(|error| Refusal::internal(error.to_string()))?;
    let mut answer = bus::request_stream_raw("streamer.v1.count", &payload, &Options::default());
    for _ in 0..read {
        answer.next().ok_or_else(|| Refusal::internal("it has ended"))??;
    }
    let sent = || bus::request::<_, Option<u32>>("streamer.v1.told", "slow");
    while sent()?.unwrap_or(0) < until {}
    for _ in 0..50 {
        sent()?;
    }
    json(&sent()?)
}

/// What the tests see of an event.
fn shown(event: Event) -> Result<Value, Refusal> {
    Ok(match event {
        Event::Message(received) => {
            let message = received.message;
            let caller = received.caller.principal();
            value!({ "topic": message.topic, "of": message.principal, "caller": caller, "payload": message.json::<Numbered>()?.n })
        }
        Event::Gap(gap) => value!({ "gap": gap.lost, "of": gap.principal }),
    })
}

#[derive(Serialize, Deserialize)]
struct Numbered {
    n: u64,
    pad: String,
}

fn publish(topic: &str, n: u64, bytes: usize) -> Result<u32, bus::Failure> {
    bus::publish(topic, &Numbered { n, pad: "x".repeat(bytes) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reflect {
    subscribe: Vec<String>,
    publish: Vec<String>,
    bytes: usize,
}

fn open(topics: &[String]) -> Result<Subscription, bus::Failure> {
    Subscription::open(&topics.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Subscribes, publishes numbered messages to these topics, and says what came back.
fn reflect(message: Message) -> Answer {
    let Reflect { subscribe, publish: topics, bytes } = message.json()?;
    let open = match open(&subscribe) {
        Ok(open) => open,
        Err(failure) => return json(&value!({ "failure": format!("{failure:?}") })),
    };
    let (mut taken, mut events) = (Vec::new(), Vec::new());
    for (n, topic) in topics.iter().enumerate() {
        taken.push(publish(topic, n as u64, bytes)?);
    }
    while let Ok(Some(event)) = open.next(Duration::ZERO) {
        events.push(shown(event)?);
    }
    json(&value!({ "taken": taken, "events": events }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hear {
    subscribe: Vec<String>,
    /// How many events.
    events: usize,
}

/// Subscribes and waits for so many events.
fn hear(message: Message) -> Answer {
    let Hear { subscribe, events } = message.json()?;
    let open = open(&subscribe)?;
    let mut seen = Vec::new();
    while seen.len() < events {
        let Some(event) = open.next(PATIENCE)? else { break };
        seen.push(shown(event)?);
    }
    json(&seen)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flood {
    topic: String,
    messages: u64,
    bytes: usize,
}

/// Publishes so many as fast as it may: how many reached somebody.
fn flood(message: Message) -> Answer {
    let Flood { topic, messages, bytes } = message.json()?;
    let mut reached = 0;
    for n in 0..messages {
        reached += u64::from(publish(&topic, n, bytes)? > 0);
    }
    json(&reached)
}

/// Opens subscriptions until it is refused, a thousand in each of a row of calls: how many, and what was said.
fn hoard(message: Message) -> Answer {
    let before: u32 = message.json()?;
    let mut held = Vec::new();
    while held.len() < 1000 {
        match Subscription::open(&["streamer.lossy.*"]) {
            Ok(open) => held.push(open),
            Err(failure) => {
                return json(&value!({ "open": before + held.len() as u32, "failure": format!("{failure:?}") }));
            }
        }
    }
    json(&bus::request::<_, Value>("streamer.v1.hoard", &(before + 1000))?)
}

/// Looks for a message again and again without waiting for one.
fn poll(_: Message) -> Answer {
    let open = Subscription::open(&["streamer.lossy.*"])?;
    loop {
        black_box(open.next(Duration::ZERO)?);
    }
}

/// Waits until another call of this is there as well, and tells `met`.
fn meet(_: Message) -> Answer {
    let bucket = Bucket::open("told", Scope::Capsule)?;
    let here = || bucket.get_json::<u32>("here");
    kv::transact(|transaction| {
        let here = transaction.get_json::<u32>(&bucket, "here")?.unwrap_or(0);
        transaction.put_json(&bucket, "here", &(here + 1))
    })?;
    while here()?.unwrap_or(0) < 2 {}
    tell("met", &true)?;
    Ok(Vec::new())
}

/// Lets a message pass when half a mebibyte in eight pieces has come on behalf of its sender.
fn slowly(_: Message) -> Verdict {
    let count = value!({ "pieces": 8, "bytes": 65_536 }).to_string();
    let pieces = bus::request_stream_raw("streamer.v1.count", count.as_bytes(), &Options::default());
    match pieces.collect::<Result<Vec<_>, _>>() {
        Ok(pieces) if pieces.len() == 8 => Verdict::Pass,
        other => Verdict::denied(format!("{:?}", other.map(|pieces| pieces.len()))),
    }
}

interceptor! { "slowly" => slowly }

handlers! {
    "count" => count,
    "endless" => endless,
    "eat" => eat,
    "spin" => spin,
    "relay" => relay,
    "collect" => collect,
    "slow" => slow,
    "told" => told,
    "reflect" => reflect,
    "hear" => hear,
    "flood" => flood,
    "hoard" => hoard,
    "poll" => poll,
    "meet" => meet,
}
