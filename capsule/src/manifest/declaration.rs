//! `[[capability]]`: a capability that exists because the capsule is installed, and how to show it to people.

use serde::{Deserialize, Serialize};

use super::text;
use crate::Capability;

/// A capability that people can be granted.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Declaration {
    #[serde(with = "text::capability")]
    pub id: Capability,
    pub label: String,
    pub description: String,
    pub category: String,
    pub scope: Scope,
    pub danger: Danger,
}

impl Declaration {
    /// `before`: the declarations above it.
    pub(super) fn check(&self, before: &[Self]) -> Result<(), String> {
        if self.id.is_pattern() {
            return Err(format!("capability `{}` can't hold a `*`", self.id));
        }
        if before.iter().any(|other| other.id == self.id) {
            return Err(format!("capability `{}` is declared twice", self.id));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Only the plain form means anything.
    Global,
    /// Only the `self:` form means anything.
    #[serde(rename = "self")]
    Own,
    /// Both forms.
    Both,
}

impl Scope {
    /// As a manifest writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Global => "global",
            Scope::Own => "self",
            Scope::Both => "both",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Danger {
    Safe,
    Normal,
    Elevated,
    Extreme,
}

impl Danger {
    /// As a manifest writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Danger::Safe => "safe",
            Danger::Normal => "normal",
            Danger::Elevated => "elevated",
            Danger::Extreme => "extreme",
        }
    }
}
