//! Redeeming: one use of an invite becomes a principal with its first key and its first bearer.

use serde::{Deserialize, Serialize};

use super::{Invite, key_of};
use crate::groups;
use crate::keys::PublicKey;
use crate::payload;
use crate::policy;
use crate::ports::{Bucket, Ports, Transaction, transact};
use crate::principals::{self, Principal};
use crate::refusal::Refusal;
use crate::sessions;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedeemRequest {
    token: String,
    public_key: String,
    #[serde(default)]
    display_name: Option<String>,
}

/// The answer to `invite.redeem`, for the redeemer alone.
#[derive(Serialize)]
pub struct Redeemed {
    pub principal: String,
    pub group: String,
    pub public_key_fingerprint: String,
    pub session_token: String,
    pub session_expires_at_epoch: u64,
}

/// Spends one use of an invite on a new principal with that key and signs its first bearer. A token is denied that is
/// malformed, unknown, expired, used up or revoked, whose issuer is disabled or deleted, or whose group is gone; which of these
/// it is remains unsaid. A key that has a principal already is a conflict, and so is one principal more than the distribution
/// has room for; then no use is spent.
pub fn redeem<P: Ports>(ports: &P, payload: &[u8]) -> Result<Redeemed, Refusal> {
    let not_valid = || Refusal::Denied("the invite is not valid".into());
    let request: RedeemRequest = payload::read(payload)?;
    let public_key = PublicKey::parse("public_key", &request.public_key)?;
    let slug = principals::slug(request.display_name.as_deref())?;
    let key = key_of(&request.token).ok_or_else(not_valid)?;
    let key_fingerprint = public_key.fingerprint();

    transact(ports, |transaction| {
        let now = ports.now();
        let found = transaction.get(Bucket::Invites, &key)?.ok_or_else(not_valid)?;
        let mut invite = Invite::read(&key, &found)?;
        let issuer = principals::load_in(transaction, &invite.issued_by)?;
        if !invite.is_live(now) || invite.remaining_uses == 0 || issuer.is_none_or(|issuer| !issuer.enabled) {
            return Err(not_valid());
        }
        groups::to_join(transaction, &invite.group).map_err(|refusal| match refusal {
            Refusal::Invalid(_) | Refusal::Conflict(_) => not_valid(),
            other => other,
        })?;
        if transaction.get(Bucket::Keys, &key_fingerprint)?.is_some() {
            return Err(Refusal::Conflict("the public key belongs to a principal already".into()));
        }
        policy::admit(ports, transaction)?;
        let id = principals::free_id(ports, transaction, &slug)?;
        let mut principal = Principal::new(&[&invite.group], now);
        let device = principal.add_key(public_key, now, None, None);
        // Signed before the commit: if it fails, no use is spent.
        let session = sessions::begin(ports, transaction, &id, &principal, &device)?;
        principals::save_new(transaction, &id, &principal)?;
        transaction.put(Bucket::Keys, &key_fingerprint, id.as_bytes())?;
        invite.remaining_uses -= 1;
        match invite.remaining_uses {
            0 => transaction.delete(Bucket::Invites, &key)?,
            _ => transaction.put(Bucket::Invites, &key, &invite.bytes()?)?,
        }
        Ok(Redeemed {
            principal: id,
            group: invite.group,
            public_key_fingerprint: key_fingerprint.clone(),
            session_token: session.token,
            session_expires_at_epoch: session.expires_at,
        })
    })
}
