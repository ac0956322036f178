//! A run loop in its instance: the calls that it is made for, and who pays for what it does.
//!
//! Owns the [`Desk`], which outlives an instance: the loop's subscriptions, and until when its message must be done with; the
//! [`Run`], which is the instance; and the [`Shift`], which its store holds. From the receipt of a message to the next `next` the message's principal pays:
//! fuel from its rate, reserved before and settled after, memory growth within its quota, and no longer than a call of
//! its own could take. Otherwise the capsule itself does.
//! Bounded by: the manifest's memory; its fuel from one `next` to the following one; [`MAX_SUBSCRIPTIONS`].
//! Refuses to know: when a loop is started again ([`supervisor`]).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use astrid_capsule::manifest::Subscribe;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use wasmtime::component::Instance;
use wasmtime::{CallHook, CallHookHandler, Store, StoreContextMut};

use super::generation::{Generation, Key, Resident, explain};
use super::handover::{Exported, MAX_STATE_BYTES, Snapshot, Unexported};
use super::{Inbound, supervisor};
use crate::bus::subscription::{Open, Reader};
use crate::bus::{Bus, Failure, Message};
use crate::host::Host;
use crate::link::{Call, Turn};
use crate::meter::ledger::{Used, Wait};
use crate::meter::{Bounds, Breath, Charge, FUEL_SLICE, HOST_CALL_BYTES, Limiter};
use crate::pool::{Lane, Permit, Rank, Seat};

/// Subscriptions of one run loop at once.
const MAX_SUBSCRIPTIONS: usize = 64;

/// What a run loop keeps from one run to the next.
pub(super) struct Desk {
    kept: Mutex<Kept>,
    /// Until when the message that it works on must be done with.
    limit: watch::Sender<Option<Instant>>,
}

#[derive(Default)]
struct Kept {
    all: Vec<One>,
    ended: bool,
    /// Its readers are told that it has ended, although it takes what arrives.
    stopped: bool,
}

struct One {
    open: Arc<Open>,
    /// Whether this run has opened it.
    taken: bool,
}

impl Default for Desk {
    fn default() -> Self {
        Self { kept: Mutex::default(), limit: watch::Sender::new(None) }
    }
}

impl Desk {
    /// Opens a subscription, or takes over the one of these topics that nobody holds, with what waits there.
    fn open(&self, bus: &Bus, by: &Generation, topics: &[String]) -> Result<Arc<Open>, Failure> {
        let reader = Reader::Loop { capsule: by.id.clone(), generation: by.serial };
        let bindings: Vec<Subscribe> = bus.bindings(&reader, topics, &by.manifest.subscribe)?;
        let mut kept = self.kept.lock().expect("no panic under this lock");
        if let Some(one) = kept.all.iter_mut().find(|one| !one.taken && one.open.is_of(&bindings)) {
            one.taken = true;
            return Ok(one.open.clone());
        }
        if kept.ended {
            return Err(Failure::Closed);
        }
        if kept.all.len() >= MAX_SUBSCRIPTIONS {
            return Err(Failure::Overloaded { retry_ms: 1000 });
        }
        let open = Arc::new(bus.subscribe(reader, topics, &by.manifest.subscribe)?);
        if kept.stopped {
            open.stop();
        }
        kept.all.push(One { open: open.clone(), taken: true });
        Ok(open)
    }

    /// The guest holds it no more.
    fn put_down(&self, open: &Arc<Open>) {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        for one in kept.all.iter_mut().filter(|one| Arc::ptr_eq(&one.open, open)) {
            one.taken = false;
        }
    }

    /// A run begins: it holds nothing yet.
    fn begin(&self) {
        self.limit.send_replace(None);
        self.kept.lock().expect("no panic under this lock").all.iter_mut().for_each(|one| one.taken = false);
    }

    /// The run is ready: what it has not opened again has ended.
    fn ready(&self, capsule: &str) {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        kept.all.retain(|one| {
            if !one.taken {
                tracing::warn!(capsule, lost = one.open.waiting(), "nobody opened a subscription again: it has ended");
            }
            one.taken
        });
    }

    /// Nothing arrives any more; what waits can still be read.
    pub(super) fn end(&self) {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        kept.ended = true;
        kept.all.iter().for_each(|one| one.open.end());
    }

    /// Whoever reads is told that it has ended. What waits stays, and what arrives is taken.
    pub(super) fn stop(&self) {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        kept.stopped = true;
        kept.all.iter().for_each(|one| one.open.stop());
    }

    /// Whoever reads gets what waits: it was stopped, or its version was not live yet.
    pub(super) fn go_on(&self) {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        kept.stopped = false;
        kept.all.iter().for_each(|one| one.open.go_on());
    }

    /// The desk of a loop that follows: what waits here, and what still arrives, is there as well, as far as the version
    /// subscribes to the same topics. It gives nothing before it [goes on](Self::go_on).
    pub(super) fn inherit(&self, bus: &Bus, heir: &Generation) -> Self {
        let kept = self.kept.lock().expect("no panic under this lock");
        let beside = |one: &One| {
            let reader = Reader::Loop { capsule: heir.id.clone(), generation: heir.serial };
            let open = bus.subscribe_beside(&one.open, reader, &heir.manifest.subscribe).ok()?;
            Some(One { open: Arc::new(open), taken: false })
        };
        let all = kept.all.iter().filter_map(beside).collect();
        Self { kept: Mutex::new(Kept { all, ..Kept::default() }), ..Self::default() }
    }

    /// Messages that wait, and that no other loop reads.
    pub(super) fn waiting(&self) -> usize {
        self.kept.lock().expect("no panic under this lock").all.iter().map(|one| one.open.waiting()).sum()
    }

    /// Returns once a message has taken too long.
    async fn overdue(&self) {
        let mut limit = self.limit.subscribe();
        loop {
            let until = *limit.borrow_and_update();
            match until {
                None => {
                    let _ = limit.changed().await;
                }
                Some(until) => {
                    if tokio::time::timeout_at(until, limit.changed()).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Who pays for what a run loop does now.
pub struct Shift {
    generation: Arc<Generation>,
    desk: Arc<Desk>,
    charge: Charge,
    /// Whether that is a message's principal.
    message: bool,
    since: Instant,
    /// Fuel that it used since then, as far as it is counted.
    spent: u64,
    /// Fuel that was left when it last called the host.
    left: u64,
    /// It gets all of its fuel again when it goes on.
    refuel: bool,
}

impl Shift {
    fn new(generation: &Arc<Generation>, desk: &Arc<Desk>) -> Result<Self, Wait> {
        let charge = generation.charge(&Lane::Host)?;
        let left = charge.bounds.fuel;
        let (generation, desk) = (generation.clone(), desk.clone());
        Ok(Self { generation, desk, charge, message: false, since: Instant::now(), spent: 0, left, refuel: false })
    }

    pub fn open(&self, bus: &Bus, topics: &[String]) -> Result<Arc<Open>, Failure> {
        self.desk.open(bus, &self.generation, topics)
    }

    pub fn put_down(&self, open: &Arc<Open>) {
        self.desk.put_down(open);
    }

    pub fn ready(&self) {
        self.desk.ready(&self.generation.id);
    }

    /// It is done with its message, if it had one.
    pub fn done(&mut self, limiter: &mut Limiter) {
        self.spent += self.generation.bounds.fuel - self.left;
        self.left = self.generation.bounds.fuel;
        self.refuel = true;
        if self.message {
            self.desk.limit.send_replace(None);
            limiter.bound(self.generation.bounds.memory_bytes);
            if let Ok(own) = self.generation.charge(&Lane::Host) {
                self.hand_over(own, limiter);
                self.message = false;
            }
        }
    }

    /// Whether the message's principal can pay now: then what it pays from.
    pub fn judge(generation: &Generation, message: &Message) -> Result<Charge, Wait> {
        generation.charge(&Lane::Principal(message.principal.clone()))
    }

    /// It goes on with a message at the expense of its principal.
    pub fn work(&mut self, paid: Charge, limiter: &mut Limiter) {
        let Bounds { memory_bytes, timeout, .. } = paid.bounds;
        self.desk.limit.send_replace(Some(Instant::now() + timeout));
        // What is there was paid for; what the message makes it grow by is its principal's.
        limiter
            .bound(self.generation.bounds.memory_bytes.min(limiter.peak_memory_bytes().saturating_add(memory_bytes)));
        self.hand_over(paid, limiter);
        self.message = true;
    }

    fn hand_over(&mut self, next: Charge, limiter: &Limiter) {
        self.settle(limiter.peak_memory_bytes());
        self.charge = next;
    }

    fn settle(&mut self, peak_memory_bytes: usize) {
        let fuel = std::mem::take(&mut self.spent);
        let wall = self.since.elapsed();
        self.charge.used(Used { fuel, wall, peak_memory_bytes: peak_memory_bytes as u64 });
        self.generation.counted(fuel, self.message);
        self.since = Instant::now();
    }

    /// It had so much fuel left, and gets all of it.
    fn fill(&mut self, left: u64) {
        if !std::mem::take(&mut self.refuel) {
            self.spent += self.generation.bounds.fuel - left;
        }
        self.left = self.generation.bounds.fuel;
    }

    /// It is gone, with so much fuel left.
    fn close(&mut self, left: u64, peak_memory_bytes: usize) {
        self.fill(left);
        self.message = false;
        self.settle(peak_memory_bytes);
    }
}

/// Keeps a run loop's accounts at its way to the host and back.
struct Beat(Breath);

#[async_trait::async_trait]
impl CallHookHandler<Call> for Beat {
    async fn handle_call_event(&self, mut store: StoreContextMut<'_, Call>, event: CallHook) -> wasmtime::Result<()> {
        match event {
            CallHook::CallingHost => {
                let left = store.get_fuel()?;
                let call = store.data_mut();
                call.renew();
                if let Some(shift) = call.shift() {
                    shift.left = left;
                }
            }
            CallHook::ReturningFromHost => {
                let refuel = store.data_mut().shift().is_some_and(|shift| std::mem::take(&mut shift.refuel));
                if refuel {
                    let fuel = store.data_mut().shift().map_or(0, |shift| shift.generation.bounds.fuel);
                    store.set_fuel(fuel)?;
                }
            }
            _ => {}
        }
        self.0.handle_call_event(store, event).await
    }
}

/// A run, counted and paid for however it ends.
struct Running(Store<Call>);

impl Drop for Running {
    fn drop(&mut self) {
        let left = self.0.get_fuel().unwrap_or(0);
        let peak = self.0.data_mut().limiter().peak_memory_bytes();
        let call = self.0.data_mut();
        if let Some(shift) = call.shift() {
            shift.close(left, peak);
        }
        if let Some(text) = call.take_output() {
            tracing::warn!(capsule = &*call.generation().id, "it wrote: {text}");
        }
    }
}

/// A run loop in its instance.
pub(super) struct Run<'h> {
    running: Running,
    instance: Instance,
    generation: Arc<Generation>,
    desk: Arc<Desk>,
    // An instance of the pool like any call's, and given back behind it.
    _seat: Seat<'h, Key, Resident>,
    _room: Permit<'h>,
}

impl<'h> Run<'h> {
    /// Makes the instance. The error says why there is none.
    pub(super) async fn begin(
        host: &'h Arc<Host>,
        generation: &Arc<Generation>,
        desk: &Arc<Desk>,
    ) -> Result<Self, String> {
        let deadline = Instant::now() + supervisor::READY;
        // Not settled: what it uses is no reason to let the host's own calls wait.
        let Ok(room) = host.pool.admit(Lane::Host, Rank::First, usize::MAX, deadline).await else {
            return Err("there was no instance for it".into());
        };
        desk.begin();
        let Ok(shift) = Shift::new(generation, desk) else { return Err("the host is stopping".into()) };
        let inbound = Inbound { shift: Some(shift), ..Inbound::default() };
        let bounds = &generation.bounds;
        let sender = generation.nobody(Instant::now() + bounds.timeout);
        let (seat, _) = host.warm.begin(None);
        let turn = Turn::new(sender, inbound);
        let mut store = Store::new(&generation.engine, Call::new(host.clone(), generation.clone(), turn, bounds));
        store.limiter(|call| call.limiter());
        store.call_hook_async(Beat(Breath::new(std::time::Instant::now())));
        store.set_hostcall_fuel(HOST_CALL_BYTES);
        let fueled = store.set_fuel(bounds.fuel).and_then(|()| store.fuel_async_yield_interval(Some(FUEL_SLICE)));
        let mut running = Running(store);
        fueled.map_err(|error| error.to_string())?;
        let made = tokio::time::timeout_at(deadline, generation.exports.pre.instantiate_async(&mut running.0)).await;
        let instance = match made {
            Ok(Ok(instance)) => instance,
            Ok(Err(error)) => {
                generation.figures.trapped.increment(1);
                return Err(explain(&mut running.0, bounds, &error));
            }
            Err(_) => return Err("its instance was not made in time".into()),
        };
        let (generation, desk) = (generation.clone(), desk.clone());
        Ok(Self { running, instance, generation, desk, _seat: seat, _room: room })
    }

    /// Calls `run`, to its end. The error says how it ended otherwise than by returning what it should.
    pub(super) async fn work(&mut self, ready: oneshot::Sender<()>) -> Result<(), String> {
        let Some(export) = self.generation.exports.runner.clone() else { return Err("it exports no run loop".into()) };
        self.fill()?;
        let store = &mut self.running.0;
        store.data_mut().awaits(ready);
        let desk = self.desk.clone();
        let run = async {
            let export = export.load(&mut *store, &self.instance)?;
            export.astrid_capsule_run_loop().call_run(store).await
        };
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = desk.overdue() => {
                self.generation.figures.timeout.increment(1);
                return Err("it worked on one message for longer than that message's principal may take".into());
            }
        };
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(format!("it returned an error: {}", crate::log::clean(&why))),
            Err(error) => Err(self.died(&error)),
        }
    }

    /// Asks for its state, once `run` has returned.
    pub(super) async fn export(&mut self) -> Exported {
        let Some(export) = self.generation.exports.carrier.clone() else {
            return Err(Unexported::Kept("it exports none".into()));
        };
        self.fill().map_err(Unexported::Dead)?;
        let store = &mut self.running.0;
        let asked = async {
            let export = export.load(&mut *store, &self.instance)?;
            export.astrid_capsule_state().call_export_state(store).await
        };
        match tokio::time::timeout(self.generation.bounds.timeout, asked).await {
            Ok(Ok(Ok(state))) if state.bytes.len() <= MAX_STATE_BYTES => Ok(state),
            Ok(Ok(Ok(state))) => {
                let bytes = state.bytes.len();
                Err(Unexported::Kept(format!("{bytes} bytes are more than {MAX_STATE_BYTES}")))
            }
            Ok(Ok(Err(why))) => Err(Unexported::Kept(format!("it says: {}", crate::log::clean(&why)))),
            Ok(Err(error)) => Err(Unexported::Dead(format!("export-state died: {}", self.died(&error)))),
            Err(_) => Err(Unexported::Dead(format!("export-state took {:?}", self.generation.bounds.timeout))),
        }
    }

    /// Gives it the state of the loop before, ahead of its first `run`.
    pub(super) async fn import(&mut self, state: &Snapshot) -> Result<(), String> {
        let Some(export) = self.generation.exports.carrier.clone() else { return Err("it takes none".into()) };
        self.fill()?;
        let store = &mut self.running.0;
        let given = async {
            let export = export.load(&mut *store, &self.instance)?;
            export.astrid_capsule_state().call_import_state(store, state).await
        };
        match tokio::time::timeout(self.generation.bounds.timeout, given).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(why))) => Err(format!("import-state refused: {}", crate::log::clean(&why))),
            Ok(Err(error)) => Err(format!("import-state died: {}", self.died(&error))),
            Err(_) => Err(format!("import-state took {:?}", self.generation.bounds.timeout)),
        }
    }

    /// Whatever it is called for begins with all of its fuel and time.
    fn fill(&mut self) -> Result<(), String> {
        let store = &mut self.running.0;
        let left = store.get_fuel().map_err(|error| error.to_string())?;
        store.data_mut().renew();
        if let Some(shift) = store.data_mut().shift() {
            shift.fill(left);
        }
        store.set_fuel(self.generation.bounds.fuel).map_err(|error| error.to_string())
    }

    fn died(&mut self, error: &wasmtime::Error) -> String {
        self.generation.figures.trapped.increment(1);
        explain(&mut self.running.0, &self.generation.bounds, error)
    }
}

impl Generation {
    /// What a lane pays a call of this capsule from.
    fn charge(&self, lane: &Lane) -> Result<Charge, Wait> {
        let host = self.host.upgrade().ok_or(Wait(Duration::from_secs(1)))?;
        host.meter.begin(lane, &self.tally, self.bounds)
    }

    /// A part of a run is paid for.
    fn counted(&self, fuel: u64, message: bool) {
        self.figures.fuel.increment(fuel);
        self.figures.ok.increment(message.into());
    }
}
