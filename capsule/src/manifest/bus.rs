//! `[[publish]]`, `[[subscribe]]` and `[[intercept]]`: what a capsule sends, which topics reach it, and which messages it
//! sees before anybody gets them.

use serde::{Deserialize, Serialize};

use super::{grant, text};
use crate::schema::Wit;
use crate::{Capability, Pattern, capability};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Publish {
    #[serde(with = "text::pattern")]
    pub topic: Pattern,
    /// The types of what is sent, and of what is answered to a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wit: Option<Wit>,
}

impl Publish {
    /// `n`: its place in the list.
    pub(super) fn check(&self, n: usize) -> Result<(), String> {
        grantable(&format!("publish[{n}]"), grant::SEND, &self.topic)
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Subscribe {
    #[serde(with = "text::pattern")]
    pub topic: Pattern,
    /// The name that the component's handler is called with. Either this or `delivery`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Makes it a topic that the component's code may subscribe to, instead of one that a handler is called for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Capabilities that the message's principal must hold, every one, checked by the host with the message's target.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "text::capabilities")]
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

    /// `before`: the bindings above it.
    pub(super) fn check(&self, before: &[Self]) -> Result<(), String> {
        let n = before.len();
        grantable(&format!("subscribe[{n}]"), grant::RECEIVE, &self.topic)?;
        let at = format!("subscribe[{n}] ({})", self.topic);
        if before.iter().any(|other| other.topic == self.topic) {
            return Err(format!("{at}: the topic is bound twice"));
        }
        match (&self.handler, self.delivery) {
            (None, None) => return Err(format!("{at}: handler is missing, or delivery for a subscription")),
            (Some(_), Some(_)) => {
                return Err(format!("{at}: has handler and delivery; a subscription calls no handler"));
            }
            (Some(handler), None) if handler.is_empty() || handler.len() > 64 => {
                return Err(format!("{at}: handler must have 1 to 64 bytes"));
            }
            (None, Some(_)) if self.wit.as_ref().is_some_and(|wit| wit.answer.is_some()) => {
                return Err(format!("{at}: wit.answer is for handlers; a subscription answers nothing"));
            }
            (None, Some(_)) if self.audit == Audit::Strict => {
                return Err(format!("{at}: audit = \"strict\" is for handlers; a subscription answers nothing"));
            }
            (None, Some(_)) if !self.ordered => {
                return Err(format!("{at}: ordered = false is for handlers; a subscription keeps the order"));
            }
            _ => {}
        }
        if let Some(bytes) = self.queue_bytes.filter(|bytes| !Subscribe::QUEUE_BYTES.contains(bytes)) {
            return Err(format!("{at}: queue-bytes = {bytes} must be 4096 to 67108864"));
        }
        if let Some(wild) = self.requires.iter().find(|c| c.is_pattern()) {
            return Err(format!("{at}: requires `{wild}`, but what is required can't hold a `*`"));
        }
        if let Some(own) = self.requires.iter().find(|c| c.segments().next() == Some("self")) {
            return Err(format!(
                "{at}: requires `{own}`; write the plain form, its self: form is enough where the target is the caller"
            ));
        }
        if self.public && !self.requires.is_empty() {
            return Err(format!("{at}: is public and requires {:?}; `anonymous` holds nothing", self.requires));
        }
        Ok(())
    }
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
    #[serde(with = "text::pattern")]
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

    /// `before`: the interceptions above it.
    pub(super) fn check(&self, before: &[Self]) -> Result<(), String> {
        let n = before.len();
        grantable(&format!("intercept[{n}]"), grant::INTERCEPT, &self.topic)?;
        let at = format!("intercept[{n}] ({})", self.topic);
        if before.iter().any(|other| other.topic == self.topic) {
            return Err(format!("{at}: the topic is intercepted twice"));
        }
        if self.handler.is_empty() || self.handler.len() > 64 {
            return Err(format!("{at}: handler must have 1 to 64 bytes"));
        }
        if self.priority > Intercept::MAX_PRIORITY {
            return Err(format!("{at}: priority = {} must be 0 to 1000", self.priority));
        }
        Ok(())
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

/// Whether the capability that is derived from a topic of this family has a length that can be granted.
fn grantable(at: &str, family: &str, topic: &Pattern) -> Result<(), String> {
    if family.len() + 1 + topic.as_str().len() > capability::MAX_BYTES {
        return Err(format!("{at}: the topic is too long to be granted"));
    }
    Ok(())
}
