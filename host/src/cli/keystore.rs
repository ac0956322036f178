//! The user's own ed25519 key pairs, in `keys/local` of the home.
//!
//! A pair is three files: `NAME.ed25519` (0600, the 32-byte seed in hex) is the key; `NAME.pub.hex` and
//! `NAME.meta.toml` (0644) are copies of what follows from it and when it was made. Owns their format, their modes and
//! that none is ever half written. Secret bytes are wiped from memory as soon as they were used. Refuses to read a secret that others
//! could have read or written.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer, SigningKey};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::{text, time};
use crate::home::{self, Home};

/// The most pairs that are listed.
const MAX_LISTED: usize = 10_000;
/// The largest `.pub.hex` and `.meta.toml` that is read, in bytes.
const MAX_COPY_BYTES: usize = 4096;
/// A secret file: 64 hex digits and a line break.
const SECRET_BYTES: usize = 65;

const SECRET: &str = "ed25519";
const PUBLIC: &str = "pub.hex";
const META: &str = "meta.toml";

/// 1 to 64 of `[A-Za-z0-9_-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyName(String);

impl KeyName {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("key name `{}` must be 1 to 64 of A-Z a-z 0-9 _ -", text::shown(text)))
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What may be known of a pair.
#[derive(Debug)]
pub(super) struct KeyPair {
    pub(super) name: KeyName,
    pub(super) public_key: [u8; 32],
    /// Absent where the file that says so is.
    pub(super) created_at_epoch: Option<u64>,
    pub(super) secret_file: PathBuf,
}

impl KeyPair {
    pub(super) fn public_hex(&self) -> String {
        hex::encode(self.public_key)
    }

    /// A line of OpenSSH's public key format, with the name as its comment.
    pub(super) fn openssh(&self) -> String {
        const KIND: &str = "ssh-ed25519";
        let mut blob = Vec::new();
        for part in [KIND.as_bytes(), &self.public_key] {
            blob.extend((part.len() as u32).to_be_bytes());
            blob.extend(part);
        }
        format!("{KIND} {} {}", base64(&blob), self.name)
    }
}

/// A pair by its name, or why it can't be used.
pub(super) type Listed = (KeyName, Result<KeyPair, Failure>);

/// `NAME.meta.toml`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    name: String,
    algorithm: String,
    created_at_epoch: u64,
}

pub(super) struct Keystore {
    folder: PathBuf,
    home: Home,
}

impl Keystore {
    /// Touches nothing.
    pub(super) fn of(home: &Home) -> Self {
        Self { folder: home.keys().join("local"), home: home.clone() }
    }

    fn file(&self, name: &KeyName, extension: &str) -> PathBuf {
        self.folder.join(format!("{name}.{extension}"))
    }

    /// Makes and stores a pair. Without `force` a pair of that name is left alone and is a `conflict`; with it, the
    /// old secret is gone for good. When this fails the old pair, if any, is as it was.
    pub(super) fn generate(&self, name: &KeyName, force: bool) -> Result<KeyPair, Failure> {
        self.home.check().and_then(|()| home::create_folder(&self.folder)).map_err(|e| unusable(e.to_string()))?;
        self.check_private()?;
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)
            .map_err(|e| Failure::failed("internal", format!("the system gives no random bytes: {e}")))?;
        let public_key = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
        let mut secret = Zeroizing::new([b'\n'; SECRET_BYTES]);
        hex::encode_to_slice(seed.as_slice(), &mut secret[..64]).expect("64 digits for 32 bytes");
        let created_at_epoch = time::now();
        let meta = Meta { name: name.0.clone(), algorithm: "ed25519".to_owned(), created_at_epoch };
        let meta = toml::to_string(&meta).expect("three plain fields");

        // Everything is on disk before the first rename; the secret, which is the key, comes first.
        let secret = self.stage(&*secret, 0o600)?;
        let public = self.stage(format!("{}\n", hex::encode(public_key)).as_bytes(), 0o644)?;
        let meta = self.stage(meta.as_bytes(), 0o644)?;
        let target = self.file(name, SECRET);
        match secret.commit(&target, force) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Failure::failed("conflict", format!("there is a key pair `{name}` already"))
                    .next("choose another name, or replace it for good with --force"));
            }
            result => result.map_err(|e| io_failure(&target, &e))?,
        }
        for (staged, extension) in [(public, PUBLIC), (meta, META)] {
            let target = self.file(name, extension);
            staged.commit(&target, true).map_err(|e| io_failure(&target, &e))?;
        }
        self.sync()?;
        Ok(KeyPair { name: name.clone(), public_key, created_at_epoch: Some(created_at_epoch), secret_file: target })
    }

    /// The pair, or none if there is no secret of that name. Fails if the secret is not private or not a key, or if
    /// the public file belongs to another one.
    pub(super) fn load(&self, name: &KeyName) -> Result<Option<KeyPair>, Failure> {
        self.home.check().map_err(|e| unusable(e.to_string()))?;
        let secret_file = self.file(name, SECRET);
        let Some(key) = read_secret(&secret_file)? else { return Ok(None) };
        let public_key = key.verifying_key().to_bytes();
        let public_file = self.file(name, PUBLIC);
        if let Some(copy) = read_copy(&public_file)?
            && copy.trim_ascii() != hex::encode(public_key)
        {
            let reason = format!("{} is not the public key of {}", public_file.display(), secret_file.display());
            return Err(unusable(reason).next("remove it (it is only a copy), or make a new pair with --force"));
        }
        let meta_file = self.file(name, META);
        let created_at_epoch = match read_copy(&meta_file)? {
            None => None,
            Some(text) => {
                let meta: Meta =
                    toml::from_str(&text).map_err(|e| unusable(format!("{}: {}", meta_file.display(), e.message())))?;
                Some(meta.created_at_epoch)
            }
        };
        Ok(Some(KeyPair { name: name.clone(), public_key, created_at_epoch, secret_file }))
    }

    /// Signs with the secret of a pair that is there.
    pub(super) fn sign(&self, name: &KeyName, bytes: &[u8]) -> Result<[u8; 64], Failure> {
        let path = self.file(name, SECRET);
        let key = read_secret(&path)?.ok_or_else(|| unusable(format!("{} is not there", path.display())))?;
        Ok(key.sign(bytes).to_bytes())
    }

    /// Every pair by name, at most [`MAX_LISTED`]; one that can't be used doesn't hide the others.
    pub(super) fn list(&self) -> Result<Vec<Listed>, Failure> {
        self.home.check().map_err(|e| unusable(e.to_string()))?;
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io_failure(&self.folder, &e)),
        };
        let mut names = Vec::new();
        for entry in entries.take(MAX_LISTED * 3) {
            let file = entry.map_err(|e| io_failure(&self.folder, &e))?.file_name();
            let name = file.to_str().and_then(|f| f.strip_suffix(SECRET)?.strip_suffix('.'));
            names.extend(name.and_then(|n| KeyName::parse(n).ok()));
        }
        names.sort();
        names.truncate(MAX_LISTED);
        let load = |name: KeyName| match self.load(&name).transpose()? {
            Ok(pair) => Some((name, Ok(pair))),
            Err(failure) => Some((name, Err(failure))),
        };
        Ok(names.into_iter().filter_map(load).collect())
    }

    /// Whether there was a pair to delete.
    pub(super) fn delete(&self, name: &KeyName) -> Result<bool, Failure> {
        self.home.check().map_err(|e| unusable(e.to_string()))?;
        let mut found = false;
        for extension in [SECRET, PUBLIC, META] {
            let file = self.file(name, extension);
            match fs::remove_file(&file) {
                Ok(()) => found |= extension == SECRET,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(io_failure(&file, &e)),
            }
        }
        if found {
            self.sync()?;
        }
        Ok(found)
    }

    fn check_private(&self) -> Result<(), Failure> {
        let meta = fs::symlink_metadata(&self.folder).map_err(|e| io_failure(&self.folder, &e))?;
        if meta.mode() & 0o077 != 0 {
            let at = self.folder.display();
            return Err(unusable(format!("{at} is open to others (mode {:04o})", meta.mode() & 0o7777))
                .next(format!("chmod 700 {}", text::quoted(&self.folder.to_string_lossy()))));
        }
        Ok(())
    }

    /// Writes a file under a name of its own, down to the disk.
    fn stage(&self, bytes: &[u8], mode: u32) -> Result<Staged, Failure> {
        let mut unique = [0; 8];
        getrandom::fill(&mut unique)
            .map_err(|e| Failure::failed("internal", format!("the system gives no random bytes: {e}")))?;
        let path = self.folder.join(format!(".{}.tmp", hex::encode(unique)));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            let staged = Staged(path.clone());
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            Ok(staged)
        };
        write().map_err(|e| io_failure(&path, &e))
    }

    fn sync(&self) -> Result<(), Failure> {
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(|e| io_failure(&self.folder, &e))
    }
}

/// A complete file that has no name yet; removed unless it is given one.
struct Staged(PathBuf);

impl Staged {
    /// Gives the file its name at once; without `replace`, only if the name is free.
    fn commit(self, target: &Path, replace: bool) -> io::Result<()> {
        if replace { fs::rename(&self.0, target) } else { fs::hard_link(&self.0, target) }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = fs::remove_file(&self.0);
    }
}

fn unusable(reason: String) -> Failure {
    Failure::failed("key_file", reason)
}

fn io_failure(path: &Path, error: &io::Error) -> Failure {
    unusable(format!("{}: {error}", path.display()))
}

/// Opens a plain file, never through a symlink and never waiting for one that is no file.
fn open_plain(path: &Path) -> Result<Option<(File, fs::Metadata)>, Failure> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_failure(path, &e)),
    };
    let meta = file.metadata().map_err(|e| io_failure(path, &e))?;
    if !meta.is_file() {
        return Err(unusable(format!("{} is no plain file", path.display())));
    }
    Ok(Some((file, meta)))
}

/// The secret in a file; wiped when it is dropped.
fn read_secret(path: &Path) -> Result<Option<SigningKey>, Failure> {
    let Some((mut file, meta)) = open_plain(path)? else { return Ok(None) };
    let at = path.display();
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() != user {
        return Err(unusable(format!("{at} belongs to user {}, and this program runs as {user}", meta.uid())));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(unusable(format!("{at} is open to others (mode {:04o})", meta.mode() & 0o7777))
            .next(format!("if nobody copied it, chmod 600 {}", text::quoted(&path.to_string_lossy()))));
    }
    let mut text = Zeroizing::new([0; SECRET_BYTES + 1]);
    let mut length = 0;
    while length < text.len() {
        match file.read(&mut text[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io_failure(path, &e)),
        }
    }
    let mut seed = Zeroizing::new([0; 32]);
    let digits = text[..length].strip_suffix(b"\n").unwrap_or(&text[..length]);
    hex::decode_to_slice(digits, &mut *seed)
        .map_err(|_| unusable(format!("{at} is no key: 64 hex digits and a line break are one")))?;
    Ok(Some(SigningKey::from_bytes(&seed)))
}

fn read_copy(path: &Path) -> Result<Option<String>, Failure> {
    let Some((file, _)) = open_plain(path)? else { return Ok(None) };
    let mut text = String::new();
    file.take(MAX_COPY_BYTES as u64).read_to_string(&mut text).map_err(|e| io_failure(path, &e))?;
    Ok(Some(text))
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, b| group << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use ed25519_dalek::{Signer, Verifier, VerifyingKey};
    use tempfile::TempDir;

    use super::*;

    fn store() -> (TempDir, Keystore) {
        let (dir, home) = crate::cli::testing::home();
        (dir, Keystore::of(&home))
    }

    fn name(text: &str) -> KeyName {
        KeyName::parse(text).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_name_is_1_to_64_of_the_documented_characters() {
        for good in ["a", "Lap_top-7", &"x".repeat(64)] {
            assert!(KeyName::parse(good).is_ok());
        }
        for bad in ["", ".", "../x", "a/b", "a.b", "a b", "ä", &"x".repeat(65)] {
            assert!(KeyName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_new_pair_has_three_files_with_their_modes_and_a_secret_that_signs_for_the_public_key() {
        let (_dir, store) = store();
        let pair = store.generate(&name("a"), false).unwrap();
        assert_eq!(mode(&store.folder), 0o700);
        assert_eq!([SECRET, PUBLIC, META].map(|e| mode(&store.file(&name("a"), e))), [0o600, 0o644, 0o644]);
        let seed: [u8; 32] =
            hex::decode(fs::read_to_string(&pair.secret_file).unwrap().trim_end()).unwrap().try_into().unwrap();
        let signature = SigningKey::from_bytes(&seed).sign(b"message");
        VerifyingKey::from_bytes(&pair.public_key).unwrap().verify(b"message", &signature).unwrap();
        assert_eq!(fs::read_to_string(store.file(&name("a"), PUBLIC)).unwrap(), pair.public_hex() + "\n");
        let loaded = store.load(&name("a")).unwrap().unwrap();
        assert_eq!((loaded.public_key, loaded.created_at_epoch), (pair.public_key, pair.created_at_epoch));
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 3, "no temporary file is left");
    }

    #[test]
    fn a_pair_is_replaced_only_by_force() {
        let (_dir, store) = store();
        let first = store.generate(&name("a"), false).unwrap();
        let failure = store.generate(&name("a"), false).unwrap_err();
        assert_eq!(failure.code, "conflict");
        assert!(failure.to_text().contains("--force"));
        assert_eq!(store.load(&name("a")).unwrap().unwrap().public_key, first.public_key);
        assert_ne!(store.generate(&name("a"), true).unwrap().public_key, first.public_key);
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 3);
    }

    #[test]
    fn many_writers_of_one_name_make_one_pair() {
        let (_dir, store) = store();
        let made: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8).map(|_| scope.spawn(|| store.generate(&name("a"), false))).collect();
            workers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        let made: Vec<_> = made.into_iter().flatten().collect();
        assert_eq!(made.len(), 1);
        assert_eq!(store.load(&name("a")).unwrap().unwrap().public_key, made[0].public_key);
    }

    #[test]
    fn a_secret_that_others_could_read_is_refused_with_the_fix() {
        let (_dir, store) = store();
        let pair = store.generate(&name("a"), false).unwrap();
        fs::set_permissions(&pair.secret_file, Permissions::from_mode(0o640)).unwrap();
        let text = store.load(&name("a")).unwrap_err().to_text();
        assert!(text.contains("0640") && text.contains("chmod 600"), "{text}");
    }

    #[test]
    fn a_secret_that_is_no_key_or_no_plain_file_is_refused_without_showing_it() {
        let (_dir, store) = store();
        let pair = store.generate(&name("a"), false).unwrap();
        let good = fs::read_to_string(&pair.secret_file).unwrap();
        for bad in ["", "5ec2e7", &"z".repeat(64), &format!("{}00\n", good.trim_end()), &format!("{good}\n{good}")] {
            fs::write(&pair.secret_file, bad).unwrap();
            let text = store.load(&name("a")).unwrap_err().to_text();
            assert!(text.contains("a.ed25519 is no key") && !text.contains("5ec2e7"), "{text}");
        }
        fs::remove_file(&pair.secret_file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &pair.secret_file).unwrap();
        assert!(store.load(&name("a")).is_err());
    }

    #[test]
    fn a_public_file_of_another_pair_is_noticed_and_a_missing_one_is_not_needed() {
        let (_dir, store) = store();
        store.generate(&name("a"), false).unwrap();
        store.generate(&name("b"), false).unwrap();
        fs::copy(store.file(&name("b"), PUBLIC), store.file(&name("a"), PUBLIC)).unwrap();
        assert!(store.load(&name("a")).unwrap_err().to_text().contains("is not the public key of"));
        fs::remove_file(store.file(&name("a"), PUBLIC)).unwrap();
        fs::remove_file(store.file(&name("a"), META)).unwrap();
        assert_eq!(store.load(&name("a")).unwrap().unwrap().created_at_epoch, None);
    }

    #[test]
    fn the_list_is_sorted_and_survives_a_broken_pair() {
        let (_dir, store) = store();
        assert!(store.list().unwrap().is_empty());
        for n in ["b", "a", "c"] {
            store.generate(&name(n), false).unwrap();
        }
        fs::write(store.file(&name("b"), SECRET), "no").unwrap();
        let list = store.list().unwrap();
        let seen: Vec<_> = list.iter().map(|(name, pair)| (name.0.as_str(), pair.is_ok())).collect();
        assert_eq!(seen, [("a", true), ("b", false), ("c", true)]);
    }

    #[test]
    fn deleting_leaves_nothing_and_says_whether_there_was_something() {
        let (_dir, store) = store();
        store.generate(&name("a"), false).unwrap();
        assert!(store.delete(&name("a")).unwrap());
        assert!(!store.delete(&name("a")).unwrap());
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 0);
    }

    #[test]
    fn base64_agrees_with_its_known_answers() {
        for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn ssh_keygen_takes_the_openssh_line() {
        let (dir, store) = store();
        let line = store.generate(&name("laptop"), false).unwrap().openssh();
        assert!(line.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI") && line.ends_with(" laptop"), "{line}");
        let file = dir.path().join("key.pub");
        fs::write(&file, line).unwrap();
        match Command::new("ssh-keygen").arg("-l").arg("-f").arg(&file).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success() && text.starts_with("256 SHA256:"), "{output:?}");
                assert!(text.contains("laptop (ED25519)"), "{text}");
            }
            // A machine without OpenSSH can't be asked.
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::NotFound),
        }
    }
}
