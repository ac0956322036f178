//! Subscriptions: messages as they are published, for code that waits for them.
//!
//! Owns which open subscriptions a publication reaches, and what waits in each ([`mailbox`](super::mailbox)). A reader is
//! a principal, who gets its own messages and nobody else's, or a capsule's run loop, which gets everybody's while its
//! generation is the live one.
//! Bounded by: a budget for each subscription, [`MAX_OPEN`] and [`OWN_BYTES`] for each principal. Publishing costs what
//! matches of the sender's own and of the run loops', however many others there are.
//! Refuses to know: wasm, what is in a payload.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};
use std::time::Duration;

use astrid_capsule::PrincipalId;
use astrid_capsule::manifest::{Delivery, Subscribe};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::mailbox::{Mail, Mailbox, Posted};
use super::routes::Index;
use super::{Failure, Message, events};
use crate::authority::{Authority, Mandate};
use crate::meter::ledger::Wait;

/// Subscriptions of one principal at once.
pub const MAX_OPEN: usize = 4096;
/// Bytes that may wait in all subscriptions of one principal, and of one principal's messages in a run loop's; what exceeds
/// them is lost and told.
pub const OWN_BYTES: usize = 16 << 20;
/// Topics of one subscription.
pub const MAX_TOPICS: usize = 16;
/// How long a publisher waits for one that takes nothing.
pub const STALL: Duration = Duration::from_secs(30);

/// Whose messages a subscription gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reader {
    /// Within the mandate with which it was opened.
    Principal(PrincipalId, Mandate),
    /// Everybody's, while this generation of the capsule is the live one.
    Loop { capsule: Arc<str>, generation: u64 },
}

/// One open subscription. Ends for publishers when the last [`Open`] of it is dropped.
pub struct Subscription {
    reader: Reader,
    bindings: Vec<Subscribe>,
    delivery: Delivery,
    budget: usize,
    pile: Arc<Pile>,
    turn: Mutex<Turn>,
}

/// What waits: of one subscription, or of two while a run loop hands over to the next version's.
struct Pile {
    queue: Mutex<Queue>,
    arrived: Notify,
    /// Bytes that wait in all of the principal's subscriptions.
    account: Arc<AtomicUsize>,
}

struct Queue {
    mailbox: Mailbox<PrincipalId, Arc<Message>, oneshot::Sender<()>>,
    ended: bool,
    /// Open subscriptions that it is the queue of.
    open: usize,
    /// Principals whose messages wait for their rate, and until when.
    aside: BTreeMap<PrincipalId, Instant>,
}

/// Whether a subscription's reader gets what is in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Reading,
    /// Not yet: it waits as if nothing was there.
    Held,
    /// No more: it is told that it has ended, whatever waits.
    Stopped,
}

/// What a run loop is given, with what judging it gave; or, where nothing can be given now, when to look again.
enum Judged<C> {
    Given(Mail<PrincipalId, Arc<Message>>, Option<C>),
    Nothing(Option<Instant>),
}

/// Ends when there is room again, or nobody who would make some.
pub(super) type Room = oneshot::Receiver<()>;

/// What became of a message at one subscription.
pub(super) enum Offered {
    Taken,
    /// Taken; whoever published should wait for this.
    Full(Room),
    Lost,
    /// It takes nothing any more.
    Ended,
}

impl Subscription {
    /// Offers a message that its principal may send here.
    pub(super) fn offer(&self, message: Arc<Message>) -> Offered {
        let size = message.size();
        let topic = message.topic.clone();
        let (waiter, room) = oneshot::channel();
        let mut queue = self.queue();
        if queue.ended {
            return Offered::Ended;
        }
        let before = queue.mailbox.bytes();
        let held = match &self.reader {
            Reader::Principal(..) => self.pile.account.load(Ordering::Relaxed),
            // Nobody loses what is lossless because somebody else sends much.
            Reader::Loop { .. } => queue.mailbox.held(&message.principal),
        };
        let posted = if held + size > OWN_BYTES {
            queue.mailbox.refuse(message.principal.clone());
            Posted::Refused(waiter)
        } else {
            queue.mailbox.post(message.principal.clone(), size, message, |other| other.topic == topic, waiter)
        };
        self.settle(before, queue.mailbox.bytes());
        drop(queue);
        self.pile.arrived.notify_one();
        match posted {
            Posted::Taken => Offered::Taken,
            Posted::Full => Offered::Full(room),
            Posted::Evicted(lost) => {
                events("lost").increment(lost);
                Offered::Taken
            }
            Posted::Refused(_) => {
                events("lost").increment(1);
                Offered::Lost
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.pile.queue.lock().expect("no panic under this lock")
    }

    /// Nobody waits for it any more until its reader takes something.
    pub(super) fn stall(&self) {
        let topics = self.bindings.iter().map(|b| b.topic.as_str()).collect::<Vec<_>>().join(", ");
        tracing::warn!(topics, "a lossless subscription has taken nothing for {STALL:?}: it loses what has no room");
        self.queue().mailbox.stall();
    }

    fn settle(&self, before: usize, after: usize) {
        // Wraps around for a difference below zero, and back.
        self.pile.account.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    fn turn(&self) -> Turn {
        *self.turn.lock().expect("no panic under this lock")
    }

    fn set_turn(&self, turn: Turn) {
        *self.turn.lock().expect("no panic under this lock") = turn;
        self.pile.arrived.notify_one();
    }

    /// Its reader is told that it has ended, at once; what waits, and what arrives, stays for whoever reads next.
    pub fn stop(&self) {
        self.set_turn(Turn::Stopped);
    }

    /// Its reader gets what waits, from now on. Where it was opened in the place of another, the queue now has its own
    /// delivery and budget.
    pub fn go_on(&self) {
        if self.turn() == Turn::Held {
            // Dropped waiters wait no more.
            drop(self.queue().mailbox.change(self.delivery, self.budget));
        }
        self.set_turn(Turn::Reading);
    }

    /// What is there now. Closed: it has ended, and everything was taken.
    pub fn take(&self) -> Result<Option<Mail<PrincipalId, Arc<Message>>>, Failure> {
        let mut queue = self.queue();
        let before = queue.mailbox.bytes();
        // Dropped waiters wait no more.
        let (mail, _go_on) = queue.mailbox.take();
        self.settle(before, queue.mailbox.bytes());
        match mail {
            None if queue.ended && queue.mailbox.is_empty() => Err(Failure::Closed),
            Some(Mail::Gap(whose, lost)) => {
                events("gap").increment(1);
                Ok(Some(Mail::Gap(whose, lost)))
            }
            mail => Ok(mail),
        }
    }

    /// Waits for what comes next. One reader at a time.
    pub async fn next(&self) -> Result<Mail<PrincipalId, Arc<Message>>, Failure> {
        loop {
            let arrived = self.pile.arrived.notified();
            if let Some(mail) = self.take()? {
                return Ok(mail);
            }
            arrived.await;
        }
    }

    /// As [`Self::next`], for a reader who works at its senders' expense: `judge` says whether a message's principal can
    /// pay now. Whoever can't waits, in order, and the others go on.
    pub async fn next_paid<C>(
        &self,
        judge: impl Fn(&Message) -> Result<C, Wait>,
    ) -> Result<(Mail<PrincipalId, Arc<Message>>, Option<C>), Failure> {
        loop {
            let arrived = self.pile.arrived.notified();
            match self.take_paid(&judge)? {
                Judged::Given(mail, paid) => return Ok((mail, paid)),
                Judged::Nothing(None) => arrived.await,
                Judged::Nothing(Some(again)) => {
                    let _ = tokio::time::timeout_at(again, arrived).await;
                }
            }
        }
    }

    fn take_paid<C>(&self, judge: &impl Fn(&Message) -> Result<C, Wait>) -> Result<Judged<C>, Failure> {
        match self.turn() {
            Turn::Reading => {}
            Turn::Held => return Ok(Judged::Nothing(None)),
            Turn::Stopped => return Err(Failure::Closed),
        }
        let now = Instant::now();
        let mut queue = self.queue();
        let Queue { mailbox, ended, aside, .. } = &mut *queue;
        aside.retain(|whose, until| {
            let waits = *until > now;
            if !waits {
                mailbox.resume(whose);
            }
            waits
        });
        let before = mailbox.bytes();
        let mut waiters = Vec::new();
        let judged = loop {
            let (mail, go_on) = mailbox.take();
            waiters.extend(go_on);
            match mail {
                Some(Mail::Letter(whose, message)) => match judge(&message) {
                    Ok(paid) => break Judged::Given(Mail::Letter(whose, message), Some(paid)),
                    Err(Wait(wait)) => {
                        aside.insert(whose.clone(), now + wait);
                        mailbox.set_aside(whose, message.size(), message);
                    }
                },
                Some(gap) => {
                    events("gap").increment(1);
                    break Judged::Given(gap, None);
                }
                None if *ended && mailbox.is_empty() => return Err(Failure::Closed),
                None => break Judged::Nothing(aside.values().min().copied()),
            }
        };
        self.settle(before, mailbox.bytes());
        Ok(judged)
    }

    /// Messages that wait, and that nobody else reads.
    pub fn waiting(&self) -> usize {
        let queue = self.queue();
        if queue.open > 1 { 0 } else { queue.mailbox.len() }
    }

    /// Takes nothing more; what waits can still be read. One whose queue is another's as well only stops.
    pub fn end(&self) {
        let mut queue = self.queue();
        if queue.open > 1 {
            drop(queue);
            return self.stop();
        }
        queue.ended = true;
        self.pile.arrived.notify_one();
    }

    /// Whether this is another generation's of the same capsule.
    pub(super) fn follows(&self, before: &Self) -> bool {
        match (&self.reader, &before.reader) {
            (Reader::Loop { capsule, generation }, Reader::Loop { capsule: other, generation: earlier }) => {
                capsule == other && generation != earlier
            }
            _ => false,
        }
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The topics that it was opened for.
    pub fn topics(&self) -> Vec<String> {
        self.bindings.iter().map(|binding| binding.topic.to_string()).collect()
    }

    /// Whether it was opened for exactly these topics.
    pub fn is_of(&self, bindings: &[Subscribe]) -> bool {
        self.bindings.iter().map(|binding| &binding.topic).eq(bindings.iter().map(|binding| &binding.topic))
    }
}

impl Drop for Pile {
    fn drop(&mut self) {
        if let Ok(queue) = self.queue.get_mut() {
            self.account.fetch_sub(queue.mailbox.bytes(), Ordering::Relaxed);
        }
    }
}

/// A subscription, for as long as this lives.
pub struct Open {
    subscription: Arc<Subscription>,
    all: Arc<Subscriptions>,
}

impl std::ops::Deref for Open {
    type Target = Subscription;

    fn deref(&self) -> &Subscription {
        &self.subscription
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut queue = self.subscription.queue();
        queue.open -= 1;
        if queue.open == 0 {
            queue.ended = true;
            // Whoever waits for room holds the subscription, so its end would not let them go.
            drop(queue.mailbox.stall());
        }
        drop(queue);
        self.all.remove(&self.subscription);
    }
}

/// A place in an index: which subscription, by which of its topics.
type Entry = (Arc<Subscription>, usize);

/// Every open subscription.
#[derive(Default)]
pub struct Subscriptions {
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    own: HashMap<PrincipalId, Own>,
    loops: Index<Entry>,
    all: HashMap<usize, Weak<Subscription>>,
}

#[derive(Default)]
struct Own {
    index: Index<Entry>,
    open: usize,
    account: Arc<AtomicUsize>,
}

impl Subscriptions {
    /// Opens one. All bindings have the same delivery, and there is at least one. Overloaded: the principal has as many
    /// as it may.
    pub(super) fn open(
        self: &Arc<Self>,
        reader: Reader,
        bindings: Vec<Subscribe>,
        queue_bytes: usize,
    ) -> Result<Open, Failure> {
        self.open_with(reader, bindings, queue_bytes, None)
    }

    /// As [`Self::open`], with the queue of another, which then has two: what reaches either of them waits there once. Its
    /// reader is held until it [goes on](Subscription::go_on).
    pub(super) fn open_beside(
        self: &Arc<Self>,
        other: &Open,
        reader: Reader,
        bindings: Vec<Subscribe>,
        queue_bytes: usize,
    ) -> Result<Open, Failure> {
        self.open_with(reader, bindings, queue_bytes, Some(other.pile.clone()))
    }

    fn open_with(
        self: &Arc<Self>,
        reader: Reader,
        bindings: Vec<Subscribe>,
        queue_bytes: usize,
        pile: Option<Arc<Pile>>,
    ) -> Result<Open, Failure> {
        let delivery = bindings.first().and_then(|b| b.delivery).unwrap_or(Delivery::Lossy);
        let budget = bindings.iter().filter_map(|b| b.queue_bytes).max().unwrap_or(queue_bytes);
        let mut tables = self.tables.write().expect("no panic under this lock");
        let account = match &reader {
            Reader::Loop { .. } => Arc::default(),
            Reader::Principal(id, _) => {
                let own = tables.own.entry(id.clone()).or_default();
                if own.open >= MAX_OPEN {
                    return Err(Failure::Overloaded { retry_ms: 1000 });
                }
                own.open += 1;
                own.account.clone()
            }
        };
        let turn = Mutex::new(if pile.is_some() { Turn::Held } else { Turn::Reading });
        let pile = pile.unwrap_or_else(|| {
            let mailbox = Mailbox::new(delivery, budget);
            let queue = Mutex::new(Queue { mailbox, ended: false, open: 0, aside: BTreeMap::new() });
            Arc::new(Pile { queue, arrived: Notify::new(), account })
        });
        pile.queue.lock().expect("no panic under this lock").open += 1;
        let subscription = Arc::new(Subscription { reader, bindings, delivery, budget, pile, turn });
        tables.all.insert(Arc::as_ptr(&subscription) as usize, Arc::downgrade(&subscription));
        for (n, binding) in subscription.bindings.iter().enumerate() {
            let entry = (subscription.clone(), n);
            match &subscription.reader {
                Reader::Loop { .. } => tables.loops.insert(binding.topic.clone(), entry),
                Reader::Principal(id, _) => {
                    let own = tables.own.get_mut(id).expect("it was put there above");
                    own.index.insert(binding.topic.clone(), entry);
                }
            }
        }
        Ok(Open { subscription, all: self.clone() })
    }

    fn remove(&self, subscription: &Arc<Subscription>) {
        let mut tables = self.tables.write().expect("no panic under this lock");
        tables.all.remove(&(Arc::as_ptr(subscription) as usize));
        let is_this = |entry: &Entry| Arc::ptr_eq(&entry.0, subscription);
        match &subscription.reader {
            Reader::Loop { .. } => {
                for binding in &subscription.bindings {
                    tables.loops.remove(&binding.topic, is_this);
                }
            }
            Reader::Principal(id, _) => {
                let Some(own) = tables.own.get_mut(id) else { return };
                for binding in &subscription.bindings {
                    own.index.remove(&binding.topic, is_this);
                }
                own.open -= 1;
                if own.open == 0 {
                    tables.own.remove(id);
                }
            }
        }
    }

    /// Those that this message reaches, each once. `live` tells whether a generation of a capsule is the live one.
    pub(super) fn matching(
        &self,
        message: &Message,
        authority: &Authority,
        live: impl Fn(&str, u64) -> bool,
    ) -> Vec<Arc<Subscription>> {
        let tables = self.tables.read().expect("no panic under this lock");
        let own = tables.own.get(&message.principal).map(|own| &own.index);
        let indices = own.into_iter().chain([&tables.loops]);
        let mut entries: Vec<&Entry> = indices.flat_map(|index| index.matches(&message.topic)).collect();
        entries.retain(|(subscription, _)| match &subscription.reader {
            Reader::Principal(..) => true,
            Reader::Loop { capsule, generation } => live(capsule, *generation),
        });
        let Message { principal, mandate, target, .. } = message;
        authority.retain_admitted(&mut entries, |(open, n)| &open.bindings[*n], principal, mandate, target.as_ref());
        let mut found: Vec<Arc<Subscription>> = Vec::new();
        for (subscription, _) in entries {
            if !found.iter().any(|other| Arc::ptr_eq(other, subscription)) {
                found.push(subscription.clone());
            }
        }
        found
    }

    /// Messages and bytes that wait, and for how many principals, one that waits twice counted twice.
    pub(super) fn waiting(&self) -> (usize, usize, usize) {
        let tables = self.tables.read().expect("no panic under this lock");
        let open: Vec<Arc<Subscription>> = tables.all.values().filter_map(Weak::upgrade).collect();
        // Two that have one queue count once.
        let piles: HashMap<usize, &Arc<Pile>> =
            open.iter().map(|one| (Arc::as_ptr(&one.pile) as usize, &one.pile)).collect();
        piles.into_values().fold((0, 0, 0), |sum, pile| {
            let mailbox = &pile.queue.lock().expect("no panic under this lock").mailbox;
            (sum.0 + mailbox.len(), sum.1 + mailbox.bytes(), sum.2 + mailbox.active())
        })
    }

    /// Open subscriptions.
    pub fn count(&self) -> usize {
        self.tables.read().expect("no panic under this lock").all.len()
    }
}
