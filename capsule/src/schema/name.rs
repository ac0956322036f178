//! What a manifest calls a type: `interface.type` of the capsule's own WIT package.

use std::fmt;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::{Invalid, shown};

/// The name of a type: `interface.type`, each the name that stands in WIT, or [`TypeName::NOTHING`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeName(String);

impl TypeName {
    /// An object without fields, `{}`: WIT has no record for it.
    pub const NOTHING: &str = "nothing";
    /// The longest interface or type, in bytes.
    const MAX_WORD_BYTES: usize = 64;

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let word = |word: &str| {
            word.len() <= Self::MAX_WORD_BYTES
                && word.split('-').all(|part| {
                    part.starts_with(|c: char| c.is_ascii_alphabetic())
                        && part.bytes().all(|b| b.is_ascii_alphanumeric())
                })
        };
        let named = text.split_once('.').is_some_and(|(interface, name)| word(interface) && word(name));
        if !named && text != Self::NOTHING {
            return Err(Invalid(format!(
                "type `{}` must be `interface.type` as they stand in WIT, or `{}`",
                shown(text),
                Self::NOTHING
            )));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Interface and type; none of [`Self::NOTHING`].
    pub fn parts(&self) -> Option<(&str, &str)> {
        self.0.split_once('.')
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TypeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Serialize for TypeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The types of a topic: `wit = { payload = "…", answer = "…" }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wit {
    /// Of requests and publications.
    pub payload: TypeName,
    /// Of what a request is answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<TypeName>,
}

impl Wit {
    pub fn names(&self) -> impl Iterator<Item = &TypeName> {
        [&self.payload].into_iter().chain(&self.answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_an_interface_and_a_type_as_wit_names_them() {
        for fine in ["nothing", "notes.add", "notes.add-request", "a.b2", "HTTP-notes.URL"] {
            assert_eq!(TypeName::parse(fine).unwrap().as_str(), fine);
        }
        let long = format!("a.{}", "b".repeat(65));
        for bad in ["", "notes", "notes.", ".add", "notes/add", "notes.add.x", "notes.1", "notes.a_b", "a.b-", &long] {
            assert!(TypeName::parse(bad).unwrap_err().to_string().contains("interface.type"), "{bad}");
        }
    }
}
