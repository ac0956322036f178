//! What a world is made of before it begins: who is there, what they may use, and what they do.

use std::ops::RangeInclusive;

use astrid_capsule::manifest::Delivery;
use astrid_capsule::{Pattern, Topic};
use astrid_host::sched::Bounds;

use super::Time;

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
