//! The commits that wait for the writer: first in, first out, bounded in number and bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Commit, CommitError};

/// A commit and the caller who waits for it.
pub(super) struct Job {
    pub(super) commit: Commit,
    /// Of its keys and values.
    pub(super) bytes: u64,
    pub(super) answer: oneshot::Sender<Result<u64, CommitError>>,
}

pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    max_commits: usize,
    max_bytes: u64,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: u64,
    /// The writer sleeps; whoever gives it something to do wakes it.
    idle: bool,
    /// A read failed since the writer last looked.
    read_failed: bool,
    closed: bool,
}

/// What the writer found.
pub(super) struct Taken {
    /// How many commits were waiting, those taken included.
    pub(super) waiting: usize,
    pub(super) read_failed: bool,
}

impl Queue {
    pub(super) fn new(max_commits: usize, max_bytes: u64) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), max_commits, max_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if idle {
            self.wake.notify_one();
        }
    }

    pub(super) fn push(&self, job: Job) -> Result<(), CommitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(CommitError::Unavailable);
        }
        if state.jobs.len() >= self.max_commits || state.bytes >= self.max_bytes {
            return Err(CommitError::Overloaded);
        }
        state.bytes += job.bytes;
        state.jobs.push_back(job);
        self.wake(state);
        Ok(())
    }

    /// Lets the writer look at the file even if nobody commits.
    pub(super) fn report_failure(&self) {
        let mut state = self.lock();
        state.read_failed = true;
        self.wake(state);
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(state);
    }

    /// Closes, and drops what waits: its callers see that nobody will answer.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.bytes = 0;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        drop(jobs);
    }

    /// Waits until there is something to do and moves up to `max` commits to `batch`. None once the queue is closed
    /// and empty. For one writer.
    pub(super) fn take(&self, max: usize, batch: &mut Vec<Job>) -> Option<Taken> {
        let mut state = self.lock();
        while state.jobs.is_empty() && !state.read_failed {
            if state.closed {
                return None;
            }
            state.idle = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        let waiting = state.jobs.len();
        batch.extend(state.jobs.drain(..waiting.min(max)));
        state.bytes -= batch.iter().map(|job| job.bytes).sum::<u64>();
        Some(Taken { waiting, read_failed: std::mem::take(&mut state.read_failed) })
    }
}
