//! Signing with keys that no guest ever sees. Each purpose needs the grant `keys:<purpose>`.

pub use crate::bindings::imports::astrid::keys::keys::{Error, public_key, sign, verify};
