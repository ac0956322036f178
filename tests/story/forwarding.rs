//! Facts at places outside: each at least once and in order, whatever fails meanwhile, and nobody waits for a place that does.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use astrid_tests::DEADLINE;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::Request;
use astrid_tests::ocsf;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UdpSocket, UnixDatagram};

use crate::history::until_signed;
use crate::{assert_well, bus, install_guests, join, until};

/// What somebody outside has got, an entry each.
#[derive(Clone, Default)]
struct Got(Arc<Mutex<Vec<String>>>);

impl Got {
    fn add(&self, entries: impl IntoIterator<Item = String>) {
        self.0.lock().unwrap().extend(entries);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// How many facts have arrived, each in its order: what is repeated has been there before.
#[track_caller]
fn in_order(entries: &[String], index: impl Fn(&Value) -> u64) -> u64 {
    let mut next = 0;
    for entry in entries {
        let index = index(&serde_json::from_str(entry).unwrap_or_else(|error| panic!("{error}: {entry}")));
        assert!(index <= next, "{next} is missing before {index}");
        next = next.max(index + 1);
    }
    next
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// An HTTP collector that refuses its first requests.
async fn collector(address: SocketAddr, refuses: usize) -> Got {
    let listener = TcpListener::bind(address).await.expect("the port is free");
    let (got, left) = (Got::default(), Arc::new(Mutex::new(refuses)));
    let taken = got.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let (got, left) = (taken.clone(), left.clone());
            let serve = service_fn(move |request: hyper::Request<Incoming>| {
                let (got, left) = (got.clone(), left.clone());
                async move {
                    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/facts"));
                    assert_eq!(request.headers()["authorization"], "Bearer collected");
                    let body = request.into_body().collect().await?.to_bytes();
                    let refused = {
                        let mut left = left.lock().unwrap();
                        *left = left.saturating_sub(1);
                        *left > 0
                    };
                    let status = if refused { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT };
                    if !refused {
                        got.add(String::from_utf8(body.to_vec()).unwrap().lines().map(str::to_owned));
                    }
                    let mut answer = Response::new(Empty::<Bytes>::new());
                    *answer.status_mut() = status;
                    Ok::<_, hyper::Error>(answer)
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), serve));
        }
    });
    got
}

/// A syslog receiver over TCP: octet counts (RFC 6587), to the end of each connection.
async fn receiver() -> (SocketAddr, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, got) = (listener.local_addr().unwrap(), Got::default());
    let taken = got.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut bytes = Vec::new();
            // A daemon that is killed may leave a message torn: it is not counted.
            let _ = socket.read_to_end(&mut bytes).await;
            let mut rest = bytes.as_slice();
            while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
                let count: usize = str::from_utf8(&rest[..space]).unwrap().parse().expect("an octet count");
                let Some(message) = rest.get(space + 1..space + 1 + count) else { break };
                taken.add([String::from_utf8(message.to_vec()).unwrap()]);
                rest = &rest[space + 1 + count..];
            }
        }
    });
    (address, got)
}

/// A home whose facts are forwarded by these rules, and whose `audit` is told more.
fn forwarding(rules: &str, more: &str) -> Home {
    let home = Home::new();
    let distro = home.path().join("distro/Distro.toml");
    let text = fs::read_to_string(&distro).unwrap();
    let changed =
        text.replace("role = \"audit\"\n", &format!("role = \"audit\"\nenv = {{ FORWARD = \"{rules}\"{more} }}\n"));
    assert_ne!(changed, text);
    fs::write(&distro, changed).unwrap();
    home
}

async fn size(daemon: &Daemon) -> u64 {
    daemon.unix(Request::get("/api/sys/audit?limit=1")).await.expect(200)["size"].as_u64().unwrap()
}

/// Looks until it is so.
async fn wait(daemon: &Daemon, is_so: impl Fn() -> bool) {
    until(daemon, Request::get("/healthz"), |_| is_so()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fact_arrives_in_order_at_a_file_a_collector_and_syslog_though_the_host_is_killed_and_one_is_down() {
    let home = forwarding(
        "archive=json, siem=ocsf, wall=syslog-json, dgram=syslog-cef:session, dev=syslog-line:host, nowhere=json",
        "",
    );
    let (archive, device) = (home.beside().join("facts.jsonl"), home.beside().join("log"));
    let token = home.beside().join("token");
    fs::write(&token, "Bearer collected\n").unwrap();
    // Nobody listens there yet.
    let siem = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (wall, on_wall) = receiver().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let unix = UnixDatagram::bind(&device).unwrap();
    let sets = [
        format!("sinks.archive.to=file://{}", archive.display()),
        format!("sinks.siem.to=http://{siem}/facts"),
        format!("sinks.siem.authorization-file={}", token.display()),
        format!("sinks.wall.to=tcp://{wall}"),
        format!("sinks.dgram.to=udp://{}", udp.local_addr().unwrap()),
        format!("sinks.dev.to=unix://{}", device.display()),
    ];
    let arguments: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();

    // One is down, one was never named, and nobody waits for them.
    let daemon = home.start_with(&arguments);
    let ada = join(&daemon, "admin", "ada", 1).await;
    daemon.tcp(Request::get("/api/auth/me").bearer("nonsense")).await.refusal(401, "unauthorized");
    let look = || Request::get("/api/sys/status").bearer(&ada.bearer);
    for _ in 0..700 {
        daemon.tcp(look()).await.expect(200);
    }
    let first = size(&daemon).await;
    let index = |entry: &Value| entry["index"].as_u64().unwrap();
    wait(&daemon, || in_order(&lines(&archive), index) >= first).await;
    let on_the_wall = || -> Vec<String> {
        on_wall.all().iter().map(|message| message.split_once("\"] ").expect("an id").1.to_owned()).collect()
    };
    wait(&daemon, || in_order(&on_the_wall(), index) >= first).await;
    let log = daemon.stderr();
    assert!(log.contains("don't reach `siem`") && log.contains("no such sink"), "{log}");

    // The collector comes, and refuses at first; the host is killed on the way.
    let collected = collector(siem, 2).await;
    wait(&daemon, || !collected.all().is_empty()).await;
    daemon.kill();
    let daemon = home.start_with(&arguments);
    for _ in 0..100 {
        daemon.tcp(look()).await.expect(200);
    }
    let all = size(&daemon).await;
    let uid = |event: &Value| event["metadata"]["uid"].as_str().unwrap().parse::<u64>().unwrap();
    wait(&daemon, || in_order(&collected.all(), uid) >= all).await;
    wait(&daemon, || in_order(&lines(&archive), index) >= all && in_order(&on_the_wall(), index) >= all).await;
    assert_well(&daemon).await;
    for event in collected.all() {
        ocsf::check(&serde_json::from_str(&event).unwrap()).unwrap_or_else(|why| panic!("{why}: {event}"));
    }

    let mut bytes = [0; 65_536];
    let length = udp.recv(&mut bytes).await.unwrap();
    let text = str::from_utf8(&bytes[..length]).unwrap();
    assert!(text.starts_with("<1") && text.contains(" astrid - session.begin [meta sequenceId="), "{text}");
    assert!(text.contains("] CEF:0|Astrid|"), "{text}");
    let length = unix.recv(&mut bytes).await.unwrap();
    let text = str::from_utf8(&bytes[..length]).unwrap();
    assert!(text.starts_with("<110>1 ") && text.contains(" host host.start ok"), "{text}");

    // That it left the host is a fact, and not one for every delivery.
    let told = daemon.unix(Request::get("/api/sys/audit?method=sink.deliver&limit=1000")).await.expect(200);
    let count = |sink: &str, outcome: &str| {
        let facts = told["entries"].as_array().unwrap().iter().map(|entry| &entry["fact"]);
        facts.filter(|fact| fact["target"] == sink && fact["outcome"] == outcome).count()
    };
    assert_eq!((count("archive", "ok"), count("archive", "failed")), (2, 0), "{told}");
    assert!(count("siem", "ok") >= 1 && count("siem", "failed") >= 1, "{told}");
    assert!(count("nowhere", "refused") >= 1, "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_place_that_is_down_does_not_have_is_kept_and_goes_when_it_has_arrived() {
    let home = forwarding("siem=json", ", RETAIN_FACTS = 1");
    let token = home.beside().join("token");
    fs::write(&token, "Bearer collected\n").unwrap();
    // Nobody listens there yet.
    let siem = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (to, authorization) =
        (format!("sinks.siem.to=http://{siem}/facts"), format!("sinks.siem.authorization-file={}", token.display()));
    let daemon = home.start_with(&["--set", &to, "--set", &authorization]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    for _ in 0..600 {
        daemon.tcp(Request::get("/api/sys/status").bearer(&ada.bearer)).await.expect(200);
    }
    until_signed(&daemon, 600).await;
    // When it begins, it deletes what is not to be kept.
    let swap = || Request::post("/api/capsules/audit/swap", &json!({}));
    let waits = || daemon.stderr().matches("don't reach `siem`").count();
    let before = waits();
    daemon.unix(swap()).await.expect(200);
    wait(&daemon, || waits() > before).await;
    let collected = collector(siem, 0).await;
    let all = size(&daemon).await;
    wait(&daemon, || in_order(&collected.all(), |entry| entry["index"].as_u64().unwrap()) >= all).await;

    // Once more if it had not yet written down that the last of it arrived.
    let kept = async || {
        daemon.unix(swap()).await.expect(200);
        daemon.unix(Request::get("/api/sys/audit?from=0&limit=1")).await.json()["entries"][0]["index"].as_u64()
    };
    let began = Instant::now();
    while kept().await < Some(512) {
        assert!(began.elapsed() < DEADLINE, "{}", daemon.stderr());
    }
    assert!(!daemon.stderr().contains("are deleted, and `siem`"), "it has got everything");
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_place_that_hangs_has_one_delivery_at_a_time_and_whoever_asks_is_told_at_once() {
    // It accepts, and then neither reads nor closes.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let daemon = Daemon::start_with(&["--set", &format!("sinks.silent.to=tcp://{}", silent.local_addr().unwrap())]);
    install_guests(&daemon, &["reader"]);
    let deliver = |to: &str, entries: &[&str], wait_ms: u32| {
        bus("reader.v1.deliver", &json!({ "to": to, "entries": entries, "wait_ms": wait_ms }))
    };
    let (mut first, slow) = (daemon.connect_unix().await, deliver("silent", &["one"], 20_000));
    let first = tokio::spawn(async move { first.send(slow).await });
    // From now on the delivery is the first one's.
    let taken = tokio::task::spawn_blocking(move || silent.accept().map(|(stream, _)| (stream, silent)));
    let _silent = taken.await.expect("no panic").expect("a connection");
    let busy = |said: &str| said.contains("Busy");
    until(&daemon, deliver("silent", &["two"], 0), |answer| answer.status == 400 && busy(&answer.json().to_string()))
        .await;
    assert!(!first.is_finished(), "nobody has answered it");
    first.abort();
    let refused = daemon.unix(deliver("elsewhere", &["one"], 0)).await.refusal(400, "bad_request");
    assert!(refused.contains("NotFound"), "{refused}");
    let large = "x".repeat(61_441);
    let refused = daemon.unix(deliver("silent", &[&large], 0)).await.refusal(400, "bad_request");
    assert!(refused.contains("the largest of 61441"), "{refused}");
}

#[tokio::test]
async fn a_sink_that_can_not_be_and_a_rule_that_is_none_are_named_before_anything_is_lost() {
    let home = forwarding("archive=xml", "");
    let ended = home.try_start(&["--set", "sinks.archive.to=facts.jsonl"]).err().expect("it does not start");
    assert!(ended.stderr.contains("sinks.archive.to = \"facts.jsonl\": write file:///PATH"), "{ended:?}");
    let daemon = home.start();
    let capsules = daemon.unix(Request::get("/healthz")).await.json();
    assert!(capsules["capsules"]["failed"].to_string().contains("audit"), "{capsules}");
    assert!(daemon.stderr().contains("FORWARD: `archive=xml`: the format must be"), "{}", daemon.stderr());
}
