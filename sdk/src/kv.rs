//! Durable keys and values in the capsule's own namespace.
//!
//! ```no_run
//! use astrid_sdk::kv::{self, Bucket, Scope};
//!
//! fn count(key: &str) -> Result<u64, kv::Error> {
//!     let counts = Bucket::open("counts", Scope::Capsule)?;
//!     kv::transact(|transaction| {
//!         let next = transaction.get_json::<u64>(&counts, key)?.unwrap_or(0) + 1;
//!         transaction.put_json(&counts, key, &next)?;
//!         Ok(next)
//!     })
//! }
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::bindings::imports::astrid::store::kv::{Bucket, Entry, Error, Page, Scope, Transaction};

/// How often [`transact`] tries before it gives up with `conflict`.
pub const MAX_ATTEMPTS: u32 = 32;

/// Runs `work` in a transaction and commits it; on a conflict begins again with a new one, [`MAX_ATTEMPTS`] times.
///
/// `work` may run several times, so it should do nothing but read and write. Its error ends the attempt, and nothing
/// is written.
pub fn transact<T, E: From<Error>>(mut work: impl FnMut(&Transaction) -> Result<T, E>) -> Result<T, E> {
    for _ in 0..MAX_ATTEMPTS {
        let transaction = Transaction::new();
        let done = work(&transaction)?;
        match Transaction::commit(transaction) {
            Ok(()) => return Ok(done),
            Err(Error::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Conflict.into())
}

impl Bucket {
    /// The value of a key, from JSON. A value that is not a `T` is `invalid`.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        self.get(key)?.map(|entry| decode(key, &entry.value)).transpose()
    }

    /// Writes a value as JSON; the answer is its version.
    pub fn put_json<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<u64, Error> {
        self.put(key, &encode(key, value)?)
    }
}

impl Transaction {
    /// The value of a key, from JSON. A value that is not a `T` is `invalid`.
    pub fn get_json<T: DeserializeOwned>(&self, bucket: &Bucket, key: &str) -> Result<Option<T>, Error> {
        self.get(bucket, key)?.map(|value| decode(key, &value)).transpose()
    }

    /// Writes a value as JSON.
    pub fn put_json<T: Serialize + ?Sized>(&self, bucket: &Bucket, key: &str, value: &T) -> Result<(), Error> {
        self.put(bucket, key, &encode(key, value)?)
    }
}

/// Reads a stored value as JSON. `key` stands in the error.
pub fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|error| Error::Invalid(format!("the value of `{key}`: {error}")))
}

fn encode<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Invalid(format!("the value of `{key}`: {error}")))
}
