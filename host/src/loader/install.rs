//! From an archive to a live generation, and back: each change is checked, rehearsed, committed and then made, or not at
//! all.
//!
//! The order: read and check; what is asked must be granted, now or by the version before; compile and link; the
//! installation hook; `start`; health and probes, the new manifest's and those of the version before that it still
//! serves; a shadow of live calls, if asked for; one commit of everything that lasts; routes and mounts change at once;
//! the old generation finishes its calls and stands by while the new one is on probation.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::{Manifest, Probe};
use astrid_capsule::{Capability, Topic, check};

use super::record::{self, Record, Step};
use super::rehearsal::{Compared, MAX_SHADOWED, Shadow};
use super::{Generation, InstallError, Loader, State, artefact, read_archive};
use crate::fault::{self, Point};
use crate::host::Host;
use crate::store::Commit;

/// How long calls of a generation that gave way are waited for before that is said.
const DRAIN: Duration = Duration::from_secs(30);

/// What whoever installs chooses.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the capsule is granted of what its manifest asks, beside what the installed version was granted.
    pub grants: Vec<String>,
    /// Calls of the live version that the new one must answer alike before it replaces it; 0 for none.
    pub shadow: u32,
}

/// What an installation did.
#[derive(Debug, Clone)]
pub struct Installed {
    pub id: String,
    pub version: String,
    /// None: nothing was installed.
    pub previous_version: Option<String>,
    pub hash: String,
    pub grants: Vec<String>,
    /// Everything that the manifest asks.
    pub asks: Vec<String>,
    /// Whether a field of its `[env]` has neither a value from the distribution nor a default.
    pub env_needs_prompt: bool,
    /// Topics that it sends to and nothing handles, by the manifest's patterns.
    pub unhandled: Vec<String>,
    pub shadowed: Option<Compared>,
}

impl Loader {
    /// Reads an archive from an absolute local path, checks it and makes it live.
    pub async fn install(&self, host: &Arc<Host>, path: &Path, options: &Options) -> Result<Installed, InstallError> {
        let _one = self.changing.lock().await;
        if !path.is_absolute() {
            return Err(InstallError::Invalid(format!("{}: the path must be absolute", path.display())));
        }
        let owned = path.to_owned();
        let archive = host
            .blocking
            .run(move || read_archive(&owned))
            .await
            .map_err(|error| InstallError::Failed(error.to_string()))??;
        let done = self.put(host, archive, options, None).await;
        match &done {
            Ok(done) => tracing::info!(
                id = done.id,
                version = done.version,
                previous = done.previous_version,
                hash = done.hash,
                "installed"
            ),
            Err(error) => tracing::warn!(path = %path.display(), "not installed: {error}"),
        }
        done
    }

    pub(super) async fn put(
        &self,
        host: &Arc<Host>,
        archive: Archive,
        options: &Options,
        applied: Option<(&str, &str)>,
    ) -> Result<Installed, InstallError> {
        let id = archive.manifest.package.name.clone();
        let before = self.installed(&id);
        if options.shadow > MAX_SHADOWED {
            return Err(InstallError::Invalid(format!("a shadow compares at most {MAX_SHADOWED} calls")));
        }
        let grants = granted(&archive.manifest, &options.grants, before.as_ref().map(|(record, _)| record))?;
        let checking = move || {
            let surface = check::check(&archive.manifest, &archive.component);
            (archive, surface)
        };
        let checked = host.blocking.run(checking).await;
        let (archive, surface) = checked.map_err(|error| InstallError::Failed(error.to_string()))?;
        let surface = surface.map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(|p| p.to_string()).collect();
            InstallError::Invalid(format!("the component of `{id}` {}", problems.join("; it ")))
        })?;
        self.undeclared(&archive.manifest)?;
        self.conflicts(&archive.manifest)?;
        let record = Record {
            version: archive.manifest.package.version.to_string(),
            hash: archive.hash(),
            grants: grants.iter().map(|c| c.as_str().to_owned()).collect(),
            manifest: archive.manifest_text,
            concurrent: surface.needs_concurrency(),
        };
        fault::reach(&id, Point::Checked);
        let concurrency = record.concurrency();
        let generation = {
            let (host, hash, manifest) = (host.clone(), record.hash.clone(), archive.manifest);
            let component = archive.component;
            let (blocking, capsule) = (host.blocking.clone(), id.clone());
            let compile = move || {
                let compiled = artefact::compile(&host, &hash, &component, concurrency)?;
                fault::reach(&capsule, Point::Compiled);
                let generation = Generation::new(&host, compiled, concurrency, hash.clone(), manifest, grants)?;
                artefact::keep(&host, &hash, &component)?;
                fault::reach(&capsule, Point::Kept);
                anyhow::Ok(generation)
            };
            let compiled = blocking.run(compile).await;
            compiled
                .map_err(|error| InstallError::Failed(error.to_string()))?
                .map_err(|error| InstallError::Invalid(format!("{id}: {error:#}")))?
        };
        let failed = |why: String| InstallError::Failed(format!("{id}: {why}"));
        let mut commit =
            generation.hook(host, before.as_ref().map(|(record, _)| record.version.clone())).await.map_err(failed)?;
        fault::reach(&id, Point::Hooked);
        let old = before.as_ref().and_then(|(_, generation)| generation.clone());
        self.rehearse(&generation, old.as_ref().map(|old| &old.manifest)).await.map_err(failed)?;
        let shadowed = match &old {
            Some(old) if options.shadow > 0 => Some(shadow(old, &generation, options.shadow).await.map_err(failed)?),
            _ => None,
        };
        fault::reach(&id, Point::Probed);

        let previous = before.as_ref().map(|(record, _)| record);
        let what = if previous.is_some() { "upgraded" } else { "installed" };
        record::put(&mut commit, &id, &record, previous);
        let step = Step::now(what, &record, None);
        record::step(&host.store, &mut commit, &id, &step).map_err(|error| failed(format!("{error:#}")))?;
        if let Some((name, hash)) = applied {
            record::applied(&mut commit, name, hash);
        }
        host.store.commit(commit).await.map_err(|error| failed(error.to_string()))?;
        fault::reach(&id, Point::Committed);

        let manifest = generation.manifest.clone();
        let previous_version = previous.map(|record| record.version.clone());
        self.replace(host, &id, record.clone(), generation, true);
        Ok(Installed {
            env_needs_prompt: host.env.needs_prompt(&id, &manifest.env),
            unhandled: self.unhandled(host, &manifest),
            asks: manifest.asked().iter().map(Capability::to_string).collect(),
            id,
            version: record.version,
            previous_version,
            hash: record.hash,
            grants: record.grants,
            shadowed,
        })
    }

    /// Lets a generation prepare and show what it can before it goes live.
    async fn rehearse(&self, generation: &Arc<Generation>, before: Option<&Manifest>) -> Result<(), String> {
        generation.start().await?;
        generation.check_health().await?;
        let own = &generation.manifest.probe;
        // What a version has promised holds for the next one, as far as that serves it.
        let kept =
            before.into_iter().flat_map(|manifest| &manifest.probe).filter(|probe| serves(&generation.manifest, probe));
        for probe in own.iter().chain(kept.filter(|probe| !own.contains(probe))) {
            generation.probe(probe).await?;
        }
        Ok(())
    }

    /// Makes the generation the live one; the one before finishes its calls.
    fn replace(&self, host: &Arc<Host>, id: &str, record: Record, generation: Arc<Generation>, on_probation: bool) {
        let before = self.installed(id).map(|(record, _)| record);
        if on_probation && before.is_some() {
            generation.watch.try_out(host.config.loader.rule());
        }
        let old = self.flip(host, id.to_owned(), record, Some(generation.clone()));
        fault::reach(id, Point::Flipped);
        let mut standby = self.standby.lock().expect("no panic under this lock");
        standby.remove(id);
        let Some((old, before)) = old.zip(before) else { return };
        old.retire();
        host.sweep();
        if on_probation {
            standby.insert(id.to_owned(), (before, old.clone()));
        }
        drop(standby);
        let (host, id, lasts) = (host.clone(), id.to_owned(), host.config.loader.rule().lasts);
        tokio::spawn(async move {
            match old.watch.drained(DRAIN).await {
                0 => tracing::info!(id, hash = old.hash, "the generation before has finished its calls"),
                left => tracing::warn!(id, hash = old.hash, left, "calls of the generation before still run"),
            }
            fault::reach(&id, Point::Retired);
            if on_probation {
                tokio::time::sleep(lasts).await;
            }
            let mut standby = host.loader.standby.lock().expect("no panic under this lock");
            if standby.get(&id).is_some_and(|(_, generation)| Arc::ptr_eq(generation, &old)) {
                standby.remove(&id);
            }
        });
    }

    /// Goes back to the version before, and keeps the one that was live as the version before. Returns both.
    pub async fn rollback(
        &self,
        host: &Arc<Host>,
        id: &str,
        why: Option<&str>,
    ) -> Result<(String, String), InstallError> {
        let _one = self.changing.lock().await;
        self.go_back(host, id, why).await
    }

    async fn go_back(&self, host: &Arc<Host>, id: &str, why: Option<&str>) -> Result<(String, String), InstallError> {
        let failed = |why: String| InstallError::Failed(format!("{id}: {why}"));
        let unknown = || InstallError::NotFound(format!("no capsule `{id}` is installed"));
        let (current, _) = self.installed(id).ok_or_else(unknown)?;
        let standby = self.standby.lock().expect("no panic under this lock").remove(id);
        let (record, generation) = match standby {
            // Still warm, and known to work.
            Some(standby) => standby,
            None => {
                let before = record::before(&host.store, id).map_err(|error| failed(format!("{error:#}")))?;
                let before = before
                    .ok_or_else(|| InstallError::NotFound(format!("{id}: there is no version before to go back to")))?;
                let generation = self.revive(host, &before).await.map_err(|error| failed(format!("{error:#}")))?;
                (before, generation)
            }
        };
        let mut commit = Commit::default();
        // A swap changes no record: then the version before stays what it is.
        let earlier = (record != current).then_some(&current);
        record::put(&mut commit, id, &record, earlier);
        let step = Step::now("rolled-back", &record, why);
        record::step(&host.store, &mut commit, id, &step).map_err(|error| failed(format!("{error:#}")))?;
        host.store.commit(commit).await.map_err(|error| failed(error.to_string()))?;
        metrics::counter!("astrid_capsule_rollbacks_total", "capsule" => id.to_owned()).increment(1);
        match why {
            Some(why) => tracing::error!(id, from = current.version, to = record.version, "rolled back: {why}"),
            None => tracing::info!(id, from = current.version, to = record.version, "rolled back"),
        }
        self.replace(host, id, record.clone(), generation, false);
        Ok((record.version, current.version))
    }

    /// A generation on probation has used up its budget of errors.
    pub(super) fn exhausted(&self, host: &Arc<Host>, generation: &Generation) {
        let (host, id, serial) = (host.clone(), generation.id.clone(), generation.serial);
        tokio::spawn(async move {
            let _one = host.loader.changing.lock().await;
            // Somebody may have been faster.
            let live = host.loader.installed(&id).and_then(|(_, generation)| generation);
            if live.is_none_or(|live| live.serial != serial) {
                return;
            }
            let why = "it used up its budget of errors while it was on probation";
            if let Err(error) = host.loader.go_back(&host, &id, Some(why)).await {
                tracing::error!(id = &*id, "{why}, and could not be rolled back: {error}");
            }
        });
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
        tracing::error!(id, to = before.version, "rolled back: {why}");
        self.flip(host, id.to_owned(), before, Some(generation));
        true
    }

    /// The installed version again, as a new generation.
    pub async fn swap(&self, host: &Arc<Host>, id: &str) -> Result<String, InstallError> {
        let _one = self.changing.lock().await;
        let failed = |why: String| InstallError::Failed(format!("{id}: {why}"));
        let unknown = || InstallError::NotFound(format!("no capsule `{id}` is installed"));
        let (record, _) = self.installed(id).ok_or_else(unknown)?;
        let generation = self.revive(host, &record).await.map_err(|error| failed(format!("{error:#}")))?;
        generation.check_health().await.map_err(failed)?;
        for probe in &generation.manifest.probe {
            generation.probe(probe).await.map_err(failed)?;
        }
        let mut commit = Commit::default();
        let step = Step::now("swapped", &record, None);
        record::step(&host.store, &mut commit, id, &step).map_err(|error| failed(format!("{error:#}")))?;
        host.store.commit(commit).await.map_err(|error| failed(error.to_string()))?;
        let version = record.version.clone();
        self.replace(host, id, record, generation, true);
        tracing::info!(id, version, "swapped");
        Ok(version)
    }

    /// Uninstalls a capsule; with `purge` everything that it has stored goes as well.
    pub async fn remove(&self, host: &Arc<Host>, id: &str, purge: bool) -> Result<(), InstallError> {
        let _one = self.changing.lock().await;
        let failed = |why: String| InstallError::Failed(format!("{id}: {why}"));
        let installed = self.installed(id);
        // What was removed before can still be purged.
        if installed.is_none() && !(purge && record::was_removed(&host.store, id)) {
            return Err(InstallError::NotFound(format!("no capsule `{id}` is installed")));
        }
        let mut gone = None;
        if let Some((record, _)) = installed {
            let mut commit = Commit::default();
            record::remove(&mut commit, id);
            let step = Step::now("removed", &record, None);
            record::step(&host.store, &mut commit, id, &step).map_err(|error| failed(format!("{error:#}")))?;
            host.store.commit(commit).await.map_err(|error| failed(error.to_string()))?;
            self.standby.lock().expect("no panic under this lock").remove(id);
            gone = self.withdraw(host, id);
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

    /// What happened to a capsule, oldest first; empty for one that never was.
    pub fn history(&self, host: &Host, id: &str) -> anyhow::Result<Vec<Step>> {
        record::history(&host.store, id)
    }

    /// Deletes components and compiled code that no installed version, and none to go back to, needs. Returns how many
    /// files and bytes that were.
    pub async fn gc(&self, host: &Arc<Host>) -> anyhow::Result<(u64, u64)> {
        let _one = self.changing.lock().await;
        let mut needed = Vec::new();
        for (id, record) in record::all(&host.store)? {
            needed.extend(record::before(&host.store, &id)?.map(|before| before.hash));
            needed.push(record.hash);
        }
        let cleaned = host.clone();
        host.blocking.run(move || artefact::clean(&cleaned, &needed)).await?
    }

    /// The installed version of a capsule, and its generation if it is live.
    pub(super) fn installed(&self, id: &str) -> Option<(Record, Option<Arc<Generation>>)> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        let (record, state) = capsules.get(id)?;
        let generation = match state {
            State::Live { generation, .. } => Some(generation.clone()),
            State::Failed => None,
        };
        Some((record.clone(), generation))
    }

    /// Takes a capsule out of what is there.
    fn withdraw(&self, host: &Host, id: &str) -> Option<Arc<Generation>> {
        let mut capsules = self.capsules.write().expect("no panic under this lock");
        let (_, state) = capsules.remove(id)?;
        self.publish(host, &capsules);
        state.generation()
    }

    /// Topics without a `*` that the manifest sends to and nothing handles.
    fn unhandled(&self, host: &Host, manifest: &Manifest) -> Vec<String> {
        let plain = manifest.publish.iter().filter_map(|sent| Topic::parse(sent.topic.as_str()).ok());
        plain.filter(|topic| !host.bus.handles(topic)).map(|topic| topic.to_string()).collect()
    }
}

/// Whether a manifest serves what this probe asks for.
fn serves(manifest: &Manifest, probe: &Probe) -> bool {
    let topic = probe.topic.as_ref().and_then(|topic| Topic::parse(topic).ok());
    let bound =
        topic.is_some_and(|topic| manifest.subscribe.iter().any(|b| b.handler.is_some() && b.topic.matches(&topic)));
    let mounts = manifest.http.iter().flat_map(|http| &http.mounts);
    let below = |path: &String| mounts.clone().any(|mount| path.starts_with(mount.as_str()));
    bound || probe.path.as_ref().is_some_and(below)
}

/// Lets the candidate answer what the live version is asked, until enough is compared.
async fn shadow(live: &Arc<Generation>, candidate: &Arc<Generation>, calls: u32) -> Result<Compared, String> {
    let shadow = Shadow::new(candidate.clone(), calls);
    live.watch.set_shadow(Some(shadow.clone()));
    let compared = shadow.wait(calls).await;
    live.watch.set_shadow(None);
    if compared.differences > 0 {
        let Compared { calls, differences, told } = compared;
        return Err(format!("{differences} of {calls} live calls were answered differently: {}", told.join("; ")));
    }
    Ok(compared)
}

/// What the manifest asks and the operator grants, now or when the version before was installed; everything asked must be
/// granted.
fn granted(manifest: &Manifest, grants: &[String], before: Option<&Record>) -> Result<Vec<Capability>, InstallError> {
    let earlier = before.into_iter().flat_map(|record| &record.grants);
    let given: Vec<Capability> = grants
        .iter()
        .chain(earlier)
        .map(|g| Capability::parse(g).map_err(|error| InstallError::Invalid(format!("grant: {error}"))))
        .collect::<Result<_, _>>()?;
    let asked = manifest.asked();
    let missing = asked.iter().filter(|asked| !given.iter().any(|g| g.covers(asked)));
    let missing: Vec<String> = missing.map(|asked| asked.as_str().to_owned()).collect();
    if missing.is_empty() { Ok(asked) } else { Err(InstallError::Ungranted(missing)) }
}
