//! Health, metrics, and files that somebody changed behind the host's back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use astrid_tests::DEADLINE;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::json;

use crate::prompts::{Stream, prompt};
use crate::{assert_well, bus, install, install_guests, invite, join, key, public_hex, redemption, until};

/// One sample of an exposition: the name with its labels as written, and the value.
pub(crate) type Sample = (String, f64);

/// The exposition, every line of it checked against Prometheus' text format.
pub(crate) async fn metrics(daemon: &Daemon) -> Vec<Sample> {
    let response = daemon.unix(Request::get("/metrics")).await;
    assert_eq!(response.status, 200);
    assert!(response.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(response.body.to_vec()).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().filter_map(|line| parse(line).unwrap_or_else(|why| panic!("{why}: {line}"))).collect()
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// The sample of a line, nothing for a comment, or what is wrong with it.
fn parse(line: &str) -> Result<Option<Sample>, &'static str> {
    if let Some(comment) = line.strip_prefix("# ") {
        let mut words = comment.splitn(3, ' ');
        let (keyword, name, rest) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        return match keyword {
            Some("HELP") if is_name(name) && !rest.is_empty() => Ok(None),
            Some("TYPE") if is_name(name) && ["counter", "gauge", "histogram", "summary"].contains(&rest) => Ok(None),
            _ => Err("neither HELP nor TYPE"),
        };
    }
    if line.is_empty() {
        return Ok(None);
    }
    let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        value => value.parse().map_err(|_| "a value that is no number")?,
    };
    let name = match series.split_once('{') {
        None => series,
        Some((name, labels)) => {
            let mut rest = labels.strip_suffix('}').ok_or("labels that do not end")?;
            while !rest.is_empty() {
                let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
                let (text, after) = after.split_once('"').ok_or("a label's value that does not end")?;
                if !is_name(label) || text.contains(['\\', '\n']) {
                    return Err("a label that nobody here would write");
                }
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            name
        }
    };
    if !is_name(name) || !(name.starts_with("astrid_") || name.starts_with("process_")) {
        return Err("a name that is not ours");
    }
    Ok(Some((series.to_owned(), value)))
}

/// The sum of a metric's series that have all of these labels.
pub(crate) fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let of = |series: &str| series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label));
    samples.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
}

#[tokio::test]
async fn every_line_of_the_metrics_is_valid_and_what_happens_is_counted() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo", "trap", "counter"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let before = metrics(&daemon).await;
    assert_eq!(sum(&before, "astrid_capsules", &[("state", "live")]), 7.0);
    assert_eq!(sum(&before, "astrid_build_info", &[]), 1.0);

    for _ in 0..10 {
        daemon.tcp(bus("echo.v1.say", &json!(1)).bearer(&ada.bearer)).await.expect(200);
        daemon.tcp(Request::get("/api/auth/me").bearer("rubbish")).await.refusal(401, "unauthorized");
    }
    for _ in 0..3 {
        daemon.tcp(bus("trap.v1.panic", &json!(1)).bearer(&ada.bearer)).await.refusal(502, "unavailable");
        daemon.tcp(bus("nobody.v1.home", &json!(1)).bearer(&ada.bearer)).await.refusal(404, "not_found");
        daemon.tcp(redemption("rubbish", "rubbish")).await.refusal(400, "bad_request");
    }
    daemon
        .tcp(Request::post("/api/bus/publish/counter.v1.increment", &json!({ "key": "n" })).bearer(&ada.bearer))
        .await
        .expect(202);
    let after = metrics(&daemon).await;
    let grew = |name: &str, labels: &[(&str, &str)]| sum(&after, name, labels) - sum(&before, name, labels);
    assert_eq!(grew("astrid_authentications_total", &[("outcome", "accepted")]), 1.0, "asked once");
    assert_eq!(grew("astrid_authentications_total", &[("outcome", "remembered")]), 16.0);
    assert_eq!(grew("astrid_authentications_total", &[("outcome", "rejected")]), 10.0);
    assert_eq!(grew("astrid_bus_requests_total", &[("outcome", "ok")]), 10.0);
    assert_eq!(grew("astrid_bus_requests_total", &[("outcome", "trapped")]), 3.0);
    assert_eq!(grew("astrid_bus_requests_total", &[("outcome", "no-responder")]), 3.0);
    assert_eq!(grew("astrid_bus_requests_total", &[("outcome", "refused")]), 3.0);
    assert_eq!(grew("astrid_bus_events_total", &[("kind", "publish")]), 1.0);
    assert_eq!(grew("astrid_bus_events_total", &[("kind", "delivered")]), 1.0);
    assert_eq!(grew("astrid_invocations_total", &[("capsule", "echo"), ("outcome", "ok")]), 10.0);
    assert_eq!(grew("astrid_invocations_total", &[("capsule", "trap"), ("outcome", "trapped")]), 3.0);
    assert_eq!(grew("astrid_invocations_total", &[("capsule", "gateway"), ("outcome", "ok")]), 30.0);
    assert_eq!(grew("astrid_invocation_seconds_count", &[("capsule", "echo")]), 10.0);
    assert!(grew("astrid_fuel_total", &[("capsule", "echo")]) > 0.0);
    assert_eq!(grew("astrid_http_requests_total", &[("status", "401")]), 10.0);
    assert_eq!(grew("astrid_http_requests_total", &[("status", "502")]), 3.0);
    assert!(sum(&after, "astrid_http_connections", &[]) >= 1.0);
    let labels: Vec<&str> = after.iter().map(|(series, _)| series.as_str()).collect();
    assert!(!labels.iter().any(|series| series.contains("ada") || series.contains("rubbish")), "{labels:?}");
}

/// How many requests were counted of this route with this status.
fn of_route(samples: &[Sample], route: &str, status: u16) -> f64 {
    sum(samples, "astrid_http_requests_total", &[("route", route), ("status", &status.to_string())])
}

#[tokio::test]
async fn every_attempt_to_get_in_is_counted_by_its_kind_and_what_came_of_it() {
    let daemon = Daemon::start();
    let token = invite(&daemon, "agent", 2).await;
    let before = metrics(&daemon).await;
    let ada = redemption(&token, &public_hex(&key(1)));
    let bearer = daemon.tcp(ada.clone()).await.expect(200)["session_token"].as_str().unwrap().to_owned();
    daemon.tcp(ada).await.refusal(409, "conflict");
    let wrong = format!("astrid-inv-{}", "x".repeat(43));
    daemon.tcp(redemption(&wrong, &public_hex(&key(2)))).await.refusal(401, "unauthorized");
    daemon.tcp(redemption("rubbish", "rubbish")).await.refusal(400, "bad_request");
    let device = json!({ "token": wrong, "public_key": public_hex(&key(3)) });
    daemon.tcp(Request::post("/api/auth/pair-device/redeem", &device)).await.refusal(401, "unauthorized");
    let challenge = Request::post("/api/auth/challenge", &json!({ "principal": "ada" }));
    let challenge = daemon.tcp(challenge).await.expect(200)["challenge"].clone();
    let login = json!({ "principal": "ada", "challenge": challenge, "public_key": public_hex(&key(1)),
                        "signature": "00".repeat(64) });
    daemon.tcp(Request::post("/api/auth/login", &login)).await.refusal(401, "unauthorized");
    let me = || Request::get("/api/auth/me");
    for _ in 0..2 {
        daemon.tcp(me().bearer(&bearer)).await.expect(200);
    }
    daemon.tcp(me().bearer("rubbish")).await.refusal(401, "unauthorized");
    daemon.tcp(me()).await.refusal(401, "unauthorized");
    let after = metrics(&daemon).await;
    for (route, status, times) in [
        ("/api/auth/redeem", 200, 1.0),
        ("/api/auth/redeem", 409, 1.0),
        ("/api/auth/redeem", 401, 1.0),
        ("/api/auth/redeem", 400, 1.0),
        ("/api/auth/pair-device/redeem", 401, 1.0),
        ("/api/auth/challenge", 200, 1.0),
        ("/api/auth/login", 401, 1.0),
        ("/api/auth/me", 200, 2.0),
        ("/api/auth/me", 401, 2.0),
    ] {
        assert_eq!(of_route(&after, route, status) - of_route(&before, route, status), times, "{route} {status}");
    }
    let presented = |samples: &[Sample], kind: &str, outcome: &str| {
        sum(samples, "astrid_authentications_total", &[("kind", kind), ("outcome", outcome)])
    };
    for (kind, outcome, times) in
        [("bearer", "accepted", 1.0), ("bearer", "remembered", 1.0), ("bearer", "rejected", 1.0)]
    {
        assert_eq!(presented(&after, kind, outcome) - presented(&before, kind, outcome), times, "{outcome}");
    }
    assert!(presented(&after, "peer", "accepted") >= 1.0);

    // Nobody there who could say whose a credential is.
    let home = Home::new();
    fs::write(home.path().join("distro/identity.capsule"), "no archive").unwrap();
    let headless = home.start();
    headless.tcp(me().bearer(&bearer)).await.refusal(502, "unavailable");
    assert_eq!(presented(&metrics(&headless).await, "bearer", "unavailable"), 1.0);
}

#[tokio::test]
async fn requests_are_counted_and_timed_by_route_and_a_front_end_that_names_thousands_has_256() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["front"]);
    let mut connection = daemon.connect_unix().await;
    for n in 0..600 {
        let request = Request::get(&format!("/front/route?/front/n{n}/{{id}}"));
        assert_eq!(connection.send(request).await.expect("an answer").status, 200);
    }
    for other in ["/elsewhere", "/front/'x'", "", &format!("/front/{}", "x".repeat(200))] {
        let request = Request::get(&format!("/front/route?{other}"));
        assert_eq!(connection.send(request).await.expect("an answer").status, 200);
    }
    daemon.tcp(Request::get("/nowhere/at/all")).await.refusal(404, "not_found");
    daemon.unix(Request::get("/api/sys/principals/default")).await.expect(200);
    let samples = metrics(&daemon).await;
    let counted = |route: &str| of_route(&samples, route, 200);
    let named: Vec<_> = samples.iter().filter(|(series, _)| series.contains("route=\"/front/")).collect();
    let of_counter = named.iter().filter(|(series, _)| series.starts_with("astrid_http_requests_total{")).count();
    assert_eq!((of_counter, counted("/front/n0/{id}"), counted("/front/n599/{id}")), (256, 1.0, 0.0));
    assert_eq!(counted("other"), 600.0 - 256.0 + 4.0);
    assert_eq!((counted("/api/sys/principals/{principal}"), of_route(&samples, "none", 404)), (1.0, 1.0));
    let timed =
        |route: &str| sum(&samples, "astrid_http_request_seconds_count", &[("route", route), ("method", "GET")]);
    assert_eq!((timed("/front/n0/{id}"), timed("/api/sys/principals/{principal}")), (1.0, 1.0));
    assert!(samples.iter().all(|(series, _)| !series.contains("elsewhere") && !series.contains("nowhere")));
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn the_last_lines_of_requests_are_in_the_file_though_nothing_comes_after_them() {
    let daemon = Daemon::start();
    let mut connection = daemon.connect().await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        let answer = connection.send(Request::get("/api/nothing")).await.unwrap();
        ids.push(answer.header("x-request-id").unwrap().to_owned());
    }
    let file = daemon.home().path().join("log/astrid.log");
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(&file).unwrap();
        let at: Vec<_> = ids.iter().map(|id| text.find(&format!("request={id} "))).collect();
        if at.iter().all(Option::is_some) {
            assert!(at.is_sorted(), "{text}");
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_clients_trace_goes_with_what_comes_of_its_request_into_handlers_facts_and_the_log() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["agent", "caller"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    // Two calls deep, and on a stream.
    let nested = json!({ "topic": "identity.v1.principal.list", "payload": {} });
    let request = bus("caller.v1.request", &nested).bearer(&ada.bearer).header("traceparent", &traceparent);
    let answer = daemon.tcp(request).await;
    answer.expect(200);
    let id = answer.header("x-request-id").unwrap().to_owned();
    let request = prompt("trace").header("traceparent", &traceparent);
    let mut stream = Stream::open(&daemon, &ada, request).await;
    let (_, response) = stream.next().await.expect("a response");
    assert_eq!(response["traceparent"], traceparent);
    assert!(response["cause"].is_string(), "{response}");

    let facts = Request::get("/api/sys/audit?method=bus.identity.v1.principal.list").bearer(&ada.bearer);
    let facts = until(&daemon, facts, |answer| !answer.json()["entries"].as_array().unwrap().is_empty()).await.json();
    assert_eq!(facts["entries"][0]["fact"]["cause"], format!("{id}/{TRACE}"), "{facts}");

    // What is no trace, and two of them, are as none.
    for bad in [&["00-0-0-01"][..], &[&traceparent, &traceparent]] {
        let request = bad.iter().fold(prompt("trace"), |request, value| request.header("traceparent", value));
        let (_, response) = Stream::open(&daemon, &ada, request).await.next().await.expect("a response");
        assert!(response["traceparent"].is_null() && response["cause"].is_string(), "{response}");
    }

    let lines = daemon.unix(Request::get("/api/sys/logs?capsule=http&limit=1000")).await.expect(200);
    let lines: Vec<&str> = lines["lines"].as_array().unwrap().iter().map(|l| l["message"].as_str().unwrap()).collect();
    let line = lines.iter().find(|line| line.contains(&format!("request={id} "))).expect("its line");
    for field in [
        "method=POST",
        "route=/api/bus/request/{topic}",
        "path=/api/bus/request/caller.v1.request",
        "status=200",
        "ms=",
        &format!("bytes_in={}", nested.to_string().len()),
        "bytes_out=",
        "principal=ada",
        &format!("trace={TRACE}"),
    ] {
        assert!(line.split(' ').any(|word| word.starts_with(field)), "no {field} in {line}");
    }
    assert!(!lines.iter().any(|line| line.contains("/healthz") || line.contains(&ada.bearer)), "{lines:?}");
}

/// The only file in a home's folder whose name begins like this.
fn file(home: &Home, folder: &str, beginning: &str) -> PathBuf {
    let entries = fs::read_dir(home.path().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(beginning);
    let found: Vec<PathBuf> = entries.filter(named).collect();
    assert_eq!(found.len(), 1, "{folder}/{beginning}: {found:?}");
    found[0].clone()
}

/// Flips one bit in the middle.
fn tamper(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn code_that_was_changed_on_disk_never_runs() {
    let daemon = Daemon::start();
    let home = daemon.home().clone();
    let hash = |name: &str| install(&daemon, &pack::packed(name))["wasm_hash"].as_str().unwrap().to_owned();
    let (echo, counter) = (hash("echo"), hash("counter"));
    assert_eq!(file(&home, "bin", &counter).file_name().unwrap().to_str().unwrap(), format!("{counter}.wasm"));
    assert_eq!(daemon.stop().code, Some(0));

    // Compiled code: dropped, said, and made again from the component.
    let (mine, others) = (file(&home, "cache", &echo), file(&home, "cache", &counter));
    tamper(&mine);
    let daemon = home.start();
    assert_eq!(daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200), json!(1));
    assert!(daemon.stderr().contains(&*mine.to_string_lossy()), "{}", daemon.stderr());
    let lines = daemon.unix(Request::get("/api/sys/logs?level=error")).await.expect(200);
    assert!(lines.to_string().contains("was not written by this host"), "{lines}");
    assert_well(&daemon).await;
    assert_eq!(daemon.stop().code, Some(0));

    // This host's own code for another component is no better.
    fs::copy(&others, &mine).unwrap();
    let daemon = home.start();
    assert_eq!(daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200), json!(1));
    assert!(daemon.stderr().contains("was not written by this host"), "{}", daemon.stderr());
    assert_eq!(daemon.stop().code, Some(0));

    // The component too: its capsule fails by name, the others serve.
    fs::remove_file(file(&home, "cache", &counter)).unwrap();
    tamper(&file(&home, "bin", &counter));
    let daemon = home.start();
    let health = daemon.tcp(Request::get("/healthz")).await.expect(200);
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["capsules"], json!({ "live": 5, "failed": ["counter"] }));
    assert!(daemon.stderr().contains(&format!("{counter}.wasm")), "{}", daemon.stderr());
    daemon.unix(bus("counter.v1.calls", &json!({}))).await.refusal(404, "not_found");
    assert_eq!(daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200), json!(1));
    let doctor = daemon.astrid(&["doctor"]);
    assert!(doctor.code == Some(1) && doctor.stdout.contains("failed: counter"), "{doctor:?}");

    // Installing it again is the way out.
    install_guests(&daemon, &["counter"]);
    assert_eq!(daemon.unix(bus("counter.v1.calls", &json!({}))).await.expect(200)["count"], 1);
    assert_well(&daemon).await;
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    assert_eq!(daemon.unix(bus("counter.v1.calls", &json!({}))).await.expect(200)["count"], 1);
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_part_of_the_distribution_that_cannot_be_installed_is_named_and_the_rest_serves() {
    let home = Home::new();
    let broken = home.path().join("distro/system.capsule");
    let whole = fs::read(&broken).unwrap();
    fs::write(&broken, &whole[..1000]).unwrap();
    let daemon = home.start();
    let health = daemon.tcp(Request::get("/healthz")).await.expect(200);
    assert_eq!((&health["status"], &health["capsules"]["failed"]), (&json!("degraded"), &json!(["system"])));
    assert!(daemon.stderr().contains("system.capsule"), "{}", daemon.stderr());
    daemon.unix(Request::get("/api/sys/status")).await.refusal(502, "unavailable");
    join(&daemon, "agent", "ada", 1).await;
    assert_eq!(daemon.stop().code, Some(0));

    fs::write(&broken, whole).unwrap();
    let daemon = home.start();
    assert_well(&daemon).await;
    daemon.unix(Request::get("/api/sys/status")).await.expect(200);
}
