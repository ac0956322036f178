//! From spawn to the first answer, and what an idle daemon takes.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::daemon::{self, Daemon, Home};
use crate::report::Report;
use crate::{Setup, median, usage};

/// Boots of each kind.
const ROUNDS: usize = 5;
/// The time between two looks at a socket that is not there yet; the figures are no finer.
const LOOK: Duration = Duration::from_micros(200);
/// How long an idle daemon is watched.
const IDLE: Duration = Duration::from_secs(3);
const STATUS: &str = "GET /api/sys/status HTTP/1.1\r\nhost: local\r\n\r\n";

pub(crate) fn bench(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let home = Home::new(setup, "boot")?;
    // Installs the distribution.
    home.start()?.daemon.stop()?;
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        fs::remove_dir_all(home.cache())?;
        for times in [&mut cold, &mut warm] {
            let (daemon, seconds) = boot(&home)?;
            times.push(seconds * 1e3);
            daemon.stop()?;
        }
    }
    report.add("boot.cold", median(cold), "ms");
    report.add("boot.warm", median(warm), "ms");

    let (daemon, _) = boot(&home)?;
    let (began, before) = (Instant::now(), usage::cpu(daemon.pid())?);
    std::thread::sleep(IDLE);
    let used = usage::cpu(daemon.pid())? - before;
    let memory = usage::memory(daemon.pid())?;
    report.add("boot.idle.cpu", 100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64(), "% of a core");
    report.add("boot.idle.rss", memory.rss, "MiB");
    report.add("boot.idle.pss", memory.pss, "MiB");
    daemon.stop()
}

/// Spawns a daemon and asks until it answers. Returns it and the seconds that it took.
fn boot(home: &Home) -> anyhow::Result<(Daemon, f64)> {
    let (began, socket) = (Instant::now(), home.socket());
    let daemon = home.spawn()?;
    let stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(error) => ensure!(began.elapsed() < daemon::PATIENCE, "the daemon does not listen: {error}"),
        }
        std::thread::sleep(LOOK);
    };
    stream.set_read_timeout(Some(daemon::PATIENCE))?;
    daemon::ask(stream, STATUS)?;
    Ok((daemon, began.elapsed().as_secs_f64()))
}
