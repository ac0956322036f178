//! Whom the operator trusts to sign capsules, and what becomes of what nobody vouches for.
//!
//! Owns `etc/trust/` of a home and the policy for each place that archives come from. Read anew for each installation,
//! so that a root counts as soon as its file is there. Bounded by [`trust::MAX_ROOTS`] files of
//! [`trust::MAX_ROOT_BYTES`]. Refuses to know what a capsule is granted: a signature never grants anything.

use std::path::{Path, PathBuf};
use std::{fs, io};

use astrid_capsule::archive::Archive;
use astrid_capsule::registry::{self, Index};
use astrid_capsule::signature;
use astrid_capsule::trust::{self, Policy, Root};
use serde::{Deserialize, Serialize};

use crate::files;

/// `[trust]` of the configuration: the policy for each source.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// A file that somebody who may install capsules names.
    pub local: Policy,
    /// The folder of the distribution.
    pub distro: Policy,
    /// A folder that others publish to.
    pub registry: Policy,
}

impl Default for Config {
    /// Where the operator, or whoever may install, chose the very file, a missing signature is worth a line in the log;
    /// what others put into a folder must be vouched for. See docs/decisions/0016-signatures.md.
    fn default() -> Self {
        Self { local: Policy::Warn, distro: Policy::Warn, registry: Policy::Require }
    }
}

/// Where an archive comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Local,
    /// The folder with `Distro.toml`.
    Distro(PathBuf),
    /// The folder with the index.
    Registry(PathBuf),
}

impl Source {
    /// Of a file that is to be installed: a registry, if it lies in a folder `blobs`. Whether there is an index decides
    /// nothing here: else whoever can take it away would choose the policy.
    pub fn of(path: &Path) -> Self {
        let blobs = path.parent().filter(|folder| folder.ends_with(registry::BLOBS));
        blobs.and_then(Path::parent).map_or(Source::Local, |folder| Source::Registry(folder.to_owned()))
    }
}

/// The files of `folder`, sorted by name: each name without `.toml`, and the root or what is wrong with it. A folder
/// that is not there has none.
pub fn read(folder: &Path) -> io::Result<Vec<(String, Result<Root, String>)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut roots = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // What begins with a dot is being written.
        let Some(stem) = name.strip_suffix(".toml").filter(|stem| !stem.starts_with('.')) else { continue };
        if roots.len() == trust::MAX_ROOTS {
            return Err(io::Error::other(format!("it holds more than {} files", trust::MAX_ROOTS)));
        }
        roots.push((stem.to_owned(), read_root(&folder.join(&name), stem)));
    }
    roots.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(roots)
}

fn read_root(path: &Path, stem: &str) -> Result<Root, String> {
    let root = text(path, trust::MAX_ROOT_BYTES)?;
    Root::parse(stem, &root).map_err(|error| format!("{}: {error}", path.display()))
}

fn text(path: &Path, cap: u64) -> Result<String, String> {
    let bytes = files::open_regular(path).and_then(|file| files::read_capped(file, cap));
    let bytes = bytes.map_err(|error| format!("{}: {error}", path.display()))?;
    String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()))
}

/// Judges an archive whose file has the BLAKE3 `hash` by the policy of its source, with the roots in `folder`. Answers
/// with the name of the root that vouches for it, none where the policy lets that pass; the error says what nobody
/// vouches for and why. Reads files.
pub fn judge(
    config: &Config,
    folder: &Path,
    source: &Source,
    hash: &str,
    archive: &Archive,
) -> Result<Option<String>, String> {
    let (policy, key) = match source {
        Source::Local => (config.local, "trust.local"),
        Source::Distro(_) => (config.distro, "trust.distro"),
        Source::Registry(_) => (config.registry, "trust.registry"),
    };
    if policy == Policy::Off {
        return Ok(None);
    }
    let package = &archive.manifest.package;
    match vouched(folder, source, hash, archive) {
        Ok(name) => Ok(Some(name)),
        Err(why) if policy == Policy::Require => {
            Err(format!("nobody vouches for {} {}: {why} ({key} is `require`)", package.name, package.version))
        }
        Err(why) => {
            tracing::warn!(id = package.name, version = %package.version, "nobody vouches for this capsule: {why}");
            Ok(None)
        }
    }
}

/// The name of the root that vouches for the archive and, where its folder has an index, for that.
fn vouched(folder: &Path, source: &Source, hash: &str, archive: &Archive) -> Result<String, String> {
    let read = read(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // A file that can't be read vouches for nothing, and may be the one that was meant.
    let broken: Vec<&String> = read.iter().filter_map(|(_, root)| root.as_ref().err()).collect();
    let roots: Vec<Root> = read.iter().filter_map(|(_, root)| root.as_ref().ok().cloned()).collect();
    let because = |why: String| match broken.first() {
        Some(broken) => format!("{why}; {broken}"),
        None => why,
    };
    let name = trust::voucher(&roots, archive).map_err(|why| because(why.to_string()))?.name.clone();
    let index = match source {
        Source::Registry(folder) => Some(folder),
        Source::Distro(folder) if folder.join(registry::INDEX).exists() => Some(folder),
        _ => None,
    };
    if let Some(index) = index {
        listed(&roots, index, hash, archive).map_err(because)?;
    }
    Ok(name)
}

/// That a signed index lists this very archive.
fn listed(roots: &[Root], folder: &Path, hash: &str, archive: &Archive) -> Result<(), String> {
    let (path, package) = (folder.join(registry::INDEX), &archive.manifest.package);
    let index = text(&path, registry::MAX_INDEX_BYTES)?;
    let signatures = text(&folder.join(registry::SIGNATURES), 64 << 10)?;
    let signatures = signature::parse_lines(&signatures)
        .map_err(|error| format!("{}: {error}", folder.join(registry::SIGNATURES).display()))?;
    trust::index_voucher(roots, &package.name, index.as_bytes(), &signatures)
        .map_err(|why| format!("of {}: {why}", path.display()))?;
    let index = Index::parse(&index).map_err(|error| format!("{}: {error}", path.display()))?;
    match index.find(&package.name, Some(&package.version)) {
        Some(entry) if entry.hash == hash => Ok(()),
        Some(_) => Err(format!("{} lists another archive as this version", path.display())),
        None => Err(format!("{} does not list this version", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use astrid_capsule::check::Surface;
    use astrid_capsule::manifest::Manifest;
    use astrid_capsule::registry::Entry;
    use astrid_capsule::signature::{Purpose, SecretKey};

    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[1; 32])
    }

    /// A folder of roots with one that is `key`'s.
    fn roots() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new("acme", &key().public().to_hex(), vec!["notes".into()], None).unwrap();
        fs::write(folder.path().join("acme.toml"), root.to_toml()).unwrap();
        folder
    }

    fn archive(signed: bool) -> Archive {
        let manifest = Manifest::parse("[package]\nname = \"notes\"\nversion = \"1.0.0\"\n").unwrap();
        let mut archive = Archive::new(&manifest, b"wasm".to_vec());
        if signed {
            archive.sign(&key()).unwrap();
        }
        archive
    }

    #[test]
    fn each_source_has_its_own_policy_and_each_policy_its_outcome() {
        let folder = roots();
        let elsewhere = tempfile::tempdir().unwrap();
        let distro = Source::Distro(elsewhere.path().to_owned());
        for (local, of_distro) in [(Policy::Require, Policy::Off), (Policy::Warn, Policy::Require)] {
            let config = Config { local, distro: of_distro, ..Config::default() };
            for (source, policy) in [(&Source::Local, local), (&distro, of_distro)] {
                let judged = |signed| judge(&config, folder.path(), source, "", &archive(signed));
                let unsigned = judged(false);
                match policy {
                    Policy::Require => assert!(unsigned.unwrap_err().contains("not signed")),
                    Policy::Warn | Policy::Off => assert_eq!(unsigned, Ok(None)),
                }
                assert_eq!(judged(true), Ok((policy != Policy::Off).then(|| "acme".into())));
            }
        }
    }

    #[test]
    fn a_broken_root_vouches_for_nothing_and_is_named_where_that_may_matter() {
        let folder = roots();
        let config = Config { local: Policy::Require, ..Config::default() };
        fs::write(folder.path().join("broken.toml"), "name = 1").unwrap();
        fs::write(folder.path().join(".half.toml"), "").unwrap();
        fs::write(folder.path().join("README"), "").unwrap();
        let judged = |signed| judge(&config, folder.path(), &Source::Local, "", &archive(signed));
        assert_eq!(judged(true), Ok(Some("acme".into())));
        assert!(judged(false).unwrap_err().contains("broken.toml"));
        let listed: Vec<_> =
            read(folder.path()).unwrap().into_iter().map(|(name, root)| (name, root.is_ok())).collect();
        assert_eq!(listed, [("acme".to_owned(), true), ("broken".to_owned(), false)]);
        assert!(read(Path::new("/nowhere/trust")).unwrap().is_empty());
    }

    #[test]
    fn no_more_roots_than_there_may_be_are_read_and_none_that_is_too_large() {
        let folder = roots();
        fs::write(folder.path().join("large.toml"), vec![b'#'; trust::MAX_ROOT_BYTES as usize + 1]).unwrap();
        let listed = read(folder.path()).unwrap();
        assert!(listed[1].1.as_ref().is_err_and(|why| why.contains("larger than 65536 bytes")), "{listed:?}");
        (2..trust::MAX_ROOTS).for_each(|n| fs::write(folder.path().join(format!("r{n}.toml")), "").unwrap());
        assert_eq!(read(folder.path()).unwrap().len(), trust::MAX_ROOTS);
        fs::write(folder.path().join("one-more.toml"), "").unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("more than 1000"));
    }

    #[test]
    fn what_a_registry_serves_must_stand_in_its_signed_index() {
        let folder = roots();
        let registry = tempfile::tempdir().unwrap();
        let blob = registry.path().join("blobs/x.capsule");
        let source = Source::of(&blob);
        assert_eq!(source, Source::Registry(registry.path().to_owned()));
        assert_eq!(Source::of(&registry.path().join("blobs")), Source::Local);
        let mut bytes = Vec::new();
        archive(true).write(&mut bytes).unwrap();
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let mut index = Index::default();
        index.publish(Entry::of(&archive(true), &bytes, &Surface::default())).unwrap();
        let write = |index: &str, signed: &str| {
            let signature = key().sign(Purpose::Index, signed.as_bytes());
            fs::write(registry.path().join(registry::INDEX), index).unwrap();
            fs::write(registry.path().join(registry::SIGNATURES), signature::lines(&[signature])).unwrap();
        };
        let text = index.to_toml();
        write(&text, &text);
        let judged = |hash: &str| judge(&Config::default(), folder.path(), &source, hash, &archive(true));
        assert_eq!(judged(&hash), Ok(Some("acme".into())));
        assert!(judged("other").unwrap_err().contains("lists another archive"));
        write(&text, "other");
        assert!(judged(&hash).unwrap_err().contains("index.toml was changed after it was signed"));
        let empty = Index::default().to_toml();
        write(&empty, &empty);
        assert!(judged(&hash).unwrap_err().contains("does not list this version"));
        for file in [registry::SIGNATURES, registry::INDEX] {
            fs::remove_file(registry.path().join(file)).unwrap();
            assert!(judged(&hash).unwrap_err().contains(file));
        }
    }
}
