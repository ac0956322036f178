//! `astrid capsule`: what runs on the host. A manifest asks and the operator grants, so what was not granted is said
//! in the words of the command that grants it.

use std::fs::File;
use std::path::{Path, PathBuf};

use astrid_capsule::Capability;
use astrid_capsule::archive::Archive;
use astrid_capsule::registry::{self, Index};
use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::client::Answer;
use super::failure::{Exit, Failure};
use super::policy::Consent;
use super::watch::Watch;
use super::{Context, table, text, time};
use crate::files;

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
        /// A file that the host can read; with --registry NAME or NAME@VERSION
        path: PathBuf,
        /// A registry's folder that the host can read
        #[arg(long, value_name = "DIR")]
        registry: Option<PathBuf>,
        #[command(flatten)]
        consent: Consent,
        /// Replace a live version only if this one answers its next N calls alike
        #[arg(long, value_name = "N", default_value_t = 0)]
        shadow: u32,
    },
    /// Put a new version in place of the running one; without a path, the installed version as a new generation
    Swap {
        /// The capsule's id
        capsule: String,
        /// A file that the host can read
        path: Option<PathBuf>,
        #[command(flatten)]
        consent: Consent,
        #[arg(long, value_name = "N", default_value_t = 0)]
        shadow: u32,
    },
    /// Go back to the version before
    Rollback { capsule: String },
    /// Show what happened to a capsule
    History { capsule: String },
    /// Uninstall a capsule; what it has stored is kept
    Remove {
        capsule: String,
        /// Delete what it has stored as well, for every principal
        #[arg(long)]
        purge: bool,
    },
    /// Delete components and compiled code that no installed version needs
    Gc,
    /// Build a capsule's folder and put it in place of the running version, again whenever it is saved
    Watch {
        /// A folder with a Capsule.toml
        folder: PathBuf,
        #[command(flatten)]
        consent: Consent,
        /// What builds the folder, called with `--json build DIR` [default: astrid-build]
        #[arg(long, value_name = "PROGRAM")]
        build: Option<PathBuf>,
        /// Build and install once, then end
        #[arg(long)]
        once: bool,
    },
}

/// How the host begins when nobody vouches for an archive.
const UNTRUSTED: &str = "nobody vouches for ";

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
    installed_version: String,
    previous_version: Option<String>,
    wasm_hash: String,
    grants: Vec<String>,
    #[serde(default)]
    env_needs_prompt: bool,
    #[serde(default)]
    missing_imports: Vec<Missing>,
    #[serde(default)]
    export_conflicts: Vec<Shared>,
    publisher: Option<String>,
}

#[derive(Deserialize)]
struct Missing {
    interface: String,
}

#[derive(Deserialize)]
struct Shared {
    interface: String,
    existing_capsule: String,
}

#[derive(Deserialize)]
struct History {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    time_ms: u64,
    what: String,
    version: String,
    hash: String,
    why: Option<String>,
}

#[derive(Deserialize)]
struct Collected {
    files: u64,
    bytes: u64,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::List => list(context).await,
            Verb::Topics { capsule } => topics(context, &capsule).await,
            Verb::Install { path, registry: None, consent, shadow } => install(context, &path, &consent, shadow).await,
            Verb::Install { path, registry: Some(folder), consent, shadow } => {
                let blob = find(&folder, &path)?;
                install(context, &blob, &consent, shadow).await
            }
            Verb::Swap { capsule, path: Some(path), consent, shadow } => {
                named(&path, &capsule)?;
                install(context, &path, &consent, shadow).await
            }
            Verb::Swap { capsule, path: None, .. } => change(context, &capsule, "swap", "swapped").await,
            Verb::Rollback { capsule } => change(context, &capsule, "rollback", "went back").await,
            Verb::History { capsule } => history(context, &capsule).await,
            Verb::Remove { capsule, purge } => remove(context, &capsule, purge).await,
            Verb::Gc => gc(context).await,
            Verb::Watch { folder, consent, build, once } => Watch { folder, consent, build, once }.run(context).await,
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

/// Whether the archive at `path` holds this capsule, as far as that can be told from here.
fn named(path: &Path, capsule: &str) -> Result<(), Failure> {
    match File::open(path).ok().and_then(|file| Archive::read(file).ok()) {
        Some(archive) if archive.manifest.package.name != capsule => {
            let (path, found) = (path.display(), archive.manifest.package.name);
            Err(Failure::usage(format!("{path} holds `{found}`, not `{}`", text::shown(capsule))))
        }
        _ => Ok(()),
    }
}

/// A change without more to say than which capsule.
async fn change(context: &mut Context<'_>, capsule: &str, verb: &str, done: &str) -> Result<Exit, Failure> {
    let what = format!("{verb} {}", text::shown(capsule));
    let path = format!("/api/capsules/{}/{verb}", text::encoded(capsule));
    let answer = context.client.post(&what, &path, "{}".into()).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    #[derive(Deserialize)]
    struct Changed {
        version: String,
    }
    let Changed { version } = answer.read()?;
    context.console.remark(&format!("{} {done}: {} is live", text::shown(capsule), text::shown(&version)));
    Ok(Exit::Done)
}

async fn history(context: &mut Context<'_>, capsule: &str) -> Result<Exit, Failure> {
    let path = format!("/api/capsules/{}/history", text::encoded(capsule));
    let answer = context.client.get(&format!("show the history of {}", text::shown(capsule)), &path).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let History { steps } = answer.read()?;
    let row = |s: Step| {
        let hash = s.hash.chars().take(12).collect();
        [time::moment_ms(s.time_ms), s.what, s.version, hash, s.why.unwrap_or_default()]
    };
    let rows: Vec<[String; 5]> = steps.into_iter().map(row).collect();
    context.console.print(&table::table(["WHEN", "WHAT", "VERSION", "HASH", "WHY"], &rows))?;
    Ok(Exit::Done)
}

async fn remove(context: &mut Context<'_>, capsule: &str, purge: bool) -> Result<Exit, Failure> {
    let shown = text::shown(capsule);
    let question = format!("Delete {shown} and everything that it has stored, for every principal?");
    if purge && context.console.can_ask() && !context.console.ask(&question) {
        return Err(Failure::usage("nothing was removed"));
    }
    let what = format!("remove {shown}");
    let query = if purge { "?purge=true" } else { "" };
    let path = format!("/api/capsules/{}{query}", text::encoded(capsule));
    let answer = context.client.delete(&what, &path).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
    } else {
        let kept = if purge { "and what it had stored" } else { "what it has stored is kept; --purge deletes it" };
        context.console.remark(&format!("removed {shown}; {kept}"));
    }
    Ok(Exit::Done)
}

async fn gc(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.post("clean up", "/api/sys/capsules/gc", "{}".into()).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Collected { files, bytes } = answer.read()?;
    context.console.remark(&format!("deleted {files} files, {bytes} bytes"));
    Ok(Exit::Done)
}

/// Where the registry in `folder` keeps what `wanted` names. The host trusts none of this: it reads the index again.
fn find(folder: &Path, wanted: &Path) -> Result<PathBuf, Failure> {
    let wanted = wanted.to_string_lossy();
    let (name, version) = match wanted.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (&*wanted, None),
    };
    let version = version.map(semver::Version::parse).transpose();
    let version =
        version.map_err(|error| Failure::usage(format!("`{wanted}` must be NAME or NAME@VERSION: {error}")))?;
    let path = folder.join(registry::INDEX);
    let failed = |why: String| Failure::failed("not_found", format!("{}: {why}", path.display()));
    let bytes = files::open_regular(&path).and_then(|file| files::read_capped(file, registry::MAX_INDEX_BYTES));
    let bytes = bytes.map_err(|error| failed(error.to_string()))?;
    let index = Index::parse(&String::from_utf8_lossy(&bytes)).map_err(|error| failed(error.to_string()))?;
    let entry = index.find(name, version.as_ref()).ok_or_else(|| failed(format!("there is no {wanted}")))?;
    Ok(folder.join(entry.blob()))
}

pub(super) async fn install(
    context: &mut Context<'_>,
    path: &Path,
    consent: &Consent,
    shadow: u32,
) -> Result<Exit, Failure> {
    let absolute = std::path::absolute(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let Some(source) = absolute.to_str() else {
        return Err(Failure::usage(format!("{} is no UTF-8 path, and the host takes no other", absolute.display())));
    };
    let mut grants = consent.to(&absolute)?;
    let failure = match send(context, source, &grants, shadow).await {
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
            let answer = send(context, source, &grants, shadow).await?;
            return finish(context, &answer);
        }
    }
    let mut command = format!("{} capsule install {}", context.command, text::quoted(source));
    for grant in &grants {
        command += &format!(" --grant {}", text::quoted(grant.as_str()));
    }
    Err(failure.next(format!("if you trust it with {}: {command}", names.join(", "))))
}

async fn send(context: &Context<'_>, source: &str, grants: &[Capability], shadow: u32) -> Result<Answer, Failure> {
    let mut body = json!({ "source": source });
    if !grants.is_empty() {
        body["grants"] = grants.iter().map(Capability::as_str).collect();
    }
    if shadow > 0 {
        body["shadow"] = shadow.into();
    }
    let answer = context.client.patient().post(&format!("install {source}"), "/api/capsules", body.to_string()).await;
    answer.map_err(|f| match f.code.as_str() {
        "not_found" => f.next("check the path: the host's own user must be able to read it"),
        "forbidden" if f.reason.contains(UNTRUSTED) => f.next(format!(
            "if you trust whoever signed it: {} trust add NAME KEY; docs/operating.md says how to let it pass unsigned",
            context.command
        )),
        _ => f,
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
    let id = installed.id.clone();
    context.console.print(&table::facts(&[
        ("capsule", installed.id),
        ("version", installed.installed_version),
        ("before", installed.previous_version.unwrap_or_else(|| "not installed".to_owned())),
        ("hash", installed.wasm_hash),
        ("grants", grants),
        ("publisher", installed.publisher.unwrap_or_else(|| "nobody vouches for it".to_owned())),
    ]))?;
    for missing in installed.missing_imports {
        context.console.remark(&format!("nothing handles {} yet, to which it sends", text::shown(&missing.interface)));
    }
    for shared in installed.export_conflicts {
        let (interface, other) = (text::shown(&shared.interface), text::shown(&shared.existing_capsule));
        context.console.remark(&format!("{interface} is in part {other}'s as well; the closer match serves"));
    }
    if installed.env_needs_prompt {
        let id = text::quoted(&text::shown(&id));
        context.console.remark(&format!("it wants to be told something: `{} env list {id}`", context.command));
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use astrid_capsule::manifest::Manifest;

    use super::*;
    use crate::cli::testing::{Host, astrid_at};

    const DONE: &str = r#"{"id":"echo","installed_version":"1.0.0","wasm_hash":"ab","grants":["keys:session"]}"#;

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
        let archive = Archive::new(&Manifest::parse(manifest).unwrap(), component);
        archive.write(File::create(&path).unwrap()).unwrap();
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
        assert!(ran.out.contains("grants     keys:session"), "{ran:?}");
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
    fn from_a_registry_the_path_of_the_version_that_is_meant_is_sent() {
        let host = Host::answering(200, DONE);
        let folder = host.home.root().join("registry");
        std::fs::create_dir(&folder).unwrap();
        let at = |wanted: &str| host.astrid(&["capsule", "install", wanted, "--registry", folder.to_str().unwrap()]);
        assert!(at("echo").err.contains("index.toml"));
        let mut index = Index::default();
        for version in ["1.0.0", "1.2.0"] {
            let manifest = format!("[package]\nname = \"echo\"\nversion = \"{version}\"\n");
            let archive = Archive::new(&Manifest::parse(&manifest).unwrap(), Vec::new());
            index.publish(registry::Entry::of(&archive, version.as_bytes(), &Default::default())).unwrap();
        }
        std::fs::write(folder.join(registry::INDEX), index.to_toml()).unwrap();
        for (wanted, version) in [("echo", "1.2.0"), ("echo@1.0.0", "1.0.0")] {
            assert_eq!(at(wanted).exit, Exit::Done);
            let hash = &index.find("echo", Some(&semver::Version::parse(version).unwrap())).unwrap().hash;
            let blob = folder.join(format!("blobs/{hash}.capsule"));
            assert!(host.requests().last().unwrap().contains(blob.to_str().unwrap()));
        }
        assert!(at("echo@3.0.0").err.contains("there is no echo@3.0.0"));
        assert_eq!(at("echo@three").exit, Exit::Usage);
        assert_eq!(host.requests().len(), 2);
    }

    #[test]
    fn what_nobody_vouches_for_says_how_to_trust_a_publisher() {
        let host = Host::answering(403, r#"{"error":"forbidden","reason":"/x: nobody vouches for echo 1.0.0: why"}"#);
        let ran = host.astrid(&["capsule", "install", "/x"]);
        assert!(ran.err.contains("trust add NAME KEY") && !ran.err.contains("ask an administrator"), "{ran:?}");
    }

    #[test]
    fn the_list_has_a_row_for_each_capsule() {
        let host = Host::answering(200, r#"{"capsules":[{"id":"echo","version":"1.0.0","state":"live","hash":"ab"}]}"#);
        assert_eq!(host.astrid(&["capsule", "list"]).out, "ID    VERSION  STATE  HASH\necho  1.0.0    live   ab\n");
    }
}
