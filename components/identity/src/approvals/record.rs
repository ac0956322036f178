//! What is kept: of each principal what it is asked and has approved, of each capsule how much it asks. What is past is left
//! out when it is read.

use serde::{Deserialize, Serialize};

use super::{By, Decision, Outcome};
use crate::payload::{stored, to_store};
use crate::ports::{Bucket, Transaction};
use crate::refusal::Refusal;
use crate::sessions::MAX_AGE_SECS;

/// Everything that concerns one principal.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Approvals {
    pub(super) open: Vec<Open>,
    pub(super) standing: Vec<Standing>,
}

/// What a capsule wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) capsule: String,
    pub(super) action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<String>,
}

/// A request that waits for an answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) subject: Subject,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// The session below which it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
    /// Seconds since the Unix epoch.
    pub(super) asked_at: u64,
    /// Seconds since the Unix epoch. Until then its sender waits, if it has not died.
    pub(super) expires_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) decision: Option<Decision>,
}

/// An approval that answers later requests.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) subject: Subject,
    /// The session in which it stands; none: in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
    /// Seconds since the Unix epoch.
    pub(super) granted_at: u64,
}

impl Standing {
    /// No session is older than [`MAX_AGE_SECS`], so what stands in one for longer stands in none.
    fn has_expired(&self, now: u64) -> bool {
        self.session.is_some() && self.granted_at + MAX_AGE_SECS <= now
    }

    fn answers(&self, subject: &Subject, session: Option<&str>) -> bool {
        self.subject == *subject && (self.session.is_none() || self.session.as_deref() == session)
    }
}

impl Approvals {
    pub(super) fn load(transaction: &mut impl Transaction, principal: &str, now: u64) -> Result<Self, Refusal> {
        Self::read(transaction.get(Bucket::Approvals, principal)?, now)
    }

    /// Without what is past.
    pub(super) fn read(bytes: Option<Vec<u8>>, now: u64) -> Result<Self, Refusal> {
        let mut approvals: Self =
            bytes.map_or_else(|| Ok(Self::default()), |bytes| stored("the principal's approvals", &bytes))?;
        approvals.open.retain(|open| open.expires_at > now);
        approvals.standing.retain(|standing| !standing.has_expired(now));
        Ok(approvals)
    }

    pub(super) fn save(&self, transaction: &mut impl Transaction, principal: &str) -> Result<(), Refusal> {
        if self.open.is_empty() && self.standing.is_empty() {
            return Ok(transaction.delete(Bucket::Approvals, principal)?);
        }
        Ok(transaction.put(Bucket::Approvals, principal, &to_store(self)?)?)
    }

    pub(super) fn answer_to(&self, subject: &Subject, session: Option<&str>) -> Option<Outcome> {
        let found = self.standing.iter().find(|standing| standing.answers(subject, session))?;
        let by = if found.session.is_some() { By::Session } else { By::Always };
        Some(Outcome { approved: true, by })
    }
}

/// The open requests of one capsule: when each expires, by its id.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Asking(pub(super) Vec<(String, u64)>);

impl Asking {
    pub(super) fn load(transaction: &mut impl Transaction, capsule: &str, now: u64) -> Result<Self, Refusal> {
        let bytes = transaction.get(Bucket::Asking, capsule)?;
        let mut asking: Self =
            bytes.map_or_else(|| Ok(Self::default()), |bytes| stored("the capsule's requests", &bytes))?;
        asking.0.retain(|(_, expires_at)| *expires_at > now);
        Ok(asking)
    }

    pub(super) fn save(&self, transaction: &mut impl Transaction, capsule: &str) -> Result<(), Refusal> {
        if self.0.is_empty() {
            return Ok(transaction.delete(Bucket::Asking, capsule)?);
        }
        Ok(transaction.put(Bucket::Asking, capsule, &to_store(self)?)?)
    }
}
