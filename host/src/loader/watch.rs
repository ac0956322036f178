//! What is watched of a generation while it is live: calls in flight, its probation, and a shadow of it.
//!
//! Costs a call two atomic operations when nothing is watched for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::probation::{Probation, Rule, Verdict};
use super::rehearsal::Shadow;
use crate::pool::Lane;

#[derive(Default)]
pub(super) struct Watch {
    running: AtomicUsize,
    /// Told when nothing runs any more.
    idle: Notify,
    /// Whether `trial` or `shadow` is set.
    on: AtomicBool,
    trial: Mutex<Option<(Probation<Lane>, Instant)>>,
    shadow: Mutex<Option<Arc<Shadow>>>,
}

/// A call in flight.
pub(super) struct InFlight<'a>(&'a Watch);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Watch {
    pub(super) fn begin(&self) -> InFlight<'_> {
        self.running.fetch_add(1, Ordering::AcqRel);
        InFlight(self)
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Waits until nothing runs, for so long at most; the answer is what still does.
    pub(super) async fn drained(&self, patience: Duration) -> usize {
        let idle = async {
            loop {
                let idle = self.idle.notified();
                if self.running() == 0 {
                    return;
                }
                idle.await;
            }
        };
        let _ = tokio::time::timeout(patience, idle).await;
        self.running()
    }

    /// It has gone live, and is held to this from now on.
    pub(super) fn try_out(&self, rule: Rule) {
        *self.trial.lock().expect("no panic under this lock") = Some((Probation::new(rule), Instant::now()));
        self.set();
    }

    pub(super) fn set_shadow(&self, shadow: Option<Arc<Shadow>>) {
        *self.shadow.lock().expect("no panic under this lock") = shadow;
        self.set();
    }

    fn set(&self) {
        let trial = self.trial.lock().expect("no panic under this lock").is_some();
        let shadow = self.shadow.lock().expect("no panic under this lock").is_some();
        self.on.store(trial || shadow, Ordering::Release);
    }

    pub(super) fn shadow(&self) -> Option<Arc<Shadow>> {
        if !self.on.load(Ordering::Acquire) {
            return None;
        }
        self.shadow.lock().expect("no panic under this lock").clone()
    }

    /// A call of this lane has ended. True once: it has used up its budget of errors.
    pub(super) fn ended(&self, lane: &Lane, failed: bool) -> bool {
        if !self.on.load(Ordering::Acquire) {
            return false;
        }
        let mut trial = self.trial.lock().expect("no panic under this lock");
        let Some((probation, since)) = &mut *trial else { return false };
        let verdict = probation.count(lane.clone(), failed, since.elapsed());
        if verdict != Verdict::Serving {
            *trial = None;
            drop(trial);
            self.set();
        }
        verdict == Verdict::Exhausted
    }
}
