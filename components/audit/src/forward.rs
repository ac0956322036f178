//! `FORWARD`: facts carried to places outside, each at least once and in order.
//!
//! An operator names places in the host's configuration; this says which facts go to which of them, and how they read. A
//! place's position, the first index that it may not have, is stored when a delivery has ended well, so that a restart goes on
//! there and repeats at most what was on its way. While one place fails it is tried again after a second, then twice as long,
//! up to a minute; the others go on, and the log waits for it: there is no queue. A position beyond the log's end is of another
//! log, and counts as none.
//!
//! Bounded by [`MAX_RULES`], [`MAX_FACTS`] and [`MAX_BYTES`] of a delivery, one delivery to each place at a time. What is pruned
//! before it was delivered is gone. Refuses to know how bytes travel.

use std::fmt::Write as _;

use astrid_sdk::log as lines;

use crate::fact::{Fact, Outcome, Redaction};
use crate::format::{Entry, Format, moment};
use crate::log::{Log, refusal};
use crate::query::{begins, read};

/// The most places.
pub const MAX_RULES: usize = 8;
/// Facts that are read for one delivery.
pub const MAX_FACTS: u32 = 500;
/// Bytes of a delivery after which nothing is added to it.
pub const MAX_BYTES: usize = 512 << 10;
/// Between the first failure and the next attempt, and the longest time between two, in milliseconds.
const RETRY_MS: u64 = 1_000;
const MAX_RETRY_MS: u64 = 60_000;

/// What goes to one place, and how it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    sink: String,
    /// Each is a message of RFC 5424.
    syslog: bool,
    format: Format,
    /// Only this action, or what begins with these words.
    action: Option<String>,
}

impl Rule {
    /// Reads `SINK=FORMAT` and `SINK=FORMAT:ACTION`, separated by commas.
    ///
    /// # Errors
    /// Which rule can't be read, and why.
    pub fn parse(text: &str) -> Result<Vec<Self>, String> {
        let mut rules: Vec<Self> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let rule = Self::one(part).map_err(|why| format!("`{part}`: {why}"))?;
            if rules.iter().any(|other| other.sink == rule.sink) {
                return Err(format!("`{part}`: {} is named twice", rule.sink));
            }
            rules.push(rule);
        }
        if rules.len() > MAX_RULES { Err(format!("at most {MAX_RULES} places can be named")) } else { Ok(rules) }
    }

    fn one(part: &str) -> Result<Self, String> {
        let (sink, how) = part.split_once('=').ok_or("write SINK=FORMAT")?;
        let (format, action) = how.split_once(':').map_or((how, None), |(format, action)| (format, Some(action)));
        let (syslog, name) = format.strip_prefix("syslog-").map_or((false, format), |name| (true, name));
        let format =
            Format::named(name).ok_or("the format must be json, ocsf, cef or line, or one of them behind syslog-")?;
        if sink.is_empty() || action.is_some_and(str::is_empty) {
            return Err("write SINK=FORMAT or SINK=FORMAT:ACTION".into());
        }
        Ok(Self { sink: sink.trim().into(), syslog, format, action: action.map(Into::into) })
    }

    fn wants(&self, fact: &Fact) -> bool {
        self.action.as_deref().is_none_or(|wanted| begins(&fact.action, wanted))
    }

    fn entry(&self, index: u64, fact: Fact) -> Vec<u8> {
        let head = if self.syslog { head(index, &fact) } else { String::new() };
        let entry = Entry::new(index, fact, self.format);
        let line = match entry.line {
            Some(line) => line,
            None => serde_json::to_string(&entry).unwrap_or_default(),
        };
        (head + &line).into_bytes()
    }
}

/// What stands before a message of RFC 5424: of the facility "log audit", numbered as the log is.
fn head(index: u64, fact: &Fact) -> String {
    const FACILITY: u8 = 13;
    /// The largest `sequenceId`.
    const NUMBERS: u64 = (1 << 31) - 1;
    let severity = match fact.outcome {
        Outcome::Failed | Outcome::Unknown => 3,
        Outcome::Refused => 4,
        Outcome::Began | Outcome::Ok => 6,
    };
    // Microseconds are as much as it takes.
    let mut time = moment(fact.time);
    time.truncate("0000-00-00T00:00:00.000000".len());
    let action: String = fact.action.chars().filter(char::is_ascii_graphic).take(32).collect();
    let mut head = String::new();
    let _ = write!(head, "<{}>1 {time}Z - astrid - {action} ", FACILITY * 8 + severity);
    let _ = write!(head, "[meta sequenceId=\"{}\"] ", index % NUMBERS + 1);
    head
}

/// Why something did not arrive, in words.
pub type Failure = String;

/// Places outside, and where they are.
pub trait Outside {
    /// What is on its way.
    type Delivery;

    /// Begins to deliver.
    ///
    /// # Errors
    /// Why it can't now.
    fn deliver(&self, sink: &str, entries: &[Vec<u8>]) -> Result<Self::Delivery, Failure>;

    /// How it ended, if it has.
    fn done(&self, delivery: &Self::Delivery) -> Option<Result<(), Failure>>;

    /// The first index that a place may not have, with the version of that record; none for one that never had any.
    ///
    /// # Errors
    /// The store is away.
    fn position(&self, sink: &str) -> Result<Option<(u64, u64)>, Failure>;

    /// Stores it, and answers the new version of the record.
    ///
    /// # Errors
    /// The store is away, or somebody else has stored another since `version`.
    fn keep(&self, sink: &str, position: u64, version: Option<u64>) -> Result<u64, Failure>;
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// Nothing, until something is recorded or one is tried again.
    Quiet,
    /// Something is on its way.
    Soon,
    /// There is more to read.
    Now,
}

struct Place<D> {
    rule: Rule,
    /// The first index that was not read for it, and the version of the record; none until it is known.
    at: Option<(u64, Option<u64>)>,
    /// What is on its way, and the position once it has arrived.
    batch: Option<(D, u64)>,
    failures: u32,
    /// Milliseconds of the caller's clock.
    retry_at: u64,
}

/// All places.
pub struct Forwarder<D> {
    places: Vec<Place<D>>,
}

impl<D> Forwarder<D> {
    /// Of these rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        let place = |rule| Place { rule, at: None, batch: None, failures: 0, retry_at: 0 };
        Self { places: rules.into_iter().map(place).collect() }
    }

    /// Whether there is nothing to forward to.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Goes on at `now`, in milliseconds, without waiting for anybody. A place that needs an entry which can't be read is tried
    /// again as one that is down.
    pub fn step<O>(&mut self, now: u64, log: &impl Log, redaction: &Redaction, outside: &O) -> Next
    where
        O: Outside<Delivery = D>,
    {
        let next = self.places.iter_mut().map(|place| place.step(now, log, redaction, outside));
        next.max().unwrap_or(Next::Quiet)
    }
}

impl<D> Place<D> {
    fn step<O>(&mut self, now: u64, log: &impl Log, redaction: &Redaction, outside: &O) -> Next
    where
        O: Outside<Delivery = D>,
    {
        if let Some((delivery, arrived)) = &self.batch {
            let Some(ended) = outside.done(delivery) else { return Next::Soon };
            let arrived = *arrived;
            self.batch = None;
            let version = self.at.and_then(|(_, version)| version);
            match ended.and_then(|()| outside.keep(&self.rule.sink, arrived, version)) {
                Ok(version) => {
                    self.at = Some((arrived, Some(version)));
                    self.arrives();
                }
                Err(why) => self.fails(now, &why),
            }
        }
        if now < self.retry_at {
            return Next::Quiet;
        }
        let (from, version) = match self.at {
            Some(at) => at,
            None => match outside.position(&self.rule.sink) {
                Ok(Some((position, version))) => *self.at.insert((position, Some(version))),
                Ok(None) => *self.at.insert((0, None)),
                Err(why) => {
                    self.fails(now, &why);
                    return Next::Quiet;
                }
            },
        };
        let size = log.size();
        if from > size {
            // The log that the position is of was put away, or has lost its end.
            lines::warn!("`{}` has got {from} facts, and the log has {size}: it gets them all again", self.rule.sink);
            self.at = Some((0, version));
            return Next::Now;
        }
        if from == size {
            return Next::Quiet;
        }
        let page = match log.entries(from, MAX_FACTS) {
            Ok(page) => page,
            Err(error) => {
                self.fails(now, &refusal(error).reason);
                return Next::Quiet;
            }
        };
        let (mut entries, mut bytes, mut read_to) = (Vec::new(), 0, from);
        let mut cut = false;
        for recorded in &page.facts {
            if let Some(fact) = read(recorded).filter(|fact| self.rule.wants(fact)) {
                let entry = self.rule.entry(recorded.index, redaction.apply(fact));
                bytes += entry.len();
                entries.push(entry);
            }
            read_to = recorded.index + 1;
            if bytes >= MAX_BYTES {
                cut = true;
                break;
            }
        }
        if !cut {
            read_to = page.next.unwrap_or(read_to).max(read_to);
        }
        if entries.is_empty() {
            // Not worth a write: who begins anew looks through these again.
            self.at = Some((read_to, version));
            return if read_to < log.size() { Next::Now } else { Next::Quiet };
        }
        match outside.deliver(&self.rule.sink, &entries) {
            Ok(delivery) => {
                self.batch = Some((delivery, read_to));
                Next::Soon
            }
            Err(why) => {
                self.fails(now, &why);
                Next::Quiet
            }
        }
    }

    /// The position is read anew before the next attempt: whoever got in the way knows it better.
    fn fails(&mut self, now: u64, why: &str) {
        let wait = RETRY_MS.saturating_mul(1 << self.failures.min(16)).min(MAX_RETRY_MS);
        if self.failures == 0 {
            lines::warn!("facts don't reach `{}`, and wait: {why}", self.rule.sink);
        }
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + wait;
        self.at = None;
    }

    fn arrives(&mut self) {
        if self.failures > 0 {
            lines::info!("facts reach `{}` again", self.rule.sink);
        }
        self.failures = 0;
        self.retry_at = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::*;
    use crate::fact::tests::whole;
    use crate::log::fake::Memory;

    /// Places that take things when told to.
    #[derive(Default)]
    struct World {
        taken: RefCell<BTreeMap<String, Vec<String>>>,
        kept: RefCell<BTreeMap<String, (u64, u64)>>,
        /// Places that fail, and how often they were tried.
        down: RefCell<BTreeMap<String, u32>>,
        /// Nothing that begins now ends.
        slow: Cell<bool>,
        attempts: Cell<u32>,
    }

    struct Way(String, Vec<String>);

    impl Outside for World {
        type Delivery = Way;

        fn deliver(&self, sink: &str, entries: &[Vec<u8>]) -> Result<Way, Failure> {
            self.attempts.set(self.attempts.get() + 1);
            let entries = entries.iter().map(|entry| String::from_utf8(entry.clone()).unwrap()).collect();
            Ok(Way(sink.into(), entries))
        }

        fn done(&self, Way(sink, entries): &Way) -> Option<Result<(), Failure>> {
            if let Some(tried) = self.down.borrow_mut().get_mut(sink) {
                *tried += 1;
                return Some(Err("down".into()));
            }
            if self.slow.get() {
                return None;
            }
            self.taken.borrow_mut().entry(sink.clone()).or_default().extend(entries.iter().cloned());
            Some(Ok(()))
        }

        fn position(&self, sink: &str) -> Result<Option<(u64, u64)>, Failure> {
            Ok(self.kept.borrow().get(sink).copied())
        }

        fn keep(&self, sink: &str, position: u64, version: Option<u64>) -> Result<u64, Failure> {
            let mut kept = self.kept.borrow_mut();
            if kept.get(sink).map(|kept| kept.1) != version {
                return Err("somebody else was here".into());
            }
            let version = version.unwrap_or(0) + 1;
            kept.insert(sink.into(), (position, version));
            Ok(version)
        }
    }

    impl World {
        /// The indices that a place has got.
        fn indices(&self, sink: &str) -> Vec<u64> {
            let taken = self.taken.borrow();
            let index =
                |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap()["index"].as_u64().unwrap();
            taken.get(sink).into_iter().flatten().map(index).collect()
        }
    }

    fn run(forwarder: &mut Forwarder<Way>, now: u64, log: &Memory, world: &World) {
        while forwarder.step(now, log, &Redaction::default(), world) != Next::Quiet {}
    }

    fn forwarder(rules: &str) -> Forwarder<Way> {
        Forwarder::new(Rule::parse(rules).unwrap())
    }

    #[test]
    fn everything_arrives_once_and_in_order_and_a_new_beginning_goes_on_there() {
        let (log, world) = (Memory::default(), World::default());
        (0..1234).for_each(|_| log.add(None, "a.one"));
        run(&mut forwarder("siem=json"), 0, &log, &world);
        (0..3).for_each(|_| log.add(None, "a.one"));
        run(&mut forwarder("siem=json"), 0, &log, &world);
        assert_eq!(world.indices("siem"), (0..1237).collect::<Vec<_>>());
    }

    #[test]
    fn a_place_that_is_down_is_tried_after_longer_and_longer_and_gets_everything_once_it_is_back() {
        let (log, world) = (Memory::default(), World::default());
        (0..10).for_each(|_| log.add(None, "a"));
        world.down.borrow_mut().insert("siem".into(), 0);
        let mut forwarder = forwarder("siem=json, archive=json");
        let mut at = Vec::new();
        for second in 0..300 {
            let before = world.down.borrow()["siem"];
            run(&mut forwarder, second * 1000, &log, &world);
            if world.down.borrow()["siem"] > before {
                at.push(second);
            }
        }
        assert_eq!(at, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert_eq!(world.indices("archive"), (0..10).collect::<Vec<_>>(), "it waits for nobody");
        world.down.borrow_mut().clear();
        run(&mut forwarder, 303_000, &log, &world);
        assert_eq!(world.indices("siem"), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_takes_its_time_is_given_nothing_more_meanwhile() {
        let (log, world) = (Memory::default(), World::default());
        (0..10).for_each(|_| log.add(None, "a"));
        world.slow.set(true);
        let mut forwarder = forwarder("siem=json");
        for _ in 0..5 {
            assert_eq!(forwarder.step(0, &log, &Redaction::default(), &world), Next::Soon);
        }
        assert_eq!(world.attempts.get(), 1);
    }

    #[test]
    fn what_did_not_end_well_is_repeated_and_what_somebody_else_has_delivered_is_not() {
        let (log, world) = (Memory::default(), World::default());
        (0..10).for_each(|_| log.add(None, "a"));
        let (mut old, mut new) = (forwarder("siem=json"), forwarder("siem=json"));
        old.step(0, &log, &Redaction::default(), &world);
        run(&mut new, 0, &log, &world);
        (0..5).for_each(|_| log.add(None, "a"));
        run(&mut new, 0, &log, &world);
        run(&mut old, 0, &log, &world);
        run(&mut old, 2_000, &log, &world);
        let got = world.indices("siem");
        assert_eq!(got[..15], (0..15).collect::<Vec<_>>());
        assert_eq!(got[15..], (0..10).collect::<Vec<_>>(), "once more, because nobody knew, and then no more");
        assert_eq!(world.kept.borrow()["siem"].0, 15, "it never goes back");
    }

    #[test]
    fn a_log_that_begins_anew_is_forwarded_from_its_beginning() {
        let (log, anew, world) = (Memory::default(), Memory::default(), World::default());
        (0..10).for_each(|_| log.add(None, "a"));
        run(&mut forwarder("siem=json"), 0, &log, &world);
        run(&mut forwarder("siem=json"), 0, &anew, &world);
        (0..3).for_each(|_| anew.add(None, "a"));
        run(&mut forwarder("siem=json"), 0, &anew, &world);
        assert_eq!(world.indices("siem")[10..], [0, 1, 2]);
        assert_eq!(world.kept.borrow()["siem"].0, 3);
    }

    #[test]
    fn a_rule_leaves_out_what_it_does_not_name_and_what_was_pruned_is_passed_over() {
        let (log, world) = (Memory::default(), World::default());
        (0..1200).for_each(|n| log.add(None, if n % 100 == 0 { "session.begin" } else { "sessions" }));
        log.first.set(256);
        run(&mut forwarder("siem=json:session"), 0, &log, &world);
        assert_eq!(world.indices("siem"), (3..12).map(|n| n * 100).collect::<Vec<_>>());
    }

    #[test]
    fn a_syslog_message_has_the_head_that_rfc_5424_asks_for() {
        let rule = &Rule::parse("wall=syslog-line").unwrap()[0];
        let text = String::from_utf8(rule.entry(7, whole())).unwrap();
        let head = r#"<108>1 2023-11-14T22:13:20.123456Z - astrid - bus.system.v1.status [meta sequenceId="8"] "#;
        assert_eq!(text.strip_prefix(head), Entry::new(7, whole(), Format::Line).line.as_deref(), "{text}");
        let odd = Fact { action: "a b\n".repeat(20), outcome: Outcome::Failed, ..whole() };
        let text = String::from_utf8(rule.entry(0, odd)).unwrap();
        assert!(text.starts_with("<107>1 ") && text.split(' ').nth(5).unwrap().len() <= 32, "{text}");
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_rule_that_is_none_is_refused_by_name() {
        assert_eq!(Rule::parse(" , "), Ok(vec![]));
        for rule in ["siem", "siem=xml", "=json", "siem=json:", "siem=syslog", "a=json,a=cef"] {
            assert!(Rule::parse(&format!("ok=cef,{rule}")).unwrap_err().contains('`'), "{rule}");
        }
        let many: Vec<String> = (0..=MAX_RULES).map(|n| format!("s{n}=json")).collect();
        assert!(Rule::parse(&many.join(",")).is_err());
    }
}
