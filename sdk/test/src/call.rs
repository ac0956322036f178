//! One call of a handler or an interceptor: on whose behalf, about whom, on which topic, and whether its answer is read in pieces.

use astrid_capsule::Pattern;
use serde::Serialize;
use serde_json::Value;

use crate::bindings::exports::astrid::bus::handler::GuestIndices as HandlerExport;
use crate::bindings::exports::astrid::bus::interceptor::GuestIndices as InterceptorExport;
use crate::bus::{MAX_PAYLOAD_BYTES, from_test};
use crate::engine::Caller;
use crate::{CallError, Capsule, Message, Refusal, Verdict};

/// One message to a handler or an interceptor, being put together.
pub struct Call<'a> {
    pub(crate) capsule: &'a mut Capsule,
    pub(crate) principal: String,
    target: Option<String>,
    topic: Option<String>,
    /// Whether whoever calls reads the answer in pieces.
    streams: bool,
}

/// An answer in pieces.
#[derive(Debug, PartialEq)]
pub struct Streamed {
    /// In order; what the handler returned is the last one, if it was not empty.
    pub pieces: Vec<Vec<u8>>,
    /// How the answer ended.
    pub end: Result<(), Refusal>,
}

impl<'a> Call<'a> {
    /// On behalf of `principal`, about nobody.
    pub(crate) fn new(capsule: &'a mut Capsule, principal: &str) -> Self {
        Self { capsule, principal: principal.into(), target: None, topic: None, streams: false }
    }

    /// The request is about this principal.
    pub fn with_target(mut self, target: &str) -> Self {
        self.target = Some(target.into());
        self
    }

    /// The topic that the message came in on. Needed for handlers that the manifest binds to a pattern.
    pub fn with_topic(mut self, topic: &str) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Calls a handler with a JSON payload. What its binding requires is not checked: that is the host's part.
    ///
    /// # Errors
    /// When the answer is not JSON, and as [`Self::handle_bytes`].
    ///
    /// # Panics
    /// If `payload` can't be written as JSON.
    pub fn handle(self, handler: &str, payload: impl Serialize) -> Result<Result<Value, Refusal>, CallError> {
        let payload = serde_json::to_vec(&payload).expect("the test's own payload is JSON");
        match self.handle_bytes(handler, payload)? {
            Ok(answer) => serde_json::from_slice(&answer).map(Ok).map_err(|e| CallError::NotJson(e.to_string())),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Calls a handler with bytes.
    ///
    /// # Errors
    /// When the manifest does not bind the handler, the export is missing, the payload or the answer is too large, or
    /// the instance dies.
    pub fn handle_bytes(self, handler: &str, payload: Vec<u8>) -> Result<Result<Vec<u8>, Refusal>, CallError> {
        let manifest = self.capsule.manifest.clone();
        let bindings = manifest.subscribe.iter().filter_map(|b| Some((b.handler.as_deref()?, &b.topic)));
        let streams = self.streams;
        let (capsule, caller, message) = self.message(handler, bindings, payload)?;
        let caller = Caller { streams, ..caller };
        let message = Message { streams, ..message };
        let indices = HandlerExport::new(&capsule.linked).map_err(|_| CallError::NoExport("astrid:bus/handler"))?;
        let answer = capsule.run(caller, |store, instance| {
            indices.load(&mut *store, instance)?.call_handle(store, handler, &message)
        })?;
        fits(answer.as_ref().map_or(0, Vec::len))?;
        Ok(answer)
    }

    /// Calls a handler on behalf of one who reads the answer in pieces, with a JSON payload.
    ///
    /// # Errors
    /// As [`Self::handle_bytes`].
    ///
    /// # Panics
    /// If `payload` can't be written as JSON.
    pub fn stream(self, handler: &str, payload: impl Serialize) -> Result<Streamed, CallError> {
        self.stream_bytes(handler, serde_json::to_vec(&payload).expect("the test's own payload is JSON"))
    }

    /// As [`Self::stream`], with bytes.
    ///
    /// # Errors
    /// As [`Self::handle_bytes`].
    pub fn stream_bytes(self, handler: &str, payload: Vec<u8>) -> Result<Streamed, CallError> {
        let Self { capsule, principal, target, topic, .. } = self;
        capsule.fakes().bus.pieces.clear();
        let call = Call { capsule: &mut *capsule, principal, target, topic, streams: true };
        let answer = call.handle_bytes(handler, payload)?;
        let mut pieces = std::mem::take(&mut capsule.fakes().bus.pieces);
        let end = answer.map(|last| pieces.extend((!last.is_empty()).then_some(last)));
        Ok(Streamed { pieces, end })
    }

    /// Shows a message with a JSON payload to an interceptor. Its priority and what becomes of a failure are the host's
    /// part.
    ///
    /// # Errors
    /// As [`Self::intercept_bytes`].
    ///
    /// # Panics
    /// If `payload` can't be written as JSON.
    pub fn intercept(self, handler: &str, payload: impl Serialize) -> Result<Verdict, CallError> {
        self.intercept_bytes(handler, serde_json::to_vec(&payload).expect("the test's own payload is JSON"))
    }

    /// Shows a message with these bytes to an interceptor.
    ///
    /// # Errors
    /// When the manifest has no interception with this handler, the export is missing, the payload or what replaces it is
    /// too large, or the instance dies.
    pub fn intercept_bytes(self, handler: &str, payload: Vec<u8>) -> Result<Verdict, CallError> {
        let manifest = self.capsule.manifest.clone();
        let interceptions = manifest.intercept.iter().map(|one| (one.handler.as_str(), &one.topic));
        let (capsule, caller, message) = self.message(handler, interceptions, payload)?;
        let missing = |_| CallError::NoExport("astrid:bus/interceptor");
        let indices = InterceptorExport::new(&capsule.linked).map_err(missing)?;
        let verdict = capsule.run(caller, |store, instance| {
            indices.load(&mut *store, instance)?.call_intercept(store, handler, &message)
        })?;
        if let Verdict::Replace(payload) = &verdict {
            fits(payload.len())?;
        }
        Ok(verdict)
    }
}

impl<'a> Call<'a> {
    /// The message, on the topic that was named or the first single one among `declared` with this handler.
    fn message<'d>(
        self,
        handler: &str,
        mut declared: impl Iterator<Item = (&'d str, &'d Pattern)>,
        payload: Vec<u8>,
    ) -> Result<(&'a mut Capsule, Caller, Message), CallError> {
        let Self { capsule, principal, target, topic, .. } = self;
        let plain = |pattern: &Pattern| !pattern.segments().any(|segment| segment == "*");
        let single = || declared.find(|(name, topic)| *name == handler && plain(topic)).map(|(_, t)| t.as_str().into());
        fits(payload.len())?;
        let topic = topic.or_else(single).ok_or_else(|| CallError::Unbound(handler.into()))?;
        let caller = capsule.caller(&principal);
        let message = from_test(capsule.fakes().bus.next_id(), &topic, &principal, payload);
        let message = Message { target, remaining_ms: caller.remaining_ms, streams: caller.streams, ..message };
        Ok((capsule, caller, message))
    }
}

fn fits(bytes: usize) -> Result<(), CallError> {
    if bytes > MAX_PAYLOAD_BYTES { Err(CallError::TooLarge(MAX_PAYLOAD_BYTES)) } else { Ok(()) }
}
