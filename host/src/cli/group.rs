//! `astrid group`: names for sets of capabilities.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Map, json};

use super::agent::names;
use super::failure::{Exit, Failure};
use super::{Context, table, text};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Make a group
    Create {
        name: String,
        /// What its members hold
        #[arg(value_name = "CAPABILITY")]
        capabilities: Vec<String>,
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Confirm that it may hold `*`
        #[arg(long)]
        unsafe_admin: bool,
    },
    /// List groups; without the right to see all, only those that you are in
    List {
        /// Go on after this group
        #[arg(long, value_name = "NAME")]
        after: Option<String>,
    },
    /// Show a group
    Show { name: String },
    /// Change a group, for everybody in it at once; what is not said stays as it is
    Modify {
        name: String,
        /// A capability that it holds from now on, instead of all that it held before; may be repeated
        #[arg(long, value_name = "CAPABILITY")]
        capability: Vec<String>,
        /// Take all its capabilities away
        #[arg(long, conflicts_with = "capability")]
        no_capabilities: bool,
        /// The new description; an empty one takes it away
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Whether it may hold `*`
        #[arg(long, value_name = "YES")]
        unsafe_admin: Option<bool>,
    },
    /// Delete a group that nobody is in
    Delete { name: String },
}

#[derive(Deserialize)]
struct Row {
    name: String,
    capabilities: Vec<String>,
    description: Option<String>,
    unsafe_admin: bool,
    builtin: bool,
}

#[derive(Deserialize)]
struct Rows {
    groups: Vec<Row>,
    next_after: Option<String>,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let (name, answer) = match self {
            Verb::List { after } => return list(context, after.as_deref()).await,
            Verb::Create { name, capabilities, description, unsafe_admin } => {
                let mut body = json!({ "name": name, "capabilities": capabilities, "unsafe_admin": unsafe_admin });
                if let Some(description) = description {
                    body["description"] = json!(description);
                }
                let what = format!("make the group {name}");
                (name, context.client.post(&what, "/api/sys/groups", body.to_string()).await?)
            }
            Verb::Show { name } => {
                let what = format!("show the group {name}");
                let answer = context.client.get(&what, &path(&name)).await?;
                (name, answer)
            }
            Verb::Modify { name, capability, no_capabilities, description, unsafe_admin } => {
                let mut body = Map::new();
                if no_capabilities || !capability.is_empty() {
                    body.insert("capabilities".to_owned(), json!(capability));
                }
                if let Some(description) = description {
                    let description = Some(description).filter(|text| !text.is_empty());
                    body.insert("description".to_owned(), json!(description));
                }
                if let Some(unsafe_admin) = unsafe_admin {
                    body.insert("unsafe_admin".to_owned(), json!(unsafe_admin));
                }
                if body.is_empty() {
                    return Err(Failure::usage("say what to change: --capability, --description or --unsafe-admin"));
                }
                let what = format!("change the group {name}");
                let answer = context.client.patch(&what, &path(&name), json!(body).to_string()).await?;
                (name, answer)
            }
            Verb::Delete { name } => {
                let what = format!("delete the group {name}");
                let answer = context.client.delete(&what, &path(&name)).await?;
                (name, answer)
            }
        };
        if context.console.json {
            context.console.document(&answer.body)?;
        } else if answer.body.is_empty() {
            context.console.print(&text::shown(&format!("deleted {name}")))?;
        } else {
            let row: Row = answer.read()?;
            context.console.print(&table::facts(&[
                ("group", row.name),
                ("holds", names(&row.capabilities)),
                ("description", row.description.unwrap_or_default()),
                ("may hold *", row.unsafe_admin.to_string()),
                ("built in", row.builtin.to_string()),
            ]))?;
        }
        Ok(Exit::Done)
    }
}

fn path(name: &str) -> String {
    format!("/api/sys/groups/{}", text::encoded(name))
}

async fn list(context: &mut Context<'_>, after: Option<&str>) -> Result<Exit, Failure> {
    let query = after.map_or_else(String::new, |after| format!("?after={}", text::encoded(after)));
    let answer = context.client.get("list groups", &format!("/api/sys/groups{query}")).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Rows { groups, next_after } = answer.read()?;
    let row = |row: Row| {
        let kind = if row.builtin { "built in" } else { "custom" }.to_owned();
        [row.name, kind, names(&row.capabilities), row.description.unwrap_or_default()]
    };
    let rows: Vec<[String; 4]> = groups.into_iter().map(row).collect();
    context.console.print(&table::table(["GROUP", "KIND", "HOLDS", "DESCRIPTION"], &rows))?;
    if let Some(after) = next_after {
        let after = text::quoted(&text::shown(&after));
        context.console.remark(&format!("There are more: {} group list --after {after}", context.command));
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Host;

    const ROW: &str = r#"{"name":"ops","capabilities":["a:b"],"unsafe_admin":false,"builtin":false}"#;

    #[test]
    fn each_verb_is_one_call_with_what_was_said() {
        let host = Host::with(|request| match request {
            r if r.starts_with("DELETE") => (204, String::new()),
            r if r.starts_with("GET /api/sys/groups?") => (200, format!(r#"{{"groups":[{ROW}],"next_after":"ops"}}"#)),
            _ => (200, ROW.to_owned()),
        });
        let ran = |args: &[&str]| {
            let ran = host.astrid(&[&["group"], args].concat());
            assert_eq!(ran.exit, Exit::Done, "{ran:?}");
            ran
        };
        assert!(ran(&["create", "ops", "a:b", "c", "--description", "x"]).out.contains("holds        a:b"));
        ran(&["show", "ops"]);
        ran(&["modify", "ops", "--capability", "a", "--description", ""]);
        ran(&["modify", "ops", "--no-capabilities", "--unsafe-admin", "false"]);
        assert_eq!(ran(&["delete", "ops"]).out, "deleted ops\n");
        let list = ran(&["list", "--after", "a"]);
        assert!(list.out.contains("ops    custom  a:b") && list.err.contains("group list --after ops"), "{list:?}");
        assert_eq!(host.astrid(&["group", "modify", "ops"]).exit, Exit::Usage);
        assert_eq!(
            host.requests(),
            [
                r#"POST /api/sys/groups {"capabilities":["a:b","c"],"description":"x","name":"ops","unsafe_admin":false}"#,
                "GET /api/sys/groups/ops",
                r#"PATCH /api/sys/groups/ops {"capabilities":["a"],"description":null}"#,
                r#"PATCH /api/sys/groups/ops {"capabilities":[],"unsafe_admin":false}"#,
                "DELETE /api/sys/groups/ops",
                "GET /api/sys/groups?after=a",
            ]
        );
    }
}
