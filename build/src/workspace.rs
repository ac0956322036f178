//! What cargo knows of a folder: the workspace around it, its members, and where it builds to.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::run;

#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    #[serde(rename = "target_directory")]
    pub(crate) target: PathBuf,
    /// The members.
    pub(crate) packages: Vec<Package>,
    workspace_default_members: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    manifest_path: PathBuf,
    pub(crate) targets: Vec<Target>,
    /// `[package.metadata]`: what other tools are told.
    metadata: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
}

impl Package {
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("/"))
    }

    /// Whether it was made for cargo-component. Plain cargo builds it from the bindings that cargo-component has written.
    pub(crate) fn is_cargo_component(&self) -> bool {
        self.metadata.as_ref().is_some_and(|metadata| metadata.get("component").is_some())
    }

    /// The file name of the component that its library becomes, if the library is one.
    pub(crate) fn wasm(&self) -> Option<String> {
        let library = self.targets.iter().find(|t| t.kind.iter().any(|kind| kind == "cdylib"))?;
        Some(format!("{}.wasm", library.name.replace('-', "_")))
    }
}

impl Workspace {
    /// The workspace that `folder` (absolute) lies in, if there is a Cargo.toml in it or above.
    pub(crate) fn around(folder: &Path) -> Result<Option<Self>> {
        if !folder.ancestors().any(|path| path.join("Cargo.toml").is_file()) {
            return Ok(None);
        }
        let mut cargo = run::cargo();
        let text = run::output(cargo.current_dir(folder).args(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&text).context("cargo metadata printed something else than expected").map(Some)
    }

    /// The checkout that this program was built from.
    pub(crate) fn checkout() -> Result<Self> {
        let folder = checkout();
        Self::around(&folder)?
            .with_context(|| format!("the checkout that this program was built from is gone: {}", folder.display()))
    }

    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    pub(crate) fn is_default(&self, package: &Package) -> bool {
        self.workspace_default_members.contains(&package.id)
    }

    /// Where packed capsules go.
    pub(crate) fn capsules(&self) -> PathBuf {
        self.target.join("capsules")
    }
}

/// The folder of the checkout that this program was built from.
pub(crate) fn checkout() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = own.parent().unwrap_or(own);
    // It may have been built through a project's link.
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_checkout_is_a_workspace_with_capsules_in_it() {
        let workspace = Workspace::checkout().unwrap();
        let identity = workspace.package("astrid-identity").unwrap();
        assert_eq!(identity.wasm().unwrap(), "astrid_identity.wasm");
        assert!(identity.folder().ends_with("components/identity"));
        assert!(workspace.is_default(workspace.package("astrid-build").unwrap()));
        assert!(!workspace.is_default(identity));
    }
}
