//! How names that have a grammar stand in TOML: as texts, checked when they are read.

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serializer};

use crate::{Capability, Pattern};

pub(super) mod pattern {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Pattern, D::Error> {
        Pattern::parse(&String::deserialize(d)?).map_err(de::Error::custom)
    }

    pub(crate) fn serialize<S: Serializer>(p: &Pattern, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(p.as_str())
    }
}

pub(super) mod capability {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Capability, D::Error> {
        Capability::parse(&String::deserialize(d)?).map_err(de::Error::custom)
    }

    pub(crate) fn serialize<S: Serializer>(c: &Capability, s: S) -> Result<S::Ok, S::Error> {
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
