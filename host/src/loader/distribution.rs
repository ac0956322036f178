//! Applying the distribution: its capsules in order, each installed if it is another archive than was applied last, and
//! what their fields are told.

use std::path::Path;
use std::sync::Arc;

use astrid_capsule::distro::Entry;

use super::{Change, InstallError, Loader, Record, artefact, facts, install, record};
use crate::distro::{Folder, Packed, Shown, Variables, check_values};
use crate::host::Host;
use crate::trust;

/// What became of an entry of the distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub name: String,
    /// Of its archive, if that could be read.
    pub version: Option<String>,
    /// `installed`, `upgraded`, `unchanged` or `failed`.
    pub what: &'static str,
    /// Why it failed.
    pub why: Option<String>,
}

/// An entry and its archive, or what is wrong with it.
type Read = (Entry, Result<Packed, String>);

/// The entries with their archives, and what is wrong with those that have none. From now on this distribution is shown, and
/// the environment is told what it says: every value that there is, whatever is wrong with others. Nobody has to vouch for
/// what is `own`: the program's.
fn read(host: &Host, folder: &Path, own: bool) -> Result<Option<Vec<Read>>, String> {
    let folder = Folder::read(folder);
    host.loader.show(folder.as_ref().ok().and_then(Option::as_ref));
    let Some(folder) = folder? else {
        host.env.share(Default::default());
        return Ok(None);
    };
    let variables = Variables::load(&host.home.variables(), &host.keys)?;
    let (shared, missing) = folder.shared(&variables);
    let check = folder.check();
    let packed = |entry: &Entry| {
        check.clone()?;
        let packed = folder.packed(entry)?;
        if !own {
            judge(host, &folder.path, entry, &packed)?;
        }
        if let Some((_, undefined)) = missing.iter().find(|(other, _)| other.name == entry.name) {
            return Err(undefined.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        }
        check_values(&shared, entry, &packed.archive)?;
        Ok(packed)
    };
    let entries = folder.distro.capsule.iter().map(|entry| (entry.clone(), packed(entry))).collect();
    host.env.share(shared);
    Ok(Some(entries))
}

/// Whether the policy takes the archive. What was applied was judged then.
fn judge(host: &Host, folder: &Path, entry: &Entry, packed: &Packed) -> Result<(), String> {
    let Packed { archive, found } = packed;
    if !record::is_applied(&host.store, &entry.name, &found.archive).map_err(|error| format!("{error:#}"))? {
        let source = trust::Source::Distro(folder.to_owned());
        trust::judge(&host.config.now().trust, &host.home.trust(), &source, &found.archive, archive)?;
    }
    Ok(())
}

impl Loader {
    /// Applies the distribution that lies in the folder now, as the next start would, and says what became of every
    /// entry. Twice is the same as once.
    pub async fn apply(&self, host: &Arc<Host>) -> Result<Vec<Applied>, InstallError> {
        let mut change: Change<'_> = Some(self.changing.lock().await);
        let failed = |error: anyhow::Error| InstallError::Failed(format!("{error:#}"));
        let folder = self.distro.get().ok_or_else(|| InstallError::Failed("this host runs no distribution".into()))?;
        let applied = self.bring(host, folder, &mut change).await.map_err(failed);
        let about = applied.iter().flatten().map(|entry| format!("{} {}", entry.name, entry.what));
        facts::changed(host, "distro.apply", "", &about.collect::<Vec<_>>().join(", "), &applied);
        self.own_up(host, applied.as_ref().map_or(&[], Vec::as_slice));
        applied
    }

    /// Shows this distribution from now on. An icon that is not what it should be is left out.
    fn show(&self, folder: Option<&Folder>) {
        let shown = folder.map(|folder| {
            let icon = folder.icon().unwrap_or_else(|why| {
                tracing::warn!("the distribution is shown without its icon: {why}");
                None
            });
            Arc::new(Shown { distro: folder.distro.clone(), icon })
        });
        *self.shown.lock().expect("no panic under this lock") = shown;
    }

    pub(super) async fn bring<'a>(
        &'a self,
        host: &Arc<Host>,
        folder: &Path,
        change: &mut Change<'a>,
    ) -> anyhow::Result<Vec<Applied>> {
        let (reading, path) = (host.clone(), folder.to_owned());
        let entries = host.blocking.run(move || read(&reading, &path, false)).await?.map_err(anyhow::Error::msg)?;
        let Some(entries) = entries else {
            tracing::warn!(path = %folder.display(), "no distribution; only what is installed already will run");
            return Ok(Vec::new());
        };
        let mut applied = Vec::new();
        for (Entry { name, grants, .. }, packed) in entries {
            let version = packed.as_ref().ok().map(|packed| packed.found.version.to_string());
            let (what, why) = match packed {
                Ok(packed) if record::is_applied(&host.store, &name, &packed.found.archive)? => ("unchanged", None),
                Ok(Packed { archive, found }) => {
                    let grants = grants.iter().map(|grant| grant.as_str().to_owned()).collect();
                    let options = install::Options { grants, ..install::Options::default() };
                    let done = self.put(host, archive, &options, Some((&name, &found.archive)), change).await;
                    let about = match &done {
                        Ok(done) => install::about(&done.version, done.previous_version.as_deref(), &done.grants),
                        Err(_) => format!("version {}, from the distribution", found.version),
                    };
                    facts::installed(host, &name, &about, &done);
                    match done {
                        Ok(done) if done.previous_version.is_some() => ("upgraded", None),
                        Ok(_) => ("installed", None),
                        Err(error) => ("failed", Some(error.to_string())),
                    }
                }
                Err(why) => ("failed", Some(why)),
            };
            match &why {
                Some(why) => tracing::error!(id = name, "not installed from the distribution: {why}"),
                None if what == "unchanged" => {}
                None => tracing::info!(id = name, version, "{what} from the distribution"),
            }
            applied.push(Applied { name, version, what, why });
        }
        Ok(applied)
    }

    /// What the distribution promised and could not bring, and no earlier version stands in for, is not hidden.
    pub(super) fn own_up(&self, host: &Arc<Host>, applied: &[Applied]) {
        for entry in applied.iter().filter(|entry| entry.what == "failed") {
            if self.installed(&entry.name).is_none() {
                self.flip(host, entry.name.clone(), Record::default(), None);
            }
        }
    }
}

/// The distribution's own versions as if they were installed, for [`Loader::boot_safely`].
pub(super) fn records(host: &Host, folder: &Path, own: bool) -> anyhow::Result<Vec<(String, Record)>> {
    let entries = read(host, folder, own).map_err(anyhow::Error::msg)?;
    let entries = entries.ok_or_else(|| anyhow::anyhow!("reading {}: there is no distribution", folder.display()))?;
    let record = |(entry, packed): Read| {
        let packed = packed.map_err(|why| anyhow::anyhow!("loading {}: {why}", entry.name))?;
        let surface = astrid_capsule::check::Surface::read(&packed.archive.component)?;
        artefact::keep(host, &packed.found.component, &packed.archive.component)?;
        let record = Record {
            version: packed.found.version.to_string(),
            hash: packed.found.component,
            grants: entry.grants.iter().map(|grant| grant.as_str().to_owned()).collect(),
            manifest: packed.archive.manifest_text,
            concurrent: surface.needs_concurrency(),
            schema: packed.archive.schemas.document(),
        };
        Ok((entry.name, record))
    };
    entries.into_iter().map(record).collect()
}
