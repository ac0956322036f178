//! Run loops: started, started again, told to end.
//!
//! Owns one task for each live generation with a run loop. A run has [`READY`] to say that it is ready, or it is ended.
//! However a run ends, the next one begins after the [`Backoff`]; there is no last one. A loop whose [`Runner`] is
//! dropped is told to end: its subscriptions take nothing more, it reads what waits, and is gone after [`GRACE`] whatever
//! it does. If it waits to be started again just then and messages wait for it, it gets one more run for them. One that is
//! asked for its state stops, gives it, and waits until another has its place or it is to go on ([`handover`](super::handover)).
//! Bounded by the loader: as many run loops as the pool has room for. Refuses to know what a run is.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::generation::Generation;
use super::handover::{Ask, Exported, Handover, Heritage, Snapshot, Unexported};
use super::run::{Desk, Run};

/// How long a run may take until it is ready.
pub(super) const READY: Duration = Duration::from_secs(10);
/// How long a loop may take to end once it is told to.
pub(super) const GRACE: Duration = Duration::from_secs(10);

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
    asks: mpsc::UnboundedSender<Ask>,
    desk: Arc<Desk>,
    lost: Arc<OnceLock<String>>,
    task: JoinHandle<()>,
}

impl Runner {
    pub(super) fn start(generation: Arc<Generation>) -> Self {
        Self::spawn(generation, Desk::default(), None)
    }

    /// In the place of another loop, whose subscriptions it has and whose state it gets.
    pub(super) fn follow(generation: Arc<Generation>, desk: Desk, heritage: Heritage) -> Self {
        Self::spawn(generation, desk, Some(heritage))
    }

    fn spawn(generation: Arc<Generation>, desk: Desk, heritage: Option<Heritage>) -> Self {
        let (tell, phase) = watch::channel(Phase::Starting);
        let (stop, stopped) = watch::channel(false);
        let (asks, asked) = mpsc::unbounded_channel();
        let (desk, lost) = (Arc::new(desk), Arc::new(OnceLock::new()));
        let supervised = Supervised { generation, desk: desk.clone(), tell, stopped, asked, lost: lost.clone() };
        let task = tokio::spawn(supervised.go(heritage));
        Self { phase, stop, asks, desk, lost, task }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Waits for what becomes of the first run: a few times [`READY`] at most. An error says why it is not ready.
    pub(super) fn ready(&self) -> impl Future<Output = Result<(), String>> + use<> {
        let mut phase = self.phase.clone();
        async move {
            let settled = phase.wait_for(|phase| *phase != Phase::Starting).await;
            match settled.as_deref() {
                Ok(Phase::Restarting(why)) => Err(why.to_string()),
                Ok(_) => Ok(()),
                Err(_) => Err("the host is stopping".into()),
            }
        }
    }

    /// Once it is ready: why it began without the state of the loop before, if it did.
    pub(super) fn lost(&self) -> Option<String> {
        self.lost.get().cloned()
    }

    pub(super) fn has_lost(&self, why: String) {
        let _ = self.lost.set(why);
    }

    /// As [`Self::ready`] and then [`Self::lost`], when somebody else has it.
    pub(super) fn outcome(&self) -> impl Future<Output = Option<String>> + use<> {
        let (ready, lost) = (self.ready(), self.lost.clone());
        async move {
            let _ = ready.await;
            lost.get().cloned()
        }
    }

    /// Tells it to stop and to give its state.
    pub(super) fn ask(&self) -> Handover {
        let (handover, ask) = Handover::begin(self.desk.clone());
        // It is asked before it can return.
        let _ = self.asks.send(ask);
        self.desk.stop();
        handover
    }

    /// What its subscriptions are for once its version is live.
    pub(super) fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
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

/// What the task of a loop has.
struct Supervised {
    generation: Arc<Generation>,
    desk: Arc<Desk>,
    tell: watch::Sender<Phase>,
    stopped: watch::Receiver<bool>,
    asked: mpsc::UnboundedReceiver<Ask>,
    lost: Arc<OnceLock<String>>,
}

impl Supervised {
    async fn go(mut self, heritage: Option<Heritage>) {
        let restarts = metrics::counter!("astrid_run_loop_restarts_total", "capsule" => self.generation.id.to_string());
        let mut backoff = Backoff::default();
        let (mut state, mut insists) = (None, true);
        if let Some(heritage) = heritage {
            insists = heritage.insists;
            match heritage.state.await {
                Ok(given) => state = Some(given),
                Err(why) => self.begins_without(why),
            }
        }
        loop {
            let started = Instant::now();
            let (desk, mut stopped) = (self.desk.clone(), self.stopped.clone());
            let (given, first) = (state.is_some(), state.take());
            let ended = tokio::select! {
                why = self.live(first) => why,
                () = drained(&desk, &mut stopped) => None,
            };
            let Some(why) = ended.filter(|_| !stopping(&self.stopped)) else { return self.gone() };
            if given && !insists && *self.tell.borrow() == Phase::Starting {
                self.begins_without(why);
                continue;
            }
            let why: Arc<str> = why.into();
            let wait = backoff.after(started.elapsed());
            tracing::error!(
                capsule = &*self.generation.id,
                "its run loop ended: {why}; it is started again in {wait:?}"
            );
            self.tell.send_replace(Phase::Restarting(why.clone()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Some(ask) = self.asked.recv() => {
                    let _ = ask.returned.send(());
                    if !self.goes_on(ask.answer, ask.wanted, Err(Unexported::Dead(why.to_string()))).await {
                        return self.gone();
                    }
                }
                () = told(&mut stopped) => {
                    desk.end();
                    if desk.waiting() == 0 {
                        return;
                    }
                }
            }
            restarts.increment(1);
        }
    }

    /// One instance and what it does. The answer is why another is to be made; none if another loop has its place.
    async fn live(&mut self, state: Option<Snapshot>) -> Option<String> {
        // Only missing while the host goes down.
        let Some(host) = self.generation.host.upgrade() else { return Some("the host is stopping".into()) };
        let mut run = match Run::begin(&host, &self.generation, &self.desk).await {
            Ok(run) => run,
            Err(why) => return Some(why),
        };
        if let Some(state) = state
            && let Err(why) = run.import(&state).await
        {
            return Some(why);
        }
        loop {
            let ended = self.work(&mut run).await;
            let Ok(ask) = self.asked.try_recv() else {
                return Some(ended.err().unwrap_or_else(|| "it returned".into()));
            };
            if ended.is_ok() && ask.answer.is_closed() {
                // Whoever asked has given up, and it was stopped for nothing.
                continue;
            }
            let _ = ask.returned.send(());
            let exported = match ended {
                Ok(()) => run.export().await,
                Err(why) => Err(Unexported::Dead(why)),
            };
            let dead = match &exported {
                Err(Unexported::Dead(why)) => Some(why.clone()),
                _ => None,
            };
            if !self.goes_on(ask.answer, ask.wanted, exported).await {
                return None;
            }
            if dead.is_some() {
                return dead;
            }
        }
    }

    /// One call of `run`, which has [`READY`] to say that it is ready.
    async fn work(&self, run: &mut Run<'_>) -> Result<(), String> {
        let (ready, is_ready) = oneshot::channel();
        let work = run.work(ready);
        tokio::pin!(work);
        tokio::select! {
            biased;
            Ok(()) = is_ready => {}
            ended = &mut work => return ended,
            () = tokio::time::sleep(READY) => return Err(format!("it was not ready after {READY:?}")),
        }
        self.tell.send_replace(Phase::Live);
        work.await
    }

    /// Answers whoever wants to put another loop in this one's place, and waits for whether that has been done.
    async fn goes_on(
        &self,
        answer: oneshot::Sender<Exported>,
        wanted: oneshot::Receiver<()>,
        exported: Exported,
    ) -> bool {
        let _ = answer.send(exported);
        let mut stopped = self.stopped.clone();
        tokio::select! {
            biased;
            () = told(&mut stopped) => false,
            _ = wanted => true,
        }
    }

    fn begins_without(&self, why: String) {
        tracing::error!(capsule = &*self.generation.id, "its run loop begins without a state: {why}");
        let _ = self.lost.set(why);
    }

    fn gone(&self) {
        let lost = self.desk.waiting();
        if lost > 0 {
            tracing::warn!(capsule = &*self.generation.id, lost, "its run loop ended before it had read everything");
        }
    }
}

fn stopping(stopped: &watch::Receiver<bool>) -> bool {
    *stopped.borrow() || stopped.has_changed().is_err()
}

/// Returns once the loop is told to end.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Returns [`GRACE`] after the loop was told to end.
async fn drained(desk: &Desk, stopped: &mut watch::Receiver<bool>) {
    told(stopped).await;
    desk.end();
    tokio::time::sleep(GRACE).await;
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
