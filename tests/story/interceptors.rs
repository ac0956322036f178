//! Capsules that see messages before anybody gets them: in what order, what they may do, and what becomes of a message
//! when they fail.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use astrid_capsule::Pattern;
use astrid_capsule::manifest::{Fail, Publish};
use astrid_tests::daemon::Daemon;
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};

use crate::observation::{metrics, sum};
use crate::{assert_well, bus, install, install_guests, install_with};

/// What the filter asks for.
const GRANT: &str = "bus:intercept:echo:v1:*";

/// The filter under a name of its own, which may also send to echo.
fn filter(daemon: &Daemon, name: &str, handler: &str, priority: u16, fail: Fail) -> PathBuf {
    pack::repacked(daemon.home().beside(), name, "filter", |manifest| {
        manifest.package.name = name.into();
        manifest.publish = vec![Publish { topic: Pattern::parse("echo.v1.say").unwrap(), wit: None }];
        let interception = &mut manifest.intercept[0];
        (interception.handler, interception.priority, interception.fail) = (handler.into(), priority, fail);
    })
}

/// Installs it.
#[track_caller]
fn install_filter(daemon: &Daemon, name: &str, handler: &str, priority: u16, fail: Fail) {
    install(daemon, &filter(daemon, name, handler, priority, fail));
}

fn echo(payload: Value) -> Request {
    bus("echo.v1.say", &payload)
}

#[tokio::test]
async fn nobody_intercepts_without_the_operators_grant_and_whoever_has_it_passes_replaces_and_denies() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo", "caller"]);
    let archive = pack::packed("filter");
    let reason = daemon.astrid(&["capsule", "install", archive.to_str().unwrap()]).refusal(1).to_owned();
    assert!(reason.contains(&format!("--grant '{GRANT}'")) || reason.contains(&format!("--grant {GRANT}")), "{reason}");
    assert_eq!(daemon.unix(echo(json!("deny"))).await.expect(200), "deny");

    let before = metrics(&daemon).await;
    assert_eq!(install_with(&daemon, &archive, &["bus:intercept:*", "sys:host"])["grants"], json!([GRANT]));
    assert_eq!(daemon.unix(echo(json!("hello"))).await.expect(200), "hello");
    assert_eq!(daemon.unix(echo(json!("replace"))).await.expect(200), "replaced for default");
    assert_eq!(daemon.unix(echo(json!("deny"))).await.refusal(403, "forbidden"), "the filter says no");
    let reason = daemon.unix(echo(json!("oversize"))).await.refusal(403, "forbidden");
    assert!(reason.contains("`filter`") && reason.contains("1048576 bytes"), "{reason}");

    // A publication as well, and messages that another capsule sends.
    let publish = Request::post("/api/bus/publish/echo.v1.say", &json!("deny"));
    assert_eq!(daemon.unix(publish).await.refusal(403, "forbidden"), "the filter says no");
    for (way, word, outcome) in [
        ("request", "replace", json!({ "answer": "replaced for default" })),
        ("request", "deny", json!({ "failure": { "name": "denied", "detail": "the filter says no" } })),
        ("publish", "hello", json!({ "delivered": 1 })),
        ("publish", "deny", json!({ "failure": { "name": "denied", "detail": "the filter says no" } })),
    ] {
        let send = json!({ "topic": "echo.v1.say", "payload": word });
        assert_eq!(daemon.unix(bus(&format!("caller.v1.{way}"), &send)).await.expect(200), outcome, "{way} {word}");
    }
    // What nobody would get is not asked about.
    daemon.unix(bus("echo.v1.shout", &json!("deny"))).await.refusal(404, "not_found");

    let after = metrics(&daemon).await;
    for (verdict, times) in [("pass", 2.0), ("replace", 2.0), ("deny", 4.0), ("failed", 1.0)] {
        let labels = [("capsule", "filter"), ("verdict", verdict)];
        let grew =
            sum(&after, "astrid_interceptions_total", &labels) - sum(&before, "astrid_interceptions_total", &labels);
        assert_eq!(grew, times, "{verdict}");
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn the_lower_priority_sees_a_message_first_and_the_handler_sees_what_the_last_one_left() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo"]);
    install_filter(&daemon, "filter-a", "second", 200, Fail::Closed);
    install_filter(&daemon, "filter-b", "first", 100, Fail::Closed);
    assert_eq!(daemon.unix(echo(json!([]))).await.expect(200), json!(["first", "second"]));
    // Equal ones in the order of their ids.
    install_filter(&daemon, "filter-b", "first", 200, Fail::Closed);
    assert_eq!(daemon.unix(echo(json!([]))).await.expect(200), json!(["second", "first"]));

    let home = daemon.home().clone();
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    assert_eq!(daemon.unix(echo(json!([]))).await.expect(200), json!(["second", "first"]));
}

#[tokio::test]
async fn an_interceptor_that_dies_or_never_ends_is_answered_for_as_it_declares() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo"]);
    install_filter(&daemon, "filter", "judge", 100, Fail::Closed);
    for (word, how) in [("trap", "died"), ("loop", "took too long")] {
        let asked = Instant::now();
        let reason = daemon.unix(echo(json!(word))).await.refusal(403, "forbidden");
        assert!(reason.contains("`filter`") && reason.contains(how), "{reason}");
        // Its own second, not the half minute of the caller's.
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    }
    // The caller's time ends it as well.
    let hurried = Request::post("/api/bus/request/echo.v1.say?timeout_ms=100", &json!("loop"));
    daemon.unix(hurried).await.refusal(403, "forbidden");

    install_filter(&daemon, "filter", "judge", 100, Fail::Open);
    for word in ["trap", "loop", "oversize"] {
        assert_eq!(daemon.unix(echo(json!(word))).await.expect(200), word);
    }
    // A name that the component does not know is a failure too.
    install_filter(&daemon, "filter", "nobody", 100, Fail::Closed);
    daemon.unix(echo(json!(1))).await.refusal(403, "forbidden");
    assert_well(&daemon).await;
}

#[tokio::test]
async fn interceptors_that_send_meet_each_other_but_not_themselves_and_a_circle_ends() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo"]);
    install_filter(&daemon, "filter-a", "ask", 100, Fail::Closed);
    assert_eq!(daemon.unix(echo(json!("hello"))).await.expect(200), "hello");
    install_filter(&daemon, "filter-b", "second", 200, Fail::Closed);
    // Once for what filter-a sent, once for the message itself.
    assert_eq!(daemon.unix(echo(json!([]))).await.expect(200), json!(["second", "second"]));
    install_filter(&daemon, "filter-b", "ask", 200, Fail::Closed);
    let reason = daemon.unix(echo(json!([]))).await.refusal(403, "forbidden");
    assert!(reason.contains("nested more than 16 deep"), "{reason}");
    assert_well(&daemon).await;
}

#[tokio::test]
async fn no_message_slips_by_while_its_interceptor_is_replaced() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo"]);
    install_filter(&daemon, "filter", "first", 100, Fail::Closed);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut connection = daemon.connect_unix().await;
    let load = tokio::spawn(async move {
        let mut answered = 0;
        while !*stopped.borrow() {
            assert_eq!(connection.send(echo(json!([]))).await.unwrap().expect(200), json!(["first"]));
            answered += 1;
        }
        answered
    });
    for priority in 101..=105 {
        let archive = filter(&daemon, "filter", "first", priority, Fail::Closed);
        let body = json!({ "source": archive.to_str().unwrap(), "grants": pack::asked(&archive) });
        daemon.unix(Request::post("/api/capsules", &body)).await.expect(200);
    }
    stop.send(true).unwrap();
    assert!(load.await.unwrap() > 0);
}

#[tokio::test]
async fn what_a_broken_interceptor_would_judge_does_not_pass_unless_it_fails_open() {
    for (fail, status) in [(Fail::Closed, 403), (Fail::Open, 200)] {
        let daemon = Daemon::start();
        install_guests(&daemon, &["echo"]);
        let archive = filter(&daemon, "filter", "judge", 100, fail);
        let done = install(&daemon, &archive);
        let home = daemon.home().clone();
        assert_eq!(daemon.stop().code, Some(0));
        // Nothing is left that could be started.
        fs::write(home.path().join("bin").join(format!("{}.wasm", done["wasm_hash"].as_str().unwrap())), b"").unwrap();
        fs::remove_dir_all(home.path().join("cache")).unwrap();

        let daemon = home.start();
        let answer = daemon.unix(echo(json!(1))).await;
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 403 {
            let reason = answer.refusal(403, "forbidden");
            assert!(reason.contains("`filter`") && reason.contains("not running"), "{reason}");
        }
        // Until it is installed again.
        install(&daemon, &archive);
        assert_eq!(daemon.unix(echo(json!("deny"))).await.refusal(403, "forbidden"), "the filter says no");
    }
}
