//! The configuration: one struct composed of each room's own, which never read the environment.
//!
//! Precedence: `--set room.key=value` (and the flags that stand for one), then `etc/config.toml`, then the environment
//! (`ASTRID_<ROOM>_<KEY>`), then what the machine has ([`runtime`]), then the default. Remembers for every key which
//! of them it was. Unknown rooms and keys are refused with the nearest known one; every value is checked against its
//! bounds before anything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use anyhow::{Context, bail};
use astrid_capsule::near::meant;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::runtime::{self, Machine};
use crate::{bus, http, journal, loader, log, sink, store, trust};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    pub audit: journal::Config,
    pub bus: bus::Config,
    pub http: http::Config,
    pub loader: loader::Config,
    pub log: log::Config,
    pub runtime: runtime::Config,
    pub sinks: sink::Config,
    pub store: store::Config,
    pub trust: trust::Config,
    /// Where each `room.key` came from that is not its default.
    #[serde(skip)]
    sources: BTreeMap<String, Source>,
    /// What the command line said, for the next time that it is read.
    #[serde(skip)]
    sets: Vec<String>,
}

/// Who said what the value of a key is, the strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nobody.
    Default,
    /// The machine.
    Derived,
    /// An environment variable.
    Env,
    /// `etc/config.toml`.
    File,
    /// The command line.
    Flag,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::Derived => "derived",
            Source::Env => "env",
            Source::File => "file",
            Source::Flag => "flag",
        }
    }
}

/// One key, as an operator reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// `room.key`.
    pub key: String,
    /// As it would be written behind `--set`.
    pub value: String,
    /// [`Source::as_str`].
    pub source: &'static str,
}

/// A key that is said otherwise than the host ran with it so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `room.key`.
    pub key: String,
    /// What the host ran with.
    pub before: String,
    /// What is said now.
    pub value: String,
    /// [`Source::as_str`] of that.
    pub source: &'static str,
    /// Whether it is in force now; else it counts from the next start.
    pub applied: bool,
}

impl Config {
    /// Composes and checks. `file` may be missing; `sets` are `room.key=value`; `environment` is all of it.
    pub fn load(
        file: &Path,
        sets: &[String],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        let mut layers = Layers { known: Config::default().keys(), table: Table::new(), sources: BTreeMap::new() };
        for (name, value) in environment {
            if let Some((room, key)) = layers.named_by(&name) {
                layers.put(&room, &key, parse_value(&value), Source::Env).map_err(|e| e.context(name))?;
            }
        }
        match std::fs::read_to_string(file) {
            Ok(text) => layers.put_file(&text).with_context(|| {
                format!("{} is not TOML, or has a key or value that can't be taken", file.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("can't read {}", file.display())),
        }
        for set in sets {
            let parsed = set.split_once('=').and_then(|(name, value)| Some((name.split_once('.')?, value)));
            let Some(((room, key), value)) = parsed else {
                bail!("--set {set}: write it as room.key=value");
            };
            let put = layers.put(room.trim(), key.trim(), parse_value(value.trim()), Source::Flag);
            put.with_context(|| format!("--set {set}"))?;
        }
        let mut config =
            Config::deserialize(layers.table).map_err(|e| anyhow::anyhow!("configuration: {}", tidy(e)))?;
        config.sources = layers.sources;
        config.sets = sets.to_vec();
        let sources = &config.sources;
        let derived = config.runtime.derive(&Machine::probe(), |key| sources.contains_key(&format!("runtime.{key}")));
        config.sources.extend(derived.into_iter().map(|key| (format!("runtime.{key}"), Source::Derived)));
        config.check().map_err(|e| anyhow::anyhow!("configuration: {e}"))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.audit.check()?;
        self.bus.check()?;
        self.http.check()?;
        self.loader.check()?;
        self.log.check()?;
        self.runtime.check()?;
        self.sinks.check()?;
        self.store.check()
    }

    /// Reads everything again: the file and the environment as they are now, the command line as it was.
    pub fn read_again(
        &self,
        file: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        Self::load(file, &self.sets, environment)
    }

    /// This configuration with what a running host can take over of another one, and in what the two differ. What only the
    /// machine says otherwise is no difference.
    pub fn adopt(&self, other: &Self) -> (Self, Vec<Change>) {
        let mut next = self.clone();
        next.http = self.http.adopt(&other.http);
        (next.loader, next.log, next.trust) = (other.loader.clone(), other.log.clone(), other.trust.clone());
        let (mut ran, mut said, mut runs) = (self.values(), other.values(), next.values());
        let keys: BTreeSet<String> = ran.keys().chain(said.keys()).cloned().collect();
        let mut changes = Vec::new();
        for key in keys {
            // A table that may have any names, `sinks` say, has its keys in one of them only.
            let [before, value, runs] = [&mut ran, &mut said, &mut runs].map(|of| of.remove(&key).unwrap_or_default());
            let source = other.sources.get(&key).copied().unwrap_or(Source::Default);
            let differs = value != before && source != Source::Derived;
            let applied = value == runs;
            if !differs || applied {
                // In force: so is whoever said it.
                match source {
                    Source::Default => next.sources.remove(&key),
                    Source::Derived => None,
                    source => next.sources.insert(key.clone(), source),
                };
            }
            if differs {
                changes.push(Change { key, before, value, source: source.as_str(), applied });
            }
        }
        (next, changes)
    }

    /// Every key with its value and where that came from, sorted.
    pub fn settings(&self) -> Vec<Setting> {
        let source = |key: &str| self.sources.get(key).copied().unwrap_or(Source::Default).as_str();
        self.values().into_iter().map(|(key, value)| Setting { source: source(&key), key, value }).collect()
    }

    /// Every key with its value.
    fn values(&self) -> BTreeMap<String, String> {
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let rooms = self.keys().into_iter();
        rooms
            .flat_map(|(room, keys)| keys.into_iter().map(move |(key, value)| (format!("{room}.{key}"), text(value))))
            .collect()
    }

    /// Rooms and their keys, with their values: what there is to configure. A key may have dots in it: `tls.cert`.
    fn keys(&self) -> BTreeMap<String, BTreeMap<String, Value>> {
        let rooms = Table::try_from(self).expect("rooms of plain values are a table");
        let flat = |(room, keys)| {
            let mut found = BTreeMap::new();
            flatten("", keys, &mut found);
            (room, found)
        };
        rooms.into_iter().map(flat).collect()
    }
}

/// The configuration that a host runs with.
pub struct Current {
    config: RwLock<Arc<Config>>,
    /// Held while it is changed.
    changing: Mutex<()>,
}

impl Current {
    pub fn new(config: Config) -> Self {
        Self { config: RwLock::new(Arc::new(config)), changing: Mutex::new(()) }
    }

    pub fn now(&self) -> Arc<Config> {
        self.config.read().expect("no panic under this lock").clone()
    }

    /// Puts what `change` makes of the configuration in its place, one change at a time. An error changes nothing.
    pub fn change<T>(&self, change: impl FnOnce(&Config) -> anyhow::Result<(Config, T)>) -> anyhow::Result<T> {
        let _one = self.changing.lock().expect("no panic under this lock");
        let (next, outcome) = change(&self.now())?;
        *self.config.write().expect("no panic under this lock") = Arc::new(next);
        Ok(outcome)
    }
}

/// Every value in a table of tables, by its key behind `prefix`.
fn flatten(prefix: &str, value: Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(&key, value, into);
            }
        }
        value => {
            into.insert(prefix.to_owned(), value);
        }
    }
}

/// The room whose keys have names that the operator gives.
const SINKS: &str = "sinks";

/// What has been said so far, and by whom.
struct Layers {
    known: BTreeMap<String, BTreeMap<String, Value>>,
    table: Table,
    sources: BTreeMap<String, Source>,
}

impl Layers {
    fn put(&mut self, room: &str, key: &str, value: Value, source: Source) -> anyhow::Result<()> {
        let Some(keys) = self.known.get(room) else {
            bail!("there is no room `{room}`{}", meant(room, self.known.keys().map(String::as_str)));
        };
        if room == SINKS {
            // Names are the operator's.
            sink::check_key(key).map_err(anyhow::Error::msg)?;
        } else if !keys.contains_key(key) {
            bail!("there is no key `{room}.{key}`{}", meant(key, keys.keys().map(String::as_str)));
        }
        let mut table = &mut self.table;
        let path = std::iter::once(room).chain(key.split('.')).collect::<Vec<_>>();
        let (last, folders) = path.split_last().expect("a room at least");
        for folder in folders {
            let folder = table.entry(*folder).or_insert_with(|| Value::Table(Table::new()));
            table = folder.as_table_mut().expect("no known key is another's folder");
        }
        table.insert((*last).to_owned(), value);
        self.sources.insert(format!("{room}.{key}"), source);
        Ok(())
    }

    fn put_file(&mut self, text: &str) -> anyhow::Result<()> {
        let read: Table = text.parse().map_err(tidy)?;
        for (room, keys) in &read {
            let Value::Table(_) = keys else {
                bail!(
                    "`{room}` stands outside of a room; write it below a line [room]{}",
                    meant(room, self.known.keys().map(String::as_str))
                )
            };
            let mut flat = BTreeMap::new();
            flatten("", keys.clone(), &mut flat);
            for (key, value) in flat {
                self.put(room, &key, value, Source::File)?;
            }
        }
        // Alone, so that an error names the file and not the mixture.
        Config::deserialize(read).map_err(tidy).map(|_| ())
    }

    /// `ASTRID_RUNTIME_MAX_WAITING` is `runtime.max-waiting`; variables of other names are somebody else's.
    fn named_by(&self, name: &str) -> Option<(String, String)> {
        let rest = name.strip_prefix("ASTRID_")?.to_ascii_lowercase();
        let (room, key) = rest.split_once('_')?;
        let key = key.replace('_', "-");
        if let Some(key) = sink::key_of_variable(&key).filter(|_| room == SINKS) {
            return Some((room.to_owned(), key));
        }
        // A dot can't stand in a variable's name either.
        let known = self.known.get(room)?.keys().find(|known| known.replace('.', "-") == key);
        Some((room.to_owned(), known.cloned().unwrap_or(key)))
    }
}

/// TOML's errors end in a line break.
fn tidy(error: toml::de::Error) -> anyhow::Error {
    anyhow::Error::msg(error.to_string().trim_end().to_owned())
}

/// A TOML value where it reads as one, else a string: `--set http.listen=127.0.0.1:0` needs no quotes.
fn parse_value(text: &str) -> Value {
    format!("v = {text}")
        .parse::<Table>()
        .ok()
        .filter(|t| t.len() == 1)
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, sets: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Config::load(&path, &sets, environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    fn shown(config: &Config, key: &str) -> (String, &'static str) {
        let found = config.settings().into_iter().find(|s| s.key == key).unwrap();
        (found.value, found.source)
    }

    #[test]
    fn a_flag_beats_the_file_the_file_the_environment_and_that_the_machine_and_each_is_named() {
        let environment =
            [("ASTRID_RUNTIME_INSTANCES", "100"), ("ASTRID_RUNTIME_MAX_WAITING", "7"), ("ASTRID_HOME", "/x")];
        let file = "[runtime]\ninstances = 200\n";
        let config = load(file, &["http.listen=127.0.0.1:0"], &environment).unwrap();
        assert_eq!(shown(&config, "runtime.instances"), ("200".into(), "file"));
        assert_eq!(shown(&config, "runtime.max-waiting"), ("7".into(), "env"));
        assert_eq!(shown(&config, "http.listen"), ("127.0.0.1:0".into(), "flag"));
        assert_eq!(shown(&config, "runtime.blocking").1, "derived");
        assert_eq!(shown(&config, "log.level"), ("info".into(), "default"));
        assert_eq!((config.runtime.instances, config.runtime.max_waiting), (200, 7));
        let config = load(file, &["runtime.instances=300", "runtime.instances=301"], &environment).unwrap();
        assert_eq!(shown(&config, "runtime.instances"), ("301".into(), "flag"));
        let config = load("", &["runtime.max-memory-bytes=1048576"], &[]).unwrap();
        assert_eq!(shown(&config, "runtime.instances"), ("1000".into(), "derived"), "of instances of this size");
        assert!(Config::load(Path::new("/nowhere/config.toml"), &[], []).is_ok());
    }

    #[test]
    fn a_key_in_a_table_of_its_room_is_set_in_every_way_and_nothing_else_is_taken_for_it() {
        let file = "[http]\ntrust-forwarded-from = [\"::1\"]\n[http.tls]\ncert = \"a.pem\"\n";
        let config = load(file, &["http.tls.key=/k.pem"], &[("ASTRID_HTTP_IDLE_TIMEOUT_SECS", "7")]).unwrap();
        assert_eq!(shown(&config, "http.tls.cert"), ("a.pem".into(), "file"));
        assert_eq!(shown(&config, "http.tls.key"), ("/k.pem".into(), "flag"));
        assert_eq!(shown(&config, "http.idle-timeout-secs"), ("7".into(), "env"));
        let config_of_env = load("", &["http.tls.key=/k.pem"], &[("ASTRID_HTTP_TLS_CERT", "b.pem")]).unwrap();
        assert_eq!(shown(&config_of_env, "http.tls.cert"), ("b.pem".into(), "env"));
        assert_eq!(shown(&config, "http.trust-forwarded-from"), ("[\"::1\"]".into(), "file"));
        for (file, sets, want) in [
            ("[http.tls]\ncrt = \"a\"\n", vec![], "`http.tls.crt`; did you mean `tls.cert`?"),
            ("[http]\ntls = \"a\"\n", vec![], "`http.tls`"),
            ("[http.tls.cert]\na = 1\n", vec![], "`http.tls.cert.a`"),
            ("", vec!["http.tls=a"], "`http.tls`"),
            ("[http.tls]\ncert = \"a\"\n", vec![], "http.tls.key is not"),
            ("[http]\ntrust-forwarded-from = [\"example.org\"]\n", vec![], "trust-forwarded-from"),
            ("", vec!["http.idle-timeout-secs=0"], "http.idle-timeout-secs = 0"),
            ("", vec!["http.handshake-timeout-secs=3601"], "http.handshake-timeout-secs = 3601"),
        ] {
            let error = format!("{:#}", load(file, &sets, &[]).unwrap_err());
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn every_setting_can_be_set_again_as_it_is_shown() {
        let config = load("", &[], &[]).unwrap();
        let sets: Vec<String> = config.settings().iter().map(|s| format!("{}={}", s.key, s.value)).collect();
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let again = load("", &sets, &[]).unwrap();
        let values = |c: &Config| c.settings().into_iter().map(|s| (s.key, s.value)).collect::<Vec<_>>();
        assert_eq!(values(&again), values(&config));
        assert!(again.settings().iter().all(|s| s.source == "flag"));
    }

    #[test]
    fn what_a_running_host_can_take_over_is_told_from_what_waits_for_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "[runtime]\ninstances = 64\n[http]\nidle-timeout-secs = 5\n").unwrap();
        let running = Config::load(&path, &["log.level=warn".into()], []).unwrap();
        let again = |text: &str| {
            std::fs::write(&path, text).unwrap();
            running.read_again(&path, []).map(|read| running.adopt(&read))
        };
        let file = "[log]\nlevel = \"debug\"\n[bus]\nmax-depth = 8\n[http]\nbody-timeout-secs = 9\nlisten = \"[::1]:1\"\n\
                    trust-forwarded-from = [\"::1\"]\n[runtime]\ninstances = 64\n[loader]\nprobation-secs = 1\n";
        let (next, changes) = again(file).unwrap();
        let told: Vec<_> = changes.iter().map(|c| (c.key.as_str(), c.value.as_str(), c.source, c.applied)).collect();
        assert_eq!(
            told,
            [
                ("bus.max-depth", "8", "file", false),
                ("http.body-timeout-secs", "9", "file", true),
                ("http.idle-timeout-secs", "60", "default", true),
                ("http.listen", "[::1]:1", "file", false),
                ("http.trust-forwarded-from", "[\"::1\"]", "file", true),
                ("loader.probation-secs", "1", "file", true),
            ],
            "the command line still is stronger than the file"
        );
        assert_eq!(changes[2].before, "5");
        assert_eq!((next.http.body_timeout_secs, next.http.idle_timeout_secs, next.bus.max_depth), (9, 60, 16));
        assert_eq!(shown(&next, "http.idle-timeout-secs"), ("60".into(), "default"));
        assert_eq!(shown(&next, "http.listen"), ("127.0.0.1:2787".into(), "default"), "that is what it runs with");
        assert_eq!(shown(&next, "log.level"), ("warn".into(), "flag"));
        assert!(again("[log]\nlevle = 1\n").is_err());
        let same = again("[runtime]\ninstances = 64\n[http]\nidle-timeout-secs = 5\n").unwrap();
        assert_eq!(same.1, []);
    }

    #[test]
    fn sinks_that_come_and_go_hide_no_other_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let with = |text: &str| std::fs::write(&path, text).unwrap();
        with("[sinks.one]\nto = \"file:///a\"\n");
        let running = Config::load(&path, &[], []).unwrap();
        with("[sinks.two]\nto = \"file:///b\"\n[trust]\nregistry = \"off\"\n");
        let (next, changes) = running.adopt(&running.read_again(&path, []).unwrap());
        let of =
            |key: &str| changes.iter().find(|change| change.key == key).map(|c| (&*c.before, &*c.value, c.applied));
        assert_eq!(of("sinks.one.to"), Some(("file:///a", "", false)));
        assert_eq!(of("sinks.two.to"), Some(("", "file:///b", false)));
        assert_eq!(of("trust.registry"), Some(("require", "off", true)));
        assert!(
            changes.iter().all(|change| change.key.starts_with("sinks.") || change.key == "trust.registry"),
            "{changes:?}"
        );
        assert_eq!(
            (shown(&next, "sinks.one.to").0, shown(&next, "trust.registry")),
            ("file:///a".into(), ("off".into(), "file"))
        );
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let current = Current::new(Config::default());
        assert!(current.change::<()>(|_| bail!("no")).is_err());
        let next = Config { bus: bus::Config { max_depth: 3, ..bus::Config::default() }, ..Config::default() };
        current.change(|_| Ok((next, ()))).unwrap();
        assert_eq!(current.now().bus.max_depth, 3);
    }

    #[test]
    fn what_is_unknown_or_out_of_bounds_is_named() {
        for (file, sets, environment, want) in [
            ("[runtime]\ninstnaces = 1\n", vec![], vec![], "config.toml"),
            ("[runtime]\ninstnaces = 1\n", vec![], vec![], "`runtime.instnaces`; did you mean `instances`?"),
            ("[runtmie]\ninstances = 1\n", vec![], vec![], "`runtmie`; did you mean `runtime`?"),
            (
                "[pool]\ninstances = 1\n",
                vec![],
                vec![],
                "known are audit, bus, http, loader, log, runtime, sinks, store, trust",
            ),
            ("[trust]\nlocal = \"maybe\"\n", vec![], vec![], "`require`, `warn`, `off`"),
            ("[trust]\nlocals = \"off\"\n", vec![], vec![], "did you mean `local`?"),
            ("runtime = 3\n", vec![], vec![], "config.toml"),
            ("[runtime]\ninstances = \"many\"\n", vec![], vec![], "config.toml"),
            ("", vec!["runtime.instances=0"], vec![], "runtime.instances = 0"),
            ("", vec!["runtime.blocking=0"], vec![], "runtime.blocking = 0"),
            ("", vec!["runtime.instnaces=20"], vec![], "did you mean `instances`?"),
            ("", vec!["runtime=20"], vec![], "room.key=value"),
            ("", vec!["http.listen=nonsense"], vec![], "configuration"),
            ("", vec!["bus.max-depth=200"], vec![], "bus.max-depth"),
            ("", vec!["loader.probation-secs=86401"], vec![], "loader.probation-secs = 86401"),
            ("[sinks.siem]\nto = \"siem\"\n", vec![], vec![], "sinks.siem.to = \"siem\": write file:///PATH"),
            ("[sinks.siem]\ntoo = \"siem\"\n", vec![], vec![], "`sinks.siem.too`; did you mean `to`?"),
            ("[sinks.SIEM]\nto = \"siem\"\n", vec![], vec![], "sinks.SIEM: a sink's name"),
            ("[sinks]\nsiem = \"http://a/\"\n", vec![], vec![], "write [sinks.siem] with to"),
            ("", vec![], vec![("ASTRID_SINKS_MY_SIEM_TO", "x")], "sinks.my-siem.to = \"x\""),
            ("", vec!["loader.probation-failures=0"], vec![], "loader.probation-failures = 0"),
            ("", vec![], vec![("ASTRID_RUNTIME_ASYNCIO", "1")], "did you mean `async-io`?"),
            ("", vec![], vec![("ASTRID_RUNTIME_ASYNCIO", "1")], "ASTRID_RUNTIME_ASYNCIO"),
            ("", vec![], vec![("ASTRID_RUNTIME_ASYNC_IO", "0")], "runtime.async-io = 0"),
        ] {
            let error = format!("{:#}", load(file, &sets, &environment).unwrap_err());
            assert!(error.contains(want), "{error}");
        }
    }
}
