//! Calls of `astrid:http/relay`: a test is the source of the events.

use astrid_capsule::principal::ANONYMOUS;

use crate::bindings::exports::astrid::http::relay::GuestIndices as RelayExport;
use crate::bus::from_test;
use crate::{Call, CallError, Capsule, Event, Output};

impl Event {
    /// A message of `principal`, as its relay's subscription gets it.
    pub fn message(principal: &str, topic: &str, payload: impl Into<Vec<u8>>) -> Self {
        Self::Message(from_test(1, topic, principal, payload.into()))
    }
}

impl Capsule {
    /// Asks for the bytes of these events as `anonymous`; see [`Call::relay`].
    ///
    /// # Errors
    /// As [`Call::relay`].
    pub fn relay(&mut self, context: &[u8], events: &[Event]) -> Result<Output, CallError> {
        self.as_principal(ANONYMOUS).relay(context, events)
    }
}

impl Call<'_> {
    /// Asks for the bytes of these events. That there are 1 to 64 of them, and what becomes of the bytes, is the host's part.
    ///
    /// # Errors
    /// When the export is missing or the instance dies.
    pub fn relay(self, context: &[u8], events: &[Event]) -> Result<Output, CallError> {
        let Self { capsule, principal, .. } = self;
        let missing = |_| CallError::NoExport("astrid:http/relay");
        let indices = RelayExport::new(&capsule.linked).map_err(missing)?;
        let caller = capsule.caller(&principal);
        capsule.run(caller, |store, instance| indices.load(&mut *store, instance)?.call_relay(store, context, events))
    }
}
