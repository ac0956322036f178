//! Reads over HTTP, beside a native hyper handler that returns the same bytes.

use std::net::TcpStream;

use crate::daemon::{self, Home, Server};
use crate::load::{self, CONNECTIONS, ROUND, Sample, Span};
use crate::native::Peer;
use crate::report::Report;
use crate::{Setup, usage};

/// Measured rounds of a server and its peer, after one of each that does not count.
const ROUNDS: usize = 5;
const NATIVE: &str = "native hyper";

/// Through gateway and identity, each in a fresh instance, with a bearer.
pub(crate) fn read(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    beside_native(setup, report, "http.read", "/api/sys/principals")
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
    let request = std::str::from_utf8(&target.request)?;
    let response = daemon::ask(TcpStream::connect(target.address)?, request)?;
    let peer = Peer::start(&target.request, &response)?;
    let (mut ours, mut native) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        ours.push(load::run(&target, CONNECTIONS, Span::For(ROUND))?);
        native.push(load::run(&peer.target, CONNECTIONS, Span::For(ROUND))?);
    }
    let (ours, native) = (Sample::median(&ours[1..]), Sample::median(&native[1..]));
    report.add_beside(name, ours.rate, "requests/s", NATIVE, native.rate);
    report.add_beside(format!("{name}.cpu"), ours.cpu, "µs/request", NATIVE, native.cpu);
    report.add_beside(format!("{name}.p50"), ours.p50, "ms", NATIVE, native.p50);
    report.add_beside(format!("{name}.p99"), ours.p99, "ms", NATIVE, native.p99);
    server.daemon.stop()
}

/// A daemon after many requests, beside itself when it was young.
pub(crate) fn aged(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    const YOUNG: &str = "at first";
    let server = Home::new(setup, "http.read.aged")?.start()?;
    let young = aged_sample(&server)?;
    let young_memory = usage::memory(server.daemon.pid())?;
    load::run(&server.get("/api/sys/principals"), CONNECTIONS, Span::Requests(setup.age))?;
    let old = aged_sample(&server)?;
    let old_memory = usage::memory(server.daemon.pid())?;
    report.add("http.read.aged.requests", setup.age as f64, "requests");
    report.add_beside("http.read.aged", old.rate, "requests/s", YOUNG, young.rate);
    report.add_beside("http.read.aged.cpu", old.cpu, "µs/request", YOUNG, young.cpu);
    report.add_beside("http.read.aged.p99", old.p99, "ms", YOUNG, young.p99);
    report.add_beside("http.read.aged.rss", old_memory.rss, "MiB", YOUNG, young_memory.rss);
    server.daemon.stop()
}

fn aged_sample(server: &Server) -> anyhow::Result<Sample> {
    let target = server.get("/api/sys/principals");
    let samples: Result<Vec<_>, _> = (0..=ROUNDS).map(|_| load::run(&target, CONNECTIONS, Span::For(ROUND))).collect();
    Ok(Sample::median(&samples?[1..]))
}
