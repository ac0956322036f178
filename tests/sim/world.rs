//! A host on fake time: the pure cores of `astrid-host`, wired as the host wires them, and everything around them
//! played by chance: clients, handlers, their fuel, crashes and callers that go away.
//!
//! A unit of fuel takes a nanosecond. Calls are admitted by the two gates of the pool, reserve before and settle after;
//! a handler's script computes, asks, publishes, crashes. A call can end wherever it would await: in line, between its
//! turn and its waking, while it computes, while it waits for another. After each event everything is checked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use astrid_capsule::manifest::Delivery;
use astrid_capsule::{Pattern, Topic};
use astrid_host::bus::routes::Index;
use astrid_host::sched::{Bounds, Ticket};

use crate::accounts::Accounts;
use crate::gate::{Admission, Gate, Lane};
use crate::inbox::{Fates, Inbox};
use crate::reader::{self, Holder, Reader};
use crate::rng::Rng;

/// Nanoseconds since the beginning.
pub(crate) type Time = u64;
pub(crate) type CallId = u64;

pub(crate) const MILLI: Time = 1_000_000;
/// How deep calls may be nested.
const MAX_DEPTH: u8 = 4;
/// How long a publisher waits for a reader that takes nothing, as in the host's bus but for the unit.
const STALL: Time = 30 * MILLI;
/// The smallest reservation, as in the host's meter.
const MIN_ESTIMATE: u64 = 1_000_000;

/// What there is, and who does what until when.
pub(crate) struct Plan {
    pub(crate) outer: Bounds,
    pub(crate) nested: Bounds,
    pub(crate) principals: Vec<Principal>,
    pub(crate) capsules: Vec<Capsule>,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) clients: Vec<Client>,
    /// When the clients stop.
    pub(crate) until: Time,
}

pub(crate) struct Principal {
    /// A second; None: exempt.
    pub(crate) fuel: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) most: usize,
}

pub(crate) struct Capsule {
    pub(crate) bindings: Vec<Pattern>,
    pub(crate) budget: usize,
    pub(crate) workers: usize,
}

pub(crate) struct Subscription {
    pub(crate) pattern: Pattern,
    /// Whose messages; None: everybody's, as a run loop.
    pub(crate) principal: Option<usize>,
    pub(crate) delivery: Delivery,
    pub(crate) budget: usize,
    /// Between one look and the next, on average.
    pub(crate) every: Time,
    /// In percent: instead of looking it dies, and comes back after so long.
    pub(crate) dies: u64,
    pub(crate) back: Time,
}

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) principal: usize,
    /// Comes in through a front end, which has the client's address as its lane.
    pub(crate) front: bool,
    /// Between one beginning and the next, on average; None: begins again as soon as it has an answer.
    pub(crate) every: Option<Time>,
    pub(crate) work: Work,
}

/// What a client's calls do, and those that they cause. Chances in percent.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) fuel: RangeInclusive<u64>,
    pub(crate) timeout: RangeInclusive<Time>,
    pub(crate) size: RangeInclusive<u64>,
    /// Of the client: a publication instead of a call.
    pub(crate) publishes: u64,
    pub(crate) asks: u64,
    pub(crate) crashes: u64,
    pub(crate) gives_up: u64,
}

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

struct Call {
    client: usize,
    origin: Origin,
    capsule: usize,
    lane: Lane,
    /// By the gate for calls from outside.
    outer: bool,
    asked: Time,
    deadline: Time,
    depth: u8,
    used: u64,
    stage: Stage,
    script: VecDeque<Step>,
}

#[derive(Clone, Copy)]
enum Origin {
    Client,
    Call(CallId),
    Inbox,
    /// Whoever waited is gone.
    Nobody,
}

#[derive(Clone, Copy)]
enum Stage {
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
enum Step {
    Compute(u64),
    Ask,
    Publish,
    Crash,
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

    /// A call is let in and runs or waits; else when to come again.
    fn begin(&mut self, call: Call) -> Result<CallId, Time> {
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
    fn start(&mut self, id: CallId) {
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
    fn go_on(&mut self, id: CallId) {
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

    /// A call ends, wherever it is: first what it waits for, then itself. Its slot goes on, whoever waits for it hears
    /// of it, and what it used is paid.
    fn end(&mut self, id: CallId) {
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

    fn used(&self, id: CallId) -> u64 {
        self.calls.get(&id).map_or(0, |call| match call.stage {
            Stage::Computes { since, until } => call.used + (self.now - since).min(until - since),
            _ => call.used,
        })
    }

    fn call(&mut self, id: CallId) -> &mut Call {
        self.calls.get_mut(&id).expect("a call that is known runs or waits")
    }

    fn principal(&self, call: &Call) -> &Principal {
        &self.plan.principals[self.plan.clients[call.client].principal]
    }
}

impl Call {
    /// One from outside; its stage is set as soon as it is let in.
    fn new(client: usize, origin: Origin, capsule: usize, lane: Lane, deadline: Time, asked: Time) -> Self {
        let (stage, script) = (Stage::Granted, VecDeque::new());
        let outer = !matches!(origin, Origin::Call(_));
        Self { client, origin, capsule, lane, outer, asked, deadline, depth: 1, used: 0, stage, script }
    }

    fn is_from_outside(&self) -> bool {
        matches!(self.origin, Origin::Client | Origin::Inbox)
    }

    /// An address pays nothing.
    fn payer(&self) -> Option<usize> {
        match self.lane {
            Lane::Principal(payer) | Lane::Deeper(payer) => Some(payer),
            Lane::Address(_) => None,
        }
    }
}
