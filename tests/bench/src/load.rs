//! The load generator: keep-alive connections, each with one request in flight, and what the server used meanwhile.
//!
//! Requests are built before the run and answers are cut at their content-length and not looked into, because the generator shares
//! the machine's cores with the server. An answer that is not the expected status ends the run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::{median, quantile, usage};

/// Connections of every bench that names no other number.
pub(crate) const CONNECTIONS: usize = 50;
/// How long one round takes.
pub(crate) const ROUND: Duration = Duration::from_secs(1);
/// Generator threads, as many as `wrk -t2` would have.
const THREADS: usize = 2;

/// What is asked, and of whom.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The server's process.
    pub(crate) pid: u32,
    /// Whole requests, head and body, which are made in turns. At least one.
    pub(crate) requests: Vec<Vec<u8>>,
    /// What each is answered with.
    pub(crate) status: u16,
}

impl Target {
    /// The only request, or the first of several.
    pub(crate) fn request(&self) -> &[u8] {
        &self.requests[0]
    }
}

/// When a run ends.
#[derive(Clone, Copy)]
pub(crate) enum Span {
    For(Duration),
    /// After so many requests, over all connections.
    Requests(u64),
}

/// One run.
pub(crate) struct Sample {
    /// Requests per second.
    pub(crate) rate: f64,
    /// The server's CPU time for each request, in microseconds.
    pub(crate) cpu: f64,
    /// In milliseconds.
    pub(crate) p50: f64,
    /// In milliseconds.
    pub(crate) p99: f64,
}

impl Sample {
    /// Each figure's median.
    pub(crate) fn median(samples: &[Sample]) -> Sample {
        let of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure));
        Sample { rate: of(|s| s.rate), cpu: of(|s| s.cpu), p50: of(|s| s.p50), p99: of(|s| s.p99) }
    }
}

/// What the connections of a run have in common.
struct Run {
    target: Arc<Target>,
    span: Span,
    asked: AtomicU64,
    /// Passed once everybody is connected.
    ready: Barrier,
}

impl Run {
    /// The next request, if there is another to make.
    fn next(&self, began: Instant) -> Option<&[u8]> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let more = match self.span {
            Span::For(span) => began.elapsed() < span,
            Span::Requests(limit) => asked < limit,
        };
        more.then(|| &*self.target.requests[asked as usize % self.target.requests.len()])
    }
}

/// Puts load on the server until the span ends, and waits for the last answers.
pub(crate) fn run(target: &Arc<Target>, connections: usize, span: Span) -> anyhow::Result<Sample> {
    let threads = THREADS.min(connections);
    let (target, asked, ready) = (target.clone(), AtomicU64::new(0), Barrier::new(threads + 1));
    let run = Arc::new(Run { target, span, asked, ready });
    let workers: Vec<_> = (0..threads)
        .map(|n| {
            let share = connections / threads + usize::from(n < connections % threads);
            let run = run.clone();
            std::thread::spawn(move || work(&run, share))
        })
        .collect();
    run.ready.wait();
    let (began, before) = (Instant::now(), usage::cpu(run.target.pid));
    let mut outcomes = Vec::new();
    for worker in workers {
        outcomes.push(worker.join().map_err(|_| anyhow!("the generator panicked"))?);
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), usage::cpu(run.target.pid));
    let mut latencies = outcomes.into_iter().collect::<anyhow::Result<Vec<_>>>()?.concat();
    ensure!(!latencies.is_empty(), "no request was answered");
    latencies.sort_unstable();
    let requests = latencies.len() as f64;
    let part = |part| quantile(&latencies, part).as_secs_f64() * 1e3;
    Ok(Sample {
        rate: requests / seconds,
        cpu: (cpu? - before?).as_secs_f64() * 1e6 / requests,
        p50: part(0.5),
        p99: part(0.99),
    })
}

/// One thread's connections. Returns how long each answer took.
fn work(run: &Arc<Run>, connections: usize) -> anyhow::Result<Vec<Duration>> {
    let connected = connect(run.target.address, connections);
    // Whatever happened, the others wait here.
    run.ready.wait();
    let (runtime, streams) = connected?;
    let began = Instant::now();
    runtime.block_on(async {
        let mut asking = JoinSet::new();
        for stream in streams {
            asking.spawn(ask(stream, run.clone(), began));
        }
        let mut latencies = Vec::new();
        while let Some(asked) = asking.join_next().await {
            latencies.extend(asked.context("the generator panicked")??);
        }
        Ok(latencies)
    })
}

fn connect(address: SocketAddr, connections: usize) -> anyhow::Result<(Runtime, Vec<TcpStream>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let streams = runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        anyhow::Ok(streams)
    })?;
    Ok((runtime, streams))
}

/// Asks again and again on one connection while there is more to ask.
async fn ask(mut stream: TcpStream, run: Arc<Run>, began: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut buffer = Vec::with_capacity(16 * 1024);
    while let Some(request) = run.next(began) {
        let sent = Instant::now();
        stream.write_all(request).await.context("sending a request")?;
        buffer.clear();
        loop {
            ensure!(stream.read_buf(&mut buffer).await.context("reading an answer")? > 0, "the server hung up");
            if let Some((status, length)) = answer(&buffer)? {
                let wanted = run.target.status;
                ensure!(status == wanted, "an answer was not {wanted}: {}", String::from_utf8_lossy(&buffer));
                ensure!(buffer.len() <= length, "the server sent more than one answer");
                if buffer.len() == length {
                    break;
                }
            }
        }
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}

/// The status and the whole length of the answer at the beginning of `bytes`; none until its head is complete.
pub(crate) fn answer(bytes: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).context("the head of an answer is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|(_, value)| value.trim().parse::<usize>().ok());
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some((status, end + 4 + length))),
        _ => bail!("an answer without a status or length: {head}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\nok";
        assert_eq!(answer(text).unwrap(), Some((200, text.len())));
        assert_eq!(answer(&text[..30]).unwrap(), None);
        assert!(answer(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n").is_err());
        assert!(answer(b"nonsense\r\n\r\n").is_err());
    }
}
