//! Back to the version before: because somebody says so, because the live one used up its budget of errors, or because it
//! does not start with the host.

use std::sync::Arc;

use super::record::{self, Record, Step};
use super::{Change, Generation, InstallError, Loader, facts, runner, stored, unknown};
use crate::Boxed;
use crate::fault::{self, Point};
use crate::host::Host;
use crate::store::Commit;

/// Why a version was taken back by itself.
const EXHAUSTED: &str = "it used up its budget of errors while it was on probation";

/// Tells in time why a run loop has begun without the state of the one before, if it has.
type Began = Boxed<'static, Option<String>>;

impl Loader {
    /// Goes back to the version before, and keeps the one that was live as the version before. Returns both.
    pub async fn rollback(&self, host: &Arc<Host>, id: &str) -> Result<(String, String), InstallError> {
        let mut change: Change<'_> = Some(self.changing.lock().await);
        let current = stored(host, id)?;
        let warm = {
            let standby = self.standby.lock().expect("no panic under this lock");
            standby.get(id).is_some_and(|(record, _)| current.as_ref().is_some_and(|current| record != current))
        };
        if !warm {
            self.settle(id, &mut change).await?;
        }
        let done = self.go_back(host, id, None).await;
        if done.is_err() {
            facts::changed(host, "capsule.rollback", id, "", &done);
        }
        done
    }

    async fn go_back(&self, host: &Arc<Host>, id: &str, why: Option<&str>) -> Result<(String, String), InstallError> {
        let failed = |why: String| InstallError::Failed(format!("{id}: {why}"));
        let current = stored(host, id)?.ok_or_else(|| unknown(id))?;
        let standby = self.standby.lock().expect("no panic under this lock").remove(id);
        // Whoever wishes to go back wants another version, not another generation of this one.
        let standby = standby.filter(|(record, _)| why.is_some() || *record != current);
        let (record, generation) = match standby {
            // Still warm, and known to work.
            Some((record, generation)) => {
                generation.recall();
                (record, generation)
            }
            None => {
                let before = record::before(&host.store, id).map_err(|error| failed(format!("{error:#}")))?;
                let before = before
                    .ok_or_else(|| InstallError::NotFound(format!("{id}: there is no version before to go back to")))?;
                let generation = self.revive(host, &before).await.map_err(|error| failed(format!("{error:#}")))?;
                (before, generation)
            }
        };
        let successor = self.succeed(host, &generation, false).await.map_err(failed)?;
        self.record_return(host, id, &current, &record, why).await?;
        fault::reach(id, Point::Committed);
        self.replace(host, id, record.clone(), (generation, successor), false).await;
        Ok((record.version, current.version))
    }

    /// Makes it last that `record` took the place of `current` again.
    async fn record_return(
        &self,
        host: &Host,
        id: &str,
        current: &Record,
        record: &Record,
        why: Option<&str>,
    ) -> Result<(), InstallError> {
        let failed = |why: String| InstallError::Failed(format!("{id}: {why}"));
        let mut commit = Commit::default();
        // A swap changes no record: then the version before stays what it is.
        let earlier = (record != current).then_some(current);
        record::put(&mut commit, id, record, earlier);
        let step = Step::now("rolled-back", record, why);
        record::step(&host.store, &mut commit, id, &step).map_err(|error| failed(format!("{error:#}")))?;
        host.store.commit(commit).await.map_err(|error| failed(error.to_string()))?;
        counted(id);
        facts::rolled_back(host, id, current, record, why);
        match why {
            Some(why) => tracing::error!(id, from = current.version, to = record.version, "rolled back: {why}"),
            None => tracing::info!(id, from = current.version, to = record.version, "rolled back"),
        }
        Ok(())
    }

    /// A generation on probation has used up its budget of errors. Whoever stands by takes over at once, and the record
    /// follows when no other change is made.
    pub(super) fn exhausted(&self, host: &Arc<Host>, generation: &Generation) {
        let (host, id, serial) = (host.clone(), generation.id.clone(), generation.serial);
        // A call can end after the runtime has.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let loader = &host.loader;
            let (stood_by, began) = loader.stand_in(&host, &id, serial).unzip();
            let one = loader.changing.lock().await;
            // Somebody may have been faster.
            let wanted = stood_by.as_ref().map_or(serial, |(_, serial)| *serial);
            let live = loader.installed(&id).and_then(|(_, generation)| generation);
            if live.is_none_or(|live| live.serial != wanted) {
                return;
            }
            let done = match (&stood_by, stored(&host, &id)) {
                (Some((record, _)), Ok(Some(current))) => {
                    loader.record_return(&host, &id, &current, record, Some(EXHAUSTED)).await
                }
                (None, _) => loader.go_back(&host, &id, Some(EXHAUSTED)).await.map(|_| ()),
                (_, Ok(None)) => Err(unknown(&id)),
                (_, Err(error)) => Err(error),
            };
            if let Err(error) = done {
                tracing::error!(
                    id = &*id,
                    stood_in = stood_by.is_some(),
                    "{EXHAUSTED}, which is not recorded: {error}"
                );
            }
            drop(one);
            let (Some((record, _)), Some(began)) = (stood_by, began) else { return };
            if let Some(why) = began.await {
                let _one = loader.changing.lock().await;
                loader.note_loss(&host, &id, &record, &why).await;
            }
        });
    }

    /// Makes the generation that stands by the live one again, if the live one is still the one with this serial. Returns its
    /// record and serial, and what tells in time whether its run loop has begun without the state of the other.
    fn stand_in(&self, host: &Arc<Host>, id: &str, serial: u64) -> Option<((Record, u64), Began)> {
        let mut standby = self.standby.lock().expect("no panic under this lock");
        let (_, live) = self.installed(id)?;
        live.filter(|live| live.serial == serial)?;
        let (record, generation) = standby.remove(id)?;
        let stood_by = (record.clone(), generation.serial);
        generation.recall();
        let runner = self.succeed_at_once(host, &generation);
        let began: Began = match &runner {
            Some(runner) => Box::pin(runner.outcome()),
            None => Box::pin(std::future::ready(None)),
        };
        self.replace_among(host, id, record, (generation, runner), false, &mut standby);
        Some((stood_by, began))
    }

    /// At the start of the host: what is installed does not start, so the version before takes its place, if it does.
    pub(super) async fn fall_back(&self, host: &Arc<Host>, id: &str, broken: &Record, why: &str) -> bool {
        let Ok(Some(before)) = record::before(&host.store, id) else { return false };
        let Ok(generation) = self.revive(host, &before).await else { return false };
        let mut commit = Commit::default();
        record::put(&mut commit, id, &before, Some(broken));
        let why = format!("version {} did not start: {why}", broken.version);
        let stepped = record::step(&host.store, &mut commit, id, &Step::now("rolled-back", &before, Some(&why)));
        if stepped.is_err() || host.store.commit(commit).await.is_err() {
            return false;
        }
        counted(id);
        facts::rolled_back(host, id, broken, &before, Some(&why));
        tracing::error!(id, to = before.version, "rolled back: {why}");
        let runner = runner(&generation);
        self.flip(host, id.to_owned(), before, Some((generation, runner)));
        true
    }
}

fn counted(id: &str) {
    metrics::counter!("astrid_capsule_rollbacks_total", "capsule" => id.to_owned()).increment(1);
}
