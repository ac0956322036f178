//! What a version must show before it goes live, and whether an answer is that. Pure: whoever makes the call is somewhere
//! else.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::manifest::Manifest;
use crate::{Topic, shown};

/// A call that a version must answer as it says before it goes live, in a rehearsal: what it writes is dropped, and nobody
/// outside hears of it. It is made by nobody (`anonymous`), past `requires`. Either `topic` or `path`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Probe {
    /// A topic that one of its handlers is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// How the request ends, with `topic`: `ok` unless it says otherwise, or the code of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// A path below one of its mounts, asked for with GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The status of the response, with `path`; 200 unless it says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What the request carries, with `topic`; `{}` unless it says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<toml::Table>,
    /// What the answer must contain: every field that is named here has this value there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<toml::Table>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    #[default]
    Ok,
    Invalid,
    Denied,
    NotFound,
    Conflict,
    Unavailable,
}

impl Probe {
    /// Probes of one manifest.
    pub const MAX: usize = 32;

    fn check(&self, manifest: &Manifest) -> Result<(), String> {
        match (&self.topic, &self.path) {
            (Some(topic), None) => {
                if self.status.is_some() {
                    return Err("status is for a path; say expect".into());
                }
                let topic = Topic::parse(topic).map_err(|error| error.to_string())?;
                let bound = manifest.subscribe.iter().any(|b| b.handler.is_some() && b.topic.matches(&topic));
                if !bound {
                    return Err(format!("no handler of this capsule is bound to {topic}"));
                }
            }
            (None, Some(path)) => {
                if self.expect.is_some() || self.payload.is_some() {
                    return Err("expect and payload are for a topic; say status".into());
                }
                let below = |mount: &String| {
                    let rest = path.strip_prefix(mount.trim_end_matches('/'));
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
                };
                if !manifest.http.iter().flat_map(|http| &http.mounts).any(below) {
                    return Err(format!("path `{}` is below none of http.mounts", shown(path)));
                }
                if let Some(status) = self.status.filter(|status| !(200..600).contains(status)) {
                    return Err(format!("status = {status} must be 200 to 599"));
                }
            }
            _ => return Err("has either topic or path".into()),
        }
        Ok(())
    }

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

/// The first thing that is wrong with a manifest's probes.
pub(crate) fn check(manifest: &Manifest) -> Result<(), String> {
    let probes = &manifest.probe;
    if probes.len() > Probe::MAX {
        return Err(format!("has {} probes; at most {} are taken", probes.len(), Probe::MAX));
    }
    for (n, probe) in probes.iter().enumerate() {
        probe.check(manifest).map_err(|why| format!("probe[{n}]: {why}"))?;
    }
    Ok(())
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

    #[test]
    fn a_probe_asks_what_the_capsule_serves_and_says_so_in_one_way() {
        let parse = |probe: &str| {
            let text = format!(
                "asks = [\"http:mount\"]\n[package]\nname = \"a\"\nversion = \"1.0.0\"\n[http]\nmounts = [\"/a\"]\n\
                 [[subscribe]]\ntopic = \"a.v1.*\"\nhandler = \"a\"\n[[subscribe]]\ntopic = \"a.v2.x\"\n\
                 delivery = \"lossy\"\n[[probe]]\n{probe}"
            );
            Manifest::parse(&text).map(|manifest| Manifest::parse(&manifest.packed()).unwrap().probe)
        };
        for fine in [
            "topic = \"a.v1.b\"",
            "topic = \"a.v1.b\"\nexpect = \"not-found\"\npayload = { x = 1 }\nanswer = { y = [1, 2] }",
            "path = \"/a\"",
            "path = \"/a/b?c=d\"\nstatus = 404\nanswer = { error = \"not_found\" }",
        ] {
            assert_eq!(parse(fine).unwrap().len(), 1, "{fine}");
        }
        for (bad, why) in [
            ("", "either topic or path"),
            ("topic = \"a.v1.b\"\npath = \"/a\"", "either topic or path"),
            ("topic = \"b.v1\"", "no handler"),
            ("topic = \"a.v2.x\"", "no handler"),
            ("topic = \"a.v1.*\"", "probe[0]"),
            ("topic = \"a.v1.b\"\nstatus = 200", "status is for a path"),
            ("path = \"/a\"\nexpect = \"ok\"", "for a topic"),
            ("path = \"/a\"\npayload = {}", "for a topic"),
            ("path = \"/ab\"", "none of http.mounts"),
            ("path = \"/a\"\nstatus = 100", "200 to 599"),
            ("topic = \"a.v1.b\"\nexpect = \"maybe\"", "maybe"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
