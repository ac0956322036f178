//! What is known of a client by the certificate that it has shown.
//!
//! Owns its name: the SHA-256 of its DER. Reads one field of its subject, for people, and nothing else: whether it is signed,
//! by whom and for when, TLS has judged before. Bounded by: [`MAX_NAME_BYTES`]. Refuses to know: whose it is.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::der::{SEQUENCE, element, inside};

/// The longest common name that is passed on, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// A certificate that one of `http.tls.client-ca` vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// See [`fingerprint`].
    pub fingerprint: String,
    /// Of its subject, for people: others may have the same. None if there is none, or it is too long or no plain text.
    pub common_name: Option<String>,
}

impl Certificate {
    pub(super) fn of(der: &[u8]) -> Self {
        Self { fingerprint: fingerprint(der), common_name: common_name(der).and_then(plain).map(str::to_owned) }
    }
}

/// The common name in the content of a distinguished name, for people.
pub(super) fn name(names: &[u8]) -> Option<&str> {
    last_common_name(names).and_then(plain)
}

fn plain(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    (text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control)).then_some(text)
}

/// The SHA-256 of a certificate's DER, 64 lower-case hex digits.
pub fn fingerprint(der: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(der) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

const SET: u8 = 0x31;
/// The version stands in a tag of its own, and may be left out.
const VERSION: u8 = 0xa0;
/// UTF8String, PrintableString, IA5String.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
/// 2.5.4.3, `id-at-commonName`.
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];

/// The common name of a certificate's subject. None where it is not as RFC 5280 has it.
fn common_name(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = inside(SEQUENCE, der)?;
    let (mut rest, _) = inside(SEQUENCE, certificate)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, algorithm, issuer, validity.
    for _ in 0..4 {
        rest = element(rest)?.2;
    }
    let (names, _) = inside(SEQUENCE, rest)?;
    last_common_name(names)
}

/// The last common name in the content of a distinguished name.
fn last_common_name(mut names: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    while !names.is_empty() {
        let (mut set, after) = inside(SET, names)?;
        names = after;
        while !set.is_empty() {
            let (attribute, after) = inside(SEQUENCE, set)?;
            set = after;
            let Some(value) = attribute.strip_prefix(COMMON_NAME) else { continue };
            let (tag, text, _) = element(value)?;
            if TEXTS.contains(&tag) {
                found = Some(text);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn named(values: Vec<(DnType, DnValue)>) -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        values.into_iter().for_each(|(kind, value)| params.distinguished_name.push(kind, value));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_is_read_and_a_text_for_no_person_is_none() {
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        let name = |value| Certificate::of(&named(vec![(DnType::CommonName, value)])).common_name;
        assert_eq!(name(utf8("ada's laptöp")).as_deref(), Some("ada's laptöp"));
        assert_eq!(name(DnValue::PrintableString("ada".try_into().unwrap())).as_deref(), Some("ada"));
        assert_eq!(name(utf8("a\nb")), None);
        assert_eq!(name(utf8(&"n".repeat(129))), None);
        let more = vec![(DnType::OrganizationName, utf8("CN=other")), (DnType::CommonName, utf8("bo"))];
        assert_eq!(Certificate::of(&named(more)).common_name.as_deref(), Some("bo"));
        assert_eq!(Certificate::of(&named(vec![(DnType::CountryName, utf8("AT"))])).common_name, None);
    }

    #[test]
    fn a_fingerprint_is_the_sha_256_that_openssl_shows_without_its_colons() {
        assert_eq!(fingerprint(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_they_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..600) {
            common_name(&bytes);
            let whole = named(vec![(DnType::CommonName, DnValue::Utf8String("ada".into()))]);
            let mut cut_short = whole[..cut.min(whole.len())].to_vec();
            common_name(&cut_short);
            if let Some(byte) = bytes.first() && !cut_short.is_empty() {
                let at = usize::from(*byte) % cut_short.len();
                cut_short[at] ^= 0xff;
                common_name(&cut_short);
            }
        }
    }
}
