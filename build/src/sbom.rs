//! `sbom.json`: what a component was made of, as CycloneDX 1.5.
//!
//! Owns the document: the cargo package and all that its library is compiled from for the target, as cargo resolves it
//! for the workspace, build scripts' and tests' dependencies left out. The same lock file gives the same bytes: sorted,
//! without times, serial numbers or paths of this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::run;
use crate::toolchain::TARGET;

/// What cargo resolved for one workspace.
pub(crate) struct Resolved {
    packages: BTreeMap<String, Package>,
    /// What each package is compiled from.
    needs: BTreeMap<String, Vec<String>>,
    /// SHA-256 of packages from registries, by name and version.
    checksums: BTreeMap<(String, String), String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// None for packages of folders.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Need>,
}

#[derive(Deserialize)]
struct Need {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None for what is linked or expanded; else `build` or `dev`.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

impl Package {
    /// The package URL, which names it within the document as well.
    fn purl(&self) -> String {
        let source = self.source.as_deref().and_then(|source| source.strip_prefix("git+"));
        let origin = source.map_or_else(String::new, |git| format!("?vcs_url=git%2B{}", git.replace('#', "%23")));
        format!("pkg:cargo/{}@{}{origin}", self.name, self.version.replace('+', "%2B"))
    }
}

impl Resolved {
    /// Asks cargo about the workspace around `folder`.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let mut cargo = run::cargo();
        cargo.current_dir(folder).args(["metadata", "--format-version", "1", "--filter-platform", TARGET]);
        let metadata: Metadata = serde_json::from_str(&run::output(&mut cargo)?)
            .context("cargo metadata printed something else than expected")?;
        let path = metadata.workspace_root.join("Cargo.lock");
        let lock = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        Self::from(metadata, &lock).with_context(|| format!("in {}", path.display()))
    }

    fn from(metadata: Metadata, lock: &str) -> Result<Self> {
        let lock: Lock = toml::from_str(lock)?;
        let checksums = lock.package.into_iter().filter_map(|p| Some(((p.name, p.version), p.checksum?))).collect();
        let linked = |need: &Need| need.dep_kinds.iter().any(|kind| kind.kind.is_none());
        let needs = metadata.resolve.nodes.into_iter().map(|node| {
            let linked: Vec<String> = node.deps.into_iter().filter(linked).map(|need| need.pkg).collect();
            (node.id, linked)
        });
        let packages = metadata.packages.into_iter().map(|package| (package.id.clone(), package)).collect();
        Ok(Self { packages, needs: needs.collect(), checksums })
    }

    /// The document for the package with this id.
    pub(crate) fn sbom(&self, root: &str) -> Result<Vec<u8>> {
        let mut reached = BTreeSet::from([root]);
        let mut next = vec![root];
        while let Some(id) = next.pop() {
            next.extend(self.needs(id).filter(|need| reached.insert(need)));
        }
        let mut packages = Vec::new();
        for id in reached {
            let package = self.packages.get(id).with_context(|| format!("cargo metadata says nothing of {id}"))?;
            let needs = self.needs(id).filter_map(|need| Some(self.packages.get(need)?.purl()));
            packages.push((package, needs.collect::<BTreeSet<_>>()));
        }
        packages.sort_by_key(|(package, _)| package.purl());
        let (own, others): (Vec<_>, Vec<_>) = packages.iter().partition(|(package, _)| package.id == root);
        let component = |package: &Package, kind: &str| self.component(package, kind);
        let document = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": { "component": own.first().map(|(package, _)| component(package, "application")) },
            "components": others.iter().map(|(package, _)| component(package, "library")).collect::<Vec<_>>(),
            "dependencies": packages
                .iter()
                .map(|(package, needs)| json!({ "ref": package.purl(), "dependsOn": needs }))
                .collect::<Vec<_>>(),
        });
        Ok(serde_json::to_vec(&document)?)
    }

    fn needs<'a>(&'a self, id: &str) -> impl Iterator<Item = &'a str> {
        self.needs.get(id).into_iter().flatten().map(String::as_str)
    }

    fn component(&self, package: &Package, kind: &str) -> Value {
        let purl = package.purl();
        let mut component = json!({
            "type": kind, "bom-ref": purl, "name": package.name, "version": package.version, "purl": purl,
        });
        if let Some(license) = &package.license {
            // As cargo once wrote it.
            component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
        }
        let from_registry = package.source.as_ref().is_some_and(|source| !source.starts_with("git+"));
        let sum = self.checksums.get(&(package.name.clone(), package.version.clone()));
        if let Some(sum) = sum.filter(|_| from_registry) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        component
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn what_is_linked_is_listed_once_sorted_and_what_only_builds_or_tests_is_not() {
        let package = |id: &str, source: Option<&str>| json!({ "id": id, "name": id, "version": "1.0.0+x", "license": "MIT/Apache-2.0", "source": source });
        let need = |id: &str, kind: Option<&str>| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "workspace_root": "/home/somebody",
            "packages": [
                package("own", None), package("b", Some("registry+x")), package("a", Some("git+https://x/y#1")),
                package("dev", Some("registry+x")), package("build", Some("registry+x")),
            ],
            "resolve": { "nodes": [
                { "id": "own", "deps": [need("b", None), need("dev", Some("dev")), need("build", Some("build"))] },
                { "id": "b", "deps": [need("a", None), need("own", None)] },
            ] },
        });
        let lock = "[[package]]\nname = \"b\"\nversion = \"1.0.0+x\"\nchecksum = \"abc\"\n";
        let resolved = Resolved::from(serde_json::from_value(metadata).unwrap(), lock).unwrap();
        let bytes = resolved.sbom("own").unwrap();
        let sbom: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(sbom["metadata"]["component"]["purl"], "pkg:cargo/own@1.0.0%2Bx");
        let names: Vec<_> = sbom["components"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(sbom["components"][0]["bom-ref"], "pkg:cargo/a@1.0.0%2Bx?vcs_url=git%2Bhttps://x/y%231");
        assert_eq!(sbom["components"][1]["hashes"], json!([{ "alg": "SHA-256", "content": "abc" }]));
        assert_eq!(sbom["components"][1]["licenses"], json!([{ "expression": "MIT OR Apache-2.0" }]));
        assert_eq!(sbom["dependencies"].as_array().unwrap().len(), 3);
        assert_eq!(resolved.sbom("own").unwrap(), bytes);
    }

    #[test]
    fn the_sbom_of_a_component_of_this_checkout_names_no_path_of_this_machine() {
        let workspace = Workspace::checkout().unwrap();
        let id = &workspace.package("astrid-identity").unwrap().id;
        let sbom = String::from_utf8(Resolved::of(&workspace.root).unwrap().sbom(id).unwrap()).unwrap();
        assert!(sbom.contains("pkg:cargo/astrid-sdk@") && sbom.contains("pkg:cargo/wit-bindgen@"), "{sbom}");
        assert!(!sbom.contains("pkg:cargo/wasmtime@") && !sbom.contains(workspace.root.to_str().unwrap()));
    }
}
