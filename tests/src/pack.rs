//! Capsules that no tool packs: other versions, names and asks, patched components, and archives that are none.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Manifest;
use astrid_capsule::schema::Schemas;
use astrid_capsule::signature::SecretKey;

/// The archive of a capsule of this workspace.
#[track_caller]
pub fn packed(name: &str) -> PathBuf {
    astrid_sdk_test::packed(name).unwrap_or_else(|error| panic!("{error}"))
}

/// [`packed`], read.
#[track_caller]
pub fn read(name: &str) -> Archive {
    open(&packed(name))
}

/// Everything that the operator must grant an archive.
#[track_caller]
pub fn asked(path: &Path) -> Vec<String> {
    open(path).manifest.asked().iter().map(|asked| asked.as_str().to_owned()).collect()
}

#[track_caller]
fn open(path: &Path) -> Archive {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Archive::read(BufReader::new(file)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Writes `<folder>/<file>.capsule`, of topics without types.
pub fn write(folder: &Path, file: &str, manifest: &Manifest, component: &[u8]) -> PathBuf {
    write_typed(folder, file, manifest, component, &Schemas::default())
}

/// Writes `<folder>/<file>.capsule`.
pub fn write_typed(folder: &Path, file: &str, manifest: &Manifest, component: &[u8], schemas: &Schemas) -> PathBuf {
    let path = folder.join(format!("{file}.capsule"));
    let mut archive = Archive::new(manifest, component.to_vec());
    archive.schemas = schemas.clone();
    archive.write(File::create(&path).expect("a new file")).expect("an archive");
    path
}

/// Adds these keys' signatures to an archive, where it lies.
#[track_caller]
pub fn sign(path: &Path, keys: &[SecretKey]) {
    let mut archive = open(path);
    keys.iter().for_each(|key| archive.sign(key).expect("fewer than fit"));
    archive.write(File::create(path).expect("a file that is there")).expect("an archive");
}

/// A capsule of this workspace with a changed manifest.
#[track_caller]
pub fn repacked(folder: &Path, file: &str, name: &str, change: impl FnOnce(&mut Manifest)) -> PathBuf {
    let Archive { mut manifest, component, schemas, .. } = read(name);
    change(&mut manifest);
    write_typed(folder, file, &manifest, &component, &schemas)
}

/// `bytes` with every occurrence of one text replaced by another of the same length.
#[track_caller]
pub fn patched(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut out = bytes.to_vec();
    let places: Vec<usize> =
        out.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(n, _)| n).collect();
    assert!(!places.is_empty(), "{from} does not occur");
    for place in places {
        out[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    out
}
