//! `astrid agent` and `astrid who`: principals, and as which of them this command line speaks.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::failure::{Exit, Failure};
use super::{Context, table, text, time};

/// Who the user that runs the host is on its socket.
const OWNER: &str = "default";

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Make a principal; it adds a key later, by which it proves who it is
    Create {
        name: String,
        /// A group that it is in; may be repeated [default: agent]
        #[arg(long, value_name = "GROUP")]
        group: Vec<String>,
        /// A capability that it holds; may be repeated
        #[arg(long, value_name = "CAPABILITY")]
        grant: Vec<String>,
    },
    /// List principals; without the right to see others, only yourself
    List {
        /// Go on after this principal
        #[arg(long, value_name = "NAME")]
        after: Option<String>,
    },
    /// Show a principal
    Show { name: String },
    /// Put a principal into groups and take it out of others
    Modify {
        name: String,
        #[arg(long, value_name = "GROUP")]
        add_group: Vec<String>,
        #[arg(long, value_name = "GROUP")]
        remove_group: Vec<String>,
    },
    /// Let a disabled principal in again
    Enable { name: String },
    /// Deny a principal everything and end its sessions
    Disable { name: String },
    /// Delete a principal for good; nobody gets its name again
    Delete {
        name: String,
        /// Confirm the deletion
        #[arg(long)]
        yes: bool,
    },
    /// Speak as another principal from now on: one whose invite was redeemed here, or `default`, the host's owner
    Switch { name: String },
    /// Show which principal this command line speaks as
    Current,
}

#[derive(Deserialize)]
struct Row {
    principal: String,
    enabled: bool,
    groups: Vec<String>,
    grants: Vec<String>,
    revokes: Vec<String>,
}

#[derive(Deserialize)]
struct Rows {
    principals: Vec<Row>,
    next_after: Option<String>,
}

#[derive(Deserialize)]
struct Modified {
    principal: String,
    groups: Vec<String>,
    changed: bool,
}

#[derive(Deserialize)]
struct Enabled {
    principal: String,
    enabled: bool,
    changed: bool,
}

#[derive(Deserialize)]
struct Me {
    principal: String,
    groups: Vec<String>,
    capabilities: Vec<String>,
    expires_at_epoch: u64,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Create { name, group, grant } => {
                let body = json!({ "name": name, "groups": group, "grants": grant }).to_string();
                let answer = context.client.post(&format!("make {name}"), "/api/sys/principals", body).await?;
                if context.console.json {
                    context.console.document(&answer.body)?;
                } else {
                    print(context, answer.read()?)?;
                }
                Ok(Exit::Done)
            }
            Verb::List { after } => list(context, after.as_deref()).await,
            Verb::Show { name } => {
                let answer = context.client.get(&format!("show {name}"), &path(&name)).await?;
                if context.console.json {
                    context.console.document(&answer.body)?;
                } else {
                    print(context, answer.read()?)?;
                }
                Ok(Exit::Done)
            }
            Verb::Modify { name, add_group, remove_group } => {
                let body = json!({ "add_groups": add_group, "remove_groups": remove_group }).to_string();
                let answer = context.client.patch(&format!("modify {name}"), &path(&name), body).await?;
                if context.console.json {
                    context.console.document(&answer.body)?;
                    return Ok(Exit::Done);
                }
                let Modified { principal, groups, changed } = answer.read()?;
                let how = if changed { "is in" } else { "was already in" };
                let groups = if groups.is_empty() { "no group".to_owned() } else { groups.join(", ") };
                context.console.print(&text::shown(&format!("{principal} {how} {groups}")))?;
                Ok(Exit::Done)
            }
            Verb::Enable { name } => set_enabled(context, &name, "enable").await,
            Verb::Disable { name } => set_enabled(context, &name, "disable").await,
            Verb::Delete { name, yes } => delete(context, &name, yes).await,
            Verb::Switch { name } => switch(context, name),
            Verb::Current => current(context),
        }
    }
}

/// The path of a principal.
pub(super) fn path(principal: &str) -> String {
    format!("/api/sys/principals/{}", text::encoded(principal))
}

/// Names in one cell.
pub(super) fn names(list: &[String]) -> String {
    if list.is_empty() { "-".to_owned() } else { list.join(" ") }
}

fn state(enabled: bool) -> String {
    if enabled { "enabled" } else { "disabled" }.to_owned()
}

fn print(context: &mut Context<'_>, row: Row) -> Result<(), Failure> {
    context.console.print(&table::facts(&[
        ("principal", row.principal),
        ("state", state(row.enabled)),
        ("groups", names(&row.groups)),
        ("grants", names(&row.grants)),
        ("revokes", names(&row.revokes)),
    ]))
}

async fn list(context: &mut Context<'_>, after: Option<&str>) -> Result<Exit, Failure> {
    let query = after.map_or_else(String::new, |after| format!("?after={}", text::encoded(after)));
    let answer = context.client.get("list principals", &format!("/api/sys/principals{query}")).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Rows { principals, next_after } = answer.read()?;
    let row = |row: Row| {
        let Row { principal, enabled, groups, grants, revokes } = row;
        [principal, state(enabled), names(&groups), names(&grants), names(&revokes)]
    };
    let rows: Vec<[String; 5]> = principals.into_iter().map(row).collect();
    context.console.print(&table::table(["PRINCIPAL", "STATE", "GROUPS", "GRANTS", "REVOKES"], &rows))?;
    if let Some(after) = next_after {
        let after = text::quoted(&text::shown(&after));
        context.console.remark(&format!("There are more: {} agent list --after {after}", context.command));
    }
    Ok(Exit::Done)
}

async fn set_enabled(context: &mut Context<'_>, name: &str, verb: &str) -> Result<Exit, Failure> {
    let path = format!("{}/{verb}", path(name));
    let answer = context.client.post(&format!("{verb} {name}"), &path, "{}".to_owned()).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Enabled { principal, enabled, changed } = answer.read()?;
    let how = if changed { "is now" } else { "was already" };
    context.console.print(&text::shown(&format!("{principal} {how} {}", state(enabled))))?;
    Ok(Exit::Done)
}

async fn delete(context: &mut Context<'_>, name: &str, yes: bool) -> Result<Exit, Failure> {
    if !yes {
        let again = format!("{} agent delete {} --yes", context.command, text::quoted(&text::shown(name)));
        return Err(Failure::usage(format!("deleting `{}` is for good and needs a yes", text::shown(name))).next(again));
    }
    let answer = context.client.delete(&format!("delete {name}"), &path(name)).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
    } else {
        context.console.print(&text::shown(&format!("deleted {name}")))?;
    }
    Ok(Exit::Done)
}

fn switch(context: &mut Context<'_>, name: String) -> Result<Exit, Failure> {
    let known = context.sessions.load()?;
    if name != OWNER && !known.sessions.contains_key(&name) {
        let known: Vec<String> = known.sessions.into_keys().collect();
        let known = if known.is_empty() { "none is".to_owned() } else { format!("these are: {}", names(&known)) };
        return Err(Failure::failed(
            "not_found",
            format!("no session of `{}` is remembered; {known}", text::shown(&name)),
        )
        .next(format!("redeem an invite: {} invite redeem TOKEN --name NAME --key KEY", context.command)));
    }
    // A session of `default` that was got by an invite counts before the connection's own.
    let as_owner = !known.sessions.contains_key(&name);
    context.sessions.update(|remembered| remembered.current = (!as_owner).then(|| name.clone()))?;
    say(context, &name)
}

fn current(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let remembered = context.sessions.load()?;
    let name = remembered.current.as_ref().filter(|name| remembered.sessions.contains_key(*name));
    let name = name.map_or(OWNER, String::as_str).to_owned();
    say(context, &name)
}

/// The principal that calls over the home's socket are made as.
fn say(context: &mut Context<'_>, name: &str) -> Result<Exit, Failure> {
    let remembered = context.sessions.load()?;
    let session = remembered.sessions.get(name);
    if context.console.json {
        let mut document = json!({ "principal": name });
        if let Some(session) = session {
            document["expires_at_epoch"] = json!(session.expires_at_epoch);
            document["key"] = json!(session.key);
        }
        context.console.print(&document.to_string())?;
        return Ok(Exit::Done);
    }
    let by = match session {
        None if context.client.is_at_home() => "the user who runs the host".to_owned(),
        None => "if the host runs as this user".to_owned(),
        Some(session) => format!("until {}, key pair {}", time::moment(session.expires_at_epoch), session.key),
    };
    context.console.print(&text::shown(&format!("{name} ({by})")))?;
    Ok(Exit::Done)
}

/// Ends the current session. One that the host does not take any more is forgotten all the same.
pub(super) async fn logout(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let ended = context.client.delete("log out", "/api/auth/session").await;
    if let Err(failure) = ended
        && failure.code != "unauthorized"
    {
        return Err(failure);
    }
    context.sessions.update(|remembered| {
        if let Some(current) = remembered.current.take() {
            remembered.sessions.remove(&current);
        }
    })?;
    say(context, OWNER)
}

/// Who the host takes this command line for.
pub(super) async fn who(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.get("ask who this is", "/api/auth/me").await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Me { principal, groups, capabilities, expires_at_epoch } = answer.read()?;
    context.console.print(&table::facts(&[
        ("principal", principal),
        ("groups", names(&groups)),
        ("capabilities", names(&capabilities)),
        ("expires", time::moment(expires_at_epoch)),
    ]))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cli::testing::Host;

    const ROW: &str = r#"{"principal":"bo","enabled":true,"groups":["agent"],"grants":["a:b"],"revokes":[]}"#;

    #[test]
    fn each_verb_is_one_call_with_what_was_said() {
        let host = Host::with(|request| {
            let body = match request {
                r if r.starts_with("PATCH") => r#"{"principal":"bo","groups":["ops"],"changed":true}"#,
                r if r.contains("/enable") => r#"{"principal":"bo","enabled":true,"changed":false}"#,
                r if r.contains("/disable") => r#"{"principal":"bo","enabled":false,"changed":true}"#,
                r if r.starts_with("DELETE") => "",
                _ => ROW,
            };
            (if body.is_empty() { 204 } else { 200 }, body.to_owned())
        });
        let out = |args: &[&str]| {
            let ran = host.astrid(&[&["agent"], args].concat());
            assert_eq!(ran.exit, Exit::Done, "{ran:?}");
            ran.out
        };
        let shown = out(&["create", "bo", "--group", "ops", "--group", "agent", "--grant", "a:b"]);
        assert!(shown.contains("principal  bo") && shown.contains("revokes    -"), "{shown}");
        assert_eq!(out(&["show", "b o"]), shown);
        assert_eq!(out(&["modify", "bo", "--add-group", "ops", "--remove-group", "agent"]), "bo is in ops\n");
        assert_eq!(out(&["enable", "bo"]), "bo was already enabled\n");
        assert_eq!(out(&["disable", "bo"]), "bo is now disabled\n");
        assert_eq!(host.astrid(&["agent", "delete", "bo"]).exit, Exit::Usage);
        assert_eq!(out(&["delete", "bo", "--yes"]), "deleted bo\n");
        assert_eq!(
            host.requests(),
            [
                r#"POST /api/sys/principals {"grants":["a:b"],"groups":["ops","agent"],"name":"bo"}"#,
                "GET /api/sys/principals/b%20o",
                r#"PATCH /api/sys/principals/bo {"add_groups":["ops"],"remove_groups":["agent"]}"#,
                "POST /api/sys/principals/bo/enable {}",
                "POST /api/sys/principals/bo/disable {}",
                "DELETE /api/sys/principals/bo",
            ]
        );
    }

    #[test]
    fn a_list_that_is_not_complete_says_how_to_go_on() {
        let host = Host::answering(200, &format!(r#"{{"principals":[{ROW}],"next_after":"bo"}}"#));
        let ran = host.astrid(&["agent", "list", "--after", "a"]);
        assert!(ran.out.contains("bo         enabled  agent   a:b     -"), "{}", ran.out);
        assert!(ran.err.contains("agent list --after bo"), "{}", ran.err);
        assert_eq!(host.requests(), ["GET /api/sys/principals?after=a"]);
    }

    #[test]
    fn whoever_redeemed_here_can_be_switched_to_and_back_from_and_a_bearer_that_is_given_counts_first() {
        let host = Host::answering(
            200,
            r#"{"principal":"p1","group":"agent","groups":[],"capabilities":[],"expires_at_epoch":9,"public_key_fingerprint":"f","session_token":"a.b.c.d","session_expires_at_epoch":9}"#,
        );
        let current = || host.astrid(&["agent", "current"]).out;
        assert_eq!(current(), "default (the user who runs the host)\n");
        let unknown = host.astrid(&["agent", "switch", "p1"]);
        assert!(unknown.exit == Exit::Failed && unknown.err.contains("invite redeem"), "{unknown:?}");
        host.astrid(&["invite", "redeem", "tok", "--key", "laptop"]);
        assert_eq!(current(), "default (the user who runs the host)\n", "redeeming switches nobody");
        assert!(host.astrid(&["agent", "switch", "p1"]).out.ends_with(", key pair laptop)\n"));
        let document: Value = serde_json::from_str(&host.astrid(&["agent", "current", "--json"]).out).unwrap();
        assert_eq!(document, json!({ "principal": "p1", "expires_at_epoch": 9, "key": "laptop" }));
        assert!(host.astrid(&["who"]).out.contains("principal     p1"));
        host.astrid(&["who", "--bearer", "x.y"]);
        assert_eq!(host.astrid(&["logout"]).out, "default (the user who runs the host)\n");
        host.astrid(&["who"]);
        assert_eq!(host.astrid(&["agent", "switch", "p1"]).exit, Exit::Failed, "it is forgotten");
        assert_eq!(
            host.requests()[1..],
            [
                "GET /api/auth/me Bearer a.b.c.d",
                "GET /api/auth/me Bearer x.y",
                "DELETE /api/auth/session Bearer a.b.c.d",
                "GET /api/auth/me"
            ]
        );
    }
}
