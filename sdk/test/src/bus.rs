//! `astrid:bus`: responders that the test sets, and a record of everything that was sent.

use std::collections::VecDeque;

use astrid_capsule::manifest::Manifest;
use astrid_capsule::{Pattern, PrincipalId, Topic};
use wasmtime::Result as Wasm;
use wasmtime::component::Resource;

use crate::bindings::astrid::bus::bus::{self, Options};
use crate::bindings::astrid::bus::types::{self, Failure, Gap, Message};
use crate::engine::State;
use crate::stream::Answer;

/// The largest payload and the largest answer, as a host delivers them unless it is told otherwise.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 1 << 20;

pub(crate) type Responder = Box<dyn FnMut(&Message) -> Reply + Send>;

/// What a responder answers.
pub(crate) struct Reply {
    /// What it sends while it works, for whoever reads pieces.
    pub(crate) pieces: Vec<Vec<u8>>,
    /// What it returns.
    pub(crate) last: Result<Vec<u8>, Failure>,
}

impl From<Result<Vec<u8>, Failure>> for Reply {
    fn from(last: Result<Vec<u8>, Failure>) -> Self {
        Self { pieces: Vec::new(), last }
    }
}

/// A message that the test itself sends: about nobody, with no time left to answer, and the cause of nothing.
pub(crate) fn from_test(id: u64, topic: &str, principal: &str, payload: Vec<u8>) -> Message {
    Message {
        id,
        topic: topic.into(),
        principal: principal.into(),
        sender: "test".into(),
        target: None,
        remaining_ms: 0,
        streams: false,
        cause: None,
        traceparent: None,
        payload,
    }
}

/// What comes to a subscription.
pub(crate) enum Arrival {
    Message(Message),
    Gap { topic: String, gap: Gap },
}

#[derive(Default)]
pub(crate) struct Bus {
    /// The one that was set last wins.
    pub(crate) responders: Vec<(Pattern, Responder)>,
    pub(crate) requested: Vec<Message>,
    pub(crate) published: Vec<Message>,
    /// What subscriptions get, in order.
    pub(crate) arriving: VecDeque<Arrival>,
    /// Pieces of an answer that the capsule sent.
    pub(crate) pieces: Vec<Vec<u8>>,
    /// What every publication answers.
    pub(crate) delivered: u32,
    last_id: u64,
}

impl Bus {
    /// An id for the next message, never 0 and never used twice.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Records the message and asks whoever answers its topic.
    pub(crate) fn ask(&mut self, message: Message) -> Reply {
        let mut reply = match Topic::parse(&message.topic) {
            Ok(topic) => match self.responders.iter_mut().rev().find(|(pattern, _)| pattern.matches(&topic)) {
                Some((_, responder)) => responder(&message),
                None => Err(Failure::NoResponder).into(),
            },
            Err(error) => Err(Failure::Invalid(error.to_string())).into(),
        };
        self.requested.push(message);
        let fits = |piece: &Vec<u8>| piece.len() <= MAX_PAYLOAD_BYTES;
        if !reply.pieces.iter().chain(&reply.last).all(fits) {
            reply.last = Err(Failure::TooLarge(MAX_PAYLOAD_BYTES as u64));
            reply.pieces.retain(fits);
        }
        reply
    }

    /// Records the message.
    pub(crate) fn publish(&mut self, message: Message) -> u32 {
        self.published.push(message);
        self.delivered
    }
}

/// What the host checks of every message before it looks for a receiver.
fn check(manifest: &Manifest, topic: &str, target: Option<&str>) -> Result<(), Failure> {
    let topic = Topic::parse(topic).map_err(|error| Failure::Invalid(error.to_string()))?;
    if let Some(target) = target {
        PrincipalId::parse(target).map_err(|error| Failure::Invalid(error.to_string()))?;
    }
    if !manifest.may_send(&topic) {
        return Err(Failure::Denied(format!("no [[publish]] of the manifest names `{topic}`")));
    }
    Ok(())
}

impl State {
    /// A checked message of this capsule on behalf of `principal`, who is the caller or a session's.
    fn message(
        &mut self,
        principal: &str,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
        remaining_ms: u32,
    ) -> Result<Message, Failure> {
        check(&self.manifest, &topic, target.as_deref())?;
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Failure::TooLarge(MAX_PAYLOAD_BYTES as u64));
        }
        Ok(Message {
            id: self.fakes.bus.next_id(),
            topic,
            principal: principal.into(),
            sender: self.manifest.package.name.clone(),
            target,
            remaining_ms,
            streams: false,
            cause: None,
            traceparent: None,
            payload,
        })
    }

    /// `bus.request` as `principal`.
    pub(crate) fn request_as(
        &mut self,
        principal: &str,
        topic: String,
        payload: Vec<u8>,
        options: Options,
    ) -> Result<Vec<u8>, Failure> {
        self.ask_as(principal, topic, payload, options, false).last
    }

    /// A request as `principal`; `streams`: whether the answer is read in pieces.
    pub(crate) fn ask_as(
        &mut self,
        principal: &str,
        topic: String,
        payload: Vec<u8>,
        options: Options,
        streams: bool,
    ) -> Reply {
        let left = self.caller.remaining_ms;
        let timeout = if options.timeout_ms == 0 { left } else { options.timeout_ms.min(left) };
        match self.message(principal, topic, payload, options.target, timeout) {
            Ok(message) => self.fakes.bus.ask(Message { streams, ..message }),
            Err(failure) => Err(failure).into(),
        }
    }

    /// `bus.publish` as `principal`.
    pub(crate) fn publish_as(
        &mut self,
        principal: &str,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    ) -> Result<u32, Failure> {
        let message = self.message(principal, topic, payload, target, 0)?;
        Ok(self.fakes.bus.publish(message))
    }
}

impl types::Host for State {}

impl bus::Host for State {
    fn publish(&mut self, topic: String, payload: Vec<u8>, target: Option<String>) -> Wasm<Result<u32, Failure>> {
        let principal = self.caller.principal.clone();
        Ok(self.publish_as(&principal, topic, payload, target))
    }

    fn request(&mut self, topic: String, payload: Vec<u8>, options: Options) -> Wasm<Result<Vec<u8>, Failure>> {
        let principal = self.caller.principal.clone();
        Ok(self.request_as(&principal, topic, payload, options))
    }

    fn request_stream(&mut self, topic: String, payload: Vec<u8>, options: Options) -> Wasm<Resource<Answer>> {
        let principal = self.caller.principal.clone();
        self.request_stream_as(&principal, topic, payload, options)
    }

    fn send_piece(&mut self, piece: Vec<u8>) -> Wasm<Result<(), Failure>> {
        if !self.caller.streams {
            return Ok(Err(Failure::Closed));
        }
        if piece.len() > MAX_PAYLOAD_BYTES {
            return Ok(Err(Failure::TooLarge(MAX_PAYLOAD_BYTES as u64)));
        }
        self.fakes.bus.pieces.push(piece);
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_the_manifest_does_not_name_is_denied_and_nonsense_is_invalid() {
        let text = "[package]\nname = \"a\"\nversion = \"0.1.0\"\n[[publish]]\ntopic = \"notes.v1.*\"\n";
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!(check(&manifest, "notes.v1.add", Some("alice")), Ok(()));
        assert!(matches!(check(&manifest, "other.v1.add", None), Err(Failure::Denied(_))));
        assert!(matches!(check(&manifest, "notes..add", None), Err(Failure::Invalid(_))));
        assert!(matches!(check(&manifest, "notes.v1.add", Some("a b")), Err(Failure::Invalid(_))));
    }

    #[test]
    fn the_responder_that_was_set_last_answers_and_an_unanswered_topic_says_so() {
        let message = |topic: &str| from_test(1, topic, "alice", vec![]);
        let mut bus = Bus::default();
        bus.responders.push((Pattern::parse("a.*").unwrap(), Box::new(|_| Ok(b"first".to_vec()).into())));
        bus.responders.push((Pattern::parse("a.b").unwrap(), Box::new(|_| Ok(b"second".to_vec()).into())));
        assert_eq!(bus.ask(message("a.b")).last, Ok(b"second".to_vec()));
        assert_eq!(bus.ask(message("a.c")).last, Ok(b"first".to_vec()));
        assert_eq!(bus.ask(message("b")).last, Err(Failure::NoResponder));
        assert_eq!(bus.requested.len(), 3);
    }
}
