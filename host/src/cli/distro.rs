//! `astrid init` and `astrid distro`: a home's distribution, from a folder or a bundle.
//!
//! Everything is checked before anything in the home changes: the distribution, its lock, every archive, the values of its
//! variables. Then the home's `etc/variables.toml` and `distro/` are written, and a host that runs is asked to apply them; one
//! that does not run does so when it starts. No value of a variable is ever printed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use astrid_capsule::distro::lock::{self, Lock};
use astrid_capsule::distro::{self as grammar, Distro, Source, bundle};
use astrid_capsule::near;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::{Context, table, text};
use crate::config::Config;
use crate::distro::{Folder, Variables, check_values, fetch, put};
use crate::files;
use crate::keys::Keys;

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
    /// Write a new Distro.lock of the archives that there are now
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

/// Values of variables.
#[derive(Args)]
pub(super) struct Given {
    /// Give a variable a value; may be repeated. Other users can see it: secrets are better typed, or in --vars
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse_var)]
    var: Vec<(String, String)>,
    /// Take values from a TOML file of `name = "value"` lines that only you can read
    #[arg(long, value_name = "FILE")]
    vars: Option<PathBuf>,
}

fn parse_var(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if grammar::is_variable(name) => Ok((name.into(), value.into())),
        _ => Err("must be NAME=VALUE, with a name of a-z 0-9 - _".into()),
    }
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

#[derive(Deserialize)]
struct Installed {
    id: String,
    version: String,
    state: String,
    hash: String,
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
            Verb::Show => show(context).await,
            Verb::Apply { dir, given } => {
                let dir = dir.unwrap_or_else(|| context.home.distro());
                let ready = Ready::read(context, &dir)?;
                ready.put(context, given)?;
                apply(context, &ready).await
            }
            Verb::Update { dir, registry } => update(context, dir, registry),
            Verb::Bundle(Bundle::Export { file }) => export(context, &file),
            Verb::Bundle(Bundle::Import { file, given }) => import(context, &file, given).await,
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

/// A distribution of which everything but the values was checked.
struct Ready {
    folder: Folder,
    lock: Lock,
    archives: BTreeMap<String, astrid_capsule::archive::Archive>,
}

impl Ready {
    fn read(context: &Context<'_>, dir: &Path) -> Result<Self, Failure> {
        let folder = open(dir)?;
        folder.check().map_err(refused)?;
        folder.icon().map_err(refused)?;
        let mut archives = BTreeMap::new();
        let mut locked = Vec::new();
        for entry in &folder.distro.capsule {
            let packed = folder.packed(entry).map_err(|why| {
                let failure = refused(format!("capsule {}: {why}", entry.name));
                match &entry.source {
                    Source::Registry { .. } if !folder.path.join(entry.file()).exists() => failure.next(format!(
                        "`{} distro update {} --registry DIR` copies it from a registry",
                        context.command,
                        text::quoted(&dir.to_string_lossy())
                    )),
                    _ => failure,
                }
            })?;
            locked.push(packed.found);
            archives.insert(entry.name.clone(), packed.archive);
        }
        let lock = folder.lock.clone().unwrap_or_else(|| Lock::new(&folder.distro, locked));
        Ok(Self { folder, lock, archives })
    }

    /// Takes the values that are given, asks for those that are missing, checks them all, and writes to the home.
    fn put(&self, context: &mut Context<'_>, given: Given) -> Result<(), Failure> {
        context.home.create().map_err(|error| Failure::failed("home", error.to_string()))?;
        let home = &context.home;
        let keys = Keys::open(&home.keys().join("host.key")).map_err(|error| refused(format!("{error:#}")))?;
        let file = home.variables();
        let mut variables = Variables::load(&file, &keys).map_err(refused)?;
        let mut changed = !given.var.is_empty() || given.vars.is_some();
        if let Some(path) = &given.vars {
            variables.extend(Variables::load_plain(path).map_err(refused)?);
        }
        for (name, value) in given.var {
            self.known(&name)?;
            variables.set(&name, Zeroizing::new(value)).map_err(Failure::usage)?;
        }
        changed |= self.ask(context, &mut variables)?;
        let (shared, _) = self.folder.shared(&variables);
        for entry in &self.folder.distro.capsule {
            check_values(&shared, entry, &self.archives[&entry.name])
                .map_err(|why| refused(format!("capsule {}: {why}", entry.name)))?;
        }
        if changed {
            variables.save(&file, &keys, &self.folder.distro).map_err(refused)?;
        }
        let to = context.home.distro();
        let in_place = fs::canonicalize(&self.folder.path).ok() == fs::canonicalize(&to).ok();
        if in_place && self.folder.lock.is_some() {
            return Ok(());
        }
        let read = |path: &Path| {
            let path = self.folder.path.join(path);
            fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        put(&to, &self.folder, &self.lock, read).map_err(refused)
    }

    fn known(&self, name: &str) -> Result<(), Failure> {
        let variables = &self.folder.distro.variables;
        if variables.contains_key(name) {
            return Ok(());
        }
        let meant = near::meant(name, variables.keys().map(String::as_str));
        Err(Failure::usage(format!("the distribution has no variable `{name}`{meant}")))
    }

    /// Asks a person for what is missing; without one that is an error that names all of it.
    fn ask(&self, context: &mut Context<'_>, variables: &mut Variables) -> Result<bool, Failure> {
        let undefined = |variables: &Variables| -> Vec<_> {
            self.folder.shared(variables).1.into_iter().flat_map(|(_, undefined)| undefined).collect()
        };
        let mut asked = false;
        while let Some(first) = undefined(variables).into_iter().next() {
            if !context.console.can_ask() {
                let all: Vec<String> = undefined(variables).iter().map(ToString::to_string).collect();
                return Err(Failure::failed("undefined_variable", all.join("; "))
                    .next("give it a value with --var NAME=VALUE, or with --vars FILE if it is a secret"));
            }
            let name = first.variable;
            let variable = self.folder.distro.variables.get(&name).cloned().unwrap_or_default();
            let about = variable.description.map_or(String::new(), |text| format!(" ({})", text::shown(&text)));
            let prompt = format!("{name}{about}: ");
            let value = if variable.secret {
                context.console.read_hidden(&prompt)?
            } else {
                context.console.read_line(&prompt)?
            };
            if value.is_empty() {
                return Err(Failure::usage(format!("{name} was left without a value; nothing was changed")));
            }
            variables.set(&name, value).map_err(Failure::usage)?;
            asked = true;
        }
        Ok(asked)
    }
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

async fn show(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let folder = open(&context.home.distro())?;
    let keys = Keys::open(&context.home.keys().join("host.key")).map_err(|error| refused(format!("{error:#}")))?;
    let variables = Variables::load(&context.home.variables(), &keys).map_err(refused)?;
    let installed = match context.client.get("list the capsules", "/api/capsules").await {
        Ok(answer) => Some(answer.read::<Capsules<Installed>>()?.capsules),
        Err(failure) if is_absent(&failure) => None,
        Err(failure) => return Err(failure),
    };
    let Distro { distro: about, capsule, variables: declared, .. } = &folder.distro;
    let problem = folder.check().and_then(|()| folder.icon()).err();
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    for entry in capsule {
        let pinned = folder.lock.as_ref().and_then(|lock| lock.find(entry));
        let found = folder.packed(entry);
        let version = pinned.map(|l| l.version.to_string());
        let version = version.or_else(|| found.as_ref().ok().map(|p| p.found.version.to_string()));
        let wanted = pinned.cloned().or_else(|| found.as_ref().ok().map(|packed| packed.found.clone()));
        let live = installed.iter().flatten().find(|row| row.id == entry.name);
        let drift = match (&found, live, &wanted) {
            (Err(why), _, _) => Some(why.clone()),
            (_, Some(live), Some(wanted)) if live.hash != wanted.component => {
                Some(format!("{} is installed, with another component", live.version))
            }
            (_, Some(live), _) if live.state != "live" => Some(format!("it is {}", live.state)),
            (_, None, _) if installed.is_some() => Some("it is not installed".into()),
            _ => None,
        };
        documents.push(json!({
            "name": entry.name, "role": entry.role, "source": entry.source.to_string(), "version": version,
            "locked": pinned.is_some(), "installed": live.map(|live| &live.version), "drift": drift,
        }));
        let dash = || "-".to_owned();
        rows.push([
            entry.name.clone(),
            entry.role.clone().unwrap_or_else(dash),
            version.unwrap_or_else(dash),
            if pinned.is_some() { "yes" } else { "no" }.into(),
            live.map_or_else(dash, |live| live.version.clone()),
            drift.unwrap_or_default(),
        ]);
    }
    let own = |id: &str| capsule.iter().any(|entry| entry.name == id);
    let others: Vec<String> = installed.iter().flatten().filter(|r| !own(&r.id)).map(|r| r.id.clone()).collect();
    let defined = |(name, variable): (&String, &grammar::Variable)| {
        let defined = variables.get(name).is_some() || variable.default.is_some();
        json!({ "name": name, "secret": variable.secret, "defined": defined })
    };
    if context.console.json {
        let distro = json!({ "id": about.id, "name": about.name, "version": about.version.to_string() });
        let running = installed.is_some();
        let declared: Vec<Value> = declared.iter().map(defined).collect();
        say(
            context,
            &json!({
                "distro": distro, "locked": folder.lock.is_some(), "problem": problem, "running": running,
                "capsules": documents, "others": others, "variables": declared,
            }),
        )?;
        return Ok(Exit::Done);
    }
    context.console.print(&table::facts(&[
        ("distribution", format!("{} {} ({})", about.name, about.version, about.id)),
        ("lock", if folder.lock.is_some() { "yes" } else { "no; whatever lies there is taken" }.into()),
        ("host", if installed.is_some() { "running" } else { "not running" }.into()),
        ("others", if others.is_empty() { "none".into() } else { others.join(", ") }),
    ]))?;
    context.console.print(&table::table(["NAME", "ROLE", "VERSION", "LOCKED", "INSTALLED", "DRIFT"], &rows))?;
    for (name, variable) in declared {
        if variables.get(name).is_none() && variable.default.is_none() {
            context.console.remark(&format!("variable {name} has no value"));
        }
    }
    if let Some(problem) = problem {
        context.console.remark(&text::shown(&problem));
    }
    Ok(Exit::Done)
}

fn update(context: &mut Context<'_>, dir: Option<PathBuf>, registry: Option<PathBuf>) -> Result<Exit, Failure> {
    let dir = dir.unwrap_or_else(|| context.home.distro());
    let folder = open(&dir)?;
    let config = Config::load(&context.home.config(), &[], crate::home::environment())
        .map_err(|error| refused(format!("{error:#}")))?;
    let roots = context.home.trust();
    for entry in &folder.distro.capsule {
        if let (Source::Registry { name, version }, Some(registry)) = (&entry.source, &registry) {
            let bytes = fetch(&config.trust, &roots, registry, name, version)
                .map_err(|why| refused(format!("capsule {name}: {why}")))?;
            let path = dir.join(entry.file());
            files::write_private(&path, &bytes).map_err(|error| refused(format!("{}: {error}", path.display())))?;
        }
    }
    let lock = folder.lock_now().map_err(refused)?;
    let path = dir.join(lock::FILE);
    files::write_private(&path, lock.to_toml().as_bytes())
        .map_err(|error| refused(format!("{}: {error}", path.display())))?;
    let mut rows = Vec::new();
    for (entry, new) in folder.distro.capsule.iter().zip(&lock.capsule) {
        let before = folder.lock.as_ref().and_then(|lock| lock.find(entry));
        let what = match before {
            None => "new",
            Some(before) if before == new => "unchanged",
            Some(_) => "changed",
        };
        let version = before.map_or_else(|| "-".into(), |before| before.version.to_string());
        rows.push([new.name.clone(), version, new.version.to_string(), what.to_owned()]);
    }
    if context.console.json {
        let row = |[name, before, version, what]: [String; 4]| json!({ "name": name, "before": (before != "-").then_some(before), "version": version, "what": what });
        let capsules: Vec<Value> = rows.into_iter().map(row).collect();
        say(context, &json!({ "lock": path, "capsules": capsules }))?;
    } else {
        context.console.print(&table::table(["NAME", "BEFORE", "VERSION", "WHAT"], &rows))?;
    }
    Ok(Exit::Done)
}

fn export(context: &mut Context<'_>, file: &Path) -> Result<Exit, Failure> {
    let ready = Ready::read(context, &context.home.distro())?;
    let folder = &ready.folder;
    let at = |error: std::io::Error| Failure::failed("io", format!("{}: {error}", file.display()));
    let partial = file.with_extension(format!("partial.{}", std::process::id()));
    let written = (|| {
        let out = BufWriter::new(File::create(&partial)?);
        let read = |path: &Path| fs::read(folder.path.join(path));
        bundle::write(&folder.distro, (&folder.text, &ready.lock), read, out)?;
        let bytes = fs::metadata(&partial)?.len();
        if bytes > bundle::MAX_BYTES {
            return Err(std::io::Error::other(format!("it would be larger than {} bytes", bundle::MAX_BYTES)));
        }
        File::open(&partial)?.sync_all()?;
        fs::rename(&partial, file)?;
        Ok(bytes)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    let bytes = written.map_err(at)?;
    if context.console.json {
        say(context, &json!({ "file": file, "bytes": bytes }))?;
    } else {
        let about = &folder.distro.distro;
        context.console.remark(&format!("{} {} is in {}, {bytes} bytes", about.id, about.version, file.display()));
    }
    Ok(Exit::Done)
}

async fn import(context: &mut Context<'_>, file: &Path, given: Given) -> Result<Exit, Failure> {
    context.home.create().map_err(|error| Failure::failed("home", error.to_string()))?;
    let source = files::open_regular(file);
    let source = source.map_err(|error| Failure::failed("io", format!("{}: {error}", file.display())))?;
    let staged = context.home.root().join(format!("import.{}", std::process::id()));
    let keep = |path: &Path, bytes: &[u8]| {
        let path = staged.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&staged))?;
        files::write_private(&path, bytes)
    };
    let read = bundle::read(BufReader::new(source), keep);
    let done = match read {
        Ok(_) => Ready::read(context, &staged).and_then(|ready| ready.put(context, given).map(|()| ready)),
        Err(error) => Err(Failure::failed("bundle", format!("{}: {error}", file.display()))),
    };
    let _ = fs::remove_dir_all(&staged);
    apply(context, &done?).await
}

#[cfg(test)]
mod tests {
    use astrid_capsule::archive::Archive;
    use astrid_capsule::check::Surface;
    use astrid_capsule::manifest::Manifest;
    use astrid_capsule::registry::{self, Index};
    use astrid_capsule::signature::{self, Purpose, SecretKey};
    use astrid_capsule::trust::Root;

    use super::*;
    use crate::cli::testing::{Host, Ran, astrid, astrid_at, home};
    use crate::home::Home;

    const DISTRO: &str = "[distro]\nid = \"x\"\nname = \"X\"\nversion = \"0.1.0\"\n\
        [variables.region]\ndescription = \"Where it runs\"\n[variables.key]\nsecret = true\n\
        [[capsule]]\nname = \"a\"\nsource = \"a@1.0.0\"\nenv = { REGION = \"{{ region }}\", KEY = \"{{ key }}\" }\n";

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[1; 32])
    }

    fn trust(home: &Home) {
        let root = Root::new("acme", &key().public().to_hex(), vec!["a".into()], None).unwrap();
        fs::write(home.trust().join("acme.toml"), root.to_toml()).unwrap();
    }

    fn archive() -> Vec<u8> {
        let manifest = "[package]\nname = \"a\"\nversion = \"1.0.0\"\n\
            [env.REGION]\ntype = \"string\"\n[env.KEY]\ntype = \"secret\"\n";
        let mut archive = Archive::new(&Manifest::parse(manifest).unwrap(), b"wasm".to_vec());
        archive.sign(&key()).unwrap();
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        bytes
    }

    /// A folder with the distribution and no archive, and a registry that has it.
    fn folders() -> (tempfile::TempDir, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let (distro, folder) = (dir.path().join("distro"), dir.path().join("registry"));
        fs::create_dir_all(folder.join("blobs")).unwrap();
        fs::create_dir(&distro).unwrap();
        fs::write(distro.join("Distro.toml"), DISTRO).unwrap();
        let mut index = Index::default();
        let entry = registry::Entry::of(&Archive::read(&archive()[..]).unwrap(), &archive(), &Surface::default());
        fs::write(folder.join(entry.blob()), archive()).unwrap();
        index.publish(entry).unwrap();
        let signature = key().sign(Purpose::Index, index.to_toml().as_bytes());
        fs::write(folder.join(registry::INDEX), index.to_toml()).unwrap();
        fs::write(folder.join(registry::SIGNATURES), signature::lines(&[signature])).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        (dir, text(distro), text(folder))
    }

    #[test]
    fn an_entry_of_a_registry_is_copied_and_locked_by_update_and_by_nothing_else() {
        let (_folders, distro, registry) = folders();
        let (_dir, home) = home();
        let given = ["init", "--distro", &distro, "--var", "region=eu", "--var", "key=sk-1"];
        let refused = astrid(&home, &given);
        assert!(refused.exit == Exit::Failed && refused.err.contains("distro update"), "{refused:?}");
        let unknown = astrid(&home, &["distro", "update", &distro, "--registry", &registry]);
        assert!(unknown.exit == Exit::Failed && unknown.err.contains("nobody vouches for a 1.0.0"), "{unknown:?}");
        trust(&home);
        let updated = astrid(&home, &["--json", "distro", "update", &distro, "--registry", &registry]);
        let document: Value = serde_json::from_str(&updated.out).unwrap();
        assert_eq!(document["capsules"][0], json!({ "name": "a", "before": null, "version": "1.0.0", "what": "new" }));
        assert_eq!(astrid(&home, &given).exit, Exit::Done);
        assert_eq!(fs::read(home.distro().join("a@1.0.0.capsule")).unwrap(), archive());
        let remote = astrid(&home, &["--url", "http://127.0.0.1:1", "distro", "show"]);
        assert_eq!(remote.exit, Exit::Usage, "{remote:?}");
    }

    #[test]
    fn a_person_is_asked_for_what_is_missing_and_nothing_typed_is_shown() {
        let (_folders, distro, registry) = folders();
        let (_dir, home) = home();
        trust(&home);
        astrid(&home, &["distro", "update", &distro, "--registry", &registry]);
        let init = ["init", "--distro", &distro];
        let ask = |typed: &str| -> Ran { astrid_at(&home, &init, typed, true) };
        let left = ask("sk-typed\n\n");
        assert!(left.exit == Exit::Usage && left.err.contains("region was left without a value"), "{left:?}");
        assert!(!home.variables().exists());
        let done = ask("sk-typed\neu\n");
        assert_eq!(done.exit, Exit::Done, "{done:?}");
        assert!(done.err.contains("key: ") && done.err.contains("region (Where it runs): "), "{done:?}");
        assert!(!done.err.contains("sk-typed") && !done.out.contains("sk-typed"));
        let stored = fs::read_to_string(home.variables()).unwrap();
        assert!(stored.contains("region = \"eu\"") && !stored.contains("sk-typed"), "{stored}");
        let again = ask("");
        assert_eq!(again.exit, Exit::Done, "what was said once is not asked again: {again:?}");
    }

    #[test]
    fn a_capsule_that_could_not_be_applied_makes_the_command_fail_and_says_why() {
        let answer = r#"{"capsules":[{"name":"a","what":"failed","why":"no \u001b room"}]}"#;
        let host = Host::with(move |_| (200, answer.to_owned()));
        let (_folders, distro, registry) = folders();
        trust(&host.home);
        host.astrid(&["distro", "update", &distro, "--registry", &registry]);
        let apply = ["distro", "apply", &distro, "--var", "region=eu", "--var", "key=sk-1"];
        let ran = host.astrid(&apply);
        assert!(
            ran.exit == Exit::Failed && ran.out.contains("failed") && ran.out.contains(r"no \u{1b} room"),
            "{ran:?}"
        );
        assert_eq!(host.requests(), ["POST /api/sys/distro/apply {}"]);
        let init = host.astrid(&["init", "--distro", &distro]);
        assert!(init.exit == Exit::Failed && init.err.contains("a host serves this home already"), "{init:?}");
    }
}
