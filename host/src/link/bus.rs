//! `astrid:bus`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::Resource;

use super::bindings::handler::astrid::bus::{bus, types};
use super::bindings::interceptor::exports::astrid::bus::interceptor as wit_interceptor;
use super::{Call, OfCall};
use crate::Boxed;
use crate::authority::{Behalf, Through};
use crate::bus::intercept::Verdict;
use crate::bus::mailbox::Mail;
use crate::bus::subscription::{Open, Reader};
use crate::bus::{self as native, Failure, Message, Outgoing, Refusal, RefusalCode, Sender};
use crate::loader::Shift;

impl types::Host for Call {}

/// An answer that is on its way, or why there is none.
pub struct Answer {
    pub answer: Result<native::stream::Answer, Failure>,
    pub behalf: Behalf,
}

/// The right to act for whoever sent a message.
pub struct Caller(Sender);

impl Caller {
    pub(super) fn sender(&self) -> &Sender {
        &self.0
    }
}

/// An open subscription.
pub struct Subscription {
    pub open: Arc<Open>,
    pub behalf: Behalf,
}

/// What handles of these stand for.
pub type AnswerOfCall = OfCall<Answer>;
pub type CallerOfCall = OfCall<Caller>;
pub type SubscriptionOfCall = OfCall<Subscription>;

impl bus::Host for Call {
    async fn publish(
        &mut self,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    ) -> wasmtime::Result<Result<u32, types::Failure>> {
        Ok(self.send_publish(self.turn.sender.clone(), topic, payload, target).await)
    }

    async fn request_stream(
        &mut self,
        topic: String,
        payload: Vec<u8>,
        options: bus::Options,
    ) -> wasmtime::Result<Resource<OfCall<Answer>>> {
        let answer = self.begin_request(self.turn.sender.clone(), None, topic, payload, options);
        self.push_of_call(answer)
    }

    async fn send_piece(&mut self, piece: Vec<u8>) -> wasmtime::Result<Result<(), types::Failure>> {
        let Some(reply) = self.turn.inbound.reply.clone() else { return Ok(Err(types::Failure::Closed)) };
        let limit = self.host.bus.config().max_payload_bytes;
        if piece.len() > limit {
            return Ok(Err(types::Failure::TooLarge(limit as u64)));
        }
        let (host, principal) = (self.host.clone(), self.turn.sender.principal.clone());
        let sent = self.turn.waited.around(async move {
            // Whoever streams faster than its principal may is slowed down, not refused.
            while let Err(wait) = host.meter.send(&principal, piece.len()) {
                tokio::time::sleep(Duration::from_millis(wait.millis().into())).await;
            }
            reply.send(piece.into()).await
        });
        Ok(sent.await.map_err(Into::into))
    }

    async fn request(
        &mut self,
        topic: String,
        payload: Vec<u8>,
        options: bus::Options,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Failure>> {
        let answer = self.send_request(self.turn.sender.clone(), topic, payload, options).await;
        Ok(self.noted(answer))
    }
}

impl bus::HostAnswer for Call {
    async fn next(
        &mut self,
        answer: Resource<OfCall<Answer>>,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, types::Failure>> {
        let waited = self.turn.waited.clone();
        let next = match &self.of_call(&answer)?.answer {
            Ok(answer) => waited.around(answer.next()).await,
            Err(failure) => Err(failure.clone()),
        };
        Ok(self.noted(next.map(|piece| piece.map(Into::into)).map_err(Into::into)))
    }

    async fn drop(&mut self, answer: Resource<OfCall<Answer>>) -> wasmtime::Result<()> {
        self.table.delete(answer)?;
        Ok(())
    }
}

impl bus::HostCaller for Call {
    async fn principal(&mut self, caller: Resource<OfCall<Caller>>) -> wasmtime::Result<String> {
        Ok(self.of_call(&caller)?.0.principal.to_string())
    }

    async fn holds(
        &mut self,
        caller: Resource<OfCall<Caller>>,
        capability: String,
        target: Option<String>,
    ) -> wasmtime::Result<bool> {
        let Sender { principal, mandate, .. } = &self.of_call(&caller)?.0;
        Ok(self.host.authority.holds(principal, mandate, &capability, target.as_deref()))
    }

    async fn request(
        &mut self,
        caller: Resource<OfCall<Caller>>,
        topic: String,
        payload: Vec<u8>,
        options: bus::Options,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Failure>> {
        let sender = self.of_call(&caller)?.0.clone();
        if sender.deadline <= Instant::now() {
            return Ok(Err(types::Failure::Timeout));
        }
        let answer = self.send_request(sender, topic, payload, options).await;
        Ok(self.noted(answer))
    }

    async fn publish(
        &mut self,
        caller: Resource<OfCall<Caller>>,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    ) -> wasmtime::Result<Result<u32, types::Failure>> {
        let sender = self.of_call(&caller)?.0.clone();
        if sender.deadline <= Instant::now() {
            return Ok(Err(types::Failure::Timeout));
        }
        Ok(self.send_publish(sender, topic, payload, target).await)
    }

    async fn drop(&mut self, caller: Resource<OfCall<Caller>>) -> wasmtime::Result<()> {
        self.table.delete(caller)?;
        Ok(())
    }
}

impl bus::HostSubscription for Call {
    async fn open(
        &mut self,
        topics: Vec<String>,
    ) -> wasmtime::Result<Result<Resource<OfCall<Subscription>>, types::Failure>> {
        let Sender { principal, mandate, .. } = &self.turn.sender;
        let behalf = Behalf { principal: principal.clone(), mandate: mandate.clone(), session: None };
        let Some(shift) = &self.turn.inbound.shift else { return self.open_subscription(behalf, &topics) };
        match shift.open(&self.host.bus, &topics) {
            Ok(open) => Ok(Ok(self.push_of_call(Subscription { open, behalf })?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    async fn next(
        &mut self,
        subscription: Resource<OfCall<Subscription>>,
        timeout_ms: u32,
    ) -> wasmtime::Result<Result<Option<bus::Event>, types::Failure>> {
        let open = self.of_call(&subscription)?.open.clone();
        let patience = Duration::from_millis(timeout_ms.into());
        let generation = self.generation.clone();
        let waits = async {
            match open.reader() {
                Reader::Principal(..) => Ok((open.next().await?, None)),
                Reader::Loop { .. } => open.next_paid(|message| Shift::judge(&generation, message)).await,
            }
        };
        if let Some(shift) = &mut self.turn.inbound.shift {
            shift.done(&mut self.limiter);
        }
        let next = self.turn.waited.around(tokio::time::timeout(patience, waits)).await;
        let mail = match next {
            Ok(Ok((mail, paid))) => {
                if let (Some(shift), Some(paid)) = (&mut self.turn.inbound.shift, paid) {
                    shift.work(paid, &mut self.limiter);
                }
                mail
            }
            Ok(Err(failure)) => return Ok(Err(failure.into())),
            Err(_) => return Ok(Ok(None)),
        };
        Ok(Ok(Some(match mail {
            Mail::Gap(whose, lost) => bus::Event::Gap(types::Gap { principal: whose.to_string(), lost }),
            Mail::Letter(_, message) => {
                // A call acts until its own end, a run loop for as long as the message lives.
                let caller = Caller(Sender { deadline: message.deadline, ..self.generation.caused_by(&message) });
                let caller = self.push_of_call(caller)?;
                bus::Event::Message(bus::Received { message: to_wit(&message), caller })
            }
        })))
    }

    async fn drop(&mut self, subscription: Resource<OfCall<Subscription>>) -> wasmtime::Result<()> {
        let subscription = self.table.delete(subscription)?.0;
        if let (Some(shift), Some(subscription)) = (&self.turn.inbound.shift, subscription) {
            shift.put_down(&subscription.open);
        }
        Ok(())
    }
}

/// Sending owns what it needs: a call's store can't be shared while it waits. Boxed, because a message leads into another
/// call, whose future holds this one's type again.
impl Call {
    /// Whether the capsule names the topic, and the payload fits into its principal's rate, which is charged, and what the
    /// capsule declares to send.
    fn may_send(&self, sender: &Sender, topic: &str, payload: &[u8]) -> Result<(), Failure> {
        self.generation.may_send(topic)?;
        let sent = self.host.meter.send(&sender.principal, payload.len());
        sent.map_err(|wait| Failure::Overloaded { retry_ms: wait.millis() })?;
        self.generation.types().check_sent(topic, payload)
    }

    pub(super) fn send_publish(
        &self,
        sender: Sender,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    ) -> Boxed<'static, Result<u32, types::Failure>> {
        let allowed = self.may_send(&sender, &topic, &payload);
        let host = self.host.clone();
        let outgoing = Outgoing { topic, payload: payload.into(), target, timeout: None };
        Box::pin(self.turn.waited.around(async move {
            allowed?;
            Ok(host.bus.publish(sender, outgoing).await?)
        }))
    }

    /// Begins a request whose answer comes in pieces.
    pub(super) fn begin_request(
        &self,
        sender: Sender,
        session: Option<Through>,
        topic: String,
        payload: Vec<u8>,
        options: bus::Options,
    ) -> Answer {
        let behalf = Behalf { principal: sender.principal.clone(), mandate: sender.mandate.clone(), session };
        if let Err(failure) = self.may_send(&sender, &topic, &payload) {
            return Answer { answer: Err(failure), behalf };
        }
        let timeout = (options.timeout_ms > 0).then(|| Duration::from_millis(options.timeout_ms.into()));
        let outgoing = Outgoing { topic, payload: payload.into(), target: options.target, timeout };
        Answer { answer: Ok(self.host.bus.request_stream(sender, outgoing)), behalf }
    }

    /// Opens a subscription to messages of a principal.
    pub(super) fn open_subscription(
        &mut self,
        behalf: Behalf,
        topics: &[String],
    ) -> wasmtime::Result<Result<Resource<OfCall<Subscription>>, types::Failure>> {
        let reader = Reader::Principal(behalf.principal.clone(), behalf.mandate.clone());
        match self.host.bus.subscribe(reader, topics, &self.generation.manifest.subscribe) {
            Ok(open) => Ok(Ok(self.push_of_call(Subscription { open: Arc::new(open), behalf })?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    pub(super) fn send_request(
        &self,
        sender: Sender,
        topic: String,
        payload: Vec<u8>,
        options: bus::Options,
    ) -> Boxed<'static, Result<Vec<u8>, types::Failure>> {
        let allowed = self.may_send(&sender, &topic, &payload);
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
            Failure::Closed => Self::Closed,
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
        sender: message.origin.capsule.to_string(),
        target: message.target.as_ref().map(|t| t.as_str().into()),
        remaining_ms: if message.publication { 0 } else { u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX) },
        streams: message.reply.is_some(),
        cause: message.cause.as_ref().map(|cause| cause.id.to_string()),
        traceparent: message.cause.as_ref().and_then(|cause| Some(cause.trace.as_ref()?.as_str().into())),
        payload: message.payload.to_vec(),
    }
}
