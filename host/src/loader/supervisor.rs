//! Run loops: started, started again, told to end.
//!
//! Owns one task for each live generation with a run loop. A run has [`READY`] to say that it is ready, or it is ended.
//! However a run ends, the next one begins after the [`Backoff`]; there is no last one. A loop whose [`Runner`] is
//! dropped is told to end: its subscriptions take nothing more, it reads what waits, and is gone after [`GRACE`] whatever
//! it does. If it waits to be started again just then and messages wait for it, it gets one more run for them.
//! Bounded by the loader: as many run loops as the pool has room for. Refuses to know what a run is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::generation::Generation;
use super::run::Desk;

/// How long a run may take until it is ready.
pub(super) const READY: Duration = Duration::from_secs(10);
/// How long a loop may take to end once it is told to.
const GRACE: Duration = Duration::from_secs(10);

/// How long to wait before the next run: 2 seconds, doubling to 120, and anew from 2 after a run of 120 seconds.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Backoff {
    const LEAST: Duration = Duration::from_secs(2);
    const MOST: Duration = Duration::from_secs(120);

    /// The wait after a run that took so long.
    fn after(&mut self, ran: Duration) -> Duration {
        if ran >= Self::MOST {
            self.next = Self::LEAST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(Self::MOST);
        wait
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Self::LEAST }
    }
}

/// Where a run loop stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It was never ready yet.
    Starting,
    Live,
    /// Its last run ended, why, and it has not been ready since.
    Restarting(Arc<str>),
}

impl Phase {
    pub const ALL: [&str; 3] = ["starting", "live", "restarting"];

    pub fn as_str(&self) -> &'static str {
        match self {
            Phase::Starting => Self::ALL[0],
            Phase::Live => Self::ALL[1],
            Phase::Restarting(_) => Self::ALL[2],
        }
    }
}

/// A supervised run loop. Dropping it tells the loop to end.
pub(super) struct Runner {
    phase: watch::Receiver<Phase>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Runner {
    pub(super) fn start(generation: Arc<Generation>) -> Self {
        let (tell, phase) = watch::channel(Phase::Starting);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(supervise(generation, tell, stopped));
        Self { phase, stop, task }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Waits for what becomes of the first run: at most [`READY`]. An error says why it is not ready.
    pub(super) fn ready(&self) -> impl Future<Output = Result<(), String>> + use<> {
        let mut phase = self.phase.clone();
        async move {
            let settled = phase.wait_for(|phase| *phase != Phase::Starting).await;
            match settled.as_deref() {
                Ok(Phase::Restarting(why)) => Err(why.to_string()),
                Ok(_) => Ok(()),
                Err(_) => Err("the host stops".into()),
            }
        }
    }

    /// Ends it where it stands; returns when it is gone.
    pub(super) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Tells the loop to end; the answer returns when it has.
    pub(super) fn end(&self) -> impl Future<Output = ()> + use<> {
        self.stop.send_replace(true);
        let mut phase = self.phase.clone();
        async move { while phase.changed().await.is_ok() {} }
    }
}

async fn supervise(generation: Arc<Generation>, tell: watch::Sender<Phase>, mut stopped: watch::Receiver<bool>) {
    let desk = Arc::new(Desk::default());
    let restarts = metrics::counter!("astrid_run_loop_restarts_total", "capsule" => generation.id.to_string());
    let mut backoff = Backoff::default();
    loop {
        let started = Instant::now();
        let ended = tokio::select! {
            why = one_run(&generation, &desk, &tell) => Some(why),
            () = drained(&desk, &mut stopped) => None,
        };
        if stopping(&stopped) || ended.is_none() {
            return gone(&generation, &desk);
        }
        let why: Arc<str> = ended.unwrap_or_default().into();
        let wait = backoff.after(started.elapsed());
        tracing::error!(capsule = &*generation.id, "its run loop ended: {why}; it is started again in {wait:?}");
        tell.send_replace(Phase::Restarting(why));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.wait_for(|stop| *stop) => {
                desk.end();
                if desk.waiting() == 0 {
                    return;
                }
            }
        }
        restarts.increment(1);
    }
}

fn stopping(stopped: &watch::Receiver<bool>) -> bool {
    *stopped.borrow() || stopped.has_changed().is_err()
}

fn gone(generation: &Generation, desk: &Desk) {
    let lost = desk.waiting();
    if lost > 0 {
        tracing::warn!(capsule = &*generation.id, lost, "its run loop ended before it had read everything");
    }
}

/// Returns [`GRACE`] after the loop was told to end.
async fn drained(desk: &Desk, stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
    desk.end();
    tokio::time::sleep(GRACE).await;
}

/// The answer is why the run ended.
async fn one_run(generation: &Arc<Generation>, desk: &Arc<Desk>, tell: &watch::Sender<Phase>) -> String {
    let (ready, is_ready) = oneshot::channel();
    let run = generation.run(desk, ready);
    tokio::pin!(run);
    tokio::select! {
        biased;
        Ok(()) = is_ready => {}
        why = &mut run => return why,
        () = tokio::time::sleep(READY) => return format!("it was not ready after {READY:?}"),
    }
    tell.send_replace(Phase::Live);
    run.await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_from_2_seconds_to_120_and_begin_anew_after_a_run_of_120() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| backoff.after(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 120, 120, 120]);
        assert_eq!(backoff.after(Duration::from_secs(120)), Backoff::LEAST);
        assert_eq!(backoff.after(Duration::from_secs(119)), Backoff::LEAST * 2);
    }

    proptest! {
        /// However long the runs are, there is a next one, within bounds, and short runs in a row never come faster.
        #[test]
        fn every_wait_is_within_its_bounds_and_only_a_long_run_shortens_it(
            runs in prop::collection::vec(0u64..300, 1..200),
        ) {
            let mut backoff = Backoff::default();
            let mut before = Duration::ZERO;
            for ran in runs.into_iter().map(Duration::from_secs) {
                let wait = backoff.after(ran);
                prop_assert!((Backoff::LEAST..=Backoff::MOST).contains(&wait));
                let least = if ran >= Backoff::MOST { Duration::ZERO } else { before };
                prop_assert!(wait >= least && (ran < Backoff::MOST || wait == Backoff::LEAST));
                before = wait;
            }
        }
    }
}
