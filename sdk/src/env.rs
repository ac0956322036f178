//! What the capsule was told from outside: the `[env]` fields of its manifest, as they stand for the call's principal.
//!
//! ```no_run
//! use astrid_sdk::prelude::*;
//!
//! fn ask(_: Message) -> Answer {
//!     let key = env::require("API_KEY")?;
//!     let model = env::get("MODEL")?.unwrap_or_default();
//!     json(&format!("{model} with a key of {} bytes", key.len()))
//! }
//! ```
//!
//! A secret goes where it is needed and nowhere else: not into an answer, a refusal or the log.

pub use crate::bindings::imports::astrid::env::env::{Error, Field, Kind, get, list};
use crate::bus::Refusal;

/// The value of a field that has to have one. Where there is none the refusal (`invalid`) says what to set: for whoever
/// called, whose value it is.
pub fn require(name: &str) -> Result<String, Refusal> {
    get(name)?.ok_or_else(|| Refusal::invalid(format!("{name} has to be set in this capsule's environment first")))
}
