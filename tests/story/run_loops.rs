//! Capsules that work without being asked: supervised, replaced without a loss, and paid for by whose messages they are.

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use astrid_host::fault::Point;
use astrid_tests::DEADLINE;
use astrid_tests::daemon::{Daemon, Home};
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

/// Waits until so many instances are alive beside the host's own: one that is being dropped is there for a moment longer.
async fn until_in_use(daemon: &Daemon, wanted: f64) {
    let started = Instant::now();
    loop {
        let found = in_use(daemon).await;
        if found == wanted {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{found} instances are alive, not {wanted}");
        tokio::task::yield_now().await;
    }
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
    until_in_use(&daemon, 0.0).await;
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
        until_in_use(&daemon, 1.0).await;
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
async fn a_loop_works_for_nobody_faster_than_its_fuel_rate_allows_and_the_others_go_on() {
    let daemon = Daemon::start();
    install(&daemon, &pack::packed("pump"));
    let ada = join(&daemon, "agent", "ada", 1).await;
    daemon.astrid(&["caps", "grant", "ada", "bus:request"]).out();
    let path = "/api/sys/principals/ada/usage";
    let fuel = async || {
        let used = daemon.unix(Request::get(path)).await.expect(200);
        used["cpu_fuel_consumed_total"].as_u64().expect("a number")
    };
    let before = fuel().await;
    work(&daemon, Some(&ada), 0, "compute").await;
    let started = Instant::now();
    while fuel().await < before + 20_000_000 {
        assert!(started.elapsed() < DEADLINE, "it never came to the first: {}", daemon.stderr());
    }
    // From now on one such message a second.
    let (before, cost) = (fuel().await, fuel().await - before);
    daemon.astrid(&["quota", "set", "ada", &format!("max_cpu_fuel_per_sec={cost}")]).out();
    let pieces: Vec<_> = (1..=5).map(|number| json!({ "number": number, "act": "compute" })).collect();
    let started = Instant::now();
    let sent = until(&daemon, bus("pump.v1.send", &json!(pieces)).bearer(&ada.bearer), |told| told.status == 200).await;
    assert_eq!(sent.expect(200), json!(5));
    work(&daemon, None, 9, "").await;
    until_last(&daemon, 9).await;
    let meanwhile = fuel().await - before;
    assert!(meanwhile < 5 * cost, "the owner waited until all of ada's was done");
    while fuel().await < before + 5 * cost - cost / 2 {
        assert!(started.elapsed() < DEADLINE, "it never came to the last: {}", daemon.stderr());
    }
    // A second's worth that was saved, and the last message, which runs into debt.
    let (seconds, used) = (started.elapsed().as_secs_f64(), (fuel().await - before) as f64 / cost as f64);
    assert!(used <= seconds + 2.5, "{used} messages' worth in {seconds} s");
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

/// The tally in another mode, as version 0.1.`patch`.
fn tally(home: &Home, patch: u64, mode: &str) -> PathBuf {
    let archive = pack::read("tally");
    let mut manifest = archive.manifest;
    manifest.package.version.patch = patch;
    let component = match mode {
        "serves" => archive.component,
        // As if it had no state.
        "stateless" => pack::patched(&archive.component, "astrid:capsule/state@0.1.0", "astrid:capsule/stale@0.1.0"),
        mode => pack::patched(&archive.component, "tally serves", &format!("tally {mode}")),
    };
    pack::write(home.beside(), &format!("tally-{patch}-{mode}"), &manifest, &component)
}

/// Lets one message come to the tally.
async fn come(daemon: &Daemon, number: u64) {
    assert_eq!(daemon.unix(bus("tally.v1.send", &json!({ "number": number }))).await.expect(200), json!(1));
}

/// What was counted once the owner's last number is this one: each number and the count that it made.
async fn counted(daemon: &Daemon, number: u64) -> Vec<(u64, u64)> {
    let entries = |body: &Value| serde_json::from_value::<Vec<(u64, u64)>>(body.clone()).unwrap_or_default();
    let is_last = |body: &Value| entries(body).last().is_some_and(|(last, _)| *last == number);
    let kept = bus("tally.v1.kept", &json!({}));
    entries(&until(daemon, kept, |answer| answer.status == 200 && is_last(&answer.json())).await.json())
}

/// The last steps of its history, oldest first: what, to which version, why.
async fn steps(daemon: &Daemon) -> Vec<(String, String, String)> {
    let shown = daemon.unix(Request::get("/api/capsules/tally/history")).await.expect(200);
    let text = |step: &Value, field: &str| step[field].as_str().unwrap_or_default().to_owned();
    let steps = shown["steps"].as_array().unwrap().iter();
    steps.map(|step| (text(step, "what"), text(step, "version"), text(step, "why"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_in_memory_goes_on_across_twenty_swaps_in_order_and_nothing_is_lost_or_doubled() {
    let daemon = Daemon::start();
    install(&daemon, &tally(daemon.home(), 0, "serves"));
    let swaps = {
        let (home, next) = (daemon.home().clone(), tally(daemon.home(), 1, "serves"));
        thread::spawn(move || {
            for n in 0..20 {
                let next = next.to_str().unwrap();
                match n % 4 {
                    0 => home.astrid(&["capsule", "install", next]),
                    2 => home.astrid(&["capsule", "rollback", "tally"]),
                    _ => home.astrid(&["capsule", "swap", "tally"]),
                }
                .out();
            }
        })
    };
    let mut number = 0;
    while !swaps.is_finished() {
        number += 1;
        come(&daemon, number).await;
    }
    tokio::task::block_in_place(|| swaps.join().unwrap());
    assert!(number >= 20, "{number} messages for 20 swaps");
    come(&daemon, number + 1).await;
    let expected: Vec<(u64, u64)> = (1..=number + 1).map(|n| (n, n)).collect();
    assert_eq!(counted(&daemon, number + 1).await, expected);
    let steps = steps(&daemon).await;
    assert_eq!((steps.len(), steps.iter().filter(|(what, ..)| what == "state-lost").count()), (21, 0), "{steps:?}");
    assert_eq!(sum(&metrics(&daemon).await, "astrid_run_loop_restarts_total", &[]), 0.0);
    let started = Instant::now();
    while in_use(&daemon).await > 1.0 {
        assert!(started.elapsed() < DEADLINE, "an instance is left");
    }
}

#[tokio::test]
async fn a_version_that_does_not_take_the_state_is_refused_and_the_one_before_counts_on() {
    let daemon = Daemon::start();
    install(&daemon, &tally(daemon.home(), 0, "serves"));
    come(&daemon, 1).await;
    let expected = |to: u64| (1..=to).map(|n| (n, n)).collect::<Vec<_>>();
    for (n, (mode, reason)) in
        [("spurns", "no schema 1 here"), ("chokes", "import-state died"), ("sleeps", "was not ready")]
            .into_iter()
            .enumerate()
    {
        let next = tally(daemon.home(), 1, mode);
        let said = daemon.astrid(&["capsule", "install", next.to_str().unwrap()]).refusal(1).to_owned();
        assert!(said.contains(reason) && said.contains("did not get ready"), "{mode}: {said}");
        let number = n as u64 + 2;
        come(&daemon, number).await;
        assert_eq!(counted(&daemon, number).await, expected(number), "{mode}");
        assert_eq!(state(&daemon, "tally").await, "live", "{mode}");
        until_in_use(&daemon, 1.0).await;
    }
    assert_eq!(sum(&metrics(&daemon).await, "astrid_run_loop_restarts_total", &[]), 0.0);
    assert_eq!(steps(&daemon).await.len(), 1);
}

#[tokio::test]
async fn a_state_that_is_not_to_be_had_holds_a_swap_up_and_one_that_is_dead_does_not() {
    for (mode, reason) in [("denies", "it is mine"), ("bloats", "16777217 bytes"), ("stalls", "did not return")] {
        let daemon = Daemon::start();
        install(&daemon, &tally(daemon.home(), 0, mode));
        come(&daemon, 1).await;
        let next = tally(daemon.home(), 1, "serves");
        let said = daemon.astrid(&["capsule", "install", next.to_str().unwrap()]).refusal(1).to_owned();
        assert!(said.contains(reason) && said.contains("does not give its state"), "{mode}: {said}");
        come(&daemon, 2).await;
        assert_eq!(counted(&daemon, 2).await, [(1, 1), (2, 2)], "{mode}");
    }
    let daemon = Daemon::start();
    install(&daemon, &tally(daemon.home(), 0, "breaks"));
    come(&daemon, 1).await;
    counted(&daemon, 1).await;
    install(&daemon, &tally(daemon.home(), 1, "serves"));
    come(&daemon, 2).await;
    assert_eq!(counted(&daemon, 2).await, [(1, 1), (2, 1)]);
    let (what, version, why) = steps(&daemon).await.pop().unwrap();
    assert_eq!((what.as_str(), version.as_str()), ("state-lost", "0.1.1"));
    assert!(why.contains("export-state died"), "{why}");
    // Nor does a version that has no use for it.
    install(&daemon, &tally(daemon.home(), 2, "stateless"));
    come(&daemon, 3).await;
    assert_eq!(counted(&daemon, 3).await.last(), Some(&(3, 1)));
    let (what, version, why) = steps(&daemon).await.pop().unwrap();
    assert_eq!((what.as_str(), version.as_str(), why.as_str()), ("state-lost", "0.1.2", "this version takes none"));
}

#[tokio::test]
async fn a_version_that_is_gone_back_to_counts_on_and_begins_anew_where_it_does_not_take_the_state() {
    let daemon = Daemon::start();
    install(&daemon, &tally(daemon.home(), 0, "serves"));
    come(&daemon, 1).await;
    install(&daemon, &tally(daemon.home(), 1, "errors"));
    come(&daemon, 2).await;
    assert_eq!(counted(&daemon, 2).await, [(1, 1), (2, 2)]);
    // By itself.
    let attempt = bus("tally.v1.try", &json!({}));
    until(&daemon, attempt, |answer| answer.status == 200).await;
    come(&daemon, 3).await;
    assert_eq!(counted(&daemon, 3).await.last(), Some(&(3, 3)));
    let started = Instant::now();
    while steps(&daemon).await.len() < 3 {
        assert!(started.elapsed() < DEADLINE, "it is not recorded");
    }
    assert_eq!(steps(&daemon).await[2].0, "rolled-back");

    // By an operator, to one that spurns what it gets, and to one that gets nothing.
    for (patch, mode, other, reason) in
        [(2, "spurns", "serves", "no schema 1 here"), (4, "serves", "stalls", "did not return")]
    {
        daemon.astrid(&["capsule", "remove", "tally", "--purge"]).out();
        install(&daemon, &tally(daemon.home(), patch, mode));
        come(&daemon, 1).await;
        install(&daemon, &tally(daemon.home(), patch + 1, other));
        come(&daemon, 2).await;
        assert_eq!(counted(&daemon, 2).await, [(1, 1), (2, 2)], "{mode}");
        daemon.astrid(&["capsule", "rollback", "tally"]).out();
        come(&daemon, 3).await;
        assert_eq!(counted(&daemon, 3).await, [(1, 1), (2, 2), (3, 1)], "{mode}");
        let (what, version, why) = steps(&daemon).await.pop().unwrap();
        assert_eq!((what.as_str(), version), ("state-lost", format!("0.1.{patch}")), "{mode}");
        assert!(why.contains(reason), "{mode}: {why}");
        assert!(daemon.stderr().contains("began without the state of the one before"), "it is logged");
    }
}

#[tokio::test]
async fn killed_anywhere_in_a_change_of_a_loop_with_a_state_the_old_or_the_new_version_is_whole() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &tally(&home, 0, "serves"));
    assert_eq!(daemon.stop().code, Some(0));
    let next = tally(&home, 1, "serves");
    let mut number = 0;
    for point in [Point::HandedOver, Point::Probed, Point::Committed, Point::Flipped, Point::Retired] {
        let daemon = home.start_with(&["--fault", &format!("tally:{}", point.name())]);
        number += 1;
        come(&daemon, number).await;
        counted(&daemon, number).await;
        // It may have answered before it died.
        let _ = daemon.astrid(&["capsule", "install", next.to_str().unwrap()]);
        let ended = daemon.wait();
        assert_eq!(ended.code, None, "{point:?}: {ended:?}");
        let daemon = home.start();
        number += 1;
        come(&daemon, number).await;
        // Memory begins anew with the host.
        assert_eq!(counted(&daemon, number).await.last(), Some(&(number, 1)), "{point:?}");
        let done = matches!(point, Point::Committed | Point::Flipped | Point::Retired);
        let row = daemon.unix(Request::get("/api/capsules/tally")).await.expect(200);
        assert_eq!(row["version"], if done { "0.1.1" } else { "0.1.0" }, "{point:?}");
        if done {
            daemon.astrid(&["capsule", "rollback", "tally"]).out();
        }
        assert_eq!(daemon.stop().code, Some(0), "{point:?}");
    }
}
