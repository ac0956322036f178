//! A socket whose peer may take its time to read, but not for ever; and that says when something has come, and when nothing
//! can be written.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::pace::Pace;

/// Fails with `TimedOut` once the peer has taken nothing for so long of what was to be written.
pub(super) struct Patient<S> {
    socket: S,
    patience: Duration,
    /// Told of what it reads, and when a write waits.
    pace: Arc<Pace>,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(socket: S, patience: Duration, pace: Arc<Pace>) -> Self {
        Self { socket, patience, pace, waiting: None }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.waiting.take().is_some() {
                self.pace.blocks(false);
            }
            return written;
        }
        if self.waiting.is_none() {
            self.pace.blocks(true);
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        waiting.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, into);
        if into.filled().len() > before {
            self.pace.arrived();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, bytes);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::pace::{Kind, Times};
    use super::*;

    fn over<S>(socket: S, patience: Duration) -> Patient<S> {
        let times = Times { head: patience, idle: patience, write: patience };
        Patient::new(socket, patience, Pace::new(times, Kind::Single))
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_waited_for_only_so_long_and_what_it_takes_begins_that_anew() {
        let (mut peer, socket) = duplex(8);
        let mut patient = over(socket, Duration::from_secs(60));
        assert_eq!(patient.write(&[0; 9]).await.unwrap(), 8);
        let now = |patient: &mut Patient<_>| {
            let mut context = Context::from_waker(std::task::Waker::noop());
            Pin::new(patient).poll_write(&mut context, &[0]).is_ready()
        };
        assert!(!now(&mut patient) && patient.waiting.is_some());
        peer.read_exact(&mut [0; 8]).await.unwrap();
        assert!(now(&mut patient) && patient.waiting.is_none());

        let (_peer, socket) = duplex(8);
        let mut patient = over(socket, Duration::from_millis(1));
        assert_eq!(patient.write_all(&[0; 80]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
