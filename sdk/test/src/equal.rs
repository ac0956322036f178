//! Equality of what the interfaces carry. It can't be derived for all of it: an event or a response may hold a handle, and
//! handles have none. What is compared here holds no handle, and what it holds stands in its `Debug` form whole.

use crate::bindings::astrid;
use crate::bindings::exports::astrid::authority::authenticator::{Identified, Presented, UnixPeer};
use crate::bindings::exports::astrid::bus::interceptor::Verdict;

macro_rules! compared {
    ($($type:ty),+ $(,)?) => {
        $(impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                format!("{self:?}") == format!("{other:?}")
            }
        })+
    };
}

compared! {
    astrid::authority::registrar::Quotas,
    astrid::authority::registrar::Standing,
    astrid::bus::types::Failure,
    astrid::bus::types::Message,
    astrid::bus::types::Refusal,
    astrid::env::env::Field,
    astrid::store::kv::Entry,
    astrid::store::kv::Error,
    astrid::store::kv::Page,
    Identified,
    Presented,
    UnixPeer,
    Verdict,
}
