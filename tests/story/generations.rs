//! One version gives way to the next: what it must show before, who notices, and what takes it back.
//!
//! The versions are those of the guest `fickle`, which differ in what goes wrong in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use astrid_capsule::Capability;
use astrid_capsule::archive::Archive;
use astrid_capsule::distro::lock::{Lock, Locked};
use astrid_capsule::distro::{Distro, bundle};
use astrid_capsule::manifest::{Manifest, Probe};
use astrid_host::fault::Point;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Streaming};
use astrid_tests::{DEADLINE, pack};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::observation::{metrics, sum};
use crate::{Load, Person, assert_well, bus, install, install_guests, install_with, join};

/// Calls that may fail until a version that fails everybody is taken back, in a test that makes one after the other: the
/// five or six that it takes with one or two callers, and those that arrive while it goes.
const FAILURES: usize = 12;

/// A version of `fickle` in which this goes wrong, with a changed manifest.
#[track_caller]
fn changed(home: &Home, version: &str, mode: &str, change: impl FnOnce(&mut Manifest)) -> PathBuf {
    let Archive { mut manifest, component, .. } = pack::read("fickle");
    manifest.package.version = version.parse().expect("a version");
    change(&mut manifest);
    let component = match mode {
        "well" => component,
        mode => pack::patched(&component, "fickle is well", &format!("fickle is {mode}")),
    };
    pack::write(home.beside(), &format!("fickle-{version}-{mode}"), &manifest, &component)
}

#[track_caller]
fn made(home: &Home, version: &str, mode: &str) -> PathBuf {
    changed(home, version, mode, |_| {})
}

fn probe(probe: Value) -> Probe {
    serde_json::from_value(probe).expect("a probe")
}

/// What `astrid capsule install` says when it installs nothing.
#[track_caller]
fn refused(daemon: &Daemon, archive: &std::path::Path, more: &[&str]) -> String {
    let mut arguments = vec!["capsule", "install", archive.to_str().unwrap(), "--grant", "http:mount"];
    arguments.extend(more);
    daemon.astrid(&arguments).refusal(1).to_owned()
}

fn say(text: &str) -> Request {
    bus("fickle.v1.say", &json!({ "text": text }))
}

async fn kept(daemon: &Daemon) -> Value {
    daemon.unix(bus("fickle.v1.kept", &json!({}))).await.expect(200)
}

/// The version that is live, which answers.
async fn live(daemon: &Daemon) -> String {
    let answer = daemon.unix(say("x")).await.expect(200);
    assert_eq!(answer, json!({ "text": "x" }));
    version(daemon, "fickle").await
}

async fn version(daemon: &Daemon, capsule: &str) -> String {
    let row = daemon.unix(Request::get(&format!("/api/capsules/{capsule}"))).await.expect(200);
    assert_eq!(row["state"], "live", "{row}");
    row["version"].as_str().unwrap().to_owned()
}

/// What happened to a capsule, oldest first: what and to which version.
async fn history(daemon: &Daemon, capsule: &str) -> Vec<(String, String, Option<String>)> {
    let shown = daemon.unix(Request::get(&format!("/api/capsules/{capsule}/history"))).await.expect(200);
    let text = |step: &Value, field: &str| step[field].as_str().map(str::to_owned);
    let steps = shown["steps"].as_array().unwrap().iter();
    steps.map(|s| (text(s, "what").unwrap(), text(s, "version").unwrap(), text(s, "why"))).collect()
}

/// The last of it.
async fn last(daemon: &Daemon) -> (String, String, Option<String>) {
    history(daemon, "fickle").await.pop().expect("something happened")
}

fn step(what: &str, version: &str) -> (String, String, Option<String>) {
    (what.into(), version.into(), None)
}

#[tokio::test]
async fn hooks_run_once_for_each_installation_and_what_they_write_lasts_only_with_it() {
    let home = Home::new();
    let daemon = home.start();
    for mode in ["deny", "dies", "stop", "sick"] {
        refused(&daemon, &made(&home, "1.0.0", mode), &[]);
    }
    install(&daemon, &made(&home, "1.0.0", "well"));
    let first = json!({ "hooks": "1", "phase": "install" });
    assert_eq!(kept(&daemon).await, first, "what the hook wrote, and nothing of what it wrote beside its transaction");

    for (mode, reason) in [
        ("deny", "this version does not want to be installed"),
        ("dies", "installation hook failed: trapped"),
        ("stop", "this version does not start"),
        ("sick", "this version is sick"),
    ] {
        let said = refused(&daemon, &made(&home, "2.0.0", mode), &[]);
        assert!(said.contains(reason) && said.contains("fickle"), "{mode}: {said}");
        assert_eq!((live(&daemon).await, kept(&daemon).await), ("1.0.0".into(), first.clone()), "{mode}");
    }
    let lies = changed(&home, "2.0.0", "lies", |manifest| {
        manifest.probe.push(probe(json!({
            "topic": "fickle.v1.say", "payload": { "text": "x" }, "answer": { "text": "x" }
        })));
    });
    let said = refused(&daemon, &lies, &[]);
    assert!(said.contains("fickle.v1.say") && said.contains("/text"), "{said}");
    assert_eq!((live(&daemon).await, kept(&daemon).await), ("1.0.0".into(), first));

    install(&daemon, &made(&home, "2.0.0", "well"));
    let second = json!({ "hooks": "2", "phase": "upgrade from 1.0.0" });
    assert_eq!((live(&daemon).await, kept(&daemon).await), ("2.0.0".into(), second.clone()));
    assert_eq!(history(&daemon, "fickle").await, [step("installed", "1.0.0"), step("upgraded", "2.0.0")]);
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    assert_eq!((live(&daemon).await, kept(&daemon).await), ("2.0.0".into(), second));
}

#[tokio::test]
async fn what_a_version_has_promised_holds_for_the_next_and_a_rehearsal_leaves_no_trace() {
    let home = Home::new();
    let daemon = home.start();
    let promising = changed(&home, "1.0.0", "well", |manifest| {
        manifest.probe = [
            json!({ "topic": "fickle.v1.say", "payload": { "text": "x" }, "answer": { "text": "x" } }),
            json!({ "topic": "fickle.v1.say", "payload": { "words": 1 }, "expect": "invalid" }),
            json!({ "topic": "fickle.v1.write" }),
            json!({ "path": "/fickle/a", "status": 200, "answer": { "text": "/fickle/a" } }),
        ]
        .map(probe)
        .to_vec();
    });
    install(&daemon, &promising);
    let first = json!({ "hooks": "1", "phase": "install" });
    assert_eq!(kept(&daemon).await, first);
    // None of these promises anything itself.
    for (mode, reason) in [
        ("lies", "something else at /text"),
        ("oops", "Internal: this version fails"),
        ("trap", "fails: trapped"),
        ("leak", "fails: trapped"),
    ] {
        let said = refused(&daemon, &made(&home, "2.0.0", mode), &[]);
        assert!(said.contains("fickle.v1.say") && said.contains(reason), "{mode}: {said}");
    }
    let slow = changed(&home, "2.0.0", "hang", |manifest| manifest.limits.timeout_ms = 200);
    let said = refused(&daemon, &slow, &[]);
    assert!(said.contains("fickle.v1.say") && said.contains("fails: "), "{said}");
    assert_eq!((live(&daemon).await, kept(&daemon).await), ("1.0.0".into(), first));
    // The same, not in a rehearsal.
    daemon.unix(bus("fickle.v1.write", &json!({}))).await.expect(200);
    assert_eq!(kept(&daemon).await["writes"], "1");
    // What is not served any more is not asked for.
    let narrow = changed(&home, "2.0.0", "well", |manifest| {
        manifest.subscribe.retain(|bound| bound.topic.as_str() != "fickle.v1.write");
    });
    install(&daemon, &narrow);
    assert_eq!(live(&daemon).await, "2.0.0");
}

#[tokio::test]
async fn whoever_asks_for_more_waits_for_consent_and_whoever_asks_for_no_more_needs_none() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    let done = install_with(&daemon, &made(&home, "1.1.0", "well"), &[]);
    assert_eq!(done["grants"], json!(["http:mount"]), "granted before");
    let more = |version: &str| {
        changed(&home, version, "well", |manifest| {
            manifest.publish.push(serde_json::from_value(json!({ "topic": "echo.v1.say" })).unwrap());
        })
    };
    let asking = more("2.0.0");
    let said = refused(&daemon, &asking, &[]);
    assert!(said.contains("bus:send:echo:v1:say") && !said.contains("asks for http:mount"), "{said}");
    assert_eq!(live(&daemon).await, "1.1.0");
    let grant = Capability::parse("bus:send:echo:v1:say").unwrap();
    install_with(&daemon, &asking, &[grant.as_str()]);
    install_with(&daemon, &more("2.1.0"), &[]);
    // What is asked no more is not kept for later.
    install_with(&daemon, &made(&home, "3.0.0", "well"), &[]);
    let said = refused(&daemon, &more("4.0.0"), &[]);
    assert!(said.contains("bus:send:echo:v1:say"), "{said}");
    assert_eq!(live(&daemon).await, "3.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_is_compared_with_live_calls_whose_callers_never_notice() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    let connections = vec![daemon.connect_unix().await, daemon.connect_unix().await];
    let load = Load::start(connections, &say("x")).await;
    let arguments = |archive: &std::path::Path| {
        ["--json", "capsule", "install", archive.to_str().unwrap(), "--shadow", "20"].map(str::to_owned)
    };
    let same = arguments(&made(&home, "2.0.0", "well"));
    let done = daemon.astrid(&same.each_ref().map(String::as_str)).json();
    assert_eq!((&done["shadowed"], &done["installed_version"]), (&json!(20), &json!("2.0.0")), "{done}");
    for mode in ["lies", "trap"] {
        let said = refused(&daemon, &made(&home, "3.0.0", mode), &["--shadow", "20"]);
        assert!(said.contains("20 of 20 live calls were answered differently: fickle.v1.say"), "{said}");
        assert_eq!(live(&daemon).await, "2.0.0");
    }
    assert!(load.end().await > 60);
    // The same for what a front end answers.
    let page = Request::get("/fickle/page");
    let load = Load::start(vec![daemon.connect().await, daemon.connect().await], &page).await;
    let said = refused(&daemon, &made(&home, "3.0.0", "oops"), &["--shadow", "10"]);
    assert!(said.contains("10 of 10 live calls were answered differently: /fickle/page: 200 became 500"), "{said}");
    load.end().await;

    // Whoever waits for calls holds nobody up.
    let waiting = arguments(&made(&home, "4.0.0", "well"));
    let shadowing = {
        let home = home.clone();
        thread::spawn(move || home.astrid(&waiting.each_ref().map(String::as_str)))
    };
    until_generations(&daemon, "fickle", 2.0).await;
    install_guests(&daemon, &["echo"]);
    assert_eq!(version(&daemon, "fickle").await, "2.0.0");
    while !shadowing.is_finished() {
        daemon.unix(say("x")).await.expect(200);
    }
    assert_eq!(shadowing.join().unwrap().json()["shadowed"], 20);
    assert_eq!(live(&daemon).await, "4.0.0");
}

async fn generations(daemon: &Daemon, capsule: &str) -> f64 {
    sum(&metrics(daemon).await, "astrid_capsule_generations", &[("capsule", capsule)])
}

async fn until_generations(daemon: &Daemon, capsule: &str, wanted: f64) {
    let started = Instant::now();
    while generations(daemon, capsule).await != wanted {
        assert!(started.elapsed() < DEADLINE, "{capsule} never has {wanted} generations");
        tokio::task::yield_now().await;
    }
}

/// Makes this call again and again until it is answered with 200; how often it was not.
async fn failures(daemon: &Daemon, requests: &[Request]) -> usize {
    let mut failed = 0;
    for request in requests.iter().cycle() {
        if daemon.tcp(request.clone()).await.status == 200 {
            return failed;
        }
        failed += 1;
        assert!(failed < FAILURES, "it is never taken back");
    }
    unreachable!("requests go round")
}

#[tokio::test]
async fn a_version_that_fails_its_callers_gives_way_by_itself_after_a_few_calls() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let calls = [say("x").bearer(&ada.bearer), say("x").bearer(&bob.bearer)];
    let pages = [Request::get("/fickle/page")];
    for (n, (mode, requests)) in
        [("trap", &calls[..]), ("hang", &calls[..]), ("leak", &calls[..]), ("oops", &calls[..]), ("oops", &pages[..])]
            .into_iter()
            .enumerate()
    {
        let number = format!("2.0.{n}");
        install(&daemon, &changed(&home, &number, mode, |manifest| manifest.limits.timeout_ms = 500));
        let failed = failures(&daemon, requests).await;
        assert!(failed >= 5, "{mode}: taken back after {failed}");
        // The record follows.
        let started = Instant::now();
        let why = loop {
            match last(&daemon).await {
                (what, version, Some(why)) if (what.as_str(), version.as_str()) == ("rolled-back", "1.0.0") => {
                    break why;
                }
                step => assert!(started.elapsed() < DEADLINE, "{mode}: {step:?}"),
            }
        };
        assert!(why.contains("budget of errors"), "{mode}: {why}");
        assert_eq!(live(&daemon).await, "1.0.0", "{mode}");
    }
    assert_eq!(sum(&metrics(&daemon).await, "astrid_capsule_rollbacks_total", &[("capsule", "fickle")]), 5.0);
    assert!(daemon.stderr().contains("rolled back: it used up its budget of errors"), "it is logged");
    assert_eq!(daemon.stop().code, Some(0));
    assert_eq!(live(&home.start()).await, "1.0.0");
}

#[tokio::test]
async fn whoever_makes_their_own_calls_fail_takes_nothing_back_from_the_others() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    install(&daemon, &made(&home, "2.0.0", "well"));
    daemon.tcp(say("x").bearer(&ada.bearer)).await.expect(200);
    for _ in 0..30 {
        daemon.tcp(say("poison").bearer(&bob.bearer)).await.refusal(502, "unavailable");
    }
    assert_eq!(live(&daemon).await, "2.0.0");
    assert_eq!(last(&daemon).await, step("upgraded", "2.0.0"));
}

#[tokio::test]
async fn an_operator_goes_back_and_forth_and_deletes_what_nobody_needs() {
    let home = Home::new();
    let daemon = home.start();
    let change = |verb: &str| daemon.astrid(&["--json", "capsule", verb, "fickle"]).json();
    daemon.astrid(&["capsule", "rollback", "fickle"]).refusal(1);
    let hash = |done: Value| done["wasm_hash"].as_str().unwrap().to_owned();
    let mut hashes = Vec::new();
    for (number, mode) in [("1.0.0", "trap"), ("2.0.0", "well"), ("3.0.0", "once")] {
        hashes.push(hash(install(&daemon, &made(&home, number, mode))));
        if hashes.len() == 1 {
            let said = daemon.astrid(&["capsule", "rollback", "fickle"]);
            assert!(said.refusal(1).contains("no version before"), "{said:?}");
        }
    }
    let bin = || -> BTreeSet<String> {
        let files = fs::read_dir(home.path().join("bin")).unwrap();
        files.map(|file| file.unwrap().file_name().to_string_lossy().split('.').next().unwrap().to_owned()).collect()
    };
    assert!(hashes.iter().all(|hash| bin().contains(hash)));
    let gone = daemon.astrid(&["--json", "capsule", "gc"]).json();
    assert_eq!(gone["files"], 2, "the first component and its compiled code: {gone}");
    assert!(!bin().contains(&hashes[0]) && bin().contains(&hashes[1]) && bin().contains(&hashes[2]));

    assert_eq!(change("rollback")["version"], "2.0.0");
    // Not the same again, but another generation of it: what to go back to stays.
    assert_eq!(change("swap")["version"], "2.0.0");
    let done = install(&daemon, &made(&home, "2.0.0", "well"));
    assert_eq!(done["previous_version"], "2.0.0");
    let shown = daemon.astrid(&["capsule", "history", "fickle"]);
    assert!(shown.out().contains("rolled-back") && shown.out().contains("swapped"), "{shown:?}");
    assert_eq!(
        history(&daemon, "fickle")
            .await
            .into_iter()
            .map(|(what, version, _)| what + " " + &version)
            .collect::<Vec<_>>(),
        ["installed 1.0.0", "upgraded 2.0.0", "upgraded 3.0.0", "rolled-back 2.0.0", "swapped 2.0.0", "upgraded 2.0.0"]
    );
    // It starts once, and has.
    let said = daemon.astrid(&["capsule", "rollback", "fickle"]);
    assert!(said.refusal(1).contains("starts once"), "{said:?}");
    assert_eq!(live(&daemon).await, "2.0.0");
}

#[tokio::test]
async fn what_is_removed_stays_removed_and_what_is_purged_leaves_nothing() {
    let home = Home::new();
    // As the distribution brings it.
    let described = changed(&home, "1.0.0", "well", |manifest| {
        manifest.env = serde_json::from_value(json!({ "WORD": { "type": "string" } })).expect("an environment");
    });
    let distro = home.path().join("distro");
    fs::copy(&described, distro.join("fickle.capsule")).unwrap();
    let mut text = fs::read_to_string(distro.join("Distro.toml")).unwrap();
    text += "\n[[capsule]]\nname = \"fickle\"\nsource = \"fickle.capsule\"\ngrants = [\"http:mount\"]\n";
    fs::write(distro.join("Distro.toml"), text).unwrap();
    let daemon = home.start();
    let ada = join(&daemon, "admin", "ada", 1).await;
    let held = async |daemon: &Daemon| {
        let usage = daemon.unix(Request::get("/api/sys/principals/ada/usage")).await.expect(200);
        usage["storage_bytes_used"].as_u64().unwrap_or_else(|| panic!("{usage}"))
    };
    daemon.tcp(bus("fickle.v1.write", &json!({})).bearer(&ada.bearer)).await.expect(200);
    assert!(held(&daemon).await > 1000);
    let set = Request::post("/api/capsules/fickle/env/WORD", &json!({ "value": "x" }));
    assert_eq!(daemon.unix(set).await.status, 204);
    let written = kept(&daemon).await;

    daemon.astrid(&["capsule", "remove", "fickle"]).out();
    daemon.unix(say("x")).await.refusal(404, "not_found");
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    daemon.unix(Request::get("/api/capsules/fickle")).await.refusal(404, "not_found");
    assert_eq!(last(&daemon).await, step("removed", "1.0.0"));

    // What it has stored waits for it; the hook knows that it is installed anew.
    install(&daemon, &described);
    let again = kept(&daemon).await;
    assert_eq!((&again["writes"], &again["phase"]), (&written["writes"], &json!("install")), "{again}");
    let field = async |daemon: &Daemon| {
        let fields = daemon.unix(Request::get("/api/capsules/fickle/env")).await.expect(200);
        fields["fields"]["WORD"]["is_set"].clone()
    };
    assert_eq!(field(&daemon).await, true);

    daemon.astrid(&["capsule", "remove", "fickle", "--purge"]).out();
    assert_eq!(held(&daemon).await, 0);
    install(&daemon, &described);
    assert_eq!(kept(&daemon).await, json!({ "hooks": "1", "phase": "install" }));
    assert_eq!(field(&daemon).await, false);
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_version_that_does_not_start_with_the_host_gives_way_to_the_one_before() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    install(&daemon, &made(&home, "2.0.0", "once"));
    assert_eq!(live(&daemon).await, "2.0.0");
    let mut daemon = daemon;
    for _ in 0..2 {
        assert_eq!(daemon.stop().code, Some(0));
        daemon = home.start();
        assert_eq!(live(&daemon).await, "1.0.0");
        let (what, version, why) = last(&daemon).await;
        assert_eq!((what.as_str(), version.as_str()), ("rolled-back", "1.0.0"));
        assert!(why.unwrap().contains("this version starts once"));
        assert_well(&daemon).await;
    }
}

/// A gateway that serves its mounts, and with everything but what it should.
#[track_caller]
fn broken_gateway(home: &Home, version: &str) -> PathBuf {
    let manifest = |mut manifest: Manifest| {
        manifest.package.version = version.parse().expect("a version");
        manifest
    };
    let component = pack::patched(&pack::read("fickle").component, "fickle is well", "fickle is oops");
    pack::write(home.beside(), &format!("gateway-{version}"), &manifest(pack::read("gateway").manifest), &component)
}

#[tokio::test]
async fn in_safe_mode_the_distribution_runs_and_a_broken_gateway_is_repaired() {
    let home = Home::new();
    let daemon = home.start();
    install_guests(&daemon, &["echo"]);
    assert_eq!(daemon.stop().code, Some(0));
    let newer = pack::repacked(home.beside(), "newer", "gateway", |manifest| manifest.package.version.patch = 9);
    for (number, (repair, repaired)) in [
        (vec!["capsule", "rollback", "gateway"], "0.1.0"),
        (vec!["capsule", "remove", "gateway"], "0.1.0"),
        (vec!["capsule", "install", newer.to_str().unwrap()], "0.1.9"),
    ]
    .into_iter()
    .enumerate()
    {
        let daemon = home.start();
        install(&daemon, &broken_gateway(&home, &format!("0.2.{number}")));
        daemon.astrid(&["capsule", "list"]).refusal(1);
        assert_eq!(daemon.stop().code, Some(0));
        let daemon = home.start();
        assert_eq!(daemon.unix(Request::get("/api/capsules")).await.status, 500, "it is broken after a restart, too");
        assert_eq!(daemon.stop().code, Some(0));

        let daemon = home.start_with(&["--safe-mode"]);
        assert_eq!(version(&daemon, "gateway").await, "0.1.0");
        daemon.unix(bus("echo.v1.say", &json!(1))).await.refusal(404, "not_found");
        assert!(daemon.stderr().contains("safe mode"), "it says so");
        daemon.astrid(&repair).out();
        assert_well(&daemon).await;
        assert_eq!(daemon.stop().code, Some(0));

        let daemon = home.start();
        assert_eq!(version(&daemon, "gateway").await, repaired, "{repair:?}");
        daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200);
        assert_well(&daemon).await;
        assert_eq!(daemon.stop().code, Some(0));
    }
    // What the distribution does not bring is repaired as well.
    let daemon = home.start_with(&["--safe-mode"]);
    daemon.astrid(&["capsule", "remove", "echo"]).out();
    assert_eq!(daemon.stop().code, Some(0));
    home.start().unix(bus("echo.v1.say", &json!(1))).await.refusal(404, "not_found");
}

/// The home's distribution in one file.
fn bundled(home: &Home) -> Vec<u8> {
    let folder = home.path().join("distro");
    let text = fs::read_to_string(folder.join("Distro.toml")).unwrap();
    let distro = Distro::parse(&text).unwrap();
    let locked = distro.capsule.iter().map(|entry| {
        let bytes = fs::read(folder.join(entry.file())).unwrap();
        Locked::of(&Archive::read(&bytes[..]).unwrap(), &bytes)
    });
    let (lock, mut bundle) = (Lock::new(&distro, locked.collect()), Vec::new());
    bundle::write(&distro, (&text, &lock), |path| fs::read(folder.join(path)), &mut bundle).unwrap();
    bundle
}

#[tokio::test]
async fn the_distribution_in_the_program_starts_in_safe_mode_whatever_has_become_of_the_one_beside_it() {
    let home = Home::new();
    let program = home.embedding(&bundled(&home));
    let daemon = home.start();
    install(&daemon, &broken_gateway(&home, "0.2.0"));
    assert_eq!(daemon.stop().code, Some(0));
    let file = home.path().join("distro/Distro.toml");
    let text = fs::read(&file).unwrap();
    fs::write(&file, "nothing that reads").unwrap();
    let ended = home.try_start(&["--safe-mode"]).err().expect("this program holds no distribution");
    assert!(ended.stderr.contains("Distro.toml"), "{ended:?}");

    // Nobody has to vouch for what is the program's own.
    let daemon = home.start_program(&program, &["--safe-mode", "--set", "trust.distro=require"]);
    assert!(daemon.stderr().contains("the distribution in this program"), "{}", daemon.stderr());
    assert_eq!(version(&daemon, "gateway").await, "0.1.0");
    assert_well(&daemon).await;
    daemon.astrid(&["capsule", "rollback", "gateway"]).out();
    assert_eq!(daemon.stop().code, Some(0));
    // Another time, and with another one named.
    assert_eq!(home.start_program(&program, &["--safe-mode"]).stop().code, Some(0));
    let named = home.path().join("distro");
    let ended = home.try_start_program(&program, &["--safe-mode", "--distro", named.to_str().unwrap()]).err();
    assert!(ended.is_some(), "what is named counts");

    fs::write(&file, text).unwrap();
    let daemon = home.start_program(&program, &[]);
    assert_eq!(version(&daemon, "gateway").await, "0.1.0");
    assert_well(&daemon).await;
}

/// What a home with `fickle` in this version looks like, whole: it answers, and its record, its hooks, its history and its
/// file agree.
async fn assert_whole(daemon: &Daemon, version: &str, hooks: &str, history_ends: &str) {
    assert_eq!(live(daemon).await, version);
    assert_eq!(kept(daemon).await["hooks"], hooks);
    let (what, of, _) = last(daemon).await;
    assert_eq!((what.as_str(), of.as_str()), (history_ends, version));
    let row = daemon.unix(Request::get("/api/capsules/fickle")).await.expect(200);
    let file = daemon.home().path().join("bin").join(format!("{}.wasm", row["hash"].as_str().unwrap()));
    assert_eq!(blake3::hash(&fs::read(file).unwrap()).to_hex().as_str(), row["hash"].as_str().unwrap());
    assert_well(daemon).await;
}

/// A daemon that dies at this point of what `act` asks for, and the next one on its home.
fn killed_at(home: &Home, point: Point, act: &[&str]) -> Daemon {
    let daemon = home.start_with(&["--fault", &format!("fickle:{}", point.name())]);
    // It may have answered before it died.
    let _ = daemon.astrid(act);
    let ended = daemon.wait();
    assert_eq!(ended.code, None, "{point:?}: {ended:?}");
    home.start()
}

/// Those that a capsule without a run loop comes by.
fn points() -> impl Iterator<Item = Point> {
    Point::ALL.into_iter().filter(|point| *point != Point::HandedOver)
}

/// Whether what is done at a point has happened.
fn is_done(point: Point) -> bool {
    matches!(point, Point::Committed | Point::Flipped | Point::Retired)
}

#[tokio::test]
async fn killed_anywhere_in_an_installation_nothing_or_all_of_it_is_there() {
    let home = Home::new();
    let first = made(&home, "1.0.0", "well");
    let act = ["capsule", "install", first.to_str().unwrap(), "--grant", "http:mount"];
    // Nothing is retired where nothing was.
    for point in points().filter(|point| *point != Point::Retired) {
        let daemon = killed_at(&home, point, &act);
        if is_done(point) {
            assert_whole(&daemon, "1.0.0", "1", "installed").await;
            daemon.astrid(&["capsule", "remove", "fickle", "--purge"]).out();
        } else {
            daemon.unix(Request::get("/api/capsules/fickle")).await.refusal(404, "not_found");
            assert_well(&daemon).await;
            // What was left over is in nobody's way.
            if point == Point::Kept {
                install(&daemon, &first);
                assert_whole(&daemon, "1.0.0", "1", "installed").await;
                daemon.astrid(&["capsule", "remove", "fickle", "--purge"]).out();
            }
        }
        assert_eq!(daemon.stop().code, Some(0), "{point:?}");
    }
}

#[tokio::test]
async fn killed_anywhere_in_an_upgrade_or_a_rollback_the_old_or_the_new_version_is_whole() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    assert_eq!(daemon.stop().code, Some(0));
    let next = made(&home, "2.0.0", "well");
    let upgrade = ["capsule", "install", next.to_str().unwrap()];
    let mut hooks = 1;
    let mut ends = "installed";
    for point in points() {
        let daemon = killed_at(&home, point, &upgrade);
        if is_done(point) {
            hooks += 1;
            assert_whole(&daemon, "2.0.0", &hooks.to_string(), "upgraded").await;
            assert_eq!(daemon.stop().code, Some(0));
            let daemon = killed_at(&home, point, &["capsule", "rollback", "fickle"]);
            ends = "rolled-back";
            assert_whole(&daemon, "1.0.0", &hooks.to_string(), ends).await;
            assert_eq!(daemon.stop().code, Some(0), "{point:?}");
        } else {
            assert_whole(&daemon, "1.0.0", &hooks.to_string(), ends).await;
            assert_eq!(daemon.stop().code, Some(0), "{point:?}");
        }
    }
}

/// How often each of three capsules is swapped under load.
const SWAPS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_again_and_again_under_load_no_request_fails_and_no_stream_loses_an_event() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(stream(&daemon, &ada).await);
    }
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(daemon.connect().await);
    }
    // Each request is a session by identity and an answer by the gateway.
    let load = Load::start(connections, &Request::get("/api/auth/me").bearer(&ada.bearer)).await;
    let mut sender = daemon.connect_unix().await;
    for n in 0..SWAPS {
        for capsule in ["gateway", "identity", "live"] {
            let swap = Request::new("POST", &format!("/api/capsules/{capsule}/swap"));
            let swapped = sender.send(swap.bearer(&ada.bearer)).await.expect("an answer").expect(200);
            assert_eq!(swapped["version"], "0.1.0");
            let alive = generations(&daemon, capsule).await;
            assert!((1.0..=2.0).contains(&alive), "{capsule} has {alive} generations");
            let event = json!({ "n": n, "after": capsule });
            let said = Request::post("/api/bus/publish/live.v1.said", &event).bearer(&ada.bearer);
            assert_eq!(sender.send(said).await.expect("an answer").expect(202)["delivered"], 4);
        }
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        for n in 0..SWAPS {
            for capsule in ["gateway", "identity", "live"] {
                let text = stream.next().await.expect("whole").expect("one more");
                let data = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
                let event: Value = serde_json::from_str(data).unwrap();
                assert_eq!(event, json!({ "n": n, "after": capsule }), "stream {number}");
            }
        }
    }
    assert!(load.end().await > 8 * SWAPS);
    let swapped = history(&daemon, "gateway").await;
    assert_eq!(swapped.iter().filter(|(what, ..)| what == "swapped").count(), SWAPS);
    assert_well(&daemon).await;
}

/// An open stream of what is said, past its beginning.
async fn stream(daemon: &Daemon, person: &Person) -> Streaming {
    let socket = TcpStream::connect(daemon.address()).await.expect("a listener");
    let mut stream = Streaming::open(socket, Request::get("/live/said").bearer(&person.bearer)).await;
    assert_eq!((stream.status, stream.next().await), (200, Ok(Some(": live-one".into()))));
    stream
}
