//! Signed notes and checkpoints: C2SP signed-note, tlog-checkpoint and tlog-cosignature, with Ed25519.
//!
//! Owns their text and what a signature in them covers. Bounded by 64 KiB and 64 signatures for a note.
//! Refuses to know: where a checkpoint is kept, whether its tree is the right one.

use std::fmt;

use base64ct::{Base64, Encoding};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use super::tree::Hash;

/// The longest note, in bytes.
pub const MAX_NOTE: usize = 64 << 10;
const MAX_SIGNATURES: usize = 64;

/// Bytes that are not what they should be, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

/// What a key signs, by its number in the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A log's own: the text of the note.
    Log = 1,
    /// A witness's: the text and the time at which it saw it.
    Witness = 4,
}

/// Whether a name may stand in a note: not empty, no spaces, no `+`, no control characters.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 256 && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// A public key under a name. Written `name+id+key`, as C2SP has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    name: String,
    kind: Kind,
    public: VerifyingKey,
}

impl Key {
    pub fn new(name: &str, kind: Kind, public: &[u8; 32]) -> Result<Self, Malformed> {
        if !is_name(name) {
            return malformed(format!("`{}` can't name a key", crate::log::clean(name)));
        }
        let Ok(public) = VerifyingKey::from_bytes(public) else { return malformed("the key is no Ed25519 key") };
        Ok(Self { name: name.to_owned(), kind, public })
    }

    /// The same key under another name.
    pub fn named(&self, name: &str) -> Result<Self, Malformed> {
        Self::new(name, self.kind, self.public.as_bytes())
    }

    /// Reads `name+id+key`.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return malformed("a public key is written name+id+key");
        };
        let decoded = Base64::decode_vec(key).unwrap_or_default();
        let (kind, public) = match decoded.split_first().map(|(kind, rest)| (kind, rest.try_into())) {
            Some((1, Ok(public))) => (Kind::Log, public),
            Some((4, Ok(public))) => (Kind::Witness, public),
            _ => return malformed("the key is no Ed25519 key of a log or a witness"),
        };
        let key = Self::new(name, kind, public)?;
        if hex::encode(key.id()) != id {
            return malformed(format!("the key's id is {}, not {}", hex::encode(key.id()), crate::log::clean(id)));
        }
        Ok(key)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What tells this key from others of its name.
    fn id(&self) -> [u8; 4] {
        let mut hash = Sha256::new().chain_update(self.name.as_bytes()).chain_update([b'\n', self.kind as u8]);
        hash.update(self.public.as_bytes());
        let hash: Hash = hash.finalize().into();
        *hash.first_chunk().expect("a hash is longer")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = Base64::encode_string(&[&[self.kind as u8], self.public.as_bytes().as_slice()].concat());
        write!(f, "{}+{}+{key}", self.name, hex::encode(self.id()))
    }
}

/// A text and who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// With its final newline.
    text: String,
    /// Names, and key ids with signatures behind them.
    signatures: Vec<(String, Vec<u8>)>,
}

impl Note {
    /// A text that nobody has signed yet. It ends in a newline.
    pub fn new(text: String) -> Self {
        Self { text, signatures: Vec::new() }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_NOTE {
            return malformed(format!("the note is longer than {MAX_NOTE} bytes"));
        }
        let Ok(whole) = std::str::from_utf8(bytes) else { return malformed("the note is not UTF-8") };
        if whole.contains(|c: char| c.is_ascii_control() && c != '\n') {
            return malformed("the note has control characters");
        }
        let Some(end) = whole.rfind("\n\n") else { return malformed("no empty line ends the note's text") };
        let (text, lines) = (&whole[..=end], &whole[end + 2..]);
        if !lines.ends_with('\n') {
            return malformed("the note's last line is cut off");
        }
        let signatures: Result<Vec<_>, Malformed> = lines.lines().map(signature).collect();
        let signatures = signatures?;
        if signatures.len() > MAX_SIGNATURES {
            return malformed(format!("the note has more than {MAX_SIGNATURES} signatures"));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds the signature of a log; `sign` makes an Ed25519 signature with `key`.
    pub fn sign(&mut self, key: &Key, sign: impl FnOnce(&[u8]) -> [u8; 64]) {
        let made = sign(self.text.as_bytes());
        self.signatures.push((key.name.clone(), [key.id().as_slice(), &made].concat()));
    }

    /// Adds the cosignature of a witness that saw this at `time`, in seconds since the Unix epoch.
    pub fn cosign(&mut self, key: &Key, time: u64, sign: impl FnOnce(&[u8]) -> [u8; 64]) {
        let made = sign(self.cosigned(time).as_bytes());
        self.signatures.push((key.name.clone(), [key.id().as_slice(), &time.to_be_bytes(), &made].concat()));
    }

    fn cosigned(&self, time: u64) -> String {
        format!("cosignature/v1\ntime {time}\n{}", self.text)
    }

    /// Whether this key has signed, and every signature of it is right. For a witness's, the time at which it saw this.
    pub fn verify(&self, key: &Key) -> Result<Option<u64>, Malformed> {
        let mut seen = None;
        for (_, signature) in self.signatures.iter().filter(|(name, s)| *name == key.name && s.starts_with(&key.id())) {
            let rest = &signature[4..];
            let (time, made) = match (key.kind, rest.split_first_chunk()) {
                (Kind::Witness, Some((time, made))) => (Some(u64::from_be_bytes(*time)), made),
                _ => (None, rest),
            };
            let text = time.map_or_else(|| self.text.clone(), |time| self.cosigned(time));
            let right =
                Signature::from_slice(made).is_ok_and(|s| key.public.verify_strict(text.as_bytes(), &s).is_ok());
            if !right {
                return malformed(format!("the signature of {} is wrong", key.name));
            }
            seen = Some(time);
        }
        seen.map_or_else(|| malformed(format!("no signature of {key}")), Ok)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for (name, signature) in &self.signatures {
            writeln!(f, "\u{2014} {name} {}", Base64::encode_string(signature))?;
        }
        Ok(())
    }
}

fn signature(line: &str) -> Result<(String, Vec<u8>), Malformed> {
    let parts = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' '));
    let Some((name, signature)) = parts.filter(|(name, _)| is_name(name)) else {
        return malformed("a signature line must be a dash, a name and a signature");
    };
    match Base64::decode_vec(signature) {
        Ok(bytes) if bytes.len() > 4 => Ok((name.to_owned(), bytes)),
        _ => malformed(format!("the signature of {name} is not Base64 of a key id and a signature")),
    }
}

/// How long a log was, and what its root was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

impl Checkpoint {
    /// The text of a note.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, Base64::encode_string(&self.root))
    }

    /// Reads a note's text. Lines after the third are somebody's extensions.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut lines = text.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return malformed("a checkpoint has an origin, a size and a root");
        };
        if origin.is_empty() {
            return malformed("the checkpoint has no origin");
        }
        let parsed = size.parse::<u64>().ok().filter(|n| n.to_string() == size);
        let Some(size) = parsed else { return malformed("the checkpoint's size is no number") };
        let root = Base64::decode_vec(root).ok().and_then(|root| root.try_into().ok());
        let Some(root) = root else { return malformed("the checkpoint's root is no hash") };
        Ok(Self { origin: origin.to_owned(), size, root })
    }

    /// Reads a note that this key has signed. The key of a log is named as the log is.
    pub fn open(bytes: &[u8], key: &Key) -> Result<Self, Malformed> {
        let note = Note::parse(bytes)?;
        note.verify(key)?;
        let checkpoint = Self::parse(note.text())?;
        if key.kind == Kind::Log && checkpoint.origin != key.name {
            return malformed(format!("the checkpoint is of {}, not of {}", checkpoint.origin, key.name));
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    fn key(seed: u8, name: &str, kind: Kind) -> (SigningKey, Key) {
        let signing = SigningKey::from_bytes(&[seed; 32]);
        let key = Key::new(name, kind, signing.verifying_key().as_bytes()).unwrap();
        (signing, key)
    }

    #[test]
    fn the_published_note_verifies_with_its_published_key() {
        let key = Key::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let whole = format!("{text}\n\u{2014} PeterNeumann {signature}\n");
        let note = Note::parse(whole.as_bytes()).unwrap();
        assert_eq!((note.verify(&key), note.text()), (Ok(None), text));
        assert_eq!((note.to_string(), key.to_string()), (whole.clone(), key.to_string()));
        let forged = Note::parse(whole.replacen("answer", "answers", 1).as_bytes()).unwrap();
        assert!(forged.verify(&key).unwrap_err().0.contains("is wrong"));
    }

    #[test]
    fn a_checkpoint_is_its_logs_and_a_cosignature_says_when_a_witness_saw_it() {
        let (log, log_key) = key(1, "example.org/log", Kind::Log);
        let (witness, witness_key) = key(2, "witness.example", Kind::Witness);
        let (_, other) = key(3, "example.org/log", Kind::Log);
        let checkpoint = Checkpoint { origin: "example.org/log".into(), size: 7, root: [9; 32] };
        let mut note = Note::new(checkpoint.text());
        note.sign(&log_key, |bytes| log.sign(bytes).to_bytes());
        assert!(note.verify(&witness_key).is_err());
        note.cosign(&witness_key, 1_700_000_000, |bytes| witness.sign(bytes).to_bytes());
        let bytes = note.to_string().into_bytes();
        assert_eq!(Checkpoint::open(&bytes, &log_key), Ok(checkpoint.clone()));
        assert_eq!(Checkpoint::open(&bytes, &witness_key), Ok(checkpoint));
        assert_eq!(Note::parse(&bytes).unwrap().verify(&witness_key), Ok(Some(1_700_000_000)));
        assert!(Checkpoint::open(&bytes, &other).unwrap_err().0.contains("no signature of"));
        let mut later = note.clone();
        later.signatures[1].1[11] ^= 1;
        assert!(later.verify(&witness_key).is_err(), "the time is signed as well");
        assert_eq!(Key::parse(&witness_key.to_string()), Ok(witness_key));
    }

    #[test]
    fn what_is_no_note_no_key_and_no_checkpoint_is_refused_with_a_reason() {
        for (text, want) in [
            ("text\n", "no empty line"),
            ("text\n\n\u{2014} a", "cut off"),
            ("text\n\n- a AAAA\n", "must be a dash"),
            ("text\n\n\u{2014} a !\n", "not Base64"),
            ("te\rxt\n\n\u{2014} a AAAAAAA=\n", "control characters"),
        ] {
            assert!(Note::parse(text.as_bytes()).unwrap_err().0.contains(want), "{text}");
        }
        for text in ["", "a+b", "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "a+00000000+AQ=="]
        {
            assert!(Key::parse(text).is_err(), "{text}");
        }
        let root = Base64::encode_string(&[0; 32]);
        for text in ["a\n1\n", &format!("a\n01\n{root}\n"), &format!("\n1\n{root}\n"), "a\n1\nAAAA\n"] {
            assert!(Checkpoint::parse(text).is_err(), "{text}");
        }
    }
}
