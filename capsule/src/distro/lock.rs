//! `Distro.lock`: the exact archives of a distribution, so that two machines apply the same bytes.
//!
//! Owns its form, and what a difference is called. Whoever writes it has read the archives.

use semver::Version;
use serde::{Deserialize, Serialize};

use super::{Distro, Entry};
use crate::archive::Archive;
use crate::shown;

/// The name of the file.
pub const FILE: &str = "Distro.lock";
/// The largest lock, in bytes.
pub const MAX_BYTES: usize = 256 << 10;
/// The number of this form of the lock.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lock {
    format: u32,
    pub distro: Pinned,
    /// In the order of the distribution.
    #[serde(default)]
    pub capsule: Vec<Locked>,
}

/// The distribution that a lock is of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pinned {
    pub id: String,
    pub version: Version,
}

/// One archive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Locked {
    pub name: String,
    pub version: Version,
    /// BLAKE3 of the archive's file, 64 hex digits.
    pub archive: String,
    /// BLAKE3 of its component, 64 hex digits: its name in a host's `bin/`.
    pub component: String,
}

impl Locked {
    /// What there is to pin of an archive whose file has these bytes.
    pub fn of(archive: &Archive, bytes: &[u8]) -> Self {
        let package = &archive.manifest.package;
        Self {
            name: package.name.clone(),
            version: package.version.clone(),
            archive: blake3::hash(bytes).to_hex().to_string(),
            component: archive.hash(),
        }
    }

    /// Whether this is the archive that was found; the error says what differs.
    pub fn check(&self, found: &Locked) -> Result<(), String> {
        let differs = |what: &str, want: &str, have: &str| {
            Err(format!(
                "{FILE} pins {what} {want} of `{}`, and there is {have}; `astrid distro update` writes a new lock",
                self.name
            ))
        };
        if self.version != found.version {
            return differs("version", &self.version.to_string(), &found.version.to_string());
        }
        if self.component != found.component {
            return differs("component", &self.component, &found.component);
        }
        if self.archive != found.archive {
            return differs("archive", &self.archive, &found.archive);
        }
        Ok(())
    }
}

impl Lock {
    pub fn new(distro: &Distro, capsule: Vec<Locked>) -> Self {
        let about = &distro.distro;
        Self { format: FORMAT, distro: Pinned { id: about.id.clone(), version: about.version.clone() }, capsule }
    }

    /// Parses and checks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fail = |why: String| Err(format!("{FILE}: {why}"));
        if text.len() > MAX_BYTES {
            return fail(format!("is larger than {MAX_BYTES} bytes"));
        }
        let lock: Lock = match toml::from_str(text) {
            Ok(lock) => lock,
            Err(error) => return fail(super::explained(&error)),
        };
        if lock.format != FORMAT {
            return fail(format!("format = {} is unknown; this version reads {FORMAT}", lock.format));
        }
        for (n, locked) in lock.capsule.iter().enumerate() {
            let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !is_hash(&locked.archive) || !is_hash(&locked.component) {
                return fail(format!("capsule {}: a hash has 64 hex digits", shown(&locked.name)));
            }
            if lock.capsule[..n].iter().any(|other| other.name == locked.name) {
                return fail(format!("capsule {} stands twice", shown(&locked.name)));
            }
        }
        Ok(lock)
    }

    /// What [`Lock::parse`] reads; the same entries give the same text.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("texts, numbers and tables of them are TOML");
        format!("# Written by `astrid distro update`: what Distro.toml names, exactly.\n{body}")
    }

    /// Whether it is of this version of this distribution, and of all its capsules and no others.
    pub fn check(&self, distro: &Distro) -> Result<(), String> {
        let about = &distro.distro;
        let Pinned { id, version } = &self.distro;
        let stale = |why: String| Err(format!("{FILE}: {why}; `astrid distro update` writes a new lock"));
        if *id != about.id || *version != about.version {
            return stale(format!("is of {} {version}, and Distro.toml of {} {}", shown(id), about.id, about.version));
        }
        if let Some(entry) = distro.capsule.iter().find(|entry| self.find(entry).is_none()) {
            return stale(format!("has no capsule `{}`", entry.name));
        }
        let named = |locked: &&Locked| distro.capsule.iter().any(|entry| entry.name == locked.name);
        match self.capsule.iter().find(|locked| !named(locked)) {
            Some(locked) => stale(format!("has a capsule `{}` that Distro.toml does not name", shown(&locked.name))),
            None => Ok(()),
        }
    }

    pub fn find(&self, entry: &Entry) -> Option<&Locked> {
        self.capsule.iter().find(|locked| locked.name == entry.name)
    }
}
