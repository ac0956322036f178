//! An answer in pieces: from the handler that still works to the one that asked.
//!
//! Owns what waits between the two, and how each learns that the other is gone. Bounded by [`WAITING_BYTES`] and
//! [`WAITING_PIECES`]: beyond either the writer waits. The end has a place of its own, so it is never dropped and never waits.
//! Refuses to know what a piece is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use super::Failure;

/// Bytes that wait unread before the writer waits. A single piece may be larger.
pub const WAITING_BYTES: usize = 256 * 1024;
/// Pieces that wait unread before the writer waits, however small.
pub const WAITING_PIECES: usize = 1024;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something for the reader.
    arrived: Notify,
    /// Room for the writer, or nobody reads any more.
    room: Notify,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    end: Option<Result<(), Failure>>,
    unread: bool,
}

/// The handler's side. Clones write to the same answer.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

/// The side of whoever asked.
pub struct Answer {
    shared: Arc<Shared>,
    /// The handler's call, which ends with this.
    _call: AbortOnDrop,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Answer {
    /// An answer to what `ask` does in a task of its own. What it returns is the last piece, unless it is empty.
    pub fn begin<F>(ask: impl FnOnce(Writer) -> F) -> Self
    where
        F: Future<Output = Result<Bytes, Failure>> + Send + 'static,
    {
        let shared = Arc::<Shared>::default();
        let asked = ask(Writer(shared.clone()));
        let writer = Ending(shared.clone());
        let call = tokio::spawn(async move {
            let outcome = asked.await;
            writer.end(outcome);
        });
        Self { shared, _call: AbortOnDrop(call) }
    }

    /// The next piece; none at the end. A failure is the end as well.
    pub async fn next(&self) -> Result<Option<Bytes>, Failure> {
        loop {
            let arrived = self.shared.arrived.notified();
            if let Some(next) = self.take() {
                return next;
            }
            arrived.await;
        }
    }

    /// What is there now, as [`Self::next`] answers it.
    pub fn take(&self) -> Option<Result<Option<Bytes>, Failure>> {
        let mut state = self.shared.state.lock().expect("no panic under this lock");
        if let Some(piece) = state.pieces.pop_front() {
            state.bytes -= piece.len();
            self.shared.room.notify_waiters();
            return Some(Ok(Some(piece)));
        }
        state.end.clone().map(|end| end.map(|()| None))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.shared.state.lock().expect("no panic under this lock").unread = true;
        self.shared.room.notify_waiters();
    }
}

impl Writer {
    /// Adds a piece, and waits first while too much is unread. Closed: nobody reads any more.
    pub async fn send(&self, piece: Bytes) -> Result<(), Failure> {
        loop {
            let room = self.0.room.notified();
            {
                let mut state = self.0.state.lock().expect("no panic under this lock");
                if state.unread || state.end.is_some() {
                    return Err(Failure::Closed);
                }
                let few = state.pieces.len() < WAITING_PIECES;
                if state.pieces.is_empty() || (few && state.bytes + piece.len() <= WAITING_BYTES) {
                    state.bytes += piece.len();
                    state.pieces.push_back(piece);
                    self.0.arrived.notify_one();
                    return Ok(());
                }
            }
            room.await;
        }
    }
}

/// Sees to it that an answer ends, however its call does.
struct Ending(Arc<Shared>);

impl Ending {
    fn end(self, outcome: Result<Bytes, Failure>) {
        let mut state = self.0.state.lock().expect("no panic under this lock");
        match outcome {
            Ok(last) => {
                if !last.is_empty() {
                    state.bytes += last.len();
                    state.pieces.push_back(last);
                }
                state.end = Some(Ok(()));
            }
            Err(failure) => state.end = Some(Err(failure)),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.state.lock().expect("no panic under this lock").end.get_or_insert(Err(Failure::Trapped));
        self.0.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_come_in_order_then_the_last_then_the_end_and_the_end_stays() {
        let answer = Answer::begin(|writer| async move {
            writer.send("a".into()).await?;
            writer.send("b".into()).await?;
            Ok("c".into())
        });
        for piece in ["a", "b", "c"] {
            assert_eq!(answer.next().await, Ok(Some(piece.into())));
        }
        assert_eq!((answer.next().await, answer.next().await), (Ok(None), Ok(None)));
    }

    #[tokio::test]
    async fn a_failure_comes_after_what_was_sent_and_a_call_that_dies_is_one() {
        let failing = Answer::begin(|writer| async move {
            writer.send("a".into()).await?;
            Err(Failure::Timeout)
        });
        assert_eq!(failing.next().await, Ok(Some("a".into())));
        assert_eq!(failing.next().await, Err(Failure::Timeout));
        let dying = Answer::begin(|_| async move { panic!("as a task does that is dropped") });
        assert_eq!(dying.next().await, Err(Failure::Trapped));
    }

    #[tokio::test]
    async fn a_writer_waits_for_its_reader_and_holds_no_more_than_the_bound() {
        let (sent, mut count) = tokio::sync::watch::channel(0);
        let answer = Answer::begin(|writer| async move {
            for n in 1..=100 {
                writer.send(vec![0; 64 * 1024].into()).await?;
                let _ = sent.send(n);
            }
            Ok(Bytes::new())
        });
        count.wait_for(|n| *n == 4).await.unwrap();
        for read in 1..=96 {
            assert_eq!(answer.shared.state.lock().unwrap().bytes, WAITING_BYTES);
            answer.next().await.unwrap().unwrap();
            count.wait_for(|n| *n == 4 + read).await.unwrap();
        }
        for _ in 0..4 {
            answer.next().await.unwrap().unwrap();
        }
        assert_eq!(answer.next().await, Ok(None));
    }

    #[tokio::test]
    async fn pieces_of_no_bytes_wait_for_their_reader_as_well() {
        let answer = Answer::begin(|writer| async move {
            loop {
                writer.send(Bytes::new()).await?;
            }
        });
        let waiting = || answer.shared.state.lock().unwrap().pieces.len();
        while waiting() < WAITING_PIECES {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting(), WAITING_PIECES);
    }

    #[tokio::test]
    async fn when_the_reader_goes_the_call_is_gone_with_everything_it_holds() {
        let held = Arc::new(());
        let holding = held.clone();
        let answer = Answer::begin(|writer| async move {
            let _holding = holding;
            while writer.send(vec![0; 64 * 1024].into()).await.is_ok() {}
            std::future::pending().await
        });
        answer.next().await.unwrap().unwrap();
        drop(answer);
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_writer_without_a_reader_is_told() {
        let (give, take) = tokio::sync::oneshot::channel();
        let answer = Answer::begin(|writer| async move {
            let _ = give.send(writer);
            Ok(Bytes::new())
        });
        let writer: Writer = take.await.unwrap();
        assert_eq!(answer.next().await, Ok(None));
        assert_eq!(writer.send("late".into()).await, Err(Failure::Closed));
        drop(answer);
        assert_eq!(writer.send("later".into()).await, Err(Failure::Closed));
    }
}
