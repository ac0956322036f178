//! `.capsule`: a gzipped tar with a closed list of files in a fixed order: `Capsule.toml`, `component.wasm`, perhaps
//! `schema.json` and `sbom.json`, then `hashes` with a line for each of those, and perhaps `signatures` of `hashes`.
//!
//! Writing is reproducible: no times, owners or paths. Reading trusts nothing: sizes and the ratio of compression are
//! capped while decompressing, an entry's header must be the one that writing makes, byte for byte, and nothing is ever
//! written to disk from here. Who signed, and whether that counts, is [`trust`](crate::trust)'s business.

use std::io::{self, BufRead, BufReader, Read, Write};

use crate::manifest::{Manifest, ManifestError};
use crate::schema::{self, SchemaError, Schemas};
use crate::shown;
use crate::signature::{self, Purpose, SecretKey, Signature};

/// The largest archive file that anybody reads, in bytes.
pub const MAX_BYTES: u64 = 72 << 20;
/// The largest component, in bytes.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;
/// The largest `sbom.json`, in bytes.
pub const MAX_SBOM_BYTES: u64 = 4 << 20;

/// What unfolds to more than [`RATIO_FREE_BYTES`] may be at most so many times as large as it is compressed.
pub const MAX_RATIO: u64 = 100;
/// What may be of any ratio, in bytes.
pub const RATIO_FREE_BYTES: u64 = 1 << 20;

/// Tar's unit: a header, and what a file is padded to.
const BLOCK: usize = 512;

const MANIFEST: &str = "Capsule.toml";
const COMPONENT: &str = "component.wasm";
const SCHEMA: &str = "schema.json";
const SBOM: &str = "sbom.json";
const HASHES: &str = "hashes";
const SIGNATURES: &str = "signatures";

/// The files in their order: name, the most bytes, and whether it must be there.
const FILES: [(&str, u64, bool); 6] = [
    (MANIFEST, crate::manifest::MAX_BYTES as u64, true),
    (COMPONENT, MAX_COMPONENT_BYTES, true),
    (SCHEMA, schema::MAX_BYTES as u64, false),
    (SBOM, MAX_SBOM_BYTES, false),
    (HASHES, 1 << 10, true),
    (SIGNATURES, signature::MAX_LINES_BYTES, false),
];

/// An archive that was read and checked, or is to be written.
#[derive(Debug, Clone)]
pub struct Archive {
    pub manifest: Manifest,
    /// The manifest's text as it stands in the archive. This, and not `manifest`, is what is hashed and written.
    pub manifest_text: String,
    pub component: Vec<u8>,
    /// The types of its topics: every one that the manifest names is there. Their document is `schema.json`.
    pub schemas: Schemas,
    /// CycloneDX: what the component was made of. Carried, not read.
    pub sbom: Option<Vec<u8>>,
    /// Sorted by key, one for each. Well-formed, and otherwise whatever the archive claims.
    signatures: Vec<Signature>,
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("not a capsule archive: {0}")]
    Format(String),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

fn format(text: impl Into<String>) -> ArchiveError {
    ArchiveError::Format(text.into())
}

impl Archive {
    /// Without types, SBOM and signatures.
    pub fn new(manifest: &Manifest, component: Vec<u8>) -> Self {
        let (manifest_text, schemas) = (manifest.packed(), Schemas::default());
        Self { manifest: manifest.clone(), manifest_text, component, schemas, sbom: None, signatures: Vec::new() }
    }

    /// BLAKE3 of the component, in hex: its name in a host's `bin/`.
    pub fn hash(&self) -> String {
        blake3::hash(&self.component).to_hex().to_string()
    }

    /// The text of `hashes`, which is what signatures are of: for each file before it a line of BLAKE3 in hex, size in
    /// bytes, and name.
    pub fn hashes(&self) -> String {
        hashes(self.hashed(&self.schemas.document()))
    }

    /// The files that `hashes` is of; `schema` is the types' document.
    fn hashed<'a>(&'a self, schema: &'a str) -> impl Iterator<Item = (&'static str, &'a [u8])> {
        let always = [(MANIFEST, self.manifest_text.as_bytes()), (COMPONENT, &self.component)];
        let schema = (!schema.is_empty()).then_some((SCHEMA, schema.as_bytes()));
        let sbom = self.sbom.as_deref().map(|bytes| (SBOM, bytes));
        always.into_iter().chain(schema).chain(sbom)
    }

    /// As the archive claims; reading verifies none.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Adds this key's signature of what the archive holds now, in place of one that it has. Fails if all that fit are
    /// there.
    pub fn sign(&mut self, key: &SecretKey) -> Result<(), ArchiveError> {
        let signature = key.sign(Purpose::Capsule, self.hashes().as_bytes());
        self.signatures.retain(|other| other.key != signature.key);
        if self.signatures.len() == signature::MAX_SIGNATURES {
            return Err(format(format!("has {} signatures, and no more fit", signature::MAX_SIGNATURES)));
        }
        self.signatures.push(signature);
        self.signatures.sort_by_key(|signature| signature.key);
        Ok(())
    }

    /// Writes an archive; the same input gives the same bytes. Checks no cap: what is too large can't be read.
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        let schema = self.schemas.document();
        let (hashes, signatures) = (hashes(self.hashed(&schema)), signature::lines(&self.signatures));
        let signed = (!signatures.is_empty()).then_some((SIGNATURES, signatures.as_bytes()));
        let mut gzip = flate2::GzBuilder::new().mtime(0).write(to, flate2::Compression::new(6));
        for (name, bytes) in self.hashed(&schema).chain([(HASHES, hashes.as_bytes())]).chain(signed) {
            gzip.write_all(header(name, bytes.len() as u64).as_bytes())?;
            gzip.write_all(bytes)?;
            gzip.write_all(&[0; BLOCK][..padding(bytes.len() as u64)])?;
        }
        gzip.write_all(&[0; 2 * BLOCK])?;
        gzip.finish()?.flush()
    }

    /// Reads and checks an archive. Never reads more than the caps, whatever the headers say.
    pub fn read(from: impl Read) -> Result<Self, ArchiveError> {
        let mut unfolding = Unfolding::of(from);
        let mut files = unfolding.files()?;
        unfolding.end()?;
        let stand = FILES.iter().zip(&files).take(4);
        let computed = hashes(stand.filter_map(|(&(name, ..), bytes)| Some((name, bytes.as_deref()?))));
        let mut take = |n: usize| files[n].take();
        let text = |name: &str, bytes: Option<Vec<u8>>| {
            String::from_utf8(bytes.unwrap_or_default()).map_err(|_| format(format!("{name} is not UTF-8")))
        };
        compare(&text(HASHES, take(4))?, &computed)?;
        let signatures = match take(5) {
            None => Vec::new(),
            Some(bytes) => signature::parse_lines(&text(SIGNATURES, Some(bytes))?)
                .map_err(|error| format(format!("{SIGNATURES}: {error}")))?,
        };
        if !signatures.windows(2).all(|pair| pair[0].key < pair[1].key) {
            return Err(format(format!("{SIGNATURES} must be sorted by key id, with one line for each key")));
        }
        let manifest_text = text(MANIFEST, take(0))?;
        let manifest = Manifest::parse(&manifest_text)?;
        let schemas = take(2).map_or(Ok(Schemas::default()), |bytes| types(&bytes))?;
        schemas.check(&manifest)?;
        let (component, sbom) = (take(1).unwrap_or_default(), take(3));
        Ok(Self { manifest, manifest_text, component, schemas, sbom, signatures })
    }
}

/// The types of a `schema.json`. Their document must be these bytes, since `hashes` is computed from the types again.
fn types(bytes: &[u8]) -> Result<Schemas, SchemaError> {
    let schemas = Schemas::parse(bytes)?;
    if schemas.document().as_bytes() != bytes {
        return Err(SchemaError("is not spelled as astrid-build spells it".into()));
    }
    Ok(schemas)
}

fn hashes<'a>(files: impl Iterator<Item = (&'static str, &'a [u8])>) -> String {
    files.map(|(name, bytes)| format!("{} {} {name}\n", blake3::hash(bytes).to_hex(), bytes.len())).collect()
}

/// What `hashes` says must be what was computed; else the file that was changed is named.
fn compare(said: &str, computed: &str) -> Result<(), ArchiveError> {
    if said == computed {
        return Ok(());
    }
    let name = |line: &str| line.rsplit(' ').next().unwrap_or_default().to_owned();
    if said.ends_with('\n') && said.lines().map(name).eq(computed.lines().map(name)) {
        let mut lines = said.lines().zip(computed.lines());
        if let Some((said, computed)) = lines.find(|(said, computed)| said != computed) {
            let (name, said) = (name(said), shown(said));
            return Err(format(format!(
                "{name} was changed after it was packed: it is `{computed}`, and {HASHES} says `{said}`"
            )));
        }
    }
    Err(format(format!("{HASHES} must have one line for each file before it, in their order")))
}

/// The only header that a file of this name and size has.
fn header(name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

/// What an entry is that is no plain file.
fn kind(of: tar::EntryType) -> &'static str {
    use tar::EntryType as E;
    match of {
        E::Link => "a hard link",
        E::Symlink => "a symbolic link",
        E::Char | E::Block => "a device",
        E::Directory => "a folder",
        E::Fifo => "a FIFO",
        E::GNULongName | E::GNULongLink | E::XHeader | E::XGlobalHeader => "an extension of tar",
        _ => "something other than a plain file",
    }
}

/// How many bytes were read.
struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// A gzip member while it is decompressed, and never more of it than the ratio allows.
struct Unfolding<R: Read> {
    gzip: flate2::bufread::GzDecoder<BufReader<Counted<R>>>,
    bytes: u64,
}

impl<R: Read> Unfolding<R> {
    fn of(from: R) -> Self {
        let from = BufReader::new(Counted { from, bytes: 0 });
        Self { gzip: flate2::bufread::GzDecoder::new(from), bytes: 0 }
    }

    /// Fills `to`, or says that `what` ends early.
    fn fill(&mut self, to: &mut [u8], what: &str) -> Result<(), ArchiveError> {
        self.gzip.read_exact(to).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => format(format!("ends early, in {what}")),
            _ => format(format!("{what}: {error}")),
        })?;
        self.bytes += to.len() as u64;
        let compressed = self.gzip.get_ref().get_ref().bytes;
        if self.bytes > RATIO_FREE_BYTES && self.bytes / MAX_RATIO > compressed {
            return Err(format(format!("{what} unfolds to more than {MAX_RATIO} times its compressed size")));
        }
        Ok(())
    }

    fn block(&mut self, what: &str) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block, what)?;
        Ok(block)
    }

    /// The bytes of each of [`FILES`], and the first of tar's two closing blocks.
    fn files(&mut self) -> Result<[Option<Vec<u8>>; FILES.len()], ArchiveError> {
        let mut files = [const { None }; FILES.len()];
        let mut next = 0;
        loop {
            let expected = FILES[next..].iter().find(|(.., required)| *required).map(|(name, ..)| *name);
            let block = self.block(expected.unwrap_or("its end"))?;
            if block == [0; BLOCK] {
                return match expected {
                    Some(name) => Err(format(format!("{name} is missing"))),
                    None => Ok(files),
                };
            }
            let expected = expected.unwrap_or("the end");
            let found = tar::Header::from_byte_slice(&block);
            if found.entry_type() != tar::EntryType::Regular {
                return Err(format(format!("holds {} where {expected} is expected", kind(found.entry_type()))));
            }
            let path = found.path_bytes();
            let Some(n) = (next..FILES.len()).find(|n| FILES[*n].0.as_bytes() == path.as_ref()) else {
                let path = shown(&String::from_utf8_lossy(&path)).to_owned();
                return Err(format(format!("holds `{path}` where {expected} is expected")));
            };
            let (name, cap, _) = FILES[n];
            if FILES[next..n].iter().any(|(.., required)| *required) {
                return Err(format(format!("holds `{name}` where {expected} is expected")));
            }
            let size = found.entry_size().map_err(|error| format(format!("{name}: {error}")))?;
            if size > cap {
                return Err(format(format!("{name} has {size} bytes; at most {cap} are taken")));
            }
            if block != *header(name, size).as_bytes() {
                return Err(format(format!(
                    "the header of {name} says more than its size, in the one way to write it"
                )));
            }
            files[n] = Some(self.file(name, size)?);
            next = n + 1;
        }
    }

    fn file(&mut self, name: &str, size: u64) -> Result<Vec<u8>, ArchiveError> {
        // In pieces: a size costs nothing before its bytes are there.
        const PIECE: u64 = 64 << 10;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            let start = bytes.len();
            bytes.resize(start + PIECE.min(size - start as u64) as usize, 0);
            self.fill(&mut bytes[start..], name)?;
        }
        let mut rest = [0; BLOCK];
        let rest = &mut rest[..padding(size)];
        self.fill(rest, name)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(format(format!("{name} goes on after its end")));
        }
        Ok(bytes)
    }

    /// The second closing block, gzip's checksum, and then nothing.
    fn end(mut self) -> Result<(), ArchiveError> {
        let after = || format("goes on after its last file");
        if self.block("its end")? != [0; BLOCK] {
            return Err(after());
        }
        let more = self.gzip.read(&mut [0]).map_err(|error| format(format!("its end: {error}")))?;
        // Another gzip member would be here as well.
        let behind = self.gzip.into_inner().fill_buf().map_err(|error| format(error.to_string()))?.len();
        if more + behind > 0 { Err(after()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
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
            assert_eq!(
                (&read.component, &read.schemas, &read.sbom),
                (&archive.component, &archive.schemas, &archive.sbom)
            );
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
}
