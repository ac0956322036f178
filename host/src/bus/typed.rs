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

#[cfg(test)]
mod tests {
    use astrid_capsule::manifest::{Fail, Intercept};
    use tokio::sync::mpsc;

    use super::super::intercept::Interception;
    use super::super::tests::{Loud, Recorder, bus, out, sender};
    use super::super::{Bus, Bytes, Message, Place, Responder, Route};
    use super::*;
    use crate::Boxed;

    /// Answers with what it was called with; its bindings are held to types.
    struct Strict(Types, Recorder);

    impl Responder for Strict {
        fn call(
            self: Arc<Self>,
            handler: Arc<str>,
            message: Arc<Message>,
            place: Option<Place>,
        ) -> Boxed<'static, Result<Bytes, Failure>> {
            Arc::new(Recorder(self.1.0.clone())).call(handler, message, place)
        }

        fn typed(&self, binding: &Pattern) -> Option<Arc<Typed>> {
            self.0.bound(binding)
        }
    }

    /// A capsule whose topic `n.text` takes texts and answers them, whose `n.lie` promises to answer nothing, and which takes
    /// anything on `n.any`.
    fn strict() -> (Manifest, Types) {
        let manifest = Manifest::parse(
            r#"
            [package]
            name = "n"
            version = "0.1.0"
            [[publish]]
            topic = "n.*"
            wit = { payload = "a.text" }
            [[publish]]
            topic = "n.any"
            wit = { payload = "nothing" }
            [[subscribe]]
            topic = "n.text"
            handler = "text"
            wit = { payload = "a.text", answer = "a.text" }
            [[subscribe]]
            topic = "n.lie"
            handler = "lie"
            wit = { payload = "a.text", answer = "nothing" }
            [[subscribe]]
            topic = "n.*"
            handler = "any"
            "#,
        );
        let schemas =
            br#"{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{"a.text":{"type":"string"}}}"#;
        let manifest = manifest.unwrap();
        (manifest.clone(), Types::new(&manifest, Schemas::parse(schemas).unwrap()))
    }

    fn strict_bus() -> (Bus, mpsc::UnboundedReceiver<(String, String, Bytes)>) {
        let (bus, _) = bus(Vec::new());
        let (tx, rx) = mpsc::unbounded_channel();
        let (manifest, types) = strict();
        let routes = Route::all(Arc::new(Strict(types, Recorder(tx))), &manifest.subscribe, bus.config());
        bus.set_routes(routes, [], []);
        (bus, rx)
    }

    #[tokio::test]
    async fn a_request_that_does_not_fit_is_invalid_and_an_answer_that_does_not_is_its_handlers_failure() {
        let (bus, mut rx) = strict_bus();
        let ask = |topic: &str, payload| bus.request(sender("alice"), out(topic, payload));
        assert_eq!(ask("n.text", b"\"a\"").await.unwrap(), "\"a\"");
        assert_eq!(rx.recv().await.unwrap().0, "text");
        let Err(Failure::Invalid(why)) = ask("n.text", b"1").await else { panic!("1 is no text") };
        assert_eq!(why, "the payload of n.text does not fit its type `a.text` at ``: must be a text");
        assert!(matches!(ask("n.text", b"").await, Err(Failure::Invalid(_))));
        assert!(rx.try_recv().is_err(), "the handler was not called");
        let Err(Failure::Refused(refusal)) = ask("n.lie", b"\"a\"").await else { panic!("its answer is not {{}}") };
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (RefusalCode::Internal, "the answer of n.lie does not fit its type")
        );
        assert_eq!(ask("n.any", b"not JSON").await.unwrap(), "not JSON");
    }

    #[tokio::test]
    async fn a_publication_passes_by_whom_it_does_not_fit_and_is_invalid_if_nobody_else_is_there() {
        let (bus, mut rx) = strict_bus();
        let publish = |payload| bus.publish(sender("alice"), out("n.text", payload));
        assert_eq!(publish(b"\"a\"").await, Ok(2));
        let mut reached = [rx.recv().await.unwrap().0, rx.recv().await.unwrap().0];
        reached.sort();
        assert_eq!(reached, ["any", "text"]);
        assert_eq!(publish(b"1").await, Ok(1));
        assert_eq!(rx.recv().await.unwrap().0, "any");
        let (mut manifest, types) = strict();
        manifest.subscribe.pop();
        let (tx, _rx) = mpsc::unbounded_channel();
        bus.set_routes(Route::all(Arc::new(Strict(types, Recorder(tx))), &manifest.subscribe, bus.config()), [], []);
        assert!(matches!(bus.publish(sender("alice"), out("n.text", b"1")).await, Err(Failure::Invalid(_))));
    }

    #[tokio::test]
    async fn what_interceptors_make_of_a_payload_must_fit_as_well() {
        let (bus, mut rx) = strict_bus();
        let declared = Intercept {
            topic: Pattern::parse("n.*").unwrap(),
            handler: "loud".into(),
            priority: 100,
            fail: Fail::Closed,
        };
        let (manifest, types) = strict();
        let (tx, _rx) = mpsc::unbounded_channel();
        let routes = Route::all(Arc::new(Strict(types, Recorder(tx))), &manifest.subscribe, bus.config());
        bus.set_routes(routes, [Interception::new("loud".into(), declared, Arc::new(Loud))], []);
        let Err(Failure::Refused(refusal)) = bus.request(sender("alice"), out("n.text", b"\"a\"")).await else {
            panic!("! is no JSON")
        };
        assert_eq!(refusal.code, RefusalCode::Internal);
        assert!(refusal.reason.contains("interceptor of n.text"), "{}", refusal.reason);
        // The sender's own fault comes first.
        assert!(matches!(bus.request(sender("alice"), out("n.text", b"1")).await, Err(Failure::Invalid(_))));
        assert!(rx.try_recv().is_err());
    }

    #[test]
    fn what_a_capsule_sends_is_held_to_the_best_match_of_what_it_declares() {
        let (_, types) = strict();
        assert_eq!(types.check_sent("n.text", b"\"a\""), Ok(()));
        assert!(matches!(types.check_sent("n.text", b"{}"), Err(Failure::Invalid(_))));
        assert_eq!(types.check_sent("n.any", b"{}"), Ok(()));
        assert_eq!(types.check_sent("elsewhere", b"not JSON"), Ok(()));
        assert_eq!(Types::default().check_sent("n.text", b"not JSON"), Ok(()));
    }
}
