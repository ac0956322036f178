//! `[env.NAME]` of a manifest: what a capsule needs to be told from outside, and which values fit.
//!
//! Owns the grammar of fields and the one check of a value against its field. Refuses to know where values are kept and
//! for whom.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::shown;

/// The fields of one manifest by name.
pub type Fields = BTreeMap<String, Field>;

/// The most fields of one manifest.
pub const MAX_FIELDS: usize = 64;
/// The longest name of a field, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// The largest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 8 << 10;
/// The longest description, request and placeholder, and the longest of the enum values, in bytes.
pub const MAX_TEXT_BYTES: usize = 500;
/// The most enum values of one field.
pub const MAX_ENUM_VALUES: usize = 64;

/// What a value must be. Values are texts everywhere; a kind says which texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    String,
    /// A finite decimal number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A text, not empty, that nobody but the capsule reads again.
    Secret,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
            Kind::Secret => "secret",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Field {
    #[serde(rename = "type")]
    pub kind: Kind,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The question to ask whoever is to set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// What holds for principals without a value of their own. Never for a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Scalar>,
    /// For strings: where it is not empty, nothing else is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enum_values: Vec<String>,
    /// What a value looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
    /// Who gives it a value.
    #[serde(default, skip_serializing_if = "Scope::is_principal")]
    pub scope: Scope,
}

/// Who gives a field its value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Each principal its own, over what the distribution says.
    #[default]
    Principal,
    /// The distribution alone: what every call must find the same, whoever calls.
    Host,
}

impl Scope {
    fn is_principal(&self) -> bool {
        *self == Self::Principal
    }
}

/// A default as TOML has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// Takes a whole number as it is or not at all: TOML's go up to 2^63 - 1, and a larger one would lose its last digits.
struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number or a boolean")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Boolean(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
        let fits = i64::try_from(value).map(Scalar::Integer);
        fits.map_err(|_| E::custom(format!("{value} is larger than {}, the largest whole number of TOML", i64::MAX)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.into()))
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Boolean(value) => write!(f, "{value}"),
            Scalar::Integer(value) => write!(f, "{value}"),
            Scalar::Float(value) => write!(f, "{value}"),
            Scalar::Text(value) => f.write_str(value),
        }
    }
}

impl Field {
    /// The default as a value.
    pub fn default_value(&self) -> Option<String> {
        self.default.as_ref().map(Scalar::to_string)
    }

    /// Whether the field takes this value. The error says what it takes, and never repeats the value.
    pub fn check(&self, value: &str) -> Result<(), String> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!("the value has more than {MAX_VALUE_BYTES} bytes"));
        }
        match self.kind {
            Kind::String if !self.enum_values.is_empty() && !self.enum_values.iter().any(|v| v == value) => {
                Err(format!("the value must be one of: {}", shown_list(&self.enum_values)))
            }
            Kind::Number if !is_number(value) => Err("the value must be a decimal number".into()),
            Kind::Boolean if value != "true" && value != "false" => Err("the value must be true or false".into()),
            Kind::Secret if value.is_empty() => Err("a secret can't be empty; clear it instead".into()),
            _ => Ok(()),
        }
    }

    /// Whether the field itself is sound.
    fn check_declared(&self) -> Result<(), String> {
        let texts =
            [("description", &self.description), ("request", &self.request), ("placeholder", &self.placeholder)];
        if let Some((name, _)) = texts.iter().find(|(_, text)| text.as_ref().is_some_and(|t| t.len() > MAX_TEXT_BYTES))
        {
            return Err(format!("{name} is longer than {MAX_TEXT_BYTES} bytes"));
        }
        if self.enum_values.len() > MAX_ENUM_VALUES {
            return Err(format!("enum-values has more than {MAX_ENUM_VALUES} entries"));
        }
        if self.enum_values.iter().any(|value| value.len() > MAX_TEXT_BYTES) {
            return Err(format!("enum-values has an entry of more than {MAX_TEXT_BYTES} bytes"));
        }
        if !self.enum_values.is_empty() && self.kind != Kind::String {
            return Err(format!("enum-values are for type = \"string\", not \"{}\"", self.kind));
        }
        let Some(default) = &self.default else { return Ok(()) };
        let fits = match self.kind {
            Kind::Secret => return Err("a secret has no default: the manifest is no secret".into()),
            Kind::String => matches!(default, Scalar::Text(_)),
            Kind::Number => matches!(default, Scalar::Integer(_) | Scalar::Float(_)),
            Kind::Boolean => matches!(default, Scalar::Boolean(_)),
        };
        if !fits {
            return Err(format!("the default is no {}", self.kind));
        }
        self.check(&default.to_string()).map_err(|why| format!("default: {why}"))
    }
}

/// Digits with a sign, a fraction and an exponent where they are wanted; `inf` and `nan` are no numbers.
fn is_number(text: &str) -> bool {
    text.len() <= 512
        && text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && text.parse::<f64>().is_ok_and(f64::is_finite)
}

fn shown_list(values: &[String]) -> String {
    let mut out: Vec<String> = values.iter().take(16).map(|value| shown(value)).collect();
    if values.len() > 16 {
        out.push("…".into());
    }
    out.join(", ")
}

/// Whether it can be the name of a field: 1 to 64 of `[A-Z0-9_]`.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// The first thing that is wrong with a manifest's fields.
pub(crate) fn check(fields: &Fields) -> Result<(), String> {
    if fields.len() > MAX_FIELDS {
        return Err(format!("env has more than {MAX_FIELDS} fields"));
    }
    for (name, field) in fields {
        if !is_name(name) {
            return Err(format!("env.{}: a field's name must be 1 to 64 of A-Z 0-9 _", shown(name)));
        }
        field.check_declared().map_err(|why| format!("env.{name}: {why}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::manifest::Manifest;

    use super::*;

    fn manifest(env: &str) -> Result<Manifest, String> {
        let text = format!("[package]\nname = \"a\"\nversion = \"0.1.0\"\n{env}");
        Manifest::parse(&text).map_err(|error| error.to_string())
    }

    fn field(text: &str) -> Field {
        manifest(&format!("[env.A]\n{text}")).unwrap().env["A"].clone()
    }

    #[test]
    fn a_whole_number_that_toml_does_not_have_is_refused_and_not_rounded() {
        let default = |number: &str| manifest(&format!("[env.A]\ntype = \"number\"\ndefault = {number}"));
        let most = default("9223372036854775807").unwrap().env["A"].default_value();
        assert_eq!(most.as_deref(), Some("9223372036854775807"));
        for number in ["9223372036854775808", "18446744073709551615", "340282366920938463463374607431768211456"] {
            let error = default(number).unwrap_err();
            assert!(error.contains("line 6"), "{error}");
        }
        assert!(default("18446744073709551615").unwrap_err().contains("is larger than 9223372036854775807"));
    }

    #[test]
    fn fields_read_and_their_packed_form_reads_the_same() {
        let text = r#"
            [env.API_KEY]
            type = "secret"
            request = "Which key?"
            placeholder = "sk-…"
            [env.MODEL]
            type = "string"
            description = "Which model answers"
            default = "small"
            enum-values = ["small", "large"]
            [env.RATIO]
            type = "number"
            default = 0.5
            [env.RETRIES]
            type = "number"
            default = 3
            [env.LOUD]
            type = "boolean"
            default = false
            scope = "host"
        "#;
        let whole = manifest(text).unwrap();
        assert_eq!(Manifest::parse(&whole.packed()).unwrap().env, whole.env);
        let defaults: Vec<_> = whole.env.values().map(|f| f.default_value()).collect();
        let want = [None, Some("false"), Some("small"), Some("0.5"), Some("3")];
        assert_eq!(defaults, want.map(|d| d.map(String::from)));
    }

    #[test]
    fn what_is_wrong_with_a_field_is_named() {
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        let cases = [
            ("[env.a]\ntype = \"string\"", "1 to 64 of A-Z"),
            ("[env.\"\"]\ntype = \"string\"", "1 to 64 of A-Z"),
            ("[env.\"A\\u0000\"]\ntype = \"string\"", "A\\0"),
            (&format!("[env.{}]\ntype = \"string\"", "A".repeat(65)), "1 to 64 of A-Z"),
            ("[env.A]", "missing field `type`"),
            ("[env.A]\ntype = \"text\"", "text"),
            ("[env.A]\ntype = \"string\"\ndefualt = \"x\"", "defualt"),
            ("[env.A]\ntype = \"string\"\nscope = \"all\"", "all"),
            ("[env.A]\ntype = \"secret\"\ndefault = \"x\"", "env.A: a secret has no default"),
            ("[env.A]\ntype = \"number\"\ndefault = \"3\"", "env.A: the default is no number"),
            ("[env.A]\ntype = \"number\"\ndefault = inf", "decimal number"),
            ("[env.A]\ntype = \"boolean\"\ndefault = 1", "no boolean"),
            ("[env.A]\ntype = \"string\"\ndefault = true", "no string"),
            ("[env.A]\ntype = \"string\"\ndefault = [\"x\"]", "default"),
            ("[env.A]\ntype = \"string\"\ndefault = \"c\"\nenum-values = [\"a\", \"b\"]", "one of: a, b"),
            ("[env.A]\ntype = \"number\"\nenum-values = [\"1\"]", "for type = \"string\""),
            (&format!("[env.A]\ntype = \"string\"\nrequest = \"{long}\""), "request is longer"),
            (&format!("[env.A]\ntype = \"string\"\nenum-values = [\"{long}\"]"), "an entry of more"),
            (&(0..65).map(|n| format!("[env.A{n}]\ntype = \"string\"\n")).collect::<String>(), "more than 64 fields"),
        ];
        for (text, want) in cases {
            let error = manifest(text).map(|_| ()).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn a_value_fits_its_kind_and_an_error_never_repeats_it() {
        let takes = |text: &str, value: &str| {
            field(text).check(value).map_err(|why| assert!(value.len() < 4 || !why.contains(value), "{why}")).is_ok()
        };
        for number in ["0", "-1", "3.25", "1e3", "+7"] {
            assert!(takes("type = \"number\"", number), "{number}");
        }
        for not in ["", "inf", "nan", "-", "1 ", "0x10", "1e999", "١", &"1".repeat(600)] {
            assert!(!takes("type = \"number\"", not), "{not}");
        }
        assert!(takes("type = \"boolean\"", "true") && !takes("type = \"boolean\"", "True"));
        assert!(takes("type = \"string\"", "") && takes("type = \"string\"", "a\nb"));
        assert!(takes("type = \"secret\"", "sk-1") && !takes("type = \"secret\"", ""));
        let choice = "type = \"string\"\nenum-values = [\"a\", \"b\"]";
        assert!(takes(choice, "a") && !takes(choice, "nothing of these"));
        for kind in ["string", "secret"] {
            let text = format!("type = \"{kind}\"");
            assert!(takes(&text, &"x".repeat(MAX_VALUE_BYTES)) && !takes(&text, &"x".repeat(MAX_VALUE_BYTES + 1)));
        }
    }
}
