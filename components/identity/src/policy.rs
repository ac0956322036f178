//! What the distribution says of who may become a principal: `[invites]` of `Distro.toml`, as the fields of this capsule's
//! `[env]` that only the distribution sets.
//!
//! Owns how the fields read, the bound on principals, and how many there are while there is one. A field without a value is
//! no rule; one that does not read is an error, never no rule.

use serde::{Deserialize, Serialize};

use crate::payload::{stored, to_store};
use crate::ports::{Bucket, Ports, Transaction};
use crate::refusal::Refusal;

const ISSUERS: &str = "DISTRO_ISSUERS";
const DEFAULT_GROUP: &str = "DISTRO_DEFAULT_GROUP";
const DEFAULT_EXPIRES_SECS: &str = "DISTRO_DEFAULT_EXPIRES_SECS";
const MAX_PRINCIPALS: &str = "DISTRO_MAX_PRINCIPALS";

/// Written by whoever adds or removes a principal while there is a bound, so that two at once are a conflict; deleted by whoever
/// does while there is none.
const GATE: &str = "principals";

/// What stands at the [`GATE`].
#[derive(Default, Serialize, Deserialize)]
struct Gate {
    /// How many principals there are; none if nobody has counted them yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
}

impl Gate {
    fn read(transaction: &mut impl Transaction) -> Result<Self, Refusal> {
        let bytes = transaction.get(Bucket::Gates, GATE)?;
        bytes.map_or_else(|| Ok(Self::default()), |bytes| stored("the count of principals", &bytes))
    }

    fn write(&self, transaction: &mut impl Transaction) -> Result<(), Refusal> {
        Ok(transaction.put(Bucket::Gates, GATE, &to_store(self)?)?)
    }
}

fn number<P: Ports>(ports: &P, name: &str) -> Result<Option<u32>, Refusal> {
    let unreadable = |_| Refusal::Internal(format!("{name} of the distribution is not a whole number"));
    ports.setting(name)?.map(|text| text.parse().map_err(unreadable)).transpose()
}

/// Whether the distribution lets this principal issue invites.
pub fn check_issuer<P: Ports>(ports: &P, issuer: &str) -> Result<(), Refusal> {
    match ports.setting(ISSUERS)? {
        Some(issuers) if issuers.is_empty() => {
            Err(Refusal::Denied("this host has one tenant: [invites] of its distribution names no issuers".into()))
        }
        Some(issuers) if !issuers.split(',').any(|one| one == issuer) => {
            Err(Refusal::Denied("[invites] of the distribution does not name the caller as an issuer".into()))
        }
        _ => Ok(()),
    }
}

/// The group of an invite that names none.
pub fn default_group<P: Ports>(ports: &P) -> Result<Option<String>, Refusal> {
    Ok(ports.setting(DEFAULT_GROUP)?)
}

/// For how long an invite is good that does not say it, in seconds.
pub fn default_expires_secs<P: Ports>(ports: &P) -> Result<Option<u32>, Refusal> {
    number(ports, DEFAULT_EXPIRES_SECS)
}

/// Whether there is room for one more principal, which the transaction adds. Of many who ask at once no more go through
/// than there is room for: each writes what all have read.
pub fn admit<P: Ports>(ports: &P, transaction: &mut P::Transaction) -> Result<(), Refusal> {
    let Some(most) = number(ports, MAX_PRINCIPALS)? else { return uncounted(transaction) };
    let count = match Gate::read(transaction)?.count {
        Some(count) => count,
        // Counted after the gate was read: whoever is added or removed meanwhile makes the commit a conflict.
        None => count(ports, most)?,
    };
    if count >= most {
        return Err(Refusal::Conflict(format!(
            "there are as many principals as the distribution allows ([invites] max-principals = {most})"
        )));
    }
    Gate { count: Some(count + 1) }.write(transaction)
}

/// Takes note that the transaction removes a principal.
pub fn release<P: Ports>(ports: &P, transaction: &mut P::Transaction) -> Result<(), Refusal> {
    if number(ports, MAX_PRINCIPALS)?.is_none() {
        return uncounted(transaction);
    }
    let count = Gate::read(transaction)?.count.map(|count| count.saturating_sub(1));
    Gate { count }.write(transaction)
}

/// Without a bound nobody counts, so nobody waits for anybody; and what was counted before holds no longer.
fn uncounted(transaction: &mut impl Transaction) -> Result<(), Refusal> {
    Ok(transaction.delete(Bucket::Gates, GATE)?)
}

/// How many principals there are, as far as `most`.
fn count<P: Ports>(ports: &P, most: u32) -> Result<u32, Refusal> {
    let (mut count, mut after) = (0, None::<String>);
    while count < most as usize {
        let page = ports.scan(Bucket::Principals, "", after.as_deref(), 1_000)?;
        count += page.entries.len();
        after = page.entries.into_iter().next_back().map(|(id, _)| id);
        if !page.more {
            break;
        }
    }
    Ok(u32::try_from(count).unwrap_or(u32::MAX).min(most))
}
