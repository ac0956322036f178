//! The host as a program: `astrid-daemon --home DIR`.

use std::path::PathBuf;
use std::process::ExitCode;

use astrid_host::host::{Options, run};
use clap::Parser;

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
    /// The folder with Distro.toml and its capsules [default: <home>/distro]
    #[arg(long, value_name = "DIR")]
    distro: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut sets = arguments.sets;
    sets.extend(arguments.listen.map(|address| format!("http.listen={address}")));
    match run(Options { home: arguments.home, sets, distro: arguments.distro }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("astrid-daemon: {error:#}");
            ExitCode::FAILURE
        }
    }
}
