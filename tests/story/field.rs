//! Faults that hosts of plugins had in the field, each provoked here. The specification's table of them names the other
//! stories that hold one.

use std::time::Instant;

use astrid_capsule::Pattern;
use astrid_tests::DEADLINE;
use astrid_tests::daemon::Daemon;
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::observation::{metrics, sum};
use crate::{assert_well, bus, install, install_guests, join};

/// The next version of a guest, with more changes.
#[track_caller]
fn next_version(
    daemon: &Daemon,
    name: &str,
    change: impl FnOnce(&mut astrid_capsule::manifest::Manifest),
) -> std::path::PathBuf {
    pack::repacked(daemon.home().beside(), &format!("{name}-next"), name, |manifest| {
        manifest.package.version = "0.2.0".parse().expect("a version");
        change(manifest);
    })
}

#[tokio::test]
async fn a_start_that_never_ends_is_ended_at_its_time_and_its_version_refused() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["stillborn", "echo"]);
    daemon.unix(bus("stillborn.v1.linger", &json!({}))).await.expect(200);
    let next = next_version(&daemon, "stillborn", |manifest| {
        manifest.limits.timeout_ms = 500;
        // Time is to end it.
        manifest.limits.max_fuel = i64::MAX as u64;
    });
    let refused = daemon.astrid(&["capsule", "install", next.to_str().expect("a text")]);
    assert!(refused.refusal(1).contains("start failed: timeout"), "{refused:?}");
    assert_eq!(daemon.unix(bus("stillborn.v1.say", &json!("here"))).await.expect(200), "here");
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_guest_of_wasi_0_3_is_ended_and_denied_as_any_other() {
    let daemon = Daemon::start();
    let looping = pack::repacked(daemon.home().beside(), "looping", "preview3", |manifest| {
        manifest.limits.timeout_ms = 500;
        manifest.limits.max_fuel = i64::MAX as u64;
    });
    install(&daemon, &looping);
    for topic in ["preview3.v1.compute", "preview3.v1.draws"] {
        daemon.unix(bus(topic, &json!({}))).await.refusal(504, "timeout");
    }
    // The owner may; the manifest in between says nothing of it.
    let reason = daemon.unix(bus("preview3.v1.reach", &json!({}))).await.refusal(403, "forbidden");
    assert!(reason.contains("system.v1.status"), "{reason}");
    assert!(daemon.unix(bus("preview3.v1.draw", &json!({}))).await.expect(200).is_u64());
    assert_well(&daemon).await;
}

#[tokio::test]
async fn the_largest_limits_that_a_manifest_may_name_end_no_call_early() {
    let daemon = Daemon::start();
    let large = pack::repacked(daemon.home().beside(), "large", "echo", |manifest| {
        manifest.limits.timeout_ms = 86_400_000;
        manifest.limits.max_fuel = i64::MAX as u64;
        manifest.limits.max_memory_bytes = 4 << 30;
    });
    install(&daemon, &large);
    for n in 0..3 {
        assert_eq!(daemon.unix(bus("echo.v1.say", &json!(n))).await.expect(200), json!(n));
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn one_component_under_two_names_shares_nothing_but_its_code() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["counter"]);
    let twin = pack::repacked(daemon.home().beside(), "twin", "counter", |manifest| {
        manifest.package.name = "twin".into();
        for binding in &mut manifest.subscribe {
            binding.topic = Pattern::parse(&binding.topic.as_str().replace("counter.", "twin.")).expect("a pattern");
        }
    });
    let hash = install(&daemon, &twin)["wasm_hash"].clone();
    let listed = daemon.unix(Request::get("/api/capsules")).await.expect(200);
    let same = listed["capsules"].as_array().expect("a list").iter().filter(|row| row["hash"] == hash).count();
    assert_eq!(same, 2, "{listed}");
    for own in [false, true] {
        let key = json!({ "key": "k", "own": own });
        let put = json!({ "key": "k", "value": "counter's", "own": own });
        daemon.unix(bus("counter.v1.put", &put)).await.expect(200);
        daemon.unix(bus("twin.v1.get", &key)).await.refusal(404, "not_found");
        daemon.unix(bus("twin.v1.put", &json!({ "key": "k", "value": "twin's", "own": own }))).await.expect(200);
        assert_eq!(daemon.unix(bus("counter.v1.get", &key)).await.expect(200)["value"], "counter's");
        assert_eq!(daemon.unix(bus("twin.v1.get", &key)).await.expect(200)["value"], "twin's");
    }
    for topic in ["counter.v1.calls", "twin.v1.calls"] {
        assert_eq!(daemon.unix(bus(topic, &json!({}))).await.expect(200)["count"], 1, "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_ask_one_capsule_at_once_each_stays_who_it_is() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["caller"]);
    let ask = bus("caller.v1.request", &json!({ "topic": "identity.v1.me", "payload": {} }));
    let mut tasks = JoinSet::new();
    for (number, name) in [(1, "ada"), (2, "bob"), (3, "eve")] {
        let person = join(&daemon, "admin", name, number).await;
        for _ in 0..4 {
            let (person, mut connection, ask) = (person.clone(), daemon.connect().await, ask.clone());
            tasks.spawn(async move {
                for _ in 0..15 {
                    let me = connection.send(ask.clone().bearer(&person.bearer)).await.expect("an answer").expect(200);
                    assert_eq!(me["answer"]["principal"], person.principal);
                }
            });
        }
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_reaches_whoever_asked_and_nobody_who_listens_or_publishes_comes_between() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo"]);
    let spy = pack::repacked(daemon.home().beside(), "spy", "echo", |manifest| {
        manifest.package.name = "spy".into();
        manifest.subscribe[0].topic = Pattern::parse("echo.*").expect("a pattern");
    });
    install(&daemon, &spy);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let ask = async |rounds: usize| {
        let mut tasks = JoinSet::new();
        for person in [&ada, &bob] {
            let (person, mut connection) = (person.clone(), daemon.connect().await);
            tasks.spawn(async move {
                for n in 0..rounds {
                    let own = json!([person.principal, n]);
                    let asked = bus("echo.v1.say", &own).bearer(&person.bearer);
                    assert_eq!(connection.send(asked).await.expect("an answer").expect(200), own);
                }
            });
        }
        tasks.join_all().await;
    };
    ask(10).await;
    let samples = metrics(&daemon).await;
    let calls = |capsule| sum(&samples, "astrid_invocation_seconds_count", &[("capsule", capsule)]);
    assert_eq!((calls("echo"), calls("spy")), (20.0, 0.0));

    // Somebody publishes to the very topic meanwhile, to every listener.
    let mut connection = daemon.connect_unix().await;
    let forged = Request::post("/api/bus/publish/echo.v1.say", &json!("forged"));
    let publisher = tokio::spawn(async move {
        for _ in 0..20 {
            let published = connection.send(forged.clone()).await.expect("an answer").expect(202);
            assert_eq!(published, json!({ "delivered": 2 }));
        }
    });
    ask(20).await;
    publisher.await.expect("each was delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_finds_no_room_is_told_so_before_those_who_have_it_are_done() {
    // Five of the twenty are for calls from outside, and one more may wait.
    let daemon = Daemon::start_with(&["--runtime-instances", "20", "--runtime-max-waiting", "1"]);
    install_guests(&daemon, &["spin"]);
    let mut crowd = JoinSet::new();
    for _ in 0..16 {
        let mut connection = daemon.connect_unix().await;
        let request = bus("spin.v1.compute", &json!({}));
        crowd.spawn(async move { connection.send(request).await.expect("an answer") });
    }
    let mut answers = Vec::new();
    while let Some(answer) = crowd.join_next().await {
        answers.push(answer.expect("no panic"));
    }
    let first = &answers[0];
    first.refusal(503, "overloaded");
    assert_eq!((first.header("retry-after"), &first.json()["retry_after_secs"]), (Some("1"), &json!(1)));
    assert!(answers.iter().all(|answer| [503, 504].contains(&answer.status)), "{answers:?}");
    assert_eq!(answers.last().map(|answer| answer.status), Some(504));
    assert_well(&daemon).await;
}

#[tokio::test]
async fn publications_arrive_however_often_their_handler_has_died_and_after_it_was_replaced() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["trap"]);
    let publish = Request::post("/api/bus/publish/trap.v1.panic", &json!({}));
    let mut sent = 0.0;
    for replaced in [false, true] {
        if replaced {
            install(&daemon, &next_version(&daemon, "trap", |_| {}));
        }
        for _ in 0..10 {
            assert_eq!(daemon.unix(publish.clone()).await.expect(202), json!({ "delivered": 1 }));
            sent += 1.0;
        }
        let died = async || {
            sum(&metrics(&daemon).await, "astrid_invocations_total", &[("capsule", "trap"), ("outcome", "trapped")])
        };
        let started = Instant::now();
        while died().await < sent {
            assert!(started.elapsed() < DEADLINE, "{} of {sent}", died().await);
        }
        assert_eq!(died().await, sent);
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn whether_one_may_send_and_whether_it_arrives_are_decided_by_one_reading_of_a_pattern() {
    let daemon = Daemon::start();
    let folder = daemon.home().beside();
    let mut arrived = Vec::new();
    for (n, rest) in ["*", "*.z", "y", "y.*", "*.y.*"].into_iter().enumerate() {
        let pattern = Pattern::parse(&format!("p{n}.{rest}")).expect("a pattern");
        let listener = pack::repacked(folder, &format!("l{n}"), "echo", |manifest| {
            manifest.package.name = format!("l{n}");
            manifest.subscribe[0].topic = pattern.clone();
        });
        let sender = pack::repacked(folder, &format!("s{n}"), "caller", |manifest| {
            manifest.package.name = format!("s{n}");
            manifest.publish.truncate(1);
            manifest.publish[0].topic = pattern.clone();
            manifest.subscribe.truncate(1);
            manifest.subscribe[0].topic = Pattern::parse(&format!("s{n}.v1.request")).expect("a pattern");
        });
        install(&daemon, &listener);
        install(&daemon, &sender);
        for rest in ["", ".y", ".z", ".y.z", ".x.z", ".x.y", ".x.y.z", ".x.x.z", ".y.y.y.y"] {
            let topic = format!("p{n}{rest}");
            let direct = daemon.unix(bus(&topic, &json!(1))).await;
            let through = bus(&format!("s{n}.v1.request"), &json!({ "topic": topic, "payload": 1 }));
            let outcome = daemon.unix(through).await.expect(200);
            if direct.status == 200 {
                assert_eq!(outcome, json!({ "answer": 1 }), "{pattern} {topic}");
                arrived.push(topic);
            } else {
                direct.refusal(404, "not_found");
                assert_eq!(outcome["failure"]["name"], "denied", "{pattern} {topic}: {outcome}");
            }
        }
    }
    let all = |n: usize, rest: &[&str]| rest.iter().map(|rest| format!("p{n}.{rest}")).collect::<Vec<_>>();
    let expected = [
        all(0, &["y", "z", "y.z", "x.z", "x.y", "x.y.z", "x.x.z", "y.y.y.y"]),
        all(1, &["y.z", "x.z"]),
        all(2, &["y"]),
        all(3, &["y.z", "y.y.y.y"]),
        all(4, &["x.y.z", "y.y.y.y"]),
    ];
    assert_eq!(arrived, expected.concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_a_capsule_dies_the_calls_beside_and_after_are_answered_and_no_instance_stays() {
    let daemon = Daemon::start_with(&["--set", "runtime.max-memory-bytes=16777216"]);
    install_guests(&daemon, &["bomb"]);
    let mut calls = JoinSet::new();
    for n in 0..40 {
        let mut connection = daemon.connect_unix().await;
        calls.spawn(async move {
            let dies = n % 2 == 0;
            let topic = if dies { "bomb.v1.recurse" } else { "bomb.v1.thousand" };
            let answer = connection.send(bus(topic, &json!({}))).await.expect("an answer");
            if dies {
                answer.refusal(502, "unavailable");
            } else {
                assert_eq!(answer.expect(200), 2000);
            }
        });
    }
    calls.join_all().await;
    assert_eq!(daemon.unix(bus("bomb.v1.thousand", &json!({}))).await.expect(200), 2000);
    let in_use = async || daemon.tcp(Request::get("/healthz")).await.expect(200)["pool"]["in_use"].clone();
    let started = Instant::now();
    while in_use().await != crate::RESIDENT {
        assert!(started.elapsed() < DEADLINE, "{}", in_use().await);
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn an_installation_starts_its_capsule_once_and_nobody_elses() {
    let daemon = Daemon::start();
    let starts = async || sum(&metrics(&daemon).await, "astrid_invocation_seconds_count", &[("capsule", "stillborn")]);
    install_guests(&daemon, &["stillborn"]);
    assert_eq!(starts().await, 1.0);
    install_guests(&daemon, &["echo", "counter"]);
    install(&daemon, &next_version(&daemon, "echo", |_| {}));
    assert_eq!(starts().await, 1.0);
    install(&daemon, &next_version(&daemon, "stillborn", |_| {}));
    assert_eq!(starts().await, 2.0);
}

#[tokio::test]
async fn every_capsule_that_the_workspace_has_loads_on_the_host_that_it_is_built_with() {
    let daemon = Daemon::start();
    let guests = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/guests")).expect("a folder");
    // `verse` stands in for it.
    daemon.astrid(&["capsule", "remove", "audit"]).out();
    let mut installed = ["gateway", "identity", "system"].map(str::to_owned).to_vec();
    for guest in guests {
        let name = guest.expect("an entry").file_name().into_string().expect("a text");
        // It stands in for `identity`, without which nobody could ask; [`crate::identities`] has it in its place.
        if name == "api-key" {
            continue;
        }
        install_guests(&daemon, &[&name]);
        installed.push(name);
    }
    installed.sort();
    let listed = daemon.unix(Request::get("/api/capsules")).await.expect(200);
    let rows: Vec<(&Value, &Value)> =
        listed["capsules"].as_array().expect("a list").iter().map(|row| (&row["id"], &row["state"])).collect();
    assert!(rows.iter().all(|(_, state)| *state == "live"), "{listed}");
    assert_eq!(rows.iter().map(|(id, _)| id.as_str().expect("a text")).collect::<Vec<_>>(), installed);
}
