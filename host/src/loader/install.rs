//! From an archive to a live generation: each change is checked, rehearsed, committed and then made, or not at all.
//!
//! The order: read and check; what is asked must be granted, now or by the version before; compile and link; the
//! installation hook; `start`; health and probes, the new manifest's and those of the version before that it still
//! serves; a shadow of live calls, if asked for; a run loop that is ready ([`handover`](super::handover)); one commit of
//! everything that lasts; then it takes the place of the one before ([`replace`](super::replace)).

use std::path::Path;
use std::sync::Arc;

use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Manifest;
use astrid_capsule::{Capability, Topic, check};

use super::record::{self, Record, Step};
use super::rehearsal::{Compared, MAX_SHADOWED, SHADOW_PATIENCE, Shadow};
use super::{Change, Generation, InstallError, Loader, Overlap, artefact, facts, read_archive, stored};
use crate::fault::{self, Point};
use crate::host::Host;
use crate::trust;

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
