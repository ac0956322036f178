//! What an author begins with: each template as a project of its own, built, installed as it is and used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use astrid_tests::daemon::{self, Daemon};
use astrid_tests::http::Request;
use serde_json::{Value, json};

use crate::{bus, install, until};

/// The packed capsule of a new project of this template. Its component is built below the checkout's target directory.
#[track_caller]
fn project(daemon: &Daemon, template: &str) -> PathBuf {
    let (name, program) = (format!("author-{template}"), daemon::path("astrid-build"));
    let shared = program.parent().and_then(Path::parent).expect("programs lie in a folder of the profile's");
    let run = |folder: &Path, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(folder).args(arguments);
        command.env("CARGO_NET_OFFLINE", "true").env("CARGO_TARGET_DIR", shared.join("authors"));
        let output = command.output().expect("a program that was built");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let beside = daemon.home().beside();
    run(beside, &["new", &name, "--template", template]);
    let built = run(&beside.join(&name), &["--json", "build"]);
    let built: Value = serde_json::from_slice(&built).expect("one document");
    let (from, to) =
        (built["capsules"][0]["archive"].as_str().expect("a path"), beside.join(format!("{name}.capsule")));
    fs::copy(from, &to).expect("it is there");
    to
}

#[tokio::test]
async fn every_template_is_installed_as_it_is_and_does_what_its_readme_says() {
    let daemon = Daemon::start();
    for template in ["handler", "interceptor", "http", "tool", "run-loop"] {
        let done = install(&daemon, &project(&daemon, template));
        assert_eq!(done["id"], format!("author-{template}"));
    }
    let ask = async |topic: &str, payload: Value| daemon.unix(bus(topic, &payload)).await;

    let greeting = ask("author-handler.v1.hello", json!({ "name": "Bo" })).await.expect(200);
    assert_eq!(greeting, json!({ "text": "Hello, Bo!" }));
    // Nothing serves the topic that it judges or the one that it asks; both are live.
    assert_eq!(daemon.tcp(Request::get("/author-http")).await.status, 405);

    let add = |text: &str| json!({ "text": text });
    assert_eq!(ask("author-tool.v1.add", add("milk")).await.expect(200), json!({ "id": 1 }));
    let found = ask("author-tool.v1.find", add("mil")).await.expect(200);
    assert_eq!(found, json!({ "notes": [{ "id": 1, "text": "milk" }], "more": false }));
    let topics = daemon.unix(Request::get("/api/capsules/author-tool/topics")).await.expect(200);
    assert!(topics.to_string().contains("At most 1000 bytes, and not blank."), "{topics}");

    ask("author-run-loop.v1.submit", add("one two three")).await.expect(200);
    let total = bus("author-run-loop.v1.total", &json!({}));
    let wanted = json!({ "texts": 1, "words": 3 });
    until(&daemon, total, |answer| answer.status == 200 && answer.json() == wanted).await;
}
