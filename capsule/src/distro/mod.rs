//! `Distro.toml`: the capsules that make a host usable, what the operator who chose it grants them, and what they are told.
//!
//! Owns the grammar of a distribution, which values its capsules get, and (in [`lock`] and [`bundle`]) what pins it and
//! what carries it. Bounded by [`MAX_BYTES`], [`MAX_CAPSULES`] and [`MAX_VARIABLES`]. Refuses to know where a distribution
//! lies, who gives its variables their values, and what a role is good for but for that of [`IDENTITY`], which is told
//! what `[invites]` says.

pub mod bundle;
pub mod embedded;
pub mod lock;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use semver::{Version, VersionReq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::archive::Archive;
use crate::env::{self, Kind, Scalar};
use crate::manifest::capabilities;
use crate::{Capability, PrincipalId, near, shown};
use template::{Piece, pieces};

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
/// The longest that invites can be good for: 30 days, in seconds.
const MAX_EXPIRES_SECS: u64 = 30 * 86_400;

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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct About {
    /// `^[a-z][a-z0-9-]*$`, at most 64 bytes.
    pub id: String,
    pub name: String,
    pub version: Version,
    #[serde(default)]
    pub description: Option<String>,
    /// `http://` or `https://`.
    #[serde(default)]
    pub homepage: Option<String>,
    #[serde(default)]
    pub authors: Vec<String>,
    /// The versions of the host that it is made for.
    #[serde(default)]
    pub astrid_version: Option<VersionReq>,
}

/// What differs between the hosts that run the distribution.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Variable {
    /// A secret has no default, and goes into fields alone that are secret as well.
    #[serde(default)]
    pub secret: bool,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub default: Option<String>,
}

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

/// Where a capsule comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An archive, relative to `Distro.toml` and below its folder.
    File(PathBuf),
    /// A version in the registry that whoever writes the lock names.
    Registry { name: String, version: Version },
}

/// Who may become a principal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Invites {
    /// The principals who may issue invites, if they hold `invite:issue`. Empty: nobody may, and the host has one tenant.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// The group of invites that name none. Needed where there are issuers.
    #[serde(default)]
    pub default_group: Option<String>,
    /// How long invites are good for that do not say it: 1 second to 30 days.
    #[serde(default)]
    pub default_expires: Option<Span>,
    /// How many principals there can be, those that were there before included.
    #[serde(default)]
    pub max_principals: Option<Limit>,
}

/// A time in whole seconds, written `30s`, `5m`, `2h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// At least 1.
    AtMost(u32),
    /// Written `unlimited`.
    Unlimited,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Branding {
    /// A `.png`, `.svg` or `.ico` below the distribution's folder, of at most [`MAX_ICON_BYTES`].
    #[serde(default)]
    pub icon: Option<PathBuf>,
    /// `#RGB` or `#RRGGBB`.
    #[serde(default)]
    pub primary_color: Option<String>,
    #[serde(default)]
    pub accent_color: Option<String>,
}

/// Why a distribution was refused: where, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Distro.toml: {0}")]
pub struct DistroError(pub String);

/// A variable without a value, and where it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undefined {
    pub variable: String,
    /// Such as `capsule notes, env.KEY`.
    pub used_by: String,
}

impl fmt::Display for Undefined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: variable `{}` has no value", self.used_by, self.variable)
    }
}

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

    /// The values of a capsule's fields, where `variable` knows those that the operator has given; and every variable
    /// without one, whose fields are left out.
    pub fn values<'v>(
        &self,
        entry: &Entry,
        variable: impl Fn(&str) -> Option<&'v str>,
    ) -> (BTreeMap<String, String>, Vec<Undefined>) {
        let mut values: BTreeMap<String, String> =
            self.told(entry).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut undefined = Vec::new();
        for (field, value) in &entry.env {
            let before = undefined.len();
            let mut text = String::new();
            let scalar = value.to_string();
            let parts = match value {
                Scalar::Text(template) => pieces(template).unwrap_or_default(),
                _ => vec![Piece::Text(&scalar)],
            };
            for piece in parts {
                let name = match piece {
                    Piece::Text(literal) => {
                        text.push_str(literal);
                        continue;
                    }
                    Piece::Variable(name) => name,
                };
                let default = || self.variables.get(name).and_then(|variable| variable.default.as_deref());
                match variable(name).or_else(default) {
                    Some(value) => text.push_str(value),
                    None => undefined.push(Undefined {
                        variable: name.into(),
                        used_by: format!("capsule {}, env.{field}", entry.name),
                    }),
                }
            }
            if undefined.len() == before {
                values.insert(field.clone(), text);
            }
        }
        (values, undefined)
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

impl About {
    fn check(&self) -> Result<(), String> {
        word(&self.id).map_err(|why| format!("distro.id {why}"))?;
        if self.name.is_empty() {
            return Err("distro.name is empty".into());
        }
        let texts = [("name", Some(&self.name)), ("description", self.description.as_ref())];
        for (key, text) in texts.into_iter().chain([("homepage", self.homepage.as_ref())]) {
            short(text).map_err(|why| format!("distro.{key} {why}"))?;
        }
        let is_address = |text: &String| text.starts_with("https://") || text.starts_with("http://");
        if let Some(homepage) = self.homepage.as_ref().filter(|text| !is_address(text)) {
            return Err(format!("distro.homepage `{}` must begin with https:// or http://", shown(homepage)));
        }
        if self.authors.len() > MAX_LISTED {
            return Err(format!("distro.authors has more than {MAX_LISTED} entries"));
        }
        self.authors.iter().try_for_each(|author| short(Some(author))).map_err(|why| format!("distro.authors {why}"))
    }

    /// Whether it is made for this version of the host.
    pub fn check_host(&self, host: &Version) -> Result<(), String> {
        match self.astrid_version.as_ref().filter(|wanted| !wanted.matches(host)) {
            Some(wanted) => Err(format!("distro.astrid-version = \"{wanted}\", and this is Astrid {host}")),
            None => Ok(()),
        }
    }
}

impl Variable {
    fn check(&self, name: &str) -> Result<(), String> {
        if !is_variable(name) {
            return Err("a variable's name is 1 to 64 of a-z 0-9 - _, beginning with a letter".into());
        }
        short(self.description.as_ref()).map_err(|why| format!("description {why}"))?;
        if self.secret && self.default.is_some() {
            return Err("a secret has no default: the distribution is no secret".into());
        }
        match &self.default {
            Some(default) if default.len() > env::MAX_VALUE_BYTES => {
                Err(format!("default is longer than {} bytes", env::MAX_VALUE_BYTES))
            }
            _ => Ok(()),
        }
    }
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

    fn is_identity(&self) -> bool {
        self.role.as_deref() == Some(IDENTITY)
    }
}

impl Invites {
    fn check(&self) -> Result<(), String> {
        if self.issuers.len() > MAX_LISTED {
            return Err(format!("issuers has more than {MAX_LISTED} entries"));
        }
        for issuer in &self.issuers {
            match PrincipalId::parse(issuer) {
                Ok(id) if !id.is_anonymous() => {}
                Ok(_) => return Err("issuers: `anonymous` is nobody".into()),
                Err(error) => return Err(format!("issuers: {error}")),
            }
        }
        match &self.default_group {
            Some(group) => word(group).map_err(|why| format!("default-group {why}"))?,
            None if !self.issuers.is_empty() => return Err("default-group is needed where there are issuers".into()),
            None => {}
        }
        Ok(())
    }
}

impl Branding {
    fn check(&self) -> Result<(), String> {
        if let Some(icon) = &self.icon {
            below(icon).map_err(|why| format!("icon {why}"))?;
            if icon_kind(icon).is_none() {
                return Err(format!("icon `{}` must be a .png, .svg or .ico", icon.display()));
            }
        }
        for (key, color) in [("primary-color", &self.primary_color), ("accent-color", &self.accent_color)] {
            let is_color = |text: &str| {
                let digits = text.strip_prefix('#').unwrap_or_default();
                matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
            };
            if let Some(color) = color.as_ref().filter(|color| !is_color(color)) {
                return Err(format!("{key} `{}` must be #RGB or #RRGGBB", shown(color)));
            }
        }
        Ok(())
    }
}

/// The media type of an icon, if the file's bytes are what its name says: its size, and how such a file begins.
pub fn check_icon(path: &Path, bytes: &[u8]) -> Result<&'static str, String> {
    let at = |why: String| format!("branding.icon `{}` {why}", path.display());
    if bytes.len() > MAX_ICON_BYTES {
        return Err(at(format!("has more than {MAX_ICON_BYTES} bytes")));
    }
    let kind = icon_kind(path).ok_or_else(|| at("must be a .png, .svg or .ico".into()))?;
    let (media_type, fits) = match kind {
        "png" => ("image/png", bytes.starts_with(b"\x89PNG\r\n\x1a\n")),
        "ico" => ("image/x-icon", bytes.starts_with(&[0, 0, 1, 0])),
        _ => (
            "image/svg+xml",
            std::str::from_utf8(bytes).is_ok_and(|text| {
                let text = text.trim_start();
                text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg"))
            }),
        ),
    };
    if fits { Ok(media_type) } else { Err(at(format!("does not begin as a .{kind} does"))) }
}

fn icon_kind(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?;
    ["png", "svg", "ico"].into_iter().find(|kind| *kind == extension)
}

/// `^[a-z][a-z0-9-]*$`, at most 64 bytes.
fn word(text: &str) -> Result<(), String> {
    let fits = text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(()) } else { Err(format!("`{}` must match ^[a-z][a-z0-9-]*$, at most 64 bytes", shown(text))) }
}

/// Whether it can be the name of a variable: 1 to 64 of `[a-z0-9_-]`, beginning with a letter.
pub fn is_variable(name: &str) -> bool {
    word(&name.replace('_', "-")).is_ok()
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

/// The variables that a value is made of.
fn variables_of(value: &Scalar) -> Result<Vec<String>, String> {
    let Scalar::Text(template) = value else { return Ok(Vec::new()) };
    let variables = pieces(template)?.into_iter().filter_map(|piece| match piece {
        Piece::Variable(name) => Some(name.to_owned()),
        Piece::Text(_) => None,
    });
    Ok(variables.collect())
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

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let unit = |unit: char| {
            Some(match unit {
                's' => 1,
                'm' => 60,
                'h' => 3_600,
                'd' => 86_400,
                _ => return None,
            })
        };
        let read = || {
            let scale = unit(text.chars().last()?)?;
            let number = &text[..text.len() - 1];
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(scale)
        };
        match read().filter(|secs| (1..=MAX_EXPIRES_SECS).contains(secs)) {
            Some(secs) => Ok(Self(secs)),
            None => {
                let why = format!("`{}` must be Ns, Nm, Nh or Nd, 1 second to 30 days", shown(&text));
                Err(serde::de::Error::custom(why))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(i64),
            Word(String),
        }
        let wrong = || serde::de::Error::custom("max-principals must be a whole number from 1, or \"unlimited\"");
        match Raw::deserialize(d).map_err(|_| wrong())? {
            Raw::Number(number) => match u32::try_from(number) {
                Ok(most) if most > 0 => Ok(Self::AtMost(most)),
                _ => Err(wrong()),
            },
            Raw::Word(word) if word == "unlimited" => Ok(Self::Unlimited),
            Raw::Word(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests;
