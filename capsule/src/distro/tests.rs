use std::collections::BTreeMap;

use super::lock::{Lock, Locked};
use semver::Version;

use super::*;
use crate::manifest::Manifest;

const WHOLE: &str = r##"
[distro]
id = "notes"
name = "Notes"
version = "1.2.0"
description = "Notes for a team"
homepage = "https://notes.example"
authors = ["Ada <ada@notes.example>"]
astrid-version = ">=0.1, <2"

[variables.region]
description = "Where it runs"
default = "eu"
[variables.api-key]
secret = true

[[capsule]]
name = "identity"
source = "identity.capsule"
role = "identity"
grants = ["authority:authenticator"]

[[capsule]]
name = "notes"
source = "notes@2.1.0"
version = "^2"
role = "notes"
env = { REGION = "{{ region }}-1", KEY = "{{ api-key }}", RETRIES = 3, LOUD = true }

[invites]
issuers = ["default", "ada"]
default-group = "agent"
default-expires = "2h"
max-principals = 50

[branding]
icon = "brand/icon.png"
primary-color = "#0af"
accent-color = "#00AAFF"
"##;

fn whole() -> Distro {
    Distro::parse(WHOLE).unwrap()
}

fn archive(manifest: &str, component: &[u8]) -> (Archive, Vec<u8>) {
    let mut bytes = Vec::new();
    Archive::new(&Manifest::parse(manifest).unwrap(), component.to_vec()).write(&mut bytes).unwrap();
    (Archive::read(&bytes[..]).unwrap(), bytes)
}

const IDENTITY_MANIFEST: &str = "[package]\nname = \"identity\"\nversion = \"0.3.0\"\n\
    [env.DISTRO_ISSUERS]\ntype = \"string\"\n[env.DISTRO_DEFAULT_GROUP]\ntype = \"string\"\n\
    [env.DISTRO_DEFAULT_EXPIRES_SECS]\ntype = \"number\"\n[env.DISTRO_MAX_PRINCIPALS]\ntype = \"number\"\n";
const NOTES_MANIFEST: &str = "[package]\nname = \"notes\"\nversion = \"2.1.0\"\n[env.REGION]\ntype = \"string\"\n\
    [env.KEY]\ntype = \"secret\"\n[env.RETRIES]\ntype = \"number\"\n[env.LOUD]\ntype = \"boolean\"\n";

/// The distribution's archives by their files, and its lock.
fn packed() -> (BTreeMap<PathBuf, Vec<u8>>, Lock) {
    let distro = whole();
    let mut files = BTreeMap::from([(PathBuf::from("brand/icon.png"), b"\x89PNG\r\n\x1a\nrest".to_vec())]);
    let mut locked = Vec::new();
    for (entry, manifest) in distro.capsule.iter().zip([IDENTITY_MANIFEST, NOTES_MANIFEST]) {
        let (archive, bytes) = archive(manifest, entry.name.as_bytes());
        distro.check_archive(entry, &archive).unwrap();
        locked.push(Locked::of(&archive, &bytes));
        files.insert(entry.file(), bytes);
    }
    (files, Lock::new(&distro, locked))
}

#[test]
fn every_field_is_read_and_the_values_are_those_of_its_variables() {
    let distro = whole();
    assert!(distro.distro.check_host(&Version::new(1, 0, 0)).is_ok());
    let refused = distro.distro.check_host(&Version::new(2, 0, 0)).unwrap_err();
    assert_eq!(refused, "distro.astrid-version = \">=0.1, <2\", and this is Astrid 2.0.0");
    let files = ["brand/icon.png", "identity.capsule", "notes@2.1.0.capsule"].map(PathBuf::from);
    assert_eq!(distro.files(), files);

    let values = |entry: usize, key: Option<&'static str>| {
        distro.values(&distro.capsule[entry], move |name| if name == "api-key" { key } else { None })
    };
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let want = map(&[("KEY", "sk-1"), ("LOUD", "true"), ("REGION", "eu-1"), ("RETRIES", "3")]);
    assert_eq!(values(1, Some("sk-1")), (want, vec![]));
    let (rest, undefined) = values(1, None);
    assert!(rest.len() == 3 && !rest.contains_key("KEY"));
    assert_eq!(undefined[0].to_string(), "capsule notes, env.KEY: variable `api-key` has no value");
    let told = [
        ("DISTRO_ISSUERS", "default,ada"),
        ("DISTRO_DEFAULT_GROUP", "agent"),
        ("DISTRO_DEFAULT_EXPIRES_SECS", "7200"),
        ("DISTRO_MAX_PRINCIPALS", "50"),
    ];
    assert_eq!(values(0, None), (map(&told), vec![]));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let long = "x".repeat(501);
    let cases = [
        ("id = \"notes\"", "id = \"Notes\"".to_owned(), "distro.id `Notes` must match"),
        ("id = \"notes\"", format!("id = \"{}\"", "a".repeat(65)), "at most 64 bytes"),
        ("name = \"Notes\"", "name = \"\"".into(), "distro.name is empty"),
        ("version = \"1.2.0\"", "version = \"1.2\"".into(), "line 5"),
        ("description = \"Notes for", format!("description = \"{long}"), "distro.description is longer"),
        ("https://notes.example\"", "notes.example\"".into(), "distro.homepage `notes.example` must begin"),
        ("astrid-version = \">=0.1, <2\"", "astrid-version = \"new\"".into(), "line 9"),
        ("astrid-version", "astrid-versoin".into(), "did you mean `astrid-version`?"),
        ("[invites]", "[invitse]".into(), "did you mean `invites`?"),
        ("primary-color", "primray-color".into(), "did you mean `primary-color`?"),
        ("grants = [\"authority", "grunts = [\"authority".into(), "did you mean `grants`?"),
        ("secret = true", "secert = true".into(), "did you mean `secret`?"),
        ("default-group", "defualt-group".into(), "did you mean `default-group`?"),
        ("[variables.region]", "[variables.Region]".into(), "variables.Region: a variable's name"),
        ("secret = true", "secret = true\ndefault = \"x\"".into(), "variables.api-key: a secret has no default"),
        ("name = \"notes\"\nsource", "name = \"identity\"\nsource".into(), "capsule identity: stands twice"),
        ("name = \"notes\"\nsource", "name = \"No\"\nsource".into(), "capsule No: name `No` must match"),
        (
            "source = \"notes@2.1.0\"",
            "source = \"other@2.1.0\"".into(),
            "capsule notes: source `other@2.1.0` is another",
        ),
        ("source = \"notes@2.1.0\"", "source = \"notes@2\"".into(), "a registry entry is name@version"),
        ("source = \"notes@2.1.0\"", "source = \"NOTES@2.1.0\"".into(), "source `NOTES` must match"),
        ("source = \"notes@2.1.0\"", "source = \"../notes.capsule\"".into(), "below the distribution's folder"),
        ("source = \"notes@2.1.0\"", "source = \"/notes.capsule\"".into(), "below the distribution's folder"),
        ("source = \"notes@2.1.0\"", "source = \"a//notes.capsule\"".into(), "below the distribution's folder"),
        ("source = \"notes@2.1.0\"", "source = \"./notes.capsule\"".into(), "below the distribution's folder"),
        ("source = \"notes@2.1.0\"", "source = \"\"".into(), "below the distribution's folder"),
        (
            "source = \"notes@2.1.0\"",
            "source = \"identity.capsule\"".into(),
            "capsule notes: source `identity.capsule`",
        ),
        ("source = \"notes@2.1.0\"", "source = \"Distro.lock\"".into(), "another file of the distribution"),
        ("version = \"^2\"", "version = \"two\"".into(), "line"),
        ("role = \"notes\"", "role = \"a b\"".into(), "capsule notes: role `a b` must match"),
        ("REGION =", "region =".into(), "capsule notes: env.region: a field's name"),
        ("REGION =", "DISTRO_X =".into(), "env.DISTRO_X: names in DISTRO_ are set by [invites]"),
        ("{{ region }}", "{{ regoin }}".into(), "env.REGION: there is no [variables.regoin]; did you mean `region`?"),
        ("{{ region }}", "{{ region".into(), "capsule notes: env.REGION: `{{` has no `}}`"),
        ("\"ada\"]", "\"a b\"]".into(), "invites.issuers"),
        ("\"ada\"]", "\"anonymous\"]".into(), "invites.issuers: `anonymous` is nobody"),
        ("default-group = \"agent\"\n", String::new(), "invites.default-group is needed where there are issuers"),
        ("default-group = \"agent\"", "default-group = \"Agent\"".into(), "invites.default-group `Agent` must match"),
        ("\"2h\"", "\"0s\"".into(), "`0s` must be Ns, Nm, Nh or Nd"),
        ("\"2h\"", "\"31d\"".into(), "1 second to 30 days"),
        ("\"2h\"", "\"h\"".into(), "must be Ns"),
        ("\"2h\"", "\"+2h\"".into(), "must be Ns"),
        ("\"2h\"", "\"2\u{663}\"".into(), "must be Ns"),
        ("max-principals = 50", "max-principals = 0".into(), "max-principals must be a whole number from 1"),
        ("max-principals = 50", "max-principals = \"many\"".into(), "or \"unlimited\""),
        ("max-principals = 50", "max-principals = 1.5".into(), "max-principals must be"),
        ("role = \"identity\"", "role = \"gateway\"".into(), "invites: one capsule must have role = \"identity\""),
        ("brand/icon.png", "../icon.png".into(), "branding.icon `../icon.png` must be a path below"),
        ("brand/icon.png", "icon.gif".into(), "must be a .png, .svg or .ico"),
        ("#0af", "0af".into(), "branding.primary-color `0af` must be #RGB or #RRGGBB"),
        ("#00AAFF", "#00AAF".into(), "branding.accent-color"),
        ("#00AAFF", "#00AAFG".into(), "branding.accent-color"),
    ];
    for (from, to, want) in cases {
        assert!(WHOLE.contains(from), "{from}");
        let error = Distro::parse(&WHOLE.replacen(from, &to, 1)).unwrap_err().to_string();
        assert!(error.starts_with("Distro.toml: ") && error.contains(want), "{to}: {error}");
    }
    let large = format!("{WHOLE}#{}", "x".repeat(MAX_BYTES));
    assert!(Distro::parse(&large).unwrap_err().to_string().contains("is larger than"));
    let many: String = (0..257).map(|n| format!("[[capsule]]\nname = \"a{n}\"\nsource = \"a{n}\"\n")).collect();
    let about = "[distro]\nid = \"x\"\nname = \"X\"\nversion = \"0.1.0\"\n";
    assert!(Distro::parse(&format!("{about}{many}")).unwrap_err().to_string().contains("more than 256"));
}

#[test]
fn without_issuers_a_host_has_one_tenant_and_without_the_table_no_rule() {
    let values = |text: &str| {
        let distro = Distro::parse(text).unwrap();
        distro.values(&distro.capsule[0], |_| None).0
    };
    let single = WHOLE.replace("issuers = [\"default\", \"ada\"]\ndefault-group = \"agent\"\n", "");
    let values_of_single = values(&single.replace("max-principals = 50", "max-principals = \"unlimited\""));
    assert_eq!(values_of_single[ISSUERS], "");
    assert!(!values_of_single.contains_key(DEFAULT_GROUP) && !values_of_single.contains_key(MAX_PRINCIPALS));
    let (none, _) = WHOLE.split_once("[invites]").unwrap();
    assert!(values(none).is_empty());
}

#[test]
fn an_archive_that_an_entry_does_not_take_is_refused_by_what_differs() {
    let distro = whole();
    let notes = &distro.capsule[1];
    for (from, to, want) in [
        ("name = \"notes\"", "name = \"other\"", "notes@2.1.0 holds the capsule `other`"),
        ("\"2.1.0\"", "\"2.1.1\"", "holds version 2.1.1, not 2.1.0"),
        ("[env.REGION]", "[env.REGIONS]", "env.REGION: its manifest has no such field; did you mean `REGIONS`?"),
        ("[env.KEY]\ntype = \"secret\"", "[env.KEY]\ntype = \"string\"", "env.KEY: the field is no secret"),
    ] {
        let (archive, _) = archive(&NOTES_MANIFEST.replace(from, to), b"");
        let error = distro.check_archive(notes, &archive).unwrap_err();
        assert!(error.contains(want), "{error}");
    }
    let required = Distro::parse(&WHOLE.replace("notes@2.1.0\"\nversion = \"^2\"", "n.capsule\"\nversion = \"^3\""));
    let required = required.unwrap();
    let error = required.check_archive(&required.capsule[1], &archive(NOTES_MANIFEST, b"").0).unwrap_err();
    assert_eq!(error, "n.capsule has version 2.1.0, and version = \"^3\"");
    let bare = archive("[package]\nname = \"identity\"\nversion = \"0.3.0\"\n", b"").0;
    let error = distro.check_archive(&distro.capsule[0], &bare).unwrap_err();
    assert!(error.contains("its manifest has no such field"), "identity must take what [invites] says: {error}");
}

#[test]
fn a_lock_reads_back_and_each_difference_has_its_name() {
    let (_, lock) = packed();
    let text = lock.to_toml();
    assert_eq!(Lock::parse(&text).unwrap(), lock);
    lock.check(&whole()).unwrap();
    for (from, to, want) in [
        ("format = 1", "format = 2", "format = 2 is unknown"),
        ("archive =", "arhcive =", "did you mean `archive`?"),
        (&*lock.capsule[0].archive, "00", "capsule identity: a hash has 64 hex digits"),
        ("name = \"notes\"", "name = \"identity\"", "capsule identity stands twice"),
    ] {
        let error = Lock::parse(&text.replacen(from, to, 1)).unwrap_err();
        assert!(error.starts_with("Distro.lock: ") && error.contains(want), "{error}");
    }
    for (from, to, want) in [
        ("version = \"1.2.0\"", "version = \"1.2.1\"", "is of notes 1.2.0, and Distro.toml of notes 1.2.1"),
        ("id = \"notes\"", "id = \"other\"", "is of notes 1.2.0, and Distro.toml of other"),
        ("[invites]", "[[capsule]]\nname = \"more\"\nsource = \"m\"\n[invites]", "has no capsule `more`"),
        ("name = \"notes\"\nsource = \"notes@2.1.0\"", "name = \"n\"\nsource = \"n@2.1.0\"", "has no capsule `n`"),
    ] {
        let error = lock.check(&Distro::parse(&WHOLE.replacen(from, to, 1)).unwrap()).unwrap_err();
        assert!(error.contains(want) && error.contains("astrid distro update"), "{error}");
    }
    let mut more = lock.clone();
    more.capsule.push(Locked { name: "old".into(), ..lock.capsule[0].clone() });
    assert!(more.check(&whole()).unwrap_err().contains("has a capsule `old` that Distro.toml does not name"));

    let pinned = &lock.capsule[1];
    assert!(pinned.check(&pinned.clone()).is_ok());
    let other = |change: &dyn Fn(&mut Locked)| {
        let mut found = pinned.clone();
        change(&mut found);
        pinned.check(&found).unwrap_err()
    };
    assert!(
        other(&|l| l.version = Version::new(9, 0, 0)).contains("pins version 2.1.0 of `notes`, and there is 9.0.0")
    );
    assert!(other(&|l| l.component = "0".repeat(64)).contains("pins component"));
    assert!(other(&|l| l.archive = "0".repeat(64)).contains("pins archive"));
}

#[test]
fn an_icon_is_what_its_name_says() {
    for (name, bytes, media_type) in [
        ("a.png", &b"\x89PNG\r\n\x1a\n..."[..], "image/png"),
        ("a.ico", &[0, 0, 1, 0, 9], "image/x-icon"),
        ("a.svg", b" <svg xmlns='x'/>", "image/svg+xml"),
        ("a.svg", b"<?xml version='1.0'?>\n<svg/>", "image/svg+xml"),
    ] {
        assert_eq!(check_icon(Path::new(name), bytes).unwrap(), media_type, "{name}");
        let other = if name == "a.png" { "a.ico" } else { "a.png" };
        assert!(check_icon(Path::new(other), bytes).unwrap_err().contains("does not begin as"), "{name}");
    }
    assert!(check_icon(Path::new("a.svg"), b"<?xml version='1.0'?><html/>").is_err());
    let mut large = b"\x89PNG\r\n\x1a\n".to_vec();
    large.resize(MAX_ICON_BYTES, 0);
    assert!(check_icon(Path::new("a.png"), &large).is_ok());
    large.push(0);
    assert!(check_icon(Path::new("a.png"), &large).unwrap_err().contains("more than 65536 bytes"));
}

fn bundled() -> Vec<u8> {
    let (files, lock) = packed();
    let mut out = Vec::new();
    bundle::write(&whole(), (WHOLE, &lock), |path| Ok(files[path].clone()), &mut out).unwrap();
    out
}

fn unbundled(bytes: &[u8]) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let mut kept = Vec::new();
    let keep = |path: &Path, bytes: &[u8]| {
        kept.push((path.to_owned(), bytes.to_vec()));
        Ok(())
    };
    bundle::read(bytes, keep).map_err(|error| error.to_string())?;
    Ok(kept)
}

#[test]
fn a_bundle_holds_every_file_in_order_and_the_same_files_give_the_same_bytes() {
    let (files, lock) = packed();
    let kept = unbundled(&bundled()).unwrap();
    let names: Vec<_> = kept.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(names, ["Distro.toml", "Distro.lock", "brand/icon.png", "identity.capsule", "notes@2.1.0.capsule"]);
    assert_eq!((&kept[0].1[..], &kept[1].1[..]), (WHOLE.as_bytes(), lock.to_toml().as_bytes()));
    assert!(kept[2..].iter().all(|(path, bytes)| files[path] == *bytes));
    assert_eq!(bundled(), bundled());
}

#[test]
fn a_bundle_takes_no_other_file_no_link_no_other_size_and_nothing_that_the_lock_does_not_pin() {
    type File<'a> = (&'a str, tar::EntryType, &'a [u8]);
    let tarball = |files: &[File<'_>]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let kept = unbundled(&bundled()).unwrap();
    let whole: Vec<File<'_>> =
        kept.iter().map(|(path, bytes)| (path.to_str().unwrap(), tar::EntryType::Regular, &bytes[..])).collect();
    assert!(unbundled(&tarball(&whole)).is_ok());
    let with = |at: usize, file: File<'_>| {
        let mut files = whole.clone();
        files[at] = file;
        unbundled(&tarball(&files)).unwrap_err()
    };
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let large = vec![b'#'; MAX_BYTES + 1];
    let other = archive(NOTES_MANIFEST, b"another component").1;
    let cases = [
        (with(0, ("../Distro.toml", Regular, whole[0].2)), "holds `../Distro.toml`"),
        (with(0, ("/Distro.toml", Regular, whole[0].2)), "holds `/Distro.toml`"),
        (with(0, ("Distro.toml", Symlink, b"")), "plain file"),
        (with(0, ("Distro.toml", Regular, &large)), "Distro.toml has 262145 bytes"),
        (with(0, ("Distro.toml", Regular, b"[distro]")), "Distro.toml: "),
        (with(0, ("Distro.toml", Regular, b"\xff")), "is not UTF-8"),
        (with(1, ("Distro.lock", Link, b"")), "plain file"),
        (with(1, ("Distro.lock", Regular, b"format = 1")), "Distro.lock: "),
        (with(2, ("brand/icon.png", Regular, b"GIF89a")), "does not begin as a .png"),
        (with(2, ("brand/icon.png", Directory, b"")), "plain file"),
        (with(3, ("identity.capsule", Regular, b"no archive")), "capsule identity: not a capsule archive"),
        (with(4, ("notes@2.1.0.capsule", Regular, &other)), "pins component"),
        (with(4, ("notes.capsule", Regular, whole[4].2)), "holds `notes.capsule`"),
    ];
    for (error, want) in cases {
        assert!(error.contains(want), "{want}: {error}");
    }
    let more = [&whole[..], &[("more", Regular, b"x")]].concat();
    assert!(unbundled(&tarball(&more)).unwrap_err().contains("holds more than Distro.toml names"));
    assert!(unbundled(&tarball(&whole[..4])).unwrap_err().contains("notes@2.1.0.capsule is missing"));
    let mut trailing = tarball(&whole);
    trailing.resize(trailing.len() + (1 << 20), 1);
    assert!(unbundled(&trailing).unwrap_err().contains("goes on after its last file"));
    for cut in (0..bundled().len() - 1024).step_by(97) {
        assert!(unbundled(&bundled()[..cut]).is_err(), "{cut}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_and_no_noise_makes_a_reader_panic(text in ".{0,400}", bytes: Vec<u8>, at in 0..WHOLE.len()) {
        let _ = Distro::parse(&text);
        let _ = Lock::parse(&text);
        let _ = unbundled(&bytes);
        if WHOLE.is_char_boundary(at) {
            let _ = Distro::parse(&format!("{}{text}{}", &WHOLE[..at], &WHOLE[at..]));
        }
    }
}
