//! The socket between the daemon and a jail: what goes over it, and in which order.
//!
//! 1. The daemon sends one byte with the program's three pipes, then the [`Plan`].
//! 2. The jail sends [`READY`] when all of it is set up, else [`FAILED`] and a text that names the part that is not.
//! 3. The daemon sends [`GO`]. The jail becomes the program, which closes the socket, or sends [`FAILED`] and why.
//!
//! Bounded by [`MAX_PLAN`] and [`MAX_TEXT`]. Refuses to know: what a plan means.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

/// Everything is set up.
pub(super) const READY: u8 = b'r';
/// Something is not; a text follows.
pub(super) const FAILED: u8 = b'!';
/// Become the program.
pub(super) const GO: u8 = b'g';

/// The longest plan as JSON, in bytes: six for each byte of what was asked, and some.
pub(super) const MAX_PLAN: usize = 1 << 20;
/// The longest text of a failure, in bytes.
pub(super) const MAX_TEXT: u64 = 1024;
/// Standard input, output and error.
pub(super) const PIPES: usize = 3;

/// What a jail is to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The file, with every symbolic link resolved.
    pub(super) file: PathBuf,
    /// How it was called: its first argument.
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Seconds of CPU that each of its processes may use.
    pub(super) cpu_secs: u64,
}

impl Plan {
    /// As it goes over the socket: its length, then JSON.
    pub(super) fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let length = u32::try_from(json.len()).ok().filter(|&length| length as usize <= MAX_PLAN);
        let length = length.ok_or_else(|| io::Error::other(format!("the plan is larger than {MAX_PLAN} bytes")))?;
        Ok([&length.to_le_bytes()[..], &json].concat())
    }
}

/// Sends the program's pipes. The socket is new, so this never waits.
pub(super) fn send_pipes(socket: &UnixStream, pipes: [BorrowedFd<'_>; PIPES]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PIPES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&pipes)) {
        return Err(io::Error::other("three descriptors did not fit"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    Ok(())
}

/// What the daemon has sent. Waits for it.
pub(super) fn receive(socket: &UnixStream) -> io::Result<(Plan, [OwnedFd; PIPES])> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PIPES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut pipes = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            pipes.extend(descriptors);
        }
    }
    let pipes = pipes.try_into().map_err(|_| io::Error::other("the program's three pipes are missing"))?;
    let mut socket = socket;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_PLAN {
        return Err(io::Error::other("the plan is too large"));
    }
    let mut json = vec![0; length];
    socket.read_exact(&mut json)?;
    Ok((serde_json::from_slice(&json)?, pipes))
}

/// Says what could not be set up. Nobody may listen any more.
pub(super) fn fail(mut socket: &UnixStream, why: &str) {
    let _ = socket.write_all(&[&[FAILED], why.as_bytes()].concat());
}
