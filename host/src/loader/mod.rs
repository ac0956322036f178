//! Capsules: installed, live, replaced.
//!
//! Owns the list of installed capsules, what each was granted, and the change from one generation to the next: routes
//! and mounts are replaced as a whole, calls that the old generation has run to their end on it. One change happens at a
//! time, all of it or nothing ([`install`], [`replace`], [`swap`], [`remove`]); a version that fails what was asked of it
//! gives way to the one before ([`probation`], [`rollback`]).
//!
//! Bounded by the archive's and the component's size caps, and two generations of a capsule. Refuses to know what a
//! capsule is for.

mod artefact;
mod calls;
mod claims;
mod distribution;
mod facts;
mod generation;
mod handover;
mod install;
pub mod probation;
mod record;
mod rehearsal;
mod remove;
mod replace;
mod rollback;
mod run;
mod supervisor;
mod swap;
mod topics;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::time::Duration;

use anyhow::Context;
use astrid_capsule::Capability;
use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::{Declaration, Isolation, Manifest, grant};
use serde::{Deserialize, Serialize};

use crate::bus::Route;
use crate::bus::intercept::{Absent, Interception};
use crate::distro::Shown;
use crate::host::Host;
use crate::http::relay::Relayed;
pub use claims::Overlap;
pub use distribution::Applied;
pub use generation::{Generation, Inbound, Key, Resident};
pub use install::{Installed, Options};
use record::Record;
pub use record::Step;
pub use run::Shift;
pub use supervisor::Phase;
use supervisor::Runner;
pub use topics::{Direction, Topic, Type};

/// `[loader]` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// How long a new version is on probation, in seconds (0 to 86,400; 0 for not at all).
    pub probation_secs: u64,
    /// Failed calls in that time below which it is not taken back (1 to 1,000,000).
    pub probation_failures: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { probation_secs: 60, probation_failures: 5 }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        if self.probation_secs > 86_400 {
            return Err(format!("loader.probation-secs = {} must be 0 to 86400", self.probation_secs));
        }
        if !(1..=1_000_000).contains(&self.probation_failures) {
            return Err(format!("loader.probation-failures = {} must be 1 to 1000000", self.probation_failures));
        }
        Ok(())
    }

    fn rule(&self) -> probation::Rule {
        probation::Rule { lasts: Duration::from_secs(self.probation_secs), failures: self.probation_failures }
    }
}

enum State {
    Live { generation: Arc<Generation>, routes: Vec<Arc<Route>>, runner: Option<Runner> },
    Failed,
}

impl State {
    fn generation(self) -> Option<Arc<Generation>> {
        match self {
            State::Live { generation, .. } => Some(generation),
            State::Failed => None,
        }
    }
}

/// A row of the list of capsules.
#[derive(Debug, Clone)]
pub struct Listed {
    pub id: String,
    pub version: String,
    /// `live` or `failed`; with a run loop also `starting` or `restarting`.
    pub state: &'static str,
    pub hash: String,
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
    Untrusted(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Failed(String),
}

#[derive(Default)]
pub struct Loader {
    /// Held while something is changed, but not while live calls are compared.
    changing: tokio::sync::Mutex<()>,
    /// The folder of the distribution.
    distro: OnceLock<PathBuf>,
    /// The distribution as it was read last; none if there is none, or it did not read.
    shown: Mutex<Option<Arc<Shown>>>,
    capsules: RwLock<BTreeMap<String, (Record, State)>>,
    /// Those that gave way last, for as long as their successors are on probation.
    standby: Mutex<BTreeMap<String, (Record, Arc<Generation>)>>,
    /// Those that gave way last, for as long as calls of theirs run.
    leaving: Mutex<BTreeMap<String, Weak<Generation>>>,
    /// The component's hash of what is compared with the live version now, by capsule.
    compared: Mutex<BTreeMap<String, String>>,
    /// Capsules that run as the distribution has them, whatever is installed; none unless in safe mode.
    as_distributed: OnceLock<BTreeSet<String>>,
}

/// The right to change something; given up while live calls are compared.
type Change<'a> = Option<tokio::sync::MutexGuard<'a, ()>>;

impl Loader {
    /// Sorted by id.
    pub fn list(&self) -> Vec<Listed> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        let listed = capsules.iter().map(|(id, (record, state))| Listed {
            id: id.clone(),
            version: record.version.clone(),
            state: match state {
                State::Live { runner: None, .. } => "live",
                State::Live { runner: Some(runner), .. } => runner.phase().as_str(),
                State::Failed => "failed",
            },
            hash: record.hash.clone(),
        });
        listed.collect()
    }

    /// What happened to a capsule, oldest first; empty for one that never was.
    pub fn history(&self, host: &Host, id: &str) -> anyhow::Result<Vec<Step>> {
        record::history(&host.store, id)
    }

    /// The installed version of a capsule, and its generation if it is live.
    fn installed(&self, id: &str) -> Option<(Record, Option<Arc<Generation>>)> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        let (record, state) = capsules.get(id)?;
        let generation = match state {
            State::Live { generation, .. } => Some(generation.clone()),
            State::Failed => None,
        };
        Some((record.clone(), generation))
    }

    /// The distribution as it was read last.
    pub fn shown(&self) -> Option<Arc<Shown>> {
        self.shown.lock().expect("no panic under this lock").clone()
    }

    /// What installed manifests declare, sorted by id; of what several declare, that of the first capsule by id.
    pub fn declared(&self) -> Vec<Declaration> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        let manifests = capsules.values().filter_map(|(record, _)| Manifest::parse(&record.manifest).ok());
        let mut declared = BTreeMap::new();
        for found in manifests.flat_map(|manifest| manifest.capability) {
            declared.entry(found.id.to_string()).or_insert(found);
        }
        declared.into_values().collect()
    }

    /// Whoever gives this capsule's relays their bytes now; none unless a version of it is live.
    pub fn relayed(&self, id: &str) -> Option<Arc<dyn Relayed>> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        match capsules.get(id)? {
            (_, State::Live { generation, .. }) => Some(generation.clone()),
            (_, State::Failed) => None,
        }
    }

    /// Run loops in this phase.
    pub fn run_loops(&self, phase: &str) -> usize {
        self.runners(|runner| runner.phase().as_str() == phase).into_iter().filter(|is| *is).count()
    }

    /// Tells every run loop to end and waits until they have.
    pub async fn end_run_loops(&self) {
        for ended in self.runners(Runner::end) {
            ended.await;
        }
    }

    fn runners<R>(&self, of: impl Fn(&Runner) -> R) -> Vec<R> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        let live = capsules.values().filter_map(|(_, state)| match state {
            State::Live { runner, .. } => runner.as_ref(),
            State::Failed => None,
        });
        live.map(of).collect()
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
        let mut change: Change<'_> = Some(self.changing.lock().await);
        let _ = self.distro.set(distro.to_owned());
        let applied = self.bring(host, distro, &mut change).await?;
        for (id, record) in record::all(&host.store)? {
            if self.capsules.read().expect("no panic under this lock").contains_key(&id) {
                continue;
            }
            match self.revive(host, &record).await {
                Ok(generation) => {
                    let runner = runner(&generation);
                    self.flip(host, id, record, Some((generation, runner)));
                }
                Err(error) => {
                    tracing::error!(id, "a capsule could not be started: {error:#}");
                    if !self.fall_back(host, &id, &record, &format!("{error:#}")).await {
                        self.flip(host, id, record, None);
                    }
                }
            }
        }
        // All of them at once, so that none makes the others wait.
        for ready in self.runners(Runner::ready) {
            let _ = ready.await;
        }
        self.own_up(host, &applied);
        Ok(())
    }

    /// Runs the distribution's capsules as its archives have them, and nothing else. `embedded` is the folder of the one that
    /// came with the program, which is as good as the program itself and needs nobody to vouch for it. What is installed
    /// stays as it is, and is there again after the next start; until then it can be replaced and rolled back. To remove
    /// what the distribution brings is to forget what was installed over it.
    pub async fn boot_safely(&self, host: &Arc<Host>, distro: &Path, embedded: Option<&Path>) -> anyhow::Result<()> {
        let _one = self.changing.lock().await;
        let whose = if embedded.is_some() { "the distribution in this program" } else { "the distribution" };
        tracing::warn!("safe mode: only the versions of {whose} run");
        let _ = self.distro.set(distro.to_owned());
        let (reading, folder) = (host.clone(), embedded.unwrap_or(distro).to_owned());
        let own = embedded.is_some();
        let distributed = host.blocking.run(move || distribution::records(&reading, &folder, own)).await??;
        let names = distributed.iter().map(|(id, _)| id.clone()).collect();
        self.as_distributed.set(names).map_err(|_| anyhow::anyhow!("a host boots once"))?;
        for (id, record) in distributed {
            let generation = self.revive(host, &record).await.with_context(|| format!("starting {id}"))?;
            let runner = runner(&generation);
            self.flip(host, id, record, Some((generation, runner)));
        }
        Ok(())
    }

    async fn revive(&self, host: &Arc<Host>, record: &Record) -> anyhow::Result<Arc<Generation>> {
        self.room_for_loop(host, &Manifest::parse(&record.manifest)?).map_err(anyhow::Error::msg)?;
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

    /// Makes this generation, or none, what there is of this capsule, and routes and mounts follow at once. Returns the
    /// generation that was live before.
    fn flip(
        &self,
        host: &Arc<Host>,
        id: String,
        record: Record,
        generation: Option<(Arc<Generation>, Option<Runner>)>,
    ) -> Option<Arc<Generation>> {
        facts::loaded(host, &id, &record, generation.is_some());
        let mut capsules = self.capsules.write().expect("no panic under this lock");
        let state = generation.map_or(State::Failed, |(generation, runner)| live(host, generation, runner));
        let before = capsules.insert(id, (record, state));
        self.publish(host, &capsules);
        before.and_then(|(_, state)| state.generation())
    }

    /// Tells the other rooms what is there now.
    fn publish(&self, host: &Host, capsules: &BTreeMap<String, (Record, State)>) {
        let mut routes = Vec::new();
        let mut interceptions = Vec::new();
        let mut mounts = Vec::new();
        let mut authenticator = None;
        let mut live = Vec::new();
        let mut failed = 0;
        for (id, (record, state)) in capsules.iter() {
            let State::Live { generation, routes: own, .. } = state else {
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
    }

    /// Every installed capsule with the bytes of publications that wait for its handlers, sorted by id.
    pub fn queues(&self) -> Vec<(String, usize)> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        let waiting = |state: &State| match state {
            State::Live { routes, .. } => routes.first().map_or(0, |route| route.queued_bytes()),
            State::Failed => 0,
        };
        capsules.iter().map(|(id, (_, state))| (id.clone(), waiting(state))).collect()
    }

    /// A run loop holds an instance for as long as it lives, so there are only so many.
    fn room_for_loop(&self, host: &Host, manifest: &Manifest) -> Result<(), String> {
        if manifest.component.isolation != Isolation::Run {
            return Ok(());
        }
        let capsules = self.capsules.read().expect("no panic under this lock");
        let (id, most) = (&manifest.package.name, host.pool.run_loops());
        let others = capsules
            .iter()
            .filter(|(other, (_, state))| *other != id && matches!(state, State::Live { runner: Some(_), .. }));
        if others.count() < most {
            return Ok(());
        }
        let instances = host.pool.probe().instances;
        Err(format!("{id}: {most} run loops are live, and {instances} instances (runtime.instances) allow no more"))
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
}

/// Starts the run loop, if there is one.
fn runner(generation: &Arc<Generation>) -> Option<Runner> {
    (generation.manifest.component.isolation == Isolation::Run).then(|| Runner::start(generation.clone()))
}

fn live(host: &Host, generation: Arc<Generation>, runner: Option<Runner>) -> State {
    let routes = Route::all(generation.clone(), &generation.manifest.subscribe, host.bus.config());
    State::Live { generation, routes, runner }
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
    let bytes = crate::files::read_capped(file, astrid_capsule::archive::MAX_BYTES)
        .map_err(|error| InstallError::Invalid(format!("{}: {error}", path.display())))?;
    let archive =
        Archive::read(&bytes[..]).map_err(|error| InstallError::Invalid(format!("{}: {error}", path.display())))?;
    Ok((blake3::hash(&bytes).to_hex().to_string(), archive))
}

fn unknown(id: &str) -> InstallError {
    InstallError::NotFound(format!("no capsule `{id}` is installed"))
}

/// What is installed, whether it runs or, in safe mode, not.
fn stored(host: &Host, id: &str) -> Result<Option<Record>, InstallError> {
    record::installed(&host.store, id).map_err(|error| InstallError::Failed(format!("{id}: {error:#}")))
}
