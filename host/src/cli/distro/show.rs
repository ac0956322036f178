//! `astrid distro show`: what the home's distribution promises, beside what lies there and what is installed.

use astrid_capsule::distro::{self as grammar, Distro};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Capsules, is_absent, open, refused, say};
use crate::cli::failure::{Exit, Failure};
use crate::cli::{Context, table, text};
use crate::distro::Variables;
use crate::keys::Keys;

#[derive(Deserialize)]
struct Installed {
    id: String,
    version: String,
    state: String,
    hash: String,
}

pub(super) async fn show(context: &mut Context<'_>) -> Result<Exit, Failure> {
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
