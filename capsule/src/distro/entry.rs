//! `[[capsule]]`: one capsule of a distribution, where its archive comes from, and the values that its fields get.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use semver::{Version, VersionReq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{IDENTITY, below, word};
use crate::env::Scalar;
use crate::manifest::capabilities;
use crate::{Capability, shown};

/// One capsule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Entry {
    /// The id in the manifest of its archive.
    pub name: String,
    pub source: Source,
    /// Which versions are taken.
    #[serde(default)]
    pub version: Option<VersionReq>,
    /// What it is here for, in one word such as `gateway`.
    #[serde(default)]
    pub role: Option<String>,
    /// What the capsule is granted of what its manifest asks.
    #[serde(default, with = "capabilities")]
    pub grants: Vec<Capability>,
    /// The values of its `[env]` fields, for every principal without a value of its own. Texts may hold `{{ variable }}`.
    #[serde(default)]
    pub env: BTreeMap<String, Scalar>,
}

impl Entry {
    /// Where its archive lies below the distribution's folder. One from a registry is put there by whoever writes the
    /// lock.
    pub fn file(&self) -> PathBuf {
        match &self.source {
            Source::File(path) => path.clone(),
            Source::Registry { name, version } => format!("{name}@{version}.capsule").into(),
        }
    }

    pub(super) fn is_identity(&self) -> bool {
        self.role.as_deref() == Some(IDENTITY)
    }
}

/// Where a capsule comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An archive, relative to `Distro.toml` and below its folder.
    File(PathBuf),
    /// A version in the registry that whoever writes the lock names.
    Registry { name: String, version: Version },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => path.display().fmt(f),
            Source::Registry { name, version } => write!(f, "{name}@{version}"),
        }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let fail = |why: String| Err(serde::de::Error::custom(format!("source {why}")));
        match text.split_once('@').filter(|(name, _)| !name.contains('/')) {
            Some((name, version)) => match (word(name), Version::parse(version)) {
                (Ok(()), Ok(version)) => Ok(Self::Registry { name: name.into(), version }),
                (Err(why), _) => fail(why),
                (_, Err(error)) => fail(format!("`{}`: a registry entry is name@version: {error}", shown(&text))),
            },
            None => below(Path::new(&text)).map_or_else(fail, |()| Ok(Self::File(text.into()))),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
