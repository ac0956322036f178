//! From an archive to a live generation, and back: each change is checked, rehearsed, committed and then made, or not at
//! all.
//!
//! The order: read and check; what is asked must be granted, now or by the version before; compile and link; the
//! installation hook; `start`; health and probes, the new manifest's and those of the version before that it still
//! serves; a shadow of live calls, if asked for; a run loop that is ready ([`handover`](super::handover)); one commit of
//! everything that lasts; routes and mounts change at once; the old generation finishes its calls and stands by while the new one is on probation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Manifest;
use astrid_capsule::{Capability, Topic, check};

use super::handover::Successor;
use super::record::{self, Record, Step};
use super::rehearsal::{Compared, MAX_SHADOWED, SHADOW_PATIENCE, Shadow};
use super::{Change, Generation, InstallError, Loader, Overlap, Runner, State, artefact, facts, read_archive, runner};
use crate::Boxed;
use crate::fault::{self, Point};
use crate::host::Host;
use crate::store::Commit;
use crate::trust;

/// How long calls of a generation that gave way are waited for before that is said.
const DRAIN: Duration = Duration::from_secs(30);
/// Why a version was taken back by itself.
const EXHAUSTED: &str = "it used up its budget of errors while it was on probation";
/// How often it is looked whether they have ended, and how long the next change of the capsule waits for that.
const LOOK: Duration = Duration::from_millis(5);
const SETTLE: Duration = Duration::from_secs(10);

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
    /// What it serves and another capsule serves in part.
    pub overlaps: Vec<Overlap>,
    pub shadowed: Option<Compared>,
    /// Whoever of `etc/trust/` vouches for the archive.
    pub publisher: Option<String>,
}

impl Loader {
    /// Reads an archive from an absolute local path, checks it and makes it live.
    pub async fn install(&self, host: &Arc<Host>, path: &Path, options: &Options) -> Result<Installed, InstallError> {
        let mut change: Change<'_> = Some(self.changing.lock().await);
        if !path.is_absolute() {
            return Err(InstallError::Invalid(format!("{}: the path must be absolute", path.display())));
        }
        let judging = {
            let (host, path) = (host.clone(), path.to_owned());
            move || {
                let (hash, archive) = read_archive(&path)?;
                let source = trust::Source::of(&path);
                let publisher = trust::judge(&host.config.now().trust, &host.home.trust(), &source, &hash, &archive)
                    .map_err(|why| InstallError::Untrusted(format!("{}: {why}", path.display())))?;
                Ok((archive, publisher))
            }
        };
        let judged = host.blocking.run(judging).await;
        let judged = judged.map_err(|error| InstallError::Failed(error.to_string())).flatten();
        let done = match judged {
            Ok((archive, publisher)) => {
                let done = self.put(host, archive, options, None, &mut change).await;
                done.map(|done| Installed { publisher, ..done })
            }
            Err(error) => Err(error),
        };
        match &done {
            Ok(done) => tracing::info!(
                id = done.id,
                version = done.version,
                previous = done.previous_version,
                hash = done.hash,
                publisher = done.publisher,
                "installed"
            ),
            Err(error) => tracing::warn!(path = %path.display(), "not installed: {error}"),
        }
        let (id, about) = match &done {
            Ok(done) => (done.id.as_str(), about(&done.version, done.previous_version.as_deref(), &done.grants)),
            Err(_) => ("", path.display().to_string()),
        };
        facts::installed(host, id, &about, &done);
        done
    }

    pub(super) async fn put<'a>(
        &'a self,
        host: &Arc<Host>,
        archive: Archive,
        options: &Options,
        applied: Option<(&str, &str)>,
        change: &mut Change<'a>,
    ) -> Result<Installed, InstallError> {
        let id = archive.manifest.package.name.clone();
        if options.shadow > MAX_SHADOWED {
            return Err(InstallError::Invalid(format!("a shadow compares at most {MAX_SHADOWED} calls")));
        }
        granted(&archive.manifest, &options.grants, stored(host, &id)?.as_ref())?;
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
        self.settle(&id, change).await?;
        let previous = stored(host, &id)?;
        let grants = granted(&archive.manifest, &options.grants, previous.as_ref())?;
        self.undeclared(&archive.manifest)?;
        self.conflicts(&archive.manifest)?;
        self.room_for_loop(host, &archive.manifest).map_err(InstallError::Failed)?;
        let record = Record {
            version: archive.manifest.package.version.to_string(),
            hash: archive.hash(),
            grants: grants.iter().map(|c| c.as_str().to_owned()).collect(),
            manifest: archive.manifest_text,
            concurrent: surface.needs_concurrency(),
            schema: archive.schemas.document(),
        };
        fault::reach(&id, Point::Checked);
        let concurrency = record.concurrency();
        let generation = {
            let (host, hash, manifest) = (host.clone(), record.hash.clone(), archive.manifest);
            let (component, schemas) = (archive.component, archive.schemas);
            let (blocking, capsule) = (host.blocking.clone(), id.clone());
            let compile = move || {
                let compiled = artefact::compile(&host, &hash, &component, concurrency)?;
                fault::reach(&capsule, Point::Compiled);
                let generation =
                    Generation::new(&host, compiled, concurrency, hash.clone(), manifest, schemas, grants)?;
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
            generation.hook(host, previous.as_ref().map(|record| record.version.clone())).await.map_err(failed)?;
        fault::reach(&id, Point::Hooked);
        let old = self.installed(&id).and_then(|(_, generation)| generation);
        // What a version has promised holds for the next one, also if that version does not run.
        let promised = previous.as_ref().and_then(|record| Manifest::parse(&record.manifest).ok());
        self.rehearse(&generation, promised.as_ref()).await.map_err(failed)?;
        let shadowed = match &old {
            Some(old) if options.shadow > 0 => Some(self.compare(old, &generation, options.shadow, change).await?),
            _ => None,
        };
        let successor = self.succeed(host, &generation, true).await.map_err(failed)?;
        fault::reach(&id, Point::Probed);

        let what = if previous.is_some() { "upgraded" } else { "installed" };
        // The same again leaves the version to go back to what it is.
        record::put(&mut commit, &id, &record, previous.as_ref().filter(|previous| **previous != record));
        let step = Step::now(what, &record, None);
        record::step(&host.store, &mut commit, &id, &step).map_err(|error| failed(format!("{error:#}")))?;
        if let Some((name, hash)) = applied {
            record::applied(&mut commit, name, hash);
        }
        host.store.commit(commit).await.map_err(|error| failed(error.to_string()))?;
        fault::reach(&id, Point::Committed);

        let manifest = generation.manifest.clone();
        let previous_version = previous.map(|record| record.version);
        self.replace(host, &id, record.clone(), (generation, successor), true).await;
        Ok(Installed {
            env_needs_prompt: host.env.needs_prompt(&id, &manifest.env),
            unhandled: self.unhandled(host, &manifest),
            overlaps: self.overlaps(&manifest),
            asks: manifest.asked().iter().map(Capability::to_string).collect(),
            id,
            version: record.version,
            previous_version,
            hash: record.hash,
            grants: record.grants,
            shadowed,
            publisher: None,
        })
    }

    /// Lets a generation prepare and show what it can before it goes live.
    async fn rehearse(&self, generation: &Arc<Generation>, before: Option<&Manifest>) -> Result<(), String> {
        generation.start().await?;
        generation.check_health().await?;
        let own = &generation.manifest.probe;
        // What a version has promised holds for the next one, as far as that serves it.
        let kept = before
            .into_iter()
            .flat_map(|manifest| &manifest.probe)
            .filter(|probe| probe.is_served_by(&generation.manifest));
        for probe in own.iter().chain(kept.filter(|probe| !own.contains(probe))) {
            generation.probe(probe).await?;
        }
        Ok(())
    }

    /// Lets go of the generation that gave way last, and waits until it has finished its calls: of each capsule there are
    /// two at most. Others make their changes meanwhile.
    async fn settle<'a>(&'a self, id: &str, change: &mut Change<'a>) -> Result<(), InstallError> {
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

    /// Lets the candidate answer what the live version is asked, until enough is compared. Other changes are made
    /// meanwhile, so what was checked before is checked again.
    async fn compare<'a>(
        &'a self,
        live: &Arc<Generation>,
        candidate: &Arc<Generation>,
        calls: u32,
        change: &mut Change<'a>,
    ) -> Result<Compared, InstallError> {
        let id = live.id.to_string();
        let busy = || InstallError::Conflict(format!("{id}: another version is compared with the live one now"));
        {
            let mut compared = self.compared.lock().expect("no panic under this lock");
            if compared.contains_key(&id) {
                return Err(busy());
            }
            compared.insert(id.clone(), candidate.origin.hash.clone());
        }
        let shadow = Shadow::new(candidate.clone(), calls);
        live.watch.set_shadow(Some(shadow.clone()));
        *change = None;
        let found = shadow.wait(calls).await;
        *change = Some(self.changing.lock().await);
        live.watch.set_shadow(None);
        self.compared.lock().expect("no panic under this lock").remove(&id);
        let Compared { calls: done, differences, told } = &found;
        if *differences > 0 {
            let told = told.join("; ");
            return Err(InstallError::Failed(format!(
                "{id}: {differences} of {done} live calls were answered differently: {told}"
            )));
        }
        if *done < calls {
            let secs = SHADOW_PATIENCE.as_secs();
            return Err(InstallError::Failed(format!("{id}: only {done} of {calls} calls came within {secs} seconds")));
        }
        let (_, now) = self.installed(&id).unwrap_or_default();
        if now.is_none_or(|now| now.serial != live.serial) {
            return Err(InstallError::Conflict(format!("{id}: the live version changed while it was compared")));
        }
        self.undeclared(&candidate.manifest)?;
        self.conflicts(&candidate.manifest)?;
        Ok(found)
    }

    /// Makes the generation the live one; the one before finishes its calls.
    async fn replace(
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

    fn replace_among(
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

    /// What happened to a capsule, oldest first; empty for one that never was.
    pub fn history(&self, host: &Host, id: &str) -> anyhow::Result<Vec<Step>> {
        record::history(&host.store, id)
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

/// What an installation is about, in a line.
pub(super) fn about(version: &str, before: Option<&str>, grants: &[String]) -> String {
    let before = before.map(|before| format!(" after {before}")).unwrap_or_default();
    format!("version {version}{before}, grants {}", grants.join(" "))
}

/// Tells in time why a run loop has begun without the state of the one before, if it has.
type Began = Boxed<'static, Option<String>>;

fn unknown(id: &str) -> InstallError {
    InstallError::NotFound(format!("no capsule `{id}` is installed"))
}

/// What is installed, whether it runs or, in safe mode, not.
fn stored(host: &Host, id: &str) -> Result<Option<Record>, InstallError> {
    record::installed(&host.store, id).map_err(|error| InstallError::Failed(format!("{id}: {error:#}")))
}

fn counted(id: &str) {
    metrics::counter!("astrid_capsule_rollbacks_total", "capsule" => id.to_owned()).increment(1);
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
