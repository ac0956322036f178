//! TLS: both versions of HTTP over it, certificates that change, and clients that are slow, greedy or hostile over it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use astrid_tests::DEADLINE;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, raw};
use astrid_tests::tls::{Connection, Pair, agreed, shake};
use http_body_util::BodyExt;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bad_input::{SLACK, held};
use crate::observation::{metrics, sum};
use crate::{install_guests, invite, key, public_hex, redemption, until};

/// What a client takes of an answer before it reads it.
const WINDOW: u32 = 65_535;
const HSTS: Option<&str> = Some("max-age=63072000; includeSubDomains");
const SECURE: [&str; 4] = ["--set", "http.tls.cert=cert.pem", "--set", "http.tls.key=key.pem"];

/// A home with a certificate in its `etc/`.
pub(crate) fn certified() -> (Home, Pair) {
    let (home, pair) = (Home::new(), Pair::new());
    let etc = home.path().join("etc");
    fs::create_dir_all(&etc).unwrap();
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o700)).unwrap();
    pair.write_cert(&etc);
    pair.write_key(&etc);
    (home, pair)
}

/// Such a home, and a daemon that speaks TLS.
pub(crate) fn start(sets: &[&str]) -> (Daemon, Pair) {
    let (home, pair) = certified();
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> = SECURE.into_iter().chain(sets).collect();
    (home.start_with(&arguments), pair)
}

/// That the owner's way in works, and nothing failed.
async fn assert_well(daemon: &Daemon) {
    let health = daemon.unix(Request::get("/healthz")).await.expect(200);
    assert_eq!(health["capsules"]["failed"], json!([]), "{health}");
}

/// The bearer of somebody new.
async fn bearer(daemon: &Daemon) -> String {
    let token = invite(daemon, "admin", 1).await;
    let redeemed = daemon.unix(redemption(&token, &public_hex(&key(1)))).await.expect(200);
    redeemed["session_token"].as_str().unwrap().to_owned()
}

/// Waits until only the owner is connected.
async fn until_alone(daemon: &Daemon) {
    let started = Instant::now();
    loop {
        let clients = daemon.unix(Request::get("/api/sys/status")).await.expect(200)["connected_clients"].clone();
        if clients == 1 {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "still {clients} connections");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn both_versions_of_http_get_the_same_answers_and_know_that_they_are_encrypted() {
    let (daemon, pair) = start(&[]);
    install_guests(&daemon, &["front"]);
    assert!(!daemon.stderr().contains("may be read by others"), "{}", daemon.stderr());

    let two = Connection::open(daemon.address(), &pair, WINDOW).await;
    for (offered, got) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)] {
        let stream = shake(daemon.address(), &pair, offered).await.unwrap();
        assert_eq!(agreed(&stream).as_deref(), got, "{offered:?}");
    }
    assert!(shake(daemon.address(), &pair, &["spdy/3"]).await.is_err());

    for (path, status) in [("/healthz", 200), ("/nothing", 404), ("/api/auth/me", 401), ("/front/echo", 200)] {
        let stream = shake(daemon.address(), &pair, &["http/1.1"]).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let one = raw(stream, head.as_bytes()).await;
        assert!(one.starts_with(&format!("HTTP/1.1 {status} ")), "{one}");
        assert!(one.contains(&format!("strict-transport-security: {}", HSTS.unwrap())), "{one}");
        let two = two.send(Request::get(path)).await.unwrap();
        assert_eq!((two.status, two.header("strict-transport-security")), (status, HSTS), "{path}");
        for header in ["x-content-type-options", "x-frame-options", "content-security-policy", "x-request-id"] {
            assert!(two.header(header).is_some() && one.contains(header), "{path}: {header}");
        }
        let local = daemon.unix(Request::get(path)).await;
        assert_eq!(local.header("strict-transport-security"), None);
    }
    let told = two.send(Request::get("/front/echo?a=b")).await.unwrap().expect(200);
    assert_eq!((&told["tls"], &told["address"], &told["query"]), (&json!(true), &json!("127.0.0.1"), &json!("a=b")));
    assert!(told["headers"].as_array().unwrap().contains(&json!(["host", "localhost"])), "{told}");
    assert_eq!(daemon.unix(Request::get("/front/echo")).await.expect(200)["tls"], false);

    // In the clear nothing is said.
    let clear = TcpStream::connect(daemon.address()).await.unwrap();
    let answer = raw(clear, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!answer.contains("HTTP/"), "{answer}");
    let counted = metrics(&daemon).await;
    assert!(sum(&counted, "astrid_http_handshakes_total", &[("outcome", "done")]) >= 8.0);
    assert!(sum(&counted, "astrid_http_handshakes_total", &[("outcome", "failed")]) >= 2.0);
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_one_that_does_not_fit_its_key_changes_nothing() {
    let (daemon, first) = start(&[]);
    let etc = daemon.home().path().join("etc");
    let kept = Connection::open(daemon.address(), &first, WINDOW).await;
    kept.send(Request::get("/healthz")).await.unwrap().expect(200);
    let until = async |shown: &Pair| {
        let started = Instant::now();
        while shake(daemon.address(), shown, &["h2"]).await.is_err() {
            assert!(started.elapsed() < DEADLINE, "{}", daemon.stderr());
        }
    };
    let until_said = async |what: &str| {
        let started = Instant::now();
        while !daemon.stderr().contains(what) {
            assert!(started.elapsed() < DEADLINE, "no {what}: {}", daemon.stderr());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };

    // Noticed without being told: half of a change is refused, the other half makes it whole.
    let second = Pair::new();
    second.write_cert(&etc);
    until_said("the certificate that was there before stays in use").await;
    assert!(daemon.stderr().contains("do not belong together"), "{}", daemon.stderr());
    shake(daemon.address(), &first, &["h2"]).await.unwrap();
    second.write_key(&etc);
    until(&second).await;
    assert!(shake(daemon.address(), &first, &["h2"]).await.is_err());

    // Or told.
    fs::write(etc.join("cert.pem"), "rubbish").unwrap();
    daemon.signal(Signal::HUP);
    until_said("holds no certificate").await;
    shake(daemon.address(), &second, &["h2"]).await.unwrap();
    let third = Pair::new();
    third.write_key(&etc);
    third.write_cert(&etc);
    daemon.signal(Signal::HUP);
    until(&third).await;
    kept.send(Request::get("/healthz")).await.unwrap().expect(200);
    assert_well(&daemon).await;
}

#[tokio::test]
async fn what_is_missing_stops_the_start_by_name_and_what_is_unwise_is_said() {
    let (daemon, pair) = start(&[]);
    let home = daemon.home().clone();
    let etc = home.path().join("etc");
    assert_eq!(daemon.stop().code, Some(0));
    for (sets, wants) in [
        (&["http.tls.cert=none.pem", "http.tls.key=key.pem"][..], &["http.tls.cert", "etc/none.pem", "can't read"][..]),
        (&["http.tls.cert=cert.pem", "http.tls.key=none.pem"], &["http.tls.key", "etc/none.pem", "can't read"]),
        (&["http.tls.cert=cert.pem", "http.tls.key=cert.pem"], &["http.tls.key", "etc/cert.pem", "no private key"]),
        (&["http.tls.cert=cert.pem"], &["http.tls.cert is set and http.tls.key is not"]),
        (&["http.tls.crt=cert.pem"], &["http.tls.crt", "did you mean `tls.cert`"]),
    ] {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let ended = home.try_start(&sets).map(|_| ()).unwrap_err();
        let said = ended.refusal(1);
        assert!(wants.iter().all(|want| said.contains(want)), "{wants:?}: {said}");
    }

    // As little as that keeps nothing from starting.
    fs::set_permissions(etc.join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let file = "[http.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n";
    fs::write(etc.join("config.toml"), file).unwrap();
    let open = home.start();
    assert!(open.stderr().contains("key.pem may be read by others (mode 0644); chmod 600"), "{}", open.stderr());
    Connection::open(open.address(), &pair, WINDOW).await;
    let report = open.astrid(&["doctor", "--json"]).json();
    let tls = report["checks"].as_array().unwrap().iter().find(|check| check["check"] == "tls").unwrap().clone();
    assert_eq!(tls["level"], "warn", "{tls}");
    assert!(tls["detail"].as_str().unwrap().contains("0644"), "{tls}");
    open.stop();
    fs::remove_file(etc.join("config.toml")).unwrap();
    let plain = home.try_start_at("0.0.0.0:0", &[]).unwrap();
    assert!(plain.stderr().contains("no loopback address, and there is no TLS"), "{}", plain.stderr());
}

#[tokio::test]
async fn over_http_2_heads_and_bodies_have_the_same_bounds() {
    let (daemon, pair) = start(&["http.body-timeout-secs=1"]);
    let two = Connection::open(daemon.address(), &pair, WINDOW).await;
    let ask = |body: usize| {
        let request = Request::new("POST", "/api/auth/challenge").header("content-type", "application/json");
        request.body("x".repeat(body))
    };
    two.send(ask(65_536)).await.unwrap().refusal(400, "bad_request");
    for body in [65_537, 1 << 20] {
        assert!(two.send(ask(body)).await.unwrap().refusal(413, "payload_too_large").contains("65536"), "{body}");
    }
    let many = |count: usize| {
        let start = Request::get("/healthz");
        (0..count).fold(start, |request, n| request.header(&format!("x-{n}"), "y"))
    };
    two.send(many(99)).await.unwrap().expect(200);
    assert_eq!(two.send(many(101)).await.unwrap().status, 431);
    let long = Request::get("/api/auth/me").header("large", &"y".repeat(32 * 1024));
    assert_eq!(two.send(long).await.unwrap().status, 431);
    let longer = Request::get("/api/auth/me").header("large", &"y".repeat(64 * 1024));
    let refused = two.send(longer).await;
    assert!(refused.as_ref().map_or(true, |answer| answer.status == 431), "{refused:?}");

    // Many at once on one connection, more than it takes: the others wait their turn.
    let two = Connection::open(daemon.address(), &pair, WINDOW).await;
    // From then on it knows how many.
    two.send(Request::get("/healthz")).await.unwrap().expect(200);
    let all = (0..100).map(|_| two.send(Request::get("/healthz")));
    for answer in futures_join(all.collect()).await {
        answer.unwrap().expect(200);
    }

    // A body that never comes.
    let mut slow = shake(daemon.address(), &pair, &["h2"]).await.unwrap();
    slow.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_HEADERS, 1, &post())].concat())
        .await
        .unwrap();
    let head = until_frame(&mut slow, HEADERS).await;
    // A status that stands in no table, as text or in Huffman's code: "408" is 011010 00000 011110.
    assert!(head.windows(3).any(|bytes| bytes == b"408" || (bytes[..2] == [0x68, 0x0f])), "{head:?}");
    assert_well(&daemon).await;
}

/// All of them, each as it comes.
async fn futures_join<F: Future + Send>(all: Vec<F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The reason of an end for somebody who asks too much.
const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /healthz`, or something of its size.
fn get() -> Vec<u8> {
    [&[0x82, 0x87, 0x84, 0x41, 9][..], b"localhost"].concat()
}

/// `POST /api/auth/challenge`.
fn post() -> Vec<u8> {
    [&[0x83, 0x87, 0x04, 19][..], b"/api/auth/challenge", &[0x41, 9], b"localhost"].concat()
}

/// The payload of the next frame of a kind; empty if the connection ends before.
async fn until_frame(stream: &mut (impl tokio::io::AsyncRead + Unpin), wanted: u8) -> Vec<u8> {
    let reading = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return Vec::new();
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                return Vec::new();
            }
            if head[3] == wanted {
                return payload;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap_or_else(|_| panic!("no such frame after {DEADLINE:?}"))
}

#[tokio::test]
async fn who_floods_a_connection_of_http_2_loses_it_and_nobody_else_notices() {
    let (daemon, pair) = start(&[]);
    let other = Connection::open(daemon.address(), &pair, WINDOW).await;
    let start = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let rapid: Vec<u8> = (0..1000_u32)
        .flat_map(|n| {
            let stream = 2 * n + 1;
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, &get()), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
        })
        .flatten()
        .collect();
    // A head that never ends, in pieces.
    let endless: Vec<u8> = std::iter::once(frame(HEADERS, 0, 1, &get()))
        .chain((0..5000).map(|_| frame(CONTINUATION, 0, 1, &[[0x40, 1, b'x', 100].as_slice(), &[b'y'; 100]].concat())))
        .flatten()
        .collect();
    let mut before = None;
    // The first time the allocator takes what it keeps; from then on nothing more.
    for flood in [&rapid, &endless, &rapid, &endless, &rapid, &endless] {
        let mut stream = shake(daemon.address(), &pair, &["h2"]).await.unwrap();
        // The host may close before all of it is written.
        let _ = stream.write_all(&[&start[..], flood].concat()).await;
        let goaway = until_frame(&mut stream, GOAWAY).await;
        assert!(goaway.is_empty() || goaway[4..8] == ENHANCE_YOUR_CALM, "{goaway:?}");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "it is still open");
        other.send(Request::get("/healthz")).await.unwrap().expect(200);
        drop(stream);
        if std::ptr::eq(flood, &endless) && before.is_none() {
            before = Some(held(&daemon).await);
        }
    }
    drop(other);
    until_alone(&daemon).await;
    let (files, bytes) = before.expect("it was flooded");
    let started = Instant::now();
    loop {
        let now = held(&daemon).await;
        if now.0 <= files && now.1 <= bytes + SLACK {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "files and bytes were {files} and {bytes}, and are {now:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn clients_that_are_slow_or_silent_are_let_go_each_after_the_time_for_it() {
    // Each has a second for what the test waits for, and an hour for the rest.
    let hour = |key: &str| format!("http.{key}-timeout-secs=3600");
    let only = |key: &str| {
        let all = ["handshake", "header", "body", "write", "idle"];
        all.into_iter().map(|k| if k == key { format!("http.{k}-timeout-secs=1") } else { hour(k) }).collect::<Vec<_>>()
    };
    let started = |key: &str| start(&only(key).iter().map(String::as_str).collect::<Vec<_>>());

    let (daemon, _) = started("handshake");
    for beginning in [&b""[..], b"\x16\x03\x01\x02\0\x01\0"] {
        assert_eq!(raw(TcpStream::connect(daemon.address()).await.unwrap(), beginning).await, "");
    }
    // A client may notice before it is counted.
    let late = "astrid_http_handshakes_total{outcome=\"late\"} 2\n";
    until(&daemon, Request::get("/metrics"), |exposed| String::from_utf8_lossy(&exposed.body).contains(late)).await;

    let (daemon, pair) = started("header");
    for (version, head) in
        [("http/1.1", &b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: "[..]), ("http/1.1", b""), ("h2", PREFACE)]
    {
        let answer = raw(shake(daemon.address(), &pair, &[version]).await.unwrap(), head).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    // The time for a head begins with its first byte: in between an hour may pass, but then not a second.
    let kept = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhost:";
    let mut stream = shake(daemon.address(), &pair, &["http/1.1"]).await.unwrap();
    stream.write_all(&kept[..36]).await.unwrap();
    stream.read_u8().await.unwrap();
    let answer = raw(stream, &kept[36..]).await;
    assert_eq!(answer.matches(" 200 ").count(), 1, "{answer}");

    let (daemon, pair) = started("idle");
    let mut two = Connection::open(daemon.address(), &pair, WINDOW).await;
    two.send(Request::get("/healthz")).await.unwrap().expect(200);
    two.ended().await;
    let stream = shake(daemon.address(), &pair, &["http/1.1"]).await.unwrap();
    let answer = raw(stream, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(answer.matches(" 200 ").count(), 1, "{answer}");
    until_alone(&daemon).await;
}

#[tokio::test]
async fn who_reads_nothing_of_one_answer_of_many_loses_the_connection_after_its_time() {
    let (daemon, pair) = start(&["http.write-timeout-secs=1"]);
    install_guests(&daemon, &["live"]);
    let ada = bearer(&daemon).await;
    // It takes nothing at all of any answer.
    let mut two = Connection::open(daemon.address(), &pair, 0).await;
    let begun = two.begin(Request::get("/live/count?to=100000").bearer(&ada)).await.unwrap();
    assert_eq!(begun.status(), 200);
    two.ended().await;
    assert!(begun.into_body().collect().await.is_err());
    // Nor where the whole answer is there at once, however small.
    for path in ["/healthz", "/api/openapi.json"] {
        let mut whole = Connection::open(daemon.address(), &pair, 0).await;
        let _unread = whole.begin(Request::get(path)).await.unwrap();
        whole.ended().await;
    }
    until_alone(&daemon).await;
    // One that waits for its source is no such thing.
    let patient = Connection::open(daemon.address(), &pair, WINDOW).await;
    let mut open = patient.begin(Request::get("/live/said").bearer(&ada)).await.unwrap();
    let first = open.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b": live"), "{first:?}");
    let mut cut = Connection::open(daemon.address(), &pair, 0).await;
    let _unread = cut.begin(Request::get("/live/count?to=100000").bearer(&ada)).await.unwrap();
    cut.ended().await;
    patient.send(Request::get("/healthz")).await.unwrap().expect(200);
    assert_well(&daemon).await;
}
