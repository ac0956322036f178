//! Approvals: a capsule asks a principal for its consent, and the principal says: this once, for the session, always, or no.
//!
//! Who asks is what the host has stamped on the message: its principal, its sender and the session below which it was sent;
//! nothing in a payload says so. The asker waits in its own request ([`request`]), and whoever answers wakes it; what counts
//! is the record, which one transaction after the other changes, so of two answers, and of an answer and the end of the
//! time, one counts. Bounds: [`MAX_OPEN`], [`MAX_ASKED`], [`MAX_STANDING`], and those of the texts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::payload::{self, invalid, stored};
use crate::ports::{Bucket, Listener, Ports, Transaction, transact};
use crate::refusal::Refusal;
use crate::sessions::MAX_AGE_SECS;

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
/// The longest action, resource and reason, in bytes.
const MAX_ACTION: usize = 128;
const MAX_RESOURCE: usize = 512;
const MAX_REASON: usize = 1024;
/// How long a request waits at most, whatever its sender's deadline.
const MAX_PATIENCE: Duration = Duration::from_secs(290);
/// What is kept of a sender's time to withdraw the request and answer.
const MARGIN: Duration = Duration::from_millis(500);

/// Everything that concerns one principal.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Approvals {
    open: Vec<Open>,
    standing: Vec<Standing>,
}

/// What a capsule wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Subject {
    capsule: String,
    action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
}

/// A request that waits for an answer.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    id: String,
    #[serde(flatten)]
    subject: Subject,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The session below which it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    /// Seconds since the Unix epoch.
    asked_at: u64,
    /// Seconds since the Unix epoch. Until then its sender waits, if it has not died.
    expires_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
}

/// An approval that answers later requests.
#[derive(Debug, Serialize, Deserialize)]
struct Standing {
    id: String,
    #[serde(flatten)]
    subject: Subject,
    /// The session in which it stands; none: in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    /// Seconds since the Unix epoch.
    granted_at: u64,
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

/// What a principal answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    ApproveOnce,
    ApproveSession,
    ApproveAlways,
    Deny,
}

impl Approvals {
    fn load(transaction: &mut impl Transaction, principal: &str, now: u64) -> Result<Self, Refusal> {
        Self::read(transaction.get(Bucket::Approvals, principal)?, now)
    }

    /// Without what is past.
    fn read(bytes: Option<Vec<u8>>, now: u64) -> Result<Self, Refusal> {
        let mut approvals: Self = bytes.map_or_else(|| Ok(Self::default()), |bytes| stored("approvals", &bytes))?;
        approvals.open.retain(|open| open.expires_at > now);
        approvals.standing.retain(|standing| !standing.has_expired(now));
        Ok(approvals)
    }

    fn save(&self, transaction: &mut impl Transaction, principal: &str) -> Result<(), Refusal> {
        if self.open.is_empty() && self.standing.is_empty() {
            return Ok(transaction.delete(Bucket::Approvals, principal)?);
        }
        let bytes = serde_json::to_vec(self).map_err(|error| Refusal::Internal(error.to_string()))?;
        Ok(transaction.put(Bucket::Approvals, principal, &bytes)?)
    }

    fn answer_to(&self, subject: &Subject, session: Option<&str>) -> Option<Outcome> {
        let found = self.standing.iter().find(|standing| standing.answers(subject, session))?;
        let by = if found.session.is_some() { By::Session } else { By::Always };
        Some(Outcome { approved: true, by })
    }
}

/// The open requests of one capsule: when each expires, by its id.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Asking(Vec<(String, u64)>);

impl Asking {
    fn load(transaction: &mut impl Transaction, capsule: &str, now: u64) -> Result<Self, Refusal> {
        let bytes = transaction.get(Bucket::Asking, capsule)?;
        let mut asking: Self = bytes.map_or_else(|| Ok(Self::default()), |bytes| stored("a capsule", &bytes))?;
        asking.0.retain(|(_, expires_at)| *expires_at > now);
        Ok(asking)
    }

    fn save(&self, transaction: &mut impl Transaction, capsule: &str) -> Result<(), Refusal> {
        if self.0.is_empty() {
            return Ok(transaction.delete(Bucket::Asking, capsule)?);
        }
        let bytes = serde_json::to_vec(self).map_err(|error| Refusal::Internal(error.to_string()))?;
        Ok(transaction.put(Bucket::Asking, capsule, &bytes)?)
    }
}

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
        return Err(invalid("action", "a text"));
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
            return Err(Refusal::Conflict(format!("{MAX_OPEN} requests wait for the principal's answer already")));
        }
        let mut asking = Asking::load(transaction, capsule, now)?;
        if asking.0.len() >= MAX_ASKED {
            return Err(Refusal::Conflict(format!("{MAX_ASKED} requests of this capsule wait for answers already")));
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
fn close<P: Ports>(ports: &P, principal: &str, capsule: &str, id: &str) -> Result<Outcome, Refusal> {
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
                return Err(Refusal::Conflict("the request was made in no session; approve it once or always".into()));
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListRequest {}

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
    let ListRequest {} = payload::read(payload)?;
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
        let before = approvals.standing.len();
        approvals.standing.retain(|standing| standing.id != id);
        if approvals.standing.len() == before {
            return Err(Refusal::NotFound("no such approval stands".into()));
        }
        approvals.save(transaction, principal)?;
        Ok(Done {})
    })
}

/// Stages that nothing stands in a session any more: it was ended.
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::principals;
    use crate::testing::{Fake, NOW};

    const SOON: Duration = Duration::from_secs(20);

    fn ask(fake: &Fake, who: &str, capsule: &str, action: &str) -> Result<Outcome, Refusal> {
        let payload = json!({ "action": action, "resource": "file:/a", "reason": "to tidy up" });
        request(fake, who, capsule, payload.to_string().as_bytes(), SOON)
    }

    fn listed(fake: &Fake, who: &str) -> Value {
        serde_json::to_value(list(fake, who, b"").unwrap()).unwrap()
    }

    fn first(fake: &Fake, who: &str) -> String {
        listed(fake, who)["requests"][0]["id"].as_str().expect("a request").to_owned()
    }

    fn reply(fake: &Fake, who: &str, id: &str, decision: &str) -> Result<Done, Refusal> {
        answer(fake, who, "gateway", json!({ "id": id, "decision": decision }).to_string().as_bytes())
    }

    /// Asks, and answers while it waits.
    fn asked(fake: &Fake, who: &'static str, capsule: &str, decision: &'static str) -> Outcome {
        fake.while_waiting(move |fake| assert_eq!(reply(fake, who, &first(fake, who), decision), Ok(Done {})));
        ask(fake, who, capsule, "delete").unwrap()
    }

    #[test]
    fn a_request_is_told_listed_answered_once_and_gone() {
        let fake = Fake::new();
        fake.while_waiting(|fake| {
            let row = json!({ "id": first(fake, "bo"), "capsule": "notes", "action": "delete", "resource": "file:/a",
                              "reason": "to tidy up", "asked_at_epoch": NOW, "expires_at_epoch": NOW + 20 });
            assert_eq!(listed(fake, "bo"), json!({ "requests": [row], "standing": [] }));
            assert_eq!(fake.published(), [(ASKED.to_owned(), row)]);
            let id = first(fake, "bo");
            assert!(matches!(reply(fake, "al", &id, "approve_always"), Err(Refusal::NotFound(_))), "not hers");
            assert!(matches!(reply(fake, "bo", &id, "yes"), Err(Refusal::Invalid(_))));
            reply(fake, "bo", &id, "approve_once").unwrap();
            assert!(matches!(reply(fake, "bo", &id, "deny"), Err(Refusal::Conflict(_))), "one answer counts");
        });
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), Outcome { approved: true, by: By::Once });
        assert_eq!(fake.published().len(), 2);
        assert!(fake.text().is_empty(), "{}", fake.text());
        assert_eq!(asked(&fake, "bo", "notes", "deny"), Outcome { approved: false, by: By::Denial });
    }

    #[test]
    fn no_answer_in_time_is_a_denial_and_an_answer_afterwards_finds_nothing() {
        let fake = Fake::new();
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
        let events = fake.published();
        let id = events[0].1["id"].as_str().unwrap();
        assert_eq!(events[1], (OVER.into(), json!({ "id": id, "approved": false, "by": "timeout" })));
        assert!(matches!(reply(&fake, "bo", id, "approve_always"), Err(Refusal::NotFound(_))));
        assert!(fake.text().is_empty());
    }

    #[test]
    fn of_an_answer_and_the_end_of_the_time_one_counts_whichever_commits_first() {
        let fake = Fake::new();
        // It commits after the time is over and before the request is withdrawn.
        fake.while_waiting(|fake| {
            fake.before_commit(|fake| assert_eq!(reply(fake, "bo", &first(fake, "bo"), "approve_once"), Ok(Done {})));
            fake.time_is_over();
        });
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), Outcome { approved: true, by: By::Once });
        // The other way round.
        fake.while_waiting(|fake| {
            let id = first(fake, "bo");
            fake.before_commit(move |fake| assert_eq!(close(fake, "bo", "notes", &id).unwrap(), TIMEOUT));
            assert!(matches!(reply(fake, "bo", &first(fake, "bo"), "approve_once"), Err(Refusal::NotFound(_))));
        });
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
    }

    #[test]
    fn of_two_answers_at_once_one_counts() {
        let fake = Fake::new();
        fake.while_waiting(|fake| {
            let id = first(fake, "bo");
            fake.before_commit(|fake| assert_eq!(reply(fake, "bo", &first(fake, "bo"), "deny"), Ok(Done {})));
            assert!(matches!(reply(fake, "bo", &id, "approve_always"), Err(Refusal::Conflict(_))));
        });
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), Outcome { approved: false, by: By::Denial });
        assert!(fake.text().is_empty(), "nothing stands");
    }

    #[test]
    fn always_stands_for_this_capsule_action_and_resource_until_it_is_withdrawn() {
        let fake = Fake::new();
        let always = Outcome { approved: true, by: By::Always };
        assert_eq!(asked(&fake, "bo", "notes", "approve_always"), always);
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), always, "nobody was asked");
        for (who, capsule, action) in [("al", "notes", "delete"), ("bo", "other", "delete"), ("bo", "notes", "read")] {
            assert_eq!(ask(&fake, who, capsule, action).unwrap(), TIMEOUT, "{who} {capsule} {action}");
        }
        let standing = listed(&fake, "bo")["standing"].clone();
        assert_eq!((standing.as_array().unwrap().len(), &standing[0]["session"]), (1, &json!(false)));
        let request = json!({ "id": standing[0]["id"] }).to_string();
        assert!(matches!(withdraw(&fake, "al", request.as_bytes()), Err(Refusal::NotFound(_))), "not hers");
        withdraw(&fake, "bo", request.as_bytes()).unwrap();
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
        assert!(matches!(withdraw(&fake, "bo", request.as_bytes()), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn what_stands_in_a_session_stands_in_no_other_and_not_for_another_whose_session_is_called_the_same() {
        let fake = Fake::new();
        fake.through_session(Some("one"));
        let session = Outcome { approved: true, by: By::Session };
        assert_eq!(asked(&fake, "bo", "notes", "approve_session"), session);
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), session);
        assert_eq!(ask(&fake, "al", "notes", "delete").unwrap(), TIMEOUT, "hers is called the same");
        for other in [Some("two"), None] {
            fake.through_session(other);
            assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT, "{other:?}");
        }
        fake.while_waiting(|fake| {
            let refused = reply(fake, "bo", &first(fake, "bo"), "approve_session");
            assert!(matches!(refused, Err(Refusal::Conflict(_))), "there is none to stand in");
        });
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
        fake.through_session(Some("one"));
        transact(&fake, |transaction| end_session(transaction, "bo", "one", NOW)).unwrap();
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT, "it ended");
        assert_eq!(asked(&fake, "bo", "notes", "approve_session"), session);
        fake.set_now(NOW + MAX_AGE_SECS);
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT, "no session is that old");
    }

    #[test]
    fn a_capsule_never_answers_what_it_has_asked() {
        let fake = Fake::new();
        fake.while_waiting(|fake| {
            let payload = json!({ "id": first(fake, "bo"), "decision": "approve_once" }).to_string();
            assert!(matches!(answer(fake, "bo", "notes", payload.as_bytes()), Err(Refusal::Denied(_))));
        });
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
    }

    #[test]
    fn open_requests_are_bounded_for_a_principal_and_for_a_capsule_and_forgotten_when_they_expire() {
        fn nested(fake: &Fake, left: usize) {
            if left == 0 {
                let more = ask(fake, "bo", "other", "delete");
                assert!(matches!(more, Err(Refusal::Conflict(why)) if why.contains("principal")));
                return;
            }
            fake.while_waiting(move |fake| nested(fake, left - 1));
            ask(fake, "bo", "notes", "delete").unwrap();
        }
        let fake = Fake::new();
        nested(&fake, MAX_OPEN);
        assert!(fake.text().is_empty());
        let open: Vec<_> = (0..MAX_ASKED).map(|n| (n.to_string(), NOW + 20)).collect();
        fake.set(Bucket::Asking, "notes", &json!(open));
        let more = ask(&fake, "bo", "notes", "delete");
        assert!(matches!(more, Err(Refusal::Conflict(why)) if why.contains("capsule")));
        assert_eq!(ask(&fake, "bo", "other", "delete").unwrap(), TIMEOUT);
        fake.set_now(NOW + 20);
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
        assert!(fake.text().is_empty());
    }

    #[test]
    fn approvals_that_stand_are_bounded() {
        let fake = Fake::new();
        for n in 0..=MAX_STANDING {
            fake.while_waiting(move |fake| {
                let answered = reply(fake, "bo", &first(fake, "bo"), "approve_always");
                assert_eq!(answered.is_ok(), n < MAX_STANDING, "{n}");
            });
            ask(&fake, "bo", "notes", &format!("a{n}")).unwrap();
        }
    }

    #[test]
    fn texts_are_bounded_and_show_what_they_are() {
        let fake = Fake::new();
        for wrong in [
            json!({}),
            json!({ "action": "" }),
            json!({ "action": "a".repeat(MAX_ACTION + 1) }),
            json!({ "action": "a", "resource": "r".repeat(MAX_RESOURCE + 1) }),
            json!({ "action": "a", "reason": "r".repeat(MAX_REASON + 1) }),
            json!({ "action": "a", "principal": "default" }),
        ] {
            let refused = request(&fake, "bo", "notes", wrong.to_string().as_bytes(), SOON);
            assert!(matches!(refused, Err(Refusal::Invalid(_))), "{wrong}");
        }
        let payload = json!({ "action": "rm\u{202e}\n\u{1b}[2J", "reason": "a\u{200b}b ä" }).to_string();
        request(&fake, "bo", "notes", payload.as_bytes(), SOON).unwrap();
        let event = &fake.published()[0].1;
        assert_eq!(event["action"], "rm\u{fffd}\u{fffd}\u{fffd}[2J");
        assert_eq!(event["reason"], "a\u{fffd}b ä");
    }

    #[test]
    fn a_deleted_principals_approvals_go_with_it() {
        let fake = Fake::with(&["bo"]);
        asked(&fake, "bo", "notes", "approve_always");
        principals::delete(&fake, br#"{"principal":"bo"}"#).unwrap();
        assert!(fake.keys(Bucket::Approvals).is_empty());
    }
}
