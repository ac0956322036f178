//! `astrid capsule`: what runs on the host. A manifest asks and the operator grants, so what was not granted is said
//! in the words of the command that grants it.

use std::fs::File;
use std::path::{Path, PathBuf};

use astrid_capsule::Capability;
use astrid_capsule::archive::Archive;
use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::client::Answer;
use super::failure::{Exit, Failure};
use super::{Context, table, text};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// List the installed capsules
    List,
    /// Show a capsule's topics and their types
    Topics {
        /// The capsule's id, as `capsule list` shows it
        capsule: String,
    },
    /// Install a `.capsule` file, or a new version of one that is installed
    Install {
        /// A file that the host can read
        path: PathBuf,
        /// Grant what the manifest asks for; may be repeated
        #[arg(long = "grant", value_name = "CAP", value_parser = Capability::parse)]
        grants: Vec<Capability>,
    },
}

#[derive(Deserialize)]
struct Capsules {
    capsules: Vec<Capsule>,
}

#[derive(Deserialize)]
struct Capsule {
    id: String,
    version: String,
    state: String,
    hash: String,
}

#[derive(Deserialize)]
struct Topics {
    topics: Vec<Topic>,
}

#[derive(Deserialize)]
struct Topic {
    topic: String,
    direction: String,
    handler: Option<String>,
    wit: Option<Wit>,
}

#[derive(Deserialize)]
struct Wit {
    payload: String,
    answer: Option<String>,
}

#[derive(Deserialize)]
struct Installed {
    id: String,
    version: String,
    previous_version: Option<String>,
    hash: String,
    grants: Vec<String>,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::List => list(context).await,
            Verb::Topics { capsule } => topics(context, &capsule).await,
            Verb::Install { path, grants } => install(context, &path, grants).await,
        }
    }
}

async fn list(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.get("list the capsules", "/api/capsules").await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Capsules { capsules } = answer.read()?;
    let rows: Vec<[String; 4]> = capsules.into_iter().map(|c| [c.id, c.version, c.state, c.hash]).collect();
    context.console.print(&table::table(["ID", "VERSION", "STATE", "HASH"], &rows))?;
    Ok(Exit::Done)
}

async fn topics(context: &mut Context<'_>, capsule: &str) -> Result<Exit, Failure> {
    let path = format!("/api/capsules/{}/topics", text::encoded(capsule));
    let answer = context.client.get(&format!("list the topics of {capsule}"), &path).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Topics { topics } = answer.read()?;
    let rows = topics.into_iter().map(|topic| {
        let (payload, answer) = topic.wit.map_or((None, None), |wit| (Some(wit.payload), wit.answer));
        [
            topic.topic,
            topic.direction,
            topic.handler.unwrap_or_default(),
            payload.unwrap_or_default(),
            answer.unwrap_or_default(),
        ]
    });
    let rows: Vec<[String; 5]> = rows.collect();
    context.console.print(&table::table(["TOPIC", "DIRECTION", "HANDLER", "PAYLOAD", "ANSWER"], &rows))?;
    Ok(Exit::Done)
}

async fn install(context: &mut Context<'_>, path: &Path, mut grants: Vec<Capability>) -> Result<Exit, Failure> {
    let absolute = std::path::absolute(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let Some(source) = absolute.to_str() else {
        return Err(Failure::usage(format!("{} is no UTF-8 path, and the host takes no other", absolute.display())));
    };
    let failure = match send(context, source, &grants).await {
        Ok(answer) => return finish(context, &answer),
        Err(failure) => failure,
    };
    let missing = if context.client.is_remote() { Vec::new() } else { ungranted(&absolute, &grants, &failure) };
    if missing.is_empty() {
        return Err(failure);
    }
    grants.extend(missing.iter().cloned());
    let names: Vec<&str> = missing.iter().map(Capability::as_str).collect();
    if context.console.can_ask() {
        let question = format!("{source} asks for {}. Grant and install?", names.join(", "));
        if context.console.ask(&text::shown(&question)) {
            let answer = send(context, source, &grants).await?;
            return finish(context, &answer);
        }
    }
    let mut command = format!("{} capsule install {}", context.command, text::quoted(source));
    for grant in &grants {
        command += &format!(" --grant {}", text::quoted(grant.as_str()));
    }
    Err(failure.next(format!("if you trust it with {}: {command}", names.join(", "))))
}

async fn send(context: &Context<'_>, source: &str, grants: &[Capability]) -> Result<Answer, Failure> {
    let mut body = json!({ "source": source });
    if !grants.is_empty() {
        body["grants"] = grants.iter().map(Capability::as_str).collect();
    }
    context.client.post(&format!("install {source}"), "/api/capsules", body.to_string()).await.map_err(|f| {
        if f.code == "not_found" { f.next("check the path: the host's own user must be able to read it") } else { f }
    })
}

/// What the archive's manifest asks for beyond `grants`, if that is why the host said no. An archive that can't be
/// read here gives nothing: the host's own words stand.
fn ungranted(path: &Path, grants: &[Capability], failure: &Failure) -> Vec<Capability> {
    if failure.code != "forbidden" {
        return Vec::new();
    }
    let asks = File::open(path).ok().and_then(|file| Archive::read(file).ok()).map(|archive| archive.manifest.asked());
    let mut missing = asks.unwrap_or_default();
    missing.retain(|ask| !grants.iter().any(|grant| grant.covers(ask)));
    if missing.iter().any(|ask| failure.reason.contains(ask.as_str())) { missing } else { Vec::new() }
}

fn finish(context: &mut Context<'_>, answer: &Answer) -> Result<Exit, Failure> {
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let installed: Installed = answer.read()?;
    let grants = if installed.grants.is_empty() { "none".to_owned() } else { installed.grants.join(", ") };
    context.console.print(&table::facts(&[
        ("capsule", installed.id),
        ("version", installed.version),
        ("before", installed.previous_version.unwrap_or_else(|| "not installed".to_owned())),
        ("hash", installed.hash),
        ("grants", grants),
    ]))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use astrid_capsule::manifest::Manifest;
    use astrid_capsule::schema::Schemas;

    use super::*;
    use crate::cli::testing::{Host, astrid_at};

    const DONE: &str = r#"{"id":"echo","version":"1.0.0","hash":"ab","grants":["keys:session"]}"#;

    /// A host that installs what is granted `keys:session`, and an archive that asks for it.
    fn host() -> (Host, String) {
        let host = Host::with(|request| {
            if request.contains("\"keys:session\"") {
                (200, DONE.to_owned())
            } else {
                (403, r#"{"error":"forbidden","reason":"not granted: keys:session"}"#.to_owned())
            }
        });
        let manifest = "asks = [\"keys:session\"]\n[package]\nname = \"echo\"\nversion = \"1.0.0\"\n";
        let path = host.home.root().join("it's.capsule");
        let component = [b"\0asm".as_slice(), &[0x0d, 0, 1, 0]].concat();
        let to = File::create(&path).unwrap();
        Archive::write(&Manifest::parse(manifest).unwrap(), &component, &Schemas::default(), to).unwrap();
        (host, path.to_str().unwrap().to_owned())
    }

    #[test]
    fn what_was_not_granted_is_said_as_the_command_that_grants_it() {
        let (host, path) = host();
        let ran = host.astrid(&["capsule", "install", &path]);
        assert_eq!(ran.exit, Exit::Failed);
        let root = host.home.root().display();
        let command = format!("astrid --home {root} capsule install '{root}/it'\\''s.capsule' --grant keys:session");
        assert!(ran.err.contains(&command), "{}", ran.err);
        assert_eq!(host.requests().len(), 1);
        let ran = host.astrid(&["capsule", "install", &path, "--grant", "keys:session"]);
        assert!(ran.out.contains("grants   keys:session"), "{ran:?}");
    }

    #[test]
    fn a_person_is_asked_and_only_a_yes_grants() {
        let (host, path) = host();
        let ran = astrid_at(&host.home, &["capsule", "install", &path], "n\n", true);
        assert_eq!(ran.exit, Exit::Failed);
        assert!(ran.err.contains("[y/N]") && ran.err.contains("--grant"), "{}", ran.err);
        let ran = astrid_at(&host.home, &["capsule", "install", &path], "yes\n", true);
        assert_eq!(ran.exit, Exit::Done, "{ran:?}");
        let asked = host.requests().len();
        let ran = astrid_at(&host.home, &["capsule", "install", &path, "--json"], "y\n", true);
        assert_eq!((ran.exit, host.requests().len()), (Exit::Failed, asked + 1), "with --json nobody is asked");
    }

    #[test]
    fn a_403_for_another_reason_suggests_no_grant() {
        let (granting, path) = host();
        let host = Host::answering(403, r#"{"error":"forbidden","reason":"p1 lacks capsule:install"}"#);
        let ran = host.astrid(&["capsule", "install", &path]);
        assert!(ran.err.contains("lacks capsule:install") && !ran.err.contains("--grant"), "{}", ran.err);
        drop(granting);
    }

    #[test]
    fn a_relative_path_is_sent_as_an_absolute_one() {
        let host = Host::answering(200, DONE);
        assert_eq!(host.astrid(&["capsule", "install", "x.capsule", "--json"]).out, format!("{DONE}\n"));
        let here = std::env::current_dir().unwrap();
        let expected = json!({ "source": here.join("x.capsule").to_str().unwrap() });
        assert_eq!(host.requests(), [format!("POST /api/capsules {expected}")]);
        assert_eq!(host.astrid(&["capsule", "install", "x", "--grant", "a b"]).exit, Exit::Usage);
    }

    #[test]
    fn topics_have_a_row_each_with_the_names_of_their_types() {
        let body = r#"{"topics":[{"topic":"a.v1","direction":"subscribe","handler":"a","wit":{"payload":"a.t","answer":"nothing"},"schema":{"payload":{},"answer":{}}},{"topic":"b","direction":"publish"}]}"#;
        let host = Host::answering(200, body);
        let want =
            "TOPIC  DIRECTION  HANDLER  PAYLOAD  ANSWER\na.v1   subscribe  a        a.t      nothing\nb      publish";
        assert_eq!(host.astrid(&["capsule", "topics", "a/b"]).out.trim_end(), want);
        assert!(host.requests()[0].starts_with("GET /api/capsules/a%2Fb/topics"), "{:?}", host.requests());
    }

    #[test]
    fn the_list_has_a_row_for_each_capsule() {
        let host = Host::answering(200, r#"{"capsules":[{"id":"echo","version":"1.0.0","state":"live","hash":"ab"}]}"#);
        assert_eq!(host.astrid(&["capsule", "list"]).out, "ID    VERSION  STATE  HASH\necho  1.0.0    live   ab\n");
    }
}
