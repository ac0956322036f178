//! Login with a key: whoever signs a challenge with a key of a principal gets a bearer.
//!
//! A challenge is stored nowhere: it names the principal, is random and signed by us, and is good for [`LIFETIME_SECS`]. It
//! looks the same whoever it is for, so that nobody learns who exists. What was used is remembered until it has expired.

use base64ct::{Base64UrlUnpadded, Encoding};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::devices::LoggedIn;
use crate::keys::PublicKey;
use crate::payload::{self, invalid};
use crate::ports::{Ports, transact};
use crate::principals;
use crate::refusal::Refusal;
use crate::sessions;
use crate::signing;

/// How long a challenge may be answered, in seconds.
pub const LIFETIME_SECS: u64 = 60;
/// The most logins of one principal within that time.
pub const MAX_LOGINS: usize = 64;
/// What every challenge begins with, so that signing one never signs anything else.
const PREFIX: &str = "astrid-login";
/// The longest challenge that is looked at, in bytes.
const MAX_CHALLENGE: usize = 512;

/// A challenge that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    pub nonce: String,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChallengeRequest {
    principal: String,
}

/// The answer to `login.challenge`.
#[derive(Debug, Serialize)]
pub struct Challenge {
    /// To be signed as it is, in ASCII.
    pub challenge: String,
    pub expires_at_epoch: u64,
}

/// `astrid-login "." b64url(principal) "." nonce "." expiry "." hex(our signature over what is before it)`.
pub fn challenge<P: Ports>(ports: &P, payload: &[u8]) -> Result<Challenge, Refusal> {
    let ChallengeRequest { principal } = payload::read(payload)?;
    payload::principal("principal", &principal)?;
    let mut nonce = [0; 16];
    ports.random(&mut nonce)?;
    let expires_at = ports.now() + LIFETIME_SECS;
    let principal = Base64UrlUnpadded::encode_string(principal.as_bytes());
    let text = format!("{PREFIX}.{principal}.{}.{expires_at}", hex::encode(nonce));
    let signature = signing::sign(ports, text.as_bytes())?;
    Ok(Challenge { challenge: format!("{text}.{}", hex::encode(signature)), expires_at_epoch: expires_at })
}

/// The nonce and expiry of a challenge that we made for this principal and that is good now.
fn accepted<P: Ports>(ports: &P, principal: &str, challenge: &str) -> Result<Option<Used>, Refusal> {
    let Some((text, signature)) = challenge.rsplit_once('.').filter(|_| challenge.len() <= MAX_CHALLENGE) else {
        return Ok(None);
    };
    let [prefix, whose, nonce, expires_at] = *text.split('.').collect::<Vec<_>>() else { return Ok(None) };
    let (Ok(expires_at), Ok(signature)) = (expires_at.parse::<u64>(), hex::decode(signature)) else { return Ok(None) };
    let ours = prefix == PREFIX && whose == Base64UrlUnpadded::encode_string(principal.as_bytes());
    if !ours || expires_at <= ports.now() {
        return Ok(None);
    }
    let made_at = expires_at.saturating_sub(LIFETIME_SECS);
    let good = signing::verify(ports, text.as_bytes(), made_at, &signature)?;
    Ok(good.then(|| Used { nonce: nonce.into(), expires_at }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginRequest {
    principal: String,
    challenge: String,
    public_key: String,
    signature: String,
}

/// A bearer for whoever has signed a challenge with a key of an enabled principal. What is wrong remains unsaid, but for
/// fields that don't have the form. A challenge is good for one login.
pub fn login<P: Ports>(ports: &P, payload: &[u8]) -> Result<LoggedIn, Refusal> {
    let not_valid = || Refusal::Denied("the login is not valid".into());
    let LoginRequest { principal: id, challenge, public_key, signature } = payload::read(payload)?;
    payload::principal("principal", &id)?;
    let key = PublicKey::parse("public_key", &public_key)?;
    let mut bytes = [0; 64];
    hex::decode_to_slice(&signature, &mut bytes).map_err(|_| invalid("signature", "128 hexadecimal characters"))?;
    let used = accepted(ports, &id, &challenge)?.ok_or_else(not_valid)?;
    let verifying = VerifyingKey::from_bytes(key.bytes()).map_err(|_| not_valid())?;
    verifying.verify_strict(challenge.as_bytes(), &Signature::from_bytes(&bytes)).map_err(|_| not_valid())?;
    transact(ports, |transaction| {
        let now = ports.now();
        let mut principal = principals::load_in(transaction, &id)?.ok_or_else(not_valid)?;
        let device = principal.keys.iter().find(|known| known.fingerprint == key.fingerprint()).cloned();
        principal.logins.retain(|used| used.expires_at > now);
        let device = device.filter(|_| principal.enabled).ok_or_else(not_valid)?;
        if principal.logins.iter().any(|before| before.nonce == used.nonce) {
            return Err(not_valid());
        }
        if principal.logins.len() >= MAX_LOGINS {
            return Err(Refusal::Unavailable(format!("{MAX_LOGINS} logins within a minute; try again in a minute")));
        }
        principal.logins.push(used.clone());
        let session = sessions::begin(ports, transaction, &id, &principal, &device)?;
        principals::save_record(transaction, &id, &principal)?;
        Ok(LoggedIn {
            principal: id.clone(),
            public_key_fingerprint: key.fingerprint(),
            session_token: session.token,
            session_expires_at_epoch: session.expires_at,
        })
    })
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};
    use serde_json::json;

    use super::*;
    use crate::bearer;
    use crate::devices;
    use crate::testing::{Fake, NOW};

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn public(seed: u8) -> String {
        hex::encode(key(seed).verifying_key().to_bytes())
    }

    /// `bo` has key 1, `al` has key 2.
    fn fake() -> Fake {
        let fake = Fake::with(&["bo", "al"]);
        for (id, seed) in [("bo", 1), ("al", 2)] {
            let token = devices::pair(&fake, id, b"").unwrap().token;
            let request = json!({ "token": token, "public_key": public(seed) }).to_string();
            devices::redeem(&fake, request.as_bytes()).unwrap();
        }
        fake
    }

    fn challenged(fake: &Fake, id: &str) -> String {
        challenge(fake, json!({ "principal": id }).to_string().as_bytes()).unwrap().challenge
    }

    fn answered(fake: &Fake, id: &str, challenge: &str, seed: u8) -> Result<LoggedIn, Refusal> {
        let signature = hex::encode(key(seed).sign(challenge.as_bytes()).to_bytes());
        let request =
            json!({ "principal": id, "challenge": challenge, "public_key": public(seed), "signature": signature });
        login(fake, request.to_string().as_bytes())
    }

    #[test]
    fn a_signed_challenge_is_a_session_once() {
        let fake = fake();
        let challenge = challenged(&fake, "bo");
        let session = answered(&fake, "bo", &challenge, 1).unwrap();
        let who = bearer::authenticate(&fake, &session.session_token).unwrap().unwrap();
        assert_eq!((session.principal.as_str(), who.principal.as_str()), ("bo", "bo"));
        assert!(matches!(answered(&fake, "bo", &challenge, 1), Err(Refusal::Denied(_))), "it is used");
    }

    #[test]
    fn whatever_is_wrong_with_an_answer_it_is_refused_in_the_same_words() {
        let fake = fake();
        let refused = |result: Result<LoggedIn, Refusal>| match result {
            Err(Refusal::Denied(reason)) => assert_eq!(reason, "the login is not valid"),
            other => panic!("{:?}", other.map(|_| ())),
        };
        let good = challenged(&fake, "bo");
        refused(answered(&fake, "bo", &good, 2));
        refused(answered(&fake, "bo", &good, 3));
        refused(answered(&fake, "al", &good, 2));
        refused(answered(&fake, "bo", &challenged(&fake, "al"), 1));
        refused(answered(&fake, "nobody", &challenged(&fake, "nobody"), 1));
        let later = good.replacen(&(NOW + LIFETIME_SECS).to_string(), &(NOW + 9_999).to_string(), 1);
        for made_up in ["", "x", ".", "a.b.c.d.e", &good[1..], &later, &format!("{good}.00"), &"x".repeat(9_999)] {
            refused(answered(&fake, "bo", made_up, 1));
        }
        principals::disable(&fake, br#"{"principal":"bo"}"#).unwrap();
        refused(answered(&fake, "bo", &good, 1));
        principals::enable(&fake, br#"{"principal":"bo"}"#).unwrap();
        fake.set_now(NOW + LIFETIME_SECS);
        refused(answered(&fake, "bo", &good, 1));
    }

    #[test]
    fn a_challenge_says_nothing_of_whom_it_is_for_and_is_no_bearer() {
        let fake = fake();
        let (known, unknown) = (challenged(&fake, "bo"), challenged(&fake, "xy"));
        assert_eq!(known.len(), unknown.len());
        assert_eq!(bearer::authenticate(&fake, &known).unwrap(), None);
        fake.calls();
        challenged(&fake, "bo");
        let calls = fake.calls();
        challenged(&fake, "nobody");
        assert_eq!(fake.calls(), calls);
    }

    #[test]
    fn logins_within_a_minute_are_bounded() {
        let fake = fake();
        for _ in 0..MAX_LOGINS {
            answered(&fake, "bo", &challenged(&fake, "bo"), 1).unwrap();
        }
        assert!(matches!(answered(&fake, "bo", &challenged(&fake, "bo"), 1), Err(Refusal::Unavailable(_))));
        answered(&fake, "al", &challenged(&fake, "al"), 2).unwrap();
        fake.set_now(NOW + LIFETIME_SECS);
        answered(&fake, "bo", &challenged(&fake, "bo"), 1).unwrap();
    }
}
