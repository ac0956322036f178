//! `[[tool]]`: a handler as something that a model can be offered to call.
//!
//! What a tool takes is its topic's payload type. Refuses to know who offers tools, and how.

use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;
use crate::{Topic, shown};

/// Tools of one manifest.
pub const MAX: usize = 128;
/// The longest title, in bytes.
const MAX_TITLE_BYTES: usize = 100;
/// The longest description, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tool {
    /// 1 to 64 of `[a-z0-9_-]`.
    pub name: String,
    /// A topic that one of the capsule's handlers is bound to, with a payload type that is a record.
    pub topic: String,
    /// For people, 1 to 100 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does and when to call it, 1 to 4096 bytes.
    pub description: String,
    /// A hint: it changes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// A hint: it may overwrite or delete. None: a tool that is not `read-only` may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destructive: Option<bool>,
}

impl Tool {
    fn check(&self, manifest: &Manifest) -> Result<(), String> {
        let named = (1..=64).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
        if !named {
            return Err(format!("name `{}` must be 1 to 64 of a-z 0-9 _ -", shown(&self.name)));
        }
        let topic = Topic::parse(&self.topic).map_err(|error| error.to_string())?;
        let binding = manifest.handled(&topic);
        let binding = binding.ok_or_else(|| format!("no handler of this capsule is bound to {topic}"))?;
        if binding.wit.is_none() {
            return Err(format!("the [[subscribe]] of {} has no wit, so nothing says what it takes", binding.topic));
        }
        for (key, text, most) in [
            ("title", self.title.as_ref(), MAX_TITLE_BYTES),
            ("description", Some(&self.description), MAX_DESCRIPTION_BYTES),
        ] {
            if text.is_some_and(|text| text.trim().is_empty() || text.len() > most) {
                return Err(format!("{key} must have 1 to {most} bytes"));
            }
        }
        if self.read_only && self.destructive == Some(true) {
            return Err("is read-only and destructive".into());
        }
        Ok(())
    }
}

/// The first thing that is wrong with a manifest's tools.
pub(crate) fn check(manifest: &Manifest) -> Result<(), String> {
    let tools = &manifest.tool;
    if tools.len() > MAX {
        return Err(format!("has {} tools; at most {MAX} are taken", tools.len()));
    }
    for (n, tool) in tools.iter().enumerate() {
        if tools[..n].iter().any(|other| other.name == tool.name) {
            return Err(format!("tool[{n}]: `{}` is declared twice", tool.name));
        }
        tool.check(manifest).map_err(|why| format!("tool[{n}]: {why}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<Manifest, String> {
        let text = format!(
            "[package]\nname = \"a\"\nversion = \"1.0.0\"\n[[subscribe]]\ntopic = \"a.v1.*\"\nhandler = \"a\"\n\
             wit = {{ payload = \"notes.add\" }}\n[[subscribe]]\ntopic = \"a.v1.bare\"\nhandler = \"b\"\n\
             [[subscribe]]\ntopic = \"a.v2.read\"\ndelivery = \"lossy\"\n{rest}"
        );
        Manifest::parse(&text).map_err(|error| error.to_string())
    }

    fn tool(change: (&str, &str)) -> String {
        let whole = "[[tool]]\nname = \"add\"\ntopic = \"a.v1.add\"\ndescription = \"Adds a note\"\n";
        assert!(whole.contains(change.0));
        whole.replacen(change.0, change.1, 1)
    }

    #[test]
    fn a_tool_names_a_typed_topic_of_a_handler_and_reads_back() {
        let text = tool(("\"add\"", "\"add_2-x\"\ntitle = \"Add\"\nread-only = true\ndestructive = false"));
        let manifest = parse(&text).unwrap();
        assert_eq!(Manifest::parse(&manifest.packed()).unwrap().tool, manifest.tool);
        assert!(manifest.tool[0].read_only);
    }

    #[test]
    fn what_is_wrong_with_a_tool_is_named() {
        let (long, wide) = (format!("\"{}\"", "n".repeat(65)), format!("\"{}\"", "d".repeat(4097)));
        for (change, why) in [
            (("\"add\"", "\"\""), "1 to 64 of"),
            (("\"add\"", "\"Add\""), "1 to 64 of"),
            (("\"add\"", &*long), "1 to 64 of"),
            (("a.v1.add", "a.v3"), "no handler"),
            (("a.v1.add", "a.v1.*"), "tool[0]"),
            (("a.v1.add", "a.v2.read"), "no handler"),
            (("a.v1.add", "a.v1.bare"), "has no wit"),
            (("\"Adds a note\"", "\" \""), "description must have"),
            (("\"Adds a note\"", &*wide), "description must have"),
            (("name", "title = \"\"\nname"), "title must have"),
            (("name", "read-only = true\ndestructive = true\nname"), "read-only and destructive"),
            (("name", "color = 1\nname"), "color"),
        ] {
            let error = parse(&tool(change)).unwrap_err();
            assert!(error.contains(why), "{change:?}: {error}");
        }
        let twice = tool(("", "")) + &tool(("", ""));
        assert!(parse(&twice).unwrap_err().contains("declared twice"));
    }

    #[test]
    fn a_manifest_has_at_most_128_tools() {
        let tools = |n: usize| (0..n).map(|n| tool(("\"add\"", &format!("\"add{n}\"")))).collect::<String>();
        assert_eq!(parse(&tools(128)).unwrap().tool.len(), 128);
        assert!(parse(&tools(129)).unwrap_err().contains("at most 128"));
    }
}
