//! Grants and revokes of single principals, and why somebody may do something or not.
//!
//! A capability stands in at most one of the two lists: granting it lifts a revoke of the same text, revoking it
//! takes such a grant away. Both are in force when they are answered.

use astrid_capsule::Capability;
use serde::{Deserialize, Serialize};

use crate::groups::{self, MAX_CAPABILITIES};
use crate::payload::{self, invalid};
use crate::ports::{Ports, transact};
use crate::principals::{self, DEFAULT, Principal};
use crate::refusal::Refusal;
use crate::rights::{self, Rule};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRequest {
    principal: String,
    capabilities: Vec<String>,
    #[serde(default, deserialize_with = "payload::or_default")]
    unsafe_admin: bool,
}

impl ChangeRequest {
    /// The principal's id, and at least one capability; a lone `*` only with `unsafe_admin`.
    fn read(payload: &[u8]) -> Result<(String, Vec<Capability>), Refusal> {
        let Self { principal, capabilities, unsafe_admin } = payload::read(payload)?;
        payload::principal("principal", &principal)?;
        let named = groups::capabilities("capabilities", &capabilities)?;
        groups::check_unbounded("capabilities", &named, unsafe_admin)?;
        if named.is_empty() {
            return Err(invalid("capabilities", "at least one capability"));
        }
        Ok((principal, named))
    }
}

fn check_count(field: &str, list: &[String]) -> Result<(), Refusal> {
    match list.len() {
        count if count > MAX_CAPABILITIES => {
            Err(invalid(field, format!("at most {MAX_CAPABILITIES} capabilities; it would have {count}")))
        }
        _ => Ok(()),
    }
}

/// Takes the texts out of one list and puts them into the other.
fn shift(named: &[Capability], from: &mut Vec<String>, to: &mut Vec<String>) {
    for name in named.iter().map(Capability::as_str) {
        from.retain(|text| text != name);
        if !to.iter().any(|text| text == name) {
            to.push(name.to_owned());
        }
    }
}

/// The answer to `caps.grant`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Granted {
    pub principal: String,
    /// What it holds now, sorted.
    pub capabilities: Vec<String>,
}

/// Grants capabilities; a broader revoke still beats them.
pub fn grant<P: Ports>(ports: &P, payload: &[u8]) -> Result<Granted, Refusal> {
    let (id, named) = ChangeRequest::read(payload)?;
    transact(ports, |transaction| {
        let mut principal = principals::existing_in(transaction, &id)?;
        let Principal { grants, revokes, .. } = &mut principal;
        shift(&named, revokes, grants);
        check_count("grants", grants)?;
        principals::save(transaction, &id, &principal)?;
        Ok(Granted { principal: id.clone(), capabilities: principal.rights(transaction)?.held() })
    })
}

/// The answer to `caps.revoke`: an empty object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Revoked {}

/// Revokes capabilities, whether grants or groups gave them or nobody did.
pub fn revoke<P: Ports>(ports: &P, payload: &[u8]) -> Result<Revoked, Refusal> {
    let (id, named) = ChangeRequest::read(payload)?;
    if id == DEFAULT {
        return Err(principals::protected("never loses a capability"));
    }
    transact(ports, |transaction| {
        let mut principal = principals::existing_in(transaction, &id)?;
        let Principal { grants, revokes, .. } = &mut principal;
        shift(&named, grants, revokes);
        check_count("revokes", revokes)?;
        principals::save(transaction, &id, &principal)?;
        Ok(Revoked {})
    })
}

/// The answer to `caps.show`: everything that decides what a principal may do.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    pub principal: String,
    pub enabled: bool,
    pub groups: Vec<HeldByGroup>,
    pub grants: Vec<String>,
    pub revokes: Vec<String>,
    /// What remains, sorted; without what a revoke covers whole.
    pub capabilities: Vec<String>,
}

/// A group that a principal is in, and what it gives.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct HeldByGroup {
    pub name: String,
    /// None: the group is not defined and gives nothing.
    pub capabilities: Option<Vec<String>>,
}

/// What a principal holds, and from where.
pub fn show<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<Shown, Refusal> {
    payload::read_empty(payload)?;
    let mut reading = ports.begin();
    let principal = principals::existing_in(&mut reading, id)?;
    let rights = principal.rights(&mut reading)?;
    let given = |name: &String| {
        let (_, held) = rights.groups.iter().find(|(group, _)| group == name)?;
        Some(held.iter().map(|held| held.as_str().to_owned()).collect())
    };
    let groups = principal.groups.iter().map(|name| HeldByGroup { name: name.clone(), capabilities: given(name) });
    Ok(Shown {
        principal: id.into(),
        enabled: principal.enabled,
        groups: groups.collect(),
        capabilities: rights.held(),
        grants: principal.grants,
        revokes: principal.revokes,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    capability: String,
}

/// The answer to `caps.check`. A requirement of `x` asks for `x`; where the target is the principal itself and the scope
/// of `x` is `both`, its `self:` form is enough, and with the scope `self` only that form counts.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub principal: String,
    pub capability: String,
    pub allowed: bool,
    #[serde(flatten)]
    pub rule: Rule,
    /// The same of the `self:` form, unless it is what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about_oneself: Option<OfForm>,
}

/// What was decided of one form.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct OfForm {
    pub capability: String,
    pub allowed: bool,
    #[serde(flatten)]
    pub rule: Rule,
}

/// Whether a principal holds a capability, and by which rule: from the records that the host enforces.
pub fn check<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<Checked, Refusal> {
    let CheckRequest { capability } = payload::read(payload)?;
    let asked = groups::capabilities("capability", std::slice::from_ref(&capability))?.remove(0);
    if asked.is_pattern() {
        return Err(invalid(format!("capability {}", payload::shown(&capability)), "one without `*`"));
    }
    let mut reading = ports.begin();
    let rights = principals::existing_in(&mut reading, id)?.rights(&mut reading)?;
    let own = (!rights::is_own(&asked)).then(|| asked.self_form()).map(|form| {
        let rule = rights.decide(&form);
        OfForm { capability: form.as_str().into(), allowed: rule.allows(), rule }
    });
    let rule = rights.decide(&asked);
    Ok(Checked { principal: id.into(), capability, allowed: rule.allows(), rule, about_oneself: own })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::Fake;

    fn request(capabilities: &[&str]) -> Value {
        json!({ "principal": "bo", "capabilities": capabilities })
    }

    fn granted(fake: &Fake, capabilities: &[&str]) -> Vec<String> {
        grant(fake, request(capabilities).to_string().as_bytes()).unwrap().capabilities
    }

    fn revoked(fake: &Fake, capabilities: &[&str]) {
        revoke(fake, request(capabilities).to_string().as_bytes()).unwrap();
    }

    fn checked(fake: &Fake, capability: &str) -> Value {
        let payload = json!({ "capability": capability }).to_string();
        serde_json::to_value(check(fake, "bo", payload.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_grant_and_a_revoke_of_the_same_replace_each_other_and_the_host_is_told() {
        let fake = Fake::with(&["bo"]);
        assert_eq!(granted(&fake, &["a:b", "a:b", "c"]), ["a:b", "c", "self:*"]);
        revoked(&fake, &["a:b", "self:x"]);
        let told = fake.told()["bo"].clone();
        assert_eq!((told.grants, told.revokes), (vec!["c".to_owned()], vec!["a:b".into(), "self:x".into()]));
        assert_eq!(granted(&fake, &["a:b"]), ["a:b", "c", "self:*"]);
        assert_eq!(fake.told()["bo"].revokes, ["self:x"]);
        revoked(&fake, &["self:*"]);
        assert_eq!(granted(&fake, &["d"]), ["a:b", "c", "d"]);
    }

    #[test]
    fn everything_wants_to_be_meant_and_what_does_not_fit_is_invalid() {
        let fake = Fake::with(&["bo"]);
        let unsafely = json!({ "principal": "bo", "capabilities": ["*"], "unsafe_admin": true }).to_string();
        for change in [|f: &Fake, p: &[u8]| grant(f, p).map(drop), |f: &Fake, p: &[u8]| revoke(f, p).map(drop)] {
            for wrong in [
                request(&["*"]),
                request(&[]),
                request(&["a b"]),
                json!({ "principal": "bo" }),
                json!({ "principal": "b o", "capabilities": ["a"] }),
                json!({ "capabilities": ["a"] }),
            ] {
                let refused = change(&fake, wrong.to_string().as_bytes());
                assert!(matches!(refused, Err(Refusal::Invalid(_))), "{wrong}: {refused:?}");
            }
            let nobody = json!({ "principal": "none", "capabilities": ["a"] }).to_string();
            assert!(matches!(change(&fake, nobody.as_bytes()), Err(Refusal::NotFound(_))));
            change(&fake, unsafely.as_bytes()).unwrap();
        }
        let many: Vec<String> = (0..MAX_CAPABILITIES).map(|n| format!("a:{n}")).collect();
        granted(&fake, &many.iter().map(String::as_str).collect::<Vec<_>>());
        let more = grant(&fake, request(&["b"]).to_string().as_bytes());
        assert!(matches!(more, Err(Refusal::Invalid(_))), "{more:?}");
    }

    #[test]
    fn a_check_names_the_rule_for_the_form_that_was_asked_and_for_that_about_oneself() {
        let fake = Fake::with(&["bo"]);
        let about =
            json!({ "capability": "self:a:b", "allowed": true, "rule": "group", "group": "agent", "by": "self:*" });
        assert_eq!(
            checked(&fake, "a:b"),
            json!({ "principal": "bo", "capability": "a:b", "allowed": false, "rule": "nothing", "about_oneself": about })
        );
        granted(&fake, &["a:*"]);
        let check = checked(&fake, "a:b");
        assert_eq!((&check["allowed"], &check["rule"], &check["by"]), (&json!(true), &json!("granted"), &json!("a:*")));
        revoked(&fake, &["self:a:*"]);
        let check = checked(&fake, "self:a:b");
        assert_eq!((&check["rule"], &check["by"]), (&json!("revoked"), &json!("self:a:*")));
        assert!(check.get("about_oneself").is_none());
        crate::principals::disable(&fake, br#"{"principal":"bo"}"#).unwrap();
        assert_eq!(checked(&fake, "a:b")["rule"], "disabled");
        for wrong in [&br#"{"capability":"a:*"}"#[..], br#"{"capability":""}"#, b"{}"] {
            assert!(matches!(super::check(&fake, "bo", wrong), Err(Refusal::Invalid(_))));
        }
        assert!(matches!(super::check(&fake, "none", br#"{"capability":"a"}"#), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn what_is_shown_says_what_each_group_gives_and_which_is_not_defined() {
        let fake = Fake::with(&["bo"]);
        let mut record = fake.value(crate::ports::Bucket::Principals, "bo").unwrap();
        record["groups"] = json!(["agent", "gone"]);
        fake.set(crate::ports::Bucket::Principals, "bo", &record);
        granted(&fake, &["a"]);
        revoked(&fake, &["c"]);
        let groups = json!([{ "name": "agent", "capabilities": ["self:*"] }, { "name": "gone", "capabilities": null }]);
        assert_eq!(
            serde_json::to_value(show(&fake, "bo", b"").unwrap()).unwrap(),
            json!({ "principal": "bo", "enabled": true, "groups": groups, "grants": ["a"], "revokes": ["c"],
                    "capabilities": ["a", "self:*"] })
        );
    }

    proptest! {
        /// Whatever was granted and revoked in whatever order, the last word on each text counts, and a check says what the
        /// standing that the host was told means.
        #[test]
        fn the_last_word_counts_and_checks_agree_with_what_the_host_was_told(
            changes in prop::collection::vec((any::<bool>(), prop::sample::select(vec!["a:b", "a:*", "c", "self:*"])), 0..12),
            asked in prop::sample::select(vec!["a:b", "a:x", "c", "self:c", "d"]),
        ) {
            let fake = Fake::with(&["bo"]);
            let mut last = std::collections::BTreeMap::new();
            for (grants, text) in changes {
                if grants { drop(granted(&fake, &[text])) } else { revoked(&fake, &[text]) }
                last.insert(text, grants);
            }
            let told = fake.told()["bo"].clone();
            let said = |wanted: bool| last.iter().filter(move |(_, is)| **is == wanted).map(|(text, _)| (*text).to_owned());
            let sorted = |mut list: Vec<String>| { list.sort(); list };
            prop_assert_eq!(sorted(told.grants), said(true).collect::<Vec<_>>());
            prop_assert_eq!(sorted(told.revokes), said(false).collect::<Vec<_>>());
            let covers = |text: &str| Capability::parse(text).unwrap().covers(&Capability::parse(asked).unwrap());
            let expected = !said(false).any(|text| covers(&text)) && (said(true).any(|text| covers(&text)) || covers("self:*"));
            prop_assert_eq!(&checked(&fake, asked)["allowed"], &json!(expected));
        }
    }
}
