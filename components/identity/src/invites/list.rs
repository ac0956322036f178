//! The invites that are live, a page at a time and without what makes them one; and taking one back.
//!
//! Whoever lists deletes the dead ones that it passes, [`SWEEP`] in one transaction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Invite, fingerprint, key_of};
use crate::keys::FINGERPRINT_CHARS;
use crate::listing;
use crate::payload::{self, bounded, invalid};
use crate::ports::{Bucket, Ports, Transaction};
use crate::refusal::Refusal;

/// The most rows of one list.
const MAX_ROWS: u32 = 10_000;
/// How many expired invites one transaction sweeps.
const SWEEP: usize = 1_000;

/// The answer to `invite.list`.
#[derive(Debug, Serialize)]
pub struct InviteList {
    /// Sorted by fingerprint.
    pub invites: Vec<Row>,
    /// Pass it as `after` to go on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// An invite without what makes it one.
#[derive(Debug, Serialize)]
pub struct Row {
    pub token_fingerprint: String,
    pub group: String,
    pub remaining_uses: u32,
    pub expires_at_epoch: u64,
    pub issued_at_epoch: u64,
    pub issued_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Live invites after the fingerprint `after`, at most `limit` (1 to 10000, 10000 unless given), fewer if they are
/// large. Expired ones that it passes, and those of an issuer who was deleted, are deleted.
pub fn list<P: Ports>(ports: &P, payload: &[u8]) -> Result<InviteList, Refusal> {
    let request: listing::Request = payload::read(payload)?;
    let limit = request.limit.map_or(Ok(MAX_ROWS), |limit| bounded("limit", &limit, 1..=MAX_ROWS))?;
    // `~` comes after every hexadecimal character, so this comes after every key with that beginning.
    let after = request.after.map(|after| read_fingerprint("after", &after)).transpose()?;
    let after = after.map(|fingerprint| format!("{fingerprint}~"));
    let now = ports.now();
    let (mut expired, mut issuers) = (Vec::new(), BTreeMap::new());
    let walked = listing::walk(ports, Bucket::Invites, after, limit as usize, |key, bytes| {
        let invite = Invite::read(key, bytes)?;
        let issued = match issuers.get(&invite.issued_by) {
            Some(known) => *known,
            None => {
                let known = ports.get(Bucket::Principals, &invite.issued_by)?.is_some();
                issuers.insert(invite.issued_by.clone(), known);
                known
            }
        };
        if !invite.is_live(now) || !issued {
            expired.push(key.to_owned());
            return Ok(None);
        }
        Ok(Some(Row {
            token_fingerprint: fingerprint(key).into(),
            group: invite.group,
            remaining_uses: invite.remaining_uses,
            expires_at_epoch: invite.expires_at,
            issued_at_epoch: invite.issued_at,
            issued_by: invite.issued_by,
            metadata: invite.metadata,
        }))
    })?;
    sweep(ports, &expired);
    Ok(InviteList { invites: walked.rows, next_after: walked.next_after.map(|key| fingerprint(&key).into()) })
}

/// Deletes dead invites. Nobody can use them, so whatever fails here is left to the next sweep.
fn sweep<P: Ports>(ports: &P, expired: &[String]) {
    for some in expired.chunks(SWEEP) {
        let mut transaction = ports.begin();
        let staged = some.iter().try_for_each(|key| transaction.delete(Bucket::Invites, key));
        if staged.and_then(|()| transaction.commit()).is_err() {
            return;
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeRequest {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    fingerprint: Option<String>,
}

/// The answer to `invite.revoke`: an empty object.
#[derive(Debug, Serialize)]
pub struct Revoked {}

/// Ends an invite, named by its token or by its fingerprint. One that is not there, or is expired, is not found.
pub fn revoke<P: Ports>(ports: &P, payload: &[u8]) -> Result<Revoked, Refusal> {
    let unknown = || Refusal::NotFound("there is no such invite".into());
    let request: RevokeRequest = payload::read(payload)?;
    let beginning = match (request.token, request.fingerprint) {
        (Some(token), None) => key_of(&token).ok_or_else(unknown)?,
        (None, Some(fingerprint)) => read_fingerprint("fingerprint", &fingerprint)?,
        _ => return Err(Refusal::Invalid("exactly one of token and fingerprint must be given".into())),
    };
    let page = ports.scan(Bucket::Invites, &beginning, None, 1)?;
    let (key, bytes) = page.entries.first().ok_or_else(unknown)?;
    let live = Invite::read(key, bytes)?.is_live(ports.now());
    let deleted = ports.delete(Bucket::Invites, key)?;
    if live && deleted { Ok(Revoked {}) } else { Err(unknown()) }
}

fn read_fingerprint(field: &str, text: &str) -> Result<String, Refusal> {
    if text.len() == FINGERPRINT_CHARS && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(invalid(field, format!("{FINGERPRINT_CHARS} hexadecimal characters; it has {} bytes", text.len())))
}
