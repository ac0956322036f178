//! What waits for handlers: order, places, budgets, and handlers that panic.

use super::*;

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
