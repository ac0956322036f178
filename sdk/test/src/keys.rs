//! `astrid:keys`: real ed25519 with a fixed key per purpose, for the purposes that the manifest asks for.

use astrid_capsule::manifest::{Manifest, grant};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use wasmtime::Result as Wasm;

use crate::bindings::astrid::keys::keys::{self, Error};
use crate::engine::State;

/// The key of a purpose: the same in every test, another for every purpose.
pub(crate) fn key(purpose: &str) -> SigningKey {
    SigningKey::from_bytes(&blake3::derive_key("astrid-sdk-test 2026 keys by purpose", purpose.as_bytes()))
}

/// What `verify` answers for this key.
pub(crate) fn verifies(key: &VerifyingKey, bytes: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| key.verify_strict(bytes, &signature).is_ok())
}

fn asked(manifest: &Manifest, purpose: &str) -> Result<SigningKey, Error> {
    let Some(of) = grant::key_purpose(purpose) else {
        return Err(Error::Denied("a purpose must be 1 to 64 of a-z 0-9 -, with .N for its generation N".into()));
    };
    let ask = format!("{}:{of}", grant::KEYS);
    if !manifest.asks.iter().any(|a| a.as_str() == ask) {
        return Err(Error::Denied(format!("the manifest does not ask for `{ask}`")));
    }
    Ok(key(purpose))
}

impl keys::Host for State {
    fn sign(&mut self, purpose: String, bytes: Vec<u8>) -> Wasm<Result<Vec<u8>, Error>> {
        Ok(asked(&self.manifest, &purpose).map(|key| key.sign(&bytes).to_bytes().to_vec()))
    }

    fn verify(&mut self, purpose: String, bytes: Vec<u8>, signature: Vec<u8>) -> Wasm<Result<bool, Error>> {
        Ok(asked(&self.manifest, &purpose).map(|key| verifies(&key.verifying_key(), &bytes, &signature)))
    }

    fn public_key(&mut self, purpose: String) -> Wasm<Result<Vec<u8>, Error>> {
        Ok(asked(&self.manifest, &purpose).map(|key| key.verifying_key().to_bytes().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purpose_that_the_manifest_does_not_ask_for_is_denied() {
        let text = "asks = [\"keys:session\"]\n[package]\nname = \"a\"\nversion = \"0.1.0\"\n";
        let manifest = Manifest::parse(text).unwrap();
        assert!(asked(&manifest, "session").is_ok() && asked(&manifest, "session.4294967295").is_ok());
        let numbers =
            ["session.", "session.0", "session.01", "session.4294967296", "session.1.1", "session.+1", "session.x"];
        for purpose in ["audit", "", "Session", "*", "audit.1", ".1"].into_iter().chain(numbers) {
            assert!(matches!(asked(&manifest, purpose), Err(Error::Denied(_))), "{purpose}");
        }
    }

    #[test]
    fn a_signature_verifies_for_its_purpose_alone() {
        let signature = key("a").sign(b"text").to_bytes();
        assert!(verifies(&key("a").verifying_key(), b"text", &signature));
        assert!(!verifies(&key("b").verifying_key(), b"text", &signature));
        assert!(!verifies(&key("a").verifying_key(), b"text", &signature[..63]));
    }
}
