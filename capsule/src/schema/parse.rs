//! From JSON Schema back to shapes: only what [`render`](super::render) writes, which the last step proves by rendering
//! again.

use serde_json::{Map, Value};

use super::render::{self, REFERENCE};
use super::{Case, Def, Described, Field, SchemaError, Schemas, Shape};
use crate::shown;

pub(super) fn document(bytes: &[u8]) -> Result<Schemas, SchemaError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| SchemaError(format!("is not JSON: {error}")))?;
    let defs = value.get("$defs").and_then(Value::as_object).ok_or_else(|| SchemaError("has no $defs".into()))?;
    let mut names: Vec<&String> = defs.keys().collect();
    names.sort();
    let read = |name: &&String| {
        let foreign = || SchemaError(format!("$defs/{}: is nothing that astrid-build writes", shown(name)));
        let shape = described(&names, &defs[*name]).ok_or_else(foreign)?;
        Ok((Def { name: (*name).clone(), shape }, foreign()))
    };
    let read = names.iter().map(read).collect::<Result<Vec<_>, SchemaError>>()?;
    let (defs, foreign): (Vec<Def>, Vec<SchemaError>) = read.into_iter().unzip();
    let schemas = Schemas { defs };
    for (def, foreign) in schemas.defs.iter().zip(foreign) {
        if render::described(&schemas, &def.shape) != value["$defs"][&def.name] {
            return Err(foreign);
        }
    }
    if render::document(&schemas) != value {
        return Err(SchemaError("has more than $schema (2020-12) and $defs".into()));
    }
    Ok(schemas)
}

fn described(names: &[&String], value: &Value) -> Option<Described> {
    let description = match value.get("description") {
        Some(text) => Some(text.as_str()?.to_owned()),
        None => None,
    };
    Some(Described { description, shape: shape(names, value)? })
}

fn shape(names: &[&String], value: &Value) -> Option<Shape> {
    let schema = value.as_object()?;
    if let Some(reference) = schema.get("$ref") {
        let name = reference.as_str()?.strip_prefix(REFERENCE)?.replace("~1", "/").replace("~0", "~");
        return names.binary_search(&&name).ok().map(Shape::Named);
    }
    if let Some(either) = schema.get("anyOf") {
        let some = shape(names, either.get(0)?)?;
        return (!matches!(some, Shape::Option(_))).then(|| Shape::Option(Box::new(some)));
    }
    if let Some(cases) = schema.get("oneOf") {
        return cases.as_array()?.iter().map(|value| case(names, value)).collect::<Option<_>>().map(Shape::Variant);
    }
    let Some(kind) = schema.get("type") else { return Some(Shape::Any) };
    Some(match kind.as_str()? {
        "null" => Shape::Null,
        "boolean" => Shape::Boolean,
        "integer" => Shape::Integer { least: schema.get("minimum")?.as_i64()?, most: schema.get("maximum")?.as_u64()? },
        "number" => Shape::Number,
        "string" => match (schema.get("enum"), schema.get("minLength")) {
            (Some(words), _) => Shape::Enum(texts(words)?),
            (None, Some(_)) => Shape::Char,
            (None, None) => Shape::Text,
        },
        "array" => array(names, schema)?,
        "object" => object(names, schema)?,
        _ => return None,
    })
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn array(names: &[&String], schema: &Map<String, Value>) -> Option<Shape> {
    if let Some(parts) = schema.get("prefixItems") {
        return parts.as_array()?.iter().map(|part| shape(names, part)).collect::<Option<_>>().map(Shape::Tuple);
    }
    let items = schema.get("items")?;
    if schema.contains_key("uniqueItems") {
        return Some(Shape::Flags(texts(items.get("enum")?)?));
    }
    let exactly = match schema.get("minItems") {
        Some(n) => Some(u32::try_from(n.as_u64()?).ok()?),
        None => None,
    };
    Some(Shape::List { items: Box::new(shape(names, items)?), exactly })
}

fn object(names: &[&String], schema: &Map<String, Value>) -> Option<Shape> {
    let Some(properties) = schema.get("properties") else {
        return Some(Shape::Map(Box::new(shape(names, schema.get("additionalProperties")?)?)));
    };
    let required = texts(schema.get("required")?)?;
    let mut fields = Vec::new();
    for (name, of) in properties.as_object()? {
        let required = required.contains(name);
        fields.push(Field { name: name.clone(), of: described(names, of)?, required });
    }
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Shape::Record(fields))
}

fn case(names: &[&String], value: &Value) -> Option<Case> {
    let description = value.get("description").and_then(Value::as_str).map(str::to_owned);
    if let Some(name) = value.get("const") {
        return Some(Case { name: name.as_str()?.to_owned(), description, payload: None });
    }
    let (name, payload) = value.get("properties")?.as_object()?.iter().next()?;
    Some(Case { name: name.clone(), description, payload: Some(shape(names, payload)?) })
}
