//! A distribution from a folder and a registry into a home, and what people are asked and told meanwhile.

use std::fs;
use std::path::PathBuf;

use astrid_capsule::archive::Archive;
use astrid_capsule::check::Surface;
use astrid_capsule::manifest::Manifest;
use astrid_capsule::registry::{self, Index};
use astrid_capsule::signature::{self, Purpose, SecretKey};
use astrid_capsule::trust::Root;
use serde_json::{Value, json};

use super::*;
use crate::cli::testing::{Host, Ran, astrid, astrid_at, home};
use crate::home::Home;

const DISTRO: &str = "[distro]\nid = \"x\"\nname = \"X\"\nversion = \"0.1.0\"\n\
    [variables.region]\ndescription = \"Where it runs\"\n[variables.key]\nsecret = true\n\
    [[capsule]]\nname = \"a\"\nsource = \"a@1.0.0\"\nenv = { REGION = \"{{ region }}\", KEY = \"{{ key }}\" }\n";

fn key() -> SecretKey {
    SecretKey::from_bytes(&[1; 32])
}

fn trust(home: &Home) {
    let root = Root::new("acme", &key().public().to_hex(), vec!["a".into()], None).unwrap();
    fs::write(home.trust().join("acme.toml"), root.to_toml()).unwrap();
}

fn archive() -> Vec<u8> {
    let manifest = "[package]\nname = \"a\"\nversion = \"1.0.0\"\n\
        [env.REGION]\ntype = \"string\"\n[env.KEY]\ntype = \"secret\"\n";
    let mut archive = Archive::new(&Manifest::parse(manifest).unwrap(), b"wasm".to_vec());
    archive.sign(&key()).unwrap();
    let mut bytes = Vec::new();
    archive.write(&mut bytes).unwrap();
    bytes
}

/// A folder with the distribution and no archive, and a registry that has it.
fn folders() -> (tempfile::TempDir, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let (distro, folder) = (dir.path().join("distro"), dir.path().join("registry"));
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::create_dir(&distro).unwrap();
    fs::write(distro.join("Distro.toml"), DISTRO).unwrap();
    let mut index = Index::default();
    let entry = registry::Entry::of(&Archive::read(&archive()[..]).unwrap(), &archive(), &Surface::default());
    fs::write(folder.join(entry.blob()), archive()).unwrap();
    index.publish(entry).unwrap();
    let signature = key().sign(Purpose::Index, index.to_toml().as_bytes());
    fs::write(folder.join(registry::INDEX), index.to_toml()).unwrap();
    fs::write(folder.join(registry::SIGNATURES), signature::lines(&[signature])).unwrap();
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    (dir, text(distro), text(folder))
}

#[test]
fn an_entry_of_a_registry_is_copied_and_locked_by_update_and_by_nothing_else() {
    let (_folders, distro, registry) = folders();
    let (_dir, home) = home();
    let given = ["init", "--distro", &distro, "--var", "region=eu", "--var", "key=sk-1"];
    let refused = astrid(&home, &given);
    assert!(refused.exit == Exit::Failed && refused.err.contains("distro update"), "{refused:?}");
    let unknown = astrid(&home, &["distro", "update", &distro, "--registry", &registry]);
    assert!(unknown.exit == Exit::Failed && unknown.err.contains("nobody vouches for a 1.0.0"), "{unknown:?}");
    trust(&home);
    let updated = astrid(&home, &["--json", "distro", "update", &distro, "--registry", &registry]);
    let document: Value = serde_json::from_str(&updated.out).unwrap();
    assert_eq!(document["capsules"][0], json!({ "name": "a", "before": null, "version": "1.0.0", "what": "new" }));
    assert_eq!(astrid(&home, &given).exit, Exit::Done);
    assert_eq!(fs::read(home.distro().join("a@1.0.0.capsule")).unwrap(), archive());
    let remote = astrid(&home, &["--url", "http://127.0.0.1:1", "distro", "show"]);
    assert_eq!(remote.exit, Exit::Usage, "{remote:?}");
}

#[test]
fn a_person_is_asked_for_what_is_missing_and_nothing_typed_is_shown() {
    let (_folders, distro, registry) = folders();
    let (_dir, home) = home();
    trust(&home);
    astrid(&home, &["distro", "update", &distro, "--registry", &registry]);
    let init = ["init", "--distro", &distro];
    let ask = |typed: &str| -> Ran { astrid_at(&home, &init, typed, true) };
    let left = ask("sk-typed\n\n");
    assert!(left.exit == Exit::Usage && left.err.contains("region was left without a value"), "{left:?}");
    assert!(!home.variables().exists());
    let done = ask("sk-typed\neu\n");
    assert_eq!(done.exit, Exit::Done, "{done:?}");
    assert!(done.err.contains("key: ") && done.err.contains("region (Where it runs): "), "{done:?}");
    assert!(!done.err.contains("sk-typed") && !done.out.contains("sk-typed"));
    let stored = fs::read_to_string(home.variables()).unwrap();
    assert!(stored.contains("region = \"eu\"") && !stored.contains("sk-typed"), "{stored}");
    let again = ask("");
    assert_eq!(again.exit, Exit::Done, "what was said once is not asked again: {again:?}");
}

#[test]
fn a_capsule_that_could_not_be_applied_makes_the_command_fail_and_says_why() {
    let answer = r#"{"capsules":[{"name":"a","what":"failed","why":"no \u001b room"}]}"#;
    let host = Host::with(move |_| (200, answer.to_owned()));
    let (_folders, distro, registry) = folders();
    trust(&host.home);
    host.astrid(&["distro", "update", &distro, "--registry", &registry]);
    let apply = ["distro", "apply", &distro, "--var", "region=eu", "--var", "key=sk-1"];
    let ran = host.astrid(&apply);
    assert!(ran.exit == Exit::Failed && ran.out.contains("failed") && ran.out.contains(r"no \u{1b} room"), "{ran:?}");
    assert_eq!(host.requests(), ["POST /api/sys/distro/apply {}"]);
    let init = host.astrid(&["init", "--distro", &distro]);
    assert!(init.exit == Exit::Failed && init.err.contains("a host serves this home already"), "{init:?}");
}
