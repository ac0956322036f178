//! The distribution's folder, and what this host's operator gives its variables.
//!
//! Owns reading `Distro.toml`, `Distro.lock` and the archives that they name, each checked against the other, and
//! `etc/variables.toml` (mode 0600), where secrets are sealed as environment values are. Bounded by the sizes of each.
//! Refuses to know how a capsule is installed. No error and no log line holds a variable's value.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use astrid_capsule::archive::{self, Archive};
use astrid_capsule::distro::lock::{self, Lock, Locked};
use astrid_capsule::distro::{self, Distro, Entry, Undefined, bundle, embedded};
use astrid_capsule::env::MAX_VALUE_BYTES;
use astrid_capsule::registry::{self, Index};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::env::Shared;
use crate::files;
use crate::keys::Keys;
use crate::seal::Seal;
use crate::trust;

/// The largest `etc/variables.toml`, in bytes.
const MAX_VARIABLES_BYTES: u64 = 4 << 20;
/// What secrets of variables are sealed for.
const PURPOSE: &str = "distro-variables";

/// A folder with a distribution that reads.
pub struct Folder {
    pub path: PathBuf,
    pub text: String,
    pub distro: Distro,
    /// Absent: whatever lies in the folder is taken.
    pub lock: Option<Lock>,
}

/// Unpacks the distribution in this program's file, if there is one, into a folder of its own, which is made anew. Returns
/// the folder.
pub fn unpack_embedded(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let Some(bundle) = embedded::read(&mut File::open("/proc/self/exe")?)? else { return Ok(None) };
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    bundle::read(&bundle[..], |path, bytes| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        files::write_private(&path, bytes)
    })?;
    Ok(Some(folder.to_owned()))
}

/// A distribution's icon.
pub struct Icon {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

/// What a host shows of its distribution to whoever asks.
pub struct Shown {
    pub distro: Distro,
    pub icon: Option<Icon>,
}

/// An archive of the distribution as it lies in the folder.
pub struct Packed {
    pub archive: Archive,
    pub found: Locked,
}

impl Folder {
    /// Reads the distribution and its lock. None if there is no `Distro.toml`. The lock's archives are compared by
    /// [`Folder::packed`].
    pub fn read(path: &Path) -> Result<Option<Self>, String> {
        let Some(text) = text(&path.join(distro::FILE), distro::MAX_BYTES as u64)? else { return Ok(None) };
        let at = |why: String| format!("{}: {why}", path.display());
        let distro = Distro::parse(&text).map_err(|error| at(error.to_string()))?;
        let lock = text_of_lock(path)?.map(|text| Lock::parse(&text)).transpose().map_err(at)?;
        Ok(Some(Self { path: path.to_owned(), text, distro, lock }))
    }

    /// Whether the distribution is made for this host, and the lock for the distribution.
    pub fn check(&self) -> Result<(), String> {
        let host = semver::Version::parse(crate::VERSION).map_err(|error| error.to_string())?;
        self.distro.distro.check_host(&host)?;
        self.lock.iter().try_for_each(|lock| lock.check(&self.distro))
    }

    /// Reads the archive of an entry: one that the entry takes, and the one that the lock pins.
    pub fn packed(&self, entry: &Entry) -> Result<Packed, String> {
        let packed = self.found(entry)?;
        if let Some(pinned) = self.lock.as_ref().and_then(|lock| lock.find(entry)) {
            pinned.check(&packed.found)?;
        }
        Ok(packed)
    }

    /// As [`Folder::packed`], whatever the lock says.
    pub fn found(&self, entry: &Entry) -> Result<Packed, String> {
        let path = self.path.join(entry.file());
        let bytes = bytes(&path, archive::MAX_BYTES).map_err(|error| format!("{}: {error}", path.display()))?;
        let archive = Archive::read(&bytes[..]).map_err(|error| format!("{}: {error}", path.display()))?;
        self.distro.check_archive(entry, &archive)?;
        Ok(Packed { found: Locked::of(&archive, &bytes), archive })
    }

    /// The lock of what lies in the folder.
    pub fn lock_now(&self) -> Result<Lock, String> {
        let found = |entry: &Entry| Ok(self.found(entry)?.found);
        Ok(Lock::new(&self.distro, self.distro.capsule.iter().map(found).collect::<Result<_, String>>()?))
    }

    /// The icon, if there is one and it is what its name says.
    pub fn icon(&self) -> Result<Option<Icon>, String> {
        let Some(icon) = self.distro.branding.as_ref().and_then(|branding| branding.icon.as_ref()) else {
            return Ok(None);
        };
        let path = self.path.join(icon);
        let bytes =
            bytes(&path, distro::MAX_ICON_BYTES as u64).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Some(Icon { media_type: distro::check_icon(icon, &bytes)?, bytes }))
    }

    /// The values of every capsule's fields, and what is missing in them.
    pub fn shared(&self, variables: &Variables) -> (Shared, Vec<(&Entry, Vec<Undefined>)>) {
        let (mut shared, mut missing) = (Shared::new(), Vec::new());
        for entry in &self.distro.capsule {
            let (values, undefined) = self.distro.values(entry, |name| variables.get(name));
            let values = values.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect();
            shared.insert(entry.name.clone(), values);
            if !undefined.is_empty() {
                missing.push((entry, undefined));
            }
        }
        (shared, missing)
    }
}

/// Whether each value fits its field. `manifest` is that of the entry's archive.
pub fn check_values(shared: &Shared, entry: &Entry, archive: &Archive) -> Result<(), String> {
    for (name, value) in shared.get(&entry.name).into_iter().flatten() {
        if let Some(field) = archive.manifest.env.get(name) {
            field.check(value).map_err(|why| format!("env.{name}: {why}"))?;
        }
    }
    Ok(())
}

fn bytes(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    files::read_capped(files::open_regular(path)?, cap)
}

fn text(path: &Path, cap: u64) -> Result<Option<String>, String> {
    match bytes(path, cap) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| format!("{} is not UTF-8", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn text_of_lock(folder: &Path) -> Result<Option<String>, String> {
    text(&folder.join(lock::FILE), lock::MAX_BYTES as u64)
}

/// The values that the operator gives the distribution's variables.
#[derive(Default)]
pub struct Variables(BTreeMap<String, Zeroizing<String>>);

/// A value as it stands in the file.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Stored {
    Plain(String),
    Sealed { sealed: String },
}

impl Variables {
    /// Reads `etc/variables.toml`; empty if there is none.
    pub fn load(path: &Path, keys: &Keys) -> Result<Self, String> {
        let at = |why: String| format!("{}: {why}", path.display());
        let bytes = match files::read_private(path, MAX_VARIABLES_BYTES) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(at(error.to_string())),
        };
        let seal = Seal::new(keys, PURPOSE);
        let mut values = Self::default();
        for (name, stored) in read(&bytes).map_err(at)? {
            let value = match stored {
                Stored::Plain(value) => Zeroizing::new(value),
                Stored::Sealed { sealed } => hex::decode(sealed)
                    .ok()
                    .and_then(|sealed| seal.open(name.as_bytes(), &sealed))
                    .ok_or_else(|| at(format!("{name} was sealed by another host or is damaged; set it again")))?,
            };
            values.set(&name, value).map_err(at)?;
        }
        Ok(values)
    }

    /// Reads a file of the same form whose values are plain, that nobody but its owner may read.
    pub fn load_plain(path: &Path) -> Result<Self, String> {
        let at = |why: String| format!("{}: {why}", path.display());
        let bytes = files::read_private(path, MAX_VARIABLES_BYTES).map_err(|error| at(error.to_string()))?;
        let mut values = Self::default();
        for (name, stored) in read(&Zeroizing::new(bytes)).map_err(at)? {
            match stored {
                Stored::Plain(value) => values.set(&name, Zeroizing::new(value)).map_err(at)?,
                Stored::Sealed { .. } => return Err(at(format!("{name} is sealed, and only its own host opens it"))),
            }
        }
        Ok(values)
    }

    /// Writes the file, secrets sealed.
    pub fn save(&self, path: &Path, keys: &Keys, distro: &Distro) -> Result<(), String> {
        let seal = Seal::new(keys, PURPOSE);
        let mut stored = BTreeMap::new();
        for (name, value) in &self.0 {
            // What this distribution does not know may be another's secret.
            let secret = distro.variables.get(name).is_none_or(|variable| variable.secret);
            let value = if secret {
                let sealed = seal.seal(name.as_bytes(), value.as_bytes()).ok_or("no randomness to seal with")?;
                Stored::Sealed { sealed: hex::encode(sealed) }
            } else {
                Stored::Plain(value.as_str().to_owned())
            };
            stored.insert(name.clone(), value);
        }
        let text = toml::to_string(&stored).map_err(|error| error.to_string())?;
        files::write_private(path, text.as_bytes()).map_err(|error| format!("can't write {}: {error}", path.display()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.as_str())
    }

    /// The error names the variable and never repeats the value.
    pub fn set(&mut self, name: &str, value: Zeroizing<String>) -> Result<(), String> {
        if !distro::is_variable(name) {
            let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
            return Err(format!("`{shown}` is no variable's name: 1 to 64 of a-z 0-9 - _"));
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!("{name} has more than {MAX_VALUE_BYTES} bytes"));
        }
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// Takes over what the other has.
    pub fn extend(&mut self, other: Variables) {
        self.0.extend(other.0);
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn read(bytes: &[u8]) -> Result<BTreeMap<String, Stored>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    // TOML's own words would repeat the line, and with it a secret.
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count()
        });
        format!("line {line}: every line is name = \"value\"")
    })
}

/// The archive of a version from a registry's folder, judged by the policy for registries with the roots in `roots`.
pub fn fetch(
    config: &trust::Config,
    roots: &Path,
    folder: &Path,
    name: &str,
    version: &semver::Version,
) -> Result<Vec<u8>, String> {
    let path = folder.join(registry::INDEX);
    let at = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let text = text(&path, registry::MAX_INDEX_BYTES)?.ok_or_else(|| at(&path, &"there is none"))?;
    let index = Index::parse(&text).map_err(|error| at(&path, &error))?;
    let listed = index.find(name, Some(version)).ok_or_else(|| at(&path, &format!("has no {name} {version}")))?;
    let path = folder.join(listed.blob());
    let bytes = bytes(&path, archive::MAX_BYTES).map_err(|error| at(&path, &error))?;
    let hash = blake3::hash(&bytes).to_hex().to_string();
    if hash != listed.hash {
        return Err(at(&path, &"is not what the index names"));
    }
    let archive = Archive::read(&bytes[..]).map_err(|error| at(&path, &error))?;
    trust::judge(config, roots, &trust::Source::Registry(folder.to_owned()), &hash, &archive)
        .map_err(|why| at(&path, &why))?;
    Ok(bytes)
}

/// Writes the files of a distribution into a new folder beside `to`, then puts it there at once; what was there before is
/// deleted. `read` gives the bytes of a file of the distribution.
pub fn put(
    to: &Path,
    folder: &Folder,
    lock: &Lock,
    mut read: impl FnMut(&Path) -> Result<Vec<u8>, String>,
) -> Result<(), String> {
    let at = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let staged = to.with_extension(format!("new.{}", std::process::id()));
    let mut fill = || {
        let mut private = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(private.recursive(true), 0o700);
        private.create(&staged).map_err(|error| at(&staged, &error))?;
        let keep = |path: &Path, bytes: &[u8]| {
            let path = staged.join(path);
            if let Some(parent) = path.parent() {
                private.create(parent).map_err(|error| at(parent, &error))?;
            }
            files::write_private(&path, bytes).map_err(|error| at(&path, &error))
        };
        keep(Path::new(distro::FILE), folder.text.as_bytes())?;
        keep(Path::new(lock::FILE), lock.to_toml().as_bytes())?;
        for path in folder.distro.files() {
            keep(&path, &read(&path)?)?;
        }
        Ok(())
    };
    let swap = || {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if to.exists() {
            renameat_with(CWD, &staged, CWD, to, RenameFlags::EXCHANGE).map_err(|error| at(to, &error))?;
        } else {
            std::fs::rename(&staged, to).map_err(|error| at(to, &error))?;
        }
        let parent = to.parent().ok_or("a folder without a parent")?;
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| at(parent, &error))
    };
    let done = fill().and_then(|()| swap());
    // On success what was there before, else what was begun.
    let _ = std::fs::remove_dir_all(&staged);
    done
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use astrid_capsule::check::Surface;
    use astrid_capsule::manifest::Manifest;
    use astrid_capsule::signature::{self, Purpose, SecretKey};
    use astrid_capsule::trust::Root;

    use super::*;

    const DISTRO: &str = "[distro]\nid = \"x\"\nname = \"X\"\nversion = \"0.1.0\"\n\
        [variables.region]\n[variables.key]\nsecret = true\n";

    fn value(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.into())
    }

    #[test]
    fn secrets_are_sealed_in_the_file_for_their_own_host_and_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("variables.toml");
        let keys = Keys::open(&folder.path().join("host.key")).unwrap();
        let distro = Distro::parse(DISTRO).unwrap();
        assert!(Variables::load(&path, &keys).unwrap().names().next().is_none());
        let mut variables = Variables::default();
        variables.set("region", value("eu")).unwrap();
        variables.set("key", value("sk-1")).unwrap();
        variables.set("unknown", value("sk-2")).unwrap();
        variables.save(&path, &keys, &distro).unwrap();

        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("region = \"eu\"") && !text.contains("sk-"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Variables::load(&path, &keys).unwrap();
        let all = [again.get("region"), again.get("key"), again.get("unknown"), again.get("none")];
        assert_eq!(all, [Some("eu"), Some("sk-1"), Some("sk-2"), None]);

        let other = Keys::open(&folder.path().join("other.key")).unwrap();
        let refused = |keys: &Keys| Variables::load(&path, keys).map(|_| ()).unwrap_err();
        assert!(refused(&other).contains("key was sealed by another host"));
        fs::write(&path, text.replace("[key]", "[key2]").replace("key =", "key2 =")).unwrap();
        assert!(refused(&keys).contains("sealed by another host"), "a sealed value belongs to its name");
        assert!(Variables::load_plain(&path).is_err());
    }

    #[test]
    fn a_file_that_others_may_read_or_that_does_not_read_is_refused_without_its_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("variables.toml");
        let keys = Keys::open(&folder.path().join("host.key")).unwrap();
        let large = format!("a = \"{}\"", "sk-1".repeat(MAX_VALUE_BYTES));
        for (text, mode, want) in [
            ("a = \"sk-1\"", 0o644, "lets others read it"),
            ("\na = sk-1", 0o600, "line 2: every line is"),
            ("a = [\"sk-1\"]", 0o600, "every line is"),
            ("A = \"sk-1\"", 0o600, "`A` is no variable's name"),
            (&large, 0o600, "a has more than 8192 bytes"),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for error in [Variables::load(&path, &keys).map(|_| ()), Variables::load_plain(&path).map(|_| ())] {
                let error = error.unwrap_err();
                assert!(error.contains(want) && !error.contains("sk-1"), "{error}");
            }
        }
    }

    #[test]
    fn a_registry_gives_the_archive_that_its_index_names_if_somebody_vouches_for_both() {
        let (folder, roots) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = SecretKey::from_bytes(&[1; 32]);
        let config = trust::Config::default();
        let version = semver::Version::new(1, 0, 0);
        let ask = |name: &str| fetch(&config, roots.path(), folder.path(), name, &version);
        assert!(ask("a").unwrap_err().contains("index.toml: there is none"));

        let manifest = Manifest::parse("[package]\nname = \"a\"\nversion = \"1.0.0\"\n").unwrap();
        let mut archive = Archive::new(&manifest, b"wasm".to_vec());
        archive.sign(&key).unwrap();
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let mut index = Index::default();
        index.publish(registry::Entry::of(&archive, &bytes, &Surface::default())).unwrap();
        let blob = folder.path().join(index.entries()[0].blob());
        fs::create_dir(folder.path().join(registry::BLOBS)).unwrap();
        fs::write(&blob, &bytes).unwrap();
        let sign = |text: &str| {
            let signature = key.sign(Purpose::Index, text.as_bytes());
            fs::write(folder.path().join(registry::SIGNATURES), signature::lines(&[signature])).unwrap();
        };
        fs::write(folder.path().join(registry::INDEX), index.to_toml()).unwrap();
        sign(&index.to_toml());
        assert!(ask("b").unwrap_err().contains("has no b 1.0.0"));
        assert!(ask("a").unwrap_err().contains("nobody vouches for a 1.0.0"));
        let root = Root::new("acme", &key.public().to_hex(), vec!["a".into()], None).unwrap();
        fs::write(roots.path().join("acme.toml"), root.to_toml()).unwrap();
        assert_eq!(ask("a").unwrap(), bytes);
        sign("another index");
        assert!(ask("a").unwrap_err().contains("was changed after it was signed"));
        fs::write(&blob, "another").unwrap();
        assert!(ask("a").unwrap_err().contains("is not what the index names"));
    }

    #[test]
    fn a_folder_is_replaced_as_a_whole_or_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (to, from) = (folder.path().join("distro"), folder.path().join("from"));
        fs::create_dir(&from).unwrap();
        let text = format!("{DISTRO}[[capsule]]\nname = \"a\"\nsource = \"deep/a.capsule\"\n");
        fs::write(from.join("Distro.toml"), &text).unwrap();
        let read = Folder::read(&from).unwrap().unwrap();
        assert!(Folder::read(&to).unwrap().is_none());
        let lock = Lock::new(&read.distro, vec![]);
        for bytes in [b"one", b"two"] {
            put(&to, &read, &lock, |_| Ok(bytes.to_vec())).unwrap();
            assert_eq!(fs::read(to.join("deep/a.capsule")).unwrap(), bytes);
        }
        assert_eq!(put(&to, &read, &lock, |_| Err("gone".into())).unwrap_err(), "gone");
        assert_eq!(fs::read(to.join("deep/a.capsule")).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside it");
    }
}
