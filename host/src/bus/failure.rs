//! How a request ends without an answer, and what a sender is told.

/// A handler's refusal, passed on as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    Invalid,
    Denied,
    NotFound,
    Conflict,
    Unavailable,
    Internal,
}

/// Every way in which a request ends without an answer; `wit/bus` says when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    NoResponder,
    Denied(String),
    Timeout,
    Overloaded { retry_ms: u32 },
    TooLarge { limit: u64 },
    Invalid(String),
    Trapped,
    Refused(Refusal),
    Closed,
}

/// What somebody is told to wait who found no room in a queue, in milliseconds.
pub(super) const RETRY_MS: u32 = 100;

impl Failure {
    /// One word for metrics and log lines.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::NoResponder => "no-responder",
            Failure::Denied(_) => "denied",
            Failure::Timeout => "timeout",
            Failure::Overloaded { .. } => "overloaded",
            Failure::TooLarge { .. } => "too-large",
            Failure::Invalid(_) => "invalid",
            Failure::Trapped => "trapped",
            Failure::Refused(_) => "refused",
            Failure::Closed => "closed",
        }
    }
}
