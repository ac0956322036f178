//! Calls of a capsule on the bus, each in a fresh instance or all in warm ones, on one thread and on two; beside the same
//! component in bare wasmtime.
//!
//! The host is a library here: built, booted and asked as the daemon does it, without sockets. The peer shares its
//! engine, and so every setting and the pool, and does for each call what can't be left out: a store with fuel, an
//! instance, the call; or, warm, fuel and the call in a store from a list. It has no message, no check, no limits, no
//! deadline and no figures.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use astrid_capsule::PrincipalId;
use astrid_capsule::manifest::Isolation;
use astrid_host::host::Host;
use astrid_host::pool::Concurrency;
use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::library::{self, Bare, Instance};
use crate::report::Report;
use crate::{Setup, median, usage};

/// Measured rounds of each side, after one that does not count.
pub(crate) const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(500);
/// Of everything that is asked.
pub(crate) const PAYLOAD_BYTES: usize = 1024;
const PAYLOAD: &[u8] = &[b'x'; PAYLOAD_BYTES];
const TOPIC: &str = "echo.v1.say";
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
    let echo = library::repacked(setup, "echo", name, isolation)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let host = runtime.block_on(library::host(setup, name, &echo, &[]))?;
    let bare = Bare::new(&host.pool.engine(Concurrency::Without)?, &echo, "say", true)?;
    let kept = Mutex::default();
    let principal = PrincipalId::parse("default")?;

    // Two rows of rounds, on one thread and on two.
    let mut taken: [(Vec<Sample>, Vec<Sample>); 2] = Default::default();
    for _ in 0..=ROUNDS {
        for (threads, (ours, peers)) in [1, 2].into_iter().zip(&mut taken) {
            ours.push(round(&runtime, threads, || through_host(&host, &principal), || host.metrics.run_upkeep())?);
            peers.push(round(&runtime, threads, || through_wasmtime(&bare, &kept, isolation), || ())?);
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
async fn through_host(host: &Host, principal: &PrincipalId) -> anyhow::Result<usize> {
    Ok(library::ask(host, principal, TOPIC, Bytes::from_static(PAYLOAD)).await?.len())
}

/// The same without the host. `kept`: instances of calls that have ended.
async fn through_wasmtime<'a>(
    bare: &'a Bare,
    kept: &Mutex<Vec<Instance<'a>>>,
    isolation: Isolation,
) -> anyhow::Result<usize> {
    let warm = match isolation {
        Isolation::Call | Isolation::Run => None,
        Isolation::Principal => kept.lock().expect("no panic under this lock").pop(),
    };
    let mut instance = match warm {
        Some(instance) => instance,
        None => bare.instance().await?,
    };
    instance.refuel()?;
    let answer = instance.ask(PAYLOAD).await?;
    if isolation == Isolation::Principal {
        kept.lock().expect("no panic under this lock").push(instance);
    }
    Ok(answer.len())
}
