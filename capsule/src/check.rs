//! Does a component fit its manifest, and the host? One set of rules for the tools and the loader.
//!
//! Owns the list of interfaces that a host offers and calls. A pure function of the manifest and the bytes: at most
//! [`MAX_PROBLEMS`] findings, each a sentence that says what to change. It does not compile: an engine may still
//! refuse what passes here, for a function that is missing in an interface or an instruction that is switched off.

use std::collections::BTreeSet;

use wasmparser::{Encoding, Parser, Payload, Validator};

use crate::manifest::{Isolation, Manifest, grant};
use crate::shown;

/// The most findings that one check returns.
pub const MAX_PROBLEMS: usize = 32;

/// The version of every `astrid:*` package.
const VERSION: &str = "0.1.0";

/// What a capsule may import of `astrid:*`: the world `imports` of `astrid:capsule`, and the types of exports.
const OFFERED: [&str; 18] = [
    "astrid:authority/held",
    "astrid:authority/registrar",
    "astrid:authority/sessions",
    "astrid:bus/bus",
    "astrid:bus/types",
    "astrid:capsule/supervision",
    "astrid:env/env",
    "astrid:http/types",
    "astrid:journal/facts",
    "astrid:journal/retention",
    "astrid:keys/keys",
    "astrid:process/process",
    "astrid:store/kv",
    "astrid:sys/audit",
    "astrid:sys/host",
    "astrid:sys/limit",
    "astrid:sys/log",
    "astrid:sys/sink",
];

/// Packages of WASI and what is offered of each.
type Wasi = &'static [(&'static str, &'static [&'static str])];

/// Of `wasi:cli`, in either version.
const CLI: &[&str] = &[
    "environment",
    "exit",
    "stderr",
    "stdin",
    "stdout",
    "terminal-input",
    "terminal-output",
    "terminal-stderr",
    "terminal-stdin",
    "terminal-stdout",
];

/// What a capsule may import of WASI, in any version 0.2.x. Linked is not granted: these rights are empty.
const WASI_02: Wasi = &[
    ("cli", CLI),
    ("clocks", &["monotonic-clock", "wall-clock"]),
    ("filesystem", &["preopens", "types"]),
    ("http", &["outgoing-handler", "types"]),
    ("io", &["error", "poll", "streams"]),
    ("random", &["insecure", "insecure-seed", "random"]),
    (
        "sockets",
        &["instance-network", "ip-name-lookup", "network", "tcp", "tcp-create-socket", "udp", "udp-create-socket"],
    ),
];

/// The same for 0.3.x. A component that imports any of it runs on the engine with component-model concurrency.
const WASI_03: Wasi = &[
    ("cli", CLI),
    ("cli", &["types"]),
    ("clocks", &["monotonic-clock", "system-clock", "types"]),
    ("filesystem", &["preopens", "types"]),
    ("http", &["client", "types"]),
    ("random", &["insecure", "insecure-seed", "random"]),
    ("sockets", &["ip-name-lookup", "types"]),
];

/// `[[subscribe]]` calls this.
pub const BUS_HANDLER: &str = "astrid:bus/handler";
/// `[[intercept]]` calls this.
pub const BUS_INTERCEPTOR: &str = "astrid:bus/interceptor";
/// `[http]` calls this, or [`WASI_HTTP_HANDLER`].
pub const HTTP_HANDLER: &str = "astrid:http/handler";
/// `[http]` calls this in version 0.2.x where there is no [`HTTP_HANDLER`].
pub const WASI_HTTP_HANDLER: &str = "wasi:http/incoming-handler";
/// `[http]` may call this for the bytes of answers that go on after their handler.
pub const HTTP_RELAY: &str = "astrid:http/relay";
/// Called in the one capsule that is granted [`grant::AUTHENTICATOR`].
pub const AUTHENTICATOR: &str = "astrid:authority/authenticator";
/// Called before a version goes live, where it is exported.
pub const LIFECYCLE: &str = "astrid:capsule/lifecycle";
/// Runs for as long as a version is live, where `isolation` is `run`.
pub const RUN_LOOP: &str = "astrid:capsule/run-loop";
/// What a run loop carries over to the next version, where it is exported.
pub const STATE: &str = "astrid:capsule/state";

/// A component's imports and exports by name, as they stand in it: `package/interface@version`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surface {
    pub imports: BTreeSet<String>,
    pub exports: BTreeSet<String>,
}

impl Surface {
    /// Validates the bytes and reads the names.
    pub fn read(component: &[u8]) -> Result<Self, Problem> {
        if Parser::is_core_wasm(component) {
            return Err(Problem::CoreModule);
        }
        let invalid = |error: wasmparser::BinaryReaderError| {
            Problem::Invalid(format!("{} at byte {}", shown(error.message()), error.offset()))
        };
        Validator::new().validate_all(component).map_err(invalid)?;
        let mut surface = Self::default();
        // 1 is the component itself; what is nested in it has names of its own.
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(component) {
            match payload.map_err(invalid)? {
                Payload::Version { encoding, .. } => {
                    if depth == 0 && encoding == Encoding::Module {
                        return Err(Problem::CoreModule);
                    }
                    depth += 1;
                }
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        surface.imports.insert(import.map_err(invalid)?.name.name.into());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        surface.exports.insert(export.map_err(invalid)?.name.name.into());
                    }
                }
                _ => {}
            }
        }
        Ok(surface)
    }

    /// Whether the interface is exported in a version that this host calls.
    pub fn exports(&self, interface: &str) -> bool {
        self.exports.iter().any(|name| speaks(name, interface))
    }

    /// Whether it is a guest of WASI 0.3, which needs an engine with component-model concurrency.
    pub fn needs_concurrency(&self) -> bool {
        self.imports.iter().any(|name| name.starts_with("wasi:") && is_patch_of(parts(name).1, "0.3."))
    }

    /// Whether the interface is imported in a version that this host offers.
    pub fn imports(&self, interface: &str) -> bool {
        self.imports.iter().any(|name| speaks(name, interface))
    }
}

/// Why a component and its manifest don't go together. Reads on after `the component`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(
        "is a core module, not a component: build it for wasm32-wasip2, or make a component of it with \
         `wasm-tools component new`"
    )]
    CoreModule,
    #[error("is not valid: {0}")]
    Invalid(String),
    /// An import that no capsule may have.
    #[error("imports `{0}`, which this host does not offer{1}")]
    Import(String, String),
    /// A privileged interface without its grant among the manifest's `asks`. The last field is the line to write.
    #[error("{0} `{1}`: Capsule.toml needs the line {2}")]
    Ask(&'static str, String, String),
    /// The manifest speaks of something that only this export can do.
    #[error("does not export `{export}`, which Capsule.toml needs for {reason}{hint}")]
    Export { export: String, reason: &'static str, hint: String },
    /// A guest of WASI 0.3 may go on after it has answered, which would be in another call.
    #[error(
        "imports WASI 0.3, whose calls may leave work behind: Capsule.toml can't have component.isolation = \"principal\""
    )]
    Leftovers,
    /// A run loop that nobody would run.
    #[error("exports `{0}`: Capsule.toml needs `isolation = \"run\"` under [component]")]
    Isolation(String),
    #[error("has more problems than these")]
    More,
}

/// Everything that is wrong, or what the component imports and exports.
pub fn check(manifest: &Manifest, component: &[u8]) -> Result<Surface, Vec<Problem>> {
    let surface = Surface::read(component).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    for name in &surface.imports {
        if !offered(name) {
            problems.push(Problem::Import(shown(name), versions(name)));
        }
    }
    problems.extend(ungranted(manifest, &surface));
    problems.extend(unexported(manifest, &surface));
    if manifest.component.isolation == Isolation::Principal && surface.needs_concurrency() {
        problems.push(Problem::Leftovers);
    }
    if manifest.component.isolation != Isolation::Run {
        let loops = [RUN_LOOP, STATE].into_iter().filter(|interface| surface.exports(interface));
        problems.extend(loops.map(|interface| Problem::Isolation(interface.into())));
    }
    if problems.len() > MAX_PROBLEMS {
        problems.truncate(MAX_PROBLEMS - 1);
        problems.push(Problem::More);
    }
    if problems.is_empty() { Ok(surface) } else { Err(problems) }
}

/// `package/interface` and the version after the `@`, if there is one.
fn parts(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, ""))
}

/// A minor version is compatible throughout; a pre-release of it is not.
fn is_patch_of(version: &str, minor: &str) -> bool {
    version.strip_prefix(minor).is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
}

fn speaks(name: &str, interface: &str) -> bool {
    let (path, version) = parts(name);
    path == interface && if path.starts_with("wasi:") { is_patch_of(version, "0.2.") } else { version == VERSION }
}

fn holds(wasi: Wasi, path: &str) -> bool {
    let split = path.strip_prefix("wasi:").and_then(|rest| rest.split_once('/'));
    split.is_some_and(|(package, interface)| wasi.iter().any(|(p, list)| *p == package && list.contains(&interface)))
}

fn offered(name: &str) -> bool {
    let (path, version) = parts(name);
    (OFFERED.contains(&path) && version == VERSION)
        || (holds(WASI_02, path) && is_patch_of(version, "0.2."))
        || (holds(WASI_03, path) && is_patch_of(version, "0.3."))
}

/// Where only the version is wrong: which ones would do.
fn versions(name: &str) -> String {
    let path = parts(name).0;
    let mut there = Vec::new();
    there.extend(OFFERED.contains(&path).then_some(VERSION));
    there.extend(holds(WASI_02, path).then_some("0.2.x"));
    there.extend(holds(WASI_03, path).then_some("0.3.x"));
    if there.is_empty() { String::new() } else { format!(" in this version (it has {})", there.join(" and ")) }
}

fn ungranted(manifest: &Manifest, surface: &Surface) -> Vec<Problem> {
    let asked = |wanted: &str| manifest.asks.iter().any(|held| held.as_str() == wanted);
    let privileged = [
        ("imports", "astrid:authority/sessions", grant::SESSIONS),
        ("imports", "astrid:authority/registrar", grant::REGISTRAR),
        ("imports", "astrid:sys/host", grant::HOST),
        ("imports", "astrid:journal/facts", grant::JOURNAL_READ),
        ("imports", "astrid:journal/retention", grant::JOURNAL_PRUNE),
        ("imports", "astrid:sys/sink", grant::SINK),
        ("exports", AUTHENTICATOR, grant::AUTHENTICATOR),
        ("exports", RUN_LOOP, grant::RUN),
    ];
    let mut missing = Vec::new();
    for (verb, interface, grant) in privileged {
        let used = if verb == "imports" { surface.imports(interface) } else { surface.exports(interface) };
        if used && !asked(grant) {
            missing.push((verb, interface, grant.to_owned()));
        }
    }
    let keys = "astrid:keys/keys";
    if surface.imports(keys) && !manifest.asks.iter().any(|held| held.segments().next() == Some(grant::KEYS)) {
        missing.push(("imports", keys, format!("{}:<purpose>", grant::KEYS)));
    }
    let asks = manifest.asks.iter().map(|held| held.as_str()).chain(missing.iter().map(|(.., grant)| grant.as_str()));
    let line = format!("asks = [{}]", asks.map(|grant| format!("\"{grant}\"")).collect::<Vec<_>>().join(", "));
    missing.into_iter().map(|(verb, interface, _)| Problem::Ask(verb, interface.into(), line.clone())).collect()
}

fn unexported(manifest: &Manifest, surface: &Surface) -> Vec<Problem> {
    let needs: [(bool, &[&str], &str); 5] = [
        (manifest.subscribe.iter().any(|b| b.handler.is_some()), &[BUS_HANDLER], "[[subscribe]]"),
        (!manifest.intercept.is_empty(), &[BUS_INTERCEPTOR], "[[intercept]]"),
        (manifest.http.is_some(), &[HTTP_HANDLER, WASI_HTTP_HANDLER], "[http]"),
        (
            manifest.asks.iter().any(|held| held.as_str() == grant::AUTHENTICATOR),
            &[AUTHENTICATOR],
            "asks = [\"authority:authenticator\"]",
        ),
        (manifest.component.isolation == Isolation::Run, &[RUN_LOOP], "isolation = \"run\""),
    ];
    let mut problems = Vec::new();
    for (needed, interfaces, reason) in needs {
        if !needed || interfaces.iter().any(|interface| surface.exports(interface)) {
            continue;
        }
        let other = surface.exports.iter().find(|name| interfaces.contains(&parts(name).0));
        problems.push(Problem::Export {
            export: format!("{}@{VERSION}", interfaces[0]),
            reason,
            hint: other
                .map(|name| format!("; `{}` is a version that this host does not call", shown(name)))
                .unwrap_or_default(),
        });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component with empty instances for imports and exports.
    fn component(imports: &[&str], exports: &[&str]) -> Vec<u8> {
        fn leb(mut n: usize, out: &mut Vec<u8>) {
            while n >= 0x80 {
                out.push(n as u8 | 0x80);
                n >>= 7;
            }
            out.push(n as u8);
        }
        fn section(id: u8, count: usize, items: &[u8], out: &mut Vec<u8>) {
            let mut body = Vec::new();
            leb(count, &mut body);
            body.extend(items);
            out.push(id);
            leb(body.len(), out);
            out.extend(body);
        }
        let named = |name: &str, tail: &[u8], out: &mut Vec<u8>| {
            out.push(0);
            leb(name.len(), out);
            out.extend(name.bytes());
            out.extend(tail);
        };
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        section(7, 1, &[0x42, 0], &mut bytes);
        let mut items = Vec::new();
        imports.iter().for_each(|name| named(name, &[5, 0], &mut items));
        section(10, imports.len(), &items, &mut bytes);
        section(5, 1, &[1, 0], &mut bytes);
        let mut items = Vec::new();
        let mut last = Vec::new();
        leb(imports.len(), &mut last);
        exports.iter().for_each(|name| named(name, &[&[5], &last[..], &[0]].concat(), &mut items));
        section(11, exports.len(), &items, &mut bytes);
        bytes
    }

    fn manifest(rest: &str) -> Manifest {
        Manifest::parse(&format!("{rest}\n[package]\nname = \"a\"\nversion = \"0.1.0\"\n")).unwrap()
    }

    fn found(manifest_rest: &str, imports: &[&str], exports: &[&str]) -> String {
        match check(&manifest(manifest_rest), &component(imports, exports)) {
            Ok(_) => String::new(),
            Err(problems) => problems.iter().map(|p| format!("{p}\n")).collect(),
        }
    }

    #[test]
    fn the_offered_interfaces_are_those_of_the_world() {
        let world = include_str!("../../wit/capsule/capsule.wit");
        let imports = world.lines().filter_map(|line| line.trim().strip_prefix("import ")?.strip_suffix(';'));
        // The world's own package names its interface without package and version.
        let whole = |name: &str| match name.contains(':') {
            true => name.to_owned(),
            false => format!("astrid:capsule/{name}@{VERSION}"),
        };
        let mut imports: Vec<String> = imports.map(whole).collect();
        imports.push(format!("astrid:http/types@{VERSION}"));
        imports.sort();
        assert_eq!(imports, OFFERED.map(|path| format!("{path}@{VERSION}")));
    }

    #[test]
    fn a_component_that_fits_shows_its_surface() {
        let bytes = component(
            &["astrid:bus/types@0.1.0", "wasi:io/poll@0.2.0", "wasi:cli/stdout@0.2.6"],
            &["astrid:bus/handler@0.1.0"],
        );
        let surface = check(&manifest("[[subscribe]]\ntopic = \"a\"\nhandler = \"a\""), &bytes).unwrap();
        assert!(surface.exports(BUS_HANDLER) && !surface.exports(HTTP_HANDLER));
        assert_eq!(surface.imports.len(), 3);
    }

    #[test]
    fn a_guest_of_wasi_0_3_fits_and_asks_for_the_other_engine() {
        let fits = |imports: &[&str]| check(&manifest(""), &component(imports, &[])).unwrap().needs_concurrency();
        assert!(fits(&["wasi:random/random@0.3.0", "wasi:io/poll@0.2.0"]));
        assert!(!fits(&["wasi:random/random@0.2.3", "astrid:bus/bus@0.1.0"]));
    }

    #[test]
    fn unknown_imports_are_named() {
        let text = found(
            "",
            &[
                "astrid:bus/bus@0.1.0",
                "astrid:bus/bus@0.2.0",
                "astrid:fs/fs@0.1.0",
                "wasi:http/types@0.4.0",
                "wasi:io/poll@0.2.0-rc-2023-11-10",
                "wasi:nn/graph@0.2.0",
                "other",
            ],
            &[],
        );
        for name in
            ["astrid:bus/bus@0.2.0", "astrid:fs/fs@0.1.0", "wasi:http/types@0.4.0", "wasi:nn/graph@0.2.0", "other"]
        {
            assert!(text.contains(&format!("`{name}`")), "{name}: {text}");
        }
        assert!(text.contains("rc-2023-11-10"));
        assert!(text.contains("it has 0.1.0") && text.contains("it has 0.2.x and 0.3.x"));
        assert!(!text.contains("bus@0.1.0"));
    }

    #[test]
    fn privileged_interfaces_need_their_ask_and_the_line_is_shown() {
        let imports = ["astrid:authority/sessions@0.1.0", "astrid:keys/keys@0.1.0", "astrid:sys/host@0.1.0"];
        let text = found("asks = [\"sys:host\"]", &imports, &[]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("asks = [\"sys:host\", \"authority:sessions\", \"keys:<purpose>\"]"), "{text}");
        assert_eq!(found("asks = [\"sys:host\", \"authority:sessions\", \"keys:x\"]", &imports, &[]), "");
        let text = found("", &[], &["astrid:authority/authenticator@0.1.0"]);
        assert!(text.contains("asks = [\"authority:authenticator\"]"), "{text}");
    }

    #[test]
    fn what_the_manifest_binds_must_be_exported() {
        let subscribe = "[[subscribe]]\ntopic = \"a\"\nhandler = \"a\"";
        assert!(found(subscribe, &[], &[]).contains("`astrid:bus/handler@0.1.0`"));
        assert!(found(subscribe, &[], &["astrid:bus/handler@0.2.0"]).contains("does not call"));
        let intercept = "[[intercept]]\ntopic = \"a\"\nhandler = \"a\"";
        assert!(found(intercept, &[], &["astrid:bus/handler@0.1.0"]).contains("`astrid:bus/interceptor@0.1.0`"));
        assert_eq!(found(intercept, &[], &["astrid:bus/interceptor@0.1.0"]), "");
        let http = "asks = [\"http:mount\"]\n[http]\nmounts = [\"/a\"]";
        assert!(found(http, &[], &[]).contains("`astrid:http/handler@0.1.0`"));
        assert_eq!(found(http, &[], &["astrid:http/handler@0.1.0"]), "");
        assert_eq!(found(http, &[], &["wasi:http/incoming-handler@0.2.3"]), "");
        assert!(found(http, &[], &["wasi:http/incoming-handler@0.3.0"]).contains("does not call"));
        assert!(found("asks = [\"authority:authenticator\"]", &[], &[]).contains("authenticator@0.1.0"));
    }

    #[test]
    fn what_may_go_on_after_its_answer_has_no_instance_for_more_than_one_call() {
        let manifest = "[component]\nisolation = \"principal\"\n[[subscribe]]\ntopic = \"a\"\nhandler = \"a\"";
        let exports = ["astrid:bus/handler@0.1.0"];
        assert!(found(manifest, &["wasi:clocks/types@0.3.0"], &exports).contains("component.isolation"));
        assert_eq!(found(manifest, &["wasi:clocks/wall-clock@0.2.3"], &exports), "");
    }

    #[test]
    fn what_is_no_component_is_refused() {
        let check = |bytes: &[u8]| check(&manifest(""), bytes).unwrap_err();
        assert_eq!(check(b"\0asm\x01\0\0\0"), [Problem::CoreModule]);
        assert!(matches!(check(b"")[..], [Problem::Invalid(_)]));
        assert!(matches!(check(b"not wasm at all")[..], [Problem::Invalid(_)]));
        let whole = component(&["wasi:io/poll@0.2.0"], &["astrid:bus/handler@0.1.0"]);
        for cut in 9..whole.len() {
            // What ends between two sections is a component as well.
            let _ = super::check(&manifest(""), &whole[..cut]);
        }
    }

    #[test]
    fn findings_are_bounded() {
        let names: Vec<String> = (0..100).map(|n| format!("import-{n}x")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let problems = check(&manifest(""), &component(&names, &[])).unwrap_err();
        assert_eq!(problems.len(), 32);
        assert_eq!(problems.last(), Some(&Problem::More));
    }
}
