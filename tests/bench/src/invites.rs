//! Durable writes at one, ten and fifty callers: invites issued through HTTP; the store alone; redb alone, with a thread
//! that shares one sync among all who wait, as the store does.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, anyhow};
use astrid_host::store::{Commit, Config, Store};
use redb::{Database, TableDefinition};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::daemon::Home;
use crate::load::{self, ROUND, Span};
use crate::report::Report;
use crate::{Setup, median, usage};

const CALLERS: [usize; 3] = [1, 10, 50];
/// Measured rounds of each side, after one that does not count.
const ROUNDS: usize = 3;
/// What an invite takes, in bytes.
const VALUE: [u8; 120] = [b'v'; 120];

pub(crate) fn bench(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let server = Home::new(setup, "invites.durable")?.start()?;
    let issue = server.post("/api/sys/invites", &json!({ "group": "agent", "max_uses": 1 }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let config = Config::default();
    let store = Arc::new(Store::open(&setup.place("store.redb"), &config)?);
    let bare = Arc::new(Bare::open(&setup.place("bare.redb"), &config)?);
    for callers in CALLERS {
        let (mut http, mut ours, mut bares) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..=ROUNDS {
            http.push(load::run(&issue, callers, Span::For(ROUND))?);
            ours.push(round(&runtime, callers, &store, commit)?);
            bares.push(round(&runtime, callers, &bare, Bare::commit)?);
        }
        let http = load::Sample::median(&http[1..]);
        let [rate, bare_rate] = [&ours, &bares].map(|samples| median(samples[1..].iter().map(|s| s.rate)));
        let [cpu, bare_cpu] = [&ours, &bares].map(|samples| median(samples[1..].iter().map(|s| s.cpu)));
        report.add_beside(format!("invites.durable.{callers}"), http.rate, "invites/s", "the store alone", rate);
        report.add(format!("invites.durable.{callers}.cpu"), http.cpu, "µs/invite");
        report.add(format!("invites.durable.{callers}.p99"), http.p99, "ms");
        report.add_beside(format!("invites.durable.store.{callers}"), rate, "commits/s", "bare redb", bare_rate);
        report.add_beside(format!("invites.durable.store.{callers}.cpu"), cpu, "µs/commit", "bare redb", bare_cpu);
    }
    store.close();
    server.daemon.stop()
}

struct Sample {
    /// Commits per second.
    rate: f64,
    /// CPU time of the process for each commit, in microseconds.
    cpu: f64,
}

/// So many tasks, each with one commit in flight; every commit is told a number that no other has.
fn round<T, F>(
    runtime: &Runtime,
    callers: usize,
    store: &Arc<T>,
    commit: impl Fn(Arc<T>, u64) -> F + Copy + Send + 'static,
) -> anyhow::Result<Sample>
where
    T: Send + Sync + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (began, before) = (Instant::now(), usage::cpu(std::process::id())?);
    let commits: u64 = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let store = store.clone();
            tasks.spawn(async move {
                let mut commits = 0;
                while began.elapsed() < ROUND {
                    commit(store.clone(), NEXT.fetch_add(1, Ordering::Relaxed)).await?;
                    commits += 1;
                }
                anyhow::Ok(commits)
            });
        }
        let mut commits = 0;
        while let Some(outcome) = tasks.join_next().await {
            commits += outcome.context("a caller panicked")??;
        }
        anyhow::Ok(commits)
    })?;
    let (commits, seconds) = (commits as f64, began.elapsed().as_secs_f64());
    let used = usage::cpu(std::process::id())? - before;
    Ok(Sample { rate: commits / seconds, cpu: used.as_secs_f64() * 1e6 / commits })
}

/// As long as an invite's, and in no order, like hashes.
fn key(n: u64) -> Vec<u8> {
    format!("c identity  invites {:064x}", u128::from(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64).into_bytes()
}

async fn commit(store: Arc<Store>, n: u64) -> anyhow::Result<()> {
    store.commit(Commit { writes: vec![(key(n), Some(VALUE.to_vec()))], ..Commit::default() }).await?;
    Ok(())
}

/// redb and a thread that writes to it.
struct Bare {
    jobs: Mutex<mpsc::Sender<Job>>,
}

struct Job {
    key: Vec<u8>,
    value: Vec<u8>,
    done: oneshot::Sender<()>,
}

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");

impl Bare {
    fn open(path: &Path, config: &Config) -> anyhow::Result<Self> {
        let cache = usize::try_from(config.cache_bytes)?;
        let database = Database::builder().set_cache_size(cache).create(path)?;
        let (jobs, received) = mpsc::channel();
        let max_batch = config.max_batch;
        std::thread::spawn(move || {
            if let Err(error) = write(&database, &received, max_batch) {
                // Its callers see that nobody answers.
                eprintln!("bare redb: {error:#}");
            }
        });
        Ok(Self { jobs: Mutex::new(jobs) })
    }

    async fn commit(self: Arc<Self>, n: u64) -> anyhow::Result<()> {
        let (done, answered) = oneshot::channel();
        let job = Job { key: key(n), value: VALUE.to_vec(), done };
        let sent = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job);
        sent.map_err(|_| anyhow!("bare redb has ended"))?;
        answered.await.context("bare redb has ended")
    }
}

/// Until nobody can send any more.
fn write(database: &Database, jobs: &mpsc::Receiver<Job>, max_batch: usize) -> anyhow::Result<()> {
    while let Ok(first) = jobs.recv() {
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(max_batch - 1)).collect();
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for job in &batch {
                table.insert(job.key.as_slice(), job.value.as_slice())?;
            }
        }
        transaction.commit()?;
        for job in batch {
            // A caller that went away does not want to know.
            let _ = job.done.send(());
        }
    }
    Ok(())
}
