//! A thousand hostile calls of one principal in flight, and everybody else beside them.
//!
//! The crowd asks for every trick of the guests `spin`, `bomb` and `trap` in turns, each connection again as soon as it is
//! answered. Meanwhile somebody else's calls of a small guest and the host's own health are asked every 20 ms, and at the end
//! the daemon is told to stop in the middle of it. The same two are asked before, for comparison.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::daemon::{self, Home, PATIENCE, Requests, Server};
use crate::report::Report;
use crate::{Setup, load, quantile};

/// Hostile calls in flight.
const CROWD: usize = 1_000;
/// How long the others are watched, before and beside the crowd.
const WATCHED: Duration = Duration::from_secs(15);
/// Between two requests of who is watched, unless an answer takes longer.
const PACE: Duration = Duration::from_millis(20);
/// What a 503 says for "no room".
const RETRY: Duration = Duration::from_millis(100);
/// What a guest may do to its host.
const TRICKS: [(&str, &str); 16] = [
    ("spin.v1.compute", "{}"),
    ("spin.v1.call", "{}"),
    ("spin.v1.random", "{}"),
    ("spin.v1.shout", "{}"),
    ("spin.v1.chatter", "{}"),
    ("spin.v1.poll", "{}"),
    ("spin.v1.wait", "{}"),
    ("spin.v1.storm", r#"["spin.v1.heard","echo.v1.say"]"#),
    ("bomb.v1.allocate", "{}"),
    ("bomb.v1.crumbs", "{}"),
    ("bomb.v1.recurse", "{}"),
    ("bomb.v1.buckets", "{}"),
    ("bomb.v1.transactions", "{}"),
    ("bomb.v1.ask", "{}"),
    ("trap.v1.panic", "{}"),
    ("trap.v1.abort", "{}"),
];

pub(crate) fn bench(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let server = Home::new(setup, "hostile")?.start()?;
    for guest in ["spin", "bomb", "trap", "echo"] {
        server.install(&setup.capsule(guest))?;
    }
    let mallory = server.another_person(1)?;
    let quiet = watch(&server)?;
    let crowd = Crowd::start(mallory)?;
    let beside = watch(&server)?;
    for (name, beside, quiet) in [("health", &beside[0], &quiet[0]), ("tenant", &beside[1], &quiet[1])] {
        for (of, part) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let at = |times| quantile::<Duration>(times, part).as_secs_f64() * 1e3;
            report.add_beside(format!("hostile.{name}.{of}"), at(beside), "ms", "nobody else", at(quiet));
        }
    }
    crowd.may_fail();
    let told = Instant::now();
    server.daemon.stop()?;
    report.add("hostile.stop", told.elapsed().as_secs_f64(), "s");
    report.add("hostile.crowd", crowd.end()? as f64, "answers");
    Ok(())
}

/// How long health, and a call of somebody who does no harm, took to be answered, sorted.
fn watch(server: &Server) -> anyhow::Result<[Vec<Duration>; 2]> {
    let health = server.get("/healthz");
    let tenant = server.post("/api/bus/request/echo.v1.say", &json!("x"));
    let watched = [health, tenant].map(|target| {
        thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(target.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let (began, mut times) = (Instant::now(), Vec::new());
            while began.elapsed() < WATCHED {
                let asked = Instant::now();
                let (status, body) = daemon::exchange(&mut stream, target.request())?;
                times.push(asked.elapsed());
                ensure!(status == 200, "somebody who does no harm was answered {status}: {body}");
                thread::sleep(PACE.saturating_sub(asked.elapsed()));
            }
            times.sort_unstable();
            anyhow::Ok(times)
        })
    });
    let [health, tenant] = watched.map(|watch| watch.join().map_err(|_| anyhow!("a watch died"))?);
    Ok([health?, tenant?])
}

/// A thousand connections of one principal, each with a hostile call in flight.
struct Crowd {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: thread::JoinHandle<anyhow::Result<()>>,
}

impl Crowd {
    /// Returns once every connection has asked.
    fn start(requests: Requests) -> anyhow::Result<Self> {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let asked = Arc::new(Semaphore::new(0));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
        let thread = {
            let (over, answered, asked) = (over.clone(), answered.clone(), asked.clone());
            thread::spawn(move || {
                let tricks = TRICKS.map(|(topic, payload)| {
                    let payload = serde_json::from_str(payload).expect("it stands above");
                    Arc::new(requests.post(&format!("/api/bus/request/{topic}"), &payload))
                });
                runtime.block_on(async {
                    let mut crowd = tokio::task::JoinSet::new();
                    for n in 0..CROWD {
                        let (address, trick) = (requests.address(), tricks[n % tricks.len()].clone());
                        let (over, answered, asked) = (over.clone(), answered.clone(), asked.clone());
                        crowd.spawn(async move {
                            let ended = harm(address, &trick, &over, &answered, &asked).await;
                            if over.load(Ordering::Relaxed) { Ok(()) } else { ended }
                        });
                    }
                    while let Some(ended) = crowd.join_next().await {
                        ended.context("the crowd panicked")??;
                    }
                    Ok(())
                })
            })
        };
        let began = Instant::now();
        while asked.available_permits() < CROWD {
            ensure!(!thread.is_finished() && began.elapsed() < PATIENCE, "the crowd does not gather");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { over, answered, thread })
    }

    /// From now on the daemon may stop, and connections end in every way.
    fn may_fail(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// How many calls were answered, once the daemon has stopped.
    fn end(self) -> anyhow::Result<u64> {
        self.thread.join().map_err(|_| anyhow!("the crowd died"))??;
        Ok(self.answered.load(Ordering::Relaxed))
    }
}

/// Asks for the same trick again and again: no answer gives it what it is after. Whoever is told that there is no room
/// waits as long as it is told to, so that what is measured is hostile calls and not a flood of refused ones.
async fn harm(
    address: SocketAddr,
    trick: &[u8],
    over: &AtomicBool,
    answered: &AtomicU64,
    asked: &Semaphore,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let mut buffer = Vec::with_capacity(4 << 10);
    let mut first = true;
    while !over.load(Ordering::Relaxed) {
        stream.write_all(trick).await?;
        if std::mem::take(&mut first) {
            asked.add_permits(1);
        }
        buffer.clear();
        let status = loop {
            ensure!(stream.read_buf(&mut buffer).await? > 0, "the server hung up");
            if let Some((status, length)) = load::answer(&buffer)?
                && buffer.len() >= length
            {
                break status;
            }
        };
        ensure!([403, 502, 503, 504].contains(&status), "a hostile call was answered {status}");
        answered.fetch_add(1, Ordering::Relaxed);
        if status == 503 {
            tokio::time::sleep(RETRY).await;
        }
    }
    Ok(())
}
