//! A call's life: let in or refused, waiting, running its script, ended wherever it is.

use std::collections::VecDeque;

use astrid_host::sched::Ticket;

use super::plan::Principal;
use super::{CallId, Event, MAX_DEPTH, MILLI, Time, World};
use crate::gate::{Admission, Lane};
use crate::reader::Holder;

/// The smallest reservation, as in the host's meter.
const MIN_ESTIMATE: u64 = 1_000_000;

pub(super) struct Call {
    pub(super) client: usize,
    pub(super) origin: Origin,
    pub(super) capsule: usize,
    pub(super) lane: Lane,
    /// By the gate for calls from outside.
    pub(super) outer: bool,
    pub(super) asked: Time,
    pub(super) deadline: Time,
    pub(super) depth: u8,
    pub(super) used: u64,
    pub(super) stage: Stage,
    pub(super) script: VecDeque<Step>,
}

#[derive(Clone, Copy)]
pub(super) enum Origin {
    Client,
    Call(CallId),
    Inbox,
    /// Whoever waited is gone.
    Nobody,
}

#[derive(Clone, Copy)]
pub(super) enum Stage {
    Waits(Ticket),
    /// It has a slot and does not know yet.
    Granted,
    Computes {
        since: Time,
        until: Time,
    },
    Asks,
    /// Waits until its publication has room.
    Holds,
}

#[derive(Clone, Copy)]
pub(super) enum Step {
    Compute(u64),
    Ask,
    Publish,
    Crash,
}

impl Call {
    /// One from outside; its stage is set as soon as it is let in.
    pub(super) fn new(client: usize, origin: Origin, capsule: usize, lane: Lane, deadline: Time, asked: Time) -> Self {
        let (stage, script) = (Stage::Granted, VecDeque::new());
        let outer = !matches!(origin, Origin::Call(_));
        Self { client, origin, capsule, lane, outer, asked, deadline, depth: 1, used: 0, stage, script }
    }

    pub(super) fn is_from_outside(&self) -> bool {
        matches!(self.origin, Origin::Client | Origin::Inbox)
    }

    /// An address pays nothing.
    pub(super) fn payer(&self) -> Option<usize> {
        match self.lane {
            Lane::Principal(payer) | Lane::Deeper(payer) => Some(payer),
            Lane::Address(_) => None,
        }
    }
}

impl World {
    /// A call is let in and runs or waits; else when to come again.
    pub(super) fn begin(&mut self, call: Call) -> Result<CallId, Time> {
        self.serial += 1;
        let id = self.serial;
        if let Some(payer) = call.payer() {
            let estimate = (2 * self.averages[call.capsule]).max(MIN_ESTIMATE);
            self.accounts.reserve(payer, id, estimate, self.now)?;
        }
        let most = if matches!(call.lane, Lane::Deeper(_)) { usize::MAX } else { self.principal(&call).most };
        let gate = if call.outer { &mut self.outer } else { &mut self.nested };
        let admission = gate.arrive(call.lane, id, most);
        if let Admission::Refused = admission {
            if let Some(payer) = call.payer() {
                self.accounts.settle(payer, id, None, self.now);
            }
            return Err(MILLI);
        }
        self.at(call.deadline, Event::Deadline(id));
        if let Origin::Call(parent) = call.origin {
            self.children.insert(parent, id);
        }
        self.calls.insert(id, call);
        match admission {
            Admission::Waits(ticket) => self.call(id).stage = Stage::Waits(ticket),
            _ => self.start(id),
        }
        Ok(id)
    }

    /// It knows of its slot: its script is made, and begins.
    pub(super) fn start(&mut self, id: CallId) {
        let call = &self.calls[&id];
        let work = self.plan.clients[call.client].work.clone();
        let waited = self.now - call.asked;
        if call.is_from_outside() {
            let principal = self.plan.clients[call.client].principal;
            self.seen[principal].waited.push(waited);
        }
        let mut left = self.rng.within(&work.fuel);
        let mut script = VecDeque::new();
        while left > 0 {
            let part = if self.rng.percent(50) { left } else { self.rng.within(&(1..=left)) };
            left -= part;
            script.push_back(Step::Compute(part));
            if self.rng.percent(work.asks) {
                script.push_back(if self.rng.percent(60) { Step::Ask } else { Step::Publish });
            }
        }
        if self.rng.percent(work.crashes) {
            script.truncate(self.rng.index(script.len()) + 1);
            script.push_back(Step::Crash);
        }
        self.call(id).script = script;
        self.go_on(id);
    }

    /// The next steps, as far as they take no time.
    pub(super) fn go_on(&mut self, id: CallId) {
        loop {
            let now = self.now;
            let call = self.call(id);
            match call.script.pop_front() {
                Some(Step::Compute(fuel)) => {
                    call.stage = Stage::Computes { since: now, until: now + fuel };
                    return self.at(now + fuel, Event::Computed(id));
                }
                Some(Step::Ask) => {
                    call.stage = Stage::Asks;
                    if self.ask(id) {
                        return;
                    }
                }
                Some(Step::Publish) => {
                    let (client, depth) = (call.client, call.depth);
                    // Its time between two computations is none, unless it is held up.
                    call.stage = Stage::Holds;
                    if self.publish(client, depth, Holder::Call(id)) {
                        return;
                    }
                }
                Some(Step::Crash) | None => return self.end(id),
            }
        }
    }

    /// Whether it waits for an answer now.
    fn ask(&mut self, id: CallId) -> bool {
        let Some(capsule) = self.responder() else { return false };
        let parent = &self.calls[&id];
        if parent.depth >= MAX_DEPTH {
            return false;
        }
        let (client, depth, until) = (parent.client, parent.depth + 1, parent.deadline);
        let principal = self.plan.clients[client].principal;
        // The first call below a front end begins its principal's chain.
        let first = matches!(parent.lane, Lane::Address(_));
        let lane = if first { Lane::Principal(principal) } else { Lane::Deeper(principal) };
        let deadline = until.min(self.now + self.rng.within(&self.plan.clients[client].work.timeout));
        let call = Call { depth, ..Call::new(client, Origin::Call(id), capsule, lane, deadline, self.now) };
        self.begin(call).is_ok()
    }

    /// A call ends, wherever it is: first what it waits for, then itself. Its slot goes on, whoever waits for it hears
    /// of it, and what it used is paid.
    pub(super) fn end(&mut self, id: CallId) {
        if let Some(child) = self.children.remove(&id) {
            // Nobody waits for it any more.
            self.call(child).origin = Origin::Nobody;
            self.end(child);
        }
        self.readers.iter_mut().for_each(|reader| reader.forget(Holder::Call(id)));
        let used = self.used(id);
        let call = self.calls.remove(&id).expect("it runs or waits");
        let ran = !matches!(call.stage, Stage::Waits(_) | Stage::Granted);
        let gate = if call.outer { &mut self.outer } else { &mut self.nested };
        let next = match call.stage {
            Stage::Waits(ticket) => {
                gate.cancel(call.lane, ticket);
                None
            }
            _ => gate.leave(call.lane, used),
        };
        if let Some(payer) = call.payer() {
            self.accounts.settle(payer, id, ran.then_some(used), self.now);
        }
        if let Some(next) = next {
            self.call(next).stage = Stage::Granted;
            let wakes = self.now + self.rng.within(&(0..=20_000));
            self.at(wakes, Event::Wake(next));
        }
        if ran {
            let average = &mut self.averages[call.capsule];
            *average = if *average == 0 { used } else { *average - *average / 8 + used / 8 };
            if call.is_from_outside() {
                self.seen[self.plan.clients[call.client].principal].took.push(self.now - call.asked);
            }
        }
        match call.origin {
            Origin::Client if self.plan.clients[call.client].every.is_none() => {
                self.at(self.now, Event::Client(call.client));
            }
            Origin::Client | Origin::Nobody => {}
            Origin::Call(parent) => {
                self.children.remove(&parent);
                self.go_on(parent);
            }
            Origin::Inbox => {
                let inbox = &mut self.inboxes[call.capsule];
                if ran {
                    inbox.fates.handled += 1;
                } else {
                    inbox.fates.overloaded += 1;
                }
                inbox.release(self.plan.clients[call.client].principal);
                self.work(call.capsule);
            }
        }
    }

    pub(super) fn used(&self, id: CallId) -> u64 {
        self.calls.get(&id).map_or(0, |call| match call.stage {
            Stage::Computes { since, until } => call.used + (self.now - since).min(until - since),
            _ => call.used,
        })
    }

    pub(super) fn call(&mut self, id: CallId) -> &mut Call {
        self.calls.get_mut(&id).expect("a call that is known runs or waits")
    }

    fn principal(&self, call: &Call) -> &Principal {
        &self.plan.principals[self.plan.clients[call.client].principal]
    }
}
