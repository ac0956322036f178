//! `new`: a capsule project that builds, fits its manifest and passes its tests at once.
//!
//! Owns the templates: one folder below `templates/` for each, and what all have in `templates/common`. The project
//! stands outside the checkout's workspace and reaches the SDK through a link, `.astrid`, so that no path of this
//! machine is in it; it starts with the checkout's Cargo.lock and profiles, so that the versions are the tested ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use astrid_capsule::manifest::Manifest;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use crate::{files, run, workspace};

/// The link to the checkout in a project.
const LINK: &str = ".astrid";

/// A kind of project.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template {
    pub(crate) name: &'static str,
    files: &'static [(&'static str, &'static str)],
}

/// A folder below `templates/`: what every template has, and what this one has besides.
macro_rules! template {
    ($name:literal $(, $file:literal from $source:literal)*) => {
        Template {
            name: $name,
            files: &[
                ("Capsule.toml", include_str!(concat!("../templates/", $name, "/Capsule.toml.in"))),
                ("src/lib.rs", include_str!(concat!("../templates/", $name, "/lib.rs.in"))),
                ("tests/capsule.rs", include_str!(concat!("../templates/", $name, "/capsule.rs.in"))),
                ("README.md", include_str!(concat!("../templates/", $name, "/README.md.in"))),
                $(($file, include_str!(concat!("../templates/", $name, "/", $source))),)*
            ],
        }
    };
}

/// Every kind, the one that is made unless told otherwise first.
pub(crate) const TEMPLATES: [Template; 5] = [
    template!("handler"),
    template!("interceptor"),
    template!("http"),
    template!("tool", "wit/notes.wit" from "notes.wit.in"),
    template!("run-loop"),
];

/// What every project has.
const COMMON: [(&str, &str); 3] = [
    ("Cargo.toml", include_str!("../templates/common/Cargo.toml.in")),
    (".gitignore", include_str!("../templates/common/gitignore.in")),
    (".github/workflows/ci.yml", include_str!("../templates/common/ci.yml.in")),
];

impl Template {
    fn files(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        COMMON.into_iter().chain(self.files.iter().copied())
    }
}

/// Reads the name of one on the command line.
pub(crate) fn parser() -> impl TypedValueParser<Value = Template> {
    let names = TEMPLATES.map(|template| template.name);
    PossibleValuesParser::new(names)
        .try_map(|name| TEMPLATES.into_iter().find(|template| template.name == name).ok_or("no such template"))
}

/// `new`.
pub(crate) fn verb(name: &str, template: Template, path: Option<&Path>, json: bool) -> Result<ExitCode> {
    let folder = std::path::absolute(path.unwrap_or(Path::new(name)))?;
    let checkout = workspace::checkout();
    create(name, template, &folder, &checkout)?;
    let next = [
        format!("cd {}", run::quoted(&folder)),
        format!("{} test", tool(&checkout)),
        format!("{} capsule install {}", astrid(&checkout), run::quoted(format!("target/capsules/{name}.capsule"))),
    ];
    if json {
        println!("{}", json!({ "name": name, "template": template.name, "folder": folder, "next": next }));
    } else {
        println!("{} is a capsule project now. Next:", folder.display());
        next.iter().for_each(|line| println!("  {line}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn create(name: &str, template: Template, folder: &Path, checkout: &Path) -> Result<()> {
    let quoted = toml::Value::String(name.into());
    Manifest::parse(&format!("[package]\nname = {quoted}\nversion = \"0.1.0\"\n"))
        .with_context(|| format!("`{}` can't be a capsule's name", name.escape_debug()))?;
    if folder.is_file() {
        bail!("{} is a file; choose another name or --path", folder.display());
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty; choose another name or --path", folder.display());
    }
    for (file, text) in template.files() {
        files::write_if_changed(&folder.join(file), text.replace("{{name}}", name).as_bytes())?;
    }
    let lock = fs::read(checkout.join("Cargo.lock")).context("can't read the checkout's Cargo.lock")?;
    files::write_if_changed(&folder.join("Cargo.lock"), &lock)?;
    let link = folder.join(LINK);
    symlink(checkout, &link).with_context(|| format!("can't make the link {}", link.display()))
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
    fn every_template_has_a_manifest_that_parses_and_no_gap_is_left() {
        for template in TEMPLATES {
            let folder = tempfile::tempdir().unwrap();
            let project = folder.path().join("notes");
            create("notes", template, &project, &workspace::checkout()).unwrap();
            let manifest = Manifest::parse(&fs::read_to_string(project.join("Capsule.toml")).unwrap()).unwrap();
            assert_eq!(manifest.package.name, "notes");
            for (file, _) in template.files() {
                // `${{ … }}` is what GitHub fills in.
                let text = fs::read_to_string(project.join(file)).unwrap().replace("${{", "");
                assert!(!text.contains("{{"), "{file}: {text}");
            }
            let cargo = fs::read_to_string(project.join("Cargo.toml")).unwrap();
            toml::from_str::<toml::Table>(&cargo).unwrap();
            assert_eq!(fs::read_link(project.join(LINK)).unwrap(), workspace::checkout());
        }
    }

    #[test]
    fn every_folder_of_templates_is_a_template() {
        let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("templates")).unwrap();
        let mut names: Vec<String> = folders.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "common");
        names.sort();
        let mut known = TEMPLATES.map(|template| template.name);
        known.sort_unstable();
        assert_eq!(names, known);
    }

    #[test]
    fn bad_names_and_folders_in_use_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str, path: &Path| super::create(name, TEMPLATES[0], path, &workspace::checkout());
        for bad in ["", "Notes", "1a", "host", "http", "a b", "a\"\nb", &"a".repeat(65)] {
            let error = create(bad, &folder.path().join("x")).unwrap_err();
            assert!(format!("{error:#}").contains("package.name"), "{error:#}");
        }
        assert!(!folder.path().join("x").exists());
        fs::write(folder.path().join("file"), "").unwrap();
        for used in [folder.path().to_owned(), folder.path().join("file")] {
            let error = create("notes", &used).unwrap_err().to_string();
            assert!(error.contains("choose another"), "{error}");
        }
    }
}
