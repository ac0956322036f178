//! What the host reaches on this machine.
//!
//! `cargo astrid bench [NAME]` runs every bench whose name contains NAME, prints a table and writes `bench.json` into the
//! target folder. Everything goes through the real thing: the release build of the daemon on real sockets, or the host
//! as a library with the capsules that ship. Peers do the same work without the host and are measured in the same run,
//! in turns with it, so that a ratio holds on a busy machine where a rate alone would not. Nothing here passes or fails
//! by its speed; a wrong answer fails.
//!
//! | module | benches |
//! |---|---|
//! | [`http`] | reads through gateway and identity, and the same after many requests; connections that are kept |
//! | [`relay`] | answers that go on: idle ones, and events through a hundred |
//! | [`prompt`] | prompts of many clients at once, and what their agent answers |
//! | [`swap`] | versions that change under load, and versions that go wrong |
//! | [`calls`] | calls of a capsule, each in a fresh instance, or in warm ones |
//! | [`strict`] | calls whose payload and answer are held to types |
//! | [`bus`] | deliveries of the bus alone, its fairness, and what idle principals and other routes cost |
//! | [`fuel`] | what metering costs a guest |
//! | [`hostile`] | everybody else beside a thousand hostile calls |
//! | [`memory`] | what a live instance takes |
//! | [`invites`] | durable writes: through HTTP, and the store alone |
//! | [`identity`] | reads among 100, 10,000 and 100,000 principals; making a thousand |
//! | [`audit`] | facts recorded, read and checked |
//! | [`boot`] | from spawn to the first answer; what an idle daemon takes |
//!
//! [`load`] makes requests and counts, [`crowd`] does so through failures, [`events`] follows streams, [`usage`] is what a process used, [`daemon`] starts daemons, [`library`] is the
//! host without sockets, and wasmtime without the host; [`native`] is the native HTTP peer, [`report`] holds the results.

mod audit;
mod boot;
mod bus;
mod calls;
mod crowd;
mod daemon;
mod events;
mod fuel;
mod hostile;
mod http;
mod identity;
mod invites;
mod library;
mod load;
mod memory;
mod native;
mod prompt;
mod relay;
mod report;
mod strict;
mod swap;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;

use report::Report;

/// Measures the host in release, beside native peers in the same run. Needs `cargo astrid build` and the release build
/// of the daemon, which `cargo astrid bench` makes first.
#[derive(Parser)]
#[command(name = "astrid-bench", version)]
struct Arguments {
    /// Only benches whose name contains this
    name: Option<String>,
    /// How many requests make a daemon old
    #[arg(long, value_name = "REQUESTS", default_value_t = 200_000)]
    age: u64,
    /// Become the HTTP peer: answer every request with the response on standard input
    #[arg(long, hide = true)]
    native_peer: bool,
}

/// Where the things to measure lie, and how to measure them.
struct Setup {
    /// Cargo's target folder.
    target: PathBuf,
    /// On the disk of the target folder: a temporary folder in memory would make every sync free.
    scratch: tempfile::TempDir,
    /// How many requests make a daemon old.
    age: u64,
}

impl Setup {
    fn new(age: u64) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let target = program.ancestors().nth(2).context("this program does not lie in a target folder")?.to_owned();
        let scratch = tempfile::Builder::new().prefix("bench-").tempdir_in(&target);
        Ok(Self { scratch: scratch.with_context(|| format!("writing to {}", target.display()))?, target, age })
    }

    /// The release build of the daemon.
    fn daemon(&self) -> PathBuf {
        self.target.join("release/astrid-daemon")
    }

    /// A packed capsule of this workspace.
    fn capsule(&self, name: &str) -> PathBuf {
        self.target.join("capsules").join(name).with_extension("capsule")
    }

    /// A path for something new.
    fn place(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

type Bench = fn(&Setup, &mut Report) -> anyhow::Result<()>;

const BENCHES: [(&str, Bench); 25] = [
    ("audit.facts", audit::facts),
    ("audit.query", audit::query),
    ("audit.verify", audit::check),
    ("boot", boot::bench),
    ("http.read", http::read),
    ("http.status", http::status),
    ("http.healthz", http::healthz),
    ("http.read.aged", http::aged),
    ("http.held", http::held),
    ("http.relay", relay::bench),
    ("prompt", prompt::bench),
    ("swap", swap::bench),
    ("calls.fresh", calls::fresh),
    ("calls.warm", calls::warm),
    ("bus.strict", strict::bench),
    ("bus.deliver", bus::deliver),
    ("bus.flood", bus::flood),
    ("bus.routes", bus::routes),
    ("bus.idle", bus::idle),
    ("fuel", fuel::bench),
    ("hostile", hostile::bench),
    ("memory.live", memory::live),
    ("memory.kept", memory::kept),
    ("invites.durable", invites::bench),
    ("identity.scale", identity::scale),
];

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

/// The value below which this part of `sorted` lies, which is not empty.
fn quantile<T: Copy>(sorted: &[T], part: f64) -> T {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = if arguments.native_peer { native::serve() } else { run(&arguments) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("astrid-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let wanted = arguments.name.as_deref().unwrap_or_default();
    let chosen: Vec<_> = BENCHES.iter().filter(|(name, _)| name.contains(wanted)).collect();
    let names = BENCHES.map(|(name, _)| name).join(", ");
    ensure!(!chosen.is_empty(), "no bench's name contains `{wanted}`; there are {names}");

    ensure!(!cfg!(debug_assertions), "a debug build measures nothing of interest; run it with --release");

    let setup = Setup::new(arguments.age)?;
    let mut report = Report::default();
    let mut failed = Vec::new();
    for (name, bench) in chosen {
        eprintln!("{name} …");
        if let Err(error) = bench(&setup, &mut report) {
            eprintln!("{name} failed: {error:#}");
            failed.push(*name);
        }
    }
    print!("{}", report.table());
    write(&setup.target.join("bench.json"), &report)?;
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn write(path: &Path, report: &Report) -> anyhow::Result<()> {
    std::fs::write(path, report.json()).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("written to {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_median_stands_in_the_middle_whatever_the_order() {
        for (values, want) in [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0], 2.5)] {
            assert_eq!(super::median(values), want);
        }
    }
}
