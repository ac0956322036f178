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

/// The manifest's file name.
pub(crate) const MANIFEST: &str = "Capsule.toml";

/// How components are built, whatever the project's own profile says: small, and the same everywhere.
const PROFILE: [&str; 5] = ["lto=\"fat\"", "codegen-units=1", "panic=\"abort\"", "strip=true", "debug=false"];

/// The time that a build is said to be of, in seconds since the Unix epoch.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

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

/// Checks and packs the capsule of one folder, whose component is there.
pub(crate) fn pack_to(folder: &Path, archive: &Path) -> Result<()> {
    let capsule = Capsule { archive: archive.to_owned(), ..Capsule::read(folder, None)? };
    pack(&capsule, None).map(drop)
}

/// The manifests that [`find`] would read, whatever stands in them. Never empty.
pub(crate) fn manifests(path: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder(path)?;
    let mut found = Vec::new();
    if let Some(workspace) = Workspace::around(&folder)?.filter(|workspace| workspace.root == folder) {
        found.extend(workspace.packages.iter().map(|package| package.folder().join(MANIFEST)).filter(|m| m.is_file()));
    }
    if found.is_empty() {
        found.push(folder.join(MANIFEST));
    }
    ensure!(found[0].is_file(), no_capsule(&folder));
    Ok(found)
}

/// Where the component of the capsule in `folder` is, or will be once it is built.
pub(crate) fn wasm(folder: &Path) -> Result<PathBuf> {
    let workspace = Workspace::around(folder)?;
    Ok(Capsule::read(folder, workspace.as_ref())?.wasm)
}

/// The folder that a path on the command line means: itself, or that of a manifest.
fn folder(path: &Path) -> Result<PathBuf> {
    let folder = fs::canonicalize(path).with_context(|| format!("can't find {}", path.display()))?;
    Ok(if folder.ends_with(MANIFEST) { folder.parent().unwrap_or(&folder).to_owned() } else { folder })
}

fn no_capsule(folder: &Path) -> String {
    format!(
        "{} holds no {MANIFEST} and is not the root of a cargo workspace with capsules; name a capsule's folder, or \
         start one with `astrid-build new NAME`",
        folder.display()
    )
}

/// The capsules of a folder: its own, or all members' of the workspace whose root it is. Never empty.
pub(crate) fn find(path: &Path) -> Result<(Option<Workspace>, Vec<Capsule>)> {
    let folder = folder(path)?;
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
    ensure!(!capsules.is_empty(), no_capsule(&folder));
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
                let bindings = folder.join("src/bindings.rs");
                ensure!(
                    !package.is_cargo_component() || bindings.is_file(),
                    "`{}` is a cargo-component project, and its src/bindings.rs is missing; `cargo install \
                     cargo-component`, then `cargo component bindings` in {} makes it",
                    package.name,
                    folder.display()
                );
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
        cargo.arg("--config").arg(format!("target.{TARGET}.rustflags={}", remap(workspace)));
        // For build scripts and macros that would put the time of the build into it.
        if env::var_os(EPOCH).is_none() {
            cargo.env(EPOCH, "0");
        }
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
fn remap(workspace: &Workspace) -> toml::Value {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    // The last that fits a path is taken: what build scripts generate is in the target directory, wherever that is.
    let pairs = [
        (Some(checkout()), "/astrid"),
        (home, "/cargo"),
        (Some(workspace.root.clone()), "/source"),
        (Some(workspace.target.clone()), "/target"),
    ];
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
