//! What one call, one capsule and one principal sees of another: nothing that it was not given.

use astrid_tests::daemon::Daemon;
use astrid_tests::http::Request;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{bus, install_guests, join, until};

/// What `caller` tells of a request that it sends.
async fn through_caller(daemon: &Daemon, topic: &str, payload: &Value) -> Value {
    daemon.unix(bus("caller.v1.request", &json!({ "topic": topic, "payload": payload }))).await.expect(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_principals_buckets_never_mix_and_a_call_finds_nothing_that_another_left_in_memory() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["counter"]);
    let mut tasks = JoinSet::new();
    for (number, name) in [(1, "ada"), (2, "bob")] {
        let person = join(&daemon, "admin", name, number).await;
        for lane in 0..4 {
            let (person, mut connection) = (person.clone(), daemon.connect().await);
            tasks.spawn(async move {
                for n in 0..10 {
                    let mut send = async |action: &str, payload: Value| {
                        let request = bus(&format!("counter.v1.{action}"), &payload).bearer(&person.bearer);
                        connection.send(request).await.expect("an answer").expect(200)
                    };
                    let key = format!("{lane}-{n}");
                    send("put", json!({ "key": key, "value": person.principal, "own": true })).await;
                    let got = send("get", json!({ "key": key, "own": true })).await;
                    assert_eq!(got["value"], person.principal);
                    assert_eq!(send("calls", json!({})).await["count"], 1, "a fresh instance");
                    send("increment", json!({ "key": "own", "own": true })).await;
                    send("increment", json!({ "key": "all" })).await;
                }
                person
            });
        }
    }
    let mut people = tasks.join_all().await;
    people.sort_by(|a, b| a.principal.cmp(&b.principal));
    people.dedup_by(|a, b| a.principal == b.principal);
    for person in people {
        let list = bus("counter.v1.list", &json!({ "own": true, "limit": 1000 })).bearer(&person.bearer);
        assert_eq!(daemon.tcp(list).await.expect(200)["keys"].as_array().unwrap().len(), 41, "{}", person.principal);
        let own = bus("counter.v1.increment", &json!({ "key": "own", "own": true })).bearer(&person.bearer);
        assert_eq!(daemon.tcp(own).await.expect(200)["count"], 41, "no increment was lost");
    }
    let all = daemon.unix(bus("counter.v1.increment", &json!({ "key": "all" }))).await.expect(200);
    assert_eq!(all["count"], 81, "no increment was lost");
    let own = daemon.unix(bus("counter.v1.list", &json!({ "own": true, "limit": 1000 }))).await.expect(200);
    assert_eq!(own["keys"], json!([]), "the owner has a bucket of its own, too");
}

#[tokio::test]
async fn a_capsule_reaches_what_its_manifest_names_as_whoever_called_it_and_every_request_ends() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["caller", "counter", "echo", "spin"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let failure = |outcome: &Value, name: &str| {
        assert_eq!(outcome["failure"]["name"], name, "{outcome}");
        outcome["failure"]["detail"].as_str().unwrap_or_default().to_owned()
    };

    // The caller's own rights would suffice; the manifest of the capsule in between decides.
    for topic in ["system.v1.status", "system.v1.shutdown", "front.v1.x"] {
        let denied = through_caller(&daemon, topic, &json!({})).await;
        let reason = failure(&denied, "denied");
        assert!(reason.contains("caller") && reason.contains(topic), "{reason}");
    }
    let published = bus("caller.v1.publish", &json!({ "topic": "system.v1.shutdown", "payload": {} }));
    failure(&daemon.unix(published).await.expect(200), "denied");

    // Nothing in a payload says who is calling.
    let ask = json!({ "topic": "identity.v1.me", "payload": {} });
    let me = daemon.tcp(bus("caller.v1.request", &ask).bearer(&ada.bearer)).await.expect(200);
    assert_eq!(me["answer"]["principal"], "ada");
    let me = through_caller(&daemon, "identity.v1.me", &json!({ "principal": "ada" })).await;
    failure(&me, "refused-invalid");

    failure(&through_caller(&daemon, "nobody.v1.home", &json!({})).await, "no-responder");
    failure(&through_caller(&daemon, "echo.*", &json!({})).await, "invalid");
    failure(&through_caller(&daemon, "counter.v1.get", &json!({ "key": "none" })).await, "refused-not-found");
    let short = json!({ "topic": "spin.v1.compute", "payload": {}, "timeout_ms": 50 });
    failure(&daemon.unix(bus("caller.v1.request", &short)).await.expect(200), "timeout");

    // A message to oneself, and one to oneself about oneself, and so on: answered where it is not deep, and ended
    // with an error where it would not end.
    let mut nested = json!({ "topic": "echo.v1.say", "payload": "at the bottom" });
    for depth in 1..=20 {
        nested = json!({ "topic": "caller.v1.request", "payload": nested });
        if depth == 3 {
            let answer = daemon.unix(bus("caller.v1.request", &nested)).await.expect(200);
            assert_eq!(answer["answer"]["answer"]["answer"]["answer"], "at the bottom", "{answer}");
        }
    }
    let mut answer = &daemon.unix(bus("caller.v1.request", &nested)).await.expect(200);
    while let Some(inner) = answer.get("answer") {
        answer = inner;
    }
    assert!(failure(answer, "denied").contains("deep"), "{answer}");

    // A publication waits for nobody and carries its sender's principal.
    let own = json!({ "topic": "counter.v1.put", "payload": { "key": "k", "value": "v", "own": true } });
    let sent = daemon.tcp(bus("caller.v1.publish", &own).bearer(&ada.bearer)).await.expect(200);
    assert_eq!(sent, json!({ "delivered": 1 }));
    let get = bus("counter.v1.get", &json!({ "key": "k", "own": true }));
    until(&daemon, get.clone().bearer(&ada.bearer), |got| got.status == 200).await;
    daemon.unix(get).await.refusal(404, "not_found");
    daemon.unix(Request::get("/api/sys/status")).await.expect(200);
}
