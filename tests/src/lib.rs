//! What stories are told with: real homes and daemons ([`daemon`]), clients of their sockets ([`http`], [`tls`]), capsules
//! that differ from what the tools pack ([`pack`]), and what many of them do ([`steps`]).
//!
//! Everything waits for a condition and at most [`DEADLINE`] for it; nothing here sleeps in place of one. Whatever
//! can't go on panics with what is known, the daemon's own words included: nobody but tests calls this.

use std::time::Duration;

pub mod daemon;
pub mod http;
pub mod ocsf;
pub mod pack;
pub mod steps;
pub mod tls;

/// How long anything may take before it is said to hang: generous, because the machine may be busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(60);
