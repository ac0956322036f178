//! What an installed capsule says of its topics: a list for people and tools.

use astrid_capsule::manifest::Manifest;
use astrid_capsule::schema::{Schemas, TypeName, Wit};

/// What a capsule does with messages of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Publish,
    Subscribe,
    Intercept,
}

/// One `[[publish]]`, `[[subscribe]]` or `[[intercept]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub topic: String,
    pub direction: Direction,
    /// None of what is published, and of subscriptions.
    pub handler: Option<String>,
    /// Of interceptors.
    pub priority: Option<u16>,
    pub payload: Option<Type>,
    pub answer: Option<Type>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// As the manifest names it.
    pub name: String,
    /// JSON Schema that stands alone.
    pub schema: String,
}

/// In the manifest's order: what is published, what is subscribed to, what is intercepted.
pub(super) fn of(manifest: &Manifest, schemas: &Schemas) -> Vec<Topic> {
    let of = |name: &TypeName| Some(Type { name: name.to_string(), schema: schemas.schema(name)?.to_string() });
    let typed = |wit: &Option<Wit>| {
        let wit = wit.as_ref();
        (wit.and_then(|wit| of(&wit.payload)), wit.and_then(|wit| of(wit.answer.as_ref()?)))
    };
    let mut topics = Vec::new();
    for sent in &manifest.publish {
        let (payload, answer) = typed(&sent.wit);
        let (topic, direction) = (sent.topic.to_string(), Direction::Publish);
        topics.push(Topic { topic, direction, handler: None, priority: None, payload, answer });
    }
    for binding in &manifest.subscribe {
        let (payload, answer) = typed(&binding.wit);
        let (topic, handler) = (binding.topic.to_string(), binding.handler.clone());
        topics.push(Topic { topic, direction: Direction::Subscribe, handler, priority: None, payload, answer });
    }
    for one in &manifest.intercept {
        let (topic, direction, handler) = (one.topic.to_string(), Direction::Intercept, Some(one.handler.clone()));
        topics.push(Topic { topic, direction, handler, priority: Some(one.priority), payload: None, answer: None });
    }
    topics
}
