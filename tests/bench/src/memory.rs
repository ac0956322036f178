//! What a live instance takes: calls through the host that have done their work and now sleep within a host call; and
//! instances that have answered and are kept for their principal's next call.
//!
//! Everything that such a call needs counts: linear memory, stacks, the store, the message, the tasks that wait. The peer
//! is the same component in a pool of the same kind, answered and kept: it has neither stack nor task nor message, and
//! is what an instance that is kept is to be compared with.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use astrid_capsule::PrincipalId;
use astrid_capsule::manifest::Isolation;
use astrid_host::authority::{Change, Standing};
use astrid_host::host::Host;
use astrid_host::pool::{Concurrency, Pool};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::library::{Bare, Instance};
use crate::report::Report;
use crate::{Setup, daemon, fuel, library, usage};

/// Live instances of a kind.
const LIVE: usize = 125;
/// One principal may not have as many calls at once.
const CALLERS: usize = 5;
/// CPU time of this process while nothing happens, for each [`LOOK`] at most.
const QUIET: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_millis(50);

/// What the capsule does, and what with.
fn kinds() -> anyhow::Result<[(&'static str, Bytes); 2]> {
    Ok([("echo", Bytes::from_static(&[b'x'; 1024])), ("json", serde_json::to_vec(&fuel::document(7))?.into())])
}

pub(crate) fn live(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let (work, kinds) = (setup.capsule("work"), kinds()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let host = runtime.block_on(library::host(setup, "memory", &work, &[]))?;
    let pool = Pool::new(&host.config.now().runtime.pool())?;
    let engine = pool.engine(Concurrency::Without)?;
    let bare = [Bare::new(&engine, &work, "echo", true)?, Bare::new(&engine, &work, "json", true)?];
    // Whatever is alive stays alive until the end: memory that somebody left behind would count as nobody's.
    let (mut calls, mut instances) = (JoinSet::new(), Vec::with_capacity(2 * LIVE + 2));
    // Of run loops.
    let residents = host.pool.in_use() as usize;
    runtime.block_on(async {
        let principals = principals(&host, CALLERS)?;
        let call = |kind: &str, payload: &Bytes, n: usize| {
            let (host, principal) = (host.clone(), principals[n % CALLERS].clone());
            let (topic, payload) = (format!("work.v1.{kind}-held"), payload.clone());
            async move { library::ask(&host, &principal, &topic, payload).await }
        };
        for (place, (kind, payload)) in kinds.iter().enumerate() {
            // The first of each pays for what all have in common.
            calls.spawn(call(kind, payload, 0));
            settled(&host, &mut calls, residents + place * (LIVE + 1) + 1).await?;
            let before = resident()?;
            (0..LIVE).for_each(|n| drop(calls.spawn(call(kind, payload, n))));
            settled(&host, &mut calls, residents + (place + 1) * (LIVE + 1)).await?;
            let ours = share(before)?;

            instances.push(answered(&bare[place], payload).await?);
            let before = resident()?;
            for _ in 0..LIVE {
                instances.push(answered(&bare[place], payload).await?);
            }
            let peers = share(before)?;
            report.add_beside(format!("memory.live.{kind}"), ours, "KiB/instance", "bare wasmtime", peers);
        }
        anyhow::Ok(())
    })?;
    host.store.close();
    Ok(())
}

/// Instances that wait for their principal's next call: one for each principal.
pub(crate) fn kept(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let (work, kinds) = (library::repacked(setup, "work", "kept", Isolation::Principal)?, kinds()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for (kind, payload) in kinds {
        // One that is kept for longer than the bench takes would count for the next kind as well.
        let host = runtime.block_on(library::host(setup, &format!("kept-{kind}"), &work, &[]))?;
        let bare = Bare::new(&host.pool.engine(Concurrency::Without)?, &work, kind, true)?;
        let mut instances = Vec::with_capacity(LIVE + 1);
        runtime.block_on(async {
            let principals = principals(&host, LIVE + 1)?;
            let topic = format!("work.v1.{kind}");
            library::ask(&host, &principals[LIVE], &topic, payload.clone()).await?;
            let before = resident()?;
            for principal in &principals[..LIVE] {
                library::ask(&host, principal, &topic, payload.clone()).await?;
            }
            let ours = share(before)?;
            ensure!(host.warm.idle() == LIVE + 1, "{} instances of {} are kept", host.warm.idle(), LIVE + 1);

            instances.push(answered(&bare, &payload).await?);
            let before = resident()?;
            for _ in 0..LIVE {
                instances.push(answered(&bare, &payload).await?);
            }
            let peers = share(before)?;
            report.add_beside(format!("memory.kept.{kind}"), ours, "KiB/instance", "bare wasmtime", peers);
            anyhow::Ok(())
        })?;
        host.store.close();
    }
    Ok(())
}

/// How much larger this process is than `before`, which is in MiB: KiB for each of the live instances.
fn share(before: f64) -> anyhow::Result<f64> {
    Ok((resident()? - before) * 1024.0 / LIVE as f64)
}

/// In MiB.
fn resident() -> anyhow::Result<f64> {
    Ok(usage::memory(std::process::id())?.rss)
}

async fn answered<'a>(bare: &'a Bare, payload: &[u8]) -> anyhow::Result<Instance<'a>> {
    let mut instance = bare.instance().await?;
    instance.ask(payload).await?;
    Ok(instance)
}

/// Principals whom the host knows from now on.
fn principals(host: &Host, number: usize) -> anyhow::Result<Vec<PrincipalId>> {
    let ids: Result<Vec<_>, _> = (0..number).map(|n| PrincipalId::parse(&format!("live-{n}"))).collect();
    let ids = ids?;
    let standing = |id: &PrincipalId| Change::SetPrincipal(id.clone(), Standing::new(true, vec![], vec![], vec![]));
    host.authority.apply(u64::MAX, ids.iter().map(standing).collect());
    Ok(ids)
}

/// Waits until so many instances are alive and none of them computes.
async fn settled(host: &Host, calls: &mut JoinSet<anyhow::Result<Bytes>>, instances: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < daemon::PATIENCE {
        let before = usage::own_cpu();
        tokio::time::sleep(LOOK).await;
        if let Some(ended) = calls.try_join_next() {
            bail!("a call did not sleep: {:?}", ended?);
        }
        if host.pool.in_use() == instances as u64 && usage::own_cpu() - before < QUIET {
            return Ok(());
        }
    }
    bail!("{} instances of {instances} are alive", host.pool.in_use())
}
