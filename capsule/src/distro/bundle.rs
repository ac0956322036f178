//! A bundle: a distribution with everything that it needs, in one file.
//!
//! A tar without compression, so that nothing can unfold: `Distro.toml`, `Distro.lock`, the icon if there is one, and the
//! archives, in the order of the distribution. Reading trusts nothing: only plain files with exactly these names in this
//! order are taken, each is capped before it is read, every archive is the one that the lock pins, and nothing is ever
//! written to disk from here. An archive has its own defences when it is read.

use std::io::{self, Read, Write};
use std::path::Path;

use super::lock::{self, Lock, Locked};
use super::{Distro, MAX_ICON_BYTES, check_icon};
use crate::archive::{self, Archive};
use crate::shown;

/// The largest bundle, in bytes.
pub const MAX_BYTES: u64 = 1 << 30;
/// What may follow the last file: tar pads to whole records.
const MAX_PADDING: u64 = 64 << 10;

/// Why a bundle was refused, or could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("not a bundle: {0}")]
    Format(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn format(text: impl Into<String>) -> BundleError {
    BundleError::Format(text.into())
}

/// Writes a bundle of a checked distribution; the same files give the same bytes. `read` gives the bytes of a file of the
/// distribution.
pub fn write(
    distro: &Distro,
    texts: (&str, &Lock),
    mut read: impl FnMut(&Path) -> io::Result<Vec<u8>>,
    to: impl Write,
) -> io::Result<()> {
    let mut tar = tar::Builder::new(to);
    let mut append = |path: &Path, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, path, bytes)
    };
    append(Path::new(super::FILE), texts.0.as_bytes())?;
    append(Path::new(lock::FILE), texts.1.to_toml().as_bytes())?;
    for path in distro.files() {
        append(&path, &read(&path)?)?;
    }
    tar.into_inner()?.flush()
}

/// Reads and checks a bundle, and hands every file to `keep`. What was kept before an error is the caller's to throw away.
pub fn read(
    from: impl Read,
    mut keep: impl FnMut(&Path, &[u8]) -> io::Result<()>,
) -> Result<(Distro, Lock), BundleError> {
    let mut tar = tar::Archive::new(from.take(MAX_BYTES));
    let mut entries = tar.entries().map_err(|error| format(error.to_string()))?;
    let text =
        |bytes: Vec<u8>, name: &str| String::from_utf8(bytes).map_err(|_| format(format!("{name} is not UTF-8")));
    let distro_text = text(next(&mut entries, Path::new(super::FILE), super::MAX_BYTES as u64)?, super::FILE)?;
    let distro = Distro::parse(&distro_text).map_err(|error| format(error.to_string()))?;
    keep(Path::new(super::FILE), distro_text.as_bytes())?;
    let lock_text = text(next(&mut entries, Path::new(lock::FILE), lock::MAX_BYTES as u64)?, lock::FILE)?;
    let lock = Lock::parse(&lock_text).and_then(|lock| lock.check(&distro).map(|()| lock)).map_err(format)?;
    keep(Path::new(lock::FILE), lock_text.as_bytes())?;
    if let Some(icon) = distro.branding.as_ref().and_then(|branding| branding.icon.as_ref()) {
        let bytes = next(&mut entries, icon, MAX_ICON_BYTES as u64)?;
        check_icon(icon, &bytes).map_err(format)?;
        keep(icon, &bytes)?;
    }
    for entry in &distro.capsule {
        let path = entry.file();
        let bytes = next(&mut entries, &path, archive::MAX_BYTES)?;
        let at = |why: String| format(format!("capsule {}: {why}", entry.name));
        let archive = Archive::read(&bytes[..]).map_err(|error| at(error.to_string()))?;
        distro.check_archive(entry, &archive).map_err(at)?;
        if let Some(locked) = lock.find(entry) {
            locked.check(&Locked::of(&archive, &bytes)).map_err(at)?;
        }
        keep(&path, &bytes)?;
    }
    if entries.next().is_some() {
        return Err(format(format!("holds more than {} names", super::FILE)));
    }
    let rest = io::copy(&mut tar.into_inner(), &mut io::sink())?;
    if rest > MAX_PADDING {
        return Err(format("goes on after its last file"));
    }
    Ok((distro, lock))
}

fn next<R: Read>(entries: &mut tar::Entries<'_, R>, path: &Path, cap: u64) -> Result<Vec<u8>, BundleError> {
    let name = path.display();
    let missing = || format(format!("{name} is missing"));
    let entry = entries.next().ok_or_else(missing)?.map_err(|error| format(error.to_string()))?;
    if entry.header().entry_type() != tar::EntryType::Regular {
        return Err(format(format!("holds something other than a plain file where {name} is expected")));
    }
    if entry.path_bytes().as_ref() != path.as_os_str().as_encoded_bytes() {
        let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        return Err(format(format!("holds `{}` where {name} is expected", shown(&found))));
    }
    let size = entry.size();
    if size > cap {
        return Err(format(format!("{name} has {size} bytes; at most {cap} are taken")));
    }
    let mut bytes = Vec::new();
    entry.take(cap).read_to_end(&mut bytes).map_err(|error| format(format!("{name}: {error}")))?;
    if bytes.len() as u64 != size {
        return Err(format(format!("{name} ends early")));
    }
    Ok(bytes)
}
