//! Answers that go on after their handler: who gets what, what holds up whom, and every way in which they end.

use astrid_capsule::archive::Archive;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Streaming, raw};
use astrid_tests::{DEADLINE, pack};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::observation::{metrics, sum};
use crate::{Person, assert_well, install, install_guests, join};

/// A letter of this size reaches a subscription's bound with two others.
const LARGE: usize = 30_000;

fn publish(topic: &str, payload: &Value) -> Request {
    Request::post(&format!("/api/bus/publish/{topic}"), payload)
}

async fn say(daemon: &Daemon, person: &Person, topic: &str, payload: &Value) -> Value {
    daemon.unix(publish(topic, payload).bearer(&person.bearer)).await.expect(202)
}

/// A stream of somebody's, past what its handler itself answered.
async fn open(daemon: &Daemon, person: &Person, path: &str) -> Streaming {
    let socket = TcpStream::connect(daemon.address()).await.expect("a listener");
    past_the_beginning(socket, person, path).await
}

/// The same over the Unix socket, which holds little that nobody reads.
async fn open_unix(daemon: &Daemon, person: &Person, path: &str) -> Streaming {
    let socket = UnixStream::connect(daemon.socket()).await.expect("a listener");
    past_the_beginning(socket, person, path).await
}

async fn past_the_beginning(
    socket: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    person: &Person,
    path: &str,
) -> Streaming {
    let mut stream = Streaming::open(socket, Request::get(path).bearer(&person.bearer)).await;
    assert_eq!(stream.status, 200, "{:?}", stream.headers);
    assert_eq!(stream.next().await, Ok(Some(": live-one".into())));
    stream
}

/// Name, version that made it, and data of the next event.
#[track_caller]
fn event(text: &str) -> (String, String, String) {
    let mut lines = text.splitn(3, '\n');
    let mut field = |name: &str| {
        let line = lines.next().unwrap_or_default();
        line.strip_prefix(name).unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    };
    (field("event: "), field("id: "), field("data: "))
}

async fn next(stream: &mut Streaming) -> (String, String, String) {
    event(&stream.next().await.expect("whole").expect("one more"))
}

/// The next event is this message.
async fn assert_message(stream: &mut Streaming, payload: &Value) {
    let (name, _, data) = next(stream).await;
    assert_eq!((name.as_str(), data), ("message", payload.to_string()));
}

async fn open_relays(daemon: &Daemon) -> f64 {
    sum(&metrics(daemon).await, "astrid_http_relays", &[])
}

/// Looks until it is so.
pub(crate) async fn until_measured(daemon: &Daemon, what: &str, fits: impl Fn(f64) -> bool) {
    let started = std::time::Instant::now();
    loop {
        let value = sum(&metrics(daemon).await, what, &[]);
        if fits(value) {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{what} is {value}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn events_arrive_in_order_and_each_principal_gets_its_own() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let (mut of_ada, mut of_bob) = (open(&daemon, &ada, "/live/said").await, open(&daemon, &bob, "/live/said").await);
    assert_eq!(of_ada.headers["transfer-encoding"], "chunked");
    assert_eq!(of_ada.headers["content-type"], "text/event-stream");
    for n in 0..100 {
        assert_eq!(say(&daemon, &ada, "live.v1.said", &json!(n)).await["delivered"], 1);
        if n % 10 == 0 {
            say(&daemon, &bob, "live.v1.said", &json!({ "bob": n })).await;
        }
    }
    for n in 0..100 {
        assert_message(&mut of_ada, &json!(n)).await;
        if n % 10 == 0 {
            assert_message(&mut of_bob, &json!({ "bob": n })).await;
        }
    }
    assert_eq!(open_relays(&daemon).await, 2.0);
    assert_well(&daemon).await;
}

#[tokio::test]
async fn an_answer_in_pieces_arrives_whole_with_its_failure_and_then_the_body_ends() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut stream = open(&daemon, &ada, "/live/count?to=500").await;
    for n in 1..=500 {
        let (name, _, data) = next(&mut stream).await;
        assert_eq!((name.as_str(), data), ("piece", n.to_string()));
    }
    let (name, _, data) = next(&mut stream).await;
    assert_eq!((&*name, &*data), ("end", "there are more numbers"));
    assert_eq!(stream.next().await, Ok(None));
    until_measured(&daemon, "astrid_http_relays", |open| open == 0.0).await;
}

#[tokio::test]
async fn a_relay_ends_where_its_capsule_says_so_and_there_is_a_sign_of_life_when_nothing_comes() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut stream = open(&daemon, &ada, "/live/said?idle=1000").await;
    for _ in 0..2 {
        assert_eq!(next(&mut stream).await.0, "idle");
    }
    say(&daemon, &ada, "live.v1.said", &json!("still there")).await;
    assert_message(&mut stream, &json!("still there")).await;
    let mut stream = open(&daemon, &ada, "/live/said/last").await;
    say(&daemon, &ada, "live.v1.said", &json!("the only one")).await;
    assert_message(&mut stream, &json!("the only one")).await;
    assert_eq!(stream.next().await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_of_life_comes_however_busy_a_stream_is_and_is_due_to_no_message() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    // At each sign of life it begins a circle of messages to itself, which the bus ends.
    let mut stream = open(&daemon, &ada, "/live/heard/circle?idle=1000").await;
    let (mut connection, busy) = (daemon.connect().await, publish("live.v1.heard", &json!("busy")).bearer(&ada.bearer));
    let load = tokio::spawn(async move {
        loop {
            connection.send(busy.clone()).await.expect("an answer").expect(202);
        }
    });
    let (mut circles, mut deepest) = (0, 0);
    while circles < 3 {
        let (name, _, data) = next(&mut stream).await;
        deepest = deepest.max(data.parse().unwrap_or(0));
        circles += usize::from(name == "deep");
    }
    assert!(deepest > 2, "{deepest}");
    assert!(!load.is_finished(), "it was busy all the time");
    load.abort();
}

#[tokio::test]
async fn a_hundred_streams_at_once_each_get_everything_that_was_published_for_them() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let mut readers = JoinSet::new();
    for n in 0..100 {
        let person = if n % 2 == 0 { &ada } else { &bob };
        let (mut stream, name) = (open(&daemon, person, "/live/said").await, person.principal.clone());
        readers.spawn(async move {
            for n in 0..50 {
                assert_message(&mut stream, &json!([name, n])).await;
            }
        });
    }
    for n in 0..50 {
        for person in [&ada, &bob] {
            let payload = json!([person.principal, n]);
            assert_eq!(say(&daemon, person, "live.v1.said", &payload).await["delivered"], 50);
        }
    }
    while let Some(read) = readers.join_next().await {
        read.expect("everything in order");
    }
}

#[tokio::test]
async fn when_the_client_goes_everything_of_its_stream_is_gone() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let streams = [open(&daemon, &ada, "/live/said").await, open_unix(&daemon, &ada, "/live/said").await];
    assert_eq!(say(&daemon, &ada, "live.v1.said", &json!(1)).await["delivered"], 2);
    drop(streams);
    until_measured(&daemon, "astrid_http_relays", |open| open == 0.0).await;
    let refused = daemon.unix(publish("live.v1.said", &json!(2)).bearer(&ada.bearer)).await;
    assert_eq!(refused.json()["delivered"], 0, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_holds_up_who_publishes_for_it_and_nobody_else_and_loses_nothing() {
    const LETTERS: usize = 100;
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let mut unread = open_unix(&daemon, &ada, "/live/said").await;
    let mut read = open(&daemon, &bob, "/live/said").await;
    let mut connection = daemon.connect_unix().await;
    let letter = |n: usize| json!([n, "x".repeat(LARGE)]);
    let bearer = ada.bearer.clone();
    let publishing = tokio::spawn(async move {
        for n in 0..LETTERS {
            let request = publish("live.v1.said", &letter(n)).bearer(&bearer);
            assert_eq!(connection.send(request).await.expect("an answer").expect(202)["delivered"], 1);
        }
    });
    // More waits than its queue may hold: whoever published the last of it waits with it.
    until_measured(&daemon, "astrid_bus_queue_bytes", |bytes| bytes > 65_536.0).await;
    for n in 0..20 {
        say(&daemon, &bob, "live.v1.said", &json!(n)).await;
        assert_message(&mut read, &json!(n)).await;
    }
    daemon.tcp(Request::get("/healthz")).await.expect(200);
    assert!(!publishing.is_finished());
    for n in 0..LETTERS {
        assert_message(&mut unread, &letter(n)).await;
    }
    publishing.await.expect("every letter was taken");
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off_and_everything_of_its_stream_is_gone() {
    let daemon = Daemon::start_with(&["--set", "http.write-timeout-secs=1"]);
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut unread = open_unix(&daemon, &ada, "/live/heard").await;
    let letter = json!("x".repeat(LARGE));
    // Until its stream is gone: what is lost of a lossy subscription is not delivered either.
    let started = std::time::Instant::now();
    while open_relays(&daemon).await > 0.0 {
        assert!(started.elapsed() < DEADLINE);
        daemon.unix(publish("live.v1.heard", &letter).bearer(&ada.bearer)).await;
    }
    let answer = daemon.unix(publish("live.v1.heard", &letter).bearer(&ada.bearer)).await;
    assert_eq!(answer.json()["delivered"], 0);
    while let Ok(event) = unread.next().await {
        assert!(event.is_some(), "the client must see that something is missing");
    }
}

#[tokio::test]
async fn what_a_slow_client_has_lost_of_a_lossy_subscription_is_told_in_its_place() {
    const LETTERS: u64 = 100;
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut stream = open_unix(&daemon, &ada, "/live/heard").await;
    let letter = |n: u64| json!([n, "x".repeat(LARGE)]);
    for n in 0..LETTERS {
        daemon.unix(publish("live.v1.heard", &letter(n)).bearer(&ada.bearer)).await.expect(202);
    }
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < LETTERS {
        let (name, _, data) = next(&mut stream).await;
        match data.strip_prefix("ada ") {
            Some(gap) if name == "gap" => lost += gap.parse::<u64>().expect("a number"),
            _ => {
                let got: Value = serde_json::from_str(&data).expect("JSON");
                assert_eq!(got[0], seen + lost, "{name}");
                seen += 1;
            }
        }
    }
    assert!(lost > 0 && seen > 2, "{lost} of {LETTERS} were lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_in_the_next_version_and_loses_and_doubles_nothing() {
    const LETTERS: usize = 300;
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut stream = open(&daemon, &ada, "/live/said").await;
    let mut connection = daemon.connect_unix().await;
    let (bearer, (told, mut published)) = (ada.bearer.clone(), tokio::sync::watch::channel(0));
    let publishing = tokio::spawn(async move {
        for n in 0..LETTERS {
            let request = publish("live.v1.said", &json!(n)).bearer(&bearer);
            assert_eq!(connection.send(request).await.expect("an answer").expect(202)["delivered"], 1);
            let _ = told.send(n);
        }
    });
    published.wait_for(|n| *n >= 20).await.expect("it goes on");
    let component = pack::patched(&pack::read("live").component, "live-one", "live-two");
    let mut manifest = pack::read("live").manifest;
    manifest.package.version = "0.2.0".parse().expect("a version");
    let second = pack::write(daemon.home().beside(), "second", &manifest, &component);
    assert_eq!(install(&daemon, &second)["previous_version"], "0.1.0");
    publishing.await.expect("each reached the stream");
    say(&daemon, &ada, "live.v1.said", &json!("afterwards")).await;
    for n in 0..LETTERS {
        assert_message(&mut stream, &json!(n)).await;
    }
    let (name, version, data) = next(&mut stream).await;
    assert_eq!((&*name, &*version, &*data), ("message", "live-two", "\"afterwards\""));
}

#[tokio::test]
async fn a_version_that_relays_no_more_cuts_the_streams_of_the_one_before() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let (mut idle, mut stream) = (open(&daemon, &ada, "/live/heard").await, open(&daemon, &ada, "/live/said").await);
    let other = pack::repacked(daemon.home().beside(), "other", "front", |manifest| {
        manifest.package.name = "live".into();
        manifest.package.version = "0.2.0".parse().expect("a version");
        manifest.http.as_mut().expect("a front end").mounts = vec!["/live".into()];
    });
    assert_eq!(install(&daemon, &other)["previous_version"], "0.1.0");
    say(&daemon, &ada, "live.v1.said", &json!(1)).await;
    assert!(stream.next().await.is_err());
    until_measured(&daemon, "astrid_http_relays", |open| open == 1.0).await;
    say(&daemon, &ada, "live.v1.heard", &json!(1)).await;
    assert!(idle.next().await.is_err());
    assert_well(&daemon).await;
}

#[tokio::test]
async fn what_one_call_leaves_in_the_context_of_its_relay_the_next_one_gets_and_no_other_relay() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut stream = open(&daemon, &ada, "/live/said/seen0").await;
    let mut other = open(&daemon, &ada, "/live/said/seen100").await;
    for n in 0..5 {
        say(&daemon, &ada, "live.v1.said", &json!(n)).await;
        for (stream, from) in [(&mut stream, 0), (&mut other, 100)] {
            let (name, _, seen) = next(stream).await;
            assert_eq!((name.as_str(), seen), ("seen", (from + n).to_string()));
            assert_message(stream, &json!(n)).await;
        }
    }
}

#[tokio::test]
async fn a_trap_cuts_its_stream_and_no_other() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut others = open(&daemon, &ada, "/live/said").await;
    for cut in ["/live/said/trap", "/live/said/large", "/live/said/context"] {
        let mut stream = open(&daemon, &ada, cut).await;
        say(&daemon, &ada, "live.v1.said", &json!(cut)).await;
        assert!(stream.next().await.is_err(), "{cut}: the client must see that something is missing");
        assert_message(&mut others, &json!(cut)).await;
    }
    for why in ["more than 1048576", "a context of 16385 bytes, more than 16384"] {
        assert!(daemon.stderr().contains(why), "{}", daemon.stderr());
    }
    until_measured(&daemon, "astrid_http_relays", |open| open == 1.0).await;
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_relay_out_of_bounds_is_the_capsules_failure_and_one_too_many_is_told_to_wait() {
    let daemon = Daemon::start_with(&["--set", "http.max-relays=2"]);
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let get = |path: &str| Request::get(path).bearer(&ada.bearer);
    for (path, logged) in [
        ("/live/said?context=16385", "the context of its relay has 16385 bytes, more than 16384"),
        ("/live/said?idle=999", "the idle-ms of its relay is 999"),
    ] {
        daemon.tcp(get(path)).await.refusal(502, "unavailable");
        assert!(daemon.stderr().contains(logged), "{}", daemon.stderr());
    }
    let first = open(&daemon, &ada, "/live/said?context=16384").await;
    let _second = open(&daemon, &ada, "/live/said?idle=1000").await;
    assert_eq!(daemon.tcp(get("/live/said")).await.refusal(503, "overloaded"), "no room now");
    // Without a body there is nothing that could go on.
    let head = Request::new("HEAD", "/live/said").bearer(&ada.bearer);
    assert_eq!(daemon.tcp(head).await.status, 200);
    assert_eq!(open_relays(&daemon).await, 2.0);
    assert_eq!(say(&daemon, &ada, "live.v1.said", &json!(1)).await["delivered"], 2);
    drop(first);
    until_measured(&daemon, "astrid_http_relays", |open| open == 1.0).await;
    open(&daemon, &ada, "/live/said").await;
}

#[tokio::test]
async fn a_stream_ends_when_the_standing_of_its_principal_changes_and_nobody_elses_does() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let (mut of_ada, mut of_bob) = (open(&daemon, &ada, "/live/said").await, open(&daemon, &bob, "/live/said").await);
    daemon.astrid(&["quota", "set", "bob", "max_concurrent_calls=5"]).out();
    assert_eq!(of_bob.next().await, Ok(None), "idle, and told at once");
    say(&daemon, &ada, "live.v1.said", &json!(1)).await;
    assert_message(&mut of_ada, &json!(1)).await;
    // Whoever may still act opens another one.
    let mut of_bob = open(&daemon, &bob, "/live/said").await;
    say(&daemon, &bob, "live.v1.said", &json!(2)).await;
    assert_message(&mut of_bob, &json!(2)).await;
}

/// `i64.const` of the seconds that a session lasts, and of fewer in as many bytes.
const EIGHT_HOURS: [u8; 4] = [0x42, 0x80, 0xe1, 0x01];
const TWENTY_SECONDS: [u8; 4] = [0x42, 0x94, 0x80, 0x00];

#[tokio::test]
async fn a_stream_ends_with_the_session_through_which_it_was_opened_although_nothing_comes() {
    let home = Home::new();
    let Archive { manifest, mut component, schemas, .. } = pack::read("identity");
    let places: Vec<usize> =
        component.windows(4).enumerate().filter(|(_, bytes)| **bytes == EIGHT_HOURS).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the session's lifetime is no constant any more");
    for at in places {
        component[at..at + 4].copy_from_slice(&TWENTY_SECONDS);
    }
    pack::write_typed(&home.path().join("distro"), "identity", &manifest, &component, &schemas);
    let daemon = home.start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut stream = open(&daemon, &ada, "/live/said").await;
    say(&daemon, &ada, "live.v1.said", &json!(1)).await;
    assert_message(&mut stream, &json!(1)).await;
    assert_eq!(stream.next().await, Ok(None));
    daemon.tcp(Request::get("/api/auth/me").bearer(&ada.bearer)).await.refusal(401, "unauthorized");
    until_measured(&daemon, "astrid_http_relays", |open| open == 0.0).await;
}

#[tokio::test]
async fn an_old_client_gets_the_body_until_the_connection_closes() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let socket = TcpStream::connect(daemon.address()).await.expect("a listener");
    let request = format!("GET /live/count?to=3 HTTP/1.0\r\nauthorization: Bearer {}\r\n\r\n", ada.bearer);
    let answer = raw(socket, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let head = head.to_lowercase();
    assert!(head.starts_with("http/1.0 200") && !head.contains("transfer-encoding"), "{head}");
    assert!(body.starts_with(": live-one\n\nevent: piece\n") && body.ends_with("there are more numbers\n\n"), "{body}");
}

#[tokio::test]
async fn a_stop_ends_two_hundred_streams_at_its_beginning_and_cuts_none() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut streams = Vec::new();
    for _ in 0..200 {
        streams.push(open(&daemon, &ada, "/live/said").await);
    }
    assert_eq!(open_relays(&daemon).await, 200.0);
    daemon.signal(Signal::TERM);
    for stream in &mut streams {
        assert_eq!(stream.next().await, Ok(None));
    }
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("left at the end of the drain"), "{ended:?}");
}

#[tokio::test]
async fn a_thousand_idle_streams_take_little_and_hold_no_instance() {
    const STREAMS: usize = 1_000;
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let resident = async || sum(&metrics(&daemon).await, "process_resident_memory_bytes", &[]);
    // What the first crowd warms up is not what an idle stream takes.
    for crowd in [STREAMS / 4, STREAMS] {
        let before = resident().await;
        let mut streams = Vec::new();
        for _ in 0..crowd {
            streams.push(open(&daemon, &ada, "/live/said").await);
        }
        let each = (resident().await - before) / crowd as f64;
        eprintln!("{crowd} streams: {each:.0} bytes each");
        assert!(each < 32.0 * 1024.0, "{each}");
        let health = daemon.tcp(Request::get("/healthz")).await.expect(200);
        assert_eq!(health["pool"]["in_use"], crate::RESIDENT, "{health}");
        drop(streams);
        until_measured(&daemon, "astrid_http_relays", |open| open == 0.0).await;
    }
}

#[tokio::test]
async fn a_relay_whose_principal_is_over_its_rate_waits_and_loses_nothing() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let bob = join(&daemon, "agent", "bob", 2).await;
    // A call costs more than a second earns, so each leaves a debt.
    daemon.astrid(&["quota", "set", "bob", "max_cpu_fuel_per_sec=1000000"]).out();
    let mut stream = open(&daemon, &bob, "/live/count?to=200").await;
    for n in 1..=200 {
        let (name, _, data) = next(&mut stream).await;
        assert_eq!((name.as_str(), data), ("piece", n.to_string()));
    }
    let calls = metrics(&daemon).await;
    let of = |outcome: &str| sum(&calls, "astrid_http_relay_calls_total", &[("capsule", "live"), ("outcome", outcome)]);
    assert!(of("ok") >= 4.0 && of("overloaded") >= 1.0, "{} ok, {} overloaded", of("ok"), of("overloaded"));
}
