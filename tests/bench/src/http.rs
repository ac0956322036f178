//! Reads over HTTP, beside a native hyper handler that returns the same bytes.

use std::net::TcpStream;
use std::sync::Arc;

use crate::daemon::{self, Home};
use crate::load::{self, CONNECTIONS, ROUND, Sample, Span, Target};
use crate::native::Peer;
use crate::report::Report;
use crate::{Setup, usage};

/// Measured rounds of a server and its peer, after one of each that does not count.
const ROUNDS: usize = 5;
const NATIVE: &str = "native hyper";
const READ: &str = "/api/sys/principals";

/// Through gateway and identity, each in a fresh instance, with a bearer.
pub(crate) fn read(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    beside_native(setup, report, "http.read", READ)
}

/// Through gateway and system.
pub(crate) fn status(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    beside_native(setup, report, "http.status", "/api/sys/status")
}

/// The host's own answer, without a component.
pub(crate) fn healthz(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    beside_native(setup, report, "http.healthz", "/healthz")
}

fn beside_native(setup: &Setup, report: &mut Report, name: &str, path: &str) -> anyhow::Result<()> {
    let server = Home::new(setup, name)?.start()?;
    let target = server.get(path);
    let request = std::str::from_utf8(target.request())?;
    let response = daemon::ask(TcpStream::connect(target.address)?, request)?;
    let peer = Peer::start(target.request(), &response)?;
    let (ours, native) = in_turns(&target, &peer.target)?;
    report.add_beside(name, ours.rate, "requests/s", NATIVE, native.rate);
    report.add_beside(format!("{name}.cpu"), ours.cpu, "µs/request", NATIVE, native.cpu);
    report.add_beside(format!("{name}.p50"), ours.p50, "ms", NATIVE, native.p50);
    report.add_beside(format!("{name}.p99"), ours.p99, "ms", NATIVE, native.p99);
    server.daemon.stop()
}

/// A daemon after many requests, in turns with one that has just started.
pub(crate) fn aged(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    const YOUNG: &str = "a young daemon";
    let old = Home::new(setup, "http.read.old")?.start()?;
    load::run(&old.get(READ), CONNECTIONS, Span::Requests(setup.age))?;
    let young = Home::new(setup, "http.read.young")?.start()?;
    let (aged, fresh) = in_turns(&old.get(READ), &young.get(READ))?;
    let [old_memory, young_memory] = [usage::memory(old.daemon.pid())?, usage::memory(young.daemon.pid())?];
    report.add("http.read.aged.requests", setup.age as f64, "requests");
    report.add_beside("http.read.aged", aged.rate, "requests/s", YOUNG, fresh.rate);
    report.add_beside("http.read.aged.cpu", aged.cpu, "µs/request", YOUNG, fresh.cpu);
    report.add_beside("http.read.aged.p99", aged.p99, "ms", YOUNG, fresh.p99);
    report.add_beside("http.read.aged.rss", old_memory.rss, "MiB", YOUNG, young_memory.rss);
    old.daemon.stop()?;
    young.daemon.stop()
}

/// Each one's median.
fn in_turns(ours: &Arc<Target>, peer: &Arc<Target>) -> anyhow::Result<(Sample, Sample)> {
    let (mut our_samples, mut peer_samples) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        our_samples.push(load::run(ours, CONNECTIONS, Span::For(ROUND))?);
        peer_samples.push(load::run(peer, CONNECTIONS, Span::For(ROUND))?);
    }
    Ok((Sample::median(&our_samples[1..]), Sample::median(&peer_samples[1..])))
}
