//! Bearers, version 2: `b64url(principal) "." b64url(iat) "." b64url(exp) "." hex(sig)`, unpadded base64, ed25519 with
//! the key of purpose `session` over the ASCII text `principal:iat:exp`.
//!
//! A bearer is good only as long as its session says so ([`sessions`]), and until it expires, its principal is disabled or
//! everything issued until then is revoked. Parsing takes at most [`MAX_BYTES`] and exactly one spelling of each bearer.

use astrid_capsule::PrincipalId;
use base64ct::{Base64UrlUnpadded, Encoding};

use crate::keys;
use crate::ports::{Bucket, Ports};
use crate::principals::{self, DEFAULT, Principal};
use crate::refusal::Refusal;
use crate::sessions;
use crate::signing;

/// How long a bearer is good, in seconds: 8 hours.
pub const LIFETIME_SECS: u64 = 28_800;
/// How far in the future `iat` may be, in seconds: a clock that was set back.
pub const MAX_SKEW_SECS: u64 = 60;
/// The longest bearer that is looked at, in bytes.
pub const MAX_BYTES: usize = 1024;
/// How the session of the Unix socket is called; those of bearers have fingerprints.
const SOCKET: &str = "socket";

/// A signed bearer, for its owner alone.
pub struct Bearer {
    pub token: String,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
}

/// Who presented a credential, and until when that may be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    pub principal: String,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
    /// What the session may use of what the principal holds; none: all of it.
    pub ceiling: Option<Vec<String>>,
    /// What tells the session from the others of its principal.
    pub session: String,
}

/// A bearer taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub principal: PrincipalId,
    /// Seconds since the Unix epoch.
    pub issued_at: u64,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
}

impl Claims {
    fn signed_text(&self) -> String {
        format!("{}:{}:{}", self.principal, self.issued_at, self.expires_at)
    }

    fn encode(&self, signature: &[u8]) -> String {
        let part = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        let (issued, expires) = (part(&self.issued_at.to_string()), part(&self.expires_at.to_string()));
        format!("{}.{issued}.{expires}.{}", part(self.principal.as_str()), hex::encode(signature))
    }

    /// The claims and the signature, if `text` is exactly how [`Claims::encode`] writes them.
    fn parse(text: &str) -> Option<(Self, [u8; 64])> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut parts = text.split('.');
        let mut part = || String::from_utf8(Base64UrlUnpadded::decode_vec(parts.next()?).ok()?).ok();
        let principal = PrincipalId::parse(&part()?).ok()?;
        let issued_at = part()?.parse().ok()?;
        let expires_at = part()?.parse().ok()?;
        let mut signature = [0; 64];
        hex::decode_to_slice(parts.next()?, &mut signature).ok()?;
        let claims = Self { principal, issued_at, expires_at };
        (claims.encode(&signature) == text).then_some((claims, signature))
    }
}

/// How logs and records name a bearer.
pub fn fingerprint(token: &str) -> String {
    keys::fingerprint(&blake3::hash(token.as_bytes()))
}

/// Signs a bearer. It counts only with a session.
pub fn sign<P: Ports>(ports: &P, id: &str, issued_at: u64, expires_at: u64) -> Result<Bearer, Refusal> {
    let principal = PrincipalId::parse(id).map_err(|error| Refusal::Internal(error.to_string()))?;
    let claims = Claims { principal, issued_at, expires_at };
    let token = claims.encode(&signing::sign(ports, claims.signed_text().as_bytes())?);
    Ok(Bearer { token, expires_at })
}

/// What a bearer says, if it is signed by us and good now by its own times.
pub fn verified<P: Ports>(ports: &P, text: &str) -> Result<Option<Claims>, Refusal> {
    let Some((claims, signature)) = Claims::parse(text) else { return Ok(None) };
    let now = ports.now();
    if claims.expires_at <= now || claims.issued_at > now.saturating_add(MAX_SKEW_SECS) {
        return Ok(None);
    }
    let good = signing::verify(ports, claims.signed_text().as_bytes(), claims.issued_at, &signature)?;
    Ok(good.then_some(claims))
}

/// Whether the record of its principal lets a verified bearer in, whatever its session says.
pub fn stands(principal: &Principal, claims: &Claims) -> bool {
    principal.enabled && principal.revoked_at.is_none_or(|revoked_at| claims.issued_at > revoked_at)
}

/// Whose bearer this is, if it is good now. A refusal says nothing of the bearer: it could not be judged.
pub fn authenticate<P: Ports>(ports: &P, text: &str) -> Result<Option<Identified>, Refusal> {
    let Some(claims) = verified(ports, text)? else { return Ok(None) };
    let Some(principal) = principals::load(ports, claims.principal.as_str())? else { return Ok(None) };
    if !stands(&principal, &claims) {
        return Ok(None);
    }
    let found = ports.get(Bucket::Sessions, &sessions::key_of(text, claims.expires_at))?;
    let Some(session) = sessions::live(found)? else { return Ok(None) };
    let Some(device) = session.device(&principal) else { return Ok(None) };
    Ok(Some(Identified {
        principal: claims.principal.as_str().into(),
        expires_at: claims.expires_at,
        ceiling: device.scope.clone(),
        session: session.name,
    }))
}

/// Who is behind a connection of the Unix socket: the user that runs the host is [`DEFAULT`], others are nobody.
pub fn unix_peer<P: Ports>(ports: &P, owner: bool) -> Option<Identified> {
    owner.then(|| Identified {
        principal: DEFAULT.into(),
        expires_at: ports.now() + LIFETIME_SECS,
        ceiling: None,
        session: SOCKET.into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::signing::PURPOSE;
    use crate::testing::{self, Fake, NOW, signature};

    fn fake() -> Fake {
        let fake = Fake::started();
        let record = fake.value(Bucket::Principals, "default").unwrap();
        fake.set(Bucket::Principals, "default", &with_key(record));
        fake
    }

    fn begun(fake: &Fake, id: &str) -> Bearer {
        testing::begin(fake, id, None)
    }

    /// A bearer with a session of a key that `default` has, whoever signed it.
    fn signed(fake: &Fake, principal: &str, issued_at: u64, expires_at: u64, purpose: &str) -> String {
        let claims = Claims { principal: PrincipalId::parse(principal).unwrap(), issued_at, expires_at };
        let token = claims.encode(&signature(purpose, claims.signed_text().as_bytes()));
        let session = json!({"device": "k", "number": 0, "name": "s", "started_at": issued_at});
        fake.set(Bucket::Sessions, &sessions::key_of(&token, expires_at), &session);
        token
    }

    fn with_key(record: Value) -> Value {
        let Value::Object(mut record) = record else { panic!() };
        let key = json!({"fingerprint": "k", "public_key": "00", "added_at": 1, "number": 0});
        record.insert("keys".into(), json!([key]));
        record.into()
    }

    fn who(fake: &Fake, text: &str) -> Option<Identified> {
        authenticate(fake, text).unwrap()
    }

    #[test]
    fn an_issued_bearer_has_the_documented_form_and_is_good_for_eight_hours() {
        let fake = fake();
        let session = begun(&fake, "default");
        let part = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        let signed = signature("session", format!("default:{NOW}:{}", NOW + 28_800).as_bytes());
        let (iat, exp) = (part(&NOW.to_string()), part(&(NOW + 28_800).to_string()));
        assert_eq!(session.token, format!("{}.{iat}.{exp}.{}", part("default"), hex::encode(signed)));
        let (principal, expires_at) = ("default".into(), NOW + 28_800);
        let identified =
            Some(Identified { principal, expires_at, ceiling: None, session: fingerprint(&session.token) });
        assert_eq!(who(&fake, &session.token), identified);
        fake.set_now(NOW + 28_799);
        assert_eq!(who(&fake, &session.token), identified);
        fake.set_now(NOW + 28_800);
        assert_eq!(who(&fake, &session.token), None);
    }

    #[test]
    fn a_bearer_from_the_future_is_rejected_beyond_a_minute_of_skew() {
        let fake = fake();
        assert!(who(&fake, &signed(&fake, "default", NOW + 60, NOW + 100, PURPOSE)).is_some());
        assert!(who(&fake, &signed(&fake, "default", NOW + 61, NOW + 100, PURPOSE)).is_none());
        assert!(who(&fake, &signed(&fake, "default", u64::MAX, u64::MAX, PURPOSE)).is_none());
    }

    #[test]
    fn a_signature_made_for_another_purpose_or_other_claims_is_rejected() {
        let fake = fake();
        assert!(who(&fake, &signed(&fake, "default", NOW, NOW + 100, "invite")).is_none());
        let good = signed(&fake, "default", NOW, NOW + 100, PURPOSE);
        let longer = signed(&fake, "default", NOW, NOW + 1_000, PURPOSE);
        let forged = format!("{}.{}", longer.rsplit_once('.').unwrap().0, good.rsplit_once('.').unwrap().1);
        assert!(who(&fake, &good).is_some() && who(&fake, &forged).is_none());
    }

    #[test]
    fn no_changed_byte_leaves_a_bearer_good() {
        let fake = fake();
        let good = signed(&fake, "default", NOW, NOW + 100, PURPOSE);
        for at in 0..good.len() {
            for other in ["A", "a", "0", "f", ".", "=", "~"] {
                let tampered = format!("{}{other}{}", &good[..at], &good[at + 1..]);
                assert!(tampered == good || who(&fake, &tampered).is_none(), "{tampered}");
            }
            assert!(who(&fake, &good[..at]).is_none());
        }
        for tampered in [format!("{good}."), format!("{good}0"), format!(" {good}"), good.replace('.', "..")] {
            assert!(who(&fake, &tampered).is_none(), "{tampered}");
        }
    }

    #[test]
    fn a_bearer_has_one_spelling() {
        let (principal, number) = ("ZGVmYXVsdA", |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes()));
        let (iat, exp, sig) = (number("7"), number("9"), "ab".repeat(64));
        assert!(Claims::parse(&format!("{principal}.{iat}.{exp}.{sig}")).is_some());
        for other in [
            format!("{principal}.{}.{exp}.{sig}", number("07")),
            format!("{principal}.{}.{exp}.{sig}", number("+7")),
            format!("{principal}.{}.{exp}.{sig}", number(" 7")),
            format!("{principal}.{}.{exp}.{sig}", number("18446744073709551616")),
            format!("{principal}==.{iat}.{exp}.{sig}"),
            format!("ZGVmYXVsdB.{iat}.{exp}.{sig}"),
            format!("{principal}.{iat}.{exp}.{}", sig.to_uppercase()),
            format!("{principal}.{iat}.{exp}.{sig}.{sig}"),
            format!("{principal}.{iat}.{sig}"),
            format!("{}.{iat}.{exp}.{sig}", number("a:b")),
            format!("{}.{iat}.{exp}.{sig}", number(&"p".repeat(65))),
        ] {
            assert!(Claims::parse(&other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_bearer_of_an_unknown_or_disabled_principal_is_rejected() {
        let fake = fake();
        assert!(who(&fake, &signed(&fake, "nobody", NOW, NOW + 100, PURPOSE)).is_none());
        let bearer = signed(&fake, "eve", NOW, NOW + 100, PURPOSE);
        let mut eve = with_key(json!({"enabled": true, "groups": [], "grants": [], "revokes": [], "created_at": 1}));
        fake.set(Bucket::Principals, "eve", &eve);
        assert!(who(&fake, &bearer).is_some());
        eve["enabled"] = false.into();
        fake.set(Bucket::Principals, "eve", &eve);
        assert!(who(&fake, &bearer).is_none());
    }

    #[test]
    fn what_was_issued_at_or_before_the_revocation_is_rejected_and_what_came_after_is_not() {
        let fake = fake();
        let eve = with_key(json!({"enabled": true, "groups": [], "grants": [], "revokes": [], "created_at": 1,
                                  "revoked_at": NOW}));
        fake.set(Bucket::Principals, "eve", &eve);
        for (issued_at, good) in [(NOW - 1, false), (NOW, false), (NOW + 1, true)] {
            assert_eq!(who(&fake, &signed(&fake, "eve", issued_at, NOW + 100, PURPOSE)).is_some(), good, "{issued_at}");
        }
    }

    #[test]
    fn a_bearer_that_could_not_be_judged_is_not_rejected() {
        let fake = fake();
        let bearer = signed(&fake, "default", NOW, NOW + 100, PURPOSE);
        fake.go_away();
        assert!(matches!(authenticate(&fake, &bearer), Err(Refusal::Unavailable(_))));
        assert_eq!(authenticate(&fake, "rubbish"), Ok(None));
    }

    #[test]
    fn a_bearer_without_a_session_or_whose_key_is_gone_or_another_is_rejected() {
        let fake = fake();
        let bearer = signed(&fake, "default", NOW, NOW + 100, PURPOSE);
        let key = sessions::key_of(&bearer, NOW + 100);
        assert!(who(&fake, &bearer).is_some());
        let session = fake.value(Bucket::Sessions, &key).unwrap();
        for (field, value) in [("device", json!("other")), ("number", json!(1)), ("ended", json!(true))] {
            let mut changed = session.clone();
            changed[field] = value;
            fake.set(Bucket::Sessions, &key, &changed);
            assert!(who(&fake, &bearer).is_none(), "{field}");
        }
        assert!(fake.delete(Bucket::Sessions, &key).unwrap());
        assert!(who(&fake, &bearer).is_none(), "signed is not enough");
    }

    #[test]
    fn a_malformed_bearer_costs_no_verification_and_no_read() {
        let fake = fake();
        let expired = signed(&fake, "default", NOW - 9, NOW - 1, PURPOSE);
        fake.calls();
        for text in ["", ".", "...", "a.b.c.d", &"a".repeat(1_000_000), &expired] {
            assert!(who(&fake, text).is_none());
        }
        assert!(fake.calls().is_empty());
    }

    #[test]
    fn the_owner_of_the_host_is_default_and_other_users_are_nobody() {
        let fake = fake();
        let (principal, expires_at) = ("default".into(), NOW + 28_800);
        let identified = Identified { principal, expires_at, ceiling: None, session: SOCKET.into() };
        assert_eq!(unix_peer(&fake, true), Some(identified));
        assert_eq!(unix_peer(&fake, false), None);
    }

    proptest! {
        #[test]
        fn claims_read_back_as_they_were_written(
            principal in "[A-Za-z0-9_-]{1,64}",
            issued_at: u64,
            expires_at: u64,
            halves: ([u8; 32], [u8; 32]),
        ) {
            let claims = Claims { principal: PrincipalId::parse(&principal).unwrap(), issued_at, expires_at };
            let signature = [halves.0, halves.1].concat();
            let text = claims.encode(&signature);
            prop_assert!(text.len() <= MAX_BYTES);
            let (read, bytes) = Claims::parse(&text).unwrap();
            prop_assert_eq!((read, &bytes[..]), (claims, &signature[..]));
        }

        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_takes_is_how_it_is_written(
            text in prop_oneof![
                ".{0,200}",
                "[A-Za-z0-9_.-]{0,300}",
                "([A-Za-z0-9_-]{0,8}\\.){2,4}[0-9a-f]{128}",
            ],
        ) {
            if let Some((claims, signature)) = Claims::parse(&text) {
                prop_assert_eq!(claims.encode(&signature), text);
            }
        }
    }
}
