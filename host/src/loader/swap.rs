//! A capsule's installed version again, as a new generation.

use std::sync::Arc;

use super::record::{self, Step};
use super::{Change, InstallError, Loader, facts, unknown};
use crate::host::Host;
use crate::store::Commit;

impl Loader {
    /// The installed version again, as a new generation.
    pub async fn swap(&self, host: &Arc<Host>, id: &str) -> Result<String, InstallError> {
        let done = self.make_anew(host, id).await;
        facts::changed(host, "capsule.swap", id, "", &done);
        done
    }

    async fn make_anew(&self, host: &Arc<Host>, id: &str) -> Result<String, InstallError> {
        let mut change: Change<'_> = Some(self.changing.lock().await);
        self.settle(id, &mut change).await?;
        let failed = |why: String| InstallError::Failed(format!("{id}: {why}"));
        let (record, _) = self.installed(id).ok_or_else(|| unknown(id))?;
        let generation = self.revive(host, &record).await.map_err(|error| failed(format!("{error:#}")))?;
        generation.check_health().await.map_err(failed)?;
        for probe in &generation.manifest.probe {
            generation.probe(probe).await.map_err(failed)?;
        }
        let successor = self.succeed(host, &generation, true).await.map_err(failed)?;
        let mut commit = Commit::default();
        let step = Step::now("swapped", &record, None);
        record::step(&host.store, &mut commit, id, &step).map_err(|error| failed(format!("{error:#}")))?;
        host.store.commit(commit).await.map_err(|error| failed(error.to_string()))?;
        let version = record.version.clone();
        self.replace(host, id, record, (generation, successor), true).await;
        tracing::info!(id, version, "swapped");
        Ok(version)
    }
}
