//! `bench`: the bench program, with everything that it measures built before it starts.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::workspace::Workspace;
use crate::{component, run, say};

/// `bench`.
pub(crate) fn verb(name: Option<&str>, json: bool) -> Result<ExitCode> {
    let workspace = Workspace::checkout()?;
    let (_, capsules) = component::find(&workspace.root)?;
    component::build(Some(&workspace), &capsules)?;
    build_host(&workspace)?;
    let mut bench = run::cargo();
    bench.current_dir(&workspace.root).args(["run", "--release", "--package", "astrid-bench", "--"]).args(name);
    if !json {
        return run::status(&mut bench).map(run::exit_code);
    }
    // The report itself is for people, and goes where progress does.
    let status = run::status(bench.stdout(std::io::stderr()))?;
    println!("{}", json!({ "passed": status.success() }));
    Ok(run::exit_code(status))
}

/// Builds the host's programs in release.
pub(crate) fn build_host(workspace: &Workspace) -> Result<()> {
    let step = say::step("building the host (release; the first time takes minutes)");
    let mut cargo = run::cargo();
    cargo.current_dir(&workspace.root).args(["build", "--release", "--package", "astrid-host", "--bins"]);
    cargo.stdout(std::io::stderr());
    ensure!(run::status(&mut cargo)?.success(), "building the host failed; cargo's messages stand above");
    step.done("built");
    Ok(())
}
