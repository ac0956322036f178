//! `astrid:sys`: the log, captured, and a host whose answers the test sets.

use std::collections::BTreeMap;

use wasmtime::Result as Wasm;

use crate::bindings::astrid::env::env::Field;
use crate::bindings::astrid::sys::audit;
use crate::bindings::astrid::sys::host::{
    self, Applied, Capability, Capsule, Change, Distribution, EnvError, HostStatus, InstallError, InstallOptions,
    Installed, Load, LogLine, LogQuery, PrincipalUsage, Process, Setting, Step, Topic,
};
use crate::bindings::astrid::sys::limit;
use crate::bindings::astrid::sys::log::{self, Level};
use crate::engine::State;

const MAX_LINE_BYTES: usize = 8 << 10;
const MAX_DETAIL_BYTES: usize = 2048;

/// A line that the capsule has logged, as it would stand in the host's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub level: Level,
    pub message: String,
}

/// What `astrid:sys/host` answers and what it was asked. The fields are the test's to set and to read.
#[derive(Debug)]
pub struct FakeHost {
    pub status: HostStatus,
    pub capsules: Vec<Capsule>,
    /// What each known principal has used.
    pub usage: BTreeMap<String, PrincipalUsage>,
    /// The topics of each known capsule.
    pub topics: BTreeMap<String, Vec<Topic>>,
    pub config: Vec<Setting>,
    /// What the next reloads of the configuration answer.
    pub reloaded: Result<Vec<Change>, String>,
    pub load: Load,
    pub capabilities: Vec<Capability>,
    /// Queries are answered from these, oldest first.
    pub log_lines: Vec<LogLine>,
    /// What the next installs answer.
    pub install: Result<Installed, InstallError>,
    /// The path and options of every install so far.
    pub installs: Vec<(String, InstallOptions)>,
    /// What the next rollbacks, swaps and removals answer.
    pub change: Result<(), InstallError>,
    /// Every rollback, swap and removal so far: what, and of which capsule; `purge` is one of its own.
    pub changes: Vec<(&'static str, String)>,
    /// What the next applications of the distribution answer.
    pub applied: Result<Vec<Applied>, InstallError>,
    /// The host's distribution.
    pub distribution: Option<Distribution>,
    /// What happened to every capsule.
    pub history: Vec<Step>,
    /// What the next questions for fields answer.
    pub env_fields: Result<Vec<Field>, EnvError>,
    /// What the next values that are set or cleared answer.
    pub env_write: Result<(), EnvError>,
    /// Capsule and principal of every question for fields so far.
    pub env_reads: Vec<(String, String)>,
    /// Capsule, field, principal and value of everything that was set, or without a value cleared, so far.
    pub env_writes: Vec<(String, String, String, Option<String>)>,
    /// Sandboxed children that run.
    pub processes: Vec<Process>,
    /// How often a stop was asked for.
    pub shutdowns: u32,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self {
            status: HostStatus {
                pid: 1,
                uptime_secs: 0,
                version: "0.0.0".into(),
                connected_clients: 0,
                connections_by_principal: Vec::new(),
                loaded_capsules: Vec::new(),
            },
            capsules: Vec::new(),
            usage: BTreeMap::new(),
            topics: BTreeMap::new(),
            config: Vec::new(),
            reloaded: Ok(Vec::new()),
            load: Load {
                uptime_ms: 0,
                instances: 0,
                instances_in_use: 0,
                calls_waiting: 0,
                capsules: Vec::new(),
                principals: Vec::new(),
            },
            capabilities: Vec::new(),
            log_lines: Vec::new(),
            install: Err(InstallError::NotFound("the test set no answer to installs".into())),
            installs: Vec::new(),
            change: Ok(()),
            changes: Vec::new(),
            applied: Ok(Vec::new()),
            distribution: None,
            history: Vec::new(),
            env_fields: Ok(Vec::new()),
            env_write: Ok(()),
            env_reads: Vec::new(),
            env_writes: Vec::new(),
            processes: Vec::new(),
            shutdowns: 0,
        }
    }
}

fn severity(level: &str) -> Option<usize> {
    ["error", "warn", "info", "debug"].iter().position(|l| *l == level)
}

impl FakeHost {
    fn changed(&mut self, what: &'static str, id: String) -> Result<(), InstallError> {
        self.changes.push((what, id));
        self.change.clone()
    }

    fn answer(&self, query: &LogQuery) -> Vec<LogLine> {
        let most = query.level.as_deref().map(severity);
        let wanted = |line: &&LogLine| {
            line.sequence > query.after
                && line.time_ms >= query.since_ms
                && query.capsule.as_ref().is_none_or(|capsule| *capsule == line.capsule)
                && most.is_none_or(|most| severity(&line.level) <= most)
        };
        let mut lines: Vec<_> = self.log_lines.iter().filter(wanted).cloned().collect();
        lines.drain(..lines.len().saturating_sub(query.limit as usize));
        lines
    }
}

/// Escapes control characters and cuts at 8 KiB, with a mark.
fn line(message: &str) -> String {
    let mut out = String::new();
    for c in message.chars() {
        let start = out.len();
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        if out.len() > MAX_LINE_BYTES {
            out.truncate(start);
            out.push('…');
            break;
        }
    }
    out
}

impl audit::Host for State {
    fn detail(&mut self, json: String) -> Wasm<Result<(), String>> {
        if json.len() > MAX_DETAIL_BYTES {
            return Ok(Err(format!("a detail has at most {MAX_DETAIL_BYTES} bytes, not {}", json.len())));
        }
        let detail = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&json);
        Ok(detail.map(|detail| self.fakes.detail = Some(detail.into())).map_err(|error| error.to_string()))
    }
}

impl log::Host for State {
    fn log(&mut self, level: Level, message: String) -> Wasm<()> {
        self.fakes.logs.push(Logged { level, message: line(&message) });
        Ok(())
    }
}

impl limit::Host for State {
    fn take(&mut self, key: String, interval_ms: u32, burst: u32) -> Wasm<Result<(), limit::Refusal>> {
        let within = (1..=256).contains(&key.len()) && (1..=86_400_000).contains(&interval_ms);
        if !within || !(1..=1_000_000).contains(&burst) {
            return Ok(Err(limit::Refusal::Invalid("the key or the rate is out of bounds".into())));
        }
        let (now, interval) = (self.clock.seconds() * 1000, u64::from(interval_ms));
        let due = self.fakes.limits.get(&key).copied().unwrap_or(now).max(now);
        let latest = now + interval * u64::from(burst - 1);
        if due > latest {
            return Ok(Err(limit::Refusal::Later(u32::try_from(due - latest).unwrap_or(u32::MAX))));
        }
        self.fakes.limits.insert(key, due + interval);
        Ok(Ok(()))
    }
}

impl host::Host for State {
    fn status(&mut self) -> Wasm<HostStatus> {
        Ok(self.fakes.host.status.clone())
    }

    fn usage(&mut self, principal: String) -> Wasm<Option<PrincipalUsage>> {
        Ok(self.fakes.host.usage.get(&principal).copied())
    }

    fn capsules(&mut self) -> Wasm<Vec<Capsule>> {
        Ok(self.fakes.host.capsules.clone())
    }

    fn topics(&mut self, capsule: String) -> Wasm<Option<Vec<Topic>>> {
        Ok(self.fakes.host.topics.get(&capsule).cloned())
    }

    fn capabilities(&mut self) -> Wasm<Vec<Capability>> {
        Ok(self.fakes.host.capabilities.clone())
    }

    fn config(&mut self) -> Wasm<Vec<Setting>> {
        Ok(self.fakes.host.config.clone())
    }

    fn reload_config(&mut self) -> Wasm<Result<Vec<Change>, String>> {
        Ok(self.fakes.host.reloaded.clone())
    }

    fn measure(&mut self, principals: u32) -> Wasm<Load> {
        let mut load = self.fakes.host.load.clone();
        load.principals.truncate(principals as usize);
        Ok(load)
    }

    fn install(&mut self, path: String, options: InstallOptions) -> Wasm<Result<Installed, InstallError>> {
        self.fakes.host.installs.push((path, options));
        Ok(self.fakes.host.install.clone())
    }

    fn rollback(&mut self, id: String) -> Wasm<Result<(String, String), InstallError>> {
        Ok(self.fakes.host.changed("rollback", id).map(|()| ("1.0.0".into(), "1.1.0".into())))
    }

    fn swap(&mut self, id: String) -> Wasm<Result<String, InstallError>> {
        Ok(self.fakes.host.changed("swap", id).map(|()| "1.0.0".into()))
    }

    fn remove(&mut self, id: String, purge: bool) -> Wasm<Result<(), InstallError>> {
        Ok(self.fakes.host.changed(if purge { "purge" } else { "remove" }, id))
    }

    fn history(&mut self, _: String) -> Wasm<Vec<Step>> {
        Ok(self.fakes.host.history.clone())
    }

    fn gc(&mut self) -> Wasm<Result<(u64, u64), String>> {
        Ok(Ok((2, 1000)))
    }

    fn apply_distro(&mut self) -> Wasm<Result<Vec<Applied>, InstallError>> {
        Ok(self.fakes.host.applied.clone())
    }

    fn distro(&mut self) -> Wasm<Option<Distribution>> {
        Ok(self.fakes.host.distribution.clone())
    }

    fn logs(&mut self, query: LogQuery) -> Wasm<Vec<LogLine>> {
        Ok(self.fakes.host.answer(&query))
    }

    fn env_fields(&mut self, capsule: String, principal: String) -> Wasm<Result<Vec<Field>, EnvError>> {
        self.fakes.host.env_reads.push((capsule, principal));
        Ok(self.fakes.host.env_fields.clone())
    }

    fn env_set(
        &mut self,
        capsule: String,
        field: String,
        principal: String,
        value: String,
    ) -> Wasm<Result<(), EnvError>> {
        self.fakes.host.env_writes.push((capsule, field, principal, Some(value)));
        Ok(self.fakes.host.env_write.clone())
    }

    fn env_clear(&mut self, capsule: String, field: String, principal: String) -> Wasm<Result<(), EnvError>> {
        self.fakes.host.env_writes.push((capsule, field, principal, None));
        Ok(self.fakes.host.env_write.clone())
    }

    fn processes(&mut self, principal: Option<String>) -> Wasm<Vec<Process>> {
        let running = self.fakes.host.processes.iter();
        Ok(running.filter(|one| principal.as_ref().is_none_or(|only| one.principal == *only)).cloned().collect())
    }

    fn stop_process(&mut self, id: String, principal: Option<String>) -> Wasm<bool> {
        let running = &mut self.fakes.host.processes;
        let before = running.len();
        running.retain(|one| one.id != id || principal.as_ref().is_some_and(|only| one.principal != *only));
        Ok(running.len() < before)
    }

    fn shutdown(&mut self) -> Wasm<()> {
        self.fakes.host.shutdowns += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_keeps_the_newest_lines_that_it_names() {
        let line = |sequence, level: &str, capsule: &str| LogLine {
            sequence,
            time_ms: 0,
            level: level.into(),
            capsule: capsule.into(),
            message: String::new(),
        };
        let host = FakeHost {
            log_lines: vec![line(1, "error", "a"), line(2, "info", "a"), line(3, "warn", "b"), line(4, "warn", "a")],
            ..FakeHost::default()
        };
        let ask = |capsule: Option<&str>, level: Option<&str>, after, limit| {
            let (capsule, level) = (capsule.map(Into::into), level.map(Into::into));
            let query = LogQuery { capsule, level, since_ms: 0, after, limit };
            host.answer(&query).iter().map(|l| l.sequence).collect::<Vec<_>>()
        };
        assert_eq!(ask(None, None, 0, 1000), [1, 2, 3, 4]);
        assert_eq!(ask(Some("a"), None, 0, 2), [2, 4]);
        assert_eq!(ask(None, Some("warn"), 0, 1000), [1, 3, 4]);
        assert_eq!(ask(None, Some("warn"), 3, 1000), [4]);
    }

    #[test]
    fn a_line_has_no_control_characters_and_an_end() {
        assert_eq!(line("a\nb\u{1b}[0m"), "a\\nb\\u{1b}[0m");
        let long = line(&"x".repeat(10_000));
        assert!(long.len() <= MAX_LINE_BYTES + '…'.len_utf8() && long.ends_with('…'));
    }
}
