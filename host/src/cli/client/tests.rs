//! One call against hosts that answer, refuse, hang up, say nothing or too much.

use std::fs;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use super::*;
use crate::cli::failure::Exit;
use crate::cli::testing::{Host, home};

fn client(home: &Home, seconds: u64) -> Client {
    Client::new(home.clone(), Place::Home, None, Some(Duration::from_secs(seconds))).unwrap()
}

fn get(client: &Client) -> Result<Answer, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.get("ask", "/api/x?y=1"))
}

#[test]
fn an_address_is_a_plain_origin() {
    let parse = |text| TcpAddress::parse(text).map(|a| a.to_string());
    assert_eq!(parse("http://127.0.0.1:2787").unwrap(), "http://127.0.0.1:2787");
    assert_eq!(parse("http://host/").unwrap(), "http://host:80");
    assert_eq!(parse("https://host/").unwrap(), "https://host:443");
    assert_eq!(parse("https://[::1]:1").unwrap(), "https://[::1]:1");
    assert_eq!(parse("http://[::1]:1").unwrap(), "http://[::1]:1");
    for bad in
        ["ftp://h", "h:1", "127.0.0.1:2787", "http://u@h", "http://h/p", "http://h/?q", "http://", "http://h:x", ""]
    {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_answer_arrives_with_status_and_body_and_the_request_as_it_was_meant() {
    let host = Host::answering(200, "{\"ok\":true}");
    let answer = get(&client(&host.home, 5)).unwrap();
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"{\"ok\":true}"[..]));
    assert_eq!(host.requests(), ["GET /api/x?y=1"]);
}

#[test]
fn a_missing_socket_says_how_to_start_a_host() {
    let (_dir, home) = home();
    let failure = get(&client(&home, 5)).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (Exit::Failed, "not_running"));
    let text = failure.to_text();
    assert!(text.contains("cannot ask") && text.contains("astrid.sock") && text.contains("cargo astrid up"), "{text}");
}

#[test]
fn a_stale_socket_is_told_from_a_missing_one() {
    let (_dir, home) = home();
    drop(UnixListener::bind(home.socket()).unwrap());
    let failure = get(&client(&home, 5)).unwrap_err();
    assert_eq!(failure.code, "stale_socket");
    assert!(failure.to_text().contains("replaces the socket"));
}

#[test]
fn what_installs_is_waited_for_longer_unless_the_user_says_how_long() {
    let (_dir, home) = home();
    let unsaid = Client::new(home.clone(), Place::Home, None, None).unwrap();
    assert_eq!((unsaid.deadline(), unsaid.patient().deadline()), (DEADLINE, PATIENCE));
    assert_eq!(client(&home, 5).patient().deadline(), Duration::from_secs(5));
    // Longer than the components on the way have would be of no use.
    for name in ["gateway", "system"] {
        let path = format!("{}/../components/{name}/Capsule.toml", env!("CARGO_MANIFEST_DIR"));
        let manifest = astrid_capsule::manifest::Manifest::parse(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(u128::from(manifest.limits.timeout_ms), PATIENCE.as_millis(), "{name}");
    }
}

#[test]
fn a_host_that_never_answers_costs_no_more_than_the_deadline() {
    let (_dir, home) = home();
    let _silent = UnixListener::bind(home.socket()).unwrap();
    let begun = Instant::now();
    let failure = get(&client(&home, 1)).unwrap_err();
    assert_eq!(failure.code, "timeout");
    assert!(failure.to_text().contains("within 1 s") && begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_speaks_no_http_and_what_hangs_up_are_told_apart() {
    for (says, code) in [
        ("220 mail ready\r\n", "protocol"),
        ("", "disconnected"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "disconnected"),
    ] {
        let (_dir, home) = home();
        let listener = UnixListener::bind(home.socket()).unwrap();
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(says.as_bytes()).unwrap();
        });
        assert_eq!(get(&client(&home, 5)).unwrap_err().code, code, "{says:?}");
        server.join().unwrap();
    }
}

#[test]
fn an_answer_over_the_limit_is_refused_and_not_held() {
    let (_dir, home) = home();
    let listener = UnixListener::bind(home.socket()).unwrap();
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let length = MAX_ANSWER_BYTES + 1;
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").unwrap();
        let chunk = vec![b' '; 1 << 20];
        while stream.write_all(&chunk).is_ok() {}
    });
    assert_eq!(get(&client(&home, 30)).unwrap_err().code, "too_large");
    server.join().unwrap();
}

#[test]
fn a_401_says_who_could_do_it_instead() {
    let host = Host::answering(401, r#"{"error":"unauthorized"}"#);
    let text = get(&client(&host.home, 5)).unwrap_err().to_text();
    assert!(text.contains("owner") && text.contains("--bearer") && text.contains("[unauthorized]"), "{text}");
    let with =
        Client::new(host.home.clone(), Place::Home, Some("a.b.c.d".into()), Some(Duration::from_secs(5))).unwrap();
    let text = get(&with).unwrap_err().to_text();
    assert!(text.contains("bearer was not accepted"), "{text}");
    assert_eq!(host.requests()[1], "GET /api/x?y=1 Bearer a.b.c.d");
}

#[test]
fn a_home_that_others_may_write_to_is_not_spoken_to() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::answering(200, "{}");
    fs::set_permissions(host.home.root(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(get(&client(&host.home, 5)).unwrap_err().code, "home");
    assert!(host.requests().is_empty());
}
