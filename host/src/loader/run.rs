//! One run of a run loop: an instance that stays, and who pays for what it does.
//!
//! Owns the [`Desk`], which outlives a run: the loop's subscriptions, and until when its message must be done with; and
//! the [`Shift`], which its store holds. From the receipt of a message to the next `next` the message's principal pays:
//! fuel from its rate, reserved before and settled after, memory growth within its quota, and no longer than a call of
//! its own could take. Otherwise the capsule itself does.
//! Bounded by: the manifest's memory; its fuel from one `next` to the following one; [`MAX_SUBSCRIPTIONS`].
//! Refuses to know: when a loop is started again ([`supervisor`](super::supervisor)).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use astrid_capsule::manifest::Subscribe;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use wasmtime::{CallHook, CallHookHandler, Store, StoreContextMut};

use super::generation::{Generation, explain};
use super::{Inbound, supervisor};
use crate::bus::subscription::{Open, Reader};
use crate::bus::{Bus, Failure, Message};
use crate::link::{Call, Turn};
use crate::meter::ledger::{Used, Wait};
use crate::meter::{Bounds, Breath, Charge, FUEL_SLICE, HOST_CALL_BYTES, Limiter};
use crate::pool::{Lane, Rank};

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

    /// Messages that wait.
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

    /// The run is over, with so much fuel left.
    fn close(&mut self, left: u64, peak_memory_bytes: usize) {
        if !self.refuel {
            self.spent += self.generation.bounds.fuel - left;
        }
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

impl Generation {
    /// What a lane pays a call of this capsule from.
    fn charge(&self, lane: &Lane) -> Result<Charge, Wait> {
        let host = self.host.upgrade().ok_or(Wait(Duration::from_secs(1)))?;
        host.meter.begin(lane, &self.tally, self.bounds)
    }

    /// Runs the loop once, to its end; the answer is how it ended.
    pub(super) async fn run(self: &Arc<Self>, desk: &Arc<Desk>, ready: oneshot::Sender<()>) -> String {
        // Only missing while the host goes down.
        let Some(host) = self.host.upgrade() else { return "the host stops".into() };
        let Some(export) = self.exports.runner.clone() else { return "it exports no run loop".into() };
        let deadline = Instant::now() + supervisor::READY;
        // Not settled: what it uses is no reason to let the host's own calls wait.
        let Ok(_room) = host.pool.admit(Lane::Host, Rank::First, usize::MAX, deadline).await else {
            return "there was no instance for it".into();
        };
        desk.begin();
        let Ok(shift) = Shift::new(self, desk) else { return "the host stops".into() };
        let inbound = Inbound { ready: Some(ready), shift: Some(shift), ..Inbound::default() };
        let sender = self.nobody(Instant::now() + self.bounds.timeout);
        // It holds an instance of the pool like any call.
        let (_seat, _) = host.warm.begin(None);
        let turn = Turn::new(sender, inbound);
        let mut store = Store::new(&self.engine, Call::new(host.clone(), self.clone(), turn, &self.bounds));
        store.limiter(|call| call.limiter());
        store.call_hook_async(Beat(Breath::new(std::time::Instant::now())));
        store.set_hostcall_fuel(HOST_CALL_BYTES);
        let fueled = store.set_fuel(self.bounds.fuel).and_then(|()| store.fuel_async_yield_interval(Some(FUEL_SLICE)));
        let mut running = Running(store);
        if let Err(error) = fueled {
            return error.to_string();
        }
        let run = async {
            let instance = self.exports.pre.instantiate_async(&mut running.0).await?;
            let export = export.load(&mut running.0, &instance)?;
            export.astrid_capsule_run_loop().call_run(&mut running.0).await
        };
        let outcome = tokio::select! {
            outcome = run => Some(outcome),
            () = desk.overdue() => None,
        };
        match outcome {
            Some(Ok(Ok(()))) => "it returned".into(),
            Some(Ok(Err(why))) => format!("it returned an error: {}", crate::log::clean(&why)),
            Some(Err(error)) => {
                self.figures.trapped.increment(1);
                explain(&mut running.0, &self.bounds, &error)
            }
            None => {
                self.figures.timeout.increment(1);
                "it worked on one message for longer than that message's principal may take".into()
            }
        }
    }

    /// A part of a run is paid for.
    fn counted(&self, fuel: u64, message: bool) {
        self.figures.fuel.increment(fuel);
        self.figures.ok.increment(message.into());
    }
}
