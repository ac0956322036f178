//! The JSON of environments. Values go in and never come out: no answer, refusal or log line holds one.

use std::collections::BTreeMap;

use astrid_sdk::bus::Refusal;
use astrid_sdk::env::{Field, Kind};
use astrid_sdk::host::EnvError;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value as Json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    pub capsule: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    pub capsule: String,
    pub field: String,
    pub value: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clear {
    pub capsule: String,
    pub field: String,
}

/// A value: as text, or as the JSON scalar that stands for it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "value must be a text, a number or a boolean")]
pub enum Value {
    Text(String),
    Boolean(bool),
    Number(Number),
}

impl Value {
    pub fn text(self) -> String {
        match self {
            Value::Text(text) => text,
            Value::Boolean(value) => value.to_string(),
            Value::Number(number) => number.to_string(),
        }
    }
}

/// Every field of a capsule as it stands for a principal.
#[derive(Debug, Serialize)]
pub struct Listed {
    pub capsule_id: String,
    pub fields: BTreeMap<String, Shown>,
}

#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Of the field's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Json>,
    pub enum_values: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
    pub is_set: bool,
}

impl Listed {
    pub fn new(capsule: String, fields: Vec<Field>) -> Self {
        Self { capsule_id: capsule, fields: fields.into_iter().map(|f| (f.name.clone(), f.into())).collect() }
    }
}

impl From<Field> for Shown {
    fn from(field: Field) -> Self {
        // The host has checked the default against the kind, so it reads as JSON where the kind is one of JSON's.
        let scalar = |text: String| match field.kind {
            Kind::Number | Kind::Boolean => serde_json::from_str(&text).unwrap_or(Json::String(text)),
            Kind::String | Kind::Secret => Json::String(text),
        };
        Self {
            kind: match field.kind {
                Kind::String => "string",
                Kind::Number => "number",
                Kind::Boolean => "boolean",
                Kind::Secret => "secret",
            },
            description: field.description,
            request: field.request,
            default: field.default.map(scalar),
            enum_values: field.enum_values,
            placeholder: field.placeholder,
            is_set: field.is_set,
        }
    }
}

pub fn refusal(error: EnvError) -> Refusal {
    match error {
        EnvError::NotFound(reason) => Refusal::not_found(reason),
        EnvError::Invalid(reason) => Refusal::invalid(reason),
        EnvError::Unavailable => Refusal::unavailable("the environment can't be stored or read now"),
    }
}

#[cfg(test)]
mod tests {
    use astrid_sdk::bus::RefusalCode;
    use serde_json::{from_value, json, to_value};

    use super::*;

    fn field(name: &str, kind: Kind, default: Option<&str>) -> Field {
        Field {
            name: name.into(),
            kind,
            description: None,
            request: None,
            default: default.map(Into::into),
            enum_values: vec![],
            placeholder: None,
            is_set: false,
        }
    }

    #[test]
    fn a_value_is_a_text_or_the_scalar_that_stands_for_it() {
        let text = |value: Json| from_value::<Value>(value).map(Value::text).map_err(|_| ());
        assert_eq!(text(json!("a b")), Ok("a b".into()));
        assert_eq!(text(json!(true)), Ok("true".into()));
        assert_eq!((text(json!(3)), text(json!(-0.5))), (Ok("3".into()), Ok("-0.5".into())));
        for not in [json!(null), json!(["hunter2"]), json!({ "hunter2": 1 })] {
            let set = json!({ "capsule": "notes", "field": "KEY", "value": not });
            let error = from_value::<Set>(set).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("a text, a number or a boolean") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn fields_have_the_documented_shape_and_defaults_their_type() {
        let mut key = field("KEY", Kind::Secret, None);
        (key.request, key.placeholder, key.is_set) = (Some("Which?".into()), Some("sk-".into()), true);
        let mut model = field("MODEL", Kind::String, Some("7"));
        (model.enum_values, model.description) = (vec!["7".into()], Some("Size".into()));
        let fields =
            vec![key, model, field("LOUD", Kind::Boolean, Some("true")), field("N", Kind::Number, Some("1.5"))];
        let want = json!({ "capsule_id": "notes", "fields": {
            "KEY": { "type": "secret", "request": "Which?", "enum_values": [], "placeholder": "sk-", "is_set": true },
            "MODEL": { "type": "string", "description": "Size", "default": "7", "enum_values": ["7"], "is_set": false },
            "LOUD": { "type": "boolean", "default": true, "enum_values": [], "is_set": false },
            "N": { "type": "number", "default": 1.5, "enum_values": [], "is_set": false },
        }});
        assert_eq!(to_value(Listed::new("notes".into(), fields)).unwrap(), want);
    }

    #[test]
    fn every_failure_has_its_code() {
        let code = |error| refusal(error).code;
        assert_eq!(code(EnvError::NotFound("a".into())), RefusalCode::NotFound);
        assert_eq!(code(EnvError::Invalid("a".into())), RefusalCode::Invalid);
        assert_eq!(code(EnvError::Unavailable), RefusalCode::Unavailable);
    }
}
