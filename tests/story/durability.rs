//! Killed, stopped, started twice, and started on what can't be trusted.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use astrid_capsule::Pattern;
use astrid_tests::DEADLINE;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::Request;
use astrid_tests::pack;
use rustix::io::ioctl_fionread;
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::mpsc;

use crate::{assert_well, bus, fingerprint, install, join, key, public_hex, redemption};

/// The fingerprints of all invites, page by page.
async fn invites(daemon: &Daemon) -> HashSet<String> {
    let mut found = HashSet::new();
    let mut path = "/api/sys/invites".to_owned();
    loop {
        let page = daemon.unix(Request::get(&path)).await.expect(200);
        let rows = page["invites"].as_array().unwrap();
        found.extend(rows.iter().map(|row| row["token_fingerprint"].as_str().unwrap().to_owned()));
        match page["next_after"].as_str() {
            Some(after) => path = format!("/api/sys/invites?after={after}"),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_when_the_daemon_is_killed_while_it_writes() {
    const ENOUGH: usize = 150;
    let home = Home::new();
    let mut daemon = home.start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let mut tokens = Vec::new();
    for round in 1..=3 {
        let (acknowledge, mut acknowledged) = mpsc::unbounded_channel();
        for _ in 0..16 {
            let (mut connection, acknowledge) = (daemon.connect_unix().await, acknowledge.clone());
            tokio::spawn(async move {
                let issue = Request::post("/api/sys/invites", &json!({ "group": "agent", "max_uses": 1 }));
                // Until the connection breaks: that is the kill.
                while let Ok(response) = connection.send(issue.clone()).await {
                    let issued = response.expect(200);
                    let token = issued["invite"]["token"].as_str().unwrap().to_owned();
                    acknowledge.send(token).expect("somebody waits for it");
                }
            });
        }
        drop(acknowledge);
        for _ in 0..ENOUGH {
            tokens.push(acknowledged.recv().await.expect("no writer ends before the kill"));
        }
        daemon.kill();
        while let Some(token) = acknowledged.recv().await {
            tokens.push(token);
        }

        daemon = home.start();
        let found = invites(&daemon).await;
        let lost = tokens.iter().filter(|token| !found.contains(&fingerprint(token))).count();
        assert_eq!(lost, 0, "round {round}, of {}", tokens.len());
        let me = daemon.tcp(Request::get("/api/auth/me").bearer(&ada.bearer)).await.expect(200);
        assert_eq!(me["principal"], "ada", "a session survives");
    }
    // Not only listed: the first and the last of all can be used.
    for (number, token) in [(2, &tokens[0]), (3, &tokens[tokens.len() - 1])] {
        daemon.tcp(redemption(token, &public_hex(&key(number)))).await.expect(200);
        daemon.tcp(redemption(token, &public_hex(&key(number + 10)))).await.refusal(401, "unauthorized");
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start();
    let pid = daemon.unix(Request::get("/api/sys/status")).await.expect(200)["pid"].to_string();
    let refused = daemon.home().try_start(&[]).err().expect("it is refused");
    let reason = refused.refusal(1);
    let home = daemon.home().path().display().to_string();
    assert!(reason.contains(&home) && reason.contains(&pid) && reason.contains("another daemon"), "{reason}");
    assert_eq!(daemon.unix(Request::get("/api/sys/status")).await.expect(200)["pid"].to_string(), pid);

    // Another home, but the first one's port.
    let other = Home::new();
    let address = daemon.address().to_string();
    let refused = other.try_start_at(&address, &[]).err().expect("it is refused");
    let reason = refused.refusal(1);
    assert!(reason.contains("http.listen") && reason.contains(&address), "{reason}");
    assert_well(&other.start()).await;
    assert_well(&daemon).await;
}

#[tokio::test]
async fn a_home_or_a_setting_that_cannot_be_trusted_is_refused_by_its_name() {
    let home = Home::new();
    let path = home.path();
    let refused = |arguments: &[&str], names: &[&str]| {
        let ended = home.try_start(arguments).err().expect("it is refused");
        let reason = ended.refusal(1);
        assert!(names.iter().all(|name| reason.contains(name)), "{names:?}: {reason}");
    };

    for (folder, mode) in [(path.clone(), 0o777), (path.join("distro"), 0o770)] {
        fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        refused(&[], &[&folder.display().to_string(), "chmod 700"]);
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    }
    fs::remove_dir(path.join("run")).unwrap();
    symlink(home.beside(), path.join("run")).unwrap();
    refused(&[], &["/run", "symlink"]);
    fs::remove_file(path.join("run")).unwrap();

    for (set, names) in [
        ("runtime.instnaces=20", &["runtime.instnaces", "did you mean `instances`"][..]),
        ("runtmie.instances=20", &["runtmie", "did you mean `runtime`"]),
        ("runtime.instances=0", &["runtime.instances"]),
        ("runtime.instances=many", &["instances"]),
        ("runtime", &["room.key=value"]),
        ("log.level=loud", &["log.level", "loud"]),
        ("bus.max-depth=200", &["bus.max-depth"]),
    ] {
        refused(&["--set", set], names);
    }
    let config = path.join("etc/config.toml");
    for (text, names) in [
        ("[runtime\n", &["config.toml"][..]),
        ("[runtime]\ninstnaces = 1\n", &["config.toml", "instnaces"]),
        ("[colour]\nred = 1\n", &["config.toml", "colour"]),
        ("[http]\nlisten = \"nowhere\"\n", &["config.toml", "listen"]),
    ] {
        fs::write(&config, text).unwrap();
        refused(&[], names);
    }
    fs::write(&config, "[runtime]\ninstances = 64\n").unwrap();

    // With all of that put right it starts, and has what was set.
    let daemon = home.start();
    let health = daemon.tcp(Request::get("/healthz")).await.expect(200);
    assert_eq!(health["pool"]["instances"], 64);
    let store = path.join("store.redb");
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start_with(&["--set", "runtime.instances=32"]);
    assert_eq!(daemon.tcp(Request::get("/healthz")).await.expect(200)["pool"]["instances"], 32);
    assert_eq!(daemon.stop().code, Some(0));

    // A host key that others may read, and a store that is none: nothing is made anew in their place.
    let key = path.join("keys/host.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    refused(&[], &["host.key", "0600"]);
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let secret = fs::read(&key).unwrap();
    fs::write(&key, "nonsense").unwrap();
    refused(&[], &["host.key"]);
    fs::write(&key, secret).unwrap();
    let bytes = fs::read(&store).unwrap();
    fs::write(&store, vec![b'x'; 4096]).unwrap();
    refused(&[], &["store.redb"]);
    fs::write(&store, bytes).unwrap();
    assert_well(&home.start()).await;
}

/// Installs the guest that never ends, under a name of its own and with this much time.
#[track_caller]
fn install_looping(daemon: &Daemon, name: &str, timeout_ms: u64) {
    let looping = pack::repacked(daemon.home().beside(), name, "spin", |manifest| {
        manifest.package.name = name.into();
        manifest.limits.timeout_ms = timeout_ms;
        for binding in &mut manifest.subscribe {
            binding.topic = Pattern::parse(&format!("{name}.{}", binding.topic)).unwrap();
        }
    });
    install(daemon, &looping);
}

/// Sends a request whose answer nobody waits for.
async fn leave_running(daemon: &Daemon, topic: &str) {
    let (mut connection, request) = (daemon.connect_unix().await, bus(topic, &json!({})));
    tokio::spawn(async move { connection.send(request).await });
}

/// Signals while endless loops run, some of which end at their deadline before the drain does and some of which do not.
async fn stop_while_busy(signal: Signal) {
    let daemon = Daemon::start();
    for (name, timeout_ms) in [("brief", 3_000), ("long", 600_000)] {
        install_looping(&daemon, name, timeout_ms);
    }
    let mut busy = Vec::new();
    for topic in ["long.spin.v1.compute", "long.spin.v1.call", "brief.spin.v1.compute"] {
        let mut connection = daemon.connect_unix().await;
        busy.push(tokio::spawn(async move { connection.send(bus(topic, &json!({}))).await }));
    }
    let mut idle = daemon.connect().await;
    // The three loops and the gateway's call above each; or the brief one is over already, on a busy machine.
    while !busy[2].is_finished() {
        let health = idle.send(Request::get("/healthz")).await.unwrap().expect(200);
        if health["pool"]["in_use"].as_u64().unwrap() >= 6 + crate::RESIDENT {
            break;
        }
    }

    let asked = Instant::now();
    daemon.signal(signal);
    let ended = tokio::task::spawn_blocking(move || daemon.wait()).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stdout.contains('\n'), "one line says that it is ready, and nothing else: {ended:?}");
    let brief = busy.pop().unwrap().await.unwrap();
    brief.expect("an answer: it ended before the drain did").refusal(504, "timeout");
    for long in busy {
        let cut = long.await.unwrap();
        assert!(cut.is_err(), "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_and_ctrl_c_end_a_busy_daemon_within_ten_seconds_and_answer_what_can_be_answered() {
    tokio::join!(stop_while_busy(Signal::TERM), stop_while_busy(Signal::INT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_drain_at_once_and_the_exit_code_says_so() {
    let daemon = Daemon::start();
    install_looping(&daemon, "long", 600_000);
    leave_running(&daemon, "long.spin.v1.compute").await;
    let mut idle = daemon.connect().await;
    // The loop, and the gateway's call above it.
    while idle.send(Request::get("/healthz")).await.unwrap().expect(200)["pool"]["in_use"] != 2 + crate::RESIDENT {}

    daemon.signal(Signal::TERM);
    until_said(&daemon, "stopping: SIGTERM").await;
    daemon.signal(Signal::TERM);
    let ended = tokio::task::spawn_blocking(move || daemon.wait()).await.unwrap();
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(ended.stderr.contains("second signal") && !ended.stderr.contains("end of the drain"), "{ended:?}");
}

/// Waits until the daemon's standard error says this.
async fn until_said(daemon: &Daemon, what: &str) {
    let started = Instant::now();
    while !daemon.stderr().contains(what) {
        assert!(started.elapsed() < DEADLINE, "it never says {what}: {}", daemon.stderr());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_hangs_ends_at_the_hard_deadline_whoever_does_not_read_what_the_daemon_says() {
    let home = Home::new();
    let (daemon, unread) = home.start_unread();
    install_looping(&daemon, "long", 600_000);
    let waiting = || ioctl_fionread(&unread).expect("a pipe");
    let before = waiting();
    leave_running(&daemon, "long.spin.v1.chatter").await;
    let started = Instant::now();
    while waiting() < before + 1000 {
        assert!(started.elapsed() < DEADLINE, "{} bytes", waiting());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // It writes on until the pipe is full. From then on whoever has something to say waits for ever; the drain does, too.
    daemon.signal(Signal::TERM);
    let ended = tokio::task::spawn_blocking(move || daemon.wait()).await.unwrap();
    assert_eq!(ended.code, Some(75), "{ended:?}");

    // What was acknowledged before is there.
    assert_well(&home.start()).await;
    drop(unread);
}
