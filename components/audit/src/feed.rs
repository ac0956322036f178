//! Who follows the log, and what they are told of it.
//!
//! A follower is a principal that has published `audit.v1.follow`: from then on, for as long as that message's `caller` acts,
//! what is recorded is published as `audit.v1.fact` on its behalf, so that its own subscriptions get it and nobody else's.
//! Facts are filtered before they are published. Each is read once, however many follow.
//!
//! Bounded by [`MAX_FOLLOWERS`]; what lies behind a follower's beginning is made up for up to [`MAX_CATCH_UP`] facts; what is
//! published at once has [`MAX_TOLD`] entries and about [`MAX_TOLD_BYTES`]. Refuses to know who listens, and how events
//! travel on.

use std::collections::BTreeMap;

use astrid_sdk::bus::{self, Failure};
use astrid_sdk::journal::{Error, Recorded};
use serde::{Deserialize, Serialize};

use crate::fact::Redaction;
use crate::format::{Entry, Format};
use crate::log::Log;
use crate::query::{Reader, read};

/// For so long after a loop has begun, the one before may still hand over its followers, each with its index, in
/// milliseconds. Who follows without one until then is not taken for somebody new.
const HAND_OVER_MS: u64 = 12_000;

/// The topic on which facts are told.
pub const FACT: &str = "audit.v1.fact";
/// Principals that follow at the same time, each by a handle, of which an instance has 1024. One more is told that it misses
/// everything, whenever it tries again.
pub const MAX_FOLLOWERS: usize = 1000;
/// The most facts that are looked through to make up for what a follower asks for from before.
pub const MAX_CATCH_UP: u64 = 2000;
/// Entries of one message.
pub const MAX_TOLD: usize = 64;
/// Bytes of entries after which no further one goes into the same message.
pub const MAX_TOLD_BYTES: usize = 48 << 10;
/// Facts that are read at once.
const PAGE: u32 = 500;
/// A `caller` acts for 300 seconds. This long before, its follower is asked to say again that it follows, in milliseconds.
const RENEW_AFTER_MS: u64 = 200_000;
/// How often it is asked, in milliseconds.
const ASK_EVERY_MS: u64 = 30_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    #[serde(default)]
    pub from: Option<u64>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    pub entries: Vec<Entry>,
    pub lost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_from: Option<u64>,
}

/// Whoever sent a message, as long as it may be acted for.
pub trait Behalf {
    /// Whether it may see everybody's facts.
    fn sees_all(&self) -> bool;
    /// Publishes on its behalf.
    fn tell(&self, told: &Told) -> Result<u32, Failure>;
}

impl Behalf for bus::Caller {
    fn sees_all(&self) -> bool {
        self.holds(crate::READ_ALL, None)
    }

    fn tell(&self, told: &Told) -> Result<u32, Failure> {
        self.publish_json(FACT, told)
    }
}

struct Follower<B> {
    behalf: B,
    /// It was told everything from here on.
    from: u64,
    /// When it said that it follows, and when it was asked to say so again: milliseconds of the caller's clock.
    since: u64,
    asked: u64,
    /// What it could not be told, until it is.
    lost: u64,
}

pub struct Feed<B> {
    followers: BTreeMap<String, Follower<B>>,
    /// The first index that was not read yet.
    position: u64,
    /// When it began: milliseconds of the caller's clock.
    began: u64,
}

impl<B: Behalf> Feed<B> {
    /// One that nobody follows yet, at `now` in milliseconds.
    pub fn new(now: u64) -> Self {
        Self { followers: BTreeMap::new(), position: 0, began: now }
    }

    /// Whether nobody follows.
    pub fn is_idle(&self) -> bool {
        self.followers.is_empty()
    }

    /// The first index that was not read yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Somebody says, at `now`, that it follows.
    ///
    /// # Errors
    /// As [`Log::entries`].
    pub fn follow(
        &mut self,
        principal: &str,
        behalf: B,
        follow: &Follow,
        now: u64,
        log: &impl Log,
        redaction: &Redaction,
    ) -> Result<(), Error> {
        if self.is_idle() {
            self.position = log.size();
        }
        let known = self.followers.remove(principal);
        if known.is_none() && follow.from.is_none() && now.saturating_sub(self.began) < HAND_OVER_MS {
            return Ok(());
        }
        let until = known.as_ref().map_or(self.position, |known| known.from);
        let wanted = follow.from.map_or(until, |from| from.min(until));
        let from = wanted.max(until.saturating_sub(MAX_CATCH_UP));
        // Whoever begins without saying where, or too far back, is told that something may be missing.
        let unsaid = u64::from(follow.from.is_none());
        let mut lost = (from - wanted) + known.as_ref().map_or(unsaid, |known| known.lost);
        if known.is_none() && self.followers.len() >= MAX_FOLLOWERS {
            let _ = behalf.tell(&Told { lost: lost.max(1), ..Told::default() });
            return Ok(());
        }
        if from == until && lost > 0 && known.is_none() {
            let _ = behalf.tell(&Told { lost, ..Told::default() });
            lost = 0;
        }
        let mut follower = Follower { behalf, from, since: now, asked: now, lost };
        let mut next = from;
        while next < until {
            let page = log.entries(next, PAGE)?;
            let facts: Vec<&Recorded> = page.facts.iter().filter(|recorded| recorded.index < until).collect();
            if follower.tell(principal, &facts, redaction).is_err() {
                return Ok(());
            }
            match page.next {
                Some(on) => next = on,
                None => break,
            }
        }
        self.followers.insert(principal.to_owned(), follower);
        Ok(())
    }

    /// Tells everybody what was recorded since, and asks those who have not been heard of for a while, at `now`, whether
    /// they still follow.
    ///
    /// # Errors
    /// As [`Log::entries`].
    pub fn tell(&mut self, now: u64, log: &impl Log, redaction: &Redaction) -> Result<(), Error> {
        if self.position < log.size() {
            let page = log.entries(self.position, PAGE)?;
            let facts: Vec<&Recorded> = page.facts.iter().collect();
            self.followers.retain(|principal, follower| follower.tell(principal, &facts, redaction).is_ok());
            let read = page.facts.last().map(|last| last.index + 1);
            self.position = self.position.max(read.unwrap_or(0)).max(page.next.unwrap_or(0));
        }
        let position = self.position;
        self.followers.retain(|_, follower| {
            let due = now.saturating_sub(follower.since) >= RENEW_AFTER_MS
                && now.saturating_sub(follower.asked) >= ASK_EVERY_MS;
            if due {
                follower.asked = now;
            }
            !due || follower.publish(Told { renew_from: Some(position), ..Told::default() }).is_ok()
        });
        Ok(())
    }

    /// Asks everybody to go on following whoever comes next, from where this ends.
    pub fn hand_over(self) {
        let renew_from = Some(self.position);
        for mut follower in self.followers.into_values() {
            let _ = follower.publish(Told { renew_from, ..Told::default() });
        }
    }
}

/// It may not be acted for any more.
struct Gone;

impl<B: Behalf> Follower<B> {
    /// What it may see of these.
    fn tell(&mut self, principal: &str, facts: &[&Recorded], redaction: &Redaction) -> Result<(), Gone> {
        let reader = Reader { principal, all: self.behalf.sees_all() };
        let (mut told, mut bytes) = (Told::default(), 0);
        for recorded in facts {
            let Some(fact) = read(recorded).filter(|fact| reader.sees(fact)) else { continue };
            let entry = Entry::new(recorded.index, redaction.apply(fact), Format::Json);
            bytes += recorded.fact.len();
            told.entries.push(entry);
            if told.entries.len() >= MAX_TOLD || bytes >= MAX_TOLD_BYTES {
                self.publish(std::mem::take(&mut told))?;
                bytes = 0;
            }
        }
        if told.entries.is_empty() { Ok(()) } else { self.publish(told) }
    }

    /// Publishes it; what can't be now is counted, and told with the next.
    fn publish(&mut self, told: Told) -> Result<(), Gone> {
        let told = Told { lost: self.lost, ..told };
        match self.behalf.tell(&told) {
            Ok(_) => self.lost = 0,
            Err(Failure::Overloaded(_) | Failure::TooLarge(_)) => self.lost += told.entries.len() as u64,
            Err(_) => return Err(Gone),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::log::fake::Memory;

    /// What one principal's subscriptions got, and how the next publications fail.
    #[derive(Default, Clone)]
    struct Ear {
        all: bool,
        told: Rc<RefCell<Vec<Told>>>,
        failure: Rc<RefCell<Option<Failure>>>,
    }

    impl Behalf for Ear {
        fn sees_all(&self) -> bool {
            self.all
        }

        fn tell(&self, told: &Told) -> Result<u32, Failure> {
            if let Some(failure) = &*self.failure.borrow() {
                return Err(failure.clone());
            }
            let told = Told { entries: told.entries.clone(), ..*told };
            self.told.borrow_mut().push(told);
            Ok(1)
        }
    }

    impl Ear {
        /// The indices that it got since the last time, how many it knows to be lost, and what it was asked.
        fn got(&self) -> (Vec<u64>, u64, Option<u64>) {
            let told = self.told.take();
            let indices = told.iter().flat_map(|told| told.entries.iter().map(|entry| entry.index)).collect();
            (
                indices,
                told.iter().map(|told| told.lost).sum(),
                told.iter().filter_map(|told| told.renew_from).next_back(),
            )
        }
    }

    struct World {
        log: Memory,
        feed: Feed<Ear>,
        now: u64,
    }

    impl World {
        fn new() -> Self {
            Self { log: Memory::default(), feed: Feed::new(1), now: 1 }
        }

        fn add(&self, principal: &str) {
            self.log.add(Some(principal), "a");
        }

        fn follow(&mut self, principal: &str, ear: &Ear, from: Option<u64>) {
            let follow = Follow { from };
            let redaction = Redaction::default();
            self.feed.follow(principal, ear.clone(), &follow, self.now, &self.log, &redaction).unwrap();
        }

        fn tell(&mut self) {
            while self.feed.position() < self.log.size() {
                self.feed.tell(self.now, &self.log, &Redaction::default()).unwrap();
            }
            self.feed.tell(self.now, &self.log, &Redaction::default()).unwrap();
        }
    }

    #[test]
    fn everybody_is_told_their_own_and_who_may_read_all_everything() {
        let mut world = World::new();
        let (alice, root) = (Ear::default(), Ear { all: true, ..Ear::default() });
        world.add("alice");
        world.follow("alice", &alice, Some(1));
        world.follow("root", &root, Some(1));
        for _ in 0..100 {
            world.add("alice");
            world.add("bob");
        }
        world.tell();
        assert_eq!(alice.got(), ((1..201).step_by(2).collect(), 0, None));
        assert_eq!(root.got(), ((1..201).collect(), 0, None));
    }

    #[test]
    fn what_was_recorded_between_the_question_and_the_beginning_is_made_up_for() {
        let mut world = World::new();
        let (first, second) = (Ear::default(), Ear::default());
        world.follow("alice", &first, Some(0));
        (0..10).for_each(|_| world.add("bob"));
        world.tell();
        world.follow("bob", &second, Some(4));
        assert_eq!(second.got().0, [4, 5, 6, 7, 8, 9]);
        world.follow("bob", &second, Some(2));
        assert_eq!(second.got().0, [2, 3], "somebody else's who is of the same principal");
        world.follow("bob", &second, Some(5));
        world.follow("bob", &second, None);
        world.add("bob");
        world.tell();
        assert_eq!(second.got(), (vec![10], 0, None));
    }

    #[test]
    fn who_does_not_say_from_where_or_from_too_far_back_is_told_that_something_is_missing() {
        let mut world = World::new();
        let (none, far, first) = (Ear::default(), Ear::default(), Ear::default());
        world.follow("first", &first, Some(0));
        (0..MAX_CATCH_UP + 5).for_each(|_| world.add("far"));
        world.tell();
        world.now += HAND_OVER_MS;
        world.follow("none", &none, None);
        assert_eq!(none.got(), (vec![], 1, None));
        world.follow("far", &far, Some(0));
        let (indices, lost, _) = far.got();
        assert_eq!((indices.len() as u64, lost, indices[0]), (MAX_CATCH_UP, 5, 5));
    }

    #[test]
    fn who_is_over_its_rate_is_told_how_much_it_missed_and_holds_up_nobody() {
        let mut world = World::new();
        let (poor, rich) = (Ear::default(), Ear { all: true, ..Ear::default() });
        world.follow("poor", &poor, Some(0));
        world.follow("rich", &rich, Some(0));
        *poor.failure.borrow_mut() = Some(Failure::Overloaded(1));
        (0..3).for_each(|_| world.add("poor"));
        world.tell();
        *poor.failure.borrow_mut() = None;
        world.add("poor");
        world.tell();
        assert_eq!(poor.got(), (vec![3], 3, None));
        assert_eq!(rich.got().0, [0, 1, 2, 3]);
    }

    #[test]
    fn who_does_not_answer_any_more_is_forgotten() {
        let mut world = World::new();
        let ear = Ear::default();
        world.follow("alice", &ear, Some(0));
        world.now += RENEW_AFTER_MS;
        world.tell();
        assert_eq!(ear.got().2, Some(0));
        world.now += ASK_EVERY_MS - 1;
        world.tell();
        assert_eq!(ear.got().2, None, "it was asked a moment ago");
        *ear.failure.borrow_mut() = Some(Failure::Timeout);
        world.add("alice");
        world.tell();
        assert!(world.feed.is_idle());
        *ear.failure.borrow_mut() = None;
        world.follow("alice", &ear, Some(1));
        world.now += RENEW_AFTER_MS - 1;
        world.follow("alice", &ear, None);
        world.now += RENEW_AFTER_MS - 1;
        world.tell();
        assert_eq!(ear.got(), (vec![], 0, None), "it has just said so");
    }

    #[test]
    fn who_finds_no_room_is_told_so() {
        let mut world = World::new();
        let (ear, late) = (Ear::default(), Ear::default());
        (0..MAX_FOLLOWERS).for_each(|n| world.follow(&n.to_string(), &ear, Some(0)));
        world.follow("late", &late, Some(0));
        assert_eq!(late.got(), (vec![], 1, None));
        world.follow("7", &ear, Some(0));
        world.add("late");
        world.tell();
        assert_eq!((late.got().0, ear.got().1), (vec![], 0));
    }

    #[test]
    fn whoever_comes_next_goes_on_where_this_ends() {
        let mut world = World::new();
        let ear = Ear::default();
        world.follow("alice", &ear, Some(0));
        world.add("alice");
        world.tell();
        std::mem::replace(&mut world.feed, Feed::new(world.now)).hand_over();
        world.add("alice");
        let (indices, _, from) = ear.got();
        assert_eq!(indices, [0]);
        world.follow("alice", &ear, None);
        assert!(world.feed.is_idle(), "it will say from where");
        world.follow("alice", &ear, from);
        world.follow("alice", &ear, from);
        world.add("alice");
        world.tell();
        assert_eq!(ear.got(), (vec![1, 2], 0, None));
    }
}
