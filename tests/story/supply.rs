//! Who signed a capsule, whom the operator trusts, and what becomes of what nobody vouches for.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use astrid_capsule::archive::Archive;
use astrid_capsule::check::Surface;
use astrid_capsule::registry::{Entry, INDEX, Index, SIGNATURES};
use astrid_capsule::signature::{self, Purpose, SecretKey};
use astrid_tests::daemon::{Daemon, Home, path};
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};

use crate::{assert_well, bus, install};

fn publisher(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

/// The echo guest in this version, signed by these.
fn echo(folder: &Path, version: u64, signers: &[u8]) -> PathBuf {
    let file = format!("echo-{version}-{}", signers.len());
    let path = pack::repacked(folder, &file, "echo", |manifest| manifest.package.version.patch = version);
    pack::sign(&path, &signers.iter().map(|n| publisher(*n)).collect::<Vec<_>>());
    path
}

#[track_caller]
fn trust(home: &Home, name: &str, n: u8, capsules: &str) {
    let key = publisher(n).public().to_hex();
    home.astrid(&["trust", "add", name, &key, "--capsules", capsules, "--force"]).out();
}

/// That an archive is refused with this reason, over HTTP and on the command line, and nothing was compiled or kept.
async fn assert_refused(daemon: &Daemon, archive: &Path, why: &str) {
    let files = || {
        let count = |folder: &str| fs::read_dir(daemon.home().path().join(folder)).unwrap().count();
        (count("bin"), count("cache"))
    };
    let before = files();
    let request = Request::post("/api/capsules", &json!({ "source": archive.to_str().unwrap() }));
    let reason = daemon.unix(request).await.refusal(403, "forbidden").to_owned();
    assert!(reason.contains("nobody vouches for echo 0.1.") && reason.contains(why), "{reason}");
    let ended = daemon.astrid(&["capsule", "install", archive.to_str().unwrap()]);
    let said = ended.refusal(1);
    assert!(said.contains(why) && said.contains("trust add NAME KEY"), "{said}");
    assert_eq!(files(), before);
}

#[tokio::test]
async fn where_signatures_are_required_each_reason_to_refuse_is_said_and_one_good_signature_is_enough() {
    let daemon = Daemon::start_with(&["--set", "trust.local=require"]);
    let (home, folder) = (daemon.home().clone(), daemon.home().beside());
    assert_refused(&daemon, &echo(folder, 1, &[]), "it is not signed (trust.local is `require`)").await;
    let signed = echo(folder, 1, &[1, 2]);
    let id = publisher(1).public().id().to_string();
    assert_refused(&daemon, &signed, &id).await;
    trust(&home, "acme", 1, "notes,mail");
    assert_refused(&daemon, &signed, "signed by `acme`, whose file in etc/trust does not list the capsule `echo`")
        .await;

    // Another component under the signature of the first, with hashes that fit and with hashes that don't.
    trust(&home, "acme", 1, "*");
    let mut altered = Archive::read(&fs::read(&signed).unwrap()[..]).unwrap();
    altered.component = pack::read("preview3").component;
    let other = folder.join("altered.capsule");
    altered.write(File::create(&other).unwrap()).unwrap();
    assert_refused(&daemon, &other, "the signature of `acme` is of something else: `hashes` was changed").await;
    daemon.unix(bus("echo.v1.say", &json!(1))).await.refusal(404, "not_found");

    // A root counts from the moment in which its file is there.
    let done = install(&daemon, &signed);
    assert_eq!((&done["publisher"], &done["installed_version"]), (&json!("acme"), &json!("0.1.1")));
    home.astrid(&["trust", "remove", "acme"]).out();
    assert_refused(&daemon, &echo(folder, 2, &[1, 2]), &id).await;
    assert_eq!(daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200), json!(1), "what is installed stays");
    trust(&home, "beta", 2, "echo");
    assert_eq!(install(&daemon, &echo(folder, 2, &[1, 2]))["publisher"], "beta");

    // A signature grants nothing.
    let front = pack::repacked(folder, "front", "front", |_| ());
    pack::sign(&front, &[publisher(1)]);
    trust(&home, "acme", 1, "*");
    let ended = daemon.astrid(&["capsule", "install", front.to_str().unwrap()]);
    assert!(ended.refusal(1).contains("--grant http:mount"));
    assert_well(&daemon).await;
}

#[tokio::test]
async fn by_default_a_local_file_that_nobody_vouches_for_is_installed_with_a_line_in_the_log() {
    let daemon = Daemon::start();
    let lines = |daemon: &Daemon| {
        let log = daemon.astrid(&["--json", "logs", "--level", "warn"]).out().to_owned();
        log.matches("nobody vouches for this capsule: it is not signed").count()
    };
    let before = lines(&daemon);
    let done = install(&daemon, &echo(daemon.home().beside(), 1, &[]));
    assert!(done.get("publisher").is_none(), "{done}");
    assert_eq!(lines(&daemon), before + 1);
    let shown = daemon.astrid(&["config", "show"]).out().to_owned();
    for (key, value) in [("trust.local", "warn"), ("trust.distro", "warn"), ("trust.registry", "require")] {
        let row = shown.lines().find(|line| line.starts_with(key)).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row, [key, value, "default"]);
    }

    let home = daemon.home().clone();
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start_with(&["--set", "trust.local=off"]);
    let before = lines(&daemon);
    trust(&home, "acme", 1, "*");
    let done = install(&daemon, &echo(home.beside(), 2, &[1]));
    assert!(done.get("publisher").is_none(), "nothing is verified: {done}");
    assert_eq!(lines(&daemon), before);
    let ended = home.try_start(&["--set", "trust.local=maybe"]);
    assert!(ended.is_err_and(|ended| ended.code == Some(1)));
}

/// A registry with the archive in it, whose index the second signs, as `astrid-build publish` makes it.
fn registry(folder: &Path, archive: &Path) -> PathBuf {
    let (registry, key) = (folder.join("registry"), folder.join("registry.key"));
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(&key).unwrap();
    file.write_all(hex::encode([2; 32]).as_bytes()).unwrap();
    let mut publish = Command::new(path("astrid-build"));
    publish.arg("publish").arg(archive).arg(&registry).arg("--key").arg(&key);
    let output = publish.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    registry
}

fn write_index(registry: &Path, index: &str, signed: &str) {
    let signature = publisher(2).sign(Purpose::Index, signed.as_bytes());
    fs::write(registry.join(INDEX), index).unwrap();
    fs::write(registry.join(SIGNATURES), signature::lines(&[signature])).unwrap();
}

#[tokio::test]
async fn what_a_registry_serves_must_be_signed_and_stand_in_its_signed_index() {
    let daemon = Daemon::start();
    let (home, folder) = (daemon.home().clone(), daemon.home().beside());
    let registry = registry(folder, &echo(folder, 1, &[1]));
    let blob = fs::read_dir(registry.join("blobs")).unwrap().next().unwrap().unwrap().path();
    assert_refused(&daemon, &blob, &publisher(1).public().id().to_string()).await;
    trust(&home, "acme", 1, "*");
    assert_refused(&daemon, &blob, &publisher(2).public().id().to_string()).await;
    trust(&home, "registry", 2, "echo");
    let index = fs::read_to_string(registry.join(INDEX)).unwrap();
    write_index(&registry, &index.replace("0.1.1", "0.1.2"), &index);
    assert_refused(&daemon, &blob, "index.toml was changed after it was signed").await;
    // An index that is signed, and from another time.
    let other = index.replace("0.1.1", "0.1.2");
    write_index(&registry, &other, &other);
    assert_refused(&daemon, &blob, "does not list this version").await;
    write_index(&registry, &index, &index);
    let arguments = ["--json", "capsule", "install", "echo@0.1.1", "--registry", registry.to_str().unwrap()];
    let done = daemon.astrid(&arguments).json();
    assert_eq!((&done["publisher"], &done["installed_version"]), (&json!("acme"), &json!("0.1.1")));
    assert_eq!(daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200), json!(1));
}

#[tokio::test]
async fn a_distribution_that_must_be_signed_is_not_installed_until_it_is() {
    let home = Home::new();
    let daemon = home.start_with(&["--set", "trust.distro=require"]);
    let health = daemon.tcp(Request::get("/healthz")).await.expect(200);
    assert_eq!(health["capsules"]["failed"], json!(["audit", "gateway", "identity", "system"]));
    assert_eq!(daemon.stop().code, Some(0));
    let names = ["identity", "system", "audit", "gateway"];
    for name in names {
        pack::sign(&home.path().join(format!("distro/{name}.capsule")), &[publisher(1)]);
    }
    trust(&home, "vendor", 1, &names.join(","));

    // A folder with an index serves what stands in that alone.
    let distro = home.path().join("distro");
    let mut index = Index::default();
    for name in names {
        let bytes = fs::read(distro.join(format!("{name}.capsule"))).unwrap();
        index.publish(Entry::of(&Archive::read(&bytes[..]).unwrap(), &bytes, &Surface::default())).unwrap();
    }
    let write = |index: &str| {
        let signature = publisher(1).sign(Purpose::Index, index.as_bytes());
        fs::write(distro.join(INDEX), index).unwrap();
        fs::write(distro.join(SIGNATURES), signature::lines(&[signature])).unwrap();
    };
    let whole = index.to_toml();
    write(&whole.replace(&index.find("gateway", None).unwrap().hash, &"0".repeat(64)));
    let daemon = home.start_with(&["--set", "trust.distro=require"]);
    let health = daemon.tcp(Request::get("/healthz")).await.expect(200);
    assert_eq!(health["capsules"]["failed"], json!(["gateway"]));
    assert!(daemon.stderr().contains("index.toml lists another archive as this version"), "{}", daemon.stderr());
    assert_eq!(daemon.stop().code, Some(0));
    write(&whole);
    let daemon = home.start_with(&["--set", "trust.distro=require"]);
    assert_well(&daemon).await;
    let listed: Value = daemon.astrid(&["--json", "trust", "list"]).json();
    assert_eq!(listed["roots"][0]["name"], "vendor");
}
