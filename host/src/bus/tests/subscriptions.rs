//! What reaches a subscription: whose messages, how many, and what is told of the others.

use super::*;

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
