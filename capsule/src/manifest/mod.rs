//! `Capsule.toml`: what a capsule is called, what it binds, what it sends, and what it asks the operator for.
//!
//! The manifest asks; it grants itself nothing. Unknown keys are refused by name. Parsing checks everything that the
//! text alone can tell; whether a component fits its manifest is the loader's business. Each section is a file of this
//! folder with its own check, but for `[env]`, `[[probe]]` and `[[tool]]`, which are modules of the crate.

mod bus;
mod declaration;
pub mod grant;
mod http;
mod limits;
mod package;
mod process;
mod text;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::bus::{Audit, Delivery, Fail, Intercept, Publish, Subscribe};
pub use self::declaration::{Danger, Declaration, Scope};
pub use self::http::{Http, MountLimits};
pub use self::limits::Limits;
pub use self::package::{Component, Isolation, Package};
pub use self::process::Process;
pub(crate) use self::text::capabilities;
use crate::faults::faults;
pub use crate::probe::{Expect, Probe};
use crate::schema::{TypeName, Wit};
use crate::tool::{self, Tool};
use crate::{Capability, Pattern, Topic, env, probe};

/// The largest manifest that anybody reads, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;

/// Why a manifest was refused: where it stands (line and column, where the text has one) and what to change.
#[derive(Debug, thiserror::Error)]
#[error("Capsule.toml: {0}")]
pub struct ManifestError(pub String);

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    pub package: Package,
    #[serde(default, skip_serializing_if = "Component::is_default")]
    pub component: Component,
    /// Topics that the capsule may publish to or send requests to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// Bindings: which topics reach which handler.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<Subscribe>,
    /// Messages that the capsule sees, and may change or deny, before anybody gets them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intercept: Vec<Intercept>,
    /// Capabilities that exist because this capsule is installed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capability: Vec<Declaration>,
    /// What the capsule itself wants to be granted by the operator: see [`grant`].
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "capabilities")]
    pub asks: Vec<Capability>,
    /// What the capsule needs to be told from outside, by name.
    #[serde(default, skip_serializing_if = "env::Fields::is_empty")]
    pub env: env::Fields,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Programs of the system that the capsule may start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub process: Vec<Process>,
    #[serde(default, skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
    /// What a version must answer before it goes live.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe: Vec<Probe>,
    /// Handlers that a model can be offered to call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool: Vec<Tool>,
}

impl Manifest {
    /// Parses and checks.
    ///
    /// # Errors
    /// Everything that is wrong, as [`faults`] tells it.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let read = || {
            let manifest: Manifest = toml::from_str(text).map_err(|error| ManifestError(error.to_string()))?;
            manifest.check().map_err(ManifestError)?;
            Ok(manifest)
        };
        if text.len() > MAX_BYTES {
            return Err(ManifestError(format!("is larger than {MAX_BYTES} bytes")));
        }
        read().map_err(|first: ManifestError| {
            let faults: Vec<String> = faults(text).iter().map(ToString::to_string).collect();
            if faults.is_empty() { first } else { ManifestError(faults.join("\nCapsule.toml: ")) }
        })
    }

    /// The manifest as it stands in an archive: without what only means something where it was built.
    pub fn packed(&self) -> String {
        let mut copy = self.clone();
        copy.component.wasm = None;
        toml::to_string(&copy).expect("a manifest has no value that TOML can't express")
    }

    /// Everything that the operator must grant: `asks`, the programs, and sending to, getting and intercepting what is not the
    /// capsule's own. A topic is its own when its first segment is the capsule's name.
    pub fn asked(&self) -> Vec<Capability> {
        let own =
            |topic: &Pattern| topic.segments().next() == Some(&*self.package.name) && topic.segments().count() > 1;
        let sends = self.publish.iter().map(|p| (grant::SEND, &p.topic));
        let receives = self.subscribe.iter().map(|s| (grant::RECEIVE, &s.topic));
        let intercepts = self.intercept.iter().map(|i| (grant::INTERCEPT, &i.topic));
        let mut asked = self.asks.clone();
        for (family, topic) in sends.chain(receives).chain(intercepts).filter(|(_, topic)| !own(topic)) {
            // A pattern's segments are a capability's; only its length can exceed, which `check` has ruled out.
            let derived = Capability::parse(&format!("{family}:{}", topic.as_str().replace('.', ":")));
            asked.extend(derived.ok().filter(|derived| !self.asks.contains(derived)));
        }
        asked.extend(self.process.iter().filter_map(Process::grant));
        asked.dedup();
        asked
    }

    /// Whether the capsule may send to `topic`.
    pub fn may_send(&self, topic: &Topic) -> bool {
        self.publish.iter().any(|p| p.topic.matches(topic))
    }

    /// The binding of a handler that gets requests of `topic`.
    pub fn handled(&self, topic: &Topic) -> Option<&Subscribe> {
        let handlers = self.subscribe.iter().filter(|b| b.handler.is_some() && b.topic.matches(topic));
        handlers.max_by_key(|binding| binding.topic.specificity())
    }

    /// Every type that a topic names, as often as it is named.
    pub fn types(&self) -> impl Iterator<Item = &TypeName> {
        let published = self.publish.iter().filter_map(|p| p.wit.as_ref());
        published.chain(self.subscribe.iter().filter_map(|s| s.wit.as_ref())).flat_map(Wit::names)
    }

    /// What the text alone can tell; the first thing that is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.package.check()?;
        let principal = self.component.isolation == Isolation::Principal;
        if principal && self.subscribe.is_empty() && self.intercept.is_empty() {
            return Err(
                "component.isolation = \"principal\" is for [[subscribe]] and [[intercept]], and there is neither"
                    .into(),
            );
        }
        self.publish.iter().enumerate().try_for_each(|(n, sent)| sent.check(n))?;
        each(&self.intercept, Intercept::check)?;
        each(&self.subscribe, Subscribe::check)?;
        probe::check(self)?;
        tool::check(self)?;
        each(&self.capability, Declaration::check)?;
        self.asks.iter().try_for_each(grant::check)?;
        each(&self.process, Process::check)?;
        if let Some(http) = &self.http {
            http.check()?;
            if !self.asks.iter().any(|c| c.as_str() == grant::MOUNT) {
                return Err(format!("[http] needs asks = [\"{}\"]", grant::MOUNT));
            }
        }
        env::check(&self.env)?;
        self.limits.check()
    }
}

/// Checks each entry of a list beside those above it.
fn each<T>(list: &[T], check: impl Fn(&T, &[T]) -> Result<(), String>) -> Result<(), String> {
    list.iter().enumerate().try_for_each(|(n, entry)| check(entry, &list[..n]))
}
