//! What `pack` makes of a capsule's `wit/`: the types of its topics.
//!
//! Owns that a name in the manifest is a type in the folder's package. A manifest that names no types has none, whatever
//! the folder holds: it may be there for bindings alone.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use astrid_capsule::manifest::Manifest;
use astrid_capsule::schema::{self, Schemas};
use wit_parser::Resolve;

/// The folder beside the manifest.
const FOLDER: &str = "wit";

/// The types that the manifest of this folder names, with everything that they are made of.
pub(crate) fn read(folder: &Path, manifest: &Manifest) -> Result<Schemas> {
    let Some(first) = manifest.types().find(|name| name.parts().is_some()) else { return Ok(Schemas::default()) };
    let wit = folder.join(FOLDER);
    ensure!(
        wit.is_dir(),
        "{} names the type `{first}`, but there is no WIT package: put its .wit files into {}",
        folder.join("Capsule.toml").display(),
        wit.display()
    );
    let mut resolve = Resolve::default();
    let package = match resolve.push_dir(&wit) {
        Ok((package, _)) => package,
        Err(error) => bail!("can't read the types in {}: {}", wit.display(), resolve.render_error(&error)),
    };
    let schemas = schema::wit::schemas(&resolve, package, manifest.types()).map_err(|error| error.0);
    let schemas = schemas.map_err(anyhow::Error::msg).with_context(|| format!("in {}", wit.display()))?;
    schemas.check(manifest).map_err(|error| anyhow::Error::msg(error.0))?;
    Ok(schemas)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn manifest(payload: &str) -> Manifest {
        let text = format!(
            "[package]\nname = \"notes\"\nversion = \"0.1.0\"\n[[subscribe]]\ntopic = \"notes.v1.add\"\n\
             handler = \"add\"\nwit = {{ payload = \"{payload}\", answer = \"nothing\" }}\n\
             [[tool]]\nname = \"add\"\ntopic = \"notes.v1.add\"\ndescription = \"Adds\"\n"
        );
        Manifest::parse(&text).unwrap()
    }

    #[test]
    fn the_types_of_a_folder_are_those_that_the_manifest_names() {
        let folder = tempfile::tempdir().unwrap();
        let read = |payload| super::read(folder.path(), &manifest(payload)).map_err(|error| format!("{error:#}"));
        assert_eq!(read("nothing").unwrap().document(), "");
        assert!(read("notes.add").unwrap_err().contains("there is no WIT package"));
        let deps = folder.path().join("wit/deps/other");
        fs::create_dir_all(&deps).unwrap();
        fs::write(deps.join("o.wit"), "package test:other; interface o { record at { x: u8 } }").unwrap();
        let wit = folder.path().join("wit/notes.wit");
        fs::write(&wit, "package test:notes; interface notes { use test:other/o.{at}; enum kind { a }").unwrap();
        let error = read("notes.add").unwrap_err();
        assert!(error.contains("notes.wit:1:"), "{error}");
        fs::write(
            &wit,
            "package test:notes; interface notes { use test:other/o.{at}; record add { at: at } enum kind { a } }",
        )
        .unwrap();
        let document = read("notes.add").unwrap().document();
        let value: serde_json::Value = serde_json::from_str(&document).unwrap();
        let names: Vec<&String> = value["$defs"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["notes.add", "test:other/o.at"]);
        let error = read("notes.adds").unwrap_err();
        assert!(error.contains("no type `notes.adds`; did you mean `notes.add`?"), "{error}");
        assert!(read("notes.kind").unwrap_err().contains("tool `add` does not take a record"));
    }
}
