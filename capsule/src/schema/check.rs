//! Whether JSON fits a type, in one pass over its bytes, without building a value.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Field, Schemas, Shape, TypeName};

/// Where and why JSON does not fit its type. Never repeats a value, nor a name that is as long as a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at `{pointer}`: {why}")]
pub struct Misfit {
    /// A JSON pointer; empty at the top.
    pub pointer: String,
    pub why: String,
}

/// The longest name of the payload's own that an error repeats, in bytes.
const MAX_SHOWN: usize = 32;
/// The longest pointer, in bytes; longer ones end in `…`.
const MAX_POINTER: usize = 256;

impl Schemas {
    /// Whether `json` is one JSON value of this type. Costs its bytes, whatever the type.
    pub fn fit(&self, name: &TypeName, json: &[u8]) -> Result<(), Misfit> {
        let nothing = Shape::Record(Vec::new());
        let shape = match self.find(name) {
            Some(def) => &def.shape.shape,
            None if name.as_str() == TypeName::NOTHING => &nothing,
            None => return Err(Misfit { pointer: String::new(), why: format!("there is no type `{name}`") }),
        };
        let mut state = State { schemas: self, path: Vec::new(), misfit: None };
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let read = Seed { state: &mut state, shape }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
        read.map_err(|error| {
            let pointer = state.pointer();
            state.misfit.unwrap_or_else(|| Misfit { pointer, why: format!("is not JSON: {error}") })
        })
    }
}

/// A step from the top down to a value.
enum Step<'a> {
    Field(&'a str),
    /// A name of the payload's own.
    Key(String),
    Index(usize),
}

struct State<'a> {
    schemas: &'a Schemas,
    path: Vec<Step<'a>>,
    misfit: Option<Misfit>,
}

impl State<'_> {
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.path {
            pointer.push('/');
            match step {
                Step::Field(name) => pointer.push_str(name),
                Step::Key(name) => pointer.push_str(&short(name).replace('~', "~0").replace('/', "~1")),
                Step::Index(n) => pointer.push_str(&n.to_string()),
            }
            if pointer.len() > MAX_POINTER {
                pointer.push_str("/…");
                break;
            }
        }
        pointer
    }

    /// Remembers what is wrong here; the error that is returned ends the reading.
    fn misfit<E: Error>(&mut self, why: impl Into<String>) -> E {
        self.misfit = Some(Misfit { pointer: self.pointer(), why: why.into() });
        E::custom("")
    }
}

fn short(name: &str) -> String {
    if name.len() > MAX_SHOWN { format!("({} bytes)", name.len()) } else { name.escape_debug().to_string() }
}

struct Seed<'s, 'a> {
    state: &'s mut State<'a>,
    shape: &'a Shape,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        let mut nullable = false;
        // No recursion: references are in no circle, and at most `MAX_DEPTH` in a row.
        loop {
            match self.shape {
                Shape::Named(n) => self.shape = &self.state.schemas.defs[*n].shape.shape,
                Shape::Option(some) => (nullable, self.shape) = (true, some),
                Shape::Any => return IgnoredAny::deserialize(deserializer).map(drop),
                _ => break,
            }
        }
        deserializer.deserialize_any(Value { state: self.state, shape: self.shape, nullable })
    }
}

struct Value<'s, 'a> {
    state: &'s mut State<'a>,
    /// Neither a reference nor an option.
    shape: &'a Shape,
    nullable: bool,
}

impl<'a> Value<'_, 'a> {
    fn other<E: Error>(self) -> E {
        let must = match self.shape {
            Shape::Any | Shape::Named(_) | Shape::Option(_) => "something else",
            Shape::Null => "null",
            Shape::Boolean => "true or false",
            Shape::Integer { least, most } => {
                let why = format!("must be a whole number from {least} to {most}");
                return self.state.misfit(why);
            }
            Shape::Number => "a number",
            Shape::Char => "a text of one character",
            Shape::Text => "a text",
            Shape::Enum(names) => return self.state.misfit(format!("must be one of {}", names.join(", "))),
            Shape::Flags(_) | Shape::List { .. } | Shape::Tuple(_) => "an array",
            Shape::Record(_) | Shape::Map(_) => "an object",
            Shape::Variant(cases) => {
                let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
                return self.state.misfit(format!("must be one case of {}", names.join(", ")));
            }
        };
        self.state.misfit(format!("must be {must}"))
    }

    fn record<'de, A: MapAccess<'de>>(self, fields: &'a [Field], mut map: A) -> Result<(), A::Error> {
        let mut seen = vec![false; fields.len()];
        while let Some(name) = map.next_key::<String>()? {
            let Ok(n) = fields.binary_search_by(|field| field.name.as_str().cmp(&name)) else {
                return Err(self.state.misfit(format!("has a field `{}`, which its type does not have", short(&name))));
            };
            let field = &fields[n];
            if std::mem::replace(&mut seen[n], true) {
                return Err(self.state.misfit(format!("has the field `{}` twice", field.name)));
            }
            self.state.path.push(Step::Field(&field.name));
            map.next_value_seed(Seed { state: self.state, shape: &field.of.shape })?;
            self.state.path.pop();
        }
        match fields.iter().zip(seen).find(|(field, seen)| field.required && !seen) {
            Some((field, _)) => Err(self.state.misfit(format!("lacks the field `{}`", field.name))),
            None => Ok(()),
        }
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of its type")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.nullable || *self.shape == Shape::Null { Ok(()) } else { Err(self.other()) }
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        if *self.shape == Shape::Boolean { Ok(()) } else { Err(self.other()) }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        match self.shape {
            Shape::Number => Ok(()),
            // What is not negative comes as `u64`.
            Shape::Integer { least, .. } if *least <= number => Ok(()),
            _ => Err(self.other()),
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        match self.shape {
            Shape::Number => Ok(()),
            Shape::Integer { most, .. } if number <= *most => Ok(()),
            _ => Err(self.other()),
        }
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        if *self.shape == Shape::Number { Ok(()) } else { Err(self.other()) }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let fits = match self.shape {
            Shape::Text => true,
            Shape::Char => text.chars().nth(1).is_none() && !text.is_empty(),
            Shape::Enum(names) => names.iter().any(|name| name == text),
            Shape::Variant(cases) => cases.iter().any(|case| case.name == text && case.payload.is_none()),
            _ => false,
        };
        if fits { Ok(()) } else { Err(self.other()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let (state, mut n) = (self.state, 0);
        match self.shape {
            Shape::List { items, exactly } => {
                state.path.push(Step::Index(0));
                while seq.next_element_seed(Seed { state, shape: items })?.is_some() {
                    n += 1;
                    *state.path.last_mut().expect("pushed above") = Step::Index(n);
                }
                state.path.pop();
                match exactly {
                    Some(exactly) if n != *exactly as usize => {
                        Err(state.misfit(format!("must have {exactly} elements, not {n}")))
                    }
                    _ => Ok(()),
                }
            }
            Shape::Tuple(parts) => {
                for (n, shape) in parts.iter().enumerate() {
                    state.path.push(Step::Index(n));
                    if seq.next_element_seed(Seed { state, shape })?.is_none() {
                        state.path.pop();
                        return Err(state.misfit(format!("must have {} elements, not {n}", parts.len())));
                    }
                    state.path.pop();
                }
                match seq.next_element::<IgnoredAny>()? {
                    Some(_) => Err(state.misfit(format!("must have {} elements, not more", parts.len()))),
                    None => Ok(()),
                }
            }
            Shape::Flags(names) => {
                let mut seen = vec![false; names.len()];
                let must = || format!("must be an array of {}", names.join(", "));
                while let Some(flag) = seq.next_element::<String>().map_err(|_| state.misfit(must()))? {
                    let Some(known) = names.iter().position(|name| *name == flag) else {
                        return Err(state.misfit(must()));
                    };
                    if std::mem::replace(&mut seen[known], true) {
                        return Err(state.misfit(format!("has `{}` twice", names[known])));
                    }
                }
                Ok(())
            }
            shape => Err(Value { state, shape, nullable: false }.other()),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.shape {
            Shape::Record(fields) => self.record(fields, map),
            Shape::Map(values) => {
                while let Some(name) = map.next_key()? {
                    self.state.path.push(Step::Key(name));
                    map.next_value_seed(Seed { state: self.state, shape: values })?;
                    self.state.path.pop();
                }
                Ok(())
            }
            Shape::Variant(cases) => {
                let name: Option<String> = map.next_key()?;
                let case = name.and_then(|name| cases.iter().find(|case| case.name == name));
                let Some((case, payload)) = case.and_then(|case| Some((case, case.payload.as_ref()?))) else {
                    return Err(self.other());
                };
                self.state.path.push(Step::Field(&case.name));
                map.next_value_seed(Seed { state: self.state, shape: payload })?;
                self.state.path.pop();
                if map.next_key::<IgnoredAny>()?.is_some() { Err(self.other()) } else { Ok(()) }
            }
            _ => Err(self.other()),
        }
    }
}
