//! The message bus: publish and request over routes.
//!
//! Owns delivery: which binding a message reaches, whether its principal may reach it, in what order, and what a
//! sender is told. A route is a pattern tied to one handler of one generation of a capsule. Publications wait in their
//! generation's fair queue ([`fair`]); requests go straight to their handler and are bounded by the pool's admission.
//! What would reach somebody meets its interceptors first ([`intercept`]).
//!
//! Bounded by: payload size, nesting depth, each queue's byte budget and concurrency.
//! Refuses to know: what is in a payload, wasm, HTTP, the store, who should hold what.

pub mod fair;
pub mod intercept;
pub mod routes;
pub mod storm;

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use metrics::{Counter, counter};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use astrid_capsule::manifest::Subscribe;
use astrid_capsule::{PrincipalId, Topic};

use crate::Boxed;
use crate::authority::Authority;
use fair::{FairQueue, Pushed};
use intercept::{Interception, Interceptions};
use routes::Index;
use storm::Storms;

/// `[bus]` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The largest payload and the largest answer, in bytes (1 KiB to 16 MiB).
    pub max_payload_bytes: usize,
    /// How deep requests may be nested (1 to 64).
    pub max_depth: u8,
    /// What may wait in one capsule's queue, in bytes (at least `max-payload-bytes`).
    pub queue_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_payload_bytes: 1 << 20, max_depth: 16, queue_bytes: 1 << 20 }
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

/// A message as the host carries it. Only the host fills it in.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: u64,
    pub topic: Topic,
    pub principal: PrincipalId,
    /// The capsule that sent it.
    pub sender: Arc<str>,
    pub target: Option<PrincipalId>,
    pub payload: Bytes,
    /// When the sender stops waiting; for a publication, when its handler must have ended.
    pub deadline: Instant,
    pub publication: bool,
    /// Requests above this one.
    pub depth: u8,
    /// The id of the request from outside that caused it, if any.
    pub cause: Option<Arc<str>>,
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
}

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
        }
    }
}

/// Whatever can be called with a message: a generation of a capsule.
pub trait Responder: Send + Sync {
    /// Calls the named handler. Ends by the message's deadline, whatever the handler does.
    fn call(self: Arc<Self>, handler: Arc<str>, message: Message) -> Boxed<'static, Result<Bytes, Failure>>;
}

/// A binding of a live generation.
pub struct Route {
    binding: Subscribe,
    handler: Arc<str>,
    inbox: Arc<Inbox>,
}

/// Where publications for one generation of a capsule wait, whatever binding they came by: so their order holds per
/// capsule and principal.
pub struct Inbox {
    responder: Arc<dyn Responder>,
    queue: Mutex<Queue>,
}

struct Queue {
    fair: FairQueue<PrincipalId, (Arc<str>, Message)>,
    workers: usize,
    /// Workers whose handler waits for something.
    waiting: usize,
}

/// Publications that one generation has in flight, each for another principal.
const INBOX_WORKERS: usize = 16;
/// Principals that one worker serves one after the other before it gets help: a worker costs more than a short call.
const TURNS_PER_WORKER: usize = 8;

impl Route {
    pub fn new(binding: Subscribe, inbox: Arc<Inbox>) -> Arc<Self> {
        Arc::new(Self { handler: binding.handler.as_str().into(), binding, inbox })
    }
}

impl Inbox {
    pub fn new(responder: Arc<dyn Responder>, config: &Config) -> Arc<Self> {
        let fair = FairQueue::new(config.queue_bytes);
        Arc::new(Self { responder, queue: Mutex::new(Queue { fair, workers: 0, waiting: 0 }) })
    }

    /// Publications that wait or are being handled.
    fn pending(&self) -> usize {
        let queue = self.queue.lock().expect("no panic under this lock");
        queue.fair.len() + queue.workers
    }

    /// Queues a publication and sees to it that somebody works on it. False: there was no room for it.
    fn enqueue(self: &Arc<Self>, handler: Arc<str>, message: Message) -> bool {
        let size = message.payload.len() + message.topic.as_str().len() + 128;
        let principal = message.principal.clone();
        let mut queue = self.queue.lock().expect("no panic under this lock");
        match queue.fair.push(principal, size, (handler, message)) {
            Pushed::Queued => {}
            Pushed::Evicted(lost) => {
                events("lost").increment(lost.len() as u64);
                tracing::warn!(
                    topic = %lost[0].1.topic, lost = lost.len(), principal = %lost[0].1.principal,
                    "queue over budget: newest publications of the heaviest principal dropped"
                );
            }
            Pushed::Refused(_) => {
                events("refused").increment(1);
                return false;
            }
        }
        self.take_on(queue);
        true
    }

    async fn work(self: Arc<Self>) {
        let mut done = None;
        loop {
            let next = {
                let mut queue = self.queue.lock().expect("no panic under this lock");
                if let Some((principal, waited)) = done.take() {
                    queue.waiting -= usize::from(waited);
                    queue.fair.release(&principal);
                }
                let next = queue.fair.pop();
                if next.is_none() {
                    queue.workers -= 1;
                }
                next
            };
            let Some((principal, (handler, message))) = next else { return };
            let topic = message.topic.clone();
            let (outcome, waited) = self.call(handler, message).await;
            if let Err(failure) = outcome {
                if matches!(failure, Failure::Overloaded { .. }) {
                    events("lost").increment(1);
                }
                tracing::warn!(%topic, %principal, failure = failure.kind(), "a publication's handler failed");
            }
            done = Some((principal, waited));
            // Handlers that never wait must not keep the thread from everybody else while the queue is refilled.
            tokio::task::consume_budget().await;
        }
    }

    /// Calls the handler. True: it waited, and this worker counts as one that waits.
    async fn call(self: &Arc<Self>, handler: Arc<str>, message: Message) -> (Result<Bytes, Failure>, bool) {
        let mut call = self.responder.clone().call(handler, message);
        let mut waited = false;
        let answer = poll_fn(|context| {
            let polled = call.as_mut().poll(context);
            if polled.is_pending() && !waited {
                waited = true;
                let mut queue = self.queue.lock().expect("no panic under this lock");
                queue.waiting += 1;
                self.take_on(queue);
            }
            polled
        });
        (answer.await, waited)
    }

    /// Takes on a worker if there is too much for those that get on.
    fn take_on(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        let busy = queue.workers - queue.waiting;
        if queue.workers < INBOX_WORKERS && queue.fair.ready() > busy * TURNS_PER_WORKER {
            queue.workers += 1;
            drop(queue);
            tokio::spawn(self.clone().work());
        }
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
    pub capsule: Arc<str>,
    pub deadline: Instant,
    pub depth: u8,
    pub cause: Option<Arc<str>>,
}

/// Where messages go: every message sees one of these, whole.
struct Table {
    routes: Index<Arc<Route>>,
    interceptions: Interceptions,
}

pub struct Bus {
    config: Config,
    authority: Arc<Authority>,
    table: RwLock<Arc<Table>>,
    inboxes: Mutex<Vec<Weak<Inbox>>>,
    ids: AtomicU64,
    storms: Storms,
    figures: Figures,
}

/// Handles of the series that move with every message, looked up once.
struct Figures {
    requests: Counter,
    answered: Counter,
    published: Counter,
    delivered: Counter,
}

impl Bus {
    pub fn new(config: Config, authority: Arc<Authority>) -> Self {
        let table = RwLock::new(Arc::new(Table { routes: Index::new([]), interceptions: Interceptions::new([]) }));
        let figures = Figures {
            requests: events("request"),
            answered: outcomes("ok"),
            published: events("publish"),
            delivered: events("delivered"),
        };
        let (inboxes, ids, storms) = (Mutex::new(Vec::new()), AtomicU64::new(1), Storms::default());
        Self { config, authority, table, inboxes, ids, storms, figures }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Replaces all routes and interceptions at once. Calls and queues of routes that are gone run to their end.
    pub fn set_routes(
        &self,
        routes: impl IntoIterator<Item = Arc<Route>>,
        interceptions: impl IntoIterator<Item = Interception>,
    ) {
        let routes: Vec<Arc<Route>> = routes.into_iter().collect();
        let mut inboxes = self.inboxes.lock().expect("no panic under this lock");
        // Those of earlier generations stay as long as something works on them.
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        for route in &routes {
            let inbox = Arc::downgrade(&route.inbox);
            if !inboxes.iter().any(|known| known.ptr_eq(&inbox)) {
                inboxes.push(inbox);
            }
        }
        drop(inboxes);
        let routes = Index::new(routes.into_iter().map(|r| (r.binding.topic.clone(), r)));
        let table = Table { routes, interceptions: Interceptions::new(interceptions) };
        *self.table.write().expect("no panic under this lock") = Arc::new(table);
    }

    /// Publications of live generations that wait or are being handled.
    pub fn pending(&self) -> usize {
        let inboxes = self.inboxes.lock().expect("no panic under this lock");
        inboxes.iter().filter_map(Weak::upgrade).map(|inbox| inbox.pending()).sum()
    }

    /// Bytes of publications that wait, and for how many principals: one that waits at two capsules counts twice.
    pub fn queued(&self) -> (usize, usize) {
        let inboxes = self.inboxes.lock().expect("no panic under this lock");
        let live = inboxes.iter().filter_map(Weak::upgrade).map(|inbox| {
            let queue = inbox.queue.lock().expect("no panic under this lock");
            (queue.fair.bytes(), queue.fair.active())
        });
        live.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
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
        let result = self.deliver(sender, outgoing).await;
        self.figures.requests.increment(1);
        match &result {
            Ok(_) => self.figures.answered.increment(1),
            Err(failure) => outcomes(failure.kind()).increment(1),
        }
        result
    }

    async fn deliver(&self, sender: Sender, outgoing: Outgoing) -> Result<Bytes, Failure> {
        let mut message = self.message(sender, outgoing, false)?;
        self.check_depth(&message)?;
        let table = self.table();
        let route = table.routes.best(&message.topic).ok_or(Failure::NoResponder)?.clone();
        self.authority.admit(&route.binding, &message.principal, message.target.as_ref()).map_err(Failure::Denied)?;
        let chain = table.interceptions.of(&message.topic, &message.sender);
        drop(table);
        if !chain.is_empty() {
            message.payload = chain.run(message.clone(), self.config.max_payload_bytes).await?;
        }
        let answer = route.inbox.responder.clone().call(route.handler.clone(), message).await?;
        if answer.len() > self.config.max_payload_bytes {
            return Err(Failure::TooLarge { limit: self.config.max_payload_bytes as u64 });
        }
        Ok(answer)
    }

    /// Hands the message to every matching binding that its principal may reach; the answer is how many took it.
    pub async fn publish(&self, sender: Sender, outgoing: Outgoing) -> Result<u32, Failure> {
        let wait = sender.deadline;
        // A publication outlives its sender's call: it has a deadline of its own, the handler's limit.
        let mut message = self.message(sender, outgoing, true)?;
        // Also where nobody waits: a circle of publications ends here.
        self.check_depth(&message)?;
        let table = self.table();
        let mut routes = table.routes.matches(&message.topic);
        self.authority.retain_admitted(&mut routes, |r| &r.binding, &message.principal, message.target.as_ref());
        let chain = table.interceptions.of(&message.topic, &message.sender);
        if !routes.is_empty() && !chain.is_empty() {
            // Only here the sender waits, in its own time.
            let seen = Message { deadline: message.deadline.min(wait), ..message.clone() };
            message.payload = chain.run(seen, self.config.max_payload_bytes).await?;
        }
        let mut taken = 0;
        for route in routes {
            if route.inbox.enqueue(route.handler.clone(), message.clone()) {
                taken += 1;
            }
        }
        self.figures.published.increment(1);
        self.figures.delivered.increment(taken.into());
        if taken == 0 {
            self.storms.untaken(&message.topic);
        }
        Ok(taken)
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
            sender: sender.capsule,
            target,
            payload: outgoing.payload,
            deadline,
            publication,
            depth: sender.depth.saturating_add(1),
            cause: sender.cause,
        })
    }
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
mod tests {
    use super::intercept::{Interceptor, Verdict};
    use super::*;
    use crate::authority::{Change, Standing};
    use astrid_capsule::manifest::{Fail, Intercept};
    use astrid_capsule::{Capability, Pattern};
    use tokio::sync::{Semaphore, mpsc};

    /// Answers with what it was called with, and tells the test.
    struct Recorder(mpsc::UnboundedSender<(String, String, Bytes)>);

    impl Responder for Recorder {
        fn call(self: Arc<Self>, handler: Arc<str>, message: Message) -> Boxed<'static, Result<Bytes, Failure>> {
            Box::pin(async move {
                let _ = self.0.send((handler.to_string(), message.principal.to_string(), message.payload.clone()));
                Ok(message.payload)
            })
        }
    }

    fn binding(topic: &str, handler: &str, requires: &[&str], public: bool) -> Subscribe {
        Subscribe {
            topic: Pattern::parse(topic).unwrap(),
            handler: handler.into(),
            requires: requires.iter().map(|c| Capability::parse(c).unwrap()).collect(),
            public,
        }
    }

    fn sender(principal: &str) -> Sender {
        Sender {
            principal: PrincipalId::parse(principal).unwrap(),
            capsule: "test".into(),
            deadline: Instant::now() + Duration::from_secs(5),
            depth: 0,
            cause: None,
        }
    }

    fn out(topic: &str, payload: &'static [u8]) -> Outgoing {
        Outgoing { topic: topic.into(), payload: Bytes::from_static(payload), ..Outgoing::default() }
    }

    fn bus(bindings: Vec<Subscribe>) -> (Bus, mpsc::UnboundedReceiver<(String, String, Bytes)>) {
        let authority = Arc::new(Authority::new());
        authority.apply(
            1,
            vec![Change::SetPrincipal(
                PrincipalId::parse("alice").unwrap(),
                Standing::new(true, vec![], vec![Capability::parse("notes:read").unwrap()], vec![]),
            )],
        );
        let (tx, rx) = mpsc::unbounded_channel();
        let responder = Arc::new(Recorder(tx));
        let bus = Bus::new(Config::default(), authority);
        let inbox = Inbox::new(responder, bus.config());
        let routes: Vec<_> = bindings.into_iter().map(|b| Route::new(b, inbox.clone())).collect();
        bus.set_routes(routes, []);
        (bus, rx)
    }

    #[tokio::test]
    async fn a_request_is_answered_or_its_failure_is_told_at_once() {
        let (bus, _rx) = bus(vec![
            binding("notes.v1.read", "read", &["notes:read"], false),
            binding("notes.v1.write", "write", &["notes:write"], false),
            binding("notes.v1.open", "open", &[], true),
            binding("notes.v1.known", "known", &[], false),
        ]);
        let ask = |who: &str, topic: &str| bus.request(sender(who), out(topic, b"x"));
        assert_eq!(ask("alice", "notes.v1.read").await.unwrap(), "x");
        assert!(
            matches!(ask("alice", "notes.v1.write").await, Err(Failure::Denied(why)) if why.contains("notes:write"))
        );
        assert!(matches!(ask("mallory", "notes.v1.known").await, Err(Failure::Denied(_))));
        assert!(matches!(ask("anonymous", "notes.v1.known").await, Err(Failure::Denied(_))));
        assert!(ask("anonymous", "notes.v1.open").await.is_ok());
        assert_eq!(ask("alice", "nobody.home").await, Err(Failure::NoResponder));
        assert!(matches!(ask("alice", "notes.*").await, Err(Failure::Invalid(_))));
        let big =
            Outgoing { topic: "notes.v1.open".into(), payload: vec![0; (1 << 20) + 1].into(), ..Default::default() };
        assert_eq!(bus.request(sender("alice"), big).await, Err(Failure::TooLarge { limit: 1 << 20 }));
        let deep = Sender { depth: 16, ..sender("alice") };
        assert!(
            matches!(bus.request(deep, out("notes.v1.open", b"")).await, Err(Failure::Denied(w)) if w.contains("nested"))
        );
    }

    /// Says no to `no` and puts `!` in place of everything else.
    struct Loud;

    impl Interceptor for Loud {
        fn intercept(self: Arc<Self>, _: Arc<str>, message: Message) -> Boxed<'static, Result<Verdict, Failure>> {
            let no = message.payload == "no";
            let verdict = if no { Verdict::Deny("no is no".into()) } else { Verdict::Replace("!".into()) };
            Box::pin(std::future::ready(Ok(verdict)))
        }
    }

    #[tokio::test]
    async fn a_handler_sees_what_the_interceptors_left_and_a_denial_reaches_the_sender() {
        let (bus, mut rx) = bus(vec![binding("n.a", "one", &[], false)]);
        let declared = Intercept {
            topic: Pattern::parse("n.*").unwrap(),
            handler: "loud".into(),
            priority: 100,
            fail: Fail::Closed,
        };
        let routes = bus.table().routes.matches(&Topic::parse("n.a").unwrap()).into_iter().cloned().collect::<Vec<_>>();
        bus.set_routes(routes, [Interception::new("loud".into(), declared, Arc::new(Loud))]);
        let no = Err(Failure::Denied("no is no".into()));

        assert_eq!(bus.request(sender("alice"), out("n.a", b"yes")).await.unwrap(), "!");
        assert_eq!(bus.publish(sender("alice"), out("n.a", b"yes")).await.unwrap(), 1);
        for _ in 0..2 {
            assert_eq!(rx.recv().await.unwrap().2, "!");
        }
        assert_eq!(bus.request(sender("alice"), out("n.a", b"no")).await, no);
        assert_eq!(bus.publish(sender("alice"), out("n.a", b"no")).await, no.clone().map(|_: Bytes| 0));
        // Who would not get there is not judged; whoever intercepts is not intercepted.
        assert_eq!(bus.request(sender("alice"), out("n.b", b"no")).await, Err(Failure::NoResponder));
        assert_eq!(bus.publish(sender("anonymous"), out("n.a", b"no")).await, Ok(0));
        let own = Sender { capsule: "loud".into(), ..sender("alice") };
        assert_eq!(bus.request(own, out("n.a", b"no")).await.unwrap(), "no");
        // A publication is a step of depth like a request.
        let deep = |depth| Sender { depth, ..sender("alice") };
        assert!(
            matches!(bus.publish(deep(16), out("n.a", b"yes")).await, Err(Failure::Denied(w)) if w.contains("nested"))
        );
        assert_eq!(bus.publish(deep(15), out("n.a", b"yes")).await, Ok(1));
    }

    #[tokio::test]
    async fn a_publication_reaches_every_binding_its_principal_may_reach_in_order() {
        let (bus, mut rx) = bus(vec![
            binding("n.*", "all", &[], false),
            binding("n.a", "one", &[], false),
            binding("n.a", "secret", &["other:cap"], false),
        ]);
        for payload in [b"1", b"2", b"3"] {
            assert_eq!(bus.publish(sender("alice"), out("n.a", payload)).await.unwrap(), 2);
        }
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(rx.recv().await.unwrap());
        }
        for handler in ["all", "one"] {
            let order: Vec<&[u8]> = seen.iter().filter(|s| s.0 == handler).map(|s| &s.2[..]).collect();
            assert_eq!(order, [b"1", b"2", b"3"], "{handler}");
        }
        assert_eq!(bus.publish(sender("alice"), out("elsewhere", b"")).await.unwrap(), 0);
        assert_eq!(bus.publish(sender("anonymous"), out("n.a", b"")).await.unwrap(), 0);
    }

    /// Counts what it got, and answers when it may.
    struct Gate {
        got: AtomicU64,
        open: Semaphore,
    }

    impl Responder for Gate {
        fn call(self: Arc<Self>, _: Arc<str>, _: Message) -> Boxed<'static, Result<Bytes, Failure>> {
            self.got.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                // Without waiting, and without what tokio does for those that might wait.
                if self.open.available_permits() == 0 {
                    let _passed = self.open.acquire().await;
                }
                Ok(Bytes::new())
            })
        }
    }

    /// A bus with one public binding.
    fn gated(permits: usize) -> (Bus, Arc<Gate>) {
        let gate = Arc::new(Gate { got: AtomicU64::new(0), open: Semaphore::new(permits) });
        let bus = Bus::new(Config::default(), Arc::new(Authority::new()));
        let inbox = Inbox::new(gate.clone(), bus.config());
        bus.set_routes([Route::new(binding("n.a", "gate", &[], true), inbox)], []);
        (bus, gate)
    }

    #[tokio::test]
    async fn sixteen_principals_are_served_at_once_and_one_message_of_each() {
        let (bus, gate) = gated(0);
        for n in 0..20 {
            for _ in 0..2 {
                assert_eq!(bus.publish(sender(&format!("p-{n}")), out("n.a", b"")).await, Ok(1));
            }
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.got.load(Ordering::Relaxed), INBOX_WORKERS as u64);
        gate.open.add_permits(1);
        while bus.pending() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.got.load(Ordering::Relaxed), 40);
    }

    #[tokio::test]
    async fn whoever_waits_keeps_nobody_else_waiting_however_few_there_are() {
        let (bus, gate) = gated(0);
        for n in 1..=3 {
            assert_eq!(bus.publish(sender(&format!("p-{n}")), out("n.a", b"")).await, Ok(1));
            while gate.got.load(Ordering::Relaxed) < n {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn handlers_that_never_wait_let_others_run_all_the_same() {
        let (bus, gate) = gated(1);
        for _ in 0..1000 {
            assert_eq!(bus.publish(sender("alice"), out("n.a", b"")).await, Ok(1));
        }
        tokio::task::yield_now().await;
        let got = gate.got.load(Ordering::Relaxed);
        assert!(got > 0 && got < 1000, "{got} in one go");
    }
}
