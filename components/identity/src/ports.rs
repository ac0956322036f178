//! What the domain needs from outside: a transactional store that the registrar's standings ride on, signing, the
//! clock and randomness. The component implements it with its imports, tests with a store in memory.

use std::time::Duration;

use crate::quotas::Quotas;
use crate::refusal::Refusal;

/// How often a transaction that others got in the way of is tried.
pub const MAX_ATTEMPTS: u32 = 64;

/// The maps of this component. Values are JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// Principal id to [`crate::principals::Principal`].
    Principals,
    /// BLAKE3 of the token, in hex, to an invite.
    Invites,
    /// Fingerprint of a public key to the id of its principal, as it is.
    Keys,
    /// SHA-256 of a certificate to the id of its principal, as it is.
    Certificates,
    /// Name of a group that is not built in to what it is.
    Groups,
    /// `group/principal` to nothing: who is in which of these groups.
    Members,
    /// Id of a deleted principal to when that was.
    Gone,
    /// When a bearer expires, and its fingerprint, to the session that it belongs to.
    Sessions,
    /// Purpose to which generations of its key count.
    Signing,
    /// Principal id to what it is asked and has approved.
    Approvals,
    /// Name of a capsule to its open requests for approval.
    Asking,
    /// What transactions write that must not go through at once.
    Gates,
}

impl Bucket {
    /// Its name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Principals => "principals",
            Self::Invites => "invites",
            Self::Keys => "keys",
            Self::Certificates => "certificates",
            Self::Groups => "groups",
            Self::Members => "members",
            Self::Gone => "gone",
            Self::Sessions => "sessions",
            Self::Signing => "signing",
            Self::Approvals => "approvals",
            Self::Asking => "asking",
            Self::Gates => "gates",
        }
    }
}

/// Why something outside did not do its part. Details are the log's business, not the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortError {
    /// Something that a transaction had read has changed; nothing was written.
    Conflict,
    /// Nothing was written or signed; it may work later.
    Unavailable,
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        Refusal::Unavailable(match error {
            PortError::Conflict => "others keep changing the same records; try again".into(),
            PortError::Unavailable => "the store or the key service is not available; try again later".into(),
        })
    }
}

/// Entries of a bucket in ascending order of their keys.
#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<(String, Vec<u8>)>,
    /// Whether there is more after the last entry.
    pub more: bool,
}

/// What a principal holds, as the host is told.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    pub principal: &'a str,
    pub enabled: bool,
    pub groups: &'a [String],
    pub grants: &'a [String],
    pub revokes: &'a [String],
    pub quotas: Quotas,
}

/// Everything outside.
pub trait Ports {
    type Transaction: Transaction;
    type Listener: Listener;

    fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, PortError>;

    /// Durable when it returns.
    fn put(&self, bucket: Bucket, key: &str, value: &[u8]) -> Result<(), PortError>;

    /// Durable when it returns. Says whether there was anything to delete.
    fn delete(&self, bucket: Bucket, key: &str) -> Result<bool, PortError>;

    /// Keys that begin with `prefix` and come after `after`, at most `limit` (1 to 1000), fewer if they are large.
    fn scan(&self, bucket: Bucket, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page, PortError>;

    fn begin(&self) -> Self::Transaction;

    /// Ed25519 with the key of `purpose`: 64 bytes.
    fn sign(&self, purpose: &str, bytes: &[u8]) -> Result<Vec<u8>, PortError>;

    fn verify(&self, purpose: &str, bytes: &[u8], signature: &[u8]) -> Result<bool, PortError>;

    /// What the session that the call comes from bounds its principal to; none: there is no bound.
    fn ceiling(&self) -> Option<Vec<String>>;

    /// The name of the session that the call comes from, among those of its principal; none: there is no session.
    fn session(&self) -> Option<String>;

    /// Publishes on behalf of the caller. Nobody may count on its arrival.
    fn publish(&self, topic: &str, payload: &[u8]);

    /// Hears what is published on behalf of the caller from now on, for so long.
    fn listen(&self, topic: &str, patience: Duration) -> Result<Self::Listener, PortError>;

    /// What the distribution says in one of this capsule's `[env]` fields, if anything.
    fn setting(&self, name: &str) -> Result<Option<String>, PortError>;

    /// Seconds since the Unix epoch.
    fn now(&self) -> u64;

    /// Fills `bytes` with what nobody can guess.
    fn random(&self, bytes: &mut [u8]) -> Result<(), PortError>;
}

/// Waits for what is published.
pub trait Listener {
    /// Returns when something was published, or may have been: true. False: the time is over.
    fn next(&mut self) -> Result<bool, PortError>;
}

/// Reads and writes that take effect together, or not at all if anything read has changed before the commit.
pub trait Transaction {
    fn get(&mut self, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, PortError>;

    fn put(&mut self, bucket: Bucket, key: &str, value: &[u8]) -> Result<(), PortError>;

    fn delete(&mut self, bucket: Bucket, key: &str) -> Result<(), PortError>;

    /// In force everywhere when `commit` returns.
    fn set_principal(&mut self, standing: Standing<'_>) -> Result<(), PortError>;

    /// Nobody of that id is known when `commit` returns.
    fn remove_principal(&mut self, principal: &str) -> Result<(), PortError>;

    /// In force everywhere when `commit` returns.
    fn set_group(&mut self, name: &str, capabilities: &[&str]) -> Result<(), PortError>;

    /// Whoever is in it holds nothing by it when `commit` returns.
    fn remove_group(&mut self, name: &str) -> Result<(), PortError>;

    /// For the host's record, once it is committed: a session has ended, or without a name all that `why` tells.
    fn end_session(&mut self, principal: &str, session: Option<&str>, why: &str) -> Result<(), PortError>;

    /// Durable when it returns.
    fn commit(self) -> Result<(), PortError>;
}

/// Runs `attempt` and commits, again from the start while others get in the way, at most [`MAX_ATTEMPTS`] times. A
/// refusal of `attempt` ends it, and nothing is written.
pub fn transact<P: Ports, T>(
    ports: &P,
    mut attempt: impl FnMut(&mut P::Transaction) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    for _ in 0..MAX_ATTEMPTS {
        let mut transaction = ports.begin();
        let done = attempt(&mut transaction)?;
        match transaction.commit() {
            Ok(()) => return Ok(done),
            Err(PortError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(PortError::Conflict.into())
}
