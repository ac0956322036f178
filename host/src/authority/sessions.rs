//! What authentication is asked, what it answers, and how long the answer is remembered.

use std::collections::HashMap;
use std::sync::Arc;

use astrid_capsule::PrincipalId;

use super::mandate::Mandate;
use crate::Boxed;
use crate::http::Certificate;

/// A credential as the host passes it on. The host compares and hashes it; only the authenticator reads it.
#[derive(Clone, PartialEq, Eq)]
pub enum Presented {
    Bearer(String),
    /// The peer of a Unix socket; `owner`: it is the user that runs the host.
    Unix {
        uid: u32,
        owner: bool,
    },
    /// What the client of a TLS connection has shown.
    Certificate(Certificate),
}

impl Presented {
    /// One word for metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Presented::Bearer(_) => "bearer",
            Presented::Unix { .. } => "peer",
            Presented::Certificate(_) => "certificate",
        }
    }

    /// What the answer is remembered under: a hash, so that no credential stays in memory.
    pub(super) fn digest(&self) -> [u8; 32] {
        match self {
            Presented::Bearer(token) => digest_of_bearer(token),
            Presented::Unix { uid, owner } => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(b"unix\0").update(&uid.to_le_bytes()).update(&[u8::from(*owner)]);
                hasher.finalize().into()
            }
            Presented::Certificate(shown) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(b"certificate\0").update(shown.fingerprint.as_bytes());
                hasher.finalize().into()
            }
        }
    }
}

pub(super) fn digest_of_bearer(token: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"bearer\0").update(token.as_bytes());
    hasher.finalize().into()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    pub principal: PrincipalId,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
    pub mandate: Mandate,
}

/// On whose behalf something goes on after the call that opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behalf {
    pub principal: PrincipalId,
    pub mandate: Mandate,
    /// None where it was opened without one, on behalf of whoever the call was for.
    pub session: Option<Through>,
}

/// The session through which something was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Through {
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
    /// The revision of its principal's standing when it was accepted; 0 if that was gone already.
    pub standing: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Not valid; nobody outside learns why.
    Rejected,
    /// No authenticator, or it failed.
    Unavailable,
    Overloaded,
}

impl Rejection {
    /// One word for metrics.
    pub fn kind(self) -> &'static str {
        match self {
            Rejection::Rejected => "rejected",
            Rejection::Unavailable => "unavailable",
            Rejection::Overloaded => "overloaded",
        }
    }
}

/// The one capsule that tells who somebody is.
pub trait Authenticator: Send + Sync {
    fn authenticate(self: Arc<Self>, presented: Presented) -> Boxed<'static, Result<Identified, Rejection>>;
}

/// The most credentials that are remembered.
const CAPACITY: usize = 65_536;

/// Answers by credential hash, each with the revision of its principal's standing.
#[derive(Default)]
pub(super) struct Remembered {
    answers: HashMap<[u8; 32], (Identified, u64)>,
}

impl Remembered {
    pub(super) fn get(&self, key: &[u8; 32], now: u64) -> Option<(Identified, u64)> {
        self.answers.get(key).filter(|(identified, _)| identified.expires_at > now).cloned()
    }

    pub(super) fn put(&mut self, key: [u8; 32], identified: Identified, revision: u64, now: u64) {
        if self.answers.len() >= CAPACITY {
            self.answers.retain(|_, (identified, _)| identified.expires_at > now);
        }
        if self.answers.len() >= CAPACITY {
            // Everything can be asked again; a rarely reached bound needs no cleverer choice.
            self.answers.clear();
        }
        self.answers.insert(key, (identified, revision));
    }

    pub(super) fn forget(&mut self) {
        self.answers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_however_many_credentials_come() {
        let mut remembered = Remembered::default();
        let identified =
            Identified { principal: PrincipalId::parse("a").unwrap(), expires_at: 100, mandate: Mandate::default() };
        for n in 0..CAPACITY as u64 + 10 {
            remembered.put(*blake3::hash(&n.to_le_bytes()).as_bytes(), identified.clone(), 1, 10);
        }
        assert!(remembered.answers.len() <= CAPACITY);
        assert!(remembered.get(blake3::hash(&(CAPACITY as u64 + 9).to_le_bytes()).as_bytes(), 10).is_some());
    }

    #[test]
    fn credentials_of_different_kinds_never_share_an_answer() {
        let unix = |uid, owner| Presented::Unix { uid, owner }.digest();
        assert_ne!(unix(0, true), unix(0, false));
        assert_ne!(unix(0, true), unix(1, true));
        assert_ne!(Presented::Bearer("unix".into()).digest(), unix(0, true));
        let shown = Certificate { fingerprint: "ab".into(), common_name: None };
        assert_ne!(Presented::Certificate(shown).digest(), Presented::Bearer("ab".into()).digest());
    }
}
