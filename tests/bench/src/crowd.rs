//! A crowd that asks the same again and again through whatever happens, and remembers when which answers came.
//!
//! Unlike [`load`] it survives failures and counts them, by the phase in which the request was made. A connection
//! that breaks is a failure, and is made anew. An answer that is not the first one again, byte for byte, is one as well.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::load::{self, CONNECTIONS, Target};
use crate::quantile;

/// Generator threads, as many as `wrk -t2` would have.
const THREADS: usize = 2;

/// What came of the requests of a phase.
#[derive(Clone, Default)]
pub(crate) struct Phase {
    latencies: Vec<Duration>,
    pub(crate) failed: usize,
}

impl Phase {
    pub(crate) fn answered(&self) -> usize {
        self.latencies.len()
    }

    /// Of what was answered, in milliseconds.
    pub(crate) fn p99(&self) -> f64 {
        if self.latencies.is_empty() { 0.0 } else { quantile(&self.latencies, 0.99).as_secs_f64() * 1e3 }
    }
}

struct Shared {
    address: SocketAddr,
    request: Vec<u8>,
    /// The body of the answer to come.
    body: Vec<u8>,
    phases: usize,
    phase: AtomicUsize,
    over: AtomicBool,
}

pub(crate) struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<anyhow::Result<Vec<Phase>>>>,
}

impl Crowd {
    /// Fifty connections, in the first of so many phases.
    pub(crate) fn start(target: &Target, phases: usize) -> anyhow::Result<Self> {
        let request = target.request().to_vec();
        let first = crate::daemon::ask(std::net::TcpStream::connect(target.address)?, std::str::from_utf8(&request)?)?;
        let shared = Arc::new(Shared {
            address: target.address,
            request,
            body: body(&first).to_vec(),
            phases,
            phase: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let spawn = |_| {
            let shared = shared.clone();
            thread::spawn(move || work(&shared))
        };
        Ok(Self { threads: (0..THREADS).map(spawn).collect(), shared })
    }

    pub(crate) fn enter(&self, phase: usize) {
        self.shared.phase.store(phase, Ordering::Relaxed);
    }

    /// Waits for the last answers. What came in each phase, latencies sorted.
    pub(crate) fn end(self) -> anyhow::Result<Vec<Phase>> {
        self.shared.over.store(true, Ordering::Relaxed);
        let mut all = vec![Phase::default(); self.shared.phases];
        for thread in self.threads {
            let phases = thread.join().map_err(|_| anyhow!("the generator panicked"))??;
            add(&mut all, phases);
        }
        all.iter_mut().for_each(|phase| phase.latencies.sort_unstable());
        Ok(all)
    }
}

fn add(all: &mut [Phase], more: Vec<Phase>) {
    for (phase, more) in all.iter_mut().zip(more) {
        phase.latencies.extend(more.latencies);
        phase.failed += more.failed;
    }
}

fn work(shared: &Arc<Shared>) -> anyhow::Result<Vec<Phase>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(async {
        let mut asking = JoinSet::new();
        for _ in 0..CONNECTIONS / THREADS {
            asking.spawn(ask(shared.clone()));
        }
        let mut all = vec![Phase::default(); shared.phases];
        while let Some(asked) = asking.join_next().await {
            add(&mut all, asked.context("the generator panicked")??);
        }
        Ok(all)
    })
}

/// One connection's requests, one after the other.
async fn ask(shared: Arc<Shared>) -> anyhow::Result<Vec<Phase>> {
    let mut phases = vec![Phase::default(); shared.phases];
    let mut stream = connect(shared.address).await?;
    let mut buffer = Vec::with_capacity(16 * 1024);
    while !shared.over.load(Ordering::Relaxed) {
        let phase = &mut phases[shared.phase.load(Ordering::Relaxed)];
        let sent = Instant::now();
        match answered(&mut stream, &shared.request, &mut buffer).await {
            Ok(200) if body(&buffer) == shared.body => phase.latencies.push(sent.elapsed()),
            Ok(_) => phase.failed += 1,
            Err(_) => {
                phase.failed += 1;
                stream = connect(shared.address).await?;
            }
        }
    }
    Ok(phases)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The status of the answer, which is in the buffer.
async fn answered(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> anyhow::Result<u16> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        ensure!(stream.read_buf(buffer).await? > 0, "the server hung up");
        if let Some((status, length)) = load::answer(buffer)?
            && buffer.len() >= length
        {
            return Ok(status);
        }
    }
}

fn body(answer: &[u8]) -> &[u8] {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |end| end + 4);
    &answer[head..]
}
