//! The configuration: one struct composed of each room's own, which never read the environment.
//!
//! Precedence: `--set room.key=value` (and the flags that stand for one), then `etc/config.toml`, then the environment
//! (`ASTRID_<ROOM>_<KEY>`), then the default. Unknown rooms and keys are refused; every value is checked against its
//! bounds before anything starts.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use toml::{Table, Value};

use crate::{bus, http, log, pool, store};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    pub bus: bus::Config,
    pub http: http::Config,
    pub log: log::Config,
    pub pool: pool::Config,
    pub store: store::Config,
}

const ROOMS: [&str; 5] = ["bus", "http", "log", "pool", "store"];

impl Config {
    /// Composes and checks. `file` may be missing; `sets` are `room.key=value`; `environment` is all of it.
    pub fn load(
        file: &Path,
        sets: &[String],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        let mut table = Table::new();
        for (name, value) in environment {
            if let Some((room, key)) = from_environment(&name) {
                put(&mut table, &room, &key, parse_value(&value));
            }
        }
        match std::fs::read_to_string(file) {
            Ok(text) => {
                let read: Table =
                    text.parse().map_err(tidy).with_context(|| format!("{} is not TOML", file.display()))?;
                // Alone first, so that an error names the file and not the mixture.
                Config::deserialize(read.clone())
                    .map_err(tidy)
                    .with_context(|| format!("{} has a key or value that can't be taken", file.display()))?;
                for (room, keys) in read {
                    for (key, value) in keys.as_table().cloned().unwrap_or_default() {
                        put(&mut table, &room, &key, value);
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("can't read {}", file.display())),
        }
        for set in sets {
            let parsed = set.split_once('=').and_then(|(name, value)| Some((name.split_once('.')?, value)));
            let Some(((room, key), value)) = parsed else {
                bail!("--set {set}: write it as room.key=value");
            };
            put(&mut table, room.trim(), key.trim(), parse_value(value.trim()));
        }
        let config = Config::deserialize(table).map_err(|e| anyhow::anyhow!("configuration: {}", tidy(e)))?;
        config.check().map_err(|e| anyhow::anyhow!("configuration: {e}"))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.bus.check()?;
        self.http.check()?;
        self.log.check()?;
        self.pool.check()?;
        self.store.check()
    }
}

/// TOML's errors end in a line break.
fn tidy(error: toml::de::Error) -> anyhow::Error {
    anyhow::Error::msg(error.to_string().trim_end().to_owned())
}

fn put(table: &mut Table, room: &str, key: &str, value: Value) {
    let room = table.entry(room.to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(keys) = room {
        keys.insert(key.to_owned(), value);
    }
}

/// `ASTRID_POOL_MAX_WAITING` is `pool.max-waiting`; variables of other names are somebody else's.
fn from_environment(name: &str) -> Option<(String, String)> {
    let rest = name.strip_prefix("ASTRID_")?.to_ascii_lowercase();
    let (room, key) = rest.split_once('_')?;
    ROOMS.contains(&room).then(|| (room.to_owned(), key.replace('_', "-")))
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

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_environment() {
        let environment = [("ASTRID_POOL_INSTANCES", "100"), ("ASTRID_POOL_MAX_WAITING", "7"), ("ASTRID_HOME", "/x")];
        let config = load("[pool]\ninstances = 200\n", &["http.listen=127.0.0.1:0"], &environment).unwrap();
        assert_eq!((config.pool.instances, config.pool.max_waiting), (200, 7));
        assert_eq!(config.http.listen.port(), 0);
        let config = load("[pool]\ninstances = 200\n", &["pool.instances=300"], &environment).unwrap();
        assert_eq!(config.pool.instances, 300);
        assert!(Config::load(Path::new("/nowhere/config.toml"), &[], []).is_ok());
    }

    #[test]
    fn what_is_unknown_or_out_of_bounds_is_named() {
        for (file, sets, want) in [
            ("[pool]\ninstnaces = 1\n", vec![], "config.toml"),
            ("[pol]\ninstances = 1\n", vec![], "config.toml"),
            ("pool = 3\n", vec![], "config.toml"),
            ("", vec!["pool.instances=0"], "pool.instances = 0"),
            ("", vec!["pool.instnaces=20"], "instnaces"),
            ("", vec!["pool=20"], "room.key=value"),
            ("", vec!["http.listen=nonsense"], "configuration"),
            ("", vec!["bus.max-depth=200"], "bus.max-depth"),
        ] {
            let error = format!("{:#}", load(file, &sets, &[]).unwrap_err());
            assert!(error.contains(want), "{error}");
        }
    }
}
