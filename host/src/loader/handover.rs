//! What passes from a run loop to the one that follows it: its state, and what waits in its subscriptions.
//!
//! Owns the order of such a change (docs/decisions/0025-state-hand-over.md): the live loop stops and gives its state, the
//! next one takes it and is ready, and only then is its version live. Until then everything can be taken back: the live loop
//! is still there, in its instance.
//! Bounded by: [`MAX_STATE_BYTES`]; 10 seconds for the loop to return; the manifest's time and fuel for each call. Refuses to
//! know what a state says.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::generation::Generation;
use super::run::Desk;
use super::supervisor::{GRACE, Runner};
use super::{InstallError, Loader, Record, State, Step, record};
use crate::Boxed;
use crate::fault::{self, Point};
use crate::host::Host;
pub(super) use crate::link::bindings::carrier::exports::astrid::capsule::state::Snapshot;
use crate::store::Commit;

/// The largest state that is handed over.
pub(super) const MAX_STATE_BYTES: usize = 16 << 20;

/// Why there is no state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unexported {
    /// The loop still has it.
    Kept(String),
    /// The loop is dead, or was not running.
    Dead(String),
}

pub(super) type Exported = Result<Snapshot, Unexported>;

/// What a supervised loop is asked. Whoever asked may be gone before it can answer.
pub(super) struct Ask {
    pub(super) returned: oneshot::Sender<()>,
    pub(super) answer: oneshot::Sender<Exported>,
    /// Closed: the loop is to go on.
    pub(super) wanted: oneshot::Receiver<()>,
}

/// A loop that was told to stop, and give its state. If this is dropped without [`Self::finish`] the loop goes on.
pub(super) struct Handover {
    desk: Arc<Desk>,
    returned: oneshot::Receiver<()>,
    answer: oneshot::Receiver<Exported>,
    /// Dropped with this.
    _wanted: oneshot::Sender<()>,
    finished: bool,
}

impl Handover {
    /// Also returns what the loop is to be asked.
    pub(super) fn begin(desk: Arc<Desk>) -> (Self, Ask) {
        let (returned, has_returned) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let (wanted, still_wanted) = oneshot::channel();
        let ask = Ask { returned, answer, wanted: still_wanted };
        (Self { desk, returned: has_returned, answer: answered, _wanted: wanted, finished: false }, ask)
    }

    async fn state(&mut self) -> Exported {
        if tokio::time::timeout(GRACE, &mut self.returned).await.is_err() {
            return Err(Unexported::Kept(format!("it did not return within {GRACE:?} after it was told to stop")));
        }
        let gone = || Unexported::Dead("it is gone".into());
        (&mut self.answer).await.map_err(|_| gone())?
    }

    /// Another loop has taken its place.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if !self.finished {
            self.desk.go_on();
        }
    }
}

/// What a loop that follows another begins with.
pub(super) struct Heritage {
    /// The error says why there is none.
    pub(super) state: Boxed<'static, Result<Snapshot, String>>,
    /// It does not begin without.
    pub(super) insists: bool,
}

/// The loop of a version that is about to go live, if it has one.
pub(super) struct Successor {
    pub(super) runner: Option<Runner>,
    before: Option<Handover>,
    lost: Option<String>,
}

impl Successor {
    /// Its version is live. Returns why it began without the state of the loop before, if it did.
    pub(super) fn finish(self) -> Option<String> {
        if let Some(before) = self.before {
            before.finish();
        }
        self.lost
    }
}

impl Loader {
    /// Starts the run loop of a version that is to follow the live one, and waits until it is ready. If both have a state it
    /// is handed over; with `insists` not at all rather than without. What this returns has to be kept until the version is
    /// live: dropped before, it lets the live loop go on.
    pub(super) async fn succeed(
        &self,
        host: &Host,
        next: &Arc<Generation>,
        insists: bool,
    ) -> Result<Successor, String> {
        let (mut before, mut lost) = match self.ask_for_state(next) {
            Asked::Nothing => (None, None),
            Asked::NotTaken => (None, Some("this version takes none".to_owned())),
            Asked::Loop(before) => (Some(before), None),
        };
        let runner = match &mut before {
            None => super::runner(next),
            Some(before) => {
                let exported = before.state().await;
                fault::reach(&next.id, Point::HandedOver);
                let state = match exported {
                    Ok(state) => Ok(state),
                    Err(Unexported::Kept(why)) if insists => {
                        return Err(format!("its live run loop does not give its state: {why}"));
                    }
                    Err(Unexported::Kept(why) | Unexported::Dead(why)) => Err(why),
                };
                let heritage = Heritage { state: Box::pin(async { state }), insists };
                Some(Runner::follow(next.clone(), before.desk.inherit(&host.bus, next), heritage))
            }
        };
        let runner = match runner {
            None => None,
            Some(runner) => match runner.ready().await {
                Ok(()) => Some(runner),
                Err(why) => {
                    runner.kill().await;
                    return Err(format!("its run loop did not get ready: {why}"));
                }
            },
        };
        if let Some(why) = runner.as_ref().and_then(Runner::lost) {
            lost = Some(why);
        }
        Ok(Successor { runner, before, lost })
    }

    /// As [`Self::succeed`], at once: the loop gets the state when it is there, and begins without if there is none.
    pub(super) fn succeed_at_once(&self, host: &Host, next: &Arc<Generation>) -> Option<Runner> {
        match self.ask_for_state(next) {
            Asked::Nothing => super::runner(next),
            Asked::NotTaken => {
                let runner = super::runner(next)?;
                runner.has_lost("this version takes none".into());
                Some(runner)
            }
            Asked::Loop(mut before) => {
                let desk = before.desk.inherit(&host.bus, next);
                let state = Box::pin(async move {
                    let state = before.state().await;
                    before.finish();
                    state.map_err(|(Unexported::Kept(why) | Unexported::Dead(why))| why)
                });
                Some(Runner::follow(next.clone(), desk, Heritage { state, insists: false }))
            }
        }
    }

    fn ask_for_state(&self, next: &Generation) -> Asked {
        let capsules = self.capsules.read().expect("no panic under this lock");
        match capsules.get(&*next.id) {
            Some((_, State::Live { generation, runner: Some(runner), .. })) if generation.exports.carrier.is_some() => {
                if next.exports.carrier.is_some() {
                    Asked::Loop(runner.ask())
                } else {
                    Asked::NotTaken
                }
            }
            _ => Asked::Nothing,
        }
    }

    /// Says that a run loop began without the state of the one before. The version is live already.
    pub(super) async fn note_loss(&self, host: &Host, id: &str, record: &Record, why: &str) {
        tracing::error!(id, version = record.version, "its run loop began without the state of the one before: {why}");
        let mut commit = Commit::default();
        let step = Step::now("state-lost", record, Some(why));
        let noted = match record::step(&host.store, &mut commit, id, &step) {
            Ok(()) => host.store.commit(commit).await.map_err(|error| InstallError::Failed(error.to_string())),
            Err(error) => Err(InstallError::Failed(format!("{error:#}"))),
        };
        if let Err(error) = noted {
            tracing::error!(id, "which is not recorded: {error}");
        }
    }
}

enum Asked {
    /// There is no state.
    Nothing,
    /// There is one, and the next version has no use for it.
    NotTaken,
    Loop(Handover),
}
