//! One loaded version of a capsule, and the calls into it: each in an instance of its own, or, where the manifest says
//! so, in one that has served the same principal before and is as good as new to everybody else
//! (docs/decisions/0012-warm-instances.md).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use anyhow::Context;
use astrid_capsule::manifest::{Isolation, Manifest};
use astrid_capsule::schema::Schemas;
use astrid_capsule::{Capability, PrincipalId, Topic};
use metrics::{Counter, Histogram, counter, gauge, histogram};
use tokio::sync::oneshot;
use tokio::time::Instant;
use wasmtime::component::{Component, Instance, Linker, ResourceTableError};
use wasmtime::{Engine, Store, Trap};

use super::run::Shift;
use super::watch::Watch;
use crate::Boxed;
use crate::authority::Mandate;
use crate::bus::intercept::Interception;
use crate::bus::stream::Writer;
use crate::bus::typed::Types;
use crate::bus::waiting::Place;
use crate::bus::{Failure, Message, Note, Origin, Sender};
use crate::host::Host;
use crate::http::{Connection, Mount, Mounted, Room, Whom};
use crate::journal::{Fact, Outcome};
use crate::link::exports::Exports;
use crate::link::{self, Call, Doing, Turn};
use crate::meter::ledger::Used;
use crate::meter::{Bounds, Breath, Charge, FUEL_SLICE, HOST_CALL_BYTES, MAX_HANDLES, Tally};
use crate::pool::{Concurrency, Lane, Permit, Rank, Seat, Why};
use crate::runtime;

pub struct Generation {
    pub id: Arc<str>,
    /// Unique for the life of the process.
    pub serial: u64,
    pub manifest: Manifest,
    /// Its id and hash, for what it sends.
    pub origin: Arc<Origin>,
    grants: Vec<Capability>,
    pub(super) types: Types,
    pub(super) bounds: Bounds,
    /// Of handlers and interceptors.
    pub(super) isolation: Isolation,
    retired: AtomicBool,
    pub(super) engine: Engine,
    pub(super) exports: Exports,
    pub(super) host: Weak<Host>,
    pub(super) tally: Arc<Tally>,
    pub(super) figures: Figures,
    pub(super) watch: Watch,
    /// Its mounts, and what requests below them may be.
    rooms: Vec<(String, Arc<Room>)>,
}

/// Handles of this capsule's series, looked up once.
pub(super) struct Figures {
    pub(super) ok: Counter,
    pub(super) refused: Counter,
    pub(super) trapped: Counter,
    pub(super) timeout: Counter,
    overloaded: Counter,
    pub(super) fuel: Counter,
    seconds: Histogram,
    host_wait: Histogram,
    peak_memory: Histogram,
}

/// What a call has besides its sender.
#[derive(Default)]
pub struct Inbound {
    /// What the listener knows, where it is an HTTP request.
    pub connection: Option<Arc<Connection>>,
    /// Told whose credential was taken, where it is an HTTP request.
    pub whom: Option<Whom>,
    /// Where pieces of its answer go.
    pub reply: Option<Writer>,
    /// What its capsule says of it for the record.
    pub note: Option<Arc<Note>>,
    /// Given up once it has an instance.
    pub place: Option<Place>,
    /// Told when it says that it is ready.
    pub ready: Option<oneshot::Sender<()>>,
    /// Who pays for what it does, where it is a run loop.
    pub shift: Option<Shift>,
}

/// Who alone meets an instance again: the same principal with the same standing and within the same ceiling, in the same
/// generation. A principal whose standing has changed since can't find what it left, nor can a session with a scope find
/// what one without it has left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    generation: u64,
    principal: PrincipalId,
    ceiling: Option<Arc<[Capability]>>,
    stamp: u64,
}

/// An instance and its store. None yet where it is to be made.
pub struct Resident {
    store: Store<Call>,
    instance: Option<Instance>,
}

/// The most linear memory that an instance keeps while it waits for a call, in bytes.
const IDLE_MEMORY_BYTES: usize = 16 << 20;
/// What somebody is told to wait who found no instance, in milliseconds.
pub(super) const RETRY_MS: u32 = 100;

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
        gauge!("astrid_capsule_generations", "capsule" => id.to_string()).increment(1);
        let isolation = match host.config.now().runtime.isolation {
            runtime::Isolation::Manifest => manifest.component.isolation,
            runtime::Isolation::Call => Isolation::Call,
        };
        let rooms = manifest
            .http
            .iter()
            .flat_map(|http| http.mounts.iter().map(move |mount| (mount.clone(), Room::of(http, mount))));
        let rooms = rooms.collect();
        let tally = host.meter.capsule(&id);
        let types = if host.config.now().bus.strict { Types::new(&manifest, schemas) } else { Types::default() };
        let host = Arc::downgrade(host);
        let engine = component.engine().clone();
        let exports = Exports::new(pre);
        let origin = Origin::new(id.clone(), hash);
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self {
            id,
            serial,
            manifest,
            origin,
            grants,
            types,
            bounds,
            isolation,
            retired: AtomicBool::new(false),
            engine,
            exports,
            host,
            tally,
            figures,
            watch: Watch::default(),
            rooms,
        }))
    }

    /// Another has taken its place: nothing of it is kept from now on. Calls that run go on.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// It is to be live again: instances of it may be kept.
    pub(super) fn recall(&self) {
        self.retired.store(false, Ordering::Release);
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

    /// Mounts of this generation.
    pub fn mounts(self: &Arc<Self>) -> Vec<Mount> {
        let mount = |(prefix, room): &(String, Arc<Room>)| Mount {
            prefix: prefix.as_str().into(),
            served: self.clone() as Arc<dyn Mounted>,
            room: room.clone(),
        };
        self.rooms.iter().map(mount).collect()
    }

    /// Interceptions of this generation, in the manifest's order.
    pub fn interceptions(self: &Arc<Self>) -> impl Iterator<Item = Interception> {
        self.manifest.intercept.iter().map(|one| Interception::new(self.id.clone(), one.clone(), self.clone()))
    }

    /// Lets the capsule prepare, if it wants to.
    pub async fn start(self: &Arc<Self>) -> Result<(), String> {
        let Some(export) = self.exports.starter.clone() else { return Ok(()) };
        let sender = self.nobody(Instant::now() + self.bounds.timeout);
        let turn = Turn::new(sender, Inbound::default());
        let outcome = self.enter(Rank::First, Lane::Host, turn, Isolation::Call, |store, instance| {
            Box::pin(async move {
                let export = export.load(&mut *store, &instance)?;
                export.astrid_capsule_lifecycle().call_start(store).await
            })
        });
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(format!("its start refused: {}", crate::log::clean(&why))),
            Err(failure) => Err(format!("its start failed: {}; the log has the detail", failure.kind())),
        }
    }

    /// Nobody's call, at the bottom: what the host itself begins.
    pub(super) fn nobody(&self, deadline: Instant) -> Sender {
        Sender {
            principal: PrincipalId::anonymous(),
            mandate: Mandate::default(),
            origin: self.origin.clone(),
            deadline,
            depth: 0,
            cause: None,
            rehearsal: false,
        }
    }

    /// Who alone may meet the instance of this principal's call again; none where it serves one call.
    fn key(&self, host: &Host, isolation: Isolation, turn: &Turn) -> Option<Key> {
        if isolation != Isolation::Principal {
            return None;
        }
        // None for `anonymous`, and for whoever is unknown or disabled and calls what is public.
        let (principal, ceiling) = (turn.principal().clone(), turn.mandate().ceiling().cloned());
        let stamp = host.authority.stamp(&principal)?;
        Some(Key { generation: self.serial, principal, ceiling, stamp })
    }

    /// Why an instance of this generation can't be kept under `key` (any longer).
    fn unfit(&self, host: &Host, key: &Key) -> Option<Why> {
        if self.retired.load(Ordering::Acquire) {
            return Some(Why::Retired);
        }
        (host.authority.stamp(&key.principal) != Some(key.stamp)).then_some(Why::Standing)
    }

    /// One call: admitted, given an instance, limited, preempted, ended by its deadline from outside, and counted.
    pub(super) async fn enter<R>(
        self: &Arc<Self>,
        rank: Rank,
        lane: Lane,
        mut turn: Turn,
        isolation: Isolation,
        call: impl for<'s> FnOnce(&'s mut Store<Call>, Instance) -> Boxed<'s, wasmtime::Result<R>> + Send,
    ) -> Result<R, Failure> {
        let started = Instant::now();
        let _in_flight = self.watch.begin();
        let whose = lane.clone();
        // Only missing while the host goes down.
        let host = self.host.upgrade().ok_or(Failure::Overloaded { retry_ms: RETRY_MS })?;
        // Before the quotas are read: an instance is kept for this standing, with the memory that it allowed.
        let key = self.key(&host, isolation, &turn);
        let charge = host.meter.begin(&lane, &self.tally, self.bounds).map_err(|wait| {
            self.figures.overloaded.increment(1);
            Failure::Overloaded { retry_ms: wait.millis() }
        })?;
        let bounds = charge.bounds;
        let deadline = turn.end_by(started + bounds.timeout);
        let Ok(room) = host.pool.admit(lane, rank, charge.concurrent_calls, deadline).await else {
            self.figures.overloaded.increment(1);
            return Err(Failure::Overloaded { retry_ms: RETRY_MS });
        };
        turn.begins();
        let doing = turn.doing();
        // It may have waited long: what it finds must be of the standing that holds now.
        let key = key.filter(|key| self.unfit(&host, key).is_none());
        let (seat, found) = host.warm.begin(key);
        let resident = match found {
            Some(mut resident) => {
                resident.store.data_mut().begin(turn);
                resident
            }
            None => Resident::new(&self.engine, Call::new(host.clone(), self.clone(), turn, &bounds)),
        };
        let mut running = Running {
            generation: self,
            host: &host,
            resident: Some(resident),
            answered: false,
            started,
            entered: Instant::now(),
            charge,
            seat,
            room,
            whose,
            died: false,
        };
        let Resident { store, instance } = running.resident.as_mut().expect("it is there until the end");
        let serving = async {
            Resident::prepare(store, bounds.fuel, started)?;
            let instance = match instance {
                Some(instance) => *instance,
                None => *instance.insert(self.exports.pre.instantiate_async(&mut *store).await?),
            };
            call(store, instance).await
        };
        let outcome = tokio::time::timeout_at(deadline, serving).await;
        match outcome {
            Ok(Ok(answer)) => {
                running.answered = true;
                Ok(answer)
            }
            Ok(Err(error)) => {
                running.died = true;
                self.figures.trapped.increment(1);
                let bounds = running.charge.bounds;
                let why = running.resident.as_mut().map(|resident| explain(&mut resident.store, &bounds, &error));
                let why = why.unwrap_or_default();
                tracing::error!(capsule = &*self.id, "a call died: {why}");
                self.died(&host, doing, why);
                Err(Failure::Trapped)
            }
            Err(_) => {
                self.figures.timeout.increment(1);
                tracing::warn!(capsule = &*self.id, after = ?started.elapsed(), "a call was ended at its deadline");
                self.died(&host, doing, format!("ended at its deadline after {:?}", started.elapsed()));
                Err(Failure::Timeout)
            }
        }
    }
}

impl Generation {
    /// A call was ended by the host: it trapped, went over a limit, or had no time left.
    fn died(&self, host: &Host, doing: Doing, why: String) {
        host.journal.append(Fact {
            principal: Some(doing.principal.to_string()),
            session: doing.mandate.name().map(str::to_owned),
            capsule: Some(self.id.to_string()),
            hash: Some(self.origin.hash.clone()),
            cause: doing.cause.as_ref().map(ToString::to_string),
            outcome: Outcome::Failed,
            reason: Some(why),
            ..host.journal.fact("capsule.call")
        });
    }
}

impl Resident {
    fn new(engine: &Engine, call: Call) -> Self {
        let mut store = Store::new(engine, call);
        store.limiter(|call| call.limiter());
        store.set_hostcall_fuel(HOST_CALL_BYTES);
        Self { store, instance: None }
    }

    /// What each call begins with.
    fn prepare(store: &mut Store<Call>, fuel: u64, started: Instant) -> wasmtime::Result<()> {
        store.call_hook_async(Breath::new(started.into_std()));
        store.set_fuel(fuel)?;
        store.fuel_async_yield_interval(Some(FUEL_SLICE))
    }

    /// Why this one, which waits under `key`, must go.
    pub fn unfit(&self, host: &Host, key: &Key) -> Option<Why> {
        self.store.data().generation().unfit(host, key)
    }
}

/// A call that runs. However it ends, also when nobody waits for it any more, what it used is counted and paid for, and
/// its instance is kept or gone before its slot is free.
struct Running<'a> {
    generation: &'a Generation,
    host: &'a Arc<Host>,
    resident: Option<Resident>,
    /// It ended with an answer.
    answered: bool,
    started: Instant,
    /// It had an instance from then on.
    entered: Instant,
    charge: Charge,
    seat: Seat<'a, Key, Resident>,
    room: Permit<'a>,
    whose: Lane,
    died: bool,
}

impl Running<'_> {
    /// Whether its generation has failed its caller; none where the caller did not stay for the answer.
    fn failed(&self, failing: bool) -> Option<bool> {
        if self.answered || self.died {
            return Some(self.died || failing);
        }
        // Who waits through others has less time than it has itself; who is merely impatient has much less.
        (self.entered.elapsed() * 2 >= self.charge.bounds.timeout).then_some(true)
    }

    /// Why its instance can't be kept, if it has a key to keep it under.
    fn unfit(&self, call: &mut Call, key: &Key) -> Option<Why> {
        let limiter = call.limiter();
        if !self.answered || limiter.exceeded() {
            return Some(Why::Failed);
        }
        if limiter.peak_memory_bytes() > IDLE_MEMORY_BYTES {
            return Some(Why::Large);
        }
        self.generation.unfit(self.host, key)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Some(mut resident) = self.resident.take() else { return };
        let store = &mut resident.store;
        let fuel = self.charge.bounds.fuel - store.get_fuel().unwrap_or(0);
        let peak_memory_bytes = store.data_mut().limiter().peak_memory_bytes() as u64;
        self.room.settle(fuel);
        self.charge.used(Used { fuel, wall: self.started.elapsed(), peak_memory_bytes });
        let figures = &self.generation.figures;
        figures.fuel.increment(fuel);
        figures.seconds.record(self.started.elapsed());
        figures.host_wait.record(store.data().waited());
        figures.peak_memory.record(peak_memory_bytes as f64);
        if let Some(text) = store.data().take_output() {
            tracing::warn!(capsule = &*self.generation.id, "it wrote: {text}");
        }
        let failed = self.failed(store.data().is_failing());
        if failed.is_some_and(|failed| self.generation.watch.ended(&self.whose, failed)) {
            self.host.loader.exhausted(self.host, self.generation);
        }
        let Some(key) = self.seat.key() else { return };
        match self.unfit(store.data_mut(), key) {
            Some(why) => self.seat.discard(resident, why),
            None => {
                store.data_mut().rest();
                self.seat.keep(resident, self.host.started.elapsed());
            }
        }
    }
}

/// Why a call died.
pub(super) fn explain(store: &mut Store<Call>, bounds: &Bounds, error: &wasmtime::Error) -> String {
    if store.data_mut().limiter().exceeded() {
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

impl Drop for Generation {
    fn drop(&mut self) {
        gauge!("astrid_capsule_generations", "capsule" => self.id.to_string()).decrement(1);
    }
}

impl Generation {
    /// What this capsule sends while it works on a message.
    pub fn caused_by(&self, message: &Message) -> Sender {
        Sender {
            principal: message.principal.clone(),
            mandate: message.mandate.clone(),
            origin: self.origin.clone(),
            deadline: message.deadline,
            depth: message.depth,
            cause: message.cause.clone(),
            rehearsal: message.rehearsal,
        }
    }
}
