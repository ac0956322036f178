//! What writing makes, and everything that reading refuses.

use tar::EntryType::{self, Regular};

use super::*;

const MANIFEST_TEXT: &str = "[package]\nname = \"a\"\nversion = \"0.1.0\"\n";

fn plain() -> Archive {
    Archive::new(&Manifest::parse(MANIFEST_TEXT).unwrap(), b"wasm".to_vec())
}

/// With everything that an archive may hold.
fn full() -> Archive {
    let mut archive = plain();
    archive.schemas = Schemas::parse(schema("a.b", 1).as_bytes()).unwrap();
    archive.sbom = Some(b"[]".to_vec());
    archive.sign(&key(1)).unwrap();
    archive.sign(&key(2)).unwrap();
    archive
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

fn written(archive: &Archive) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive.write(&mut bytes).unwrap();
    bytes
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

type Entry<'a> = (&'a str, EntryType, &'a [u8]);

/// A tar of any entries, each with the header that a plain file would have but for its kind.
fn tarball(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, kind, bytes) in entries {
        let mut header = header(name, bytes.len() as u64);
        header.set_entry_type(*kind);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(bytes);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}

/// The entries of an archive of these two files, and its `hashes`.
fn entries<'a>(component: &'a [u8], hashes: &'a str) -> [Entry<'a>; 3] {
    [
        (MANIFEST, Regular, MANIFEST_TEXT.as_bytes()),
        (COMPONENT, Regular, component),
        (HASHES, Regular, hashes.as_bytes()),
    ]
}

fn hashes_with(component: &[u8]) -> String {
    hashes([(MANIFEST, MANIFEST_TEXT.as_bytes()), (COMPONENT, component)].into_iter())
}

#[track_caller]
fn refused(bytes: &[u8], want: &str) {
    let error = Archive::read(bytes).expect_err(want).to_string();
    assert!(error.contains(want), "`{error}` does not say `{want}`");
}

#[test]
fn what_was_written_reads_back_and_the_same_input_gives_the_same_bytes() {
    for archive in [plain(), full()] {
        let read = Archive::read(&written(&archive)[..]).unwrap();
        assert_eq!((&read.component, &read.schemas, &read.sbom), (&archive.component, &archive.schemas, &archive.sbom));
        assert_eq!((read.manifest.package.name.as_str(), &read.manifest_text), ("a", &archive.manifest_text));
        assert_eq!((read.signatures(), read.hashes()), (archive.signatures(), archive.hashes()));
        assert_eq!(written(&read), written(&archive));
    }
    let other = tar::Archive::new(flate2::read::GzDecoder::new(&written(&full())[..])).entries().unwrap().count();
    assert_eq!(other, FILES.len(), "any tar reads it");
}

#[test]
fn signing_again_changes_nothing_and_the_order_of_signers_does_not_count() {
    let mut other = plain();
    (other.schemas, other.sbom) = (full().schemas, full().sbom);
    for n in [2, 1, 2] {
        other.sign(&key(n)).unwrap();
    }
    assert_eq!(written(&other), written(&full()));
    for n in 3..=signature::MAX_SIGNATURES as u8 {
        other.sign(&key(n)).unwrap();
    }
    assert!(Archive::read(&written(&other)[..]).is_ok());
    assert!(other.sign(&key(99)).is_err());
    other.sign(&key(5)).unwrap();
}

#[test]
fn only_plain_files_of_these_names_in_this_order_are_taken_each_once() {
    let toml = MANIFEST_TEXT.as_bytes();
    let good = hashes_with(b"x");
    let [manifest, component, last] = entries(b"x", &good);
    assert!(Archive::read(&gzipped(&tarball(&[manifest, component, last]))[..]).is_ok());
    for (list, want) in [
        (&[][..], "Capsule.toml is missing"),
        (&[manifest], "component.wasm is missing"),
        (&[manifest, component], "hashes is missing"),
        (&[("../Capsule.toml", Regular, toml), component, last], "holds `../Capsule.toml` where Capsule.toml"),
        (&[("/Capsule.toml", Regular, toml), component, last], "holds `/Capsule.toml` where Capsule.toml"),
        (&[("./Capsule.toml", Regular, toml), component, last], "holds `./Capsule.toml`"),
        (&[component, manifest, last], "holds `component.wasm` where Capsule.toml"),
        (&[manifest, manifest, component, last], "holds `Capsule.toml` where component.wasm"),
        (&[manifest, component, component, last], "holds `component.wasm` where hashes"),
        (&[manifest, component, ("sbom.json", Regular, b""), ("schema.json", Regular, b""), last], "`schema.json`"),
        (&[manifest, component, last, last], "holds `hashes` where the end"),
        (&[manifest, component, last, ("c", Regular, b"")], "holds `c` where the end"),
        (&[manifest, component, ("c", Regular, b""), last], "holds `c` where hashes"),
    ] {
        refused(&gzipped(&tarball(list)), want);
    }
    for (kind, want) in [
        (EntryType::Link, "a hard link where component.wasm"),
        (EntryType::Symlink, "a symbolic link where component.wasm"),
        (EntryType::Char, "a device where"),
        (EntryType::Block, "a device where"),
        (EntryType::Fifo, "a FIFO where"),
        (EntryType::Directory, "a folder where"),
        (EntryType::Continuous, "other than a plain file"),
        (EntryType::GNUSparse, "other than a plain file"),
        (EntryType::GNULongName, "an extension of tar"),
        (EntryType::GNULongLink, "an extension of tar"),
        (EntryType::XHeader, "an extension of tar"),
        (EntryType::XGlobalHeader, "an extension of tar"),
    ] {
        refused(&gzipped(&tarball(&[manifest, (COMPONENT, kind, b""), last])), want);
        refused(&gzipped(&tarball(&[(MANIFEST, kind, b"9 path=x\n"), manifest, component, last])), "Capsule.toml");
    }
}

#[test]
fn a_header_that_says_more_than_name_and_size_is_refused() {
    let good = hashes_with(b"x");
    let tar = tarball(&entries(b"x", &good));
    let changes: [fn(&mut tar::Header); 8] = [
        |header| header.set_mode(0o4755),
        |header| header.set_uid(1000),
        |header| header.set_mtime(1),
        |header| header.set_username("root").unwrap(),
        |header| header.as_ustar_mut().unwrap().prefix[0] = b'/',
        |header| header.as_old_mut().linkname[0] = b'x',
        |header| header.as_old_mut().name[20] = b'x',
        // The same size in base 256, which some readers take for another.
        |header| header.as_old_mut().size = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, MANIFEST_TEXT.len() as u8],
    ];
    for change in changes {
        let mut header = header(MANIFEST, MANIFEST_TEXT.len() as u64);
        change(&mut header);
        header.set_cksum();
        let bytes = [header.as_bytes(), &tar[BLOCK..]].concat();
        refused(&gzipped(&bytes), "Capsule.toml");
    }
    let mut wrong_sum = tar.clone();
    wrong_sum[148] ^= 1;
    refused(&gzipped(&wrong_sum), "header of Capsule.toml");
    let mut stuffed = tar;
    stuffed[2 * BLOCK - 1] = 1;
    refused(&gzipped(&stuffed), "Capsule.toml goes on after its end");
}

#[test]
fn each_file_has_a_cap_that_is_checked_before_its_bytes_are_read() {
    for (name, cap, _) in FILES {
        let mut tar = tarball(&[]);
        let before = FILES.iter().take_while(|(other, ..)| *other != name).filter(|(.., required)| *required);
        let before: Vec<Entry<'_>> = before.map(|(name, ..)| (*name, Regular, &b""[..])).collect();
        tar.splice(..0, tarball(&before)[..before.len() * BLOCK].iter().copied());
        let at = before.len() * BLOCK;
        tar.splice(at..at, *header(name, cap + 1).as_bytes());
        refused(&gzipped(&tar), &format!("{name} has {} bytes; at most {cap}", cap + 1));
    }
}

#[test]
fn a_component_has_at_most_64_mib() {
    // Bytes that don't compress.
    let mut component = vec![0; MAX_COMPONENT_BYTES as usize + 1];
    blake3::Hasher::new().finalize_xof().fill(&mut component);
    let of = |component: &[u8]| {
        let hashes = hashes_with(component);
        Archive::read(&gzipped(&tarball(&entries(component, &hashes)))[..])
    };
    assert!(of(&component).unwrap_err().to_string().contains("component.wasm has 67108865 bytes"));
    component.pop();
    assert_eq!(of(&component).unwrap().component.len() as u64, MAX_COMPONENT_BYTES);
}

#[test]
fn a_bomb_is_refused_before_it_unfolds() {
    let zeros = vec![0; 1 << 20];
    let bomb = gzipped(&tarball(&[(MANIFEST, Regular, &zeros)]));
    assert!(bomb.len() < 64 * 1024);
    refused(&bomb, "at most");
    // Within the cap, and a thousand times as large as its compressed form.
    let zeros = vec![0; 32 << 20];
    let hashes = hashes_with(&zeros);
    refused(&gzipped(&tarball(&entries(&zeros, &hashes))), "component.wasm unfolds to more than 100 times");
    // Small things may compress as they like.
    let zeros = vec![0; 512 << 10];
    let hashes = hashes_with(&zeros);
    assert!(Archive::read(&gzipped(&tarball(&entries(&zeros, &hashes)))[..]).is_ok());
}

#[test]
fn a_file_that_was_changed_after_packing_is_named() {
    let toml = MANIFEST_TEXT.as_bytes();
    let good = hashes_with(b"x");
    let hex = &good[..64];
    let other_size = good.replace(&format!(" {} ", toml.len()), " 7 ");
    let (first, second) = good.split_at(good.find('\n').unwrap() + 1);
    for (component, hashes, want) in [
        (&b"y"[..], good.clone(), "component.wasm was changed after it was packed"),
        (b"x", good.replace(hex, &"0".repeat(64)), "Capsule.toml was changed"),
        (b"x", other_size, "Capsule.toml was changed"),
        (b"x", good.to_uppercase(), "one line for each file"),
        (b"x", String::new(), "one line for each file"),
        (b"x", first.into(), "one line for each file"),
        (b"x", format!("{second}{first}"), "one line for each file"),
        (b"x", format!("{good}{second}"), "one line for each file"),
        (b"x", good.trim_end().into(), "one line for each file"),
        (b"x", format!("{good}\n"), "one line for each file"),
    ] {
        refused(&gzipped(&tarball(&entries(component, &hashes))), want);
    }
}

#[test]
fn nothing_may_follow_whether_tar_gzip_or_neither() {
    let whole = written(&full());
    let tar = unzipped(&whole);
    refused(&[&whole[..], b"x"].concat(), "goes on after its last file");
    refused(&[&whole[..], &whole[..]].concat(), "goes on after its last file");
    refused(&[&whole[..], &gzipped(b"")[..]].concat(), "goes on after its last file");
    refused(&gzipped(&[&tar[..], b"\0"].concat()), "goes on after its last file");
    refused(&gzipped(&[&tar[..tar.len() - 1], b"x"].concat()), "goes on after its last file");
    refused(&gzipped(&tar[..tar.len() - BLOCK]), "ends early");
    let (half, rest) = tar.split_at(tar.len() / 2);
    refused(&[gzipped(half), gzipped(rest)].concat(), "ends early");
}

fn typed(schema: &[u8]) -> Result<Archive, String> {
    let manifest = format!(
        "{MANIFEST_TEXT}[[subscribe]]\ntopic = \"a\"\nhandler = \"a\"\nwit = {{ payload = \"a.b\" }}\n\
         [[publish]]\ntopic = \"a\"\nwit = {{ payload = \"a.b\" }}\n"
    );
    let files = [(MANIFEST, manifest.as_bytes()), (COMPONENT, b""), (SCHEMA, schema)];
    let files = if schema.is_empty() { &files[..2] } else { &files };
    let hashes = hashes(files.iter().copied());
    let files = files.iter().copied().chain([(HASHES, hashes.as_bytes())]);
    let entries: Vec<Entry<'_>> = files.map(|(name, bytes)| (name, Regular, bytes)).collect();
    Archive::read(&gzipped(&tarball(&entries))[..]).map_err(|error| error.to_string())
}

/// With descriptions of this length.
fn schema(name: &str, bytes: usize) -> String {
    let foot = "},\"$schema\":\"https://json-schema.org/draft/2020-12/schema\"}";
    let description = "d".repeat(bytes);
    format!("{{\"$defs\":{{\"{name}\":{{\"description\":\"{description}\",\"type\":\"string\"}}{foot}")
}

#[test]
fn a_schema_has_at_most_1_mib_and_holds_what_the_manifest_names() {
    let archive = typed(schema("a.b", 1).as_bytes()).unwrap();
    assert_eq!(Archive::read(&written(&archive)[..]).unwrap().schemas, archive.schemas);
    for (schema, why) in [
        (String::new(), "has no type `a.b`"),
        (schema("a.c", 1), "has no type `a.b`"),
        (schema("a.b", 1 << 20), "schema.json has 10486"),
        ("{}".into(), "has no $defs"),
        (schema("a.b", 1).replace("\"type\":", "\"type\": "), "not spelled as astrid-build spells it"),
        (schema("a.b", 1).replace("string", "text"), "$defs/a.b: is nothing that astrid-build writes"),
    ] {
        let error = typed(schema.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn the_schemas_of_all_topics_fit_into_one_answer() {
    assert!(typed(schema("a.b", 250 << 10).as_bytes()).is_ok());
    let error = typed(schema("a.b", 260 << 10).as_bytes()).unwrap_err();
    assert!(error.contains("more than 524288 bytes"), "{error}");
}

#[test]
fn noise_and_truncation_are_errors() {
    let whole = written(&full());
    for cut in 0..whole.len() {
        assert!(Archive::read(&whole[..cut]).is_err(), "{cut}");
    }
    // Behind gzip's ten bytes of header nothing can be flipped unseen.
    for n in 10..whole.len() {
        let mut flipped = whole.clone();
        flipped[n] ^= 1;
        assert!(Archive::read(&flipped[..]).is_err(), "{n}");
    }
    assert!(Archive::read(&b"not gzip at all"[..]).is_err());
}

#[test]
fn signatures_that_are_none_or_out_of_order_are_refused() {
    let good = hashes_with(b"x");
    let line = |n: u8| signature::lines(&[key(n).sign(Purpose::Capsule, b"")]);
    let (low, high) = if key(1).public().id() < key(2).public().id() { (1, 2) } else { (2, 1) };
    let with = |signatures: &str| {
        let [manifest, component, hashes] = entries(b"x", &good);
        gzipped(&tarball(&[manifest, component, hashes, (SIGNATURES, Regular, signatures.as_bytes())]))
    };
    assert_eq!(Archive::read(&with(&(line(low) + &line(high)))[..]).unwrap().signatures().len(), 2);
    refused(&with(&(line(high) + &line(low))), "sorted by key id");
    refused(&with(&(line(low) + &line(low))), "sorted by key id");
    refused(&with(""), "signatures: ");
    refused(&with("rsa x y\n"), "signatures: line 1");
    refused(&with(line(1).trim_end()), "signatures: ");
}
