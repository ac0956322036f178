//! Rules of the house that only text can show: who may know what, and that what documents promise exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use astrid_capsule::manifest::Manifest;
use serde_json::{Value, to_value};

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

/// The values of `key = …` lines of a manifest's sections with this header; lists give each of their texts.
fn declared(manifest: &str, header: &str, key: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for section in manifest.split("\n[").filter(|section| section.starts_with(&header[1..])) {
        for line in section.lines().filter(|line| line.split('=').next().is_some_and(|name| name.trim() == key)) {
            found.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_capability_that_is_required_is_declared_and_every_one_that_is_declared_is_needed() {
    let manifests: Vec<String> = files("components", "Capsule.toml").iter().map(|path| text(path)).collect();
    let all = |header, key| manifests.iter().flat_map(|m| declared(m, header, key)).collect::<BTreeSet<_>>();
    let (required, offered) = (all("[[subscribe]]", "requires"), all("[[capability]]", "id"));
    let undeclared: Vec<_> = required.difference(&offered).collect();
    assert!(undeclared.is_empty(), "required and declared nowhere: {undeclared:?}");
    // What no binding requires is asked for in code: by a front end that names a topic, or by the host's ledger.
    let code: String = ["components/gateway/src", "host/src/meter", "host/src/link"]
        .iter()
        .flat_map(|folder| files(folder, ".rs"))
        .map(|path| text(&path))
        .collect();
    let idle: Vec<_> = offered.difference(&required).filter(|id| !code.contains(&format!("\"{id}\""))).collect();
    assert!(idle.is_empty(), "declared and needed for nothing: {idle:?}");
    assert!(required.len() > 20, "the manifests' format has changed");
}

/// A row of the catalogue in docs/capabilities.md: who declares it, its scope and danger, and the topics that need it.
type Entry = (BTreeSet<String>, String, String, BTreeSet<String>);

/// The topics that a sentence names in full, and those that it gives by their last segment (`.show`) after one in full.
fn topics(sentence: &str) -> BTreeSet<String> {
    let (mut found, mut folder) = (BTreeSet::new(), String::new());
    for quoted in sentence.split('`').skip(1).step_by(2) {
        match quoted.strip_prefix('.') {
            Some(last) => drop(found.insert(format!("{folder}.{last}"))),
            None if quoted.contains(".v1.") => {
                folder = quoted.rsplit_once('.').map(|(folder, _)| folder.to_owned()).unwrap_or_default();
                found.insert(quoted.to_owned());
            }
            None => {}
        }
    }
    found
}

#[test]
fn the_catalogue_of_capabilities_is_what_the_manifests_declare_and_require() {
    let rules = text("docs/capabilities.md");
    let catalogue = rules.split("\n## Catalogue\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let catalogue = catalogue.expect("the rule book has a catalogue");
    let mut written = BTreeMap::<String, Entry>::new();
    for row in catalogue.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [id, by, scope, danger, needed] = cells[..] else { panic!("five cells: {row}") };
        let by = by.split(", ").map(str::to_owned).collect();
        let entry = (by, scope.to_owned(), danger.to_owned(), topics(needed));
        assert!(written.insert(id.trim_matches('`').to_owned(), entry).is_none(), "{id} stands twice");
    }

    let mut declared = BTreeMap::<String, Entry>::new();
    let (mut open, mut unguarded) = (BTreeSet::new(), BTreeSet::new());
    let manifests = files("components", "Capsule.toml");
    let manifests: Vec<Manifest> = manifests.iter().map(|path| Manifest::parse(&text(path)).expect(path)).collect();
    for manifest in &manifests {
        for found in &manifest.capability {
            let (scope, danger) = (word(to_value(found.scope)), word(to_value(found.danger)));
            let entry = declared
                .entry(found.id.to_string())
                .or_insert_with(|| (BTreeSet::new(), scope.clone(), danger.clone(), BTreeSet::new()));
            assert_eq!((&entry.1, &entry.2), (&scope, &danger), "{} is declared in two ways", found.id);
            entry.0.insert(manifest.package.name.clone());
        }
    }
    for binding in manifests.iter().flat_map(|manifest| &manifest.subscribe) {
        let topic = binding.topic.to_string();
        for required in &binding.requires {
            declared.get_mut(required.as_str()).expect("it is declared").3.insert(topic.clone());
        }
        match (binding.public, binding.requires.is_empty()) {
            (true, _) => drop(open.insert(topic)),
            // Who subscribes reads what its principal may.
            (false, true) if binding.handler.is_some() => drop(unguarded.insert(topic)),
            (false, _) => {}
        }
    }
    for (id, entry) in &declared {
        assert_eq!(written.get(id), Some(entry), "{id}: the rule book, and the manifests");
    }
    assert_eq!(written.len(), declared.len(), "the rule book lists what no manifest declares");

    let prose: String = catalogue.lines().filter(|line| !line.starts_with('|')).collect::<Vec<_>>().join(" ");
    let said = |what: &str| {
        let sentence = prose.split(". ").find(|sentence| sentence.contains(what));
        topics(sentence.unwrap_or_else(|| panic!("the rule book does not say which are {what}")))
    };
    assert_eq!(said("are public"), open);
    assert_eq!(said("require nothing"), unguarded);
}

/// How a manifest spells it.
fn word(value: Result<Value, serde_json::Error>) -> String {
    value.expect("a word").as_str().expect("a word").to_owned()
}
