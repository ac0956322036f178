//! Who sees which value, what a file holds of it, and what is kept in memory.

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
        let listed = env.list(place, &fields).unwrap().into_iter().filter(|(_, field, _)| field.scope != Scope::Host);
        listed.map(|(name, _, set)| (name.to_owned(), set)).collect::<Vec<_>>()
    };
    let want = |set: [bool; 3]| ["KEY", "LIMIT", "MODEL"].map(String::from).into_iter().zip(set).collect::<Vec<_>>();
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
