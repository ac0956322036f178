//! A distribution on its way into the home: checked whole, given its values, then written.
//!
//! Asks a person for values that are missing; no value is ever printed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use astrid_capsule::archive::Archive;
use astrid_capsule::distro::lock::Lock;
use astrid_capsule::distro::{self as grammar, Source};
use astrid_capsule::near;
use clap::Args;
use zeroize::Zeroizing;

use super::{open, refused};
use crate::cli::failure::Failure;
use crate::cli::{Context, text};
use crate::distro::{Folder, Variables, check_values, put};
use crate::keys::Keys;

/// Values of variables.
#[derive(Args)]
pub(in crate::cli) struct Given {
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

/// A distribution of which everything but the values was checked.
pub(super) struct Ready {
    pub(super) folder: Folder,
    pub(super) lock: Lock,
    archives: BTreeMap<String, Archive>,
}

impl Ready {
    pub(super) fn read(context: &Context<'_>, dir: &Path) -> Result<Self, Failure> {
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
    pub(super) fn put(&self, context: &mut Context<'_>, given: Given) -> Result<(), Failure> {
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
