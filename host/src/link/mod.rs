//! Between WIT and the rooms: conversion only, one file for each interface. Nothing here deserves a test of its own;
//! what could go wrong lives in the room that a function calls.
//!
//! [`Call`] is what a store holds: one call, of one capsule, on one principal's behalf. The caller belongs to the call
//! and never changes while it lives.

pub mod authority;
#[allow(clippy::all, reason = "generated code")]
pub mod bindings;
pub mod bus;
mod env;
pub mod exports;
pub mod http;
mod keys;
mod output;
pub mod store;
mod sys;

use std::sync::Arc;

use tokio::sync::oneshot;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error as WasiHttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::bus::Sender;
use crate::bus::stream::Writer;
use crate::host::Host;
use crate::http::Connection;
use crate::loader::{Generation, Inbound};
use crate::pool::Concurrency;
use output::Output;

use crate::meter::{Bounds, HostWait, Limiter, MAX_HANDLES, RANDOM_BYTES};

/// One call: what its store holds.
pub struct Call {
    host: Arc<Host>,
    generation: Arc<Generation>,
    /// On whose behalf, until when, how deep.
    sender: Sender,
    /// What the listener knows, where the call is an HTTP request.
    connection: Option<Arc<Connection>>,
    /// Where pieces of the answer go.
    reply: Option<Writer>,
    /// Told when the call says that it is ready.
    ready: Option<oneshot::Sender<()>>,
    limiter: Limiter,
    waited: HostWait,
    table: ResourceTable,
    wasi: Option<(WasiCtx, Output)>,
    wasi_http: WasiHttpCtx,
    no_egress: NoEgress,
}

impl Call {
    pub fn new(
        host: Arc<Host>,
        generation: Arc<Generation>,
        sender: Sender,
        inbound: Inbound,
        bounds: &Bounds,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            host,
            generation,
            sender,
            connection: inbound.connection,
            reply: inbound.reply,
            ready: inbound.ready,
            limiter: Limiter::new(bounds),
            waited: HostWait::default(),
            table,
            wasi: None,
            wasi_http: WasiHttpCtx::new(),
            no_egress: NoEgress,
        }
    }

    pub fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    /// The time that the call spent in host functions that waited.
    pub fn waited(&self) -> std::time::Duration {
        self.waited.so_far()
    }

    /// What the guest has written to its standard streams.
    pub fn output(&self) -> Option<String> {
        self.wasi.as_ref().and_then(|(_, output)| output.text())
    }
}

impl bindings::handler::astrid::capsule::supervision::Host for Call {
    async fn ready(&mut self) -> wasmtime::Result<()> {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(());
        }
        Ok(())
    }
}

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
