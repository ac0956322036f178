//! `new`: a capsule project that builds and passes its test at once.
//!
//! Owns the templates. The project stands outside the checkout's workspace and takes the SDK from the checkout by path;
//! it starts with the checkout's Cargo.lock and profiles, so that the versions are the tested ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use astrid_capsule::manifest::Manifest;

use crate::{files, run, workspace};

/// Every file of a project but its Cargo.lock.
const FILES: [(&str, &str); 6] = [
    ("Cargo.toml", include_str!("../templates/Cargo.toml.in")),
    ("Capsule.toml", include_str!("../templates/Capsule.toml.in")),
    ("src/lib.rs", include_str!("../templates/lib.rs.in")),
    ("tests/capsule.rs", include_str!("../templates/capsule.rs.in")),
    (".gitignore", include_str!("../templates/gitignore.in")),
    ("README.md", include_str!("../templates/README.md.in")),
];

/// `new`.
pub(crate) fn verb(name: &str, path: Option<&Path>) -> Result<ExitCode> {
    let folder = std::path::absolute(path.unwrap_or(Path::new(name)))?;
    let checkout = workspace::checkout();
    create(name, &folder, &checkout)?;
    println!("{} is a capsule project now. Next:", folder.display());
    println!("  cd {}", run::quoted(&folder));
    println!("  {} test", tool(&checkout));
    println!("  {} capsule install {}", astrid(&checkout), run::quoted(format!("target/capsules/{name}.capsule")));
    Ok(ExitCode::SUCCESS)
}

fn create(name: &str, folder: &Path, checkout: &Path) -> Result<()> {
    let quoted = toml::Value::String(name.into());
    Manifest::parse(&format!("[package]\nname = {quoted}\nversion = \"0.1.0\"\n"))
        .with_context(|| format!("`{}` can't be a capsule's name", name.escape_debug()))?;
    if folder.is_file() {
        bail!("{} is a file; choose another name or --path", folder.display());
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty; choose another name or --path", folder.display());
    }
    for (file, template) in FILES {
        files::write_if_changed(&folder.join(file), filled(template, name, checkout)?.as_bytes())?;
    }
    let lock = fs::read(checkout.join("Cargo.lock")).context("can't read the checkout's Cargo.lock")?;
    files::write_if_changed(&folder.join("Cargo.lock"), &lock)?;
    Ok(())
}

fn filled(template: &str, name: &str, checkout: &Path) -> Result<String> {
    let path = |below: &str| -> Result<String> {
        let path = checkout.join(below);
        let text = path.to_str().with_context(|| format!("{} is not UTF-8, so TOML can't name it", path.display()))?;
        Ok(toml::Value::String(text.into()).to_string())
    };
    Ok(template
        .replace("{{name}}", name)
        .replace("{{sdk}}", &path("sdk")?)
        .replace("{{sdk-test}}", &path("sdk/test")?)
        .replace("{{tool}}", &tool(checkout))
        .replace("{{astrid}}", &astrid(checkout)))
}

/// How this program is called from any folder.
fn tool(checkout: &Path) -> String {
    let manifest: PathBuf = checkout.join("Cargo.toml");
    format!("cargo run --quiet --manifest-path {} --package astrid-build --", run::quoted(manifest))
}

/// The CLI that `up` builds.
fn astrid(checkout: &Path) -> String {
    run::quoted(checkout.join("target/release/astrid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_project_has_a_manifest_that_parses_and_no_gap_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("notes");
        create("notes", &project, &workspace::checkout()).unwrap();
        let manifest = Manifest::parse(&fs::read_to_string(project.join("Capsule.toml")).unwrap()).unwrap();
        assert_eq!(manifest.package.name, "notes");
        assert_eq!(manifest.subscribe[0].topic.as_str(), "notes.v1.hello");
        for (file, _) in FILES {
            let text = fs::read_to_string(project.join(file)).unwrap();
            assert!(!text.contains("{{"), "{file}: {text}");
        }
        let cargo = fs::read_to_string(project.join("Cargo.toml")).unwrap();
        toml::from_str::<toml::Table>(&cargo).unwrap();
    }

    #[test]
    fn bad_names_and_folders_in_use_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["", "Notes", "1a", "host", "a b", "a\"\nb", &"a".repeat(65)] {
            let error = create(bad, &folder.path().join("x"), &workspace::checkout()).unwrap_err();
            assert!(format!("{error:#}").contains("package.name"), "{error:#}");
        }
        assert!(!folder.path().join("x").exists());
        fs::write(folder.path().join("file"), "").unwrap();
        for used in [folder.path().to_owned(), folder.path().join("file")] {
            let error = create("notes", &used, &workspace::checkout()).unwrap_err().to_string();
            assert!(error.contains("choose another"), "{error}");
        }
    }
}
