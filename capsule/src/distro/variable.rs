//! `[variables]`: what differs between the hosts that run a distribution, and the values of fields that are made of them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::template::{Piece, pieces};
use super::{Distro, Entry, short, word};
use crate::env::{self, Scalar};

/// What differs between the hosts that run the distribution.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Variable {
    /// A secret has no default, and goes into fields alone that are secret as well.
    #[serde(default)]
    pub secret: bool,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub default: Option<String>,
}

impl Variable {
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        if !is_variable(name) {
            return Err("a variable's name is 1 to 64 of a-z 0-9 - _, beginning with a letter".into());
        }
        short(self.description.as_ref()).map_err(|why| format!("description {why}"))?;
        if self.secret && self.default.is_some() {
            return Err("a secret has no default: the distribution is no secret".into());
        }
        match &self.default {
            Some(default) if default.len() > env::MAX_VALUE_BYTES => {
                Err(format!("default is longer than {} bytes", env::MAX_VALUE_BYTES))
            }
            _ => Ok(()),
        }
    }
}

/// Whether it can be the name of a variable: 1 to 64 of `[a-z0-9_-]`, beginning with a letter.
pub fn is_variable(name: &str) -> bool {
    word(&name.replace('_', "-")).is_ok()
}

/// A variable without a value, and where it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undefined {
    pub variable: String,
    /// Such as `capsule notes, env.KEY`.
    pub used_by: String,
}

impl fmt::Display for Undefined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: variable `{}` has no value", self.used_by, self.variable)
    }
}

impl Distro {
    /// The values of a capsule's fields, where `variable` knows those that the operator has given; and every variable
    /// without one, whose fields are left out.
    pub fn values<'v>(
        &self,
        entry: &Entry,
        variable: impl Fn(&str) -> Option<&'v str>,
    ) -> (BTreeMap<String, String>, Vec<Undefined>) {
        let mut values: BTreeMap<String, String> =
            self.told(entry).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut undefined = Vec::new();
        for (field, value) in &entry.env {
            let before = undefined.len();
            let mut text = String::new();
            let scalar = value.to_string();
            let parts = match value {
                Scalar::Text(template) => pieces(template).unwrap_or_default(),
                _ => vec![Piece::Text(&scalar)],
            };
            for piece in parts {
                let name = match piece {
                    Piece::Text(literal) => {
                        text.push_str(literal);
                        continue;
                    }
                    Piece::Variable(name) => name,
                };
                let default = || self.variables.get(name).and_then(|variable| variable.default.as_deref());
                match variable(name).or_else(default) {
                    Some(value) => text.push_str(value),
                    None => undefined.push(Undefined {
                        variable: name.into(),
                        used_by: format!("capsule {}, env.{field}", entry.name),
                    }),
                }
            }
            if undefined.len() == before {
                values.insert(field.clone(), text);
            }
        }
        (values, undefined)
    }
}

/// The variables that a value is made of.
pub(super) fn variables_of(value: &Scalar) -> Result<Vec<String>, String> {
    let Scalar::Text(template) = value else { return Ok(Vec::new()) };
    let variables = pieces(template)?.into_iter().filter_map(|piece| match piece {
        Piece::Variable(name) => Some(name.to_owned()),
        Piece::Text(_) => None,
    });
    Ok(variables.collect())
}
