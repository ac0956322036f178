//! Rules of the house that only text can show: who may know what, and that what documents promise exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `folder` with this ending, relative to the root.
fn files(folder: &str, ending: &str) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    walk(&root.join(folder), &mut found);
    let relative = found.iter().filter_map(|path| path.strip_prefix(&root).ok()?.to_str().map(str::to_owned));
    let mut list: Vec<String> = relative.filter(|path| path.ends_with(ending)).collect();
    list.sort();
    assert!(!list.is_empty(), "{folder} has no {ending}");
    list
}

/// The code of a file: without its unit tests and comments.
fn code(path: &str) -> Vec<(usize, String)> {
    let text = text(path);
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().enumerate().map(|(n, line)| (n + 1, line.split("//").next().unwrap_or("").to_owned()));
    lines.collect()
}

#[test]
fn the_host_knows_no_policy() {
    // The verbs of the command line are a client of the surface, and know its words.
    let rooms = files("host/src", ".rs").into_iter().filter(|path| !path.contains("/cli/"));
    for path in rooms {
        for (line, code) in code(&path) {
            let lower = code.to_lowercase();
            for word in
                ["invite", "\"admin\"", "mcp", "/api/", "bearer v2", "\"identity\"", "\"gateway\"", "\"system\""]
            {
                assert!(!lower.contains(word), "{path}:{line} knows `{word}`: {code}");
            }
        }
    }
}

#[test]
fn the_pure_cores_know_neither_wasm_nor_sockets_nor_clocks() {
    for path in ["host/src/bus/fair.rs", "host/src/bus/routes.rs", "host/src/sched/mod.rs", "host/src/pool/shelf.rs"] {
        for (line, code) in code(path) {
            for word in ["wasmtime", "tokio", "std::net", "Instant", "SystemTime", "spawn"] {
                assert!(!code.contains(word), "{path}:{line} knows `{word}`: {code}");
            }
        }
    }
}

#[test]
fn components_and_sdk_reach_neither_host_nor_engine() {
    let mut manifests = files("components", "Cargo.toml");
    manifests.push("sdk/Cargo.toml".into());
    for path in manifests {
        let manifest = text(&path);
        for banned in ["astrid-host", "astrid-sdk-test", "tokio", "wasmtime"] {
            assert!(!manifest.contains(banned), "{path} depends on {banned}");
        }
    }
    assert!(!text("build/Cargo.toml").contains("wasmtime"), "astrid-build must not wait for wasmtime");
}

#[test]
fn every_guest_is_named_by_a_test() {
    let sources = ["tests/story", "tests/component", "tests/src", "sdk/test/tests", "tests/bench/src", "tests/library"];
    let all: String = sources.iter().flat_map(|folder| files(folder, ".rs")).map(|path| text(&path)).collect();
    for manifest in files("tests/guests", "Capsule.toml") {
        let guest = manifest.split('/').nth(2).unwrap_or_default();
        assert!(all.contains(&format!("\"{guest}\"")), "no test names the guest `{guest}`");
    }
}

#[test]
fn what_the_specification_names_as_a_test_exists() {
    let specification = text("docs/specification.md");
    let mut file = String::new();
    let mut named = BTreeSet::new();
    for quoted in specification.split('`').skip(1).step_by(2).filter(|quoted| quoted.contains("::")) {
        let (path, test) = quoted.split_once("::").expect("filtered");
        if !path.is_empty() {
            file = path.to_owned();
        }
        if file.ends_with(".rs") {
            assert!(text(&file).contains(&format!("fn {test}(")), "{file} has no test `{test}`");
            named.insert((file.clone(), test.to_owned()));
        }
    }
    assert!(named.len() > 20, "the specification's format has changed");
}

#[test]
fn every_decision_that_is_named_exists_and_no_test_is_switched_off() {
    let folders = ["host/src", "capsule/src", "build/src", "sdk", "components", "tests"];
    for path in folders.iter().flat_map(|folder| files(folder, ".rs")).filter(|path| !path.contains("/tidy/")) {
        let text = text(&path);
        for (line, code) in text.lines().enumerate().map(|(n, line)| (n + 1, line)) {
            assert!(!code.contains("#[ignore"), "{path}:{line} switches a test off");
            assert!(!code.trim_start().starts_with("#[path"), "{path}:{line} takes a module from elsewhere");
            let silent = code.contains("allow(") && code.contains("#") && !text.contains("reason = ");
            assert!(!silent, "{path}:{line} allows a lint without a reason");
            if let Some(name) = code.split("docs/decisions/").nth(1) {
                let name: String =
                    name.chars().take_while(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
                let name = name.trim_end_matches('.');
                assert!(root().join("docs/decisions").join(name).exists(), "{path}:{line} names {name}");
            }
        }
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut documents = files("docs", ".md");
    documents.extend(["README.md".into(), "CHANGELOG.md".into()]);
    for path in documents {
        let folder = Path::new(&path).parent().unwrap_or(Path::new("")).to_owned();
        for link in text(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next().map(str::to_owned)) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                assert!(root().join(&folder).join(target).exists(), "{path} links to {target}");
            }
        }
    }
}
