//! What a capsule's author does, through the program as it is called: new, build, check, test, pack, diff.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Manifest;
use serde_json::{Value, json};

/// The program, where nothing can be fetched.
fn astrid_build(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_astrid-build"));
    command.current_dir(folder).args(args).env("CARGO_NET_OFFLINE", "true");
    command
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Where everything is built that need not be built anew: the checkout's own target directory.
fn shared() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
}

/// A project of a template, and a target directory for its component below the checkout's.
fn project(folder: &Path, template: &str) -> (PathBuf, PathBuf) {
    let name = format!("author-{template}");
    succeeds(&mut astrid_build(folder, &["new", &name, "--template", template]));
    (folder.join(&name), shared().join("authors"))
}

#[test]
fn every_template_builds_fits_its_manifest_and_passes_its_tests_offline() {
    let folder = tempfile::tempdir().unwrap();
    let templates = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("templates")).unwrap();
    let templates = templates.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let templates: Vec<String> = templates.filter(|name| name != "common").collect();
    assert!(templates.len() >= 5, "{templates:?}");
    for template in &templates {
        let (project, target) = project(folder.path(), template);
        let run = |args: &[&str]| succeeds(astrid_build(&project, args).env("CARGO_TARGET_DIR", &target));
        let packed = parsed(&run(&["--json", "build"]));
        let archive = packed["capsules"][0]["archive"].as_str().unwrap().to_owned();
        let archive = Archive::read(fs::File::open(archive).unwrap()).unwrap();
        assert_eq!(archive.manifest.package.name, format!("author-{template}"));
        let checked = parsed(&run(&["--json", "check", "--strict"]));
        assert_eq!(checked["findings"], json!([]), "{template}");

        let tested = succeeds(&mut astrid_build(folder.path(), &["--json", "test", project.to_str().unwrap()]));
        let tested = parsed(&tested);
        assert_eq!(tested["passed"], true, "{template}");
        let tests = tested["tests"].as_array().unwrap();
        assert!(tests.len() >= 2, "{template}: {tested}");
        for test in tests {
            assert_eq!(test["program"], "capsule");
            assert!(test["test"].as_str().unwrap().contains('_') && test["calls"].as_u64() > Some(0), "{test}");
            assert!(test["fuel"].as_u64() > Some(100) && test["peak_memory_bytes"].as_u64() >= Some(65536), "{test}");
        }
    }
}

#[test]
fn the_same_source_makes_the_same_bytes_in_another_folder() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let build = |folder: &Path, shared: bool| {
        let (project, target) = project(folder, "handler");
        let mut command = astrid_build(&project, &["--json", "build"]);
        match shared {
            true => command.env("CARGO_TARGET_DIR", target),
            false => command.env_remove("CARGO_TARGET_DIR"),
        };
        let packed = parsed(&succeeds(&mut command));
        fs::read(packed["capsules"][0]["archive"].as_str().unwrap()).unwrap()
    };
    let deeper = other.path().join("a/longer/way");
    fs::create_dir_all(&deeper).unwrap();
    let (first, second) = (build(one.path(), true), build(&deeper, false));
    assert!(first == second, "two folders gave archives that differ ({} and {} bytes)", first.len(), second.len());

    let component = Archive::read(&first[..]).unwrap().component;
    let home = env::home_dir().unwrap();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for machine in [one.path(), other.path(), &*home.join(".cargo"), checkout] {
        let machine = machine.to_str().unwrap().as_bytes();
        assert!(!component.windows(machine.len()).any(|w| w == machine), "{} stands in it", text(machine));
    }
}

#[test]
fn a_project_of_cargo_component_is_built_by_plain_cargo_from_its_bindings() {
    let folder = tempfile::tempdir().unwrap();
    let (project, target) = project(folder.path(), "handler");
    let manifest = project.join("Cargo.toml");
    let cargo = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, format!("{cargo}\n[package.metadata.component]\npackage = \"author:handler\"\n")).unwrap();
    let mut build = astrid_build(&project, &["build"]);
    build.env("CARGO_TARGET_DIR", target);
    let refused = output(&mut build);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("`cargo component bindings` in"), "{}", text(&refused.stderr));
    fs::write(project.join("src/bindings.rs"), "//! Written by cargo-component.\n").unwrap();
    assert!(succeeds(&mut build).contains("author-handler 0.1.0"));
}

/// A folder with a manifest and a component that another tool chain has made.
fn foreign(manifest: &str, component: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let package = "[package]\nname = \"foreign\"\nversion = \"0.1.0\"\n[component]\nwasm = \"out.wasm\"\n";
    fs::write(folder.path().join("Capsule.toml"), format!("{manifest}\n{package}")).unwrap();
    fs::write(folder.path().join("out.wasm"), wat::parse_str(component).unwrap()).unwrap();
    folder
}

const ECHO: &str = include_str!("../../tests/foreign/echo.wat");
const BINDING: &str = "[[subscribe]]\ntopic = \"foreign.v1.echo\"\nhandler = \"echo\"\n";

#[test]
fn a_component_of_another_tool_chain_is_packed_with_its_extra_exports_and_versions_of_wasi() {
    let folder = foreign(BINDING, ECHO);
    let checked = parsed(&succeeds(&mut astrid_build(folder.path(), &["--json", "check", "--strict"])));
    assert_eq!(checked["findings"], json!([]));
    let packed = parsed(&succeeds(&mut astrid_build(folder.path(), &["--json", "build"])));
    let archive = packed["capsules"][0]["archive"].as_str().unwrap();
    let archive = Archive::read(fs::File::open(archive).unwrap()).unwrap();
    assert_eq!(archive.component, wat::parse_str(ECHO).unwrap());
    assert_eq!(archive.manifest.component.wasm, None);
}

#[test]
fn check_tells_errors_from_warnings_and_strict_does_not() {
    // Exported and not bound; declared and not used.
    let folder = foreign("asks = [\"sys:host\"]\n[env.KEY]\ntype = \"string\"\n", ECHO);
    let check = |args: &[&str]| {
        let output = output(&mut astrid_build(folder.path(), &[&["--json", "check"], args].concat()));
        (output.status.code(), parsed(&text(&output.stdout)))
    };
    let (code, said) = check(&[]);
    assert_eq!((code, &said["errors"], &said["warnings"]), (Some(0), &json!(0), &json!(3)), "{said}");
    let rules: Vec<&str> = said["findings"].as_array().unwrap().iter().filter_map(|f| f["rule"].as_str()).collect();
    assert_eq!(rules, ["unused-ask", "unused-env", "uncalled-export"]);
    assert_eq!(check(&["--strict"]).0, Some(1));

    fs::create_dir(folder.path().join("wit")).unwrap();
    fs::write(folder.path().join("wit/a.wit"), "package a:b;\ninterface c { f: fnc(); }\n").unwrap();
    let manifest = folder.path().join("Capsule.toml");
    let text_of = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text_of.replace("type = \"string\"", "typ = \"string\"\ndefault = []")).unwrap();
    let (code, said) = check(&[]);
    assert_eq!((code, &said["errors"]), (Some(1), &json!(3)), "{said}");
    let places: Vec<String> = said["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| format!("{} {}", f["place"].as_str().unwrap(), f["text"].as_str().unwrap()))
        .collect();
    assert!(places[0].contains("Capsule.toml:3:1 unknown key `typ` in env.KEY; did you mean `type`?"), "{places:?}");
    assert!(places[1].contains("Capsule.toml:4:11 env.KEY.default must be"), "{places:?}");
    assert!(places[2].contains("a.wit:2:"), "{places:?}");
}

#[test]
fn there_is_nothing_to_look_at_in_the_houses_own_components() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for component in ["gateway", "identity", "system", "audit"] {
        let folder = checkout.join("components").join(component);
        let said = parsed(&succeeds(&mut astrid_build(checkout, &["--json", "check", folder.to_str().unwrap()])));
        let rules = said["findings"].as_array().unwrap().iter().filter_map(|f| f["rule"].as_str());
        // Their own payloads' types are documented field by field where a name does not say it.
        let rules: Vec<&str> = rules.filter(|rule| *rule != "wit").collect();
        assert!(rules.is_empty(), "{component}: {rules:?}");
    }
}

#[test]
fn diff_ends_with_0_where_nothing_breaks_and_1_where_something_does() {
    let folder = tempfile::tempdir().unwrap();
    let component = wat::parse_str(ECHO).unwrap();
    let write = |file: &str, version: &str, rest: &str, component: &[u8]| {
        let text = format!("{rest}\n[package]\nname = \"foreign\"\nversion = \"{version}\"\n");
        let path = folder.path().join(file);
        Archive::new(&Manifest::parse(&text).unwrap(), component.to_vec())
            .write(fs::File::create(&path).unwrap())
            .unwrap();
    };
    let more =
        format!("asks = [\"sys:host\"]\n{BINDING}[[subscribe]]\ntopic = \"foreign.v1.more\"\nhandler = \"more\"\n");
    write("old", "1.0.0", BINDING, &component);
    write("more", "1.1.0", &more, &component);
    write("none", "1.1.0", "", &component);
    let renamed =
        wat::parse_str(ECHO.replace("(export \"init\" (func $init))\n  (export \"exports\"", "(export \"exports\""))
            .unwrap();
    write("fewer", "1.0.1", BINDING, &renamed);

    let diff = |old: &str, new: &str| {
        let output = output(&mut astrid_build(folder.path(), &["--json", "diff", old, new]));
        (output.status.code(), parsed(&text(&output.stdout)))
    };
    let (code, said) = diff("old", "more");
    assert_eq!((code, &said["compatible"], &said["version_fits"]), (Some(0), &json!(true), &json!(true)), "{said}");
    let kinds: Vec<&str> = said["differences"].as_array().unwrap().iter().filter_map(|d| d["kind"].as_str()).collect();
    assert_eq!(kinds, ["consent", "added"]);
    let (code, said) = diff("old", "none");
    assert_eq!(
        (code, &said["compatible"], &said["least_version"]),
        (Some(1), &json!(false), &json!("2.0.0")),
        "{said}"
    );
    let (code, said) = diff("old", "fewer");
    assert_eq!(code, Some(1));
    assert!(said["differences"][0]["text"].as_str().unwrap().contains("no longer exports init"), "{said}");
    assert_eq!(diff("old", "old").1["differences"], json!([]));
    assert_eq!(diff("old", "missing").0, Some(1));
}
