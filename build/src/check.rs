//! `check`: whether a host would take a capsule, and what its author should look at.
//!
//! Errors are what keeps it from being packed or installed: the manifest's faults, each with its place, and a component that
//! does not fit the manifest or the host. Warnings are what `lint` finds, and a `wit/` folder that is not in order. The
//! component is the one that was built last.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use astrid_capsule::faults::faults;
use astrid_capsule::manifest::Manifest;
use serde::Serialize;
use serde_json::json;

use crate::wit::Border;
use crate::{component, lint, wit};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
    Warning,
}

#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    /// Which kind of finding, for programs.
    rule: &'static str,
    /// A file, or `file:line:column`.
    place: String,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.level == Level::Error { "error" } else { "warning" };
        write!(f, "{level}: {}: {} [{}]", self.place, self.text, self.rule)
    }
}

/// `check`.
pub(crate) fn verb(path: &Path, strict: bool, json: bool) -> Result<ExitCode> {
    let mut found = Vec::new();
    for manifest in component::manifests(path)? {
        check(&manifest, &mut found)?;
    }
    let count = |level| found.iter().filter(|finding: &&Finding| finding.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let failed = errors > 0 || (strict && warnings > 0);
    if json {
        println!("{}", json!({ "findings": found, "errors": errors, "warnings": warnings, "ok": !failed }));
    } else {
        found.iter().for_each(|finding| println!("{finding}"));
        println!("{errors} error{}, {warnings} warning{}", plural(errors), plural(warnings));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

fn check(path: &Path, found: &mut Vec<Finding>) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let shown = path.display().to_string();
    let error = |rule, place: &str, text: String| Finding { level: Level::Error, rule, place: place.into(), text };
    let warning = |rule, place: &str, text: String| Finding { level: Level::Warning, rule, place: place.into(), text };
    let faults = faults(&text);
    for fault in &faults {
        found.push(error("manifest", &format!("{shown}:{}:{}", fault.line, fault.column), fault.text.clone()));
    }
    let folder = path.parent().unwrap_or(path);
    let folder_of_wit = folder.join("wit");
    if folder_of_wit.is_dir() {
        match wit::lint(&folder_of_wit) {
            Ok(list) => found.extend(list.into_iter().map(|(place, text)| warning("wit", &place, text))),
            Err(wrong) => found.push(error("wit", &folder_of_wit.display().to_string(), format!("{wrong:#}"))),
        }
    }
    if !faults.is_empty() {
        return Ok(());
    }
    let manifest = Manifest::parse(&text)?;
    let wasm: PathBuf = component::wasm(folder)?;
    if !wasm.is_file() {
        let text = format!("{} is not built yet; only the manifest was checked", wasm.display());
        found.push(warning("not-built", &shown, text));
        return Ok(());
    }
    let bytes = fs::read(&wasm).with_context(|| format!("can't read {}", wasm.display()))?;
    match astrid_capsule::check::check(&manifest, &bytes) {
        Ok(surface) => {
            let border = Border::read(&bytes).with_context(|| format!("in {}", wasm.display()))?;
            let warnings = lint::lint(&manifest, &surface, &border);
            found.extend(warnings.into_iter().map(|(rule, text)| warning(rule, &shown, text)));
        }
        Err(problems) => {
            found.extend(problems.iter().map(|problem| error("component", &shown, format!("the component {problem}"))));
        }
    }
    Ok(())
}
