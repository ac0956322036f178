//! The command line: what it prints, how it ends, and what it says when it can't.

use std::fs;

use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::pack;
use serde_json::{Value, json};

use crate::{assert_well, fingerprint};

#[tokio::test]
async fn every_verb_has_a_table_for_people_one_line_of_json_for_programs_and_ends_with_0() {
    let daemon = Daemon::start();
    let echo = pack::packed("echo");
    let echo = echo.to_str().unwrap();

    let status = daemon.astrid(&["status"]);
    assert!(status.out().contains("capsules      audit, gateway, identity, system"), "{status:?}");
    assert_eq!(
        daemon.astrid(&["--json", "status"]).json()["loaded_capsules"],
        json!(["audit", "gateway", "identity", "system"])
    );

    let installed = daemon.astrid(&["capsule", "install", echo]);
    assert!(installed.out().contains("capsule    echo") && installed.stdout.contains("not installed"), "{installed:?}");
    let again = daemon.astrid(&["capsule", "install", echo, "--json"]).json();
    assert_eq!(again["previous_version"], "0.1.0");
    let list = daemon.astrid(&["capsule", "list"]);
    assert_eq!(list.out().lines().count(), 6, "{list:?}");
    assert!(list.stdout.starts_with("ID ") && list.stdout.contains("\necho "), "{list:?}");
    assert_eq!(daemon.astrid(&["capsule", "list", "--json"]).json()["capsules"][1]["id"], "echo");
    let topics = daemon.astrid(&["capsule", "topics", "system"]);
    assert!(topics.out().starts_with("TOPIC") && topics.stdout.contains("capsules.which"), "{topics:?}");
    assert_eq!(daemon.astrid(&["capsule", "topics", "echo", "--json"]).json()["topics"][0]["topic"], "echo.v1.say");

    let payload = "{\"z\":1.0,\"a\":\"ü\"}";
    assert_eq!(daemon.astrid(&["bus", "request", "echo.v1.say", payload, "--json"]).out(), payload);
    let answer = daemon.astrid(&["bus", "request", "echo.v1.say", payload]);
    assert_eq!(answer.out(), "{\n  \"z\": 1.0,\n  \"a\": \"ü\"\n}");
    assert_eq!(daemon.astrid(&["bus", "publish", "echo.v1.say", "1"]).out(), "delivered to 1 handler");
    assert_eq!(daemon.astrid(&["bus", "publish", "nobody.v1.home", "--json"]).json(), json!({ "delivered": 0 }));

    let invite = daemon.astrid(&["invite", "issue", "--uses", "3"]);
    assert!(invite.out().contains("uses         3") && invite.stderr.contains("invite redeem"), "{invite:?}");
    let token = daemon.astrid(&["invite", "issue", "--raw"]);
    let token = token.out();
    assert!(token.starts_with("astrid-inv-") && !token.contains('\n'), "{token}");
    let list = daemon.astrid(&["invite", "list"]);
    assert!(list.out().contains(&fingerprint(token)) && !list.stdout.contains(token), "{list:?}");
    assert_eq!(daemon.astrid(&["invite", "list", "--json"]).json()["invites"].as_array().unwrap().len(), 2);

    // A key pair, a principal with it, and that principal as the speaker.
    let made = daemon.astrid(&["keypair", "generate", "laptop", "--json"]).json();
    assert_eq!(daemon.astrid(&["keypair", "pubkey", "laptop"]).out(), made["public_key"].as_str().unwrap());
    assert_eq!(daemon.astrid(&["keypair", "list", "--json"]).json()["keys"][0]["name"], "laptop");
    let bearer = daemon.astrid(&["invite", "redeem", token, "--key", "laptop", "--name", "Ada", "--raw"]);
    let bearer = bearer.out();
    let denied = daemon.astrid(&["--bearer", bearer, "status"]);
    assert!(denied.refusal(1).contains("system:status") && denied.stderr.contains("next:"), "{denied:?}");
    let url = format!("http://{}", daemon.address());
    let denied = daemon.astrid(&["--url", &url, "--bearer", bearer, "invite", "list", "--json"]);
    let document: Value = serde_json::from_str(denied.refusal(1)).unwrap();
    assert_eq!(document["error"], "forbidden");
    let taken = daemon.astrid(&["invite", "issue", "--raw"]);
    let conflict = daemon.astrid(&["invite", "redeem", taken.out(), "--key", "laptop"]);
    assert!(conflict.refusal(1).contains("--key"), "{conflict:?}");
    assert_eq!(
        daemon.astrid(&["invite", "revoke", taken.out()]).out(),
        format!("revoked {}", fingerprint(taken.out()))
    );
    let gone = daemon.astrid(&["invite", "redeem", taken.out()]);
    assert!(gone.refusal(1).contains("revoked") && gone.stderr.contains("next:"), "{gone:?}");
    let shown = fingerprint(token);
    assert!(daemon.astrid(&["invite", "revoke", &shown]).refusal(1).contains("invite list"), "it is used up");
    assert!(daemon.astrid(&["keypair", "delete", "laptop"]).refusal(2).contains("--yes"));
    assert_eq!(daemon.astrid(&["keypair", "delete", "laptop", "--yes"]).out(), "deleted laptop");

    let logs = daemon.astrid(&["logs", "host"]);
    assert!(logs.out().contains("installed"), "{logs:?}");
    let lines = daemon.astrid(&["logs", "--json", "--lines", "3"]).json();
    assert_eq!(lines["lines"].as_array().unwrap().len(), 3);

    let doctor = daemon.astrid(&["doctor"]);
    assert!(doctor.out().contains("capsules") && !doctor.stdout.contains("FAIL"), "{doctor:?}");
    assert_eq!(daemon.astrid(&["doctor", "--json"]).json()["ok"], true);

    // No token and no bearer is in any file of the home.
    for file in [daemon.home().path().join("log/astrid.log"), daemon.home().path().join("run/daemon.json")] {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("astrid-inv-") && !text.contains(bearer), "{}", file.display());
    }
    assert_well(&daemon).await;

    let home = daemon.home().clone();
    let stopped = home.astrid(&["stop"]);
    assert!(stopped.out().starts_with("stopped (pid "), "{stopped:?}");
    assert_eq!(daemon.wait().code, Some(0));
    assert!(!home.path().join("run/astrid.sock").exists() && !home.path().join("run/daemon.json").exists());
}

#[test]
fn without_a_daemon_every_verb_that_needs_one_ends_with_1_and_says_how_to_start_one() {
    let home = Home::new();
    for arguments in
        [&["status"][..], &["stop"], &["invite", "issue"], &["capsule", "list"], &["bus", "request", "a.b"], &["logs"]]
    {
        let ran = home.astrid(arguments);
        let text = ran.refusal(1);
        assert!(
            text.contains("no host is running") && text.contains("next: ") && text.contains("cargo astrid up"),
            "{text}"
        );
        let json = home.astrid(&[arguments, &["--json"]].concat());
        let document: Value = serde_json::from_str(json.refusal(1)).unwrap();
        assert_eq!(document["error"], "not_running");
    }
    let doctor = home.astrid(&["doctor"]);
    assert!(doctor.code == Some(1) && doctor.stdout.contains("cargo astrid up"), "{doctor:?}");
    let doctor = home.astrid(&["doctor", "--json"]);
    assert_eq!(doctor.code, Some(1));
    assert_eq!(serde_json::from_str::<Value>(&doctor.stdout).unwrap()["ok"], false);

    // A daemon that was killed leaves its socket behind, and that is said as well.
    home.start().kill();
    let stale = home.astrid(&["status"]);
    assert!(stale.refusal(1).contains("is gone") && stale.stderr.contains("cargo astrid up"), "{stale:?}");
    assert_eq!(home.start().stop().code, Some(0));

    for arguments in [
        &[][..],
        &["nonsense"],
        &["invite"],
        &["invite", "issue", "--uses", "0"],
        &["bus", "request", "a.b", "{"],
        &["bus", "request", "a..b"],
        &["keypair", "generate", "../x"],
        &["status", "--url", "ftp://x"],
    ] {
        assert!(!home.astrid(arguments).refusal(2).is_empty(), "{arguments:?}");
    }
    assert!(home.astrid(&["--help"]).out().contains("doctor"));
    assert!(home.astrid(&["--version"]).out().starts_with("astrid "));
    // Key pairs are one's own, and need nobody.
    assert_eq!(home.astrid(&["keypair", "generate", "mine", "--json"]).json()["name"], "mine");
}
