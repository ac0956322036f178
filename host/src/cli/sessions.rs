//! As whom the command line speaks to a host, remembered in the user's own home: bearers by principal, and which of them is
//! the current one. Without a current one the connection says who is calling.
//!
//! Owns `cli/sessions.json` of the home for the home's host, and a file of its own for each `--socket` (0600, in a folder of
//! 0700): a bearer is shown to the host that made it alone. Bounded by [`MAX_BYTES`] each. Refuses to read what others
//! could have read, and to know whether the host still takes a bearer.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::client::Place;
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

/// What is remembered of one host.
pub(super) struct Book {
    home: Home,
    file: PathBuf,
    /// Whether that host is another user's, to whom the connection alone proves nothing.
    foreign: bool,
}

impl Book {
    /// The host that calls go to. One on TCP has none: its sessions are printed, and what this holds is the home's.
    pub(super) fn of(home: &Home, place: &Place) -> Self {
        let (name, foreign) = match place {
            Place::Socket(socket) => {
                let hash = blake3::hash(socket.as_os_str().as_bytes()).to_hex();
                (format!("sessions-{}.json", &hash[..16]), true)
            }
            Place::Home | Place::Tcp(_) => ("sessions.json".to_owned(), false),
        };
        Self { home: home.clone(), file: home.root().join("cli").join(name), foreign }
    }

    /// What is remembered; nothing where there is no file.
    pub(super) fn load(&self) -> Result<Remembered, Failure> {
        match files::read_private(&self.file, MAX_BYTES) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| self.unusable(e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Remembered::default()),
            Err(e) => Err(self.unusable(e)),
        }
    }

    /// Changes what is remembered.
    pub(super) fn update(&self, change: impl FnOnce(&mut Remembered)) -> Result<(), Failure> {
        let mut remembered = self.load()?;
        change(&mut remembered);
        self.home.check().map_err(|e| self.unusable(e))?;
        home::create_folder(&self.home.root().join("cli")).map_err(|e| self.unusable(e))?;
        let bytes = serde_json::to_vec(&remembered).expect("plain records serialise");
        files::write_private(&self.file, &bytes).map_err(|e| self.unusable(e))
    }

    /// Remembers a session. The first one with another user's host is the current one at once: without it nobody speaks.
    /// Returns whether it is the current one.
    pub(super) fn remember(&self, principal: &str, session: Session) -> Result<bool, Failure> {
        let mut is_current = false;
        self.update(|remembered| {
            if self.foreign && remembered.bearer().is_none() {
                remembered.current = Some(principal.to_owned());
            }
            is_current = remembered.current.as_deref() == Some(principal);
            remembered.sessions.insert(principal.to_owned(), session);
        })?;
        Ok(is_current)
    }

    fn unusable(&self, reason: impl ToString) -> Failure {
        let path = self.file.display();
        let remove = format!("remove it, and log in again: rm {}", text::quoted(&path.to_string()));
        Failure::failed("sessions", format!("{path}: {}", reason.to_string())).next(remove)
    }
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
        let book = Book::of(&home, &Place::Home);
        assert!(book.load().unwrap().bearer().is_none());
        assert!(!book.remember("ada", session("a.b")).unwrap());
        assert!(book.load().unwrap().bearer().is_none(), "nobody was switched to");
        book.update(|r| r.current = Some("ada".into())).unwrap();
        assert_eq!(book.load().unwrap().bearer(), Some("a.b"));
        let mode = std::fs::metadata(&book.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        book.update(|r| r.current = Some("bob".into())).unwrap();
        assert!(book.load().unwrap().bearer().is_none());
    }

    #[test]
    fn each_socket_has_sessions_of_its_own_and_its_first_is_the_current_one() {
        let (_dir, home) = home();
        let book = |place: &str| Book::of(&home, &Place::Socket(place.into()));
        assert!(book("/run/a/a.sock").remember("ada", session("a.b")).unwrap());
        assert!(!book("/run/a/a.sock").remember("bob", session("b.c")).unwrap());
        assert_eq!(book("/run/a/a.sock").load().unwrap().bearer(), Some("a.b"));
        assert!(book("/run/b/a.sock").load().unwrap().sessions.is_empty());
        assert!(Book::of(&home, &Place::Home).load().unwrap().sessions.is_empty());
    }

    #[test]
    fn a_file_that_others_may_read_or_that_does_not_read_is_refused_with_its_path() {
        let (_dir, home) = home();
        let book = Book::of(&home, &Place::Home);
        book.update(|_| ()).unwrap();
        std::fs::write(&book.file, "nonsense").unwrap();
        let refused = book.load().err().unwrap().to_text();
        assert!(refused.contains("cli/sessions.json") && refused.contains("rm "), "{refused}");
        std::fs::set_permissions(&book.file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(book.load().err().unwrap().to_text().contains("0644"));
    }
}
