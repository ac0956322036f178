//! The body of an answer that goes on after its handler has returned.
//!
//! Owns what happens between two calls of a capsule's `relay` export: waiting for events, taking those that are there,
//! and ending in time. A relay is polled by its connection and has no task of its own. So nothing is taken from the source
//! while the client takes nothing, and a client that goes away frees everything at once. It holds no instance and no
//! generation: each call goes to the version of the capsule that is live then.
//!
//! It ends when its source does, when the capsule says so, when the session expires through which the source was opened,
//! when the standing of its principal changes (as remembered credentials do, see [`crate::authority`]), and when the
//! host's shutdown begins. Where a call fails or there is nobody to call, it is cut: the connection closes, and the client
//! sees that something is missing.
//!
//! Bounded by: `max-relays`, [`MAX_CONTEXT_BYTES`], [`MAX_EVENTS`] and about [`EVENT_BYTES`] for each call,
//! [`MAX_OUTPUT_BYTES`] of each answer. What waits is bounded by its source.
//! Refuses to know: what an event means, what the bytes are.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use astrid_capsule::PrincipalId;
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::watch;
use tokio::time::Instant;

use super::BodyError;
use crate::Boxed;
use crate::authority::{Behalf, Mandate};
use crate::bus::cause::Cause;
use crate::bus::mailbox::Mail;
use crate::bus::stream::Answer;
use crate::bus::subscription::Open;
use crate::bus::{Failure, Message};
use crate::host::Host;

/// The most bytes that come back with every call.
pub const MAX_CONTEXT_BYTES: usize = 16 * 1024;
/// The shortest time between two [`Event::Idle`].
pub const MIN_IDLE: Duration = Duration::from_secs(1);
/// Events of one call.
pub const MAX_EVENTS: usize = 64;
/// Bytes of events after which no further one is taken for the same call. The last of them may exceed it.
pub const EVENT_BYTES: usize = 256 * 1024;
/// The most bytes that one call may answer.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// What a client is told to wait who found no room for a relay, in milliseconds.
const RETRY_MS: u32 = 1000;

/// Where events come from.
#[derive(Clone)]
pub enum Source {
    Subscription(Arc<Open>),
    Answer(Arc<Answer>),
}

impl Source {
    /// Waits for the next event. It is taken only as this is ready.
    async fn next(self) -> Event {
        match self {
            Source::Subscription(open) => Event::from_mail(open.next().await),
            Source::Answer(answer) => Event::from_piece(answer.next().await),
        }
    }

    /// What is there now.
    fn take(&self) -> Option<Event> {
        match self {
            Source::Subscription(open) => open.take().transpose().map(Event::from_mail),
            Source::Answer(answer) => answer.take().map(Event::from_piece),
        }
    }
}

/// What a front end wants to go on.
pub struct Wanted {
    pub source: Source,
    pub behalf: Behalf,
    /// Comes back with every call, until one replaces it.
    pub context: Bytes,
    /// Time between two [`Event::Idle`]; none for never.
    pub idle: Option<Duration>,
}

/// What a capsule is called with.
#[derive(Debug, Clone)]
pub enum Event {
    Message(Arc<Message>),
    /// So many messages of this principal are missing here.
    Gap(PrincipalId, u64),
    Piece(Bytes),
    Idle,
    /// The last one.
    End(Option<Failure>),
}

impl Event {
    fn from_mail(mail: Result<Mail<PrincipalId, Arc<Message>>, Failure>) -> Self {
        match mail {
            Ok(Mail::Letter(_, message)) => Event::Message(message),
            Ok(Mail::Gap(whose, lost)) => Event::Gap(whose, lost),
            // It has ended, and all of it was read.
            Err(Failure::Closed) => Event::End(None),
            Err(failure) => Event::End(Some(failure)),
        }
    }

    fn from_piece(piece: Result<Option<Bytes>, Failure>) -> Self {
        match piece {
            Ok(Some(piece)) => Event::Piece(piece),
            Ok(None) => Event::End(None),
            Err(failure) => Event::End(Some(failure)),
        }
    }

    /// What it counts against [`EVENT_BYTES`].
    fn bytes(&self) -> usize {
        match self {
            Event::Message(message) => message.size(),
            Event::Piece(piece) => piece.len(),
            Event::Gap(..) | Event::Idle | Event::End(_) => 0,
        }
    }
}

/// What it answers.
#[derive(Debug)]
pub struct Output {
    pub body: Bytes,
    /// Nothing comes after this.
    pub last: bool,
    /// In place of the context.
    pub context: Option<Bytes>,
}

/// One call of a `relay` export.
#[derive(Clone)]
pub struct Relaying {
    pub principal: PrincipalId,
    pub mandate: Mandate,
    /// The request that opened the relay.
    pub cause: Arc<Cause>,
    /// How deep the deepest message among the events was.
    pub depth: u8,
    pub context: Bytes,
    pub events: Arc<[Event]>,
}

/// Whoever gives relays their bytes: a live version of a capsule.
pub trait Relayed: Send + Sync {
    /// Overloaded: nothing has been called, and the same may be tried again.
    fn relay(self: Arc<Self>, call: Relaying) -> Boxed<'static, Result<Output, Failure>>;
}

/// How many relays are open.
pub struct Relays {
    open: AtomicUsize,
    most: AtomicUsize,
}

impl Relays {
    /// `most`: how many may be.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), most: AtomicUsize::new(most) })
    }

    /// From now on so many may be; those that are open stay.
    pub fn bound(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let most = self.most.load(Ordering::Relaxed);
        let more = |open| (open < most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        metrics::gauge!("astrid_http_relays").increment(1);
        Some(Place(self.clone()))
    }
}

/// A relay's place among the open ones, until it is dropped.
struct Place(Arc<Relays>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("astrid_http_relays").decrement(1);
    }
}

/// The body: first `beginning`, then what `capsule` makes of the events. Overloaded: as many relays are open as may be.
pub fn open(
    host: &Arc<Host>,
    capsule: Arc<str>,
    cause: Arc<Cause>,
    beginning: Bytes,
    wanted: Wanted,
) -> Result<super::Body, Failure> {
    let place = host.relays.enter().ok_or(Failure::Overloaded { retry_ms: RETRY_MS })?;
    let ends = wanted.behalf.session.and_then(|session| {
        let left = Duration::from_secs(session.expires_at).saturating_sub(now());
        Instant::now().checked_add(left)
    });
    let relay = Relay {
        idle: wanted.idle.map(|idle| Instant::now() + idle),
        changes: host.authority.changes(),
        host: host.clone(),
        capsule,
        cause,
        beginning,
        wanted,
        ends,
        _place: place,
    };
    let body = RelayBody { next: Some(Box::pin(Box::new(relay).next())) };
    Ok(http_body_util::BodyExt::boxed_unsync(body))
}

/// Since the Unix epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What the connection polls.
struct RelayBody {
    /// None at the end.
    next: Option<Boxed<'static, Step>>,
}

/// What comes next.
enum Step {
    /// And what goes on after them, if anything does.
    Bytes(Bytes, Option<Box<Relay>>),
    End,
    Cut(BodyError),
}

impl hyper::body::Body for RelayBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let step = ready!(next.as_mut().poll(context));
        self.next = None;
        Poll::Ready(match step {
            Step::Bytes(bytes, relay) => {
                self.next = relay.map(|relay| Box::pin(relay.next()) as _);
                Some(Ok(Frame::data(bytes)))
            }
            Step::End => None,
            Step::Cut(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none()
    }
}

struct Relay {
    host: Arc<Host>,
    capsule: Arc<str>,
    cause: Arc<Cause>,
    /// What the handler itself answered, until it is sent.
    beginning: Bytes,
    wanted: Wanted,
    /// When the session expires.
    ends: Option<Instant>,
    /// When there is an [`Event::Idle`].
    idle: Option<Instant>,
    /// Told when somebody's standing has changed.
    changes: watch::Receiver<()>,
    _place: Place,
}

/// The relay may go on no more.
struct Over;

/// The events of one call: what is there, up to the bounds or the end.
fn batch(first: Event, mut take: impl FnMut() -> Option<Event>) -> Vec<Event> {
    let mut bytes = first.bytes();
    let mut events = vec![first];
    while events.len() < MAX_EVENTS && bytes < EVENT_BYTES && !matches!(events.last(), Some(Event::End(_))) {
        let Some(event) = take() else { break };
        bytes += event.bytes();
        events.push(event);
    }
    events
}

impl Relay {
    async fn next(mut self: Box<Self>) -> Step {
        if !self.beginning.is_empty() {
            return Step::Bytes(std::mem::take(&mut self.beginning), Some(self));
        }
        loop {
            let Ok(events) = self.events().await else { return Step::End };
            let ended = matches!(events.last(), Some(Event::End(_)));
            match self.call(events.into()).await {
                Ok(Ok(output)) => {
                    if let Some(context) = output.context {
                        self.wanted.context = context;
                    }
                    let last = ended || output.last;
                    if !output.body.is_empty() {
                        return Step::Bytes(output.body, (!last).then_some(self));
                    }
                    if last {
                        return Step::End;
                    }
                }
                Ok(Err(why)) => {
                    tracing::warn!(capsule = &*self.capsule, request = &*self.cause.id, "a relay was cut: {why}");
                    return Step::Cut(BodyError(why));
                }
                Err(Over) => return Step::End,
            }
        }
    }

    /// Whether the principal may still act through the session.
    fn may_go_on(&self) -> Result<(), Over> {
        let stands = self.host.authority.stands(&self.wanted.behalf, now().as_secs());
        if stands && !self.host.shutdown.has_begun() { Ok(()) } else { Err(Over) }
    }

    /// Waits at most so long, and ends early with `Over` if the relay does.
    async fn wait<T>(&mut self, until: Option<Instant>, what: impl Future<Output = T>) -> Result<Option<T>, Over> {
        tokio::pin!(what);
        let shutdown = self.host.shutdown.clone();
        let begun = shutdown.begun();
        tokio::pin!(begun);
        loop {
            self.may_go_on()?;
            let wake = [until, self.ends].into_iter().flatten().min();
            let sleep = async {
                match wake {
                    Some(wake) => tokio::time::sleep_until(wake).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut begun => return Err(Over),
                changed = self.changes.changed() => changed.map_err(|_| Over)?,
                done = &mut what => return Ok(Some(done)),
                () = sleep => {
                    self.may_go_on()?;
                    if wake == until {
                        return Ok(None);
                    }
                    // The wall clock went back meanwhile: look again, but not all the time.
                    self.ends = Some(Instant::now() + MIN_IDLE);
                }
            }
        }
    }

    /// At least one event, and those that are there by then; or that it is time for a sign of life, which stands alone: what
    /// is done at that is due to no message, and may go on as deep as if it were the first.
    async fn events(&mut self) -> Result<Vec<Event>, Over> {
        let due = self.idle.is_some_and(|idle| idle <= Instant::now());
        if !due {
            let next = self.wanted.source.clone().next();
            if let Some(first) = self.wait(self.idle, next).await? {
                return Ok(batch(first, || self.wanted.source.take()));
            }
        }
        self.may_go_on()?;
        self.idle = self.wanted.idle.map(|idle| Instant::now() + idle);
        Ok(vec![Event::Idle])
    }

    /// One call, tried again while there is no room for it. The inner error says why the relay is cut.
    async fn call(&mut self, events: Arc<[Event]>) -> Result<Result<Output, String>, Over> {
        let depths = events.iter().map(|event| if let Event::Message(message) = event { message.depth } else { 0 });
        let call = Relaying {
            principal: self.wanted.behalf.principal.clone(),
            mandate: self.wanted.behalf.mandate.clone(),
            cause: self.cause.clone(),
            depth: depths.max().unwrap_or(0),
            context: self.wanted.context.clone(),
            events,
        };
        loop {
            self.may_go_on()?;
            let outcome = match self.host.loader.relayed(&self.capsule) {
                Some(live) => live.relay(call.clone()).await,
                None => Err(Failure::NoResponder),
            };
            let label = outcome.as_ref().map_or_else(Failure::kind, |_| "ok");
            let capsule = self.capsule.to_string();
            metrics::counter!("astrid_http_relay_calls_total", "capsule" => capsule, "outcome" => label).increment(1);
            match outcome {
                Ok(output) if output.body.len() > MAX_OUTPUT_BYTES => {
                    let bytes = output.body.len();
                    return Ok(Err(format!("its relay export answered {bytes} bytes, more than {MAX_OUTPUT_BYTES}")));
                }
                Ok(Output { context: Some(context), .. }) if context.len() > MAX_CONTEXT_BYTES => {
                    let bytes = context.len();
                    return Ok(Err(format!(
                        "its relay export answered a context of {bytes} bytes, more than {MAX_CONTEXT_BYTES}"
                    )));
                }
                Ok(output) => return Ok(Ok(output)),
                Err(Failure::Overloaded { retry_ms }) => {
                    let retry = Instant::now() + Duration::from_millis(retry_ms.into());
                    self.wait(Some(retry), std::future::pending::<()>()).await?;
                }
                Err(failure) => return Ok(Err(format!("its relay export failed: {}", failure.kind()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one future of this kind takes.
    fn size<F: Future>(_: impl FnOnce(Box<Relay>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_relay_that_waits_is_small() {
        assert!(size(Relay::next) <= 1024, "{}", size(Relay::next));
        assert!(size_of::<Relay>() <= 256, "{}", size_of::<Relay>());
    }

    #[test]
    fn a_call_gets_what_is_there_up_to_its_bounds_and_nothing_is_taken_behind_the_end() {
        let piece = |bytes| Event::Piece(vec![0; bytes].into());
        let mut few = vec![piece(1), piece(1)];
        assert_eq!(batch(piece(1), || few.pop()).len(), 3);
        assert_eq!(batch(piece(1), || Some(piece(1))).len(), MAX_EVENTS);
        assert_eq!(batch(piece(1), || Some(piece(EVENT_BYTES / 4))).len(), 5);
        assert_eq!(batch(piece(1), || Some(Event::End(None))).len(), 2);
    }

    #[test]
    fn only_so_many_are_open_and_each_gives_its_place_back() {
        let relays = Relays::new(2);
        let first = relays.enter().unwrap();
        let _second = relays.enter().unwrap();
        assert!(relays.enter().is_none());
        drop(first);
        assert!(relays.enter().is_some());
    }
}
