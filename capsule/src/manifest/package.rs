//! `[package]` and `[component]`: what a capsule is called, and whom one instance of it serves.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::shown;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Package {
    /// The capsule's id: 1 to 64 of `[a-z0-9-]`, beginning with a letter; not `host`.
    pub name: String,
    pub version: semver::Version,
    /// One line for people, at most 500 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Package {
    pub(super) fn check(&self) -> Result<(), String> {
        let named = self.name.len() <= 64
            && self.name.starts_with(|c: char| c.is_ascii_lowercase())
            && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !named || ["host", "http"].contains(&&*self.name) {
            return Err(format!(
                "package.name `{}` must be 1 to 64 of a-z 0-9 -, begin with a letter, and not be `host` or `http`",
                shown(&self.name)
            ));
        }
        if self.description.as_ref().is_some_and(|d| d.len() > 500) {
            return Err("package.description is longer than 500 bytes".into());
        }
        if self.version.to_string().len() > 64 {
            return Err("package.version is longer than 64 bytes".into());
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Component {
    /// A component that another tool chain has built, relative to the manifest. Absent for cargo projects, and in
    /// archives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wasm: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Isolation::is_call")]
    pub isolation: Isolation,
}

impl Component {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whom one instance serves for its whole life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// One call.
    #[default]
    Call,
    /// The handler and interceptor calls of one principal, one after another; memory stays between them for as long as
    /// the host likes. Front ends, the authenticator, `start` and calls of `anonymous` still get an instance each.
    Principal,
    /// One call; and beside the calls there is a run loop, in one instance for as long as the version is live.
    Run,
}

impl Isolation {
    fn is_call(&self) -> bool {
        *self == Self::Call
    }
}
