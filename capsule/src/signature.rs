//! Ed25519 signatures of what is published: an archive's `hashes`, a registry's index.
//!
//! Owns the domain that each is signed in, so that a signature of one never verifies as the other, and how keys and
//! signatures are written. Bounded: [`MAX_SIGNATURES`] of one thing. Refuses to know whom anybody trusts.

use std::fmt;

use base64ct::{Base64, Encoding};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

use crate::{Invalid, shown};

/// The most signatures that one thing has.
pub const MAX_SIGNATURES: usize = 16;

/// A line is `ed25519`, 32 hex digits, and 88 characters of base64.
const LINE_BYTES: u64 = 7 + 1 + 32 + 1 + 88 + 1;
pub(crate) const MAX_LINES_BYTES: u64 = MAX_SIGNATURES as u64 * LINE_BYTES;

const ALGORITHM: &str = "ed25519";

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An archive's `hashes`.
    Capsule,
    /// A registry's index.
    Index,
}

impl Purpose {
    fn domain(self) -> &'static [u8] {
        match self {
            Purpose::Capsule => b"astrid 2026-11 signature of a capsule's hashes\n",
            Purpose::Index => b"astrid 2026-11 signature of a registry's index\n",
        }
    }

    fn statement(self, bytes: &[u8]) -> Vec<u8> {
        [self.domain(), bytes].concat()
    }
}

/// How a key is named: the first 16 bytes of BLAKE3 of its 32 public bytes, in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// 32 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut id = [0; 16];
        let canonical = hex::decode_to_slice(text, &mut id).is_ok() && Self(id).to_string() == text;
        if canonical { Ok(Self(id)) } else { Err(Invalid(format!("`{}` is no key id of 32 hex digits", shown(text)))) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What signatures are verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// 64 hex digits. A key for which anybody could sign, or that has another spelling, is refused.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| Invalid(format!("`{}` is no public key of 64 hex digits", shown(text))))?;
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() && key.to_edwards().compress().to_bytes() == bytes => Ok(Self(key)),
            _ => Err(Invalid(format!("`{}` is no usable Ed25519 key", shown(text)))),
        }
    }

    pub fn to_hex(&self) -> String {
        hex::encode(self.0.as_bytes())
    }

    pub fn id(&self) -> KeyId {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(self.0.as_bytes()).as_bytes()[..16]);
        KeyId(id)
    }

    /// Strictly: no small-order keys, canonical encodings only.
    pub fn verifies(&self, purpose: Purpose, bytes: &[u8], signature: &Signature) -> bool {
        let made = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        signature.key == self.id() && self.0.verify_strict(&purpose.statement(bytes), &made).is_ok()
    }
}

/// What signatures are made with. Erased from memory when it is dropped; never shown.
pub struct SecretKey(SigningKey);

impl SecretKey {
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The same bytes always get the same signature.
    pub fn sign(&self, purpose: Purpose, bytes: &[u8]) -> Signature {
        let made = self.0.sign(&purpose.statement(bytes));
        Signature { key: self.public().id(), bytes: made.to_bytes() }
    }
}

/// A claim that the holder of a key has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    pub key: KeyId,
    bytes: [u8; 64],
}

/// One line for each.
pub fn lines(signatures: &[Signature]) -> String {
    let line = |one: &Signature| format!("{ALGORITHM} {} {}\n", one.key, Base64::encode_string(&one.bytes));
    signatures.iter().map(line).collect()
}

/// What [`lines`] wrote: one to [`MAX_SIGNATURES`] of them, in their one spelling.
pub fn parse_lines(text: &str) -> Result<Vec<Signature>, Invalid> {
    let mut signatures = Vec::new();
    for (n, line) in text.split_inclusive('\n').enumerate() {
        if n == MAX_SIGNATURES {
            return Err(Invalid(format!("there are more than {MAX_SIGNATURES} signatures")));
        }
        let signature = parse_line(line).ok_or_else(|| {
            Invalid(format!("line {}: `{}` must be `{ALGORITHM}`, a key id and a signature", n + 1, shown(line)))
        })?;
        signatures.push(signature);
    }
    if signatures.is_empty() { Err(Invalid("there is no signature".into())) } else { Ok(signatures) }
}

fn parse_line(line: &str) -> Option<Signature> {
    let (key, encoded) = line.strip_prefix(ALGORITHM)?.strip_prefix(' ')?.strip_suffix('\n')?.split_once(' ')?;
    let mut bytes = [0; 64];
    // Refuses other alphabets, missing padding and bits that stand for nothing.
    let whole = Base64::decode(encoded, &mut bytes).ok()?.len() == bytes.len();
    whole.then_some(Signature { key: KeyId::parse(key).ok()?, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    #[test]
    fn a_signature_verifies_for_its_key_purpose_and_bytes_alone() {
        let signature = key(1).sign(Purpose::Capsule, b"hashes");
        assert!(key(1).public().verifies(Purpose::Capsule, b"hashes", &signature));
        assert!(!key(1).public().verifies(Purpose::Index, b"hashes", &signature));
        assert!(!key(1).public().verifies(Purpose::Capsule, b"hashes\n", &signature));
        assert!(!key(2).public().verifies(Purpose::Capsule, b"hashes", &signature));
        let renamed = Signature { key: key(2).public().id(), ..signature };
        assert!(!key(2).public().verifies(Purpose::Capsule, b"hashes", &renamed));
        for n in 0..64 {
            let mut bytes = signature.bytes;
            bytes[n] ^= 1;
            assert!(!key(1).public().verifies(Purpose::Capsule, b"hashes", &Signature { bytes, ..signature }), "{n}");
        }
    }

    #[test]
    fn lines_read_back_and_have_one_spelling() {
        let signatures = [key(1).sign(Purpose::Index, b"x"), key(2).sign(Purpose::Index, b"x")];
        let text = lines(&signatures);
        assert_eq!(text.len() as u64, 2 * LINE_BYTES);
        assert_eq!(parse_lines(&text).unwrap(), signatures);
        let one = lines(&signatures[..1]);
        let id = signatures[0].key.to_string();
        for bad in [
            String::new(),
            "\n".into(),
            one.trim_end().into(),
            one.replace('\n', "\r\n"),
            one.replace("ed25519", "rsa"),
            one.replace(' ', "  "),
            one.replace(&id, &id.to_uppercase()),
            one.replace(&id, &id[1..]),
            one.replace("==", ""),
            one.replace("==\n", "AA==\n"),
            format!("{one}\n"),
            one.repeat(MAX_SIGNATURES + 1),
        ] {
            assert!(parse_lines(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_that_are_none_or_weak_are_refused() {
        let good = key(1).public().to_hex();
        assert_eq!(PublicKey::parse(&good).unwrap(), key(1).public());
        assert_eq!(key(1).public().id().to_string().len(), 32);
        // The neutral element, for which anybody could sign.
        let weak = format!("01{}", "00".repeat(31));
        for bad in ["", &good[1..], &good.replace(|c: char| c.is_ascii_digit(), "g"), &weak, &"ff".repeat(32)] {
            assert!(PublicKey::parse(bad).is_err(), "{bad}");
        }
    }
}
