//! The capsules of other tool chains in `tests/foreign/`: JavaScript, Python and C; and the programs that read there what the
//! HTTP surface says of itself.
//!
//! Owns `<target>/tools/`, one folder for each tool, complete or absent, and `<target>/foreign/`, where a capsule is
//! built. Both are made once for a version and a source, under a lock, and announced before. Packed capsules go to the
//! others, as `foreign-<folder>.capsule`. Refuses to know what the capsules do.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::toolchain::{self, Linker};
use crate::workspace::Workspace;
use crate::{component, files, run, say};

/// The tests that need what this builds, and the feature of their package that adds them.
pub(crate) const TESTS: &str = "foreign";

/// Where the sources lie.
const SOURCES: &str = "tests/foreign";

const QUICKJS: &str = "componentize-qjs@0.4.5";
const PYTHON: &str = "componentize-py==0.25.1";
const ZIG: &str = "ziglang==0.17.1";
const LINTER: &str = "@redocly/cli@2.77.0";
/// A generator, what its clients run on, and the last compiler that the generator works with.
const CLIENTS: [&str; 3] = ["openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3"];
const TESTER: &str = "schemathesis==4.32.5";
/// Of Prometheus, as a distribution of Linux packs it.
const PROMTOOL: &str = "promtool";
const BINDINGS: &str = "wit-bindgen-cli@0.61.1";

/// Says that a tool's folder or a capsule is complete, and what it was made of.
const STAMP: &str = "stamp";

/// Why the capsules can't be built here; none if they can.
pub(crate) fn missing() -> Option<&'static str> {
    let runs = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !runs("npm", &["--version"]) {
        return Some("npm is not on PATH");
    }
    if !runs("python3", &["-c", "import ensurepip, venv"]) {
        return Some("python3 with its module venv is not on PATH");
    }
    if on_path(PROMTOOL).is_none() && !(runs("apt-get", &["--version"]) && runs("dpkg-deb", &["--version"])) {
        return Some("neither promtool nor Debian's apt-get and dpkg-deb are on PATH");
    }
    None
}

/// Where a program is.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Fetches the tools and builds and packs the capsules, as far as they are not there.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let yard = Yard {
        tools: workspace.target.join("tools"),
        building: workspace.target.join(TESTS),
        sources: workspace.root.join(SOURCES),
        capsules: workspace.capsules(),
    };
    for folder in [&yard.tools, &yard.building] {
        fs::create_dir_all(folder).with_context(|| format!("can't create the folder {}", folder.display()))?;
    }
    let lock = yard.tools.join("lock");
    let lock = File::create(&lock).with_context(|| format!("can't open {}", lock.display()))?;
    if lock.try_lock().is_err() {
        say::note("another astrid-build is at the capsules of other tool chains; waiting for it");
        lock.lock().context("can't lock the folder of the tools")?;
    }
    yard.readers()?;
    yard.javascript("gateway")?;
    yard.python("words")?;
    yard.c("crc")
}

/// Where everything lies.
struct Yard {
    tools: PathBuf,
    building: PathBuf,
    sources: PathBuf,
    capsules: PathBuf,
}

impl Yard {
    /// A linter, a generator of clients and a tester for documents of OpenAPI; a linter of metrics and alerts.
    fn readers(&self) -> Result<()> {
        self.promtool()?;
        self.npm("redocly", &[LINTER], "npm: 15 MB")?;
        self.npm("typescript", &CLIENTS, "npm: 45 MB")?;
        self.pip("schemathesis", TESTER, "PyPI: 95 MB")?;
        Ok(())
    }

    /// The machine's own, or Debian's, which is unpacked and not installed.
    fn promtool(&self) -> Result<PathBuf> {
        if let Some(own) = on_path(PROMTOOL) {
            return self.tool(PROMTOOL, &own.display().to_string(), "this machine's own", |tools| {
                symlink(&own, tools.join(PROMTOOL)).context("can't link to it")
            });
        }
        self.tool(PROMTOOL, "prometheus", "apt: 20 MB", |tools| {
            run::succeed(Command::new("apt-get").args(["download", "prometheus"]).current_dir(tools))?;
            let mut files = fs::read_dir(tools)?.filter_map(|entry| Some(entry.ok()?.path()));
            let package = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
            let package = package.context("apt-get has fetched no package")?;
            run::succeed(Command::new("dpkg-deb").arg("--extract").arg(package).arg(tools.join("unpacked")))?;
            symlink("unpacked/usr/bin/promtool", tools.join(PROMTOOL)).context("can't link to it")
        })
    }

    fn javascript(&self, name: &str) -> Result<()> {
        self.capsule(name, QUICKJS, |folder| {
            let tools = self.npm("quickjs", &[QUICKJS], "npm: 40 MB")?;
            let mut command = Command::new(tools.join("node_modules/.bin/componentize-qjs"));
            command.args(["--wit", "wit", "--world", name, "--js"]).arg(format!("{name}.js"));
            command.args(["--sync", "--opt-size", "--minify", "--output", "component.wasm"]);
            run::succeed(command.current_dir(folder))
        })
    }

    fn python(&self, name: &str) -> Result<()> {
        self.capsule(name, PYTHON, |folder| {
            let tools = self.pip("python", PYTHON, "PyPI: 60 MB")?;
            // By its interpreter, so that the target directory may be moved.
            let mut command = Command::new(tools.join("bin/python"));
            command.arg(tools.join("bin/componentize-py"));
            command.args(["--wit-path", "wit", "--world", name, "componentize", "app", "--output", "component.wasm"]);
            run::succeed(command.current_dir(folder))
        })
    }

    /// Bindings by wit-bindgen, objects by zig, the component by the linker of Rust's own components.
    fn c(&self, name: &str) -> Result<()> {
        self.capsule(name, &format!("{BINDINGS} {ZIG}"), |folder| {
            let zig = self.pip("zig", ZIG, "PyPI: 100 MB")?.join("bin/python");
            let bindings = self.tool("wit-bindgen", BINDINGS, "crates.io: a few minutes to build", |tools| {
                let building = tools.join("building");
                let mut cargo = run::cargo();
                cargo.args(["install", BINDINGS, "--locked", "--debug", "--no-default-features", "--features", "c"]);
                cargo.arg("--root").arg(tools).arg("--target-dir").arg(&building);
                run::succeed(cargo.env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
                files::remove_folder(&building)
            })?;
            let mut bindgen = Command::new(bindings.join("bin/wit-bindgen"));
            bindgen.args(["c", "wit", "--world", name, "--out-dir", "bindings"]);
            run::succeed(bindgen.current_dir(folder))?;
            let type_object = format!("bindings/{name}_component_type.o");
            let sources = ["handler.c".to_owned(), format!("bindings/{name}.c")];
            for source in &sources {
                let mut compile = Command::new(&zig);
                compile.env("ZIG_GLOBAL_CACHE_DIR", self.tools.join("zig-cache")).current_dir(folder);
                compile.args(["-m", "ziglang", "cc", "-target", "wasm32-wasi", "-Os", "-I", "bindings", "-c", source]);
                run::succeed(compile.args(["-o", &format!("{source}.o")]))?;
            }
            let Linker { program, lld, libraries } = toolchain::ensure()?.linker()?;
            let mut link = Command::new(program);
            link.arg("--wasm-ld-path").arg(lld).args(["--no-entry", "--strip-all", "-o", "component.wasm"]);
            link.args(sources.iter().map(|source| format!("{source}.o"))).arg(type_object);
            link.arg(libraries.join("crt1-reactor.o")).arg("-L").arg(&libraries).arg("-lc");
            run::succeed(link.current_dir(folder))
        })
    }

    /// A folder with npm packages.
    fn npm(&self, name: &str, packages: &[&str], from: &str) -> Result<PathBuf> {
        self.tool(name, &packages.join(" "), from, |tools| {
            let mut npm = Command::new("npm");
            npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(tools).args(packages);
            run::succeed(&mut npm)
        })
    }

    /// A Python environment with one package.
    fn pip(&self, name: &str, package: &str, from: &str) -> Result<PathBuf> {
        self.tool(name, package, from, |tools| {
            run::succeed(Command::new("python3").args(["-m", "venv"]).arg(tools))?;
            let mut pip = Command::new(tools.join("bin/python"));
            run::succeed(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]))
        })
    }

    /// The folder of a tool, made by `fetch` if it is not there in this version.
    fn tool(&self, name: &str, version: &str, from: &str, fetch: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let folder = self.tools.join(name);
        let stamp = folder.join(STAMP);
        if fs::read_to_string(&stamp).is_ok_and(|there| there == version) {
            return Ok(folder);
        }
        let step = say::step(format_args!("fetching {version} ({from}) into {}", folder.display()));
        files::remove_folder(&folder)?;
        files::private_folder(&folder)?;
        fetch(&folder).with_context(|| format!("{version} could not be fetched"))?;
        files::write_if_changed(&stamp, version.as_bytes())?;
        step.done("fetched");
        Ok(folder)
    }

    /// Builds the capsule in a copy of its folder, unless its sources and tools are what they were, and packs it.
    fn capsule(&self, name: &str, tools: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let folder = self.building.join(name);
        let stamp = folder.join(STAMP);
        let mut sources = Vec::new();
        read(&self.sources.join(name), Path::new(""), &mut sources)?;
        let made_of = made_of(tools, &sources);
        if !fs::read_to_string(&stamp).is_ok_and(|there| there == made_of) {
            files::remove_folder(&folder)?;
            for (path, bytes) in &sources {
                files::write_if_changed(&folder.join(path), bytes)?;
            }
            let step = say::step(format_args!("building {SOURCES}/{name} with {tools}"));
            make(&folder).with_context(|| format!("{SOURCES}/{name} could not be built"))?;
            files::write_if_changed(&stamp, made_of.as_bytes())?;
            step.done("built");
        }
        component::pack_to(&folder, &self.capsules.join(format!("foreign-{name}.capsule")))
    }
}

/// Every file below `folder`, by its path from there, sorted; links are followed.
fn read(folder: &Path, below: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    let here = folder.join(below);
    let entries = fs::read_dir(&here).with_context(|| format!("can't read {}", here.display()))?;
    let mut names: Vec<_> = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    names.sort();
    for name in names {
        let path = below.join(name);
        let file = folder.join(&path);
        if file.is_dir() {
            read(folder, &path, found)?;
        } else {
            let bytes = fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
            found.push((path, bytes));
        }
    }
    Ok(())
}

/// What a component is made of, as one line: the tools, and a hash over names and bytes.
fn made_of(tools: &str, sources: &[(PathBuf, Vec<u8>)]) -> String {
    let mut hasher = Sha256::new();
    for (path, bytes) in sources {
        for part in [path.as_os_str().as_encoded_bytes(), bytes] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    format!("{tools} {}", hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_changes_or_moves_and_another_tool_make_another_component() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            files::write_if_changed(&folder.path().join(path), text.as_bytes()).unwrap();
        };
        let now = |tools| {
            let mut sources = Vec::new();
            read(folder.path(), Path::new(""), &mut sources).unwrap();
            (made_of(tools, &sources), sources)
        };
        write("b", "12");
        write("a/c", "3");
        let (first, sources) = now("t@1");
        let paths: Vec<&Path> = sources.iter().map(|(path, _)| path.as_path()).collect();
        assert_eq!(paths, [Path::new("a/c"), Path::new("b")]);
        assert_eq!(now("t@1").0, first);
        assert_ne!(now("t@2").0, first);
        write("b", "1");
        let shorter = now("t@1").0;
        write("b2", "");
        assert!(shorter != first && now("t@1").0 != shorter);
    }

    #[test]
    fn what_other_tool_chains_are_given_is_there() {
        let sources = crate::workspace::checkout().join(SOURCES);
        for (name, source) in [("gateway", "gateway.js"), ("words", "app.py"), ("crc", "handler.c")] {
            for file in [source, component::MANIFEST, "wit/world.wit", "wit/deps/bus/bus.wit"] {
                assert!(sources.join(name).join(file).is_file(), "{name}/{file}");
            }
        }
    }
}
