//! Signing keys that no guest sees: one Ed25519 key for each purpose, derived from the host's secret.
//!
//! Owns `keys/host.key` (32 random bytes in hex, mode 0600). A purpose's seed is BLAKE3 in key-derivation mode over the
//! secret and the purpose, so a signature for one purpose never verifies for another. Remembers the keys of purposes, bounded
//! by those that manifests were granted, and derives those of their generations (`purpose.N`) each time. Refuses to know what is signed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::RwLock;

use anyhow::{Context, bail};
use ed25519_dalek::{Signature, Signer, SigningKey};
use zeroize::Zeroizing;

const CONTEXT: &str = "astrid 2026-11 host key, ed25519 seed by purpose";
const SEAL_CONTEXT: &str = "astrid 2026-11 host key, seal by purpose";
const MAC_CONTEXT: &str = "astrid 2026-11 host key, mac by purpose";

pub struct Keys {
    secret: Zeroizing<[u8; 32]>,
    by_purpose: RwLock<HashMap<String, SigningKey>>,
}

impl Keys {
    /// Reads the host's secret, or makes one where there is none.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let text = match crate::files::read_private(path, 128) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut fresh = Zeroizing::new([0; 32]);
                getrandom::fill(&mut *fresh).context("no randomness for the host key")?;
                let text = Zeroizing::new(hex::encode(*fresh).into_bytes());
                crate::files::write_private(path, &text).with_context(|| format!("can't write {}", path.display()))?;
                text
            }
            Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
        };
        let mut secret = Zeroizing::new([0; 32]);
        if hex::decode_to_slice(text.trim_ascii(), &mut *secret).is_err() {
            bail!("{} is damaged: it must hold 64 hex characters; restore it from a backup", path.display());
        }
        Ok(Self { secret, by_purpose: RwLock::new(HashMap::new()) })
    }

    fn with<R>(&self, purpose: &str, f: impl FnOnce(&SigningKey) -> R) -> R {
        if let Some(key) = self.by_purpose.read().expect("no panic under this lock").get(purpose) {
            return f(key);
        }
        let key = SigningKey::from_bytes(&self.derive(CONTEXT, purpose));
        let answer = f(&key);
        if purpose.contains('.') {
            return answer;
        }
        self.by_purpose.write().expect("no panic under this lock").insert(purpose.to_owned(), key);
        answer
    }

    fn derive(&self, context: &str, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&*self.secret).update(purpose.as_bytes());
        Zeroizing::new(hasher.finalize().into())
    }

    pub fn sign(&self, purpose: &str, bytes: &[u8]) -> [u8; 64] {
        self.with(purpose, |key| key.sign(bytes).to_bytes())
    }

    /// Strict verification (no small-order keys, canonical encodings only).
    pub fn verify(&self, purpose: &str, bytes: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        self.with(purpose, |key| key.verifying_key().verify_strict(bytes, &signature).is_ok())
    }

    pub fn public_key(&self, purpose: &str) -> [u8; 32] {
        self.with(purpose, |key| key.verifying_key().to_bytes())
    }

    /// A secret for BLAKE3's keyed mode, for what only this host may have written.
    pub fn mac_key(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        self.derive(MAC_CONTEXT, purpose)
    }

    /// A secret for an AEAD, for what only this host may read.
    pub fn seal_key(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        self.derive(SEAL_CONTEXT, purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_for_one_purpose_never_verifies_for_another_and_keys_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.key");
        let keys = Keys::open(&path).unwrap();
        let signature = keys.sign("session", b"x");
        assert!(keys.verify("session", b"x", &signature));
        assert!(!keys.verify("other", b"x", &signature));
        assert!(!keys.verify("session", b"y", &signature));
        assert!(!keys.verify("session", b"x", &signature[..63]));
        assert!(
            !keys.verify("session.1", b"x", &signature)
                && keys.verify("session.1", b"x", &keys.sign("session.1", b"x"))
        );
        assert!(!keys.by_purpose.read().unwrap().contains_key("session.1"), "generations cost no memory");
        let again = Keys::open(&path).unwrap();
        assert!(again.verify("session", b"x", &signature));
        assert_eq!(again.public_key("session"), keys.public_key("session"));
    }

    #[test]
    fn a_damaged_or_readable_key_file_is_refused_with_its_path() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.key");
        Keys::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = format!("{:#}", Keys::open(&path).err().unwrap());
        assert!(error.contains("host.key") && error.contains("0600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "nonsense").unwrap();
        assert!(format!("{:#}", Keys::open(&path).err().unwrap()).contains("damaged"));
    }
}
