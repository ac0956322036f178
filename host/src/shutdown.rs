//! The end of the process: asked for once, drained under a deadline, and enforced from a thread of its own.
//!
//! Signals arrive on an OS thread, so that no guest, however busy, keeps the host from hearing them. The first SIGTERM
//! or SIGINT begins a drained stop; a second one, or a drain that takes too long, ends the process where it stands:
//! what was acknowledged is durable. Nothing here waits for the log longer than a moment: whoever should read the standard
//! error may have stopped doing so, and that must not keep the host from ending.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::Notify;

/// How long requests in flight may take to end.
pub const DRAIN: Duration = Duration::from_secs(7);
/// When the process ends in any case.
const HARD: Duration = Duration::from_secs(9);
/// How long the log may take for a line about the end.
const SAY: Duration = Duration::from_millis(200);
/// The exit code of an end that was not drained.
const EXIT_HARD: i32 = 75;

#[derive(Default)]
pub struct Shutdown {
    begun: AtomicBool,
    notify: Notify,
    /// SIGHUP.
    hangups: Notify,
}

impl Shutdown {
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Begins the stop, and the clock that ends the process if it takes too long.
    pub fn begin(&self, why: &str) {
        if self.begun.swap(true, Ordering::SeqCst) {
            return;
        }
        thread::spawn(|| {
            thread::sleep(HARD);
            end_hard("the drain took too long");
        });
        let why = why.to_owned();
        say(move || tracing::info!("stopping: {why}"));
        self.notify.notify_waiters();
    }

    /// Returns when there was a SIGHUP since this was last waited for. For one who waits.
    pub async fn hung_up(&self) {
        self.hangups.notified().await;
    }

    /// Returns once the stop has begun.
    pub async fn begun(&self) {
        let notified = self.notify.notified();
        tokio::pin!(notified);
        // Registered before the flag is read, so that no beginning is missed.
        notified.as_mut().enable();
        if !self.has_begun() {
            notified.await;
        }
    }
}

/// Ends the process where it stands.
fn end_hard(why: &'static str) -> ! {
    say(move || tracing::error!("{why}; ending where we stand"));
    std::process::exit(EXIT_HARD);
}

/// Writes a line, and goes on when it is written or after [`SAY`].
fn say(line: impl FnOnce() + Send + 'static) {
    let (said, heard) = mpsc::channel();
    // Without a thread for it the line is missing, and the end comes all the same.
    let _ = thread::Builder::new().name("last-words".into()).spawn(move || {
        line();
        let _ = said.send(());
    });
    let _ = heard.recv_timeout(SAY);
}

/// Listens for signals on a thread of its own.
pub fn watch_signals(shutdown: std::sync::Arc<Shutdown>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                // A daemon outlives the terminal that started it.
                shutdown.hangups.notify_one();
                continue;
            }
            if shutdown.has_begun() {
                end_hard("second signal");
            }
            shutdown.begin(if signal == SIGINT { "SIGINT" } else { "SIGTERM" });
        }
    })?;
    Ok(())
}
