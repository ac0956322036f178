//! `keygen`, `sign` and `verify`: the keys of whoever publishes, and what they vouch for.
//!
//! Owns the form of a key file: the secret's 64 hex digits, mode 0600. A secret is never printed and never an argument.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use astrid_capsule::archive::{self, Archive};
use astrid_capsule::signature::{PublicKey, Purpose, SecretKey};
use serde_json::json;

use crate::files;

/// The largest key file that is read, in bytes.
const MAX_KEY_BYTES: u64 = 128;

/// `keygen`.
pub(crate) fn keygen_verb(path: &Path, json: bool) -> Result<ExitCode> {
    let public = make_key(path)?.public();
    if json {
        println!("{}", json!({ "path": path, "key": public.to_hex(), "key_id": public.id().to_string() }));
    } else {
        println!("key     {}", public.to_hex());
        println!("key id  {}", public.id());
        eprintln!("    the secret is {}; whoever has it signs as you", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a key file; one that is there is never replaced.
pub(crate) fn make_key(path: &Path) -> Result<SecretKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("no randomness for a key")?;
    let cannot = || format!("can't make the key {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(cannot)?;
    let text = hex::encode(seed) + "\n";
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(cannot)?;
    Ok(SecretKey::from_bytes(&seed))
}

/// Reads a key file that its owner alone may read.
pub(crate) fn read_key(path: &Path) -> Result<SecretKey> {
    let text = files::read_private(path, MAX_KEY_BYTES)?;
    let mut seed = [0; 32];
    if hex::decode_to_slice(text.trim(), &mut seed).is_err() {
        bail!("{} is no key: it must hold 64 hex digits, as `astrid-build keygen` writes them", path.display());
    }
    Ok(SecretKey::from_bytes(&seed))
}

/// Reads and checks an archive: itself, and its bytes.
pub(crate) fn read_archive(path: &Path) -> Result<(Archive, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut read = || File::open(path)?.take(archive::MAX_BYTES + 1).read_to_end(&mut bytes);
    read().with_context(|| format!("can't read {}", path.display()))?;
    ensure!(bytes.len() as u64 <= archive::MAX_BYTES, "{} is larger than {} bytes", path.display(), archive::MAX_BYTES);
    let archive = Archive::read(&bytes[..]).with_context(|| path.display().to_string())?;
    Ok((archive, bytes))
}

/// The archive's bytes with this key's signature in it.
pub(crate) fn signed(mut archive: Archive, key: &SecretKey) -> Result<(Archive, Vec<u8>)> {
    archive.sign(key)?;
    let mut bytes = Vec::new();
    archive.write(&mut bytes).context("can't pack")?;
    Ok((archive, bytes))
}

/// `sign`.
pub(crate) fn sign_verb(path: &Path, key: &Path, json: bool) -> Result<ExitCode> {
    let key = read_key(key)?;
    let (archive, bytes) = signed(read_archive(path)?.0, &key)?;
    // A link stays one; what it names is written.
    let target = fs::canonicalize(path).with_context(|| format!("can't find {}", path.display()))?;
    let changed = files::write_if_changed(&target, &bytes)?;
    let ids: Vec<String> = archive.signatures().iter().map(|signature| signature.key.to_string()).collect();
    let package = &archive.manifest.package;
    if json {
        let document = json!({
            "name": package.name, "version": package.version, "archive": path, "key_id": key.public().id().to_string(),
            "signatures": ids, "changed": changed,
        });
        println!("{document}");
    } else {
        let unchanged = if changed { "" } else { "  (unchanged)" };
        println!("{} {}  signed by {}{unchanged}", package.name, package.version, ids.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// `verify`: fails unless every file is what `hashes` says and, with a key, that key has signed them.
pub(crate) fn verify_verb(path: &Path, key: Option<&PublicKey>, json: bool) -> Result<ExitCode> {
    let (archive, _) = read_archive(path)?;
    let hashes = archive.hashes();
    if let Some(key) = key {
        let mut own = archive.signatures().iter().filter(|signature| signature.key == key.id()).peekable();
        ensure!(own.peek().is_some(), "{} is not signed by {}", path.display(), key.id());
        ensure!(
            own.any(|signature| key.verifies(Purpose::Capsule, hashes.as_bytes(), signature)),
            "the signature of {} in {} is of something else: `hashes` was changed after it was signed",
            key.id(),
            path.display()
        );
    }
    let ids: Vec<String> = archive.signatures().iter().map(|signature| signature.key.to_string()).collect();
    let package = &archive.manifest.package;
    if json {
        let verified = key.map(|key| key.id().to_string());
        let document = json!({
            "name": package.name, "version": package.version, "hashes": hashes, "signatures": ids, "verified": verified,
        });
        println!("{document}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} {}", package.name, package.version);
    print!("{hashes}");
    for id in &ids {
        let checked = key.is_some_and(|key| key.id().to_string() == *id);
        println!("signed by {id}{}", if checked { ": good" } else { ": not verified, --key with its public key does" });
    }
    if ids.is_empty() {
        println!("not signed");
    }
    Ok(ExitCode::SUCCESS)
}
