//! Files that are whole or not there: written beside and renamed, and only when their bytes differ. Files that hold a
//! secret are read only if nobody else can read them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Writes `bytes` to `path` unless they stand there already. Whether they were written.
pub(crate) fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if holds(path, bytes) {
        return Ok(false);
    }
    let folder = path.parent().with_context(|| format!("{}: has no folder", path.display()))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.partial", std::process::id()));
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&beside)))
        .with_context(|| format!("can't write {}", path.display()))?;
    Ok(true)
}

fn holds(path: &Path, bytes: &[u8]) -> bool {
    fs::metadata(path).is_ok_and(|m| m.len() == bytes.len() as u64) && fs::read(path).is_ok_and(|old| old == bytes)
}

/// Makes a folder and its parents, for this user alone (0700). One that exists stays as it is.
pub(crate) fn private_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("can't create the folder {}", path.display()))
}

/// Reads a text of at most so many bytes that its owner alone may read.
pub(crate) fn read_private(path: &Path, most: u64) -> Result<String> {
    let mut text = String::new();
    let mut read = || -> io::Result<u32> {
        let file = File::open(path)?;
        let mode = file.metadata()?.mode();
        file.take(most).read_to_string(&mut text)?;
        Ok(mode)
    };
    let mode = read().with_context(|| format!("can't read {}", path.display()))?;
    ensure!(
        mode & 0o077 == 0,
        "{}: mode {:04o} lets others read it; run chmod 0600 on it",
        path.display(),
        mode & 0o777
    );
    Ok(text)
}

/// Removes a folder with everything in it, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        assert!(write_if_changed(&path, b"one").unwrap());
        assert!(!write_if_changed(&path, b"one").unwrap());
        assert!(write_if_changed(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
