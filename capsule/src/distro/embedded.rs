//! A distribution in the file of a program, behind everything that the program itself needs: whoever has the program can
//! start it, whatever has become of the files beside it.
//!
//! The file ends with a [bundle], its length (64 bits, little endian) and [`MARK`]. What loads programs does
//! not look there; a tool that strips them cuts it off.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::bundle;

/// The last bytes of a program that holds a distribution.
pub const MARK: [u8; 16] = *b"astrid-distro-v1";
const END: u64 = MARK.len() as u64 + 8;

/// The bundle that a program's file holds; none if it holds none. Errors are those of reading, and `InvalidData` where the
/// mark is there and the length does not fit.
pub fn read(program: &mut (impl Read + Seek)) -> io::Result<Option<Vec<u8>>> {
    let Some((start, length)) = find(program)? else { return Ok(None) };
    program.seek(SeekFrom::Start(start))?;
    let mut bundle = Vec::new();
    program.take(length).read_to_end(&mut bundle)?;
    Ok(Some(bundle))
}

/// Puts a bundle into a program's file, in the place of one that is there. The file is replaced at once, so that a program
/// that runs goes on. False: it held the same already.
pub fn put(program: &Path, bundle: &[u8]) -> io::Result<bool> {
    if bundle.len() as u64 > bundle::MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a bundle has at most {} bytes", bundle::MAX_BYTES),
        ));
    }
    let mut file = File::open(program)?;
    if read(&mut file)?.is_some_and(|held| held == bundle) {
        return Ok(false);
    }
    let own = find(&mut file)?.map_or(file.metadata()?.len(), |(start, _)| start);
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let partial = program.with_file_name(format!("{name}.partial.{}", std::process::id()));
    let replaced = (|| {
        fs::copy(program, &partial)?;
        let mut file = File::options().write(true).open(&partial)?;
        file.set_len(own)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(bundle)?;
        file.write_all(&(bundle.len() as u64).to_le_bytes())?;
        file.write_all(&MARK)?;
        file.sync_all()?;
        fs::rename(&partial, program)
    })();
    if replaced.is_err() {
        let _ = fs::remove_file(&partial);
    }
    replaced.map(|()| true)
}

/// Where the bundle begins, and its length.
fn find(program: &mut (impl Read + Seek)) -> io::Result<Option<(u64, u64)>> {
    let size = program.seek(SeekFrom::End(0))?;
    let Some(end) = size.checked_sub(END) else { return Ok(None) };
    program.seek(SeekFrom::Start(end))?;
    let (mut length, mut mark) = ([0; 8], [0; MARK.len()]);
    program.read_exact(&mut length)?;
    program.read_exact(&mut mark)?;
    if mark != MARK {
        return Ok(None);
    }
    let length = u64::from_le_bytes(length);
    let start = end.checked_sub(length).filter(|_| length <= bundle::MAX_BYTES);
    let start = start.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its distribution is cut off"))?;
    Ok(Some((start, length)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_holds_the_latest_bundle_and_is_otherwise_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"code").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let held = || read(&mut File::open(&program).unwrap()).unwrap();
        assert_eq!(held(), None);
        for (bundle, changes) in [("first", true), ("first", false), ("another one", true), ("", true)] {
            assert_eq!(put(&program, bundle.as_bytes()).unwrap(), changes);
            assert_eq!(held().as_deref(), Some(bundle.as_bytes()));
            assert!(fs::read(&program).unwrap().starts_with(b"code"));
            assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        }
        assert_eq!(fs::metadata(&program).unwrap().len(), 4 + END);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_length_that_does_not_fit_is_an_error_and_a_short_file_holds_nothing() {
        let file = |length: u64| [&b"code"[..], &length.to_le_bytes(), &MARK].concat();
        for length in [5, u64::MAX, bundle::MAX_BYTES + 1] {
            let error = read(&mut io::Cursor::new(file(length))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{length}");
        }
        assert_eq!(read(&mut io::Cursor::new(file(4))).unwrap().as_deref(), Some(&b"code"[..]));
        assert_eq!(read(&mut io::Cursor::new(&MARK)).unwrap(), None);
    }
}
