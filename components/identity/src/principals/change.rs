//! Making, placing, enabling, disabling and deleting principals.
//!
//! Whoever makes or places one gives it no more than they may give. [`DEFAULT`] is neither deleted nor disabled, and stays an
//! administrator.

use serde::{Deserialize, Serialize};

use super::id::{RESERVED, is_free};
use super::{DEFAULT, Principal, Row, existing_in, protected, rights_of_caller, save, save_new};
use crate::groups;
use crate::payload::{self, invalid, to_store};
use crate::policy;
use crate::ports::{Bucket, Ports, Transaction, transact};
use crate::refusal::Refusal;

/// The most groups of one principal.
const MAX_GROUPS: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    name: String,
    #[serde(default, deserialize_with = "payload::or_default")]
    groups: Vec<String>,
    #[serde(default, deserialize_with = "payload::or_default")]
    grants: Vec<String>,
}

/// Makes a principal that has what is named and nothing else, no key either: it gets one by a pair token. Without groups it
/// is in [`groups::AGENT`]. What its groups hold and what is granted must be the caller's to give. An id that somebody has
/// or had is a conflict.
pub fn create<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Row, Refusal> {
    let CreateRequest { name: id, groups: named, grants } = payload::read(payload)?;
    payload::principal("name", &id)?;
    if id != DEFAULT && RESERVED.contains(&id.as_str()) {
        return Err(Refusal::Invalid(format!("name `{id}` is reserved")));
    }
    let named = if named.is_empty() { vec![groups::AGENT.to_owned()] } else { unique(named) };
    check_count(&named)?;
    let grants = groups::capabilities("grants", &grants)?;
    groups::check_unbounded("grants", &grants, false)?;
    transact(ports, |transaction| {
        let giver = rights_of_caller(ports, transaction, caller)?;
        giver.check_giving("the list of grants", &grants)?;
        for group in &named {
            let held = groups::to_join(transaction, group)?;
            giver.check_giving(&format!("a place in `{group}`"), &held)?;
        }
        if transaction.get(Bucket::Principals, &id)?.is_some() {
            return Err(Refusal::Conflict(format!("there is a principal `{id}` already")));
        }
        if !is_free(transaction, &id)? {
            return Err(Refusal::Conflict(format!("`{id}` was deleted, and an id is given only once")));
        }
        policy::admit(ports, transaction)?;
        let names: Vec<&str> = named.iter().map(String::as_str).collect();
        let mut principal = Principal::new(&names, ports.now());
        principal.grants = grants.iter().map(|grant| grant.as_str().to_owned()).collect();
        save_new(transaction, &id, &principal)?;
        Ok(Row::new(&id, principal))
    })
}

/// Each once, in the order in which they first come.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut unique: Vec<String> = Vec::new();
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    unique
}

fn check_count(names: &[String]) -> Result<(), Refusal> {
    match names.len() {
        count if count > MAX_GROUPS => Err(invalid("groups", format!("at most {MAX_GROUPS}; there are {count}"))),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModifyRequest {
    principal: String,
    #[serde(default, deserialize_with = "payload::or_default")]
    add_groups: Vec<String>,
    #[serde(default, deserialize_with = "payload::or_default")]
    remove_groups: Vec<String>,
}

/// The answer to `principal.modify`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Modified {
    pub principal: String,
    pub groups: Vec<String>,
    /// Whether it was in other groups before.
    pub changed: bool,
}

/// Puts a principal into groups and takes it out of others; in force when this returns. What the groups that it joins
/// hold must be the caller's to give.
pub fn modify<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Modified, Refusal> {
    let ModifyRequest { principal: id, add_groups, remove_groups } = payload::read(payload)?;
    payload::principal("principal", &id)?;
    if let Some(both) = add_groups.iter().find(|added| remove_groups.contains(added)) {
        return Err(Refusal::Invalid(format!(
            "group {} is in both add_groups and remove_groups",
            payload::shown(both)
        )));
    }
    if id == DEFAULT && remove_groups.iter().any(|group| group == groups::ADMIN) {
        return Err(protected("never leaves `admin`"));
    }
    transact(ports, |transaction| {
        let mut principal = existing_in(transaction, &id)?;
        let before = principal.groups.clone();
        let giver = rights_of_caller(ports, transaction, caller)?;
        for group in &add_groups {
            let held = groups::to_join(transaction, group)?;
            if !principal.groups.contains(group) {
                giver.check_giving(&format!("a place in `{group}`"), &held)?;
                groups::enter(transaction, group, &id)?;
                principal.groups.push(group.clone());
            }
        }
        for group in &remove_groups {
            if principal.groups.contains(group) {
                groups::leave(transaction, group, &id)?;
                principal.groups.retain(|name| name != group);
            }
        }
        check_count(&principal.groups)?;
        let changed = principal.groups != before;
        if changed {
            save(transaction, &id, &principal)?;
        }
        Ok(Modified { principal: id.clone(), groups: principal.groups, changed })
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameRequest {
    principal: String,
}

/// The answer to `principal.enable` and `principal.disable`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Enabled {
    pub principal: String,
    pub enabled: bool,
    /// Whether it was otherwise before.
    pub changed: bool,
}

/// Lets a principal in again, with what it had. Its sessions of before stay ended.
pub fn enable<P: Ports>(ports: &P, payload: &[u8]) -> Result<Enabled, Refusal> {
    set_enabled(ports, payload, true)
}

/// Denies a principal everything and ends its sessions, from the next request on.
pub fn disable<P: Ports>(ports: &P, payload: &[u8]) -> Result<Enabled, Refusal> {
    set_enabled(ports, payload, false)
}

fn set_enabled<P: Ports>(ports: &P, payload: &[u8], enabled: bool) -> Result<Enabled, Refusal> {
    let NameRequest { principal: id } = payload::read(payload)?;
    payload::principal("principal", &id)?;
    if id == DEFAULT && !enabled {
        return Err(protected("is never disabled"));
    }
    transact(ports, |transaction| {
        let mut principal = existing_in(transaction, &id)?;
        let changed = principal.enabled != enabled;
        if changed {
            principal.enabled = enabled;
            if !enabled {
                principal.revoked_at = Some(ports.now());
            }
            save(transaction, &id, &principal)?;
        }
        Ok(Enabled { principal: id.clone(), enabled, changed })
    })
}

/// The answer to `principal.delete`: an empty object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Deleted {}

/// What is left of a deleted principal: that its id is not given again.
#[derive(Serialize)]
struct Gone {
    /// Seconds since the Unix epoch.
    deleted_at: u64,
}

/// Deletes a principal with its keys and certificates; its sessions, open pair tokens and invites end with it.
pub fn delete<P: Ports>(ports: &P, payload: &[u8]) -> Result<Deleted, Refusal> {
    let NameRequest { principal: id } = payload::read(payload)?;
    payload::principal("principal", &id)?;
    if id == DEFAULT {
        return Err(protected("is never deleted"));
    }
    transact(ports, |transaction| {
        let principal = existing_in(transaction, &id)?;
        policy::release(ports, transaction)?;
        for key in &principal.keys {
            transaction.delete(Bucket::Keys, &key.fingerprint)?;
        }
        for certificate in &principal.certificates {
            transaction.delete(Bucket::Certificates, &certificate.fingerprint)?;
        }
        for group in &principal.groups {
            groups::leave(transaction, group, &id)?;
        }
        transaction.put(Bucket::Gone, &id, &to_store(&Gone { deleted_at: ports.now() })?)?;
        transaction.delete(Bucket::Principals, &id)?;
        transaction.delete(Bucket::Approvals, &id)?;
        transaction.remove_principal(&id)?;
        Ok(Deleted {})
    })
}
