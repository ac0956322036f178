//! What becomes of a request that needs a right, as a fact.
//!
//! Written when it has ended, however it does; where its binding says `audit = "strict"`, also durably before its handler is
//! asked, and durably before its answer goes back. One that needs no right is a fact where its handler has something to say of
//! it: a login, say. Refuses to know what a topic means.

use std::sync::{Arc, Mutex};

use astrid_capsule::manifest::{Audit, Subscribe};
use bytes::Bytes;
use tokio::time::Instant;

use super::{Failure, Message, RETRY_MS, Refusal, RefusalCode};
use crate::authority::Admission;
use crate::journal::{Decision, Fact, Journal, Outcome, Unavailable};

/// What a handler says of its call for the record.
#[derive(Debug, Default)]
pub struct Note(Mutex<Option<String>>);

impl Note {
    /// One JSON object, cleaned by whoever says it. What was said before is forgotten.
    pub fn say(&self, detail: String) {
        *self.0.lock().expect("no panic under this lock") = Some(detail);
    }

    fn take(&self) -> Option<String> {
        self.0.lock().expect("no panic under this lock").take()
    }
}

/// A request that is to be recorded.
pub(super) struct Recording {
    journal: Arc<Journal>,
    /// None once it is written.
    fact: Option<Fact>,
    began: Instant,
    strict: bool,
    note: Arc<Note>,
    /// Whether it is a fact only if there is something in the note.
    noted: bool,
}

impl Recording {
    /// None where there is nothing to record: whoever asks needs no right and is known, or it is a rehearsal.
    pub(super) fn of(
        journal: Option<&Arc<Journal>>,
        message: &mut Message,
        binding: &Subscribe,
        admission: &Admission,
    ) -> Option<Self> {
        let strict = binding.audit == Audit::Strict;
        let needs = strict || admission.refused.is_some() || !admission.requires.is_empty();
        let journal = journal.filter(|_| (needs || binding.public) && !message.rehearsal)?.clone();
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let fact = Fact {
            principal: Some(message.principal.to_string()),
            session: message.mandate.name().map(str::to_owned),
            capsule: Some(message.origin.capsule.to_string()),
            hash: some(&message.origin.hash),
            target: message.target.as_ref().map(ToString::to_string),
            requires: some(&admission.requires),
            decision: Some(if admission.refused.is_some() { Decision::Denied } else { Decision::Allowed }),
            rule: some(&admission.rule),
            cause: message.cause.as_ref().map(ToString::to_string),
            payload: Some(journal.digest(&message.payload)),
            ..journal.fact(&format!("bus.{}", message.topic))
        };
        let note = message.note.insert(Arc::default()).clone();
        Some(Self { journal, fact: Some(fact), began: Instant::now(), strict, note, noted: !needs })
    }

    /// Before the handler is asked. Fails where that must be recorded and can't be.
    pub(super) async fn begin(&self) -> Result<(), Failure> {
        let Some(fact) = self.fact.as_ref().filter(|_| self.strict) else { return Ok(()) };
        let began = Fact { outcome: Outcome::Began, ..fact.clone() };
        self.journal.append_durable(began).await.map(|_| ()).map_err(|error| unrecorded(&error))
    }

    /// The answer, once it is recorded how it ended.
    pub(super) async fn end(mut self, answer: Result<Bytes, Failure>) -> Result<Bytes, Failure> {
        let Some(fact) = self.take(&answer) else { return answer };
        if !self.strict {
            self.journal.append(fact);
            return answer;
        }
        match self.journal.append_durable(fact).await {
            Ok(_) => answer,
            Err(error) => answer.and(Err(unrecorded(&error))),
        }
    }

    fn take(&mut self, answer: &Result<Bytes, Failure>) -> Option<Fact> {
        let (outcome, reason) = match answer {
            Ok(_) => (Outcome::Ok, None),
            Err(failure) => (outcome(failure), Some(reason(failure))),
        };
        self.finish(outcome, reason)
    }

    fn finish(&mut self, outcome: Outcome, reason: Option<String>) -> Option<Fact> {
        let (fact, detail) = (self.fact.take()?, self.note.take());
        if self.noted && detail.is_none() {
            return None;
        }
        let duration = u64::try_from(self.began.elapsed().as_nanos()).ok();
        // Of when it ended.
        let Fact { time, .. } = self.journal.fact("");
        Some(Fact { time, outcome, reason, duration, detail, ..fact })
    }
}

impl Drop for Recording {
    /// Nobody waited for its end, which ends it.
    fn drop(&mut self) {
        if let Some(fact) = self.finish(Outcome::Failed, Some("whoever asked went away".to_owned())) {
            self.journal.append(fact);
        }
    }
}

fn outcome(failure: &Failure) -> Outcome {
    match failure {
        Failure::Denied(_) => Outcome::Refused,
        Failure::Refused(refusal) if refusal.code == RefusalCode::Denied => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

fn reason(failure: &Failure) -> String {
    match failure {
        Failure::Denied(why) | Failure::Invalid(why) => format!("{}: {why}", failure.kind()),
        Failure::Refused(Refusal { code, reason }) => format!("{code:?}: {reason}"),
        _ => failure.kind().to_owned(),
    }
}

/// What whoever asked is told; why is in the log.
fn unrecorded(error: &Unavailable) -> Failure {
    match error {
        Unavailable::Overloaded => Failure::Overloaded { retry_ms: RETRY_MS },
        _ => Failure::Refused(Refusal {
            code: RefusalCode::Unavailable,
            reason: "it must be recorded, and can't be now".to_owned(),
        }),
    }
}
