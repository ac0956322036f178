//! From shapes to JSON Schema.

use serde_json::{Map, Value, json};

use super::{Case, DIALECT, Described, Schemas, Shape};

/// What a reference begins with.
pub(super) const REFERENCE: &str = "#/$defs/";

pub(super) fn document(schemas: &Schemas) -> Value {
    let defs: Map<String, Value> =
        schemas.defs.iter().map(|def| (def.name.clone(), described(schemas, &def.shape))).collect();
    json!({ "$schema": DIALECT, "$defs": defs })
}

pub(super) fn described(schemas: &Schemas, described: &Described) -> Value {
    with_description(shape(schemas, &described.shape), described.description.as_deref())
}

fn with_description(mut schema: Value, description: Option<&str>) -> Value {
    if let Some(text) = description {
        schema["description"] = text.into();
    }
    schema
}

fn shape(schemas: &Schemas, of: &Shape) -> Value {
    match of {
        Shape::Any => json!({}),
        Shape::Null => json!({ "type": "null" }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Integer { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Number => json!({ "type": "number" }),
        Shape::Char => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
        Shape::Text => json!({ "type": "string" }),
        Shape::Enum(names) => json!({ "type": "string", "enum": names }),
        Shape::Flags(names) => {
            json!({ "type": "array", "items": { "type": "string", "enum": names }, "uniqueItems": true })
        }
        Shape::List { items, exactly: None } => json!({ "type": "array", "items": shape(schemas, items) }),
        Shape::List { items, exactly: Some(n) } => {
            json!({ "type": "array", "items": shape(schemas, items), "minItems": n, "maxItems": n })
        }
        Shape::Tuple(parts) => {
            let (n, parts) = (parts.len(), parts.iter().map(|part| shape(schemas, part)).collect::<Vec<_>>());
            json!({ "type": "array", "prefixItems": parts, "items": false, "minItems": n, "maxItems": n })
        }
        Shape::Record(fields) => {
            let properties: Map<String, Value> =
                fields.iter().map(|field| (field.name.clone(), described(schemas, &field.of))).collect();
            let required: Vec<&str> =
                fields.iter().filter(|field| field.required).map(|field| field.name.as_str()).collect();
            json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
        }
        Shape::Map(values) => json!({ "type": "object", "additionalProperties": shape(schemas, values) }),
        Shape::Option(some) => json!({ "anyOf": [shape(schemas, some), { "type": "null" }] }),
        Shape::Variant(cases) => {
            let cases: Vec<Value> = cases.iter().map(|one| case(schemas, one)).collect();
            json!({ "oneOf": cases })
        }
        Shape::Named(n) => json!({ "$ref": reference(&schemas.defs[*n].name) }),
    }
}

fn case(schemas: &Schemas, case: &Case) -> Value {
    let schema = match &case.payload {
        None => json!({ "const": case.name }),
        Some(payload) => json!({
            "type": "object",
            "properties": { &case.name: shape(schemas, payload) },
            "required": [case.name],
            "additionalProperties": false,
        }),
    };
    with_description(schema, case.description.as_deref())
}

/// A JSON pointer into `$defs`.
pub(super) fn reference(name: &str) -> String {
    format!("{REFERENCE}{}", name.replace('~', "~0").replace('/', "~1"))
}
