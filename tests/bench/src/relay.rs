//! Answers that go on: what an idle one takes, and how many events go through a hundred at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use serde_json::json;

use crate::daemon::{self, Home, PATIENCE, Server};
use crate::report::Report;
use crate::{Setup, usage};

const IDLE: usize = 1_000;
const STREAMS: usize = 100;
/// Publications while the streams are open, each of which reaches all of them.
const PUBLICATIONS: usize = 200;

pub(crate) fn bench(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let server = Home::new(setup, "http.relay")?.start()?;
    server.install(&setup.capsule("live"))?;

    // What a first crowd warms up is not what an idle stream takes; it stays, so that nobody is given what it has left.
    let warm = open(&server, IDLE)?;
    let before = usage::memory(server.daemon.pid())?.rss;
    let idle = open(&server, IDLE)?;
    let grown = usage::memory(server.daemon.pid())?.rss - before;
    report.add("http.relay.idle", grown * 1024.0 / IDLE as f64, "KiB/stream");
    drop((warm, idle));

    let mut streams = open(&server, STREAMS)?;
    let began = Instant::now();
    thread::scope(|scope| {
        let reading: Vec<_> = streams.iter_mut().map(|stream| scope.spawn(|| count(stream, PUBLICATIONS))).collect();
        let target = server.post("/api/bus/publish/live.v1.said", &json!(1));
        let mut publisher = TcpStream::connect(target.address)?;
        publisher.set_read_timeout(Some(PATIENCE))?;
        for _ in 0..PUBLICATIONS {
            let (status, _) = daemon::exchange(&mut publisher, target.request())?;
            ensure!(status == 202, "a publication was answered {status}");
        }
        reading.into_iter().try_for_each(|reader| reader.join().map_err(|_| anyhow!("a reader died"))?)
    })?;
    report.add("http.relay", (STREAMS * PUBLICATIONS) as f64 / began.elapsed().as_secs_f64(), "events/s");
    drop(streams);
    server.daemon.stop()
}

/// Streams past what their handler itself answered.
pub(crate) fn open(server: &Server, many: usize) -> anyhow::Result<Vec<TcpStream>> {
    let target = server.get("/live/said");
    let streams = (0..many).map(|_| {
        let mut stream = TcpStream::connect(target.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(target.request())?;
        until(&mut stream, ": live-one", 1)?;
        Ok(stream)
    });
    streams.collect()
}

fn count(stream: &mut TcpStream, events: usize) -> anyhow::Result<()> {
    until(stream, "event: message", events)
}

/// Reads until a text has come so many times.
fn until(stream: &mut TcpStream, text: &str, times: usize) -> anyhow::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let (mut seen, mut kept) = (0, Vec::new());
    while seen < times {
        let read = stream.read(&mut buffer).context("reading a stream")?;
        ensure!(read > 0, "a stream ended");
        kept.extend_from_slice(&buffer[..read]);
        while let Some(at) = kept.windows(text.len()).position(|window| window == text.as_bytes()) {
            seen += 1;
            kept.drain(..at + text.len());
        }
    }
    Ok(())
}
