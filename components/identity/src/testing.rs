//! The outside in memory: an optimistic store like the host's, keys by purpose, a clock that tests set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bearer::Bearer;
use crate::keys::PublicKey;
use crate::ports::{Bucket, Listener, Page, PortError, Ports, Standing, Transaction, transact};
use crate::principals;
use crate::quotas::Quotas;
use crate::sessions;

/// What the registrar was told of a principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) enabled: bool,
    pub(crate) groups: Vec<String>,
    pub(crate) grants: Vec<String>,
    pub(crate) revokes: Vec<String>,
    pub(crate) quotas: Quotas,
}

#[derive(Default)]
struct Tables {
    version: u64,
    entries: BTreeMap<(Bucket, String), (u64, Vec<u8>)>,
    principals: BTreeMap<String, Told>,
    groups: BTreeMap<String, Vec<String>>,
    ended: Vec<(String, Option<String>, String)>,
    calls: Vec<String>,
}

impl Tables {
    fn version_of(&self, key: &(Bucket, String)) -> Option<u64> {
        self.entries.get(key).map(|(version, _)| *version)
    }

    fn put(&mut self, key: (Bucket, String), value: Vec<u8>) {
        self.version += 1;
        self.entries.insert(key, (self.version, value));
    }
}

type Hook = Box<dyn FnOnce(&Fake) + Send>;

/// Shared by its clones.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Shared>);

struct Shared {
    tables: Mutex<Tables>,
    now: AtomicU64,
    random: AtomicU64,
    fixed_random: AtomicU32,
    forced_conflicts: AtomicU32,
    settings: Mutex<BTreeMap<String, String>>,
    ceiling: Mutex<Option<Vec<String>>>,
    away: AtomicU32,
    before_commit: Mutex<Option<Hook>>,
    session: Mutex<Option<String>>,
    published: Mutex<Vec<(String, Value)>>,
    while_waiting: Mutex<Option<Hook>>,
    over: AtomicU32,
}

pub(crate) const NOW: u64 = 1_800_000_000;

impl Fake {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            tables: Mutex::default(),
            now: NOW.into(),
            random: 0.into(),
            fixed_random: 0.into(),
            forced_conflicts: 0.into(),
            settings: Mutex::default(),
            ceiling: Mutex::default(),
            away: 0.into(),
            before_commit: Mutex::default(),
            session: Mutex::default(),
            published: Mutex::default(),
            while_waiting: Mutex::default(),
            over: 0.into(),
        }))
    }

    /// As a start of the component leaves it: there is `default`, and nobody else.
    pub(crate) fn started() -> Self {
        let fake = Self::new();
        principals::bootstrap(&fake).unwrap();
        fake.calls();
        fake
    }

    /// With principals of these names, who are in the group `agent`.
    pub(crate) fn with(names: &[&str]) -> Self {
        let fake = Self::started();
        for name in names {
            principals::create(&fake, principals::DEFAULT, json!({ "name": name }).to_string().as_bytes()).unwrap();
        }
        fake
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap()
    }

    fn call(&self, name: &str) -> Result<MutexGuard<'_, Tables>, PortError> {
        if self.0.away.load(SeqCst) == 1 {
            return Err(PortError::Unavailable);
        }
        let mut tables = self.tables();
        tables.calls.push(name.into());
        Ok(tables)
    }

    pub(crate) fn set_now(&self, now: u64) {
        self.0.now.store(now, SeqCst);
    }

    /// The next commits, so many, are conflicts.
    pub(crate) fn force_conflicts(&self, times: u32) {
        self.0.forced_conflicts.store(times, SeqCst);
    }

    /// From now on the distribution says this.
    pub(crate) fn say(&self, name: &str, value: &str) {
        self.0.settings.lock().unwrap().insert(name.into(), value.into());
    }

    /// What the distribution says no longer.
    pub(crate) fn unsay(&self, name: &str) {
        self.0.settings.lock().unwrap().remove(name);
    }

    /// Whoever calls from now on does so through a session with this ceiling.
    pub(crate) fn bound_to(&self, ceiling: Option<&[&str]>) {
        *self.0.ceiling.lock().unwrap() = ceiling.map(|texts| texts.iter().map(|&text| text.into()).collect());
    }

    /// Whoever calls from now on does so through a session that is called this.
    pub(crate) fn through_session(&self, name: Option<&str>) {
        *self.0.session.lock().unwrap() = name.map(str::to_owned);
    }

    /// Runs once, when next somebody listens and waits: something was published.
    pub(crate) fn while_waiting(&self, hook: impl FnOnce(&Fake) + Send + 'static) {
        *self.0.while_waiting.lock().unwrap() = Some(Box::new(hook));
    }

    /// The time of whoever waits now is over.
    pub(crate) fn time_is_over(&self) {
        self.0.over.store(1, SeqCst);
    }

    /// What was published so far.
    pub(crate) fn published(&self) -> Vec<(String, Value)> {
        self.0.published.lock().unwrap().clone()
    }

    /// Everything fails from now on.
    pub(crate) fn go_away(&self) {
        self.0.away.store(1, SeqCst);
    }

    /// As if the host had been told of nobody yet.
    pub(crate) fn forget_told(&self) {
        self.tables().principals.clear();
    }

    /// The next random fills repeat the first ones, so many.
    pub(crate) fn repeat_random(&self, times: u32) {
        self.0.fixed_random.store(times, SeqCst);
    }

    /// Runs once, just before the next commit takes effect.
    pub(crate) fn before_commit(&self, hook: impl FnOnce(&Fake) + Send + 'static) {
        *self.0.before_commit.lock().unwrap() = Some(Box::new(hook));
    }

    /// The calls so far, forgotten afterwards.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.tables().calls)
    }

    pub(crate) fn keys(&self, bucket: Bucket) -> Vec<String> {
        self.tables().entries.keys().filter(|(of, _)| *of == bucket).map(|(_, key)| key.clone()).collect()
    }

    pub(crate) fn value(&self, bucket: Bucket, key: &str) -> Option<Value> {
        let tables = self.tables();
        tables.entries.get(&(bucket, key.into())).map(|(_, bytes)| serde_json::from_slice(bytes).unwrap())
    }

    pub(crate) fn set(&self, bucket: Bucket, key: &str, value: &Value) {
        self.tables().put((bucket, key.into()), value.to_string().into_bytes());
    }

    pub(crate) fn text(&self) -> String {
        let tables = self.tables();
        let line = |((bucket, key), (_, value)): (&(Bucket, String), &(u64, Vec<u8>))| {
            format!("{bucket:?} {key} {}\n", String::from_utf8_lossy(value))
        };
        tables.entries.iter().map(line).collect()
    }

    pub(crate) fn told(&self) -> BTreeMap<String, Told> {
        self.tables().principals.clone()
    }

    /// Whose sessions have ended, which, and why, as the host was told.
    pub(crate) fn ended(&self) -> Vec<(String, Option<String>, String)> {
        self.tables().ended.clone()
    }

    pub(crate) fn told_groups(&self) -> BTreeMap<String, Vec<String>> {
        self.tables().groups.clone()
    }
}

/// A first bearer of a new device of a principal, with this scope.
pub(crate) fn begin(fake: &Fake, id: &str, scope: Option<&[&str]>) -> Bearer {
    transact(fake, |transaction| {
        let mut principal = principals::existing_in(transaction, id)?;
        let mut key = PublicKey::parse("key", &public_key(u32::try_from(principal.keys_had).unwrap()))?;
        while transaction.get(Bucket::Keys, &key.fingerprint())?.is_some() {
            let mut seed = [0; 4];
            fake.random(&mut seed)?;
            key = PublicKey::parse("key", &public_key(u32::from_le_bytes(seed)))?;
        }
        let scope = scope.map(|texts| texts.iter().map(|&text| text.into()).collect());
        let device = principal.add_key(key, fake.now(), None, scope);
        principals::save_record(transaction, id, &principal)?;
        transaction.put(Bucket::Keys, &device.fingerprint, id.as_bytes())?;
        sessions::begin(fake, transaction, id, &principal, &device)
    })
    .unwrap()
}

/// Stands for a signature: 64 bytes that depend on the purpose and the bytes.
pub(crate) fn signature(purpose: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 64];
    blake3::Hasher::new_derive_key(purpose).update(bytes).finalize_xof().fill(&mut out);
    out
}

/// The public key that belongs to a seed, in hex.
pub(crate) fn public_key(seed: u32) -> String {
    let secret = blake3::hash(&seed.to_le_bytes());
    hex::encode(ed25519_dalek::SigningKey::from_bytes(secret.as_bytes()).verifying_key().to_bytes())
}

impl Ports for Fake {
    type Transaction = FakeTransaction;
    type Listener = Fake;

    fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        Ok(self.call("get")?.entries.get(&(bucket, key.into())).map(|(_, value)| value.clone()))
    }

    fn put(&self, bucket: Bucket, key: &str, value: &[u8]) -> Result<(), PortError> {
        self.call("put")?.put((bucket, key.into()), value.into());
        Ok(())
    }

    fn delete(&self, bucket: Bucket, key: &str) -> Result<bool, PortError> {
        Ok(self.call("delete")?.entries.remove(&(bucket, key.into())).is_some())
    }

    fn scan(&self, bucket: Bucket, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page, PortError> {
        assert!((1..=1000).contains(&limit), "limit {limit}");
        let tables = self.call(&format!("scan {bucket:?}"))?;
        let mut found = tables.entries.iter().filter(|((of, key), _)| {
            *of == bucket && key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
        });
        let entries: Vec<_> =
            found.by_ref().take(limit as usize).map(|((_, key), (_, value))| (key.clone(), value.clone())).collect();
        Ok(Page { entries, more: found.next().is_some() })
    }

    fn begin(&self) -> FakeTransaction {
        FakeTransaction {
            fake: self.clone(),
            read: Vec::new(),
            written: BTreeMap::new(),
            principals: Vec::new(),
            groups: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn sign(&self, purpose: &str, bytes: &[u8]) -> Result<Vec<u8>, PortError> {
        drop(self.call("sign")?);
        Ok(signature(purpose, bytes))
    }

    fn verify(&self, purpose: &str, bytes: &[u8], signed: &[u8]) -> Result<bool, PortError> {
        drop(self.call("verify")?);
        Ok(signature(purpose, bytes) == signed)
    }

    fn ceiling(&self) -> Option<Vec<String>> {
        self.0.ceiling.lock().unwrap().clone()
    }

    fn session(&self) -> Option<String> {
        self.0.session.lock().unwrap().clone()
    }

    fn publish(&self, topic: &str, payload: &[u8]) {
        self.0.published.lock().unwrap().push((topic.into(), serde_json::from_slice(payload).unwrap()));
    }

    fn listen(&self, _topic: &str, _patience: Duration) -> Result<Fake, PortError> {
        Ok(self.clone())
    }

    fn setting(&self, name: &str) -> Result<Option<String>, PortError> {
        if self.0.away.load(SeqCst) == 1 {
            return Err(PortError::Unavailable);
        }
        Ok(self.0.settings.lock().unwrap().get(name).cloned())
    }

    fn now(&self) -> u64 {
        self.0.now.load(SeqCst)
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), PortError> {
        drop(self.call("random")?);
        let repeat = self.0.fixed_random.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        let count = if repeat { 0 } else { self.0.random.fetch_add(1, SeqCst) };
        blake3::Hasher::new().update(&count.to_le_bytes()).finalize_xof().fill(bytes);
        Ok(())
    }
}

impl Listener for Fake {
    fn next(&mut self) -> Result<bool, PortError> {
        let hook = self.0.while_waiting.lock().unwrap().take();
        let Some(hook) = hook else { return Ok(false) };
        hook(self);
        Ok(self.0.over.swap(0, SeqCst) == 0)
    }
}

pub(crate) struct FakeTransaction {
    fake: Fake,
    read: Vec<((Bucket, String), Option<u64>)>,
    written: BTreeMap<(Bucket, String), Option<Vec<u8>>>,
    principals: Vec<(String, Option<Told>)>,
    groups: Vec<(String, Option<Vec<String>>)>,
    ended: Vec<(String, Option<String>, String)>,
}

impl Transaction for FakeTransaction {
    fn get(&mut self, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        let key = (bucket, key.to_owned());
        if let Some(written) = self.written.get(&key) {
            return Ok(written.clone());
        }
        let tables = self.fake.call("transaction.get")?;
        self.read.push((key.clone(), tables.version_of(&key)));
        Ok(tables.entries.get(&key).map(|(_, value)| value.clone()))
    }

    fn put(&mut self, bucket: Bucket, key: &str, value: &[u8]) -> Result<(), PortError> {
        self.written.insert((bucket, key.into()), Some(value.into()));
        Ok(())
    }

    fn delete(&mut self, bucket: Bucket, key: &str) -> Result<(), PortError> {
        self.written.insert((bucket, key.into()), None);
        Ok(())
    }

    fn set_principal(&mut self, standing: Standing<'_>) -> Result<(), PortError> {
        let told = Told {
            enabled: standing.enabled,
            groups: standing.groups.into(),
            grants: standing.grants.into(),
            revokes: standing.revokes.into(),
            quotas: standing.quotas,
        };
        self.principals.push((standing.principal.into(), Some(told)));
        Ok(())
    }

    fn set_group(&mut self, name: &str, capabilities: &[&str]) -> Result<(), PortError> {
        self.groups.push((name.into(), Some(capabilities.iter().map(|&c| c.to_owned()).collect())));
        Ok(())
    }

    fn remove_principal(&mut self, principal: &str) -> Result<(), PortError> {
        self.principals.push((principal.into(), None));
        Ok(())
    }

    fn remove_group(&mut self, name: &str) -> Result<(), PortError> {
        self.groups.push((name.into(), None));
        Ok(())
    }

    fn end_session(&mut self, principal: &str, session: Option<&str>, why: &str) -> Result<(), PortError> {
        self.ended.push((principal.into(), session.map(str::to_owned), why.into()));
        Ok(())
    }

    fn commit(self) -> Result<(), PortError> {
        let hook = self.fake.0.before_commit.lock().unwrap().take();
        if let Some(hook) = hook {
            hook(&self.fake);
        }
        assert!(self.written.len() <= 4_096, "{} keys in one transaction", self.written.len());
        let mut tables = self.fake.call("commit")?;
        let forced = self.fake.0.forced_conflicts.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        if forced || self.read.iter().any(|(key, version)| tables.version_of(key) != *version) {
            return Err(PortError::Conflict);
        }
        for (key, value) in self.written {
            match value {
                Some(value) => tables.put(key, value),
                None => drop(tables.entries.remove(&key)),
            }
        }
        tables.ended.extend(self.ended);
        for (id, told) in self.principals {
            match told {
                Some(told) => drop(tables.principals.insert(id, told)),
                None => drop(tables.principals.remove(&id)),
            }
        }
        for (name, told) in self.groups {
            match told {
                Some(told) => drop(tables.groups.insert(name, told)),
                None => drop(tables.groups.remove(&name)),
            }
        }
        Ok(())
    }
}

/// All elements are different.
pub(crate) fn all_different<T: Ord>(elements: impl IntoIterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    elements.into_iter().all(|element| seen.insert(element))
}
