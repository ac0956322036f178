//! The bus with native handlers: delivery, order, and what a sender is told.

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

#[tokio::test]
async fn a_binding_may_have_its_publications_side_by_side() {
    let ordered = binding("n.a", "a", &[], false);
    let unordered = Subscribe { ordered: false, ..binding("n.b", "b", &[], false) };
    let (bus, mut began, go) = held(&[ordered, unordered]);
    for payload in [&b"1"[..], b"2"] {
        bus.publish(sender("alice"), out("n.b", payload)).await.unwrap();
    }
    assert_eq!((began.recv().await.unwrap(), began.recv().await.unwrap()), ("1".into(), "2".into()));
    for payload in [&b"3"[..], b"4"] {
        bus.publish(sender("alice"), out("n.a", payload)).await.unwrap();
    }
    assert_eq!(began.recv().await.unwrap(), "3");
    tokio::task::yield_now().await;
    assert!(began.try_recv().is_err(), "one after the other");
    go.add_permits(3);
    assert_eq!(began.recv().await.unwrap(), "4");
}

#[tokio::test]
async fn publications_that_waited_behind_one_in_order_run_side_by_side_as_well() {
    let ordered = binding("n.a", "a", &[], false);
    let unordered = Subscribe { ordered: false, ..binding("n.b", "b", &[], false) };
    let (bus, mut began, go) = held(&[ordered, unordered]);
    bus.publish(sender("alice"), out("n.a", b"1")).await.unwrap();
    assert_eq!(began.recv().await.unwrap(), "1");
    for payload in [&b"2"[..], b"3", b"4"] {
        bus.publish(sender("alice"), out("n.b", payload)).await.unwrap();
    }
    // Whoever came to work on them has found nothing to do, and gone.
    while bus.pending() > 4 {
        tokio::task::yield_now().await;
    }
    go.add_permits(1);
    for payload in ["2", "3", "4"] {
        assert_eq!(began.recv().await.unwrap(), payload);
    }
}

#[tokio::test]
async fn the_largest_payload_is_taken_where_nothing_else_waits() {
    let (bus, mut seen) = bus(vec![binding("n.a", "a", &[], false)]);
    let manifest = [topic_of(Delivery::Lossy)];
    let open = bus.subscribe(reader("alice"), &["n.*".into()], &manifest).unwrap();
    let largest = || Outgoing { topic: "n.a".into(), payload: vec![7; 1 << 20].into(), ..Outgoing::default() };
    assert_eq!(bus.request(sender("alice"), largest()).await.unwrap().len(), 1 << 20);
    seen.recv().await.unwrap();
    assert_eq!(bus.publish(sender("alice"), largest()).await, Ok(2));
    assert_eq!(seen.recv().await.unwrap().2.len(), 1 << 20);
    assert_eq!(next(&open).await.unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn requests_that_wait_are_held_to_the_bindings_budget_and_the_heaviest_is_told_at_once() {
    let small = Subscribe { queue_bytes: Some(4096), ..binding("n.a", "a", &[], false) };
    let (bus, mut began, go) = held(&[small]);
    let ask = |who: &str, payload: Vec<u8>| {
        let (bus, sender) = (bus.clone(), sender(who));
        let outgoing = Outgoing { topic: "n.a".into(), payload: payload.into(), ..Outgoing::default() };
        tokio::spawn(async move { bus.request(sender, outgoing).await })
    };
    // What runs is not what waits.
    let running = ask("alice", b"run".repeat(1000));
    began.recv().await.unwrap();
    let first = ask("alice", vec![0; 1500]);
    began.recv().await.unwrap();
    let second = ask("alice", vec![0; 1500]);
    began.recv().await.unwrap();
    let overloaded = Err(Failure::Overloaded { retry_ms: RETRY_MS });
    assert_eq!(ask("alice", vec![0; 1500]).await.unwrap(), overloaded);
    let polite = ask("bob", vec![0; 1000]);
    began.recv().await.unwrap();
    assert_eq!(second.await.unwrap(), overloaded);
    go.add_permits(3);
    for answered in [running, first, polite] {
        assert!(answered.await.unwrap().is_ok());
    }
}

/// Counts what it got, and answers when it may.
struct Gate {
    got: AtomicU64,
    open: Semaphore,
}

impl Responder for Gate {
    fn call(self: Arc<Self>, _: Arc<str>, _: Arc<Message>, _: Option<Place>) -> Boxed<'static, Result<Bytes, Failure>> {
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
    bus.set_routes(Route::all(gate.clone(), &[binding("n.a", "gate", &[], true)], bus.config()), [], []);
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
    assert_eq!(gate.got.load(Ordering::Relaxed), inbox::WORKERS as u64);
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

/// Panics on `panic`, and on `panic later` after it has waited.
struct Brittle(mpsc::UnboundedSender<Bytes>);

impl Responder for Brittle {
    fn call(
        self: Arc<Self>,
        _: Arc<str>,
        message: Arc<Message>,
        _: Option<Place>,
    ) -> Boxed<'static, Result<Bytes, Failure>> {
        assert!(message.payload != "panic", "as it was told to");
        Box::pin(async move {
            tokio::task::yield_now().await;
            assert!(message.payload != "panic later", "as it was told to");
            let _ = self.0.send(message.payload.clone());
            Ok(Bytes::new())
        })
    }
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_message_and_neither_its_principal_nor_a_worker() {
    let (tx, mut rx) = mpsc::unbounded_channel();
    let bus = Bus::new(Config::default(), Arc::new(Authority::new()));
    bus.set_routes(Route::all(Arc::new(Brittle(tx)), &[binding("n.a", "a", &[], true)], bus.config()), [], []);
    for _ in 0..2 * inbox::WORKERS {
        for payload in [&b"panic"[..], b"panic later", b"fine"] {
            assert_eq!(bus.publish(sender("alice"), out("n.a", payload)).await, Ok(1));
        }
        assert_eq!(rx.recv().await.unwrap(), "fine");
    }
    while bus.pending() > 0 {
        tokio::task::yield_now().await;
    }
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

fn nothing_waits(open: &Open) -> bool {
    matches!(open.take(), Ok(None))
}

#[tokio::test]
async fn a_principal_reads_its_own_messages_and_nobody_elses() {
    let (bus, ..) = held(&[]);
    let manifest = [topic_of(Delivery::Lossy)];
    let topics = ["n.*".to_owned()];
    let alice = bus.subscribe(reader("alice"), &topics, &manifest).unwrap();
    let again = bus.subscribe(reader("alice"), &topics, &manifest).unwrap();
    assert_eq!(bus.publish(sender("bob"), out("n.a", b"bob's")).await, Ok(0));
    assert_eq!(bus.publish(sender("alice"), out("n.a", b"hers")).await, Ok(2));
    assert_eq!(bus.publish(sender("alice"), out("m.a", b"elsewhere")).await, Ok(0));
    assert_eq!(next(&alice).await.unwrap(), "hers");
    assert_eq!(next(&again).await.unwrap(), "hers");
    assert!(nothing_waits(&alice) && bus.subscriptions() == 2);
    drop(alice);
    assert_eq!(bus.publish(sender("alice"), out("n.a", b"more")).await, Ok(1));
    drop(again);
    assert_eq!((bus.subscriptions(), bus.queued()), (0, (0, 0)));
}

#[tokio::test]
async fn only_topics_of_the_manifest_that_the_reader_may_reach_can_be_subscribed_to() {
    let (bus, ..) = held(&[]);
    let secret = Subscribe {
        topic: Pattern::parse("s.a").unwrap(),
        requires: vec![Capability::parse("x:y").unwrap()],
        ..topic_of(Delivery::Lossy)
    };
    let lossless = Subscribe { topic: Pattern::parse("l.a").unwrap(), ..topic_of(Delivery::Lossless) };
    let manifest = [topic_of(Delivery::Lossy), secret, lossless, binding("h.a", "h", &[], false)];
    let open = |topics: &[&str]| {
        let topics: Vec<String> = topics.iter().map(|t| (*t).to_owned()).collect();
        bus.subscribe(reader("alice"), &topics, &manifest).map(drop)
    };
    assert_eq!(open(&["n.*"]), Ok(()));
    for denied in ["n.a", "h.a", "s.a", "other"] {
        assert!(matches!(open(&[denied]), Err(Failure::Denied(_))), "{denied}");
    }
    for invalid in [&[][..], &["n.*", "n.*"], &["n.*", "l.a"], &["n..a"], &["n.*"; 17]] {
        assert!(matches!(open(invalid), Err(Failure::Invalid(_))), "{invalid:?}");
    }
    assert!(matches!(bus.subscribe(reader("anonymous"), &["n.*".into()], &manifest).err(), Some(Failure::Denied(_))));
}

#[tokio::test]
async fn what_comes_of_a_session_reaches_and_reads_what_its_ceiling_covers_and_nothing_else() {
    let (bus, mut rx) = bus(vec![
        binding("notes.v1.read", "read", &["notes:read"], false),
        binding("notes.v1.known", "known", &[], false),
        binding("notes.*", "open", &[], true),
    ]);
    let within = |ceiling: &[&str]| {
        let ceiling: Vec<String> = ceiling.iter().map(|&text| text.into()).collect();
        Mandate::new(None, Some(&ceiling)).unwrap()
    };
    let topic = "notes.v1.read";
    let manifest = [Subscribe {
        requires: vec![Capability::parse("notes:read").unwrap()],
        topic: Pattern::parse(topic).unwrap(),
        ..topic_of(Delivery::Lossy)
    }];
    let alice = PrincipalId::parse("alice").unwrap();
    for (mandate, covers) in [(within(&["notes:*"]), true), (within(&["notes:write", "self:*"]), false)] {
        let scoped = || Sender { mandate: mandate.clone(), ..sender("alice") };
        let answer = bus.request(scoped(), out(topic, b"x")).await;
        assert_eq!(answer.is_ok(), covers, "{answer:?}");
        assert!(bus.request(scoped(), out("notes.v1.known", b"x")).await.is_ok(), "it is still alice");
        // Both bindings of the topic, or the public one alone.
        assert_eq!(bus.publish(scoped(), out(topic, b"x")).await, Ok(if covers { 2 } else { 1 }));
        let reader = Reader::Principal(alice.clone(), mandate.clone());
        assert_eq!(bus.subscribe(reader, &[topic.into()], &manifest).is_ok(), covers);
        // A subscription of a session without a ceiling gets what the sender may reach.
        let open = bus.subscribe(reader_of(&alice), &[topic.into()], &manifest).unwrap();
        bus.publish(scoped(), out(topic, b"x")).await.unwrap();
        assert_eq!(nothing_waits(&open), !covers);
    }
    rx.close();
}

fn reader_of(who: &PrincipalId) -> Reader {
    Reader::Principal(who.clone(), Mandate::default())
}

#[tokio::test]
async fn a_lossless_subscription_holds_up_who_publishes_and_only_for_so_long_if_nobody_reads() {
    let (mut bus, ..) = held(&[]);
    Arc::get_mut(&mut bus).unwrap().stall = Duration::from_millis(50);
    let manifest = [Subscribe { queue_bytes: Some(4096), ..topic_of(Delivery::Lossless) }];
    let open = bus.subscribe(reader("alice"), &["n.*".into()], &manifest).unwrap();
    let publish = |n: u8| {
        let bus = bus.clone();
        let outgoing = Outgoing { topic: "n.a".into(), payload: vec![n; 3000].into(), ..Outgoing::default() };
        tokio::spawn(async move { bus.publish(sender("alice"), outgoing).await })
    };
    assert_eq!(publish(1).await.unwrap(), Ok(1));
    let second = publish(2);
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    assert_eq!(next(&open).await.unwrap().as_bytes()[0], 1);
    assert_eq!(second.await.unwrap(), Ok(1));
    let begun = Instant::now();
    assert_eq!(publish(3).await.unwrap(), Ok(1), "kept all the same");
    assert!(begun.elapsed() >= bus.stall);
    assert_eq!(publish(4).await.unwrap(), Ok(0), "and nobody waits again for one that does not read");
    assert_eq!(next(&open).await.unwrap().as_bytes()[0], 2);
    assert_eq!(next(&open).await.unwrap().as_bytes()[0], 3);
    assert_eq!(next(&open).await, Ok("gap alice 1".into()));
}

#[tokio::test]
async fn whoever_waits_for_a_subscription_goes_on_as_soon_as_that_is_closed() {
    let (mut bus, ..) = held(&[]);
    // For ever, as far as a test is concerned.
    Arc::get_mut(&mut bus).unwrap().stall = Duration::from_secs(86_400);
    let manifest = [Subscribe { queue_bytes: Some(4096), ..topic_of(Delivery::Lossless) }];
    let open = bus.subscribe(reader("alice"), &["n.*".into()], &manifest).unwrap();
    let publish = || {
        let bus = bus.clone();
        let outgoing = Outgoing { topic: "n.a".into(), payload: vec![0; 3000].into(), ..Outgoing::default() };
        tokio::spawn(async move { bus.publish(sender("alice"), outgoing).await })
    };
    assert_eq!(publish().await.unwrap(), Ok(1));
    let waits = publish();
    tokio::task::yield_now().await;
    assert!(!waits.is_finished());
    drop(open);
    assert_eq!(waits.await.unwrap(), Ok(1));
}

#[tokio::test]
async fn in_a_run_loop_what_is_too_much_is_counted_for_each_principal() {
    let (mut bus, ..) = held(&[]);
    Arc::get_mut(&mut bus).unwrap().stall = Duration::from_millis(1);
    bus.set_routes([], [], [("loops".into(), 1)]);
    let manifest = [Subscribe { queue_bytes: Some(64 << 20), ..topic_of(Delivery::Lossless) }];
    let of = Reader::Loop { capsule: "loops".into(), generation: 1 };
    let open = bus.subscribe(of, &["n.*".into()], &manifest).unwrap();
    let large = || Outgoing { topic: "n.a".into(), payload: vec![0; 1 << 20].into(), ..Outgoing::default() };
    let mut taken = 0;
    for _ in 0..20 {
        taken += bus.publish(sender("alice"), large()).await.unwrap();
    }
    assert_eq!(taken, 15);
    assert_eq!(bus.publish(sender("bob"), large()).await, Ok(1), "another's flood costs nothing");
    drop(open);
}

#[tokio::test]
async fn what_two_subscriptions_of_an_earlier_generation_would_have_got_arrives_once_at_each_of_the_next() {
    let (bus, ..) = held(&[]);
    let other = Subscribe { topic: Pattern::parse("n.a").unwrap(), ..topic_of(Delivery::Lossy) };
    let manifest = [topic_of(Delivery::Lossy), other];
    let of = |generation| Reader::Loop { capsule: "loops".into(), generation };
    let open = |generation, topic: &str| bus.subscribe(of(generation), &[topic.into()], &manifest).unwrap();
    let old = [open(1, "n.*"), open(1, "n.a")];
    let new = [open(2, "n.*"), open(2, "n.a")];
    // As if a message had found its readers just before the change.
    let message = bus.message(sender("alice"), out("n.a", b"once"), true).map(Arc::new).unwrap();
    let before = Table { live: [("loops".into(), 1)].into(), ..Table::empty() };
    let readers = bus.readers(&message, &before);
    bus.set_routes([], [], [("loops".into(), 2)]);
    old.iter().for_each(|open| open.end());
    assert_eq!(bus.hand_out(&message, readers).0, 2);
    for open in &new {
        assert_eq!(next(open).await.unwrap(), "once");
        assert!(nothing_waits(open));
    }
}

#[tokio::test]
async fn a_run_loops_messages_move_to_the_next_generation_and_none_is_lost_or_doubled() {
    let (bus, ..) = held(&[]);
    let manifest = [topic_of(Delivery::Lossy)];
    let of = |generation| Reader::Loop { capsule: "loops".into(), generation };
    let live = |generation| bus.set_routes([], [], [("loops".into(), generation)]);
    let old = bus.subscribe(of(1), &["n.*".into()], &manifest).unwrap();
    live(1);
    let new = bus.subscribe(of(2), &["n.*".into()], &manifest).unwrap();
    for who in ["alice", "bob"] {
        assert_eq!(bus.publish(sender(who), out("n.a", b"before")).await, Ok(1));
    }
    live(2);
    old.end();
    assert_eq!(bus.publish(sender("alice"), out("n.a", b"after")).await, Ok(1));
    for _ in 0..2 {
        assert_eq!(next(&old).await.unwrap(), "before");
    }
    assert_eq!(next(&old).await, Err(Failure::Closed));
    assert_eq!(next(&new).await.unwrap(), "after");
    assert!(nothing_waits(&new));
}

#[tokio::test]
async fn what_waits_when_a_run_loop_hands_over_is_read_once_by_whoever_goes_on_and_the_next_ones_rules_hold_from_then_on()
 {
    let (bus, ..) = held(&[]);
    let manifest = [topic_of(Delivery::Lossless)];
    let of = |generation| Reader::Loop { capsule: "loops".into(), generation };
    let live = |generation| bus.set_routes([], [], [("loops".into(), generation)]);
    let free = |_: &Message| Ok::<_, crate::meter::ledger::Wait>(());
    let waits = async |open: &Open| tokio::time::timeout(Duration::from_millis(1), open.next_paid(free)).await.is_err();
    let read = async |open: &Open| match open.next_paid(free).await {
        Ok((Mail::Letter(_, message), _)) => Ok(String::from_utf8_lossy(&message.payload).into_owned()),
        Ok(_) => Ok("gap".into()),
        Err(failure) => Err(failure),
    };
    let old = bus.subscribe(of(1), &["n.*".into()], &manifest).unwrap();
    live(1);
    let publish = async |what: &'static [u8]| bus.publish(sender("alice"), out("n.a", what)).await;
    assert_eq!(publish(b"first").await, Ok(1));
    old.stop();
    assert_eq!(read(&old).await, Err(Failure::Closed), "whatever waits");
    // One that is not taken after all leaves everything to the other.
    drop(bus.subscribe_beside(&old, of(2), &manifest).unwrap());
    old.go_on();
    assert_eq!(read(&old).await.unwrap(), "first");

    old.stop();
    assert_eq!(publish(b"second").await, Ok(1));
    let guarded = [Subscribe { requires: vec![Capability::parse("x:y").unwrap()], ..topic_of(Delivery::Lossless) }];
    let new = bus.subscribe_beside(&old, of(3), &guarded).unwrap();
    assert_eq!(publish(b"third").await, Ok(1), "to the one that is live");
    assert!(waits(&new).await, "its version is not live");
    assert_eq!(bus.queued().1, 1, "two with one queue count once");
    live(3);
    new.go_on();
    assert_eq!(publish(b"forbidden").await, Ok(0));
    old.end();
    assert_eq!(old.waiting(), 0, "another reads it");
    drop(old);
    for what in ["second", "third"] {
        assert_eq!(read(&new).await.unwrap(), what);
    }
    assert!(waits(&new).await);
    new.end();
    assert_eq!(read(&new).await, Err(Failure::Closed));
}

#[tokio::test]
async fn a_principals_subscriptions_hold_so_much_together_and_what_exceeds_it_is_told() {
    let (bus, ..) = held(&[]);
    let manifest = [Subscribe { queue_bytes: Some(64 << 20), ..topic_of(Delivery::Lossless) }];
    let open = bus.subscribe(reader("alice"), &["n.*".into()], &manifest).unwrap();
    let large = || Outgoing { topic: "n.a".into(), payload: vec![0; 1 << 20].into(), ..Outgoing::default() };
    let mut taken = 0;
    for _ in 0..20 {
        taken += bus.publish(sender("alice"), large()).await.unwrap();
    }
    assert_eq!(taken, 15, "16 MiB with their topics");
    for _ in 0..15 {
        next(&open).await.unwrap();
    }
    assert_eq!(next(&open).await, Ok("gap alice 5".into()));
    assert_eq!(bus.publish(sender("alice"), large()).await, Ok(1));
}

#[tokio::test]
async fn a_subscription_gets_nothing_more_that_its_principal_may_no_longer_have() {
    let (bus, ..) = held(&[]);
    let guarded = Subscribe {
        topic: Pattern::parse("g.a").unwrap(),
        requires: vec![Capability::parse("x:y").unwrap()],
        ..topic_of(Delivery::Lossy)
    };
    let manifest = [topic_of(Delivery::Lossy), guarded];
    let set = |grants: &[&str], enabled: bool| {
        let grants = grants.iter().map(|grant| Capability::parse(grant).unwrap()).collect();
        let standing = Standing::new(enabled, vec![], grants, vec![]);
        bus.authority.apply(1, vec![Change::SetPrincipal(PrincipalId::parse("alice").unwrap(), standing)]);
    };
    set(&["x:y"], true);
    let open = bus.subscribe(reader("alice"), &["n.*".into(), "g.a".into()], &manifest).unwrap();
    assert_eq!(bus.publish(sender("alice"), out("g.a", b"held")).await, Ok(1));
    set(&[], true);
    assert_eq!(bus.publish(sender("alice"), out("g.a", b"revoked")).await, Ok(0));
    assert_eq!(bus.publish(sender("alice"), out("n.a", b"known")).await, Ok(1));
    set(&[], false);
    assert_eq!(bus.publish(sender("alice"), out("n.a", b"disabled")).await, Ok(0));
    assert_eq!((next(&open).await.unwrap(), next(&open).await.unwrap()), ("held".into(), "known".into()));
    assert!(nothing_waits(&open));
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

#[tokio::test]
async fn whoever_cant_pay_for_a_run_loops_work_waits_in_order_and_the_others_go_on() {
    let (bus, ..) = held(&[]);
    let manifest = [topic_of(Delivery::Lossless)];
    let of = Reader::Loop { capsule: "loops".into(), generation: 1 };
    let open = bus.subscribe(of, &["n.*".into()], &manifest).unwrap();
    bus.set_routes([], [], [("loops".into(), 1)]);
    for (who, what) in [("alice", b"a1"), ("alice", b"a2"), ("bob", b"b1"), ("bob", b"b2")] {
        assert_eq!(bus.publish(sender(who), out("n.a", what)).await, Ok(1));
    }
    let bobs = AtomicU64::new(0);
    // Alice can pay once bob has had both of his.
    let judge = |message: &Message| {
        let poor = message.principal.as_str() == "alice" && bobs.load(Ordering::Relaxed) < 2;
        if poor { Err(crate::meter::ledger::Wait(Duration::from_millis(1))) } else { Ok(()) }
    };
    // Told to end meanwhile: everything that waits comes first.
    open.end();
    let mut given = Vec::new();
    while let Ok((Mail::Letter(whose, message), Some(()))) = open.next_paid(judge).await {
        bobs.fetch_add(u64::from(whose.as_str() == "bob"), Ordering::Relaxed);
        given.push(String::from_utf8_lossy(&message.payload).into_owned());
    }
    assert_eq!(given, ["b1", "b2", "a1", "a2"]);
    assert!(matches!(open.next_paid(judge).await, Err(Failure::Closed)));
    assert_eq!(bus.queued(), (0, 0));
}
