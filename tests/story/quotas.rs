//! What a principal may use: each quota through the real thing, what usage says of it, and who may change it.
//!
//! Administrators are exempt from the two rates, so rates are told by an agent, through the routes that it has.

use std::time::{Duration, Instant};

use astrid_tests::daemon::Daemon;
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};

use crate::{Person, bus, install, install_guests, join, until};

fn path(person: &Person, what: &str) -> String {
    format!("/api/sys/principals/{}/{what}", person.principal)
}

/// Sets quotas as the owner.
async fn set(daemon: &Daemon, person: &Person, quotas: Value) {
    let body = json!({ "quotas": quotas }).to_string();
    let request = Request::new("PUT", &path(person, "quotas")).header("content-type", "application/json").body(body);
    let answer = daemon.unix(request).await.expect(200);
    for (field, value) in quotas.as_object().expect("an object") {
        assert_eq!(&answer["quotas"][field], value);
    }
}

async fn usage(daemon: &Daemon, person: &Person) -> Value {
    daemon.unix(Request::get(&path(person, "usage"))).await.expect(200)
}

fn me(person: &Person) -> Request {
    Request::get("/api/auth/me").bearer(&person.bearer)
}

/// That the next request is told to wait, for a time, and that it goes through once that has passed.
async fn assert_told_to_wait_and_let_in_again(daemon: &Daemon, person: &Person) {
    let told = daemon.tcp(me(person)).await;
    told.refusal(503, "overloaded");
    let seconds = told.json()["retry_after_secs"].as_u64().expect("seconds");
    assert!((1..=30).contains(&seconds), "{seconds}");
    let before = Instant::now();
    until(daemon, me(person), |answer| answer.status == 200).await;
    assert!(before.elapsed() < Duration::from_secs(seconds + 10), "{:?} > {seconds} s", before.elapsed());
}

#[tokio::test]
async fn an_agents_fuel_is_a_rate_and_an_overdraft_is_paid_before_the_next_call() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    daemon.tcp(me(&ada)).await.expect(200);
    let used = usage(&daemon, &ada).await;
    let call = used["cpu_fuel_consumed_total"].as_u64().expect("a number");
    assert!(call > 0 && used["calls_total"] == 1 && used["exempt"] == false, "{used}");
    assert!(used["memory_bytes_peak_total"].as_u64() > Some(0), "{used}");
    // A call costs more than a second earns, so each leaves a debt.
    set(&daemon, &ada, json!({ "max_cpu_fuel_per_sec": call / 2 })).await;
    until(&daemon, me(&ada), |answer| answer.status == 200).await;
    assert_told_to_wait_and_let_in_again(&daemon, &ada).await;
    let used = usage(&daemon, &ada).await;
    assert_eq!(used["cpu_fuel_per_sec_limit"], call / 2, "{used}");
    // Nobody else waits, and the default is enough again.
    daemon.unix(Request::get("/api/auth/me")).await.expect(200);
    set(&daemon, &ada, json!({ "max_cpu_fuel_per_sec": null })).await;
    until(&daemon, me(&ada), |answer| answer.status == 200).await;
}

#[tokio::test]
async fn an_agents_messages_are_a_rate_in_bytes() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    // The question who one is has two bytes.
    set(&daemon, &ada, json!({ "max_ipc_throughput_bytes": 1 })).await;
    until(&daemon, me(&ada), |answer| answer.status == 200).await;
    assert_told_to_wait_and_let_in_again(&daemon, &ada).await;
    let used = usage(&daemon, &ada).await;
    assert_eq!(used["ipc_bytes_per_sec_limit"], 1, "{used}");
    assert!(used["ipc_bytes_sent_total"].as_u64() >= Some(4), "{used}");
}

#[tokio::test]
async fn an_administrator_is_exempt_from_the_rates_and_usage_says_so() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "admin", "ada", 1).await;
    set(&daemon, &ada, json!({ "max_cpu_fuel_per_sec": 1, "max_ipc_throughput_bytes": 1 })).await;
    for _ in 0..5 {
        daemon.tcp(me(&ada)).await.expect(200);
    }
    let used = usage(&daemon, &ada).await;
    assert_eq!((&used["exempt"], &used["cpu_fuel_per_sec_limit"]), (&json!(true), &json!(1)), "{used}");
}

#[tokio::test]
async fn an_instance_gets_the_memory_of_its_callers_quota_and_no_exemption_lifts_it() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["bomb", "echo"]);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    set(&daemon, &ada, json!({ "max_memory_bytes": 8 << 20 })).await;
    let bomb = |person: &Person| bus("bomb.v1.allocate", &json!({})).bearer(&person.bearer);
    daemon.tcp(bomb(&ada)).await.refusal(502, "unavailable");
    daemon.tcp(bomb(&bob)).await.refusal(502, "unavailable");
    daemon.tcp(bus("echo.v1.say", &json!(1)).bearer(&ada.bearer)).await.expect(200);
    let peak = |used: &Value| used["memory_bytes_peak_total"].as_u64().expect("a number");
    let (of_ada, of_bob) = (usage(&daemon, &ada).await, usage(&daemon, &bob).await);
    assert!((4 << 20..=8 << 20).contains(&peak(&of_ada)), "{of_ada}");
    assert!(peak(&of_bob) > 16 << 20, "{of_bob}");
    assert_eq!(of_ada["memory_bytes_limit_per_instance"], 8 << 20);
}

#[tokio::test]
async fn a_call_ends_at_its_callers_quota_of_time() {
    let daemon = Daemon::start();
    let slow = pack::repacked(daemon.home().beside(), "slow", "spin", |manifest| manifest.limits.timeout_ms = 600_000);
    install(&daemon, &slow);
    let ada = join(&daemon, "admin", "ada", 1).await;
    set(&daemon, &ada, json!({ "max_timeout_secs": 1 })).await;
    let began = Instant::now();
    daemon.tcp(bus("spin.v1.compute", &json!({})).bearer(&ada.bearer)).await.refusal(504, "timeout");
    // Less than the gateway's own limit, which would have ended it otherwise.
    assert!((Duration::from_secs(1)..Duration::from_secs(25)).contains(&began.elapsed()), "{:?}", began.elapsed());
    let used = usage(&daemon, &ada).await;
    assert!(used["wall_ms_total"].as_u64() >= Some(1000) && used["timeout_secs_limit"] == 1, "{used}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_principals_calls_as_many_run_at_once_as_its_quota_says_and_others_do_not_wait_for_them() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["spin", "echo"]);
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    set(&daemon, &ada, json!({ "max_concurrent_calls": 1 })).await;
    let before = usage(&daemon, &ada).await["calls_total"].as_u64().expect("a number");
    let (mut first, mut second) = (daemon.connect().await, daemon.connect().await);
    let spin = bus("spin.v1.compute", &json!({})).bearer(&ada.bearer);
    let began = Instant::now();
    let spinning = tokio::spawn(async move { first.send(spin).await.expect("an answer") });
    // The spinning call and its gateway's are there.
    let in_use = |health: &Value| health["pool"]["in_use"].as_u64().expect("a number");
    until(&daemon, Request::get("/healthz"), |answer| in_use(&answer.json()) >= 2 + crate::RESIDENT).await;
    daemon.tcp(bus("echo.v1.say", &json!(1)).bearer(&bob.bearer)).await.expect(200);
    second.send(bus("echo.v1.say", &json!(1)).bearer(&ada.bearer)).await.expect("an answer").expect(200);
    // It waited for the end of the one before, which its manifest gives a second.
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    spinning.await.expect("an answer").refusal(504, "timeout");
    let used = usage(&daemon, &ada).await;
    assert_eq!((&used["concurrent_calls_limit"], &used["calls_total"]), (&json!(1), &json!(before + 2)), "{used}");
}

#[tokio::test]
async fn stored_bytes_end_at_the_quota_and_are_exact_after_a_crash() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["counter"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    set(&daemon, &ada, json!({ "max_storage_bytes": 1000 })).await;
    let put = |key: &str, bytes: usize, own: bool| {
        let value = "x".repeat(bytes);
        bus("counter.v1.put", &json!({ "key": key, "value": value, "own": own })).bearer(&ada.bearer)
    };
    daemon.tcp(put("a", 500, true)).await.expect(200);
    // The bucket's name, a separator, the key, the value.
    let held = "values".len() as u64 + 1 + 1 + 500;
    assert_eq!(usage(&daemon, &ada).await["storage_bytes_used"], held);
    let reason = daemon.tcp(put("b", 500, true)).await.refusal(403, "forbidden");
    assert!(reason.contains("quota"), "{reason}");
    daemon.tcp(put("shared", 5000, false)).await.expect(200);

    let home = daemon.home().clone();
    daemon.kill();
    let daemon = home.start();
    assert_eq!(usage(&daemon, &ada).await["storage_bytes_used"], held);
    daemon.tcp(put("b", 500, true)).await.refusal(403, "forbidden");
    let get = bus("counter.v1.get", &json!({ "key": "a", "own": true })).bearer(&ada.bearer);
    assert_eq!(daemon.tcp(get).await.expect(200)["value"].as_str().map(str::len), Some(500));
    daemon.tcp(put("a", 10, true)).await.expect(200);
    daemon.tcp(put("b", 500, true)).await.expect(200);
    assert_eq!(usage(&daemon, &ada).await["storage_bytes_used"], 18 + 508);
}

#[tokio::test]
async fn an_agent_sees_its_own_quotas_and_usage_and_changes_nobodys() {
    let daemon = Daemon::start();
    let (ada, bob) = (join(&daemon, "agent", "ada", 1).await, join(&daemon, "agent", "bob", 2).await);
    for what in ["quotas", "usage"] {
        let get = |of: &Person| Request::get(&path(of, what)).bearer(&ada.bearer);
        assert_eq!(daemon.tcp(get(&ada)).await.expect(200)["principal"], "ada");
        let reason = daemon.tcp(get(&bob)).await.refusal(403, "forbidden");
        assert!(reason.contains("quota:get"), "{reason}");
        let nobody = Request::get(&format!("/api/sys/principals/nobody/{what}"));
        daemon.unix(nobody).await.refusal(404, "not_found");
    }
    let put = |of: &Person, body: &str| {
        Request::new("PUT", &path(of, "quotas")).header("content-type", "application/json").body(body)
    };
    for person in [&ada, &bob] {
        let body = r#"{"quotas":{"max_storage_bytes":1}}"#;
        let reason = daemon.tcp(put(person, body).bearer(&ada.bearer)).await.refusal(403, "forbidden");
        assert!(reason.contains("quota:set"), "{reason}");
    }
    for (body, reason) in [
        (r#"{"quotas":{"max_timeout_secs":86401}}"#, "max_timeout_secs = 86401 must be 1 to 86400"),
        (r#"{"quotas":{"max_everything":1}}"#, "max_everything"),
        (r#"{"principal":"bob","quotas":{}}"#, "duplicate field `principal`"),
        ("[]", "object"),
    ] {
        let said = daemon.unix(put(&ada, body)).await.refusal(400, "bad_request");
        assert!(said.contains(reason), "{said}");
    }
}

#[tokio::test]
async fn the_command_line_shows_quotas_and_usage_and_takes_sizes() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let changed = daemon.astrid(&["quota", "set", "ada", "max_memory_bytes=32MiB", "max_timeout_secs=60", "--json"]);
    assert_eq!(changed.json()["quotas"]["max_memory_bytes"], 32 << 20);
    daemon.tcp(me(&ada)).await.expect(200);
    let shown = daemon.astrid(&["quota", "show", "ada", "--json"]).json();
    assert_eq!(shown["quotas"]["max_timeout_secs"], 60);
    assert_eq!(shown["usage"]["memory_bytes_limit_per_instance"], 32 << 20);
    let own = daemon.astrid(&["quota", "show"]);
    assert!(own.out().contains("default") && own.out().contains("exempt"), "{}", own.out());
    daemon.astrid(&["quota", "set", "ada", "max_timeout_secs=default"]).out();
    assert_eq!(daemon.astrid(&["quota", "show", "ada", "--json"]).json()["quotas"]["max_timeout_secs"], Value::Null);
    let refused = daemon.astrid(&["quota", "set", "ada", "max_memory_bytes=0"]);
    assert!(refused.refusal(1).contains("max_memory_bytes = 0"));
}
