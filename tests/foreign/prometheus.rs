//! Prometheus' own tool, with the sample alerts and with what a daemon exposes.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use astrid_tests::daemon::Daemon;
use astrid_tests::http::Request;
use astrid_tests::steps::bus;
use serde_json::json;

use crate::{succeed, tool};

fn promtool() -> Command {
    Command::new(tool("promtool/promtool"))
}

#[test]
fn prometheus_takes_the_sample_alerts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alerts");
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "yml")).collect();
    let rules: usize = files.iter().map(|path| fs::read_to_string(path).unwrap().matches("- alert: ").count()).sum();
    assert!(rules >= 10, "{rules} rules in {}", folder.display());
    let said = succeed(promtool().args(["check", "rules"]).args(&files));
    let found: usize =
        said.lines().filter_map(|line| line.split_once("SUCCESS: ")?.1.split(' ').next()?.parse::<usize>().ok()).sum();
    assert_eq!(found, rules, "{said}");
}

#[tokio::test]
async fn prometheus_finds_nothing_to_say_of_what_a_daemon_exposes_after_some_requests() {
    let daemon = Daemon::start();
    for path in ["/healthz", "/api/auth/me", "/api/nothing", "/nowhere", "/api/%22%5C%0A"] {
        daemon.tcp(Request::get(path)).await;
    }
    daemon.tcp(Request::get("/api/auth/me").bearer("rubbish")).await.refusal(401, "unauthorized");
    daemon.unix(Request::get("/api/sys/principals")).await.expect(200);
    daemon.unix(bus("nobody.v1.home", &json!({}))).await.refusal(404, "not_found");
    let exposed = daemon.home().beside().join("metrics");
    fs::write(&exposed, daemon.tcp(Request::get("/metrics")).await.body).unwrap();
    let said = succeed(promtool().args(["check", "metrics"]).stdin(File::open(&exposed).unwrap()));
    assert_eq!(said.trim(), "");
}
