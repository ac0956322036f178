//! What editors and people are told of manifests and distributions is what those take: no key is missing on either side.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use astrid_capsule::distro::Distro;
use astrid_capsule::manifest::{Manifest, grant};
use astrid_capsule::shape::Shape;
use serde_json::{Value, json};

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn schema(name: &str) -> Value {
    serde_json::from_str(&document(name)).unwrap()
}

/// Compares a type's shape with its schema, in both directions.
fn compare(path: &str, shape: &Shape, schema: &Value) {
    assert!(schema["description"].is_string() || path.ends_with("[]"), "{path} has no description");
    match shape {
        Shape::Struct(keys) => {
            assert_eq!((&schema["type"], &schema["additionalProperties"]), (&json!("object"), &json!(false)), "{path}");
            let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{path} has no properties"));
            let known: BTreeSet<&str> = keys.iter().map(|(key, _)| *key).collect();
            assert_eq!(properties.keys().map(String::as_str).collect::<BTreeSet<_>>(), known, "{path}");
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            assert!(required.iter().all(|key| known.contains(key)), "{path} requires {required:?}");
            keys.iter().for_each(|(key, shape)| compare(&format!("{path}.{key}"), shape, &properties[*key]));
        }
        Shape::Map(values) => {
            assert_eq!(schema["type"], "object", "{path}");
            compare(&format!("{path}.NAME"), values, &schema["additionalProperties"]);
        }
        Shape::Table => assert_eq!(schema["type"], "object", "{path}"),
        Shape::List(of) => {
            assert_eq!(schema["type"], "array", "{path}");
            compare(&format!("{path}[]"), of, &schema["items"]);
        }
        Shape::OneOf(values) => assert_eq!(schema["enum"], json!(values), "{path}"),
        Shape::Text => assert_eq!(schema["type"], "string", "{path}"),
        Shape::Integer => assert_eq!(schema["type"], "integer", "{path}"),
        Shape::Boolean => assert_eq!(schema["type"], "boolean", "{path}"),
        Shape::Scalar => assert_eq!(schema["type"], json!(["string", "number", "boolean"]), "{path}"),
    }
}

#[test]
fn the_schemas_for_editors_have_exactly_the_keys_and_values_that_are_taken() {
    compare("manifest", &Shape::of::<Manifest>(), &schema("capsule.schema.json"));
    compare("distribution", &Shape::of::<Distro>(), &schema("distro.schema.json"));
    let asks = &schema("capsule.schema.json")["properties"]["asks"]["items"]["anyOf"][0]["enum"];
    let known: BTreeSet<&str> = asks.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(known, BTreeSet::from(grant::FIXED));
}

/// Fails unless each key that a schema requires is missed in `whole`, which has every section that has such keys.
fn misses_what_is_required(schema: &Value, whole: &str, least: usize, parses: impl Fn(&str) -> bool) {
    fn required(path: &str, schema: &Value, found: &mut Vec<String>) {
        let keys = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        found.extend(keys.map(|key| format!("{path}{key}")));
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            required(&format!("{path}{key}."), value, found);
            required(&format!("{path}{key}[]."), &value["items"], found);
            if value["additionalProperties"].is_object() {
                required(&format!("{path}{key}.NAME."), &value["additionalProperties"], found);
            }
        }
    }
    let whole: toml::Table = whole.parse().unwrap();
    let parses = |table: &toml::Table| parses(&toml::to_string(table).unwrap());
    assert!(parses(&whole), "the least document with every section");
    let mut paths = Vec::new();
    required("", schema, &mut paths);
    assert!(paths.len() >= least, "{paths:?}");
    for path in paths {
        let mut table = whole.clone();
        let (parent, key) = path.rsplit_once('.').map_or(("", &*path), |(parent, key)| (parent, key));
        let parent = parent.split('.').filter(|step| !step.is_empty()).fold(&mut table, |table, step| {
            let value = &mut table[step.trim_end_matches("[]")];
            let value = if step.ends_with("[]") { &mut value[0] } else { value };
            value.as_table_mut().unwrap()
        });
        parent.remove(key).unwrap_or_else(|| panic!("the least document lacks {path}"));
        assert!(!parses(&table), "{path} is required by the schema alone");
    }
}

#[test]
fn what_the_schema_of_distributions_requires_is_what_reading_misses() {
    let whole = r#"
        [distro]
        id = "a"
        name = "A"
        version = "0.1.0"
        [variables.b]
        [[capsule]]
        name = "c"
        source = "c.capsule"
        role = "identity"
        [invites]
        [branding]
    "#;
    misses_what_is_required(&schema("distro.schema.json"), whole, 6, |text| Distro::parse(text).is_ok());
}

#[test]
fn what_the_schema_of_manifests_requires_is_what_reading_misses() {
    let whole = r#"
        asks = ["http:mount"]
        [package]
        name = "a"
        version = "0.1.0"
        [component]
        [[publish]]
        topic = "a.b"
        wit = { payload = "nothing" }
        [[subscribe]]
        topic = "a.b"
        handler = "b"
        wit = { payload = "nothing" }
        [[tool]]
        name = "b"
        topic = "a.b"
        description = "b"
        [[intercept]]
        topic = "a.b"
        handler = "b"
        [[capability]]
        id = "a:b"
        label = ""
        description = ""
        category = ""
        scope = "both"
        danger = "safe"
        [[process]]
        program = "/bin/a"
        [env.NAME]
        type = "string"
        [http]
        mounts = ["/a"]
        [limits]
    "#;
    misses_what_is_required(&schema("capsule.schema.json"), whole, 14, |text| Manifest::parse(text).is_ok());
}

/// The keys that hold values, with `[]` behind what stands in a list.
fn leaves(path: &str, shape: &Shape, found: &mut Vec<String>) {
    match shape {
        Shape::Struct(keys) => keys.iter().for_each(|(key, shape)| {
            let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            leaves(&path, shape, found);
        }),
        Shape::Map(values) => leaves(&format!("{path}.NAME"), values, found),
        Shape::List(of) if matches!(**of, Shape::Struct(_)) => leaves(&format!("{path}[]"), of, found),
        _ => found.push(path.to_owned()),
    }
}

/// The keys that a manual's tables begin their rows with. A row may begin with several of one section: `a.b`, `c`.
fn rows(manual: &str) -> BTreeSet<String> {
    let mut written = BTreeSet::new();
    for row in manual.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cell = row.split(" | ").next().unwrap_or_default();
        let names: Vec<&str> = cell.split('`').step_by(2).collect();
        let section = names[0].rsplit_once('.').map_or("", |(section, _)| section);
        written.insert(names[0].to_owned());
        written.extend(names[1..].iter().map(|name| format!("{section}.{name}")));
    }
    written
}

#[test]
fn every_key_of_a_distribution_stands_in_the_table_of_its_manual() {
    let written = rows(&document("distributions.md"));
    let mut found = Vec::new();
    leaves("", &Shape::of::<Distro>(), &mut found);
    let found: BTreeSet<String> = found.iter().map(|key| key.replace("[]", "")).collect();
    let missing: Vec<&String> = found.difference(&written).collect();
    assert!(missing.is_empty(), "the manual says nothing of {missing:?}");
    let sections = ["distro.", "variables.NAME.", "capsule.", "invites.", "branding."];
    let stale: Vec<&String> =
        written.difference(&found).filter(|key| sections.iter().any(|section| key.starts_with(section))).collect();
    assert!(stale.is_empty(), "no distribution takes {stale:?}");
}

#[test]
fn every_key_of_a_manifest_stands_in_the_table_of_the_manual() {
    let written = rows(&document("writing-capsules.md"));
    let mut found = Vec::new();
    leaves("", &Shape::of::<Manifest>(), &mut found);
    let missing: Vec<&String> = found.iter().filter(|key| !written.contains(*key)).collect();
    assert!(missing.is_empty(), "the manual says nothing of {missing:?}");
    let sections = [
        "package.",
        "component.",
        "publish[]",
        "subscribe[]",
        "intercept[]",
        "tool[]",
        "capability[]",
        "env.NAME.",
        "http.",
        "limits.",
    ];
    let stale: Vec<&String> =
        written.iter().filter(|key| sections.iter().any(|s| key.starts_with(s)) && !found.contains(key)).collect();
    assert!(stale.is_empty(), "no manifest takes {stale:?}");
}
