//! What an operator does with a host that runs: a configuration that is read again, a look at the load, mounts with limits of
//! their own, alerts, a backup.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use astrid_host::observe::{Kind, SERIES};
use astrid_tests::DEADLINE;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Streaming, raw};
use astrid_tests::pack;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::{assert_well, bus, install, install_guests, join, key, public_hex, until};

fn configure(home: &Home, text: &str) {
    let etc = home.path().join("etc");
    fs::create_dir_all(&etc).unwrap();
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(etc.join("config.toml"), text).unwrap();
}

/// The value and the source of a key of the configuration that the host runs with.
fn setting(daemon: &Daemon, key: &str) -> (String, String) {
    let shown = daemon.astrid(&["config", "show", "--json"]).json();
    let found = shown["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap().clone();
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("value"), text("source"))
}

fn of(value: &str, source: &str) -> (String, String) {
    (value.to_owned(), source.to_owned())
}

#[tokio::test]
async fn a_configuration_that_is_read_again_counts_at_once_where_it_can_and_each_key_says_whether_it_does() {
    let home = Home::new();
    configure(&home, "[http]\nidle-timeout-secs = 7\n");
    let daemon = home.start();
    assert_eq!(daemon.astrid(&["config", "reload"]).out(), "nothing has changed");
    let debug = || daemon.astrid(&["logs", "--level", "debug", "--json"]).json()["lines"].clone();
    let has_debug = |lines: &Value| lines.as_array().unwrap().iter().any(|line| line["level"] == "debug");
    // A failed login is a line of this level.
    let fail = Request::post("/api/auth/redeem", &json!({ "token": "x", "public_key": public_hex(&key(9)) }));
    daemon.tcp(fail.clone()).await.refusal(401, "unauthorized");
    assert!(!has_debug(&debug()));

    configure(&home, "[log]\nlevel = \"debug\"\n[http]\nbody-timeout-secs = 1\n[bus]\nmax-depth = 8\n");
    let reloaded = daemon.astrid(&["config", "reload", "--json"]).json();
    let change = |key: &str, before: &str, value: &str, source: &str, applied: bool| json!({ "key": key, "before": before, "value": value, "source": source, "applied": applied });
    assert_eq!(
        reloaded["changes"],
        json!([
            change("bus.max-depth", "16", "8", "file", false),
            change("http.body-timeout-secs", "30", "1", "file", true),
            change("http.idle-timeout-secs", "7", "60", "default", true),
            change("log.level", "info", "debug", "file", true),
        ])
    );
    assert_eq!(setting(&daemon, "bus.max-depth"), of("16", "default"), "what it runs with is shown");
    assert_eq!(setting(&daemon, "http.body-timeout-secs"), of("1", "file"));
    daemon.tcp(fail).await.refusal(401, "unauthorized");
    assert!(has_debug(&debug()));
    // A body has a second now, and not the thirty of before.
    let mut slow = TcpStream::connect(daemon.address()).await.unwrap();
    slow.write_all(
        b"POST /api/auth/redeem HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n",
    )
    .await
    .unwrap();
    assert!(raw(slow, b"{").await.starts_with("HTTP/1.1 408 "));
    let waits = daemon.astrid(&["config", "reload"]);
    assert!(waits.out().contains("bus.max-depth") && waits.out().contains("needs a restart"), "{waits:?}");

    // What does not read changes nothing, however it is asked for.
    for (file, why) in [
        ("[log]\nlevle = \"info\"\n", "did you mean `level`"),
        ("[log]\nlevel = \"info\"\n[http]\nidle-timeout-secs = 0\n", "http.idle-timeout-secs = 0"),
    ] {
        configure(&home, file);
        let refused = daemon.astrid(&["config", "reload"]);
        assert!(refused.refusal(1).contains(why) && refused.stderr.contains("nothing was changed"), "{refused:?}");
        assert_eq!(setting(&daemon, "log.level"), of("debug", "file"));
    }
    configure(&home, "[log]\nlevel = \"warn\"\n");
    daemon.signal(Signal::HUP);
    let started = Instant::now();
    while setting(&daemon, "log.level") != of("warn", "file") {
        assert!(started.elapsed() < DEADLINE, "{}", daemon.stderr());
    }
    assert_eq!(setting(&daemon, "http.body-timeout-secs"), of("30", "default"));

    let bob = join(&daemon, "agent", "bob", 2).await;
    let reload = Request::post("/api/sys/config/reload", &json!({})).bearer(&bob.bearer);
    assert!(daemon.tcp(reload).await.refusal(403, "forbidden").contains("system:reload"));

    // Each load is a fact, of whoever wanted it: the start, the command, the signal.
    let loads = daemon.unix(Request::get("/api/sys/audit?method=config.load")).await.expect(200);
    let loads: Vec<_> =
        loads["entries"].as_array().unwrap().iter().map(|entry| entry["fact"]["principal"].as_str()).collect();
    assert_eq!(loads, [None, Some("default"), None]);
    assert_well(&daemon).await;
}

#[tokio::test]
async fn the_load_is_shown_by_capsule_and_by_principal_to_whoever_may_see_it() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo"]);
    let bob = join(&daemon, "admin", "bob", 2).await;
    let load = async || daemon.unix(Request::get("/api/sys/load")).await.expect(200);
    let of = |load: &Value, list: &str, name: &str, value: &str| -> Value {
        let field = if list == "capsules" { "id" } else { "principal" };
        let row = load[list].as_array().unwrap().iter().find(|row| row[field] == name);
        row.map_or(json!(0), |row| row[value].clone())
    };
    let before = load().await;
    for _ in 0..10 {
        daemon.tcp(bus("echo.v1.say", &json!("hello")).bearer(&bob.bearer)).await.expect(200);
    }
    let after = load().await;
    let grew = |list: &str, name: &str, value: &str| {
        of(&after, list, name, value).as_u64().unwrap() - of(&before, list, name, value).as_u64().unwrap()
    };
    assert_eq!(grew("capsules", "echo", "calls_total"), 10);
    assert_eq!(grew("principals", "bob", "calls_total"), 10);
    assert!(grew("principals", "bob", "bus_bytes_total") >= 70 && grew("capsules", "echo", "fuel_total") > 0);
    assert_eq!(of(&after, "capsules", "echo", "queue_bytes"), 0);
    assert!(of(&after, "capsules", "echo", "memory_peak_bytes").as_u64().unwrap() >= 65_536);
    assert_eq!(after["principals"][0]["principal"], "default", "the last to do something comes first");
    let one = daemon.unix(Request::get("/api/sys/load?limit=1")).await.expect(200);
    assert_eq!(one["principals"].as_array().unwrap().len(), 1);
    daemon.unix(Request::get("/api/sys/load?limit=0")).await.refusal(400, "bad_request");
    let carol = join(&daemon, "agent", "carol", 3).await;
    daemon.tcp(Request::get("/api/sys/load").bearer(&carol.bearer)).await.refusal(403, "forbidden");

    let top = daemon.astrid(&["top", "--once", "--interval", "1"]);
    for part in ["CAPSULE", "echo", "gateway", "PRINCIPAL", "bob", "instances"] {
        assert!(top.out().contains(part), "{top:?}");
    }
    let json = daemon.astrid(&["top", "--once", "--interval", "1", "--json"]).json();
    assert!(json["seconds"].as_f64().unwrap() >= 1.0 && json["capsules"].as_array().unwrap().len() == 5, "{json}");
}

#[tokio::test]
async fn the_command_says_what_it_is_where_the_configuration_lies_and_what_was_logged_lately() {
    let home = Home::new();
    let version = home.astrid(&["version"]);
    assert!(version.out().contains("none answers"), "{version:?}");
    let path = home.path().join("etc/config.toml");
    assert_eq!(home.astrid(&["config", "path"]).out(), path.to_str().unwrap());
    assert!(home.astrid(&["completions", "bash"]).out().contains("astrid"));
    let daemon = home.start();
    let version = daemon.astrid(&["version", "--json"]).json();
    assert_eq!((&version["host"], version["rustc"].is_string()), (&version["version"], true), "{version}");
    let lines = |since: &str| {
        let since = format!("/api/sys/logs?since={since}");
        async { daemon.unix(Request::get(&{ since })).await.expect(200)["lines"].as_array().unwrap().len() }
    };
    assert!(lines("0").await > 0);
    assert_eq!(lines("99999999999999").await, 0);
    assert!(daemon.astrid(&["logs", "host", "--since", "1h"]).out().contains("installed"));
}

#[tokio::test]
async fn a_mount_takes_as_many_requests_and_as_large_bodies_as_its_manifest_says_and_no_more() {
    let daemon = Daemon::start();
    let folder = daemon.home().beside();
    let narrow = pack::repacked(folder, "narrow", "front", |manifest| {
        let http = manifest.http.as_mut().unwrap();
        http.mounts.push("/front/echo".into());
        let limits = http.limits.entry("/front/echo".into()).or_default();
        (limits.max_body_bytes, limits.max_concurrent) = (Some(8), Some(1));
    });
    install(&daemon, &narrow);
    let send = |path: &str, body: &str| Request::post(path, &json!(body));
    // The longer mount has its own bound, the shorter one that of all.
    daemon.tcp(send("/front/echo", "123456")).await.expect(200);
    daemon.tcp(send("/front/echo", "1234567")).await.refusal(413, "payload_too_large");
    assert_eq!(daemon.tcp(send("/front/echoes", &"x".repeat(1000))).await.status, 404);

    // Whoever sends its body slowly has the one place; who comes meanwhile is told before its body is read.
    let mut slow = TcpStream::connect(daemon.address()).await.unwrap();
    slow.write_all(b"POST /front/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n1")
        .await
        .unwrap();
    let refused = until(&daemon, Request::get("/front/echo"), |response| response.status == 503).await;
    refused.refusal(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let expects = b"POST /front/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    let told = raw(TcpStream::connect(daemon.address()).await.unwrap(), expects).await;
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    assert_eq!(daemon.tcp(Request::get("/front/status")).await.status, 502, "other mounts have places of their own");
    assert!(raw(slow, b"2").await.starts_with("HTTP/1.1 200 "));
    until(&daemon, Request::get("/front/echo"), |response| response.status == 200).await;

    // Somebody else's mount is refused, and both are named.
    let thief = pack::repacked(folder, "thief", "front", |manifest| {
        manifest.package.name = "thief".into();
        manifest.http.as_mut().unwrap().mounts = vec!["/other".into(), "/front/echo".into()];
    });
    let grants = ["capsule", "install", thief.to_str().unwrap(), "--grant", "http:mount"];
    let refused = daemon.astrid(&grants);
    assert!(refused.refusal(1).contains("thief: /front/echo is mounted by `front`"), "{refused:?}");
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_mount_takes_as_long_as_its_manifest_says_and_no_longer_than_the_operator_and_the_capsule_allow() {
    const DAY: u64 = 86_400_000;
    let send = async |daemon: &Daemon, path: &str| {
        let begun = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n1");
        raw(TcpStream::connect(daemon.address()).await.unwrap(), begun.as_bytes()).await
    };
    // An hour for everybody but one mount, then an hour for the mount alone; and a day for an answer.
    for (operators, mounts) in [("3600", 1), ("1", 3600)] {
        let daemon = Daemon::start_with(&["--set", &format!("http.body-timeout-secs={operators}")]);
        let quick = pack::repacked(daemon.home().beside(), "quick", "front", |manifest| {
            let (capsules, own) = if mounts == 1 { (DAY, 100) } else { (100, DAY) };
            manifest.limits.timeout_ms = capsules;
            let http = manifest.http.as_mut().unwrap();
            for path in ["/front/echo", "/front/spin"] {
                http.mounts.push(path.into());
                let limits = http.limits.entry(path.into()).or_default();
                (limits.body_timeout_secs, limits.timeout_ms) = (Some(mounts), Some(own));
            }
        });
        install(&daemon, &quick);
        let late = send(&daemon, "/front/echo").await;
        assert!(late.starts_with("HTTP/1.1 408 "), "{late}");
        daemon.tcp(Request::get("/front/spin")).await.refusal(504, "timeout");
        assert_well(&daemon).await;
    }
}

/// Every file below `from`, but for these folders, into `to`, with its mode.
fn copy(from: &Path, to: &Path, without: &[&str]) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (name, kind) = (entry.file_name(), entry.file_type().unwrap());
        if without.contains(&name.to_str().unwrap()) {
            continue;
        }
        if kind.is_dir() {
            copy(&entry.path(), &to.join(name), &[]);
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_copy_of_the_home_is_the_host_again_whether_it_was_stopped_or_only_held_still() {
    let home = Home::new();
    let daemon = home.start();
    install_guests(&daemon, &["echo"]);
    let ada = join(&daemon, "agent", "ada", 1).await;
    let kept = ["cache", "log", "run"];
    // Held still, it is as if it had been killed: what was acknowledged is there.
    daemon.signal(Signal::STOP);
    let still = Home::absent();
    copy(&home.path(), &still.path(), &kept);
    daemon.signal(Signal::CONT);
    let bob = join(&daemon, "agent", "bob", 2).await;
    assert_eq!(daemon.stop().code, Some(0));
    let stopped = Home::absent();
    copy(&home.path(), &stopped.path(), &kept);

    for (restored, knows_bob) in [(still, false), (stopped, true)] {
        let again = restored.start();
        let me = |bearer: &str| Request::get("/api/auth/me").bearer(bearer);
        assert_eq!(again.tcp(me(&ada.bearer)).await.expect(200)["principal"], "ada");
        assert_eq!(again.tcp(me(&bob.bearer)).await.status, if knows_bob { 200 } else { 401 });
        again.unix(bus("echo.v1.say", &json!(1))).await.expect(200);
        assert_well(&again).await;
        assert_eq!(again.stop().code, Some(0));
        let verified = restored.astrid(&["audit", "verify"]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
    }
}

/// The names of metrics in the expressions of a file of alert rules.
fn metrics_of(rules: &str) -> BTreeSet<String> {
    let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("astrid_") || word.starts_with("process_")).map(str::to_owned).collect()
}

#[test]
fn every_metric_of_the_sample_alerts_exists_and_every_alert_and_series_has_its_row_in_the_guide() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alerts");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yml"));
    assert!(!files.is_empty(), "no rules in {}", folder.display());
    let mut named = BTreeSet::new();
    for path in files {
        let names = metrics_of(&fs::read_to_string(&path).unwrap());
        assert!(names.len() >= 5, "{}: {names:?}", path.display());
        for name in names {
            let is = |series: &&astrid_host::observe::Series| {
                let parts =
                    ["_bucket", "_sum", "_count"].iter().any(|part| name.strip_suffix(part) == Some(series.name));
                series.name == name || (series.kind == Kind::Histogram && parts)
            };
            assert!(SERIES.iter().any(|series| is(&series)), "{}: nobody exposes {name}", path.display());
        }
        let text = fs::read_to_string(&path).unwrap();
        named.extend(text.lines().filter_map(|line| Some(line.split_once("- alert: ")?.1.to_owned())));
    }
    let guide = fs::read_to_string(folder.join("../operating.md")).unwrap();
    let (_, section) = guide.split_once("\n## Alerts\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split(", ").map(|name| name.trim().trim_matches('`')));
    assert_eq!(rows.map(str::to_owned).collect::<BTreeSet<_>>(), named);
    let untold =
        SERIES.iter().filter(|series| !guide.contains(&format!("| `{}` |", series.name))).map(|series| series.name);
    assert_eq!(untold.collect::<Vec<_>>(), [""; 0], "series without a row in the guide");
}

#[tokio::test]
async fn the_log_is_followed_as_it_is_written_from_where_a_reader_was() {
    let daemon = Daemon::start();
    let follow = |last: Option<&str>| {
        let request = Request::get("/api/sys/logs?follow=true&capsule=system&level=info");
        last.map_or(request.clone(), |last| request.header("last-event-id", last))
    };
    let open = async |request| Streaming::open(UnixStream::connect(daemon.socket()).await.unwrap(), request).await;
    let line = async |stream: &mut Streaming, wanted: &str| loop {
        let event = stream.next().await.unwrap().expect("it goes on");
        if event.contains(wanted) {
            assert!(event.contains("event: line\n"), "{event}");
            return event.strip_prefix("id: ").unwrap().split('\n').next().unwrap().to_owned();
        }
    };
    install_guests(&daemon, &["echo"]);
    let mut stream = open(follow(None)).await;
    assert_eq!(stream.status, 200);
    let first = line(&mut stream, "installed echo").await;
    install_guests(&daemon, &["trap"]);
    let second = line(&mut stream, "installed trap").await;
    assert!(second.parse::<u64>().unwrap() > first.parse().unwrap(), "{first} {second}");
    drop(stream);
    install_guests(&daemon, &["counter"]);
    let mut stream = open(follow(Some(&second))).await;
    let event = stream.next().await.unwrap().expect("what was missed");
    assert!(event.contains("installed counter"), "{event}");

    // Whoever may not read it may not follow it.
    let ada = join(&daemon, "agent", "ada", 7).await;
    daemon.tcp(follow(None).bearer(&ada.bearer)).await.refusal(403, "forbidden");
    // That somebody follows is a fact, and each look for more is none.
    let asked = until(&daemon, Request::get("/api/sys/audit?method=bus.system.v1.logs"), |answer| {
        answer.json()["entries"][0]["fact"]["outcome"] == "refused"
    });
    let asked = asked.await.json();
    assert_eq!(asked["entries"].as_array().unwrap().len(), 3, "{asked}");
}
