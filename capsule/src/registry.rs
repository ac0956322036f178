//! A registry: a folder with `index.toml`, its signatures `index.sig`, and archives by hash in `blobs/`.
//!
//! Owns what the index says of each version of a capsule, and that a published version never changes. Pure: the tools
//! write the folder, the host reads it. Bounded by [`MAX_INDEX_BYTES`]. The index decides nothing: an archive still says
//! itself what it asks for, and the host compares its hash.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::check::Surface;
use crate::manifest::Limits;
use crate::trust::is_name;
use crate::{Invalid, shown};

/// The largest index, in bytes.
pub const MAX_INDEX_BYTES: u64 = 16 << 20;

pub const INDEX: &str = "index.toml";
/// Signatures of the index, in the lines of [`signature`](crate::signature).
pub const SIGNATURES: &str = "index.sig";
pub const BLOBS: &str = "blobs";

/// The number of this form of the index.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Index {
    format: u32,
    /// Sorted by name and version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    capsule: Vec<Entry>,
}

/// One version of a capsule.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Entry {
    pub name: String,
    pub version: semver::Version,
    /// BLAKE3 of the archive, 64 hex digits.
    pub hash: String,
    /// The archive's size.
    pub bytes: u64,
    /// The key ids of those who signed the archive.
    pub publishers: Vec<String>,
    /// The component's interfaces, `package/interface@version`.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// Everything that the operator must grant.
    pub asks: Vec<String>,
    pub limits: Limits,
}

impl Entry {
    /// What there is to say of an archive whose file has these bytes.
    pub fn of(archive: &Archive, bytes: &[u8], surface: &Surface) -> Self {
        let package = &archive.manifest.package;
        Self {
            name: package.name.clone(),
            version: package.version.clone(),
            hash: blake3::hash(bytes).to_hex().to_string(),
            bytes: bytes.len() as u64,
            publishers: archive.signatures().iter().map(|signature| signature.key.to_string()).collect(),
            imports: surface.imports.iter().cloned().collect(),
            exports: surface.exports.iter().cloned().collect(),
            asks: archive.manifest.asked().iter().map(|asked| asked.as_str().to_owned()).collect(),
            limits: archive.manifest.limits.clone(),
        }
    }

    /// Where the archive lies below the registry's folder.
    pub fn blob(&self) -> PathBuf {
        Path::new(BLOBS).join(format!("{}.capsule", self.hash))
    }
}

impl Default for Index {
    fn default() -> Self {
        Self { format: FORMAT, capsule: Vec::new() }
    }
}

impl Index {
    /// Parses and checks.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let fail = |text: String| Err(Invalid(format!("{INDEX}: {text}")));
        let index: Index = match toml::from_str(text) {
            Ok(index) => index,
            Err(error) => return fail(error.to_string().trim_end().into()),
        };
        if index.format != FORMAT {
            return fail(format!("format = {} is unknown; this version reads {FORMAT}", index.format));
        }
        for entry in &index.capsule {
            if !is_name(&entry.name) {
                return fail(format!("`{}` can't be a capsule's id", shown(&entry.name)));
            }
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if entry.hash.len() != 64 || !entry.hash.bytes().all(hex) {
                return fail(format!("{} {}: hash must be 64 hex digits", entry.name, entry.version));
            }
        }
        if !index.capsule.windows(2).all(|pair| order(&pair[0]) < order(&pair[1])) {
            return fail("capsules must be sorted by name and version, each version once".into());
        }
        Ok(index)
    }

    /// What [`Index::parse`] reads; the same entries give the same text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("texts, numbers and lists of texts are TOML")
    }

    /// Sorted by name and version.
    pub fn entries(&self) -> &[Entry] {
        &self.capsule
    }

    /// This version, or without one the highest that is no pre-release.
    pub fn find(&self, name: &str, version: Option<&semver::Version>) -> Option<&Entry> {
        let mut entries = self.capsule.iter().filter(|entry| entry.name == name).rev();
        match version {
            Some(version) => entries.find(|entry| entry.version == *version),
            None => entries.find(|entry| entry.version.pre.is_empty()),
        }
    }

    /// Adds a version. False if it is there already with the same archive; with another it is refused.
    pub fn publish(&mut self, entry: Entry) -> Result<bool, Invalid> {
        match self.capsule.binary_search_by(|other| order(other).cmp(&order(&entry))) {
            Ok(at) if self.capsule[at].hash == entry.hash => Ok(false),
            Ok(_) => Err(Invalid(format!(
                "{} {} is published already, with another archive; a published version never changes: raise the version",
                entry.name, entry.version
            ))),
            Err(at) => {
                self.capsule.insert(at, entry);
                Ok(true)
            }
        }
    }
}

fn order(entry: &Entry) -> (&str, &semver::Version) {
    (&entry.name, &entry.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use crate::signature::SecretKey;

    fn entry(name: &str, version: &str, component: &[u8]) -> Entry {
        let text = format!("asks = [\"sys:host\"]\n[package]\nname = \"{name}\"\nversion = \"{version}\"\n");
        let mut archive = Archive::new(&Manifest::parse(&text).unwrap(), component.to_vec());
        archive.sign(&SecretKey::from_bytes(&[1; 32])).unwrap();
        let surface = Surface { imports: ["astrid:sys/log@0.1.0".into()].into(), ..Surface::default() };
        Entry::of(&archive, component, &surface)
    }

    fn index() -> Index {
        let mut index = Index::default();
        for (name, version) in [("b", "1.10.0"), ("b", "1.9.0"), ("a", "2.0.0"), ("b", "2.0.0-rc.1")] {
            assert!(index.publish(entry(name, version, b"x")).unwrap());
        }
        index
    }

    #[test]
    fn a_published_version_never_changes_and_publishing_it_again_is_nothing() {
        let mut index = index();
        let before = index.clone();
        assert!(!index.publish(entry("b", "1.9.0", b"x")).unwrap());
        let error = index.publish(entry("b", "1.9.0", b"y")).unwrap_err().to_string();
        assert!(error.contains("b 1.9.0 is published already"), "{error}");
        assert_eq!(index, before);
    }

    #[test]
    fn the_highest_version_is_found_by_its_meaning_and_a_pre_release_only_by_name() {
        let index = index();
        let found = |name, version: Option<&str>| {
            let version = version.map(|version| semver::Version::parse(version).unwrap());
            index.find(name, version.as_ref()).map(|entry| entry.version.to_string())
        };
        assert_eq!(found("b", None).as_deref(), Some("1.10.0"));
        assert_eq!(found("b", Some("2.0.0-rc.1")).as_deref(), Some("2.0.0-rc.1"));
        assert_eq!((found("b", Some("3.0.0")), found("c", None)), (None, None));
    }

    #[test]
    fn an_index_reads_back_and_what_is_wrong_with_one_is_named() {
        let text = index().to_toml();
        assert_eq!(Index::parse(&text).unwrap(), index());
        let hash = index().entries()[0].hash.clone();
        for (from, to, want) in [
            ("format = 1", "format = 2", "format = 2"),
            ("name = \"a\"", "name = \"c\"", "sorted"),
            ("name = \"a\"", "name = \"../a\"", "can't be a capsule's id"),
            ("version = \"1.9.0\"", "version = \"1.10.0\"", "sorted"),
            (&hash[..], "../../x", "64 hex digits"),
            (&hash, &hash.to_uppercase(), "64 hex digits"),
            ("publishers", "signers", "signers"),
        ] {
            assert!(text.contains(from), "{text}");
            let error = Index::parse(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
