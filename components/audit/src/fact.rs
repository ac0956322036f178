//! A fact as the log attests it, and what of it is cut out before anybody sees it.
//!
//! The leaf is never touched: what [`Redaction`] changes is a copy on its way out. Bounded by [`MAX_RULES`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most rules of one redaction.
pub const MAX_RULES: usize = 64;
/// What stands where something was cut out.
pub const REDACTED: &str = "[redacted]";

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Began,
    Ok,
    Refused,
    Failed,
    Unknown,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Began => "began",
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
        }
    }
}

/// The fields of `astrid:journal/facts.recorded`, in the order in which the log has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub id: String,
    /// Nanoseconds since the Unix epoch.
    pub time: u64,
    pub action: String,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capsule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

impl Fact {
    /// None if the text is not a fact.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// What is cut out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    /// Whole fields.
    fields: Vec<String>,
    /// JSON pointers into a `detail` that is JSON.
    pointers: Vec<String>,
}

impl Redaction {
    /// Fields that may be cut out. Without the others an entry could not be told from another.
    pub const FIELDS: [&str; 12] = [
        "principal",
        "session",
        "capsule",
        "hash",
        "target",
        "requires",
        "rule",
        "reason",
        "cause",
        "detail",
        "payload",
        "decision",
    ];

    /// Reads rules separated by commas: names of [`Self::FIELDS`], and `/detail/…`.
    ///
    /// # Errors
    /// Which rule is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut redaction = Self::default();
        let rules: Vec<&str> = text.split(',').map(str::trim).filter(|rule| !rule.is_empty()).collect();
        if rules.len() > MAX_RULES {
            return Err(format!("{} rules are more than {MAX_RULES}", rules.len()));
        }
        for rule in rules {
            match rule.strip_prefix("/detail") {
                Some(pointer) if pointer.starts_with('/') => redaction.pointers.push(pointer.to_owned()),
                _ if Self::FIELDS.contains(&rule) => redaction.fields.push(rule.to_owned()),
                _ => {
                    let known = Self::FIELDS.join(", ");
                    return Err(format!(
                        "`{}` is neither a pointer into /detail nor one of {known}",
                        rule.escape_debug()
                    ));
                }
            }
        }
        Ok(redaction)
    }

    /// The fact without what is cut out.
    pub fn apply(&self, mut fact: Fact) -> Fact {
        for name in &self.fields {
            let field = match name.as_str() {
                "principal" => &mut fact.principal,
                "session" => &mut fact.session,
                "capsule" => &mut fact.capsule,
                "hash" => &mut fact.hash,
                "target" => &mut fact.target,
                "requires" => &mut fact.requires,
                "decision" => &mut fact.decision,
                "rule" => &mut fact.rule,
                "reason" => &mut fact.reason,
                "cause" => &mut fact.cause,
                "payload" => &mut fact.payload,
                _ => &mut fact.detail,
            };
            if let Some(field) = field {
                REDACTED.clone_into(field);
            }
        }
        if let Some(detail) = fact.detail.as_mut().filter(|_| !self.pointers.is_empty())
            && let Ok(mut json) = serde_json::from_str::<Value>(detail)
        {
            let mut changed = false;
            for pointer in &self.pointers {
                if let Some(value) = json.pointer_mut(pointer) {
                    *value = REDACTED.into();
                    changed = true;
                }
            }
            if changed {
                *detail = json.to_string();
            }
        }
        fact
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A fact with every field.
    pub(crate) fn whole() -> Fact {
        let some = |text: &str| Some(text.to_owned());
        Fact {
            id: "7-1".into(),
            time: 1_700_000_000_123_456_789,
            action: "bus.system.v1.status".into(),
            outcome: Outcome::Refused,
            principal: some("alice"),
            session: some("ab12"),
            capsule: some("gateway"),
            hash: some("cd34"),
            target: some("bob"),
            requires: some("system:status"),
            decision: some("denied"),
            rule: some("default"),
            reason: some("no\nright=|\\"),
            duration: Some(1_500_000),
            cause: some("r-1"),
            detail: some(r#"{"ip":"::1","more":{"key":"k"}}"#),
            payload: some("ef56"),
        }
    }

    #[test]
    fn what_a_rule_names_is_cut_out_and_nothing_else() {
        let redaction = Redaction::parse(" session, /detail/more/key ,/detail/absent").unwrap();
        let shown = redaction.apply(whole());
        let detail: Value = serde_json::from_str(shown.detail.as_ref().unwrap()).unwrap();
        assert_eq!(detail, serde_json::json!({ "ip": "::1", "more": { "key": REDACTED } }));
        assert_eq!(shown, Fact { session: Some(REDACTED.into()), detail: shown.detail.clone(), ..whole() });
        for name in Redaction::FIELDS {
            let shown = serde_json::to_value(Redaction::parse(name).unwrap().apply(whole())).unwrap();
            assert_eq!(shown[name], REDACTED, "{name}");
        }
        let plain = Fact { detail: Some("no JSON".into()), ..whole() };
        assert_eq!(Redaction::parse("/detail/ip").unwrap().apply(plain.clone()), plain);
    }

    #[test]
    fn what_is_absent_stays_absent() {
        let absent = Fact { session: None, ..whole() };
        assert_eq!(Redaction::parse("session").unwrap().apply(absent.clone()), absent);
    }

    #[test]
    fn a_rule_that_is_none_is_refused_by_name() {
        for rule in ["id", "time", "/details/x", "/detail", "pass word"] {
            assert!(Redaction::parse(&format!("session,{rule}")).unwrap_err().contains(rule), "{rule}");
        }
        assert!(Redaction::parse(&"session,".repeat(MAX_RULES + 1)).is_err());
    }
}
