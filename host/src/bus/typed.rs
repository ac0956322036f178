//! Strict mode: messages are held to the types that capsules declare for their topics.
//!
//! The one place where the host looks into a payload, and only where `bus.strict` is on. Owns which type a message is
//! held to: what a capsule sends to that of its `[[publish]]`, what a handler gets and answers to that of its
//! `[[subscribe]]`. A topic without a type takes anything, and pieces of an answer are not looked at.
//!
//! A check costs the payload's bytes, of which there are at most `bus.max-payload-bytes`, paid by the sender's rate. Why
//! it is off by default: docs/decisions/0017-types.md. Refuses to know what a value means.

use std::collections::HashMap;
use std::sync::Arc;

use astrid_capsule::manifest::Manifest;
use astrid_capsule::schema::{Schemas, TypeName, Wit};
use astrid_capsule::{Pattern, Topic};

use super::{Failure, Refusal, RefusalCode};

/// The types of one topic.
#[derive(Debug)]
pub struct Typed {
    schemas: Arc<Schemas>,
    wit: Wit,
}

/// The types that one generation of a capsule is held to; by default none.
#[derive(Debug, Default)]
pub struct Types {
    bound: HashMap<Pattern, Arc<Typed>>,
    /// The better match first.
    sent: Vec<(Pattern, Typed)>,
}

impl Types {
    /// Every type that the manifest names.
    pub fn new(manifest: &Manifest, schemas: Schemas) -> Self {
        let schemas = Arc::new(schemas);
        let typed = |wit: &Wit| Typed { schemas: schemas.clone(), wit: wit.clone() };
        let bound = manifest.subscribe.iter();
        let bound = bound.filter_map(|b| Some((b.topic.clone(), Arc::new(typed(b.wit.as_ref()?)))));
        let sent = manifest.publish.iter().filter_map(|p| Some((p.topic.clone(), typed(p.wit.as_ref()?))));
        let (bound, mut sent) = (bound.collect(), sent.collect::<Vec<_>>());
        sent.sort_by_key(|(topic, _)| std::cmp::Reverse(topic.specificity()));
        Self { bound, sent }
    }

    /// The types of a binding.
    pub fn bound(&self, topic: &Pattern) -> Option<Arc<Typed>> {
        self.bound.get(topic).cloned()
    }

    /// Whether the capsule may send this: `invalid` with the place if it does not fit the type that it declares itself.
    pub fn check_sent(&self, topic: &str, payload: &[u8]) -> Result<(), Failure> {
        if self.sent.is_empty() {
            return Ok(());
        }
        let topic = Topic::parse(topic).map_err(|error| Failure::Invalid(error.to_string()))?;
        let typed = self.sent.iter().find(|(pattern, _)| pattern.matches(&topic));
        typed.map_or(Ok(()), |(_, typed)| typed.check_payload(&topic, payload))
    }
}

impl Typed {
    /// `invalid` with the place if the handler does not take this.
    pub fn check_payload(&self, topic: &Topic, payload: &[u8]) -> Result<(), Failure> {
        self.fit(&self.wit.payload, payload)
            .map_err(|why| Failure::Invalid(format!("the payload of {topic} does not fit its type {why}")))
    }

    /// An answer that does not fit is its handler's failure: the log has the place, the caller learns that it failed.
    pub fn check_answer(&self, topic: &Topic, answer: &[u8]) -> Result<(), Failure> {
        let Some(name) = &self.wit.answer else { return Ok(()) };
        self.fit(name, answer).map_err(|why| {
            tracing::error!(%topic, "a handler's answer does not fit its type {why}");
            internal(format!("the answer of {topic} does not fit its type"))
        })
    }

    /// What interceptors made of a payload that fitted: theirs is the failure.
    pub fn check_changed(&self, topic: &Topic, payload: &[u8]) -> Result<(), Failure> {
        self.fit(&self.wit.payload, payload).map_err(|why| {
            tracing::error!(%topic, "an interceptor's payload does not fit its type {why}");
            internal(format!("an interceptor of {topic} made a payload that does not fit its type"))
        })
    }

    fn fit(&self, name: &TypeName, json: &[u8]) -> Result<(), String> {
        self.schemas.fit(name, json).map_err(|misfit| format!("`{name}` {misfit}"))
    }
}

fn internal(reason: String) -> Failure {
    Failure::Refused(Refusal { code: RefusalCode::Internal, reason })
}
