//! Prompts of many clients at once: from the request to the agent's response on the stream.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use serde_json::json;

use crate::daemon::{Home, PATIENCE};
use crate::report::Report;
use crate::{Setup, quantile};

/// Who prompts, and how many clients each has.
const PEOPLE: u8 = 20;
const CLIENTS: usize = 10;
/// One after the other, of each client.
const PROMPTS: usize = 20;

pub(crate) fn bench(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let server = Home::new(setup, "prompt")?.start()?;
    server.install(&setup.capsule("agent"))?;
    let people: anyhow::Result<Vec<_>> = (1..=PEOPLE).map(|n| server.another_person(n)).collect();
    let requests: Vec<Arc<Vec<u8>>> = people?
        .iter()
        .map(|person| Arc::new(person.post("/api/agent/prompt", &json!({ "text": "count 5" }))))
        .collect();
    let address = server.address();
    let began = Instant::now();
    let clients: Vec<_> = requests
        .iter()
        .flat_map(|request| std::iter::repeat_n(request.clone(), CLIENTS))
        .map(|request| {
            thread::spawn(move || (0..PROMPTS).map(|_| answered(address, &request)).collect::<Result<Vec<_>, _>>())
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.join().map_err(|_| anyhow!("a client died"))??);
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part| quantile::<Duration>(&times, part).as_secs_f64() * 1e3;
    report.add("prompt", rate, "answers/s");
    report.add("prompt.p50", at(0.5), "ms");
    report.add("prompt.p99", at(0.99), "ms");
    server.daemon.stop()
}

/// One prompt on a connection of its own, until its response has come, with every delta before it.
fn answered(address: std::net::SocketAddr, request: &[u8]) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "a stream ended without a response: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("event: response") {
            ensure!(text.matches("event: delta").count() == 5, "not every piece has come: {text}");
            return Ok(began.elapsed());
        }
    }
}
