//! Capsules that no Rust compiler has made, in a real daemon: a gateway in JavaScript (QuickJS), and handlers in Python
//! (CPython) and C; and programs that are not ours with the description of the HTTP surface ([`openapi`]) and with what is
//! measured of it ([`prometheus`]).
//! `cargo astrid test foreign` fetches their tool chains and builds them first.

mod openapi;
mod prometheus;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use astrid_capsule::check::Surface;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::Request;
use astrid_tests::pack;
use astrid_tests::steps::{Load, bus, install};
use serde_json::json;

/// The checksum of `123456789` that everybody gives who explains CRC-32.
const CHECK: &str = "cbf43926";

/// What `astrid-build` has fetched. Links stay as they are: a Python environment is known by the path of its interpreter.
fn tool(path: &str) -> PathBuf {
    let capsules = pack::packed("gateway");
    let path = capsules.parent().and_then(Path::parent).unwrap().join("tools").join(path);
    assert!(path.exists(), "there is no {}: cargo astrid test foreign fetches it", path.display());
    path
}

/// Runs a program to its end and gives what it said; panics with that unless it went well.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    said
}

/// The version of the gateway that is live.
#[track_caller]
fn gateway(daemon: &Daemon) -> String {
    let list = daemon.astrid(&["capsule", "list", "--json"]).json();
    let rows = list["capsules"].as_array().unwrap();
    let row = rows.iter().find(|row| row["id"] == "gateway").unwrap();
    assert_eq!(row["state"], "live");
    row["version"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_in_javascript_takes_over_from_ours_and_gives_back_without_failing_a_request() {
    let daemon = Daemon::start();
    let javascript = pack::packed("foreign-gateway");
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(daemon.connect_unix().await);
    }
    let load = Load::start(connections, &Request::get("/api/auth/me")).await;
    for _ in 0..3 {
        let done = install(&daemon, &javascript);
        assert_eq!((&done["previous_version"], &done["installed_version"]), (&json!("0.1.0"), &json!("0.2.0")));
        // Ours serves this path as well.
        daemon.unix(Request::get("/api/sys/groups")).await.refusal(404, "not_found");
        assert_eq!(gateway(&daemon), "0.2.0");
        // Through the one that goes.
        assert_eq!(daemon.astrid(&["capsule", "rollback", "gateway", "--json"]).json()["version"], "0.1.0");
        daemon.unix(Request::get("/api/sys/groups")).await.expect(200);
        assert_eq!(gateway(&daemon), "0.1.0");
    }
    assert!(load.end().await > 4);
}

#[tokio::test]
async fn the_command_line_works_through_a_gateway_in_javascript() {
    let daemon = Daemon::start();
    install(&daemon, &pack::packed("foreign-gateway"));

    assert!(daemon.astrid(&["who"]).out().contains("default"));
    assert!(daemon.astrid(&["status"]).out().contains("gateway, identity, system"));
    let token = daemon.astrid(&["invite", "issue", "--group", "agent", "--raw"]);
    let listed = daemon.astrid(&["invite", "list", "--json"]).json();
    assert_eq!(listed["invites"][0]["remaining_uses"], 1);
    daemon.astrid(&["keypair", "generate", "laptop"]).out();
    let redeemed = daemon.astrid(&["invite", "redeem", token.out(), "--key", "laptop", "--name", "ada", "--raw"]);
    let bearer = redeemed.out();
    assert!(daemon.astrid(&["invite", "redeem", token.out(), "--key", "laptop"]).refusal(1).contains("token"));
    let spare = daemon.astrid(&["invite", "issue", "--group", "agent", "--raw"]);
    daemon.astrid(&["invite", "revoke", spare.out()]).out();

    let principals = |arguments: &[&str]| {
        let list = daemon.astrid(arguments).json();
        let rows = list["principals"].as_array().unwrap();
        rows.iter().map(|row| row["principal"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(principals(&["agent", "list", "--json"]), ["ada", "default"]);
    assert_eq!(daemon.astrid(&["agent", "show", "ada", "--json"]).json()["groups"], json!(["agent"]));
    assert!(daemon.astrid(&["agent", "show", "bob"]).refusal(1).contains("bob"));
    assert_eq!(daemon.astrid(&["caps", "check", "default", "agent:list", "--json"]).json()["allowed"], true);

    // Somebody with a session and few rights, on TCP.
    let url = format!("http://{}", daemon.address());
    let as_ada = ["--url", &url, "--bearer", bearer];
    assert!(daemon.astrid(&[&as_ada[..], &["who"]].concat()).out().contains("ada"));
    assert_eq!(principals(&[&as_ada[..], &["agent", "list", "--json"]].concat()), ["ada"]);
    assert!(daemon.astrid(&[&as_ada[..], &["status"]].concat()).refusal(1).contains("system:status"));
    let forged = format!("{bearer}0");
    assert!(daemon.astrid(&["--url", &url, "--bearer", &forged, "who"]).refusal(1).contains("unauthorized"));

    let done = install(&daemon, &pack::packed("foreign-crc"));
    assert_eq!(done["id"], "crc");
    assert!(daemon.astrid(&["capsule", "list"]).out().contains("\ncrc "));
    assert_eq!(daemon.astrid(&["bus", "request", "crc.v1.of", "123456789", "--json"]).json(), CHECK);
    assert!(daemon.astrid(&["bus", "request", "nobody.v1.home"]).refusal(1).contains("not_found"));
    assert!(daemon.astrid(&["logs"]).out().contains("installed crc"));
}

#[tokio::test]
async fn a_request_goes_through_javascript_and_python_to_c_and_is_still_there_after_a_restart() {
    let words = pack::packed("foreign-words");
    // Half a minute of compiling, so once for all runs.
    let aside = words.parent().unwrap().join("../foreign/compiled");
    let home = Home::new();
    home.take_compiled(&aside);
    let daemon = home.start();
    install(&daemon, &pack::packed("foreign-gateway"));
    let done = install(&daemon, &words);
    assert_eq!(done["missing_imports"][0]["interface"], "crc.v1.of");
    let ask = |text: &str| bus("words.v1.count", &json!({ "text": text }));
    let alone = daemon.unix(ask("123456789")).await.refusal(502, "unavailable");
    assert!(alone.contains("checksum"), "{alone}");
    install(&daemon, &pack::packed("foreign-crc"));

    let counted = json!({ "words": { "123456789": 1 }, "crc32": CHECK, "for": "default" });
    assert_eq!(daemon.unix(ask("123456789")).await.expect(200), counted);
    let counted = daemon.unix(ask("Ähre um ähre")).await.expect(200);
    assert_eq!(counted["words"], json!({ "um": 1, "ähre": 2 }));
    let refused = daemon.unix(bus("words.v1.count", &json!({ "texts": "" }))).await.refusal(400, "bad_request");
    assert!(refused.contains("`text`"), "{refused}");
    // C refuses what is empty, and Python says so in its own words.
    daemon.unix(ask("")).await.refusal(502, "unavailable");
    // More than fits into what a C string or a QuickJS stack holds.
    let long = "ü ".repeat(20_000);
    assert_eq!(daemon.unix(ask(&long)).await.expect(200)["words"], json!({ "ü": 20_000 }));

    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    assert_eq!(daemon.unix(ask("123456789")).await.expect(200)["crc32"], CHECK);
    assert_eq!(gateway(&daemon), "0.2.0");

    let javascript = daemon.astrid(&["capsule", "rollback", "gateway", "--json"]).json();
    assert_eq!(javascript["previous_version"], "0.2.0");
    daemon.astrid(&["capsule", "gc"]).out();
    home.keep_compiled(&aside);
}

#[test]
fn they_export_more_than_a_host_calls_and_import_three_minors_of_wasi() {
    let surfaces: Vec<Surface> = ["foreign-gateway", "foreign-words", "foreign-crc"]
        .map(|name| Surface::read(&pack::read(name).component).unwrap())
        .into();
    let extra: Vec<&String> =
        surfaces.iter().flat_map(|surface| &surface.exports).filter(|name| !name.starts_with("astrid:")).collect();
    assert!(extra.len() >= 2, "{extra:?}");
    let minors: BTreeSet<&str> = surfaces
        .iter()
        .flat_map(|surface| &surface.imports)
        .filter_map(|name| name.strip_prefix("wasi:")?.split_once('@').map(|(_, version)| version))
        .collect();
    assert!(minors.len() >= 3 && minors.iter().all(|version| version.starts_with("0.2.")), "{minors:?}");
}
