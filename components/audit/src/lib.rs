//! What of the facts is shown to whom, how they read, and how long they are kept.
//!
//! The host records facts and attests them; this capsule can change how a line reads, never what is in the log. Everybody
//! sees what was done on their own behalf, whoever holds `audit:read_all` sees everything. That is decided here and not by
//! what the bindings require, so that reading leaves no fact: a log that grows by being read has no end.
//!
//! [`mod@query`] gives pages of facts, [`mod@format`] lines, and [`fact`] cuts out what is not to be seen. [`mod@tile`] lets
//! anybody's tool check the log, [`prove`] proves to everybody what is theirs. [`feed`] tells whoever follows, [`forward`]
//! carries facts to places outside, [`retention`] says what is kept.

pub mod fact;
pub mod feed;
pub mod format;
pub mod forward;
pub mod log;
pub mod prove;
pub mod query;
pub mod retention;
pub mod tile;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use astrid_sdk::authority::held;
use astrid_sdk::bus::{Event, Subscription};
use astrid_sdk::journal::{self, TileKind};
use astrid_sdk::prelude::{Answer, Deserialize, Failure, Message, Refusal, env, handlers, json, run, run_loop};
use astrid_sdk::{bus, kv, log as lines, sink};

use fact::Redaction;
use feed::{Feed, Follow};
use forward::{Forwarder, Next, Outside, Rule};
use query::Reader;
use retention::Retention;

/// Who holds it sees everybody's facts.
pub const READ_ALL: &str = "audit:read_all";

/// How long the run loop waits for somebody to follow.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits for a fact while somebody follows, in milliseconds: what it takes to notice another follower.
const LOOK_MS: u32 = 250;
/// How long it waits for a fact, or for somebody to follow, while nobody does and facts are forwarded.
const FORWARD_LOOK: Duration = Duration::from_secs(1);
/// How long it waits while something is on its way to a place outside, in milliseconds.
const SOON_MS: u32 = 20;
/// How often old entries are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Bytes of a tile in one piece of an answer.
const PIECE: usize = 128 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tile {
    path: String,
}

fn value(field: &str) -> Result<String, String> {
    env::get(field).map(Option::unwrap_or_default).map_err(|error| format!("{field}: {error}"))
}

fn redaction() -> Result<Redaction, String> {
    Redaction::parse(&value("REDACT")?).map_err(|error| format!("REDACT: {error}"))
}

/// Showing what should have been cut out would be worse than showing nothing.
fn redacted() -> Result<Redaction, Refusal> {
    redaction().map_err(|error| {
        lines::error!("{error}");
        Refusal::unavailable("no fact is shown while REDACT of audit's environment can't be read")
    })
}

fn query(message: Message) -> Answer {
    let request = message.object::<query::Request>()?;
    let reader = Reader { principal: &message.principal, all: held::holds(READ_ALL, None) };
    json(&request.answer(reader, &log::Host, &redacted()?)?)
}

fn proofs(message: Message) -> Answer {
    let request = message.object::<prove::Request>()?;
    let reader = Reader { principal: &message.principal, all: held::holds(READ_ALL, None) };
    json(&request.answer(reader, &log::Host, &redacted()?)?)
}

fn whole_log() -> Result<(), Refusal> {
    if held::holds(READ_ALL, None) { Ok(()) } else { Err(Refusal::denied(format!("requires {READ_ALL}"))) }
}

/// The signed note as it is.
fn checkpoint(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    whole_log()?;
    let note =
        journal::checkpoint().ok_or_else(|| Refusal::not_found("nothing is signed yet; try again in a second"))?;
    Ok(note.into_bytes())
}

/// A tile as it is, in pieces if whoever asked reads them.
fn tile(message: Message) -> Answer {
    let Tile { path } = message.object()?;
    whole_log()?;
    let (kind, index, width) = tile::parse(&path).ok_or_else(|| {
        let path: String = path.chars().take(64).collect();
        Refusal::invalid(format!("`{}` is not the path of a tile", path.escape_debug()))
    })?;
    let entries = matches!(kind, TileKind::Entries);
    if entries && index < journal::first() / 256 {
        return Err(Refusal::not_found("these entries are deleted; their hashes are kept"));
    }
    let bytes = journal::tile(kind, index, width).map_err(log::refusal)?;
    if entries && message.streams {
        for piece in bytes.chunks(PIECE) {
            bus::send_piece(piece)?;
        }
        return Ok(Vec::new());
    }
    Ok(bytes)
}

/// Deletes what is not to be kept.
fn prune() -> Result<(), String> {
    let retention = Retention::parse(&value("RETAIN_DAYS")?, &value("RETAIN_FACTS")?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let wanted = retention.first(now, &log::Host).map_err(|error| format!("{error:?}"))?;
    let first = journal::first();
    // A bundle has 256, and only whole ones go.
    if wanted.saturating_sub(first) < 256 {
        return Ok(());
    }
    let first = journal::prune(wanted)?;
    lines::info!("entries before {first} are deleted; their hashes stay");
    Ok(())
}

/// Places outside by the host's imports, and where they are in a bucket of this capsule's.
struct Sinks(kv::Bucket);

impl Sinks {
    fn open() -> Result<Self, String> {
        kv::Bucket::open("forwarded", kv::Scope::Capsule).map(Self).map_err(|error| format!("{error:?}"))
    }
}

fn why(error: sink::Error) -> forward::Failure {
    match error {
        sink::Error::NotFound => "the host's configuration has no such sink".into(),
        sink::Error::Busy => "another delivery is on its way".into(),
        sink::Error::TooLarge(why) | sink::Error::Failed(why) => why,
    }
}

impl Outside for Sinks {
    type Delivery = sink::Delivery;

    fn deliver(&self, name: &str, entries: &[Vec<u8>]) -> Result<sink::Delivery, forward::Failure> {
        sink::deliver(name, entries).map_err(why)
    }

    fn done(&self, delivery: &sink::Delivery) -> Option<Result<(), forward::Failure>> {
        delivery.done(0).map(|done| done.map_err(why))
    }

    fn position(&self, name: &str) -> Result<Option<(u64, u64)>, forward::Failure> {
        let Some(entry) = self.0.get(name).map_err(|error| format!("{error:?}"))? else { return Ok(None) };
        let position = str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
        Ok(Some((position.ok_or("its position can't be read")?, entry.version)))
    }

    fn keep(&self, name: &str, position: u64, version: Option<u64>) -> Result<u64, forward::Failure> {
        self.0.swap(name, version, Some(position.to_string().as_bytes())).map_err(|error| format!("{error:?}"))
    }
}

fn run() -> Result<(), String> {
    let failed = |error: journal::Error| format!("{error:?}");
    let follow = Subscription::open(&["audit.v1.follow"]).map_err(|failure| failure.to_string())?;
    redaction()?;
    let rules = Rule::parse(&value("FORWARD")?).map_err(|error| format!("FORWARD: {error}"))?;
    let (mut forwarder, outside, mut next) = (Forwarder::new(rules), Sinks::open()?, Next::Now);
    run::ready();
    let began = Instant::now();
    let now = || began.elapsed().as_millis() as u64;
    let (mut feed, mut pruned) = (Feed::new(now()), None::<Instant>);
    loop {
        // Whose message it was pays until the next `next`, so nothing is done in between for others.
        let patience = match (feed.is_idle() && pruned.is_some(), forwarder.is_empty()) {
            (true, true) => PATIENCE,
            (true, false) if next == Next::Quiet => FORWARD_LOOK,
            _ => Duration::ZERO,
        };
        match follow.next(patience) {
            Ok(Some(Event::Message(bus::Received { message, caller }))) => {
                match message.object::<Follow>() {
                    Ok(wish) => feed
                        .follow(&message.principal, caller, &wish, now(), &log::Host, &redaction()?)
                        .map_err(failed)?,
                    Err(refusal) => lines::warn!("{} can't follow: {}", message.principal, refusal.reason),
                }
                continue;
            }
            Ok(Some(Event::Gap(_))) => continue,
            Ok(None) => {}
            Err(Failure::Closed) => {
                feed.hand_over();
                return Ok(());
            }
            Err(failure) => return Err(failure.to_string()),
        }
        if pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE_EVERY) {
            pruned = Some(Instant::now());
            if let Err(error) = prune() {
                lines::error!("old entries are not deleted: {error}");
            }
        }
        next = forwarder.step(now(), &log::Host, &redaction()?, &outside);
        let look = if next == Next::Quiet { LOOK_MS } else { SOON_MS };
        if !feed.is_idle() {
            if next != Next::Now {
                journal::wait(feed.position(), look);
            }
            feed.tell(now(), &log::Host, &redaction()?).map_err(failed)?;
        } else if next == Next::Soon {
            journal::wait(journal::size(), look);
        }
    }
}

run_loop! { run }
handlers! {
    "query" => query,
    "checkpoint" => checkpoint,
    "tile" => tile,
    "proofs" => proofs,
}
