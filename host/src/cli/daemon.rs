//! `astrid status` and `astrid stop`: the host's process as a whole.

use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::Deserialize;
use serde_json::Value;

use super::failure::{Exit, Failure};
use super::{Context, table, time};
use crate::home::Home;

/// How long a host may take to end before it is said to hang.
const STOP_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);
/// The largest state file that is read, in bytes.
const MAX_STATE_BYTES: u64 = 64 << 10;

#[derive(Deserialize)]
struct Status {
    pid: u32,
    uptime_secs: u64,
    version: String,
    connected_clients: u64,
    connections_by_principal: Value,
    loaded_capsules: Vec<String>,
}

pub(super) async fn status(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.get("read the status", "/api/sys/status").await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let status: Status = answer.read()?;
    let mut facts = vec![
        ("version", status.version),
        ("pid", status.pid.to_string()),
        ("up for", time::span(status.uptime_secs)),
        ("connections", status.connected_clients.to_string()),
    ];
    if let Value::Object(principals) = status.connections_by_principal {
        let each: Vec<String> = principals.iter().map(|(principal, n)| format!("{principal} {n}")).collect();
        facts.push(("by principal", each.join(", ")));
    }
    facts.push(("capsules", status.loaded_capsules.join(", ")));
    context.console.print(&table::facts(&facts))?;
    Ok(Exit::Done)
}

pub(super) async fn stop(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let what = "stop the host";
    // Read first: a host that ends removes it. Without it, the host is known by its listening.
    let pid = called(context);
    let answer = context.client.post(what, "/api/sys/shutdown", "{}".to_owned()).await.map_err(|f| match pid {
        // A host whose gateway is broken still hears its signals.
        Some(pid) if ["unavailable", "overloaded", "timeout", "internal"].contains(&f.code.as_str()) => {
            f.next(format!("`kill {pid}` asks the process itself, with the same drain"))
        }
        _ => f,
    })?;
    let asked = Instant::now();
    loop {
        let ended = match pid {
            Some(pid) => has_ended(pid),
            None => !context.client.is_listened_to().await,
        };
        if ended {
            break;
        }
        if asked.elapsed() >= STOP_LIMIT {
            return Err(hangs(context, pid).doing(what));
        }
        tokio::time::sleep(POLL).await;
    }
    if context.console.json {
        context.console.document(&answer.body)?;
    } else {
        let process = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
        context.console.print(&format!("stopped{process}"))?;
    }
    Ok(Exit::Done)
}

fn hangs(context: &Context<'_>, pid: Option<Pid>) -> Failure {
    let process = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    let reason = format!("the host{process} agreed to end and still runs after {} s", STOP_LIMIT.as_secs());
    let force =
        pid.map_or_else(String::new, |pid| format!("; `kill -9 {pid}` ends it, and nothing acknowledged is lost"));
    Failure::failed("timeout", reason).next(format!("see {}{force}", context.home.log().display()))
}

/// The process that calls go to, as far as it is known: only that of the home.
pub(super) fn called(context: &Context<'_>) -> Option<Pid> {
    if context.client.is_at_home() { pid(&context.home) } else { None }
}

/// The process that the home's state file names, if there is a state file and it names one.
pub(super) fn pid(home: &Home) -> Option<Pid> {
    #[derive(Deserialize)]
    struct State {
        pid: i32,
    }
    let mut text = String::new();
    File::open(home.state_file()).ok()?.take(MAX_STATE_BYTES).read_to_string(&mut text).ok()?;
    let State { pid } = serde_json::from_str(&text).ok()?;
    (pid > 0).then(|| Pid::from_raw(pid))?
}

/// Whether the process is gone, or only waits for its parent to notice that it is.
fn has_ended(pid: Pid) -> bool {
    if test_kill_process(pid) == Err(Errno::SRCH) {
        return true;
    }
    // "PID (NAME) STATE …", where the name may hold anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::cli::testing::Host;

    #[test]
    fn the_status_is_a_list_of_facts() {
        let document = r#"{"pid":7,"uptime_secs":3661,"version":"0.1.0","connected_clients":2,"connections_by_principal":{"default":2},"loaded_capsules":["gateway","identity"]}"#;
        let host = Host::answering(200, document);
        let text = host.astrid(&["status"]).out;
        for part in
            ["pid           7", "up for        1h 1m", "by principal  default 2", "capsules      gateway, identity"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(host.astrid(&["--json", "status"]).out, format!("{document}\n"));
    }

    #[test]
    fn an_answer_of_another_shape_is_a_failure() {
        let host = Host::answering(200, r#"{"pid":"seven"}"#);
        let ran = host.astrid(&["status"]);
        assert_eq!(ran.exit, Exit::Failed);
        assert!(ran.err.contains("not what this route promises"), "{}", ran.err);
    }

    #[test]
    fn stop_waits_for_the_process_and_takes_a_zombie_for_ended() {
        // Stands in for the host: it ends when it is asked to, and nobody reaps it meanwhile.
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let host = Host::with(move |_| {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            (202, String::new())
        });
        fs::write(host.home.state_file(), format!(r#"{{"pid":{pid},"address":"x"}}"#)).unwrap();
        let ran = host.astrid(&["stop"]);
        assert_eq!((ran.exit, ran.out), (Exit::Done, format!("stopped (pid {pid})\n")), "{}", ran.err);
        assert_eq!(host.requests(), ["POST /api/sys/shutdown {}"]);
        child.wait().unwrap();
        assert!(has_ended(pid));
    }

    #[test]
    fn a_host_that_agreed_and_does_not_end_is_said_to_hang_after_fifteen_seconds_with_how_to_force_it() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let host = Host::answering(202, "{}");
        fs::write(host.home.state_file(), format!(r#"{{"pid":{}}}"#, child.id())).unwrap();
        let began = Instant::now();
        let ran = host.astrid(&["stop"]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(began.elapsed() >= Duration::from_secs(15));
        let told = ["still runs after 15 s".to_owned(), format!("`kill -9 {}`", child.id()), "astrid.log".to_owned()];
        assert!(ran.exit == Exit::Failed && told.iter().all(|part| ran.err.contains(part)), "{ran:?}");
    }

    #[test]
    fn a_host_that_cannot_be_asked_can_be_signalled() {
        let host = Host::answering(502, r#"{"error":"unavailable","reason":"the gateway is not loaded"}"#);
        fs::write(host.home.state_file(), r#"{"pid":4321}"#).unwrap();
        let ran = host.astrid(&["stop"]);
        assert!(ran.exit == Exit::Failed && ran.err.contains("next: `kill 4321`"), "{ran:?}");
    }

    #[test]
    fn without_a_state_file_stop_waits_for_the_socket_to_go() {
        let socket = std::sync::Arc::new(std::sync::OnceLock::new());
        let path = socket.clone();
        let host = Host::with(move |_| {
            fs::remove_file(path.get().unwrap()).unwrap();
            (202, "{}".to_owned())
        });
        socket.set(host.home.socket()).unwrap();
        assert_eq!(host.astrid(&["stop"]).out, "stopped\n");
    }

    #[test]
    fn only_a_state_file_that_names_a_process_does() {
        let (_dir, home) = crate::cli::testing::home();
        assert_eq!(pid(&home), None);
        for bad in ["", "{}", r#"{"pid":0}"#, r#"{"pid":-1}"#, r#"{"pid":"1"}"#, r#"{"pid":99999999999}"#] {
            fs::write(home.state_file(), bad).unwrap();
            assert_eq!(pid(&home), None, "{bad}");
        }
        assert!(!has_ended(Pid::from_raw(std::process::id() as i32).unwrap()));
    }
}
