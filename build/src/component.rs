//! `build` and `pack`: from a folder with a Capsule.toml to a checked `.capsule`.
//!
//! A capsule is a cargo project whose library is a component, or (`[component] wasm`) what another tool chain has
//! built. All capsules of one workspace are built by one cargo, in a target directory of their own
//! (`<target>/wasm`), so that the features and the rustc of native builds don't meddle. Archives go to
//! `<target>/capsules/<name>.capsule` and are only written when their bytes differ.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use astrid_capsule::archive::{Archive, MAX_COMPONENT_BYTES};
use astrid_capsule::check;
use astrid_capsule::manifest::Manifest;
use serde::Serialize;
use serde_json::json;

use crate::sbom::Resolved;
use crate::toolchain::{self, TARGET};
use crate::workspace::{Package, Workspace, checkout};
use crate::{files, run, say, types};

const MANIFEST: &str = "Capsule.toml";

/// How components are built, whatever the project's own profile says: small, and the same everywhere.
const PROFILE: [&str; 5] = ["lto=\"fat\"", "codegen-units=1", "panic=\"abort\"", "strip=true", "debug=false"];

/// A folder with a manifest, and where its component is to be found.
pub(crate) struct Capsule {
    pub(crate) manifest: Manifest,
    /// The manifest's path.
    path: PathBuf,
    wasm: PathBuf,
    /// The cargo package that makes the component; none where another tool chain does.
    package: Option<String>,
    archive: PathBuf,
}

/// A packed capsule.
#[derive(Debug, Serialize)]
pub(crate) struct Packed {
    name: String,
    version: String,
    archive: PathBuf,
    /// BLAKE3 of the component.
    hash: String,
    component_bytes: usize,
    archive_bytes: usize,
    /// Whether the archive was written.
    changed: bool,
}

/// A component that does not fit its manifest or the host.
#[derive(Debug)]
pub(crate) struct Refused {
    manifest: PathBuf,
    /// Each a sentence.
    pub(crate) problems: Vec<String>,
}

impl std::error::Error for Refused {}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} and its component don't fit:", self.manifest.display())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

/// `build`.
pub(crate) fn build_verb(paths: &[PathBuf], json: bool) -> Result<ExitCode> {
    let mut groups: BTreeMap<PathBuf, (Option<Workspace>, Vec<Capsule>)> = BTreeMap::new();
    for path in paths {
        let (workspace, capsules) = find(path)?;
        let key = workspace.as_ref().map_or_else(|| capsules[0].path.clone(), |w| w.root.clone());
        let (_, known) = groups.entry(key).or_insert((workspace, Vec::new()));
        for capsule in capsules {
            if known.iter().all(|other| other.path != capsule.path) {
                known.push(capsule);
            }
        }
    }
    let mut packed = Vec::new();
    for (workspace, capsules) in groups.values() {
        packed.extend(build(workspace.as_ref(), capsules)?);
    }
    print(&packed, json)
}

/// `pack`.
pub(crate) fn pack_verb(path: &Path, output: Option<&Path>, json: bool) -> Result<ExitCode> {
    let (_, mut capsules) = find(path)?;
    if let Some(output) = output {
        ensure!(capsules.len() == 1, "{} holds {} capsules; --output takes one", path.display(), capsules.len());
        capsules[0].archive = std::path::absolute(output)?;
    }
    print(&pack_all(&capsules)?, json)
}

/// The capsules of a folder: its own, or all members' of the workspace whose root it is. Never empty.
pub(crate) fn find(path: &Path) -> Result<(Option<Workspace>, Vec<Capsule>)> {
    let folder = fs::canonicalize(path).with_context(|| format!("can't find {}", path.display()))?;
    let folder = if folder.ends_with(MANIFEST) { folder.parent().unwrap_or(&folder).to_owned() } else { folder };
    let workspace = Workspace::around(&folder)?;
    let mut capsules = Vec::new();
    match &workspace {
        Some(workspace) if workspace.root == folder => {
            for package in workspace.packages.iter().filter(|package| package.folder().join(MANIFEST).is_file()) {
                capsules.push(Capsule::read(package.folder(), Some(workspace))?);
            }
        }
        _ if folder.join(MANIFEST).is_file() => capsules.push(Capsule::read(&folder, workspace.as_ref())?),
        _ => {}
    }
    if capsules.is_empty() && folder.join(MANIFEST).is_file() {
        capsules.push(Capsule::read(&folder, workspace.as_ref())?);
    }
    ensure!(
        !capsules.is_empty(),
        "{} holds no {MANIFEST} and is not the root of a cargo workspace with capsules; name a capsule's folder, or \
         start one with `astrid-build new NAME`",
        folder.display()
    );
    for (n, capsule) in capsules.iter().enumerate() {
        if let Some(twin) = capsules[..n].iter().find(|other| other.archive == capsule.archive) {
            bail!("{} and {} have the same package.name", twin.path.display(), capsule.path.display());
        }
    }
    Ok((workspace, capsules))
}

impl Capsule {
    fn read(folder: &Path, workspace: Option<&Workspace>) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        let manifest = Manifest::parse(&text).with_context(|| format!("in {}", folder.display()))?;
        let target = workspace.map_or_else(|| folder.join("target"), |w| w.target.clone());
        let archive = target.join("capsules").join(format!("{}.capsule", manifest.package.name));
        let (wasm, package) = match &manifest.component.wasm {
            Some(wasm) => (folder.join(wasm), None),
            None => {
                let package = workspace.and_then(|w| w.packages.iter().find(|p| p.folder() == folder));
                let package = package.with_context(|| {
                    format!(
                        "{} is no cargo package; add a Cargo.toml, or name the component that another tool chain builds: \
                         [component] wasm = \"…\" in {MANIFEST}",
                        folder.display()
                    )
                })?;
                (target.join("wasm").join(TARGET).join("release").join(library(package)?), Some(package.id.clone()))
            }
        };
        Ok(Self { manifest, path, wasm, package, archive })
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// The packed capsule's path.
    pub(crate) fn archive(&self) -> &Path {
        &self.archive
    }
}

fn library(package: &Package) -> Result<String> {
    package.wasm().with_context(|| {
        format!(
            "the library of package `{}` is no component; its Cargo.toml needs [lib] crate-type = [\"cdylib\", \"rlib\"]",
            package.name
        )
    })
}

/// Builds, checks and packs capsules of one workspace.
pub(crate) fn build(workspace: Option<&Workspace>, capsules: &[Capsule]) -> Result<Vec<Packed>> {
    let packages: Vec<&String> = capsules.iter().filter_map(|capsule| capsule.package.as_ref()).collect();
    if let (Some(workspace), false) = (workspace, packages.is_empty()) {
        let toolchain = toolchain::ensure()?;
        let names: Vec<&str> = capsules.iter().map(|capsule| capsule.manifest.package.name.as_str()).collect();
        let step = say::step(format_args!("building the capsules {}", names.join(", ")));
        let mut cargo = run::cargo();
        toolchain.apply(&mut cargo)?;
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").current_dir(&workspace.root);
        cargo
            .args(["build", "--release", "--lib", "--target", TARGET, "--target-dir"])
            .arg(workspace.target.join("wasm"));
        for setting in PROFILE {
            cargo.arg("--config").arg(format!("profile.release.{setting}"));
        }
        cargo.arg("--config").arg(format!("target.{TARGET}.rustflags={}", remap(&workspace.root)));
        packages.iter().for_each(|id| {
            cargo.arg("--package").arg(id);
        });
        let status = run::status(cargo.stdout(std::io::stderr()))?;
        ensure!(status.success(), "building the capsules failed; cargo's messages stand above");
        step.done("built");
    }
    pack_all(capsules)
}

/// Flags that keep this machine's paths out of a component, as a TOML list: the same source makes the same bytes.
fn remap(root: &Path) -> toml::Value {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let pairs = [(Some(root.to_owned()), "/source"), (Some(checkout()), "/astrid"), (home, "/cargo")];
    let flags = pairs.into_iter().filter_map(|(from, to)| {
        let from = from?.into_os_string().into_string().ok()?;
        Some(toml::Value::String(format!("--remap-path-prefix={from}={to}")))
    });
    toml::Value::Array(flags.collect())
}

fn pack_all(capsules: &[Capsule]) -> Result<Vec<Packed>> {
    // Asked once: all capsules are of one workspace.
    let resolved = match capsules.iter().find(|capsule| capsule.package.is_some()) {
        Some(capsule) => Some(Resolved::of(capsule.folder())?),
        None => None,
    };
    capsules.iter().map(|capsule| pack(capsule, resolved.as_ref())).collect()
}

fn pack(capsule: &Capsule, resolved: Option<&Resolved>) -> Result<Packed> {
    let wasm = &capsule.wasm;
    let component = fs::read(wasm).with_context(|| match capsule.package {
        Some(_) => format!("can't read {}; build it first with `astrid-build build`", wasm.display()),
        None => format!("can't read {}, which {} names", wasm.display(), capsule.path.display()),
    })?;
    let size = component.len();
    ensure!(
        size as u64 <= MAX_COMPONENT_BYTES,
        "{} has {size} bytes; at most {MAX_COMPONENT_BYTES} fit",
        wasm.display()
    );
    if let Err(problems) = check::check(&capsule.manifest, &component) {
        let problems = problems.iter().map(|problem| format!("the component {problem}")).collect();
        bail!(Refused { manifest: capsule.path.clone(), problems });
    }
    let schemas = types::read(capsule.path.parent().unwrap_or(Path::new("")), &capsule.manifest)?;
    let mut bytes = Vec::new();
    let mut archive = Archive::new(&capsule.manifest, component);
    if let (Some(package), Some(resolved)) = (&capsule.package, resolved) {
        archive.sbom = Some(resolved.sbom(package)?);
    }
    archive.schemas = schemas;
    archive.write(&mut bytes).context("can't pack")?;
    let read = Archive::read(&bytes[..]).with_context(|| format!("{} can't be packed", capsule.path.display()))?;
    Ok(Packed {
        name: read.manifest.package.name.clone(),
        version: read.manifest.package.version.to_string(),
        archive: capsule.archive.clone(),
        hash: read.hash(),
        component_bytes: size,
        archive_bytes: bytes.len(),
        changed: files::write_if_changed(&capsule.archive, &bytes)?,
    })
}

fn print(packed: &[Packed], json: bool) -> Result<ExitCode> {
    if json {
        println!("{}", json!({ "capsules": packed }));
    } else {
        for capsule in packed {
            println!(
                "{} {}  {} KiB  {}…  {}{}",
                capsule.name,
                capsule.version,
                capsule.archive_bytes.div_ceil(1024),
                &capsule.hash[..12],
                capsule.archive.display(),
                if capsule.changed { "" } else { "  (unchanged)" },
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
