//! What goes: a capsule, what it has stored, and the code that nothing needs any more.

use std::sync::Arc;

use super::record::{self, Step};
use super::replace::DRAIN;
use super::{Generation, InstallError, Loader, artefact, facts, stored, unknown};
use crate::host::Host;
use crate::store::Commit;

impl Loader {
    /// Uninstalls a capsule; with `purge` everything that it has stored goes as well.
    pub async fn remove(&self, host: &Arc<Host>, id: &str, purge: bool) -> Result<(), InstallError> {
        let done = self.take_away(host, id, purge).await;
        facts::changed(host, "capsule.remove", id, if purge { "with all that it stored" } else { "" }, &done);
        done
    }

    async fn take_away(&self, host: &Arc<Host>, id: &str, purge: bool) -> Result<(), InstallError> {
        let _one = self.changing.lock().await;
        let failed = |why: String| InstallError::Failed(format!("{id}: {why}"));
        // What the distribution promised and could not bring has no record.
        let installed = stored(host, id)?.or_else(|| self.installed(id).map(|(record, _)| record));
        // What was removed before can still be purged.
        if installed.is_none() && !(purge && record::was_removed(&host.store, id)) {
            return Err(unknown(id));
        }
        let mut gone = None;
        if let Some(record) = installed {
            let mut commit = Commit::default();
            let runs_on = self.as_distributed.get().is_some_and(|names| names.contains(id));
            if runs_on {
                record::forget(&mut commit, id)
            } else {
                record::remove(&mut commit, id)
            }
            let step = Step::now("removed", &record, None);
            record::step(&host.store, &mut commit, id, &step).map_err(|error| failed(format!("{error:#}")))?;
            host.store.commit(commit).await.map_err(|error| failed(error.to_string()))?;
            self.standby.lock().expect("no panic under this lock").remove(id);
            gone = if runs_on { None } else { self.withdraw(host, id) };
            if let Some(gone) = &gone {
                gone.retire();
                host.sweep();
            }
            tracing::info!(id, version = record.version, "removed");
        }
        if purge {
            // Its last calls may still write.
            if let Some(gone) = gone
                && gone.watch.drained(DRAIN).await > 0
            {
                return Err(failed("it is removed, but its last calls still run; purge again".into()));
            }
            let away = || failed("it is removed, but not all of its data: the store is away; purge again".into());
            crate::buckets::purge(&host.store, id).await.map_err(|_| away())?;
            host.env.purge(id).await.map_err(|_| away())?;
            tracing::info!(id, "purged");
        }
        Ok(())
    }

    /// Deletes components and compiled code that no installed version, and none to go back to, needs. Returns how many
    /// files and bytes that were.
    pub async fn gc(&self, host: &Arc<Host>) -> anyhow::Result<(u64, u64)> {
        let _one = self.changing.lock().await;
        let done = self.clean(host).await;
        let about =
            done.as_ref().map_or_else(|_| String::new(), |(files, bytes)| format!("{files} files, {bytes} bytes"));
        let told = done.as_ref().map_err(|error| InstallError::Failed(format!("{error:#}")));
        facts::changed(host, "capsule.gc", "", &about, &told);
        done
    }

    async fn clean(&self, host: &Arc<Host>) -> anyhow::Result<(u64, u64)> {
        let mut needed = Vec::new();
        for (id, record) in record::all(&host.store)? {
            needed.extend(record::before(&host.store, &id)?.map(|before| before.hash));
            needed.push(record.hash);
        }
        // What runs in safe mode, and what is about to be installed.
        needed.extend(self.list().into_iter().map(|listed| listed.hash).filter(|hash| !hash.is_empty()));
        needed.extend(self.compared.lock().expect("no panic under this lock").values().cloned());
        let cleaned = host.clone();
        host.blocking.run(move || artefact::clean(&cleaned, &needed)).await?
    }

    /// Takes a capsule out of what is there.
    fn withdraw(&self, host: &Host, id: &str) -> Option<Arc<Generation>> {
        let mut capsules = self.capsules.write().expect("no panic under this lock");
        let (_, state) = capsules.remove(id)?;
        self.publish(host, &capsules);
        state.generation()
    }
}
