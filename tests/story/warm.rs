//! Instances that serve a principal for more than one call: who meets one again, what is never met again, and that
//! those that wait are in nobody's way. Told with a guest that keeps whatever it can.

use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::observation::{metrics, sum};
use crate::{Person, bus, install, install_guests, join, until};

/// What the hoarder answers.
async fn hoarder(daemon: &Daemon, person: &Person, handler: &str, payload: Value) -> Value {
    daemon.tcp(request(person, handler, &payload)).await.expect(200)
}

fn request(person: &Person, handler: &str, payload: &Value) -> Request {
    bus(&format!("hoarder.v1.{handler}"), payload).bearer(&person.bearer)
}

/// That the hoarder dies of it, and what the log says.
async fn dies(daemon: &Daemon, person: &Person, handler: &str, payload: Value) -> String {
    daemon.tcp(request(person, handler, &payload)).await.refusal(502, "unavailable");
    let lines = daemon.unix(Request::get("/api/sys/logs?capsule=hoarder&level=error")).await.expect(200);
    lines["lines"].as_array().and_then(|lines| lines.last()).expect("a line")["message"].as_str().unwrap().to_owned()
}

async fn count(daemon: &Daemon, person: &Person) -> Value {
    hoarder(daemon, person, "count", json!({})).await
}

async fn dropped(daemon: &Daemon, why: &str) -> f64 {
    sum(&metrics(daemon).await, "astrid_warm_dropped_total", &[("why", why)])
}

/// As the hoarder wants to be told of a secret: not as it is.
fn masked(secret: &str) -> Value {
    String::from_utf8(secret.bytes().map(|byte| byte ^ 0x5a).collect()).expect("ASCII").into()
}

#[tokio::test]
async fn a_principal_meets_its_instance_again_until_something_speaks_against_it_and_nobody_else_ever_does() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["hoarder"]);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    for n in 1..=3 {
        assert_eq!(count(&daemon, &ada).await, n);
    }
    // The interceptor, then the handler.
    assert_eq!(hoarder(&daemon, &ada, "watched", json!({})).await, 5);
    assert_eq!(count(&daemon, &bob).await, 1);
    assert_eq!(count(&daemon, &bob).await, 2);

    assert!(dies(&daemon, &ada, "panic", json!({})).await.contains("trap"));
    assert_eq!(count(&daemon, &ada).await, 1, "after a trap");
    assert_eq!(hoarder(&daemon, &ada, "exceed", json!({})).await, true);
    assert_eq!(count(&daemon, &ada).await, 1, "after it wanted too much");
    assert_eq!(dropped(&daemon, "failed").await, 2.0);
    hoarder(&daemon, &ada, "fill", json!(17)).await;
    assert_eq!(count(&daemon, &ada).await, 1, "after it had much");
    assert_eq!(dropped(&daemon, "large").await, 1.0);

    daemon.astrid(&["quota", "set", "ada", "max_timeout_secs=20"]).out();
    assert_eq!(count(&daemon, &ada).await, 1, "after its standing has changed");
    let held = Request::get("/metrics");
    let left = |text: &str| text.lines().any(|line| line == "astrid_warm_dropped_total{why=\"standing\"} 1");
    until(&daemon, held, |answer| left(&String::from_utf8_lossy(&answer.body))).await;

    assert_eq!(count(&daemon, &bob).await, 3, "whatever happens to others");
    install_guests(&daemon, &["hoarder"]);
    assert_eq!(dropped(&daemon, "retired").await, 2.0);
    assert_eq!(count(&daemon, &bob).await, 1, "another generation");
    assert_eq!(count(&daemon, &ada).await, 1, "another generation");
}

#[tokio::test]
async fn a_secret_that_one_principal_left_in_memory_is_nowhere_in_anothers_instance_or_in_a_later_one() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["hoarder"]);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let secret = masked("the-canary-of-ada-sings-alone");
    let found = async |person: &Person| hoarder(&daemon, person, "find", secret.clone()).await;
    hoarder(&daemon, &bob, "hold", masked("something-of-bob")).await;
    hoarder(&daemon, &ada, "hold", secret.clone()).await;
    assert_eq!(found(&ada).await, 1, "it finds what is there");
    assert_eq!(found(&bob).await, 0);
    // The memory that ada's instance had goes back to the pool, and somebody else gets it.
    dies(&daemon, &ada, "panic", json!({})).await;
    let cyd = join(&daemon, "admin", "cyd", 3).await;
    for person in [&cyd, &bob, &ada] {
        assert_eq!(found(person).await, 0, "{}", person.principal);
    }
}

#[tokio::test]
async fn what_carried_a_calls_right_ends_with_it_whatever_handle_the_guest_has_kept() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["hoarder"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    hoarder(&daemon, &ada, "stash", json!({})).await;
    let why = dies(&daemon, &ada, "spend", json!({})).await;
    assert!(why.contains("of an earlier call"), "{why}");
    assert_eq!(hoarder(&daemon, &ada, "spend", json!({})).await, "nothing", "another instance");

    // Giving one up is no use of it, and takes nothing from the new one; buckets stay.
    hoarder(&daemon, &ada, "stash", json!({})).await;
    assert_eq!(hoarder(&daemon, &ada, "take", json!({})).await, "new");

    hoarder(&daemon, &ada, "authenticate", json!(ada.bearer)).await;
    let why = dies(&daemon, &ada, "speak", json!({})).await;
    assert!(why.contains("of an earlier call"), "{why}");

    hoarder(&daemon, &ada, "keep", json!(600)).await;
    let why = dies(&daemon, &ada, "keep", json!(600)).await;
    assert!(why.contains("1024 resource handles"), "{why}");
    hoarder(&daemon, &ada, "keep", json!(600)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_calls_of_a_principal_at_once_are_never_in_one_instance() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["hoarder"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let (mut connection, request) = (daemon.connect().await, request(&ada, "meet", &json!({})));
        calls.spawn(async move {
            for _ in 0..10 {
                let alone = connection.send(request.clone()).await.expect("an answer").expect(200);
                assert_eq!(alone, true);
            }
        });
    }
    calls.join_all().await;
    let samples = metrics(&daemon).await;
    let of = |outcome| sum(&samples, "astrid_warm_calls_total", &[("outcome", outcome)]);
    assert_eq!(of("hit") + of("miss"), 60.0);
    assert!(of("hit") >= 1.0, "none was met again");
    assert!(sum(&samples, "astrid_warm_instances", &[]) <= 2.0, "two for each principal and capsule");
}

#[tokio::test]
async fn instances_that_wait_give_their_slots_to_calls_that_need_them() {
    let daemon = Daemon::start_with(&["--runtime-instances", "16"]);
    install_guests(&daemon, &["hoarder", "caller", "spin"]);
    for (number, name) in (1..).zip(["ada", "bob", "cyd", "dot", "eve", "fay", "gus", "hal", "ivy"]) {
        let person = join(&daemon, "admin", name, number).await;
        assert_eq!(count(&daemon, &person).await, 1);
    }
    assert_eq!(sum(&metrics(&daemon).await, "astrid_warm_instances", &[]), 8.0, "half of the pool");
    // Four chains of three instances each: five more than there are beside those that wait and a run loop.
    let chain = json!({ "topic": "spin.v1.compute", "payload": {}, "timeout_ms": 2000 });
    let mut chains = JoinSet::new();
    for _ in 0..4 {
        let (mut connection, request) = (daemon.connect_unix().await, bus("caller.v1.request", &chain));
        chains.spawn(async move { connection.send(request).await.expect("an answer").expect(200) });
    }
    for outcome in chains.join_all().await {
        assert_eq!(outcome["failure"]["name"], "timeout", "it ran, and was not turned away: {outcome}");
    }
    assert_eq!((dropped(&daemon, "full").await, dropped(&daemon, "room").await), (1.0, 5.0));
    assert_eq!(sum(&metrics(&daemon).await, "astrid_warm_instances", &[]), 3.0);
}

#[tokio::test]
async fn an_operator_can_forbid_it_and_a_guest_of_wasi_0_3_can_not_ask_for_it() {
    let daemon = Daemon::start_with(&["--runtime-isolation", "call"]);
    install_guests(&daemon, &["hoarder"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    for _ in 0..2 {
        assert_eq!(count(&daemon, &ada).await, 1);
    }
    assert_eq!(sum(&metrics(&daemon).await, "astrid_warm_instances", &[]), 0.0);
    let shown = daemon.astrid(&["config", "show", "--json"]).json();
    let setting = shown["settings"].as_array().unwrap().iter().find(|s| s["key"] == "runtime.isolation").unwrap();
    assert_eq!((&setting["value"], &setting["source"]), (&json!("call"), &json!("flag")));

    let warm = pack::repacked(daemon.home().beside(), "warm", "preview3", |manifest| {
        manifest.component.isolation = astrid_capsule::manifest::Isolation::Principal;
    });
    let reason = daemon.astrid(&["capsule", "install", warm.to_str().unwrap()]).refusal(1).to_owned();
    assert!(reason.contains("component.isolation"), "{reason}");
    install(&daemon, &pack::packed("preview3"));

    let ended = Home::new().try_start(&["--runtime-isolation", "none"]).err().expect("it is refused");
    assert!(ended.stderr.contains("`none`") && ended.stderr.contains("`manifest`"), "{ended:?}");
}
