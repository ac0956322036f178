//! `Distro.toml`: the capsules that make a host usable, and what the operator who chose it grants them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Capability;
use crate::manifest::capabilities;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Distro {
    pub distro: About,
    #[serde(default)]
    pub capsule: Vec<Entry>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct About {
    /// `^[a-z][a-z0-9-]*$`, at most 64 bytes.
    pub id: String,
    pub name: String,
    pub version: semver::Version,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// One capsule, in the order in which they are started.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Entry {
    pub name: String,
    /// A `.capsule` file, relative to `Distro.toml`.
    pub source: PathBuf,
    /// What the capsule is granted of what its manifest asks.
    #[serde(default, with = "capabilities")]
    pub grants: Vec<Capability>,
}

/// Why a distribution was refused.
#[derive(Debug, thiserror::Error)]
#[error("Distro.toml: {0}")]
pub struct DistroError(pub String);

impl Distro {
    /// Parses and checks.
    pub fn parse(text: &str) -> Result<Self, DistroError> {
        let distro: Distro = toml::from_str(text).map_err(|e| DistroError(e.to_string().trim_end().into()))?;
        let id = &distro.distro.id;
        let fine = id.len() <= 64
            && id.starts_with(|c: char| c.is_ascii_lowercase())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fine {
            return Err(DistroError(format!("distro.id `{}` must match ^[a-z][a-z0-9-]*$", crate::shown(id))));
        }
        for (n, entry) in distro.capsule.iter().enumerate() {
            if distro.capsule[..n].iter().any(|other| other.name == entry.name) {
                return Err(DistroError(format!("capsule `{}` stands twice", crate::shown(&entry.name))));
            }
            let plain = entry.source.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !plain || entry.source.as_os_str().is_empty() {
                return Err(DistroError(format!(
                    "capsule `{}`: source `{}` must be a path below the distribution's folder",
                    crate::shown(&entry.name),
                    entry.source.display()
                )));
            }
        }
        Ok(distro)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_names_its_capsules_and_refuses_what_it_does_not_know() {
        let text = "[distro]\nid = \"x\"\nname = \"X\"\nversion = \"0.1.0\"\n\
                    [[capsule]]\nname = \"a\"\nsource = \"a.capsule\"\ngrants = [\"sys:host\"]\n";
        assert_eq!(Distro::parse(text).unwrap().capsule[0].grants[0].as_str(), "sys:host");
        for (from, to, want) in [
            ("id = \"x\"", "id = \"X\"", "distro.id"),
            ("source = \"a.capsule\"", "source = \"../a\"", "below"),
            ("source = \"a.capsule\"", "source = \"/a\"", "below"),
            ("grants", "grunts", "grunts"),
        ] {
            let error = Distro::parse(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
