//! The capsules that are installed: which, what became of each, and what can be done to one that is there.

use astrid_sdk::host;
use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn the_list_has_the_documented_shape() {
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
