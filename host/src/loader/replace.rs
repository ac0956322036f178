//! From one live generation to the next: the flip, and what becomes of the one that gave way.
//!
//! Routes and mounts change at once. The old generation finishes its calls, and stands by while the new one is on
//! probation; of each capsule there are two generations at most.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::handover::Successor;
use super::record::Record;
use super::{Change, Generation, InstallError, Loader, Runner};
use crate::fault::{self, Point};
use crate::host::Host;

/// How long calls of a generation that gave way are waited for before that is said.
pub(super) const DRAIN: Duration = Duration::from_secs(30);

/// How often it is looked whether they have ended, and how long the next change of the capsule waits for that.
const LOOK: Duration = Duration::from_millis(5);
const SETTLE: Duration = Duration::from_secs(10);

impl Loader {
    /// Lets go of the generation that gave way last, and waits until it has finished its calls: of each capsule there are
    /// two at most. Others make their changes meanwhile.
    pub(super) async fn settle<'a>(&'a self, id: &str, change: &mut Change<'a>) -> Result<(), InstallError> {
        self.standby.lock().expect("no panic under this lock").remove(id);
        let leaving = || {
            let leaving = self.leaving.lock().expect("no panic under this lock");
            leaving.get(id).filter(|old| old.strong_count() > 0).cloned()
        };
        while let Some(old) = leaving() {
            *change = None;
            let gone = async {
                while old.strong_count() > 0 {
                    tokio::time::sleep(LOOK).await;
                }
            };
            if tokio::time::timeout(SETTLE, gone).await.is_err() {
                return Err(InstallError::Failed(format!(
                    "{id}: calls of the version before the live one still run; try again when they have ended"
                )));
            }
            *change = Some(self.changing.lock().await);
        }
        Ok(())
    }

    /// Makes the generation the live one; the one before finishes its calls.
    pub(super) async fn replace(
        &self,
        host: &Arc<Host>,
        id: &str,
        record: Record,
        (generation, mut successor): (Arc<Generation>, Successor),
        on_probation: bool,
    ) {
        {
            let live = (generation, successor.runner.take());
            let mut standby = self.standby.lock().expect("no panic under this lock");
            self.replace_among(host, id, record.clone(), live, on_probation, &mut standby);
        }
        if let Some(why) = successor.finish() {
            self.note_loss(host, id, &record, &why).await;
        }
    }

    pub(super) fn replace_among(
        &self,
        host: &Arc<Host>,
        id: &str,
        record: Record,
        live: (Arc<Generation>, Option<Runner>),
        on_probation: bool,
        standby: &mut BTreeMap<String, (Record, Arc<Generation>)>,
    ) {
        let before = self.installed(id).map(|(record, _)| record);
        if on_probation && before.is_some() {
            live.0.watch.try_out(host.config.now().loader.rule());
        }
        let desk = live.1.as_ref().map(Runner::desk);
        let old = self.flip(host, id.to_owned(), record, Some(live));
        if let Some(desk) = desk {
            desk.go_on();
        }
        fault::reach(id, Point::Flipped);
        standby.remove(id);
        let Some((old, before)) = old.zip(before) else { return };
        old.retire();
        host.sweep();
        self.leaving.lock().expect("no panic under this lock").insert(id.to_owned(), Arc::downgrade(&old));
        if on_probation {
            standby.insert(id.to_owned(), (before, old.clone()));
        }
        let (host, id, lasts) = (host.clone(), id.to_owned(), host.config.now().loader.rule().lasts);
        tokio::spawn(async move {
            match old.watch.drained(DRAIN).await {
                0 => tracing::info!(id, hash = old.origin.hash, "the generation before has finished its calls"),
                left => tracing::warn!(id, hash = old.origin.hash, left, "calls of the generation before still run"),
            }
            fault::reach(&id, Point::Retired);
            let gone = Arc::downgrade(&old);
            // It is in memory no longer than somebody needs it.
            drop(old);
            if on_probation {
                tokio::time::sleep(lasts).await;
            }
            let mut standby = host.loader.standby.lock().expect("no panic under this lock");
            if standby.get(&id).is_some_and(|(_, generation)| Weak::ptr_eq(&Arc::downgrade(generation), &gone)) {
                standby.remove(&id);
            }
        });
    }
}
