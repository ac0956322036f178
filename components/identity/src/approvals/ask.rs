//! Asking: a request is opened, told to its principal, waited for and closed, by whoever has made it.

use std::time::Duration;

use serde::Deserialize;

use super::record::{Approvals, Asking, Open, Subject};
use super::{ASKED, MAX_ASKED, MAX_OPEN, OVER, Outcome, Over, Row, TIMEOUT, tell};
use crate::payload::{self, invalid};
use crate::ports::{Bucket, Listener, Ports, transact};
use crate::refusal::Refusal;

/// The longest action, resource and reason, in bytes.
pub(super) const MAX_ACTION: usize = 128;
pub(super) const MAX_RESOURCE: usize = 512;
pub(super) const MAX_REASON: usize = 1024;
/// How long a request waits at most, whatever its sender's deadline.
const MAX_PATIENCE: Duration = Duration::from_secs(290);
/// What is kept of a sender's time to withdraw the request and answer.
const MARGIN: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    action: String,
    #[serde(default)]
    resource: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

/// A text as a person may see it: nothing in it moves the cursor, hides something or turns its order around.
fn clean(field: &str, text: &str, most: usize) -> Result<String, Refusal> {
    if text.len() > most {
        return Err(invalid(field, format!("at most {most} bytes long; it has {}", text.len())));
    }
    let deceives = |c: char| {
        let hidden = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{200b}'..='\u{200f}');
        c.is_control() || hidden || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    Ok(text.chars().map(|c| if deceives(c) { char::REPLACEMENT_CHARACTER } else { c }).collect())
}

/// Asks `principal` on behalf of `capsule`, and waits for its answer; `remaining` is what the sender has left. What stands
/// already is answered at once. No answer in time is a denial, and the request is withdrawn.
pub fn request<P: Ports>(
    ports: &P,
    principal: &str,
    capsule: &str,
    payload: &[u8],
    remaining: Duration,
) -> Result<Outcome, Refusal> {
    let Ask { action, resource, reason } = payload::read(payload)?;
    if action.is_empty() {
        return Err(invalid("action", format!("1 to {MAX_ACTION} bytes long; it is empty")));
    }
    let action = clean("action", &action, MAX_ACTION)?;
    let resource = resource.map(|text| clean("resource", &text, MAX_RESOURCE)).transpose()?;
    let reason = reason.map(|text| clean("reason", &text, MAX_REASON)).transpose()?;
    let subject = Subject { capsule: capsule.into(), action, resource };
    let session = ports.session();
    let standing = Approvals::read(ports.get(Bucket::Approvals, principal)?, ports.now())?;
    if let Some(outcome) = standing.answer_to(&subject, session.as_deref()) {
        return Ok(outcome);
    }
    let patience = remaining.saturating_sub(MARGIN.min(remaining / 2)).min(MAX_PATIENCE);
    let mut id = [0; 16];
    ports.random(&mut id)?;
    let id = hex::encode(id);
    // Before the request is there: whoever answers it is heard.
    let mut answers = ports.listen(OVER, patience)?;
    let opened = transact(ports, |transaction| {
        let now = ports.now();
        let mut approvals = Approvals::load(transaction, principal, now)?;
        if let Some(outcome) = approvals.answer_to(&subject, session.as_deref()) {
            return Ok(Err(outcome));
        }
        if approvals.open.len() >= MAX_OPEN {
            return Err(Refusal::Conflict(format!(
                "{MAX_OPEN} requests wait for the principal's answer already; try again once one is answered"
            )));
        }
        let mut asking = Asking::load(transaction, capsule, now)?;
        if asking.0.len() >= MAX_ASKED {
            return Err(Refusal::Conflict(format!(
                "{MAX_ASKED} requests of this capsule wait for answers already; try again once one is answered"
            )));
        }
        let open = Open {
            id: id.clone(),
            subject: subject.clone(),
            reason: reason.clone(),
            session: session.clone(),
            asked_at: now,
            expires_at: now + patience.as_secs() + 1,
            decision: None,
        };
        let row = Row::from(&open);
        asking.0.push((open.id.clone(), open.expires_at));
        approvals.open.push(open);
        asking.save(transaction, capsule)?;
        approvals.save(transaction, principal)?;
        Ok(Ok(row))
    })?;
    match opened {
        Ok(row) => tell(ports, ASKED, &row),
        Err(outcome) => return Ok(outcome),
    }
    loop {
        // Where nothing can be heard any more, nobody waits: that is the end of the time as well.
        let in_time = answers.next().unwrap_or(false);
        let known = Approvals::read(ports.get(Bucket::Approvals, principal)?, 0)?;
        let undecided = known.open.iter().any(|open| open.id == id && open.decision.is_none());
        if in_time && undecided {
            continue;
        }
        let outcome = close(ports, principal, capsule, &id)?;
        if outcome == TIMEOUT {
            tell(ports, OVER, &Over { id: &id, outcome });
        }
        return Ok(outcome);
    }
}

/// Takes an open request away: its answer, or that there was none.
pub(super) fn close<P: Ports>(ports: &P, principal: &str, capsule: &str, id: &str) -> Result<Outcome, Refusal> {
    transact(ports, |transaction| {
        let mut approvals = Approvals::load(transaction, principal, 0)?;
        let mut asking = Asking::load(transaction, capsule, 0)?;
        asking.0.retain(|(other, _)| other != id);
        asking.save(transaction, capsule)?;
        let Some(at) = approvals.open.iter().position(|open| open.id == id) else { return Ok(TIMEOUT) };
        let decision = approvals.open.remove(at).decision;
        approvals.save(transaction, principal)?;
        Ok(decision.map_or(TIMEOUT, Outcome::from))
    })
}
