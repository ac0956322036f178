//! Places outside that take bytes, as the operator has named them. Needs the grant `sink:deliver`.

pub use crate::bindings::imports::astrid::sys::sink::{Delivery, Error, deliver};
