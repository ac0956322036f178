//! Principals: the records, what the host is told of them, the verbs that change them, and the one that is there from
//! the start.
//!
//! A record and the standing that the host enforces are written in one transaction, so they never differ. An id is given
//! once: what capsules keep for a deleted principal must not become somebody else's. Knows nothing of how a principal
//! proves who it is.

use astrid_capsule::principal::ANONYMOUS;
use serde::{Deserialize, Serialize};

use crate::certificates::Certificate;
use crate::devices::Pairing;
use crate::groups;
use crate::keys::PublicKey;
use crate::listing;
use crate::login::Used;
use crate::payload::{self, bounded, invalid, stored};
use crate::policy;
use crate::ports::{Bucket, Ports, Standing, Transaction, transact};
use crate::quotas::Quotas;
use crate::refusal::Refusal;
use crate::rights::Rights;

/// The bootstrap principal, in group [`groups::ADMIN`]. It can be neither deleted nor disabled nor stripped.
pub const DEFAULT: &str = "default";

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
/// The most groups of one principal.
const MAX_GROUPS: usize = 64;

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
    /// Certificates that stand for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// How many keys it has had.
    #[serde(default)]
    pub keys_had: u64,
    /// When each bearer expires that a renewal has given, of those that have not. Seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewals: Vec<u64>,
    /// Open pair tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairings: Vec<Pairing>,
    /// Challenges that were answered and have not expired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logins: Vec<Used>,
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
    /// Which of all keys that the principal has had it is, from 0: one that comes back is another device.
    #[serde(default)]
    pub number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What its sessions may use of what the principal holds; none: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
}

impl Principal {
    /// An enabled one in these groups, with nothing else.
    pub fn new(groups: &[&str], now: u64) -> Self {
        Self {
            enabled: true,
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            grants: Vec::new(),
            revokes: Vec::new(),
            created_at: now,
            revoked_at: None,
            keys: Vec::new(),
            certificates: Vec::new(),
            keys_had: 0,
            renewals: Vec::new(),
            pairings: Vec::new(),
            logins: Vec::new(),
            quotas: Quotas::default(),
        }
    }

    /// Adds a key.
    pub fn add_key(&mut self, key: PublicKey, now: u64, label: Option<String>, scope: Option<Vec<String>>) -> Key {
        let (fingerprint, public_key) = (key.fingerprint(), key.to_hex());
        let added = Key { fingerprint, public_key, added_at: now, number: self.keys_had, label, scope };
        self.keys_had += 1;
        self.keys.push(added.clone());
        added
    }

    /// What its record and its groups give it.
    pub fn rights(&self, transaction: &mut impl Transaction) -> Result<Rights, Refusal> {
        let mut defined = Vec::new();
        for name in &self.groups {
            if let Some(held) = groups::held_by(transaction, name)? {
                defined.push((name.clone(), held));
            }
        }
        Ok(Rights {
            enabled: self.enabled,
            revokes: groups::parse_stored(&self.revokes)?,
            grants: groups::parse_stored(&self.grants)?,
            groups: defined,
            ceiling: None,
        })
    }
}

/// What the caller may do and give, through the session that it calls by; nothing if there is no such principal.
pub fn rights_of_caller<P: Ports>(
    ports: &P,
    transaction: &mut P::Transaction,
    caller: &str,
) -> Result<Rights, Refusal> {
    let rights = match load_in(transaction, caller)? {
        Some(principal) => principal.rights(transaction)?,
        None => Rights::default(),
    };
    let ceiling = ports.ceiling().map(|ceiling| groups::parse_stored(&ceiling)).transpose()?;
    Ok(Rights { ceiling, ..rights })
}

/// There is nobody of that id.
pub fn unknown(id: &str) -> Refusal {
    // A token in the wrong place can have the form of an id.
    Refusal::NotFound(format!("no principal {}", payload::shown(id)))
}

/// Reads a principal.
pub fn load<P: Ports>(ports: &P, id: &str) -> Result<Option<Principal>, Refusal> {
    ports.get(Bucket::Principals, id)?.map(|bytes| read(id, &bytes)).transpose()
}

/// Reads the record of a principal in a transaction that depends on it.
pub fn load_in(transaction: &mut impl Transaction, id: &str) -> Result<Option<Principal>, Refusal> {
    transaction.get(Bucket::Principals, id)?.map(|bytes| read(id, &bytes)).transpose()
}

/// Reads the record of a principal that must be there.
pub fn existing(transaction: &mut impl Transaction, id: &str) -> Result<Principal, Refusal> {
    load_in(transaction, id)?.ok_or_else(|| unknown(id))
}

fn read(id: &str, bytes: &[u8]) -> Result<Principal, Refusal> {
    stored(&format!("principal `{id}`"), bytes)
}

/// Stages the record and the standing that follows from it.
pub fn save(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    save_record(transaction, id, principal)?;
    publish(transaction, id, principal)
}

/// Stages the record alone, where nothing that the host knows has changed: its sessions and streams go on.
pub fn save_record(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    let bytes = serde_json::to_vec(principal).map_err(|error| Refusal::Internal(error.to_string()))?;
    Ok(transaction.put(Bucket::Principals, id, &bytes)?)
}

/// Stages somebody who was not there: record, standing and a place in each group.
pub fn save_new(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    for group in &principal.groups {
        groups::enter(transaction, group, id)?;
    }
    save(transaction, id, principal)
}

/// Stages the standing that follows from a record, so that the host forgets what it remembers of bearers.
pub fn publish(transaction: &mut impl Transaction, id: &str, principal: &Principal) -> Result<(), Refusal> {
    let Principal { enabled, groups, grants, revokes, quotas, .. } = principal;
    let standing = Standing { principal: id, enabled: *enabled, groups, grants, revokes, quotas: *quotas };
    Ok(transaction.set_principal(standing)?)
}

/// Makes sure that the built-in groups are in force and that [`DEFAULT`] exists, is enabled and is an administrator.
/// Safe to repeat; looks at no other principal.
pub fn bootstrap<P: Ports>(ports: &P) -> Result<(), Refusal> {
    transact(ports, |transaction| {
        for (name, capabilities) in groups::BUILT_IN {
            transaction.set_group(name, capabilities)?;
        }
        let found = load_in(transaction, DEFAULT)?;
        let mut principal = found.clone().unwrap_or_else(|| Principal::new(&[groups::ADMIN], ports.now()));
        principal.enabled = true;
        if !principal.groups.iter().any(|group| group == groups::ADMIN) {
            principal.groups.push(groups::ADMIN.into());
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

/// Whether nobody has the id and nobody had it. Still so at the commit, or the commit is a conflict.
fn is_free(transaction: &mut impl Transaction, id: &str) -> Result<bool, Refusal> {
    Ok(transaction.get(Bucket::Principals, id)?.is_none() && transaction.get(Bucket::Gone, id)?.is_none())
}

/// `slug` itself if it is free, else with a random suffix.
pub fn free_id<P: Ports>(ports: &P, transaction: &mut P::Transaction, slug: &str) -> Result<String, Refusal> {
    if !RESERVED.contains(&slug) && is_free(transaction, slug)? {
        return Ok(slug.into());
    }
    for _ in 0..SUFFIXES {
        let mut suffix = [0; 4];
        ports.random(&mut suffix)?;
        let id = format!("{slug}-{}", hex::encode(suffix));
        if is_free(transaction, &id)? {
            return Ok(id);
        }
    }
    Err(Refusal::Unavailable("no free principal id was found; try again".into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    name: String,
    #[serde(default, deserialize_with = "payload::or_default")]
    groups: Vec<String>,
    #[serde(default, deserialize_with = "payload::or_default")]
    grants: Vec<String>,
}

/// Makes a principal that has what is named and nothing else, no key either: it gets one by a pair token. Without groups it
/// is in [`groups::AGENT`]. What its groups hold and what is granted must be the caller's to give. An id that somebody has
/// or had is a conflict.
pub fn create<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Row, Refusal> {
    let CreateRequest { name: id, groups: named, grants } = payload::read(payload)?;
    payload::principal("name", &id)?;
    if id != DEFAULT && RESERVED.contains(&id.as_str()) {
        return Err(Refusal::Invalid(format!("name `{id}` is reserved")));
    }
    let named = if named.is_empty() { vec![groups::AGENT.to_owned()] } else { unique(named) };
    check_count(&named)?;
    let grants = groups::capabilities("grants", &grants)?;
    groups::check_unbounded("grants", &grants, false)?;
    transact(ports, |transaction| {
        let giver = rights_of_caller(ports, transaction, caller)?;
        giver.check_giving("granting more than the caller holds", &grants)?;
        for group in &named {
            let held = groups::to_join(transaction, group)?;
            giver.check_giving(&format!("a principal in `{group}`"), &held)?;
        }
        if transaction.get(Bucket::Principals, &id)?.is_some() {
            return Err(Refusal::Conflict(format!("there is a principal `{id}` already")));
        }
        if !is_free(transaction, &id)? {
            return Err(Refusal::Conflict(format!("`{id}` was deleted, and an id is given only once")));
        }
        policy::admit(ports, transaction)?;
        let names: Vec<&str> = named.iter().map(String::as_str).collect();
        let mut principal = Principal::new(&names, ports.now());
        principal.grants = grants.iter().map(|grant| grant.as_str().to_owned()).collect();
        save_new(transaction, &id, &principal)?;
        Ok(Row::new(&id, principal))
    })
}

/// Each once, in the order in which they first come.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut unique: Vec<String> = Vec::new();
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    unique
}

fn check_count(names: &[String]) -> Result<(), Refusal> {
    match names.len() {
        count if count > MAX_GROUPS => Err(invalid("groups", format!("at most {MAX_GROUPS}; there are {count}"))),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModifyRequest {
    principal: String,
    #[serde(default, deserialize_with = "payload::or_default")]
    add_groups: Vec<String>,
    #[serde(default, deserialize_with = "payload::or_default")]
    remove_groups: Vec<String>,
}

/// The answer to `principal.modify`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Modified {
    pub principal: String,
    pub groups: Vec<String>,
    /// Whether it was in other groups before.
    pub changed: bool,
}

/// Puts a principal into groups and takes it out of others; in force when this returns. What the groups that it joins
/// hold must be the caller's to give.
pub fn modify<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Modified, Refusal> {
    let ModifyRequest { principal: id, add_groups, remove_groups } = payload::read(payload)?;
    payload::principal("principal", &id)?;
    if let Some(both) = add_groups.iter().find(|added| remove_groups.contains(added)) {
        return Err(Refusal::Invalid(format!("group {} stands in both lists", payload::shown(both))));
    }
    if id == DEFAULT && remove_groups.iter().any(|group| group == groups::ADMIN) {
        return Err(protected("leaves `admin`"));
    }
    transact(ports, |transaction| {
        let mut principal = existing(transaction, &id)?;
        let before = principal.groups.clone();
        let giver = rights_of_caller(ports, transaction, caller)?;
        for group in &add_groups {
            let held = groups::to_join(transaction, group)?;
            if !principal.groups.contains(group) {
                giver.check_giving(&format!("a place in `{group}`"), &held)?;
                groups::enter(transaction, group, &id)?;
                principal.groups.push(group.clone());
            }
        }
        for group in &remove_groups {
            if principal.groups.contains(group) {
                groups::leave(transaction, group, &id)?;
                principal.groups.retain(|name| name != group);
            }
        }
        check_count(&principal.groups)?;
        let changed = principal.groups != before;
        if changed {
            save(transaction, &id, &principal)?;
        }
        Ok(Modified { principal: id.clone(), groups: principal.groups, changed })
    })
}

/// What nobody may do to [`DEFAULT`].
pub fn protected(what: &str) -> Refusal {
    Refusal::Denied(format!("`{DEFAULT}` never {what}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameRequest {
    principal: String,
}

/// The answer to `principal.enable` and `principal.disable`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Enabled {
    pub principal: String,
    pub enabled: bool,
    /// Whether it was otherwise before.
    pub changed: bool,
}

/// Lets a principal in again, with what it had. Its sessions of before stay ended.
pub fn enable<P: Ports>(ports: &P, payload: &[u8]) -> Result<Enabled, Refusal> {
    set_enabled(ports, payload, true)
}

/// Denies a principal everything and ends its sessions, from the next request on.
pub fn disable<P: Ports>(ports: &P, payload: &[u8]) -> Result<Enabled, Refusal> {
    set_enabled(ports, payload, false)
}

fn set_enabled<P: Ports>(ports: &P, payload: &[u8], enabled: bool) -> Result<Enabled, Refusal> {
    let NameRequest { principal: id } = payload::read(payload)?;
    payload::principal("principal", &id)?;
    if id == DEFAULT && !enabled {
        return Err(protected("is disabled"));
    }
    transact(ports, |transaction| {
        let mut principal = existing(transaction, &id)?;
        let changed = principal.enabled != enabled;
        if changed {
            principal.enabled = enabled;
            if !enabled {
                principal.revoked_at = Some(ports.now());
            }
            save(transaction, &id, &principal)?;
        }
        Ok(Enabled { principal: id.clone(), enabled, changed })
    })
}

/// The answer to `principal.delete`: an empty object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Deleted {}

/// What is left of a deleted principal: that its id is not given again.
#[derive(Serialize)]
struct Gone {
    /// Seconds since the Unix epoch.
    deleted_at: u64,
}

/// Deletes a principal with its keys and certificates; its sessions, open pair tokens and invites end with it.
pub fn delete<P: Ports>(ports: &P, payload: &[u8]) -> Result<Deleted, Refusal> {
    let NameRequest { principal: id } = payload::read(payload)?;
    payload::principal("principal", &id)?;
    if id == DEFAULT {
        return Err(protected("is deleted"));
    }
    transact(ports, |transaction| {
        let principal = existing(transaction, &id)?;
        policy::release(ports, transaction)?;
        for key in &principal.keys {
            transaction.delete(Bucket::Keys, &key.fingerprint)?;
        }
        for certificate in &principal.certificates {
            transaction.delete(Bucket::Certificates, &certificate.fingerprint)?;
        }
        for group in &principal.groups {
            groups::leave(transaction, group, &id)?;
        }
        let gone = Gone { deleted_at: ports.now() };
        let gone = serde_json::to_vec(&gone).map_err(|error| Refusal::Internal(error.to_string()))?;
        transaction.put(Bucket::Gone, &id, &gone)?;
        transaction.delete(Bucket::Principals, &id)?;
        transaction.delete(Bucket::Approvals, &id)?;
        transaction.remove_principal(&id)?;
        Ok(Deleted {})
    })
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
        payload::principal("after", after)?;
    }
    if let Some(target) = target {
        let found = load(ports, target)?.ok_or_else(|| unknown(target))?;
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
struct EmptyRequest {}

/// One principal.
pub fn show<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<Row, Refusal> {
    let EmptyRequest {} = payload::read(payload)?;
    load(ports, id)?.map(|principal| Row::new(id, principal)).ok_or_else(|| unknown(id))
}

/// The answer to `me`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Me {
    pub principal: String,
    pub groups: Vec<String>,
    /// What it holds through this session, sorted.
    pub capabilities: Vec<String>,
}

/// Who the caller is. `anonymous` is nobody, which is denied.
pub fn me<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Me, Refusal> {
    let EmptyRequest {} = payload::read(payload)?;
    let found = if caller == ANONYMOUS { None } else { load(ports, caller)? };
    let principal = found.ok_or_else(|| Refusal::Denied("the caller is not a known principal".into()))?;
    let capabilities = rights_of_caller(ports, &mut ports.begin(), caller)?.held();
    Ok(Me { principal: caller.into(), groups: principal.groups, capabilities })
}

#[cfg(test)]
mod tests {
    use astrid_capsule::Capability;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fake, NOW};

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
        let fake = Fake::started();
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
        for capability in groups::BUILT_IN.iter().flat_map(|(_, capabilities)| *capabilities) {
            Capability::parse(capability).unwrap();
        }
    }

    #[test]
    fn a_second_start_changes_nothing_and_looks_at_nobody_else() {
        let fake = Fake::started();
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
        let fake = Fake::started();
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
        let fake = Fake::started();
        add(&fake, "eve", &["agent"], &["a:b"], &["c:d"]);
        let row =
            json!({"principal": "eve", "enabled": true, "groups": ["agent"], "grants": ["a:b"], "revokes": ["c:d"]});
        assert_eq!(listed(&fake, Some("eve"), &json!({})), json!({"principals": [row]}));
        assert!(ids(&listed(&fake, Some("eve"), &json!({"after": "eve"}))).is_empty());
        assert!(matches!(list(&fake, Some("nobody"), b"{}"), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn without_a_target_the_list_is_everybody_sorted_a_page_at_a_time() {
        let fake = Fake::started();
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
            (json!({"after": "a b"}), "after `a b` must be a principal id: 1 to 64 of"),
            (json!({"before": "a"}), "unknown field `before`"),
        ] {
            match list(&Fake::started(), None, request.to_string().as_bytes()) {
                Err(Refusal::Invalid(reason)) => assert!(reason.contains(want), "{reason}"),
                other => panic!("{request} gives {other:?}"),
            }
        }
    }

    #[test]
    fn me_is_the_callers_groups_and_capabilities() {
        let fake = Fake::started();
        add(&fake, "eve", &["restricted", "agent", "gone"], &["z:y", "a:b", "a:b", "c:d"], &["c:*"]);
        assert_eq!(
            serde_json::to_value(me(&fake, "eve", b"{}").unwrap()).unwrap(),
            json!({"principal": "eve", "groups": ["restricted", "agent", "gone"], "capabilities": ["a:b", "self:*", "z:y"]})
        );
        assert_eq!(me(&fake, DEFAULT, b"").unwrap().capabilities, ["*"]);
    }

    #[test]
    fn nobody_is_denied_to_ask_who_they_are() {
        let fake = Fake::started();
        add(&fake, ANONYMOUS, &["admin"], &[], &[]);
        for nobody in [ANONYMOUS, "unknown"] {
            assert!(matches!(me(&fake, nobody, b"{}"), Err(Refusal::Denied(_))), "{nobody}");
        }
        assert!(matches!(me(&fake, DEFAULT, br#"{"principal":"eve"}"#), Err(Refusal::Invalid(_))));
    }

    fn made(fake: &Fake, request: &Value) -> Result<Row, Refusal> {
        create(fake, DEFAULT, request.to_string().as_bytes())
    }

    fn of(id: &str) -> Vec<u8> {
        json!({ "principal": id }).to_string().into_bytes()
    }

    #[test]
    fn a_new_principal_has_what_was_named_and_inherits_nothing_of_its_maker() {
        let fake = Fake::started();
        let row = made(&fake, &json!({"name": "Bo_1-x"})).unwrap();
        assert_eq!((row.groups, row.grants, row.revokes), (vec!["agent".to_owned()], vec![], vec![]));
        let told = fake.told()["Bo_1-x"].clone();
        assert!(told.enabled && told.grants.is_empty() && told.groups == ["agent"]);
        assert_eq!(told.quotas, Quotas::default());
        let both =
            made(&fake, &json!({"name": "al", "groups": ["restricted", "agent", "agent"], "grants": ["b:c", "a"]}));
        let both = both.unwrap();
        assert_eq!(
            (both.groups, both.grants),
            (vec!["restricted".into(), "agent".into()], vec!["a".into(), "b:c".into()])
        );
    }

    #[test]
    fn an_id_that_does_not_fit_is_reserved_or_taken_is_refused_each_in_its_way() {
        let fake = Fake::started();
        let code = |request: Value| match made(&fake, &request) {
            Ok(_) => "made",
            Err(Refusal::Invalid(_)) => "invalid",
            Err(Refusal::Conflict(_)) => "conflict",
            Err(other) => panic!("{other:?}"),
        };
        let name = |name: &str| code(json!({ "name": name }));
        for bad in ["", "a b", "a/b", "ä", &"a".repeat(65), "anonymous", "host", "system", "a:b", ".."] {
            assert_eq!(name(bad), "invalid", "{bad}");
        }
        assert_eq!((name(&"a".repeat(64)), name(&"a".repeat(64)), name(DEFAULT)), ("made", "conflict", "conflict"));
        for wrong in [
            json!({"name": "x", "groups": ["nobody"]}),
            json!({"name": "x", "grants": ["a::b"]}),
            json!({"name": "x", "grants": ["*"]}),
            json!({"name": "x", "role": "admin"}),
            json!({"name": "x", "groups": "agent"}),
            json!({"groups": []}),
        ] {
            assert_eq!(code(wrong.clone()), "invalid", "{wrong}");
        }
        assert_eq!(fake.keys(Bucket::Principals).len(), 2);
    }

    #[test]
    fn whoever_makes_and_places_principals_makes_nobody_mightier_than_they_are() {
        let fake = Fake::started();
        groups::create(&fake, DEFAULT, br#"{"name":"hr","capabilities":["agent:create","agent:modify"]}"#).unwrap();
        made(&fake, &json!({"name": "hr1", "groups": ["hr"]})).unwrap();
        let by_hr = |request: Value| create(&fake, "hr1", request.to_string().as_bytes()).map(drop);
        let denied = |result: Result<(), Refusal>| assert!(matches!(result, Err(Refusal::Denied(_))), "{result:?}");
        denied(by_hr(json!({"name": "x", "groups": ["admin"]})));
        denied(by_hr(json!({"name": "x", "grants": ["capsule:install"]})));
        by_hr(json!({"name": "x", "groups": ["hr", "agent"], "grants": ["agent:create", "self:*"]})).unwrap();
        let place = |id: &str, group: &str| {
            let request = json!({"principal": id, "add_groups": [group]}).to_string();
            modify(&fake, "hr1", request.as_bytes()).map(drop)
        };
        denied(place("hr1", "admin"));
        denied(place("x", "admin"));
        place("x", "restricted").unwrap();
        assert!(!fake.told()["hr1"].groups.contains(&"admin".into()));
    }

    #[test]
    fn groups_are_left_and_joined_in_one_change_that_says_whether_there_was_any() {
        let fake = Fake::started();
        groups::create(&fake, DEFAULT, br#"{"name":"ops","capabilities":["a:b"]}"#).unwrap();
        made(&fake, &json!({"name": "bo"})).unwrap();
        let change = |request: Value| modify(&fake, DEFAULT, request.to_string().as_bytes());
        let moved =
            change(json!({"principal": "bo", "add_groups": ["ops"], "remove_groups": ["agent", "none"]})).unwrap();
        assert_eq!((moved.groups, moved.changed), (vec!["ops".to_owned()], true));
        assert_eq!(
            (&fake.told()["bo"].groups[..], fake.keys(Bucket::Members)),
            (&["ops".into()][..], vec!["ops/bo".into()])
        );
        assert!(!change(json!({"principal": "bo", "add_groups": ["ops"]})).unwrap().changed);
        assert!(!change(json!({"principal": "bo"})).unwrap().changed);
        assert!(change(json!({"principal": "bo", "remove_groups": ["ops"]})).unwrap().changed);
        assert!(fake.keys(Bucket::Members).is_empty());
        let invalid = |request: Value| assert!(matches!(change(request), Err(Refusal::Invalid(_))));
        invalid(json!({"principal": "bo", "add_groups": ["none"]}));
        invalid(json!({"principal": "bo", "add_groups": ["ops"], "remove_groups": ["ops"]}));
        invalid(json!({"principal": "b o"}));
        assert!(matches!(change(json!({"principal": "none"})), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn default_is_never_deleted_disabled_or_stripped() {
        let fake = Fake::started();
        let before = (fake.text(), fake.told());
        let strip = json!({"principal": DEFAULT, "remove_groups": ["admin"]}).to_string();
        let revoke = json!({"principal": DEFAULT, "capabilities": ["agent:list"]}).to_string();
        let refused = [
            delete(&fake, &of(DEFAULT)).map(drop),
            disable(&fake, &of(DEFAULT)).map(drop),
            modify(&fake, DEFAULT, strip.as_bytes()).map(drop),
            crate::caps::revoke(&fake, revoke.as_bytes()).map(drop),
        ];
        assert!(refused.iter().all(|result| matches!(result, Err(Refusal::Denied(_)))), "{refused:?}");
        assert_eq!((fake.text(), fake.told()), before);
        assert!(!enable(&fake, &of(DEFAULT)).unwrap().changed);
    }

    #[test]
    fn disabling_ends_what_was_issued_and_enabling_gives_back_all_else() {
        let fake = Fake::started();
        made(&fake, &json!({"name": "bo", "grants": ["a:b"]})).unwrap();
        fake.set_now(NOW + 5);
        assert!(disable(&fake, &of("bo")).unwrap().changed && !disable(&fake, &of("bo")).unwrap().changed);
        assert!(!fake.told()["bo"].enabled);
        assert!(enable(&fake, &of("bo")).unwrap().changed);
        let told = fake.told()["bo"].clone();
        assert!(told.enabled && told.grants == ["a:b"]);
        assert_eq!(fake.value(Bucket::Principals, "bo").unwrap()["revoked_at"], NOW + 5);
        assert!(matches!(disable(&fake, &of("none")), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn a_deleted_principal_leaves_nothing_but_an_id_that_is_not_given_again() {
        let fake = Fake::started();
        groups::create(&fake, DEFAULT, br#"{"name":"ops","capabilities":["a:b"]}"#).unwrap();
        made(&fake, &json!({"name": "bo", "groups": ["ops"]})).unwrap();
        let mut record = fake.value(Bucket::Principals, "bo").unwrap();
        record["keys"] = json!([{"fingerprint": "f", "public_key": "k", "added_at": NOW}]);
        fake.set(Bucket::Principals, "bo", &record);
        fake.set(Bucket::Keys, "f", &json!("bo"));
        delete(&fake, &of("bo")).unwrap();
        assert!(!fake.told().contains_key("bo"));
        assert!([Bucket::Keys, Bucket::Members].into_iter().all(|bucket| fake.keys(bucket).is_empty()));
        assert_eq!(fake.keys(Bucket::Principals), [DEFAULT]);
        assert!(matches!(delete(&fake, &of("bo")), Err(Refusal::NotFound(_))));
        assert!(matches!(made(&fake, &json!({"name": "bo"})), Err(Refusal::Conflict(_))));
        let mut transaction = fake.begin();
        assert_ne!(free_id(&fake, &mut transaction, "bo").unwrap(), "bo");
        assert!(matches!(show(&fake, "bo", b""), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn a_read_costs_the_same_however_many_there_are() {
        let fake = Fake::started();
        let cost = || {
            fake.calls();
            list(&fake, None, br#"{"after":"d","limit":10}"#).unwrap();
            show(&fake, DEFAULT, b"").unwrap();
            list(&fake, Some(DEFAULT), b"").unwrap();
            fake.calls()
        };
        let few = cost();
        (0..5_000).for_each(|n| add(&fake, &format!("p{n:05}"), &["agent"], &[], &[]));
        assert_eq!(cost(), few);
    }
}
