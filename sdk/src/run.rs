//! For a run loop ([`run_loop!`](crate::run_loop)), and what it carries over to the next version
//! ([`state!`](crate::state)).

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::bindings::carrier::exports::astrid::capsule::state::Snapshot;
use crate::bindings::imports::astrid::capsule::supervision as raw;

/// It has what it needs, its subscriptions above all, and its version may go live. A run that has not said so after 10
/// seconds is ended. Only the first call in a run does anything.
pub fn ready() {
    raw::ready();
}

impl Snapshot {
    /// A value as JSON, in the layout of this number.
    ///
    /// # Errors
    /// When the value can't be written as JSON.
    pub fn json<T: Serialize>(schema: u32, value: &T) -> Result<Self, String> {
        let bytes = serde_json::to_vec(value).map_err(|error| format!("the state can't be written: {error}"))?;
        Ok(Self { schema, bytes })
    }

    /// The value that [`Self::json`] has written.
    ///
    /// # Errors
    /// When the bytes are not JSON of this type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.bytes).map_err(|error| format!("the state can't be read: {error}"))
    }
}
