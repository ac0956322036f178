//! Where packed capsules are: `$ASTRID_CAPSULES`, the target directory's `capsules/`, or that of a workspace above
//! the running test's package.

use std::env;
use std::path::PathBuf;

use crate::OpenError;

/// Where `<name>.capsule` is, as [`Capsule::named`](crate::Capsule::named) finds it.
///
/// # Errors
/// When there is none: the text says where it was looked for, and how to build it.
pub fn packed(name: &str) -> Result<PathBuf, OpenError> {
    let searched = folders();
    let file = format!("{name}.capsule");
    match searched.iter().map(|folder| folder.join(&file)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => Err(OpenError::NotFound { name: name.into(), searched }),
    }
}

fn folders() -> Vec<PathBuf> {
    if let Some(folder) = env::var_os("ASTRID_CAPSULES") {
        return vec![folder.into()];
    }
    let mut folders = Vec::new();
    if let Some(target) = env::var_os("CARGO_TARGET_DIR") {
        folders.push(PathBuf::from(target).join("capsules"));
    }
    // Set by cargo at run time: the package whose test this is, wherever this crate was built.
    let start = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).or_else(|| env::current_dir().ok());
    for folder in start.iter().flat_map(|path| path.ancestors()) {
        folders.push(folder.join("target/capsules"));
    }
    folders
}
