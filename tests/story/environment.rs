//! What capsules are told from outside: each principal's own values, sealed, seen by nobody else, and what a capsule
//! learns of its own rights.

use std::fs;
use std::process::{Command, Stdio};

use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Response};
use serde_json::{Value, json};

use crate::{Person, bus, install, install_guests, install_with, join};

const SECRET: &str = "sk-xylophone-4711";
const OTHER: &str = "sk-quicksilver-0815";
const ENV: &str = "/api/capsules/env/env";

fn set(field: &str, value: &Value) -> Request {
    Request::post(&format!("{ENV}/{field}"), &json!({ "value": value }))
}

async fn as_person(daemon: &Daemon, person: &Person, request: Request) -> Response {
    daemon.tcp(request.bearer(&person.bearer)).await
}

/// What the capsule finds, called by this person.
async fn found(daemon: &Daemon, person: &Person, field: &str) -> Value {
    let request = bus("env.v1.get", &json!({ "name": field }));
    as_person(daemon, person, request).await.expect(200)["value"].clone()
}

/// Everything that the home holds, log and store included, but for capsules and the host's key.
fn holds(home: &Home, text: &str) -> bool {
    let mut folders = vec![home.path()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && fs::read(entry.path()).unwrap().windows(text.len()).any(|w| w == text.as_bytes())
            {
                return true;
            }
        }
    }
    false
}

#[tokio::test]
async fn each_principal_has_its_own_secret_and_no_answer_log_or_file_ever_holds_it() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &astrid_tests::pack::packed("env"));
    let ada = join(&daemon, "admin", "ada", 1).await;
    let bob = join(&daemon, "admin", "bob", 2).await;
    let carl = join(&daemon, "admin", "carl", 3).await;

    assert_eq!(as_person(&daemon, &ada, set("KEY", &json!(SECRET))).await.status, 204);
    assert_eq!(as_person(&daemon, &ada, set("MODEL", &json!("large"))).await.status, 204);
    assert_eq!(as_person(&daemon, &ada, set("LIMIT", &json!(7))).await.status, 204);
    assert_eq!(as_person(&daemon, &bob, set("KEY", &json!(OTHER))).await.status, 204);
    assert_eq!(daemon.unix(set("KEY", &json!("the owner's own"))).await.status, 204);

    let listed = as_person(&daemon, &ada, Request::get(ENV)).await;
    let fields = listed.expect(200);
    let key = json!({
        "type": "secret", "description": "What it never tells in full", "request": "Which key?",
        "placeholder": "sk-...", "enum_values": [], "is_set": true,
    });
    assert_eq!((&fields["capsule_id"], &fields["fields"]["KEY"]), (&json!("env"), &key));
    assert_eq!(fields["fields"]["LIMIT"], json!({ "type": "number", "default": 3, "enum_values": [], "is_set": true }));
    assert_eq!(fields["fields"]["LOUD"], json!({ "type": "boolean", "enum_values": [], "is_set": false }));
    let about_bob = Request::get(&format!("{ENV}?principal=bob"));
    for shown in [listed, as_person(&daemon, &ada, about_bob).await, daemon.unix(Request::get(ENV)).await] {
        let text = String::from_utf8(shown.body.to_vec()).unwrap();
        assert!(!text.contains(SECRET) && !text.contains(OTHER) && !text.contains("owner's own"), "{text}");
    }

    let daemon = {
        let check = async |daemon: &Daemon| {
            assert_eq!(found(daemon, &ada, "KEY").await, SECRET);
            assert_eq!(found(daemon, &bob, "KEY").await, OTHER);
            assert_eq!(found(daemon, &carl, "KEY").await, Value::Null, "nobody has the owner's");
            assert_eq!(
                (found(daemon, &ada, "MODEL").await, found(daemon, &bob, "MODEL").await),
                ("large".into(), "small".into())
            );
            assert_eq!(
                (found(daemon, &ada, "LIMIT").await, found(daemon, &bob, "LIMIT").await),
                ("7".into(), "3".into())
            );
        };
        check(&daemon).await;
        daemon.stop();
        let daemon = home.start();
        check(&daemon).await;
        daemon
    };

    // A new version of the capsule finds the same values, and a cleared one is gone at the next call.
    install(&daemon, &astrid_tests::pack::packed("env"));
    assert_eq!(found(&daemon, &ada, "KEY").await, SECRET);
    for _ in 0..2 {
        assert_eq!(as_person(&daemon, &ada, Request::delete(&format!("{ENV}/KEY"))).await.status, 204);
        assert_eq!(found(&daemon, &ada, "KEY").await, Value::Null);
    }
    let require = bus("env.v1.require", &json!({ "name": "KEY" }));
    let reason = as_person(&daemon, &ada, require).await.refusal(400, "bad_request");
    assert!(reason.contains("KEY"), "{reason}");
    assert_eq!(found(&daemon, &bob, "KEY").await, OTHER);

    let logs = daemon.unix(Request::get("/api/sys/logs?limit=1000")).await.expect(200).to_string();
    assert!(logs.contains("ada cleared KEY of env for ada"), "{logs}");
    let said = [logs, daemon.stop().stderr].concat();
    for secret in [SECRET, OTHER, "the owner's own"] {
        assert!(!said.contains(secret) && !holds(&home, secret), "{secret}");
    }
    assert!(holds(&home, "ada set KEY of env for ada"), "the search finds what is there");
}

#[tokio::test]
async fn an_agent_manages_its_own_environment_and_nobody_elses() {
    let daemon = Daemon::start();
    install(&daemon, &astrid_tests::pack::packed("env"));
    let ada = join(&daemon, "agent", "ada", 1).await;
    join(&daemon, "agent", "bob", 2).await;
    let outcast = join(&daemon, "restricted", "carl", 3).await;
    let about = |request: &str, field: &str| format!("{ENV}{field}?principal={request}");
    let value = json!({ "value": "x" });

    assert_eq!(as_person(&daemon, &ada, set("KEY", &json!(SECRET))).await.status, 204);
    assert_eq!(as_person(&daemon, &ada, Request::post(&about("ada", "/KEY"), &value)).await.status, 204);
    as_person(&daemon, &ada, Request::get(ENV)).await.expect(200);
    for other in ["bob", "default", "nobody"] {
        for request in [
            Request::get(&about(other, "")),
            Request::post(&about(other, "/KEY"), &value),
            Request::delete(&about(other, "/KEY")),
        ] {
            let reason = as_person(&daemon, &ada, request).await.refusal(403, "forbidden");
            assert!(reason.contains("env:"), "{reason}");
        }
    }
    for request in [Request::get(ENV), set("KEY", &json!("x")), Request::delete(&format!("{ENV}/KEY"))] {
        as_person(&daemon, &outcast, request.clone()).await.refusal(403, "forbidden");
        daemon.tcp(request).await.refusal(401, "unauthorized");
    }
    // The owner may, for anybody who is there.
    assert_eq!(daemon.unix(Request::post(&about("bob", "/KEY"), &value)).await.status, 204);
    let bob = daemon.unix(Request::get(&about("bob", ""))).await.expect(200);
    assert_eq!(bob["fields"]["KEY"]["is_set"], true);
    assert_eq!(daemon.unix(Request::get(ENV)).await.expect(200)["fields"]["KEY"]["is_set"], false);
    daemon.unix(Request::get(&about("nobody", ""))).await.refusal(404, "not_found");
    daemon.unix(Request::post(&about("nobody", "/KEY"), &value)).await.refusal(404, "not_found");
    daemon.unix(Request::post(&about("anonymous", "/KEY"), &value)).await.refusal(400, "bad_request");
    daemon.unix(Request::post(&about("a%20b", "/KEY"), &value)).await.refusal(400, "bad_request");
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_does_not_fit_is_400_and_changes_nothing() {
    let daemon = Daemon::start();
    install(&daemon, &astrid_tests::pack::packed("env"));
    daemon.unix(Request::get("/api/capsules/none/env")).await.refusal(404, "not_found");
    daemon.unix(Request::get("/api/capsules/%2e%2e/env")).await.refusal(404, "not_found");
    for field in ["NONE", "key", "KEY%20", &"K".repeat(4000)] {
        daemon.unix(set(field, &json!("x"))).await.refusal(404, "not_found");
        daemon.unix(Request::delete(&format!("{ENV}/{field}"))).await.refusal(404, "not_found");
    }
    daemon.unix(set("KEY%00", &json!("x"))).await.refusal(400, "bad_request");
    daemon.unix(Request::post("/api/capsules/none/env/KEY", &json!({ "value": "x" }))).await.refusal(404, "not_found");

    let bytes = |count: usize| json!(SECRET.repeat(count));
    for (field, value, want) in [
        ("MODEL", json!("medium"), "small, large"),
        ("MODEL", json!(1), "small, large"),
        ("LIMIT", json!("many"), "number"),
        ("LOUD", json!("yes"), "true or false"),
        ("KEY", json!(""), "empty"),
        ("KEY", bytes(1000), "8192"),
        ("KEY", json!(null), "a text, a number or a boolean"),
        ("KEY", json!([SECRET]), "a text, a number or a boolean"),
    ] {
        let reason = daemon.unix(set(field, &value)).await.refusal(400, "bad_request");
        assert!(reason.contains(want) && !reason.contains(SECRET), "{field}: {reason}");
    }
    for body in
        [json!({}), json!([]), json!({ "value": "x", "field": "LOUD" }), json!({ "value": "x", "principal": "bob" })]
    {
        daemon.unix(Request::post(&format!("{ENV}/KEY"), &body)).await.refusal(400, "bad_request");
    }
    daemon.unix(Request::post(&format!("{ENV}/KEY"), &bytes(10_000))).await.refusal(413, "payload_too_large");
    let fields = daemon.unix(Request::get(ENV)).await.expect(200);
    let set = fields["fields"].as_object().unwrap().values().filter(|field| field["is_set"] == true).count();
    assert_eq!(set, 0, "{fields}");
}

#[tokio::test]
async fn the_command_line_takes_values_from_stdin_and_never_shows_them() {
    let daemon = Daemon::start();
    install(&daemon, &astrid_tests::pack::packed("env"));
    let ada = join(&daemon, "admin", "ada", 1).await;
    let typed = |arguments: &[&str], input: &str| {
        let mut child = Command::new(astrid_tests::daemon::path("astrid"))
            .arg("--home")
            .arg(daemon.home().path())
            .args(arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let ended = child.wait_with_output().unwrap();
        let text = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        assert!(!text.contains(SECRET), "{text}");
        (ended.status.code(), text)
    };
    let (code, text) = typed(&["secret", "set", "env", "KEY", "--principal", "ada"], &format!("{SECRET}\n"));
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(found(&daemon, &ada, "KEY").await, SECRET);
    let listed = daemon.astrid(&["env", "list", "env", "--principal", "ada", "--json"]).json();
    assert_eq!(listed["fields"]["KEY"]["is_set"], true);
    assert!(daemon.astrid(&["env", "list", "env"]).out().starts_with("NAME"));
    let (code, text) = typed(&["env", "set", "env", "MODEL"], "medium");
    assert!(code == Some(1) && text.contains("small, large"), "{text}");
    daemon.astrid(&["env", "delete", "env", "KEY", "--principal", "ada"]).out();
    assert_eq!(found(&daemon, &ada, "KEY").await, Value::Null);
}

#[tokio::test]
async fn a_capsule_learns_what_it_and_its_caller_hold_as_it_is_enforced() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo"]);
    install_with(&daemon, &astrid_tests::pack::packed("env"), &["bus:send:*"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let held = as_person(&daemon, &ada, bus("env.v1.held", &json!({}))).await.expect(200);
    assert_eq!(held, json!({ "capabilities": ["*"], "grants": ["bus:send:echo:v1:say"] }));
    let holds = async |capability: &str, target: Option<&str>| {
        let question = json!({ "capability": capability, "target": target });
        as_person(&daemon, &ada, bus("env.v1.holds", &question)).await.expect(200)
    };
    assert_eq!(holds("system:status", None).await, true);
    assert_eq!(holds("env:write", Some("bob")).await, true);
    for (capability, target) in [("", None), ("a::b", None), ("system:*", None), ("env:write", Some("a b"))] {
        assert_eq!(holds(capability, target).await, false, "{capability}");
    }
}
