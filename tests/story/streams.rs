//! Answers in pieces, and reading what is published: order, who is held up, who is told of what is lost, and that every
//! bound of a call and of a principal holds on these ways as well.

use std::time::{Duration, Instant};

use astrid_capsule::Pattern;
use astrid_capsule::manifest::{Fail, Intercept, Manifest};
use astrid_tests::daemon::Daemon;
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};

use crate::observation::{metrics, sum};
use crate::{Person, assert_well, bus, install, install_guests, join, until};

/// A daemon with the guest whose limits were changed.
fn daemon_with(change: impl FnOnce(&mut Manifest)) -> Daemon {
    let daemon = Daemon::start();
    install(&daemon, &pack::repacked(daemon.home().beside(), "changed", "streamer", change));
    daemon
}

fn daemon() -> Daemon {
    daemon_with(|_| {})
}

/// What the guest says of an answer that it read in pieces.
async fn collect(daemon: &Daemon, topic: &str, payload: Value) -> Value {
    let ask = json!({ "topic": topic, "payload": payload });
    daemon.unix(bus("streamer.v1.collect", &ask)).await.expect(200)
}

/// What the guest got back of what it published to these topics.
async fn reflect(daemon: &Daemon, subscribe: &[&str], publish: &[&str], bytes: usize) -> Value {
    let body = json!({ "subscribe": subscribe, "publish": publish, "bytes": bytes });
    daemon.unix(bus("streamer.v1.reflect", &body)).await.expect(200)
}

fn numbers(events: &Value) -> Vec<u64> {
    events.as_array().expect("a list").iter().filter_map(|event| event["payload"].as_u64()).collect()
}

/// Waits until so many subscriptions are open beside those that always are.
async fn until_open(daemon: &Daemon, count: f64) {
    let open = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).into_owned();
        text.lines().find_map(|line| line.strip_prefix("astrid_bus_subscriptions ")?.parse::<f64>().ok())
    };
    until(daemon, Request::get("/metrics"), |answer| open(&answer.body) == Some(count + crate::RESIDENT as f64)).await;
}

/// Waits until no instance is alive.
async fn until_nothing_runs(daemon: &Daemon) {
    until(daemon, Request::get("/healthz"), |answer| answer.json()["pool"]["in_use"] == crate::RESIDENT).await;
}

async fn ended_by(daemon: &Daemon, outcome: &str) -> f64 {
    let labels = [("capsule", "streamer"), ("outcome", outcome)];
    sum(&metrics(daemon).await, "astrid_invocations_total", &labels)
}

#[tokio::test]
async fn pieces_arrive_whole_and_in_order_and_a_relay_hands_them_on() {
    let daemon = daemon();
    let count = json!({ "pieces": 50, "bytes": 20_000 });
    let heads: Vec<String> = (0..50).map(|n| format!("{n:08}")).collect();
    let whole = json!({ "heads": heads, "bytes": 1_000_000, "end": null });
    assert_eq!(collect(&daemon, "streamer.v1.count", count.clone()).await, whole);
    let relayed = json!({ "topic": "streamer.v1.count", "payload": count });
    assert_eq!(collect(&daemon, "streamer.v1.relay", relayed).await, whole);
    // Who asks for the whole answer reads no pieces.
    let told = daemon.unix(bus("streamer.v1.endless", &json!({}))).await.expect(200);
    assert_eq!((&told["sent"], told["end"].as_str().map(|end| end.contains("Closed"))), (&json!(0), Some(true)));
}

#[tokio::test]
async fn a_slow_reader_holds_up_whoever_answers_it() {
    let daemon = daemon();
    // 256 KiB unread are four of these.
    let slow = json!({ "pieces": 100, "bytes": 65_536, "read": 2, "until": 6 });
    assert_eq!(daemon.unix(bus("streamer.v1.slow", &slow)).await.expect(200), 6);
    until_nothing_runs(&daemon).await;
}

#[tokio::test]
async fn an_answer_that_fails_does_so_after_its_pieces_and_says_how() {
    let daemon = daemon_with(|manifest| manifest.limits.max_fuel = 200_000_000);
    let end = async |topic: &str| collect(&daemon, topic, json!({})).await;
    for topic in ["streamer.v1.eat", "streamer.v1.spin"] {
        let ended = end(topic).await;
        assert_eq!(ended["heads"], json!(["first"]), "{topic}: what it sent before it ran out of memory or fuel");
        assert!(ended["end"].as_str().is_some_and(|end| end.contains("Trapped")), "{ended}");
    }
    for (topic, how) in [("streamer.v1.nobody", "NoResponder"), ("streamer.v1.count", "Invalid")] {
        let ended = end(topic).await;
        assert_eq!(ended["heads"], json!([]));
        assert!(ended["end"].as_str().is_some_and(|end| end.contains(how)), "{ended}");
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_call_whose_answer_nobody_reads_any_more_is_gone_at_once() {
    let daemon = daemon();
    // It would compute for twenty seconds, and nobody asks for a second piece.
    let ask = json!({ "topic": "streamer.v1.spin", "payload": {}, "take": 1 });
    let answer = daemon.unix(bus("streamer.v1.collect", &ask)).await.expect(200);
    assert_eq!(answer["heads"], json!(["first"]));
    until_nothing_runs(&daemon).await;
    assert_eq!(ended_by(&daemon, "timeout").await, 0.0, "its own time has not passed");

    // The reader's time ends the call as well.
    let ask = json!({ "topic": "streamer.v1.spin", "payload": {}, "timeout_ms": 500 });
    let answer = daemon.unix(bus("streamer.v1.collect", &ask)).await.expect(200);
    assert_eq!(answer["heads"], json!(["first"]));
    assert!(answer["end"].as_str().is_some_and(|end| end.contains("Timeout")), "{answer}");
    assert_eq!(ended_by(&daemon, "timeout").await, 1.0);

    // And a reader that dies takes it along, through everybody between them.
    let inner = json!({ "topic": "streamer.v1.spin", "payload": {} });
    let outer = json!({ "topic": "streamer.v1.relay", "payload": inner });
    let through = json!({ "topic": "streamer.v1.relay", "payload": outer, "take": 1 });
    let answer = daemon.unix(bus("streamer.v1.collect", &through)).await.expect(200);
    assert_eq!(answer["heads"], json!(["first"]));
    until_nothing_runs(&daemon).await;
    assert_eq!(ended_by(&daemon, "timeout").await, 1.0);
}

#[tokio::test]
async fn a_streaming_call_is_held_to_its_callers_quotas_of_memory_and_time() {
    let daemon = daemon();
    let ada = join(&daemon, "admin", "ada", 1).await;
    daemon.astrid(&["quota", "set", "ada", "max_memory_bytes=8MiB", "max_timeout_secs=1"]).out();
    let asked = async |topic: &str| {
        let ask = json!({ "topic": topic, "payload": {}, "timeout_ms": 900 });
        daemon.tcp(bus("streamer.v1.collect", &ask).bearer(&ada.bearer)).await
    };
    let ended = asked("streamer.v1.eat").await.expect(200);
    assert!(ended["end"].as_str().is_some_and(|end| end.contains("Trapped")), "{ended}");
    let used = daemon.unix(Request::get("/api/sys/principals/ada/usage")).await.expect(200);
    assert!(used["memory_bytes_peak_total"].as_u64().is_some_and(|peak| peak <= 8 << 20), "{used}");
    // A second for both: whoever reads may still say so itself.
    let ask = json!({ "topic": "streamer.v1.spin", "payload": {} });
    let answer = daemon.tcp(bus("streamer.v1.collect", &ask).bearer(&ada.bearer)).await;
    assert!([200, 502, 504].contains(&answer.status), "{answer:?}");
    assert!(ended_by(&daemon, "timeout").await >= 1.0);
    until_nothing_runs(&daemon).await;
}

#[tokio::test]
async fn whoever_streams_faster_than_its_principal_may_send_is_slowed_down_and_not_refused() {
    // An agent has few routes: what it asks there is intercepted, and streamed on its behalf meanwhile.
    let daemon = daemon_with(|manifest| {
        let topic = Pattern::parse("identity.v1.me").expect("a pattern");
        manifest.intercept.push(Intercept { topic, handler: "slowly".into(), priority: 100, fail: Fail::Closed });
    });
    let ada = join(&daemon, "agent", "ada", 1).await;
    daemon.astrid(&["quota", "set", "ada", "max_ipc_throughput_bytes=128KiB"]).out();
    let began = Instant::now();
    daemon.tcp(Request::get("/api/auth/me").bearer(&ada.bearer)).await.expect(200);
    // Half a mebibyte, of which a quarter is there at once.
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    let used = daemon.unix(Request::get("/api/sys/principals/ada/usage")).await.expect(200);
    assert!(used["ipc_bytes_sent_total"].as_u64() >= Some(512 << 10) && used["exempt"] == false, "{used}");
}

#[tokio::test]
async fn each_delivery_keeps_or_loses_what_it_says_and_every_loss_is_told_in_its_place() {
    let daemon = daemon();
    // Three of two kibibytes fit, with their topics.
    let lossy = reflect(&daemon, &["streamer.lossy.*"], &["streamer.lossy.a"; 10], 2000).await;
    assert_eq!(lossy["taken"], json!([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(numbers(&lossy["events"]), [0, 1, 2]);
    assert_eq!(lossy["events"][3], json!({ "gap": 7, "of": "default" }));

    let (a, b) = ("streamer.latest.a", "streamer.latest.b");
    let latest = reflect(&daemon, &["streamer.latest.*"], &[a, b, a, a, b], 2000).await;
    assert_eq!(latest["taken"], json!([1, 1, 1, 1, 1]));
    assert_eq!(numbers(&latest["events"]), [3, 4], "the newest of each topic");

    let lossless = reflect(&daemon, &["streamer.lossless.*"], &["streamer.lossless.a"; 3], 2000).await;
    assert_eq!(numbers(&lossless["events"]), [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossless_subscription_gets_every_message_of_a_flood_in_order_and_nobody_elses() {
    let daemon = daemon();
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let hear = json!({ "subscribe": ["streamer.lossless.*"], "events": 300 });
    let (mut connection, hear) = (daemon.connect().await, bus("streamer.v1.hear", &hear).bearer(&ada.bearer));
    let hearing = tokio::spawn(async move { connection.send(hear).await.expect("an answer").expect(200) });
    until_open(&daemon, 1.0).await;
    let flood = |person: &Person, messages: u32| {
        let body = json!({ "topic": "streamer.lossless.a", "messages": messages, "bytes": 1000 });
        bus("streamer.v1.flood", &body).bearer(&person.bearer)
    };
    assert_eq!(daemon.tcp(flood(&bob, 50)).await.expect(200), 0, "nobody reads bob's");
    assert_eq!(daemon.tcp(flood(&ada, 300)).await.expect(200), 300);
    let heard = hearing.await.expect("an answer");
    assert_eq!(numbers(&heard), (0..300).collect::<Vec<_>>());
    let hers = |event: &Value| event["of"] == "ada" && event["caller"] == "ada";
    assert!(heard.as_array().expect("a list").iter().all(hers), "{heard}");
    until_open(&daemon, 0.0).await;
}

#[tokio::test]
async fn subscriptions_are_bounded_in_number_topics_and_bytes_and_what_is_too_much_is_told() {
    let daemon = daemon();
    let hoarded = daemon.unix(bus("streamer.v1.hoard", &json!(0))).await.expect(200);
    assert_eq!(hoarded["open"], 4096);
    assert!(hoarded["failure"].as_str().is_some_and(|failure| failure.contains("Overloaded(1000)")), "{hoarded}");
    until_open(&daemon, 0.0).await;

    for (topics, why) in [
        (vec!["streamer.lossy.*"; 17], "1 to 16 topics"),
        (vec![], "1 to 16 topics"),
        (vec!["streamer.lossy.*", "streamer.lossy.*"], "named twice"),
        (vec!["streamer.lossy.*", "streamer.latest.*"], "another delivery"),
        (vec!["streamer.lossy.a"], "no [[subscribe]]"),
        (vec!["streamer.v1.count"], "no [[subscribe]]"),
    ] {
        let refused = reflect(&daemon, &topics, &[], 0).await;
        assert!(refused["failure"].as_str().is_some_and(|failure| failure.contains(why)), "{topics:?}: {refused}");
    }
    // 16 MiB of one principal, whatever the manifest says.
    let large = reflect(&daemon, &["streamer.large.*"], &["streamer.large.a"; 20], 1_000_000).await;
    assert_eq!(numbers(&large["events"]), (0..16).collect::<Vec<_>>());
    assert_eq!(large["events"][16], json!({ "gap": 4, "of": "default" }));
}

#[tokio::test]
async fn looking_for_messages_without_waiting_costs_its_own_call_and_nobody_elses() {
    let daemon = daemon_with(|manifest| manifest.limits.timeout_ms = 1000);
    install_guests(&daemon, &["echo"]);
    let (poll, say) = (bus("streamer.v1.poll", &json!({})), bus("echo.v1.say", &json!(1)));
    let (polling, _) = tokio::join!(daemon.unix(poll), async {
        until_open(&daemon, 1.0).await;
        daemon.unix(say).await.expect(200)
    });
    polling.refusal(504, "timeout");
    until_open(&daemon, 0.0).await;
    assert_well(&daemon).await;
}

#[tokio::test]
async fn publications_to_a_binding_without_order_are_handled_side_by_side() {
    let daemon = daemon();
    let publish = || Request::post("/api/bus/publish/streamer.v1.meet", &json!({}));
    assert_eq!(daemon.unix(publish()).await.expect(202)["delivered"], 1);
    assert_eq!(daemon.unix(publish()).await.expect(202)["delivered"], 1);
    until(&daemon, bus("streamer.v1.told", &json!("met")), |answer| answer.json() == true).await;
    until_nothing_runs(&daemon).await;
    assert_eq!(ended_by(&daemon, "timeout").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_binding_is_held_to_its_manifests_budget() {
    let daemon = daemon_with(|manifest| {
        manifest.limits.timeout_ms = 2000;
        manifest.subscribe.iter_mut().for_each(|binding| binding.queue_bytes = Some(4096));
    });
    let ada = join(&daemon, "admin", "ada", 1).await;
    daemon.astrid(&["quota", "set", "ada", "max_concurrent_calls=1"]).out();
    let spin = || bus("streamer.v1.spin", &json!("x".repeat(1500))).bearer(&ada.bearer);
    let mut sending = Vec::new();
    for _ in 0..4 {
        sending.push(daemon.connect().await);
    }
    let mut send = |request: Request| {
        let mut connection = sending.pop().expect("one for each request");
        tokio::spawn(async move { connection.send(request).await.expect("an answer") })
    };
    // One runs, so that the others wait: two have room.
    let running = send(bus("streamer.v1.spin", &json!({})).bearer(&ada.bearer));
    until(&daemon, Request::get("/healthz"), |answer| {
        answer.json()["pool"]["in_use"].as_u64() >= Some(2 + crate::RESIDENT)
    })
    .await;
    let waiting = [send(spin()), send(spin()), send(spin())];
    for answer in waiting {
        let answer = answer.await.expect("an answer");
        // Who has room waits until its time is over.
        assert!([503, 504].contains(&answer.status), "{answer:?}");
        if answer.status == 503 {
            answer.refusal(503, "overloaded");
            assert!(answer.json()["retry_after_secs"].as_u64() >= Some(1), "{answer:?}");
        }
    }
    let refused = sum(&metrics(&daemon).await, "astrid_bus_events_total", &[("kind", "refused")]);
    assert_eq!(refused, 1.0, "for want of room in the queue");
    running.await.expect("an answer").refusal(504, "timeout");

    // Publications likewise: two wait, and one may be with its handler already.
    let publish = || Request::post("/api/bus/publish/streamer.v1.spin", &json!("x".repeat(1500))).bearer(&ada.bearer);
    let mut taken = 0;
    while daemon.tcp(publish()).await.expect(202)["delivered"] == 1 {
        taken += 1;
    }
    assert!((2..=3).contains(&taken), "{taken}");
}
