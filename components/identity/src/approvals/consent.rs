//! Consenting: a principal sees what it is asked and what it has approved, answers, and takes an approval back.

use serde::{Deserialize, Serialize};

use super::record::{Approvals, Standing, Subject};
use super::{Decision, MAX_STANDING, OVER, Over, Row, tell};
use crate::payload;
use crate::ports::{Bucket, Ports, Transaction, transact};
use crate::refusal::Refusal;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerRequest {
    id: String,
    decision: Decision,
}

/// The answer to `approval.answer` and `approval.withdraw`: an empty object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Done {}

/// Answers an open request of `principal`, which the caller is; `sender` is the capsule through which it answers. A request
/// is answered once, and never by the capsule that has asked.
pub fn answer<P: Ports>(ports: &P, principal: &str, sender: &str, payload: &[u8]) -> Result<Done, Refusal> {
    let AnswerRequest { id, decision } = payload::read(payload)?;
    transact(ports, |transaction| {
        let now = ports.now();
        let mut approvals = Approvals::load(transaction, principal, now)?;
        let found = approvals.open.iter_mut().find(|open| open.id == id);
        let open = found.ok_or_else(|| Refusal::NotFound("no such request waits for an answer".into()))?;
        if open.subject.capsule == sender {
            return Err(Refusal::Denied("a capsule never answers what it has asked".into()));
        }
        if open.decision.is_some() {
            return Err(Refusal::Conflict("the request was answered already".into()));
        }
        open.decision = Some(decision);
        let session = match decision {
            Decision::ApproveOnce | Decision::Deny => None,
            Decision::ApproveAlways => Some(None),
            Decision::ApproveSession if open.session.is_none() => {
                return Err(Refusal::Conflict(
                    "the request was not made in a session; approve it once or always".into(),
                ));
            }
            Decision::ApproveSession => Some(open.session.clone()),
        };
        if let Some(session) = session {
            let standing = Standing { id: id.clone(), subject: open.subject.clone(), session, granted_at: now };
            let same = |other: &Standing| other.subject == standing.subject && other.session == standing.session;
            approvals.standing.retain(|other| !same(other));
            if approvals.standing.len() >= MAX_STANDING {
                return Err(Refusal::Conflict(format!("{MAX_STANDING} approvals stand already; withdraw one")));
            }
            approvals.standing.push(standing);
        }
        approvals.save(transaction, principal)
    })?;
    tell(ports, OVER, &Over { id: &id, outcome: decision.into() });
    Ok(Done {})
}

/// The answer to `approval.list`.
#[derive(Debug, Serialize)]
pub struct List {
    /// What waits for an answer, oldest first.
    pub requests: Vec<Row>,
    /// What answers later requests.
    pub standing: Vec<StandingRow>,
}

/// An approval that stands.
#[derive(Debug, Serialize)]
pub struct StandingRow {
    pub id: String,
    pub capsule: String,
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Whether it stands in one session alone.
    pub session: bool,
    pub granted_at_epoch: u64,
}

/// What waits for a principal's answer, and what it has approved for longer than once.
pub fn list<P: Ports>(ports: &P, principal: &str, payload: &[u8]) -> Result<List, Refusal> {
    payload::read_empty(payload)?;
    let approvals = Approvals::read(ports.get(Bucket::Approvals, principal)?, ports.now())?;
    let standing = |Standing { id, subject, session, granted_at }| {
        let Subject { capsule, action, resource } = subject;
        StandingRow { id, capsule, action, resource, session: session.is_some(), granted_at_epoch: granted_at }
    };
    let requests = approvals.open.iter().filter(|open| open.decision.is_none()).map(Row::from).collect();
    Ok(List { requests, standing: approvals.standing.into_iter().map(standing).collect() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WithdrawRequest {
    id: String,
}

/// Takes back an approval that stands: the next request is asked again.
pub fn withdraw<P: Ports>(ports: &P, principal: &str, payload: &[u8]) -> Result<Done, Refusal> {
    let WithdrawRequest { id } = payload::read(payload)?;
    transact(ports, |transaction| {
        let mut approvals = Approvals::load(transaction, principal, ports.now())?;
        let found = approvals.standing.iter().position(|standing| standing.id == id);
        approvals.standing.remove(found.ok_or_else(|| Refusal::NotFound("there is no such approval".into()))?);
        approvals.save(transaction, principal)?;
        Ok(Done {})
    })
}

/// Stages that nothing is approved for a session any more, since it has ended.
pub fn end_session(
    transaction: &mut impl Transaction,
    principal: &str,
    session: &str,
    now: u64,
) -> Result<(), Refusal> {
    let mut approvals = Approvals::load(transaction, principal, now)?;
    let before = approvals.standing.len();
    approvals.standing.retain(|standing| standing.session.as_deref() != Some(session));
    if approvals.standing.len() == before { Ok(()) } else { approvals.save(transaction, principal) }
}
