//! Whether an event is one of OCSF, by the part of its schema in `cases/ocsf`.
//!
//! Understands as much of JSON Schema as that file uses, and no keyword that it does not: a word that is misspelt there ends the
//! test instead of allowing everything.

use serde_json::Value;

const SCHEMA: &str = include_str!("../cases/ocsf/1.3.0.json");

/// The error names where it does not fit, and what was wanted.
pub fn check(event: &Value) -> Result<(), String> {
    let schema = serde_json::from_str(SCHEMA).expect("a schema is JSON");
    fit(&schema, &schema, event, "")
}

fn fit(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let wrong = |wanted: &str| Err(format!("at `{at}`: {wanted}, not {value}"));
    let list = |keyword: &Value| keyword.as_array().expect("a list").clone();
    for (keyword, wanted) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$comment" | "$defs" => {}
            "$ref" => {
                let pointer = wanted.as_str().and_then(|text| text.strip_prefix('#')).expect("a pointer into the file");
                fit(root, root.pointer(pointer).expect("it is there"), value, at)?;
            }
            "oneOf" | "anyOf" => {
                let cases: Vec<Result<(), String>> =
                    list(wanted).iter().map(|case| fit(root, case, value, at)).collect();
                let fitting = cases.iter().filter(|case| case.is_ok()).count();
                if fitting == 0 || (keyword == "oneOf" && fitting > 1) {
                    let why: Vec<String> = cases.into_iter().filter_map(Result::err).collect();
                    return Err(why.join("; or "));
                }
            }
            "type" => {
                let fits = match wanted.as_str().expect("a name") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    other => panic!("the schema has the type {other}, which nothing here knows"),
                };
                if !fits {
                    return wrong(&wanted.to_string());
                }
            }
            "const" if value != wanted => return wrong(&wanted.to_string()),
            "enum" if !list(wanted).contains(value) => return wrong(&format!("one of {wanted}")),
            "const" | "enum" => {}
            "required" => {
                let missing = list(wanted).into_iter().find(|name| value.get(name.as_str().expect("a name")).is_none());
                if let Some(name) = missing {
                    return wrong(&format!("with {name}"));
                }
            }
            "properties" => {
                for (name, schema) in wanted.as_object().expect("an object") {
                    if let Some(value) = value.get(name) {
                        fit(root, schema, value, &format!("{at}/{name}"))?;
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(*wanted, false, "nothing here knows another value");
                let known = &schema["properties"];
                let more = value.as_object().into_iter().flatten().find(|(name, _)| known.get(name).is_none());
                if let Some((name, _)) = more {
                    return wrong(&format!("without {name}"));
                }
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    fit(root, wanted, item, &format!("{at}/{n}"))?;
                }
            }
            other => panic!("the schema says {other}, which nothing here knows"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_that_lacks_something_or_has_another_word_is_told_from_one_that_is_whole() {
        let whole = json!({
            "class_uid": 6003, "category_uid": 6, "activity_id": 1, "type_uid": 600_301, "time": 1, "severity_id": 1,
            "metadata": { "version": "1.3.0", "product": { "name": "a", "vendor_name": "b" } },
            "actor": { "app_name": "a" }, "api": { "operation": "o" }, "src_endpoint": { "name": "n" },
        });
        assert_eq!(check(&whole), Ok(()));
        let changes: [(&str, Value); 6] = [
            ("/actor", json!({})),
            ("/api", json!({ "service": {} })),
            ("/severity_id", json!(7)),
            ("/time", json!("now")),
            ("/class_uid", json!(6004)),
            ("/metadata/product", json!({ "name": "a" })),
        ];
        for (at, value) in changes {
            let mut event = whole.clone();
            *event.pointer_mut(at).unwrap() = value;
            assert!(check(&event).is_err(), "{at}");
        }
        let mut event = whole.clone();
        event["more"] = json!(1);
        assert!(check(&event).unwrap_err().contains("without more"));
        event.as_object_mut().unwrap().remove("more");
        event.as_object_mut().unwrap().remove("src_endpoint");
        assert!(check(&event).unwrap_err().contains("src_endpoint"));
    }
}
