//! Who is calling, and what they hold: for everybody ([`held`]), for front ends ([`authenticate`] and [`Session`], grant
//! `authority:sessions`), for the authenticator ([`Presented`], [`Identified`], grant `authority:authenticator`) and
//! for whoever tells the host what everybody holds ([`registrar`], grant `authority:registrar`).

pub use crate::bindings::authenticator::exports::astrid::authority::authenticator::{
    ClientCertificate, Identified, Presented, UnixPeer,
};
pub use crate::bindings::imports::astrid::authority::sessions::{Credential, Rejection, Session, authenticate};
use crate::bus::{Failure, Options, RawPieces, Subscription};

impl Session {
    /// Opens a [`Subscription`] to messages of the session's principal; see [`Subscription::open`].
    pub fn events(&self, topics: &[&str]) -> Result<Subscription, Failure> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.subscribe(&topics).map(Subscription::from)
    }

    /// As [`crate::bus::request_stream_raw`], on behalf of the session's principal.
    pub fn pieces(&self, topic: &str, payload: &[u8], options: &Options) -> RawPieces {
        self.request_stream(topic, payload, options).into()
    }
}

/// What this capsule and its caller hold, by the code that enforces it. For every capsule.
pub mod held {
    pub use crate::bindings::imports::astrid::authority::held::{capabilities, ceiling, grants, holds, session};
}

/// Standing of principals and groups, written within a [`crate::kv::Transaction`].
pub mod registrar {
    pub use crate::bindings::imports::astrid::authority::registrar::{
        Quotas, Standing, end_session, remove_group, remove_principal, set_group, set_principal,
    };
}
