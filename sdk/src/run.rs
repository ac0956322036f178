//! For a run loop ([`run_loop!`](crate::run_loop)).

use crate::bindings::imports::astrid::capsule::supervision as raw;

/// It has what it needs, its subscriptions above all, and its version may go live. A run that has not said so after 10
/// seconds is ended. Only the first call in a run does anything.
pub fn ready() {
    raw::ready();
}
