//! `astrid:bus`.

use std::time::Duration;

use super::Call;
use super::bindings::handler::astrid::bus::{bus, types};
use super::bindings::interceptor::exports::astrid::bus::interceptor as wit_interceptor;
use crate::Boxed;
use crate::bus::intercept::Verdict;
use crate::bus::{Failure, Message, Outgoing, Refusal, RefusalCode, Sender};

impl types::Host for Call {}

impl bus::Host for Call {
    async fn publish(
        &mut self,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    ) -> wasmtime::Result<Result<u32, types::Failure>> {
        Ok(self.send_publish(self.turn.sender.clone(), topic, payload, target).await)
    }

    async fn request(
        &mut self,
        topic: String,
        payload: Vec<u8>,
        options: bus::Options,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Failure>> {
        Ok(self.send_request(self.turn.sender.clone(), topic, payload, options).await)
    }
}

/// Sending owns what it needs: a call's store can't be shared while it waits. Boxed, because a message leads into another
/// call, whose future holds this one's type again.
impl Call {
    /// Whether the capsule names the topic, and the payload fits into its principal's rate, which is charged.
    fn may_send(&self, sender: &Sender, topic: &str, bytes: usize) -> Result<(), types::Failure> {
        self.generation.may_send(topic)?;
        self.host.meter.send(&sender.principal, bytes).map_err(|wait| types::Failure::Overloaded(wait.millis()))
    }

    pub(super) fn send_publish(
        &self,
        sender: Sender,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    ) -> Boxed<'static, Result<u32, types::Failure>> {
        let allowed = self.may_send(&sender, &topic, payload.len());
        let host = self.host.clone();
        let outgoing = Outgoing { topic, payload: payload.into(), target, timeout: None };
        Box::pin(async move {
            allowed?;
            Ok(host.bus.publish(sender, outgoing).await?)
        })
    }

    pub(super) fn send_request(
        &self,
        sender: Sender,
        topic: String,
        payload: Vec<u8>,
        options: bus::Options,
    ) -> Boxed<'static, Result<Vec<u8>, types::Failure>> {
        let allowed = self.may_send(&sender, &topic, payload.len());
        let host = self.host.clone();
        let timeout = (options.timeout_ms > 0).then(|| Duration::from_millis(options.timeout_ms.into()));
        let outgoing = Outgoing { topic, payload: payload.into(), target: options.target, timeout };
        Box::pin(self.turn.waited.around(async move {
            allowed?;
            Ok(host.bus.request(sender, outgoing).await?.into())
        }))
    }
}

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoResponder => Self::NoResponder,
            Failure::Denied(why) => Self::Denied(why),
            Failure::Timeout => Self::Timeout,
            Failure::Overloaded { retry_ms } => Self::Overloaded(retry_ms),
            Failure::TooLarge { limit } => Self::TooLarge(limit),
            Failure::Invalid(why) => Self::Invalid(why),
            Failure::Trapped => Self::Trapped,
            Failure::Refused(refusal) => Self::Refused(refusal.into()),
        }
    }
}

impl From<Refusal> for types::Refusal {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.code {
            RefusalCode::Invalid => types::RefusalCode::Invalid,
            RefusalCode::Denied => types::RefusalCode::Denied,
            RefusalCode::NotFound => types::RefusalCode::NotFound,
            RefusalCode::Conflict => types::RefusalCode::Conflict,
            RefusalCode::Unavailable => types::RefusalCode::Unavailable,
            RefusalCode::Internal => types::RefusalCode::Internal,
        };
        Self { code, reason: refusal.reason }
    }
}

impl From<types::Refusal> for Refusal {
    fn from(refusal: types::Refusal) -> Self {
        let code = match refusal.code {
            types::RefusalCode::Invalid => RefusalCode::Invalid,
            types::RefusalCode::Denied => RefusalCode::Denied,
            types::RefusalCode::NotFound => RefusalCode::NotFound,
            types::RefusalCode::Conflict => RefusalCode::Conflict,
            types::RefusalCode::Unavailable => RefusalCode::Unavailable,
            types::RefusalCode::Internal => RefusalCode::Internal,
        };
        Self { code, reason: crate::log::clean(&refusal.reason) }
    }
}

impl From<wit_interceptor::Verdict> for Verdict {
    fn from(verdict: wit_interceptor::Verdict) -> Self {
        match verdict {
            wit_interceptor::Verdict::Pass => Self::Pass,
            wit_interceptor::Verdict::Replace(payload) => Self::Replace(payload.into()),
            wit_interceptor::Verdict::Deny(reason) => Self::Deny(crate::log::clean(&reason)),
        }
    }
}

/// As a handler or an interceptor sees it; `remaining_ms` counted at the call.
pub fn to_wit(message: &Message) -> types::Message {
    let remaining = message.deadline.saturating_duration_since(tokio::time::Instant::now());
    types::Message {
        id: message.id,
        topic: message.topic.as_str().into(),
        principal: message.principal.as_str().into(),
        sender: message.sender.to_string(),
        target: message.target.as_ref().map(|t| t.as_str().into()),
        remaining_ms: if message.publication { 0 } else { u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX) },
        payload: message.payload.to_vec(),
    }
}
