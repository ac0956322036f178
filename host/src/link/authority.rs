//! `astrid:authority`: what a capsule and its caller hold, sessions for front ends, the registrar for the authenticator.

use std::time::{SystemTime, UNIX_EPOCH};

use astrid_capsule::{Capability, PrincipalId};
use wasmtime::component::Resource;

use super::bindings::handler::astrid::authority::{held, registrar, sessions};
use super::bindings::handler::astrid::bus::bus::Options;
use super::bindings::handler::astrid::bus::types::Failure;
use super::bus::{Answer, Subscription};
use super::store::TransactionOfCall;
use super::{Call, OfCall};
use crate::authority::mandate::MAX_NAME;
use crate::authority::{Behalf, Change, Identified, Presented, Rejection, Standing, Through};
use crate::buckets::Ended;
use crate::bus::Sender;
use crate::meter::quotas::Quotas;

impl held::Host for Call {
    async fn holds(&mut self, capability: String, target: Option<String>) -> wasmtime::Result<bool> {
        let Sender { principal, mandate, .. } = &self.turn.sender;
        Ok(self.host.authority.holds(principal, mandate, &capability, target.as_deref()))
    }

    async fn capabilities(&mut self) -> wasmtime::Result<Vec<String>> {
        let Sender { principal, mandate, .. } = &self.turn.sender;
        Ok(self.host.authority.held(principal, mandate).iter().map(Capability::to_string).collect())
    }

    async fn ceiling(&mut self) -> wasmtime::Result<Option<Vec<String>>> {
        let ceiling = self.turn.sender.mandate.ceiling();
        Ok(ceiling.map(|ceiling| ceiling.iter().map(Capability::to_string).collect()))
    }

    async fn session(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.turn.sender.mandate.name().map(str::to_owned))
    }

    async fn grants(&mut self) -> wasmtime::Result<Vec<String>> {
        let mut grants: Vec<String> = self.generation.grants().iter().map(Capability::to_string).collect();
        grants.sort();
        Ok(grants)
    }
}

/// A front end's right to speak for a principal, for as long as its call lives.
pub struct Session {
    identified: Identified,
    /// For what outlives the call.
    through: Through,
}

/// What a handle of a session stands for.
pub type SessionOfCall = OfCall<Session>;

impl sessions::Host for Call {
    async fn authenticate(
        &mut self,
        credential: sessions::Credential,
    ) -> wasmtime::Result<Result<Resource<SessionOfCall>, sessions::Rejection>> {
        let presented = match credential {
            sessions::Credential::Bearer(token) => Some(Presented::Bearer(token)),
            sessions::Credential::Connection => self.turn.inbound.connection.as_ref().and_then(|c| c.presented()),
        };
        let Some(presented) = presented else { return Ok(Err(sessions::Rejection::Rejected)) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let authority = self.host.authority.clone();
        match self.turn.waited.around(authority.authenticate(presented, now)).await {
            Ok(identified) => {
                if let Some(connection) = &self.turn.inbound.connection {
                    connection.set_principal(identified.principal.clone());
                }
                if let Some(whom) = &self.turn.inbound.whom {
                    // The first that it took counts.
                    let _ = whom.set(identified.principal.clone());
                }
                let standing = self.host.authority.revision(&identified.principal).unwrap_or(0);
                let through = Through { expires_at: identified.expires_at, standing };
                Ok(Ok(self.push_of_call(Session { identified, through })?))
            }
            Err(Rejection::Rejected) => Ok(Err(sessions::Rejection::Rejected)),
            Err(Rejection::Unavailable) => Ok(Err(sessions::Rejection::Unavailable)),
            Err(Rejection::Overloaded) => Ok(Err(sessions::Rejection::Overloaded)),
        }
    }
}

impl Call {
    fn speaking_for(&self, session: &Resource<SessionOfCall>) -> wasmtime::Result<Sender> {
        let Session { identified, .. } = self.of_call(session)?;
        let (principal, mandate) = (identified.principal.clone(), identified.mandate.clone());
        Ok(Sender { principal, mandate, ..self.turn.sender.clone() })
    }
}

impl sessions::HostSession for Call {
    async fn principal(&mut self, session: Resource<SessionOfCall>) -> wasmtime::Result<String> {
        Ok(self.of_call(&session)?.identified.principal.as_str().into())
    }

    async fn expires_at(&mut self, session: Resource<SessionOfCall>) -> wasmtime::Result<u64> {
        Ok(self.of_call(&session)?.identified.expires_at)
    }

    async fn holds(
        &mut self,
        session: Resource<SessionOfCall>,
        capability: String,
        target: Option<String>,
    ) -> wasmtime::Result<bool> {
        let Session { identified, .. } = self.of_call(&session)?;
        let Identified { principal, mandate, .. } = identified;
        Ok(self.host.authority.holds(principal, mandate, &capability, target.as_deref()))
    }

    async fn request(
        &mut self,
        session: Resource<SessionOfCall>,
        topic: String,
        payload: Vec<u8>,
        options: Options,
    ) -> wasmtime::Result<Result<Vec<u8>, Failure>> {
        let sender = self.speaking_for(&session)?;
        let answer = self.send_request(sender, topic, payload, options).await;
        Ok(self.noted(answer))
    }

    async fn publish(
        &mut self,
        session: Resource<SessionOfCall>,
        topic: String,
        payload: Vec<u8>,
        target: Option<String>,
    ) -> wasmtime::Result<Result<u32, Failure>> {
        let sender = self.speaking_for(&session)?;
        Ok(self.send_publish(sender, topic, payload, target).await)
    }

    async fn request_stream(
        &mut self,
        session: Resource<SessionOfCall>,
        topic: String,
        payload: Vec<u8>,
        options: Options,
    ) -> wasmtime::Result<Resource<OfCall<Answer>>> {
        let (sender, through) = (self.speaking_for(&session)?, self.of_call(&session)?.through);
        let answer = self.begin_request(sender, Some(through), topic, payload, options);
        self.push_of_call(answer)
    }

    async fn subscribe(
        &mut self,
        session: Resource<SessionOfCall>,
        topics: Vec<String>,
    ) -> wasmtime::Result<Result<Resource<OfCall<Subscription>>, Failure>> {
        let Session { identified, through } = self.of_call(&session)?;
        let (principal, mandate) = (identified.principal.clone(), identified.mandate.clone());
        let behalf = Behalf { principal, mandate, session: Some(*through) };
        self.open_subscription(behalf, &topics)
    }

    async fn drop(&mut self, session: Resource<SessionOfCall>) -> wasmtime::Result<()> {
        self.table.delete(session)?;
        Ok(())
    }
}

/// The longest reason for which a session has ended, in bytes.
const MAX_WHY: usize = 256;
/// The most entries of one list in a standing or group.
const MAX_LIST: usize = 1024;

fn capabilities(field: &str, texts: &[String]) -> Result<Vec<Capability>, String> {
    bounded(field, texts.len())?;
    texts.iter().map(|t| Capability::parse(t).map_err(|e| format!("{field}: {e}"))).collect()
}

fn bounded(field: &str, len: usize) -> Result<(), String> {
    if len > MAX_LIST { Err(format!("{field} has {len} entries; at most {MAX_LIST} are taken")) } else { Ok(()) }
}

fn group_name(name: String) -> Result<String, String> {
    PrincipalId::parse(&name).map_err(|_| "a group's name must be 1 to 64 of A-Z a-z 0-9 _ -".to_owned())?;
    Ok(name)
}

fn known(principal: &str) -> Result<PrincipalId, String> {
    let id = PrincipalId::parse(principal).map_err(|e| e.to_string())?;
    if id.is_anonymous() { Err("`anonymous` can't be given anything".into()) } else { Ok(id) }
}

impl Call {
    fn stage(
        &mut self,
        transaction: &Resource<TransactionOfCall>,
        change: Result<Change, String>,
    ) -> wasmtime::Result<Result<(), String>> {
        let transaction = self.of_call_mut(transaction)?;
        Ok(change.and_then(|change| transaction.stage(change)))
    }
}

impl From<registrar::Quotas> for Quotas {
    fn from(quotas: registrar::Quotas) -> Self {
        Self {
            max_memory_bytes: quotas.max_memory_bytes,
            max_timeout_secs: quotas.max_timeout_secs,
            max_cpu_fuel_per_sec: quotas.max_cpu_fuel_per_sec,
            max_ipc_throughput_bytes: quotas.max_ipc_throughput_bytes,
            max_storage_bytes: quotas.max_storage_bytes,
            max_concurrent_calls: quotas.max_concurrent_calls,
            max_background_processes: quotas.max_background_processes,
        }
    }
}

impl registrar::Host for Call {
    async fn set_principal(
        &mut self,
        transaction: Resource<TransactionOfCall>,
        standing: registrar::Standing,
    ) -> wasmtime::Result<Result<(), String>> {
        let change = (|| {
            let id = known(&standing.principal)?;
            bounded("groups", standing.groups.len())?;
            let groups = standing.groups.into_iter().map(group_name).collect::<Result<_, _>>()?;
            let grants = capabilities("grants", &standing.grants)?;
            let revokes = capabilities("revokes", &standing.revokes)?;
            let quotas = Quotas::from(standing.quotas);
            quotas.check()?;
            let standing = Standing::new(standing.enabled, groups, grants, revokes).with_quotas(quotas);
            Ok(Change::SetPrincipal(id, standing))
        })();
        self.stage(&transaction, change)
    }

    async fn remove_principal(
        &mut self,
        transaction: Resource<TransactionOfCall>,
        principal: String,
    ) -> wasmtime::Result<Result<(), String>> {
        let change = known(&principal).map(Change::RemovePrincipal);
        self.stage(&transaction, change)
    }

    async fn set_group(
        &mut self,
        transaction: Resource<TransactionOfCall>,
        name: String,
        capabilities_held: Vec<String>,
    ) -> wasmtime::Result<Result<(), String>> {
        let change = group_name(name)
            .and_then(|name| Ok(Change::SetGroup(name, capabilities("capabilities", &capabilities_held)?)));
        self.stage(&transaction, change)
    }

    async fn remove_group(
        &mut self,
        transaction: Resource<TransactionOfCall>,
        name: String,
    ) -> wasmtime::Result<Result<(), String>> {
        let change = group_name(name).map(Change::RemoveGroup);
        self.stage(&transaction, change)
    }

    async fn end_session(
        &mut self,
        transaction: Resource<TransactionOfCall>,
        principal: String,
        session: Option<String>,
        why: String,
    ) -> wasmtime::Result<Result<(), String>> {
        let text = |field: &str, text: &str, max: usize| match (1..=max).contains(&text.len()) {
            true => Ok(()),
            false => Err(format!("{field} must be 1 to {max} bytes")),
        };
        let ended = (|| {
            session.as_ref().map_or(Ok(()), |name| text("session", name, MAX_NAME))?;
            text("why", &why, MAX_WHY)?;
            Ok(Ended { principal: known(&principal)?, session, why })
        })();
        let transaction = self.of_call_mut(&transaction)?;
        Ok(ended.and_then(|ended| transaction.record(ended)))
    }
}
