//! Calls of a capsule on the bus, each in a fresh instance or all in warm ones, on one thread and on two; beside the same
//! component in bare wasmtime.
//!
//! The host is a library here: built, booted and asked as the daemon does it, without sockets. The peer shares its
//! engine, and so every setting and the pool, and does for each call what can't be left out: a store with fuel, an
//! instance, the call; or, warm, fuel and the call in a store from a list. It has no message, no check, no limits, no
//! deadline and no figures.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use astrid_capsule::PrincipalId;
use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Isolation;
use astrid_host::bus::{Outgoing, Sender};
use astrid_host::config::Config;
use astrid_host::host::{Host, LockedHome};
use astrid_host::link::bindings::handler::astrid::bus::types::Message;
use astrid_host::link::bindings::handler::{Handler, HandlerPre};
use astrid_host::loader::Options;
use astrid_host::meter::FUEL_SLICE;
use astrid_host::pool::Concurrency;
use bytes::Bytes;
use tokio::runtime::Runtime;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

use crate::report::Report;
use crate::{Setup, daemon, median, usage};

/// Measured rounds of each side, after one that does not count.
pub(crate) const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(500);
/// Of everything that is asked.
pub(crate) const PAYLOAD_BYTES: usize = 1024;
const PAYLOAD: &[u8] = &[b'x'; PAYLOAD_BYTES];
const TOPIC: &str = "echo.v1.say";
const PATIENCE: Duration = Duration::from_secs(10);
const BARE: &str = "bare wasmtime";

/// A fresh instance for each call.
pub(crate) fn fresh(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    bench(setup, report, "calls.fresh", Isolation::Call)
}

/// The instance of the principal's last call.
pub(crate) fn warm(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    bench(setup, report, "calls.warm", Isolation::Principal)
}

fn bench(setup: &Setup, report: &mut Report, name: &str, isolation: Isolation) -> anyhow::Result<()> {
    let home = LockedHome::take(Some(setup.place(name)))?;
    let config = Config::load(&home.home.config(), &[], [])?;
    let host = Host::build(home.home.clone(), config, Arc::default(), Arc::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let Archive { mut manifest, component, .. } = Archive::read(File::open(setup.capsule("echo"))?)?;
    manifest.component.isolation = isolation;
    let echo = setup.place(&format!("{name}.capsule"));
    Archive::new(&manifest, component).write(File::create(&echo)?)?;
    runtime.block_on(async {
        host.loader.boot(&host, &daemon::distribution(setup)?).await?;
        host.loader.install(&host, &echo, &Options::default()).await?;
        anyhow::Ok(())
    })?;
    let bare = Bare::new(&host.pool.engine(Concurrency::Without)?, &echo)?;
    let principal = PrincipalId::parse("default")?;

    // Two rows of rounds, on one thread and on two.
    let mut taken: [(Vec<Sample>, Vec<Sample>); 2] = Default::default();
    for _ in 0..=ROUNDS {
        for (threads, (ours, peers)) in [1, 2].into_iter().zip(&mut taken) {
            ours.push(round(
                &runtime,
                threads,
                || ask(&host, &principal, TOPIC, Bytes::from_static(PAYLOAD)),
                || host.metrics.run_upkeep(),
            )?);
            peers.push(round(&runtime, threads, || bare.call(isolation), || ())?);
        }
    }
    let rates = taken.each_ref().map(|(ours, peers)| {
        let of = |samples: &[Sample], figure: fn(&Sample) -> f64| median(samples[1..].iter().map(figure));
        let rate: fn(&Sample) -> f64 = |sample| sample.rate;
        let cpu: fn(&Sample) -> f64 = |sample| sample.cpu;
        ((of(ours, rate), of(peers, rate)), (of(ours, cpu), of(peers, cpu)))
    });
    for (threads, ((rate, bare_rate), (cpu, bare_cpu))) in [1, 2].into_iter().zip(rates) {
        report.add_beside(format!("{name}.{threads}"), rate, "calls/s", BARE, bare_rate);
        report.add_beside(format!("{name}.{threads}.cpu"), cpu, "µs/call", BARE, bare_cpu);
    }
    let [((one, bare_one), _), ((two, bare_two), _)] = rates;
    report.add_beside(format!("{name}.scaling"), two / one, "× one thread", BARE, bare_two / bare_one);
    host.store.close();
    Ok(())
}

pub(crate) struct Sample {
    /// Calls per second.
    pub(crate) rate: f64,
    /// CPU time of the process for each call, in microseconds.
    pub(crate) cpu: f64,
}

/// Calls in a loop on so many threads. `after` is work that the calls leave behind; its CPU time counts.
pub(crate) fn round<F: Future<Output = anyhow::Result<usize>>>(
    runtime: &Runtime,
    threads: usize,
    call: impl Fn() -> F + Sync,
    after: impl Fn(),
) -> anyhow::Result<Sample> {
    let (began, before) = (Instant::now(), usage::cpu(std::process::id())?);
    let alone = || -> anyhow::Result<u64> {
        let mut calls = 0;
        while began.elapsed() < ROUND {
            ensure!(runtime.block_on(call())? == PAYLOAD_BYTES, "the echo is not what was said");
            calls += 1;
        }
        Ok(calls)
    };
    let calls: anyhow::Result<Vec<u64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(alone)).collect();
        workers.into_iter().map(|w| w.join().map_err(|_| anyhow!("a caller panicked"))?).collect()
    });
    let (calls, seconds) = (calls?.iter().sum::<u64>() as f64, began.elapsed().as_secs_f64());
    after();
    let used = usage::cpu(std::process::id())? - before;
    Ok(Sample { rate: calls / seconds, cpu: used.as_secs_f64() * 1e6 / calls })
}

/// One request. Returns the length of the answer.
pub(crate) async fn ask(host: &Host, principal: &PrincipalId, topic: &str, payload: Bytes) -> anyhow::Result<usize> {
    let sender = Sender {
        principal: principal.clone(),
        capsule: "bench".into(),
        deadline: tokio::time::Instant::now() + PATIENCE,
        depth: 0,
        cause: None,
        rehearsal: false,
    };
    let outgoing = Outgoing { topic: topic.into(), payload, ..Outgoing::default() };
    let answer = host.bus.request(sender, outgoing).await.map_err(|failure| anyhow!("{topic}: {failure:?}"))?;
    Ok(answer.len())
}

/// The component without the host.
struct Bare {
    engine: Engine,
    pre: HandlerPre<()>,
    handler: String,
    fuel: u64,
    /// Of calls that have ended.
    kept: Mutex<Vec<(Store<()>, Handler)>>,
}

impl Bare {
    fn new(engine: &Engine, capsule: &std::path::Path) -> anyhow::Result<Self> {
        let archive = Archive::read(File::open(capsule)?)?;
        let component = Component::new(engine, &archive.component)?;
        let mut linker = Linker::new(engine);
        // An echo calls nothing of what it imports.
        linker.define_unknown_imports_as_traps(&component)?;
        let pre = HandlerPre::new(linker.instantiate_pre(&component)?)?;
        let binding = archive.manifest.subscribe.first().context("the echo has no binding")?;
        let handler = binding.handler.clone().context("the echo has no handler")?;
        let fuel = archive.manifest.limits.max_fuel;
        Ok(Self { engine: engine.clone(), pre, handler, fuel, kept: Mutex::default() })
    }

    async fn call(&self, isolation: Isolation) -> anyhow::Result<usize> {
        let kept = match isolation {
            Isolation::Call => None,
            Isolation::Principal => self.kept.lock().expect("no panic under this lock").pop(),
        };
        let (mut store, instance) = match kept {
            Some((store, instance)) => (store, Some(instance)),
            None => (Store::new(&self.engine, ()), None),
        };
        store.set_fuel(self.fuel)?;
        store.fuel_async_yield_interval(Some(FUEL_SLICE))?;
        let message = Message {
            id: 1,
            topic: TOPIC.into(),
            principal: "default".into(),
            sender: "bench".into(),
            target: None,
            remaining_ms: 10_000,
            payload: PAYLOAD.to_vec(),
            streams: false,
        };
        let instance = match instance {
            Some(instance) => instance,
            None => self.pre.instantiate_async(&mut store).await?,
        };
        let answer = instance.astrid_bus_handler().call_handle(&mut store, &self.handler, &message).await?;
        if isolation == Isolation::Principal {
            self.kept.lock().expect("no panic under this lock").push((store, instance));
        }
        Ok(answer.map_err(|refusal| anyhow!("refused: {}", refusal.reason))?.len())
    }
}
