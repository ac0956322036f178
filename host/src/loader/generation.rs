//! One loaded version of a capsule, and the calls into it: every call in an instance of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use astrid_capsule::manifest::Manifest;
use astrid_capsule::schema::Schemas;
use astrid_capsule::{Capability, Pattern, PrincipalId, Topic};
use bytes::Bytes;
use hyper::Response;
use metrics::{Counter, Histogram, counter, histogram};
use tokio::sync::oneshot;
use tokio::time::Instant;
use wasmtime::component::{Component, Linker, ResourceTableError};
use wasmtime::{Engine, Store, Trap};

use crate::Boxed;
use crate::authority::{Authenticator, Identified, Presented, Rejection};
use crate::bus::intercept::{Interception, Interceptor, Verdict};
use crate::bus::stream::Writer;
use crate::bus::typed::{Typed, Types};
use crate::bus::waiting::Place;
use crate::bus::{Failure, Message, Responder, Sender};
use crate::host::Host;
use crate::http::{Body, Connection, Exchange, Mounted};
use crate::link::bindings::authenticator::exports::astrid::authority::authenticator as wit_authenticator;
use crate::link::exports::Exports;
use crate::link::{self, Call};
use crate::meter::ledger::Used;
use crate::meter::{Bounds, Breath, Charge, FUEL_SLICE, HOST_CALL_BYTES, MAX_HANDLES, Tally};
use crate::pool::{Concurrency, Lane, Permit, Rank};

pub struct Generation {
    pub id: Arc<str>,
    /// Unique for the life of the process.
    pub serial: u64,
    pub manifest: Manifest,
    pub hash: String,
    grants: Vec<Capability>,
    types: Types,
    bounds: Bounds,
    engine: Engine,
    exports: Exports,
    host: Weak<Host>,
    tally: Arc<Tally>,
    figures: Figures,
}

/// Handles of this capsule's series, looked up once.
struct Figures {
    ok: Counter,
    refused: Counter,
    trapped: Counter,
    timeout: Counter,
    overloaded: Counter,
    fuel: Counter,
    seconds: Histogram,
    host_wait: Histogram,
    peak_memory: Histogram,
}

/// What a call has besides its sender.
#[derive(Default)]
pub struct Inbound {
    /// What the listener knows, where it is an HTTP request.
    pub connection: Option<Arc<Connection>>,
    /// Where pieces of its answer go.
    pub reply: Option<Writer>,
    /// Given up once it has an instance.
    pub place: Option<Place>,
    /// Told when it says that it is ready.
    pub ready: Option<oneshot::Sender<()>>,
}

/// How long the authenticator may think.
const AUTHENTICATE: Duration = Duration::from_secs(5);
/// What somebody is told to wait who found no instance, in milliseconds.
const RETRY_MS: u32 = 100;

impl Generation {
    /// Links the component. An import that the host does not offer is named in the error.
    pub fn new(
        host: &Arc<Host>,
        component: Component,
        concurrency: Concurrency,
        hash: String,
        manifest: Manifest,
        schemas: Schemas,
        grants: Vec<Capability>,
    ) -> anyhow::Result<Arc<Self>> {
        let mut linker = Linker::new(component.engine());
        link::link(&mut linker, concurrency).map_err(anyhow::Error::from).context("linking the host's functions")?;
        let pre = linker.instantiate_pre(&component).map_err(anyhow::Error::from);
        let pre = pre.context("the component does not fit this host")?;
        let id: Arc<str> = manifest.package.name.as_str().into();
        let bounds = Bounds::new(&manifest.limits, host.pool_memory_bytes());
        let outcome = |outcome| counter!("astrid_invocations_total", "capsule" => id.to_string(), "outcome" => outcome);
        let figures = Figures {
            ok: outcome("ok"),
            refused: outcome("refused"),
            trapped: outcome("trapped"),
            timeout: outcome("timeout"),
            overloaded: outcome("overloaded"),
            fuel: counter!("astrid_fuel_total", "capsule" => id.to_string()),
            seconds: histogram!("astrid_invocation_seconds", "capsule" => id.to_string()),
            host_wait: histogram!("astrid_invocation_host_wait_seconds", "capsule" => id.to_string()),
            peak_memory: histogram!("astrid_invocation_peak_memory_bytes", "capsule" => id.to_string()),
        };
        let tally = host.meter.capsule(&id);
        let types = if host.config.bus.strict { Types::new(&manifest, schemas) } else { Types::default() };
        let host = Arc::downgrade(host);
        let engine = component.engine().clone();
        let exports = Exports::new(pre);
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self { id, serial, manifest, hash, grants, types, bounds, engine, exports, host, tally, figures }))
    }

    /// Whether the operator granted this.
    pub fn granted(&self, grant: &str) -> bool {
        self.grants.iter().any(|g| g.as_str() == grant)
    }

    /// What the operator granted: what [`Self::granted`] looks at.
    pub fn grants(&self) -> &[Capability] {
        &self.grants
    }

    /// What its messages are held to: nothing, unless `bus.strict` is on.
    pub fn types(&self) -> &Types {
        &self.types
    }

    /// Whether the manifest names the topic among those it sends to.
    pub fn may_send(&self, topic: &str) -> Result<(), Failure> {
        let topic = Topic::parse(topic).map_err(|error| Failure::Invalid(error.to_string()))?;
        if self.manifest.may_send(&topic) {
            return Ok(());
        }
        Err(Failure::Denied(format!("the manifest of `{}` has no [[publish]] that covers {topic}", self.id)))
    }

    /// Mounts of this generation: prefix and what serves it.
    pub fn mounts(self: &Arc<Self>) -> Vec<(String, Arc<dyn Mounted>)> {
        let mounts = self.manifest.http.iter().flat_map(|http| &http.mounts);
        mounts.map(|prefix| (prefix.clone(), self.clone() as Arc<dyn Mounted>)).collect()
    }

    /// Interceptions of this generation, in the manifest's order.
    pub fn interceptions(self: &Arc<Self>) -> impl Iterator<Item = Interception> {
        self.manifest.intercept.iter().map(|one| Interception::new(self.id.clone(), one.clone(), self.clone()))
    }

    /// Lets the capsule prepare, if it wants to.
    pub async fn start(self: &Arc<Self>) -> Result<(), String> {
        let Some(pre) = self.exports.starter.clone() else { return Ok(()) };
        let sender = self.nobody(Instant::now() + self.bounds.timeout);
        let outcome = self.enter(Rank::First, Lane::Host, sender, Inbound::default(), |store| {
            Box::pin(async move {
                let instance = pre.instantiate_async(&mut *store).await?;
                instance.astrid_capsule_lifecycle().call_start(store).await
            })
        });
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(format!("its start refused: {}", crate::log::clean(&why))),
            Err(failure) => Err(format!("its start failed: {}; the log has the detail", failure.kind())),
        }
    }

    /// Nobody's call, at the bottom: what the host itself begins.
    fn nobody(&self, deadline: Instant) -> Sender {
        Sender { principal: PrincipalId::anonymous(), capsule: self.id.clone(), deadline, depth: 0, cause: None }
    }

    /// One call in a fresh instance: admitted, limited, preempted, ended by its deadline from outside, and counted.
    async fn enter<R>(
        self: &Arc<Self>,
        rank: Rank,
        lane: Lane,
        mut sender: Sender,
        mut inbound: Inbound,
        call: impl for<'s> FnOnce(&'s mut Store<Call>) -> Boxed<'s, wasmtime::Result<R>> + Send,
    ) -> Result<R, Failure> {
        let started = Instant::now();
        // Only missing while the host goes down.
        let host = self.host.upgrade().ok_or(Failure::Overloaded { retry_ms: RETRY_MS })?;
        let charge = host.meter.begin(&lane, &self.tally, self.bounds).map_err(|wait| {
            self.figures.overloaded.increment(1);
            Failure::Overloaded { retry_ms: wait.millis() }
        })?;
        let bounds = charge.bounds;
        sender.deadline = sender.deadline.min(started + bounds.timeout);
        let deadline = sender.deadline;
        let Ok(room) = host.pool.admit(lane, rank, charge.concurrent_calls, deadline).await else {
            self.figures.overloaded.increment(1);
            return Err(Failure::Overloaded { retry_ms: RETRY_MS });
        };
        drop(inbound.place.take());
        let data = Call::new(host.clone(), self.clone(), sender, inbound, &bounds);
        let mut store = Store::new(&self.engine, data);
        store.limiter(|call| call.limiter());
        store.call_hook_async(Breath::new(started.into_std()));
        store.set_hostcall_fuel(HOST_CALL_BYTES);
        let prepared = store.set_fuel(bounds.fuel).and_then(|()| store.fuel_async_yield_interval(Some(FUEL_SLICE)));
        let mut running = Running { generation: self, store, started, charge, room };
        let outcome = match prepared {
            Ok(()) => tokio::time::timeout_at(deadline, call(&mut running.store)).await,
            Err(error) => Ok(Err(error)),
        };
        match outcome {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.figures.trapped.increment(1);
                let why = running.explain(&error);
                tracing::error!(capsule = &*self.id, "a call died: {why}");
                Err(Failure::Trapped)
            }
            Err(_) => {
                self.figures.timeout.increment(1);
                tracing::warn!(capsule = &*self.id, after = ?started.elapsed(), "a call was ended at its deadline");
                Err(Failure::Timeout)
            }
        }
    }
}

/// A call that runs. However it ends, also when nobody waits for it any more, what it used is counted and paid for.
struct Running<'a> {
    generation: &'a Generation,
    store: Store<Call>,
    started: Instant,
    charge: Charge,
    room: Permit<'a>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Self { generation, store, started, charge, room } = self;
        let fuel = charge.bounds.fuel - store.get_fuel().unwrap_or(0);
        let peak_memory_bytes = store.data_mut().limiter().peak_memory_bytes() as u64;
        room.settle(fuel);
        charge.used(Used { fuel, wall: started.elapsed(), peak_memory_bytes });
        generation.figures.fuel.increment(fuel);
        generation.figures.seconds.record(started.elapsed());
        generation.figures.host_wait.record(store.data().waited());
        generation.figures.peak_memory.record(peak_memory_bytes as f64);
        if let Some(text) = store.data().output() {
            tracing::warn!(capsule = &*generation.id, "it wrote: {text}");
        }
    }
}

impl Running<'_> {
    fn explain(&mut self, error: &wasmtime::Error) -> String {
        let bounds = self.charge.bounds;
        if self.store.data_mut().limiter().exceeded() {
            return format!("it wanted more than {} bytes of memory or 10000 table elements", bounds.memory_bytes);
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => format!("it used all of its {} fuel", bounds.fuel),
            Some(trap) => format!("trap: {trap}"),
            None if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) => {
                format!("it wanted more than {MAX_HANDLES} resource handles")
            }
            None => match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
                Some(exit) => format!("it called exit({}); a capsule ends by returning", exit.0),
                None => error.root_cause().to_string(),
            },
        }
    }
}

impl Generation {
    /// What this capsule sends while it works on a message.
    pub fn caused_by(&self, message: &Message) -> Sender {
        Sender {
            principal: message.principal.clone(),
            capsule: self.id.clone(),
            deadline: message.deadline,
            depth: message.depth,
            cause: message.cause.clone(),
        }
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
        message: Message,
        place: Option<Place>,
    ) -> Boxed<'static, Result<Bytes, Failure>> {
        Box::pin(async move {
            let Some(pre) = self.exports.handler.clone() else { return Err(Failure::NoResponder) };
            let sender = self.caused_by(&message);
            // Whoever publishes does not wait, so it holds no instance meanwhile.
            let rank = if message.publication { Rank::Outer } else { nested(&message) };
            let lane = Lane::Principal(message.principal.clone());
            let inbound = Inbound { reply: message.reply.clone(), place, ..Inbound::default() };
            let outcome = self.enter(rank, lane, sender, inbound, |store| {
                Box::pin(async move {
                    let instance = pre.instantiate_async(&mut *store).await?;
                    let message = link::bus::to_wit(&message);
                    instance.astrid_bus_handler().call_handle(store, &handler, &message).await
                })
            });
            match outcome.await? {
                Ok(answer) => {
                    self.figures.ok.increment(1);
                    Ok(answer.into())
                }
                Err(refusal) => {
                    self.figures.refused.increment(1);
                    Err(Failure::Refused(refusal.into()))
                }
            }
        })
    }

    fn typed(&self, binding: &Pattern) -> Option<Arc<Typed>> {
        self.types.bound(binding)
    }
}

impl Interceptor for Generation {
    fn intercept(self: Arc<Self>, handler: Arc<str>, message: Message) -> Boxed<'static, Result<Verdict, Failure>> {
        Box::pin(async move {
            let Some(pre) = self.exports.interceptor.clone() else { return Err(Failure::NoResponder) };
            let sender = self.caused_by(&message);
            let lane = Lane::Principal(message.principal.clone());
            // Nested: the sender waits, and holds an instance meanwhile.
            let outcome = self.enter(nested(&message), lane, sender, Inbound::default(), |store| {
                Box::pin(async move {
                    let instance = pre.instantiate_async(&mut *store).await?;
                    let message = link::bus::to_wit(&message);
                    instance.astrid_bus_interceptor().call_intercept(store, &handler, &message).await
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
            let Some(pre) = self.exports.authenticator.clone() else { return Err(Rejection::Unavailable) };
            let presented = match presented {
                Presented::Bearer(token) => wit_authenticator::Presented::Bearer(token),
                Presented::Unix { uid, owner } => {
                    wit_authenticator::Presented::Unix(wit_authenticator::UnixPeer { uid, owner })
                }
            };
            let sender = self.nobody(Instant::now() + AUTHENTICATE);
            let outcome = self.enter(Rank::First, Lane::Host, sender, Inbound::default(), |store| {
                Box::pin(async move {
                    let instance = pre.instantiate_async(&mut *store).await?;
                    instance.astrid_authority_authenticator().call_authenticate(store, &presented).await
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
            Ok(Identified { principal, expires_at: identified.expires_at })
        })
    }
}

impl Mounted for Generation {
    fn max_body_bytes(&self) -> u64 {
        self.manifest.http.as_ref().map_or(0, |http| http.max_body_bytes)
    }

    fn serve(self: Arc<Self>, exchange: Exchange) -> Boxed<'static, Result<Response<Body>, Failure>> {
        Box::pin(async move {
            let sender =
                Sender { cause: Some(exchange.id.clone()), ..self.nobody(Instant::now() + self.bounds.timeout) };
            if let Some(pre) = self.exports.front_end.clone() {
                let lane = exchange.connection.lane();
                let inbound = Inbound { connection: Some(exchange.connection.clone()), ..Inbound::default() };
                let request = link::http::to_wit(exchange);
                let outcome = self.enter(Rank::Outer, lane, sender, inbound, |store| {
                    Box::pin(async move {
                        let instance = pre.instantiate_async(&mut *store).await?;
                        instance.astrid_http_handler().call_handle(store, &request).await
                    })
                });
                let answer = outcome.await?;
                self.figures.ok.increment(1);
                return link::http::from_wit(answer);
            }
            self.serve_wasi(sender, exchange).await
        })
    }
}

impl Generation {
    /// A `wasi:http` handler sets its answer while it runs and may go on writing the body, so it runs as a task of its
    /// own until it ends or its deadline passes.
    async fn serve_wasi(self: Arc<Self>, sender: Sender, exchange: Exchange) -> Result<Response<Body>, Failure> {
        let (send, answered) = tokio::sync::oneshot::channel();
        let lane = exchange.connection.lane();
        let inbound = Inbound { connection: Some(exchange.connection.clone()), ..Inbound::default() };
        let this = self.clone();
        let Some(pre) = self.exports.wasi_http.clone() else { return Err(Failure::NoResponder) };
        let task = tokio::spawn(async move {
            this.enter(Rank::Outer, lane, sender, inbound, |store| {
                Box::pin(async move {
                    let (request, answer) = link::http::to_wasi(store.data_mut(), exchange, send)?;
                    let instance = pre.instantiate_async(&mut *store).await?;
                    instance.wasi_http_incoming_handler().call_handle(store, request, answer).await
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
