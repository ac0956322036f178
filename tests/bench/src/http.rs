//! Reads over HTTP, beside a native hyper handler that returns the same bytes.

use std::net::TcpStream;
use std::sync::Arc;

use anyhow::ensure;

use crate::daemon::{self, Home};
use crate::load::{self, CONNECTIONS, ROUND, Sample, Span, Target};
use crate::native::Peer;
use crate::report::Report;
use crate::{Setup, usage};

/// Measured rounds of a server and its peer, after one of each that does not count.
const ROUNDS: usize = 5;
/// A host takes 10,000 unless it is told otherwise, and some of them are the bench's own.
const HELD: usize = 9_900;
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

/// Connections that are kept and idle, as many as the host takes beside a few, and whether each is still served.
pub(crate) fn held(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let server = Home::new(setup, "http.held")?.start()?;
    let target = server.get("/api/auth/me");
    let ask = |stream: &mut TcpStream| -> anyhow::Result<()> {
        let (status, body) = daemon::exchange(stream, target.request())?;
        ensure!(status == 200, "a kept connection was answered {status}: {body}");
        Ok(())
    };
    let open = |many: usize| -> anyhow::Result<Vec<TcpStream>> {
        let connect = |_| {
            let mut stream = TcpStream::connect(target.address)?;
            stream.set_read_timeout(Some(daemon::PATIENCE))?;
            ask(&mut stream)?;
            Ok(stream)
        };
        (0..many).map(connect).collect()
    };
    let before = usage::memory(server.daemon.pid())?.rss;
    let mut held = open(HELD)?;
    let grown = usage::memory(server.daemon.pid())?.rss - before;
    held.iter_mut().try_for_each(ask)?;
    report.add("http.held", held.len() as f64, "connections");
    report.add("http.held.each", grown * 1024.0 / HELD as f64, "KiB/connection");
    drop(held);
    let mut again = open(HELD)?;
    again.iter_mut().try_for_each(ask)?;
    let memory = usage::memory(server.daemon.pid())?.rss;
    report.add_beside("http.held.again", memory, "MiB", "the first time", before + grown);
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
