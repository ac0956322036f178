//! What a device may do that has less than its principal, and what capsules ask a principal's consent for.

use astrid_tests::daemon::Daemon;
use astrid_tests::http::{Connection, Request, Response};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use crate::{Person, bus, install_guests, join, key, public_hex};

/// Another device of whoever asks: its session.
async fn paired(daemon: &Daemon, request: Request, number: u8) -> (Person, String) {
    let paired = daemon.tcp(request).await.expect(200);
    let body = json!({ "token": paired["token"], "public_key": public_hex(&key(number)) });
    let device = daemon.tcp(Request::post("/api/auth/pair-device/redeem", &body)).await.expect(200);
    let text = |field: &str| device[field].as_str().expect("a text").to_owned();
    let person = Person { principal: text("principal"), bearer: text("session_token") };
    (person, text("public_key_fingerprint"))
}

fn pair(scope: &[&str]) -> Request {
    Request::post("/api/auth/pair-device", &json!({ "scope": scope, "label": "tv" }))
}

/// What `caller` gets back of a request that it sends on behalf of whoever asks it.
fn through_caller(topic: &str, payload: &Value) -> Request {
    bus("caller.v1.request", &json!({ "topic": topic, "payload": payload }))
}

async fn group(daemon: &Daemon, name: &str, capabilities: &[&str]) {
    let request = Request::post("/api/sys/groups", &json!({ "name": name, "capabilities": capabilities }));
    daemon.unix(request).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_with_a_scope_does_what_its_principal_holds_and_the_scope_covers_at_any_depth_and_for_good() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["caller"]);
    group(&daemon, "leads", &["*:list", "agent:create", "agent:disable", "bus:request", "self:*"]).await;
    let ada = join(&daemon, "leads", "ada", 1).await;
    let scope = ["agent:list", "bus:request", "self:auth:pair", "system:status"];
    let (tv, print) = paired(&daemon, pair(&scope).bearer(&ada.bearer), 2).await;
    let (phone, _) = paired(&daemon, pair(&["self:*"]).bearer(&ada.bearer), 3).await;

    let me = daemon.tcp(Request::get("/api/auth/me").bearer(&tv.bearer)).await.expect(200);
    assert_eq!(me["capabilities"], json!(["agent:list", "bus:request", "self:auth:pair"]), "not what ada lacks");
    let all = || Request::get("/api/sys/principals");
    daemon.tcp(all().bearer(&tv.bearer)).await.expect(200);
    let own = daemon.tcp(all().bearer(&phone.bearer)).await.expect(200);
    assert_eq!(own["principals"].as_array().unwrap().len(), 1, "the phone sees ada alone");
    let create = || Request::post("/api/sys/principals", &json!({ "name": "eve" }));
    let status = || Request::get("/api/sys/status");
    let more = || pair(&["agent:list", "agent:create"]);
    for request in [create(), status(), more(), Request::get("/api/capsules")] {
        daemon.tcp(request.bearer(&tv.bearer)).await.refusal(403, "forbidden");
    }
    // What is asked on its behalf is held to the scope as well.
    let nested = through_caller("identity.v1.principal.create", &json!({ "name": "eve" }));
    let outcome = daemon.tcp(nested.bearer(&tv.bearer)).await.expect(200);
    assert_eq!(outcome["failure"]["name"], "denied", "{outcome}");
    let nested = through_caller("identity.v1.principal.list", &json!({}));
    let outcome = daemon.tcp(nested.bearer(&tv.bearer)).await.expect(200);
    assert!(outcome["answer"]["principals"].is_array(), "{outcome}");
    // A renewed bearer, and a device of the device, have no more.
    let renewed = daemon.tcp(Request::post("/api/auth/refresh", &json!({})).bearer(&tv.bearer)).await.expect(200);
    let renewed = renewed["session_token"].as_str().unwrap();
    let again = Request::post("/api/auth/pair-device", &json!({})).bearer(renewed);
    let (child, _) = paired(&daemon, again, 4).await;
    for bearer in [renewed, &child.bearer] {
        daemon.tcp(create().bearer(bearer)).await.refusal(403, "forbidden");
        daemon.tcp(all().bearer(bearer)).await.expect(200);
    }
    daemon.tcp(create().bearer(&ada.bearer)).await.expect(201);

    let listed = daemon.tcp(Request::get("/api/sys/principals/ada/devices").bearer(&ada.bearer)).await.expect(200);
    assert_eq!(listed["devices"][1]["scope"], json!(scope), "{listed}");
    let home = daemon.home().clone();
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    daemon.tcp(create().bearer(&tv.bearer)).await.refusal(403, "forbidden");
    daemon.tcp(all().bearer(&tv.bearer)).await.expect(200);
    let remove = Request::delete(&format!("/api/sys/principals/ada/devices/{print}")).bearer(&ada.bearer);
    assert_eq!(daemon.tcp(remove).await.status, 204);
    for bearer in [&tv.bearer, renewed] {
        daemon.tcp(all().bearer(bearer)).await.refusal(401, "unauthorized");
    }
    for bearer in [&ada.bearer, &phone.bearer, &child.bearer] {
        daemon.tcp(all().bearer(bearer)).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_removed_while_its_session_refreshes_keeps_no_bearer() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let (tv, print) = paired(&daemon, pair(&["self:*"]).bearer(&ada.bearer), 2).await;
    let mut refreshing = JoinSet::new();
    for _ in 0..8 {
        let mut connection = daemon.connect().await;
        let refresh = Request::post("/api/auth/refresh", &json!({})).bearer(&tv.bearer);
        refreshing.spawn(async move {
            let mut given = Vec::new();
            // Until it is refused: by the removal, at the latest.
            while given.len() < 16 {
                let answer = connection.send(refresh.clone()).await.expect("an answer");
                if answer.status != 200 {
                    break;
                }
                given.push(answer.json()["session_token"].as_str().unwrap().to_owned());
            }
            given
        });
    }
    let remove = Request::delete(&format!("/api/sys/principals/ada/devices/{print}")).bearer(&ada.bearer);
    assert_eq!(daemon.tcp(remove).await.status, 204);
    let me = |bearer: &str| Request::get("/api/auth/me").bearer(bearer);
    for bearer in refreshing.join_all().await.concat() {
        daemon.tcp(me(&bearer)).await.refusal(401, "unauthorized");
    }
    daemon.tcp(me(&tv.bearer)).await.refusal(401, "unauthorized");
    daemon.tcp(me(&ada.bearer)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_a_scope_never_meets_an_instance_that_one_without_it_has_left() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["hoarder"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let (tv, _) = paired(&daemon, pair(&["bus:request"]).bearer(&ada.bearer), 2).await;
    let (radio, _) = paired(&daemon, pair(&["bus:request"]).bearer(&ada.bearer), 3).await;
    for (bearer, count) in [(&ada.bearer, 1), (&ada.bearer, 2), (&tv.bearer, 1), (&radio.bearer, 2), (&ada.bearer, 3)] {
        let request = bus("hoarder.v1.count", &json!({})).bearer(bearer);
        assert_eq!(daemon.tcp(request).await.expect(200), count);
    }
}

fn ask(action: &str) -> Request {
    through_caller("identity.v1.approval.request", &json!({ "action": action, "resource": "/notes", "reason": "why" }))
}

/// Asks on a connection of its own: what comes of it.
async fn asking(daemon: &Daemon, bearer: &str, request: Request) -> JoinHandle<Value> {
    let mut connection: Connection = daemon.connect().await;
    let request = request.bearer(bearer);
    tokio::spawn(async move { connection.send(request).await.expect("an answer").expect(200)["answer"].clone() })
}

async fn listed(daemon: &Daemon, bearer: &str) -> Value {
    daemon.tcp(Request::get("/api/approvals").bearer(bearer)).await.expect(200)
}

/// The only request that waits for somebody's answer, as soon as there is one.
async fn waiting(daemon: &Daemon, bearer: &str) -> Value {
    loop {
        let requests = listed(daemon, bearer).await["requests"].clone();
        if let Some(first) = requests.as_array().expect("a list").first() {
            assert_eq!(requests.as_array().unwrap().len(), 1, "{requests}");
            return first.clone();
        }
    }
}

fn reply(id: &Value, decision: &str) -> Request {
    Request::post(&format!("/api/approvals/{}", id.as_str().expect("an id")), &json!({ "decision": decision }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_principal_alone_answers_what_it_is_asked_once_and_what_it_approves_for_longer_stands_until_it_is_withdrawn()
{
    let daemon = Daemon::start();
    install_guests(&daemon, &["caller"]);
    group(&daemon, "people", &["bus:request", "self:*"]).await;
    group(&daemon, "mute", &["bus:request"]).await;
    let ada = join(&daemon, "people", "ada", 1).await;
    let bob = join(&daemon, "people", "bob", 2).await;
    let mia = join(&daemon, "mute", "mia", 3).await;

    let asked = asking(&daemon, &ada.bearer, ask("delete")).await;
    let request = waiting(&daemon, &ada.bearer).await;
    assert_eq!((&request["capsule"], &request["action"]), (&json!("caller"), &json!("delete")), "{request}");
    let id = &request["id"];
    assert_eq!(listed(&daemon, &bob.bearer).await["requests"], json!([]));
    daemon.tcp(reply(id, "approve_always").bearer(&bob.bearer)).await.refusal(404, "not_found");
    daemon.unix(reply(id, "approve_always")).await.refusal(404, "not_found");
    daemon.tcp(Request::get("/api/approvals").bearer(&mia.bearer)).await.refusal(403, "forbidden");
    daemon.tcp(reply(id, "approve_always").bearer(&mia.bearer)).await.refusal(403, "forbidden");
    // Nor does the capsule that asks, on behalf of whom it asks.
    let own = json!({ "topic": "identity.v1.approval.answer", "target": "ada",
                      "payload": { "id": id, "decision": "approve_once" } });
    let own = daemon.tcp(bus("caller.v1.request", &own).bearer(&ada.bearer)).await.expect(200);
    assert_eq!(own["failure"]["name"], "refused-denied", "{own}");
    let mut answers = JoinSet::new();
    for n in 0..12 {
        let mut connection = daemon.connect().await;
        let decision = if n % 2 == 0 { "approve_once" } else { "deny" };
        let request = reply(id, decision).bearer(&ada.bearer);
        answers.spawn(async move { (decision, connection.send(request).await.expect("an answer")) });
    }
    let answers: Vec<(&str, Response)> = answers.join_all().await;
    let counted: Vec<_> = answers.iter().filter(|(_, answer)| answer.status == 200).collect();
    assert_eq!(counted.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|(_, answer)| [200, 404, 409].contains(&answer.status)), "{answers:?}");
    assert_eq!(asked.await.unwrap()["approved"], counted[0].0 == "approve_once");

    let asked = asking(&daemon, &ada.bearer, ask("delete")).await;
    let request = waiting(&daemon, &ada.bearer).await;
    daemon.tcp(reply(&request["id"], "approve_always").bearer(&ada.bearer)).await.expect(200);
    let always = json!({ "approved": true, "by": "always" });
    assert_eq!(asked.await.unwrap(), always);
    let home = daemon.home().clone();
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    assert_eq!(asking(&daemon, &ada.bearer, ask("delete")).await.await.unwrap(), always, "without a question");
    let others = asking(&daemon, &bob.bearer, ask("delete")).await;
    let request = waiting(&daemon, &bob.bearer).await;
    daemon.tcp(reply(&request["id"], "deny").bearer(&bob.bearer)).await.expect(200);
    assert_eq!(others.await.unwrap(), json!({ "approved": false, "by": "denial" }), "ada's approval is not bob's");
    let standing = listed(&daemon, &ada.bearer).await["standing"][0]["id"].as_str().unwrap().to_owned();
    let withdraw = || Request::delete(&format!("/api/approvals/{standing}"));
    daemon.tcp(withdraw().bearer(&bob.bearer)).await.refusal(404, "not_found");
    assert_eq!(daemon.tcp(withdraw().bearer(&ada.bearer)).await.status, 204);
    let asked = asking(&daemon, &ada.bearer, ask("delete")).await;
    let request = waiting(&daemon, &ada.bearer).await;
    daemon.tcp(reply(&request["id"], "deny").bearer(&ada.bearer)).await.expect(200);
    assert_eq!(asked.await.unwrap()["by"], "denial");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_approved_for_a_session_is_asked_again_in_the_next_and_silence_is_a_denial() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["caller"]);
    group(&daemon, "people", &["bus:request", "self:*"]).await;
    let ada = join(&daemon, "people", "ada", 1).await;
    let (phone, _) = paired(&daemon, pair(&["bus:request", "self:approval:respond"]).bearer(&ada.bearer), 2).await;

    let asked = asking(&daemon, &ada.bearer, ask("read")).await;
    let request = waiting(&daemon, &ada.bearer).await;
    // Another device answers; it stands in the session that asked.
    daemon.tcp(reply(&request["id"], "approve_session").bearer(&phone.bearer)).await.expect(200);
    let session = json!({ "approved": true, "by": "session" });
    assert_eq!(asked.await.unwrap(), session);
    assert_eq!(asking(&daemon, &ada.bearer, ask("read")).await.await.unwrap(), session);
    let asked = asking(&daemon, &phone.bearer, ask("read")).await;
    let request = waiting(&daemon, &ada.bearer).await;
    daemon.tcp(reply(&request["id"], "deny").bearer(&ada.bearer)).await.expect(200);
    assert_eq!(asked.await.unwrap()["by"], "denial", "another session of the same principal");
    assert_eq!(listed(&daemon, &ada.bearer).await["standing"].as_array().unwrap().len(), 1);
    assert_eq!(daemon.tcp(Request::delete("/api/auth/session").bearer(&ada.bearer)).await.status, 204);
    assert_eq!(listed(&daemon, &phone.bearer).await["standing"], json!([]), "it ended with its session");

    let patience = json!({ "topic": "identity.v1.approval.request", "payload": { "action": "read" },
                           "timeout_ms": 3_000 });
    let asked = asking(&daemon, &phone.bearer, bus("caller.v1.request", &patience)).await;
    let request = waiting(&daemon, &phone.bearer).await;
    assert_eq!(asked.await.unwrap(), json!({ "approved": false, "by": "timeout" }));
    daemon.tcp(reply(&request["id"], "approve_once").bearer(&phone.bearer)).await.refusal(404, "not_found");

    // The owner of the host by the command line.
    let mut owners = daemon.connect_unix().await;
    let asked = tokio::spawn(async move { owners.send(ask("read")).await.expect("an answer").expect(200) });
    let id = loop {
        let listed = daemon.astrid(&["approval", "list", "--json"]).json();
        if let Some(id) = listed["requests"][0]["id"].as_str() {
            break id.to_owned();
        }
    };
    daemon.astrid(&["approval", "approve", &id, "--always"]).out();
    assert_eq!(asked.await.unwrap()["answer"]["by"], "always");
    daemon.astrid(&["approval", "withdraw", &id]).out();
    daemon.astrid(&["approval", "deny", &id]).refusal(1);
}
