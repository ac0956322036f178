//! What each principal holds, and the order in which it is decided. Pure, but for loading and for the form in which a
//! change is stored.

use std::collections::{HashMap, HashSet};
use std::fmt;

use astrid_capsule::manifest::{Declaration, Scope};
use astrid_capsule::{Capability, PrincipalId};
use serde::{Deserialize, Serialize};

use super::mandate::Mandate;
use crate::QuickMap;
use crate::meter::quotas::Quotas;
use crate::store::{ReadError, Store};

/// A principal as its authenticator has published it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub enabled: bool,
    /// Names; one that is not defined grants nothing.
    pub groups: Vec<String>,
    pub grants: Vec<Capability>,
    /// Beat everything.
    pub revokes: Vec<Capability>,
    pub quotas: Quotas,
    revision: u64,
}

impl Standing {
    pub fn new(enabled: bool, groups: Vec<String>, grants: Vec<Capability>, revokes: Vec<Capability>) -> Self {
        Self { enabled, groups, grants, revokes, quotas: Quotas::default(), revision: 0 }
    }

    /// With other quotas than the host's defaults.
    pub fn with_quotas(self, quotas: Quotas) -> Self {
        Self { quotas, ..self }
    }
}

/// One step of what a transaction changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    SetPrincipal(PrincipalId, Standing),
    RemovePrincipal(PrincipalId),
    SetGroup(String, Vec<Capability>),
    RemoveGroup(String),
}

/// What was decided, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    UnknownPrincipal,
    Disabled,
    /// The ceiling of the session does not cover it.
    BeyondCeiling,
    Revoked(Capability),
    Granted(Capability),
    Group(String, Capability),
    Nothing,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::UnknownPrincipal => write!(f, "unknown principal"),
            Rule::Disabled => write!(f, "disabled"),
            Rule::BeyondCeiling => write!(f, "beyond the scope of the session"),
            Rule::Revoked(revoke) => write!(f, "revoked {revoke}"),
            Rule::Granted(grant) => write!(f, "granted {grant}"),
            Rule::Group(group, grant) => write!(f, "group {group}: {grant}"),
            Rule::Nothing => write!(f, "nothing grants it"),
        }
    }
}

#[derive(Debug, Default)]
pub struct Directory {
    principals: QuickMap<PrincipalId, Standing>,
    groups: HashMap<String, Vec<Capability>>,
    scopes: HashMap<Capability, Scope>,
    latest: u64,
    /// Of the last change of any group.
    groups_revision: u64,
}

impl Directory {
    pub fn apply(&mut self, revision: u64, change: Change) {
        self.latest = self.latest.max(revision);
        match change {
            Change::SetPrincipal(id, standing) => {
                for group in standing.groups.iter().filter(|g| !self.groups.contains_key(*g)) {
                    tracing::warn!(principal = %id, group, "a group that is not defined grants nothing");
                }
                self.principals.insert(id, Standing { revision, ..standing });
            }
            Change::RemovePrincipal(id) => {
                self.principals.remove(&id);
            }
            Change::SetGroup(name, capabilities) => {
                self.groups_revision = self.groups_revision.max(revision);
                self.groups.insert(name, capabilities);
            }
            Change::RemoveGroup(name) => {
                self.groups_revision = self.groups_revision.max(revision);
                self.groups.remove(&name);
            }
        }
    }

    /// The highest revision so far.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// When this principal last changed; none unless it is known and enabled.
    pub fn revision(&self, principal: &PrincipalId) -> Option<u64> {
        self.principals.get(principal).filter(|s| s.enabled).map(|s| s.revision)
    }

    /// Changes with whatever may change what this principal holds: its own standing, or any group. Never twice the same;
    /// none unless it is known and enabled.
    pub fn stamp(&self, principal: &PrincipalId) -> Option<u64> {
        self.revision(principal).map(|revision| revision.max(self.groups_revision))
    }

    pub fn is_enabled(&self, principal: &PrincipalId) -> bool {
        self.principals.get(principal).is_some_and(|s| s.enabled)
    }

    /// What the principal may use; none if it is unknown.
    pub fn quotas(&self, principal: &PrincipalId) -> Option<Quotas> {
        self.principals.get(principal).map(|s| s.quotas)
    }

    /// Unknown or disabled: no. The session's ceiling does not cover it: no. A matching revoke: no. A matching grant: yes.
    /// A group's capability: yes. Else no.
    /// Where the target is the caller and the capability's declared scope has a `self:` form, that form is enough, too,
    /// each judged on its own. What is declared nowhere has none: `self:*` must never be a way up.
    pub fn decide(
        &self,
        caller: &PrincipalId,
        mandate: &Mandate,
        required: &Capability,
        target: Option<&PrincipalId>,
    ) -> Decision {
        let about_oneself = target == Some(caller);
        match self.scopes.get(required).unwrap_or(&Scope::Global) {
            Scope::Own if about_oneself => self.decide_one(caller, mandate, &required.self_form()),
            Scope::Own => Decision { allowed: false, rule: Rule::Nothing },
            Scope::Both if about_oneself => {
                let own = self.decide_one(caller, mandate, &required.self_form());
                if own.allowed { own } else { self.decide_one(caller, mandate, required) }
            }
            Scope::Both | Scope::Global => self.decide_one(caller, mandate, required),
        }
    }

    /// Which forms each declared capability has. Declarations that differ leave the plain form alone: a capsule must
    /// not widen what another has declared.
    pub fn set_scopes<'a>(&mut self, declared: impl IntoIterator<Item = &'a Declaration>) {
        self.scopes.clear();
        for declaration in declared {
            let scope = self.scopes.entry(declaration.id.clone()).or_insert(declaration.scope);
            if *scope != declaration.scope {
                *scope = Scope::Global;
            }
        }
    }

    fn decide_one(&self, caller: &PrincipalId, mandate: &Mandate, required: &Capability) -> Decision {
        let no = |rule| Decision { allowed: false, rule };
        let yes = |rule| Decision { allowed: true, rule };
        let Some(standing) = self.principals.get(caller) else { return no(Rule::UnknownPrincipal) };
        if !standing.enabled {
            return no(Rule::Disabled);
        }
        if !mandate.covers(required) {
            return no(Rule::BeyondCeiling);
        }
        if let Some(revoke) = standing.revokes.iter().find(|revoke| revoke.covers(required)) {
            return no(Rule::Revoked(revoke.clone()));
        }
        match self.given(standing).find(|(_, given)| given.covers(required)) {
            Some((None, given)) => yes(Rule::Granted(given.clone())),
            Some((Some(group), given)) => yes(Rule::Group(group.to_owned(), given.clone())),
            None => no(Rule::Nothing),
        }
    }

    /// Everything that may allow something, before revokes: grants, then what the groups have, by group.
    fn given<'d>(&'d self, standing: &'d Standing) -> impl Iterator<Item = (Option<&'d str>, &'d Capability)> {
        let grants = standing.grants.iter().map(|given| (None, given));
        let groups = standing.groups.iter().filter_map(|name| self.groups.get_key_value(name));
        grants.chain(groups.flat_map(|(name, list)| list.iter().map(|given| (Some(name.as_str()), given))))
    }

    /// What a principal holds within a mandate, sorted; without those that a revoke covers whole. Nothing if unknown or
    /// disabled.
    pub fn held(&self, principal: &PrincipalId, mandate: &Mandate) -> Vec<Capability> {
        let Some(standing) = self.principals.get(principal).filter(|standing| standing.enabled) else {
            return Vec::new();
        };
        let given = self.given(standing).flat_map(|(_, given)| mandate.within(given));
        let kept = given.filter(|given| !standing.revokes.iter().any(|revoke| revoke.covers(given)));
        let mut held: Vec<Capability> = kept.collect();
        held.sort();
        held.dedup();
        held
    }
}

/// A key in the store, and the bytes to put there or none to delete it.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

const PRINCIPALS: &[u8] = b"h\0principal\0";
const GROUPS: &[u8] = b"h\0group\0";

#[derive(Serialize, Deserialize)]
struct Stored {
    enabled: bool,
    groups: Vec<String>,
    grants: Vec<String>,
    revokes: Vec<String>,
    /// Records of before there were any have none.
    #[serde(default)]
    quotas: Quotas,
}

impl Change {
    /// How the store remembers it: a key of the host's own namespace and what to write there.
    pub fn to_write(&self) -> Write {
        let key = |prefix: &[u8], name: &str| [prefix, name.as_bytes()].concat();
        let texts = |list: &[Capability]| list.iter().map(|c| c.as_str().to_owned()).collect::<Vec<_>>();
        let bytes = |value: serde_json::Result<Vec<u8>>| value.expect("plain records serialise");
        match self {
            Change::SetPrincipal(id, standing) => {
                let stored = Stored {
                    enabled: standing.enabled,
                    groups: standing.groups.clone(),
                    grants: texts(&standing.grants),
                    revokes: texts(&standing.revokes),
                    quotas: standing.quotas,
                };
                (key(PRINCIPALS, id.as_str()), Some(bytes(serde_json::to_vec(&stored))))
            }
            Change::RemovePrincipal(id) => (key(PRINCIPALS, id.as_str()), None),
            Change::SetGroup(name, capabilities) => {
                (key(GROUPS, name), Some(bytes(serde_json::to_vec(&texts(capabilities)))))
            }
            Change::RemoveGroup(name) => (key(GROUPS, name), None),
        }
    }
}

/// Whether a principal is published, by what the store has now.
pub fn is_stored(store: &Store, principal: &PrincipalId) -> Result<bool, ReadError> {
    Ok(store.get(&[PRINCIPALS, principal.as_str().as_bytes()].concat())?.is_some())
}

/// Everything that was published, groups first, each with the version under which it is stored. A record that can't be
/// read is left out, which denies, and logged.
pub(super) fn load(store: &Store) -> Result<Vec<(u64, Change)>, ReadError> {
    let mut changes = Vec::new();
    for_each(store, GROUPS, |name, version, bytes| {
        let Some(held) = serde_json::from_slice::<Vec<String>>(bytes).ok().and_then(|list| parse_all(&list)) else {
            return tracing::error!(group = name, "a stored group can't be read and grants nothing");
        };
        changes.push((version, Change::SetGroup(name.to_owned(), held)));
    })?;
    for_each(store, PRINCIPALS, |name, version, bytes| {
        let change = (|| {
            let stored: Stored = serde_json::from_slice(bytes).ok()?;
            let standing =
                Standing::new(stored.enabled, stored.groups, parse_all(&stored.grants)?, parse_all(&stored.revokes)?);
            let standing = standing.with_quotas(stored.quotas);
            Some(Change::SetPrincipal(PrincipalId::parse(name).ok()?, standing))
        })();
        match change {
            Some(change) => changes.push((version, change)),
            None => tracing::error!(principal = name, "a stored standing can't be read and is denied everything"),
        }
    })?;
    Ok(changes)
}

fn parse_all(texts: &[String]) -> Option<Vec<Capability>> {
    texts.iter().map(|t| Capability::parse(t).ok()).collect()
}

fn for_each(store: &Store, prefix: &[u8], mut f: impl FnMut(&str, u64, &[u8])) -> Result<(), ReadError> {
    let mut after: Option<Vec<u8>> = None;
    let mut seen = HashSet::new();
    loop {
        let page = store.scan(prefix, after.as_deref(), 1000, 4 << 20)?;
        for (key, entry) in &page.entries {
            debug_assert!(seen.insert(key.clone()));
            if let Ok(name) = std::str::from_utf8(&key[prefix.len()..]) {
                f(name, entry.version, &entry.value);
            }
        }
        match page.entries.last() {
            Some((key, _)) if page.more => after = Some(key.clone()),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use astrid_capsule::manifest::Danger;

    fn caps(texts: &[&str]) -> Vec<Capability> {
        texts.iter().map(|t| Capability::parse(t).unwrap()).collect()
    }

    fn id(text: &str) -> PrincipalId {
        PrincipalId::parse(text).unwrap()
    }

    fn directory(standing: Standing) -> Directory {
        let mut directory = Directory::default();
        directory.apply(1, Change::SetGroup("admin".into(), caps(&["*"])));
        directory.apply(1, Change::SetGroup("agent".into(), caps(&["self:*"])));
        directory.apply(2, Change::SetPrincipal(id("a"), standing));
        directory.set_scopes(&[
            declared("a:b", Scope::Both),
            declared("quota:get", Scope::Both),
            declared("d:e:f", Scope::Own),
            declared("capsule:install", Scope::Global),
        ]);
        directory
    }

    fn declared(capability: &str, scope: Scope) -> Declaration {
        Declaration {
            id: Capability::parse(capability).unwrap(),
            label: String::new(),
            description: String::new(),
            category: String::new(),
            scope,
            danger: Danger::Safe,
        }
    }

    fn decide(standing: Standing, required: &str, target: Option<&str>) -> Decision {
        let required = Capability::parse(required).unwrap();
        directory(standing).decide(&id("a"), &Mandate::default(), &required, target.map(id).as_ref())
    }

    #[test]
    fn a_revoke_beats_everything_and_a_disabled_principal_holds_nothing() {
        let admin = |revokes: &[&str]| Standing::new(true, vec!["admin".into()], vec![], caps(revokes));
        assert!(decide(admin(&[]), "x:y", None).allowed);
        let denied = decide(admin(&["x:*"]), "x:y", None);
        assert_eq!(denied.rule, Rule::Revoked(caps(&["x:*"])[0].clone()));
        assert!(!decide(Standing::new(false, vec!["admin".into()], caps(&["*"]), vec![]), "x", None).allowed);
        assert_eq!(
            directory(admin(&[])).decide(&id("b"), &Mandate::default(), &caps(&["x"])[0], None).rule,
            Rule::UnknownPrincipal
        );
    }

    #[test]
    fn the_self_form_reaches_oneself_and_nobody_else() {
        let agent = || Standing::new(true, vec!["agent".into()], vec![], vec![]);
        assert!(decide(agent(), "quota:get", Some("a")).allowed);
        assert!(!decide(agent(), "quota:get", Some("b")).allowed);
        assert!(!decide(agent(), "quota:get", None).allowed);
        let without = Standing::new(true, vec!["agent".into()], vec![], caps(&["self:quota:get"]));
        assert!(!decide(without, "quota:get", Some("a")).allowed);
    }

    #[test]
    fn the_self_form_is_no_way_up() {
        let agent = || Standing::new(true, vec!["agent".into()], vec![], vec![]);
        for global in ["capsule:install", "declared:nowhere"] {
            assert!(!decide(agent(), global, Some("a")).allowed, "{global}");
        }
        let mut directory = directory(agent());
        directory.set_scopes(&[declared("x", Scope::Global), declared("x", Scope::Both)]);
        let x = &caps(&["x"])[0];
        assert!(
            !directory.decide(&id("a"), &Mandate::default(), x, Some(&id("a"))).allowed,
            "another capsule has widened it"
        );
    }

    #[test]
    fn a_group_that_is_not_defined_grants_nothing_and_edits_count_at_once() {
        let mut directory = directory(Standing::new(true, vec!["ops".into()], vec![], vec![]));
        let required = &caps(&["invite:issue"])[0];
        assert!(!directory.decide(&id("a"), &Mandate::default(), required, None).allowed);
        directory.apply(3, Change::SetGroup("ops".into(), caps(&["invite:*"])));
        assert!(directory.decide(&id("a"), &Mandate::default(), required, None).allowed);
        directory.apply(4, Change::RemoveGroup("ops".into()));
        assert!(!directory.decide(&id("a"), &Mandate::default(), required, None).allowed);
    }

    #[test]
    fn a_stamp_changes_with_a_principals_standing_and_with_any_group_and_never_comes_back() {
        let mut directory = directory(Standing::new(true, vec![], vec![], vec![]));
        let set = |enabled| Change::SetPrincipal(id("a"), Standing::new(enabled, vec![], vec![], vec![]));
        let mut seen = HashSet::from([directory.stamp(&id("a"))]);
        for (revision, change, known) in [
            (3, set(true), true),
            (4, Change::SetGroup("agent".into(), vec![]), true),
            (5, set(true), true),
            (6, Change::RemoveGroup("agent".into()), true),
            (7, set(false), false),
            (8, set(true), true),
            (9, Change::RemovePrincipal(id("a")), false),
            (10, set(true), true),
        ] {
            directory.apply(revision, change);
            let stamp = directory.stamp(&id("a"));
            assert_eq!(stamp.is_some(), known, "{revision}");
            assert!(stamp.is_none() || seen.insert(stamp), "{revision}");
        }
        assert_eq!(directory.stamp(&PrincipalId::anonymous()), None);
    }

    #[test]
    fn quotas_are_stored_with_the_standing_and_a_record_without_any_still_loads() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb"), &crate::store::Config::default()).unwrap();
        let quotas = Quotas { max_timeout_secs: Some(5), ..Quotas::default() };
        let new = Change::SetPrincipal(id("new"), Standing::new(true, vec![], vec![], vec![]).with_quotas(quotas));
        let old = br#"{"enabled":true,"groups":[],"grants":[],"revokes":[]}"#.to_vec();
        let writes = vec![new.to_write(), ([PRINCIPALS, b"old"].concat(), Some(old))];
        store.commit_blocking(crate::store::Commit { writes, ..Default::default() }).unwrap();
        let mut directory = Directory::default();
        load(&store).unwrap().into_iter().for_each(|(revision, change)| directory.apply(revision, change));
        assert_eq!(directory.quotas(&id("new")), Some(quotas));
        assert_eq!(directory.quotas(&id("old")), Some(Quotas::default()));
        assert_eq!(directory.quotas(&id("nobody")), None);
    }

    #[test]
    fn what_is_held_is_what_can_allow_something_without_what_a_revoke_covers() {
        let within = |standing, ceiling: Option<&[&str]>| {
            let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
            let mandate = Mandate::new(None, ceiling.map(texts).as_deref()).unwrap();
            let held = directory(standing).held(&id("a"), &mandate);
            held.iter().map(|c| c.to_string()).collect::<Vec<_>>()
        };
        let held = |standing| within(standing, None);
        let groups = || vec!["agent".to_owned(), "undefined".to_owned()];
        let standing =
            |enabled, revokes| Standing::new(enabled, groups(), caps(&["b:*", "a", "self:*"]), caps(revokes));
        assert_eq!(held(standing(true, &[])), ["a", "b:*", "self:*"]);
        assert_eq!(held(standing(true, &["b:*", "self:x"])), ["a", "self:*"]);
        assert!(held(standing(true, &["*"])).is_empty());
        assert!(held(standing(false, &[])).is_empty());
        assert!(directory(standing(true, &[])).held(&PrincipalId::anonymous(), &Mandate::default()).is_empty());
        assert_eq!(within(standing(true, &[]), Some(&["*"])), ["a", "b:*", "self:*"]);
        assert_eq!(within(standing(true, &["b:d:*"]), Some(&["*:c", "b:d:e", "self:x", "z"])), ["b:c", "self:x"]);
        assert!(within(standing(true, &[]), Some(&[])).is_empty());
    }

    proptest! {
        /// The rule book as a list of sentences, without indexes or early exits.
        #[test]
        fn decisions_agree_with_the_rule_book(
            enabled: bool,
            grants in prop::collection::vec(prop::sample::select(vec!["*", "a:*", "a:b", "self:*", "self:a:b", "c"]), 0..3),
            revokes in prop::collection::vec(prop::sample::select(vec!["*", "a:*", "self:a:b", "c"]), 0..2),
            group in prop::sample::select(vec!["admin", "agent", "undefined"]),
            required in prop::sample::select(vec!["a:b", "c", "d:e:f"]),
            target in prop::sample::select(vec![None, Some("a"), Some("b")]),
            ceiling in prop::option::of(prop::collection::vec(
                prop::sample::select(vec!["*", "a:*", "a:b", "self:*", "self:a:b", "self:d:e:f", "c", "*:e:f"]), 0..3)),
        ) {
            let holds = |needed: &Capability| {
                let covered = |list: &[&str]| caps(list).iter().any(|c| c.covers(needed));
                let group: &[&str] = match group { "admin" => &["*"], "agent" => &["self:*"], _ => &[] };
                let within = ceiling.as_ref().is_none_or(|ceiling| covered(ceiling));
                enabled && within && !covered(&revokes) && (covered(&grants) || covered(group))
            };
            let needed = Capability::parse(required).unwrap();
            let oneself = target == Some("a") && holds(&needed.self_form());
            let expected = match required {
                "a:b" => holds(&needed) || oneself,
                "d:e:f" => oneself,
                _ => holds(&needed),
            };
            let standing = Standing::new(enabled, vec![group.into()], caps(&grants), caps(&revokes));
            let texts = ceiling.map(|list| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
            let mandate = Mandate::new(Some("s"), texts.as_deref()).unwrap();
            let target = target.map(id);
            let decision = directory(standing.clone()).decide(&id("a"), &mandate, &needed, target.as_ref());
            prop_assert_eq!(decision.allowed, expected);
            let unbounded = directory(standing).decide(&id("a"), &Mandate::default(), &needed, target.as_ref());
            prop_assert!(unbounded.allowed || !expected, "a ceiling gives nothing");
        }
    }
}
