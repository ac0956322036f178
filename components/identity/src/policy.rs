//! What the distribution says of who may become a principal: `[invites]` of `Distro.toml`, as the fields of this capsule's
//! `[env]` that only the distribution sets.
//!
//! Owns how the fields read, and the bound on principals. A field without a value is no rule; one that does not read is an
//! error, never no rule.

use crate::ports::{Bucket, Ports, Transaction};
use crate::refusal::Refusal;

const ISSUERS: &str = "DISTRO_ISSUERS";
const DEFAULT_GROUP: &str = "DISTRO_DEFAULT_GROUP";
const DEFAULT_EXPIRES_SECS: &str = "DISTRO_DEFAULT_EXPIRES_SECS";
const MAX_PRINCIPALS: &str = "DISTRO_MAX_PRINCIPALS";

/// Written by whoever adds a principal while there is a bound, so that two who do are told apart.
const GATE: &str = "principals";

fn number<P: Ports>(ports: &P, name: &str) -> Result<Option<u32>, Refusal> {
    let unreadable = |_| Refusal::Internal(format!("{name} of the distribution is no whole number"));
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

/// How long an invite is good for that does not say it, in seconds.
pub fn default_expires_secs<P: Ports>(ports: &P) -> Result<Option<u32>, Refusal> {
    number(ports, DEFAULT_EXPIRES_SECS)
}

/// Whether there is room for one more principal, which the transaction adds. Of many who ask at once no more go through
/// than there is room for: each writes what all have read.
pub fn admit<P: Ports>(ports: &P, transaction: &mut P::Transaction) -> Result<(), Refusal> {
    let Some(most) = number(ports, MAX_PRINCIPALS)? else { return Ok(()) };
    transaction.get(Bucket::Gates, GATE)?;
    let (mut count, mut after) = (0, None::<String>);
    // Counted after the gate was read: whoever has been added since makes the commit a conflict.
    while count < most as usize {
        let page = ports.scan(Bucket::Principals, "", after.as_deref(), 1_000)?;
        count += page.entries.len();
        after = page.entries.into_iter().next_back().map(|(id, _)| id);
        if !page.more {
            break;
        }
    }
    if count >= most as usize {
        return Err(Refusal::Conflict(format!(
            "there are as many principals as the distribution allows ([invites] max-principals = {most})"
        )));
    }
    transaction.put(Bucket::Gates, GATE, b"{}")?;
    Ok(())
}
