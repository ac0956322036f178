//! The host: every room, built in the order in which they need each other, and the life of the process.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use rustix::fs::FlockOperation;

use crate::authority::Authority;
use crate::bus::Bus;
use crate::config::{Config, Current};
use crate::env::Env;
use crate::home::Home;
use crate::http::tls::Tls;
use crate::http::{self, Connections, Mounts, Relays, Requests};
use crate::journal::Journal;
use crate::keys::Keys;
use crate::limit::Limits;
use crate::loader::{Key, Loader, Resident};
use crate::log::{self, Log};
use crate::meter::Meter;
use crate::pool::{Pool, Warm};
use crate::process::{Processes, jail};
use crate::runtime::{Blocking, Waits};
use crate::shutdown::{self, Shutdown};
use crate::sink::Sinks;
use crate::store::Store;
use crate::{distro as distribution, files, observe, reload};

pub struct Host {
    pub config: Current,
    pub home: Home,
    pub log: Arc<Log>,
    pub metrics: PrometheusHandle,
    pub store: Arc<Store>,
    pub keys: Arc<Keys>,
    pub journal: Arc<Journal>,
    pub env: Env,
    pub authority: Arc<Authority>,
    pub bus: Arc<Bus>,
    pub pool: Pool,
    /// Instances that wait for their principal's next call.
    pub warm: Warm<Key, Resident>,
    pub meter: Arc<Meter>,
    pub blocking: Blocking,
    pub waits: Waits,
    pub loader: Loader,
    pub mounts: Mounts,
    pub connections: Arc<Connections>,
    pub relays: Arc<Relays>,
    /// What is measured of requests.
    pub requests: Requests,
    pub limits: Limits,
    pub sinks: Sinks,
    /// Sandboxed children.
    pub processes: Processes,
    /// What the TCP listener encrypts with, if it does.
    pub tls: Option<Tls>,
    pub shutdown: Arc<Shutdown>,
    pub started: Instant,
}

/// What the daemon was told on its command line.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub home: Option<PathBuf>,
    /// `room.key=value`, strongest last.
    pub sets: Vec<String>,
    /// Where the distribution lies; `<home>/distro` unless named.
    pub distro: Option<PathBuf>,
    /// Run the distribution's own versions and nothing else, whatever is installed: of the one in the program's own file,
    /// if there is one and none is named.
    pub safe_mode: bool,
}

/// A home that this process alone serves. The lock is gone with the process, however it ends.
pub struct LockedHome {
    pub home: Home,
    _lock: File,
}

impl LockedHome {
    /// Creates the home where it is missing and takes its lock, before anything else is touched.
    pub fn take(home: Option<PathBuf>) -> anyhow::Result<Self> {
        let home = Home::resolve(home)?;
        home.create()?;
        let path = home.lock();
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        if let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
            let who = std::fs::read_to_string(home.state_file()).unwrap_or_default();
            bail!("another daemon serves {}: {}", home.root().display(), who.trim());
        }
        Ok(Self { home, _lock: lock })
    }
}

impl Host {
    /// Builds every room. Nothing is served yet.
    pub fn build(home: Home, config: Config, log: Arc<Log>, shutdown: Arc<Shutdown>) -> anyhow::Result<Arc<Self>> {
        let tls = Tls::open(&config.http.tls, &home.etc())?;
        let metrics = observe::install();
        let store = Arc::new(Store::open(&home.store(), &config.store)?);
        let keys = Arc::new(Keys::open(&home.keys().join("host.key"))?);
        let journal = Arc::new(Journal::open(&home.audit(), &config.audit, &keys).context("opening the log of facts")?);
        let authority = Authority::load(&store).context("reading who holds what")?.recording(journal.clone());
        let authority = Arc::new(authority);
        let blocking = Blocking::new(config.runtime.blocking);
        let sinks = Sinks::new(&config.sinks, journal.clone(), blocking.clone())?;
        let pool =
            Pool::new(&config.runtime.pool()).map_err(anyhow::Error::from).context("making the instance pool")?;
        Ok(Arc::new(Self {
            bus: Arc::new(Bus::new(config.bus.clone(), authority.clone()).recording(journal.clone())),
            meter: Arc::new(Meter::new(authority.clone(), config.runtime.max_concurrent_calls)),
            sinks,
            processes: Processes::new(home.root(), jail::SELF.as_ref()).context("the room of sandboxed children")?,
            blocking,
            waits: Waits::new(&config.runtime),
            relays: Relays::new(config.http.max_relays),
            requests: Requests::default(),
            limits: Limits::default(),
            tls,
            config: Current::new(config),
            home,
            log,
            metrics,
            env: Env::new(store.clone(), &keys),
            store,
            keys,
            journal,
            authority,
            warm: Warm::new(pool.probe().instances),
            pool,
            loader: Loader::default(),
            mounts: Mounts::default(),
            connections: Arc::default(),
            shutdown,
            started: Instant::now(),
        }))
    }

    /// Drops instances that wait and that nobody has needed lately, or nobody may meet again.
    pub fn sweep(&self) {
        self.warm.sweep(self.started.elapsed(), |key, resident| resident.unfit(self, key));
    }

    /// The most linear memory that the pool can give one instance, in bytes.
    pub fn pool_memory_bytes(&self) -> usize {
        usize::try_from(self.config.now().runtime.max_memory_bytes).unwrap_or(usize::MAX)
    }
}

/// The daemon, from command line to exit.
pub fn run(options: Options) -> anyhow::Result<()> {
    let log = Arc::new(Log::default());
    let locked = LockedHome::take(options.home)?;
    let home = locked.home.clone();
    let config = Config::load(&home.config(), &options.sets, crate::home::environment())?;
    log.open_file(&home.log()).with_context(|| format!("opening {}", home.log().display()))?;
    log::install(log.clone(), &config.log);
    let shutdown = Arc::new(Shutdown::default());
    shutdown::watch_signals(shutdown.clone()).context("listening for signals")?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // A guest's slice is long beside an ordinary task's: look for sockets and timers after fewer of them.
        .event_interval(16)
        .build()
        .context("starting the runtime")?;
    let host = Host::build(home, config, log, shutdown)?;
    reload::record(&host);
    runtime.block_on(serve(host.clone(), options.distro, options.safe_mode))?;
    // Guests that still run are dropped with the runtime; the store finishes what it has accepted.
    runtime.shutdown_timeout(Duration::from_millis(500));
    // They hold the host, and nobody else would let go of them.
    host.warm.sweep(Duration::MAX, |_, _| None);
    host.store.close();
    host.journal.close();
    tracing::info!("stopped");
    // That line may be below the level, and then takes nothing along that waits.
    host.log.flush();
    Ok(())
}

async fn serve(host: Arc<Host>, named: Option<PathBuf>, safe_mode: bool) -> anyhow::Result<()> {
    let config = host.config.now();
    let listeners = http::bind(&config.http, &host.home.socket()).await?;
    let warnings = [config.http.warning(), host.tls.as_ref().and_then(Tls::warning)];
    for (what, next) in warnings.into_iter().flatten() {
        tracing::warn!("{what}; {next}");
    }
    let own = named.is_none();
    let distro = named.unwrap_or_else(|| host.home.distro());
    if safe_mode {
        let folder = host.home.embedded();
        let unpack = move || if own { distribution::unpack_embedded(&folder) } else { Ok(None) };
        let embedded = host.blocking.run(unpack).await?.context("reading the distribution in this program")?;
        host.loader.boot_safely(&host, &distro, embedded.as_deref()).await?;
    } else {
        host.loader.boot(&host, &distro).await?;
    }
    let state = serde_json::json!({
        "pid": std::process::id(),
        "address": listeners.address.to_string(),
        "socket": listeners.socket,
        "version": crate::VERSION,
    });
    let (address, socket) = (listeners.address, listeners.socket.clone());
    files::write(&host.home.state_file(), state.to_string().as_bytes(), 0o600)?;
    tokio::spawn(upkeep(host.clone()));
    let server = tokio::spawn(http::serve(host.clone(), listeners));
    let shared = config.http.shared().map(|path| tracing::field::display(path.display()));
    tracing::info!(%address, socket = %socket.display(), shared, version = crate::VERSION, "ready");
    announce(&serde_json::json!({ "ready": true, "address": address.to_string(), "socket": socket }));

    server.await.context("the listener died")?;
    let drained = tokio::time::timeout(shutdown::DRAIN, async {
        while host.connections.count() > 0 || host.bus.pending() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        host.loader.end_run_loops().await;
        host.processes.close().await;
    });
    if drained.await.is_err() {
        let (open, lost) = (host.connections.count(), host.bus.pending());
        tracing::warn!(open, lost, "connections, publications or run loops were left at the end of the drain");
    }
    let _ = std::fs::remove_file(host.home.socket());
    let _ = std::fs::remove_file(host.home.state_file());
    Ok(())
}

/// One line on standard output, for whoever started the daemon. A reader that went away is no reason to stop.
fn announce(ready: &serde_json::Value) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{ready}").and_then(|()| out.flush());
}

async fn upkeep(host: Arc<Host>) {
    let mut tick = tokio::time::interval(observe::UPKEEP);
    let mut storms = tokio::time::interval(observe::STORM_WINDOW);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                host.metrics.run_upkeep();
                host.log.flush();
                host.sweep();
                host.limits.sweep();
                host.tls.as_ref().map(Tls::refresh);
                metrics::counter!("astrid_background_ticks_total", "task" => "upkeep").increment(1);
            }
            _ = storms.tick() => {
                host.bus.storms().report(observe::STORM_WINDOW);
                metrics::counter!("astrid_background_ticks_total", "task" => "storms").increment(1);
            }
            () = host.shutdown.hung_up() => {
                let again = host.clone();
                // What came of it is in the log.
                let _ = host.blocking.run(move || reload::reload(&again)).await;
            }
            () = host.shutdown.begun() => return,
        }
    }
}
