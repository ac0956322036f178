//! The bus with native handlers: delivery, order, and what a sender is told.

mod queues;
mod subscriptions;

use super::intercept::{Interceptor, Verdict};
use super::mailbox::Mail;
use super::*;
use crate::authority::{Change, Mandate, Standing};
use astrid_capsule::Capability;
use astrid_capsule::manifest::{Delivery, Fail, Intercept};
use tokio::sync::{Semaphore, mpsc};

/// Answers with what it was called with, and tells the test.
pub(super) struct Recorder(pub(super) mpsc::UnboundedSender<(String, String, Bytes)>);

impl Responder for Recorder {
    fn call(
        self: Arc<Self>,
        handler: Arc<str>,
        message: Arc<Message>,
        _: Option<Place>,
    ) -> Boxed<'static, Result<Bytes, Failure>> {
        Box::pin(async move {
            let _ = self.0.send((handler.to_string(), message.principal.to_string(), message.payload.clone()));
            Ok(message.payload.clone())
        })
    }
}

fn binding(topic: &str, handler: &str, requires: &[&str], public: bool) -> Subscribe {
    let requires = requires.iter().map(|c| Capability::parse(c).unwrap()).collect();
    Subscribe { requires, public, ..Subscribe::handled(Pattern::parse(topic).unwrap(), handler) }
}

pub(super) fn sender(principal: &str) -> Sender {
    Sender {
        principal: PrincipalId::parse(principal).unwrap(),
        mandate: Mandate::default(),
        origin: Origin::new("test", ""),
        deadline: Instant::now() + Duration::from_secs(5),
        depth: 0,
        cause: None,
        rehearsal: false,
    }
}

pub(super) fn out(topic: &str, payload: &'static [u8]) -> Outgoing {
    Outgoing { topic: topic.into(), payload: Bytes::from_static(payload), ..Outgoing::default() }
}

pub(super) fn bus(bindings: Vec<Subscribe>) -> (Bus, mpsc::UnboundedReceiver<(String, String, Bytes)>) {
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
    bus.set_routes(Route::all(responder, &bindings, bus.config()), [], []);
    (bus, rx)
}

/// Holds every call until it is let go, and tells the test that it has begun; a request gives up its place then.
struct Held(mpsc::UnboundedSender<Bytes>, Arc<Semaphore>);

impl Responder for Held {
    fn call(
        self: Arc<Self>,
        _: Arc<str>,
        message: Arc<Message>,
        place: Option<Place>,
    ) -> Boxed<'static, Result<Bytes, Failure>> {
        Box::pin(async move {
            let _ = self.0.send(message.payload.clone());
            if message.payload.starts_with(b"run") {
                drop(place);
            }
            self.1.acquire().await.expect("never closed").forget();
            Ok(message.payload.clone())
        })
    }
}

fn held(bindings: &[Subscribe]) -> (Arc<Bus>, mpsc::UnboundedReceiver<Bytes>, Arc<Semaphore>) {
    let authority = Arc::new(Authority::new());
    for who in ["alice", "bob"] {
        let standing = Standing::new(true, vec![], vec![], vec![]);
        authority.apply(1, vec![Change::SetPrincipal(PrincipalId::parse(who).unwrap(), standing)]);
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let go = Arc::new(Semaphore::new(0));
    let bus = Arc::new(Bus::new(Config::default(), authority));
    bus.set_routes(Route::all(Arc::new(Held(tx, go.clone())), bindings, bus.config()), [], []);
    (bus, rx, go)
}

fn topic_of(delivery: Delivery) -> Subscribe {
    Subscribe { handler: None, delivery: Some(delivery), ..binding("n.*", "", &[], false) }
}

fn reader(who: &str) -> Reader {
    reader_of(&PrincipalId::parse(who).unwrap())
}

/// What a reader gets next, in a word: the payload, or whose loss and how much.
async fn next(open: &Open) -> Result<String, Failure> {
    Ok(match open.next().await? {
        Mail::Letter(_, message) => String::from_utf8_lossy(&message.payload).into_owned(),
        Mail::Gap(whose, lost) => format!("gap {whose} {lost}"),
    })
}

fn reader_of(who: &PrincipalId) -> Reader {
    Reader::Principal(who.clone(), Mandate::default())
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
    assert!(matches!(ask("alice", "notes.v1.write").await, Err(Failure::Denied(why)) if why.contains("notes:write")));
    assert!(matches!(ask("mallory", "notes.v1.known").await, Err(Failure::Denied(_))));
    assert!(matches!(ask("anonymous", "notes.v1.known").await, Err(Failure::Denied(_))));
    assert!(ask("anonymous", "notes.v1.open").await.is_ok());
    assert_eq!(ask("alice", "nobody.home").await, Err(Failure::NoResponder));
    assert!(matches!(ask("alice", "notes.*").await, Err(Failure::Invalid(_))));
    let big = Outgoing { topic: "notes.v1.open".into(), payload: vec![0; (1 << 20) + 1].into(), ..Default::default() };
    assert_eq!(bus.request(sender("alice"), big).await, Err(Failure::TooLarge { limit: 1 << 20 }));
    let deep = Sender { depth: 16, ..sender("alice") };
    assert!(
        matches!(bus.request(deep, out("notes.v1.open", b"")).await, Err(Failure::Denied(w)) if w.contains("nested"))
    );
}

/// Says no to `no` and puts `!` in place of everything else.
pub(super) struct Loud;

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
    let declared =
        Intercept { topic: Pattern::parse("n.*").unwrap(), handler: "loud".into(), priority: 100, fail: Fail::Closed };
    let routes = bus.table().routes.matches(&Topic::parse("n.a").unwrap()).into_iter().cloned().collect::<Vec<_>>();
    bus.set_routes(routes, [Interception::new("loud".into(), declared, Arc::new(Loud))], []);
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
    let own = Sender { origin: Origin::new("loud", ""), ..sender("alice") };
    assert_eq!(bus.request(own, out("n.a", b"no")).await.unwrap(), "no");
    // A publication is a step of depth like a request.
    let deep = |depth| Sender { depth, ..sender("alice") };
    assert!(matches!(bus.publish(deep(16), out("n.a", b"yes")).await, Err(Failure::Denied(w)) if w.contains("nested")));
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

#[tokio::test]
async fn an_answer_comes_in_pieces_or_fails_at_the_first() {
    let (bus, _rx) = bus(vec![binding("n.a", "a", &[], false)]);
    let bus = Arc::new(bus);
    let answer = bus.request_stream(sender("alice"), out("n.a", b"whole"));
    assert_eq!((answer.next().await, answer.next().await), (Ok(Some("whole".into())), Ok(None)));
    let nobody = bus.request_stream(sender("alice"), out("n.b", b""));
    assert_eq!(nobody.next().await, Err(Failure::NoResponder));
}
