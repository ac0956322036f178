//! Facts: how many a second, by writers that wait for each and by writers that do not; pages of a million; checking them.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use astrid_host::journal::{Config, Fact, Filter, Journal, Outcome, QUEUE_FACTS, log_key, verify};
use astrid_host::keys::Keys;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::load::ROUND;
use crate::report::Report;
use crate::{Setup, median, quantile};

const WRITERS: [usize; 3] = [1, 10, 50];
/// Facts of the log that is read and checked.
const MILLION: u64 = 1_000_000;
/// Every so many of them is somebody's who has few.
const RARE: u64 = 50_000;
const READS: usize = 50;

pub(crate) fn facts(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let peer = plain(setup)?;
    for writers in WRITERS {
        let journal = Arc::new(open(setup, &format!("facts.{writers}"))?);
        let rate = flood(&runtime, writers, &journal)?;
        report.add_beside(format!("audit.facts.{writers}"), rate, "facts/s", "a plain file, 1000 for each sync", peer);
        let rate = durable(&runtime, writers, &journal)?;
        report.add(format!("audit.facts.durable.{writers}"), rate, "facts/s");
    }
    Ok(())
}

pub(crate) fn query(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let journal = million(setup, "query")?;
    let rare = Filter { principal: Some("rare".into()), ..Filter::default() };
    let failed = Filter { outcome: Some(Outcome::Failed), ..rare.clone() };
    for (name, filter, wanted) in [("first", Filter::default(), 100), ("selective", rare, 20), ("none", failed, 0)] {
        let mut times = Vec::new();
        for _ in 0..READS {
            let began = Instant::now();
            let page = journal.page(&filter, None, 100).context("reading a page")?;
            times.push(began.elapsed());
            ensure!(
                page.facts.len() == wanted && (wanted == 100 || page.next.is_none()),
                "{name}: {}",
                page.facts.len()
            );
        }
        times.sort();
        report.add(format!("audit.query.{name}.p99"), quantile(&times, 0.99).as_secs_f64() * 1e3, "ms");
    }
    Ok(())
}

pub(crate) fn check(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let journal = million(setup, "verify")?;
    journal.close();
    let key = log_key(&Config::default(), &*keys(setup, "verify")?)?;
    let rates = (0..3).map(|_| {
        let began = Instant::now();
        let verified = verify::verify(&setup.place("verify"), &key, &[])?;
        anyhow::Ok(verified.checkpoint.size as f64 / began.elapsed().as_secs_f64())
    });
    report.add("audit.verify", median(rates.collect::<anyhow::Result<Vec<f64>>>()?), "facts/s");
    Ok(())
}

fn keys(setup: &Setup, name: &str) -> anyhow::Result<Arc<Keys>> {
    Ok(Arc::new(Keys::open(&setup.place(&format!("{name}.key")))?))
}

fn open(setup: &Setup, name: &str) -> anyhow::Result<Journal> {
    let journal = Journal::open(&setup.place(name), &Config::default(), &keys(setup, name)?)?;
    ensure!(journal.fault().is_none(), "{:?}", journal.fault());
    Ok(journal)
}

/// As long as most of a real host's.
fn fact(journal: &Journal, n: u64) -> Fact {
    Fact {
        principal: Some(if n % RARE == 7 { "rare".to_owned() } else { format!("p{}", n % 100) }),
        capsule: Some("gateway".to_owned()),
        requires: Some("invite:issue".to_owned()),
        rule: Some("group admin: *".to_owned()),
        duration: Some(n),
        cause: Some(format!("{n:016x}")),
        payload: Some(journal.digest(b"{}")),
        ..journal.fact("bus.identity.v1.invite.issue")
    }
}

/// A log of a million facts.
fn million(setup: &Setup, name: &str) -> anyhow::Result<Journal> {
    let journal = open(setup, name)?;
    for n in 0..MILLION {
        while journal.waiting() > QUEUE_FACTS / 2 {
            std::thread::sleep(Duration::from_micros(100));
        }
        journal.append(fact(&journal, n));
    }
    while journal.waiting() > 0 || journal.size() < MILLION {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(journal)
}

/// Facts per second of writers that don't wait, but for room.
fn flood(runtime: &Runtime, writers: usize, journal: &Arc<Journal>) -> anyhow::Result<f64> {
    let (began, before) = (Instant::now(), journal.size());
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..writers {
            let journal = journal.clone();
            tasks.spawn(async move {
                let mut n = 0;
                while began.elapsed() < ROUND {
                    if journal.waiting() > QUEUE_FACTS / 2 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    }
                    for _ in 0..64 {
                        journal.append(fact(&journal, n));
                        n += 1;
                    }
                }
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            outcome.context("a writer panicked")?;
        }
        journal.append_durable(journal.fact("bench.end")).await.context("the last fact")?;
        anyhow::Ok(())
    })?;
    Ok((journal.size() - before) as f64 / began.elapsed().as_secs_f64())
}

/// Facts per second of writers that each wait until theirs is durable.
fn durable(runtime: &Runtime, writers: usize, journal: &Arc<Journal>) -> anyhow::Result<f64> {
    let (began, count) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..writers {
            let (journal, count) = (journal.clone(), count.clone());
            tasks.spawn(async move {
                while began.elapsed() < ROUND {
                    let n = count.fetch_add(1, Ordering::Relaxed);
                    journal.append_durable(fact(&journal, n)).await.context("a durable fact")?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            outcome.context("a writer panicked")??;
        }
        anyhow::Ok(())
    })?;
    Ok(count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}

/// Records of the same length per second, appended to a file and synced a thousand at a time.
fn plain(setup: &Setup) -> anyhow::Result<f64> {
    let mut file = File::create(setup.place("plain"))?;
    let thousand = vec![b'x'; 1000 * 350];
    let (began, mut records) = (Instant::now(), 0);
    while began.elapsed() < ROUND {
        file.write_all(&thousand)?;
        file.sync_data()?;
        records += 1000;
    }
    Ok(f64::from(records) / began.elapsed().as_secs_f64())
}
