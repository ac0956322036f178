//! `test`: builds what the tests run, then runs them.
//!
//! In the workspace of the host that is every capsule, the host's programs and the tests, in one cargo call with one
//! set of packages, so that a filter never changes what is built. What [`foreign`] builds is left out, with a line that says
//! so, where its tool chains are missing. In a capsule project outside it is that capsule and
//! its tests, and a table of what their calls used. The runner is cargo-nextest where it is installed, else cargo test; its summary is the last word, and
//! its exit code this program's.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, bail, ensure};

use serde_json::json;

use crate::workspace::Workspace;
use crate::{component, foreign, run, say, usage};

/// The packages of the tests that have names of their own.
const TESTS: [&str; 2] = ["astrid-tests", "astrid-fuzz"];

/// Where the tests find packed capsules.
const CAPSULES: &str = "ASTRID_CAPSULES";

/// The test programs that run seeds, and the variables by which they are told how many and from where.
const SEEDED: [(&str, [&str; 2]); 2] =
    [("sim", ["ASTRID_SIM_SEEDS", "ASTRID_SIM_FROM"]), ("fuzz", ["ASTRID_FUZZ_SEEDS", "ASTRID_FUZZ_FROM"])];

/// Which seeds a test program runs.
#[derive(clap::Args)]
pub(crate) struct Seeds {
    /// How many seeds `test sim` runs (200 unless given), and `test fuzz` for each target (1000).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// The first of the seeds (0 unless given).
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
}

impl Seeds {
    /// As the test program reads them; refused where nothing would.
    fn variables(&self, filter: Option<&str>) -> Result<Vec<(&'static str, String)>> {
        let given = [self.seeds, self.from];
        let Some((_, names)) = SEEDED.into_iter().find(|(program, _)| filter == Some(*program)) else {
            ensure!(
                given == [None, None],
                "--seeds and --from choose what is simulated or fuzzed: astrid-build test sim|fuzz --seeds N --from SEED"
            );
            return Ok(Vec::new());
        };
        Ok(names.into_iter().zip(given).filter_map(|(name, n)| Some((name, n?.to_string()))).collect())
    }
}

/// `test`.
pub(crate) fn verb(filter: Option<&str>, seeds: &Seeds, args: &[String], json: bool) -> Result<ExitCode> {
    let seeds = seeds.variables(filter)?;
    let here = env::current_dir().context("the current folder is gone")?;
    // A capsule's folder, or else a part of tests' names in this one.
    let (folder, filter) = match filter.map(|filter| here.join(filter)) {
        Some(folder) if folder.join(component::MANIFEST).is_file() => (folder, None),
        _ => (here, filter),
    };
    let workspace = Workspace::around(&folder)?;
    match workspace {
        Some(workspace) if workspace.package("astrid-host").is_some() => inside(&workspace, filter, seeds, args, json),
        _ => {
            ensure!(seeds.is_empty(), "only the workspace of the host has a simulation and fuzz targets");
            outside(&folder, filter, args, json)
        }
    }
}

fn inside(
    workspace: &Workspace,
    filter: Option<&str>,
    seeds: Vec<(&'static str, String)>,
    args: &[String],
    json: bool,
) -> Result<ExitCode> {
    let left_out = foreign::missing();
    let wanted = filter == Some(foreign::TESTS);
    if let (Some(why), true) = (left_out, wanted) {
        bail!("the tests of other tool chains need npm, python3 and promtool: {why}");
    }
    let (_, capsules) = component::find(&workspace.root)?;
    component::build(Some(workspace), &capsules)?;
    if left_out.is_none() && (wanted || program(workspace, filter).is_none()) {
        foreign::build(workspace)?;
    }
    let mut packages = packages(workspace);
    if left_out.is_none() {
        packages.extend(["--features".to_owned(), format!("{}/{}", TESTS[0], foreign::TESTS)]);
    }
    let step = say::step("building the host and the tests");
    let mut build = run::cargo();
    build.current_dir(&workspace.root).args(["build", "--lib", "--bins", "--tests"]).args(&packages);
    build.stdout(std::io::stderr());
    ensure!(run::status(&mut build)?.success(), "building the host and the tests failed; cargo's messages stand above");
    step.done("built");
    let mut runner = runner();
    runner.current_dir(&workspace.root).env(CAPSULES, workspace.capsules()).envs(seeds).args(&packages);
    runner.args(selection(workspace, filter)).args(args);
    let left_out = left_out.filter(|_| filter.is_none());
    if let Some(why) = left_out {
        say::note(format_args!(
            "left out: the capsules in JavaScript, Python and C (`test {}`): {why}",
            foreign::TESTS
        ));
    }
    let status = run_tests(&mut runner, json)?;
    if json {
        println!("{}", json!({ "passed": status.success(), "left_out": left_out }));
    }
    Ok(run::exit_code(status))
}

fn outside(here: &Path, filter: Option<&str>, args: &[String], json: bool) -> Result<ExitCode> {
    let (workspace, capsules) = component::find(here)?;
    let workspace = workspace.with_context(|| format!("{} is no cargo project, so it has no tests", here.display()))?;
    component::build(Some(&workspace), &capsules)?;
    let target = Workspace::checkout()?.target;
    say::note(format_args!("tests build in {}, so that wasmtime need not be built again", target.display()));
    let usage = usage::Notes::begin(&workspace.target)?;
    let mut cargo = run::cargo();
    cargo.current_dir(here).arg("test").args(filter).args(args);
    cargo.env("CARGO_TARGET_DIR", target).env(CAPSULES, workspace.capsules()).env(usage::VARIABLE, usage.path());
    let status = run_tests(&mut cargo, json)?;
    let tests = usage.end()?;
    if json {
        println!("{}", json!({ "passed": status.success(), "tests": tests }));
    } else {
        usage::print(&tests);
    }
    Ok(run::exit_code(status))
}

/// With JSON on stdout, what the runner prints is progress.
fn run_tests(runner: &mut Command, json: bool) -> Result<ExitStatus> {
    say::step(format_args!("running the tests: {}", run::shown(runner)));
    if json {
        runner.stdout(std::io::stderr());
    }
    run::status(runner)
}

fn runner() -> Command {
    let mut nextest = run::cargo();
    if run::output(nextest.args(["nextest", "--version"])).is_ok() {
        let mut cargo = run::cargo();
        cargo.args(["nextest", "run"]);
        return cargo;
    }
    let mut cargo = run::cargo();
    cargo.arg("test");
    cargo
}

/// The native crates, and of the crates for components those that have native tests: all but the guests of tests.
fn packages(workspace: &Workspace) -> Vec<String> {
    let components = workspace.root.join("components");
    let native = workspace.packages.iter().filter(|package| {
        workspace.is_default(package) || package.folder().starts_with(&components) || package.name == "astrid-sdk"
    });
    native.flat_map(|package| ["--package".to_owned(), package.name.clone()]).collect()
}

/// A test program's name selects it; anything else is a part of tests' names.
fn selection(workspace: &Workspace, filter: Option<&str>) -> Vec<String> {
    match (program(workspace, filter), filter) {
        (Some(program), _) => vec!["--test".into(), program.into()],
        (None, Some(part)) => vec![part.into()],
        (None, None) => Vec::new(),
    }
}

/// The test program of this name.
fn program<'a>(workspace: &Workspace, filter: Option<&'a str>) -> Option<&'a str> {
    let packages = || TESTS.iter().filter_map(|name| workspace.package(name)).flat_map(|package| &package.targets);
    filter.filter(|name| packages().any(|t| t.name == *name && t.kind.iter().any(|kind| kind == "test")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_crates_and_components_are_tested_and_guests_are_not() {
        let packages = packages(&Workspace::checkout().unwrap());
        let components = ["astrid-identity", "astrid-gateway", "astrid-system", "astrid-audit"];
        for name in ["astrid-host", "astrid-build", "astrid-sdk"].into_iter().chain(components) {
            assert!(packages.iter().any(|package| package == name), "{name}");
        }
        assert!(!packages.iter().any(|package| package.starts_with("guest-")));
    }

    #[test]
    fn seeds_reach_the_programs_that_run_them_and_are_refused_with_other_tests() {
        let seeds = |seeds, from| Seeds { seeds, from };
        let variables = seeds(Some(5), Some(7)).variables(Some("sim")).unwrap();
        assert_eq!(variables, [("ASTRID_SIM_SEEDS", "5".to_owned()), ("ASTRID_SIM_FROM", "7".to_owned())]);
        let variables = seeds(Some(5), None).variables(Some("fuzz")).unwrap();
        assert_eq!(variables, [("ASTRID_FUZZ_SEEDS", "5".to_owned())]);
        assert!(seeds(None, None).variables(Some("story")).unwrap().is_empty());
        for filter in [None, Some("story")] {
            assert!(seeds(None, Some(1)).variables(filter).is_err());
            assert!(seeds(Some(1), None).variables(filter).is_err());
        }
    }

    #[test]
    fn a_filter_that_is_no_program_is_a_part_of_names() {
        let workspace = Workspace::checkout().unwrap();
        assert_eq!(selection(&workspace, None), Vec::<String>::new());
        assert_eq!(selection(&workspace, Some("no-such-program")), ["no-such-program"]);
        for program in ["sim", "fuzz", foreign::TESTS] {
            assert_eq!(selection(&workspace, Some(program)), ["--test", program]);
        }
    }
}
