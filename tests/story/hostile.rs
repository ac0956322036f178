//! Capsules that die, loop or eat, and everybody else, who must not notice.

use std::time::{Duration, Instant};

use astrid_tests::DEADLINE;
use astrid_tests::daemon::Daemon;
use astrid_tests::http::{Request, Response};
use astrid_tests::pack;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{Load, assert_well, bus, install, install_guests, join};

const GUESTS: [&str; 5] = ["trap", "spin", "bomb", "caller", "echo"];

/// Every way to misbehave: the topic, the status at the surface and the failure as another capsule sees it.
const TRICKS: [(&str, u16, &str, &str); 9] = [
    ("trap.v1.panic", 502, "unavailable", "trapped"),
    ("trap.v1.abort", 502, "unavailable", "trapped"),
    ("trap.v1.exit", 502, "unavailable", "trapped"),
    ("spin.v1.compute", 504, "timeout", "timeout"),
    ("spin.v1.call", 504, "timeout", "timeout"),
    ("spin.v1.random", 504, "timeout", "timeout"),
    ("spin.v1.shout", 504, "timeout", "timeout"),
    ("bomb.v1.allocate", 502, "unavailable", "trapped"),
    ("bomb.v1.recurse", 502, "unavailable", "trapped"),
];

/// A daemon with the guests. Instances get 16 MiB, so that fifty bombs fit into a small machine.
fn daemon() -> Daemon {
    let daemon = Daemon::start_with(&["--set", "runtime.max-memory-bytes=16777216"]);
    install_guests(&daemon, &GUESTS);
    daemon
}

/// Waits until no instance is alive, in the host's own count.
async fn assert_nothing_is_left(daemon: &Daemon) {
    let started = Instant::now();
    loop {
        let health = daemon.tcp(Request::get("/healthz")).await.expect(200);
        if health["pool"]["in_use"] == 0 {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{health}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_way_to_misbehave_is_a_clear_failure_to_the_caller_and_a_line_in_the_log() {
    let daemon = daemon();
    for (topic, status, error, name) in TRICKS {
        let through = bus("caller.v1.request", &json!({ "topic": topic, "payload": {} }));
        let (direct, through) = tokio::join!(daemon.unix(bus(topic, &json!({}))), daemon.unix(through));
        assert!(!direct.refusal(status, error).is_empty(), "{topic}");
        let outcome = through.expect(200);
        assert_eq!(outcome["failure"]["name"], name, "{topic}: {outcome}");
    }
    let lines = daemon.unix(Request::get("/api/sys/logs?level=warn")).await.expect(200);
    let said = |capsule: &str, what: &str| {
        let lines = lines["lines"].as_array().unwrap().iter();
        let mut said = lines.filter(|line| line["capsule"] == capsule).map(|line| line["message"].as_str().unwrap());
        assert!(said.any(|message| message.contains(what)), "{capsule}: {what}");
    };
    said("trap", "trap: ");
    said("spin", "deadline");
    said("bomb", "bytes of memory");
    said("bomb", "stack");

    // Their capsules live on, and so does the rest.
    assert_eq!(daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200), json!(1));
    assert_nothing_is_left(&daemon).await;
    assert_well(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_that_misbehave_at_once_cost_nobody_else_an_answer_and_health_is_told_within_a_second() {
    let daemon = daemon();
    let mallory = join(&daemon, "admin", "mallory", 1).await;
    let ada = join(&daemon, "admin", "ada", 2).await;
    let connections = vec![daemon.connect().await, daemon.connect().await];
    let load = Load::start(connections, &bus("echo.v1.say", &json!("x")).bearer(&ada.bearer)).await;

    let mut attack = JoinSet::new();
    for n in 0..50 {
        let (topic, status, error, _) = TRICKS[n % TRICKS.len()];
        let mut connection = daemon.connect().await;
        let request = bus(topic, &json!({})).bearer(&mallory.bearer);
        attack.spawn(async move {
            connection.send(request).await.expect("an answer").refusal(status, error);
        });
    }
    let mut health = daemon.connect().await;
    let mut times = Vec::new();
    while !attack.is_empty() {
        let asked = Instant::now();
        health.send(Request::get("/healthz")).await.expect("an answer").expect(200);
        times.push(asked.elapsed());
        while let Some(done) = attack.try_join_next() {
            done.expect("the failure that was promised");
        }
    }
    times.sort_unstable();
    // The median: a machine that is busy with other tests may hold up a single one.
    let median = times[times.len() / 2];
    assert!(median < Duration::from_secs(1), "{median:?} of {}", times.len());
    let answered = load.end().await;
    assert!(answered > 2, "those who came before were the last: {answered}");
    assert_nothing_is_left(&daemon).await;
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_front_end_that_misbehaves_is_a_502_or_504_and_its_other_paths_go_on() {
    let daemon = Daemon::start();
    install(&daemon, &pack::packed("front"));
    for (path, status, error) in [
        ("/front/trap", 502, "unavailable"),
        ("/front/spin", 504, "timeout"),
        ("/front/status", 502, "unavailable"),
        ("/front/header", 502, "unavailable"),
    ] {
        for response in [daemon.tcp(Request::get(path)).await, daemon.unix(Request::get(path)).await] {
            assert!(!response.refusal(status, error).is_empty(), "{path}");
            assert!(!response.headers.contains_key("set-cookie"), "{response:?}");
            assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        }
    }
    let big: Response = daemon.tcp(Request::get("/front/big")).await;
    assert_eq!((big.status, big.body.len()), (200, 8 << 20));
    assert!(big.body.iter().all(|byte| *byte == b'x'));

    // On a connection that is kept, a failure is an answer like any other.
    let mut kept = daemon.connect().await;
    for path in ["/front/trap", "/front/echo", "/front/status", "/front/echo", "/healthz"] {
        let response = kept.send(Request::get(path)).await.unwrap();
        let _: Value = response.json();
        assert_eq!(response.status == 200, !path.contains("trap") && !path.contains("status"), "{path}");
    }
    assert_eq!(daemon.tcp(Request::get("/front/nothing")).await.status, 404);
    assert_well(&daemon).await;
}
