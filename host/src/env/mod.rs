//! Environment: the values of capsules' `[env]` fields, each principal's own over the distribution's over the manifest's
//! default.
//!
//! Owns the stored values and their cache. Whether a field is a secret or not, its value is sealed ([`crate::seal`]),
//! bound to the key that it is stored under: principal, capsule and field. So bytes that were moved elsewhere in the file
//! do not open. No value ever stands in a log line or an error.
//!
//! A principal without a value has what the distribution says, else the default, and nobody else's value, the owner's
//! included; `anonymous` has no own. Values go with their principal: whoever gets its name later does not inherit them. A
//! field of scope `host` has no own values at all. What the distribution says is kept in memory alone
//! ([`crate::distro`] owns where it comes from).
//!
//! Bounded by the fields of the installed manifests (64 of at most 8 KiB for each principal and capsule) on disk, and in
//! memory by [`MAX_CACHED`] pairs of principal and capsule and [`MAX_CACHED_BYTES`] of values. After a pair's first call
//! its values are read from memory. Refuses to know what a value is good for, and who may set it.

mod cache;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use astrid_capsule::PrincipalId;
use astrid_capsule::env::{Field, Fields, Scope};
use zeroize::Zeroizing;

use crate::authority::{Change, standing};
use crate::keys::Keys;
use crate::seal::Seal;
use crate::store::{Commit, Entry, ReadError, Store};
use cache::Cache;
pub use cache::{MAX_CACHED, MAX_CACHED_BYTES};

const PREFIX: &[u8] = b"h\0env\0";

/// Why there is no answer. None of the texts holds a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No such field, or no such principal.
    NotFound(String),
    /// The field does not take the value, or the principal can't have one.
    Invalid(String),
    /// The store failed, or a value can't be opened; logged.
    Unavailable,
}

/// A capsule, and on whose behalf it is called or asked about.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub capsule: &'a str,
    pub principal: &'a PrincipalId,
}

impl Place<'_> {
    /// What the keys of its values begin with. No part can hold a NUL, so no two places share one.
    fn prefix(&self) -> Vec<u8> {
        [PREFIX, self.principal.as_str().as_bytes(), b"\0", self.capsule.as_bytes(), b"\0"].concat()
    }

    fn key(&self, field: &str) -> Vec<u8> {
        [&self.prefix(), field.as_bytes()].concat()
    }
}

/// A principal's own values for one capsule. None: there is one, and it does not open.
type Overlay = BTreeMap<String, Option<Zeroizing<String>>>;

/// What the distribution says, by capsule and field.
pub type Shared = HashMap<String, BTreeMap<String, Zeroizing<String>>>;

pub struct Env {
    store: Arc<Store>,
    seal: Seal,
    cache: Arc<Mutex<Cache>>,
    shared: RwLock<Arc<Shared>>,
    /// Held for writing while a principal is removed, so that no value is set behind its back.
    principals: Arc<tokio::sync::RwLock<()>>,
}

impl Env {
    pub fn new(store: Arc<Store>, keys: &Keys) -> Self {
        Self {
            store,
            seal: Seal::new(keys, "env"),
            cache: Arc::default(),
            shared: Default::default(),
            principals: Arc::default(),
        }
    }

    /// Makes these what the distribution says, and nothing else; in force for every call that asks from now on.
    pub fn share(&self, shared: Shared) {
        *self.shared.write().expect("no panic under this lock") = Arc::new(shared);
    }

    /// The value that a call sees: the principal's own, else the distribution's, else the default, else none.
    pub fn get(&self, place: Place<'_>, fields: &Fields, name: &str) -> Result<Option<String>, Error> {
        let field = known(place.capsule, fields, name)?;
        if field.scope == Scope::Principal {
            match self.overlay(place)?.get(name) {
                // Somebody's secret is never silently replaced by a default.
                Some(None) => return Err(Error::Unavailable),
                Some(Some(value)) if field.check(value).is_ok() => return Ok(Some(value.as_str().to_owned())),
                _ => {}
            }
        }
        let shared = self.shared.read().expect("no panic under this lock").clone();
        match shared.get(place.capsule).and_then(|values| values.get(name)) {
            Some(value) if field.check(value).is_ok() => Ok(Some(value.as_str().to_owned())),
            // What was decided for everybody is not undone by a version that does not take it.
            Some(_) if field.scope == Scope::Host => Err(Error::Unavailable),
            _ => Ok(field.default_value()),
        }
    }

    /// Whether a principal is to give a field its value, because nobody else does.
    pub fn needs_prompt(&self, capsule: &str, fields: &Fields) -> bool {
        let shared = self.shared.read().expect("no panic under this lock").clone();
        let said = |name: &String| shared.get(capsule).is_some_and(|values| values.contains_key(name));
        let asks = |(name, field): (&String, &Field)| {
            field.default.is_none() && field.scope == Scope::Principal && !said(name)
        };
        fields.iter().any(asks)
    }

    /// Every field, sorted by name, and whether the principal has a value of its own that fits.
    pub fn list<'f>(&self, place: Place<'_>, fields: &'f Fields) -> Result<Vec<(&'f str, &'f Field, bool)>, Error> {
        let overlay = self.overlay(place)?;
        let is_set = |name: &str, field: &Field| match overlay.get(name).filter(|_| field.scope == Scope::Principal) {
            Some(Some(value)) => field.check(value).is_ok(),
            Some(None) => true,
            None => false,
        };
        Ok(fields.iter().map(|(name, field)| (name.as_str(), field, is_set(name, field))).collect())
    }

    /// Gives the principal a value of its own: durable and in force when it returns.
    pub async fn set(&self, place: Place<'_>, fields: &Fields, name: &str, value: &str) -> Result<(), Error> {
        let field = known(place.capsule, fields, name)?;
        if field.scope == Scope::Host {
            return Err(Error::Invalid(format!("{name}: only the distribution gives it a value")));
        }
        field.check(value).map_err(|why| Error::Invalid(format!("{name}: {why}")))?;
        let sealed = self.seal(&place.key(name), value.as_bytes())?;
        self.write(place, name, Some(sealed)).await
    }

    /// Takes the principal's own value away, if there is one.
    pub async fn clear(&self, place: Place<'_>, fields: &Fields, name: &str) -> Result<(), Error> {
        known(place.capsule, fields, name)?;
        self.write(place, name, None).await
    }

    /// Whether the principal can have values: that it is published, and not `anonymous`.
    pub fn exists(&self, principal: &PrincipalId) -> Result<(), Error> {
        if principal.is_anonymous() {
            return Err(Error::Invalid("`anonymous` has no environment of its own".into()));
        }
        match standing::is_stored(&self.store, principal) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NotFound(format!("there is no principal `{principal}`"))),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Before a commit of these changes, which has no `then` yet: lets it delete the values of the principals that it
    /// removes as well.
    pub async fn follow(&self, changes: &[Change], commit: &mut Commit) -> Result<(), Error> {
        let removed = |change: &Change| match change {
            Change::RemovePrincipal(id) => Some([PREFIX, id.as_str().as_bytes(), b"\0"].concat()),
            _ => None,
        };
        let removed: Vec<Vec<u8>> = changes.iter().filter_map(removed).collect();
        if removed.is_empty() {
            return Ok(());
        }
        let guard = self.principals.clone().write_owned().await;
        for prefix in &removed {
            for page in self.pages(prefix) {
                commit.writes.extend(page?.into_iter().map(|(key, _)| (key, None)));
            }
        }
        let cache = self.cache.clone();
        commit.then = Some(Box::new(move |_| {
            lock(&cache).forget(&removed);
            drop(guard);
        }));
        Ok(())
    }

    /// Deletes everybody's values for a capsule.
    pub async fn purge(&self, capsule: &str) -> Result<(), Error> {
        let guard = Arc::new(self.principals.clone().write_owned().await);
        for page in self.pages(PREFIX) {
            // PREFIX, principal, NUL, capsule, NUL, field.
            let of = |key: &[u8]| key[PREFIX.len()..].split(|b| *b == 0).nth(1) == Some(capsule.as_bytes());
            let keys: Vec<Vec<u8>> = page?.into_iter().map(|(key, _)| key).filter(|key| of(key)).collect();
            let (cache, gone, held) = (self.cache.clone(), keys.clone(), guard.clone());
            let prefix = |key: &Vec<u8>| key[..=key.iter().rposition(|b| *b == 0).unwrap_or(0)].to_vec();
            let then = move |_| {
                lock(&cache).forget(&gone.iter().map(prefix).collect::<Vec<_>>());
                drop(held);
            };
            let writes = keys.into_iter().map(|key| (key, None)).collect();
            let commit = Commit { writes, then: Some(Box::new(then)), ..Commit::default() };
            self.store.commit(commit).await.map_err(|error| {
                tracing::error!(capsule, "environment values were not deleted: {error}");
                Error::Unavailable
            })?;
        }
        Ok(())
    }

    async fn write(&self, place: Place<'_>, name: &str, sealed: Option<Vec<u8>>) -> Result<(), Error> {
        // Lives as long as the commit, even if nobody waits for that any more.
        let guard = self.principals.clone().read_owned().await;
        self.exists(place.principal)?;
        let (cache, prefix) = (self.cache.clone(), place.prefix());
        let then = move |_| {
            lock(&cache).forget(&[prefix]);
            drop(guard);
        };
        let writes = vec![(place.key(name), sealed)];
        let commit = Commit { writes, then: Some(Box::new(then)), ..Commit::default() };
        self.store.commit(commit).await.map(|_| ()).map_err(|error| {
            let (capsule, principal) = (place.capsule, place.principal);
            tracing::error!(capsule, %principal, "an environment value was not stored: {error}");
            Error::Unavailable
        })
    }

    /// From memory, or from the store the first time.
    fn overlay(&self, place: Place<'_>) -> Result<Arc<Overlay>, Error> {
        if place.principal.is_anonymous() {
            return Ok(Arc::default());
        }
        let prefix = place.prefix();
        let era = {
            let cache = lock(&self.cache);
            if let Some(overlay) = cache.overlays.get(&prefix) {
                return Ok(overlay.clone());
            }
            cache.era
        };
        let overlay = Arc::new(self.read(place, &prefix)?);
        lock(&self.cache).keep(prefix, &overlay, era);
        Ok(overlay)
    }

    fn read(&self, place: Place<'_>, prefix: &[u8]) -> Result<Overlay, Error> {
        let mut overlay = Overlay::new();
        for page in self.pages(prefix) {
            for (key, entry) in page? {
                let field = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
                let value = self.seal.open(&key, &entry.value);
                if value.is_none() {
                    let (capsule, principal) = (place.capsule, place.principal);
                    let why = "it is damaged, or was sealed under another host key; set it anew";
                    tracing::error!(capsule, %principal, field, "an environment value can't be opened: {why}");
                }
                overlay.insert(field, value);
            }
        }
        Ok(overlay)
    }

    /// What is stored under a prefix, page by page.
    fn pages(&self, prefix: &[u8]) -> impl Iterator<Item = Result<Vec<(Vec<u8>, Entry)>, Error>> {
        let (mut after, mut more) = (None::<Vec<u8>>, true);
        std::iter::from_fn(move || {
            if !std::mem::take(&mut more) {
                return None;
            }
            let page = match self.store.scan(prefix, after.as_deref(), 1000, 4 << 20) {
                Ok(page) => page,
                Err(error) => return Some(Err(failed(&error))),
            };
            more = page.more;
            after = page.entries.last().map(|(key, _)| key.clone());
            Some(Ok(page.entries))
        })
    }

    fn seal(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, Error> {
        self.seal.seal(key, value).ok_or_else(|| {
            tracing::error!("an environment value can't be sealed: no randomness");
            Error::Unavailable
        })
    }
}

fn known<'f>(capsule: &str, fields: &'f Fields, name: &str) -> Result<&'f Field, Error> {
    fields.get(name).ok_or_else(|| {
        let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
        Error::NotFound(format!("the manifest of `{capsule}` has no [env.{shown}]"))
    })
}

fn failed(error: &ReadError) -> Error {
    tracing::error!("the environment can't be read: {error}");
    Error::Unavailable
}

fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().expect("no panic under this lock")
}
