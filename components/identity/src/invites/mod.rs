//! Invites: a token that makes whoever holds it a principal in a group, a limited number of times for a limited time.
//!
//! The store holds only the BLAKE3 of a token, as the key of its invite; the token leaves in the answer to `issue` and
//! is never seen again, and its fingerprint, the first 16 bytes of that hash in hex, names it. Issuing is one durable
//! write without a read. A redemption is one transaction: the use, the principal, its key and its standing, or nothing.
//!
//! Here is the record of an invite; [`mod@issue`], [`mod@list`], which revokes as well, and [`mod@redeem`] are the verbs.

mod issue;
mod list;
mod redeem;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use issue::{Issued, IssuedInvite, issue};
pub use list::{InviteList, Revoked, Row, list, revoke};
pub use redeem::{Redeemed, redeem};

use crate::keys::FINGERPRINT_CHARS;
use crate::payload::{stored, to_store};
use crate::refusal::Refusal;

/// What every token begins with.
const PREFIX: &str = "astrid-inv-";
/// The length of a token in bytes: the prefix and 43 characters of base64url.
const TOKEN_CHARS: usize = PREFIX.len() + 43;

/// As stored, under the hash of its token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Invite {
    group: String,
    remaining_uses: u32,
    /// Seconds since the Unix epoch; at that second it is expired.
    expires_at: u64,
    /// Seconds since the Unix epoch.
    issued_at: u64,
    issued_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, String>>,
}

impl Invite {
    fn read(key: &str, bytes: &[u8]) -> Result<Self, Refusal> {
        stored(&format!("invite {}", fingerprint(key)), bytes)
    }

    fn bytes(&self) -> Result<Vec<u8>, Refusal> {
        to_store(self)
    }

    fn is_live(&self, now: u64) -> bool {
        now < self.expires_at
    }
}

/// The key of a token's invite, if it has the form of a token.
fn key_of(token: &str) -> Option<String> {
    let fits = token.len() == TOKEN_CHARS && token.starts_with(PREFIX);
    fits.then(|| blake3::hash(token.as_bytes()).to_hex().to_string())
}

/// The beginning of a key.
fn fingerprint(key: &str) -> &str {
    key.get(..FINGERPRINT_CHARS).unwrap_or(key)
}

#[cfg(test)]
mod tests;
