//! `Distro.toml`: the capsules that make a host usable, what the operator who chose it grants them, and what they are told.
//!
//! Owns the grammar of a distribution, which values its capsules get, and (in [`lock`] and [`bundle`]) what pins it and
//! what carries it. Bounded by [`MAX_BYTES`], [`MAX_CAPSULES`] and [`MAX_VARIABLES`]. Refuses to know where a distribution
//! lies, who gives its variables their values, and what a role is good for but for that of [`IDENTITY`], which is told
//! what `[invites]` says.

mod about;
pub mod bundle;
pub mod embedded;
mod entry;
mod invites;
pub mod lock;
mod template;
mod variable;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::archive::Archive;
use crate::env::{self, Kind};
use crate::{near, shown};
pub use about::{About, Branding, check_icon};
pub use entry::{Entry, Source};
pub use invites::{Invites, Limit, Span};
use variable::variables_of;
pub use variable::{Undefined, Variable, is_variable};

/// The name of the file.
pub const FILE: &str = "Distro.toml";
/// The largest `Distro.toml`, in bytes.
pub const MAX_BYTES: usize = 256 << 10;
/// The most capsules of a distribution.
pub const MAX_CAPSULES: usize = 256;
/// The most variables of a distribution.
pub const MAX_VARIABLES: usize = 256;
/// The largest icon, in bytes.
pub const MAX_ICON_BYTES: usize = 64 << 10;
/// The longest text for people, in bytes.
const MAX_TEXT_BYTES: usize = 500;
/// The most authors, and issuers.
const MAX_LISTED: usize = 64;

/// The role of the capsule that is told what `[invites]` says.
pub const IDENTITY: &str = "identity";
/// What the names of fields begin with that a distribution sets by other means than `env`.
const RESERVED: &str = "DISTRO_";
/// The fields of the capsule of role [`IDENTITY`] that hold `[invites]`.
pub const ISSUERS: &str = "DISTRO_ISSUERS";
pub const DEFAULT_GROUP: &str = "DISTRO_DEFAULT_GROUP";
pub const DEFAULT_EXPIRES: &str = "DISTRO_DEFAULT_EXPIRES_SECS";
pub const MAX_PRINCIPALS: &str = "DISTRO_MAX_PRINCIPALS";

/// A distribution that [`Distro::parse`] has checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Distro {
    pub distro: About,
    #[serde(default)]
    pub variables: BTreeMap<String, Variable>,
    /// In the order in which they are installed.
    #[serde(default)]
    pub capsule: Vec<Entry>,
    /// Absent: whoever holds `invite:issue` may invite, and as many as they like.
    #[serde(default)]
    pub invites: Option<Invites>,
    #[serde(default)]
    pub branding: Option<Branding>,
}

/// Why a distribution was refused: where, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Distro.toml: {0}")]
pub struct DistroError(pub String);

impl Distro {
    /// Parses and checks everything that the text alone can tell.
    pub fn parse(text: &str) -> Result<Self, DistroError> {
        if text.len() > MAX_BYTES {
            return Err(DistroError(format!("is larger than {MAX_BYTES} bytes")));
        }
        let distro: Distro = toml::from_str(text).map_err(|error| DistroError(explained(&error)))?;
        distro.check().map_err(DistroError)?;
        Ok(distro)
    }

    fn check(&self) -> Result<(), String> {
        self.distro.check()?;
        if self.variables.len() > MAX_VARIABLES {
            return Err(format!("variables: there are more than {MAX_VARIABLES}"));
        }
        for (name, variable) in &self.variables {
            variable.check(name).map_err(|why| format!("variables.{}: {why}", shown(name)))?;
        }
        if self.capsule.len() > MAX_CAPSULES {
            return Err(format!("capsule: there are more than {MAX_CAPSULES}"));
        }
        let mut names = BTreeSet::new();
        let mut files = BTreeSet::from([PathBuf::from(FILE), PathBuf::from(lock::FILE)]);
        for entry in &self.capsule {
            let at = |why: String| format!("capsule {}: {why}", shown(&entry.name));
            if !names.insert(&entry.name) {
                return Err(at("stands twice".into()));
            }
            if !files.insert(entry.file()) {
                return Err(at(format!("source `{}` is another file of the distribution", entry.source)));
            }
            self.check_entry(entry).map_err(at)?;
        }
        if let Some(invites) = &self.invites {
            invites.check().map_err(|why| format!("invites.{why}"))?;
            let told = self.capsule.iter().filter(|entry| entry.is_identity()).count();
            if told != 1 {
                return Err(format!(
                    "invites: one capsule must have role = \"{IDENTITY}\" to be told them; {told} have"
                ));
            }
        }
        if let Some(branding) = &self.branding {
            branding.check().map_err(|why| format!("branding.{why}"))?;
            if branding.icon.as_ref().is_some_and(|icon| files.contains(icon)) {
                return Err("branding.icon is another file of the distribution".into());
            }
        }
        Ok(())
    }

    /// Whether its rules leave anybody who may let others in.
    pub fn is_open(&self) -> bool {
        self.invites.as_ref().is_none_or(|invites| !invites.issuers.is_empty())
    }

    fn check_entry(&self, entry: &Entry) -> Result<(), String> {
        word(&entry.name).map_err(|why| format!("name {why}"))?;
        if let Source::Registry { name, .. } = &entry.source
            && *name != entry.name
        {
            return Err(format!("source `{}` is another capsule", entry.source));
        }
        if let Some(role) = &entry.role {
            word(role).map_err(|why| format!("role {why}"))?;
        }
        if entry.env.len() > env::MAX_FIELDS {
            return Err(format!("env has more than {} fields", env::MAX_FIELDS));
        }
        for (field, value) in &entry.env {
            let at = |why: String| format!("env.{}: {why}", shown(field));
            if !env::is_name(field) {
                return Err(at("a field's name is 1 to 64 of A-Z 0-9 _".into()));
            }
            if field.starts_with(RESERVED) {
                return Err(at(format!("names in {RESERVED} are set by [invites]")));
            }
            for name in variables_of(value).map_err(at)? {
                if !self.variables.contains_key(&name) {
                    let known = self.variables.keys().map(String::as_str);
                    let meant = near::nearest(&name, known);
                    let meant = meant.map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
                    return Err(at(format!("there is no [variables.{}]{meant}", shown(&name))));
                }
            }
        }
        Ok(())
    }

    /// Every file of the distribution beside `Distro.toml` and its lock: the icon, then the archives.
    pub fn files(&self) -> Vec<PathBuf> {
        let icon = self.branding.iter().filter_map(|branding| branding.icon.clone());
        icon.chain(self.capsule.iter().map(Entry::file)).collect()
    }

    /// Whether the archive is one that the entry takes: its id, its version, and the fields that the distribution sets.
    pub fn check_archive(&self, entry: &Entry, archive: &Archive) -> Result<(), String> {
        let package = &archive.manifest.package;
        if package.name != entry.name {
            return Err(format!("{} holds the capsule `{}`", entry.source, package.name));
        }
        let exact = match &entry.source {
            Source::Registry { version, .. } => Some(version),
            Source::File(_) => None,
        };
        if let Some(version) = exact.filter(|version| **version != package.version) {
            return Err(format!("{} holds version {}, not {version}", entry.source, package.version));
        }
        if let Some(wanted) = entry.version.as_ref().filter(|wanted| !wanted.matches(&package.version)) {
            return Err(format!("{} has version {}, and version = \"{wanted}\"", entry.source, package.version));
        }
        let told = self.told(entry);
        for name in entry.env.keys().map(String::as_str).chain(told.keys().copied()) {
            let fields = archive.manifest.env.keys().map(String::as_str);
            let Some(field) = archive.manifest.env.get(name) else {
                let meant = near::nearest(name, fields).map_or(String::new(), |m| format!("; did you mean `{m}`?"));
                return Err(format!("env.{name}: its manifest has no such field{meant}"));
            };
            let used = entry.env.get(name).map(variables_of).transpose()?.unwrap_or_default();
            let secret = used.iter().find(|used| self.variables.get(*used).is_some_and(|v| v.secret));
            if let Some(secret) = secret.filter(|_| field.kind != Kind::Secret) {
                return Err(format!("env.{name}: the field is no secret, and variable `{secret}` is one"));
            }
        }
        Ok(())
    }

    /// What `[invites]` tells this capsule.
    fn told(&self, entry: &Entry) -> BTreeMap<&'static str, String> {
        let mut told = BTreeMap::new();
        if let Some(invites) = self.invites.as_ref().filter(|_| entry.is_identity()) {
            told.insert(ISSUERS, invites.issuers.join(","));
            told.extend(invites.default_group.clone().map(|group| (DEFAULT_GROUP, group)));
            told.extend(invites.default_expires.map(|Span(secs)| (DEFAULT_EXPIRES, secs.to_string())));
            if let Some(Limit::AtMost(most)) = invites.max_principals {
                told.insert(MAX_PRINCIPALS, most.to_string());
            }
        }
        told
    }
}

/// `^[a-z][a-z0-9-]*$`, at most 64 bytes.
fn word(text: &str) -> Result<(), String> {
    let fits = text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(()) } else { Err(format!("`{}` must match ^[a-z][a-z0-9-]*$, at most 64 bytes", shown(text))) }
}

fn short(text: Option<&String>) -> Result<(), String> {
    match text.filter(|text| text.len() > MAX_TEXT_BYTES) {
        Some(_) => Err(format!("is longer than {MAX_TEXT_BYTES} bytes")),
        None => Ok(()),
    }
}

/// Whether the path stays below the folder that it begins in.
fn below(path: &Path) -> Result<(), String> {
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    // Components leave out what a path repeats; then two paths would be one file.
    let same = path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
    if plain && same && !path.as_os_str().is_empty() && path.as_os_str().len() <= 200 {
        return Ok(());
    }
    Err(format!("`{}` must be a path below the distribution's folder", shown(&path.to_string_lossy())))
}

/// TOML's own words, and for an unknown key the one that was meant.
fn explained(error: &toml::de::Error) -> String {
    let text = error.to_string().trim_end().to_owned();
    let Some(rest) = error.message().strip_prefix("unknown field `") else { return text };
    let mut words = rest.split('`').step_by(2);
    let Some(unknown) = words.next() else { return text };
    match near::nearest(unknown, words.filter(|word| !word.is_empty())) {
        Some(meant) => format!("{text}; did you mean `{meant}`?"),
        None => text,
    }
}
