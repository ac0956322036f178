//! What is configured and what is measured: every series moves, every key says where it came from, and bounds hold.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::time::Instant;

use astrid_host::observe::{Kind, SERIES};
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Streaming, raw};
use astrid_tests::{DEADLINE, pack};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::observation::{Sample, metrics, sum};
use crate::{bus, install, install_guests, join};

/// Everything that every scrape has shown: the lowest and the highest of each series, labels summed.
#[derive(Default)]
struct Seen(HashMap<&'static str, (f64, f64)>);

impl Seen {
    async fn scrape(&mut self, daemon: &Daemon) -> Vec<Sample> {
        let samples = metrics(daemon).await;
        for series in SERIES {
            let counted = if series.kind == Kind::Histogram { "_count" } else { "" };
            let value = sum(&samples, &format!("{}{counted}", series.name), &[]);
            let (low, high) = self.0.entry(series.name).or_insert((value, value));
            (*low, *high) = (low.min(value), high.max(value));
        }
        samples
    }

    /// Scrapes until all of these were seen to be anything but zero.
    async fn until_moved(&mut self, daemon: &Daemon, names: &[&str]) {
        let started = Instant::now();
        while !names.iter().all(|name| self.moved(name)) {
            self.scrape(daemon).await;
            let still: Vec<_> = names.iter().filter(|name| !self.moved(name)).collect();
            assert!(started.elapsed() < DEADLINE, "never moved: {still:?}");
        }
    }

    fn moved(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|(low, high)| high > low)
    }
}

fn publish(topic: &str, payload: &Value) -> Request {
    Request::post(&format!("/api/bus/publish/{topic}"), payload)
}

/// Requests that go on by themselves until this is dropped.
async fn keep_sending(daemon: &Daemon, connections: usize, request: &Request) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (mut connection, request) = (daemon.connect_unix().await, request.clone());
        tasks.spawn(async move { while connection.send(request.clone()).await.is_ok() {} });
    }
    tasks
}

#[tokio::test]
async fn every_series_that_is_described_moves_and_no_other_is_exposed() {
    let mut seen = Seen::default();
    let sets = ["bus.max-payload-bytes=65536", "bus.queue-bytes=65536", "store.max-batch=1"];
    let mut arguments = vec!["--runtime-instances", "20"];
    sets.iter().for_each(|set| arguments.extend(["--set", *set]));
    let daemon = Daemon::start_with(&arguments);
    let first = seen.scrape(&daemon).await;
    let build = first.iter().find(|(series, _)| series.starts_with("astrid_build_info{")).expect("what runs");
    for label in ["version=\"", "git_sha=\"", "rustc=\"1."] {
        assert!(build.0.contains(label) && build.1 == 1.0, "{build:?}");
    }
    install_guests(&daemon, &["echo", "spin", "counter", "filter", "hoarder", "live", "pump", "shell", "streamer"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    daemon.tcp(Request::get("/api/auth/me").bearer("rubbish")).await.refusal(401, "unauthorized");
    daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200);
    daemon.unix(bus("counter.v1.increment", &json!({ "key": "n" }))).await.expect(200);
    for _ in 0..2 {
        daemon.unix(bus("hoarder.v1.count", &json!({}))).await.expect(200);
    }
    // A program, looked at while it runs.
    let sleeps = json!({ "program": "/bin/sh", "args": ["-c", "sleep 600"], "timeout_ms": 600_000 });
    let sleeping = keep_sending(&daemon, 1, &bus("shell.v1.run", &sleeps)).await;
    seen.until_moved(&daemon, &["astrid_processes", "astrid_processes_started_total"]).await;
    drop(sleeping);
    seen.until_moved(&daemon, &["astrid_processes_ended_total"]).await;
    seen.scrape(&daemon).await;
    daemon.unix(bus("hoarder.v1.panic", &json!({}))).await.refusal(502, "unavailable");
    // Two bytes in each question, and one a second.
    let bob = join(&daemon, "agent", "bob", 2).await;
    daemon.astrid(&["quota", "set", "bob", "max_ipc_throughput_bytes=1"]).out();
    let me = Request::get("/api/auth/me").bearer(&bob.bearer);
    daemon.tcp(me.clone()).await.expect(200);
    daemon.tcp(me).await.refusal(503, "overloaded");
    seen.scrape(&daemon).await;
    // The answer of the one ends by itself; the other is open for as long as its client looks.
    let counting = Request::get("/live/count?to=3").bearer(&ada.bearer);
    assert_eq!(daemon.tcp(counting).await.status, 200);
    let socket = TcpStream::connect(daemon.address()).await.expect("a listener");
    let open = Streaming::open(socket, Request::get("/live/said").bearer(&ada.bearer)).await;
    seen.until_moved(&daemon, &["astrid_http_relays", "astrid_http_relay_calls_total"]).await;
    drop(open);

    // A run loop that ends and is started again.
    daemon.unix(publish("pump.v1.work", &json!({ "number": 1, "act": "return" }))).await.expect(202);
    seen.until_moved(&daemon, &["astrid_run_loops", "astrid_run_loop_restarts_total"]).await;
    // A version that fails whoever calls it, and gives way to the one before.
    install_guests(&daemon, &["trap"]);
    let folder = daemon.home().beside();
    install(&daemon, &pack::repacked(folder, "trap-1", "trap", |manifest| manifest.package.version.patch = 1));
    for _ in 0..5 {
        daemon.unix(bus("trap.v1.panic", &json!({}))).await.refusal(502, "unavailable");
    }
    seen.until_moved(&daemon, &["astrid_capsule_rollbacks_total"]).await;

    // A handler that takes a second, and more for it than may wait: the sender who holds most is turned away, and loses
    // what is newest when another comes.
    let large = json!("x".repeat(30_000));
    for _ in 0..4 {
        daemon.unix(publish("spin.v1.call", &large)).await.expect(202);
    }
    daemon.tcp(publish("spin.v1.call", &large).bearer(&ada.bearer)).await.expect(202);
    // A subscription that loses what its reader does not take.
    let lossy = json!({ "subscribe": ["streamer.lossy.*"], "publish": vec!["streamer.lossy.a"; 10], "bytes": 2000 });
    daemon.unix(bus("streamer.v1.reflect", &lossy)).await.expect(200);
    let queued = seen.scrape(&daemon).await;
    for kind in ["publish", "request", "delivered", "refused", "lost", "gap"] {
        assert!(sum(&queued, "astrid_bus_events_total", &[("kind", kind)]) >= 1.0, "{kind}: {queued:?}");
    }
    assert!(seen.moved("astrid_bus_queue_bytes") && seen.moved("astrid_bus_active_principals"), "{queued:?}");

    // More calls from outside than there are instances for, and more commits than are written at once.
    let slow = keep_sending(&daemon, 12, &bus("spin.v1.compute", &json!({}))).await;
    seen.until_moved(&daemon, &["astrid_pool_waiting", "astrid_pool_in_use"]).await;
    drop(slow);
    let commits = keep_sending(&daemon, 12, &bus("counter.v1.increment", &json!({ "key": "n" }))).await;
    seen.until_moved(&daemon, &["astrid_store_queue_commits", "astrid_background_ticks_total"]).await;
    drop(commits);
    let hear = json!({ "subscribe": ["streamer.lossy.*"], "events": 1 });
    let reading = keep_sending(&daemon, 1, &bus("streamer.v1.hear", &hear)).await;
    seen.until_moved(&daemon, &["astrid_bus_subscriptions"]).await;
    drop(reading);

    // What never changes while a process lives differs in another: here, one that is denied its address space.
    let narrow = Home::new().start_in_address_space(200 << 20, &["--runtime-instances", "64"]);
    assert_eq!(narrow.tcp(Request::get("/healthz")).await.expect(200)["status"], "degraded");
    seen.scrape(&narrow).await;
    // And one that can't write its facts.
    crate::audit::stand_in_the_way(narrow.home());
    narrow.tcp(Request::get("/api/auth/me").bearer("rubbish")).await.refusal(401, "unauthorized");
    seen.until_moved(&narrow, &["astrid_facts_failing"]).await;

    // Plain text where TLS is spoken.
    let (encrypted, _) = crate::tls::start(&[]);
    seen.scrape(&encrypted).await;
    raw(TcpStream::connect(encrypted.address()).await.expect("a listener"), b"GET /healthz HTTP/1.1\r\n\r\n").await;
    seen.until_moved(&encrypted, &["astrid_http_handshakes_total"]).await;

    let constant = ["astrid_build_info"];
    let still: Vec<_> = SERIES.iter().map(|s| s.name).filter(|n| !seen.moved(n) && !constant.contains(n)).collect();
    assert!(still.is_empty(), "no test moves {still:?}");

    let text = daemon.tcp(Request::get("/metrics")).await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let exposed: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let unknown: Vec<_> = exposed.iter().filter(|name| !SERIES.iter().any(|s| s.name == **name)).collect();
    assert!(unknown.is_empty(), "not described: {unknown:?}");
    assert!(!text.contains("ada") && !text.contains("rubbish"), "a principal or a client's word is a label: {text}");
    lint(&text);
}

/// Prometheus' own rules for names and help texts; its own tool looks in `tests/foreign`.
fn lint(text: &str) {
    let helped: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next()).collect();
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        assert!(helped.contains(&name), "{name} has no help text");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        let reserved = ["_count", "_sum", "_bucket", "_info"].into_iter().find(|suffix| name.ends_with(suffix));
        assert!(reserved.is_none() || name == "astrid_build_info", "{name} ends like a part of something else");
        assert!(!name.contains(kind) && !name.contains("__") && name.to_lowercase() == name, "{name}");
        let short = ["ms", "ns", "us", "sec", "secs", "milliseconds", "minutes", "kb", "mb", "kib", "mib", "percent"];
        assert!(!name.split('_').any(|word| short.contains(&word)), "{name} is not in a base unit");
    }
}

#[tokio::test]
async fn time_spent_waiting_is_told_from_time_spent_computing() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["spin", "caller"]);
    let through = json!({ "topic": "spin.v1.compute", "payload": {} });
    daemon.unix(bus("caller.v1.request", &through)).await.expect(200);
    let samples = metrics(&daemon).await;
    let of = |name: &str, capsule: &str| sum(&samples, &format!("{name}_sum"), &[("capsule", capsule)]);
    // One second each: the caller waited for it, the other computed.
    assert!(of("astrid_invocation_seconds", "caller") >= 1.0);
    assert!(of("astrid_invocation_host_wait_seconds", "caller") >= 0.9);
    assert!(of("astrid_invocation_seconds", "spin") >= 1.0);
    assert_eq!(of("astrid_invocation_host_wait_seconds", "spin"), 0.0);
    assert!(of("astrid_invocation_peak_memory_bytes", "spin") >= 65_536.0);
}

#[tokio::test]
async fn a_storm_of_messages_that_nobody_takes_is_a_warning_that_names_the_topic() {
    let daemon = Daemon::start();
    let storm = keep_sending(&daemon, 8, &publish("nobody.v1.home", &json!(1))).await;
    let started = Instant::now();
    loop {
        let lines = daemon.unix(Request::get("/api/sys/logs?level=warn")).await.expect(200);
        let lines = lines["lines"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap());
        if let Some(line) = lines.into_iter().find(|line| line.contains("event storm")) {
            assert!(line.contains("nobody.v1.home"), "{line}");
            break;
        }
        assert!(started.elapsed() < DEADLINE, "no warning: {}", daemon.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    drop(storm);
}

#[tokio::test]
async fn every_key_is_shown_with_who_set_it_to_whoever_may_see_the_status() {
    let home = Home::new();
    fs::create_dir_all(home.path().join("etc")).unwrap();
    fs::write(home.path().join("etc/config.toml"), "[runtime]\ninstances = 64\nmax-waiting = 99\n").unwrap();
    let daemon = home.start_with(&["--runtime-instances", "32", "--set", "log.level=debug"]);
    let shown = daemon.astrid(&["config", "show", "--json"]).json();
    let settings: BTreeMap<&str, (&str, &str)> = shown["settings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["key"].as_str().unwrap(), (s["value"].as_str().unwrap(), s["source"].as_str().unwrap())))
        .collect();
    assert_eq!(settings["runtime.instances"], ("32", "flag"));
    assert_eq!(settings["runtime.max-waiting"], ("99", "file"));
    assert_eq!(settings["log.level"], ("debug", "flag"));
    for (key, value) in [
        ("bus.max-depth", "16"),
        ("http.header-timeout-secs", "10"),
        ("http.body-timeout-secs", "30"),
        ("http.max-connections", "10000"),
    ] {
        assert_eq!(settings[key], (value, "default"), "{key}");
    }
    for key in ["runtime.blocking", "runtime.async-io"] {
        assert_eq!(settings[key].1, "derived", "{key}");
    }
    assert_eq!(daemon.tcp(Request::get("/healthz")).await.expect(200)["pool"]["instances"], 32);

    // The same keys without a host, as far as the file and the environment go.
    let offline = daemon.astrid(&["config", "show", "--offline", "--json"]).json();
    let offline = offline["settings"].as_array().unwrap();
    assert_eq!(offline.len(), settings.len());
    assert!(offline.iter().any(|s| s["key"] == "runtime.instances" && s["value"] == "64" && s["source"] == "file"));

    let bob = join(&daemon, "agent", "bob", 2).await;
    let reason = daemon.tcp(Request::get("/api/sys/config").bearer(&bob.bearer)).await.refusal(403, "forbidden");
    assert!(reason.contains("system:status"), "{reason}");
}

#[tokio::test]
async fn with_room_for_one_waiting_commit_everybody_gets_their_turn_and_nobody_blocks_themselves() {
    let daemon = Daemon::start_with(&["--runtime-async-io", "1", "--runtime-blocking", "1"]);
    install_guests(&daemon, &["counter", "caller"]);
    let mut writers = JoinSet::new();
    for n in 0..24 {
        let mut connection = daemon.connect_unix().await;
        let payload = json!({ "key": format!("n{n}"), "value": "x" });
        // Every other one through a capsule that waits for the one that commits.
        let through = json!({ "topic": "counter.v1.put", "payload": payload });
        let request = if n % 2 == 0 { bus("counter.v1.put", &payload) } else { bus("caller.v1.request", &through) };
        writers.spawn(async move { connection.send(request).await.expect("an answer").expect(200) });
    }
    while let Some(answer) = writers.join_next().await {
        let answer = answer.expect("answered with 200");
        assert!(answer["version"].is_u64() || answer["answer"]["version"].is_u64(), "{answer}");
    }
}

#[tokio::test]
async fn samples_are_folded_five_times_in_each_window_of_the_storm_monitor_without_anybody_looking() {
    let daemon = Daemon::start();
    // Each begins with a tick, so after the third one there were two windows of five seconds.
    let started = Instant::now();
    let folded = loop {
        let samples = metrics(&daemon).await;
        let ticks = |task: &str| sum(&samples, "astrid_background_ticks_total", &[("task", task)]);
        if ticks("storms") >= 3.0 {
            break ticks("upkeep");
        }
        assert!(started.elapsed() < DEADLINE, "{samples:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    // Eleven; or one more or less, if the machine was busy.
    assert!((10.0..=12.0).contains(&folded), "{folded}");
    // None comes early.
    let status = daemon.unix(Request::get("/api/sys/status")).await.expect(200);
    assert!(status["uptime_secs"].as_u64().unwrap() >= 10, "{status}");
}
