//! `astrid:authority/sessions` and `held`: an authenticator and grants that the test sets.

use std::collections::HashMap;

use astrid_capsule::{Capability, PrincipalId};
use wasmtime::Result as Wasm;
use wasmtime::component::Resource;

use crate::bindings::astrid::authority::held;
use crate::bindings::astrid::authority::sessions::{self, Credential, Rejection};
use crate::bindings::astrid::bus::bus::Options;
use crate::bindings::astrid::bus::types::Failure;
use crate::engine::State;
use crate::stream::{Answer, Subscription};
use crate::{ClientCertificate, Connection, Identified, Presented, UnixPeer};

/// The uid of the user that "runs the host": a Unix connection with it is presented as the owner's.
pub const OWNER_UID: u32 = 1000;

pub(crate) type Authenticator = Box<dyn FnMut(&Presented) -> Result<Identified, Rejection> + Send>;

#[derive(Default)]
pub(crate) struct Sessions {
    /// Without one every credential is rejected.
    pub(crate) authenticator: Option<Authenticator>,
    pub(crate) grants: HashMap<String, Vec<Capability>>,
    /// What `held` says of the session that calls come from.
    pub(crate) ceiling: Option<Vec<Capability>>,
    pub(crate) name: Option<String>,
}

/// A session of the capsule under test.
#[allow(unreachable_pub, reason = "the generated bindings name it")]
pub struct Session(Identified);

impl Identified {
    /// The authenticator's answer for `principal`, until `expires_at` (seconds since the Unix epoch).
    pub fn new(principal: impl Into<String>, expires_at: u64) -> Self {
        Self { principal: principal.into(), expires_at, ceiling: None, session: None }
    }
}

impl Sessions {
    fn authenticate(
        &mut self,
        credential: Credential,
        connection: Option<&Connection>,
    ) -> Result<Identified, Rejection> {
        let presented = match credential {
            Credential::Bearer(token) => Presented::Bearer(token),
            Credential::Connection => {
                let Some(connection) = connection else { return Err(Rejection::Rejected) };
                match (connection.unix_uid, &connection.certificate) {
                    (Some(uid), _) => Presented::Unix(UnixPeer { uid, owner: uid == OWNER_UID }),
                    (None, Some(shown)) => Presented::Certificate(ClientCertificate {
                        fingerprint: shown.fingerprint.clone(),
                        common_name: shown.common_name.clone(),
                    }),
                    (None, None) => return Err(Rejection::Rejected),
                }
            }
        };
        match &mut self.authenticator {
            Some(authenticator) => authenticator(&presented),
            None => Err(Rejection::Rejected),
        }
    }

    pub(crate) fn holds(&self, principal: &str, capability: &str, target: Option<&str>) -> bool {
        self.holds_within(principal, capability, target, |_| true)
    }

    fn holds_within(
        &self,
        principal: &str,
        capability: &str,
        target: Option<&str>,
        within: impl Fn(&Capability) -> bool,
    ) -> bool {
        let Ok(required) = Capability::parse(capability) else { return false };
        if required.is_pattern() || target.is_some_and(|t| PrincipalId::parse(t).is_err()) {
            return false;
        }
        let own = (target == Some(principal)).then(|| required.self_form());
        let held = self.grants.get(principal).map(Vec::as_slice).unwrap_or_default();
        let holds = |form: &Capability| within(form) && held.iter().any(|held| held.covers(form));
        holds(&required) || own.as_ref().is_some_and(holds)
    }
}

impl held::Host for State {
    fn holds(&mut self, capability: String, target: Option<String>) -> Wasm<bool> {
        let sessions = &self.fakes.sessions;
        let within = |form: &Capability| {
            sessions.ceiling.as_ref().is_none_or(|ceiling| ceiling.iter().any(|within| within.covers(form)))
        };
        Ok(sessions.holds_within(&self.caller.principal, &capability, target.as_deref(), within))
    }

    fn capabilities(&mut self) -> Wasm<Vec<String>> {
        let held = self.fakes.sessions.grants.get(&self.caller.principal).map(Vec::as_slice).unwrap_or_default();
        let Some(ceiling) = &self.fakes.sessions.ceiling else { return Ok(sorted(held)) };
        let met = held.iter().flat_map(|held| ceiling.iter().filter_map(|within| within.meet(held)));
        Ok(sorted(&met.collect::<Vec<_>>()))
    }

    fn grants(&mut self) -> Wasm<Vec<String>> {
        Ok(sorted(&self.manifest.asked()))
    }

    fn ceiling(&mut self) -> Wasm<Option<Vec<String>>> {
        Ok(self.fakes.sessions.ceiling.as_deref().map(sorted))
    }

    fn session(&mut self) -> Wasm<Option<String>> {
        Ok(self.fakes.sessions.name.clone())
    }
}

fn sorted(capabilities: &[Capability]) -> Vec<String> {
    let mut texts: Vec<String> = capabilities.iter().map(Capability::to_string).collect();
    texts.sort();
    texts.dedup();
    texts
}

impl sessions::Host for State {
    fn authenticate(&mut self, credential: Credential) -> Wasm<Result<Resource<Session>, Rejection>> {
        match self.fakes.sessions.authenticate(credential, self.caller.connection.as_ref()) {
            Ok(identified) => Ok(Ok(self.table.push(Session(identified))?)),
            Err(rejection) => Ok(Err(rejection)),
        }
    }
}

impl sessions::HostSession for State {
    fn principal(&mut self, session: Resource<Session>) -> Wasm<String> {
        Ok(self.table.get(&session)?.0.principal.clone())
    }

    fn expires_at(&mut self, session: Resource<Session>) -> Wasm<u64> {
        Ok(self.table.get(&session)?.0.expires_at)
    }

    fn holds(&mut self, session: Resource<Session>, capability: String, target: Option<String>) -> Wasm<bool> {
        let principal = &self.table.get(&session)?.0.principal;
        Ok(self.fakes.sessions.holds(principal, &capability, target.as_deref()))
    }

    fn request(
        &mut self,
        session: Resource<Session>,
        topic: String,
        payload: Vec<u8>,
        options: Options,
    ) -> Wasm<Result<Vec<u8>, Failure>> {
        let principal = self.table.get(&session)?.0.principal.clone();
        Ok(self.request_as(&principal, topic, payload, options))
    }

    fn publish(
        &mut self,
        session: Resource<Session>,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    ) -> Wasm<Result<u32, Failure>> {
        let principal = self.table.get(&session)?.0.principal.clone();
        Ok(self.publish_as(&principal, topic, payload, target))
    }

    fn request_stream(
        &mut self,
        session: Resource<Session>,
        topic: String,
        payload: Vec<u8>,
        options: Options,
    ) -> Wasm<Resource<Answer>> {
        let principal = self.table.get(&session)?.0.principal.clone();
        self.request_stream_as(&principal, topic, payload, options)
    }

    fn subscribe(
        &mut self,
        session: Resource<Session>,
        topics: Vec<String>,
    ) -> Wasm<Result<Resource<Subscription>, Failure>> {
        let principal = self.table.get(&session)?.0.principal.clone();
        self.subscribe_as(Some(principal), topics)
    }

    fn drop(&mut self, session: Resource<Session>) -> Wasm<()> {
        self.table.delete(session)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_self_form_is_enough_where_the_target_is_the_caller_and_nowhere_else() {
        let mut sessions = Sessions::default();
        let grants = ["self:agent:list", "bus:*"].map(|c| Capability::parse(c).unwrap());
        sessions.grants.insert("alice".into(), grants.to_vec());
        assert!(sessions.holds("alice", "agent:list", Some("alice")));
        assert!(!sessions.holds("alice", "agent:list", None));
        assert!(!sessions.holds("alice", "agent:list", Some("bob")));
        assert!(sessions.holds("alice", "bus:request", None));
        assert!(!sessions.holds("bob", "bus:request", None));
        assert!(!sessions.holds("alice", "bus:*", None));
        assert!(!sessions.holds("alice", "bus::", None));
        assert!(!sessions.holds("alice", "bus:request", Some("a b")));
    }

    #[test]
    fn a_connection_that_proves_nothing_is_rejected_and_a_unix_peer_is_presented() {
        let mut sessions = Sessions {
            authenticator: Some(Box::new(|presented| match presented {
                Presented::Unix(UnixPeer { owner: true, .. }) => Ok(Identified::new("default", 1)),
                _ => Err(Rejection::Unavailable),
            })),
            ..Sessions::default()
        };
        let connection = |unix_uid| Connection { address: None, unix_uid, tls: false, certificate: None };
        let mut ask = |uid| sessions.authenticate(Credential::Connection, Some(&connection(uid)));
        assert_eq!(ask(None), Err(Rejection::Rejected));
        assert_eq!(ask(Some(OWNER_UID)), Ok(Identified::new("default", 1)));
        assert_eq!(ask(Some(7)), Err(Rejection::Unavailable));
    }
}
