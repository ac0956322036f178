//! `astrid init` and `astrid distro`: a home's distribution, from a folder or a bundle.
//!
//! Everything is checked before anything in the home changes: the distribution, its lock, every archive, the values of its
//! variables. Then the home's `etc/variables.toml` and `distro/` are written, and a host that runs is asked to apply them; one
//! that does not run does so when it starts. No value of a variable is ever printed.

mod carry;
mod ready;
mod show;
mod update;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use astrid_capsule::distro::{self as grammar, lock};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::{Context, table, text};
use crate::distro::Folder;
use ready::{Given, Ready};

#[derive(Args)]
pub(super) struct Init {
    /// The folder with Distro.toml and its archives [default: the current folder]
    #[arg(long, value_name = "DIR", default_value = ".")]
    distro: PathBuf,
    #[command(flatten)]
    given: Given,
}

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Show the home's distribution, and where its archives or what is installed differ from its lock
    Show,
    /// Put a distribution into the home and apply it; without DIR, apply the one that lies there
    Apply {
        /// The folder with Distro.toml and its archives
        dir: Option<PathBuf>,
        #[command(flatten)]
        given: Given,
    },
    /// Write a new Distro.lock of the archives as they are now
    Update {
        /// The folder with Distro.toml [default: the home's]
        dir: Option<PathBuf>,
        /// The registry's folder, from which `name@version` entries are copied
        #[arg(long, value_name = "DIR")]
        registry: Option<PathBuf>,
    },
    /// Carry a distribution to another machine in one file
    #[command(subcommand)]
    Bundle(Bundle),
}

#[derive(Subcommand)]
pub(super) enum Bundle {
    /// Write the home's distribution into a file, without the values of its variables
    Export { file: PathBuf },
    /// Put the distribution of a file into the home and apply it
    Import {
        file: PathBuf,
        #[command(flatten)]
        given: Given,
    },
}

/// A row of what the host has applied.
#[derive(Deserialize)]
struct Applied {
    name: String,
    version: Option<String>,
    what: String,
    why: Option<String>,
}

#[derive(Deserialize)]
struct Capsules<T> {
    capsules: Vec<T>,
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::failed("distribution", why)
}

impl Init {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        local(context)?;
        let ready = Ready::read(context, &self.distro)?;
        if is_running(context).await {
            let next = format!("`{} distro apply {}`", context.command, text::quoted(&self.distro.to_string_lossy()));
            return Err(Failure::failed("running", "a host serves this home already").next(next));
        }
        let present = Folder::read(&context.home.distro()).map_err(refused)?;
        if let Some(present) = present.filter(|present| present.text != ready.folder.text) {
            let about = &present.distro.distro;
            let why = format!("this home has the distribution {} {}", about.id, about.version);
            let next = format!("`{} distro apply DIR` replaces it", context.command);
            return Err(Failure::failed("conflict", why).next(next));
        }
        ready.put(context, self.given)?;
        report_staged(context, &ready, "start it, and it applies them")
    }
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        local(context)?;
        match self {
            Verb::Show => show::show(context).await,
            Verb::Apply { dir, given } => {
                let dir = dir.unwrap_or_else(|| context.home.distro());
                let ready = Ready::read(context, &dir)?;
                ready.put(context, given)?;
                apply(context, &ready).await
            }
            Verb::Update { dir, registry } => update::update(context, dir, registry),
            Verb::Bundle(Bundle::Export { file }) => carry::export(context, &file),
            Verb::Bundle(Bundle::Import { file, given }) => carry::import(context, &file, given).await,
        }
    }
}

/// These verbs write to the home itself.
fn local(context: &Context<'_>) -> Result<(), Failure> {
    if !context.client.is_at_home() {
        return Err(Failure::usage(
            "a distribution is put into your own home; leave --url, --socket and $ASTRID_SOCKET out",
        ));
    }
    Ok(())
}

async fn is_running(context: &Context<'_>) -> bool {
    let answer = context.client.exchange(hyper::Method::GET, "/healthz", None).await;
    !answer.is_err_and(|failure| is_absent(&failure))
}

/// Whether the call failed because there is no host.
fn is_absent(failure: &Failure) -> bool {
    matches!(failure.code.as_str(), "not_running" | "stale_socket" | "home")
}

fn open(dir: &Path) -> Result<Folder, Failure> {
    let absent = || refused(format!("there is no {} in {}", grammar::FILE, dir.display()));
    Folder::read(dir).map_err(refused)?.ok_or_else(absent)
}

fn say(context: &mut Context<'_>, document: &Value) -> Result<(), Failure> {
    context.console.document(document.to_string().as_bytes())
}

fn report_staged(context: &mut Context<'_>, ready: &Ready, next: &str) -> Result<Exit, Failure> {
    let about = &ready.folder.distro.distro;
    if context.console.json {
        let row =
            |l: &lock::Locked| json!({ "name": l.name, "version": l.version.to_string(), "what": "at-next-start" });
        let capsules: Vec<Value> = ready.lock.capsule.iter().map(row).collect();
        let distro = json!({ "id": about.id, "version": about.version.to_string() });
        say(context, &json!({ "distro": distro, "capsules": capsules }))?;
    } else {
        let (home, count) = (context.home.root().display().to_string(), ready.lock.capsule.len());
        let line = format!("{home} has {} {}, {count} capsules; no host runs: {next}", about.id, about.version);
        context.console.remark(&text::shown(&line));
        context.console.remark(&super::client::start(context.home.root()));
    }
    Ok(Exit::Done)
}

async fn apply(context: &mut Context<'_>, ready: &Ready) -> Result<Exit, Failure> {
    let answer = context.client.patient().post("apply the distribution", "/api/sys/distro/apply", "{}".into()).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) if is_absent(&failure) => return report_staged(context, ready, "the next start applies them"),
        Err(failure) => return Err(failure),
    };
    let Capsules::<Applied> { capsules } = answer.read()?;
    let failed = capsules.iter().filter(|row| row.what == "failed").count();
    if context.console.json {
        context.console.document(&answer.body)?;
    } else {
        let row =
            |row: Applied| [row.name, row.version.unwrap_or_else(|| "-".into()), row.what, row.why.unwrap_or_default()];
        let rows: Vec<[String; 4]> = capsules.into_iter().map(row).collect();
        context.console.print(&table::table(["NAME", "VERSION", "WHAT", "WHY"], &rows))?;
    }
    if failed > 0 {
        context.console.remark(&format!("{failed} could not be applied; what ran before goes on"));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}
