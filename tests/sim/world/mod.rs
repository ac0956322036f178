//! A host on fake time: the pure cores of `astrid-host`, wired as the host wires them, and everything around them
//! played by chance: clients, handlers, their fuel, crashes and callers that go away.
//!
//! A unit of fuel takes a nanosecond. Calls are admitted by the two gates of the pool, reserve before and settle after;
//! a handler's script computes, asks, publishes, crashes. A call can end wherever it would await: in line, between its
//! turn and its waking, while it computes, while it waits for another. After each event everything is checked.

mod call;
mod plan;

use std::collections::{BTreeMap, BTreeSet};

use astrid_capsule::Pattern;
use astrid_host::bus::routes::Index;

use crate::accounts::Accounts;
use crate::gate::{Gate, Lane};
use crate::inbox::{Fates, Inbox};
use crate::reader::{self, Holder, Reader};
use crate::rng::Rng;
use call::{Call, Origin, Stage};
pub(crate) use plan::{Capsule, Client, Plan, Principal, Subscription, Work};

/// Nanoseconds since the beginning.
pub(crate) type Time = u64;

pub(crate) type CallId = u64;

pub(crate) const MILLI: Time = 1_000_000;

/// How deep calls may be nested.
const MAX_DEPTH: u8 = 4;

/// How long a publisher waits for a reader that takes nothing, as in the host's bus but for the unit.
const STALL: Time = 30 * MILLI;

/// A publication for one capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) serial: u64,
    pub(crate) principal: usize,
    pub(crate) size: usize,
    client: usize,
    sent: Time,
    depth: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Client(usize),
    Wake(CallId),
    Computed(CallId),
    Deadline(CallId),
    GiveUp(CallId),
    Read(usize),
    /// Whoever published to this subscription at the time of the event has waited long enough.
    Stall(usize, Holder),
}

/// What was seen of a principal's calls and publications that came from outside.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// From sending to the handler's first instruction.
    pub(crate) waited: Vec<Time>,
    /// From sending to the end of the handler.
    pub(crate) took: Vec<Time>,
}

pub(crate) struct World {
    plan: Plan,
    rng: Rng,
    now: Time,
    serial: u64,
    events: BTreeSet<(Time, u64, Event)>,
    routes: Index<usize>,
    outer: Gate,
    nested: Gate,
    accounts: Accounts,
    inboxes: Vec<Inbox>,
    readers: Vec<Reader>,
    /// A moving average of each capsule's fuel.
    averages: Vec<u64>,
    calls: BTreeMap<CallId, Call>,
    /// Who waits for whom.
    children: BTreeMap<CallId, CallId>,
    pub(crate) seen: Vec<Seen>,
    /// Sums up what happened, in order.
    pub(crate) digest: u64,
}

impl World {
    pub(crate) fn new(plan: Plan, rng: Rng) -> Self {
        let bindings = |(n, capsule): (usize, &Capsule)| capsule.bindings.iter().map(move |p| (p.clone(), n)).collect();
        let bindings: Vec<Vec<(Pattern, usize)>> = plan.capsules.iter().enumerate().map(bindings).collect();
        let mut world = Self {
            rng,
            now: 0,
            serial: 0,
            events: BTreeSet::new(),
            routes: Index::new(bindings.into_iter().flatten()),
            outer: Gate::new(plan.outer),
            nested: Gate::new(plan.nested),
            accounts: Accounts::new(plan.principals.iter().map(|p| (p.fuel, p.bytes))),
            inboxes: plan.capsules.iter().map(|c| Inbox::new(c.budget, c.workers)).collect(),
            readers: plan.subscriptions.iter().map(|s| Reader::new(s.delivery, s.budget)).collect(),
            averages: vec![0; plan.capsules.len()],
            calls: BTreeMap::new(),
            children: BTreeMap::new(),
            seen: vec![Seen::default(); plan.principals.len()],
            digest: 0,
            plan,
        };
        for client in 0..world.plan.clients.len() {
            let first = world.plan.clients[client].every.map_or(0, |every| world.rng.within(&(0..=every)));
            world.at(first, Event::Client(client));
        }
        for subscription in 0..world.plan.subscriptions.len() {
            world.at(0, Event::Read(subscription));
        }
        world
    }

    /// Until the clients stop.
    pub(crate) fn run(&mut self) {
        while self.events.first().is_some_and(|event| event.0 <= self.plan.until) {
            self.step();
        }
    }

    /// Until nothing moves any more; then nothing must be left.
    pub(crate) fn drain(&mut self) {
        while !self.events.is_empty() {
            self.step();
        }
        assert!(self.calls.is_empty() && self.children.is_empty(), "calls without an end");
        self.outer.check_empty();
        self.nested.check_empty();
        self.inboxes.iter().for_each(Inbox::check_empty);
        self.readers.iter().for_each(Reader::check_empty);
        self.accounts.check_empty(self.now);
    }

    /// Fuel that a principal's calls have used, those that run included.
    pub(crate) fn fuel(&self, principal: usize) -> u64 {
        self.accounts.used(principal, |call| self.used(call))
    }

    /// What became of the publications for each capsule.
    pub(crate) fn fates(&self) -> impl Iterator<Item = Fates> {
        self.inboxes.iter().map(|inbox| inbox.fates)
    }

    /// What became of the letters to each subscription.
    pub(crate) fn letters(&self) -> impl Iterator<Item = reader::Fates> {
        self.readers.iter().map(|reader| reader.fates)
    }

    fn step(&mut self) {
        let Some((time, serial, event)) = self.events.pop_first() else { return };
        self.now = time;
        for part in [time, serial] {
            // FNV-1a, by words.
            self.digest = (self.digest ^ part).wrapping_mul(0x100_0000_01b3);
        }
        match event {
            Event::Client(client) => self.client(client),
            Event::Wake(call) => {
                if self.calls.contains_key(&call) {
                    self.start(call);
                }
            }
            Event::Computed(call) => {
                if let Some(one) = self.calls.get_mut(&call)
                    && let Stage::Computes { since, until } = one.stage
                    && until == time
                {
                    one.used += until - since;
                    self.go_on(call);
                }
            }
            Event::Deadline(call) | Event::GiveUp(call) => {
                if self.calls.contains_key(&call) {
                    self.end(call);
                }
            }
            Event::Read(subscription) => self.read(subscription),
            Event::Stall(subscription, holder) => {
                if self.readers[subscription].holds(holder) {
                    let done = self.readers[subscription].stall();
                    self.let_go(done);
                }
            }
        }
        self.outer.check();
        self.nested.check();
        self.inboxes.iter().for_each(Inbox::check);
        self.readers.iter().for_each(Reader::check);
        self.accounts.check(self.now, |call| self.used(call));
    }

    fn at(&mut self, time: Time, event: Event) {
        self.serial += 1;
        self.events.insert((time, self.serial, event));
    }

    /// A client begins something.
    fn client(&mut self, client: usize) {
        let Client { principal, front, every, .. } = self.plan.clients[client];
        if self.now > self.plan.until {
            return;
        }
        let work = self.plan.clients[client].work.clone();
        if let Some(every) = every {
            let next = self.now + self.rng.within(&(every / 2..=every + every / 2));
            self.at(next, Event::Client(client));
        }
        if self.rng.percent(work.publishes) {
            let held = self.publish(client, 0, Holder::Client(client));
            if every.is_none() && !held {
                self.at(self.now + MILLI, Event::Client(client));
            }
            return;
        }
        let again = |world: &mut Self, wait| {
            if every.is_none() {
                world.at(world.now + wait, Event::Client(client));
            }
        };
        let Some(capsule) = self.responder() else { return again(self, MILLI) };
        let lane = if front { Lane::Address(principal) } else { Lane::Principal(principal) };
        let deadline = self.now + self.rng.within(&work.timeout);
        let call = Call::new(client, Origin::Client, capsule, lane, deadline, self.now);
        match self.begin(call) {
            Ok(call) if self.rng.percent(work.gives_up) => {
                let when = self.rng.within(&(self.now..=deadline));
                self.at(when, Event::GiveUp(call));
            }
            Ok(_) => {}
            Err(wait) => again(self, wait),
        }
    }

    /// The capsule that answers a topic, if any does.
    fn responder(&mut self) -> Option<usize> {
        let topic = &self.plan.topics[self.rng.index(self.plan.topics.len())];
        let found = self.routes.best(topic).copied();
        let bindings = self.plan.capsules.iter().flat_map(|capsule| &capsule.bindings);
        let best = bindings.filter(|pattern| pattern.matches(topic)).map(Pattern::specificity).max();
        let own = |n: usize| self.plan.capsules[n].bindings.iter().filter(|pattern| pattern.matches(topic));
        let its = found.and_then(|n| own(n).map(Pattern::specificity).max());
        assert_eq!(its, best, "another binding matches {topic} better");
        found
    }

    /// Whether whoever publishes is held up.
    fn publish(&mut self, client: usize, depth: u8, holder: Holder) -> bool {
        let Client { principal, .. } = self.plan.clients[client];
        let size = self.rng.within(&self.plan.clients[client].work.size) as usize;
        let number = self.rng.index(self.plan.topics.len());
        let topic = &self.plan.topics[number];
        if depth >= MAX_DEPTH || self.accounts.send(principal, size, self.now).is_err() {
            return false;
        }
        let subscriptions = self.plan.subscriptions.iter().enumerate();
        let reads = |s: &Subscription| s.pattern.matches(topic) && s.principal.is_none_or(|own| own == principal);
        let readers: Vec<usize> = subscriptions.filter(|(_, s)| reads(s)).map(|(n, _)| n).collect();
        let mut matches: Vec<usize> = self.routes.matches(topic).into_iter().copied().collect();
        matches.sort_unstable();
        let capsules = self.plan.capsules.iter().enumerate();
        let reached = capsules.flat_map(|(n, c)| c.bindings.iter().filter(|p| p.matches(topic)).map(move |_| n));
        assert_eq!(matches, reached.collect::<Vec<_>>(), "{topic} goes where it matches");
        for capsule in matches {
            self.serial += 1;
            let depth = depth + 1;
            let one = Publication { serial: self.serial, principal, size, client, sent: self.now, depth };
            self.inboxes[capsule].push(one);
            self.work(capsule);
        }
        let mut held = false;
        for reader in readers {
            if self.readers[reader].post(principal, number, size, holder) {
                held = true;
                self.at(self.now + STALL, Event::Stall(reader, holder));
            }
        }
        held
    }

    /// A reader looks, or dies, or comes back.
    fn read(&mut self, subscription: usize) {
        let Subscription { every, dies, back, .. } = self.plan.subscriptions[subscription];
        let ends = self.now > self.plan.until;
        if !ends && self.rng.percent(dies) {
            let back = self.now + self.rng.within(&(back / 2..=back));
            return self.at(back, Event::Read(subscription));
        }
        let took = self.readers[subscription].take();
        if took.is_some() || !ends || !self.calls.is_empty() {
            let next = self.now + self.rng.within(&(every / 2..=every + every / 2));
            self.at(next, Event::Read(subscription));
        }
        self.let_go(took.unwrap_or_default());
    }

    /// Who was held up goes on, unless another subscription holds it up still.
    fn let_go(&mut self, done: Vec<Holder>) {
        for holder in done {
            if self.readers.iter().any(|reader| reader.holds(holder)) {
                continue;
            }
            match holder {
                Holder::Call(id) => {
                    if self.calls.get(&id).is_some_and(|call| matches!(call.stage, Stage::Holds)) {
                        self.go_on(id);
                    }
                }
                Holder::Client(client) if self.plan.clients[client].every.is_none() => {
                    self.at(self.now, Event::Client(client));
                }
                Holder::Client(_) => {}
            }
        }
    }

    /// Free workers of a capsule take what waits for them.
    fn work(&mut self, capsule: usize) {
        while let Some(Publication { principal, client, sent, depth, .. }) = self.inboxes[capsule].pop() {
            let deadline = self.now + self.rng.within(&self.plan.clients[client].work.timeout);
            let lane = Lane::Principal(principal);
            let call = Call { depth, ..Call::new(client, Origin::Inbox, capsule, lane, deadline, sent) };
            if self.begin(call).is_err() {
                self.inboxes[capsule].fates.overloaded += 1;
                self.inboxes[capsule].release(principal);
            }
        }
    }
}
