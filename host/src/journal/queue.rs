//! The facts that wait for the writer: first in, first out, bounded in number and bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Unavailable;
use super::fact::Head;

/// How long a fact that nobody waits for may wait for company.
const LINGER: Duration = Duration::from_millis(20);

/// To who waits: the index of a fact that is durable now.
pub(super) type Answer = oneshot::Sender<Result<u64, Unavailable>>;

/// A fact on its way.
pub(super) struct Job {
    pub(super) bytes: Vec<u8>,
    pub(super) head: Head<'static>,
    pub(super) id: String,
    /// Of the caller who waits until it is durable.
    pub(super) answer: Option<Answer>,
}

pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    max_facts: usize,
    max_bytes: usize,
    /// As many as the writer takes at once.
    full: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// When the oldest one came.
    since: Option<Instant>,
    /// Somebody waits for durability.
    urgent: bool,
    /// The writer sleeps until it is woken.
    idle: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new(max_facts: usize, max_bytes: usize, full: usize) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), max_facts, max_bytes, full }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: there is no room, or it is closed.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut state = self.lock();
        if state.closed || state.jobs.len() >= self.max_facts || state.bytes >= self.max_bytes {
            return false;
        }
        state.bytes += job.bytes.len();
        let urgent = job.answer.is_some() && !state.urgent;
        state.urgent |= urgent;
        state.jobs.push_back(job);
        state.since.get_or_insert_with(Instant::now);
        let wake = std::mem::take(&mut state.idle) || urgent || state.jobs.len() == self.full;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        true
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Closes, and gives back what waits.
    pub(super) fn abandon(&self) -> Vec<Job> {
        let mut state = self.lock();
        state.closed = true;
        std::mem::take(&mut *state).jobs.into()
    }

    /// Moves up to `max` facts to `batch`: at once if somebody waits for one or many wait, else when the oldest has
    /// waited long enough; none at `until`. True once the queue is closed and empty. For one writer.
    pub(super) fn take(&self, max: usize, until: Option<Instant>, batch: &mut Vec<Job>) -> bool {
        let mut state = self.lock();
        loop {
            if state.urgent || state.closed || state.jobs.len() >= self.full {
                break;
            }
            let lingered = state.since.map(|since| since + LINGER);
            let Some(at) = [lingered, until].into_iter().flatten().min() else {
                state.idle = true;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
            // What comes now starts the clock of company, which may end before `until`.
            state.idle = state.jobs.is_empty();
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.idle = false;
        let count = state.jobs.len().min(max);
        batch.extend(state.jobs.drain(..count));
        state.bytes -= batch.iter().map(|job| job.bytes.len()).sum::<usize>();
        state.urgent = state.jobs.iter().any(|job| job.answer.is_some());
        if state.jobs.is_empty() {
            state.since = None;
        }
        state.closed && state.jobs.is_empty()
    }

    /// Takes who waits for durability; their facts stay.
    pub(super) fn take_answers(&self) -> Vec<Answer> {
        let mut state = self.lock();
        state.urgent = false;
        state.jobs.iter_mut().filter_map(|job| job.answer.take()).collect()
    }

    /// Waits for `time`, or until the queue is closed; whether it is.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let (state, _) =
            self.wake.wait_timeout_while(state, time, |state| !state.closed).unwrap_or_else(PoisonError::into_inner);
        state.closed
    }
}
