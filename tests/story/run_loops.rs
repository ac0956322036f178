//! Capsules that work without being asked: supervised, replaced without a loss, and paid for by whose messages they are.

use std::path::PathBuf;
use std::time::Instant;

use astrid_tests::DEADLINE;
use astrid_tests::daemon::Daemon;
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};

use crate::observation::{metrics, sum};
use crate::{Person, assert_well, bus, install, install_guests, join, until};

/// The pump in another mode, as version 0.1.`patch`.
fn pump(daemon: &Daemon, patch: u64, mode: &str) -> PathBuf {
    let archive = pack::read("pump");
    let mut manifest = archive.manifest;
    manifest.package.version.patch = patch;
    let component = pack::patched(&archive.component, "mode=serve", mode);
    pack::write(daemon.home().beside(), &format!("pump-{patch}"), &manifest, &component)
}

/// Publishes one message to the pump.
async fn work(daemon: &Daemon, who: Option<&Person>, number: u64, act: &str) {
    let request = bus("pump.v1.send", &json!({ "number": number, "act": act }));
    let answer = match who {
        Some(person) => daemon.tcp(request.bearer(&person.bearer)).await,
        None => daemon.unix(request).await,
    };
    assert_eq!(answer.expect(200), json!(1));
}

fn total() -> Request {
    bus("pump.v1.total", &json!({}))
}

/// Waits until the owner's last number is this one; what was worked on for them by then.
async fn until_last(daemon: &Daemon, number: u64) -> Value {
    let fits = |body: &Value| body["numbers"].as_array().and_then(|n| n.last()) == Some(&json!(number));
    until(daemon, total(), |answer| answer.status == 200 && fits(&answer.json())).await.expect(200)
}

async fn state(daemon: &Daemon, id: &str) -> String {
    let list = daemon.unix(Request::get("/api/capsules")).await.expect(200);
    let row = list["capsules"].as_array().unwrap().iter().find(|row| row["id"] == id).cloned();
    row.map_or_else(String::new, |row| row["state"].as_str().unwrap().to_owned())
}

async fn until_state(daemon: &Daemon, wanted: &str) {
    let started = Instant::now();
    while state(daemon, "pump").await != wanted {
        assert!(started.elapsed() < DEADLINE, "it never was {wanted}: {}", daemon.stderr());
        tokio::task::yield_now().await;
    }
}

/// Instances beside those that are always there.
async fn in_use(daemon: &Daemon) -> f64 {
    sum(&metrics(daemon).await, "astrid_pool_in_use", &[]) - crate::RESIDENT as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_lost_or_doubled_while_a_run_loop_is_replaced_and_no_other_installation_restarts_it() {
    let daemon = Daemon::start();
    let archive = pack::packed("pump");
    let refusal = daemon.astrid(&["capsule", "install", archive.to_str().unwrap()]).refusal(1).to_owned();
    assert!(refusal.contains("component:run"), "{refusal}");
    install(&daemon, &archive);
    assert_eq!(state(&daemon, "pump").await, "live");

    install_guests(&daemon, &["echo", "counter", "echo"]);
    for number in 0..10 {
        work(&daemon, None, number, "").await;
    }
    let all = until_last(&daemon, 9).await;
    assert_eq!((&all["numbers"], &all["served"]), (&json!((0..10).collect::<Vec<_>>()), &json!(10)));

    for patch in 1..4 {
        let next = pack::repacked(daemon.home().beside(), "next", "pump", |m| m.package.version.patch = patch);
        let swap = tokio::task::block_in_place(|| {
            let home = daemon.home().clone();
            std::thread::spawn(move || {
                let next = next.to_str().unwrap();
                home.astrid(&["capsule", "install", next, "--grant", "component:run"]).out().to_owned()
            })
        });
        for number in patch * 100..patch * 100 + 60 {
            work(&daemon, None, number, "").await;
        }
        tokio::task::block_in_place(|| swap.join().unwrap());
    }
    work(&daemon, None, 1000, "").await;
    let count = |body: &Value| body["numbers"].as_array().map_or(0, Vec::len);
    // The loop of the version before reads what waits there while the next one reads what is new.
    let all = until(&daemon, total(), |answer| answer.status == 200 && count(&answer.json()) >= 191).await.json();
    let mut numbers: Vec<u64> = all["numbers"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    numbers.sort_unstable();
    let expected: Vec<u64> = (0..10).chain(100..160).chain(200..260).chain(300..360).chain([1000]).collect();
    assert_eq!(numbers, expected);
    assert_eq!(sum(&metrics(&daemon).await, "astrid_run_loop_restarts_total", &[]), 0.0);
    // The loops of the versions before are gone.
    let started = Instant::now();
    while in_use(&daemon).await > 1.0 {
        assert!(started.elapsed() < DEADLINE, "an instance is left");
    }
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0));
    assert!(!ended.stderr.contains("were left"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_message_that_kills_a_run_loop_is_not_delivered_again_and_those_behind_it_are() {
    let daemon = Daemon::start();
    install(&daemon, &pack::packed("pump"));
    work(&daemon, None, 1, "").await;
    work(&daemon, None, 2, "trap").await;
    work(&daemon, None, 3, "").await;
    work(&daemon, None, 4, "").await;
    let all = until_last(&daemon, 4).await;
    assert_eq!((&all["numbers"], &all["served"]), (&json!([1, 3, 4]), &json!(2)));
    assert_eq!(state(&daemon, "pump").await, "live");
    assert_eq!(sum(&metrics(&daemon).await, "astrid_run_loop_restarts_total", &[]), 1.0);
    // Another one, and a version is installed while the loop waits to be started again: what waits is worked on.
    work(&daemon, None, 5, "return").await;
    until_state(&daemon, "restarting").await;
    assert_eq!(in_use(&daemon).await, 0.0);
    work(&daemon, None, 6, "").await;
    install(&daemon, &pump(&daemon, 1, "mode=serve"));
    assert_eq!(until_last(&daemon, 6).await["numbers"], json!([1, 3, 4, 6]));
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_loop_that_traps_or_never_gets_ready_or_spins_is_refused_and_the_one_before_goes_on() {
    let daemon = Daemon::start();
    install(&daemon, &pack::packed("pump"));
    for (patch, mode) in [(1, "mode=traps"), (2, "mode=never"), (3, "mode=spins")] {
        let next = pump(&daemon, patch, mode);
        let arguments = ["capsule", "install", next.to_str().unwrap(), "--grant", "component:run"];
        let why = daemon.astrid(&arguments).refusal(1).to_owned();
        assert!(why.contains("did not get ready"), "{mode}: {why}");
        work(&daemon, None, patch, "").await;
        assert_eq!(until_last(&daemon, patch).await["served"], patch, "{mode}");
        assert_eq!(in_use(&daemon).await, 1.0, "{mode}");
    }
}

#[tokio::test]
async fn what_a_loop_uses_for_a_message_is_counted_for_whoever_sent_it() {
    let daemon = Daemon::start();
    install(&daemon, &pack::packed("pump"));
    let ada = join(&daemon, "admin", "ada", 1).await;
    let usage = || Request::get("/api/sys/principals/ada/usage");
    let fuel = |used: Value| used["cpu_fuel_consumed_total"].as_u64().expect("a number");
    work(&daemon, Some(&ada), 1, "").await;
    let before = fuel(daemon.unix(usage()).await.expect(200));
    work(&daemon, Some(&ada), 2, "compute").await;
    until(&daemon, usage(), |answer| answer.status == 200 && fuel(answer.json()) > before + 20_000_000).await;
    // The owner has none of it.
    work(&daemon, None, 3, "").await;
    assert_eq!(until_last(&daemon, 3).await["numbers"], json!([3]));
}

#[tokio::test]
async fn a_loop_that_spins_on_a_message_is_ended_at_its_principals_time_and_sigterm_ends_it_at_once() {
    let daemon = Daemon::start();
    install(&daemon, &pack::packed("pump"));
    let ada = join(&daemon, "admin", "ada", 1).await;
    daemon.astrid(&["quota", "set", "ada", "max_timeout_secs=1"]).out();
    work(&daemon, Some(&ada), 1, "spin").await;
    until_state(&daemon, "restarting").await;
    until_state(&daemon, "live").await;
    work(&daemon, None, 2, "").await;
    until_last(&daemon, 2).await;
    work(&daemon, None, 3, "spin").await;
    assert_well(&daemon).await;
    assert_eq!(daemon.stop().code, Some(0));
}

#[tokio::test]
async fn a_message_makes_a_loop_grow_by_no_more_than_its_principal_may_and_the_others_go_on() {
    let daemon = Daemon::start();
    install(&daemon, &pack::packed("pump"));
    let ada = join(&daemon, "admin", "ada", 1).await;
    daemon.astrid(&["quota", "set", "ada", "max_memory_bytes=4194304"]).out();
    work(&daemon, None, 1, "grow").await;
    until_last(&daemon, 1).await;
    assert_eq!(state(&daemon, "pump").await, "live", "the owner may");
    work(&daemon, Some(&ada), 2, "trap").await;
    until_state(&daemon, "restarting").await;
    until_state(&daemon, "live").await;
    work(&daemon, Some(&ada), 3, "grow").await;
    until_state(&daemon, "restarting").await;
    work(&daemon, None, 4, "").await;
    assert_eq!(until_last(&daemon, 4).await["numbers"], json!([1, 4]));
    assert!(daemon.stderr().contains("bytes of memory"), "{}", daemon.stderr());
}

#[tokio::test]
async fn there_are_only_so_many_run_loops_and_the_next_is_refused_by_name() {
    let daemon = Daemon::start_with(&["--runtime-instances", "16"]);
    let named = |name: &str| {
        let archive = pack::read("pump");
        let mut manifest = archive.manifest;
        let renamed = |topic: &astrid_capsule::Pattern| {
            astrid_capsule::Pattern::parse(&topic.as_str().replacen("pump", name, 1)).expect("a pattern")
        };
        manifest.package.name = name.into();
        manifest.publish.iter_mut().for_each(|sent| sent.topic = renamed(&sent.topic));
        manifest.subscribe.iter_mut().for_each(|bound| bound.topic = renamed(&bound.topic));
        let component = pack::patched(&archive.component, "pump.v1.", &format!("{name}.v1."));
        pack::write(daemon.home().beside(), name, &manifest, &component)
    };
    // A quarter of the twelve instances that calls made by calls have; one is there already.
    for name in ["pam1", "pam2"] {
        install(&daemon, &named(name));
        assert_eq!(state(&daemon, name).await, "live");
    }
    let fourth = named("pam3");
    let arguments = ["capsule", "install", fourth.to_str().unwrap(), "--grant", "component:run"];
    let why = daemon.astrid(&arguments).refusal(1).to_owned();
    assert!(why.contains("pam3") && why.contains("run loops") && why.contains("runtime.instances"), "{why}");
    assert_well(&daemon).await;
}
