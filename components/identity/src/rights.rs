//! What a principal holds, by its record and the groups in it: the order in which that is decided, and what it may hand
//! on to others. Pure. The host decides by the same order for every call; here it is explained, and used for the one
//! rule that no binding can state: nobody gives what they don't hold, unless they may grant.

use astrid_capsule::Capability;
use serde::Serialize;

use crate::refusal::Refusal;

/// Whoever holds it may give what they don't hold themselves.
pub const GRANTING: &str = "caps:grant";

/// The rule that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Rule {
    /// A disabled principal holds nothing.
    Disabled,
    /// A revoke covers it, which beats everything.
    Revoked {
        by: String,
    },
    Granted {
        by: String,
    },
    /// A capability of a group covers it.
    Group {
        group: String,
        by: String,
    },
    /// Nothing covers it.
    Nothing,
}

/// Whether it reaches nobody but its holder.
pub fn is_own(capability: &Capability) -> bool {
    capability.segments().next() == Some("self")
}

impl Rule {
    pub fn allows(&self) -> bool {
        matches!(self, Rule::Granted { .. } | Rule::Group { .. })
    }
}

/// Everything that may allow or deny something to one principal.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    pub enabled: bool,
    pub revokes: Vec<Capability>,
    pub grants: Vec<Capability>,
    /// Those that are defined, in the order in which the principal has them.
    pub groups: Vec<(String, Vec<Capability>)>,
    /// What the session bounds it to; none: there is no bound.
    pub ceiling: Option<Vec<Capability>>,
}

impl Rights {
    /// Exactly this form; `self:x` is another than `x`.
    pub fn decide(&self, required: &Capability) -> Rule {
        let by = |capability: &Capability| capability.as_str().to_owned();
        if !self.enabled {
            return Rule::Disabled;
        }
        if !self.ceiling.as_ref().is_none_or(|ceiling| ceiling.iter().any(|within| within.covers(required))) {
            return Rule::Nothing;
        }
        if let Some(revoke) = self.revokes.iter().find(|revoke| revoke.covers(required)) {
            return Rule::Revoked { by: by(revoke) };
        }
        if let Some(grant) = self.grants.iter().find(|grant| grant.covers(required)) {
            return Rule::Granted { by: by(grant) };
        }
        for (group, held) in &self.groups {
            if let Some(held) = held.iter().find(|held| held.covers(required)) {
                return Rule::Group { group: group.clone(), by: by(held) };
            }
        }
        Rule::Nothing
    }

    /// Grants and what groups hold, within the ceiling, sorted, without those that a revoke covers whole. Nothing if
    /// disabled.
    pub fn held(&self) -> Vec<String> {
        let given = self.grants.iter().chain(self.groups.iter().flat_map(|(_, held)| held));
        let within = |given: &Capability| match &self.ceiling {
            None => vec![given.clone()],
            Some(ceiling) => ceiling.iter().filter_map(|within| within.meet(given)).collect(),
        };
        let given = given.flat_map(within);
        let kept = given.filter(|given| self.enabled && !self.revokes.iter().any(|revoke| revoke.covers(given)));
        let mut held: Vec<String> = kept.map(|held| held.as_str().to_owned()).collect();
        held.sort();
        held.dedup();
        held
    }

    /// Whether this principal may give `capabilities` to others; `what` gives them, and begins the sentence of the refusal. What is
    /// about oneself alone (`self:…`) may be given by everybody. Of the rest, all that it holds itself; a wildcard only if no
    /// revoke may have cut something out of it. Whoever may grant may give everything.
    pub fn check_giving(&self, what: &str, capabilities: &[Capability]) -> Result<(), Refusal> {
        let granting = Capability::parse(GRANTING).map_err(|error| Refusal::Internal(error.to_string()))?;
        let holds =
            |given: &Capability| (!given.is_pattern() || self.revokes.is_empty()) && self.decide(given).allows();
        if capabilities.iter().all(|given| is_own(given) || holds(given)) || self.decide(&granting).allows() {
            return Ok(());
        }
        Err(Refusal::Denied(format!("{what} gives more than the caller holds, which needs {GRANTING}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caps(texts: &[&str]) -> Vec<Capability> {
        texts.iter().map(|text| Capability::parse(text).unwrap()).collect()
    }

    fn rights(grants: &[&str], group: &[&str], revokes: &[&str]) -> Rights {
        let groups = vec![("g".into(), caps(group))];
        Rights { enabled: true, revokes: caps(revokes), grants: caps(grants), groups, ceiling: None }
    }

    #[test]
    fn a_revoke_beats_a_grant_and_a_grant_is_named_before_a_group() {
        let decide = |rights: Rights| rights.decide(&caps(&["a:b"])[0]);
        assert_eq!(decide(rights(&["a:*"], &["*"], &[])), Rule::Granted { by: "a:*".into() });
        assert_eq!(decide(rights(&["c"], &["*"], &[])), Rule::Group { group: "g".into(), by: "*".into() });
        assert_eq!(decide(rights(&["a:b"], &["*"], &["a:*"])), Rule::Revoked { by: "a:*".into() });
        assert_eq!(decide(rights(&["c"], &["self:*"], &[])), Rule::Nothing);
        assert_eq!(decide(Rights { enabled: false, ..rights(&["*"], &[], &[]) }), Rule::Disabled);
    }

    #[test]
    fn nobody_gives_what_they_do_not_hold_unless_they_may_grant() {
        let gives = |giver: Rights, what: &[&str]| giver.check_giving("x", &caps(what)).is_ok();
        let operator = || rights(&[], &["capsule:install", "invite:*"], &[]);
        assert!(gives(operator(), &["invite:issue", "invite:*", "capsule:install", "self:*"]));
        for more in ["*", "invite:*:x", "caps:grant", "capsule:*", "*:issue"] {
            assert_eq!(gives(operator(), &[more]), more == "invite:*:x", "{more}");
        }
        assert!(gives(rights(&["caps:grant"], &[], &[]), &["*"]));
        assert!(!gives(rights(&["*"], &[], &["caps:grant"]), &["*"]), "not whole any more");
        assert!(!gives(rights(&["a:*"], &[], &["a:b"]), &["a:*"]), "a revoke may have cut something out");
        assert!(gives(rights(&["a:*"], &[], &["a:b"]), &["a:c"]));
        assert!(!gives(rights(&["a:*"], &[], &["a:b"]), &["a:b"]));
    }

    #[test]
    fn through_a_session_with_a_ceiling_nobody_holds_or_gives_more_than_it_covers() {
        let within = |ceiling: &[&str]| Rights { ceiling: Some(caps(ceiling)), ..rights(&["*"], &[], &[]) };
        let gives = |ceiling: &[&str], what: &[&str]| within(ceiling).check_giving("x", &caps(what)).is_ok();
        assert_eq!(within(&["invite:*", "self:*"]).held(), ["invite:*", "self:*"]);
        assert!(gives(&["invite:*"], &["invite:issue", "invite:*", "self:*"]));
        for more in ["*", "agent:list", "*:issue", "caps:grant"] {
            assert!(!gives(&["invite:*"], &[more]), "{more}");
        }
        assert!(gives(&["caps:grant"], &["*"]), "whoever may grant may give everything");
        assert!(!gives(&[], &["a"]) && within(&[]).held().is_empty());
    }

    const HELD: [&str; 7] = ["*", "a:*", "a:b", "self:*", "self:a:b", "c", "*:b"];

    /// Whether a held text covers a required one, by the sentences of docs/capabilities.md alone.
    fn covers(held: &str, required: &str) -> bool {
        match held {
            "*" => true,
            "a:*" => required.starts_with("a:"),
            "self:*" => required.starts_with("self:"),
            "*:b" => required == "a:b",
            same => same == required,
        }
    }

    proptest! {
        #[test]
        fn the_decision_is_that_of_the_rule_book(
            enabled: bool,
            grants in prop::collection::vec(prop::sample::select(HELD.to_vec()), 0..3),
            group in prop::collection::vec(prop::sample::select(HELD.to_vec()), 0..3),
            revokes in prop::collection::vec(prop::sample::select(HELD.to_vec()), 0..2),
            required in prop::sample::select(vec!["a:b", "self:a:b", "c", "d", "a:x:y"]),
        ) {
            let any = |list: &[&str]| list.iter().any(|held| covers(held, required));
            let expected = enabled && !any(&revokes) && (any(&grants) || any(&group));
            let rights = Rights { enabled, ..rights(&grants, &group, &revokes) };
            let rule = rights.decide(&caps(&[required])[0]);
            prop_assert_eq!(rule.allows(), expected);
            prop_assert_eq!(matches!(rule, Rule::Revoked { .. }), enabled && any(&revokes));
        }

        /// Whatever is given, the receiver can do nothing for others that the giver can't.
        #[test]
        fn giving_is_no_way_up(
            grants in prop::collection::vec(prop::sample::select(HELD.to_vec()), 0..3),
            revokes in prop::collection::vec(prop::sample::select(HELD.to_vec()), 0..2),
            given in prop::collection::vec(prop::sample::select(HELD.to_vec()), 1..3),
            required in prop::sample::select(vec!["a:b", "c", "d", "a:x:y", "e:b"]),
        ) {
            let giver = rights(&grants, &[], &revokes);
            let required = &caps(&[required])[0];
            let receiver = rights(&given, &[], &[]);
            if giver.check_giving("x", &caps(&given)).is_ok() && receiver.decide(required).allows() {
                let may_grant = giver.decide(&caps(&[GRANTING])[0]).allows();
                prop_assert!(may_grant || giver.decide(required).allows());
            }
        }
    }
}
