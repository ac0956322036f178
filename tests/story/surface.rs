//! Paths, methods and shapes on both sockets, and clients that send anything but requests.

use astrid_tests::DEADLINE;
use astrid_tests::daemon::Daemon;
use astrid_tests::http::{Request, Response, raw};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::{assert_well, bus, fingerprint, install_guests, invite, join, until};

/// The most that a JSON route takes, in bytes.
const BODY: usize = 64 * 1024;

/// The same request on both sockets, with the rights of an administrator on either.
async fn both(daemon: &Daemon, bearer: &str, request: Request) -> [Response; 2] {
    [daemon.tcp(request.clone().bearer(bearer)).await, daemon.unix(request).await]
}

fn assert_hardened(response: &Response) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(response.header(name), Some(value), "{response:?}");
    }
    assert!(response.header("x-request-id").is_some(), "{response:?}");
}

#[tokio::test]
async fn every_route_with_a_parameter_takes_it_in_any_spelling_and_only_as_one_segment() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo", "counter"]);

    for spelling in [
        |f: &str| f.to_owned(),
        |f: &str| f.to_uppercase(),
        |f: &str| f.bytes().map(|b| format!("%{b:02X}")).collect(),
        |f: &str| format!("%{:02x}{}", f.as_bytes()[0], &f[1..]),
    ] {
        let token = invite(&daemon, "agent", 1).await;
        let path = format!("/api/sys/invites/{}", spelling(&fingerprint(&token)));
        let response = daemon.unix(Request::delete(&path)).await;
        assert_eq!((response.status, response.body.len()), (204, 0), "{path}");
        daemon.unix(Request::delete(&path)).await.refusal(404, "not_found");
    }

    for topic in ["echo.v1.say", "echo%2Ev1%2esay", "%65cho.v1.say"] {
        assert_eq!(daemon.unix(bus(topic, &json!({ "a": [1, "ü"] }))).await.expect(200), json!({ "a": [1, "ü"] }));
    }
    assert_eq!(daemon.unix(bus("echo.v1.say?timeout_ms=5000&target=default", &json!(1))).await.expect(200), json!(1));
    let publish = Request::post("/api/bus/publish/counter%2Ev1%2Eincrement", &json!({ "key": "n" }));
    assert_eq!(daemon.unix(publish).await.expect(202), json!({ "delivered": 1 }));
    until(&daemon, bus("counter.v1.get", &json!({ "key": "n" })), |counted| counted.status == 200).await;
    let nobody = Request::post("/api/bus/publish/nobody.v1.home", &json!({}));
    assert_eq!(daemon.unix(nobody).await.expect(202), json!({ "delivered": 0 }));

    for parameter in ["%2F", "a%2Fb", "%", "%4", "%zz", "%ff", "%00", "a%0ab", "echo..say", "echo.*", "%20"] {
        for path in ["/api/bus/request/", "/api/bus/publish/"] {
            daemon.unix(Request::post(&format!("{path}{parameter}"), &json!({}))).await.refusal(400, "bad_request");
        }
        let path = format!("/api/sys/invites/{parameter}");
        daemon.unix(Request::delete(&path)).await.refusal(400, "bad_request");
    }
    for query in
        ["?x=1", "?target=a/b", "?target=a&target=b", "?timeout_ms=-1", "?timeout_ms=99999999999", "?target=%ff"]
    {
        let reason = daemon.unix(bus(&format!("echo.v1.say{query}"), &json!({}))).await.refusal(400, "bad_request");
        assert!(!reason.is_empty(), "{query}");
    }
    let reason = daemon.unix(bus("nobody.v1.home", &json!({}))).await.refusal(404, "not_found");
    assert!(!reason.is_empty());
}

#[tokio::test]
async fn whatever_is_refused_has_the_one_shape_on_tcp_and_on_the_unix_socket() {
    let daemon = Daemon::start();
    let root = join(&daemon, "admin", "root", 1).await;

    for path in [
        "/",
        "/api",
        "/api/",
        "/api/nothing",
        "/api/auth/me/",
        "/API/auth/me",
        "//api/auth/me",
        "/api/../healthz",
        "/api/sys/invites/",
        "/api/sys/invites/a/b",
        "/api/bus/request",
        "/healthz/",
        "/metrics/x",
        "/front/echo",
    ] {
        for method in ["GET", "POST", "BREW"] {
            for response in both(&daemon, &root.bearer, Request::new(method, path)).await {
                response.refusal(404, "not_found");
                assert_hardened(&response);
            }
        }
    }
    for (method, path, allow) in [
        ("DELETE", "/api/sys/invites", "GET, POST, HEAD, OPTIONS"),
        ("GET", "/api/sys/invites/a", "DELETE, OPTIONS"),
        ("HEAD", "/api/auth/redeem", "POST, OPTIONS"),
        ("PUT", "/api/auth/me", "GET, HEAD, OPTIONS"),
        ("BREW", "/api/bus/request/a.b", "POST, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
    ] {
        for response in both(&daemon, &root.bearer, Request::new(method, path)).await {
            assert_eq!((response.status, response.header("allow")), (405, Some(allow)), "{method} {path}");
            assert_hardened(&response);
            if method != "HEAD" {
                response.refusal(405, "method_not_allowed");
            }
        }
    }
    for response in both(&daemon, &root.bearer, Request::new("OPTIONS", "/api/capsules")).await {
        assert_eq!((response.status, response.header("allow")), (204, Some("GET, POST, HEAD, OPTIONS")));
    }

    // HEAD is GET without the body, its length included.
    for path in ["/api/auth/me", "/healthz", "/api/capsules"] {
        let [head, _] = both(&daemon, &root.bearer, Request::new("HEAD", path)).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert!(head.header("content-length").is_some_and(|length| length != "0"), "{head:?}");
        let raw = raw(
            TcpStream::connect(daemon.address()).await.unwrap(),
            format!(
                "HEAD {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
                root.bearer
            )
            .as_bytes(),
        )
        .await;
        assert!(raw.starts_with("HTTP/1.1 200") && raw.ends_with("\r\n\r\n"), "{raw}");
    }

    let json_body = json!({ "group": "agent", "max_uses": 1 }).to_string();
    let issue = || Request::new("POST", "/api/sys/invites");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application", "", "*/*"] {
        for response in both(&daemon, &root.bearer, issue().header("content-type", kind).body(&*json_body)).await {
            response.refusal(415, "unsupported_media_type");
        }
    }
    let encoded = issue().header("content-type", "application/json").header("content-encoding", "gzip");
    for request in [issue().body(&*json_body), encoded.body(&*json_body)] {
        for response in both(&daemon, &root.bearer, request).await {
            response.refusal(415, "unsupported_media_type");
        }
    }
    let lenient = issue().header("content-type", "Application/JSON; charset=utf-8").body(&*json_body);
    for response in both(&daemon, &root.bearer, lenient).await {
        response.expect(200);
    }

    let json = |body: &[u8]| issue().header("content-type", "application/json").body(body);
    let exactly = format!("{{\"group\":\"agent\",\"max_uses\":1{}}}", " ".repeat(BODY - 30));
    assert_eq!(exactly.len(), BODY);
    for response in both(&daemon, &root.bearer, json(exactly.as_bytes())).await {
        response.expect(200);
    }
    let deep = [b"[".repeat(BODY / 2), b"]".repeat(BODY / 2)].concat();
    let bodies: [&[u8]; 10] = [
        b"",
        b"{",
        b"{}{}",
        b"{\"group\":\"agent\",\"max_uses\":1",
        b"nonsense",
        b"\xff\xfe",
        b"{\"group\":\"\xff\"}",
        b"[\"agent\",1]",
        &deep,
        &b"[".repeat(BODY),
    ];
    for body in bodies {
        for response in both(&daemon, &root.bearer, json(body)).await {
            assert!(!response.refusal(400, "bad_request").is_empty());
        }
    }
    for (field, value) in [
        ("max_uses", json!(0)),
        ("max_uses", json!(-1)),
        ("max_uses", json!(1.5)),
        ("max_uses", json!(10_001)),
        ("max_uses", json!("1")),
        ("group", json!("nobody")),
        ("group", json!(7)),
        ("expires_secs", json!(2_592_001)),
        ("metadata", json!({ "k": 1 })),
        ("colour", json!("red")),
    ] {
        let mut body = json!({ "group": "agent", "max_uses": 1 });
        body[field] = value;
        for response in both(&daemon, &root.bearer, Request::post("/api/sys/invites", &body)).await {
            response.refusal(400, "bad_request");
        }
    }
    for response in both(&daemon, &root.bearer, json(&[exactly.as_bytes(), b" "].concat())).await {
        assert!(response.refusal(413, "payload_too_large").contains("65536"));
        assert_hardened(&response);
    }
    assert_well(&daemon).await;
}

/// What the daemon says to raw bytes on a TCP connection until it closes it.
async fn over_tcp(daemon: &Daemon, bytes: impl AsRef<[u8]>) -> String {
    raw(TcpStream::connect(daemon.address()).await.unwrap(), bytes.as_ref()).await
}

#[tokio::test]
async fn no_bytes_make_the_listener_do_more_than_refuse_them_and_close() {
    // One second for heads and bodies, so that those that never end are seen to be let go.
    let daemon = Daemon::start_with(&["--set", "http.header-timeout-secs=1", "--set", "http.body-timeout-secs=1"]);
    let head = "POST /api/auth/redeem HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";

    // The limit on bodies holds before they are read, and while they are, however they are framed.
    let length = |length: u64| format!("{head}content-length: {length}\r\n\r\n");
    let chunk = |size: usize| format!("{head}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{}", "x".repeat(size));
    let one_more = BODY as u64 + 1;
    for bytes in [
        length(one_more),
        length(99_999_999_999),
        length(1 << 24) + &"x".repeat(1 << 24),
        format!("{head}expect: 100-continue\r\ncontent-length: {one_more}\r\n\r\n"),
        chunk(BODY + 1),
        chunk(1 << 24),
    ] {
        let unix = raw(UnixStream::connect(daemon.socket()).await.unwrap(), bytes.as_bytes()).await;
        for answer in [over_tcp(&daemon, &bytes).await, unix] {
            assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("\"payload_too_large\""), "{answer}");
            assert!(answer.contains("connection: close"), "{answer}");
        }
    }

    // What can't be framed without doubt is no request, and nothing after it is one.
    let get = "GET /healthz HTTP/1.1\r\nhost: x\r\n";
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x-large: {}\r\n", "y".repeat(64 * 1024));
    let long = "a".repeat(100_000);
    for (bytes, status) in [
        (format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\n{{}}   "), 400),
        (format!("{head}content-length: 5, 6\r\n\r\n{{}}   "), 400),
        (format!("{head}content-length: -1\r\n\r\n"), 400),
        (format!("{head}content-length: 0x2\r\n\r\n{{}}"), 400),
        (format!("{head}content-length: 99999999999999999999999\r\n\r\n"), 400),
        (format!("{head}transfer-encoding: gzip\r\n\r\n{{}}"), 400),
        (format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"), 400),
        (format!("{get}{many}\r\n"), 431),
        (format!("{get}{large}\r\n"), 431),
        (format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), 431),
        (format!("{get}bad header: x\r\n\r\n"), 400),
        (format!("{get}x: a\0b\r\n\r\n"), 400),
        ("GET /healthz HTTP/9.9\r\n\r\n".into(), 400),
        ("GET  /healthz HTTP/1.1\r\n\r\n".into(), 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03 a TLS greeting".into(), 400),
        ("CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(), 400),
        ("OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(), 400),
    ] {
        let answer = over_tcp(&daemon, bytes.clone() + get + "\r\n").await;
        let shown = &bytes[..bytes.len().min(99)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shown:?}: {answer}");
    }
    // HTTP/2 is not spoken without TLS.
    assert_eq!(over_tcp(&daemon, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "");

    // A full address is a path as well, and a request of HTTP/1.0 is answered.
    let absolute = over_tcp(&daemon, "GET http://x/healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let old = over_tcp(&daemon, "GET /healthz HTTP/1.0\r\n\r\n").await;
    for answer in [absolute, old] {
        assert!(answer[8..].starts_with(" 200 "), "{answer}");
    }

    // Who never ends a head or a body is let go.
    assert_eq!(over_tcp(&daemon, "GET /healthz HT").await.matches(" 200 ").count(), 0);
    assert_eq!(over_tcp(&daemon, format!("{get}x: y\r\n")).await.matches(" 200 ").count(), 0);
    let slow = over_tcp(&daemon, format!("{head}content-length: 100\r\n\r\n{{")).await;
    assert!(slow.starts_with("HTTP/1.1 408 ") && slow.contains("\"timeout\""), "{slow}");
    let mut cut = TcpStream::connect(daemon.address()).await.unwrap();
    cut.write_all(format!("{head}content-length: 100\r\n\r\n{{").as_bytes()).await.unwrap();
    cut.shutdown().await.unwrap();
    let cut = raw(cut, b"").await;
    assert!(cut.starts_with("HTTP/1.1 400 ") && cut.contains("broke off"), "{cut}");
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_request_has_at_most_a_hundred_headers_and_32_kib_of_path_query_and_headers() {
    let daemon = Daemon::start();
    let with_headers = |path: &str, many: usize| {
        let more: String = (0..many - 2).map(|n| format!("x-{n}: y\r\n")).collect();
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n")
    };
    for (path, status) in [("/healthz", 200), ("/api/auth/me", 401)] {
        for (many, status) in [(100, status), (101, 431)] {
            let answer = over_tcp(&daemon, with_headers(path, many)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}, {many} headers: {answer}");
        }
    }
    // What counts: names, values, path and query.
    const HEAD: usize = 32 * 1024;
    let (path, fixed) = ("/api/auth/me", "hostxconnectioncloselargequery=?".len());
    for (query, header) in [(0, HEAD - path.len() - fixed), (HEAD / 2, HEAD / 2 - path.len() - fixed)] {
        for (over, status) in [(0, 401), (1, 431)] {
            let (query, header) = ("q".repeat(query), "y".repeat(header + over));
            let head = format!("GET {path}?query={query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nlarge: {header}");
            let answer = over_tcp(&daemon, format!("{head}\r\n\r\n")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{} bytes over: {answer}", over);
            assert_eq!(answer.contains("32768 bytes"), over == 1, "{answer}");
        }
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_slow_head_and_a_slow_body_have_times_of_their_own() {
    let body = "POST /api/auth/redeem HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 2\r\nconnection: close\r\n\r\n{";
    // An hour for the one, a second for the other: each is let go by its own.
    let slow_body =
        Daemon::start_with(&["--set", "http.header-timeout-secs=3600", "--set", "http.body-timeout-secs=1"]);
    let answer = over_tcp(&slow_body, body).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("the body took too long"), "{answer}");

    let slow_head =
        Daemon::start_with(&["--set", "http.header-timeout-secs=1", "--set", "http.body-timeout-secs=3600"]);
    let mut waiting = TcpStream::connect(slow_head.address()).await.unwrap();
    waiting.write_all(body.as_bytes()).await.unwrap();
    for head in ["GET /healthz HTTP/1.1\r\nhost: x\r\nx: ", "GET", ""] {
        let answer = over_tcp(&slow_head, head).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    // Each of those took as long as a head may; the body still may come.
    let answer = raw(waiting, b"}").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains("broke off"), "{answer}");
}

#[tokio::test]
async fn of_more_tcp_connections_than_there_is_room_for_the_next_is_served_when_one_ends_and_the_owner_gets_in() {
    let daemon = Daemon::start_with(&["--set", "http.max-connections=3", "--set", "http.header-timeout-secs=3600"]);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut connection = daemon.connect().await;
        connection.send(Request::get("/healthz")).await.unwrap().expect(200);
        held.push(connection);
    }
    // The kernel takes it; nobody serves it.
    let mut next = daemon.connect().await;
    let next = tokio::spawn(async move { next.send(Request::get("/healthz")).await });
    let mut owner = daemon.connect_unix().await;
    for _ in 0..50 {
        let status = owner.send(Request::get("/api/sys/status")).await.unwrap().expect(200);
        assert_eq!(status["connected_clients"], 4, "the three and the owner: {status}");
        assert!(!next.is_finished());
    }
    for connection in &mut held {
        connection.send(Request::get("/healthz")).await.unwrap().expect(200);
    }
    held.pop();
    next.await.unwrap().unwrap().expect(200);
    assert_well(&daemon).await;
}

/// More than the 128 that queues have by default; the test process holds one end of each.
const CROWD: usize = 1000;

#[tokio::test]
async fn a_thousand_clients_that_connect_while_the_host_is_held_still_all_wait_in_its_queue_and_are_served() {
    let places = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let places: usize = places.trim().parse().unwrap();
    assert!(places >= CROWD, "the system's own bound is {places}");
    let daemon = Daemon::start();
    daemon.signal(Signal::STOP);
    let mut crowd = Vec::new();
    // For whom there is no place does not get through before the host accepts again.
    for n in 0..CROWD {
        let connecting = tokio::time::timeout(DEADLINE, TcpStream::connect(daemon.address()));
        crowd.push(connecting.await.unwrap_or_else(|_| panic!("no place for client {n}")).unwrap());
    }
    daemon.signal(Signal::CONT);
    for client in crowd {
        let answer = raw(client, b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_well(&daemon).await;
}
