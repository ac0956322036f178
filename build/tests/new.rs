//! The program as it is called.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use astrid_capsule::manifest::Manifest;

fn astrid_build(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_astrid-build")).current_dir(folder).args(args).output().unwrap()
}

#[test]
fn new_makes_a_project_whose_manifest_parses_and_says_what_to_run_next() {
    let folder = tempfile::tempdir().unwrap();
    let output = astrid_build(folder.path(), &["new", "notes"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("  ")).count(), 3, "{said}");
    let project = folder.path().join("notes");
    let manifest = Manifest::parse(&fs::read_to_string(project.join("Capsule.toml")).unwrap()).unwrap();
    assert_eq!(manifest.package.name, "notes");
    assert!(project.join("Cargo.lock").is_file());
}

#[test]
fn exit_codes_tell_failure_from_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let failed = astrid_build(folder.path(), &["--json", "pack"]);
    assert_eq!(failed.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert!(said["error"].as_str().unwrap().contains("Capsule.toml"), "{said}");
    assert_eq!(astrid_build(folder.path(), &["no-such-verb"]).status.code(), Some(2));
    assert_eq!(astrid_build(folder.path(), &["up", "--port", "1", "--listen", "[::1]:1"]).status.code(), Some(2));
}

#[test]
fn a_core_module_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "[package]\nname = \"a\"\nversion = \"0.1.0\"\n[component]\nwasm = \"a.wasm\"\n";
    fs::write(folder.path().join("Capsule.toml"), manifest).unwrap();
    fs::write(folder.path().join("a.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let output = astrid_build(folder.path(), &["build"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("wasm-tools component new"), "{output:?}");
    assert!(!folder.path().join("target").exists());
}
