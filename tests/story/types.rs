//! Topics with types: what a capsule says of them reaches whoever asks, and in strict mode messages are held to it.

use std::path::PathBuf;

use astrid_capsule::Pattern;
use astrid_capsule::manifest::Subscribe;
use astrid_capsule::schema::{Schemas, TypeName, Wit};
use astrid_tests::daemon::Daemon;
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};

use crate::{assert_well, bus, install, join};

fn name(text: &str) -> TypeName {
    TypeName::parse(text).unwrap()
}

/// Echo, which takes and answers notes on `echo.v1.say`, and promises to answer nothing on `echo.v1.lie`.
fn typed_echo(daemon: &Daemon) -> PathBuf {
    let document = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": {
        "notes.kind": { "type": "string", "enum": ["short", "very_long"] },
        "notes.note": { "type": "object", "additionalProperties": false, "required": ["kind"], "properties": {
            "kind": { "$ref": "#/$defs/notes.kind" },
            "text": { "anyOf": [{ "type": "string" }, { "type": "null" }], "description": "What it says." },
        } },
    } });
    let schemas = Schemas::parse(document.to_string().as_bytes()).unwrap();
    let echo = pack::read("echo");
    let mut manifest = echo.manifest;
    manifest.subscribe[0].wit = Some(Wit { payload: name("notes.note"), answer: Some(name("notes.note")) });
    let mut lie = Subscribe::handled(Pattern::parse("echo.v1.lie").unwrap(), "say");
    lie.wit = Some(Wit { payload: name("notes.note"), answer: Some(name("nothing")) });
    manifest.subscribe.push(lie);
    pack::write_typed(daemon.home().beside(), "typed", &manifest, &echo.component, &schemas)
}

fn say(payload: &Value) -> Request {
    bus("echo.v1.say", payload)
}

#[tokio::test]
async fn a_capsules_topics_are_listed_with_schemas_that_stand_alone_also_after_a_restart() {
    let daemon = Daemon::start();
    install(&daemon, &typed_echo(&daemon));
    let home = daemon.home().clone();
    let topics = Request::get("/api/capsules/echo/topics");
    let listed = daemon.unix(topics.clone()).await.expect(200);
    let say = &listed["topics"][0];
    assert_eq!(
        (&say["topic"], &say["direction"], &say["handler"]),
        (&json!("echo.v1.say"), &json!("subscribe"), &json!("say"))
    );
    assert_eq!(say["wit"], json!({ "payload": "notes.note", "answer": "notes.note" }));
    let schema = &say["schema"]["payload"];
    assert_eq!(schema["properties"]["text"]["description"], "What it says.");
    assert_eq!(schema["$defs"]["notes.kind"]["enum"], json!(["short", "very_long"]));
    let nothing = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    assert_eq!(listed["topics"][1]["schema"]["answer"], nothing);
    let table = daemon.astrid(&["capsule", "topics", "echo"]);
    assert!(
        table.out().lines().any(|line| line.contains("echo.v1.lie") && line.contains("nothing")),
        "{}",
        table.out()
    );
    for own in ["identity", "system"] {
        let own = daemon.unix(Request::get(&format!("/api/capsules/{own}/topics"))).await.expect(200);
        let topics = own["topics"].as_array().unwrap();
        assert!(
            topics.len() >= 8 && topics.iter().all(|topic| topic["schema"]["payload"]["type"] == "object"),
            "{own}"
        );
        let mut handled = topics.iter().filter(|topic| topic["handler"].is_string());
        assert!(handled.all(|topic| topic["schema"]["answer"]["type"] == "object"), "{own}");
    }
    daemon.unix(Request::get("/api/capsules/gone/topics")).await.refusal(404, "not_found");
    let bo = join(&daemon, "restricted", "bo", 1).await;
    daemon.tcp(topics.clone().bearer(&bo.bearer)).await.refusal(403, "forbidden");

    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    assert_eq!(daemon.unix(topics).await.expect(200), listed);
}

#[tokio::test]
async fn a_strict_host_holds_messages_to_their_types_and_one_that_is_not_does_not() {
    let loose = Daemon::start();
    install(&loose, &typed_echo(&loose));
    loose.unix(say(&json!({ "kind": "long" }))).await.expect(200);
    loose.unix(bus("echo.v1.lie", &json!({ "kind": "short" }))).await.expect(200);
    drop(loose);

    let daemon = Daemon::start_with(&["--set", "bus.strict=true"]);
    install(&daemon, &typed_echo(&daemon));
    for fine in [json!({ "kind": "short" }), json!({ "kind": "very_long", "text": "a" })] {
        assert_eq!(daemon.unix(say(&fine)).await.expect(200), fine);
    }
    for (bad, why) in [
        (json!({ "kind": "long" }), "`notes.note` at `/kind`: must be one of short, very_long"),
        (json!({ "kind": "short", "text": 1 }), "at `/text`: must be a text"),
        (json!({}), "lacks the field `kind`"),
        (json!({ "kind": "short", "more": 1 }), "has a field `more`"),
        (json!([]), "must be an object"),
    ] {
        let reason = daemon.unix(say(&bad)).await.refusal(400, "bad_request");
        assert!(reason.contains(why), "{reason}");
        let reason = daemon.unix(Request::post("/api/bus/publish/echo.v1.say", &bad)).await.refusal(400, "bad_request");
        assert!(reason.contains(why), "{reason}");
    }
    let refused = daemon.unix(bus("echo.v1.lie", &json!({ "kind": "short" }))).await;
    assert!(refused.status >= 500 && !refused.body.is_empty(), "{refused:?}");
    let logs = daemon.astrid(&["logs"]);
    assert!(logs.out().contains("answer does not fit its type `nothing`"), "{}", logs.out());

    // The first-party capsules keep to what they say.
    let bo = join(&daemon, "agent", "bo", 1).await;
    daemon.tcp(Request::get("/api/auth/me").bearer(&bo.bearer)).await.expect(200);
    for path in [
        "/api/sys/invites",
        "/api/sys/principals",
        "/api/sys/principals/default/quotas",
        "/api/sys/principals/default/usage",
        "/api/sys/status",
        "/api/sys/logs?limit=5",
        "/api/sys/config",
        "/api/capsules",
        "/api/capsules/echo/env",
        "/api/capsules/echo/topics",
        "/api/capsules/system/topics",
    ] {
        daemon.unix(Request::get(path)).await.expect(200);
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn an_archive_whose_types_are_missing_or_foreign_is_refused() {
    let daemon = Daemon::start();
    let echo = pack::read("echo");
    let mut manifest = echo.manifest;
    manifest.subscribe[0].wit = Some(Wit { payload: name("notes.note"), answer: None });
    let path = pack::write(daemon.home().beside(), "untyped", &manifest, &echo.component);
    let refused = daemon.astrid(&["capsule", "install", path.to_str().unwrap()]);
    assert!(refused.refusal(1).contains("has no type `notes.note`"), "{}", refused.refusal(1));
    assert_well(&daemon).await;
}
