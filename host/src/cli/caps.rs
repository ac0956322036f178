//! `astrid caps`: what single principals hold, and why.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::agent::{names, path};
use super::failure::{Exit, Failure};
use super::{Context, table, text};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Show what a principal holds, and from where
    Show {
        /// The principal [default: the caller]
        principal: Option<String>,
    },
    /// List every capability that can be granted
    List,
    /// Grant capabilities, and lift a revoke of the same
    Grant(Change),
    /// Revoke capabilities, whatever gives them
    Revoke(Change),
    /// Say whether a principal holds a capability, and which rule decides
    Check { principal: String, capability: String },
}

#[derive(Args)]
pub(super) struct Change {
    principal: String,
    #[arg(required = true, value_name = "CAPABILITY")]
    capabilities: Vec<String>,
    /// Confirm that `*` is meant
    #[arg(long)]
    unsafe_admin: bool,
}

#[derive(Deserialize)]
struct Me {
    principal: String,
}

#[derive(Deserialize)]
struct Shown {
    principal: String,
    enabled: bool,
    groups: Vec<HeldByGroup>,
    grants: Vec<String>,
    revokes: Vec<String>,
    capabilities: Vec<String>,
}

#[derive(Deserialize)]
struct HeldByGroup {
    name: String,
    capabilities: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Granted {
    principal: String,
    capabilities: Vec<String>,
}

#[derive(Deserialize)]
struct Checked {
    #[serde(flatten)]
    asked: OfForm,
    about_oneself: Option<OfForm>,
}

#[derive(Deserialize)]
struct OfForm {
    capability: String,
    allowed: bool,
    rule: String,
    group: Option<String>,
    by: Option<String>,
}

impl OfForm {
    fn row(self) -> [String; 3] {
        let by = self.by.unwrap_or_default();
        let why = match self.rule.as_str() {
            "disabled" => "the principal is disabled".to_owned(),
            "revoked" => format!("a revoke of {by}"),
            "granted" => format!("a grant of {by}"),
            "group" => format!("group {} holds {by}", self.group.unwrap_or_default()),
            "nothing" => "nothing gives it".to_owned(),
            other => other.to_owned(),
        };
        [self.capability, if self.allowed { "yes" } else { "no" }.to_owned(), why]
    }
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Show { principal } => show(context, principal).await,
            Verb::List => list(context).await,
            Verb::Grant(change) => {
                let what = format!("grant to {}", change.principal);
                let path = format!("{}/caps", path(&change.principal));
                let answer = context.client.post(&what, &path, change.body()).await?;
                if context.console.json {
                    context.console.document(&answer.body)?;
                    return Ok(Exit::Done);
                }
                let Granted { principal, capabilities } = answer.read()?;
                context.console.print(&text::shown(&format!("{principal} holds {}", names(&capabilities))))?;
                Ok(Exit::Done)
            }
            Verb::Revoke(change) => {
                let what = format!("revoke from {}", change.principal);
                let path = format!("{}/caps", path(&change.principal));
                let answer = context.client.delete_with(&what, &path, change.body()).await?;
                if context.console.json {
                    context.console.document(&answer.body)?;
                } else {
                    let revoked = format!("{} holds no more {}", change.principal, names(&change.capabilities));
                    context.console.print(&text::shown(&revoked))?;
                }
                Ok(Exit::Done)
            }
            Verb::Check { principal, capability } => check(context, &principal, &capability).await,
        }
    }
}

impl Change {
    fn body(&self) -> String {
        json!({ "capabilities": self.capabilities, "unsafe_admin": self.unsafe_admin }).to_string()
    }
}

/// What there is to be granted.
#[derive(Deserialize)]
struct Catalogue {
    capabilities: Vec<Declared>,
}

#[derive(Deserialize)]
struct Declared {
    id: String,
    description: String,
    category: String,
    scope: String,
    danger: String,
}

async fn list(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.get("list the capabilities", "/api/sys/capabilities").await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Catalogue { capabilities } = answer.read()?;
    let rows: Vec<[String; 5]> =
        capabilities.into_iter().map(|one| [one.id, one.category, one.scope, one.danger, one.description]).collect();
    context.console.print(&table::table(["CAPABILITY", "CATEGORY", "SCOPE", "DANGER", "WHAT FOR"], &rows))?;
    Ok(Exit::Done)
}

async fn show(context: &mut Context<'_>, principal: Option<String>) -> Result<Exit, Failure> {
    let what = "show what is held";
    let principal = match principal {
        Some(principal) => principal,
        None => context.client.get(what, "/api/auth/me").await?.read::<Me>()?.principal,
    };
    let answer = context.client.get(what, &format!("{}/caps", path(&principal))).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let shown: Shown = answer.read()?;
    let state = if shown.enabled { "enabled" } else { "disabled" };
    let mut rows = vec![("principal", shown.principal), ("state", state.to_owned())];
    for group in shown.groups {
        let held = group.capabilities.map_or_else(|| "is not defined".to_owned(), |held| names(&held));
        rows.push(("group", format!("{}: {held}", group.name)));
    }
    rows.push(("grants", names(&shown.grants)));
    rows.push(("revokes", names(&shown.revokes)));
    rows.push(("holds", names(&shown.capabilities)));
    context.console.print(&table::facts(&rows))?;
    Ok(Exit::Done)
}

async fn check(context: &mut Context<'_>, principal: &str, capability: &str) -> Result<Exit, Failure> {
    let path = format!("{}/caps/check?capability={}", path(principal), text::encoded(capability));
    let answer = context.client.get(&format!("check {principal}"), &path).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Checked { asked, about_oneself } = answer.read()?;
    let rows: Vec<[String; 3]> = std::iter::once(asked).chain(about_oneself).map(OfForm::row).collect();
    context.console.print(&table::table(["CAPABILITY", "HELD", "BECAUSE"], &rows))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Host;

    #[test]
    fn a_grant_and_a_revoke_say_what_was_asked_and_what_became_of_it() {
        let host = Host::with(|request| match request {
            r if r.starts_with("DELETE") => (204, String::new()),
            _ => (200, r#"{"principal":"bo","capabilities":["a:b","self:*"]}"#.to_owned()),
        });
        assert_eq!(host.astrid(&["caps", "grant", "bo", "a:b"]).out, "bo holds a:b self:*\n");
        assert_eq!(host.astrid(&["caps", "revoke", "bo", "*", "--unsafe-admin"]).out, "bo holds no more *\n");
        assert_eq!(host.astrid(&["caps", "grant", "bo"]).exit, Exit::Usage);
        assert_eq!(
            host.requests(),
            [
                r#"POST /api/sys/principals/bo/caps {"capabilities":["a:b"],"unsafe_admin":false}"#,
                r#"DELETE /api/sys/principals/bo/caps {"capabilities":["*"],"unsafe_admin":true}"#,
            ]
        );
    }

    #[test]
    fn a_check_says_which_rule_decides_for_either_form() {
        let host = Host::answering(
            200,
            r#"{"principal":"bo","capability":"a:b","allowed":false,"rule":"revoked","by":"a:*","about_oneself":{"capability":"self:a:b","allowed":true,"rule":"group","group":"agent","by":"self:*"}}"#,
        );
        let out = host.astrid(&["caps", "check", "bo", "a:b"]).out;
        assert!(out.contains("a:b         no    a revoke of a:*"), "{out}");
        assert!(out.contains("self:a:b    yes   group agent holds self:*"), "{out}");
        assert_eq!(host.requests(), ["GET /api/sys/principals/bo/caps/check?capability=a%3Ab"]);
    }

    #[test]
    fn what_is_held_is_shown_with_where_it_comes_from() {
        let host = Host::with(|request| {
            let caps = r#"{"principal":"bo","enabled":true,"groups":[{"name":"agent","capabilities":["self:*"]},{"name":"gone","capabilities":null}],"grants":["a"],"revokes":[],"capabilities":["a","self:*"]}"#;
            let body = if request.contains("/auth/me") { r#"{"principal":"bo"}"# } else { caps };
            (200, body.to_owned())
        });
        let out = host.astrid(&["caps", "show"]).out;
        assert!(out.contains("group      agent: self:*") && out.contains("group      gone: is not defined"), "{out}");
        assert!(out.contains("holds      a self:*"), "{out}");
        assert_eq!(host.requests(), ["GET /api/auth/me", "GET /api/sys/principals/bo/caps"]);
    }
}
