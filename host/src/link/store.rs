//! `astrid:store`.

use wasmtime::component::Resource;

use super::Call;
use super::bindings::handler::astrid::store::kv;
use crate::authority::Change;
pub use crate::buckets::{Bucket, Transaction};
use crate::buckets::{Error, counted};
use crate::host::Host;
use crate::pool::{Lane, Overloaded};
use crate::store::{Commit, Counted};

impl From<Error> for kv::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Conflict => Self::Conflict,
            Error::TooLarge { limit } => Self::TooLarge(limit),
            Error::Invalid(why) => Self::Invalid(why),
            Error::Quota => Self::Quota,
            Error::Unavailable => Self::Unavailable,
        }
    }
}

impl From<crate::store::Entry> for kv::Entry {
    fn from(entry: crate::store::Entry) -> Self {
        Self { value: entry.value, version: entry.version }
    }
}

/// Lets changes of standing ride on a commit: durable with it, and in force when it is.
pub async fn carry(host: &Host, changes: Vec<Change>, commit: &mut Commit) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    host.env.follow(&changes, commit).await.map_err(|_| Error::Unavailable)?;
    let (authority, env) = (host.authority.clone(), commit.then.take());
    commit.then = Some(Box::new(move |version| {
        authority.apply(version, changes);
        env.into_iter().for_each(|then| then(version));
    }));
    Ok(())
}

/// The version of what is written in a rehearsal: no commit ever has it.
const REHEARSED: u64 = u64::MAX;

impl Call {
    /// What this call writes for its principal counts.
    fn counted(&self) -> Counted {
        let limit = self.host.meter.limits(&self.sender.principal).storage_bytes;
        counted(&self.generation.id, &self.sender.principal, limit)
    }

    fn commit(&self, commit: Result<Commit, Error>) -> impl Future<Output = Result<u64, kv::Error>> + Send + use<> {
        let (host, counted, rehearsal) = (self.host.clone(), Some(self.counted()), self.sender.rehearsal);
        // What can't be taken is said at once.
        let turn = commit.map(|commit| {
            let commit = Commit { counted, ..commit };
            self.in_turn(async move {
                if rehearsal {
                    return Ok(REHEARSED);
                }
                host.store.commit(commit).await.map_err(Error::from)
            })
        });
        async move { turn?.await }
    }

    /// Waits for the disk in the principal's turn. The time counts as waiting, the line included.
    fn in_turn<T, F>(&self, commit: F) -> impl Future<Output = Result<T, kv::Error>> + Send + use<T, F>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let (host, deadline) = (self.host.clone(), self.sender.deadline);
        let lane = Lane::Principal(self.sender.principal.clone());
        self.waited.around(async move {
            match host.waits.run(lane, deadline, commit).await {
                Ok(outcome) => outcome.map_err(Into::into),
                // As when the store's own line is full: nothing was written.
                Err(Overloaded) => Err(kv::Error::Unavailable),
            }
        })
    }
}

impl kv::Host for Call {}

impl kv::HostBucket for Call {
    async fn open(&mut self, name: String, scope: kv::Scope) -> wasmtime::Result<Result<Resource<Bucket>, kv::Error>> {
        let owner = match scope {
            kv::Scope::Capsule => None,
            kv::Scope::Principal => Some(&self.sender.principal),
        };
        match Bucket::open(&self.generation.id, owner, &name) {
            Ok(bucket) => Ok(Ok(self.table.push(bucket)?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<kv::Entry>, kv::Error>> {
        let entry = self.table.get(&bucket)?.get(&self.host.store, &key);
        Ok(entry.map(|e| e.map(Into::into)).map_err(Into::into))
    }

    async fn put(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<u64, kv::Error>> {
        let commit = self.table.get(&bucket)?.write(&key, Some(value), None);
        Ok(self.commit(commit).await)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<bool, kv::Error>> {
        let (bucket, store, counted) = (self.table.get(&bucket)?.clone(), self.host.store.clone(), self.counted());
        if self.sender.rehearsal {
            return Ok(bucket.get(&store, &key).map(|entry| entry.is_some()).map_err(Into::into));
        }
        Ok(self.in_turn(async move { bucket.delete(&store, &key, &counted).await }).await)
    }

    async fn swap(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        expected: Option<u64>,
        value: Option<Vec<u8>>,
    ) -> wasmtime::Result<Result<u64, kv::Error>> {
        let commit = self.table.get(&bucket)?.write(&key, value, Some(expected));
        Ok(self.commit(commit).await)
    }

    async fn scan(
        &mut self,
        bucket: Resource<Bucket>,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Result<kv::Page, kv::Error>> {
        let page = self.table.get(&bucket)?.scan(&self.host.store, &prefix, after.as_deref(), limit);
        Ok(page
            .map(|page| {
                let next = page.more.then(|| page.entries.last().map(|(key, _)| key.clone())).flatten();
                kv::Page { entries: page.entries.into_iter().map(|(k, e)| (k, e.into())).collect(), next }
            })
            .map_err(Into::into))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl kv::HostTransaction for Call {
    async fn new(&mut self) -> wasmtime::Result<Resource<Transaction>> {
        Ok(self.table.push(Transaction::default())?)
    }

    async fn get(
        &mut self,
        transaction: Resource<Transaction>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, kv::Error>> {
        let bucket = self.table.get(&bucket)?.clone();
        let store = &self.host.store;
        Ok(self.table.get_mut(&transaction)?.get(store, &bucket, &key).map_err(Into::into))
    }

    async fn put(
        &mut self,
        transaction: Resource<Transaction>,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), kv::Error>> {
        let bucket = self.table.get(&bucket)?.clone();
        Ok(self.table.get_mut(&transaction)?.put(&bucket, &key, Some(value)).map_err(Into::into))
    }

    async fn delete(
        &mut self,
        transaction: Resource<Transaction>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), kv::Error>> {
        let bucket = self.table.get(&bucket)?.clone();
        Ok(self.table.get_mut(&transaction)?.put(&bucket, &key, None).map_err(Into::into))
    }

    async fn commit(&mut self, transaction: Resource<Transaction>) -> wasmtime::Result<Result<(), kv::Error>> {
        let (mut commit, changes) = self.table.delete(transaction)?.finish();
        if self.sender.rehearsal {
            return Ok(Ok(()));
        }
        let host = self.host.clone();
        if carry(&host, changes, &mut commit).await.is_err() {
            return Ok(Err(kv::Error::Unavailable));
        }
        Ok(Call::commit(self, Ok(commit)).await.map(|_| ()))
    }

    async fn drop(&mut self, transaction: Resource<Transaction>) -> wasmtime::Result<()> {
        // A committed transaction is gone already.
        let _ = self.table.delete(transaction);
        Ok(())
    }
}
