//! Issuing: the bounds of an invite, and that nobody invites to more than they may give.

use std::collections::BTreeMap;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::{Invite, PREFIX};
use crate::groups;
use crate::payload::{self, bounded, invalid};
use crate::policy;
use crate::ports::{Bucket, Ports};
use crate::principals;
use crate::refusal::Refusal;
use crate::rights;

/// The random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// The group of an invite that names none, where the distribution does not either.
const DEFAULT_GROUP: &str = "agent";
const MAX_USES: u32 = 10_000;
/// 7 days, in seconds.
const DEFAULT_EXPIRY_SECS: u32 = 604_800;
/// 30 days, in seconds.
const MAX_EXPIRY_SECS: u32 = 2_592_000;
const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueRequest {
    #[serde(default)]
    group: Option<String>,
    max_uses: Number,
    #[serde(default)]
    expires_secs: Option<Number>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// The answer to `invite.issue`.
#[derive(Serialize)]
pub struct Issued {
    pub invite: IssuedInvite,
}

/// An invite with its token, for the issuer alone.
#[derive(Serialize)]
pub struct IssuedInvite {
    pub token: String,
    pub group: String,
    pub remaining_uses: u32,
    pub expires_at_epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Makes an invite, if the distribution lets this issuer. Without a group and a time it has those of the distribution.
/// Bounds: a defined group, `max_uses` 1 to 10000, `expires_secs` 1 to 2592000 (7 days unless given), at most 16 entries of
/// metadata with keys of 1 to 64 and values of at most 256 bytes. What the group holds must be the issuer's to give.
pub fn issue<P: Ports>(ports: &P, issuer: &str, payload: &[u8]) -> Result<Issued, Refusal> {
    let request: IssueRequest = payload::read(payload)?;
    policy::check_issuer(ports, issuer)?;
    let group = match request.group {
        Some(group) => group,
        None => policy::default_group(ports)?.unwrap_or_else(|| DEFAULT_GROUP.into()),
    };
    let mut reading = ports.begin();
    let held = groups::to_join(&mut reading, &group)?;
    // Whoever may invite must not become more by inviting oneself.
    if !held.iter().all(rights::is_own) {
        let giver = principals::rights_of_caller(ports, &mut reading, issuer)?;
        giver.check_giving(&format!("an invite to `{group}`"), &held)?;
    }
    let max_uses = bounded("max_uses", &request.max_uses, 1..=MAX_USES)?;
    let expires_secs = match request.expires_secs {
        Some(secs) => bounded("expires_secs", &secs, 1..=MAX_EXPIRY_SECS)?,
        None => policy::default_expires_secs(ports)?.unwrap_or(DEFAULT_EXPIRY_SECS).clamp(1, MAX_EXPIRY_SECS),
    };
    check_metadata(request.metadata.as_ref())?;

    let now = ports.now();
    let mut secret = [0; TOKEN_BYTES];
    ports.random(&mut secret)?;
    let token = format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&secret));
    let invite = Invite {
        group,
        remaining_uses: max_uses,
        expires_at: now + u64::from(expires_secs),
        issued_at: now,
        issued_by: issuer.into(),
        metadata: request.metadata,
    };
    ports.put(Bucket::Invites, &blake3::hash(token.as_bytes()).to_hex(), &invite.bytes()?)?;
    let Invite { group, remaining_uses, expires_at, metadata, .. } = invite;
    Ok(Issued { invite: IssuedInvite { token, group, remaining_uses, expires_at_epoch: expires_at, metadata } })
}

fn check_metadata(metadata: Option<&BTreeMap<String, String>>) -> Result<(), Refusal> {
    let Some(metadata) = metadata else { return Ok(()) };
    if metadata.len() > MAX_METADATA {
        let count = metadata.len();
        return Err(invalid("metadata", format!("at most {MAX_METADATA} entries; it has {count}")));
    }
    for (key, value) in metadata {
        if key.is_empty() || key.len() > MAX_METADATA_KEY {
            let name = payload::shown(key);
            return Err(invalid(format!("metadata key {name}"), format!("1 to {MAX_METADATA_KEY} bytes long")));
        }
        if value.len() > MAX_METADATA_VALUE {
            let (name, size) = (payload::shown(key), value.len());
            let bound = format!("at most {MAX_METADATA_VALUE} bytes long; it has {size}");
            return Err(invalid(format!("the value of metadata key {name}"), bound));
        }
    }
    Ok(())
}
