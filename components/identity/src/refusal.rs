//! Why a request is not done. The sentence reaches the caller, so it never holds a token, a key or anything else that
//! the caller may not know.

/// A refusal, with the sentence for people. The variants are those of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The payload does not have the form, or a value is out of bounds: names the field, the value and the bound.
    Invalid(String),
    /// The caller may not do that, or its token, bearer or signature is not good; of those no more is said.
    Denied(String),
    /// What the request names does not exist.
    NotFound(String),
    /// It stands against what is there: exists already, is full, or is being changed.
    Conflict(String),
    /// The store or a key is away, or too busy; the same request may succeed later.
    Unavailable(String),
    /// A record or a setting that this component depends on can't be read.
    Internal(String),
}

impl Refusal {
    /// The sentence.
    pub fn reason(&self) -> &str {
        match self {
            Self::Invalid(reason)
            | Self::Denied(reason)
            | Self::NotFound(reason)
            | Self::Conflict(reason)
            | Self::Unavailable(reason)
            | Self::Internal(reason) => reason,
        }
    }
}
