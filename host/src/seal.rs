//! Sealing: XChaCha20-Poly1305 under a key derived from the host's for one purpose, a random nonce for each value, bound to
//! the name that the value is kept under. Bytes that were moved to another name, or come from another host, do not open.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::keys::Keys;

/// The first byte of a sealed value: how it is sealed.
const FORM: u8 = 1;
const NONCE_BYTES: usize = 24;

pub struct Seal(XChaCha20Poly1305);

impl Seal {
    pub fn new(keys: &Keys, purpose: &str) -> Self {
        Self(XChaCha20Poly1305::new((&*keys.seal_key(purpose)).into()))
    }

    /// None: there is no randomness.
    pub fn seal(&self, name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).ok()?;
        let sealed = self.0.encrypt(XNonce::from_slice(&nonce), Payload { msg: value, aad: name }).ok()?;
        Some([&[FORM], &nonce[..], &sealed].concat())
    }

    /// None: it was not sealed here under this name, or is damaged.
    pub fn open(&self, name: &[u8], sealed: &[u8]) -> Option<Zeroizing<String>> {
        let (nonce, sealed) = sealed.strip_prefix(&[FORM])?.split_first_chunk::<NONCE_BYTES>()?;
        let opened = self.0.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: name }).ok()?;
        String::from_utf8(opened).ok().map(Zeroizing::new)
    }
}
