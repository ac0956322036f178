//! Capsules: installed, live, replaced.
//!
//! Owns the list of installed capsules, what each was granted, and the change from one generation to the next: routes
//! and mounts are replaced as a whole, calls that the old generation has run to their end on it. One installation
//! happens at a time, all of it or nothing.
//!
//! Bounded by the archive's and the component's size caps. Refuses to know what a capsule is for.

mod artefact;
mod generation;
mod topics;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, RwLock};

use anyhow::Context;
use astrid_capsule::archive::Archive;
use astrid_capsule::distro::Distro;
use astrid_capsule::manifest::{Manifest, grant};
use astrid_capsule::schema::{SchemaError, Schemas};
use astrid_capsule::{Capability, check};
use serde::{Deserialize, Serialize};

use crate::bus::Route;
use crate::bus::intercept::{Absent, Interception};
use crate::host::Host;
use crate::pool::Concurrency;
use crate::store::Commit;
pub use generation::{Generation, Inbound};
pub use topics::{Direction, Topic, Type};

/// What the store remembers of an installed capsule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    version: String,
    /// BLAKE3 of the component, hex.
    hash: String,
    /// What it was granted of what its manifest asks.
    grants: Vec<String>,
    manifest: String,
    /// Whether it needs the engine with component-model concurrency.
    concurrent: bool,
    /// Its `schema.json`; empty if no topic has a type.
    #[serde(default)]
    schema: String,
}

impl Record {
    fn concurrency(&self) -> Concurrency {
        if self.concurrent { Concurrency::With } else { Concurrency::Without }
    }

    fn schemas(&self) -> Result<Schemas, SchemaError> {
        if self.schema.is_empty() { Ok(Schemas::default()) } else { Schemas::parse(self.schema.as_bytes()) }
    }
}

enum State {
    Live { generation: Arc<Generation>, routes: Vec<Arc<Route>> },
    Failed,
}

/// A row of the list of capsules.
#[derive(Debug, Clone)]
pub struct Listed {
    pub id: String,
    pub version: String,
    /// `live` or `failed`.
    pub state: &'static str,
    pub hash: String,
}

/// What an installation did.
#[derive(Debug, Clone)]
pub struct Installed {
    pub id: String,
    pub version: String,
    pub previous_version: Option<String>,
    pub hash: String,
    pub grants: Vec<String>,
}

/// Why nothing was installed; `wit/sys` says when each is answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("the manifest asks for what was not granted: {}", .0.join(", "))]
    Ungranted(Vec<String>),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Failed(String),
}

#[derive(Default)]
pub struct Loader {
    /// Held while something is installed.
    installing: tokio::sync::Mutex<()>,
    capsules: RwLock<BTreeMap<String, (Record, State)>>,
}

const CAPSULES: &[u8] = b"h\0capsule\0";
const APPLIED: &[u8] = b"h\0distro\0";

fn key(prefix: &[u8], name: &str) -> Vec<u8> {
    [prefix, name.as_bytes()].concat()
}

impl Loader {
    /// Sorted by id.
    pub fn list(&self) -> Vec<Listed> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        let listed = capsules.iter().map(|(id, (record, state))| Listed {
            id: id.clone(),
            version: record.version.clone(),
            state: if matches!(state, State::Live { .. }) { "live" } else { "failed" },
            hash: record.hash.clone(),
        });
        listed.collect()
    }

    /// The `[env]` of an installed capsule, live or failed.
    pub fn env(&self, id: &str) -> Option<astrid_capsule::env::Fields> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        match capsules.get(id)? {
            (_, State::Live { generation, .. }) => Some(generation.manifest.env.clone()),
            (record, State::Failed) => Manifest::parse(&record.manifest).ok().map(|manifest| manifest.env),
        }
    }

    /// The topics of an installed capsule, live or failed, with the schemas of those that have types.
    pub fn topics(&self, id: &str) -> Option<Vec<Topic>> {
        let record = {
            let capsules = self.capsules.read().expect("no panic under this lock");
            capsules.get(id)?.0.clone()
        };
        Some(topics::of(&Manifest::parse(&record.manifest).ok()?, &record.schemas().ok()?))
    }

    /// Installs what the distribution brings and is not installed yet, and makes everything that is installed live. A
    /// capsule that fails is listed as failed; the others go on.
    pub async fn boot(&self, host: &Arc<Host>, distro: &Path) -> anyhow::Result<()> {
        let _one = self.installing.lock().await;
        let mut absent = Vec::new();
        let unapplied = {
            let (host, distro) = (host.clone(), distro.to_owned());
            host.blocking.clone().run(move || host.loader.unapplied(&host, &distro)).await??
        };
        for (name, archive_hash, archive, grants) in unapplied {
            let done = match archive {
                Ok(archive) => self.put(host, archive, &grants, Some((&name, &archive_hash))).await,
                Err(why) => Err(InstallError::Invalid(why)),
            };
            match done {
                Ok(done) => tracing::info!(id = done.id, version = done.version, "installed from the distribution"),
                Err(error) => {
                    tracing::error!(id = name, "not installed from the distribution: {error}");
                    absent.push(name);
                }
            }
        }
        for (id, record) in self.records(host)? {
            if self.capsules.read().expect("no panic under this lock").contains_key(&id) {
                continue;
            }
            let state = match self.revive(host, &record).await {
                Ok(generation) => live(host, generation),
                Err(error) => {
                    tracing::error!(id, "a capsule could not be started: {error}");
                    State::Failed
                }
            };
            self.flip(host, id, record, state);
        }
        // What the distribution promised and could not bring, and no earlier version stands in for, is not hidden.
        for name in absent {
            if !self.capsules.read().expect("no panic under this lock").contains_key(&name) {
                self.flip(host, name, Record::default(), State::Failed);
            }
        }
        Ok(())
    }

    /// Reads an archive from an absolute local path, checks it and makes it live.
    pub async fn install(&self, host: &Arc<Host>, path: &Path, grants: &[String]) -> Result<Installed, InstallError> {
        let _one = self.installing.lock().await;
        if !path.is_absolute() {
            return Err(InstallError::Invalid(format!("{}: the path must be absolute", path.display())));
        }
        let owned = path.to_owned();
        let archive = host
            .blocking
            .run(move || read_archive(&owned))
            .await
            .map_err(|error| InstallError::Failed(error.to_string()))?
            .map(|(_, archive)| archive)?;
        let done = self.put(host, archive, grants, None).await;
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

    async fn put(
        &self,
        host: &Arc<Host>,
        archive: Archive,
        grants: &[String],
        applied: Option<(&str, &str)>,
    ) -> Result<Installed, InstallError> {
        let id = archive.manifest.package.name.clone();
        let grants = granted(&archive.manifest, grants)?;
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
            schema: archive.schemas.document(),
        };
        let concurrency = record.concurrency();

        let generation = {
            let (host, hash, manifest) = (host.clone(), record.hash.clone(), archive.manifest);
            let (component, schemas) = (archive.component, archive.schemas);
            let blocking = host.blocking.clone();
            let compile = move || {
                let compiled = artefact::compile(&host, &hash, &component, concurrency)?;
                let generation =
                    Generation::new(&host, compiled, concurrency, hash.clone(), manifest, schemas, grants)?;
                artefact::keep(&host, &hash, &component)?;
                anyhow::Ok(generation)
            };
            let compiled = blocking.run(compile).await;
            compiled
                .map_err(|error| InstallError::Failed(error.to_string()))?
                .map_err(|error| InstallError::Invalid(format!("{id}: {error:#}")))?
        };
        generation.start().await.map_err(|why| InstallError::Failed(format!("{id}: {why}")))?;

        let bytes = serde_json::to_vec(&record).expect("plain records serialise");
        let mut commit = Commit { writes: vec![(key(CAPSULES, &id), Some(bytes))], ..Commit::default() };
        if let Some((name, hash)) = applied {
            commit.writes.push((key(APPLIED, name), Some(hash.into())));
        }
        host.store.commit(commit).await.map_err(|error| InstallError::Failed(format!("{id}: {error}")))?;

        let previous_version = self.flip(host, id.clone(), record.clone(), live(host, generation));
        Ok(Installed { id, version: record.version, previous_version, hash: record.hash, grants: record.grants })
    }

    async fn revive(&self, host: &Arc<Host>, record: &Record) -> anyhow::Result<Arc<Generation>> {
        let (host, record) = (host.clone(), record.clone());
        let blocking = host.blocking.clone();
        let load = move || {
            let manifest = Manifest::parse(&record.manifest)?;
            let concurrency = record.concurrency();
            let compiled = artefact::load(&host, &record.hash, concurrency)?;
            let grants = record.grants.iter().map(|g| Capability::parse(g)).collect::<Result<_, _>>()?;
            let schemas = record.schemas()?;
            Generation::new(&host, compiled, concurrency, record.hash, manifest, schemas, grants)
        };
        let generation = blocking.run(load).await??;
        generation.start().await.map_err(anyhow::Error::msg)?;
        Ok(generation)
    }

    /// Makes `state` what there is of this capsule, and routes and mounts follow at once. Returns the version that was
    /// live before.
    fn flip(&self, host: &Arc<Host>, id: String, record: Record, state: State) -> Option<String> {
        let mut capsules = self.capsules.write().expect("no panic under this lock");
        let before = capsules.insert(id, (record, state));
        let mut routes = Vec::new();
        let mut interceptions = Vec::new();
        let mut mounts = Vec::new();
        let mut authenticator = None;
        let mut live = Vec::new();
        let mut failed = 0;
        for (id, (record, state)) in capsules.iter() {
            let State::Live { generation, routes: own } = state else {
                failed += 1;
                interceptions.extend(absent(id, record));
                continue;
            };
            live.push((generation.id.clone(), generation.serial));
            routes.extend(own.iter().cloned());
            interceptions.extend(generation.interceptions());
            mounts.extend(generation.mounts());
            if generation.granted(grant::AUTHENTICATOR) {
                authenticator = Some(generation.clone());
            }
        }
        let manifests: Vec<Manifest> =
            capsules.values().filter_map(|(record, _)| Manifest::parse(&record.manifest).ok()).collect();
        host.authority.set_scopes(manifests.iter().flat_map(|manifest| &manifest.capability));
        metrics::gauge!("astrid_capsules", "state" => "live").set(live.len() as f64);
        host.bus.set_routes(routes, interceptions, live);
        host.mounts.set(mounts);
        host.authority.set_authenticator(authenticator.map(|generation| generation as _));
        metrics::gauge!("astrid_capsules", "state" => "failed").set(failed);
        before.map(|(record, _)| record.version)
    }

    /// A capability that a binding requires exists when some installed manifest declares it.
    fn undeclared(&self, manifest: &Manifest) -> Result<(), InstallError> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        let others = capsules.values().filter_map(|(record, _)| Manifest::parse(&record.manifest).ok());
        let mut declared: Vec<Capability> = others.flat_map(|m| m.capability).map(|c| c.id).collect();
        declared.extend(manifest.capability.iter().map(|c| c.id.clone()));
        for binding in &manifest.subscribe {
            if let Some(unknown) = binding.requires.iter().find(|r| !declared.contains(r)) {
                return Err(InstallError::Invalid(format!(
                    "{}: the binding of {} requires `{unknown}`, which no installed manifest declares; add a [[capability]]",
                    manifest.package.name, binding.topic
                )));
            }
        }
        Ok(())
    }

    /// What another capsule has already and only one can have.
    fn conflicts(&self, manifest: &Manifest) -> Result<(), InstallError> {
        let id = &manifest.package.name;
        let capsules = self.capsules.read().expect("no panic under this lock");
        for (other, (record, _)) in capsules.iter().filter(|(other, _)| *other != id) {
            // One that failed keeps what is its own: it may be live again after the next start.
            let Ok(theirs) = Manifest::parse(&record.manifest) else { continue };
            for binding in &manifest.subscribe {
                if theirs.subscribe.iter().any(|b| b.topic == binding.topic) {
                    let topic = &binding.topic;
                    return Err(InstallError::Conflict(format!("{id}: topic {topic} is bound by `{other}`")));
                }
            }
            let mut mounts = manifest.http.iter().flat_map(|http| &http.mounts);
            let taken = |mount: &&String| theirs.http.iter().any(|http| http.mounts.contains(mount));
            if let Some(mount) = mounts.find(taken) {
                return Err(InstallError::Conflict(format!("{id}: {mount} is mounted by `{other}`")));
            }
            for exclusive in [grant::AUTHENTICATOR, grant::REGISTRAR] {
                let asks = |m: &Manifest| m.asks.iter().any(|a| a.as_str() == exclusive);
                if asks(&theirs) && asks(manifest) {
                    return Err(InstallError::Conflict(format!("{id}: `{other}` holds {exclusive}, and only one can")));
                }
            }
        }
        Ok(())
    }

    /// Installed capsules with their records.
    fn records(&self, host: &Host) -> anyhow::Result<Vec<(String, Record)>> {
        let page = host.store.scan(CAPSULES, None, 100_000, 256 << 20).context("reading the installed capsules")?;
        let mut records = Vec::new();
        for (key, entry) in page.entries {
            let id = String::from_utf8_lossy(&key[CAPSULES.len()..]).into_owned();
            match serde_json::from_slice(&entry.value) {
                Ok(record) => records.push((id, record)),
                Err(error) => tracing::error!(id, "the record of a capsule can't be read: {error}"),
            }
        }
        Ok(records)
    }

    /// Entries of the distribution whose archive is not the one that was applied last. What an operator installed
    /// over it since stays until the distribution itself changes.
    #[allow(clippy::type_complexity, reason = "a list of pieces that one caller takes apart")]
    fn unapplied(
        &self,
        host: &Host,
        folder: &Path,
    ) -> anyhow::Result<Vec<(String, String, Result<Archive, String>, Vec<String>)>> {
        let path = folder.join("Distro.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), "no distribution; only what is installed already will run");
                return Ok(Vec::new());
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let distro = Distro::parse(&text).with_context(|| format!("reading {}", path.display()))?;
        let mut unapplied = Vec::new();
        for entry in distro.capsule {
            let grants = entry.grants.iter().map(|c| c.as_str().to_owned()).collect();
            let (hash, archive) = match read_archive(&folder.join(&entry.source)) {
                Ok((hash, archive)) if archive.manifest.package.name == entry.name => (hash, Ok(archive)),
                Ok((hash, archive)) => (hash, Err(format!("the archive holds `{}`", archive.manifest.package.name))),
                Err(error) => (String::new(), Err(error.to_string())),
            };
            let applied = host.store.get(&key(APPLIED, &entry.name)).context("reading what was applied")?;
            let installed = host.store.get(&key(CAPSULES, &entry.name)).context("reading what is installed")?;
            let same = applied.is_some_and(|a| a.value == hash.as_bytes()) && installed.is_some();
            if !same {
                unapplied.push((entry.name, hash, archive, grants));
            }
        }
        Ok(unapplied)
    }
}

fn live(host: &Host, generation: Arc<Generation>) -> State {
    let routes = Route::all(generation.clone(), &generation.manifest.subscribe, host.bus.config());
    State::Live { generation, routes }
}

/// Interceptions of a capsule that is installed and does not run: they fail as their manifest declares.
fn absent(id: &str, record: &Record) -> Vec<Interception> {
    let declared = Manifest::parse(&record.manifest).map(|manifest| manifest.intercept).unwrap_or_default();
    declared.into_iter().map(|one| Interception::new(id.into(), one, Arc::new(Absent))).collect()
}

/// The archive and the BLAKE3 of its file, in hex.
fn read_archive(path: &Path) -> Result<(String, Archive), InstallError> {
    let file = crate::files::open_regular(path)
        .map_err(|error| InstallError::NotFound(format!("{}: {error}", path.display())))?;
    let bytes = crate::files::read_capped(file, astrid_capsule::archive::MAX_COMPONENT_BYTES)
        .map_err(|error| InstallError::Invalid(format!("{}: {error}", path.display())))?;
    let archive =
        Archive::read(&bytes[..]).map_err(|error| InstallError::Invalid(format!("{}: {error}", path.display())))?;
    Ok((blake3::hash(&bytes).to_hex().to_string(), archive))
}

/// What the manifest asks and the operator grants; everything asked must be granted.
fn granted(manifest: &Manifest, grants: &[String]) -> Result<Vec<Capability>, InstallError> {
    let given: Vec<Capability> = grants
        .iter()
        .map(|g| Capability::parse(g).map_err(|error| InstallError::Invalid(format!("grant: {error}"))))
        .collect::<Result<_, _>>()?;
    let asked = manifest.asked();
    let missing = asked.iter().filter(|asked| !given.iter().any(|g| g.covers(asked)));
    let missing: Vec<String> = missing.map(|asked| asked.as_str().to_owned()).collect();
    if missing.is_empty() { Ok(asked) } else { Err(InstallError::Ungranted(missing)) }
}
