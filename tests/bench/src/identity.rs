//! What identity costs among many: reads in hosts of 100, 10,000 and 100,000 principals, in turns in one run, and making a
//! thousand more. What does not depend on how many there are has a ratio of 1.

use std::time::Instant;

use serde_json::json;

use crate::daemon::{Home, Server};
use crate::load::{self, CONNECTIONS, ROUND, Sample, Span};
use crate::report::Report;
use crate::{Setup, usage};

/// How many principals each host has, the administrator and `default` not counted.
const SIZES: [u64; 3] = [100, 10_000, 100_000];
/// What the others are compared with.
const FEW: &str = "100 principals";
/// Principals that are made while the clock runs, and by how many at once.
const MADE: u64 = 1_000;
const MAKERS: usize = 20;
/// Measured rounds of each read in each host, after one that does not count.
const ROUNDS: usize = 3;
/// How many different principals are asked for.
const ASKED: u64 = 1_000;

/// A read, and its paths in a host of so many principals.
type Read = (&'static str, fn(u64) -> Vec<String>);

const READS: [Read; 4] = [
    ("me", |_| vec!["/api/auth/me".into()]),
    // As many rows everywhere, from the middle on.
    ("page", |size| vec![format!("/api/sys/principals?limit=50&after={}", name(size / 2 - 1))]),
    ("show", |size| spread(size).map(|id| format!("/api/sys/principals/{id}")).collect()),
    ("check", |size| {
        spread(size).map(|id| format!("/api/sys/principals/{id}/caps/check?capability=agent:list")).collect()
    }),
];

fn name(number: u64) -> String {
    format!("p{number:06}")
}

/// Principals from everywhere among them, so that no page of the store answers for all.
fn spread(size: u64) -> impl Iterator<Item = String> {
    (0..ASKED).map(move |n| name(n * 7919 % size))
}

pub(crate) fn scale(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let mut hosts = Vec::new();
    for size in SIZES {
        let server = Home::new(setup, &format!("identity.{size}"))?.start()?;
        make(&server, 0..size, CONNECTIONS)?;
        hosts.push((size, server));
    }
    for (read, paths) in READS {
        let targets: Vec<_> = hosts.iter().map(|(size, server)| server.get_each(paths(*size))).collect();
        let mut samples: Vec<Vec<Sample>> = targets.iter().map(|_| Vec::new()).collect();
        for _ in 0..=ROUNDS {
            for (target, samples) in targets.iter().zip(&mut samples) {
                samples.push(load::run(target, CONNECTIONS, Span::For(ROUND))?);
            }
        }
        let medians: Vec<Sample> = samples.iter().map(|samples| Sample::median(&samples[1..])).collect();
        for ((size, _), sample) in hosts.iter().zip(&medians).skip(1) {
            let (name, few) = (format!("identity.scale.{read}.{size}"), &medians[0]);
            report.add_beside(name.clone(), sample.rate, "requests/s", FEW, few.rate);
            report.add_beside(format!("{name}.cpu"), sample.cpu, "µs/request", FEW, few.cpu);
            report.add_beside(format!("{name}.p99"), sample.p99, "ms", FEW, few.p99);
        }
    }
    let mut few = 0.0;
    for (size, server) in &hosts {
        let took = make(server, *size..*size + MADE, MAKERS)?;
        let name = format!("identity.scale.make.{size}");
        if *size == SIZES[0] {
            few = took;
            report.add(name, took, "s/1,000 principals");
        } else {
            report.add_beside(name, took, "s/1,000 principals", FEW, few);
        }
    }
    let memory = |server: &Server| usage::memory(server.daemon.pid()).map(|memory| memory.rss);
    let few = memory(&hosts[0].1)?;
    for (size, server) in &hosts[1..] {
        report.add_beside(format!("identity.scale.rss.{size}"), memory(server)?, "MiB", FEW, few);
    }
    hosts.into_iter().try_for_each(|(_, server)| server.daemon.stop())
}

/// Makes principals of these numbers in the group `agent`, and returns how many seconds that took.
fn make(server: &Server, numbers: std::ops::Range<u64>, makers: usize) -> anyhow::Result<f64> {
    let count = numbers.end - numbers.start;
    let bodies = numbers.map(|number| json!({ "name": name(number), "groups": ["agent"] }));
    let target = server.create_each("/api/sys/principals", bodies);
    let began = Instant::now();
    load::run(&target, makers, Span::Requests(count))?;
    Ok(began.elapsed().as_secs_f64())
}
