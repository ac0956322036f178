//! What the host's record of the running call says beside who, what and how it ended.

use serde::Serialize;

use crate::log;

/// Attaches a detail to the record of this call; another one replaces it. It is a JSON object of at most 2048 bytes from
/// which the capsule has removed what nobody may read there: no token, no key, no secret. One that does not fit is logged
/// and left out.
pub fn detail<T: Serialize + ?Sized>(detail: &T) {
    match serde_json::to_string(detail) {
        Ok(text) => attach(&text),
        Err(error) => log::warn!("a detail of the record is no JSON: {error}"),
    }
}

/// As [`detail`], for what is JSON already.
pub fn attach(json: &str) {
    // Natively there is no host that keeps a record: domain logic that says one stays testable.
    if cfg!(target_family = "wasm")
        && let Err(why) = crate::bindings::imports::astrid::sys::audit::detail(json)
    {
        log::warn!("a detail of the record was left out: {why}");
    }
}
