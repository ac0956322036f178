//! What metering costs: one component on an engine that counts fuel, the host's own, and on one that does not; in turns,
//! each in one warm instance.

use std::time::Duration;

use anyhow::ensure;
use astrid_host::config::Config;
use astrid_host::pool::{Concurrency, Pool};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use wasmtime::Engine;

use crate::library::{Bare, Instance};
use crate::report::Report;
use crate::{Setup, median, usage};

/// Measured rounds of each side, after one that does not count.
const ROUNDS: usize = 15;
/// CPU time of one round, about.
const ROUND: Duration = Duration::from_millis(60);

pub(crate) fn bench(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let config = Config::load(&setup.place("fuel.toml"), &[], [])?;
    let metered = Pool::new(&config.runtime.pool())?.engine(Concurrency::Without)?;
    // Else as the host's.
    let unmetered = Engine::new(wasmtime::Config::new().wasm_component_model(true).concurrency_support(false))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let work = setup.capsule("work");
    for (handler, payload) in [("json", serde_json::to_vec(&document(100))?), ("hash", vec![7; 64 << 10])] {
        let sides = [(&metered, true), (&unmetered, false)];
        let [with, without] = sides.map(|(engine, metered)| Bare::new(engine, &work, handler, metered));
        let (with, without) = (with?, without?);
        let [mut with, mut without] = [runtime.block_on(with.instance())?, runtime.block_on(without.instance())?];
        ensure!(runtime.block_on(with.ask(&payload))? == runtime.block_on(without.ask(&payload))?, "answers differ");
        let mut times: [Vec<f64>; 2] = Default::default();
        for _ in 0..=ROUNDS {
            for (side, times) in [&mut with, &mut without].into_iter().zip(&mut times) {
                times.push(round(&runtime, side, &payload)?);
            }
        }
        let [with, without] = times.map(|times| median(times[1..].iter().copied()));
        report.add_beside(format!("fuel.{handler}"), with, "CPU µs", "without fuel", without);
        report.add(format!("fuel.{handler}.overhead"), 100.0 * (with / without - 1.0), "%");
    }
    Ok(())
}

/// CPU time of one call, in microseconds.
fn round(runtime: &Runtime, instance: &mut Instance<'_>, payload: &[u8]) -> anyhow::Result<f64> {
    let (before, mut calls) = (usage::own_cpu(), 0_u32);
    loop {
        instance.refuel()?;
        runtime.block_on(instance.ask(payload))?;
        calls += 1;
        let used = usage::own_cpu() - before;
        if used > ROUND {
            return Ok(used.as_secs_f64() * 1e6 / f64::from(calls));
        }
    }
}

/// JSON of so many records, about 150 bytes each: objects, lists, texts, numbers.
pub(crate) fn document(records: u32) -> Value {
    let record = |n: u32| {
        json!({
            "id": n,
            "name": format!("principal-{n}"),
            "enabled": !n.is_multiple_of(3),
            "share": f64::from(n) / 7.0,
            "groups": ["agent", "reviewer"],
            "note": "Line one\nline two, \"quoted\"",
            "parent": null,
        })
    };
    (0..records).map(record).collect()
}
