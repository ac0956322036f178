//! Certificates that stand for a principal: whoever shows one over TLS, instead of a bearer, is let in as that principal.
//!
//! TLS has checked that somebody whom the operator trusts has signed it, and that it is good now. Here it is decided only whose
//! it is, by the SHA-256 of its DER. A certificate that is renewed is another one. Like a device, it has all rights of its
//! principal, or, with a scope, those of them that the scope covers. Bounds: [`MAX_CERTIFICATES`] of a principal, a label of
//! 128 bytes.

use serde::{Deserialize, Serialize};

use crate::bearer::{Identified, LIFETIME_SECS};
use crate::devices::{check_label, scope};
use crate::payload::{self, invalid};
use crate::ports::{Bucket, Ports, Transaction, transact};
use crate::principals;
use crate::refusal::Refusal;

/// The most certificates of one principal.
pub const MAX_CERTIFICATES: usize = 32;
/// How much of a fingerprint the name of its session has.
const NAMED_BY: usize = 32;

/// A certificate as the record of its principal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// SHA-256 of its DER, 64 lower-case hex digits.
    pub fingerprint: String,
    /// Seconds since the Unix epoch.
    pub added_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What its sessions may use of what the principal holds; none: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
}

/// 64 hex digits in any case, with colons between their pairs or without.
fn parse(text: &str) -> Result<String, Refusal> {
    let pairs = text.len() == 95 && text.bytes().skip(2).step_by(3).all(|b| b == b':');
    let hex = if pairs { text.replace(':', "") } else { text.to_owned() };
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(invalid(format!("fingerprint {}", payload::shown(text)), "a SHA-256, 64 hexadecimal characters"));
    }
    Ok(hex.to_ascii_lowercase())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BindRequest {
    fingerprint: String,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    scope: Option<Vec<String>>,
}

/// A certificate of a principal.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub fingerprint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Sorted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
    pub added_at_epoch: u64,
}

impl From<Certificate> for Row {
    fn from(Certificate { fingerprint, added_at, label, scope }: Certificate) -> Self {
        Self { fingerprint, label, scope, added_at_epoch: added_at }
    }
}

/// From now on whoever shows this certificate is the principal. One that stands for somebody already is a conflict.
pub fn bind<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<Row, Refusal> {
    let BindRequest { fingerprint, label, scope: wanted } = payload::read(payload)?;
    let fingerprint = parse(&fingerprint)?;
    check_label(label.as_deref())?;
    let scope = scope(ports, wanted)?;
    transact(ports, |transaction| {
        let mut principal = principals::existing_in(transaction, id)?;
        if transaction.get(Bucket::Certificates, &fingerprint)?.is_some() {
            return Err(Refusal::Conflict("the certificate stands for a principal already".into()));
        }
        if principal.certificates.len() >= MAX_CERTIFICATES {
            return Err(Refusal::Conflict(format!(
                "the principal has {MAX_CERTIFICATES} certificates already; remove one"
            )));
        }
        let (label, scope) = (label.clone(), scope.clone());
        let added = Certificate { fingerprint: fingerprint.clone(), added_at: ports.now(), label, scope };
        principal.certificates.push(added.clone());
        principals::save_record(transaction, id, &principal)?;
        transaction.put(Bucket::Certificates, &fingerprint, id.as_bytes())?;
        Ok(added.into())
    })
}

/// The answer to `certificate.list`, in the order in which they were bound.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct CertificateList {
    pub certificates: Vec<Row>,
}

/// The certificates of a principal.
pub fn list<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<CertificateList, Refusal> {
    payload::read_empty(payload)?;
    let principal = principals::existing(ports, id)?;
    Ok(CertificateList { certificates: principal.certificates.into_iter().map(Row::from).collect() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveRequest {
    fingerprint: String,
}

/// The answer to `certificate.remove`: an empty object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Removed {}

/// Nobody is let in with it any more, from the next request on.
pub fn remove<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<Removed, Refusal> {
    let RemoveRequest { fingerprint } = payload::read(payload)?;
    let fingerprint = parse(&fingerprint)?;
    transact(ports, |transaction| {
        let mut principal = principals::existing_in(transaction, id)?;
        let found = principal.certificates.iter().position(|certificate| certificate.fingerprint == fingerprint);
        let unknown = || Refusal::NotFound("the principal has no such certificate".into());
        principal.certificates.remove(found.ok_or_else(unknown)?);
        transaction.delete(Bucket::Certificates, &fingerprint)?;
        transaction.end_session(id, Some(&session(&fingerprint)), "its certificate is removed")?;
        // With the standing, whose change makes the host forget what it remembers of certificates.
        principals::save(transaction, id, &principal)?;
        Ok(Removed {})
    })
}

/// Whose certificate this is, if it is bound to somebody who is enabled. A refusal says nothing of the certificate: it could
/// not be judged.
pub fn authenticate<P: Ports>(ports: &P, fingerprint: &str) -> Result<Option<Identified>, Refusal> {
    let Some(id) = ports.get(Bucket::Certificates, fingerprint)? else { return Ok(None) };
    let id = String::from_utf8(id)
        .map_err(|_| Refusal::Internal("the stored principal of a certificate can't be read".into()))?;
    let Some(principal) = principals::load(ports, &id)?.filter(|principal| principal.enabled) else { return Ok(None) };
    let bound = principal.certificates.into_iter().find(|certificate| certificate.fingerprint == fingerprint);
    Ok(bound.map(|certificate| Identified {
        principal: id,
        expires_at: ports.now() + LIFETIME_SECS,
        ceiling: certificate.scope,
        session: session(fingerprint),
    }))
}

/// How sessions of a certificate are called.
fn session(fingerprint: &str) -> String {
    format!("certificate-{}", &fingerprint[..fingerprint.floor_char_boundary(NAMED_BY)])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fake, NOW};

    fn print(number: u32) -> String {
        format!("{number:064x}")
    }

    fn bound(fake: &Fake, id: &str, request: Value) -> Result<Row, Refusal> {
        bind(fake, id, request.to_string().as_bytes())
    }

    fn removed(fake: &Fake, id: &str, number: u32) -> Result<Removed, Refusal> {
        remove(fake, id, json!({ "fingerprint": print(number) }).to_string().as_bytes())
    }

    fn who(fake: &Fake, number: u32) -> Option<Identified> {
        authenticate(fake, &print(number)).unwrap()
    }

    #[test]
    fn whoever_shows_a_bound_certificate_is_its_principal_and_nobody_else_is() {
        let fake = Fake::with(&["bo", "al"]);
        let row = bound(&fake, "bo", json!({ "fingerprint": print(10), "label": "door" })).unwrap();
        assert_eq!((row.added_at_epoch, row.label.as_deref()), (NOW, Some("door")));
        let shown = who(&fake, 10).unwrap();
        assert_eq!((shown.principal.as_str(), shown.expires_at, shown.ceiling), ("bo", NOW + LIFETIME_SECS, None));
        assert_eq!(shown.session, format!("certificate-{}", "0".repeat(32)));
        assert_eq!(who(&fake, 11), None);
        assert_eq!(list(&fake, "bo", b"").unwrap().certificates, [row]);
        assert!(list(&fake, "al", b"").unwrap().certificates.is_empty());
        assert!(matches!(list(&fake, "xy", b""), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn a_fingerprint_is_taken_as_tools_show_it_and_nothing_else_is_one() {
        let fake = Fake::with(&["bo", "al"]);
        let upper = "AB".repeat(32);
        let colons = (0..32).map(|_| "CD").collect::<Vec<_>>().join(":");
        for (text, want) in [(upper, "ab".repeat(32)), (colons, "cd".repeat(32))] {
            assert_eq!(bound(&fake, "bo", json!({ "fingerprint": text })).unwrap().fingerprint, want);
        }
        for text in ["", "ab", &"g".repeat(64), &"ab".repeat(31), &"ä".repeat(32), &"a:b".repeat(32), &"x".repeat(95)]
        {
            assert!(matches!(bound(&fake, "bo", json!({ "fingerprint": text })), Err(Refusal::Invalid(_))), "{text}");
        }
        let long = json!({ "fingerprint": print(1), "label": "l".repeat(129) });
        assert!(matches!(bound(&fake, "bo", long), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn a_certificate_stands_for_one_principal_and_each_has_so_many_at_most() {
        let fake = Fake::with(&["bo", "al"]);
        for number in 0..MAX_CERTIFICATES as u32 {
            bound(&fake, "bo", json!({ "fingerprint": print(number) })).unwrap();
        }
        for id in ["bo", "al"] {
            assert!(matches!(bound(&fake, id, json!({ "fingerprint": print(0) })), Err(Refusal::Conflict(_))), "{id}");
        }
        assert!(matches!(bound(&fake, "bo", json!({ "fingerprint": print(99) })), Err(Refusal::Conflict(_))));
        assert!(matches!(bound(&fake, "xy", json!({ "fingerprint": print(99) })), Err(Refusal::NotFound(_))));
        assert!(matches!(removed(&fake, "al", 0), Err(Refusal::NotFound(_))));
        let named = who(&fake, 0).unwrap().session;
        removed(&fake, "bo", 0).unwrap();
        assert_eq!(who(&fake, 0), None);
        assert_eq!(fake.ended(), [("bo".into(), Some(named), "its certificate is removed".into())]);
        bound(&fake, "al", json!({ "fingerprint": print(0) })).unwrap();
        assert_eq!(who(&fake, 0).unwrap().principal, "al");
    }

    #[test]
    fn who_is_disabled_or_deleted_is_not_let_in_and_the_certificate_is_free_again() {
        let fake = Fake::with(&["bo", "al"]);
        bound(&fake, "bo", json!({ "fingerprint": print(1) })).unwrap();
        principals::disable(&fake, br#"{"principal":"bo"}"#).unwrap();
        assert_eq!(who(&fake, 1), None);
        principals::enable(&fake, br#"{"principal":"bo"}"#).unwrap();
        assert_eq!(who(&fake, 1).unwrap().principal, "bo");
        principals::delete(&fake, br#"{"principal":"bo"}"#).unwrap();
        assert_eq!(who(&fake, 1), None);
        bound(&fake, "al", json!({ "fingerprint": print(1) })).unwrap();
    }

    #[test]
    fn a_scope_bounds_its_sessions() {
        let fake = Fake::with(&["bo", "al"]);
        bound(&fake, "bo", json!({ "fingerprint": print(1), "scope": ["self:quota:get"] })).unwrap();
        assert_eq!(who(&fake, 1).unwrap().ceiling, Some(vec!["self:quota:get".to_owned()]));
        for wrong in [json!([]), json!(["not a capability"])] {
            let refused = bound(&fake, "bo", json!({ "fingerprint": print(2), "scope": wrong }));
            assert!(matches!(refused, Err(Refusal::Invalid(_))));
        }
    }
}
