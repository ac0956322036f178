//! Which keys and values a type takes from TOML, as data: read from its own `Deserialize`, so that it can't lag behind.
//!
//! Owns the probe that asks a type what it wants. Known are the forms that manifests use: structs, maps by name, lists,
//! options, enums without fields, texts, integers, booleans, and a scalar of any kind.

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};

/// What a value may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A table with these keys and no others.
    Struct(Vec<(&'static str, Shape)>),
    /// A table whose keys are the author's.
    Map(Box<Shape>),
    /// A table of the author's, whatever it holds.
    Table,
    List(Box<Shape>),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    Text,
    Integer,
    Boolean,
    /// A text, an integer, a number or a boolean.
    Scalar,
}

impl Shape {
    /// The shape of `T`.
    pub fn of<T: for<'de> Deserialize<'de>>() -> Self {
        build::<T>(&mut Vec::new())
    }

    /// The shape of a struct's key.
    pub fn key(&self, name: &str) -> Option<&Shape> {
        match self {
            Self::Struct(keys) => keys.iter().find(|(key, _)| *key == name).map(|(_, shape)| shape),
            Self::Map(values) => Some(values),
            _ => None,
        }
    }
}

/// What stands between "must be" and the end of a sentence.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Struct(_) | Self::Map(_) | Self::Table => f.write_str("a table"),
            Self::List(of) => match **of {
                Self::Struct(_) => f.write_str("a list of tables"),
                _ => f.write_str("a list"),
            },
            Self::OneOf(values) => {
                let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
                write!(f, "one of {}", quoted.join(", "))
            }
            Self::Text => f.write_str("a string"),
            Self::Integer => f.write_str("a whole number"),
            Self::Boolean => f.write_str("true or false"),
            Self::Scalar => f.write_str("a string, a number or a boolean"),
        }
    }
}

/// One step from a value to a value in it.
#[derive(Debug, Clone, Copy)]
enum Step {
    Key(&'static str),
    Value,
    Element,
}

/// What stands at the end of a path, without what is in it.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Struct(&'static [&'static str]),
    Map,
    List,
    OneOf(&'static [&'static str]),
    Text,
    Integer,
    Boolean,
    Scalar,
}

fn build<T: for<'de> Deserialize<'de>>(path: &mut Vec<Step>) -> Shape {
    let found = RefCell::new(None);
    // It never succeeds: the probe has no values to give.
    let _ = T::deserialize(Probe { path, found: &found });
    let kind = found.into_inner();
    let mut inner = |step: Step| {
        path.push(step);
        let shape = build::<T>(path);
        path.pop();
        shape
    };
    match kind {
        Some(Kind::Struct(keys)) => Shape::Struct(keys.iter().map(|key| (*key, inner(Step::Key(key)))).collect()),
        Some(Kind::Map) => match inner(Step::Value) {
            // Whoever takes values of no kind in particular takes them all.
            Shape::Scalar => Shape::Table,
            values => Shape::Map(Box::new(values)),
        },
        Some(Kind::List) => Shape::List(Box::new(inner(Step::Element))),
        Some(Kind::OneOf(values)) => Shape::OneOf(values),
        Some(Kind::Text) => Shape::Text,
        Some(Kind::Integer) => Shape::Integer,
        Some(Kind::Boolean) => Shape::Boolean,
        Some(Kind::Scalar) | None => Shape::Scalar,
    }
}

/// Leads a type along a path, and notes what it asks for at the end.
#[derive(Clone, Copy)]
struct Probe<'a> {
    path: &'a [Step],
    found: &'a RefCell<Option<Kind>>,
}

impl<'a> Probe<'a> {
    /// The step to go, or none where the path ends here, with `kind`.
    fn step(self, kind: Kind) -> Option<(Step, Self)> {
        let Some((first, rest)) = self.path.split_first() else {
            *self.found.borrow_mut() = Some(kind);
            return None;
        };
        Some((*first, Probe { path: rest, ..self }))
    }

    fn leaf<T>(self, kind: Kind) -> Result<T, Error> {
        let _ = self.step(kind);
        Err(end())
    }
}

fn end() -> Error {
    de::Error::custom("the probe ends here")
}

macro_rules! leaves {
    ($($method:ident => $kind:expr),+ $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            self.leaf($kind)
        })+
    };
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = Error;

    leaves! {
        deserialize_any => Kind::Scalar,
        deserialize_bool => Kind::Boolean,
        deserialize_i8 => Kind::Integer,
        deserialize_i16 => Kind::Integer,
        deserialize_i32 => Kind::Integer,
        deserialize_i64 => Kind::Integer,
        deserialize_u8 => Kind::Integer,
        deserialize_u16 => Kind::Integer,
        deserialize_u32 => Kind::Integer,
        deserialize_u64 => Kind::Integer,
        deserialize_f32 => Kind::Scalar,
        deserialize_f64 => Kind::Scalar,
        deserialize_char => Kind::Text,
        deserialize_str => Kind::Text,
        deserialize_string => Kind::Text,
        deserialize_bytes => Kind::Text,
        deserialize_byte_buf => Kind::Text,
        deserialize_unit => Kind::Scalar,
        deserialize_identifier => Kind::Text,
        deserialize_ignored_any => Kind::Scalar,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, Error> {
        self.leaf(Kind::Scalar)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (_, rest) = self.step(Kind::List).ok_or_else(end)?;
        visitor.visit_seq(One { key: None, rest })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (_, rest) = self.step(Kind::Map).ok_or_else(end)?;
        visitor.visit_map(One { key: Some("key"), rest })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let (step, rest) = self.step(Kind::Struct(fields)).ok_or_else(end)?;
        let Step::Key(key) = step else { return Err(end()) };
        visitor.visit_map(One { key: Some(key), rest })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.leaf(Kind::OneOf(variants))
    }
}

/// A map or a list with the one entry that the path leads to.
struct One<'a> {
    key: Option<&'static str>,
    rest: Probe<'a>,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let key: StrDeserializer<'_, Error> = self.key.take().ok_or_else(end)?.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.rest)
    }
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        seed.deserialize(self.rest).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    #[test]
    fn a_manifests_shape_is_the_one_that_it_reads() {
        let shape = Shape::of::<Manifest>();
        let Shape::List(subscribe) = shape.key("subscribe").unwrap() else { panic!("{shape:?}") };
        assert_eq!(subscribe.key("topic"), Some(&Shape::Text));
        assert_eq!(subscribe.key("requires"), Some(&Shape::List(Box::new(Shape::Text))));
        assert_eq!(subscribe.key("public"), Some(&Shape::Boolean));
        assert_eq!(subscribe.key("queue-bytes"), Some(&Shape::Integer));
        assert_eq!(subscribe.key("nothing"), None);
        let Shape::Map(env) = shape.key("env").unwrap() else { panic!("{shape:?}") };
        assert_eq!(env.key("type"), Some(&Shape::OneOf(&["string", "number", "boolean", "secret"])));
        assert_eq!(env.key("default"), Some(&Shape::Scalar));
        assert_eq!(shape.key("limits").and_then(|limits| limits.key("max-fuel")), Some(&Shape::Integer));
        assert_eq!(shape.key("package").and_then(|package| package.key("version")), Some(&Shape::Text));
    }
}
