//! A child in the hands of whoever started it: its pipes, and its end.

use std::io;
use std::sync::Arc;

use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{End, Ends, Entry};

/// The most bytes of one piece.
pub(super) const MAX_PIECE: usize = 64 << 10;

/// Which of its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Output,
    Errors,
}

/// What there is to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// Nothing in the time that was given.
    Nothing,
    /// Nothing ever again.
    End,
}

/// Dropped, the child ends with everything that it has started.
pub struct Child {
    entry: Arc<Entry>,
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    over: watch::Sender<Option<End>>,
}

impl Child {
    pub(super) fn new(entry: Arc<Entry>, ends: Ends) -> io::Result<Self> {
        Ok(Self {
            entry,
            stdin: Some(pipe::Sender::from_owned_fd(ends.stdin.into())?),
            stdout: pipe::Receiver::from_owned_fd(ends.stdout.into())?,
            stderr: pipe::Receiver::from_owned_fd(ends.stderr.into())?,
            over: watch::Sender::new(None),
        })
    }

    /// Told how it has ended.
    pub(super) fn over(&self) -> watch::Sender<Option<End>> {
        self.over.clone()
    }

    pub fn id(&self) -> &str {
        &self.entry.about.id
    }

    /// Writes what the pipe takes, and waits until it takes something. The answer is how many bytes that were: 0 if it took
    /// nothing by then. None if the child reads no more, or its input was closed.
    pub async fn write(&mut self, bytes: &[u8], until: Instant) -> Option<usize> {
        let stdin = self.stdin.as_ref()?;
        if bytes.is_empty() {
            return Some(0);
        }
        let writes = async {
            loop {
                stdin.writable().await?;
                match stdin.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
            }
        };
        match tokio::time::timeout_at(until, writes).await {
            Ok(Ok(written)) => Some(written),
            Ok(Err(_)) => {
                self.stdin = None;
                None
            }
            Err(_) => Some(0),
        }
    }

    /// The child reads the end of its input. Fine if it was closed.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// What it has written, at most `most` bytes and [`MAX_PIECE`]; waits for something by then.
    pub async fn read(&self, stream: Stream, most: usize, until: Instant) -> Piece {
        let pipe = match stream {
            Stream::Output => &self.stdout,
            Stream::Errors => &self.stderr,
        };
        let mut bytes = vec![0; most.clamp(1, MAX_PIECE)];
        let reads = async {
            loop {
                pipe.readable().await?;
                match pipe.try_read(&mut bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
            }
        };
        match tokio::time::timeout_at(until, reads).await {
            Ok(Ok(0) | Err(_)) => Piece::End,
            Ok(Ok(read)) => {
                bytes.truncate(read);
                Piece::Bytes(bytes)
            }
            Err(_) => Piece::Nothing,
        }
    }

    /// How it ended, if it does by then.
    pub async fn wait(&self, until: Instant) -> Option<End> {
        let mut over = self.over.subscribe();
        let ends = over.wait_for(Option::is_some);
        // The sender is this one.
        tokio::time::timeout_at(until, ends).await.ok()?.ok().and_then(|end| *end)
    }

    /// Ends it. Fine if it has ended.
    pub fn stop(&self) {
        self.entry.stop(End::Stopped);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.entry.stop(End::Dropped);
    }
}
