//! What waits for one subscription: lossless, lossy or latest, with every loss told.
//!
//! Pure: no lock, no clock, no tasks. A [`FairQueue`] of one class holds the letters; this adds what becomes of the one
//! that does not fit. Who pushes into a full lossless mailbox is asked to wait: its letter is kept, and its `waiter` comes
//! back when the letter is taken or everything fits again. So a mailbox holds its budget, and one letter for each who
//! waits. One whose reader has stalled drops as a lossy one does, until something is taken.
//!
//! A loss is told in its place: before the next letter of that principal, or when nothing else waits.

use std::collections::BTreeMap;

use astrid_capsule::manifest::Delivery;

use super::fair::{FairQueue, Pushed};

/// Principals whose losses are kept apart; beyond that, the loss of a new one is told as that of the last one.
pub const MAX_LOSERS: usize = 10_000;

pub struct Mailbox<K, T, W> {
    delivery: Delivery,
    budget: usize,
    queue: FairQueue<K, Letter<K, T>>,
    /// Losses behind everything that waits of that principal.
    lost: BTreeMap<K, u64>,
    /// Who waits for room, by the letter's serial.
    waiters: BTreeMap<u64, W>,
    serial: u64,
    stalled: bool,
    /// What comes after the loss that was told last.
    next: Option<(K, T)>,
}

struct Letter<K, T> {
    key: K,
    serial: u64,
    /// Lost in front of it.
    lost: u64,
    value: T,
}

/// What became of a letter.
#[derive(Debug, PartialEq, Eq)]
pub enum Posted<W> {
    Taken,
    /// Taken, and whoever brought it should wait until its waiter comes back.
    Full,
    /// Taken; so many others had to go.
    Evicted(u64),
    /// There was no room, and that will be told.
    Refused(W),
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Mail<K, T> {
    Letter(K, T),
    /// So many of this principal's are missing here.
    Gap(K, u64),
}

/// Beyond which letters have to go.
fn bound(delivery: Delivery, budget: usize) -> usize {
    if delivery == Delivery::Lossless { usize::MAX } else { budget }
}

impl<K: Clone + Eq + std::hash::Hash + Ord, T, W> Mailbox<K, T, W> {
    pub fn new(delivery: Delivery, budget: usize) -> Self {
        Self {
            delivery,
            budget,
            queue: FairQueue::new(bound(delivery, budget)),
            lost: BTreeMap::new(),
            waiters: BTreeMap::new(),
            serial: 0,
            stalled: false,
            next: None,
        }
    }

    /// Another delivery and budget, from the next letter on. Whoever waits for room comes back, unless it goes on being lossless.
    pub fn change(&mut self, delivery: Delivery, budget: usize) -> Vec<W> {
        (self.delivery, self.budget) = (delivery, budget);
        self.queue.set_budget(bound(delivery, budget));
        if delivery == Delivery::Lossless {
            Vec::new()
        } else {
            std::mem::take(&mut self.waiters).into_values().collect()
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Principals with letters that wait.
    pub fn active(&self) -> usize {
        self.queue.active()
    }

    /// Bytes that wait of one principal.
    pub fn held(&self, key: &K) -> usize {
        self.queue.held(key)
    }

    /// Letters that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Neither a letter nor a loss to tell.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.lost.is_empty() && self.next.is_none()
    }

    /// `same`: whether a waiting letter is what this one replaces, where the delivery is `latest`.
    pub fn post(&mut self, key: K, size: usize, value: T, same: impl Fn(&T) -> bool, waiter: W) -> Posted<W> {
        if self.delivery == Delivery::Lossless && self.stalled && self.queue.bytes() + size > self.budget {
            self.lose(key, 1);
            return Posted::Refused(waiter);
        }
        self.serial += 1;
        let serial = self.serial;
        let mut letter = Letter { key: key.clone(), serial, lost: 0, value };
        if self.delivery == Delivery::Latest {
            letter = match self.queue.replace(&key, |letter| same(&letter.value), size, letter) {
                // What was lost in front of the older one is told after the newer one.
                Ok(older) => {
                    self.lose(key, older.lost);
                    return Posted::Taken;
                }
                Err(letter) => letter,
            };
        }
        letter.lost = self.lost.remove(&key).unwrap_or(0);
        match self.queue.push(key.clone(), size, letter) {
            Pushed::Queued if self.delivery == Delivery::Lossless && self.queue.bytes() > self.budget => {
                self.waiters.insert(serial, waiter);
                Posted::Full
            }
            Pushed::Queued => Posted::Taken,
            Pushed::Evicted(gone) => {
                let count = gone.len() as u64;
                for letter in gone {
                    self.lose(letter.key, 1 + letter.lost);
                }
                Posted::Evicted(count)
            }
            Pushed::Refused(letter) => {
                self.lose(key, 1 + letter.lost);
                Posted::Refused(waiter)
            }
        }
    }

    /// A letter of this principal is lost before it got here.
    pub fn refuse(&mut self, key: K) {
        self.lose(key, 1);
    }

    /// The next letter or loss, and who waits no more because of it.
    pub fn take(&mut self) -> (Option<Mail<K, T>>, Vec<W>) {
        self.stalled = false;
        if let Some((key, value)) = self.next.take() {
            return (Some(Mail::Letter(key, value)), Vec::new());
        }
        let Some((key, letter)) = self.queue.pop() else {
            return (self.lost.pop_first().map(|(key, lost)| Mail::Gap(key, lost)), Vec::new());
        };
        self.queue.release(&key);
        let mut done = Vec::new();
        if self.queue.bytes() <= self.budget {
            done.extend(std::mem::take(&mut self.waiters).into_values());
        } else {
            done.extend(self.waiters.remove(&letter.serial));
        }
        if letter.lost == 0 {
            return (Some(Mail::Letter(key, letter.value)), done);
        }
        self.next = Some((key.clone(), letter.value));
        (Some(Mail::Gap(key, letter.lost)), done)
    }

    /// Gives back the letter that was taken last. It waits in front of its principal's others, and they with it until
    /// [`Self::resume`].
    pub fn set_aside(&mut self, key: K, size: usize, value: T) {
        self.queue.put_back(key.clone(), size, Letter { key, serial: 0, lost: 0, value });
    }

    /// What was set aside of this principal comes out again.
    pub fn resume(&mut self, key: &K) {
        self.queue.release(key);
    }

    /// The reader takes nothing any more: nobody waits for it until it does.
    pub fn stall(&mut self) -> Vec<W> {
        self.stalled = true;
        std::mem::take(&mut self.waiters).into_values().collect()
    }

    fn lose(&mut self, key: K, count: u64) {
        if count == 0 {
            return;
        }
        if self.lost.len() >= MAX_LOSERS && !self.lost.contains_key(&key) {
            if let Some(mut last) = self.lost.last_entry() {
                *last.get_mut() += count;
            }
            return;
        }
        *self.lost.entry(key).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Box = Mailbox<u32, (u32, u32), u32>;

    fn post(mailbox: &mut Box, key: u32, size: usize, value: u32) -> Posted<u32> {
        mailbox.post(key, size, (key, value), |_| false, value)
    }

    fn letter(key: u32, value: u32) -> Option<Mail<u32, (u32, u32)>> {
        Some(Mail::Letter(key, (key, value)))
    }

    #[test]
    fn a_lossless_one_keeps_everything_and_whoever_fills_it_waits_until_there_is_room() {
        let mut mailbox = Box::new(Delivery::Lossless, 5000);
        assert_eq!(post(&mut mailbox, 1, 4000, 10), Posted::Taken);
        assert_eq!(post(&mut mailbox, 1, 4000, 11), Posted::Full);
        assert_eq!(post(&mut mailbox, 2, 500, 20), Posted::Full);
        assert_eq!(mailbox.take(), (letter(1, 10), vec![11, 20]));
        assert_eq!((mailbox.take().0, mailbox.take().0), (letter(2, 20), letter(1, 11)));
        assert!(mailbox.take() == (None, vec![]) && mailbox.is_empty());
    }

    #[test]
    fn whoever_waits_goes_on_when_its_own_letter_is_taken_although_it_is_still_full() {
        let mut mailbox = Box::new(Delivery::Lossless, 4000);
        assert_eq!(post(&mut mailbox, 1, 4000, 10), Posted::Taken);
        for n in 11..20 {
            assert_eq!(post(&mut mailbox, 1, 4000, n), Posted::Full);
        }
        assert_eq!(post(&mut mailbox, 2, 500, 20), Posted::Full);
        let mut taken = Vec::new();
        while !taken.contains(&20) {
            let (mail, done) = mailbox.take();
            assert!(mail.is_some());
            taken.extend(done);
        }
        assert!(taken.len() <= 3, "a polite one does not wait for a flooder: {taken:?}");
    }

    #[test]
    fn a_reader_that_has_stalled_holds_nobody_up_and_is_told_what_it_missed() {
        let mut mailbox = Box::new(Delivery::Lossless, 100);
        post(&mut mailbox, 1, 80, 10);
        assert_eq!(post(&mut mailbox, 1, 80, 11), Posted::Full);
        assert_eq!(mailbox.stall(), [11]);
        assert_eq!(post(&mut mailbox, 1, 80, 12), Posted::Refused(12));
        assert_eq!(mailbox.take().0, letter(1, 10));
        assert_eq!(post(&mut mailbox, 1, 10, 13), Posted::Taken);
        assert_eq!(mailbox.take().0, letter(1, 11));
        assert_eq!((mailbox.take().0, mailbox.take().0), (Some(Mail::Gap(1, 1)), letter(1, 13)));
    }

    #[test]
    fn a_lossy_one_tells_a_loss_where_it_happened() {
        let mut mailbox = Box::new(Delivery::Lossy, 100);
        post(&mut mailbox, 1, 50, 10);
        post(&mut mailbox, 1, 50, 11);
        assert_eq!(post(&mut mailbox, 1, 50, 12), Posted::Refused(12));
        assert_eq!(mailbox.take().0, letter(1, 10));
        assert_eq!(post(&mut mailbox, 1, 50, 13), Posted::Taken);
        assert_eq!(post(&mut mailbox, 2, 10, 20), Posted::Evicted(1));
        assert_eq!(mailbox.take().0, letter(1, 11));
        assert_eq!(mailbox.take().0, letter(2, 20));
        // Both that were lost lie behind everything that was left.
        assert_eq!(mailbox.take().0, Some(Mail::Gap(1, 2)));
        assert!(mailbox.is_empty());
    }

    #[test]
    fn the_latest_replaces_what_waits_of_the_same_topic() {
        let mut mailbox = Box::new(Delivery::Latest, 100);
        let mut post = |key: u32, topic: u32, size| mailbox.post(key, size, (topic, key), |w| w.0 == topic, 0);
        assert_eq!(post(1, 5, 40), Posted::Taken);
        assert_eq!(post(1, 6, 40), Posted::Taken);
        assert_eq!(post(1, 5, 50), Posted::Taken);
        assert_eq!(post(2, 5, 10), Posted::Taken);
        assert_eq!(mailbox.len(), 3);
        assert_eq!(mailbox.bytes(), 100);
    }

    #[test]
    fn what_is_set_aside_comes_out_in_order_when_it_is_resumed_and_nobody_waits_for_it() {
        let mut mailbox = Box::new(Delivery::Lossless, 10_000);
        for (key, value) in [(1, 10), (1, 11), (2, 20), (2, 21)] {
            post(&mut mailbox, key, 50, value);
        }
        assert_eq!(mailbox.take().0, letter(1, 10));
        mailbox.set_aside(1, 50, (1, 10));
        assert_eq!((mailbox.len(), mailbox.bytes()), (4, 200));
        assert_eq!((mailbox.take().0, mailbox.take().0), (letter(2, 20), letter(2, 21)));
        assert!(mailbox.take().0.is_none() && !mailbox.is_empty());
        post(&mut mailbox, 1, 50, 12);
        mailbox.resume(&1);
        for value in 10..13 {
            assert_eq!(mailbox.take().0, letter(1, value));
        }
        assert!(mailbox.is_empty() && mailbox.bytes() == 0);
    }

    #[test]
    fn a_change_keeps_what_waits_and_lets_go_whoever_waits_for_what_is_no_longer_lossless() {
        let mut mailbox = Box::new(Delivery::Lossless, 100);
        post(&mut mailbox, 1, 80, 10);
        assert_eq!(post(&mut mailbox, 1, 80, 11), Posted::Full);
        assert!(mailbox.change(Delivery::Lossless, 120).is_empty());
        assert_eq!(mailbox.change(Delivery::Lossy, 160), [11]);
        assert_eq!(post(&mut mailbox, 1, 80, 12), Posted::Refused(12));
        assert_eq!((mailbox.take().0, mailbox.take().0), (letter(1, 10), letter(1, 11)));
        assert_eq!(mailbox.take().0, Some(Mail::Gap(1, 1)));
        assert!(mailbox.change(Delivery::Lossless, 50).is_empty());
        post(&mut mailbox, 1, 80, 13);
        assert_eq!(post(&mut mailbox, 1, 80, 14), Posted::Full);
    }

    #[test]
    fn losers_are_bounded_and_every_loss_is_counted() {
        let mut mailbox = Box::new(Delivery::Lossy, 10);
        let many = MAX_LOSERS as u32 + 50;
        assert_eq!(post(&mut mailbox, many, 10, 0), Posted::Taken);
        for key in 0..many {
            assert_eq!(post(&mut mailbox, key, 20, 0), Posted::Refused(0));
        }
        assert_eq!(mailbox.take().0, letter(many, 0));
        let (mut told, mut gaps) = (0, 0);
        while let (Some(Mail::Gap(_, lost)), _) = mailbox.take() {
            told += lost;
            gaps += 1;
        }
        assert_eq!((told, gaps), (u64::from(many), MAX_LOSERS));
    }

    proptest! {
        /// Whatever happens, what was posted is what comes out and what is told as lost, in each principal's order.
        #[test]
        fn every_letter_comes_out_once_and_in_order_or_is_told_as_lost(
            delivery in prop::sample::select(vec![Delivery::Lossless, Delivery::Lossy]),
            steps in prop::collection::vec((0u32..4, 1usize..6000, 0u8..10), 1..300),
        ) {
            let mut mailbox = Box::new(delivery, 20_000);
            let (mut posted, mut seen) = ([0u32; 4], [0u64; 4]);
            let mut waiting = Vec::new();
            let mut stalled = false;
            let look = |mail, seen: &mut [u64; 4]| match mail {
                Mail::Letter(key, (_, number)) => {
                    // Numbers count up from 0: what is in front of this one was seen or told.
                    assert_eq!(u64::from(number), seen[key as usize]);
                    seen[key as usize] += 1;
                }
                Mail::Gap(key, lost) => seen[key as usize] += lost,
            };
            for (key, size, action) in steps {
                match action {
                    0..6 => {
                        let number = posted[key as usize];
                        posted[key as usize] += 1;
                        let waiter = number * 4 + key;
                        match mailbox.post(key, size, (key, number), |_| false, waiter) {
                            Posted::Full => waiting.push(waiter),
                            Posted::Refused(_) => prop_assert!(stalled || delivery == Delivery::Lossy),
                            Posted::Evicted(_) => prop_assert!(delivery == Delivery::Lossy),
                            Posted::Taken => {}
                        }
                    }
                    6..9 => {
                        stalled = false;
                        let (mail, done) = mailbox.take();
                        waiting.retain(|waiter| !done.contains(waiter));
                        mail.into_iter().for_each(|mail| look(mail, &mut seen));
                    }
                    _ => {
                        stalled = true;
                        mailbox.stall();
                        waiting.clear();
                    }
                }
                prop_assert!(delivery == Delivery::Lossless || mailbox.bytes() <= 20_000);
                prop_assert!(waiting.is_empty() || mailbox.bytes() > 20_000);
            }
            while let (Some(mail), _) = mailbox.take() {
                look(mail, &mut seen);
            }
            prop_assert_eq!(posted.map(u64::from), seen);
        }
    }
}
