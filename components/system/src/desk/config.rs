//! The configuration in force, and what reading it again has changed.

use astrid_sdk::host;
use serde::Serialize;

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

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn settings_have_the_documented_shape() {
        let settings = Settings::from(vec![host::Setting {
            key: "runtime.instances".into(),
            value: "64".into(),
            source: "file".into(),
        }]);
        assert_eq!(
            to_value(&settings).unwrap(),
            json!({"settings": [{"key": "runtime.instances", "value": "64", "source": "file"}]})
        );
    }
}
