//! Approvals: a capsule asks a principal for its consent, and the principal says: this once, for the session, always, or no.
//!
//! Who asks is what the host has stamped on the message: its principal, its sender and the session below which it was sent;
//! nothing in a payload says so. The asker waits in its own request ([`request`]), and whoever answers wakes it. What counts
//! is the record, and transactions change it one after the other: of two answers, or of an answer and the end of the time, the
//! first counts. Bounds: [`MAX_OPEN`], [`MAX_ASKED`], [`MAX_STANDING`], and those of the texts.
//!
//! Here is what both sides say; [`record`] is what is kept, [`ask`] the capsule's side, [`consent`] the principal's.

mod ask;
mod consent;
mod record;

use serde::{Deserialize, Serialize};

pub use ask::request;
pub use consent::{Done, List, StandingRow, answer, end_session, list, withdraw};
use record::{Open, Subject};

use crate::ports::Ports;

/// Published when a principal is asked, on its behalf: only its own subscriptions get it.
pub const ASKED: &str = "identity.v1.approval.asked";
/// Published when a request is over, in the same way.
pub const OVER: &str = "identity.v1.approval.over";

/// The most open requests of one principal.
pub const MAX_OPEN: usize = 8;
/// The most open requests of one capsule.
pub const MAX_ASKED: usize = 64;
/// The most approvals of one principal that stand.
pub const MAX_STANDING: usize = 64;

/// What a principal answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    ApproveOnce,
    ApproveSession,
    ApproveAlways,
    Deny,
}

/// The answer to `approval.request`, for the asking capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Outcome {
    pub approved: bool,
    pub by: By,
}

/// How it came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Once,
    Session,
    Always,
    Denial,
    /// Nobody has answered in time.
    Timeout,
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::ApproveOnce => Self { approved: true, by: By::Once },
            Decision::ApproveSession => Self { approved: true, by: By::Session },
            Decision::ApproveAlways => Self { approved: true, by: By::Always },
            Decision::Deny => Self { approved: false, by: By::Denial },
        }
    }
}

/// What nobody answering in time comes to.
const TIMEOUT: Outcome = Outcome { approved: false, by: By::Timeout };

/// An open request, as its principal sees it.
#[derive(Debug, Serialize)]
pub struct Row {
    pub id: String,
    pub capsule: String,
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub asked_at_epoch: u64,
    pub expires_at_epoch: u64,
}

impl From<&Open> for Row {
    fn from(open: &Open) -> Self {
        let Subject { capsule, action, resource } = open.subject.clone();
        let (id, reason) = (open.id.clone(), open.reason.clone());
        let (asked_at_epoch, expires_at_epoch) = (open.asked_at, open.expires_at);
        Self { id, capsule, action, resource, reason, asked_at_epoch, expires_at_epoch }
    }
}

/// That a request is over.
#[derive(Serialize)]
struct Over<'a> {
    id: &'a str,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Tells the principal's own subscriptions. Whoever misses it sees the same in the list.
fn tell<P: Ports>(ports: &P, topic: &str, event: &impl Serialize) {
    if let Ok(payload) = serde_json::to_vec(event) {
        ports.publish(topic, &payload);
    }
}

#[cfg(test)]
mod tests;
