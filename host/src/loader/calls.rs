//! What the rooms call a generation for: a handler of the bus, an interceptor, the authenticator, a front end, a relay.
//! Each says whose call it is, where it stands, and what it asks of the instance that it is given.

use std::sync::Arc;
use std::time::Duration;

use astrid_capsule::check::HTTP_RELAY;
use astrid_capsule::manifest::Isolation;
use astrid_capsule::{Pattern, PrincipalId};
use bytes::Bytes;
use hyper::{Method, Response};
use tokio::time::Instant;

use super::generation::{Generation, Inbound, RETRY_MS};
use super::rehearsal::Shadow;
use crate::Boxed;
use crate::authority::{Authenticator, Identified, Mandate, Presented, Rejection};
use crate::bus::intercept::{Interceptor, Verdict};
use crate::bus::typed::Typed;
use crate::bus::waiting::Place;
use crate::bus::{Failure, Message, Responder, Sender};
use crate::http::relay::{self, Output, Relayed, Relaying};
use crate::http::{Body, Certificate, Exchange, Mounted};
use crate::link::bindings::authenticator::exports::astrid::authority::authenticator as wit_authenticator;
use crate::link::bindings::handler::astrid::bus::types::RefusalCode;
use crate::link::{self, Turn};
use crate::pool::{Lane, Rank};

/// How long the authenticator may think.
const AUTHENTICATE: Duration = Duration::from_secs(5);
/// The status of an answer that says that its front end has failed.
const FAILED: u16 = 500;

impl Generation {
    /// Whose a call for a message is, and in what instance it runs. A rehearsal is the host's own doing.
    fn place_of(&self, message: &Message) -> (Lane, Isolation) {
        if message.rehearsal {
            return (Lane::Host, Isolation::Call);
        }
        (Lane::Principal(message.principal.clone()), self.isolation)
    }

    /// Who is to answer a request as well, and be compared. A stream is not compared, nor is a publication.
    fn shadow_of(&self, message: &Message) -> Option<Arc<Shadow>> {
        if message.rehearsal || message.publication || message.reply.is_some() {
            return None;
        }
        self.watch.shadow()
    }
}

/// Where a call for a message stands whose sender waits for it and holds an instance meanwhile.
fn nested(message: &Message) -> Rank {
    if message.depth <= 1 { Rank::First } else { Rank::Deeper }
}

impl Responder for Generation {
    fn call(
        self: Arc<Self>,
        handler: Arc<str>,
        message: Arc<Message>,
        place: Option<Place>,
    ) -> Boxed<'static, Result<Bytes, Failure>> {
        Box::pin(async move {
            let Some(export) = self.exports.handler.clone() else { return Err(Failure::NoResponder) };
            let sender = self.caused_by(&message);
            // Whoever publishes does not wait, so it holds no instance meanwhile.
            let rank = if message.publication { Rank::Outer } else { nested(&message) };
            let (lane, isolation) = self.place_of(&message);
            let shadowed = self.shadow_of(&message).map(|shadow| (shadow, handler.clone(), message.clone()));
            let (reply, note) = (message.reply.clone(), message.note.clone());
            let turn = Turn::new(sender, Inbound { reply, note, place, ..Inbound::default() });
            let outcome = self.enter(rank, lane, turn, isolation, |store, instance| {
                Box::pin(async move {
                    let export = export.load(&mut *store, &instance)?;
                    let message = link::bus::to_wit(&message);
                    let answer = export.astrid_bus_handler().call_handle(&mut *store, &handler, &message).await?;
                    if matches!(&answer, Err(refusal) if refusal.code == RefusalCode::Internal) {
                        store.data_mut().fails();
                    }
                    Ok(answer)
                })
            });
            let answer = match outcome.await {
                Ok(Ok(answer)) => {
                    self.figures.ok.increment(1);
                    Ok(Bytes::from(answer))
                }
                Ok(Err(refusal)) => {
                    self.figures.refused.increment(1);
                    Err(Failure::Refused(refusal.into()))
                }
                Err(failure) => Err(failure),
            };
            if let Some((shadow, handler, message)) = shadowed {
                shadow.compare_answer(handler, message, answer.clone());
            }
            answer
        })
    }

    fn typed(&self, binding: &Pattern) -> Option<Arc<Typed>> {
        self.types.bound(binding)
    }
}

impl Interceptor for Generation {
    fn intercept(self: Arc<Self>, handler: Arc<str>, message: Message) -> Boxed<'static, Result<Verdict, Failure>> {
        Box::pin(async move {
            let Some(export) = self.exports.interceptor.clone() else { return Err(Failure::NoResponder) };
            let sender = self.caused_by(&message);
            let (lane, isolation) = self.place_of(&message);
            // Nested: the sender waits, and holds an instance meanwhile.
            let (rank, turn) = (nested(&message), Turn::new(sender, Inbound::default()));
            let outcome = self.enter(rank, lane, turn, isolation, |store, instance| {
                Box::pin(async move {
                    let export = export.load(&mut *store, &instance)?;
                    let message = link::bus::to_wit(&message);
                    export.astrid_bus_interceptor().call_intercept(store, &handler, &message).await
                })
            });
            let verdict = outcome.await?;
            self.figures.ok.increment(1);
            Ok(verdict.into())
        })
    }
}

impl Authenticator for Generation {
    fn authenticate(self: Arc<Self>, presented: Presented) -> Boxed<'static, Result<Identified, Rejection>> {
        Box::pin(async move {
            let Some(export) = self.exports.authenticator.clone() else { return Err(Rejection::Unavailable) };
            let presented = match presented {
                Presented::Bearer(token) => wit_authenticator::Presented::Bearer(token),
                Presented::Unix { uid, owner } => {
                    wit_authenticator::Presented::Unix(wit_authenticator::UnixPeer { uid, owner })
                }
                Presented::Certificate(Certificate { fingerprint, common_name }) => {
                    let shown = wit_authenticator::ClientCertificate { fingerprint, common_name };
                    wit_authenticator::Presented::Certificate(shown)
                }
            };
            let sender = self.nobody(Instant::now() + AUTHENTICATE);
            let turn = Turn::new(sender, Inbound::default());
            let outcome = self.enter(Rank::First, Lane::Host, turn, Isolation::Call, |store, instance| {
                Box::pin(async move {
                    let export = export.load(&mut *store, &instance)?;
                    export.astrid_authority_authenticator().call_authenticate(store, &presented).await
                })
            });
            let identified = match outcome.await {
                Ok(answer) => {
                    self.figures.ok.increment(1);
                    answer.ok_or(Rejection::Rejected)?
                }
                Err(Failure::Overloaded { .. }) => return Err(Rejection::Overloaded),
                Err(_) => return Err(Rejection::Unavailable),
            };
            let principal = PrincipalId::parse(&identified.principal).map_err(|_| Rejection::Unavailable)?;
            let mandate = Mandate::new(identified.session.as_deref(), identified.ceiling.as_deref());
            let mandate = mandate.map_err(|why| {
                tracing::error!(capsule = %self.id, "it identified somebody, and nobody is let in: {why}");
                Rejection::Unavailable
            })?;
            Ok(Identified { principal, expires_at: identified.expires_at, mandate })
        })
    }
}

/// What a call for a request has besides its sender.
fn inbound(exchange: &Exchange) -> Inbound {
    let (connection, whom) = (Some(exchange.connection.clone()), Some(exchange.whom.clone()));
    Inbound { connection, whom, ..Inbound::default() }
}

impl Mounted for Generation {
    fn serve(self: Arc<Self>, exchange: Exchange) -> Boxed<'static, Result<Response<Body>, Failure>> {
        Box::pin(async move {
            let (cause, rehearsal) = (Some(exchange.cause.clone()), exchange.rehearsal);
            let time = exchange.time.map_or(self.bounds.timeout, |time| time.min(self.bounds.timeout));
            let sender = Sender { cause, rehearsal, ..self.nobody(Instant::now() + time) };
            if let Some(export) = self.exports.front_end.clone() {
                let lane = exchange.lane();
                let shadowed = if rehearsal { None } else { self.watch.shadow() };
                let shadowed = shadowed.map(|shadow| (shadow, exchange.clone()));
                let turn = Turn::new(sender, inbound(&exchange));
                // A rehearsal shows its beginning.
                let goes_on = exchange.head.method != Method::HEAD && !rehearsal;
                let cause = exchange.cause.clone();
                let (request, relays) = (link::http::to_wit(exchange), self.exports.relay.is_some());
                // Whose call it is, is not known before it has begun.
                let outcome = self.enter(Rank::Outer, lane, turn, Isolation::Call, |store, instance| {
                    Box::pin(async move {
                        let export = export.load(&mut *store, &instance)?;
                        let mut answer = export.astrid_http_handler().call_handle(&mut *store, &request).await?;
                        if answer.status == FAILED {
                            store.data_mut().fails();
                        }
                        let wanted = answer.relay.take().map(|relay| link::http::take_relay(store.data_mut(), relay));
                        if wanted.is_some() && !relays {
                            let why = format!("it answers with a relay and has no export {HTTP_RELAY}");
                            return Err(wasmtime::Error::msg(why));
                        }
                        Ok((answer, wanted.transpose()?))
                    })
                });
                let (answer, wanted) = outcome.await?;
                self.figures.ok.increment(1);
                if let Some((shadow, exchange)) = shadowed.filter(|_| wanted.is_none()) {
                    shadow.compare_response(exchange, (answer.status, answer.body.clone().into()));
                }
                let (head, body) = link::http::from_wit(answer)?.into_parts();
                let body = match wanted.filter(|_| goes_on) {
                    None => link::http::full(body),
                    Some(wanted) => {
                        let host = self.host.upgrade().ok_or(Failure::Overloaded { retry_ms: RETRY_MS })?;
                        relay::open(&host, self.id.clone(), cause, body, wanted)?
                    }
                };
                return Ok(Response::from_parts(head, body));
            }
            let lane = exchange.lane();
            let answer = self.clone().serve_wasi(sender, exchange, lane.clone()).await?;
            // Beside the call itself, which may still run.
            if answer.status().as_u16() == FAILED
                && self.watch.ended(&lane, true)
                && let Some(host) = self.host.upgrade()
            {
                host.loader.exhausted(&host, &self);
            }
            Ok(answer)
        })
    }
}

impl Relayed for Generation {
    fn relay(self: Arc<Self>, call: Relaying) -> Boxed<'static, Result<Output, Failure>> {
        Box::pin(async move {
            let Some(export) = self.exports.relay.clone() else { return Err(Failure::NoResponder) };
            let Relaying { principal, mandate, cause, depth, context, events } = call;
            let lane = Lane::Principal(principal.clone());
            let deadline = Instant::now() + self.bounds.timeout;
            // As deep as the messages: what circles through a relay ends as well.
            let (origin, cause) = (self.origin.clone(), Some(cause));
            let sender = Sender { principal, mandate, origin, deadline, depth, cause, rehearsal: false };
            let turn = Turn::new(sender, Inbound::default());
            let outcome = self.enter(Rank::Outer, lane, turn, Isolation::Call, |store, instance| {
                Box::pin(async move {
                    let export = export.load(&mut *store, &instance)?;
                    let events: Vec<_> = events.iter().map(link::http::to_event).collect();
                    export.astrid_http_relay().call_relay(store, &context, &events).await
                })
            });
            let output = outcome.await?;
            self.figures.ok.increment(1);
            Ok(link::http::from_output(output))
        })
    }
}

impl Generation {
    /// A `wasi:http` handler sets its answer while it runs and may go on writing the body, so it runs as a task of its
    /// own until it ends or its deadline passes.
    async fn serve_wasi(
        self: Arc<Self>,
        sender: Sender,
        exchange: Exchange,
        lane: Lane,
    ) -> Result<Response<Body>, Failure> {
        let (send, answered) = tokio::sync::oneshot::channel();
        let turn = Turn::new(sender, inbound(&exchange));
        let this = self.clone();
        let Some(export) = self.exports.wasi_http.clone() else { return Err(Failure::NoResponder) };
        let task = tokio::spawn(async move {
            this.enter(Rank::Outer, lane, turn, Isolation::Call, |store, instance| {
                Box::pin(async move {
                    let (request, answer) = link::http::to_wasi(store.data_mut(), exchange, send)?;
                    let export = export.load(&mut *store, &instance)?;
                    export.wasi_http_incoming_handler().call_handle(store, request, answer).await
                })
            })
            .await
            .inspect(|()| this.figures.ok.increment(1))
        });
        match answered.await {
            Ok(outcome) => link::http::from_wasi(outcome),
            // It ended without an answer: how says why.
            Err(_) => Err(task.await.ok().and_then(Result::err).unwrap_or(Failure::Trapped)),
        }
    }
}
