//! Three people: the first admin, an operator in a group of its own, a plain agent. What each may do, and what becomes of
//! that when others change it.

use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Response};
use astrid_tests::pack;
use ed25519_dalek::Signer;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::prompts::{Stream, prompt};
use crate::{Person, install, install_guests, invite, join, key, public_hex, redemption};

fn patch(path: &str, body: &Value) -> Request {
    with_body("PATCH", path, body)
}

fn deletion(path: &str, body: &Value) -> Request {
    with_body("DELETE", path, body)
}

fn with_body(method: &str, path: &str, body: &Value) -> Request {
    Request::new(method, path).header("content-type", "application/json").body(body.to_string())
}

async fn group(daemon: &Daemon, name: &str, capabilities: &[&str]) {
    let request = Request::post("/api/sys/groups", &json!({ "name": name, "capabilities": capabilities }));
    daemon.unix(request).await.expect(201);
}

async fn ask(daemon: &Daemon, who: &Person, request: Request) -> Response {
    daemon.tcp(request.bearer(&who.bearer)).await
}

fn rows(list: &Value) -> Vec<&str> {
    list["principals"].as_array().unwrap().iter().map(|row| row["principal"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_operator_does_what_its_group_holds_an_agent_what_is_about_itself_and_the_admin_changes_both_at_once() {
    let daemon = Daemon::start();
    group(&daemon, "ops-team", &["capsule:install", "invite:issue", "invite:list"]).await;
    let operator = join(&daemon, "ops-team", "olga", 1).await;
    let me = ask(&daemon, &operator, Request::get("/api/auth/me")).await.expect(200);
    assert_eq!(me["groups"], json!(["ops-team"]));
    let held = json!(["capsule:install", "invite:issue", "invite:list"]);
    assert_eq!(me["capabilities"], held);

    let wanted = json!({ "group": "agent", "max_uses": 2 });
    let issued = ask(&daemon, &operator, Request::post("/api/sys/invites", &wanted)).await.expect(200);
    let token = issued["invite"]["token"].as_str().unwrap();
    let up = json!({ "group": "admin", "max_uses": 1 });
    let reason = ask(&daemon, &operator, Request::post("/api/sys/invites", &up)).await.refusal(403, "forbidden");
    assert!(reason.contains("caps:grant"), "{reason}");
    ask(&daemon, &operator, Request::delete("/api/sys/principals/default")).await.refusal(403, "forbidden");

    let redeemed = daemon.tcp(redemption(token, &public_hex(&key(2)))).await.expect(200);
    let text = |field: &str| redeemed[field].as_str().unwrap().to_owned();
    let agent = Person { principal: text("principal"), bearer: text("session_token") };
    assert_eq!(text("group"), "agent");
    let own = ask(&daemon, &agent, Request::get("/api/sys/principals")).await.expect(200);
    assert_eq!(rows(&own), [agent.principal.as_str()]);
    let groups = ask(&daemon, &agent, Request::get("/api/sys/groups")).await.expect(200);
    assert_eq!(groups["groups"].as_array().unwrap().len(), 1, "{groups}");
    let path = format!("/api/sys/principals/{}", agent.principal);
    ask(&daemon, &agent, Request::get(&path)).await.expect(200);
    ask(&daemon, &agent, Request::get("/api/sys/principals/default")).await.refusal(403, "forbidden");
    for up in [
        patch(&path, &json!({ "add_groups": ["admin"] })),
        Request::post(&format!("{path}/caps"), &json!({ "capabilities": ["*"], "unsafe_admin": true })),
        Request::post(&format!("{path}/enable"), &json!({})),
        Request::post("/api/sys/invites", &wanted),
        Request::post("/api/sys/principals", &json!({ "name": "x" })),
        Request::post("/api/sys/groups", &json!({ "name": "x", "capabilities": ["*"], "unsafe_admin": true })),
        Request::post("/api/capsules", &json!({ "source": "/x.capsule" })),
    ] {
        ask(&daemon, &agent, up).await.refusal(403, "forbidden");
    }

    // What the admin says counts for the next request.
    let status = || Request::get("/api/sys/status");
    ask(&daemon, &agent, status()).await.refusal(403, "forbidden");
    let grants = Request::post(&format!("{path}/caps"), &json!({ "capabilities": ["system:status"] }));
    daemon.unix(grants).await.expect(200);
    let status_seen = ask(&daemon, &agent, status()).await.expect(200);
    assert!(status_seen["version"].is_string());
    let check = daemon.unix(Request::get(&format!("{path}/caps/check?capability=system%3Astatus"))).await.expect(200);
    assert_eq!((&check["allowed"], &check["rule"]), (&json!(true), &json!("granted")));
    let revoke = deletion(&format!("{path}/caps"), &json!({ "capabilities": ["system:status"] }));
    assert_eq!(daemon.unix(revoke).await.status, 204);
    ask(&daemon, &agent, status()).await.refusal(403, "forbidden");

    let less = patch("/api/sys/groups/ops-team", &json!({ "capabilities": ["invite:list"] }));
    daemon.unix(less).await.expect(200);
    ask(&daemon, &operator, Request::post("/api/sys/invites", &wanted)).await.refusal(403, "forbidden");
    ask(&daemon, &operator, Request::get("/api/sys/invites")).await.expect(200);
}

#[tokio::test]
async fn what_is_wrong_with_a_principal_or_a_group_is_400_404_or_409_and_never_403_for_whoever_may() {
    let daemon = Daemon::start();
    let create = |body: Value| Request::post("/api/sys/principals", &body);
    daemon.unix(create(json!({ "name": "bo" }))).await.expect(201);
    daemon.unix(create(json!({ "name": "bo" }))).await.refusal(409, "conflict");
    daemon.unix(create(json!({ "name": "x", "groups": ["nowhere"] }))).await.refusal(400, "bad_request");
    daemon.unix(create(json!({ "name": "a b" }))).await.refusal(400, "bad_request");
    daemon.unix(create(json!({ "name": "x".repeat(65) }))).await.refusal(400, "bad_request");
    daemon.unix(create(json!({ "name": "y", "role": "admin" }))).await.refusal(400, "bad_request");
    daemon.unix(create(json!({ "name": "default" }))).await.refusal(409, "conflict");
    let group = |name: &str| Request::post("/api/sys/groups", &json!({ "name": name, "capabilities": [] }));
    daemon.unix(group("ops")).await.expect(201);
    for taken in ["ops", "admin", "agent", "restricted"] {
        daemon.unix(group(taken)).await.refusal(409, "conflict");
    }
    let all = json!({ "name": "all", "capabilities": ["*"] });
    daemon.unix(Request::post("/api/sys/groups", &all)).await.refusal(400, "bad_request");
    for missing in [
        Request::delete("/api/sys/principals/none"),
        Request::get("/api/sys/principals/none"),
        Request::post("/api/sys/principals/none/disable", &json!({})),
        Request::post("/api/sys/principals/none/caps", &json!({ "capabilities": ["a"] })),
        patch("/api/sys/principals/none", &json!({})),
        Request::delete("/api/sys/groups/none"),
        patch("/api/sys/groups/none", &json!({})),
    ] {
        daemon.unix(missing).await.refusal(404, "not_found");
    }
    for protected in [
        Request::delete("/api/sys/principals/default"),
        Request::post("/api/sys/principals/default/disable", &json!({})),
        patch("/api/sys/principals/default", &json!({ "remove_groups": ["admin"] })),
        Request::delete("/api/sys/groups/agent"),
    ] {
        daemon.unix(protected).await.refusal(403, "forbidden");
    }
    let me = daemon.unix(Request::get("/api/auth/me")).await.expect(200);
    assert_eq!(me["capabilities"], json!(["*"]));
}

#[tokio::test]
async fn whoever_is_disabled_or_deleted_is_out_on_the_next_request_of_an_open_connection_and_after_a_restart() {
    let home = Home::new();
    let daemon = home.start();
    let (ada, bob) = (join(&daemon, "agent", "ada", 1).await, join(&daemon, "agent", "bob", 2).await);
    let me = || Request::get("/api/auth/me");
    let mut open = daemon.connect().await;
    for person in [&ada, &bob] {
        open.send(me().bearer(&person.bearer)).await.unwrap().expect(200);
    }
    let disabled = daemon.unix(Request::post("/api/sys/principals/ada/disable", &json!({}))).await.expect(200);
    assert_eq!(disabled, json!({ "principal": "ada", "enabled": false, "changed": true }));
    assert_eq!(daemon.unix(Request::delete("/api/sys/principals/bob")).await.status, 204);
    for person in [&ada, &bob] {
        open.send(me().bearer(&person.bearer)).await.unwrap().refusal(401, "unauthorized");
    }
    daemon.unix(Request::post("/api/sys/principals/ada/enable", &json!({}))).await.expect(200);
    daemon.stop();
    let daemon = home.start();
    for person in [&ada, &bob] {
        daemon.tcp(me().bearer(&person.bearer)).await.refusal(401, "unauthorized");
    }
    daemon.unix(Request::post("/api/sys/principals", &json!({ "name": "bob" }))).await.refusal(409, "conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_while_calling_never_give_an_answer_that_is_neither_and_a_thousand_are_made_twenty_at_a_time() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let mut calls = JoinSet::new();
    for _ in 0..4 {
        let (mut connection, bearer) = (daemon.connect().await, ada.bearer.clone());
        calls.spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..100 {
                let request = Request::get("/api/sys/status").bearer(&bearer);
                seen.push(connection.send(request).await.expect("an answer").status);
            }
            seen
        });
    }
    let body = json!({ "capabilities": ["system:status"] });
    for _ in 0..20 {
        daemon.unix(Request::post("/api/sys/principals/ada/caps", &body)).await.expect(200);
        assert_eq!(daemon.unix(deletion("/api/sys/principals/ada/caps", &body)).await.status, 204);
    }
    let seen: Vec<u16> = calls.join_all().await.into_iter().flatten().collect();
    assert!(seen.iter().all(|status| [200, 403].contains(status)), "{seen:?}");
    daemon.tcp(Request::get("/api/sys/status").bearer(&ada.bearer)).await.refusal(403, "forbidden");

    let admin = join(&daemon, "admin", "root", 2).await;
    let mut makers = JoinSet::new();
    for maker in 0..20 {
        let (mut connection, bearer) = (daemon.connect().await, admin.bearer.clone());
        makers.spawn(async move {
            for n in 0..50 {
                let name = json!({ "name": format!("p{maker:02}-{n:02}") });
                let made = connection.send(Request::post("/api/sys/principals", &name).bearer(&bearer)).await;
                made.expect("an answer").expect(201);
            }
        });
    }
    makers.join_all().await;
    let all = daemon.unix(Request::get("/api/sys/principals")).await.expect(200);
    assert_eq!((rows(&all).len(), &all["next_after"]), (1000, &json!("p19-47")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_make_the_same_principal_or_delete_it_at_once_one_does() {
    let daemon = Daemon::start();
    let admin = join(&daemon, "admin", "root", 1).await;
    let body = json!({ "name": "bo" });
    for (request, won, lost) in
        [(Request::post("/api/sys/principals", &body), 201, 409), (Request::delete("/api/sys/principals/bo"), 204, 404)]
    {
        let mut attempts = JoinSet::new();
        for _ in 0..20 {
            let (mut connection, request) = (daemon.connect().await, request.clone().bearer(&admin.bearer));
            attempts.spawn(async move { connection.send(request).await.expect("an answer").status });
        }
        let statuses = attempts.join_all().await;
        assert_eq!(statuses.iter().filter(|status| **status == won).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [won, lost].contains(status)), "{statuses:?}");
    }
    // A deleted issuer's invite is worth nothing from the same moment on.
    let issuer = join(&daemon, "admin", "issuer", 2).await;
    let wanted = json!({ "group": "agent", "max_uses": 1 });
    let issued = ask(&daemon, &issuer, Request::post("/api/sys/invites", &wanted)).await.expect(200);
    daemon.unix(Request::delete("/api/sys/principals/issuer")).await;
    let token = issued["invite"]["token"].as_str().unwrap();
    daemon.tcp(redemption(token, &public_hex(&key(9)))).await.refusal(401, "unauthorized");
    let good = invite(&daemon, "agent", 1).await;
    daemon.tcp(redemption(&good, &public_hex(&key(9)))).await.expect(200);
}

#[tokio::test]
async fn the_catalogue_has_what_installed_capsules_declare_and_nothing_else() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let catalogue = async || {
        let found = ask(&daemon, &ada, Request::get("/api/sys/capabilities")).await.expect(200);
        found["capabilities"].as_array().unwrap().clone()
    };
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let before = catalogue().await;
    assert!(ids(&before).is_sorted(), "{before:?}");
    let extreme = before.iter().find(|row| row["id"] == "capsule:install").expect("it is declared");
    assert_eq!((&extreme["scope"], &extreme["danger"]), (&json!("global"), &json!("extreme")), "{extreme}");
    assert!(extreme["label"].is_string() && extreme["description"].is_string(), "{extreme}");
    // Two capsules declare it.
    assert_eq!(ids(&before).iter().filter(|id| *id == "quota:get").count(), 1);

    let archive = pack::repacked(daemon.home().beside(), "declaring", "echo", |manifest| {
        let mut declared = pack::read("system").manifest.capability.remove(0);
        declared.id = astrid_capsule::Capability::parse("echo:loudly").expect("a capability");
        manifest.capability.push(declared);
    });
    install(&daemon, &archive);
    assert!(ids(&catalogue().await).contains(&"echo:loudly".to_owned()));
    let listed = daemon.astrid(&["caps", "list"]).out().to_owned();
    assert!(listed.contains("echo:loudly") && listed.contains("extreme"), "{listed}");
    daemon.astrid(&["capsule", "remove", "echo"]).out();
    assert_eq!(catalogue().await, before);
    daemon.tcp(Request::get("/api/sys/capabilities")).await.refusal(401, "unauthorized");
}

#[tokio::test]
async fn the_stream_of_a_prompt_says_that_it_is_ready_and_names_the_caller() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["agent"]);
    for (name, number) in [("ada", 1), ("bob", 2)] {
        let person = join(&daemon, "agent", name, number).await;
        // Its `ready` comes first, and names who asks.
        let mut stream = Stream::open(&daemon, &person, prompt("hello")).await;
        let (event, response) = stream.next().await.expect("a response");
        assert_eq!((event.as_str(), &response["principal"]), ("response", &json!(name)), "{response}");
    }
}

#[tokio::test]
async fn the_command_line_makes_places_explains_and_deletes_and_speaks_as_whoever_redeemed_here() {
    let daemon = Daemon::start();
    daemon.astrid(&["group", "create", "ops-team", "system:status", "invite:issue"]).out();
    daemon.astrid(&["agent", "create", "bo", "--group", "ops-team"]).out();
    let check = daemon.astrid(&["caps", "check", "bo", "system:status"]).out().to_owned();
    assert!(check.contains("yes   group ops-team holds system:status"), "{check}");
    daemon.astrid(&["caps", "grant", "bo", "agent:list"]).out();
    daemon.astrid(&["caps", "revoke", "bo", "system:status"]).out();
    let shown = daemon.astrid(&["caps", "show", "bo", "--json"]).json();
    assert_eq!(shown["capabilities"], json!(["agent:list", "invite:issue"]));
    let kept = daemon.astrid(&["group", "delete", "ops-team"]);
    assert!(kept.refusal(1).contains("`bo`"), "{kept:?}");
    daemon.astrid(&["agent", "modify", "bo", "--remove-group", "ops-team"]).out();
    daemon.astrid(&["group", "delete", "ops-team"]).out();
    daemon.astrid(&["agent", "disable", "bo"]).out();
    assert_eq!(daemon.astrid(&["agent", "show", "bo", "--json"]).json()["enabled"], json!(false));
    daemon.astrid(&["agent", "delete", "bo", "--yes"]).out();
    daemon.astrid(&["agent", "show", "bo"]).refusal(1);

    let token = invite(&daemon, "agent", 1).await;
    daemon.astrid(&["invite", "redeem", &token, "--name", "ada", "--key", "laptop"]).out();
    assert_eq!(daemon.astrid(&["who", "--json"]).json()["principal"], "default");
    daemon.astrid(&["agent", "switch", "ada"]).out();
    assert_eq!(daemon.astrid(&["who", "--json"]).json()["principal"], "ada");
    daemon.astrid(&["agent", "create", "eve"]).refusal(1);
    daemon.astrid(&["agent", "switch", "default"]).out();
    daemon.astrid(&["agent", "create", "eve"]).out();
}

#[tokio::test]
async fn a_session_is_renewed_ended_by_its_owner_and_by_a_change_of_keys_on_an_open_connection_and_for_good() {
    let home = Home::new();
    let daemon = home.start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let me = |bearer: &str| Request::get("/api/auth/me").bearer(bearer);
    let mut open = daemon.connect().await;
    open.send(me(&ada.bearer)).await.unwrap().expect(200);
    let first = daemon.tcp(Request::new("POST", "/api/auth/refresh").bearer(&ada.bearer)).await.expect(200);
    assert_eq!(first["principal"], "ada");
    let other = join(&daemon, "admin", "root", 2).await;
    daemon.unix(Request::new("POST", "/api/auth/refresh")).await.refusal(400, "bad_request");
    daemon.tcp(Request::new("POST", "/api/auth/refresh")).await.refusal(401, "unauthorized");

    let end = Request::delete("/api/auth/session").bearer(&ada.bearer);
    assert_eq!(open.send(end).await.unwrap().status, 204);
    open.send(me(&ada.bearer)).await.unwrap().refusal(401, "unauthorized");

    let rotate = |now: bool| Request::post("/api/sys/sessions/rotate", &json!({ "now": now }));
    daemon.tcp(rotate(true).bearer(&ada.bearer)).await.refusal(401, "unauthorized");
    let rotated = ask(&daemon, &other, rotate(false)).await.expect(200);
    assert_eq!(rotated, json!({ "generation": 1, "ended": false }));
    open.send(me(&other.bearer)).await.unwrap().expect(200);
    let bob = join(&daemon, "agent", "bob", 3).await;
    open.send(me(&bob.bearer)).await.unwrap().expect(200);
    let out = daemon.astrid(&["key", "rotate", "--now"]);
    assert!(out.out().contains("have ended"), "{out:?}");
    for bearer in [&other.bearer, &bob.bearer] {
        open.send(me(bearer)).await.unwrap().refusal(401, "unauthorized");
    }
    let cyd = join(&daemon, "agent", "cyd", 4).await;
    daemon.stop();
    let daemon = home.start();
    daemon.tcp(me(&cyd.bearer)).await.expect(200);
    for bearer in [&ada.bearer, &other.bearer, &bob.bearer] {
        daemon.tcp(me(bearer)).await.refusal(401, "unauthorized");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_paired_once_logs_in_with_its_key_and_is_out_when_it_is_removed() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    group(&daemon, "ops-team", &["invite:issue"]).await;
    let olga = join(&daemon, "ops-team", "olga", 2).await;
    let pair = || Request::post("/api/auth/pair-device", &json!({ "label": "phone" }));
    ask(&daemon, &olga, pair()).await.refusal(403, "forbidden");
    let paired = ask(&daemon, &ada, pair()).await.expect(200);
    assert_eq!((&paired["principal"], &paired["label"]), (&json!("ada"), &json!("phone")));
    let mut attempts = JoinSet::new();
    for number in 10..30 {
        let body = json!({ "token": paired["token"], "public_key": public_hex(&key(number)) });
        let mut connection = daemon.connect().await;
        let request = Request::post("/api/auth/pair-device/redeem", &body);
        attempts.spawn(async move { (number, connection.send(request).await.expect("an answer")) });
    }
    let attempts = attempts.join_all().await;
    let (won, lost): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|(_, response)| response.status == 200);
    assert!(won.len() == 1 && lost.iter().all(|(_, response)| response.status == 401), "{won:?} {lost:?}");
    let (number, device) = won.into_iter().next().unwrap();
    assert_eq!(device.expect(200)["principal"], "ada");

    let challenge = Request::post("/api/auth/challenge", &json!({ "principal": "ada" }));
    let challenge = daemon.tcp(challenge).await.expect(200)["challenge"].as_str().unwrap().to_owned();
    let login = |signer: u8| {
        let signature = hex::encode(key(signer).sign(challenge.as_bytes()).to_bytes());
        let body = json!({ "principal": "ada", "challenge": challenge, "public_key": public_hex(&key(signer)),
                           "signature": signature });
        Request::post("/api/auth/login", &body)
    };
    assert_eq!(daemon.tcp(login(99)).await.refusal(401, "unauthorized"), "");
    let session = daemon.tcp(login(number)).await.expect(200);
    assert_eq!(daemon.tcp(login(number)).await.refusal(401, "unauthorized"), "", "a challenge is good once");
    let bearer = session["session_token"].as_str().unwrap();
    let me = || Request::get("/api/auth/me").bearer(bearer);
    daemon.tcp(me()).await.expect(200);
    let devices = daemon.tcp(Request::get("/api/sys/principals/ada/devices").bearer(bearer)).await.expect(200);
    assert_eq!(devices["devices"].as_array().unwrap().len(), 2, "{devices}");
    let print = session["public_key_fingerprint"].as_str().unwrap();
    let remove = Request::delete(&format!("/api/sys/principals/ada/devices/{print}")).bearer(bearer);
    assert_eq!(daemon.tcp(remove).await.status, 204);
    daemon.tcp(me()).await.refusal(401, "unauthorized");
    daemon.tcp(login(number)).await.refusal(401, "unauthorized");
}

#[tokio::test]
async fn the_command_line_logs_in_with_a_local_key_pairs_and_logs_out() {
    let daemon = Daemon::start();
    let token = invite(&daemon, "agent", 1).await;
    daemon.astrid(&["invite", "redeem", &token, "--name", "ada", "--key", "laptop"]).out();
    daemon.astrid(&["login", "ada", "--key", "laptop"]).out();
    daemon.astrid(&["agent", "switch", "ada"]).out();
    let token = daemon.astrid(&["device", "pair", "--label", "phone", "--raw"]).out().to_owned();
    daemon.astrid(&["device", "redeem", &token, "--key", "phone"]).out();
    let devices = daemon.astrid(&["device", "list", "--json"]).json()["devices"].clone();
    assert_eq!(devices[1]["label"], "phone", "{devices}");
    daemon.astrid(&["login", "ada", "--key", "phone"]).out();
    daemon.astrid(&["logout"]).out();
    assert_eq!(daemon.astrid(&["who", "--json"]).json()["principal"], "default");
    daemon.astrid(&["login", "default", "--key", "laptop"]).refusal(1);
}
