//! The targets: what each reads, and what must hold.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Component;

use astrid_capsule::archive::{self, Archive};
use astrid_capsule::distro::Distro;
use astrid_capsule::faults::{MAX_FAULTS, faults};
use astrid_capsule::manifest::{self, Manifest};
use astrid_capsule::registry::Index;
use astrid_capsule::schema::Schemas;
use astrid_capsule::signature::SecretKey;
use astrid_capsule::{Capability, Pattern, PrincipalId, Topic, capability, topic};
use flate2::Compression;
use flate2::read::GzEncoder;

fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok()
}

/// `Capsule.toml`. What is taken reads back from its packed form; what is refused has faults that are places of the text.
pub(crate) fn manifest(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let found = faults(text);
    match Manifest::parse(text) {
        Ok(manifest) => {
            assert!(found.is_empty(), "it is taken, and has faults: {found:?}");
            let packed = manifest.packed();
            let again = Manifest::parse(&packed).expect("what is packed is a manifest");
            assert_eq!(again.packed(), packed);
            assert_eq!(again.asked(), manifest.asked());
            assert_eq!(again.types().collect::<Vec<_>>(), manifest.types().collect::<Vec<_>>());
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty() && found.len() <= MAX_FAULTS, "{error}");
            for fault in found {
                let line = text.split('\n').nth(fault.line - 1);
                let columns = line.map(|line| line.chars().count() + 1);
                assert!(columns.is_some_and(|most| (1..=most).contains(&fault.column)), "{fault} is no place");
            }
            false
        }
    }
}

/// A `.capsule`. What is taken keeps its caps, and what is written of it reads as the same.
pub(crate) fn archive(bytes: &[u8]) -> bool {
    let Ok(archive) = Archive::read(bytes) else { return false };
    let parts = [
        (archive.manifest_text.len() as u64, manifest::MAX_BYTES as u64),
        (archive.component.len() as u64, archive::MAX_COMPONENT_BYTES),
        (archive.sbom.as_ref().map_or(0, Vec::len) as u64, archive::MAX_SBOM_BYTES),
    ];
    assert!(parts.iter().all(|(bytes, most)| bytes <= most), "{parts:?}");
    let (all, most) = (parts.iter().map(|(bytes, _)| bytes).sum::<u64>(), archive::MAX_RATIO * bytes.len() as u64);
    assert!(all <= most.max(archive::RATIO_FREE_BYTES), "{all} bytes of {}", bytes.len());
    let again = Archive::read(&written(&archive)[..]).expect("what is written of an archive is one");
    same(&archive, &again);
    true
}

fn written(archive: &Archive) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive.write(&mut bytes).expect("memory takes what is written");
    bytes
}

fn same(one: &Archive, other: &Archive) {
    assert_eq!(one.manifest_text, other.manifest_text);
    assert_eq!((one.hashes(), one.signatures()), (other.hashes(), other.signatures()));
    assert!(one.component == other.component && one.sbom == other.sbom && one.schemas == other.schemas);
}

/// What an archive unfolds to: the input is compressed first, so that changes reach what is in it. The same input with
/// zeros behind it that never end must be given up when it has unfolded to more than the ratio allows: soon, since zeros are
/// a thousandth of themselves when they are compressed.
pub(crate) fn contents(bytes: &[u8]) -> bool {
    let mut compressed = Vec::new();
    GzEncoder::new(bytes, Compression::fast()).read_to_end(&mut compressed).expect("memory can be read");

    let taken = Cell::new(0);
    let endless = GzEncoder::new(bytes.chain(io::repeat(0)), Compression::fast());
    let read = Archive::read(Counted { from: endless, bytes: &taken });
    assert!(read.is_err(), "nothing that never ends is an archive");
    // An eighth, for the share of zeros that the rest pays for; 4 KiB, for those that are of any ratio and the encoder.
    let most = compressed.len() + compressed.len() / 8 + (4 << 10);
    assert!(taken.get() <= most, "{} bytes of what never ends were taken, {most} at most are needed", taken.get());

    archive(&compressed)
}

/// Counts what is read of it, a little at a time: whoever reads a buffer full takes no more than it needs.
struct Counted<'a, R> {
    from: R,
    bytes: &'a Cell<usize>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = to.len().min(512);
        let read = self.from.read(&mut to[..most])?;
        self.bytes.set(self.bytes.get() + read);
        Ok(read)
    }
}

/// A manifest, types, a component and an SBOM, with a NUL behind each but the last, packed and signed as they are: the
/// archive is taken exactly if its parts are fine.
pub(crate) fn sealed(bytes: &[u8]) -> bool {
    const LEAST: &str = "[package]\nname = \"a\"\nversion = \"0.1.0\"\n";
    let mut parts = bytes.splitn(4, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let Some(text) = text(part()) else { return false };
    let schemas = Schemas::parse(part()).unwrap_or_default();
    let least = Manifest::parse(LEAST).expect("the least manifest");
    let mut sealed = Archive::new(&least, part().to_vec());
    sealed.manifest_text = text.into();
    sealed.sbom = Some(part().to_vec()).filter(|sbom| !sbom.is_empty());
    sealed.schemas = schemas;
    sealed.sign(&SecretKey::from_bytes(&[7; 32])).expect("the first signature fits");
    let fine = Manifest::parse(text).is_ok_and(|manifest| sealed.schemas.check(&manifest).is_ok());
    match Archive::read(&written(&sealed)[..]) {
        Ok(read) => {
            assert!(fine, "an archive is taken whose parts are not");
            same(&sealed, &read);
        }
        Err(error) => assert!(!fine, "its parts are fine, but: {error}"),
    }
    fine
}

/// `schema.json`. What is taken is written as it was read, or at least in one way.
pub(crate) fn schema(bytes: &[u8]) -> bool {
    let Ok(schemas) = Schemas::parse(bytes) else { return false };
    let document = schemas.document();
    if !document.is_empty() {
        let again = Schemas::parse(document.as_bytes()).expect("what is written of types are types");
        assert!(again == schemas && again.document() == document);
    }
    true
}

/// `index.toml` of a registry. What is taken reads back, and no entry is found elsewhere than in the registry's folder.
pub(crate) fn index(bytes: &[u8]) -> bool {
    let Some(Ok(mut index)) = text(bytes).map(Index::parse) else { return false };
    assert_eq!(Index::parse(&index.to_toml()).as_ref(), Ok(&index));
    for entry in index.entries() {
        assert_eq!(entry.blob().components().count(), 2, "{}", entry.blob().display());
        assert!(entry.blob().components().all(|part| matches!(part, Component::Normal(_))));
        assert_eq!(index.find(&entry.name, Some(&entry.version)), Some(entry));
    }
    // Nothing that is published already changes anything.
    for entry in index.entries().to_vec() {
        assert_eq!(index.publish(entry), Ok(false));
    }
    true
}

/// `Distro.toml`. What is taken reads the same from the same values in another layout; its files are its own; and a value
/// is missing exactly where a variable has none.
pub(crate) fn distro(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let Ok(distro) = Distro::parse(text) else { return false };
    let table: toml::Table = text.parse().expect("what was taken is TOML");
    let printed = toml::to_string(&table).expect("and can be printed");
    let again = Distro::parse(&printed).expect("and is a distribution again");
    assert_eq!(format!("{again:?}"), format!("{distro:?}"));
    let files = distro.files();
    assert_eq!(files.iter().collect::<BTreeSet<_>>().len(), files.len(), "a file is two things: {files:?}");
    assert!(files.iter().flat_map(|file| file.components()).all(|part| matches!(part, Component::Normal(_))));
    for entry in &distro.capsule {
        let (values, undefined) = distro.values(entry, |_| Some("x"));
        assert!(undefined.is_empty() && entry.env.keys().all(|field| values.contains_key(field)), "{undefined:?}");
        for missing in distro.values(entry, |_| None).1 {
            assert!(distro.variables[&missing.variable].default.is_none(), "{missing}");
        }
    }
    true
}

/// Three names, each in a line. What is taken stays as it is and keeps its bounds; matching and covering follow the
/// written rule, and covering is an order.
pub(crate) fn grammar(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let lines: Vec<&str> = text.splitn(3, '\n').collect();
    for line in &lines {
        if let Ok(id) = PrincipalId::parse(line) {
            assert_eq!(id.as_str(), *line);
        }
        if let Ok(topic) = Topic::parse(line) {
            assert!(topic.as_str() == *line && line.len() <= topic::MAX_BYTES);
            let same = Pattern::parse(line).expect("a topic is a pattern");
            assert!(same.matches(&topic) && topic.segments().count() <= topic::MAX_SEGMENTS);
        }
    }
    let topics: Vec<Topic> = lines.iter().filter_map(|line| Topic::parse(line).ok()).collect();
    let patterns: Vec<Pattern> = lines.iter().filter_map(|line| Pattern::parse(line).ok()).collect();
    for pattern in &patterns {
        assert!(pattern.as_str().len() <= topic::MAX_BYTES);
        for topic in &topics {
            let (pattern_of, topic_of): (Vec<&str>, Vec<&str>) =
                (pattern.segments().collect(), topic.segments().collect());
            assert_eq!(pattern.matches(topic), rule(&pattern_of, &topic_of), "{pattern} {topic}");
        }
    }
    let held: Vec<Capability> = lines.iter().filter_map(|line| Capability::parse(line).ok()).collect();
    for a in &held {
        assert!(a.covers(a) && a.as_str().len() <= capability::MAX_BYTES, "{a}");
        for b in &held {
            let (of_a, of_b): (Vec<&str>, Vec<&str>) = (a.segments().collect(), b.segments().collect());
            let own = (of_a[0] == "self") == (of_b[0] == "self");
            assert_eq!(a.covers(b), of_a == ["*"] || own && rule(&of_a, &of_b), "{a} {b}");
            for c in held.iter().filter(|c| a.covers(b) && b.covers(c)) {
                assert!(a.covers(c), "{a} covers {b}, and {b} {c}");
            }
        }
    }
    !topics.is_empty() || !patterns.is_empty() || !held.is_empty()
}

/// What the grammar says of wildcards, written as plainly as possible and as slowly.
fn rule(pattern: &[&str], subject: &[&str]) -> bool {
    match (pattern, subject) {
        ([], []) | (["*"], [_, ..]) => true,
        (["*", p @ ..], [_, s @ ..]) => rule(p, s),
        ([a, p @ ..], [b, s @ ..]) => a == b && rule(p, s),
        _ => false,
    }
}
