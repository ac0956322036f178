//! The message bus: publish and request over routes.
//!
//! Owns delivery: which binding a message reaches, whether its principal may reach it, in what order, and what a
//! sender is told. A route is a pattern tied to one handler of one generation of a capsule. Publications wait in their
//! generation's [`inbox`], a [`fair`] queue; requests go straight to their handler and are [`waiting`] only until they
//! have an instance. A [`subscription`] has a [`mailbox`], and an answer in pieces is a [`stream`]. What would reach
//! somebody meets its interceptors first ([`intercept`]). In strict mode it is held to its topic's type before that
//! ([`typed`]).
//!
//! Bounded by: payload size, nesting depth, each queue's byte budget and concurrency.
//! Refuses to know: what is in a payload (but for [`typed`]), wasm, HTTP, the store, who should hold what.

pub mod cause;
pub mod fair;
pub mod inbox;
pub mod intercept;
pub mod mailbox;
mod record;
pub mod routes;
pub mod storm;
pub mod stream;
pub mod subscription;
pub mod typed;
pub mod waiting;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use metrics::{Counter, counter};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use astrid_capsule::manifest::Subscribe;
use astrid_capsule::{Pattern, PrincipalId, Topic};

use crate::Boxed;
use crate::authority::{Authority, Mandate};
use crate::journal::Journal;
use cause::Cause;
use inbox::Inbox;
pub use inbox::Route;
use intercept::{Chain, Interception, Interceptions};
pub use record::Note;
use record::Recording;
use routes::Index;
use storm::Storms;
use stream::{Answer, Writer};
use subscription::{MAX_TOPICS, Offered, Open, Reader, Room, STALL, Subscription, Subscriptions};
use typed::Typed;
use waiting::Place;

/// `[bus]` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The largest payload and the largest answer, in bytes (1 KiB to 16 MiB).
    pub max_payload_bytes: usize,
    /// How deep requests may be nested (1 to 64).
    pub max_depth: u8,
    /// What may wait for one binding or subscription whose manifest does not say, in bytes (at least
    /// `max-payload-bytes`). One message that waits alone may be larger, by its topic and the like.
    pub queue_bytes: usize,
    /// Whether payloads and answers are held to the types that manifests declare.
    pub strict: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_payload_bytes: 1 << 20, max_depth: 16, queue_bytes: 1 << 20, strict: false }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        if !(1024..=16 << 20).contains(&self.max_payload_bytes) {
            return Err(format!("bus.max-payload-bytes = {} must be 1024 to 16777216", self.max_payload_bytes));
        }
        if !(1..=64).contains(&self.max_depth) {
            return Err(format!("bus.max-depth = {} must be 1 to 64", self.max_depth));
        }
        if self.queue_bytes < self.max_payload_bytes {
            return Err(format!("bus.queue-bytes = {} must be at least bus.max-payload-bytes", self.queue_bytes));
        }
        Ok(())
    }
}

/// Which version of a capsule sent something.
#[derive(Debug)]
pub struct Origin {
    pub capsule: Arc<str>,
    /// BLAKE3 of its component, in hexadecimal; empty for what the host itself sends.
    pub hash: String,
}

impl Origin {
    pub fn new(capsule: impl Into<Arc<str>>, hash: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { capsule: capsule.into(), hash: hash.into() })
    }
}

/// A message as the host carries it. Only the host fills it in.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: u64,
    pub topic: Topic,
    pub principal: PrincipalId,
    /// Within which the principal's rights count.
    pub mandate: Mandate,
    pub origin: Arc<Origin>,
    pub target: Option<PrincipalId>,
    pub payload: Bytes,
    /// When the sender stops waiting; for a publication, when its handler must have ended.
    pub deadline: Instant,
    pub publication: bool,
    /// Requests above this one.
    pub depth: u8,
    /// The request from outside that caused it, if any.
    pub cause: Option<Arc<Cause>>,
    /// Where pieces of the answer go, if the sender reads any.
    pub reply: Option<Writer>,
    /// Whether nothing that comes of it may last.
    pub rehearsal: bool,
    /// Where its handler says something for the record, if it is recorded.
    pub note: Option<Arc<Note>>,
}

/// What a message costs beside its payload and topic, in bytes of a queue's budget.
const OVERHEAD: usize = 128;

impl Message {
    /// What it counts against a byte budget.
    pub fn size(&self) -> usize {
        self.payload.len() + self.topic.as_str().len() + OVERHEAD
    }
}

/// A handler's refusal, passed on as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    Invalid,
    Denied,
    NotFound,
    Conflict,
    Unavailable,
    Internal,
}

/// Every way in which a request ends without an answer; `wit/bus` says when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    NoResponder,
    Denied(String),
    Timeout,
    Overloaded { retry_ms: u32 },
    TooLarge { limit: u64 },
    Invalid(String),
    Trapped,
    Refused(Refusal),
    Closed,
}

/// What somebody is told to wait who found no room in a queue, in milliseconds.
const RETRY_MS: u32 = 100;

impl Failure {
    /// One word for metrics and log lines.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::NoResponder => "no-responder",
            Failure::Denied(_) => "denied",
            Failure::Timeout => "timeout",
            Failure::Overloaded { .. } => "overloaded",
            Failure::TooLarge { .. } => "too-large",
            Failure::Invalid(_) => "invalid",
            Failure::Trapped => "trapped",
            Failure::Refused(_) => "refused",
            Failure::Closed => "closed",
        }
    }
}

/// Whatever can be called with a message: a generation of a capsule.
pub trait Responder: Send + Sync {
    /// Calls the named handler. Ends by the message's deadline, whatever the handler does. A request's `place` is given
    /// up as soon as its call has what it needs to run.
    fn call(
        self: Arc<Self>,
        handler: Arc<str>,
        message: Arc<Message>,
        place: Option<Place>,
    ) -> Boxed<'static, Result<Bytes, Failure>>;

    /// What a binding's messages are held to, if to anything.
    fn typed(&self, _binding: &Pattern) -> Option<Arc<Typed>> {
        None
    }
}

/// How to send: what a caller may choose.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Bytes,
    pub target: Option<String>,
    /// At most what is left of the caller's own deadline.
    pub timeout: Option<Duration>,
}

/// On whose behalf, from where and until when: what a caller can't choose.
#[derive(Debug, Clone)]
pub struct Sender {
    pub principal: PrincipalId,
    /// Within which the principal's rights count.
    pub mandate: Mandate,
    pub origin: Arc<Origin>,
    pub deadline: Instant,
    pub depth: u8,
    pub cause: Option<Arc<Cause>>,
    /// Whether nothing that comes of it may last: what is published reaches nobody, and what is written is dropped.
    pub rehearsal: bool,
}

/// Where messages go: every message sees one of these, whole.
struct Table {
    routes: Index<Arc<Route>>,
    interceptions: Interceptions,
    /// The live generation of each capsule.
    live: HashMap<Arc<str>, u64>,
}

pub struct Bus {
    config: Config,
    authority: Arc<Authority>,
    table: RwLock<Arc<Table>>,
    inboxes: Mutex<Vec<Weak<Inbox>>>,
    subscriptions: Arc<Subscriptions>,
    ids: AtomicU64,
    storms: Storms,
    /// How long a publisher waits for a subscription that takes nothing.
    stall: Duration,
    figures: Figures,
    /// Where what becomes of requests is recorded.
    journal: Option<Arc<Journal>>,
}

/// Handles of the series that move with every message, looked up once.
struct Figures {
    requests: Counter,
    answered: Counter,
    published: Counter,
    delivered: Counter,
}

impl Table {
    fn empty() -> Self {
        Self { routes: Index::default(), interceptions: Interceptions::new([]), live: HashMap::new() }
    }
}

impl Bus {
    pub fn new(config: Config, authority: Arc<Authority>) -> Self {
        Self {
            config,
            authority,
            table: RwLock::new(Arc::new(Table::empty())),
            inboxes: Mutex::default(),
            subscriptions: Arc::default(),
            ids: AtomicU64::new(1),
            storms: Storms::default(),
            stall: STALL,
            figures: Figures {
                requests: events("request"),
                answered: outcomes("ok"),
                published: events("publish"),
                delivered: events("delivered"),
            },
            journal: None,
        }
    }

    /// From now on, what becomes of a request that needs a right is a fact.
    pub fn recording(self, journal: Arc<Journal>) -> Self {
        Self { journal: Some(journal), ..self }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Replaces all routes and interceptions, and what the live generation of each capsule is, at once. Calls and queues
    /// of routes that are gone run to their end.
    pub fn set_routes(
        &self,
        routes: impl IntoIterator<Item = Arc<Route>>,
        interceptions: impl IntoIterator<Item = Interception>,
        live: impl IntoIterator<Item = (Arc<str>, u64)>,
    ) {
        let routes: Vec<Arc<Route>> = routes.into_iter().collect();
        let mut inboxes = self.inboxes.lock().expect("no panic under this lock");
        // Those of earlier generations stay as long as something works on them.
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        for route in &routes {
            let inbox = Arc::downgrade(route.inbox());
            if !inboxes.iter().any(|known| known.ptr_eq(&inbox)) {
                inboxes.push(inbox);
            }
        }
        drop(inboxes);
        let routes = Index::new(routes.into_iter().map(|r| (r.binding().topic.clone(), r)));
        let (interceptions, live) = (Interceptions::new(interceptions), live.into_iter().collect());
        let table = Table { routes, interceptions, live };
        *self.table.write().expect("no panic under this lock") = Arc::new(table);
    }

    /// Publications for handlers that wait or are being handled.
    pub fn pending(&self) -> usize {
        let inboxes = self.inboxes.lock().expect("no panic under this lock");
        inboxes.iter().filter_map(Weak::upgrade).map(|inbox| inbox.pending()).sum()
    }

    /// Bytes of publications that wait for handlers and in subscriptions, and for how many principals: one that waits at
    /// two of them counts twice.
    pub fn queued(&self) -> (usize, usize) {
        let inboxes = self.inboxes.lock().expect("no panic under this lock");
        let (_, bytes, principals) = self.subscriptions.waiting();
        let waiting = inboxes.iter().filter_map(Weak::upgrade).map(|inbox| inbox.waiting());
        waiting.fold((bytes, principals), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Whether a handler is bound to this topic.
    pub fn handles(&self, topic: &Topic) -> bool {
        self.table().routes.best(topic).is_some()
    }

    /// Open subscriptions.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.count()
    }

    /// What is published and nobody takes.
    pub fn storms(&self) -> &Storms {
        &self.storms
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().expect("no panic under this lock").clone()
    }

    /// Asks the best matching handler and waits for its answer, at most until the deadline.
    pub async fn request(&self, sender: Sender, outgoing: Outgoing) -> Result<Bytes, Failure> {
        self.ask(sender, outgoing, None).await
    }

    /// As [`Self::request`], for a sender that reads the answer in pieces.
    pub fn request_stream(self: &Arc<Self>, sender: Sender, outgoing: Outgoing) -> Answer {
        let bus = self.clone();
        Answer::begin(|writer| async move { bus.ask(sender, outgoing, Some(writer)).await })
    }

    async fn ask(&self, sender: Sender, outgoing: Outgoing, reply: Option<Writer>) -> Result<Bytes, Failure> {
        let result = self.deliver(sender, outgoing, reply).await;
        self.figures.requests.increment(1);
        match &result {
            Ok(_) => self.figures.answered.increment(1),
            Err(failure) => outcomes(failure.kind()).increment(1),
        }
        result
    }

    async fn deliver(&self, sender: Sender, outgoing: Outgoing, reply: Option<Writer>) -> Result<Bytes, Failure> {
        let mut message = self.message(sender, outgoing, false)?;
        message.reply = reply;
        self.check_depth(&message)?;
        let table = self.table();
        let route = table.routes.best(&message.topic).ok_or(Failure::NoResponder)?.clone();
        let Message { principal, mandate, target, .. } = &message;
        let admission = self.authority.judge(route.binding(), principal, mandate, target.as_ref());
        let recording = Recording::of(self.journal.as_ref(), &mut message, route.binding(), &admission);
        let chain = table.interceptions.of(&message.topic, &message.origin.capsule);
        drop(table);
        let asking = async {
            if let Some(refused) = admission.refused {
                return Err(Failure::Denied(refused));
            }
            if let Some(recording) = &recording {
                recording.begin().await?;
            }
            self.ask_route(message, route, chain).await
        };
        let answer = asking.await;
        match recording {
            Some(recording) => recording.end(answer).await,
            None => answer,
        }
    }

    /// What is admitted, through its interceptors to its handler.
    async fn ask_route(&self, mut message: Message, route: Arc<Route>, chain: Chain) -> Result<Bytes, Failure> {
        if let Some(typed) = route.typed() {
            typed.check_payload(&message.topic, &message.payload)?;
        }
        if !chain.is_empty() {
            message.payload = chain.run(message.clone(), self.config.max_payload_bytes).await?;
            if let Some(typed) = route.typed() {
                typed.check_changed(&message.topic, &message.payload)?;
            }
        }
        let topic = message.topic.clone();
        let answer = route.ask(message).await?;
        if answer.len() > self.config.max_payload_bytes {
            return Err(Failure::TooLarge { limit: self.config.max_payload_bytes as u64 });
        }
        if let Some(typed) = route.typed() {
            typed.check_answer(&topic, &answer)?;
        }
        Ok(answer)
    }

    /// Hands the message to every matching binding and subscription that its principal may reach; the answer is how many
    /// took it. Waits for lossless subscriptions that have no room.
    pub async fn publish(&self, sender: Sender, outgoing: Outgoing) -> Result<u32, Failure> {
        let wait = sender.deadline;
        // A publication outlives its sender's call: it has a deadline of its own, the handler's limit.
        let mut message = self.message(sender, outgoing, true)?;
        // Also where nobody waits: a circle of publications ends here.
        self.check_depth(&message)?;
        if message.rehearsal {
            return Ok(0);
        }
        let table = self.table();
        let mut routes = table.routes.matches(&message.topic);
        let Message { principal, mandate, target, .. } = &message;
        self.authority.retain_admitted(&mut routes, |r| r.binding(), principal, mandate, target.as_ref());
        let mut routes: Vec<Arc<Route>> = routes.into_iter().map(Arc::clone).collect();
        let chain = table.interceptions.of(&message.topic, &message.origin.capsule);
        let mut readers = self.readers(&message, &table);
        drop(table);
        let misfit = take_misfits(&mut routes, &message);
        let reaches_somebody = !routes.is_empty() || !readers.is_empty();
        if let (false, Some(misfit)) = (reaches_somebody, misfit) {
            return Err(misfit);
        }
        if !chain.is_empty() && reaches_somebody {
            // Only here the sender waits, in its own time.
            let seen = Message { deadline: message.deadline.min(wait), ..message.clone() };
            message.payload = chain.run(seen, self.config.max_payload_bytes).await?;
            readers = self.readers(&message, &self.table());
            take_misfits(&mut routes, &message);
        }
        let message = Arc::new(message);
        let mut taken = 0;
        for route in routes {
            if route.enqueue(message.clone()) {
                taken += 1;
            }
        }
        let (subscribed, full) = self.hand_out(&message, readers);
        taken += subscribed;
        self.figures.published.increment(1);
        self.figures.delivered.increment(taken.into());
        if taken == 0 {
            self.storms.untaken(&message.topic);
        }
        if !full.is_empty() {
            let stall = Instant::now() + self.stall;
            for (reader, room) in full {
                // Taken out, or gone with whoever would have.
                if tokio::time::timeout_at(stall, room).await.is_err() {
                    reader.stall();
                }
            }
        }
        Ok(taken)
    }

    /// Offers a message to subscriptions: how many took it, and which of them it should wait for.
    fn hand_out(
        &self,
        message: &Arc<Message>,
        mut readers: Vec<Arc<Subscription>>,
    ) -> (u32, Vec<(Arc<Subscription>, Room)>) {
        let (mut taken, mut full) = (0, Vec::new());
        let mut next = 0;
        while let Some(reader) = readers.get(next).cloned() {
            next += 1;
            match reader.offer(message.clone()) {
                Offered::Taken => taken += 1,
                Offered::Full(room) => {
                    taken += 1;
                    full.push((reader, room));
                }
                Offered::Lost => {}
                // Another generation went live meanwhile; what it opened for these topics takes over.
                Offered::Ended => {
                    let mut heirs = self.readers(message, &self.table());
                    let is_new = |heir: &Arc<_>| !readers.iter().any(|other| Arc::ptr_eq(other, heir));
                    heirs.retain(|heir| heir.follows(&reader) && is_new(heir));
                    readers.extend(heirs);
                }
            }
        }
        (taken, full)
    }

    /// Opens a subscription to `topics`, which `bindings` of the reader's manifest name. `queue-bytes` and `requires` are
    /// theirs. Denied: a topic that no binding names, or one whose binding the reading principal may not reach.
    pub fn subscribe(&self, reader: Reader, topics: &[String], manifest: &[Subscribe]) -> Result<Open, Failure> {
        let bindings = self.bindings(&reader, topics, manifest)?;
        self.subscriptions.open(reader, bindings, self.config.queue_bytes)
    }

    /// As [`Self::subscribe`], in the place of another: what waits there, and what still reaches that one, is read here. Its
    /// reader is held until it [goes on](Subscription::go_on).
    pub fn subscribe_beside(&self, other: &Open, reader: Reader, manifest: &[Subscribe]) -> Result<Open, Failure> {
        let bindings = self.bindings(&reader, &other.topics(), manifest)?;
        self.subscriptions.open_beside(other, reader, bindings, self.config.queue_bytes)
    }

    /// The manifest's bindings of these topics.
    pub fn bindings(
        &self,
        reader: &Reader,
        topics: &[String],
        manifest: &[Subscribe],
    ) -> Result<Vec<Subscribe>, Failure> {
        if !(1..=MAX_TOPICS).contains(&topics.len()) {
            return Err(Failure::Invalid(format!("a subscription has 1 to {MAX_TOPICS} topics, not {}", topics.len())));
        }
        let mut bindings: Vec<Subscribe> = Vec::new();
        for topic in topics {
            let topic = Pattern::parse(topic).map_err(|error| Failure::Invalid(error.to_string()))?;
            let declared = manifest.iter().find(|b| b.topic == topic && b.delivery.is_some());
            let binding = declared.ok_or_else(|| {
                Failure::Denied(format!("the manifest has no [[subscribe]] of {topic} with delivery"))
            })?;
            if bindings.iter().any(|other| other.topic == topic) {
                return Err(Failure::Invalid(format!("{topic} is named twice")));
            }
            if bindings.first().is_some_and(|other| other.delivery != binding.delivery) {
                return Err(Failure::Invalid(format!("{topic} has another delivery than {}", bindings[0].topic)));
            }
            if let Reader::Principal(id, mandate) = reader {
                self.authority.admit(binding, id, mandate, Some(id)).map_err(Failure::Denied)?;
            }
            bindings.push(binding.clone());
        }
        Ok(bindings)
    }

    fn readers(&self, message: &Message, table: &Table) -> Vec<Arc<Subscription>> {
        let live = |capsule: &str, generation| table.live.get(capsule) == Some(&generation);
        self.subscriptions.matching(message, &self.authority, live)
    }

    fn check_depth(&self, message: &Message) -> Result<(), Failure> {
        if message.depth <= self.config.max_depth {
            return Ok(());
        }
        let (depth, topic) = (self.config.max_depth, &message.topic);
        Err(Failure::Denied(format!("messages are nested more than {depth} deep; the last topic was {topic}")))
    }

    fn message(&self, sender: Sender, outgoing: Outgoing, publication: bool) -> Result<Message, Failure> {
        let topic = Topic::parse(&outgoing.topic).map_err(|e| Failure::Invalid(e.to_string()))?;
        let target = outgoing
            .target
            .map(|t| PrincipalId::parse(&t))
            .transpose()
            .map_err(|e| Failure::Invalid(format!("target: {e}")))?;
        if outgoing.payload.len() > self.config.max_payload_bytes {
            return Err(Failure::TooLarge { limit: self.config.max_payload_bytes as u64 });
        }
        let deadline = if publication {
            Instant::now() + Duration::from_secs(300)
        } else {
            outgoing.timeout.map_or(sender.deadline, |t| sender.deadline.min(Instant::now() + t))
        };
        Ok(Message {
            id: self.ids.fetch_add(1, Ordering::Relaxed),
            topic,
            principal: sender.principal,
            mandate: sender.mandate,
            origin: sender.origin,
            target,
            payload: outgoing.payload,
            deadline,
            publication,
            depth: sender.depth.saturating_add(1),
            cause: sender.cause,
            reply: None,
            rehearsal: sender.rehearsal,
            note: None,
        })
    }
}

/// Takes out the routes that a publication does not fit, as if they were not there; why the last of them is not reached.
fn take_misfits(routes: &mut Vec<Arc<Route>>, message: &Message) -> Option<Failure> {
    let mut last = None;
    routes.retain(|route| {
        let fits = route.typed().map_or(Ok(()), |typed| typed.check_payload(&message.topic, &message.payload));
        fits.map_err(|failure| last = Some(failure)).is_ok()
    });
    if last.is_some() {
        events("misfit").increment(1);
    }
    last
}

/// Messages to which this happened.
fn events(kind: &'static str) -> Counter {
    counter!("astrid_bus_events_total", "kind" => kind)
}

/// Requests that ended so.
fn outcomes(outcome: &'static str) -> Counter {
    counter!("astrid_bus_requests_total", "outcome" => outcome)
}

#[cfg(test)]
mod tests;
