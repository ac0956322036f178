//! `astrid:store`.

use astrid_capsule::Capability;
use wasmtime::component::Resource;

use super::bindings::handler::astrid::store::kv;
use super::{Call, OfCall};
use crate::authority::Change;
pub use crate::buckets::{Bucket, Transaction};
use crate::buckets::{Ended, Error, counted};
use crate::host::Host;
use crate::journal::Fact;
use crate::pool::{Lane, Overloaded};
use crate::store::{Commit, Counted};

/// What a handle of a transaction stands for.
pub type TransactionOfCall = OfCall<Transaction>;

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

/// Lets changes of standing ride on a commit: durable with it, and in force when it is. Then they are recorded.
pub async fn carry(host: &Host, changes: Vec<Change>, facts: Vec<Fact>, commit: &mut Commit) -> Result<(), Error> {
    if changes.is_empty() && facts.is_empty() {
        return Ok(());
    }
    host.env.follow(&changes, commit).await.map_err(|_| Error::Unavailable)?;
    let (authority, journal, env) = (host.authority.clone(), host.journal.clone(), commit.then.take());
    commit.then = Some(Box::new(move |version| {
        if !changes.is_empty() {
            authority.apply(version, changes);
        }
        env.into_iter().for_each(|then| then(version));
        facts.into_iter().for_each(|fact| journal.append(fact));
    }));
    Ok(())
}

/// The version of what is written in a rehearsal: no commit ever has it.
const REHEARSED: u64 = u64::MAX;

impl Call {
    /// What this call writes for its principal counts.
    fn counted(&self) -> Counted {
        let limit = self.host.meter.limits(&self.turn.sender.principal).storage_bytes;
        counted(&self.generation.id, &self.turn.sender.principal, limit)
    }

    fn commit(&self, commit: Result<Commit, Error>) -> impl Future<Output = Result<u64, kv::Error>> + Send + use<> {
        let (host, counted, rehearsal) = (self.host.clone(), Some(self.counted()), self.turn.sender.rehearsal);
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

    /// What is to be recorded of a transaction.
    pub fn facts_of(&self, changes: &[Change], ended: Vec<Ended>) -> Vec<Fact> {
        let ended = changes.iter().filter_map(|change| self.end_of_sessions(change)).chain(ended);
        let ends = ended.map(|ended| self.end_of_session(ended));
        changes.iter().map(|change| self.change_of_standing(change)).chain(ends).collect()
    }

    /// What somebody holds from now on, as a fact.
    fn change_of_standing(&self, change: &Change) -> Fact {
        let list = |held: &[Capability]| held.iter().map(Capability::as_str).collect::<Vec<_>>().join(" ");
        let (action, target, detail) = match change {
            Change::SetPrincipal(id, standing) => {
                let enabled = if standing.enabled { "enabled" } else { "disabled" };
                let (groups, grants) = (standing.groups.join(" "), list(&standing.grants));
                let detail =
                    format!("{enabled}; groups {groups}; grants {grants}; revokes {}", list(&standing.revokes));
                ("authority.principal.set", id.to_string(), Some(detail))
            }
            Change::RemovePrincipal(id) => ("authority.principal.remove", id.to_string(), None),
            Change::SetGroup(name, held) => ("authority.group.set", name.clone(), Some(list(held))),
            Change::RemoveGroup(name) => ("authority.group.remove", name.clone(), None),
        };
        Fact { target: Some(target), detail, ..self.fact(action) }
    }

    /// The end of a principal's sessions that its standing brings.
    fn end_of_sessions(&self, change: &Change) -> Option<Ended> {
        let (principal, why) = match change {
            Change::SetPrincipal(id, standing) if !standing.enabled => (id, "its principal is disabled"),
            Change::RemovePrincipal(id) => (id, "its principal is removed"),
            _ => return None,
        };
        // Where it was neither known nor enabled there was no session.
        self.host.authority.revision(principal)?;
        Some(Ended { principal: principal.clone(), session: None, why: why.to_owned() })
    }

    /// Of whoever's session it was; who ended it is in the record of the request.
    fn end_of_session(&self, Ended { principal, session, why }: Ended) -> Fact {
        let principal = Some(principal.to_string());
        Fact { principal, session, reason: Some(why), ..self.fact("session.end") }
    }

    /// Waits for the disk in the principal's turn. The time counts as waiting, the line included.
    fn in_turn<T, F>(&self, commit: F) -> impl Future<Output = Result<T, kv::Error>> + Send + use<T, F>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let (host, deadline) = (self.host.clone(), self.turn.sender.deadline);
        let lane = Lane::Principal(self.turn.sender.principal.clone());
        self.turn.waited.around(async move {
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
            kv::Scope::Principal => Some(&self.turn.sender.principal),
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
        if self.turn.sender.rehearsal {
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
    async fn new(&mut self) -> wasmtime::Result<Resource<TransactionOfCall>> {
        self.push_of_call(Transaction::default())
    }

    async fn get(
        &mut self,
        transaction: Resource<TransactionOfCall>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, kv::Error>> {
        let bucket = self.table.get(&bucket)?.clone();
        let store = self.host.store.clone();
        Ok(self.of_call_mut(&transaction)?.get(&store, &bucket, &key).map_err(Into::into))
    }

    async fn put(
        &mut self,
        transaction: Resource<TransactionOfCall>,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), kv::Error>> {
        let bucket = self.table.get(&bucket)?.clone();
        Ok(self.of_call_mut(&transaction)?.put(&bucket, &key, Some(value)).map_err(Into::into))
    }

    async fn delete(
        &mut self,
        transaction: Resource<TransactionOfCall>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), kv::Error>> {
        let bucket = self.table.get(&bucket)?.clone();
        Ok(self.of_call_mut(&transaction)?.put(&bucket, &key, None).map_err(Into::into))
    }

    async fn commit(&mut self, transaction: Resource<TransactionOfCall>) -> wasmtime::Result<Result<(), kv::Error>> {
        let (mut commit, changes, ended) = self.take_of_call(transaction)?.finish();
        if self.turn.sender.rehearsal {
            return Ok(Ok(()));
        }
        let host = self.host.clone();
        let facts = self.facts_of(&changes, ended);
        if carry(&host, changes, facts, &mut commit).await.is_err() {
            return Ok(Err(kv::Error::Unavailable));
        }
        Ok(Call::commit(self, Ok(commit)).await.map(|_| ()))
    }

    async fn drop(&mut self, transaction: Resource<TransactionOfCall>) -> wasmtime::Result<()> {
        // A committed transaction is gone already.
        let _ = self.table.delete(transaction);
        Ok(())
    }
}
