//! Whether an answer is what a probe wants. Pure: whoever makes the call is somewhere else.

use serde_json::Value;

use crate::manifest::{Manifest, Probe};

impl Probe {
    /// Whether this manifest serves what the probe asks for.
    pub fn is_served_by(&self, manifest: &Manifest) -> bool {
        self.check(manifest).is_ok()
    }

    /// Whether these bytes contain what [`Self::answer`] names; the error says where not, as it follows "the probe".
    pub fn answered(&self, answer: &[u8]) -> Result<(), String> {
        let Some(wanted) = &self.answer else { return Ok(()) };
        let wanted = serde_json::to_value(wanted).map_err(|error| format!("wants what is no JSON: {error}"))?;
        let found: Value = serde_json::from_slice(answer).map_err(|_| "is answered with no JSON".to_owned())?;
        match missing(&wanted, &found, "") {
            None => Ok(()),
            Some(place) => Err(format!("is answered with something else at {place}")),
        }
    }
}

/// Where `found` lacks something that `wanted` names, as a JSON pointer.
fn missing(wanted: &Value, found: &Value, place: &str) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().find_map(|(key, value)| {
            let place = format!("{place}/{key}");
            found.get(key).map_or(Some(place.clone()), |found| missing(value, found, &place))
        }),
        (wanted, found) if wanted == found => None,
        _ => Some(if place.is_empty() { "/".into() } else { place.into() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_contains_what_the_probe_names_or_it_is_said_where_not() {
        let found = json!({ "a": { "b": 1, "c": [1, 2] }, "d": null });
        for wanted in [json!({}), json!({ "a": { "b": 1 } }), json!({ "d": null, "a": { "c": [1, 2] } })] {
            assert_eq!(missing(&wanted, &found, ""), None, "{wanted}");
        }
        for (wanted, place) in [
            (json!({ "x": 1 }), "/x"),
            (json!({ "a": { "b": 2 } }), "/a/b"),
            (json!({ "a": { "c": [1] } }), "/a/c"),
            (json!({ "a": 1 }), "/a"),
        ] {
            assert_eq!(missing(&wanted, &found, "").as_deref(), Some(place), "{wanted}");
        }
        assert_eq!(missing(&json!({}), &json!([]), "").as_deref(), Some("/"));
    }
}
