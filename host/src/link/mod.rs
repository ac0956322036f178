//! Between WIT and the rooms: conversion only, one file for each interface. Nothing here deserves a test of its own;
//! what could go wrong lives in the room that a function calls.
//!
//! [`Call`] is what a store holds: an instance of one capsule, and the call that it serves now. Who calls belongs to the
//! call ([`Turn`]), which is replaced as a whole and never for another principal; handles that carry a call's right end
//! with it ([`OfCall`]).

pub mod authority;
#[allow(clippy::all, reason = "generated code")]
pub mod bindings;
pub mod bus;
mod env;
pub mod exports;
pub mod http;
mod journal;
mod keys;
mod output;
pub mod process;
pub mod sink;
pub mod store;
mod sys;

use std::any::Any;
use std::sync::Arc;

use astrid_capsule::PrincipalId;
use tokio::time::Instant;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error as WasiHttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use bindings::handler::astrid::bus::types::{Failure, RefusalCode};

use crate::authority::Mandate;
use crate::bus::Sender;
use crate::bus::cause::Cause;
use crate::host::Host;
use crate::journal::Fact;
use crate::loader::{Generation, Inbound, Shift};
use crate::pool::Concurrency;
use authority::Session;
use output::Output;
use store::Transaction;

use crate::meter::{Bounds, HostWait, Limiter, MAX_HANDLES, RANDOM_BYTES};

/// What belongs to one call and to nothing else.
pub struct Turn {
    /// On whose behalf, until when, how deep.
    sender: Sender,
    inbound: Inbound,
    waited: HostWait,
    /// Something that it asked another for has failed: what it answers may be that.
    let_down: bool,
    /// It has answered that it failed, and nobody else did.
    failing: bool,
}

impl Turn {
    pub fn new(sender: Sender, inbound: Inbound) -> Self {
        Self { sender, inbound, waited: HostWait::default(), let_down: false, failing: false }
    }

    /// The call has what it needs to run: it waits no more.
    pub fn begins(&mut self) {
        self.inbound.place = None;
    }

    pub fn principal(&self) -> &PrincipalId {
        &self.sender.principal
    }

    /// For whom, and because of what.
    pub fn doing(&self) -> Doing {
        let Sender { principal, mandate, cause, .. } = self.sender.clone();
        Doing { principal, mandate, cause }
    }

    pub fn mandate(&self) -> &Mandate {
        &self.sender.mandate
    }

    /// Ends by then, if it does not end before. Returns when it ends.
    pub fn end_by(&mut self, latest: Instant) -> Instant {
        self.sender.deadline = self.sender.deadline.min(latest);
        self.sender.deadline
    }
}

/// Of a call that runs, for whoever must say later what became of it.
pub struct Doing {
    pub principal: PrincipalId,
    /// Of the session that it comes from.
    pub mandate: Mandate,
    /// The request from outside.
    pub cause: Option<Arc<Cause>>,
}

/// What a store holds: the instance's own, and the call that it serves now.
pub struct Call {
    host: Arc<Host>,
    generation: Arc<Generation>,
    turn: Turn,
    /// How long a run loop's own calls may take.
    timeout: std::time::Duration,
    limiter: Limiter,
    table: ResourceTable,
    wasi: Option<(WasiCtx, Output)>,
    wasi_http: WasiHttpCtx,
    no_egress: NoEgress,
}

impl Call {
    pub fn new(host: Arc<Host>, generation: Arc<Generation>, turn: Turn, bounds: &Bounds) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            host,
            generation,
            turn,
            timeout: bounds.timeout,
            limiter: Limiter::new(bounds),
            table,
            wasi: None,
            wasi_http: WasiHttpCtx::new(),
            no_egress: NoEgress,
        }
    }

    /// The next call: from here on nothing is left of the one before but the instance and its plain handles.
    ///
    /// # Panics
    /// If it is for another principal: an instance serves one for its whole life.
    pub fn begin(&mut self, turn: Turn) {
        assert_eq!(self.turn.sender.principal, turn.sender.principal, "an instance was found by another principal");
        self.turn = turn;
    }

    /// The call has ended and the instance may serve another: what carried the call's right is gone. Its handles stay
    /// where the guest keeps them, so none is ever given out again in another's place, and are refused.
    pub fn rest(&mut self) {
        for entry in self.table.iter_mut() {
            let entry: &mut dyn Any = entry;
            end::<Session>(entry);
            end::<Transaction>(entry);
            end::<bus::Answer>(entry);
            end::<bus::Caller>(entry);
            end::<bus::Subscription>(entry);
            end::<crate::process::Child>(entry);
        }
        self.turn.inbound = Inbound::default();
    }

    /// Where it is a run loop.
    pub fn shift(&mut self) -> Option<&mut Shift> {
        self.turn.inbound.shift.as_mut()
    }

    /// Whom to tell when it says that it is ready.
    pub fn awaits(&mut self, ready: tokio::sync::oneshot::Sender<()>) {
        self.turn.inbound.ready = Some(ready);
    }

    /// A run loop has no end, but each of its calls has: as many milliseconds as the manifest gives one.
    pub fn renew(&mut self) {
        self.turn.sender.deadline = tokio::time::Instant::now() + self.timeout;
    }

    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    pub fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    /// The answer says that the call failed. Passing another's failure on is none.
    pub fn fails(&mut self) {
        self.turn.failing = !self.turn.let_down;
    }

    pub fn is_failing(&self) -> bool {
        self.turn.failing
    }

    /// What another has answered.
    fn noted<T>(&mut self, answer: Result<T, Failure>) -> Result<T, Failure> {
        let failed = match &answer {
            Ok(_) | Err(Failure::Denied(_) | Failure::Invalid(_) | Failure::TooLarge(_)) => false,
            Err(Failure::Refused(refusal)) => {
                matches!(refusal.code, RefusalCode::Internal | RefusalCode::Unavailable)
            }
            Err(_) => true,
        };
        self.turn.let_down |= failed;
        answer
    }

    /// A fact of what this call does.
    pub(crate) fn fact(&self, action: &str) -> Fact {
        self.fact_of(&self.turn.sender, action)
    }

    /// A fact of what this call does for somebody.
    fn fact_of(&self, sender: &Sender, action: &str) -> Fact {
        Fact {
            principal: Some(sender.principal.to_string()),
            session: sender.mandate.name().map(str::to_owned),
            capsule: Some(self.generation.id.to_string()),
            hash: Some(self.generation.origin.hash.clone()),
            cause: sender.cause.as_ref().map(ToString::to_string),
            ..self.host.journal.fact(action)
        }
    }

    /// Records what this call has done outside of itself, unless it is a rehearsal.
    pub(crate) fn record(&self, fact: Fact) {
        if !self.turn.sender.rehearsal {
            self.host.journal.append(fact);
        }
    }

    /// The time that the call spent in host functions that waited.
    pub fn waited(&self) -> std::time::Duration {
        self.turn.waited.so_far()
    }

    /// What the guest has written to its standard streams since this was last asked.
    pub fn take_output(&self) -> Option<String> {
        self.wasi.as_ref().and_then(|(_, output)| output.take())
    }

    /// A new handle that ends with this call.
    pub fn push_of_call<T: Send + 'static>(&mut self, value: T) -> wasmtime::Result<Resource<OfCall<T>>> {
        Ok(self.table.push(OfCall(Some(value)))?)
    }

    fn of_call<T: Send + 'static>(&self, handle: &Resource<OfCall<T>>) -> wasmtime::Result<&T> {
        Ok(self.table.get(handle)?.0.as_ref().ok_or(Ended)?)
    }

    fn of_call_mut<T: Send + 'static>(&mut self, handle: &Resource<OfCall<T>>) -> wasmtime::Result<&mut T> {
        Ok(self.table.get_mut(handle)?.0.as_mut().ok_or(Ended)?)
    }

    /// Also takes the handle from the guest.
    pub fn take_of_call<T: Send + 'static>(&mut self, handle: Resource<OfCall<T>>) -> wasmtime::Result<T> {
        Ok(self.table.delete(handle)?.0.ok_or(Ended)?)
    }
}

impl bindings::handler::astrid::capsule::supervision::Host for Call {
    async fn ready(&mut self) -> wasmtime::Result<()> {
        if let Some(ready) = self.turn.inbound.ready.take() {
            if let Some(shift) = &self.turn.inbound.shift {
                shift.ready();
            }
            let _ = ready.send(());
        }
        Ok(())
    }
}

/// What ends with the call that made it, though its handle may be kept for longer.
pub struct OfCall<T>(Option<T>);

/// Ends an entry of the table if it is such a thing.
fn end<T: 'static>(entry: &mut dyn Any) {
    if let Some(of_call) = entry.downcast_mut::<OfCall<T>>() {
        of_call.0 = None;
    }
}

/// Use of a handle whose call has ended. It is a trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it used a handle of an earlier call, which ended with that call")]
struct Ended;

impl WasiView for Call {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // Clocks and randomness; no arguments, environment, files or sockets, and output goes to the log. Built on
        // first use: most calls never ask.
        let (ctx, _) = self.wasi.get_or_insert_with(|| {
            let output = Output::default();
            let mut builder = WasiCtx::builder();
            builder.stdout(output.clone()).stderr(output.clone()).max_random_size(RANDOM_BYTES);
            builder.allow_tcp(false).allow_udp(false);
            let ctx = builder.build();
            (ctx, output)
        });
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl WasiHttpView for Call {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.wasi_http, table: &mut self.table, hooks: &mut self.no_egress }
    }
}

/// Outgoing requests of wasi:http are refused: no capability grants them.
struct NoEgress;

type Outgoing = (hyper::Response<WasiBody>, Box<dyn Future<Output = Result<(), WasiHttpError>> + Send>);

impl WasiHttpHooks for NoEgress {
    fn send_request(
        &mut self,
        _request: hyper::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), WasiHttpError>> + Send>,
    ) -> Box<dyn Future<Output = wasmtime::Result<Outgoing, WasiHttpError>> + Send> {
        Box::new(std::future::ready(Err(WasiHttpError::HttpRequestDenied)))
    }
}

/// Links everything that a capsule may import.
pub fn link(linker: &mut Linker<Call>, concurrency: Concurrency) -> wasmtime::Result<()> {
    if concurrency == Concurrency::With {
        wasmtime_wasi::p3::add_to_linker(linker)?;
        wasmtime_wasi_http::p3::add_to_linker(linker)?;
    }
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    bindings::handler::Handler::add_to_linker::<_, HasSelf<Call>>(linker, |call| call)
}
