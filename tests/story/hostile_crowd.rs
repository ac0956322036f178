//! A thousand requests of every hostile kind in flight at once, from one principal, and everybody else, who must not
//! notice.
//!
//! Bounds are generous: a hang or a starved host breaks them, a machine that is busy with other tests does not. What was
//! measured is printed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use astrid_tests::DEADLINE;
use astrid_tests::daemon::Daemon;
use astrid_tests::http::{Connection, Request};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::{Person, assert_well, bus, install_guests, join};

/// Requests in flight.
const CROWD: usize = 1_000;
/// Health, or another tenant's call, while the crowd is at it. A call of the crowd ends after a second, so whoever waits
/// for one waits less than this; whoever is starved waits for all of them.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the process may hold more than before, once the crowd is gone. The crowd has touched 16 MiB in hundreds of
/// instances, up to 64 at a time. What the pool keeps: 1 MiB of memory in each of 100 warm slots, and of stacks whatever
/// was touched of them, up to 512 KiB each; a rehearsal before the first look has warmed a part.
const MEMORY_SLACK_KIB: u64 = 256 << 10;
/// Open files that may be more than before: whatever the host opens by itself meanwhile.
const FILES_SLACK: usize = 8;

/// Topic and payload of each trick. Bombs among them hold 16 MiB each.
fn tricks() -> Vec<Request> {
    let mut tricks: Vec<Request> = [
        "spin.v1.compute",
        "spin.v1.call",
        "spin.v1.random",
        "spin.v1.shout",
        "spin.v1.chatter",
        "spin.v1.poll",
        "spin.v1.wait",
        "bomb.v1.allocate",
        "bomb.v1.crumbs",
        "bomb.v1.recurse",
        "bomb.v1.buckets",
        "bomb.v1.transactions",
        "bomb.v1.ask",
        "trap.v1.panic",
        "trap.v1.abort",
    ]
    .map(|topic| bus(topic, &json!({})))
    .into();
    tricks.push(bus("spin.v1.storm", &json!(["spin.v1.heard", "echo.v1.say"])));
    tricks
}

fn daemon() -> Daemon {
    // Connections are kept for longer than by default: on a busy machine it takes its time until all of them are there.
    let sets = ["--set", "runtime.max-memory-bytes=16777216", "--set", "http.header-timeout-secs=120"];
    let daemon = Daemon::start_with(&sets);
    install_guests(&daemon, &["trap", "spin", "bomb", "echo"]);
    daemon
}

/// Kept connections on which somebody is known.
async fn connections(daemon: &Daemon, person: &Person, many: usize) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..many {
        let mut connection = daemon.connect().await;
        connection.send(bus("echo.v1.say", &json!(1)).bearer(&person.bearer)).await.expect("an answer").expect(200);
        connections.push(connection);
    }
    connections
}

/// One trick on each connection, all at once: the answers, or the connections that broke.
fn attack(connections: Vec<Connection>, person: &Person) -> JoinSet<Result<(u16, Connection), String>> {
    let tricks = tricks();
    let mut attack = JoinSet::new();
    for (n, mut connection) in connections.into_iter().enumerate() {
        let request = tricks[n % tricks.len()].clone().bearer(&person.bearer);
        attack.spawn(async move { connection.send(request).await.map(|response| (response.status, connection)) });
    }
    attack
}

/// Waits for every answer: how many of each status, and the connections. None is 200: nobody gets what it is after.
async fn outcomes(mut attack: JoinSet<Result<(u16, Connection), String>>) -> (BTreeMap<u16, usize>, Vec<Connection>) {
    let (mut statuses, mut connections) = (BTreeMap::new(), Vec::new());
    while let Some(done) = attack.join_next().await {
        let (status, connection) = done.expect("no panic").expect("an answer");
        assert!([403, 502, 503, 504].contains(&status), "{status}");
        *statuses.entry(status).or_default() += 1;
        connections.push(connection);
    }
    (statuses, connections)
}

/// Everybody comes on a new connection: the crowd, of which 200 are hostile calls of one principal, and somebody at the
/// same address whom the host knows by their bearer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_new_connection_whoever_is_known_does_not_wait_behind_a_crowd_at_the_same_address() {
    let daemon = daemon();
    let (mallory, ada) = (join(&daemon, "admin", "mallory", 1).await, join(&daemon, "admin", "ada", 2).await);
    // From now on the host knows whose they are.
    for person in [&mallory, &ada] {
        drop(connections(&daemon, person, 1).await);
    }
    let mut crowd = Vec::new();
    for _ in 0..CROWD / 5 {
        crowd.push(daemon.connect().await);
    }
    let answered = Arc::new(AtomicUsize::new(0));
    let mut attack = JoinSet::new();
    for mut connection in crowd {
        let (request, answered) = (bus("spin.v1.compute", &json!({})).bearer(&mallory.bearer), answered.clone());
        attack.spawn(async move {
            connection.send(request).await.expect("an answer").expect(504);
            answered.fetch_add(1, Ordering::Relaxed);
        });
    }
    // As many as the quota says compute; the others wait.
    while daemon.tcp(Request::get("/healthz")).await.expect(200)["pool"]["in_use"].as_u64() < Some(8) {}
    let before = answered.load(Ordering::Relaxed);
    let mut connection = daemon.connect().await;
    connection.send(bus("echo.v1.say", &json!(1)).bearer(&ada.bearer)).await.expect("an answer").expect(200);
    let meanwhile = answered.load(Ordering::Relaxed) - before;
    assert!(meanwhile <= CROWD / 20, "{meanwhile} calls of the crowd were served before");
    attack.join_all().await;
}

/// The same request every 20 ms at most, all answered with 200: how long each took.
struct Watch {
    stop: watch::Sender<bool>,
    task: JoinHandle<Vec<Duration>>,
}

impl Watch {
    fn start(mut connection: Connection, request: Request) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut times = Vec::new();
            while !*stopped.borrow() {
                pace.tick().await;
                let asked = Instant::now();
                connection.send(request.clone()).await.expect("an answer").expect(200);
                times.push(asked.elapsed());
            }
            times
        });
        Self { stop, task }
    }

    /// The times in ascending order. Printed under `name`.
    async fn end(self, name: &str) -> Vec<Duration> {
        let _ = self.stop.send(true);
        let mut times = self.task.await.expect("every answer was 200");
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        println!("{name}: {} answers, p50 {:?}, p99 {:?}, max {:?}", times.len(), at(50), at(99), at(100));
        times
    }
}

/// Resident memory in KiB.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn open_files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count()
}

/// Waits until nothing is alive, waits or is queued, in the host's own count.
async fn until_it_is_quiet(daemon: &Daemon) {
    let started = Instant::now();
    loop {
        let health = daemon.tcp(Request::get("/healthz")).await.expect(200);
        let metrics = daemon.tcp(Request::get("/metrics")).await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        let queued = metrics.lines().any(|line| line.starts_with("astrid_bus_queue_bytes ") && !line.ends_with(" 0"));
        if health["pool"]["in_use"] == crate::RESIDENT && !queued {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{health}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hostile_calls_starve_nobody_leave_nothing_behind_and_do_not_hold_up_the_end() {
    let daemon = daemon();
    // Now, because a connection that a client has dropped is closed only when the host notices.
    let files_before = open_files(&daemon);
    let (mallory, ada) = (join(&daemon, "admin", "mallory", 1).await, join(&daemon, "admin", "ada", 2).await);
    let crowd = connections(&daemon, &mallory, CROWD / 5).await;
    // A rehearsal: what the pool and the allocator keep, they keep from the first time on.
    let (_, crowd) = outcomes(attack(crowd, &mallory)).await;
    drop(crowd);
    until_it_is_quiet(&daemon).await;
    let memory_before = memory(&daemon);

    let crowd = connections(&daemon, &mallory, CROWD).await;
    let health = Watch::start(daemon.connect().await, Request::get("/healthz"));
    let echo = bus("echo.v1.say", &json!("x")).bearer(&ada.bearer);
    let tenant = Watch::start(daemon.connect().await, echo);
    let began = Instant::now();
    let (statuses, crowd) = outcomes(attack(crowd, &mallory)).await;
    println!("{CROWD} hostile calls: {:?}, by status {statuses:?}", began.elapsed());
    println!("memory at the end {} MiB, before {} MiB", memory(&daemon) >> 10, memory_before >> 10);
    for (name, watch) in [("/healthz", health), ("the other tenant's echo", tenant)] {
        let times = watch.end(name).await;
        let median = times[times.len() / 2];
        assert!(times.len() >= 20 && median < PATIENCE, "{name}: {} answers, half of them in {median:?}", times.len());
    }

    drop(crowd);
    until_it_is_quiet(&daemon).await;
    let started = Instant::now();
    loop {
        let (memory, files) = (memory(&daemon), open_files(&daemon));
        if memory <= memory_before + MEMORY_SLACK_KIB && files <= files_before + FILES_SLACK {
            println!(
                "afterwards {} MiB, before {} MiB; files {files}, {files_before}",
                memory >> 10,
                memory_before >> 10
            );
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{memory} KiB, before {memory_before}; files {files}, {files_before}");
        tokio::task::yield_now().await;
    }
    assert_well(&daemon).await;

    // And again; this time it is told to stop in the middle.
    let mut health = daemon.connect().await;
    let crowd = connections(&daemon, &mallory, CROWD / 4).await;
    let attack = attack(crowd, &mallory);
    let in_use = |health: &Value| health["pool"]["in_use"].as_u64().expect("a number");
    while in_use(&health.send(Request::get("/healthz")).await.expect("an answer").expect(200)) < 32 {}
    let asked = Instant::now();
    daemon.signal(Signal::TERM);
    let ended = tokio::task::spawn_blocking(move || daemon.wait()).await.expect("no panic");
    println!("SIGTERM in the middle: {:?}", asked.elapsed());
    // 9 s is when the process ends in any case; the rest is the machine's.
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    let answered = attack.join_all().await.into_iter().filter(Result::is_ok).count();
    println!("{answered} of {} were answered before the end", CROWD / 4);
}
