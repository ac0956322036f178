//! Reading requests and stored records, and checking bounds.
//!
//! Requests are JSON objects with known fields only. Errors name the field, the value and the bound, except that nothing
//! long enough to be a token or a key in the wrong place is ever repeated.

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::ops::RangeInclusive;

use astrid_capsule::PrincipalId;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Number;

use crate::refusal::Refusal;

/// The longest piece of a request that an error repeats, in bytes. Every token, key and bearer is longer.
const MAX_SHOWN: usize = 32;

/// An invalid value: `field` (with its value, if that may be repeated) and what it must be.
pub fn invalid(field: impl Display, bound: impl Display) -> Refusal {
    Refusal::Invalid(format!("{field} must be {bound}"))
}

/// Reads a request. An empty payload is an object without fields.
pub fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    let payload = if payload.is_empty() { b"{}" } else { payload };
    // A struct would also read from an array of its fields.
    if payload.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(invalid("the payload", "a JSON object"));
    }
    serde_json::from_slice(payload).map_err(|error| {
        let text = error.to_string();
        if text.split([' ', '`', '"']).any(|word| word.len() > MAX_SHOWN) {
            let (line, column) = (error.line(), error.column());
            return Refusal::Invalid(format!("a value has the wrong type or place at line {line} column {column}"));
        }
        Refusal::Invalid(text)
    })
}

/// Reads a request that has no fields.
pub fn read_empty(payload: &[u8]) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Empty {}

    let Empty {} = read(payload)?;
    Ok(())
}

/// A field that is a JSON object: a struct would also read from an array of its fields.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(Object(PhantomData))
}

/// Tells null from a field that is not there, which is none.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A field for which null stands for what an absent one does.
pub fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A principal's id in a field of a request.
pub fn principal(field: &str, text: &str) -> Result<(), Refusal> {
    let grammar = "a principal id: 1 to 64 of A-Z a-z 0-9 _ -";
    PrincipalId::parse(text).map(drop).map_err(|_| invalid(format!("{field} {}", shown(text)), grammar))
}

/// Reads a record that this component wrote. `what` names it in the refusal.
pub fn stored<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|_| Refusal::Internal(format!("the stored record of {what} can't be read")))
}

/// The bytes of a record, for the store.
pub fn to_store<T: Serialize>(record: &T) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(record).map_err(|error| Refusal::Internal(error.to_string()))
}

/// A whole number within `bounds`.
pub fn bounded(field: &str, number: &Number, bounds: RangeInclusive<u32>) -> Result<u32, Refusal> {
    let value = number.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| bounds.contains(n));
    value.ok_or_else(|| invalid(format!("{field} = {number}"), format!("{} to {}", bounds.start(), bounds.end())))
}

/// A value as an error may repeat it.
pub fn shown(value: &str) -> String {
    if value.len() > MAX_SHOWN {
        return format!("of {} bytes", value.len());
    }
    format!("`{}`", value.escape_debug())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read from JSON")]
    struct Request {
        #[serde(default)]
        uses: Option<Number>,
        #[serde(default)]
        name: Option<String>,
    }

    fn refused(payload: &str) -> String {
        match read::<Request>(payload.as_bytes()) {
            Err(Refusal::Invalid(reason)) => reason,
            other => panic!("{payload} gives {other:?}"),
        }
    }

    #[test]
    fn only_objects_with_known_fields_are_read() {
        assert!(read::<Request>(b"").is_ok() && read::<Request>(b" \n{}").is_ok());
        for payload in ["[1, null]", "null", "\"x\"", "1", " "] {
            assert_eq!(refused(payload), "the payload must be a JSON object", "{payload}");
        }
        assert!(refused(r#"{"usse":1}"#).contains("unknown field `usse`, expected `uses` or `name`"));
        assert!(refused(r#"{"uses":1,"uses":2}"#).contains("duplicate field `uses`"));
        assert!(refused(r#"{"name":1}"#).contains("integer `1`"));
        assert!(refused("{").contains("line 1"));
        assert!(refused(r#"{"name":"a"} x"#).contains("trailing"));
        assert!(refused(&format!("{{\"name\":{}", "[".repeat(100_000))).len() < 200);
    }

    #[test]
    fn a_credential_in_the_wrong_place_is_not_repeated() {
        let token = format!("astrid-inv-{}", "A".repeat(43));
        for payload in [format!(r#"{{"{token}":1}}"#), format!(r#"{{"uses":"{token}"}}"#), format!("\"{token}\"")] {
            let reason = refused(&payload);
            assert!(!reason.contains("AAAA"), "{reason}");
        }
        assert!(!shown(&token).contains("AAAA"));
    }

    #[test]
    fn a_bound_names_the_field_the_value_and_the_bound() {
        for (number, fits) in [("1", true), ("10", true), ("0", false), ("11", false), ("-1", false), ("1.5", false)] {
            let read = bounded("uses", &serde_json::from_str(number).unwrap(), 1..=10);
            assert_eq!(read.is_ok(), fits, "{number}");
            if let Err(refusal) = read {
                assert_eq!(refusal.reason(), format!("uses = {number} must be 1 to 10"));
            }
        }
        assert!(bounded("uses", &serde_json::from_str("1e300").unwrap(), 1..=10).is_err());
    }
}
