//! Ids of principals.

use std::sync::Arc;

use crate::{Invalid, shown};

/// Whoever sends without a session. Holds no capability and can't be given any.
pub const ANONYMOUS: &str = "anonymous";

/// 1 to 64 of `[A-Za-z0-9_-]`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrincipalId(Arc<str>);

impl PrincipalId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Checks the grammar. `anonymous` passes: it is a principal, one that holds nothing.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.len() > Self::MAX_BYTES {
            return Err(Invalid(format!("principal `{}` must have 1 to 64 characters", shown(text))));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(Invalid(format!("principal `{}` may only hold A-Z a-z 0-9 _ -", shown(text))));
        }
        Ok(Self(text.into()))
    }

    pub fn anonymous() -> Self {
        Self(ANONYMOUS.into())
    }

    pub fn is_anonymous(&self) -> bool {
        &*self.0 == ANONYMOUS
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

shows_its_text!(PrincipalId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_1_to_64_of_the_documented_characters() {
        for good in ["a", "default", "Agent_7-x", &"x".repeat(64), ANONYMOUS] {
            assert_eq!(PrincipalId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "ä", "a:b", "a\0", "../x", &"x".repeat(65)] {
            assert!(PrincipalId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
