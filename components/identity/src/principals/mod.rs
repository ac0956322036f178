//! Principals: the records, what the host is told of them, the verbs that change and show them, and the one that is there from
//! the start.
//!
//! A record and the standing that the host enforces are written in one transaction, so they never differ. An id is given
//! once: what capsules keep for a deleted principal must not become somebody else's. Knows nothing of how a principal
//! proves who it is.
//!
//! Here are the records; [`change`] and [`mod@show`] are the verbs, and [`id`] finds a free one.

mod change;
mod id;
mod show;

use serde::{Deserialize, Serialize};

pub use change::{Deleted, Enabled, Modified, create, delete, disable, enable, modify};
pub use id::{free_id, slug};
pub use show::{Me, PrincipalList, Row, list, me, show};

use crate::certificates::Certificate;
use crate::devices::Pairing;
use crate::groups;
use crate::keys::PublicKey;
use crate::login::Used;
use crate::payload::{self, stored, to_store};
use crate::ports::{Bucket, Ports, Standing, Transaction, transact};
use crate::quotas::Quotas;
use crate::refusal::Refusal;
use crate::rights::Rights;

/// The bootstrap principal, in group [`groups::ADMIN`]. It can be neither deleted nor disabled nor stripped.
pub const DEFAULT: &str = "default";

/// A principal as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    pub enabled: bool,
    pub groups: Vec<String>,
    pub grants: Vec<String>,
    pub revokes: Vec<String>,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
    /// Bearers issued then or before are dead. Seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
    pub keys: Vec<Key>,
    /// Certificates that stand for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// How many keys it has had.
    #[serde(default)]
    pub keys_had: u64,
    /// When each bearer expires that a renewal has given and that is still good. Seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewals: Vec<u64>,
    /// Open pair tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairings: Vec<Pairing>,
    /// Challenges that were answered and have not expired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logins: Vec<Used>,
    #[serde(default, skip_serializing_if = "Quotas::is_default")]
    pub quotas: Quotas,
}

/// A public key by which a principal can prove who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub fingerprint: String,
    pub public_key: String,
    /// Seconds since the Unix epoch.
    pub added_at: u64,
    /// Which of all keys that the principal has had it is, from 0: one that comes back is another device.
    #[serde(default)]
    pub number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What its sessions may use of what the principal holds; none: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
}

impl Principal {
    /// An enabled one in these groups, with nothing else.
    pub fn new(groups: &[&str], now: u64) -> Self {
        Self {
            enabled: true,
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            grants: Vec::new(),
            revokes: Vec::new(),
            created_at: now,
            revoked_at: None,
            keys: Vec::new(),
            certificates: Vec::new(),
            keys_had: 0,
            renewals: Vec::new(),
            pairings: Vec::new(),
            logins: Vec::new(),
            quotas: Quotas::default(),
        }
    }

    /// Adds a key.
    pub fn add_key(&mut self, key: PublicKey, now: u64, label: Option<String>, scope: Option<Vec<String>>) -> Key {
        let (fingerprint, public_key) = (key.fingerprint(), key.to_hex());
        let added = Key { fingerprint, public_key, added_at: now, number: self.keys_had, label, scope };
        self.keys_had += 1;
        self.keys.push(added.clone());
        added
    }

    /// What its record and its groups give it.
    pub fn rights(&self, transaction: &mut impl Transaction) -> Result<Rights, Refusal> {
        let mut defined = Vec::new();
        for name in &self.groups {
            if let Some(held) = groups::held_by(transaction, name)? {
                defined.push((name.clone(), held));
            }
        }
        Ok(Rights {
            enabled: self.enabled,
            revokes: groups::parse_stored(&self.revokes)?,
            grants: groups::parse_stored(&self.grants)?,
            groups: defined,
            ceiling: None,
        })
    }
}

/// What the caller may do and give, through the session that it calls by; nothing if there is no such principal.
pub fn rights_of_caller<P: Ports>(
    ports: &P,
    transaction: &mut P::Transaction,
    caller: &str,
) -> Result<Rights, Refusal> {
    let rights = match load_in(transaction, caller)? {
        Some(principal) => principal.rights(transaction)?,
        None => Rights::default(),
    };
    let ceiling = ports.ceiling().map(|ceiling| groups::parse_stored(&ceiling)).transpose()?;
    Ok(Rights { ceiling, ..rights })
}

/// There is nobody of that id.
pub fn unknown(id: &str) -> Refusal {
    // A token in the wrong place can have the form of an id.
    Refusal::NotFound(format!("no principal {}", payload::shown(id)))
}

/// Reads a principal.
pub fn load<P: Ports>(ports: &P, id: &str) -> Result<Option<Principal>, Refusal> {
    ports.get(Bucket::Principals, id)?.map(|bytes| read(id, &bytes)).transpose()
}

/// Reads a principal that must be there.
pub fn existing<P: Ports>(ports: &P, id: &str) -> Result<Principal, Refusal> {
    load(ports, id)?.ok_or_else(|| unknown(id))
}

/// Reads the record of a principal in a transaction that depends on it.
pub fn load_in(transaction: &mut impl Transaction, id: &str) -> Result<Option<Principal>, Refusal> {
    transaction.get(Bucket::Principals, id)?.map(|bytes| read(id, &bytes)).transpose()
}

/// Reads the record of a principal that must be there, in a transaction that depends on it.
pub fn existing_in(transaction: &mut impl Transaction, id: &str) -> Result<Principal, Refusal> {
    load_in(transaction, id)?.ok_or_else(|| unknown(id))
}

fn read(id: &str, bytes: &[u8]) -> Result<Principal, Refusal> {
    stored(&format!("principal `{id}`"), bytes)
}

/// Stages the record and the standing that follows from it.
pub fn save(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    save_record(transaction, id, principal)?;
    publish(transaction, id, principal)
}

/// Stages the record alone, where nothing that the host knows has changed: its sessions and streams go on.
pub fn save_record(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    Ok(transaction.put(Bucket::Principals, id, &to_store(principal)?)?)
}

/// Stages somebody who was not there: record, standing and a place in each group.
pub fn save_new(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    for group in &principal.groups {
        groups::enter(transaction, group, id)?;
    }
    save(transaction, id, principal)
}

/// Stages the standing that follows from a record, so that the host forgets what it remembers of bearers.
pub fn publish(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    let Principal { enabled, groups, grants, revokes, quotas, .. } = principal;
    let standing = Standing { principal: id, enabled: *enabled, groups, grants, revokes, quotas: *quotas };
    Ok(transaction.set_principal(standing)?)
}

/// Makes sure that the built-in groups are in force and that [`DEFAULT`] exists, is enabled and is an administrator.
/// Safe to repeat; looks at no other principal.
pub fn bootstrap<P: Ports>(ports: &P) -> Result<(), Refusal> {
    transact(ports, |transaction| {
        for (name, capabilities) in groups::BUILT_IN {
            transaction.set_group(name, capabilities)?;
        }
        let found = load_in(transaction, DEFAULT)?;
        let mut principal = found.clone().unwrap_or_else(|| Principal::new(&[groups::ADMIN], ports.now()));
        principal.enabled = true;
        if !principal.groups.iter().any(|group| group == groups::ADMIN) {
            principal.groups.push(groups::ADMIN.into());
        }
        if found.as_ref() == Some(&principal) {
            return publish(transaction, DEFAULT, &principal);
        }
        save(transaction, DEFAULT, &principal)
    })
}

/// What nobody may do to [`DEFAULT`]; `what` goes on with the sentence: "is never deleted".
pub fn protected(what: &str) -> Refusal {
    Refusal::Denied(format!("`{DEFAULT}` {what}"))
}

#[cfg(test)]
mod tests;
