//! `astrid approval`: what capsules ask one's consent for, and what was approved for longer.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::failure::{Exit, Failure};
use super::{Context, table, text, time};

const PATH: &str = "/api/approvals";

#[derive(Subcommand)]
pub(super) enum Verb {
    /// List what waits for your answer, and what you have approved for longer
    List,
    /// Say yes to what a capsule asks, once
    Approve {
        /// As `approval list` shows it
        id: String,
        /// For as long as the session lasts in which it was asked
        #[arg(long, conflicts_with = "always")]
        session: bool,
        /// Until you withdraw it
        #[arg(long)]
        always: bool,
    },
    /// Say no to what a capsule asks
    Deny {
        /// As `approval list` shows it
        id: String,
    },
    /// Take back what you have approved for longer
    Withdraw {
        /// As `approval list` shows it
        id: String,
    },
}

#[derive(Deserialize)]
struct Approvals {
    requests: Vec<Row>,
    standing: Vec<Standing>,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    capsule: String,
    action: String,
    resource: Option<String>,
    reason: Option<String>,
    expires_at_epoch: u64,
}

#[derive(Deserialize)]
struct Standing {
    id: String,
    capsule: String,
    action: String,
    resource: Option<String>,
    session: bool,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::List => list(context).await,
            Verb::Approve { id, session, always } => {
                let decision = match (session, always) {
                    (true, _) => "approve_session",
                    (_, true) => "approve_always",
                    _ => "approve_once",
                };
                decide(context, &id, decision, "approved").await
            }
            Verb::Deny { id } => decide(context, &id, "deny", "denied").await,
            Verb::Withdraw { id } => {
                let answer = context.client.delete("withdraw the approval", &of(&id)).await?;
                said(context, &answer.body, &format!("withdrew {id}: the capsule has to ask again"))
            }
        }
    }
}

fn of(id: &str) -> String {
    format!("{PATH}/{}", text::encoded(id))
}

async fn decide(context: &mut Context<'_>, id: &str, decision: &str, done: &str) -> Result<Exit, Failure> {
    let body = json!({ "decision": decision }).to_string();
    let answer = context.client.post("answer the request", &of(id), body).await?;
    said(context, &answer.body, &format!("{done} {id}"))
}

fn said(context: &mut Context<'_>, document: &[u8], sentence: &str) -> Result<Exit, Failure> {
    if context.console.json {
        context.console.document(document)?;
    } else {
        context.console.print(&text::shown(sentence))?;
    }
    Ok(Exit::Done)
}

async fn list(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.get("list what waits for an answer", PATH).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Approvals { requests, standing } = answer.read()?;
    let open = requests.into_iter().map(|row| {
        let until = format!("asked, until {}", time::moment(row.expires_at_epoch));
        [row.id, until, row.capsule, row.action, row.resource.unwrap_or_default(), row.reason.unwrap_or_default()]
    });
    let standing = standing.into_iter().map(|row| {
        let how = if row.session { "approved for a session" } else { "approved always" };
        [row.id, how.into(), row.capsule, row.action, row.resource.unwrap_or_default(), String::new()]
    });
    let rows: Vec<[String; 6]> = open.chain(standing).collect();
    context.console.print(&table::table(["ID", "STATE", "CAPSULE", "ACTION", "RESOURCE", "REASON"], &rows))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use crate::cli::failure::Exit;
    use crate::cli::testing::Host;

    #[test]
    fn each_verb_is_one_call_and_what_a_capsule_says_can_not_move_the_cursor() {
        let host = Host::with(|request| match request {
            r if r.starts_with("DELETE") => (204, String::new()),
            r if r.starts_with("POST") => (200, "{}".to_owned()),
            _ => (
                200,
                r#"{"requests":[{"id":"r1","capsule":"notes","action":"rm\u001b","reason":"why","asked_at_epoch":0,
                    "expires_at_epoch":0}],"standing":[{"id":"s1","capsule":"notes","action":"read","resource":"/a",
                    "session":true,"granted_at_epoch":0}]}"#
                    .to_owned(),
            ),
        });
        let listed = host.astrid(&["approval", "list"]).out;
        assert!(listed.contains("r1  asked, until 1970-01-01 00:00:00Z  notes    rm\\u{1b}"), "{listed}");
        assert!(listed.contains("s1  approved for a session"), "{listed}");
        assert_eq!(host.astrid(&["approval", "approve", "r1"]).out, "approved r1\n");
        host.astrid(&["approval", "approve", "r1", "--session"]);
        host.astrid(&["approval", "approve", "r1", "--always"]);
        assert_eq!(host.astrid(&["approval", "approve", "r1", "--always", "--session"]).exit, Exit::Usage);
        assert_eq!(host.astrid(&["approval", "deny", "r/1"]).out, "denied r/1\n");
        assert!(host.astrid(&["approval", "withdraw", "s1"]).out.starts_with("withdrew s1"));
        assert_eq!(
            host.requests(),
            [
                "GET /api/approvals",
                r#"POST /api/approvals/r1 {"decision":"approve_once"}"#,
                r#"POST /api/approvals/r1 {"decision":"approve_session"}"#,
                r#"POST /api/approvals/r1 {"decision":"approve_always"}"#,
                r#"POST /api/approvals/r%2F1 {"decision":"deny"}"#,
                "DELETE /api/approvals/s1",
            ]
        );
    }
}
