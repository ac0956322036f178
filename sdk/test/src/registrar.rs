//! `astrid:authority/registrar`: standings and groups, staged in transactions and in force when these commit.

use std::collections::BTreeMap;

use astrid_capsule::{Capability, PrincipalId};
use wasmtime::Result as Wasm;
use wasmtime::component::Resource;

use crate::bindings::astrid::authority::registrar::{self, Quotas, Standing};
use crate::engine::State;
use crate::store::Transaction;

/// The most entries of one list in a standing or group, as the host takes them.
const MAX_LIST: usize = 1024;
/// The longest name of a session and the longest reason for its end, in bytes, as the host takes them.
const MAX_SESSION: usize = 128;
const MAX_WHY: usize = 256;

/// Everybody's standing and every group, as the capsule under test has registered them.
#[derive(Debug, Default, Clone)]
pub struct Registrar {
    principals: BTreeMap<String, Standing>,
    groups: BTreeMap<String, Vec<String>>,
    ended: Vec<Ended>,
}

/// A session that has ended, as it was told for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub principal: String,
    pub session: Option<String>,
    pub why: String,
}

pub(crate) enum Change {
    SetPrincipal(Standing),
    RemovePrincipal(String),
    SetGroup(String, Vec<String>),
    RemoveGroup(String),
    EndSession(Ended),
}

impl Registrar {
    /// A principal's standing, if it was registered and not removed.
    pub fn standing(&self, principal: &str) -> Option<&Standing> {
        self.principals.get(principal)
    }

    /// A group's capabilities, if it was registered and not removed.
    pub fn group(&self, name: &str) -> Option<&[String]> {
        self.groups.get(name).map(Vec::as_slice)
    }

    /// The sessions that have ended, in the order of their commits.
    pub fn ended(&self) -> &[Ended] {
        &self.ended
    }

    /// The registered principals, sorted.
    pub fn principals(&self) -> impl Iterator<Item = &str> {
        self.principals.keys().map(String::as_str)
    }

    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::SetPrincipal(standing) => {
                    self.principals.insert(standing.principal.clone(), standing);
                }
                Change::RemovePrincipal(principal) => {
                    self.principals.remove(&principal);
                }
                Change::SetGroup(name, capabilities) => {
                    self.groups.insert(name, capabilities);
                }
                Change::RemoveGroup(name) => {
                    self.groups.remove(&name);
                }
                Change::EndSession(ended) => self.ended.push(ended),
            }
        }
    }
}

fn check_principal(principal: &str) -> Result<(), String> {
    match PrincipalId::parse(principal) {
        Ok(id) if id.is_anonymous() => Err("principal: `anonymous` can't be registered".into()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("principal: {error}")),
    }
}

/// Group names have the grammar of principal ids.
fn check_group(field: &str, name: &str) -> Result<(), String> {
    PrincipalId::parse(name).map(drop).map_err(|_| format!("{field}: `{name}` must be 1 to 64 of A-Z a-z 0-9 _ -"))
}

fn check_length(field: &str, list: &[String]) -> Result<(), String> {
    if list.len() > MAX_LIST { Err(format!("{field}: has more than {MAX_LIST} entries")) } else { Ok(()) }
}

fn check_text(field: &str, text: &str, max: usize) -> Result<(), String> {
    if (1..=max).contains(&text.len()) { Ok(()) } else { Err(format!("{field} must be 1 to {max} bytes")) }
}

fn check_capabilities(field: &str, capabilities: &[String]) -> Result<(), String> {
    check_length(field, capabilities)?;
    capabilities.iter().try_for_each(|c| Capability::parse(c).map(drop).map_err(|error| format!("{field}: {error}")))
}

fn check_standing(standing: &Standing) -> Result<(), String> {
    check_principal(&standing.principal)?;
    check_length("groups", &standing.groups)?;
    standing.groups.iter().try_for_each(|group| check_group("groups", group))?;
    check_capabilities("grants", &standing.grants)?;
    check_capabilities("revokes", &standing.revokes)?;
    check_quotas(&standing.quotas)
}

/// The longest that one call may take, in seconds, as the host takes it.
const MAX_TIMEOUT_SECS: u64 = 86_400;
/// The most sandboxed children at once, as the host takes them.
const MAX_PROCESSES: u64 = 256;

fn check_quotas(quotas: &Quotas) -> Result<(), String> {
    if let Some(secs) = quotas.max_timeout_secs.filter(|secs| !(1..=MAX_TIMEOUT_SECS).contains(secs)) {
        return Err(format!("max_timeout_secs = {secs} must be 1 to {MAX_TIMEOUT_SECS}"));
    }
    if let Some(most) = quotas.max_background_processes.filter(|most| !(1..=MAX_PROCESSES).contains(most)) {
        return Err(format!("max_background_processes = {most} must be 1 to {MAX_PROCESSES}"));
    }
    let others = [
        ("max_memory_bytes", quotas.max_memory_bytes),
        ("max_cpu_fuel_per_sec", quotas.max_cpu_fuel_per_sec),
        ("max_ipc_throughput_bytes", quotas.max_ipc_throughput_bytes),
        ("max_storage_bytes", quotas.max_storage_bytes),
        ("max_concurrent_calls", quotas.max_concurrent_calls),
    ];
    match others.iter().find(|(_, value)| *value == Some(0)) {
        Some((field, _)) => Err(format!("{field} = 0 must be at least 1")),
        None => Ok(()),
    }
}

impl State {
    fn stage(
        &mut self,
        transaction: &Resource<Transaction>,
        checked: Result<(), String>,
        change: Change,
    ) -> Wasm<Result<(), String>> {
        let transaction = self.table.get_mut(transaction)?;
        Ok(checked.and_then(|()| transaction.stage(change)))
    }
}

impl registrar::Host for State {
    fn set_principal(&mut self, transaction: Resource<Transaction>, standing: Standing) -> Wasm<Result<(), String>> {
        let checked = check_standing(&standing);
        self.stage(&transaction, checked, Change::SetPrincipal(standing))
    }

    fn remove_principal(&mut self, transaction: Resource<Transaction>, principal: String) -> Wasm<Result<(), String>> {
        let checked = check_principal(&principal);
        self.stage(&transaction, checked, Change::RemovePrincipal(principal))
    }

    fn set_group(
        &mut self,
        transaction: Resource<Transaction>,
        name: String,
        capabilities: Vec<String>,
    ) -> Wasm<Result<(), String>> {
        let checked = check_group("name", &name).and_then(|()| check_capabilities("capabilities", &capabilities));
        self.stage(&transaction, checked, Change::SetGroup(name, capabilities))
    }

    fn remove_group(&mut self, transaction: Resource<Transaction>, name: String) -> Wasm<Result<(), String>> {
        let checked = check_group("name", &name);
        self.stage(&transaction, checked, Change::RemoveGroup(name))
    }

    fn end_session(
        &mut self,
        transaction: Resource<Transaction>,
        principal: String,
        session: Option<String>,
        why: String,
    ) -> Wasm<Result<(), String>> {
        let checked = check_principal(&principal)
            .and_then(|()| session.as_ref().map_or(Ok(()), |name| check_text("session", name, MAX_SESSION)))
            .and_then(|()| check_text("why", &why, MAX_WHY));
        self.stage(&transaction, checked, Change::EndSession(Ended { principal, session, why }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_that_does_not_fit_is_refused_by_the_name_of_its_field() {
        let good = Standing {
            principal: "alice".into(),
            enabled: true,
            groups: vec!["agent".into()],
            grants: vec!["a:*".into()],
            revokes: vec![],
            quotas: Quotas {
                max_memory_bytes: None,
                max_timeout_secs: Some(60),
                max_cpu_fuel_per_sec: None,
                max_ipc_throughput_bytes: None,
                max_storage_bytes: None,
                max_concurrent_calls: None,
                max_background_processes: None,
            },
        };
        assert_eq!(check_standing(&good), Ok(()));
        let bad = |change: fn(&mut Standing)| {
            let mut standing = good.clone();
            change(&mut standing);
            check_standing(&standing).unwrap_err()
        };
        assert!(bad(|s| s.principal = "anonymous".into()).starts_with("principal: "));
        assert!(bad(|s| s.principal = "a b".into()).starts_with("principal: "));
        assert!(bad(|s| s.groups = vec!["".into()]).starts_with("groups: "));
        assert!(bad(|s| s.groups = vec!["g".into(); MAX_LIST + 1]).starts_with("groups: "));
        assert!(bad(|s| s.grants = vec!["a::b".into()]).starts_with("grants: "));
        assert!(bad(|s| s.revokes = vec!["**".into()]).starts_with("revokes: "));
        assert!(bad(|s| s.quotas.max_timeout_secs = Some(86_401)).starts_with("max_timeout_secs = 86401"));
        assert!(bad(|s| s.quotas.max_storage_bytes = Some(0)).starts_with("max_storage_bytes = 0"));
    }
}
