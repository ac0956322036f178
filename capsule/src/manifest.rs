//! `Capsule.toml`: what a capsule is called, what it binds, what it sends, and what it asks the operator for.
//!
//! The manifest asks; it grants itself nothing. Unknown keys are refused by name. Parsing checks everything that the
//! text alone can tell; whether a component fits its manifest is the loader's business.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::faults::faults;
pub use crate::probe::{Expect, Probe};
use crate::schema::{TypeName, Wit};
use crate::tool::{self, Tool};
use crate::{Capability, Pattern, Topic, env, shown};

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
    #[serde(default, skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
    /// What a version must answer before it goes live.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe: Vec<Probe>,
    /// Handlers that a model can be offered to call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool: Vec<Tool>,
}

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

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Publish {
    #[serde(with = "pattern")]
    pub topic: Pattern,
    /// The types of what is sent, and of what is answered to a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wit: Option<Wit>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Subscribe {
    #[serde(with = "pattern")]
    pub topic: Pattern,
    /// The name that the component's handler is called with. Either this or `delivery`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Makes it a topic that the component's code may subscribe to, instead of one that a handler is called for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Capabilities that the message's principal must hold, every one, checked by the host with the message's target.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "capabilities")]
    pub requires: Vec<Capability>,
    /// Whether `anonymous` reaches it. Without this even a binding that requires nothing wants a known, enabled
    /// principal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
    /// What may wait for it, in bytes: 4 KiB to 64 MiB, of publications and, apart from them, of requests. None: the
    /// host's `bus.queue-bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<usize>,
    /// Whether a principal's publications are handled one after the other. Without it they begin in order and run side by
    /// side.
    #[serde(default = "Subscribe::is_ordered_by_default", skip_serializing_if = "Subscribe::is_in_order")]
    pub ordered: bool,
    /// How sure it must be that requests are recorded.
    #[serde(default, skip_serializing_if = "Audit::is_default")]
    pub audit: Audit,
    /// The types of what the handler or subscription gets, and of what the handler answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wit: Option<Wit>,
}

/// How sure it must be that requests of a binding are recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audit {
    /// Within a second, where it requires a capability.
    #[default]
    Normal,
    /// Durably, before the handler is asked and before its answer goes back; where that can't be, the request is refused.
    Strict,
}

impl Audit {
    fn is_default(&self) -> bool {
        *self == Self::Normal
    }
}

impl Subscribe {
    /// Bounds of `queue-bytes`.
    pub const QUEUE_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=64 << 20;

    fn is_ordered_by_default() -> bool {
        true
    }

    fn is_in_order(ordered: &bool) -> bool {
        *ordered
    }

    /// A binding of a handler that requires nothing, with every default.
    pub fn handled(topic: Pattern, handler: &str) -> Self {
        Self {
            topic,
            handler: Some(handler.into()),
            delivery: None,
            requires: Vec::new(),
            public: false,
            queue_bytes: None,
            ordered: true,
            audit: Audit::Normal,
            wit: None,
        }
    }
}

/// What becomes of messages that a subscription does not take as fast as they come; `wit/bus` says it in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Whoever publishes waits.
    Lossless,
    /// The newest are dropped, and the loss is told.
    Lossy,
    /// The newest of each topic and principal replaces an older one.
    Latest,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Intercept {
    #[serde(with = "pattern")]
    pub topic: Pattern,
    /// The name that the component's interceptor is called with.
    pub handler: String,
    /// The lower runs first: 0 to 1000.
    #[serde(default = "Intercept::default_priority")]
    pub priority: u16,
    /// What becomes of the message when the interceptor fails.
    #[serde(default)]
    pub fail: Fail,
}

impl Intercept {
    /// The highest priority number, so the last to run.
    pub const MAX_PRIORITY: u16 = 1000;

    fn default_priority() -> u16 {
        100
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fail {
    /// It is denied.
    #[default]
    Closed,
    /// It goes on as it was.
    Open,
}

/// A capability that people can be granted.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Declaration {
    #[serde(with = "capability")]
    pub id: Capability,
    pub label: String,
    pub description: String,
    pub category: String,
    pub scope: Scope,
    pub danger: Danger,
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

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Http {
    /// Path prefixes, each `/` or `/` and segments without a trailing `/`.
    pub mounts: Vec<String>,
    /// Bodies above this are answered with 413 before they are read whole. 1 to 16 MiB.
    #[serde(default = "Http::default_body")]
    pub max_body_bytes: u64,
    /// Requests below one mount at once, from their head to their answer's; the next one is answered with 503 before its
    /// body is read. 1 to 100,000; none for as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// What is otherwise below single mounts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, MountLimits>,
}

/// What is otherwise below one mount than below the capsule's others; in the bounds of [`Http`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct MountLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
}

impl Http {
    fn default_body() -> u64 {
        64 * 1024
    }

    /// The largest body that is taken below one of its mounts, in bytes.
    pub fn body_bytes(&self, mount: &str) -> u64 {
        self.limits.get(mount).and_then(|limits| limits.max_body_bytes).unwrap_or(self.max_body_bytes)
    }

    /// How many requests may be below one of its mounts at once; none for as many as come.
    pub fn concurrent(&self, mount: &str) -> Option<u32> {
        self.limits.get(mount).and_then(|limits| limits.max_concurrent).or(self.max_concurrent)
    }

    /// What does not fit.
    fn fault(&self) -> Option<String> {
        if self.mounts.is_empty() {
            return Some("http.mounts is empty; leave [http] out instead".into());
        }
        for (n, mount) in self.mounts.iter().enumerate() {
            let plain = |s: &str| {
                !s.is_empty()
                    && s != "."
                    && s != ".."
                    && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
            };
            let fine = mount == "/" || mount.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
            if !fine || mount.len() > 256 {
                return Some(format!(
                    "http.mounts `{}` must be `/` or `/` and plain segments, without a trailing `/`",
                    shown(mount)
                ));
            }
            if ["healthz", "metrics"].contains(&mount[1..].split('/').next().unwrap_or_default()) {
                return Some(format!("http.mounts `{mount}` is the host's own"));
            }
            if self.mounts.iter().take(n).any(|before| before == mount) {
                return Some(format!("http.mounts has `{mount}` twice"));
            }
        }
        let body = |key: &str, bytes: u64| {
            let fits = (1..=16 << 20).contains(&bytes);
            (!fits).then(|| format!("{key} = {bytes} must be 1 to 16777216"))
        };
        let concurrent = |key: &str, most: u32| {
            let fits = (1..=100_000).contains(&most);
            (!fits).then(|| format!("{key} = {most} must be 1 to 100000"))
        };
        let own = body("http.max-body-bytes", self.max_body_bytes);
        let own = own.or_else(|| concurrent("http.max-concurrent", self.max_concurrent?));
        own.or_else(|| {
            self.limits.iter().find_map(|(mount, limits)| {
                let key = |key: &str| format!("http.limits.\"{}\".{key}", shown(mount));
                if !self.mounts.contains(mount) {
                    return Some(format!("http.limits `{}` is none of http.mounts", shown(mount)));
                }
                let of_body = limits.max_body_bytes.and_then(|bytes| body(&key("max-body-bytes"), bytes));
                of_body.or_else(|| concurrent(&key("max-concurrent"), limits.max_concurrent?))
            })
        })
    }
}

/// What one call may use at most. The host's own ceilings are lower bounds to these.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Linear memory of one instance: 1 to 4096 MiB in bytes, further bounded by the host's pool.
    pub max_memory_bytes: u64,
    /// One call, in milliseconds: 1 to 86,400,000.
    pub timeout_ms: u64,
    /// Fuel of one call.
    pub max_fuel: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_memory_bytes: 64 << 20, timeout_ms: 30_000, max_fuel: 10_000_000_000 }
    }
}

impl Limits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Component {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a capsule may ask the operator for, beside nothing: each opens one interface of the host.
pub mod grant {
    /// Import `astrid:authority/sessions`.
    pub const SESSIONS: &str = "authority:sessions";
    /// Export `astrid:authority/authenticator`. One capsule holds it.
    pub const AUTHENTICATOR: &str = "authority:authenticator";
    /// Import `astrid:authority/registrar`. One capsule holds it.
    pub const REGISTRAR: &str = "authority:registrar";
    /// Import `astrid:sys/host`.
    pub const HOST: &str = "sys:host";
    /// Import `astrid:journal/facts`: read everybody's facts.
    pub const JOURNAL_READ: &str = "journal:read";
    /// Import `astrid:journal/retention`: delete old entries of the log of facts.
    pub const JOURNAL_PRUNE: &str = "journal:prune";
    /// Import `astrid:sys/sink`: deliver to the places outside that the operator has named.
    pub const SINK: &str = "sink:deliver";
    /// `bus:send:<topic>`, dots written as colons: send to topics that are not the capsule's own. Not written in `asks`:
    /// every `[[publish]]` of such a topic asks for it ([`Manifest::asked`](super::Manifest::asked)).
    pub const SEND: &str = "bus:send";
    /// `bus:intercept:<topic>`, dots written as colons: see, change and deny messages of topics that are not the capsule's
    /// own. Derived from `[[intercept]]` as [`SEND`] is from `[[publish]]`.
    pub const INTERCEPT: &str = "bus:intercept";
    /// `bus:receive:<topic>`, dots written as colons: get messages of topics that are not the capsule's own. Derived from
    /// `[[subscribe]]` as [`SEND`] is from `[[publish]]`.
    pub const RECEIVE: &str = "bus:receive";
    /// Serve HTTP under the manifest's mounts.
    pub const MOUNT: &str = "http:mount";
    /// Export `astrid:capsule/run-loop`, with `isolation = "run"`.
    pub const RUN: &str = "component:run";
    /// `keys:<purpose>`: sign and verify with that purpose's key.
    pub const KEYS: &str = "keys";

    /// The purpose whose grant a key needs: of `purpose` itself, and of `purpose.N`, its generation N (1 to 2^32 - 1, no
    /// leading zero). A purpose is 1 to 64 of `[a-z0-9-]`. None if it is neither.
    pub fn key_purpose(key: &str) -> Option<&str> {
        let (purpose, generation) = key.split_once('.').map_or((key, None), |(purpose, n)| (purpose, Some(n)));
        let fits = (1..=64).contains(&purpose.len())
            && purpose.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let numbered = generation
            .is_none_or(|n| n.bytes().all(|b| b.is_ascii_digit()) && !n.starts_with('0') && n.parse::<u32>().is_ok());
        (fits && numbered).then_some(purpose)
    }

    /// Every grant by its fixed name; `keys:<purpose>` is the only family.
    pub const FIXED: [&str; 9] =
        [SESSIONS, AUTHENTICATOR, REGISTRAR, HOST, JOURNAL_READ, JOURNAL_PRUNE, SINK, MOUNT, RUN];
}

impl Manifest {
    /// Parses and checks.
    ///
    /// # Errors
    /// Everything that is wrong, as [`faults`] tells it.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let read = || {
            let manifest: Manifest = toml::from_str(text).map_err(|error| ManifestError(error.to_string()))?;
            manifest.check()?;
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

    /// Everything that the operator must grant: `asks`, and sending to, getting and intercepting what is not the capsule's
    /// own. A topic is its own when its first segment is the capsule's name.
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
    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        let fail = |text: String| Err(ManifestError(text));
        let name = &self.package.name;
        let named = name.len() <= 64
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !named || name == "host" {
            return fail(format!(
                "package.name `{}` must be 1 to 64 of a-z 0-9 -, begin with a letter, and not be `host`",
                shown(name)
            ));
        }
        if self.package.description.as_ref().is_some_and(|d| d.len() > 500) {
            return fail("package.description is longer than 500 bytes".into());
        }
        if self.package.version.to_string().len() > 64 {
            return fail("package.version is longer than 64 bytes".into());
        }
        let principal = self.component.isolation == Isolation::Principal;
        if principal && self.subscribe.is_empty() && self.intercept.is_empty() {
            return fail(
                "component.isolation = \"principal\" is for [[subscribe]] and [[intercept]], and there is neither"
                    .into(),
            );
        }
        for (n, sent) in self.publish.iter().enumerate() {
            if sent.topic.as_str().len() + grant::SEND.len() + 1 > crate::capability::MAX_BYTES {
                return fail(format!("publish[{n}]: the topic is too long to be granted"));
            }
        }
        for (n, interception) in self.intercept.iter().enumerate() {
            let at = format!("intercept[{n}] ({})", interception.topic);
            if interception.topic.as_str().len() + grant::INTERCEPT.len() + 1 > crate::capability::MAX_BYTES {
                return fail(format!("intercept[{n}]: the topic is too long to be granted"));
            }
            if self.intercept[..n].iter().any(|other| other.topic == interception.topic) {
                return fail(format!("{at}: the topic is intercepted twice"));
            }
            if interception.handler.is_empty() || interception.handler.len() > 64 {
                return fail(format!("{at}: handler must have 1 to 64 bytes"));
            }
            if interception.priority > Intercept::MAX_PRIORITY {
                return fail(format!("{at}: priority = {} must be 0 to 1000", interception.priority));
            }
        }
        for (n, binding) in self.subscribe.iter().enumerate() {
            let at = format!("subscribe[{n}] ({})", binding.topic);
            if binding.topic.as_str().len() + grant::RECEIVE.len() + 1 > crate::capability::MAX_BYTES {
                return fail(format!("subscribe[{n}]: the topic is too long to be granted"));
            }
            if self.subscribe[..n].iter().any(|other| other.topic == binding.topic) {
                return fail(format!("{at}: the topic is bound twice"));
            }
            match (&binding.handler, binding.delivery) {
                (None, None) => return fail(format!("{at}: handler is missing, or delivery for a subscription")),
                (Some(_), Some(_)) => {
                    return fail(format!("{at}: has handler and delivery; a subscription calls no handler"));
                }
                (Some(handler), None) if handler.is_empty() || handler.len() > 64 => {
                    return fail(format!("{at}: handler must have 1 to 64 bytes"));
                }
                (None, Some(_)) if binding.wit.as_ref().is_some_and(|wit| wit.answer.is_some()) => {
                    return fail(format!("{at}: wit.answer is for handlers; a subscription answers nothing"));
                }
                (None, Some(_)) if binding.audit == Audit::Strict => {
                    return fail(format!("{at}: audit = \"strict\" is for handlers; a subscription answers nothing"));
                }
                (None, Some(_)) if !binding.ordered => {
                    return fail(format!("{at}: ordered = false is for handlers; a subscription keeps the order"));
                }
                _ => {}
            }
            if let Some(bytes) = binding.queue_bytes.filter(|bytes| !Subscribe::QUEUE_BYTES.contains(bytes)) {
                return fail(format!("{at}: queue-bytes = {bytes} must be 4096 to 67108864"));
            }
            if let Some(wild) = binding.requires.iter().find(|c| c.is_pattern()) {
                return fail(format!("{at}: requires `{wild}`, but what is required can't hold a `*`"));
            }
            if let Some(own) = binding.requires.iter().find(|c| c.segments().next() == Some("self")) {
                return fail(format!(
                    "{at}: requires `{own}`; write the plain form, its self: form is enough where the target is the caller"
                ));
            }
            if binding.public && !binding.requires.is_empty() {
                return fail(format!("{at}: is public and requires {:?}; `anonymous` holds nothing", binding.requires));
            }
        }
        if self.probe.len() > Probe::MAX {
            return fail(format!("has {} probes; at most {} are taken", self.probe.len(), Probe::MAX));
        }
        for (n, probe) in self.probe.iter().enumerate() {
            probe.check(self).map_err(|why| ManifestError(format!("probe[{n}]: {why}")))?;
        }
        if let Some(fault) = tool::fault(self) {
            return fail(fault);
        }
        let mut seen = HashSet::new();
        for declared in &self.capability {
            if declared.id.is_pattern() {
                return fail(format!("capability `{}` can't hold a `*`", declared.id));
            }
            if !seen.insert(&declared.id) {
                return fail(format!("capability `{}` is declared twice", declared.id));
            }
        }
        for asked in &self.asks {
            let text = asked.as_str();
            let purpose = text
                .strip_prefix(grant::KEYS)
                .and_then(|rest| rest.strip_prefix(':'))
                .is_some_and(|purpose| grant::key_purpose(purpose) == Some(purpose));
            if !grant::FIXED.contains(&text) && !purpose {
                return fail(format!(
                    "asks `{}`, which no host offers; there are {} and keys:<purpose> (1 to 64 of a-z 0-9 -)",
                    shown(text),
                    grant::FIXED.join(", ")
                ));
            }
        }
        if let Some(http) = &self.http {
            if let Some(fault) = http.fault() {
                return fail(fault);
            }
            if !self.asks.iter().any(|c| c.as_str() == grant::MOUNT) {
                return fail(format!("[http] needs asks = [\"{}\"]", grant::MOUNT));
            }
        }
        if let Some(fault) = env::fault(&self.env) {
            return fail(fault);
        }
        let limits = &self.limits;
        if !(1 << 20..=4 << 30).contains(&limits.max_memory_bytes) {
            return fail(format!("limits.max-memory-bytes = {} must be 1 MiB to 4 GiB", limits.max_memory_bytes));
        }
        if !(1..=86_400_000).contains(&limits.timeout_ms) {
            return fail(format!("limits.timeout-ms = {} must be 1 to 86400000", limits.timeout_ms));
        }
        if !(1_000..=i64::MAX as u64).contains(&limits.max_fuel) {
            return fail(format!("limits.max-fuel = {} must be 1000 to {}", limits.max_fuel, i64::MAX));
        }
        Ok(())
    }
}

mod pattern {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Pattern, D::Error> {
        Pattern::parse(&String::deserialize(d)?).map_err(de::Error::custom)
    }

    pub(super) fn serialize<S: Serializer>(p: &Pattern, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(p.as_str())
    }
}

mod capability {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Capability, D::Error> {
        Capability::parse(&String::deserialize(d)?).map_err(de::Error::custom)
    }

    pub(super) fn serialize<S: Serializer>(c: &Capability, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(c.as_str())
    }
}

/// Lists of capabilities, as in manifests and distributions.
pub(crate) mod capabilities {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Capability>, D::Error> {
        Vec::<String>::deserialize(d)?.iter().map(|t| Capability::parse(t).map_err(de::Error::custom)).collect()
    }

    pub(crate) fn serialize<S: Serializer>(list: &[Capability], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(list.iter().map(Capability::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        asks = ["http:mount", "keys:session"]
        [package]
        name = "notes"
        version = "1.2.3"
        description = "keeps notes"
        [[publish]]
        topic = "audit.v1.*"
        [[subscribe]]
        topic = "notes.v1.add"
        handler = "add"
        requires = ["notes:add"]
        [[subscribe]]
        topic = "notes.v1.hello"
        handler = "hello"
        public = true
        [[intercept]]
        topic = "notes.v1.*"
        handler = "judge"
        [[capability]]
        id = "notes:add"
        label = "Add notes"
        description = "Write a note"
        category = "notes"
        scope = "both"
        danger = "normal"
        [http]
        mounts = ["/notes"]
        [limits]
        timeout-ms = 500
    "#;

    #[test]
    fn a_mount_has_its_own_limits_or_those_of_all() {
        let text = "asks = [\"http:mount\"]\n[package]\nname = \"a\"\nversion = \"1.0.0\"\n[http]\nmounts = [\"/a\", \"/b\"]\n\
                    max-body-bytes = 100\nmax-concurrent = 9\n[http.limits.\"/b\"]\nmax-body-bytes = 5\n";
        let http = Manifest::parse(text).unwrap().http.unwrap();
        assert_eq!((http.body_bytes("/a"), http.concurrent("/a")), (100, Some(9)));
        assert_eq!((http.body_bytes("/b"), http.concurrent("/b")), (5, Some(9)));
        let again = Manifest::parse(&toml::to_string(&Manifest::parse(text).unwrap()).unwrap()).unwrap();
        assert_eq!(again.http.unwrap().limits, http.limits);
    }

    #[test]
    fn a_manifest_reads_and_its_packed_form_reads_the_same() {
        let manifest = Manifest::parse(WHOLE).unwrap();
        let packed = manifest.packed();
        assert_eq!(packed, Manifest::parse(&packed).unwrap().packed());
        assert_eq!(manifest.limits.timeout_ms, 500);
        assert_eq!(manifest.limits.max_memory_bytes, 64 << 20);
        assert!(manifest.may_send(&Topic::parse("audit.v1.a.b").unwrap()));
        assert!(!manifest.may_send(&Topic::parse("notes.v1.add").unwrap()));
        let interception = &manifest.intercept[0];
        assert_eq!((interception.priority, interception.fail), (100, Fail::Closed));
    }

    #[test]
    fn a_manifest_without_limits_has_thirty_seconds_64_mib_and_ten_billion_units_of_fuel() {
        let limits = Manifest::parse("[package]\nname = \"a\"\nversion = \"0.1.0\"\n").unwrap().limits;
        assert_eq!((limits.timeout_ms, limits.max_memory_bytes), (30_000, 64 << 20));
        assert_eq!(limits.max_fuel, 10_000_000_000);
    }

    #[test]
    fn sending_to_what_is_not_ones_own_is_asked_of_the_operator() {
        let asked = |publish: &str| {
            let text = WHOLE.replacen("audit.v1.*", publish, 1);
            let asked = Manifest::parse(&text).unwrap().asked();
            asked.iter().skip(2).map(|c| c.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(asked("audit.v1.*"), ["bus:send:audit:v1:*"]);
        assert_eq!(asked("*"), ["bus:send:*"]);
        assert_eq!(asked("notes"), ["bus:send:notes"]);
        assert!(asked("notes.v1.changed").is_empty());
        assert!(asked("notes.*").is_empty());
    }

    #[test]
    fn intercepting_what_is_not_ones_own_is_asked_of_the_operator() {
        let asked = |topic: &str| {
            let text = WHOLE.replacen("\"notes.v1.*\"", &format!("\"{topic}\""), 1);
            let asked = Manifest::parse(&text).unwrap().asked();
            asked.iter().skip(3).map(|c| c.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(asked("audit.v1.*"), ["bus:intercept:audit:v1:*"]);
        assert_eq!(asked("*"), ["bus:intercept:*"]);
        assert!(asked("notes.v1.*").is_empty());
    }

    #[test]
    fn isolation_is_by_call_unless_it_is_said_and_only_for_what_has_a_principal() {
        assert_eq!(Manifest::parse(WHOLE).unwrap().component.isolation, Isolation::Call);
        let warm = WHOLE.replacen("[http]", "[component]\nisolation = \"principal\"\n[http]", 1);
        let packed = Manifest::parse(&warm).unwrap().packed();
        assert_eq!(Manifest::parse(&packed).unwrap().component.isolation, Isolation::Principal);
        let front = "asks = [\"http:mount\"]\n[package]\nname = \"a\"\nversion = \"0.1.0\"\n\
                     [component]\nisolation = \"principal\"\n[http]\nmounts = [\"/a\"]\n";
        assert!(Manifest::parse(front).unwrap_err().to_string().contains("component.isolation"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |from: &str, to: &str| {
            assert!(WHOLE.contains(from), "{from}");
            Manifest::parse(&WHOLE.replacen(from, to, 1)).unwrap_err().to_string()
        };
        let cases = [
            ("handler = \"add\"", "handler = \"add\"\nhandlre = 1", "handlre"),
            ("name = \"notes\"", "name = \"Notes\"", "package.name"),
            ("name = \"notes\"", "name = \"host\"", "package.name"),
            ("version = \"1.2.3\"", "version = \"1.2\"", "line"),
            ("topic = \"notes.v1.add\"", "topic = \"notes..add\"", "empty segment"),
            ("requires = [\"notes:add\"]", "requires = [\"notes:*\"]", "can't hold a `*`"),
            ("requires = [\"notes:add\"]", "requires = [\"self:notes\"]", "plain form"),
            ("public = true", "public = true\nrequires = [\"a\"]", "holds nothing"),
            ("\"keys:session\"", "\"keys:*\"", "no host offers"),
            ("\"keys:session\"", "\"root\"", "no host offers"),
            ("\"keys:session\"", "\"keys:Session\"", "no host offers"),
            ("topic = \"notes.v1.hello\"", "topic = \"notes.v1.add\"", "bound twice"),
            ("\"keys:session\"", "\"bus:intercept:a\"", "no host offers"),
            ("handler = \"judge\"", "handler = \"\"", "1 to 64 bytes"),
            ("handler = \"judge\"", "handler = \"judge\"\npriority = 1001", "0 to 1000"),
            ("handler = \"judge\"", "handler = \"judge\"\npriority = -1", "line"),
            ("handler = \"judge\"", "handler = \"judge\"\nfail = \"maybe\"", "maybe"),
            ("[http]", "[component]\nisolation = \"none\"\n[http]", "none"),
            (
                "handler = \"judge\"",
                "handler = \"judge\"\n[[intercept]]\ntopic = \"notes.v1.*\"\nhandler = \"b\"",
                "intercepted twice",
            ),
            ("\"/notes\"", "\"/notes/\"", "http.mounts"),
            ("\"/notes\"", "\"/../x\"", "http.mounts"),
            ("\"/notes\"", "\"/metrics/x\"", "the host's own"),
            ("\"/notes\"", "\"/notes\", \"/notes\"", "twice"),
            ("[\"/notes\"]", "[\"/notes\"]\nmax-concurrent = 0", "http.max-concurrent = 0"),
            ("[\"/notes\"]", "[\"/notes\"]\n[http.limits.\"/other\"]", "none of http.mounts"),
            ("[\"/notes\"]", "[\"/notes\"]\nlimits.\"/notes\".max-body-bytes = 0", "max-body-bytes = 0"),
            ("[\"/notes\"]", "[\"/notes\"]\nlimits.\"/notes\".max-concurrent = 100001", "max-concurrent = 100001"),
            ("\"http:mount\", ", "", "needs asks"),
            ("timeout-ms = 500", "timeout-ms = 0", "limits.timeout-ms"),
            ("timeout-ms = 500", "max-memory-bytes = 1", "limits.max-memory-bytes"),
            ("timeout-ms = 500", "max-fuel = -1", "max-fuel"),
            ("danger = \"normal\"", "danger = \"none\"", "danger"),
        ];
        for (from, to, want) in cases {
            let error = with(from, to);
            assert!(error.contains(want), "{to}: {error}");
        }
    }
}
