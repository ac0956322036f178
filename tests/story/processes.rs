//! Programs of the system that capsules start: who may, what they find in their sandbox, who sees and stops them, and that
//! none outlives whoever has started it. What a sandbox holds in detail is told in `tests/library/processes.rs`.

use std::fs;

use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Response};
use astrid_tests::pack;
use serde_json::{Value, json};

use crate::observation::{metrics, sum};
use crate::{Person, bus, install, install_guests, install_with, join, until};

const PROCESSES: &str = "/api/sys/processes";

/// A script for the shell of the capsule `shell`.
fn script(script: &str) -> Request {
    bus("shell.v1.run", &run("/bin/sh", script))
}

fn run(program: &str, script: &str) -> Value {
    let env = json!([["PATH", "/usr/bin:/bin"]]);
    json!({ "program": program, "args": ["-c", script], "env": env, "timeout_ms": 20_000 })
}

/// Processes with this word among their arguments, wherever they run.
fn runs(word: &str) -> usize {
    let folders = fs::read_dir("/proc").unwrap().flatten();
    let lines = folders.filter_map(|folder| fs::read(folder.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())).count()
}

/// Waits until something, or nothing, runs with this word.
async fn until_runs(daemon: &Daemon, word: &str, there: bool) {
    until(daemon, Request::get("/healthz"), |_| (runs(word) > 0) == there).await;
}

async fn listed(daemon: &Daemon, request: Request) -> Vec<Value> {
    daemon.unix(request).await.expect(200)["processes"].as_array().expect("a list").clone()
}

/// A request that somebody waits for, as a task.
async fn begun(daemon: &Daemon, request: Request) -> tokio::task::JoinHandle<Response> {
    let mut connection = daemon.connect_unix().await;
    tokio::spawn(async move { connection.send(request).await.expect("an answer") })
}

fn as_person(person: &Person, request: Request) -> Request {
    request.bearer(&person.bearer)
}

#[tokio::test]
async fn a_program_runs_for_whom_the_operator_has_granted_it_and_finds_only_what_it_was_given() {
    let home = Home::new();
    let daemon = home.start();
    let archive = pack::packed("shell");
    let asked = ["process:start:bin:sh", "process:start:usr:bin:env"];
    assert_eq!(pack::asked(&archive), asked);
    let refused = daemon.astrid(&["capsule", "install", archive.to_str().unwrap(), "--grant", asked[1]]);
    assert!(refused.refusal(1).contains(asked[0]), "{refused:?}");
    install_with(&daemon, &archive, &asked);

    let ran = daemon.unix(script("cat; echo oops >&2; exit 3")).await.expect(200);
    assert_eq!((&ran["output"], &ran["errors"], &ran["outcome"]), (&json!(""), &json!("oops\n"), &json!("exited 3")));
    let mut greeting = run("/bin/sh", "cat");
    greeting["input"] = "x".repeat(60_000).into();
    let ran = daemon.unix(bus("shell.v1.run", &greeting)).await.expect(200);
    assert_eq!(ran["output"].as_str().map(str::len), Some(60_000));
    let alone = json!({ "program": "/usr/bin/env", "env": [["A", "b"]], "timeout_ms": 5000 });
    assert_eq!(daemon.unix(bus("shell.v1.run", &alone)).await.expect(200)["output"], "A=b\n");

    // What is not in the manifest, by whatever name, is refused; and so is what is out of bounds.
    let cat = bus("shell.v1.run", &run("/bin/cat", ""));
    let why = daemon.unix(cat).await.refusal(403, "forbidden").to_string();
    assert!(why.contains("no [[process]] with the program /bin/cat"), "{why}");
    daemon.unix(bus("shell.v1.run", &run("/usr/bin/sh", ""))).await.refusal(403, "forbidden");
    let mut late = run("/bin/sh", "");
    late["timeout_ms"] = 0.into();
    daemon.unix(bus("shell.v1.run", &late)).await.refusal(400, "bad_request");

    // Nothing of the host, and no network.
    let hidden = format!("test -e {0} || test -e /etc/shadow || test -e /root || test -e /proc", home.path().display());
    assert_eq!(daemon.unix(script(&hidden)).await.expect(200)["outcome"], "exited 1");
    let address = daemon.address();
    let called = format!("bash -c 'echo x > /dev/tcp/{}/{}'", address.ip(), address.port());
    let called = daemon.unix(script(&called)).await.expect(200);
    assert!(called["errors"].as_str().unwrap().contains("not permitted"), "{called}");

    // A program that is still there when its capsule lets go of it is not there any more.
    let id = daemon.unix(bus("shell.v1.forget", &run("/bin/sh", "sleep 2000001"))).await.expect(200);
    assert_eq!(id.as_str().map(str::len), Some(16));
    until_runs(&daemon, "2000001", false).await;
}

#[tokio::test]
async fn processes_are_listed_and_stopped_by_whoever_may_and_ones_own_by_oneself() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["shell"]);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "agent", "bob", 2).await);
    let own = bus("shell.v1.run", &run("/bin/sh", "sleep 2000002"));
    daemon.astrid(&["caps", "grant", "bob", "bus:request"]).out();
    let asked = begun(&daemon, as_person(&bob, own.clone())).await;
    until_runs(&daemon, "2000002", true).await;
    let of_ada = begun(&daemon, as_person(&ada, script("sleep 2000003"))).await;
    until_runs(&daemon, "2000003", true).await;

    let all = listed(&daemon, as_person(&ada, Request::get(PROCESSES))).await;
    assert_eq!(all.len(), 2, "{all:?}");
    let mine = listed(&daemon, as_person(&bob, Request::get(PROCESSES))).await;
    assert_eq!(mine.len(), 1, "{mine:?}");
    let (bobs, adas) = (&mine[0], all.iter().find(|row| row["principal"] == "ada").expect("hers"));
    assert_eq!((&bobs["capsule"], &bobs["program"]), (&json!("shell"), &json!("/bin/sh")));
    assert!(bobs["started_at"].as_u64() > Some(1_700_000_000) && bobs["principal"] == "bob", "{bobs}");
    let usage = daemon.tcp(as_person(&bob, Request::get("/api/sys/principals/bob/usage"))).await.expect(200);
    assert_eq!((&usage["processes_running"], &usage["processes_limit"]), (&json!(1), &json!(8)));
    let text = daemon.astrid(&["process", "list"]).out().to_owned();
    assert!(text.contains("bob        shell    /bin/sh"), "{text}");

    let stop = |row: &Value| Request::post(&format!("{PROCESSES}/{}/stop", row["id"].as_str().unwrap()), &json!({}));
    daemon.tcp(as_person(&bob, stop(adas))).await.refusal(404, "not_found");
    let nobodys = Request::post(&format!("{PROCESSES}/0123456789abcdef/stop"), &json!({}));
    daemon.tcp(as_person(&ada, nobodys)).await.refusal(404, "not_found");
    assert_eq!(daemon.tcp(as_person(&bob, stop(bobs))).await.status, 204);
    assert_eq!(asked.await.unwrap().expect(200)["outcome"], "stopped");
    daemon.astrid(&["process", "stop", adas["id"].as_str().unwrap()]).out();
    assert_eq!(of_ada.await.unwrap().expect(200)["outcome"], "stopped");
    assert!(listed(&daemon, as_person(&ada, Request::get(PROCESSES))).await.is_empty());
    assert_eq!((runs("2000002"), runs("2000003")), (0, 0));

    // Somebody else's right to look is no right to stop.
    daemon.astrid(&["caps", "revoke", "bob", "self:process:stop"]).out();
    daemon.tcp(as_person(&bob, stop(bobs))).await.refusal(403, "forbidden");
}

#[tokio::test]
async fn a_principal_has_as_many_processes_as_its_quota_and_each_leaves_its_facts_and_figures() {
    let home = Home::new();
    let daemon = home.start();
    install_guests(&daemon, &["shell"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    daemon.astrid(&["quota", "set", "ada", "max_background_processes=1"]).out();
    let refused = daemon.astrid(&["quota", "set", "ada", "max_background_processes=257"]);
    assert!(refused.refusal(1).contains("1 to 256"), "{refused:?}");
    let held = begun(&daemon, as_person(&ada, script("sleep 2000004"))).await;
    until_runs(&daemon, "2000004", true).await;
    let why = daemon.tcp(as_person(&ada, script("echo"))).await.refusal(403, "forbidden").to_string();
    assert!(why.contains("max_background_processes"), "{why}");
    daemon.unix(script("echo secret-argument")).await.expect(200);
    let samples = metrics(&daemon).await;
    assert_eq!(sum(&samples, "astrid_processes", &[]), 1.0);
    let id = listed(&daemon, as_person(&ada, Request::get(PROCESSES))).await[0]["id"].as_str().unwrap().to_owned();
    daemon.astrid(&["process", "stop", &id]).out();
    held.await.unwrap().expect(200);
    let samples = metrics(&daemon).await;
    assert_eq!(sum(&samples, "astrid_processes", &[]), 0.0);
    assert_eq!(sum(&samples, "astrid_processes_started_total", &[("outcome", "ok")]), 2.0);
    assert_eq!(sum(&samples, "astrid_processes_ended_total", &[("outcome", "stopped")]), 1.0);
    assert_eq!(sum(&samples, "astrid_processes_ended_total", &[("outcome", "exited")]), 1.0);
    daemon.stop();

    let facts = crate::audit::facts(&home);
    let of = |action: &str, principal: &str| -> Vec<Value> {
        let fits = |fact: &&Value| fact["action"] == action && fact["principal"] == principal;
        facts.iter().filter(fits).cloned().collect()
    };
    let begun = of("process.start", "ada");
    // A program may run before the host has heard that it does.
    let of_outcome = |outcome: &str| begun.iter().find(|fact| fact["outcome"] == outcome).expect("it is recorded");
    assert!(begun.len() == 2 && of_outcome("refused")["decision"] == "allowed", "{begun:?}");
    let begun = of_outcome("ok");
    let (requires, program) = (&begun["requires"], &begun["target"]);
    assert_eq!((requires, program), (&json!("process:start:bin:sh"), &json!("/bin/sh")));
    assert_eq!(begun["payload"].as_str().map(str::len), Some(64));
    let ended = &of("process.end", "ada")[0];
    assert!(ended["outcome"] == "failed" && ended["reason"] == "stopped", "{ended}");
    assert!(ended["duration"].as_u64() > Some(0) && ended["payload"] == begun["payload"], "{ended}");
    let ended = &of("process.end", "default")[0];
    assert!(ended["outcome"] == "ok" && ended["reason"] == "exited with 0", "{ended}");
    assert_eq!(of("process.stop", "default").len(), 1);
    assert!(!facts.iter().any(|fact| fact.to_string().contains("secret-argument")));
}

#[tokio::test]
async fn no_process_outlives_its_time_its_client_its_run_loop_its_host_or_the_death_of_it() {
    let home = Home::new();
    let daemon = home.start();
    install_guests(&daemon, &["shell", "keeper"]);
    // With all that it has started, in whichever session.
    let family = |word: &str| format!("setsid sleep {word} & (sleep {word} &) ; sleep {word}");
    let mut short = run("/bin/sh", &family("2000005"));
    short["timeout_ms"] = 500.into();
    assert_eq!(daemon.unix(bus("shell.v1.run", &short)).await.expect(200)["outcome"], "timed out");
    until_runs(&daemon, "2000005", false).await;

    let left = begun(&daemon, script(&family("2000006"))).await;
    left.abort();
    assert!(left.await.is_err());
    let left = begun(&daemon, script(&family("2000007"))).await;
    until_runs(&daemon, "2000007", true).await;
    left.abort();
    until_runs(&daemon, "2000006", false).await;
    until_runs(&daemon, "2000007", false).await;

    // A run loop's go with it; a new version has none of them.
    let keep = |word: &str| bus("keeper.v1.keep", &json!({ "script": family(word) }));
    daemon.unix(keep("2000008")).await.expect(200);
    until_runs(&daemon, "2000008", true).await;
    assert_eq!(listed(&daemon, Request::get(PROCESSES)).await.len(), 1);
    daemon.astrid(&["capsule", "swap", "keeper"]).out();
    until_runs(&daemon, "2000008", false).await;

    daemon.unix(keep("2000009")).await.expect(200);
    until_runs(&daemon, "2000009", true).await;
    assert_eq!(daemon.stop().code, Some(0));
    assert_eq!(runs("2000009"), 0);

    let daemon = home.start();
    daemon.unix(keep("2000010")).await.expect(200);
    until_runs(&daemon, "2000010", true).await;
    daemon.kill();
    let daemon = home.start();
    until_runs(&daemon, "2000010", false).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_answer_that_says_so() {
    let daemon = Daemon::start();
    let absent = pack::repacked(daemon.home().beside(), "absent", "shell", |manifest| {
        manifest.process[0].program = "/usr/bin/no-such-program".to_owned();
    });
    install(&daemon, &absent);
    let asked = bus("shell.v1.run", &run("/usr/bin/no-such-program", ""));
    let why = daemon.unix(asked).await.refusal(502, "unavailable").to_string();
    assert!(why.contains("/usr/bin/no-such-program: "), "{why}");
}
