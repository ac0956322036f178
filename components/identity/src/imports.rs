//! The outside of a running component: [`Ports`] made of the host's imports. Wires and decides nothing.

use std::time::{Duration, Instant, SystemTime};

use astrid_sdk::authority::{held, registrar};
use astrid_sdk::bus::{self, Subscription};
use astrid_sdk::{env, keys, kv, log};

use crate::ports::{Bucket, Listener, Page, PortError, Ports, Standing, Transaction};

/// The host.
pub(crate) struct Imports;

/// A subscription, until a moment.
pub(crate) struct Heard(Subscription, Instant);

impl Listener for Heard {
    fn next(&mut self) -> Result<bool, PortError> {
        let patience = self.1.saturating_duration_since(Instant::now());
        let event = self.0.next(patience).map_err(|error| broken("the bus", error))?;
        Ok(event.is_some())
    }
}

/// A transaction of the host's store.
pub(crate) struct Staged(kv::Transaction);

fn open(bucket: Bucket) -> Result<kv::Bucket, PortError> {
    kv::Bucket::open(bucket.name(), kv::Scope::Capsule).map_err(store)
}

fn store(error: kv::Error) -> PortError {
    match error {
        kv::Error::Conflict => PortError::Conflict,
        kv::Error::Unavailable => PortError::Unavailable,
        kv::Error::TooLarge(_) | kv::Error::Invalid(_) | kv::Error::Quota => broken("the store", error),
    }
}

/// What can't happen while the host and this component agree on the interface.
fn broken(what: &str, detail: impl std::fmt::Debug) -> PortError {
    log::error!("{what} refused: {detail:?}");
    PortError::Unavailable
}

impl Ports for Imports {
    type Transaction = Staged;
    type Listener = Heard;

    fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        Ok(open(bucket)?.get(key).map_err(store)?.map(|entry| entry.value))
    }

    fn put(&self, bucket: Bucket, key: &str, value: &[u8]) -> Result<(), PortError> {
        open(bucket)?.put(key, value).map(drop).map_err(store)
    }

    fn delete(&self, bucket: Bucket, key: &str) -> Result<bool, PortError> {
        open(bucket)?.delete(key).map_err(store)
    }

    fn scan(&self, bucket: Bucket, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page, PortError> {
        let page = open(bucket)?.scan(prefix, after, limit).map_err(store)?;
        let entries = page.entries.into_iter().map(|(key, entry)| (key, entry.value)).collect();
        Ok(Page { entries, more: page.next.is_some() })
    }

    fn begin(&self) -> Staged {
        Staged(kv::Transaction::new())
    }

    fn sign(&self, purpose: &str, bytes: &[u8]) -> Result<Vec<u8>, PortError> {
        keys::sign(purpose, bytes).map_err(|error| broken("the key service", error))
    }

    fn verify(&self, purpose: &str, bytes: &[u8], signature: &[u8]) -> Result<bool, PortError> {
        keys::verify(purpose, bytes, signature).map_err(|error| broken("the key service", error))
    }

    fn ceiling(&self) -> Option<Vec<String>> {
        held::ceiling()
    }

    fn session(&self) -> Option<String> {
        held::session()
    }

    fn publish(&self, topic: &str, payload: &[u8]) {
        if let Err(error) = bus::publish_raw(topic, payload, None) {
            log::warn!("{topic} was not published: {error:?}");
        }
    }

    fn listen(&self, topic: &str, patience: Duration) -> Result<Heard, PortError> {
        let subscription = Subscription::open(&[topic]).map_err(|error| broken("the bus", error))?;
        Ok(Heard(subscription, Instant::now() + patience))
    }

    fn setting(&self, name: &str) -> Result<Option<String>, PortError> {
        env::get(name).map_err(|error| broken("the environment", error))
    }

    fn now(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), PortError> {
        getrandom::fill(bytes).map_err(|error| broken("the source of randomness", error))
    }
}

impl Transaction for Staged {
    fn get(&mut self, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        self.0.get(&open(bucket)?, key).map_err(store)
    }

    fn put(&mut self, bucket: Bucket, key: &str, value: &[u8]) -> Result<(), PortError> {
        self.0.put(&open(bucket)?, key, value).map_err(store)
    }

    fn delete(&mut self, bucket: Bucket, key: &str) -> Result<(), PortError> {
        self.0.delete(&open(bucket)?, key).map_err(store)
    }

    fn set_principal(&mut self, standing: Standing<'_>) -> Result<(), PortError> {
        let standing = registrar::Standing {
            principal: standing.principal.into(),
            enabled: standing.enabled,
            groups: standing.groups.into(),
            grants: standing.grants.into(),
            revokes: standing.revokes.into(),
            quotas: registrar::Quotas {
                max_memory_bytes: standing.quotas.max_memory_bytes,
                max_timeout_secs: standing.quotas.max_timeout_secs,
                max_cpu_fuel_per_sec: standing.quotas.max_cpu_fuel_per_sec,
                max_ipc_throughput_bytes: standing.quotas.max_ipc_throughput_bytes,
                max_storage_bytes: standing.quotas.max_storage_bytes,
                max_concurrent_calls: standing.quotas.max_concurrent_calls,
                max_background_processes: standing.quotas.max_background_processes,
            },
        };
        registrar::set_principal(&self.0, &standing).map_err(|error| broken("the registrar", error))
    }

    fn remove_principal(&mut self, principal: &str) -> Result<(), PortError> {
        registrar::remove_principal(&self.0, principal).map_err(|error| broken("the registrar", error))
    }

    fn set_group(&mut self, name: &str, capabilities: &[&str]) -> Result<(), PortError> {
        let capabilities: Vec<String> = capabilities.iter().map(|&capability| capability.into()).collect();
        registrar::set_group(&self.0, name, &capabilities).map_err(|error| broken("the registrar", error))
    }

    fn remove_group(&mut self, name: &str) -> Result<(), PortError> {
        registrar::remove_group(&self.0, name).map_err(|error| broken("the registrar", error))
    }

    fn end_session(&mut self, principal: &str, session: Option<&str>, why: &str) -> Result<(), PortError> {
        registrar::end_session(&self.0, principal, session, why).map_err(|error| broken("the registrar", error))
    }

    fn commit(self) -> Result<(), PortError> {
        kv::Transaction::commit(self.0).map_err(store)
    }
}
