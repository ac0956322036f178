//! One engine for the process, one compilation per component, one store per call.
//!
//! WASI is linked with nothing granted: no files, no network, no environment, a clock that the test sets. Only what
//! the guest writes to stderr is kept, to explain traps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use astrid_capsule::check;
use astrid_capsule::manifest::Manifest;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker, ResourceTable};
use wasmtime::{Config, Engine, OptLevel, ResourceLimiter, Store, Trap};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::bindings::Everything;
use crate::bus::Bus;
use crate::env::Values;
use crate::journal::FakeJournal;
use crate::process::FakeProcesses;
use crate::registrar::Registrar;
use crate::sessions::Sessions;
use crate::sink::FakeSinks;
use crate::store::MemoryStore;
use crate::sys::{FakeHost, Logged};
use crate::{CallError, Connection, OpenError, Usage};

/// The time of a new capsule's clock, in seconds since the Unix epoch: 2026-01-01T00:00:00Z.
pub const DEFAULT_TIME: u64 = 1_767_225_600;

const MAX_STDERR_BYTES: usize = 64 << 10;
const MAX_TABLE_ELEMENTS: usize = 100_000;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    // A test makes few calls: compiling quickly saves more time than running quickly.
    config.concurrency_support(false).consume_fuel(true).cranelift_opt_level(OptLevel::None);
    Engine::new(&config).expect("these settings fit every machine that wasmtime supports")
});

/// Linked components by the BLAKE3 hash of their bytes: the tests of one process compile each component once.
static LINKED: LazyLock<Mutex<HashMap<blake3::Hash, InstancePre<State>>>> = LazyLock::new(Mutex::default);

/// Everything that outlives a call.
#[derive(Default)]
pub(crate) struct Fakes {
    pub(crate) store: MemoryStore,
    pub(crate) bus: Bus,
    pub(crate) sessions: Sessions,
    pub(crate) env: Values,
    pub(crate) registrar: Registrar,
    pub(crate) host: FakeHost,
    pub(crate) journal: FakeJournal,
    pub(crate) sinks: FakeSinks,
    pub(crate) processes: FakeProcesses,
    /// Whether a run loop has said that it is.
    pub(crate) ready: bool,
    /// When each key of a rate limit will be as if it had never been used, in milliseconds since the Unix epoch.
    pub(crate) limits: HashMap<String, u64>,
    pub(crate) logs: Vec<Logged>,
    /// What the last call said of itself for the record.
    pub(crate) detail: Option<serde_json::Value>,
}

/// Whose call it is, and what is left of its time.
pub(crate) struct Caller {
    pub(crate) principal: String,
    pub(crate) remaining_ms: u32,
    /// For HTTP calls.
    pub(crate) connection: Option<Connection>,
    /// Whether whoever asks reads the answer in pieces.
    pub(crate) streams: bool,
    /// Whether it is a run loop, whose subscriptions get everybody's messages.
    pub(crate) everybody: bool,
}

/// The data of one call's store.
pub(crate) struct State {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) fakes: Fakes,
    pub(crate) caller: Caller,
    pub(crate) table: ResourceTable,
    pub(crate) clock: Clock,
    wasi: WasiCtx,
    memory: Memory,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Linear memory of all of an instance's memories together.
struct Memory {
    limit: usize,
    now: usize,
    peak: usize,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let after = self.now + (desired - current);
        if after > self.limit || maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.now = after;
        self.peak = self.peak.max(after);
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS && maximum.is_none_or(|maximum| desired <= maximum))
    }
}

/// Seconds since the Unix epoch, shared with the instances that read it.
#[derive(Clone)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(DEFAULT_TIME)))
    }
}

impl Clock {
    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::from_secs(self.seconds())
    }
}

/// Checks as the host's loader does, then compiles and links, or remembers.
pub(crate) fn link(manifest: &Manifest, bytes: &[u8]) -> Result<InstancePre<State>, OpenError> {
    check::check(manifest, bytes).map_err(OpenError::Unfit)?;
    let hash = blake3::hash(bytes);
    let known = LINKED.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
    if let Some(linked) = known {
        return Ok(linked);
    }
    let component = Component::new(&ENGINE, bytes).map_err(|e| OpenError::Compile(format!("{e:#}")))?;
    let mut linker = Linker::<State>::new(&ENGINE);
    let offered = wasmtime_wasi::p2::add_to_linker_sync(&mut linker)
        .and_then(|()| Everything::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state));
    offered.expect("every interface is linked once");
    let linked = linker.instantiate_pre(&component).map_err(|e| OpenError::Link(format!("{e:#}")))?;
    LINKED.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, linked.clone());
    Ok(linked)
}

/// Runs `call` in a fresh instance and gives the fakes back, whatever happened.
pub(crate) fn run<T>(
    linked: &InstancePre<State>,
    manifest: &Arc<Manifest>,
    fakes: Fakes,
    caller: Caller,
    clock: &Clock,
    call: impl FnOnce(&mut Store<State>, &wasmtime::component::Instance) -> wasmtime::Result<T>,
) -> (Fakes, Usage, Result<T, CallError>) {
    let stderr = MemoryOutputPipe::new(MAX_STDERR_BYTES);
    let fuel = manifest.limits.max_fuel;
    let state = State {
        manifest: manifest.clone(),
        fakes,
        caller,
        table: ResourceTable::new(),
        clock: clock.clone(),
        wasi: WasiCtxBuilder::new().wall_clock(clock.clone()).stderr(stderr.clone()).build(),
        memory: Memory {
            limit: usize::try_from(manifest.limits.max_memory_bytes).unwrap_or(usize::MAX),
            now: 0,
            peak: 0,
        },
    };
    let mut store = Store::new(&ENGINE, state);
    store.limiter(|state| &mut state.memory);
    store.set_fuel(fuel).expect("the engine counts fuel");
    let result = linked.instantiate(&mut store).and_then(|instance| call(&mut store, &instance));
    let left = store.get_fuel().expect("the engine counts fuel");
    let state = store.into_data();
    let usage = Usage { fuel: fuel - left, peak_memory_bytes: state.memory.peak as u64 };
    let result = result.map_err(|error| match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => CallError::OutOfFuel(fuel),
        _ => {
            let stderr = stderr.contents();
            let said = String::from_utf8_lossy(&stderr);
            CallError::Trapped(format!("{error:#}\n{}", said.trim()).trim_end().into())
        }
    });
    (state.fakes, usage, result)
}
