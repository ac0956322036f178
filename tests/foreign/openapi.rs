//! Programs that read OpenAPI and are not ours, with the document that a daemon serves: a linter, a generator of clients
//! with its compiler, and a tester that sends what the document allows and what it does not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use astrid_tests::daemon::Daemon;
use astrid_tests::http::Request;
use serde_json::json;

use crate::{succeed, tool};

/// Operations that end the host, the capsule that serves the tester or its own session, that never end themselves, or that need an agent. It
/// finds the names of what there is in other answers.
const LEFT_OUT: [&str; 8] = [
    "shutDown",
    "removeCapsule",
    "rotateSessionKey",
    "endSession",
    "removeDevice",
    "followFacts",
    "readLogs",
    "promptAgent",
];

/// A public key that nobody else has: of RFC 8032's second test.
const KEY: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

/// What a test brings along.
fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/openapi").join(name)
}

/// The document that the daemon serves, as a file.
async fn document(daemon: &Daemon) -> PathBuf {
    let path = daemon.home().beside().join("openapi.json");
    fs::write(&path, daemon.tcp(Request::get("/api/openapi.json")).await.body).unwrap();
    path
}

/// The bearer of a new administrator.
async fn administrator(daemon: &Daemon) -> String {
    daemon.astrid(&["keypair", "generate", "laptop"]).out();
    let token = daemon.astrid(&["invite", "issue", "--group", "admin", "--raw"]);
    let redeem = ["invite", "redeem", token.out(), "--key", "laptop", "--name", "ada", "--raw"];
    daemon.astrid(&redeem).out().to_owned()
}

#[tokio::test]
async fn a_public_linter_finds_nothing_in_the_document() {
    let daemon = Daemon::start();
    let document = document(&daemon).await;
    let mut redocly = Command::new(tool("redocly/node_modules/.bin/redocly"));
    redocly.arg("lint").arg(document).arg("--config").arg(own("redocly.yaml"));
    redocly.env("REDOCLY_TELEMETRY", "off").env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
    succeed(&mut redocly);
}

#[tokio::test]
async fn a_client_that_a_public_generator_made_compiles_logs_in_and_lists_principals() {
    let daemon = Daemon::start();
    let (document, bearer) = (document(&daemon).await, administrator(&daemon).await);
    let folder = daemon.home().beside().join("client");
    fs::create_dir(&folder).unwrap();
    let modules = tool("typescript/node_modules");
    symlink(&modules, folder.join("node_modules")).unwrap();
    fs::copy(own("client.ts"), folder.join("client.ts")).unwrap();
    fs::write(folder.join("package.json"), json!({ "type": "module" }).to_string()).unwrap();
    succeed(Command::new(modules.join(".bin/openapi-typescript")).arg(document).arg("-o").arg(folder.join("api.d.ts")));
    let mut compiler = Command::new(modules.join(".bin/tsc"));
    compiler.args(["--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.iterable"]);
    compiler.args(["--skipLibCheck", "client.ts"]);
    succeed(compiler.current_dir(&folder));
    let url = format!("http://{}", daemon.address());
    let mut client = Command::new("node");
    let said = succeed(client.current_dir(&folder).args(["client.js", &url, &bearer]));
    let lines: Vec<&str> = said.lines().collect();
    let want =
        ["ada admin", "default admin", "ops 201", "204", "404 not_found", "404 not_found", "bo bo bo", "409 conflict"];
    assert_eq!(lines, want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_tester_meets_no_server_error_no_other_shape_and_no_status_that_is_not_described() {
    let daemon = Daemon::start();
    // The owner's: whoever else tries everything takes the own rights away.
    let paired = daemon.unix(Request::post("/api/auth/pair-device", &json!({}))).await.expect(200);
    let device = json!({ "token": paired["token"], "public_key": KEY });
    let redeemed = daemon.tcp(Request::post("/api/auth/pair-device/redeem", &device)).await.expect(200);
    let bearer = redeemed["session_token"].as_str().unwrap();
    let url = format!("http://{}", daemon.address());
    let mut tester = Command::new(tool("schemathesis/bin/python"));
    tester.arg(tool("schemathesis/bin/st")).args(["run", &format!("{url}/api/openapi.json"), "--url", &url]);
    tester.args(["--header", &format!("Authorization: Bearer {bearer}")]);
    tester.args([
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--max-examples",
        "20",
        "--seed",
        "1",
        "--no-color",
    ]);
    tester.args(["--generation-database", "none"]);
    let checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "unsupported_method",
        "allow_header_conformance",
        "ignored_auth",
    ];
    tester.args(["--checks", &checks.join(",")]);
    for operation in LEFT_OUT {
        tester.args(["--exclude-operation-id", operation]);
    }
    let said = succeed(tester.current_dir(daemon.home().beside()));
    println!("{said}");
    assert_eq!(daemon.tcp(Request::get("/healthz")).await.expect(200)["status"], "ok");
    daemon.tcp(Request::get("/api/auth/me").bearer(bearer)).await.expect(200);
}
