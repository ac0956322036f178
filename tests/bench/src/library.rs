//! The host as a library, and the same components without it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use astrid_capsule::PrincipalId;
use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Isolation;
use astrid_host::authority::Mandate;
use astrid_host::bus::{Origin, Outgoing, Sender};
use astrid_host::config::Config;
use astrid_host::host::{Host, LockedHome};
use astrid_host::link::bindings::handler::astrid::bus::types::Message;
use astrid_host::link::bindings::handler::{Handler, HandlerPre};
use astrid_host::loader::Options;
use astrid_host::meter::FUEL_SLICE;
use bytes::Bytes;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

use crate::{Setup, daemon};

/// A host in a home of its own with the default distribution and one capsule besides: built and booted as the daemon
/// does it, without sockets. `set`: `room.key=value` each.
pub(crate) async fn host(setup: &Setup, home: &str, capsule: &Path, set: &[String]) -> anyhow::Result<Arc<Host>> {
    let home = LockedHome::take(Some(setup.place(home)))?;
    let config = Config::load(&home.home.config(), set, [])?;
    let host = Host::build(home.home.clone(), config, Arc::default(), Arc::default())?;
    host.loader.boot(&host, &daemon::distribution(setup)?).await?;
    host.loader.install(&host, capsule, &Options::default()).await?;
    Ok(host)
}

/// A packed capsule of this workspace with another isolation, as a file of its own.
pub(crate) fn repacked(setup: &Setup, capsule: &str, name: &str, isolation: Isolation) -> anyhow::Result<PathBuf> {
    let Archive { mut manifest, component, .. } = Archive::read(File::open(setup.capsule(capsule))?)?;
    manifest.component.isolation = isolation;
    let path = setup.place(&format!("{name}.capsule"));
    Archive::new(&manifest, component).write(File::create(&path)?)?;
    Ok(path)
}

/// One request on the bus.
pub(crate) async fn ask(host: &Host, principal: &PrincipalId, topic: &str, payload: Bytes) -> anyhow::Result<Bytes> {
    let sender = Sender {
        principal: principal.clone(),
        mandate: Mandate::default(),
        origin: Origin::new("bench", ""),
        deadline: tokio::time::Instant::now() + daemon::PATIENCE,
        depth: 0,
        cause: None,
        rehearsal: false,
    };
    let outgoing = Outgoing { topic: topic.to_owned(), payload, ..Outgoing::default() };
    host.bus.request(sender, outgoing).await.map_err(|failure| anyhow!("{topic}: {failure:?}"))
}

/// A component in wasmtime, without the host.
pub(crate) struct Bare {
    engine: Engine,
    pre: HandlerPre<()>,
    handler: String,
    /// None where the engine does not count it.
    fuel: Option<u64>,
}

/// A live instance of it.
pub(crate) struct Instance<'a> {
    bare: &'a Bare,
    store: Store<()>,
    exports: Handler,
}

impl Bare {
    /// `metered`: the engine counts fuel; each call gets the manifest's, in slices as the host gives it.
    pub(crate) fn new(engine: &Engine, capsule: &Path, handler: &str, metered: bool) -> anyhow::Result<Self> {
        let archive = Archive::read(File::open(capsule)?)?;
        let component = Component::new(engine, &archive.component)?;
        let mut linker = Linker::new(engine);
        // What is called here calls nothing of what it imports.
        linker.define_unknown_imports_as_traps(&component)?;
        let pre = HandlerPre::new(linker.instantiate_pre(&component)?)?;
        let fuel = metered.then_some(archive.manifest.limits.max_fuel);
        Ok(Self { engine: engine.clone(), pre, handler: handler.to_owned(), fuel })
    }

    pub(crate) async fn instance(&self) -> anyhow::Result<Instance<'_>> {
        let mut store = Store::new(&self.engine, ());
        if let Some(fuel) = self.fuel {
            store.set_fuel(fuel)?;
            store.fuel_async_yield_interval(Some(FUEL_SLICE))?;
        }
        let exports = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance { bare: self, store, exports })
    }
}

impl Instance<'_> {
    pub(crate) async fn ask(&mut self, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
        let message = Message {
            id: 1,
            topic: "bench.v1.ask".into(),
            principal: "default".into(),
            sender: "bench".into(),
            target: None,
            remaining_ms: 10_000,
            streams: false,
            cause: None,
            traceparent: None,
            payload: payload.to_vec(),
        };
        let handler = self.exports.astrid_bus_handler();
        let answer = handler.call_handle(&mut self.store, &self.bare.handler, &message).await?;
        answer.map_err(|refusal| anyhow!("refused: {}", refusal.reason))
    }

    /// As much fuel as at first.
    pub(crate) fn refuel(&mut self) -> anyhow::Result<()> {
        Ok(self.bare.fuel.map_or(Ok(()), |fuel| self.store.set_fuel(fuel))?)
    }
}
