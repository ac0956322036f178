//! Capsules installed, replaced and refused while the host runs, and what they serve.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use astrid_capsule::manifest::Manifest;
use astrid_capsule::{Capability, Pattern};
use astrid_tests::daemon::Daemon;
use astrid_tests::http::{Request, raw};
use astrid_tests::pack;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{Load, assert_well, bus, install, install_guests, install_with, join};

/// The installed capsules: id and version.
async fn installed(daemon: &Daemon) -> Vec<(String, String)> {
    let list = daemon.unix(Request::get("/api/capsules")).await.expect(200);
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let rows = list["capsules"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["state"] == "live" && text(row, "hash").len() == 64), "{list}");
    rows.iter().map(|row| (text(row, "id"), text(row, "version"))).collect()
}

/// What `astrid capsule install` says when it fails, with the exit code checked.
#[track_caller]
fn refused(daemon: &Daemon, archive: &Path, grants: &[&str]) -> String {
    let mut arguments = vec!["capsule", "install", archive.to_str().unwrap()];
    grants.iter().for_each(|grant| arguments.extend(["--grant", grant]));
    daemon.astrid(&arguments).refusal(1).to_owned()
}

#[tokio::test]
async fn an_installed_capsule_answers_at_once_and_after_a_restart() {
    let daemon = Daemon::start();
    daemon.unix(bus("echo.v1.say", &json!(1))).await.refusal(404, "not_found");
    let done = install(&daemon, &pack::packed("echo"));
    assert_eq!(
        (&done["id"], &done["installed_version"], &done["grants"]),
        (&json!("echo"), &json!("0.1.0"), &json!([]))
    );
    assert!(done.get("previous_version").is_none(), "{done}");
    assert_eq!(daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200), json!(1));

    // From the folder that it lies in, by a relative path, and a guest of WASI 0.3 as well as one of 0.2.
    install(&daemon, &pack::packed("preview3"));
    assert!(daemon.unix(bus("preview3.v1.draw", &json!({}))).await.expect(200).is_u64());

    let home = daemon.home().clone();
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    assert_eq!(daemon.unix(bus("echo.v1.say", &json!(2))).await.expect(200), json!(2));
    assert!(daemon.unix(bus("preview3.v1.draw", &json!({}))).await.expect(200).is_u64());
    let ids: Vec<String> = installed(&daemon).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["audit", "echo", "gateway", "identity", "preview3", "system"]);
}

#[tokio::test]
async fn a_component_of_another_tool_chain_runs_with_its_extra_exports_and_versions_of_wasi() {
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    let component = wat::parse_str(include_str!("../foreign/echo.wat")).unwrap();
    let text = "[package]\nname = \"foreign\"\nversion = \"0.1.0\"\n\
                [[subscribe]]\ntopic = \"foreign.v1.echo\"\nhandler = \"echo\"\n";
    let archive = pack::write(folder.path(), "foreign", &Manifest::parse(text).unwrap(), &component);
    install(&daemon, &archive);
    let payload = json!({ "said": ["x".repeat(1000), null] });
    assert_eq!(daemon.unix(bus("foreign.v1.echo", &payload)).await.expect(200), payload);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_capsules_that_serve_it_are_replaced() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo"]);
    let person = join(&daemon, "admin", "ada", 1).await;
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(daemon.connect().await);
    }
    // Each is a session by identity, a request by the gateway and an answer by echo.
    let load = Load::start(connections, &bus("echo.v1.say", &json!("x")).bearer(&person.bearer)).await;
    for patch in 1..=5 {
        for name in ["audit", "echo", "gateway", "identity", "system"] {
            let file = format!("{name}-{patch}");
            let next = pack::repacked(daemon.home().beside(), &file, name, |m| m.package.version.patch = patch);
            let done = install(&daemon, &next);
            assert_eq!(done["previous_version"], format!("0.1.{}", patch - 1), "{done}");
        }
    }
    assert!(load.end().await > 4);
    assert!(installed(&daemon).await.iter().all(|(_, version)| version == "0.1.5"));

    // The distribution has not changed since, so what was installed over it stays.
    let home = daemon.home().clone();
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    assert!(installed(&daemon).await.iter().all(|(_, version)| version == "0.1.5"));
    daemon.tcp(Request::get("/api/auth/me").bearer(&person.bearer)).await.expect(200);
}

#[tokio::test]
async fn an_installation_tells_what_another_serves_as_well_and_the_very_same_is_refused() {
    let daemon = Daemon::start();
    let folder = daemon.home().beside();
    install(&daemon, &pack::packed("echo"));
    let under = |name: &str| {
        pack::repacked(folder, name, "front", |manifest| {
            manifest.package.name = name.into();
            manifest.http.as_mut().unwrap().mounts = vec!["/api/front".into(), "/apifront".into()];
        })
    };
    let below = under("below");
    let ended = daemon.astrid(&["capsule", "install", below.to_str().unwrap(), "--grant", "http:mount"]);
    ended.out();
    assert!(ended.stderr.contains("/api/front is in part gateway's as well"), "{}", ended.stderr);
    // The guest knows no such path; the gateway's 404 has a body.
    let answer = daemon.tcp(Request::get("/api/front/echo")).await;
    assert_eq!((answer.status, &answer.body[..]), (404, &b""[..]));
    daemon.tcp(Request::get("/api/fronts")).await.refusal(404, "not_found");
    daemon.tcp(Request::get("/api/auth/me")).await.refusal(401, "unauthorized");
    let reason = refused(&daemon, &under("twin"), &["http:mount"]);
    assert!(reason.contains("/api/front is mounted by `below`"), "{reason}");

    let wide = pack::repacked(folder, "wide", "echo", |manifest| {
        manifest.package.name = "wide".into();
        manifest.subscribe[0].topic = Pattern::parse("echo.v1.*").unwrap();
    });
    let done = install(&daemon, &wide);
    assert_eq!(done["export_conflicts"], json!([{ "interface": "echo.v1.*", "existing_capsule": "echo" }]));
    daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200);
}

#[tokio::test]
async fn a_capsule_serves_its_mount_once_the_operator_grants_that() {
    let daemon = Daemon::start();
    for name in ["front", "wasi-http"] {
        let archive = pack::packed(name);
        let reason = refused(&daemon, &archive, &[]);
        assert!(reason.contains("http:mount") && reason.contains("--grant http:mount"), "{reason}");
        let reason = refused(&daemon, &archive, &["sys:host"]);
        assert!(reason.contains("http:mount"), "{reason}");
    }
    daemon.tcp(Request::get("/front/echo")).await.refusal(404, "not_found");
    assert_eq!(installed(&daemon).await.len(), 4);

    for name in ["front", "wasi-http"] {
        // What was not asked for is not given, whatever the operator grants.
        let done = install_with(&daemon, &pack::packed(name), &["http:mount", "sys:host"]);
        assert_eq!(done["grants"], json!(["http:mount"]));
    }
    let request = Request::new("PATCH", "/front/echo?a=%20b").header("x-y", "z").body("body");
    let echo = daemon.tcp(request.clone()).await;
    let seen = echo.expect(200);
    assert_eq!((&seen["method"], &seen["path"]), (&json!("PATCH"), &json!("/front/echo")));
    assert_eq!((&seen["query"], &seen["body"]), (&json!("a=%20b"), &json!("body")));
    assert_eq!((&seen["address"], &seen["unix_uid"]), (&json!("127.0.0.1"), &json!(null)));
    assert!(seen["headers"].as_array().unwrap().contains(&json!(["x-y", "z"])), "{seen}");
    assert_eq!(seen["id"], echo.header("x-request-id").unwrap());
    let seen = daemon.unix(request).await.expect(200);
    assert_eq!(seen["address"], json!(null));
    assert_eq!(seen["unix_uid"], own_uid());

    let wasi = daemon.tcp(Request::new("POST", "/wasi/a/b?c=d").body("body")).await;
    assert_eq!((wasi.status, &wasi.body[..]), (200, &b"POST /wasi/a/b?c=d\nbody"[..]));
    assert_eq!(daemon.unix(Request::get("/wasi")).await.body, "GET /wasi\n");
    daemon.tcp(Request::get("/wasiness")).await.refusal(404, "not_found");
    // The other's limit on bodies is the manifest's default.
    daemon.tcp(Request::new("POST", "/wasi").body(vec![b'x'; 65_537])).await.refusal(413, "payload_too_large");
    assert_eq!(daemon.tcp(Request::new("POST", "/wasi").body(vec![b'x'; 65_536])).await.body.len(), 65_536 + 11);
    // Without a Host header, as HTTP/1.0 has it.
    let old = raw(TcpStream::connect(daemon.address()).await.unwrap(), b"GET /wasi HTTP/1.0\r\n\r\n").await;
    assert!(old.ends_with("GET /wasi\n"), "{old}");

    let home = daemon.home().clone();
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    daemon.tcp(Request::get("/front/echo")).await.expect(200);
    assert_eq!(daemon.tcp(Request::get("/wasi")).await.status, 200);
}

/// The uid that this test and so the daemon runs as.
fn own_uid() -> Value {
    use std::os::unix::fs::MetadataExt;
    json!(fs::metadata("/proc/self").unwrap().uid())
}

/// A gzipped tar of these entries and of `hashes` that fit, as `Archive::write` would never write it.
fn tarball(path: &Path, entries: &[(&str, tar::EntryType, &[u8])]) {
    let mut tar = tar::Builder::new(GzEncoder::new(File::create(path).unwrap(), Compression::fast()));
    let hashes: String = entries
        .iter()
        .map(|(name, _, bytes)| format!("{} {} {name}\n", blake3::hash(bytes).to_hex(), bytes.len()))
        .collect();
    for (name, kind, bytes) in entries.iter().chain([&("hashes", tar::EntryType::Regular, hashes.as_bytes())]) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        if *kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *bytes).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
}

/// Archives that are refused, each with what the refusal must name.
fn bad_archives(folder: &Path) -> Vec<(PathBuf, &'static [&'static str])> {
    use tar::EntryType::{Regular, Symlink};
    let echo = pack::read("echo");
    let toml = echo.manifest_text.as_bytes();
    let whole = fs::read(pack::packed("echo")).unwrap();
    let mut bad: Vec<(PathBuf, &'static [&'static str])> = Vec::new();
    let mut file = |name: &str, bytes: &[u8], names: &'static [&'static str]| {
        let path = folder.join(name);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        bad.push((path, names));
    };
    file("empty.capsule", b"", &["empty.capsule"]);
    file("noise.capsule", &[0x5a; 10_000], &["noise.capsule"]);
    file("cut.capsule", &whole[..whole.len() / 2], &["cut.capsule"]);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    file("flipped.capsule", &flipped, &["flipped.capsule"]);

    let mut tar = |name: &str, entries: &[(&str, tar::EntryType, &[u8])], names: &'static [&'static str]| {
        let path = folder.join(name);
        tarball(&path, entries);
        bad.push((path, names));
    };
    let component = echo.component.as_slice();
    tar("link.capsule", &[("Capsule.toml", Regular, toml), ("component.wasm", Symlink, b"")], &["component.wasm"]);
    tar("links.capsule", &[("Capsule.toml", Symlink, b""), ("component.wasm", Regular, component)], &["Capsule.toml"]);
    tar(
        "up.capsule",
        &[("../Capsule.toml", Regular, toml), ("component.wasm", Regular, component)],
        &["../Capsule.toml"],
    );
    tar("alone.capsule", &[("Capsule.toml", Regular, toml)], &["component.wasm is expected"]);
    let extra: [(&str, tar::EntryType, &[u8]); 3] =
        [("Capsule.toml", Regular, toml), ("component.wasm", Regular, component), ("x", Regular, b"x")];
    tar("extra.capsule", &extra, &["`x`"]);
    let key = format!("colour = \"red\"\n{}", echo.manifest_text);
    tar(
        "key.capsule",
        &[("Capsule.toml", Regular, key.as_bytes()), ("component.wasm", Regular, component)],
        &["colour"],
    );
    tar("text.capsule", &[("Capsule.toml", Regular, toml), ("component.wasm", Regular, b"(component)")], &["echo"]);
    let module = b"\0asm\x01\0\0\0";
    tar("core.capsule", &[("Capsule.toml", Regular, toml), ("component.wasm", Regular, module)], &["core module"]);

    // What a component imports decides, whatever its manifest says.
    let unknown = pack::patched(component, "wasi:cli/stderr@", "wasi:cli/telnet@");
    bad.push((pack::write(folder, "unknown", &echo.manifest, &unknown), &["wasi:cli/telnet@"]));
    let sneaky = pack::repacked(folder, "sneaky", "sneaky", |manifest| manifest.asks.clear());
    bad.push((sneaky, &["astrid:sys/host", "sys:host"]));
    let mute = pack::repacked(folder, "mute", "front", |manifest| {
        manifest.subscribe = pack::read("echo").manifest.subscribe;
    });
    bad.push((mute, &["astrid:bus/handler"]));
    let wants = pack::repacked(folder, "wants", "echo", |manifest| {
        manifest.subscribe[0].requires = vec![Capability::parse("echo:loudly").unwrap()];
    });
    bad.push((wants, &["echo.v1.say", "echo:loudly"]));
    bad.push((folder.join("missing.capsule"), &["missing.capsule"]));
    bad.push((folder.to_owned(), &["no plain file"]));
    bad
}

#[tokio::test]
async fn what_is_no_capsule_is_refused_by_name_before_anything_is_installed() {
    let daemon = Daemon::start();
    let folder = daemon.home().beside().join("bad");
    fs::create_dir(&folder).unwrap();
    let bin = daemon.home().path().join("bin");
    let before = fs::read_dir(&bin).unwrap().count();
    for (archive, names) in bad_archives(&folder) {
        let reason = refused(&daemon, &archive, &["http:mount", "bus:receive:echo:*"]);
        for name in names {
            assert!(reason.contains(name), "{}: {reason}", archive.display());
        }
    }
    // Grants and paths that are none.
    let archive = pack::packed("echo");
    let source = archive.to_str().unwrap();
    for body in [
        json!({ "source": "echo.capsule" }),
        json!({ "source": "https://example.org/echo.capsule" }),
        json!({ "source": source, "grants": ["not a grant"] }),
        json!({ "source": source, "sudo": true }),
        json!({}),
    ] {
        daemon.unix(Request::post("/api/capsules", &body)).await.refusal(400, "bad_request");
    }
    // What is asked and not granted: an interface of the host, and topics that are not the capsule's own.
    let sneaky = refused(&daemon, &pack::packed("sneaky"), &["bus:send:*"]);
    assert!(sneaky.contains("sys:host"), "{sneaky}");
    let twin = pack::repacked(&folder, "twin", "echo", |manifest| manifest.package.name = "twin".into());
    let twin = refused(&daemon, &twin, &["bus:send:*", "bus:receive:other:*"]);
    assert!(twin.contains("bus:receive:echo:v1:say"), "{twin}");
    let caller = refused(&daemon, &pack::packed("caller"), &["bus:send:echo:*", "sys:host"]);
    assert!(caller.contains("bus:send:identity:v1:*") && !caller.contains("bus:send:caller"), "{caller}");
    assert_eq!(fs::read_dir(&bin).unwrap().count(), before, "nothing was kept");
    assert_eq!(installed(&daemon).await.len(), 4);

    // A link to an archive is an archive: what it names is read, by the host's own rights.
    let link = folder.join("link-to-echo.capsule");
    symlink(&archive, &link).unwrap();
    install(&daemon, &link);
    assert_well(&daemon).await;
}

#[tokio::test]
async fn what_another_capsule_has_is_refused_with_that_capsules_name() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["echo"]);
    install(&daemon, &pack::packed("front"));
    let folder = daemon.home().beside();
    let twin = |name: &str| {
        pack::repacked(folder, &format!("{name}-twin"), name, |manifest| manifest.package.name = format!("{name}-twin"))
    };
    let all = ["authority:*", "http:mount", "keys:session", "bus:send:*", "bus:receive:*"];
    for (name, what) in
        [("echo", "echo.v1.say"), ("front", "/front"), ("gateway", "/api"), ("identity", "identity.v1.")]
    {
        let reason = refused(&daemon, &twin(name), &all);
        assert!(reason.contains(what) && reason.contains(&format!("`{name}`")), "{reason}");
    }
    let second = pack::repacked(folder, "second-authenticator", "identity", |manifest| {
        manifest.package.name = "second".into();
        manifest.subscribe.clear();
        manifest.capability.clear();
    });
    let reason = refused(&daemon, &second, &all);
    assert!(reason.contains("authority:authenticator") && reason.contains("`identity`"), "{reason}");
    let undeclared = pack::repacked(folder, "undeclared", "counter", |manifest| {
        manifest.subscribe[0].requires = vec![Capability::parse("counter:put").expect("a capability")];
    });
    let reason = refused(&daemon, &undeclared, &[]);
    assert!(reason.contains("requires `counter:put`, which no installed manifest declares"), "{reason}");
    assert_eq!(installed(&daemon).await.len(), 6);
    assert_well(&daemon).await;
}
