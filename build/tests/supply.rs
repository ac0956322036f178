//! Keys, signatures and registries, through the program as it is called.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Manifest;
use astrid_capsule::registry::{INDEX, Index};
use serde_json::Value;

/// A component with nothing in it.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

fn astrid_build(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_astrid-build")).current_dir(folder).args(args).output().unwrap()
}

/// What a run with `--json` prints that goes well.
#[track_caller]
fn json(folder: &Path, args: &[&str]) -> Value {
    let output = astrid_build(folder, &[&["--json"], args].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a run that fails with this code says.
#[track_caller]
fn refused(folder: &Path, args: &[&str], code: i32) -> String {
    let output = astrid_build(folder, args);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn pack(path: &Path, version: &str) {
    let text = format!("[package]\nname = \"notes\"\nversion = \"{version}\"\n");
    let archive = Archive::new(&Manifest::parse(&text).unwrap(), COMPONENT.to_vec());
    archive.write(fs::File::create(path).unwrap()).unwrap();
}

#[test]
fn a_capsule_goes_from_its_authors_key_into_a_registry_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (author, registry) = (json(folder, &["keygen", "author"]), json(folder, &["keygen", "registry"]));
    assert_eq!(fs::metadata(folder.join("author")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(folder.join("author")).unwrap().contains(author["key"].as_str().unwrap()));
    assert!(refused(folder, &["keygen", "author"], 1).contains("can't make the key author"));

    pack(&folder.join("a"), "1.0.0");
    let key = author["key"].as_str().unwrap();
    let id = author["key_id"].as_str().unwrap();
    assert!(refused(folder, &["verify", "a", "--key", key], 1).contains("not signed by"));
    assert!(refused(folder, &["publish", "a", "reg", "--key", "registry"], 1).contains("`astrid-build sign`"));
    assert_eq!(json(folder, &["sign", "a", "--key", "author"])["changed"], true);
    let signed = fs::read(folder.join("a")).unwrap();
    assert_eq!(json(folder, &["sign", "a", "--key", "author"])["changed"], false);
    assert_eq!(fs::read(folder.join("a")).unwrap(), signed);
    assert_eq!(json(folder, &["verify", "a", "--key", key])["verified"], id);
    assert!(refused(folder, &["verify", "a", "--key", registry["key"].as_str().unwrap()], 1).contains("not signed by"));

    assert_eq!(json(folder, &["publish", "a", "reg", "--key", "registry"])["changed"], true);
    assert_eq!(json(folder, &["publish", "a", "reg", "--key", "registry"])["changed"], false);
    let index = Index::parse(&fs::read_to_string(folder.join("reg").join(INDEX)).unwrap()).unwrap();
    assert_eq!(index.entries()[0].publishers, [id]);
    assert_eq!(fs::read(folder.join("reg").join(index.entries()[0].blob())).unwrap(), signed);
    json(folder, &["sign", "a", "--key", "registry"]);
    assert!(refused(folder, &["publish", "a", "reg", "--key", "registry"], 1).contains("never changes"));
    pack(&folder.join("b"), "1.0.1");
    json(folder, &["sign", "b", "--key", "author"]);
    assert!(refused(folder, &["publish", "b", "reg", "--key", "author"], 1).contains("was not signed by this key"));
    assert_eq!(json(folder, &["publish", "b", "reg", "--key", "registry"])["version"], "1.0.1");
}

#[test]
fn wrong_usage_altered_archives_and_open_keys_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    json(folder, &["keygen", "key"]);
    pack(&folder.join("a"), "1.0.0");
    json(folder, &["sign", "a", "--key", "key"]);
    refused(folder, &["verify", "a", "--key", "abc"], 2);
    refused(folder, &["publish", "a", "https://example.org/x", "--key", "key"], 2);
    assert!(refused(folder, &["publish", "a", "reg"], 2).contains("--key PATH"));
    refused(folder, &["publish", "a", "oci://127.0.0.1:1/x:1", "--key", "key"], 2);
    assert!(!folder.join("reg").exists());

    // The manifest that was signed, around another component.
    let mut altered = Archive::read(&fs::read(folder.join("a")).unwrap()[..]).unwrap();
    altered.component.extend([0, 1, 0]);
    altered.write(fs::File::create(folder.join("altered")).unwrap()).unwrap();
    let key = json(folder, &["keygen", "other"])["key"].as_str().unwrap().to_owned();
    assert!(refused(folder, &["verify", "altered", "--key", &key], 1).contains("not signed by"));
    let own = fs::read_to_string(folder.join("key")).unwrap();
    let own = hex::decode(own.trim()).unwrap().try_into().unwrap();
    let own = astrid_capsule::signature::SecretKey::from_bytes(&own).public().to_hex();
    assert!(
        refused(folder, &["verify", "altered", "--key", &own], 1).contains("`hashes` was changed after it was signed")
    );

    fs::set_permissions(folder.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(folder, &["sign", "a", "--key", "key"], 1).contains("chmod 0600"));
}
