//! How long a client may keep a connection without getting on.
//!
//! Owns, for each connection, since when it waits for its client: for the head of a request, for the next request, or
//! (over HTTP/2, where a socket that moves says nothing of one stream) for somebody to take an answer. How long a body
//! may take is counted where it is read; what a socket does not take, by [`Patient`](super::patient::Patient), and
//! meanwhile nothing else is waited for.
//!
//! Bounded by: one timer for each connection; one entry and [`PIECE`] bytes at hand for each answer that is being sent.
//! Refuses to know: HTTP.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::{Body, BodyError};

/// The most bytes of an answer that are taken at once over HTTP/2, where that is not known to be read.
const PIECE: usize = 16 * 1024;

/// How long each thing may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// From the first byte of a head, on a new connection from its beginning, to the last.
    pub head: Duration,
    /// From the end of an answer to the next request.
    pub idle: Duration,
    /// Between two pieces of an answer that a client of HTTP/2 takes.
    pub write: Duration,
}

/// Whether a connection serves one request at a time or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Multiplexed,
}

/// Why a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// No request came: it may be told so.
    Idle,
    /// A head or a reader is too slow.
    Slow,
}

/// The same with the time as an argument: when a connection will be late.
struct State {
    times: Times,
    kind: Kind,
    /// Requests that are being answered.
    running: usize,
    /// Since when nothing is being answered; while something is, of no meaning.
    since: Instant,
    /// Whether a head has begun.
    head: bool,
    /// The latest request.
    latest: u64,
    /// Answers that wait for their reader, and since when.
    unread: HashMap<u64, Instant>,
    /// Whether the socket takes nothing of what is to be written: nobody waits for a request meanwhile.
    blocked: bool,
}

impl State {
    fn new(times: Times, kind: Kind, now: Instant) -> Self {
        Self { times, kind, running: 0, since: now, head: true, latest: 0, unread: HashMap::new(), blocked: false }
    }

    /// Bytes have come: those of a head, if nothing is being answered. Over HTTP/2 they may be anything.
    fn arrived(&mut self, now: Instant) {
        if self.kind == Kind::Single && self.running == 0 && !self.head {
            self.head = true;
            self.since = now;
        }
    }

    fn begin(&mut self) -> u64 {
        self.running += 1;
        self.head = false;
        self.latest += 1;
        self.latest
    }

    fn end(&mut self, request: u64, now: Instant) {
        self.unread.remove(&request);
        self.running -= 1;
        if self.running == 0 {
            self.since = now;
        }
    }

    /// Whether there is a piece of the answer that nobody has taken. Says whether the connection may be late sooner than it
    /// was before.
    fn waits(&mut self, request: u64, waits: bool, now: Instant) -> bool {
        if waits {
            self.unread.insert(request, now).is_none()
        } else {
            self.unread.remove(&request);
            false
        }
    }

    /// Whether the socket takes nothing.
    fn blocks(&mut self, blocked: bool, now: Instant) {
        self.blocked = blocked;
        if self.running == 0 {
            self.since = now;
        }
    }

    /// When the connection is late, and how.
    fn due(&self) -> Option<(Instant, Late)> {
        let unread = self.unread.values().min().map(|since| (*since + self.times.write, Late::Slow));
        let waiting = (self.running == 0 && !self.blocked).then(|| match self.head {
            true => (self.since + self.times.head, Late::Slow),
            false => (self.since + self.times.idle, Late::Idle),
        });
        [unread, waiting].into_iter().flatten().min_by_key(|(due, _)| *due)
    }
}

pub(super) struct Pace {
    kind: Kind,
    state: Mutex<(State, Option<Waker>)>,
}

impl Pace {
    pub(super) fn new(times: Times, kind: Kind) -> Arc<Self> {
        Arc::new(Self { kind, state: Mutex::new((State::new(times, kind, Instant::now()), None)) })
    }

    /// The waker is that of whoever polls [`Watch`].
    fn state(&self) -> MutexGuard<'_, (State, Option<Waker>)> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Bytes have come.
    pub(super) fn arrived(&self) {
        self.state().0.arrived(Instant::now());
    }

    /// The socket takes nothing of what is to be written, or does again. How long that may last is for
    /// [`Patient`](super::patient::Patient) to say.
    pub(super) fn blocks(&self, blocked: bool) {
        self.state().0.blocks(blocked, Instant::now());
    }

    /// A request is there whole, but for its body.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        Running { id: self.state().0.begin(), pace: self.clone() }
    }

    /// Has [`Watch`] look at the time again. Over HTTP/1 it is the connection itself that has changed something, and it
    /// looks anyway.
    fn wake(&self, mut state: MutexGuard<'_, (State, Option<Waker>)>) {
        let waker = if self.kind == Kind::Multiplexed { state.1.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A request that is being answered, until it is dropped.
pub(super) struct Running {
    pace: Arc<Pace>,
    id: u64,
}

impl Running {
    /// The answer with this body: it is being answered until the body is sent or dropped.
    pub(super) fn with(self, body: Body) -> Paced {
        let paced = Paced { body, rest: Bytes::new(), running: self };
        paced.waits(!paced.is_end_stream());
        paced
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.pace.state();
        state.0.end(self.id, Instant::now());
        self.pace.wake(state);
    }
}

/// A body that says when it is waiting for its reader. Over HTTP/2, where whoever asks for a piece may have no room for it, a
/// piece has a reader once the next one is asked for, or the body is dropped; and pieces are of [`PIECE`] bytes, since one
/// that is let go of counts as read.
pub(super) struct Paced {
    body: Body,
    /// Of a piece that was too large.
    rest: Bytes,
    running: Running,
}

impl Paced {
    fn waits(&self, waits: bool) {
        let pace = &self.running.pace;
        if pace.kind == Kind::Multiplexed {
            let mut state = pace.state();
            if state.0.waits(self.running.id, waits, Instant::now()) {
                pace.wake(state);
            }
        }
    }

    /// What is at hand of a larger piece.
    fn cut(&mut self) -> Option<Frame<Bytes>> {
        let bytes = self.rest.len().min(PIECE);
        (bytes > 0).then(|| Frame::data(self.rest.split_to(bytes)))
    }
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut polled = match self.cut() {
            Some(piece) => Poll::Ready(Some(Ok(piece))),
            None => Pin::new(&mut self.body).poll_frame(context),
        };
        if self.running.pace.kind == Kind::Multiplexed
            && let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(data) = frame.data_mut().filter(|data| data.len() > PIECE)
        {
            let rest = data.split_off(PIECE);
            self.rest = rest;
        }
        self.waits(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// Watches over a connection's time.
pub(super) struct Watch<'a> {
    pace: &'a Pace,
    sleep: Pin<&'a mut Sleep>,
    /// For when the timer is set.
    armed: Option<Instant>,
}

impl<'a> Watch<'a> {
    /// `sleep` may be set to any time.
    pub(super) fn new(pace: &'a Pace, sleep: Pin<&'a mut Sleep>) -> Self {
        Self { pace, sleep, armed: None }
    }

    /// Ready when the connection is late. To be polled after the connection was.
    pub(super) fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<Late> {
        loop {
            let due = {
                let (state, waker) = &mut *self.pace.state();
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                state.due()
            };
            let Some((due, late)) = due else { return Poll::Pending };
            if due <= Instant::now() {
                return Poll::Ready(late);
            }
            // A timer that is set too early only looks again.
            if self.armed.is_none_or(|armed| armed > due) {
                self.sleep.as_mut().reset(due);
                self.armed = Some(due);
            }
            ready!(self.sleep.as_mut().poll(context));
            self.armed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWrite, duplex};

    use super::super::patient::Patient;
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn times() -> Times {
        Times { head: secs(10), idle: secs(60), write: secs(30) }
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte_and_a_connection_without_a_request_has_longer() {
        let start = Instant::now();
        let mut state = State::new(times(), Kind::Single, start);
        assert_eq!(state.due(), Some((start + secs(10), Late::Slow)), "from the beginning of the connection");
        let request = state.begin();
        assert_eq!(state.due(), None);
        state.end(request, start + secs(100));
        assert_eq!(state.due(), Some((start + secs(160), Late::Idle)));
        state.arrived(start + secs(150));
        state.arrived(start + secs(154));
        assert_eq!(state.due(), Some((start + secs(160), Late::Slow)), "further bytes give it no more time");

        let mut state = State::new(times(), Kind::Multiplexed, start);
        let request = state.begin();
        state.end(request, start);
        state.arrived(start + secs(59));
        assert_eq!(state.due(), Some((start + secs(60), Late::Idle)), "which may be anything");
    }

    #[test]
    fn while_something_is_answered_nobody_is_late_and_its_end_begins_the_time_anew() {
        let start = Instant::now();
        let mut state = State::new(times(), Kind::Multiplexed, start);
        let (first, second) = (state.begin(), state.begin());
        state.end(first, start + secs(1000));
        assert_eq!(state.due(), None);
        state.end(second, start + secs(2000));
        assert_eq!(state.due(), Some((start + secs(2060), Late::Idle)));
    }

    #[test]
    fn of_many_answers_the_one_that_was_left_longest_counts_and_one_that_is_taken_no_more() {
        let start = Instant::now();
        let mut state = State::new(times(), Kind::Multiplexed, start);
        let (first, second) = (state.begin(), state.begin());
        state.waits(first, true, start);
        state.waits(second, true, start + secs(5));
        assert_eq!(state.due(), Some((start + secs(30), Late::Slow)));
        state.waits(first, false, start + secs(20));
        assert_eq!(state.due(), Some((start + secs(35), Late::Slow)));
        state.end(second, start + secs(21));
        assert_eq!(state.due(), None);
    }

    #[tokio::test]
    async fn over_http_2_an_answer_is_asked_for_piece_by_piece_and_is_whole() {
        let bytes = Bytes::from_iter((0..PIECE * 2 + 1).map(|n| n as u8));
        for (kind, pieces) in [(Kind::Multiplexed, 3), (Kind::Single, 1)] {
            let pace = Pace::new(times(), kind);
            let mut answer = pace.begin().with(crate::link::http::full(bytes.clone()));
            let (mut got, mut count) = (Vec::new(), 0);
            while let Some(frame) = answer.frame().await {
                let piece = frame.unwrap().into_data().unwrap();
                got.extend(piece);
                count += 1;
                assert_eq!(answer.size_hint().exact(), Some((bytes.len() - got.len()) as u64));
                assert_eq!(answer.is_end_stream(), got.len() == bytes.len());
            }
            assert!(got == bytes && count == pieces, "{count}");
        }
    }

    #[test]
    fn while_the_socket_takes_nothing_no_request_is_waited_for() {
        let start = Instant::now();
        let mut state = State::new(times(), Kind::Single, start);
        let request = state.begin();
        state.blocks(true, start + secs(1));
        state.end(request, start + secs(1));
        assert_eq!(state.due(), None);
        state.blocks(false, start + secs(500));
        assert_eq!(state.due(), Some((start + secs(560), Late::Idle)));
    }

    #[tokio::test]
    async fn who_takes_an_answer_slowly_is_not_taken_for_idle() {
        let pace = Pace::new(times(), Kind::Single);
        let waiting = || pace.state().0.due().is_some();
        let (mut peer, socket) = duplex(8);
        let mut socket = Patient::new(socket, secs(30), pace.clone());
        let mut context = Context::from_waker(Waker::noop());
        let mut write = || Pin::new(&mut socket).poll_write(&mut context, &[0; 8]).is_ready();
        drop(pace.begin());
        assert!(write() && waiting());
        assert!(!write() && !waiting());
        peer.read_exact(&mut [0; 8]).await.unwrap();
        assert!(write() && waiting());
    }

    /// A source that says nothing.
    struct Silent;

    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn an_answer_waits_from_its_beginning_until_it_is_asked_for_and_not_for_its_source() {
        for (kind, waits) in [(Kind::Multiplexed, true), (Kind::Single, false)] {
            let pace = Pace::new(times(), kind);
            let waiting = || pace.state().0.due().is_some();
            let mut answer = pace.begin().with(Silent.boxed_unsync());
            assert_eq!(waiting(), waits);
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut answer).poll_frame(&mut context).is_pending());
            assert!(!waiting());
            let mut whole = pace.begin().with(crate::link::http::full(Bytes::from_static(b"abc")));
            assert_eq!(waiting(), waits);
            whole.frame().await.unwrap().unwrap();
            assert_eq!(waiting(), waits, "whoever has asked for it may hold it back");
            drop(whole);
            assert!(!waiting(), "all of it was taken");
            drop(answer);
            assert!(waiting(), "for the next request");
        }
    }
}
