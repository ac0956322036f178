//! As whom the command line speaks to the host of a home, remembered in it: bearers by principal, and which of them is the
//! current one. Without a current one the connection says who is calling.
//!
//! Owns `cli/sessions.json` of the home (0600, in a folder of 0700). Bounded by [`MAX_BYTES`]. Refuses to read what others
//! could have read, and to know whether the host still takes a bearer.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::text;
use crate::files;
use crate::home::{self, Home};

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// What is remembered of one principal's session.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) bearer: String,
    pub(super) expires_at_epoch: u64,
    /// The local key pair that the principal was made with.
    pub(super) key: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remembered {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<String>,
    #[serde(default)]
    pub(super) sessions: BTreeMap<String, Session>,
}

impl Remembered {
    /// The bearer of the current principal.
    pub(super) fn bearer(&self) -> Option<&str> {
        Some(&self.sessions.get(self.current.as_ref()?)?.bearer)
    }
}

fn file(home: &Home) -> PathBuf {
    home.root().join("cli/sessions.json")
}

fn unusable(path: &Path, reason: impl ToString) -> Failure {
    let remove = format!("remove it, and speak as the owner again: rm {}", text::quoted(&path.to_string_lossy()));
    Failure::failed("sessions", format!("{}: {}", path.display(), reason.to_string())).next(remove)
}

/// What is remembered; nothing where there is no file.
pub(super) fn load(home: &Home) -> Result<Remembered, Failure> {
    let path = file(home);
    match files::read_private(&path, MAX_BYTES) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| unusable(&path, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Remembered::default()),
        Err(e) => Err(unusable(&path, e)),
    }
}

/// Changes what is remembered.
pub(super) fn update(home: &Home, change: impl FnOnce(&mut Remembered)) -> Result<(), Failure> {
    let mut remembered = load(home)?;
    change(&mut remembered);
    let path = file(home);
    let folder = home.root().join("cli");
    home.check().and_then(|()| home::create_folder(&folder)).map_err(|e| unusable(&path, e))?;
    let bytes = serde_json::to_vec(&remembered).expect("plain records serialise");
    files::write_private(&path, &bytes).map_err(|e| unusable(&path, e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::testing::home;

    fn session(bearer: &str) -> Session {
        Session { bearer: bearer.into(), expires_at_epoch: 9, key: "default".into() }
    }

    #[test]
    fn what_is_remembered_is_private_and_the_current_bearer_is_that_of_the_current_principal() {
        let (_dir, home) = home();
        assert!(load(&home).unwrap().bearer().is_none());
        update(&home, |r| drop(r.sessions.insert("ada".into(), session("a.b")))).unwrap();
        assert!(load(&home).unwrap().bearer().is_none(), "nobody was switched to");
        update(&home, |r| r.current = Some("ada".into())).unwrap();
        assert_eq!(load(&home).unwrap().bearer(), Some("a.b"));
        let mode = std::fs::metadata(file(&home)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        update(&home, |r| r.current = Some("bob".into())).unwrap();
        assert!(load(&home).unwrap().bearer().is_none());
    }

    #[test]
    fn a_file_that_others_may_read_or_that_does_not_read_is_refused_with_its_path() {
        let (_dir, home) = home();
        update(&home, |_| ()).unwrap();
        std::fs::write(file(&home), "nonsense").unwrap();
        let refused = load(&home).err().unwrap().to_text();
        assert!(refused.contains("cli/sessions.json") && refused.contains("rm "), "{refused}");
        std::fs::set_permissions(file(&home), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(&home).err().unwrap().to_text().contains("0644"));
    }
}
