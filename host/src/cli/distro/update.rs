//! `astrid distro update`: copies what a registry has, and pins what there is in a new lock.

use std::path::PathBuf;

use astrid_capsule::distro::{Source, lock};
use serde_json::{Value, json};

use super::{open, refused, say};
use crate::cli::failure::{Exit, Failure};
use crate::cli::{Context, table};
use crate::config::Config;
use crate::distro::fetch;
use crate::files;

pub(super) fn update(
    context: &mut Context<'_>,
    dir: Option<PathBuf>,
    registry: Option<PathBuf>,
) -> Result<Exit, Failure> {
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
