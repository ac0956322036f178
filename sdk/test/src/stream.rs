//! What comes in pieces: subscriptions to what the test lets arrive, and answers of its responders.

use std::collections::VecDeque;

use astrid_capsule::manifest::Subscribe;
use astrid_capsule::{Pattern, Topic};
use wasmtime::Result as Wasm;
use wasmtime::component::Resource;

use crate::bindings::astrid::bus::bus::{self, Event, Options, Received};
use crate::bindings::astrid::bus::types::Failure;
use crate::bindings::astrid::capsule::supervision;
use crate::bus::{Arrival, Reply};
use crate::engine::State;

/// An answer of a responder: what is left of it.
#[allow(unreachable_pub, reason = "the generated bindings name it")]
pub struct Answer {
    pieces: VecDeque<Vec<u8>>,
    end: Result<(), Failure>,
}

/// Whoever sent a message that arrived.
#[allow(unreachable_pub, reason = "the generated bindings name it")]
pub struct Caller(String);

/// A subscription of the capsule under test.
#[allow(unreachable_pub, reason = "the generated bindings name it")]
pub struct Subscription {
    topics: Vec<Pattern>,
    /// None: everybody's.
    principal: Option<String>,
    /// Whether it has said once that nothing comes.
    quiet: bool,
}

impl State {
    /// `bus.request-stream` as `principal`.
    pub(crate) fn request_stream_as(
        &mut self,
        principal: &str,
        topic: String,
        payload: Vec<u8>,
        options: Options,
    ) -> Wasm<Resource<Answer>> {
        let Reply { pieces, last } = self.ask_as(principal, topic, payload, options, true);
        let mut pieces = VecDeque::from(pieces);
        let end = last.map(|last| pieces.extend((!last.is_empty()).then_some(last)));
        Ok(self.table.push(Answer { pieces, end })?)
    }

    /// `bus.subscription.open` for messages of `principal`, or everybody's.
    pub(crate) fn subscribe_as(
        &mut self,
        principal: Option<String>,
        topics: Vec<String>,
    ) -> Wasm<Result<Resource<Subscription>, Failure>> {
        match patterns(&self.manifest.subscribe, &topics) {
            Ok(topics) => Ok(Ok(self.table.push(Subscription { topics, principal, quiet: false })?)),
            Err(failure) => Ok(Err(failure)),
        }
    }
}

/// The manifest's subscriptions to these topics, checked as the host does.
fn patterns(declared: &[Subscribe], topics: &[String]) -> Result<Vec<Pattern>, Failure> {
    if !(1..=16).contains(&topics.len()) {
        return Err(Failure::Invalid(format!("a subscription has 1 to 16 topics, not {}", topics.len())));
    }
    let mut named: Vec<&Subscribe> = Vec::new();
    for topic in topics {
        let topic = Pattern::parse(topic).map_err(|error| Failure::Invalid(error.to_string()))?;
        let found = declared.iter().find(|binding| binding.topic == topic && binding.delivery.is_some());
        let binding = found
            .ok_or_else(|| Failure::Denied(format!("the manifest has no [[subscribe]] of {topic} with delivery")))?;
        if named.iter().any(|other| other.topic == topic) {
            return Err(Failure::Invalid(format!("{topic} is named twice")));
        }
        if named.first().is_some_and(|other| other.delivery != binding.delivery) {
            return Err(Failure::Invalid(format!("{topic} has another delivery than {}", named[0].topic)));
        }
        named.push(binding);
    }
    Ok(named.into_iter().map(|binding| binding.topic.clone()).collect())
}

impl bus::HostAnswer for State {
    fn next(&mut self, answer: Resource<Answer>) -> Wasm<Result<Option<Vec<u8>>, Failure>> {
        let answer = self.table.get_mut(&answer)?;
        Ok(match answer.pieces.pop_front() {
            Some(piece) => Ok(Some(piece)),
            None => answer.end.clone().map(|()| None),
        })
    }

    fn drop(&mut self, answer: Resource<Answer>) -> Wasm<()> {
        self.table.delete(answer)?;
        Ok(())
    }
}

impl bus::HostCaller for State {
    fn principal(&mut self, caller: Resource<Caller>) -> Wasm<String> {
        Ok(self.table.get(&caller)?.0.clone())
    }

    fn holds(&mut self, caller: Resource<Caller>, capability: String, target: Option<String>) -> Wasm<bool> {
        let principal = &self.table.get(&caller)?.0;
        Ok(self.fakes.sessions.holds(principal, &capability, target.as_deref()))
    }

    fn request(
        &mut self,
        caller: Resource<Caller>,
        topic: String,
        payload: Vec<u8>,
        options: Options,
    ) -> Wasm<Result<Vec<u8>, Failure>> {
        let principal = self.table.get(&caller)?.0.clone();
        Ok(self.request_as(&principal, topic, payload, options))
    }

    fn publish(
        &mut self,
        caller: Resource<Caller>,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    ) -> Wasm<Result<u32, Failure>> {
        let principal = self.table.get(&caller)?.0.clone();
        Ok(self.publish_as(&principal, topic, payload, target))
    }

    fn drop(&mut self, caller: Resource<Caller>) -> Wasm<()> {
        self.table.delete(caller)?;
        Ok(())
    }
}

impl bus::HostSubscription for State {
    fn open(&mut self, topics: Vec<String>) -> Wasm<Result<Resource<Subscription>, Failure>> {
        let principal = (!self.caller.everybody).then(|| self.caller.principal.clone());
        self.subscribe_as(principal, topics)
    }

    /// What the test lets arrive, then once nothing, then the end: so that a loop ends as well.
    fn next(&mut self, subscription: Resource<Subscription>, _: u32) -> Wasm<Result<Option<Event>, Failure>> {
        let open = self.table.get_mut(&subscription)?;
        let arriving = &mut self.fakes.bus.arriving;
        let reads = |principal: &str| open.principal.as_deref().is_none_or(|own| own == principal);
        let matches =
            |topic: &str| Topic::parse(topic).is_ok_and(|topic| open.topics.iter().any(|p| p.matches(&topic)));
        let at = arriving.iter().position(|arrival| match arrival {
            Arrival::Message(message) => reads(&message.principal) && matches(&message.topic),
            Arrival::Gap { topic, gap } => reads(&gap.principal) && matches(topic),
        });
        let message = match at.and_then(|at| arriving.remove(at)) {
            Some(Arrival::Message(message)) => message,
            Some(Arrival::Gap { gap, .. }) => return Ok(Ok(Some(Event::Gap(gap)))),
            None => {
                let end = std::mem::replace(&mut open.quiet, true);
                return Ok(if end { Err(Failure::Closed) } else { Ok(None) });
            }
        };
        let caller = self.table.push(Caller(message.principal.clone()))?;
        Ok(Ok(Some(Event::Message(Received { message, caller }))))
    }

    fn drop(&mut self, subscription: Resource<Subscription>) -> Wasm<()> {
        self.table.delete(subscription)?;
        Ok(())
    }
}

impl supervision::Host for State {
    fn ready(&mut self) -> Wasm<()> {
        self.fakes.ready = true;
        Ok(())
    }
}
