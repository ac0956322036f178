//! The host as a program: `astrid-daemon --home DIR`.

use std::path::PathBuf;
use std::process::ExitCode;

use astrid_host::host::{Options, run};
use astrid_host::process;
use clap::{Args, Parser};

/// Ten thousand connections that only wait lie between what requests come and go with: this one keeps sizes apart.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves capsules in the foreground. Prints one JSON line on standard output when it is ready; SIGTERM drains and
/// ends it.
#[derive(Parser)]
#[command(name = "astrid-daemon", version)]
struct Arguments {
    /// The home folder [default: $ASTRID_HOME, else ~/.astrid]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// The TCP address, short for --set http.listen=ADDRESS [default: 127.0.0.1:2787]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Overrides one key of the configuration; may be repeated
    #[arg(long = "set", value_name = "ROOM.KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    runtime: Runtime,
    /// The folder with Distro.toml and its capsules [default: distro in the home]
    #[arg(long, value_name = "DIR")]
    distro: Option<PathBuf>,
    /// Run the distribution's own versions and nothing else, whatever is installed: to repair what is installed. That is
    /// the distribution in this program, if it holds one and --distro names none
    #[arg(long)]
    safe_mode: bool,
    /// Die at a point of a change, as a test wants it
    #[cfg(debug_assertions)]
    #[arg(long, value_name = "CAPSULE:POINT", hide = true)]
    fault: Option<String>,
}

/// Each short for `--set runtime.KEY=VALUE`, and stronger. What is not said is taken from the configuration, else from the
/// machine.
#[derive(Args)]
struct Runtime {
    /// Instances that may be alive at once
    #[arg(long, value_name = "N")]
    runtime_instances: Option<u64>,
    /// The most linear memory that an instance can have
    #[arg(long, value_name = "BYTES")]
    runtime_max_memory_bytes: Option<u64>,
    /// Calls that may wait for an instance
    #[arg(long, value_name = "N")]
    runtime_max_waiting: Option<u64>,
    /// Calls of one principal that capsules make and that run at once
    #[arg(long, value_name = "N")]
    runtime_max_concurrent_calls: Option<u64>,
    /// Pieces of blocking work at once
    #[arg(long, value_name = "N")]
    runtime_blocking: Option<u64>,
    /// Commits of guests that wait for the disk at once
    #[arg(long, value_name = "N")]
    runtime_async_io: Option<u64>,
    /// What one instance serves: "manifest" (as each manifest says) or "call" (never more than one call)
    #[arg(long, value_name = "HOW")]
    runtime_isolation: Option<String>,
}

impl Runtime {
    fn sets(&self) -> impl Iterator<Item = String> {
        let keys = [
            ("instances", self.runtime_instances),
            ("max-memory-bytes", self.runtime_max_memory_bytes),
            ("max-waiting", self.runtime_max_waiting),
            ("max-concurrent-calls", self.runtime_max_concurrent_calls),
            ("blocking", self.runtime_blocking),
            ("async-io", self.runtime_async_io),
        ];
        let numbers = keys.into_iter().filter_map(|(key, value)| Some(format!("runtime.{key}={}", value?)));
        numbers.chain(self.runtime_isolation.iter().map(|how| format!("runtime.isolation={how}")))
    }
}

fn main() -> ExitCode {
    // Before anything else: a jail is this program, started by itself for a child's sake.
    let jail: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    if let Some((_, rest)) = jail.split_first().filter(|(word, _)| *word == process::jail::WORD) {
        return process::jail::main(rest);
    }
    let arguments = Arguments::parse();
    let mut sets = arguments.sets;
    sets.extend(arguments.listen.map(|address| format!("http.listen={address}")));
    sets.extend(arguments.runtime.sets());
    #[cfg(debug_assertions)]
    if let Some(Err(why)) = arguments.fault.as_deref().map(astrid_host::fault::arm) {
        eprintln!("astrid-daemon: --fault: {why}");
        return ExitCode::FAILURE;
    }
    let (home, distro, safe_mode) = (arguments.home, arguments.distro, arguments.safe_mode);
    match run(Options { home, sets, distro, safe_mode }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("astrid-daemon: {error:#}");
            ExitCode::FAILURE
        }
    }
}
