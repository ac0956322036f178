//! `schema.json`: the WIT types of a capsule's topics as JSON Schema (2020-12), one document with a `$defs` entry for each.
//!
//! Owns how a WIT type reads as JSON, the document that the tools write (feature `wit`) and everybody else reads, and
//! what fits a type. Reading takes exactly what the tools write and nothing else of JSON Schema: no recursion, one shape
//! for each JSON value, so that checking a payload costs its bytes.
//!
//! Bounded by [`MAX_BYTES`] of a document, [`MAX_DEPTH`] of types in types, and serde_json's 128 levels of JSON.
//! Refuses to know topics' meaning, and what a type is for.
//!
//! | WIT | JSON |
//! |---|---|
//! | names of fields, cases and flags | `-` becomes `_`: `display-name` is `display_name` |
//! | `record` | an object with these fields and no others |
//! | `option<T>` | `T` or null; a field of this type may be left out |
//! | `list<T>`, `list<T, n>`, `tuple<…>` | an array |
//! | `map<string, T>` | an object |
//! | `enum` | one of these texts |
//! | `flags` | an array of these texts, each at most once |
//! | `variant` | a case without a payload is its name, one with a payload `{"name": payload}` |
//! | `result<T, E>` | `{"Ok": T}` or `{"Err": E}`, with null where there is no `T` or `E` |
//! | `bool`, `string`, `char` | a boolean, a text, a text of one character |
//! | integers, floats | a whole number within the type's bounds, a number |
//! | `type json = string` | any JSON value: a type of this name stands for what WIT can't describe |

mod check;
mod name;
mod parse;
mod render;
#[cfg(feature = "wit")]
pub mod wit;

use std::collections::BTreeSet;

pub use check::Misfit;
pub use name::{TypeName, Wit};
use serde_json::{Map, Value, json};

use crate::manifest::Manifest;
use crate::{Topic, shown};

/// The largest `schema.json`, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// What the schemas of all topics have together at most, each standing alone, in bytes: they are listed in one answer.
pub const MAX_LISTED_BYTES: usize = 512 << 10;
/// How deep types may refer to types.
pub const MAX_DEPTH: usize = 64;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Why a document is none, or does not go with its manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schema.json: {0}")]
pub struct SchemaError(pub String);

/// The types of one capsule.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schemas {
    /// Sorted by name; [`Shape::Named`] is an index into it.
    defs: Vec<Def>,
}

#[derive(Debug, Clone, PartialEq)]
struct Def {
    /// `interface.type`, of another package `namespace:package/interface@version.type`.
    name: String,
    shape: Described,
}

/// What JSON values a type has.
#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Any,
    Null,
    Boolean,
    Integer {
        least: i64,
        most: u64,
    },
    Number,
    Char,
    Text,
    Enum(Vec<String>),
    Flags(Vec<String>),
    List {
        items: Box<Shape>,
        exactly: Option<u32>,
    },
    Tuple(Vec<Shape>),
    /// Sorted by name.
    Record(Vec<Field>),
    Map(Box<Shape>),
    /// Never of another option.
    Option(Box<Shape>),
    Variant(Vec<Case>),
    Named(usize),
}

#[derive(Debug, Clone, PartialEq)]
struct Described {
    description: Option<String>,
    shape: Shape,
}

#[derive(Debug, Clone, PartialEq)]
struct Field {
    name: String,
    of: Described,
    required: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Case {
    name: String,
    description: Option<String>,
    payload: Option<Shape>,
}

impl Shape {
    /// The types that it is made of directly.
    fn parts(&self) -> Vec<&Shape> {
        match self {
            Shape::List { items: part, .. } | Shape::Map(part) | Shape::Option(part) => vec![part],
            Shape::Tuple(parts) => parts.iter().collect(),
            Shape::Record(fields) => fields.iter().map(|field| &field.of.shape).collect(),
            Shape::Variant(cases) => cases.iter().filter_map(|case| case.payload.as_ref()).collect(),
            _ => Vec::new(),
        }
    }

    /// The definitions that it refers to, at whatever depth in it.
    fn references(&self, found: &mut BTreeSet<usize>) {
        if let Shape::Named(n) = self {
            found.insert(*n);
        }
        self.parts().into_iter().for_each(|part| part.references(found));
    }
}

impl Schemas {
    /// Reads a document as [`Self::document`] writes it, and nothing else.
    pub fn parse(bytes: &[u8]) -> Result<Self, SchemaError> {
        if bytes.len() > MAX_BYTES {
            return Err(SchemaError(format!("has {} bytes; at most {MAX_BYTES} are taken", bytes.len())));
        }
        let schemas = parse::document(bytes)?;
        schemas.check_depth()?;
        Ok(schemas)
    }

    /// The document; the same types give the same text, and no types an empty one.
    pub fn document(&self) -> String {
        if self.defs.is_empty() { String::new() } else { render::document(self).to_string() }
    }

    fn find(&self, name: &TypeName) -> Option<&Def> {
        let at = self.defs.binary_search_by(|def| def.name.as_str().cmp(name.as_str())).ok()?;
        Some(&self.defs[at])
    }

    /// The schema of one type, which stands alone: what it refers to is in its own `$defs`.
    pub fn schema(&self, name: &TypeName) -> Option<Value> {
        if name.as_str() == TypeName::NOTHING {
            return Some(json!({ "type": "object", "properties": {}, "additionalProperties": false }));
        }
        let def = self.find(name)?;
        let mut schema = render::described(self, &def.shape);
        let mut reached = BTreeSet::new();
        def.shape.shape.references(&mut reached);
        let mut next: Vec<usize> = reached.iter().copied().collect();
        while let Some(n) = next.pop() {
            let mut more = BTreeSet::new();
            self.defs[n].shape.shape.references(&mut more);
            next.extend(more.into_iter().filter(|n| reached.insert(*n)));
        }
        if !reached.is_empty() {
            let defs = reached.iter().map(|n| &self.defs[*n]);
            let defs: Map<String, Value> =
                defs.map(|def| (def.name.clone(), render::described(self, &def.shape))).collect();
            schema["$defs"] = defs.into();
        }
        Some(schema)
    }

    /// Whether everything is here that a manifest names: every type, an object for every tool, and all of it small
    /// enough to be listed.
    pub fn check(&self, manifest: &Manifest) -> Result<(), SchemaError> {
        let mut listed = 0;
        for name in manifest.types() {
            let schema = self
                .schema(name)
                .ok_or_else(|| SchemaError(format!("has no type `{name}`, which Capsule.toml names")))?;
            listed += schema.to_string().len();
            if listed > MAX_LISTED_BYTES {
                return Err(SchemaError(format!(
                    "the types of all topics have more than {MAX_LISTED_BYTES} bytes, each with what it refers to"
                )));
            }
        }
        for tool in &manifest.tool {
            let binding = Topic::parse(&tool.topic).ok().and_then(|topic| manifest.handled(&topic));
            let takes = binding.and_then(|binding| binding.wit.as_ref()).map(|wit| &wit.payload);
            let object = takes.is_some_and(|name| {
                let record = |def: &Def| matches!(def.shape.shape, Shape::Record(_));
                name.as_str() == TypeName::NOTHING || self.find(name).is_some_and(record)
            });
            if !object {
                return Err(SchemaError(format!("tool `{}` does not take a record", tool.name)));
            }
        }
        Ok(())
    }

    /// Types refer to types no deeper than [`MAX_DEPTH`], so never in a circle.
    fn check_depth(&self) -> Result<(), SchemaError> {
        fn height(defs: &[Def], n: usize, depth: usize, known: &mut [usize]) -> Option<usize> {
            if known[n] == 0 {
                depth.checked_sub(1)?;
                let mut references = BTreeSet::new();
                defs[n].shape.shape.references(&mut references);
                let mut highest = 0;
                for reference in references {
                    highest = highest.max(height(defs, reference, depth - 1, known)?);
                }
                known[n] = highest + 1;
            }
            (known[n] <= depth).then_some(known[n])
        }
        let mut known = vec![0; self.defs.len()];
        for n in 0..self.defs.len() {
            if height(&self.defs, n, MAX_DEPTH, &mut known).is_none() {
                let name = shown(&self.defs[n].name);
                return Err(SchemaError(format!("`{name}` refers to types more than {MAX_DEPTH} deep, or to itself")));
            }
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "wit"))]
mod tests;
