//! What a host has written down of what happened, and what becomes of that when files or the disk fail it.

use std::fs;
use std::path::{Path, PathBuf};

use astrid_capsule::manifest::Audit;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};

use crate::{bus, install, install_guests, join, key, public_hex, until};

const SECRET: &str = "sk-aubergine-0042";

/// Every fact of a home whose daemon has ended, in order: the entries of its bundles.
pub(crate) fn facts(home: &Home) -> Vec<Value> {
    let folder = home.path().join("audit/tile/entries");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    // Of a bundle that is not whole there may be several; the widest holds the others.
    let whole = |partial: &Path| partial.with_extension("").is_file();
    let files = files.into_iter().filter(|file| file.is_file() || !whole(file));
    files.flat_map(|file| if file.is_file() { entries(&file) } else { entries(&widest(&file)) }).collect()
}

fn widest(folder: &Path) -> PathBuf {
    let width = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).max_by_key(width).unwrap()
}

fn entries(file: &Path) -> Vec<Value> {
    let (bytes, mut found) = (fs::read(file).unwrap(), Vec::new());
    let mut rest = bytes.as_slice();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (entry, after) = after.split_at(u16::from_be_bytes(*length).into());
        found.push(serde_json::from_slice(entry).unwrap());
        rest = after;
    }
    found
}

/// Those of them in which all of these stand.
fn matching<'f>(facts: &'f [Value], wanted: &Value) -> Vec<&'f Value> {
    let stands = |fact: &Value| wanted.as_object().unwrap().iter().all(|(name, value)| fact[name] == *value);
    facts.iter().filter(|fact| stands(fact)).collect()
}

#[track_caller]
fn one<'f>(facts: &'f [Value], wanted: &Value) -> &'f Value {
    let found = matching(facts, wanted);
    assert!(!found.is_empty(), "no {wanted} among {} facts", facts.len());
    found[0]
}

#[tokio::test]
async fn what_was_decided_loaded_signed_read_and_ended_is_a_fact_that_anybody_can_check() {
    let home = Home::new();
    let daemon = home.start();
    install_guests(&daemon, &["env", "trap"]);
    let ada = join(&daemon, "agent", "ada", 1).await;
    let issue = Request::post("/api/sys/invites", &json!({ "group": "agent", "max_uses": 1 }));
    daemon.tcp(issue.clone().bearer(&ada.bearer)).await.refusal(403, "forbidden");
    daemon.unix(issue).await.expect(200);
    daemon.tcp(Request::get("/api/auth/me").bearer("nonsense")).await.refusal(401, "unauthorized");
    let set = Request::post("/api/capsules/env/env/KEY", &json!({ "value": SECRET }));
    assert_eq!(daemon.unix(set).await.status, 204);
    assert_eq!(daemon.unix(bus("env.v1.get", &json!({ "name": "KEY" }))).await.expect(200)["value"], SECRET);
    daemon.unix(bus("trap.v1.panic", &json!({}))).await;
    daemon.astrid(&["capsule", "swap", "env"]).out();
    daemon.astrid(&["capsule", "remove", "trap"]).out();
    let key = daemon.astrid(&["audit", "key", "--json"]).json()["key"].as_str().unwrap().to_owned();
    daemon.stop();

    let facts = facts(&home);
    // Whoever acts is named with the very bytes that acted: the gateway asked, and identity signed.
    for acting in ["gateway", "identity"] {
        let installed =
            one(&facts, &json!({ "action": "capsule.install", "target": acting, "outcome": "ok" }))["hash"].clone();
        let of = facts.iter().filter(|fact| fact["capsule"] == acting);
        let others: Vec<_> = of.clone().filter(|fact| fact["hash"] != installed).collect();
        assert!(of.count() > 0 && others.is_empty(), "not by {installed}: {others:?}");
    }
    let denied = one(&facts, &json!({ "action": "bus.identity.v1.invite.issue", "principal": "ada" }));
    assert_eq!((&denied["decision"], &denied["outcome"]), (&json!("denied"), &json!("refused")), "{denied}");
    assert!(denied["requires"].as_str().unwrap().starts_with("invite:"), "{denied}");
    assert_eq!(denied["rule"], "nothing grants it");
    let allowed =
        one(&facts, &json!({ "action": "bus.identity.v1.invite.issue", "principal": "default", "outcome": "ok" }));
    assert_eq!(allowed["decision"], "allowed");
    assert!(allowed["duration"].as_u64().unwrap() > 0 && allowed["cause"].is_string(), "{allowed}");
    assert!(allowed["rule"].as_str().unwrap().starts_with("group admin"), "{allowed}");
    assert_eq!(allowed["payload"].as_str().unwrap().len(), 64);
    for wanted in [
        json!({ "action": "host.start", "outcome": "ok" }),
        json!({ "action": "config.load" }),
        json!({ "action": "capsule.install", "target": "identity", "outcome": "ok" }),
        json!({ "action": "capsule.install", "target": "env", "outcome": "ok", "principal": "default" }),
        json!({ "action": "capsule.load", "capsule": "env", "outcome": "ok" }),
        json!({ "action": "capsule.swap", "target": "env", "principal": "default" }),
        json!({ "action": "capsule.remove", "target": "trap", "principal": "default" }),
        json!({ "action": "capsule.call", "capsule": "trap", "principal": "default", "outcome": "failed" }),
        json!({ "action": "session.begin", "principal": "ada", "outcome": "ok" }),
        json!({ "action": "session.begin", "outcome": "refused", "reason": "rejected" }),
        json!({ "action": "keys.sign", "capsule": "identity", "target": "session", "outcome": "ok" }),
        json!({ "action": "authority.principal.set", "capsule": "identity", "target": "ada" }),
        json!({ "action": "env.set", "target": "default", "detail": "env: KEY", "outcome": "ok" }),
        json!({ "action": "env.read", "capsule": "env", "target": "KEY", "principal": "default" }),
    ] {
        one(&facts, &wanted);
    }
    let call = one(&facts, &json!({ "action": "capsule.call", "capsule": "trap" }));
    assert!(call["reason"].as_str().unwrap().contains("trap") && call["hash"].as_str().unwrap().len() == 64, "{call}");
    assert_eq!(facts.last().unwrap()["action"], "host.stop");
    let all = serde_json::to_string(&facts).unwrap();
    for secret in [SECRET, &ada.bearer] {
        assert!(!all.contains(secret), "a fact tells a secret");
    }

    // Somebody else, with a copy and the public key.
    let copy = home.beside().join("copy");
    let copied = std::process::Command::new("cp").arg("-r").arg(home.path().join("audit")).arg(&copy).status().unwrap();
    assert!(copied.success());
    let other = Home::new();
    let copy = copy.display().to_string();
    let verified = other.astrid(&["audit", "verify", &copy, "--key", &key, "--json"]).json();
    assert_eq!(verified["facts"], facts.len());
    let shown = other.astrid(&["audit", "show", "0", &copy, "--key", &key, "--json"]).json();
    assert_eq!(shown, facts[0]);
    let bundle = fs::read_dir(format!("{copy}/tile/entries")).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    let bundle = if bundle.is_dir() { widest(&bundle) } else { bundle };
    let mut bytes = fs::read(&bundle).unwrap();
    bytes[20] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    let refused = other.astrid(&["audit", "verify", &copy, "--key", &key]);
    assert!(refused.refusal(1).contains("tile/entries/000") && refused.refusal(1).contains("entry 0"), "{refused:?}");
}

#[tokio::test]
async fn who_came_in_and_who_did_not_is_a_fact_with_fingerprints_and_no_token_or_key() {
    let home = Home::new();
    let daemon = home.start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let wrong = format!("astrid-inv-{}", "A".repeat(43));
    let redeem = json!({ "token": wrong, "public_key": public_hex(&key(2)) });
    daemon.tcp(Request::post("/api/auth/redeem", &redeem)).await.refusal(401, "unauthorized");
    let answer = daemon.tcp(Request::post("/api/auth/challenge", &json!({ "principal": "ada" }))).await.expect(200);
    let login = json!({
        "principal": "ada",
        "challenge": answer["challenge"],
        "public_key": public_hex(&key(1)),
        "signature": "0".repeat(128),
    });
    daemon.tcp(Request::post("/api/auth/login", &login)).await.refusal(401, "unauthorized");
    daemon.stop();

    let facts = facts(&home);
    let redeemed = |outcome: &str| json!({ "action": "bus.identity.v1.invite.redeem", "outcome": outcome });
    let came = one(&facts, &redeemed("ok"));
    let detail: Value = serde_json::from_str(came["detail"].as_str().expect("a detail")).unwrap();
    assert!(detail.to_string().contains("ada") && detail.to_string().contains("fingerprint"), "{detail}");
    for failed in [one(&facts, &redeemed("refused")), one(&facts, &json!({ "action": "bus.identity.v1.login" }))] {
        assert!(failed["outcome"] == "refused" && failed["reason"].is_string(), "{failed}");
        assert!(failed["detail"].is_string(), "{failed}");
    }
    let all = json!(facts).to_string();
    for secret in [&wrong, &ada.bearer, answer["challenge"].as_str().unwrap(), &public_hex(&key(1))] {
        assert!(!all.contains(secret), "{secret} stands in a fact");
    }
}

#[tokio::test]
async fn what_a_session_does_has_its_name_and_its_end_is_a_fact_however_it_comes() {
    let home = Home::new();
    let daemon = home.start();
    install_guests(&daemon, &["trap"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let others = [("bob", 2), ("eve", 3), ("dan", 4), ("fay", 5)];
    for (name, number) in others {
        join(&daemon, "agent", name, number).await;
    }
    daemon.tcp(Request::get("/api/sys/status").bearer(&ada.bearer)).await.expect(200);
    daemon.tcp(bus("trap.v1.panic", &json!({})).bearer(&ada.bearer)).await;
    daemon.tcp(Request::post("/api/capsules/audit/swap", &json!({})).bearer(&ada.bearer)).await.expect(200);
    assert_eq!(daemon.tcp(Request::delete("/api/auth/session").bearer(&ada.bearer)).await.status, 204);
    daemon.unix(Request::post("/api/sys/principals/bob/disable", &json!({}))).await.expect(200);
    daemon.unix(Request::post("/api/sys/principals/bob/disable", &json!({}))).await.expect(200);
    assert_eq!(daemon.unix(Request::delete("/api/sys/principals/eve")).await.status, 204);
    let devices = daemon.unix(Request::get("/api/sys/principals/dan/devices")).await.expect(200);
    let print = devices["devices"][0]["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(daemon.unix(Request::delete(&format!("/api/sys/principals/dan/devices/{print}"))).await.status, 204);
    daemon.unix(Request::post("/api/sys/sessions/rotate", &json!({ "now": true }))).await.expect(200);
    daemon.stop();

    let facts = facts(&home);
    let session = one(&facts, &json!({ "action": "session.begin", "principal": "ada" }))["session"].clone();
    assert_eq!(session, crate::fingerprint(&ada.bearer), "every session has a name of its own");
    for action in ["bus.system.v1.status", "capsule.call", "capsule.swap"] {
        let caused = one(&facts, &json!({ "action": action, "principal": "ada" }));
        assert_eq!(caused["session"], session, "{caused}");
    }
    let removed = format!("its device {print} is removed");
    for (who, session, why) in [
        ("ada", session.clone(), "logged out"),
        ("bob", Value::Null, "its principal is disabled"),
        ("eve", Value::Null, "its principal is removed"),
        ("dan", Value::Null, &*removed),
        ("fay", Value::Null, "the key that signs bearers was changed"),
    ] {
        let ends = matching(&facts, &json!({ "action": "session.end", "principal": who }));
        let [end] = ends[..] else { panic!("{who}: {ends:?}") };
        assert_eq!((&end["session"], &end["reason"]), (&session, &json!(why)), "{end}");
    }
}

#[tokio::test]
async fn a_host_that_was_killed_says_so_at_its_next_start_and_its_log_is_whole() {
    let home = Home::new();
    let daemon = home.start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    for _ in 0..50 {
        daemon.tcp(Request::get("/api/auth/me").bearer(&ada.bearer)).await.expect(200);
    }
    daemon.kill();
    let daemon = home.start();
    daemon.stop();
    home.astrid(&["audit", "verify"]).out();
    let facts = facts(&home);
    let starts: Vec<_> = matching(&facts, &json!({ "action": "host.start" }));
    assert_eq!((starts.len(), matching(&facts, &json!({ "action": "host.unclean" })).len()), (2, 1));
    home.start().stop();
    assert_eq!(matching(&self::facts(&home), &json!({ "action": "host.unclean" })).len(), 1, "and that is all");
}

/// Lets nothing be written where checkpoints go: nothing can be renamed over a folder that holds something.
pub(crate) fn stand_in_the_way(home: &Home) -> PathBuf {
    let (checkpoint, aside) = (home.path().join("audit/checkpoint"), home.path().join("audit/aside"));
    // The host may be writing one just now.
    while fs::create_dir_all(checkpoint.join("in-the-way")).is_err() {
        let _ = fs::rename(&checkpoint, &aside);
    }
    checkpoint
}

/// A capsule whose requests must be recorded.
fn install_strict(daemon: &Daemon) {
    let archive = pack::repacked(daemon.home().beside(), "strict.capsule", "echo", |manifest| {
        manifest.subscribe[0].audit = Audit::Strict;
    });
    install(daemon, &archive);
}

#[tokio::test]
async fn a_strict_request_is_a_fact_before_and_after_its_handler_whatever_happens_next() {
    let home = Home::new();
    let daemon = home.start();
    install_strict(&daemon);
    for n in 0..20 {
        assert_eq!(daemon.unix(bus("echo.v1.say", &json!({ "n": n }))).await.expect(200)["n"], n);
    }
    daemon.kill();
    home.start().stop();
    let facts = facts(&home);
    let said = |outcome: &str| matching(&facts, &json!({ "action": "bus.echo.v1.say", "outcome": outcome }));
    let ids = |facts: Vec<&Value>| facts.iter().map(|fact| fact["id"].to_string()).collect::<Vec<_>>();
    assert_eq!((ids(said("began")).len(), ids(said("began"))), (20, ids(said("ok"))));
    assert!(said("unknown").is_empty());
}

#[tokio::test]
async fn while_facts_cannot_be_written_strict_requests_are_refused_and_everything_else_goes_on() {
    let home = Home::new();
    let daemon = home.start();
    install_strict(&daemon);
    install_guests(&daemon, &["env"]);
    let say = bus("echo.v1.say", &json!({}));
    daemon.unix(say.clone()).await.expect(200);
    let health = || Request::get("/healthz");
    assert_eq!(daemon.unix(health()).await.expect(200)["audit"]["fault"], Value::Null);
    let checkpoint = stand_in_the_way(&home);
    daemon.unix(say.clone()).await;
    let sick = until(&daemon, health(), |answer| answer.json()["status"] == "degraded").await.json();
    assert!(sick["audit"]["fault"].as_str().unwrap().contains("audit/checkpoint"), "{sick}");
    daemon.unix(say.clone()).await.refusal(502, "unavailable");
    daemon.unix(bus("env.v1.get", &json!({ "name": "MODEL" }))).await.expect(200);
    let doctor = daemon.astrid(&["doctor"]);
    assert!(doctor.stdout.contains("audit/checkpoint"), "{doctor:?}");

    fs::remove_dir_all(&checkpoint).unwrap();
    until(&daemon, health(), |answer| answer.json()["status"] == "ok").await;
    daemon.unix(say).await.expect(200);
    daemon.stop();
    home.astrid(&["audit", "verify"]).out();
}

#[tokio::test]
async fn a_capsule_with_the_grants_reads_waits_and_prunes_and_one_without_is_refused() {
    let home = Home::new();
    let daemon = home.start();
    let archive = pack::packed("reader");
    let refused = daemon.astrid(&["capsule", "install", &archive.display().to_string()]);
    assert!(refused.refusal(1).contains("journal:read") && refused.refusal(1).contains("journal:prune"), "{refused:?}");
    assert!(refused.refusal(1).contains("sink:deliver"), "{refused:?}");
    install(&daemon, &archive);
    let ask = |what: &str, payload: Value| bus(&format!("reader.v1.{what}"), &payload);

    let installed = ask("query", json!({ "action": "capsule.install", "limit": 1 }));
    // What nobody waits for can be read a moment later.
    let newest = |answer: &Value| -> Value { serde_json::from_str(answer["facts"][0][1].as_str().unwrap()).unwrap() };
    let found = until(&daemon, installed, |answer| newest(&answer.json())["outcome"] == "ok").await.expect(200);
    assert_eq!(newest(&found)["target"], "reader", "{found}");
    let next = found["next"].as_u64().unwrap();
    assert!(next <= found["facts"][0][0].as_u64().unwrap());
    let earlier = ask("query", json!({ "action": "capsule", "before": next, "limit": 100 }));
    let earlier = daemon.unix(earlier).await.expect(200);
    assert!(earlier["facts"].as_array().unwrap().iter().all(|fact| fact[0].as_u64().unwrap() < next), "{earlier}");

    // Enough for whole bundles, all of them covered by a checkpoint.
    let mut size = 0;
    while size < 600 {
        daemon.unix(Request::get("/api/sys/status")).await.expect(200);
        size = daemon.unix(ask("proof", json!({}))).await.expect(200)["size"].as_u64().unwrap();
    }
    let waited = daemon.unix(ask("wait", json!({ "beyond": size - 1, "timeout_ms": 20_000 }))).await.expect(200);
    assert!(waited.as_u64().unwrap() >= size);
    let pruned = until(&daemon, ask("prune", json!({ "before": 520 })), |answer| answer.json() == 512).await;
    assert_eq!(pruned.expect(200), 512);
    let proof = daemon.unix(ask("proof", json!({}))).await.expect(200);
    assert_eq!((&proof["first"], &proof["tile"]), (&json!(512), &json!(32)), "{proof}");
    assert!(proof["checkpoint"].as_str().unwrap().lines().count() >= 5, "{proof}");
    let key = daemon.astrid(&["audit", "key", "--json"]).json();
    assert_eq!(proof["key"], key["key"]);
    daemon.stop();
    assert_eq!(home.astrid(&["audit", "verify", "--json"]).json()["pruned"], 512);
    assert!(!home.path().join("audit/tile/entries/000").exists() && home.path().join("audit/tile/0/000").exists());
}
