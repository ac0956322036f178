//! Public keys of principals, and fingerprints: how people and logs name a key or an invite.

use ed25519_dalek::VerifyingKey;

use crate::payload::invalid;
use crate::refusal::Refusal;

/// The number of hexadecimal characters of a fingerprint: 16 bytes.
pub const FINGERPRINT_CHARS: usize = 32;

/// The first 16 bytes of a BLAKE3 hash, in hex.
pub fn fingerprint(hash: &blake3::Hash) -> String {
    hash.to_hex()[..FINGERPRINT_CHARS].to_owned()
}

/// An ed25519 public key that can tell a signature from a forgery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads 64 hexadecimal characters. Refuses what is no point of the curve, another spelling of one, and points of
    /// low order, for which anybody can make signatures.
    pub fn parse(field: &str, text: &str) -> Result<Self, Refusal> {
        let mut bytes = [0; 32];
        if text.len() != 64 || hex::decode_to_slice(text, &mut bytes).is_err() {
            return Err(invalid(field, format!("64 hexadecimal characters; it has {} bytes", text.len())));
        }
        let key = VerifyingKey::from_bytes(&bytes).ok();
        let canonical = key.filter(|key| key.to_edwards().compress().to_bytes() == bytes);
        match canonical {
            Some(key) if !key.is_weak() => Ok(Self(bytes)),
            Some(_) => Err(invalid(field, "an ed25519 public key of full order, not a weak one")),
            None => Err(invalid(field, "an ed25519 public key: these bytes are no point of the curve")),
        }
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// In hex.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    pub fn fingerprint(self) -> String {
        fingerprint(&blake3::hash(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::public_key;

    fn refused(text: &str) -> String {
        match PublicKey::parse("public_key", text) {
            Err(Refusal::Invalid(reason)) => reason,
            other => panic!("{text} gives {other:?}"),
        }
    }

    #[test]
    fn a_real_key_is_read_in_either_case_and_named_by_its_hash() {
        let text = public_key(7);
        let key = PublicKey::parse("public_key", &text.to_uppercase()).unwrap();
        assert_eq!(key.to_hex(), text);
        let hash = blake3::hash(&hex::decode(&text).unwrap());
        assert_eq!(key.fingerprint(), hex::encode(&hash.as_bytes()[..16]));
    }

    #[test]
    fn what_is_not_64_hexadecimal_characters_is_invalid() {
        for text in ["", "00", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64), &"ä".repeat(32)] {
            assert!(refused(text).starts_with("public_key must be 64 hexadecimal"), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_point_or_another_spelling_of_one_are_invalid() {
        let mut two = [0; 32];
        two[0] = 2;
        assert!(refused(&hex::encode(two)).contains("no point"));
        // y = p + 3 stands for y = 3, which is on the curve.
        let mut spelling = [0xff; 32];
        (spelling[0], spelling[31]) = (0xed + 3, 0x7f);
        assert!(VerifyingKey::from_bytes(&spelling).is_ok());
        assert!(refused(&hex::encode(spelling)).contains("no point"));
    }

    #[test]
    fn keys_for_which_anybody_can_sign_are_invalid() {
        let zero = [0; 32];
        let mut one = [0; 32];
        one[0] = 1;
        for weak in [zero, one] {
            assert!(refused(&hex::encode(weak)).contains("weak"));
        }
    }
}
