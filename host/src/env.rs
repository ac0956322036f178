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

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use astrid_capsule::PrincipalId;
use astrid_capsule::env::{Field, Fields, Scope};
use zeroize::Zeroizing;

use crate::authority::{Change, standing};
use crate::keys::Keys;
use crate::seal::Seal;
use crate::store::{Commit, Entry, ReadError, Store};

/// The most pairs of principal and capsule whose values are kept in memory.
pub const MAX_CACHED: usize = 10_000;
/// The most bytes of values that are kept in memory.
pub const MAX_CACHED_BYTES: usize = 64 << 20;

const PREFIX: &[u8] = b"h\0env\0";
/// What the names and the bookkeeping of one cached value cost beside it, about.
const ENTRY_BYTES: usize = 128;

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

/// Overlays by the prefix of their keys.
#[derive(Default)]
struct Cache {
    overlays: HashMap<Vec<u8>, Arc<Overlay>>,
    bytes: usize,
    /// Counts what was forgotten, so that nothing read before a change is kept after it.
    era: u64,
}

impl Cache {
    /// Keeps what was read in `era`, unless something changed since.
    fn keep(&mut self, prefix: Vec<u8>, overlay: &Arc<Overlay>, era: u64) {
        if era != self.era {
            return;
        }
        let bytes = cost(&prefix, overlay);
        if self.overlays.len() >= MAX_CACHED || self.bytes + bytes > MAX_CACHED_BYTES {
            // Everything can be read again; a rarely reached bound needs no cleverer choice.
            self.overlays.clear();
            self.bytes = 0;
        }
        if self.overlays.insert(prefix, overlay.clone()).is_none() {
            self.bytes += bytes;
        }
    }

    /// Forgets every place whose prefix begins with one of these.
    fn forget(&mut self, beginnings: &[Vec<u8>]) {
        self.era += 1;
        self.overlays.retain(|prefix, overlay| {
            let gone = beginnings.iter().any(|beginning| prefix.starts_with(beginning));
            if gone {
                self.bytes -= cost(prefix, overlay);
            }
            !gone
        });
    }
}

fn cost(prefix: &[u8], overlay: &Overlay) -> usize {
    let values = overlay.iter().map(|(name, value)| ENTRY_BYTES + name.len() + value.as_ref().map_or(0, |v| v.len()));
    ENTRY_BYTES + prefix.len() + values.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use astrid_capsule::manifest::Manifest;
    use tempfile::TempDir;

    use super::*;
    use crate::authority::Standing;
    use crate::store;

    const SECRET: &str = "correct horse battery staple";

    fn id(text: &str) -> PrincipalId {
        PrincipalId::parse(text).unwrap()
    }

    fn fields() -> Fields {
        let text = r#"
            [package]
            name = "notes"
            version = "0.1.0"
            [env.KEY]
            type = "secret"
            [env.MODEL]
            type = "string"
            default = "small"
            enum-values = ["small", "large"]
            [env.LIMIT]
            type = "number"
            [env.RULE]
            type = "string"
            scope = "host"
            enum-values = ["strict", "lax"]
        "#;
        Manifest::parse(text).unwrap().env
    }

    /// A room on a folder, and the principals `ada` and `bob`.
    async fn room(folder: &TempDir) -> Env {
        let store = Arc::new(Store::open(&folder.path().join("store.redb"), &store::Config::default()).unwrap());
        for name in ["ada", "bob"] {
            publish(&store, name).await;
        }
        Env::new(store, &Keys::open(&folder.path().join("host.key")).unwrap())
    }

    async fn publish(store: &Store, name: &str) {
        let change = Change::SetPrincipal(id(name), Standing::new(true, vec![], vec![], vec![]));
        store.commit(Commit { writes: vec![change.to_write()], ..Commit::default() }).await.unwrap();
    }

    async fn remove(env: &Env, name: &str) {
        let changes = [Change::RemovePrincipal(id(name))];
        let mut commit = Commit { writes: vec![changes[0].to_write()], ..Commit::default() };
        env.follow(&changes, &mut commit).await.unwrap();
        env.store.commit(commit).await.unwrap();
    }

    fn get(env: &Env, principal: &PrincipalId, name: &str) -> Result<Option<String>, Error> {
        env.get(Place { capsule: "notes", principal }, &fields(), name)
    }

    async fn set(env: &Env, principal: &PrincipalId, name: &str, value: &str) -> Result<(), Error> {
        env.set(Place { capsule: "notes", principal }, &fields(), name, value).await
    }

    fn some(text: &str) -> Result<Option<String>, Error> {
        Ok(Some(text.into()))
    }

    #[tokio::test]
    async fn each_principal_sees_its_own_value_or_the_default_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let env = room(&folder).await;
        let (ada, bob, anonymous) = (id("ada"), id("bob"), PrincipalId::anonymous());
        set(&env, &ada, "KEY", SECRET).await.unwrap();
        set(&env, &ada, "MODEL", "large").await.unwrap();
        assert_eq!((get(&env, &ada, "KEY"), get(&env, &ada, "MODEL")), (some(SECRET), some("large")));
        for other in [&bob, &anonymous] {
            assert_eq!((get(&env, other, "KEY"), get(&env, other, "MODEL")), (Ok(None), some("small")));
        }
        let elsewhere = Place { capsule: "note", principal: &ada };
        assert_eq!(env.get(elsewhere, &fields(), "KEY"), Ok(None));

        let is_set = |principal: &PrincipalId| {
            let place = Place { capsule: "notes", principal };
            let fields = fields();
            let listed =
                env.list(place, &fields).unwrap().into_iter().filter(|(_, field, _)| field.scope != Scope::Host);
            listed.map(|(name, _, set)| (name.to_owned(), set)).collect::<Vec<_>>()
        };
        let want =
            |set: [bool; 3]| ["KEY", "LIMIT", "MODEL"].map(String::from).into_iter().zip(set).collect::<Vec<_>>();
        assert_eq!(is_set(&ada), want([true, false, true]));
        assert_eq!(is_set(&bob), want([false, false, false]));

        let place = Place { capsule: "notes", principal: &ada };
        for _ in 0..2 {
            env.clear(place, &fields(), "MODEL").await.unwrap();
            assert_eq!(get(&env, &ada, "MODEL"), some("small"));
        }
    }

    #[tokio::test]
    async fn what_the_distribution_says_stands_between_the_own_value_and_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let env = room(&folder).await;
        let (ada, bob) = (id("ada"), id("bob"));
        set(&env, &ada, "MODEL", "large").await.unwrap();
        let share = |values: &[(&str, &str)]| {
            let values = values.iter().map(|(name, value)| (name.to_string(), Zeroizing::new(value.to_string())));
            env.share(Shared::from([("notes".into(), values.collect())]));
        };
        share(&[("KEY", SECRET), ("LIMIT", "7"), ("MODEL", "small")]);
        assert_eq!(get(&env, &ada, "MODEL"), some("large"));
        for principal in [&bob, &id("anonymous")] {
            assert_eq!((get(&env, principal, "KEY"), get(&env, principal, "LIMIT")), (some(SECRET), some("7")));
        }
        let place = Place { capsule: "notes", principal: &bob };
        assert!(env.list(place, &fields()).unwrap().iter().all(|(_, _, is_set)| !is_set), "none of them is its own");
        assert_eq!(env.get(Place { capsule: "other", principal: &bob }, &fields(), "KEY"), Ok(None));
        share(&[("LIMIT", "many")]);
        assert_eq!((get(&env, &bob, "KEY"), get(&env, &bob, "LIMIT")), (Ok(None), Ok(None)));
    }

    #[tokio::test]
    async fn a_field_of_the_hosts_is_the_same_for_everybody_and_nobody_sets_it() {
        let folder = tempfile::tempdir().unwrap();
        let env = room(&folder).await;
        let ada = id("ada");
        assert_eq!(get(&env, &ada, "RULE"), Ok(None));
        assert!(
            matches!(set(&env, &ada, "RULE", "lax").await, Err(Error::Invalid(why)) if why.contains("only the distribution"))
        );
        // Not even what was set while a version before took it from everybody.
        let mut before = fields();
        before.get_mut("RULE").unwrap().scope = Scope::Principal;
        env.set(Place { capsule: "notes", principal: &ada }, &before, "RULE", "lax").await.unwrap();
        assert_eq!(get(&env, &ada, "RULE"), Ok(None));
        let share = |value: &str| {
            let values = BTreeMap::from([("RULE".into(), Zeroizing::new(value.into()))]);
            env.share(Shared::from([("notes".into(), values)]));
        };
        share("strict");
        assert_eq!(get(&env, &ada, "RULE"), some("strict"));
        share("unheard of");
        assert_eq!(get(&env, &ada, "RULE"), Err(Error::Unavailable), "a rule that can't be read is not dropped");
    }

    #[tokio::test]
    async fn the_file_never_holds_what_was_sealed_and_the_next_start_opens_it() {
        let folder = tempfile::tempdir().unwrap();
        let env = room(&folder).await;
        let ada = id("ada");
        set(&env, &ada, "KEY", SECRET).await.unwrap();
        env.store.close();
        drop(env);
        let file = std::fs::read(folder.path().join("store.redb")).unwrap();
        let holds = |text: &str| file.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(holds("notes\0KEY") && !holds(SECRET) && !holds("battery"));
        assert_eq!(get(&room(&folder).await, &ada, "KEY"), some(SECRET));

        std::fs::remove_file(folder.path().join("host.key")).unwrap();
        let other = room(&folder).await;
        assert_eq!(get(&other, &ada, "KEY"), Err(Error::Unavailable), "another host key opens nothing");
        set(&other, &ada, "KEY", "anew").await.unwrap();
        assert_eq!(get(&other, &ada, "KEY"), some("anew"));
    }

    #[tokio::test]
    async fn a_value_opens_for_its_principal_capsule_and_field_alone() {
        let folder = tempfile::tempdir().unwrap();
        let env = room(&folder).await;
        let (ada, bob) = (id("ada"), id("bob"));
        set(&env, &ada, "KEY", SECRET).await.unwrap();
        let of = |principal, capsule, field| Place { capsule, principal }.key(field);
        let sealed = env.store.get(&of(&ada, "notes", "KEY")).unwrap().unwrap().value;
        assert!(env.seal.open(&of(&ada, "notes", "KEY"), &sealed).is_some());
        for moved in [of(&bob, "notes", "KEY"), of(&ada, "other", "KEY"), of(&ada, "notes", "MODEL")] {
            assert!(env.seal.open(&moved, &sealed).is_none());
        }
        for cut in 0..sealed.len() {
            assert!(env.seal.open(&of(&ada, "notes", "KEY"), &sealed[..cut]).is_none());
        }
        let again = env.seal(&of(&ada, "notes", "KEY"), SECRET.as_bytes()).unwrap();
        assert_ne!(again, sealed, "every value has a nonce of its own");

        let moved = Commit { writes: vec![(of(&bob, "notes", "KEY"), Some(sealed))], ..Commit::default() };
        env.store.commit(moved).await.unwrap();
        assert_eq!(get(&env, &bob, "KEY"), Err(Error::Unavailable));
        assert_eq!(get(&env, &bob, "MODEL"), some("small"), "one value that does not open is one value");
    }

    #[tokio::test]
    async fn after_the_first_call_values_come_from_memory_and_a_change_is_seen_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let env = room(&folder).await;
        let (ada, bob) = (id("ada"), id("bob"));
        for model in ["large", "small", "large"] {
            set(&env, &ada, "MODEL", model).await.unwrap();
            assert_eq!(get(&env, &ada, "MODEL"), some(model));
        }
        env.store.close();
        assert_eq!(get(&env, &ada, "MODEL"), some("large"));
        assert_eq!(get(&env, &ada, "KEY"), Ok(None), "that there is none is remembered, too");
        assert_eq!(get(&env, &bob, "MODEL"), Err(Error::Unavailable));
        assert_eq!(set(&env, &ada, "MODEL", "small").await, Err(Error::Unavailable));
        assert_eq!(get(&env, &ada, "MODEL"), some("large"));
    }

    #[tokio::test]
    async fn what_a_field_or_name_does_not_take_is_refused_without_repeating_it() {
        let folder = tempfile::tempdir().unwrap();
        let env = room(&folder).await;
        let ada = id("ada");
        let large = "x".repeat(astrid_capsule::env::MAX_VALUE_BYTES + 1);
        for (name, value) in [("KEY", large.as_str()), ("KEY", ""), ("MODEL", "medium"), ("LIMIT", "many")] {
            let Err(Error::Invalid(why)) = set(&env, &ada, name, value).await else { panic!("{name}") };
            assert!(why.starts_with(name) && (value.is_empty() || !why.contains(value)), "{why}");
        }
        let long = "K".repeat(10_000);
        for name in ["", "key", "KEY\0", "KEY ", "../KEY", "NONE", "KEY\n", &long] {
            let Err(Error::NotFound(why)) = set(&env, &ada, name, "x").await else { panic!("{name}") };
            assert!(!why.contains(char::is_control) && why.len() < 300, "{why}");
            assert!(matches!(get(&env, &ada, name), Err(Error::NotFound(_))));
            let place = Place { capsule: "notes", principal: &ada };
            assert!(matches!(env.clear(place, &fields(), name).await, Err(Error::NotFound(_))));
        }
        assert!(matches!(set(&env, &id("eve"), "KEY", "x").await, Err(Error::NotFound(_))));
        assert!(matches!(set(&env, &PrincipalId::anonymous(), "KEY", "x").await, Err(Error::Invalid(_))));
        assert!(env.store.scan(PREFIX, None, 10, 1 << 20).unwrap().entries.is_empty());
    }

    #[tokio::test]
    async fn a_value_that_no_longer_fits_its_field_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let env = room(&folder).await;
        let ada = id("ada");
        set(&env, &ada, "MODEL", "large").await.unwrap();
        let mut changed = fields();
        changed.get_mut("MODEL").unwrap().enum_values = vec!["small".into(), "huge".into()];
        let place = Place { capsule: "notes", principal: &ada };
        assert_eq!(env.get(place, &changed, "MODEL"), some("small"));
        assert!(env.list(place, &changed).unwrap().iter().all(|(_, _, set)| !set));
        assert_eq!(get(&env, &ada, "MODEL"), some("large"));
    }

    #[tokio::test]
    async fn values_go_with_their_principal_and_whoever_gets_its_name_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let env = room(&folder).await;
        let (ada, bob) = (id("ada"), id("bob"));
        for principal in [&ada, &bob] {
            set(&env, principal, "KEY", SECRET).await.unwrap();
            assert_eq!(get(&env, principal, "KEY"), some(SECRET));
        }
        remove(&env, "ada").await;
        assert_eq!(get(&env, &ada, "KEY"), Ok(None));
        assert!(matches!(set(&env, &ada, "KEY", "x").await, Err(Error::NotFound(_))));
        publish(&env.store, "ada").await;
        assert_eq!(get(&env, &ada, "KEY"), Ok(None));
        assert_eq!(get(&env, &bob, "KEY"), some(SECRET));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_who_set_while_their_principal_is_removed_none_leaves_anything() {
        let folder = tempfile::tempdir().unwrap();
        let env = Arc::new(room(&folder).await);
        let ada = id("ada");
        let setting = (0..50).map(|n| {
            let (env, ada) = (env.clone(), ada.clone());
            tokio::spawn(async move {
                // Some go away before they are answered.
                let wait = std::time::Duration::from_micros(n * 20);
                let _ = tokio::time::timeout(wait, set(&env, &ada, "LIMIT", &n.to_string())).await;
            })
        });
        let setting: Vec<_> = setting.collect();
        remove(&env, "ada").await;
        for set in setting {
            set.await.unwrap();
        }
        let prefix = Place { capsule: "notes", principal: &ada }.prefix();
        assert!(env.store.scan(&prefix, None, 10, 1 << 20).unwrap().entries.is_empty());
        assert_eq!(get(&env, &ada, "LIMIT"), Ok(None));
    }

    #[test]
    fn memory_is_bounded_however_many_principals_come_and_nothing_old_is_kept() {
        let value = |bytes: usize| Arc::new(Overlay::from([("A".into(), Some(Zeroizing::new("x".repeat(bytes))))]));
        let mut cache = Cache::default();
        let overlay = value(1);
        for n in 0..2 * MAX_CACHED + 10 {
            cache.keep(n.to_string().into(), &overlay, 0);
            assert!(cache.overlays.len() <= MAX_CACHED);
        }
        let overlay = value(1 << 20);
        for n in 0..100 {
            cache.keep(format!("large {n}").into(), &overlay, 0);
            assert!(cache.bytes <= MAX_CACHED_BYTES);
        }
        cache.keep(b"large 99".to_vec(), &overlay, 0);
        cache.forget(&[b"large".to_vec()]);
        cache.keep(b"read before".to_vec(), &overlay, 0);
        assert!(!cache.overlays.contains_key(&b"read before"[..]), "something changed since it was read");
        cache.forget(&[b"".to_vec()]);
        assert_eq!((cache.overlays.len(), cache.bytes), (0, 0));
    }
}
