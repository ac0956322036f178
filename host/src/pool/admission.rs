//! Who is next: fair shares in front of whatever has so many slots, instances above all.

use std::net::IpAddr;
use std::sync::Mutex;

use astrid_capsule::PrincipalId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Overloaded;
use crate::sched::{Arrived, Bounds, Shares, Ticket};

/// Whose share a call counts against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    Principal(PrincipalId),
    /// A client whose credential was this principal's when it was last asked about, and has not been asked about now. It has a
    /// share of its own; nothing is charged to the principal yet.
    Expected(PrincipalId),
    /// A client who has not said who they are.
    Address(IpAddr),
    /// The same on a Unix socket, where it is another user than the host's own.
    User(u32),
    /// The host's own doing.
    Host,
}

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// From outside, or a publication: nobody who holds an instance waits for it.
    Outer,
    /// The first on its lane's behalf below a front end, which holds an instance.
    First,
    /// Made by a call that runs on the same lane's behalf. The lane's bound does not hold for it: the one that waits for
    /// it is counted, and would keep it out.
    Deeper,
}

/// A lane, and whether it is that of its deeper calls.
type Key = (Lane, bool);
type Waiter = oneshot::Sender<()>;

/// One set of slots.
pub(crate) struct Gate {
    shares: Mutex<Shares<Key, Waiter>>,
}

impl Gate {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { shares: Mutex::new(Shares::new(bounds)) }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.shares.lock().expect("no panic under this lock").waiting()
    }

    pub(crate) async fn admit(&self, key: Key, most: usize, deadline: Instant) -> Result<Permit<'_>, Overloaded> {
        let (waiter, turn) = oneshot::channel();
        let arrived = self.shares.lock().expect("no panic under this lock").arrive(&key, waiter, most);
        let permit = Permit { gate: self, key, fuel: 0 };
        match arrived {
            Arrived::Runs(_) => Ok(permit),
            Arrived::Refused(_) => {
                std::mem::forget(permit);
                Err(Overloaded)
            }
            Arrived::Waits(ticket) => {
                let mut waiting = Waiting { permit: Some(permit), ticket, turn };
                match tokio::time::timeout_at(deadline, &mut waiting.turn).await {
                    Ok(_) => Ok(waiting.permit.take().expect("taken once")),
                    Err(_) => Err(Overloaded),
                }
            }
        }
    }

    fn leave(&self, key: &Key, fuel: u64) {
        let mut shares = self.shares.lock().expect("no panic under this lock");
        let mut next = shares.leave(key, fuel);
        // Told under the lock: whoever gives up takes the lock first, so a turn is either taken back or received.
        while let Some((key, waiter)) = next {
            if waiter.send(()).is_ok() {
                return;
            }
            next = shares.leave(&key, 0);
        }
    }
}

/// A slot, until it is dropped.
pub struct Permit<'a> {
    gate: &'a Gate,
    key: Key,
    fuel: u64,
}

impl Permit<'_> {
    /// What the call used, which its lane pays for.
    pub fn settle(&mut self, fuel: u64) {
        self.fuel = fuel;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.gate.leave(&self.key, self.fuel);
    }
}

/// A place in line. Dropped with its permit still inside, it gives up, also when its turn has come meanwhile.
struct Waiting<'a> {
    permit: Option<Permit<'a>>,
    ticket: Ticket,
    turn: oneshot::Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut shares = permit.gate.shares.lock().expect("no panic under this lock");
        let waited = shares.cancel(&permit.key, self.ticket);
        drop(shares);
        if waited {
            // It never had a slot to leave.
            std::mem::forget(permit);
        }
    }
}
