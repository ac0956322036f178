//! Principals and groups: the records, what the host is told of them, and the one principal that is there from the
//! start.
//!
//! A record and the standing that the host enforces are written in one transaction, so they never differ. Knows nothing
//! of how a principal proves who it is.

use std::collections::BTreeSet;

use astrid_capsule::PrincipalId;
use astrid_capsule::principal::ANONYMOUS;
use serde::{Deserialize, Serialize};

use crate::keys::PublicKey;
use crate::listing;
use crate::payload::{self, bounded, invalid, stored};
use crate::ports::{Bucket, Ports, Standing, Transaction, transact};
use crate::quotas::Quotas;
use crate::refusal::Refusal;

/// The bootstrap principal, in group [`ADMIN`].
pub const DEFAULT: &str = "default";
/// The group that holds everything.
pub const ADMIN: &str = "admin";
/// The built-in groups and what they hold. They can't be redefined.
pub const GROUPS: [(&str, &[&str]); 3] = [(ADMIN, &["*"]), ("agent", &["self:*"]), ("restricted", &[])];

/// The longest display name, in bytes.
const MAX_DISPLAY_NAME: usize = 256;
/// The longest id made from a display name, in bytes, without the suffix of a taken one.
const MAX_SLUG: usize = 48;
/// Ids that stand for something else in logs and messages.
const RESERVED: [&str; 4] = [ANONYMOUS, DEFAULT, "host", "system"];
/// How many random suffixes are tried for a taken id; each has 32 bits.
const SUFFIXES: usize = 8;
/// The most rows of one list.
const MAX_ROWS: u32 = 1_000;

/// A principal as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    pub enabled: bool,
    pub groups: Vec<String>,
    pub grants: Vec<String>,
    pub revokes: Vec<String>,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
    /// Bearers issued then or before are dead. Seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
    pub keys: Vec<Key>,
    #[serde(default, skip_serializing_if = "Quotas::is_default")]
    pub quotas: Quotas,
}

/// A public key by which a principal can prove who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub fingerprint: String,
    pub public_key: String,
    /// Seconds since the Unix epoch.
    pub added_at: u64,
}

impl Principal {
    /// An enabled one in one group, without keys.
    pub fn new(group: &str, now: u64) -> Self {
        Self {
            enabled: true,
            groups: vec![group.into()],
            grants: Vec::new(),
            revokes: Vec::new(),
            created_at: now,
            revoked_at: None,
            keys: Vec::new(),
            quotas: Quotas::default(),
        }
    }

    /// Adds a key.
    pub fn add_key(&mut self, key: PublicKey, now: u64) {
        self.keys.push(Key { fingerprint: key.fingerprint(), public_key: key.to_hex(), added_at: now });
    }

    /// Grants and what the groups hold, without what is revoked literally, sorted.
    pub fn capabilities(&self) -> Vec<String> {
        let of_groups = GROUPS.iter().filter(|(name, _)| self.groups.iter().any(|group| group == name));
        let held = of_groups.flat_map(|(_, held)| held.iter().copied()).chain(self.grants.iter().map(String::as_str));
        let held: BTreeSet<&str> = held.filter(|held| !self.revokes.iter().any(|revoked| revoked == held)).collect();
        held.into_iter().map(str::to_owned).collect()
    }
}

/// Refuses a group that is not defined.
pub fn check_group(group: &str) -> Result<(), Refusal> {
    if GROUPS.iter().any(|(name, _)| *name == group) {
        return Ok(());
    }
    let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
    Err(Refusal::Invalid(format!("group {} is not defined; there are {}", payload::shown(group), names.join(", "))))
}

/// Whether whoever is in the group may do everything.
pub fn is_unbounded(group: &str) -> bool {
    GROUPS.iter().any(|(name, capabilities)| *name == group && capabilities.contains(&"*"))
}

/// Reads a principal.
pub fn load<P: Ports>(ports: &P, id: &str) -> Result<Option<Principal>, Refusal> {
    ports.get(Bucket::Principals, id)?.map(|bytes| read(id, &bytes)).transpose()
}

/// Reads the record of a principal that a transaction is about to change.
pub fn load_in(transaction: &mut impl Transaction, id: &str) -> Result<Option<Principal>, Refusal> {
    transaction.get(Bucket::Principals, id)?.map(|bytes| read(id, &bytes)).transpose()
}

fn read(id: &str, bytes: &[u8]) -> Result<Principal, Refusal> {
    stored(&format!("principal `{id}`"), bytes)
}

/// Stages the record and the standing that follows from it.
pub fn save(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    let bytes = serde_json::to_vec(principal).map_err(|error| Refusal::Internal(error.to_string()))?;
    transaction.put(Bucket::Principals, id, &bytes)?;
    publish(transaction, id, principal)
}

fn publish(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    let Principal { enabled, groups, grants, revokes, quotas, .. } = principal;
    let standing = Standing { principal: id, enabled: *enabled, groups, grants, revokes, quotas: *quotas };
    Ok(transaction.set_principal(standing)?)
}

/// Makes sure that the built-in groups are in force and that [`DEFAULT`] exists, is enabled and is an administrator.
/// Safe to repeat; looks at no other principal.
pub fn bootstrap<P: Ports>(ports: &P) -> Result<(), Refusal> {
    transact(ports, |transaction| {
        for (name, capabilities) in GROUPS {
            transaction.set_group(name, capabilities)?;
        }
        let found = load_in(transaction, DEFAULT)?;
        let mut principal = found.clone().unwrap_or_else(|| Principal::new(ADMIN, ports.now()));
        principal.enabled = true;
        if !principal.groups.iter().any(|group| group == ADMIN) {
            principal.groups.push(ADMIN.into());
        }
        if found.as_ref() == Some(&principal) {
            return publish(transaction, DEFAULT, &principal);
        }
        save(transaction, DEFAULT, &principal)
    })
}

/// An id made from a display name, or `agent`: lower case letters, digits and single dashes, at most 48 bytes.
pub fn slug(display_name: Option<&str>) -> Result<String, Refusal> {
    let name = display_name.unwrap_or_default();
    if name.len() > MAX_DISPLAY_NAME {
        let bound = format!("at most {MAX_DISPLAY_NAME} bytes long");
        return Err(invalid(format!("display_name {}", payload::shown(name)), bound));
    }
    let mut slug = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(MAX_SLUG);
    let slug = slug.trim_end_matches('-');
    Ok(if slug.is_empty() { "agent".into() } else { slug.into() })
}

/// `slug` itself if it is free, else with a random suffix. Free at the commit as well, or the commit is a conflict.
pub fn free_id<P: Ports>(ports: &P, transaction: &mut P::Transaction, slug: &str) -> Result<String, Refusal> {
    if !RESERVED.contains(&slug) && transaction.get(Bucket::Principals, slug)?.is_none() {
        return Ok(slug.into());
    }
    for _ in 0..SUFFIXES {
        let mut suffix = [0; 4];
        ports.random(&mut suffix)?;
        let id = format!("{slug}-{}", hex::encode(suffix));
        if transaction.get(Bucket::Principals, &id)?.is_none() {
            return Ok(id);
        }
    }
    Err(Refusal::Unavailable("no free principal id was found; try again".into()))
}

/// The answer to `principal.list`.
#[derive(Debug, Serialize)]
pub struct PrincipalList {
    /// Sorted by id.
    pub principals: Vec<Row>,
    /// Pass it as `after` to go on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// A principal as others see it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub principal: String,
    pub enabled: bool,
    pub groups: Vec<String>,
    pub grants: Vec<String>,
    pub revokes: Vec<String>,
}

impl Row {
    fn new(id: &str, principal: Principal) -> Self {
        let Principal { enabled, groups, grants, revokes, .. } = principal;
        Self { principal: id.into(), enabled, groups, grants, revokes }
    }
}

/// Principals after `after`, at most `limit` (1 to 1000, 1000 unless given); with a target that one alone, which is
/// not found if it does not exist.
pub fn list<P: Ports>(ports: &P, target: Option<&str>, payload: &[u8]) -> Result<PrincipalList, Refusal> {
    let request: listing::Request = payload::read(payload)?;
    let limit = request.limit.map_or(Ok(MAX_ROWS), |limit| bounded("limit", &limit, 1..=MAX_ROWS))?;
    if let Some(after) = &request.after {
        PrincipalId::parse(after).map_err(|_| invalid(format!("after {}", payload::shown(after)), "a principal id"))?;
    }
    if let Some(target) = target {
        let found = load(ports, target)?.ok_or_else(|| Refusal::NotFound(format!("no principal `{target}`")))?;
        let after = request.after.is_none_or(|after| *target > *after);
        let principals = after.then(|| Row::new(target, found)).into_iter().collect();
        return Ok(PrincipalList { principals, next_after: None });
    }
    let walked = listing::walk(ports, Bucket::Principals, request.after, limit as usize, |id, bytes| {
        Ok(Some(Row::new(id, read(id, bytes)?)))
    })?;
    Ok(PrincipalList { principals: walked.rows, next_after: walked.next_after })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MeRequest {}

/// The answer to `me`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Me {
    pub principal: String,
    pub groups: Vec<String>,
    /// Sorted.
    pub capabilities: Vec<String>,
}

/// Who the caller is. `anonymous` is nobody, which is denied.
pub fn me<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Me, Refusal> {
    let MeRequest {} = payload::read(payload)?;
    let found = if caller == ANONYMOUS { None } else { load(ports, caller)? };
    let principal = found.ok_or_else(|| Refusal::Denied("the caller is not a known principal".into()))?;
    let capabilities = principal.capabilities();
    Ok(Me { principal: caller.into(), groups: principal.groups, capabilities })
}

#[cfg(test)]
mod tests {
    use astrid_capsule::Capability;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fake, NOW};

    fn fake() -> Fake {
        let fake = Fake::new();
        bootstrap(&fake).unwrap();
        fake
    }

    fn add(fake: &Fake, id: &str, groups: &[&str], grants: &[&str], revokes: &[&str]) {
        let record = json!({"enabled": true, "groups": groups, "grants": grants, "revokes": revokes,
                            "created_at": NOW, "keys": []});
        fake.set(Bucket::Principals, id, &record);
    }

    fn listed(fake: &Fake, target: Option<&str>, request: &Value) -> Value {
        serde_json::to_value(list(fake, target, request.to_string().as_bytes()).unwrap()).unwrap()
    }

    fn ids(list: &Value) -> Vec<&str> {
        list["principals"].as_array().unwrap().iter().map(|row| row["principal"].as_str().unwrap()).collect()
    }

    #[test]
    fn the_first_start_makes_default_an_administrator_and_puts_the_groups_in_force() {
        let fake = fake();
        let record = fake.value(Bucket::Principals, DEFAULT).unwrap();
        assert_eq!((&record["enabled"], &record["groups"]), (&json!(true), &json!(["admin"])));
        assert_eq!(record["created_at"], NOW);
        let told = fake.told();
        assert!(told.len() == 1 && told[DEFAULT].enabled && told[DEFAULT].groups == ["admin"]);
        let groups: Vec<_> = fake.told_groups().into_iter().collect();
        assert_eq!(
            groups,
            [
                ("admin".into(), vec!["*".to_owned()]),
                ("agent".into(), vec!["self:*".to_owned()]),
                ("restricted".into(), vec![])
            ]
        );
    }

    #[test]
    fn every_capability_of_a_built_in_group_fits_the_grammar() {
        for capability in GROUPS.iter().flat_map(|(_, capabilities)| *capabilities) {
            Capability::parse(capability).unwrap();
        }
    }

    #[test]
    fn a_second_start_changes_nothing_and_looks_at_nobody_else() {
        let fake = fake();
        add(&fake, "eve", &["agent"], &[], &[]);
        let before = (fake.text(), fake.told(), fake.told_groups());
        fake.set_now(NOW + 1_000);
        fake.calls();
        bootstrap(&fake).unwrap();
        assert_eq!((fake.text(), fake.told(), fake.told_groups()), before);
        assert_eq!(fake.calls(), ["transaction.get", "commit"]);
    }

    #[test]
    fn a_start_restores_a_default_that_was_disabled_or_stripped_and_keeps_the_rest() {
        let fake = fake();
        let mut record = fake.value(Bucket::Principals, DEFAULT).unwrap();
        record["enabled"] = false.into();
        record["groups"] = json!(["agent"]);
        record["grants"] = json!(["a:b"]);
        fake.set(Bucket::Principals, DEFAULT, &record);
        bootstrap(&fake).unwrap();
        record["enabled"] = true.into();
        record["groups"] = json!(["agent", "admin"]);
        assert_eq!(fake.value(Bucket::Principals, DEFAULT).unwrap(), record);
        assert_eq!(fake.told()[DEFAULT].grants, ["a:b"]);
    }

    #[test]
    fn a_start_that_others_get_in_the_way_of_is_repeated() {
        let fake = Fake::new();
        fake.force_conflicts(3);
        bootstrap(&fake).unwrap();
        assert!(fake.told().contains_key(DEFAULT));
    }

    #[test]
    fn a_record_that_does_not_read_is_an_error_and_is_left_alone() {
        let fake = Fake::new();
        fake.set(Bucket::Principals, DEFAULT, &json!({"enabled": "yes"}));
        assert!(matches!(bootstrap(&fake), Err(Refusal::Internal(reason)) if reason.contains("`default`")));
        assert_eq!(fake.value(Bucket::Principals, DEFAULT), Some(json!({"enabled": "yes"})));
    }

    #[test]
    fn with_a_target_the_list_is_its_row_alone() {
        let fake = fake();
        add(&fake, "eve", &["agent"], &["a:b"], &["c:d"]);
        let row =
            json!({"principal": "eve", "enabled": true, "groups": ["agent"], "grants": ["a:b"], "revokes": ["c:d"]});
        assert_eq!(listed(&fake, Some("eve"), &json!({})), json!({"principals": [row]}));
        assert!(ids(&listed(&fake, Some("eve"), &json!({"after": "eve"}))).is_empty());
        assert!(matches!(list(&fake, Some("nobody"), b"{}"), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn without_a_target_the_list_is_everybody_sorted_a_page_at_a_time() {
        let fake = fake();
        for n in 0..1_500 {
            add(&fake, &format!("p{n:04}"), &[], &[], &[]);
        }
        let first = listed(&fake, None, &json!({}));
        assert_eq!(ids(&first).len(), 1_000);
        let second = listed(&fake, None, &json!({"after": first["next_after"]}));
        assert!(second.get("next_after").is_none());
        let all = [ids(&first), ids(&second)].concat();
        assert!(all.len() == 1_501 && all.is_sorted());

        let small = listed(&fake, None, &json!({"after": "p0000", "limit": 2}));
        assert_eq!((ids(&small), &small["next_after"]), (vec!["p0001", "p0002"], &json!("p0002")));
        let last = listed(&fake, None, &json!({"after": "p1497", "limit": 2}));
        assert_eq!((ids(&last), last.get("next_after")), (vec!["p1498", "p1499"], None));
    }

    #[test]
    fn a_list_takes_only_its_own_bounds() {
        for (request, want) in [
            (json!({"limit": 0}), "limit = 0 must be 1 to 1000"),
            (json!({"limit": 1_001}), "limit = 1001 must be 1 to 1000"),
            (json!({"after": "a b"}), "after `a b` must be a principal id"),
            (json!({"before": "a"}), "unknown field `before`"),
        ] {
            match list(&fake(), None, request.to_string().as_bytes()) {
                Err(Refusal::Invalid(reason)) => assert!(reason.contains(want), "{reason}"),
                other => panic!("{request} gives {other:?}"),
            }
        }
    }

    #[test]
    fn me_is_the_callers_groups_and_capabilities() {
        let fake = fake();
        add(&fake, "eve", &["restricted", "agent", "gone"], &["z:y", "a:b", "a:b", "c:d"], &["c:d", "*"]);
        assert_eq!(
            serde_json::to_value(me(&fake, "eve", b"{}").unwrap()).unwrap(),
            json!({"principal": "eve", "groups": ["restricted", "agent", "gone"], "capabilities": ["a:b", "self:*", "z:y"]})
        );
        assert_eq!(me(&fake, DEFAULT, b"").unwrap().capabilities, ["*"]);
    }

    #[test]
    fn nobody_is_denied_to_ask_who_they_are() {
        let fake = fake();
        add(&fake, ANONYMOUS, &["admin"], &[], &[]);
        for nobody in [ANONYMOUS, "unknown"] {
            assert!(matches!(me(&fake, nobody, b"{}"), Err(Refusal::Denied(_))), "{nobody}");
        }
        assert!(matches!(me(&fake, DEFAULT, br#"{"principal":"eve"}"#), Err(Refusal::Invalid(_))));
    }
}
