//! `.capsule`: a gzipped tar of `Capsule.toml`, `component.wasm` and, where topics have types, `schema.json`, in that order.
//!
//! Writing is reproducible: no times, owners or paths. Reading trusts nothing: sizes are capped while decompressing,
//! only plain files with exactly these names are taken, and nothing is ever written to disk from here.

use std::io::{self, Read, Write};

use crate::manifest::{Manifest, ManifestError};
use crate::schema::{self, SchemaError, Schemas};

/// The largest component, in bytes.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// What may follow the last file: tar pads to whole records.
const MAX_PADDING: u64 = 64 * 1024;

const MANIFEST: &str = "Capsule.toml";
const COMPONENT: &str = "component.wasm";
const SCHEMA: &str = "schema.json";

/// An archive that was read and checked.
#[derive(Debug, Clone)]
pub struct Archive {
    pub manifest: Manifest,
    /// The manifest's text as it stood in the archive.
    pub manifest_text: String,
    pub component: Vec<u8>,
    /// The types of its topics: every one that the manifest names is there.
    pub schemas: Schemas,
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
    /// BLAKE3 of the component, in hex: its name in a host's `bin/`.
    pub fn hash(&self) -> String {
        blake3::hash(&self.component).to_hex().to_string()
    }

    /// Writes an archive; the same input gives the same bytes.
    pub fn write(manifest: &Manifest, component: &[u8], schemas: &Schemas, to: impl Write) -> io::Result<()> {
        let gzip = flate2::GzBuilder::new().mtime(0).write(to, flate2::Compression::new(6));
        let mut tar = tar::Builder::new(gzip);
        let (manifest, schema) = (manifest.packed(), schemas.document());
        let files = [(MANIFEST, manifest.as_bytes()), (COMPONENT, component)];
        let schema = (!schema.is_empty()).then_some((SCHEMA, schema.as_bytes()));
        for (name, bytes) in files.into_iter().chain(schema) {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            tar.append_data(&mut header, name, bytes)?;
        }
        tar.into_inner()?.finish()?.flush()
    }

    /// Reads and checks an archive. Never reads more than the caps, whatever the headers say.
    pub fn read(from: impl Read) -> Result<Self, ArchiveError> {
        let cap = MAX_COMPONENT_BYTES + (crate::manifest::MAX_BYTES + schema::MAX_BYTES) as u64 + 64 * 1024;
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(from).take(cap));
        let mut entries = tar.entries().map_err(|e| format(e.to_string()))?;
        let manifest = next(&mut entries, MANIFEST, crate::manifest::MAX_BYTES as u64)?;
        let component = next(&mut entries, COMPONENT, MAX_COMPONENT_BYTES)?;
        let schemas = match entries.next() {
            Some(entry) => Schemas::parse(&file(entry, SCHEMA, schema::MAX_BYTES as u64)?)?,
            None => Schemas::default(),
        };
        if entries.next().is_some() {
            return Err(format(format!("holds more than {MANIFEST}, {COMPONENT} and {SCHEMA}")));
        }
        // To the end, so that gzip's checksum is compared and nothing hides behind the last file.
        let rest = io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(|e| format(e.to_string()))?;
        if rest > MAX_PADDING {
            return Err(format("goes on after its last file"));
        }
        let manifest_text = String::from_utf8(manifest).map_err(|_| format(format!("{MANIFEST} is not UTF-8")))?;
        let manifest = Manifest::parse(&manifest_text)?;
        schemas.check(&manifest)?;
        Ok(Self { manifest, manifest_text, component, schemas })
    }
}

fn next<R: Read>(entries: &mut tar::Entries<'_, R>, name: &str, cap: u64) -> Result<Vec<u8>, ArchiveError> {
    let missing = || format(format!("{name} is missing"));
    file(entries.next().ok_or_else(missing)?, name, cap)
}

fn file<R: Read>(entry: io::Result<tar::Entry<'_, R>>, name: &str, cap: u64) -> Result<Vec<u8>, ArchiveError> {
    let entry = entry.map_err(|e| format(e.to_string()))?;
    if entry.header().entry_type() != tar::EntryType::Regular {
        return Err(format(format!("holds something other than a plain file where {name} is expected")));
    }
    if entry.path_bytes().as_ref() != name.as_bytes() {
        let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        return Err(format(format!("holds `{}` where {name} is expected", crate::shown(&found))));
    }
    let size = entry.size();
    if size > cap {
        return Err(format(format!("{name} has {size} bytes; at most {cap} are taken")));
    }
    let mut bytes = Vec::new();
    entry.take(cap).read_to_end(&mut bytes).map_err(|e| format(format!("{name}: {e}")))?;
    if bytes.len() as u64 != size {
        return Err(format(format!("{name} ends early")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST_TEXT: &str = "[package]\nname = \"a\"\nversion = \"0.1.0\"\n";

    fn archive() -> Vec<u8> {
        let mut bytes = Vec::new();
        Archive::write(&Manifest::parse(MANIFEST_TEXT).unwrap(), b"wasm", &Schemas::default(), &mut bytes).unwrap();
        bytes
    }

    fn tarball(files: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (name, kind, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn what_was_written_reads_back_and_the_same_input_gives_the_same_bytes() {
        let read = Archive::read(&archive()[..]).unwrap();
        assert_eq!(read.component, b"wasm");
        assert_eq!(read.manifest.package.name, "a");
        assert_eq!(archive(), archive());
    }

    #[test]
    fn only_plain_files_of_these_names_are_taken() {
        use tar::EntryType::{Link, Regular, Symlink};
        let toml = MANIFEST_TEXT.as_bytes();
        type Files<'a> = &'a [(&'a str, tar::EntryType, &'a [u8])];
        let cases: [(Files<'_>, &str); 7] = [
            (&[("Capsule.toml", Regular, toml)], "component.wasm is missing"),
            (&[("Capsule.toml", Symlink, b"")], "plain file"),
            (&[("Capsule.toml", Regular, toml), ("component.wasm", Link, b"")], "plain file"),
            (&[("../Capsule.toml", Regular, toml)], "holds `../Capsule.toml`"),
            (&[("/Capsule.toml", Regular, toml)], "holds `/Capsule.toml`"),
            (&[("component.wasm", Regular, b"x"), ("Capsule.toml", Regular, toml)], "holds `component.wasm`"),
            (&[("Capsule.toml", Regular, toml), ("component.wasm", Regular, b"x"), ("c", Regular, b"x")], "holds `c`"),
        ];
        for (files, want) in cases {
            let error = Archive::read(&tarball(files)[..]).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_unfolds() {
        let zeros = vec![0; 1 << 20];
        let bomb = tarball(&[("Capsule.toml", tar::EntryType::Regular, &zeros)]);
        assert!(bomb.len() < 64 * 1024);
        assert!(Archive::read(&bomb[..]).unwrap_err().to_string().contains("at most"));
    }

    #[test]
    fn a_component_has_at_most_64_mib() {
        let toml = MANIFEST_TEXT.as_bytes();
        let mut component = vec![0; 64 << 20];
        let of = |component: &[u8]| {
            let entries = [
                ("Capsule.toml", tar::EntryType::Regular, toml),
                ("component.wasm", tar::EntryType::Regular, component),
            ];
            Archive::read(&tarball(&entries)[..])
        };
        assert_eq!(of(&component).unwrap().component.len(), 64 << 20);
        component.push(0);
        assert!(of(&component).unwrap_err().to_string().contains("component.wasm has 67108865 bytes"));
    }

    fn typed(schema: &[u8]) -> Result<Archive, String> {
        use tar::EntryType::Regular;
        let manifest = format!(
            "{MANIFEST_TEXT}[[subscribe]]\ntopic = \"a\"\nhandler = \"a\"\nwit = {{ payload = \"a.b\" }}\n\
             [[publish]]\ntopic = \"a\"\nwit = {{ payload = \"a.b\" }}\n"
        );
        let files = [
            ("Capsule.toml", Regular, manifest.as_bytes()),
            ("component.wasm", Regular, b""),
            ("schema.json", Regular, schema),
        ];
        let files = if schema.is_empty() { &files[..2] } else { &files };
        Archive::read(&tarball(files)[..]).map_err(|error| error.to_string())
    }

    /// With descriptions of this length.
    fn schema(name: &str, bytes: usize) -> String {
        let head = "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"$defs\":{";
        format!("{head}\"{name}\":{{\"description\":\"{}\",\"type\":\"string\"}}}}}}", "d".repeat(bytes))
    }

    #[test]
    fn a_schema_has_at_most_1_mib_and_holds_what_the_manifest_names() {
        let archive = typed(schema("a.b", 1).as_bytes()).unwrap();
        let mut again = Vec::new();
        Archive::write(&archive.manifest, &archive.component, &archive.schemas, &mut again).unwrap();
        assert_eq!(Archive::read(&again[..]).unwrap().schemas, archive.schemas);
        for (schema, why) in [
            (String::new(), "has no type `a.b`"),
            (schema("a.c", 1), "has no type `a.b`"),
            (schema("a.b", 1 << 20), "schema.json has 10486"),
            ("{}".into(), "has no $defs"),
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
        let whole = archive();
        for cut in 0..whole.len() {
            assert!(Archive::read(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(Archive::read(&b"not gzip at all"[..]).is_err());
    }
}
