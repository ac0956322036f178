//! The JSON of each operation, and the host's records that it stands for. Pure: nothing here calls the host.

use std::collections::{BTreeMap, BTreeSet};

use astrid_sdk::bus::Refusal;
use astrid_sdk::host::{self, InstallError, LogQuery};
use serde::{Deserialize, Serialize};

/// How many log lines are answered if the query doesn't say.
const DEFAULT_LINES: u32 = 200;
/// How many principals are answered with their load if the request doesn't say, and at most.
const DEFAULT_PRINCIPALS: u32 = 100;
const MAX_PRINCIPALS: u32 = 1000;
/// The most log lines that one query may ask for.
const MAX_LINES: u32 = 1000;
/// The most bytes of log lines in one answer, well below what the bus delivers by default (1 MiB), escapes included.
const MAX_LINES_BYTES: usize = 512 << 10;
/// What the names of a line's fields and its numbers add to it, at most.
const LINE_OVERHEAD: usize = 128;
/// The longest path of an archive, in bytes.
const MAX_SOURCE_BYTES: usize = 4096;
const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// `{}`: of an operation that takes or answers nothing.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

#[derive(Debug, Serialize)]
pub struct Status {
    pub pid: u32,
    pub uptime_secs: u64,
    pub version: String,
    pub connected_clients: u32,
    pub connections_by_principal: BTreeMap<String, u32>,
    pub loaded_capsules: Vec<String>,
}

impl From<host::HostStatus> for Status {
    fn from(status: host::HostStatus) -> Self {
        Self {
            pid: status.pid,
            uptime_secs: status.uptime_secs,
            version: status.version,
            connected_clients: status.connected_clients,
            connections_by_principal: status.connections_by_principal.into_iter().collect(),
            loaded_capsules: status.loaded_capsules,
        }
    }
}

/// What a principal has used since the host started, what it stores, and the limits in force.
#[derive(Debug, Serialize)]
pub struct Usage {
    pub principal: String,
    pub cpu_fuel_consumed_total: u64,
    pub cpu_fuel_per_sec_limit: u64,
    /// Not held to the two limits per second.
    pub exempt: bool,
    pub memory_bytes_limit_per_instance: u64,
    /// The most that one instance has had.
    pub memory_bytes_peak_total: u64,
    pub storage_bytes_used: u64,
    pub storage_bytes_limit: u64,
    pub ipc_bytes_sent_total: u64,
    pub ipc_bytes_per_sec_limit: u64,
    pub calls_total: u64,
    pub concurrent_calls_limit: u64,
    pub wall_ms_total: u64,
    pub timeout_secs_limit: u64,
    pub processes_running: u32,
    pub processes_limit: u32,
}

impl Usage {
    pub fn new(principal: &str, usage: host::PrincipalUsage) -> Self {
        Self {
            principal: principal.into(),
            cpu_fuel_consumed_total: usage.fuel_total,
            cpu_fuel_per_sec_limit: usage.fuel_per_sec_limit,
            exempt: usage.exempt,
            memory_bytes_limit_per_instance: usage.memory_bytes_limit,
            memory_bytes_peak_total: usage.memory_peak_bytes,
            storage_bytes_used: usage.storage_bytes,
            storage_bytes_limit: usage.storage_bytes_limit,
            ipc_bytes_sent_total: usage.bus_bytes_total,
            ipc_bytes_per_sec_limit: usage.bus_bytes_per_sec_limit,
            calls_total: usage.calls_total,
            concurrent_calls_limit: usage.concurrent_calls_limit,
            wall_ms_total: usage.wall_ms_total,
            timeout_secs_limit: usage.timeout_secs_limit,
            processes_running: usage.processes,
            processes_limit: usage.processes_limit,
        }
    }
}

/// Which log lines somebody wants to see.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    pub capsule: Option<String>,
    /// This level and everything more severe.
    pub level: Option<String>,
    /// Only lines that were written then or later. Milliseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Only lines with a greater sequence number.
    pub after: Option<u64>,
    /// 1 to [`MAX_LINES`].
    pub limit: Option<u32>,
}

impl Logs {
    /// The query for the host; `invalid` if a field is out of bounds.
    pub fn query(self) -> Result<LogQuery, Refusal> {
        let limit = self.limit.unwrap_or(DEFAULT_LINES);
        if !(1..=MAX_LINES).contains(&limit) {
            return Err(Refusal::invalid(format!("limit = {limit} must be 1 to {MAX_LINES}")));
        }
        if let Some(level) = &self.level
            && !LEVELS.contains(&level.as_str())
        {
            return Err(Refusal::invalid(format!("level `{}` must be {}", level.escape_debug(), LEVELS.join(", "))));
        }
        let (since_ms, after) = (self.since.unwrap_or(0), self.after.unwrap_or(0));
        Ok(LogQuery { capsule: self.capsule, level: self.level, since_ms, after, limit })
    }
}

/// Oldest first, and the newest ones if not all fit: sequence numbers show what is missing.
#[derive(Debug, Serialize)]
pub struct Lines {
    pub lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
pub struct Line {
    pub sequence: u64,
    pub time_ms: u64,
    pub level: String,
    pub capsule: String,
    pub message: String,
}

impl From<Vec<host::LogLine>> for Lines {
    fn from(lines: Vec<host::LogLine>) -> Self {
        let mut bytes = 0;
        let newest = lines.into_iter().rev().map(|line| Line {
            sequence: line.sequence,
            time_ms: line.time_ms,
            level: line.level,
            capsule: line.capsule,
            message: line.message,
        });
        let fitting = newest.take_while(|line| {
            bytes += LINE_OVERHEAD + escaped(&line.level) + escaped(&line.capsule) + escaped(&line.message);
            bytes <= MAX_LINES_BYTES
        });
        let mut lines: Vec<_> = fitting.collect();
        lines.reverse();
        Self { lines }
    }
}

/// How long a text is as a JSON string, at most.
fn escaped(text: &str) -> usize {
    text.bytes()
        .map(|b| {
            if b < b' ' {
                6
            } else if b == b'"' || b == b'\\' {
                2
            } else {
                1
            }
        })
        .sum()
}

/// Sorted by id.
#[derive(Debug, Serialize)]
pub struct Capsules {
    pub capsules: Vec<Capsule>,
}

#[derive(Debug, Serialize)]
pub struct Capsule {
    pub id: String,
    pub version: String,
    /// `live`, `failed`, `starting` or `restarting`: what the host says.
    pub state: String,
    /// BLAKE3 of the component, hex.
    pub hash: String,
}

impl From<host::Capsule> for Capsule {
    fn from(row: host::Capsule) -> Self {
        Self { id: row.id, version: row.version, state: row.state, hash: row.hash }
    }
}

impl From<Vec<host::Capsule>> for Capsules {
    fn from(capsules: Vec<host::Capsule>) -> Self {
        Self { capsules: capsules.into_iter().map(Capsule::from).collect() }
    }
}

/// Every capability that people can be granted.
#[derive(Debug, Serialize)]
pub struct Catalogue {
    pub capabilities: Vec<Capability>,
    pub categories: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Capability {
    pub id: String,
    pub label: String,
    pub description: String,
    pub category: String,
    pub scope: String,
    pub danger: String,
}

/// Sorted by key.
#[derive(Debug, Serialize)]
pub struct Settings {
    pub settings: Vec<Setting>,
}

#[derive(Debug, Serialize)]
pub struct Setting {
    /// `room.key`.
    pub key: String,
    pub value: String,
    /// `flag`, `file`, `env`, `derived` or `default`.
    pub source: String,
}

impl From<Vec<host::Capability>> for Catalogue {
    fn from(declared: Vec<host::Capability>) -> Self {
        let categories: BTreeSet<_> = declared.iter().map(|one| one.category.clone()).collect();
        let capability = |one: host::Capability| Capability {
            id: one.id,
            label: one.label,
            description: one.description,
            category: one.category,
            scope: one.scope,
            danger: one.danger,
        };
        let capabilities = declared.into_iter().map(capability).collect();
        Self { capabilities, categories: categories.into_iter().collect() }
    }
}

impl From<Vec<host::Setting>> for Settings {
    fn from(settings: Vec<host::Setting>) -> Self {
        let setting = |s: host::Setting| Setting { key: s.key, value: s.value, source: s.source };
        Self { settings: settings.into_iter().map(setting).collect() }
    }
}

/// Sorted by key.
#[derive(Debug, Serialize)]
pub struct Reloaded {
    pub changes: Vec<Change>,
}

#[derive(Debug, Serialize)]
pub struct Change {
    /// `room.key`.
    pub key: String,
    pub before: String,
    pub value: String,
    pub source: String,
    /// Else it counts from the next start.
    pub applied: bool,
}

impl From<Vec<host::Change>> for Reloaded {
    fn from(changes: Vec<host::Change>) -> Self {
        let change =
            |host::Change { key, before, value, source, applied }| Change { key, before, value, source, applied };
        Self { changes: changes.into_iter().map(change).collect() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// 1 to [`MAX_PRINCIPALS`].
    pub limit: Option<u32>,
}

impl LoadRequest {
    /// How many principals; `invalid` if that is out of bounds.
    pub fn checked(self) -> Result<u32, Refusal> {
        let limit = self.limit.unwrap_or(DEFAULT_PRINCIPALS);
        if !(1..=MAX_PRINCIPALS).contains(&limit) {
            return Err(Refusal::invalid(format!("limit = {limit} must be 1 to {MAX_PRINCIPALS}")));
        }
        Ok(limit)
    }
}

/// Totals begin with the host's process.
#[derive(Debug, Serialize)]
pub struct Load {
    pub uptime_ms: u64,
    pub instances: u32,
    pub instances_in_use: u32,
    pub calls_waiting: u32,
    /// Sorted by id.
    pub capsules: Vec<CapsuleLoad>,
    /// Those that did something last, the latest first.
    pub principals: Vec<PrincipalLoad>,
}

#[derive(Debug, Serialize)]
pub struct CapsuleLoad {
    pub id: String,
    pub calls_total: u64,
    pub fuel_total: u64,
    pub memory_peak_bytes: u64,
    pub queue_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct PrincipalLoad {
    pub principal: String,
    pub calls_total: u64,
    pub fuel_total: u64,
    pub memory_peak_bytes: u64,
    pub bus_bytes_total: u64,
}

impl From<host::Load> for Load {
    fn from(load: host::Load) -> Self {
        let capsule = |one: host::CapsuleLoad| CapsuleLoad {
            id: one.id,
            calls_total: one.calls_total,
            fuel_total: one.fuel_total,
            memory_peak_bytes: one.memory_peak_bytes,
            queue_bytes: one.queue_bytes,
        };
        let principal = |one: host::PrincipalLoad| PrincipalLoad {
            principal: one.principal,
            calls_total: one.calls_total,
            fuel_total: one.fuel_total,
            memory_peak_bytes: one.memory_peak_bytes,
            bus_bytes_total: one.bus_bytes_total,
        };
        Self {
            uptime_ms: load.uptime_ms,
            instances: load.instances,
            instances_in_use: load.instances_in_use,
            calls_waiting: load.calls_waiting,
            capsules: load.capsules.into_iter().map(capsule).collect(),
            principals: load.principals.into_iter().map(principal).collect(),
        }
    }
}

/// What to install, and what the operator grants it of what its manifest asks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// The absolute path of a `.capsule` file on the host's machine.
    pub source: String,
    pub grants: Option<Vec<String>>,
    /// Calls of the live version that the new one must answer alike before it replaces it.
    pub shadow: Option<u32>,
}

/// Which capsule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    pub capsule: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    pub capsule: String,
    /// Whether everything that it has stored goes, too.
    pub purge: Option<bool>,
}

#[derive(Debug, Serialize)]
pub struct RolledBack {
    pub version: String,
    pub previous_version: String,
}

#[derive(Debug, Serialize)]
pub struct Swapped {
    pub version: String,
}

#[derive(Debug, Serialize)]
pub struct Collected {
    pub files: u64,
    pub bytes: u64,
}

/// In the order of the distribution.
#[derive(Debug, Serialize)]
pub struct Distribution {
    pub capsules: Vec<Applied>,
}

#[derive(Debug, Serialize)]
pub struct Applied {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl From<Vec<host::Applied>> for Distribution {
    fn from(applied: Vec<host::Applied>) -> Self {
        let row = |host::Applied { name, version, what, why }| Applied { name, version, what, why };
        Self { capsules: applied.into_iter().map(row).collect() }
    }
}

/// Oldest first.
#[derive(Debug, Serialize)]
pub struct History {
    pub steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
pub struct Step {
    pub time_ms: u64,
    /// `installed`, `upgraded`, `swapped`, `rolled-back`, `removed` or `state-lost`.
    pub what: String,
    pub version: String,
    pub hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl From<Vec<host::Step>> for History {
    fn from(steps: Vec<host::Step>) -> Self {
        let step =
            |s: host::Step| Step { time_ms: s.time_ms, what: s.what, version: s.version, hash: s.hash, why: s.why };
        Self { steps: steps.into_iter().map(step).collect() }
    }
}

impl Install {
    /// Itself, if its source can be a path; else `invalid`.
    pub fn checked(self) -> Result<Self, Refusal> {
        if self.source.len() > MAX_SOURCE_BYTES {
            return Err(Refusal::invalid(format!("source has more than {MAX_SOURCE_BYTES} bytes")));
        }
        if !self.source.starts_with('/') || self.source.contains('\0') {
            let source = self.source.escape_debug();
            return Err(Refusal::invalid(format!("source `{source}` must be the absolute path of a .capsule file")));
        }
        Ok(self)
    }
}

#[derive(Debug, Serialize)]
pub struct Installed {
    pub id: String,
    /// The folder that holds the component.
    pub target_dir: String,
    /// `install` or `upgrade`.
    pub phase: &'static str,
    pub installed_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<String>,
    /// BLAKE3 of the component, hex.
    pub wasm_hash: String,
    /// Where its environment is set.
    pub env_path: String,
    /// Whether a field of its environment has neither a value nor a default.
    pub env_needs_prompt: bool,
    /// Topics that it sends to and no installed capsule handles.
    pub missing_imports: Vec<MissingImport>,
    /// What it serves and another capsule serves in part.
    pub export_conflicts: Vec<ExportConflict>,
    /// Everything that the manifest asks.
    pub asks: Vec<String>,
    pub grants: Vec<String>,
    /// Whoever of the operator's `etc/trust/` vouches for the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
    /// Live calls that both versions answered alike before the new one replaced the old.
    #[serde(skip_serializing_if = "is_zero")]
    pub shadowed: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A topic that somebody has to handle.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct MissingImport {
    /// The topic's first segment, by custom the capsule that handles it.
    pub namespace: String,
    /// The topic.
    pub interface: String,
    /// `handler`.
    pub requirement: &'static str,
}

/// Nothing is taken from either: the better match of a topic and the longer mount of a path is who serves.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ExportConflict {
    /// The topic pattern or mount of the capsule that was installed.
    pub interface: String,
    pub existing_capsule: String,
}

impl From<host::Installed> for Installed {
    fn from(installed: host::Installed) -> Self {
        let missing = |topic: String| MissingImport {
            namespace: topic.split('.').next().unwrap_or_default().to_owned(),
            interface: topic,
            requirement: "handler",
        };
        let conflict = |overlap: host::Overlap| ExportConflict {
            interface: overlap.interface,
            existing_capsule: overlap.existing_capsule,
        };
        Self {
            target_dir: installed.target_dir,
            phase: if installed.previous_version.is_some() { "upgrade" } else { "install" },
            installed_version: installed.version,
            previous_version: installed.previous_version,
            wasm_hash: installed.hash,
            env_path: format!("/api/capsules/{}/env", installed.id),
            env_needs_prompt: installed.env_needs_prompt,
            missing_imports: installed.unhandled.into_iter().map(missing).collect(),
            export_conflicts: installed.overlaps.into_iter().map(conflict).collect(),
            asks: installed.asks,
            grants: installed.grants,
            publisher: installed.publisher,
            shadowed: installed.shadowed,
            id: installed.id,
        }
    }
}

/// An installation that failed, as a refusal that says what to do next where something can be done.
pub fn refusal(error: InstallError) -> Refusal {
    match error {
        InstallError::Invalid(reason) => Refusal::invalid(reason),
        InstallError::NotFound(reason) => Refusal::not_found(reason),
        InstallError::Conflict(reason) => Refusal::conflict(reason),
        InstallError::Untrusted(reason) => Refusal::denied(reason),
        InstallError::Failed(reason) => Refusal::unavailable(reason),
        InstallError::Ungranted(asked) => Refusal::denied(format!(
            "the capsule asks for {} and was not granted it; repeat the request with it in grants to allow that",
            asked.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use astrid_sdk::bus::RefusalCode;
    use serde_json::{Value, json, to_value};

    use super::*;

    fn logs(query: Value) -> Result<LogQuery, String> {
        let logs: Logs = serde_json::from_value(query).map_err(|e| e.to_string())?;
        logs.query().map_err(|r| r.reason)
    }

    #[test]
    fn a_log_query_has_defaults_and_bounds() {
        let query = logs(json!({})).unwrap();
        assert_eq!((query.capsule, query.level, query.after, query.limit), (None, None, 0, 200));
        let query = logs(json!({"capsule": "echo", "level": "warn", "since": 9, "after": 7, "limit": 1000})).unwrap();
        assert_eq!(query.since_ms, 9);
        assert_eq!((query.capsule.as_deref(), query.level.as_deref()), (Some("echo"), Some("warn")));
        assert_eq!((query.after, query.limit), (7, 1000));
        for (query, want) in [
            (json!({"limit": 0}), "limit = 0 must be 1 to 1000"),
            (json!({"limit": 1001}), "limit = 1001"),
            (json!({"limit": -1}), "invalid value"),
            (json!({"level": "loud\n"}), "level `loud\\n` must be error, warn, info, debug"),
            (json!({"until": 1}), "unknown field `until`"),
        ] {
            let error = logs(query).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn an_answer_of_log_lines_stays_deliverable_and_keeps_the_newest() {
        let line = |sequence| host::LogLine {
            sequence,
            time_ms: u64::MAX,
            level: "debug".into(),
            capsule: "c".repeat(64),
            message: "\"\\\u{1}ä".repeat(1000),
        };
        let lines = Lines::from((1..=1000).map(line).collect::<Vec<_>>());
        let size = serde_json::to_vec(&lines).unwrap().len();
        assert!((400 << 10..=MAX_LINES_BYTES).contains(&size), "{size}");
        let sequences: Vec<_> = lines.lines.iter().map(|l| l.sequence).collect();
        let oldest = 1001 - sequences.len() as u64;
        assert_eq!(sequences, (oldest..=1000).collect::<Vec<_>>());
    }

    #[test]
    fn an_install_wants_an_absolute_path() {
        let install = |source: &str| Install { source: source.into(), grants: None, shadow: None }.checked();
        assert!(install("/srv/notes.capsule").is_ok());
        for source in ["", "notes.capsule", "../notes.capsule", "https://example.org/a.capsule", "/a\0b"] {
            let refusal = install(source).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::Invalid);
            assert!(refusal.reason.contains("absolute path"), "{}", refusal.reason);
        }
        assert!(install(&format!("/{}", "a".repeat(4096))).is_err());
    }

    #[test]
    fn an_ungranted_install_names_what_was_asked_and_what_to_do() {
        let refusal = refusal(InstallError::Ungranted(vec!["sys:host".into(), "keys:session".into()]));
        assert_eq!(refusal.code, RefusalCode::Denied);
        assert!(refusal.reason.contains("sys:host, keys:session"), "{}", refusal.reason);
        assert!(refusal.reason.contains("repeat"), "{}", refusal.reason);
    }

    #[test]
    fn every_install_error_has_its_code() {
        let code = |error| refusal(error).code;
        assert_eq!(code(InstallError::Invalid("a".into())), RefusalCode::Invalid);
        assert_eq!(code(InstallError::NotFound("a".into())), RefusalCode::NotFound);
        assert_eq!(code(InstallError::Conflict("a".into())), RefusalCode::Conflict);
        assert_eq!(code(InstallError::Failed("a".into())), RefusalCode::Unavailable);
    }

    #[test]
    fn answers_have_the_documented_shapes() {
        let status = Status::from(host::HostStatus {
            pid: 1,
            uptime_secs: 2,
            version: "0.1.0".into(),
            connected_clients: 3,
            connections_by_principal: vec![("default".into(), 3)],
            loaded_capsules: vec!["gateway".into()],
        });
        assert_eq!(
            to_value(&status).unwrap(),
            json!({"pid": 1, "uptime_secs": 2, "version": "0.1.0", "connected_clients": 3,
                   "connections_by_principal": {"default": 3}, "loaded_capsules": ["gateway"]})
        );
        let installed = |previous: Option<&str>| {
            let done = host::Installed {
                id: "a".into(),
                version: "2.0.0".into(),
                previous_version: previous.map(String::from),
                hash: "00".into(),
                grants: vec![],
                asks: vec!["http:mount".into()],
                target_dir: "/bin".into(),
                env_needs_prompt: true,
                unhandled: vec!["b.v1.c".into()],
                overlaps: vec![host::Overlap { interface: "/api/x".into(), existing_capsule: "gateway".into() }],
                shadowed: 0,
                publisher: previous.map(|_| "acme".into()),
            };
            to_value(Installed::from(done)).unwrap()
        };
        assert_eq!(
            installed(None),
            json!({"id": "a", "target_dir": "/bin", "phase": "install", "installed_version": "2.0.0", "wasm_hash": "00",
                   "env_path": "/api/capsules/a/env", "env_needs_prompt": true, "asks": ["http:mount"], "grants": [],
                   "missing_imports": [{"namespace": "b", "interface": "b.v1.c", "requirement": "handler"}],
                   "export_conflicts": [{"interface": "/api/x", "existing_capsule": "gateway"}]})
        );
        assert_eq!(
            (&installed(Some("1.0.0"))["publisher"], &installed(Some("1.0.0"))["phase"]),
            (&json!("acme"), &json!("upgrade"))
        );
        let lines = Lines::from(vec![host::LogLine {
            sequence: 1,
            time_ms: 2,
            level: "info".into(),
            capsule: "host".into(),
            message: "m".into(),
        }]);
        assert_eq!(
            to_value(&lines).unwrap(),
            json!({"lines": [{"sequence": 1, "time_ms": 2, "level": "info", "capsule": "host", "message": "m"}]})
        );
        let settings = Settings::from(vec![host::Setting {
            key: "runtime.instances".into(),
            value: "64".into(),
            source: "file".into(),
        }]);
        assert_eq!(
            to_value(&settings).unwrap(),
            json!({"settings": [{"key": "runtime.instances", "value": "64", "source": "file"}]})
        );
        let capsules = Capsules::from(vec![host::Capsule {
            id: "a".into(),
            version: "0.1.0".into(),
            state: "live".into(),
            hash: "00".into(),
        }]);
        assert_eq!(
            to_value(&capsules).unwrap(),
            json!({"capsules": [{"id": "a", "version": "0.1.0", "state": "live", "hash": "00"}]})
        );
    }
}
