//! `publish`: a signed archive into a registry, where a published version never changes.
//!
//! A registry is a folder (see [`astrid_capsule::registry`]) or a repository of an [OCI registry](oci). In a folder one
//! key signs the index, and whoever publishes must hold it; archives may be signed by others. A reader that comes at any
//! moment, after a crash as well, finds an index with a signature that fits: while it changes, `index.sig` has the
//! signatures of both.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use astrid_capsule::archive::Archive;
use astrid_capsule::check;
use astrid_capsule::registry::{BLOBS, Entry, INDEX, Index, MAX_INDEX_BYTES, SIGNATURES};
use astrid_capsule::signature::{self, Purpose, SecretKey, Signature};
use serde_json::json;

use crate::login::Login;
use crate::{files, oci, say, sign};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A signed archive.
    archive: PathBuf,
    /// A registry's folder, or `oci://HOST[:PORT]/REPOSITORY:TAG`.
    #[arg(value_parser = To::parse)]
    to: To,
    /// The key that signs a folder's index.
    #[arg(long, value_name = "PATH")]
    key: Option<PathBuf>,
    /// Push to an OCI registry that speaks no TLS.
    #[arg(long)]
    plain_http: bool,
    /// A file with NAME:PASSWORD for an OCI registry, which only you can read; else ASTRID_REGISTRY_LOGIN, if it is set.
    #[arg(long, value_name = "PATH")]
    login: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum To {
    Folder(PathBuf),
    Oci(oci::Reference),
}

impl To {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("oci", _)) => oci::Reference::parse(text).map(To::Oci),
            Some(_) => Err("must be a folder or oci://HOST[:PORT]/REPOSITORY:TAG".into()),
            None => Ok(To::Folder(text.into())),
        }
    }
}

/// Arguments that don't fit together: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(&'static str);

impl std::error::Error for Usage {}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// `publish`.
pub(crate) fn verb(options: &Options, json: bool) -> Result<ExitCode> {
    let key = match (&options.to, &options.key) {
        (To::Folder(_), None) => bail!(Usage("a folder's index is signed: name the key with --key PATH")),
        (To::Oci(_), Some(_)) => bail!(Usage("an OCI registry has no index to sign: leave --key out")),
        (_, key) => key.as_deref().map(sign::read_key).transpose()?,
    };
    if matches!(options.to, To::Folder(_)) && (options.plain_http || options.login.is_some()) {
        bail!(Usage("--plain-http and --login are for OCI registries"));
    }
    let (archive, bytes) = sign::read_archive(&options.archive)?;
    let entry = entry(&archive, &bytes).with_context(|| options.archive.display().to_string())?;
    ensure!(
        !entry.publishers.is_empty(),
        "{} is not signed, and no registry's reader would take it; `astrid-build sign` does that",
        options.archive.display()
    );
    let (name, version, hash) = (entry.name.clone(), entry.version.clone(), entry.hash.clone());
    let step = say::step(format_args!("publishing {name} {version}"));
    let (at, changed) = match (&options.to, key) {
        (To::Folder(folder), Some(key)) => {
            let at = folder.join(entry.blob()).display().to_string();
            (at, to_folder(folder, entry, &bytes, &key)?)
        }
        (To::Oci(reference), _) => {
            let login = Login::find(options.login.as_deref())?;
            oci::push(reference, options.plain_http, login, &archive, &bytes)?
        }
        (To::Folder(_), None) => unreachable!("checked above"),
    };
    step.done(if changed { "published" } else { "it was published already" });
    if json {
        let document = json!({ "name": name, "version": version, "hash": hash, "at": at, "changed": changed });
        println!("{document}");
    } else {
        println!("{name} {version}  {}…  {at}{}", &hash[..12], if changed { "" } else { "  (unchanged)" });
    }
    Ok(ExitCode::SUCCESS)
}

/// What an index says of an archive, whose component must fit its manifest.
pub(crate) fn entry(archive: &Archive, bytes: &[u8]) -> Result<Entry> {
    let surface = check::check(&archive.manifest, &archive.component).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(|problem| format!("its component {problem}")).collect();
        anyhow::anyhow!(problems.join("; "))
    })?;
    Ok(Entry::of(archive, bytes, &surface))
}

/// Adds a version to a folder's registry, which is made if it is not there. Whether anything changed.
fn to_folder(folder: &Path, entry: Entry, bytes: &[u8], key: &SecretKey) -> Result<bool> {
    fs::create_dir_all(folder.join(BLOBS)).with_context(|| format!("can't make {}", folder.display()))?;
    let lock = folder.join(".lock");
    let held = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
    let held = held.and_then(|file| file.lock().map(|()| file));
    let _held = held.with_context(|| format!("can't lock {}", lock.display()))?;

    let (before, signed) = read_index(folder, key)?;
    let mut index = Index::parse(&before)?;
    let blob = folder.join(entry.blob());
    let added = index.publish(entry)?;
    let text = index.to_toml();
    ensure!(text.len() as u64 <= MAX_INDEX_BYTES, "the index would have more than {MAX_INDEX_BYTES} bytes");
    let written = files::write_if_changed(&blob, bytes)?;
    let new = key.sign(Purpose::Index, text.as_bytes());
    let both: Vec<Signature> = signed.into_iter().chain([new]).collect();
    if added {
        files::write_if_changed(&folder.join(SIGNATURES), signature::lines(&both).as_bytes())?;
        files::write_if_changed(&folder.join(INDEX), text.as_bytes())?;
    }
    let settled = files::write_if_changed(&folder.join(SIGNATURES), signature::lines(&[new]).as_bytes())?;
    Ok(added || written || settled)
}

/// The index as it stands and this key's signature of it; an empty one where there is none yet. An index that this key
/// has not signed is refused: signing it would vouch for what somebody else wrote there.
fn read_index(folder: &Path, key: &SecretKey) -> Result<(String, Option<Signature>)> {
    let path = folder.join(INDEX);
    if !path.exists() {
        return Ok((Index::default().to_toml(), None));
    }
    let read = |path: &Path| -> Result<String> {
        let mut text = String::new();
        let file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
        file.take(MAX_INDEX_BYTES)
            .read_to_string(&mut text)
            .with_context(|| format!("can't read {}", path.display()))?;
        Ok(text)
    };
    let text = read(&path)?;
    let signatures = signature::parse_lines(&read(&folder.join(SIGNATURES))?)
        .with_context(|| folder.join(SIGNATURES).display().to_string())?;
    let others: Vec<String> = signatures.iter().map(|signature| signature.key.to_string()).collect();
    let public = key.public();
    let own = signatures.into_iter().find(|signature| public.verifies(Purpose::Index, text.as_bytes(), signature));
    ensure!(
        own.is_some(),
        "{} as it stands was not signed by this key ({}) but by {}, or changed since; publish with the registry's own \
         key, or check what was changed",
        path.display(),
        public.id(),
        others.join(", ")
    );
    Ok((text, own))
}

#[cfg(test)]
mod tests {
    use astrid_capsule::manifest::Manifest;

    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    fn packed(version: &str, component: &[u8]) -> (Entry, Vec<u8>) {
        let text = format!("[package]\nname = \"notes\"\nversion = \"{version}\"\n");
        let archive = Archive::new(&Manifest::parse(&text).unwrap(), component.to_vec());
        let (archive, bytes) = sign::signed(archive, &key(1)).unwrap();
        (Entry::of(&archive, &bytes, &check::Surface::default()), bytes)
    }

    fn publish(folder: &Path, version: &str, component: &[u8], n: u8) -> Result<bool> {
        let (entry, bytes) = packed(version, component);
        to_folder(folder, entry, &bytes, &key(n))
    }

    fn good(folder: &Path) -> bool {
        read_index(folder, &key(2)).is_ok()
    }

    #[test]
    fn versions_are_added_under_a_signed_index_and_never_change() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(publish(folder, "1.0.0", b"x", 2).unwrap());
        assert!(publish(folder, "1.1.0", b"y", 2).unwrap());
        assert!(!publish(folder, "1.0.0", b"x", 2).unwrap());
        let index = fs::read_to_string(folder.join(INDEX)).unwrap();
        let error = publish(folder, "1.0.0", b"z", 2).unwrap_err().to_string();
        assert!(error.contains("never changes"), "{error}");
        assert_eq!(fs::read_to_string(folder.join(INDEX)).unwrap(), index);
        assert!(good(folder));
        let parsed = Index::parse(&index).unwrap();
        assert_eq!(parsed.entries().len(), 2);
        for entry in parsed.entries() {
            let blob = fs::read(folder.join(entry.blob())).unwrap();
            assert_eq!(blake3::hash(&blob).to_hex().as_str(), entry.hash);
            assert_eq!(entry.publishers, [key(1).public().id().to_string()]);
        }
        assert_eq!(fs::read_dir(folder.join(BLOBS)).unwrap().count(), 2, "what was refused left nothing");
    }

    #[test]
    fn whoever_has_another_key_or_finds_a_changed_index_publishes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        publish(folder, "1.0.0", b"x", 2).unwrap();
        let error = publish(folder, "1.1.0", b"y", 3).unwrap_err().to_string();
        let id = key(2).public().id().to_string();
        assert!(error.contains("was not signed by this key") && error.contains(&id), "{error}");
        let text = fs::read_to_string(folder.join(INDEX)).unwrap();
        fs::write(folder.join(INDEX), text.replace("1.0.0", "1.0.1")).unwrap();
        assert!(publish(folder, "1.1.0", b"y", 2).is_err());
        assert_eq!(fs::read_dir(folder.join(BLOBS)).unwrap().count(), 1);
    }

    #[test]
    fn wherever_publishing_is_cut_off_the_index_has_a_signature_that_fits_and_the_next_one_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        publish(folder, "1.0.0", b"x", 2).unwrap();
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        let (index, sig) = (read(INDEX), read(SIGNATURES));
        publish(folder, "1.1.0", b"y", 2).unwrap();
        let (new_index, new_sig) = (read(INDEX), read(SIGNATURES));
        // Each state between two writes, as `to_folder` orders them.
        let both = [&sig[..], &new_sig[..]].concat();
        for (index, sig) in [(&index, &sig), (&index, &both), (&new_index, &both), (&new_index, &new_sig)] {
            fs::write(folder.join(INDEX), index).unwrap();
            fs::write(folder.join(SIGNATURES), sig).unwrap();
            assert!(good(folder));
            publish(folder, "1.1.0", b"y", 2).unwrap();
            assert_eq!((read(INDEX), read(SIGNATURES)), (new_index.clone(), new_sig.clone()));
        }
    }

    #[test]
    fn a_destination_is_a_folder_or_an_oci_reference() {
        assert!(matches!(To::parse("a/b"), Ok(To::Folder(_))));
        assert!(matches!(To::parse("oci://localhost:5000/a/b:1.0.0"), Ok(To::Oci(_))));
        assert!(To::parse("https://example.org/x").is_err());
        assert!(To::parse("oci://localhost").is_err());
    }
}
