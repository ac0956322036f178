//! The container of an archive while it is read: one gzip member around one tar, and nothing that writing would not make.
//!
//! Owns the caps and the order of the files. Bounded by them whatever the headers say. What the files mean is not known
//! here.

use std::io::{self, BufRead, BufReader, Read};

use super::{ArchiveError, BLOCK, FILES, MAX_RATIO, RATIO_FREE_BYTES, format, header, padding};
use crate::shown;

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
pub(super) struct Unfolding<R: Read> {
    gzip: flate2::bufread::GzDecoder<BufReader<Counted<R>>>,
    bytes: u64,
}

impl<R: Read> Unfolding<R> {
    pub(super) fn of(from: R) -> Self {
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
    pub(super) fn files(&mut self) -> Result<[Option<Vec<u8>>; FILES.len()], ArchiveError> {
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
    pub(super) fn end(mut self) -> Result<(), ArchiveError> {
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
