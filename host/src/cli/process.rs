//! `astrid process`: programs of the system that capsules have started, each in a sandbox.

use clap::Subcommand;
use serde::Deserialize;

use super::failure::{Exit, Failure};
use super::{Context, table, text, time};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// List the sandboxed programs that run
    List,
    /// End one, with everything that it has started
    Stop {
        /// As `process list` shows it
        id: String,
    },
}

#[derive(Deserialize)]
struct Listed {
    processes: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    principal: String,
    capsule: String,
    program: String,
    /// Seconds since the Unix epoch.
    started_at: u64,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::List => list(context).await,
            Verb::Stop { id } => stop(context, &id).await,
        }
    }
}

async fn list(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.get("list processes", "/api/sys/processes").await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Listed { processes } = answer.read()?;
    let row = |row: Row| [row.id, row.principal, row.capsule, row.program, time::moment(row.started_at)];
    let rows: Vec<_> = processes.into_iter().map(row).collect();
    context.console.print(&table::table(["ID", "PRINCIPAL", "CAPSULE", "PROGRAM", "STARTED"], &rows))?;
    Ok(Exit::Done)
}

async fn stop(context: &mut Context<'_>, id: &str) -> Result<Exit, Failure> {
    let path = format!("/api/sys/processes/{}/stop", text::encoded(id));
    context.client.post(&format!("stop the process {id}"), &path, "{}".to_owned()).await?;
    if context.console.json {
        context.console.document(b"{}")?;
    } else {
        context.console.print(&format!("{} was stopped", text::shown(id)))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use crate::cli::failure::Exit;
    use crate::cli::testing::Host;

    #[test]
    fn what_runs_is_listed_and_one_is_stopped_by_its_id() {
        let row = r#"{"id":"00ff","principal":"ada","capsule":"git","program":"/usr/bin/git","started_at":0}"#;
        let host = Host::with(move |request| match request.starts_with("GET") {
            true => (200, format!(r#"{{"processes":[{row}]}}"#)),
            false => (204, String::new()),
        });
        let listed = host.astrid(&["process", "list"]).out;
        assert!(listed.contains("00ff  ada        git      /usr/bin/git  1970-01-01 00:00:00Z"), "{listed}");
        let stopped = host.astrid(&["process", "stop", "00ff"]);
        assert_eq!((stopped.exit, stopped.out.as_str()), (Exit::Done, "00ff was stopped\n"));
        assert_eq!(host.requests(), ["GET /api/sys/processes", "POST /api/sys/processes/00ff/stop {}"]);
    }
}
