//! Devices: the keys of a principal, and pair tokens, by which it gets another one without anybody's help.
//!
//! A pair token is good once and for minutes; the principal's record has its hash and nothing else of it, so it ends with
//! the principal. Bounds: [`MAX_DEVICES`] keys, [`MAX_PAIRINGS`] tokens at once, a label of 128 bytes.
//! A device has all rights of its principal, or, with a scope, those of them that the scope covers. Its sessions end with it.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::groups;
use crate::keys::PublicKey;
use crate::payload::{self, bounded, invalid};
use crate::ports::{Bucket, Ports, Transaction, transact};
use crate::principals::{self, Key};
use crate::refusal::Refusal;
use crate::sessions;

/// The most keys of one principal.
pub const MAX_DEVICES: usize = 32;
/// The most pair tokens of one principal that are good at once.
pub const MAX_PAIRINGS: usize = 8;
/// The longest label, in bytes.
pub const MAX_LABEL: usize = 128;
/// The most capabilities of a scope.
pub const MAX_SCOPE: usize = 32;
const DEFAULT_EXPIRY_SECS: u32 = 300;
const MAX_EXPIRY_SECS: u32 = 3_600;
/// What every token begins with; the principal and 32 random bytes in base64url follow, with a dot between.
const PREFIX: &str = "astrid-pair-";
/// The longest text that is looked at, in bytes.
const MAX_TOKEN: usize = 256;

/// A pair token as its principal's record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairing {
    /// BLAKE3 of the token, in hex.
    pub hash: String,
    /// Seconds since the Unix epoch; at that second it is expired.
    pub expires_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PairRequest {
    #[serde(default)]
    expires_secs: Option<Number>,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    scope: Option<Vec<String>>,
}

/// The answer to `device.pair`, for the principal alone.
#[derive(Serialize)]
pub struct PairToken {
    pub token: String,
    pub principal: String,
    pub expires_at_epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Sorted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
}

/// The label of a device or a certificate.
pub fn check_label(label: Option<&str>) -> Result<(), Refusal> {
    match label.map_or(0, str::len) {
        size if size > MAX_LABEL => Err(invalid("label", format!("at most {MAX_LABEL} bytes long; it has {size}"))),
        _ => Ok(()),
    }
}

/// What a device or a certificate that is added through this session may use: what was asked for, else all that the session
/// may use itself. More than that is denied.
pub fn scope<P: Ports>(ports: &P, wanted: Option<Vec<String>>) -> Result<Option<Vec<String>>, Refusal> {
    let ceiling = ports.ceiling();
    let Some(wanted) = wanted else { return Ok(ceiling) };
    if !(1..=MAX_SCOPE).contains(&wanted.len()) {
        return Err(invalid("scope", format!("1 to {MAX_SCOPE} capabilities; it has {}", wanted.len())));
    }
    let wanted = groups::capabilities("scope", &wanted)?;
    if let Some(ceiling) = ceiling {
        let ceiling = groups::parse_stored(&ceiling)?;
        if let Some(more) = wanted.iter().find(|wanted| !ceiling.iter().any(|within| within.covers(wanted))) {
            let name = payload::shown(more.as_str());
            return Err(Refusal::Denied(format!("scope: {name} is more than this session may use itself")));
        }
    }
    Ok(Some(wanted.iter().map(|wanted| wanted.as_str().to_owned()).collect()))
}

/// A token by which a principal gets another key: good once, for `expires_secs` (1 to 3600, 300 unless given). The device
/// will have all rights of its principal, or those that `scope` covers, and never more than the session that asks.
pub fn pair<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<PairToken, Refusal> {
    let PairRequest { expires_secs, label, scope: wanted } = payload::read(payload)?;
    let expires_secs =
        expires_secs.map_or(Ok(DEFAULT_EXPIRY_SECS), |secs| bounded("expires_secs", &secs, 1..=MAX_EXPIRY_SECS))?;
    check_label(label.as_deref())?;
    let scope = scope(ports, wanted)?;
    let mut secret = [0; 32];
    ports.random(&mut secret)?;
    let part = Base64UrlUnpadded::encode_string;
    let token = format!("{PREFIX}{}.{}", part(id.as_bytes()), part(&secret));
    transact(ports, |transaction| {
        let mut principal = principals::existing_in(transaction, id)?;
        let now = ports.now();
        principal.pairings.retain(|pairing| pairing.expires_at > now);
        if principal.pairings.len() >= MAX_PAIRINGS {
            return Err(Refusal::Conflict(format!(
                "{MAX_PAIRINGS} pair tokens are open already; wait for one to expire"
            )));
        }
        let (hash, expires_at) = (hash(&token), now + u64::from(expires_secs));
        let (label, scope) = (label.clone(), scope.clone());
        principal.pairings.push(Pairing { hash, expires_at, label: label.clone(), scope: scope.clone() });
        principals::save_record(transaction, id, &principal)?;
        Ok(PairToken { token: token.clone(), principal: id.into(), expires_at_epoch: expires_at, label, scope })
    })
}

fn hash(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

/// Whose token a text claims to be.
fn owner(token: &str) -> Option<String> {
    let claimed = token.strip_prefix(PREFIX).filter(|_| token.len() <= MAX_TOKEN)?.split('.').next()?;
    String::from_utf8(Base64UrlUnpadded::decode_vec(claimed).ok()?).ok()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedeemRequest {
    token: String,
    public_key: String,
}

/// The answer to `device.redeem` and `login`, for the device alone.
#[derive(Serialize)]
pub struct LoggedIn {
    pub principal: String,
    pub public_key_fingerprint: String,
    pub session_token: String,
    pub session_expires_at_epoch: u64,
}

/// Spends a pair token on a key of its principal and signs a bearer. What is wrong with a token remains unsaid; a key that has
/// a principal already is a conflict, and spends nothing.
pub fn redeem<P: Ports>(ports: &P, payload: &[u8]) -> Result<LoggedIn, Refusal> {
    let not_valid = || Refusal::Denied("the pair token is not valid".into());
    let request: RedeemRequest = payload::read(payload)?;
    let key = PublicKey::parse("public_key", &request.public_key)?;
    let id = owner(&request.token).ok_or_else(not_valid)?;
    payload::principal("token", &id).map_err(|_| not_valid())?;
    let hash = hash(&request.token);
    transact(ports, |transaction| {
        let now = ports.now();
        let mut principal = principals::load_in(transaction, &id)?.ok_or_else(not_valid)?;
        let found = principal.pairings.iter().position(|pairing| pairing.hash == hash && pairing.expires_at > now);
        let at = found.filter(|_| principal.enabled).ok_or_else(not_valid)?;
        if transaction.get(Bucket::Keys, &key.fingerprint())?.is_some() {
            return Err(Refusal::Conflict("the public key belongs to a principal already".into()));
        }
        if principal.keys.len() >= MAX_DEVICES {
            return Err(Refusal::Conflict(format!("the principal has {MAX_DEVICES} devices already; remove one")));
        }
        let Pairing { label, scope, .. } = principal.pairings.remove(at);
        let device = principal.add_key(key, now, label, scope);
        let session = sessions::begin(ports, transaction, &id, &principal, &device)?;
        principals::save_record(transaction, &id, &principal)?;
        transaction.put(Bucket::Keys, &key.fingerprint(), id.as_bytes())?;
        Ok(LoggedIn {
            principal: id.clone(),
            public_key_fingerprint: key.fingerprint(),
            session_token: session.token,
            session_expires_at_epoch: session.expires_at,
        })
    })
}

/// The answer to `device.list`, in the order in which they were added.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct DeviceList {
    pub devices: Vec<Device>,
}

/// A device, as its principal sees it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    pub fingerprint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
    pub added_at_epoch: u64,
}

/// The devices of a principal.
pub fn list<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<DeviceList, Refusal> {
    payload::read_empty(payload)?;
    let principal = principals::existing(ports, id)?;
    let device = |Key { fingerprint, label, scope, added_at, .. }| Device {
        fingerprint,
        label,
        scope,
        added_at_epoch: added_at,
    };
    Ok(DeviceList { devices: principal.keys.into_iter().map(device).collect() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveRequest {
    fingerprint: String,
}

/// The answer to `device.remove`: an empty object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Removed {}

/// Takes a key away, and ends the sessions that began with it, for good: they stay ended if the key comes back.
pub fn remove<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<Removed, Refusal> {
    let RemoveRequest { fingerprint } = payload::read(payload)?;
    transact(ports, |transaction| {
        let mut principal = principals::existing_in(transaction, id)?;
        let found = principal.keys.iter().position(|key| key.fingerprint == fingerprint);
        principal.keys.remove(found.ok_or_else(|| Refusal::NotFound("the principal has no such device".into()))?);
        transaction.delete(Bucket::Keys, &fingerprint)?;
        transaction.end_session(id, None, &format!("its device {fingerprint} is removed"))?;
        // With the standing, whose change makes the host forget what it remembers of bearers.
        principals::save(transaction, id, &principal)?;
        Ok(Removed {})
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bearer;
    use crate::testing::{Fake, NOW, public_key};

    fn token(fake: &Fake) -> String {
        pair(fake, "bo", br#"{"label":"phone"}"#).unwrap().token
    }

    fn redeemed(fake: &Fake, token: &str, seed: u32) -> Result<LoggedIn, Refusal> {
        redeem(fake, json!({ "token": token, "public_key": public_key(seed) }).to_string().as_bytes())
    }

    fn devices(fake: &Fake) -> Value {
        serde_json::to_value(list(fake, "bo", b"").unwrap()).unwrap()["devices"].clone()
    }

    #[test]
    fn a_pair_token_adds_a_device_once_and_its_bearer_is_the_principals() {
        let fake = Fake::with(&["bo"]);
        let token = token(&fake);
        assert!(!fake.text().contains(&token[20..]), "the store has its hash alone");
        let device = redeemed(&fake, &token, 1).unwrap();
        let who = bearer::authenticate(&fake, &device.session_token).unwrap().unwrap();
        assert_eq!((device.principal.as_str(), who.principal.as_str()), ("bo", "bo"));
        let print = device.public_key_fingerprint;
        assert_eq!(devices(&fake), json!([{ "fingerprint": print, "label": "phone", "added_at_epoch": NOW }]));
        assert!(matches!(redeemed(&fake, &token, 2), Err(Refusal::Denied(_))));
    }

    #[test]
    fn tokens_that_are_expired_of_somebody_disabled_or_deleted_or_made_up_are_refused_alike() {
        let fake = Fake::with(&["bo"]);
        let refused = |token: &str| match redeemed(&fake, token, 1) {
            Err(Refusal::Denied(reason)) => assert_eq!(reason, "the pair token is not valid"),
            other => panic!("{token}: {:?}", other.map(|_| ())),
        };
        let good = token(&fake);
        fake.set_now(NOW + 300);
        refused(&good);
        let good = token(&fake);
        for bad in ["", "astrid-pair-", "astrid-pair-Ym8.AAAA", &good[..40], &format!("{good}A"), &"x".repeat(9_999)] {
            refused(bad);
        }
        principals::disable(&fake, br#"{"principal":"bo"}"#).unwrap();
        refused(&good);
        principals::enable(&fake, br#"{"principal":"bo"}"#).unwrap();
        principals::delete(&fake, br#"{"principal":"bo"}"#).unwrap();
        refused(&good);
    }

    #[test]
    fn a_taken_key_is_a_conflict_and_spends_nothing() {
        let fake = Fake::with(&["bo"]);
        redeemed(&fake, &token(&fake), 1).unwrap();
        let second = token(&fake);
        assert!(matches!(redeemed(&fake, &second, 1), Err(Refusal::Conflict(_))));
        assert!(redeemed(&fake, &second, 2).is_ok());
    }

    #[test]
    fn tokens_devices_times_and_labels_are_bounded() {
        let fake = Fake::with(&["bo"]);
        for wrong in [
            json!({ "expires_secs": 0 }),
            json!({ "expires_secs": 3601 }),
            json!({ "label": "l".repeat(129) }),
            json!({ "principal": "default" }),
        ] {
            let paired = pair(&fake, "bo", wrong.to_string().as_bytes()).map(drop);
            assert!(matches!(paired, Err(Refusal::Invalid(_))), "{wrong}");
        }
        let open: Vec<String> = (0..MAX_PAIRINGS).map(|_| token(&fake)).collect();
        assert!(matches!(pair(&fake, "bo", b"").map(drop), Err(Refusal::Conflict(_))));
        open.iter().zip(100..).for_each(|(token, seed)| drop(redeemed(&fake, token, seed).unwrap()));
        for seed in MAX_PAIRINGS as u32..MAX_DEVICES as u32 {
            redeemed(&fake, &token(&fake), seed).unwrap();
        }
        assert!(matches!(redeemed(&fake, &token(&fake), 99), Err(Refusal::Conflict(_))));
    }

    #[test]
    fn a_device_that_is_removed_takes_its_own_sessions_with_it_for_good_and_frees_its_key() {
        let fake = Fake::with(&["bo"]);
        let (first, second) = (redeemed(&fake, &token(&fake), 1).unwrap(), redeemed(&fake, &token(&fake), 2).unwrap());
        let good = |token: &str| bearer::authenticate(&fake, token).unwrap().is_some();
        let request = json!({ "fingerprint": first.public_key_fingerprint }).to_string();
        remove(&fake, "bo", request.as_bytes()).unwrap();
        assert!(!good(&first.session_token) && good(&second.session_token));
        let why = format!("its device {} is removed", first.public_key_fingerprint);
        assert_eq!(fake.ended(), [("bo".to_owned(), None, why)]);
        assert_eq!(devices(&fake).as_array().unwrap().len(), 1);
        assert!(matches!(remove(&fake, "bo", request.as_bytes()), Err(Refusal::NotFound(_))));
        let again = redeemed(&fake, &token(&fake), 1).unwrap();
        assert!(good(&again.session_token), "in the same second");
        assert!(!good(&first.session_token), "it does not come back with its key");
    }

    #[test]
    fn a_scope_goes_from_the_token_to_the_device_and_to_its_sessions() {
        let fake = Fake::with(&["bo"]);
        let asked = json!({ "label": "tv", "scope": ["self:quota:get", "self:agent:list", "self:quota:get"] });
        let paired = pair(&fake, "bo", asked.to_string().as_bytes()).unwrap();
        let scope = ["self:agent:list", "self:quota:get"].map(String::from);
        assert_eq!(paired.scope.as_deref(), Some(&scope[..]));
        let device = redeemed(&fake, &paired.token, 1).unwrap();
        let who = bearer::authenticate(&fake, &device.session_token).unwrap().unwrap();
        assert_eq!(who.ceiling.as_deref(), Some(&scope[..]));
        assert_eq!(devices(&fake)[0]["scope"], json!(scope));
        for wrong in [json!([]), json!(["a b"]), json!(vec!["a"; MAX_SCOPE + 1]), json!("a"), json!([1])] {
            let paired = pair(&fake, "bo", json!({ "scope": wrong }).to_string().as_bytes()).map(drop);
            assert!(matches!(paired, Err(Refusal::Invalid(_))), "{wrong}");
        }
    }

    #[test]
    fn a_session_with_a_scope_pairs_no_device_with_more() {
        let fake = Fake::with(&["bo"]);
        fake.bound_to(Some(&["self:auth:*", "self:quota:get"]));
        let scoped = |scope: &[&str]| {
            pair(&fake, "bo", json!({ "scope": scope }).to_string().as_bytes()).map(|paired| paired.scope.unwrap())
        };
        assert_eq!(scoped(&["self:auth:pair"]).unwrap(), ["self:auth:pair"]);
        for more in ["*", "self:*", "self:auth:*:x", "self:agent:list"] {
            assert_eq!(scoped(&["self:quota:get", more]).is_ok(), more == "self:auth:*:x", "{more}");
        }
        let inherited = pair(&fake, "bo", b"").unwrap().scope.unwrap();
        assert_eq!(inherited, ["self:auth:*", "self:quota:get"], "unless it is said, the same");
    }
}
