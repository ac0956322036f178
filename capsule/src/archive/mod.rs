//! `.capsule`: a gzipped tar with a closed list of files in a fixed order: `Capsule.toml`, `component.wasm`, perhaps
//! `schema.json` and `sbom.json`, then `hashes` with a line for each of those, and perhaps `signatures` of `hashes`.
//!
//! Writing is reproducible: no times, owners or paths. Reading trusts nothing: sizes and the ratio of compression are
//! capped while decompressing, an entry's header must be the one that writing makes, byte for byte, and nothing is ever
//! written to disk from here. Who signed, and whether that counts, is [`trust`](crate::trust)'s business.

mod unfold;

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};

use crate::manifest::{Manifest, ManifestError};
use crate::schema::{self, SchemaError, Schemas};
use crate::shown;
use crate::signature::{self, Purpose, SecretKey, Signature};
use unfold::Unfolding;

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
