//! Invites: a token that makes whoever holds it a principal in a group, a limited number of times for a limited time.
//!
//! The store holds only the BLAKE3 of a token, as the key of its invite; the token leaves in the answer to `issue` and
//! is never seen again, and its fingerprint, the first 16 bytes of that hash in hex, names it. Issuing is one durable
//! write without a read. A redemption is one transaction: the use, the principal, its key and its standing, or nothing.

use std::collections::BTreeMap;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::groups;
use crate::keys::{FINGERPRINT_CHARS, PublicKey};
use crate::listing;
use crate::payload::{self, bounded, invalid, stored};
use crate::policy;
use crate::ports::{Bucket, Ports, Transaction, transact};
use crate::principals::{self, Principal};
use crate::refusal::Refusal;
use crate::rights;
use crate::sessions;

/// What every token begins with.
const PREFIX: &str = "astrid-inv-";
/// The random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// The length of a token in bytes: the prefix and 43 characters of base64url.
const TOKEN_CHARS: usize = PREFIX.len() + 43;

/// The group of an invite that names none, where the distribution does not either.
const DEFAULT_GROUP: &str = "agent";
const MAX_USES: u32 = 10_000;
/// 7 days, in seconds.
const DEFAULT_EXPIRY_SECS: u32 = 604_800;
/// 30 days, in seconds.
const MAX_EXPIRY_SECS: u32 = 2_592_000;
const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 256;
/// The most rows of one list.
const MAX_ROWS: u32 = 10_000;
/// How many expired invites one transaction sweeps.
const SWEEP: usize = 1_000;

/// As stored, under the hash of its token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Invite {
    group: String,
    remaining_uses: u32,
    /// Seconds since the Unix epoch; at that second it is expired.
    expires_at: u64,
    /// Seconds since the Unix epoch.
    issued_at: u64,
    issued_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, String>>,
}

impl Invite {
    fn read(key: &str, bytes: &[u8]) -> Result<Self, Refusal> {
        stored(&format!("invite {}", fingerprint(key)), bytes)
    }

    fn bytes(&self) -> Result<Vec<u8>, Refusal> {
        serde_json::to_vec(self).map_err(|error| Refusal::Internal(error.to_string()))
    }

    fn is_live(&self, now: u64) -> bool {
        now < self.expires_at
    }
}

/// The key of a token's invite, if it has the form of a token.
fn key_of(token: &str) -> Option<String> {
    let fits = token.len() == TOKEN_CHARS && token.starts_with(PREFIX);
    fits.then(|| blake3::hash(token.as_bytes()).to_hex().to_string())
}

/// The beginning of a key.
fn fingerprint(key: &str) -> &str {
    key.get(..FINGERPRINT_CHARS).unwrap_or(key)
}

fn read_fingerprint(field: &str, text: &str) -> Result<String, Refusal> {
    if text.len() == FINGERPRINT_CHARS && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(invalid(field, format!("{FINGERPRINT_CHARS} hexadecimal characters; it has {} bytes", text.len())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueRequest {
    #[serde(default)]
    group: Option<String>,
    max_uses: Number,
    #[serde(default)]
    expires_secs: Option<Number>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// The answer to `invite.issue`.
#[derive(Serialize)]
pub struct Issued {
    pub invite: IssuedInvite,
}

/// An invite with its token, for the issuer alone.
#[derive(Serialize)]
pub struct IssuedInvite {
    pub token: String,
    pub group: String,
    pub remaining_uses: u32,
    pub expires_at_epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Makes an invite, if the distribution lets this issuer. Without a group and a time it has those of the distribution.
/// Bounds: a defined group, `max_uses` 1 to 10000, `expires_secs` 1 to 2592000 (7 days unless given), at most 16 entries of
/// metadata with keys of 1 to 64 and values of at most 256 bytes. What the group holds must be the issuer's to give.
pub fn issue<P: Ports>(ports: &P, issuer: &str, payload: &[u8]) -> Result<Issued, Refusal> {
    let request: IssueRequest = payload::read(payload)?;
    policy::check_issuer(ports, issuer)?;
    let group = match request.group {
        Some(group) => group,
        None => policy::default_group(ports)?.unwrap_or_else(|| DEFAULT_GROUP.into()),
    };
    let mut reading = ports.begin();
    let held = groups::to_join(&mut reading, &group)?;
    // Whoever may invite must not become more by inviting oneself.
    if !held.iter().all(rights::is_own) {
        let giver = principals::rights_of_caller(ports, &mut reading, issuer)?;
        giver.check_giving(&format!("an invite to `{group}`"), &held)?;
    }
    let max_uses = bounded("max_uses", &request.max_uses, 1..=MAX_USES)?;
    let expires_secs = match request.expires_secs {
        Some(secs) => bounded("expires_secs", &secs, 1..=MAX_EXPIRY_SECS)?,
        None => policy::default_expires_secs(ports)?.unwrap_or(DEFAULT_EXPIRY_SECS).clamp(1, MAX_EXPIRY_SECS),
    };
    check_metadata(request.metadata.as_ref())?;

    let now = ports.now();
    let mut secret = [0; TOKEN_BYTES];
    ports.random(&mut secret)?;
    let token = format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&secret));
    let invite = Invite {
        group,
        remaining_uses: max_uses,
        expires_at: now + u64::from(expires_secs),
        issued_at: now,
        issued_by: issuer.into(),
        metadata: request.metadata,
    };
    ports.put(Bucket::Invites, &blake3::hash(token.as_bytes()).to_hex(), &invite.bytes()?)?;
    let Invite { group, remaining_uses, expires_at, metadata, .. } = invite;
    Ok(Issued { invite: IssuedInvite { token, group, remaining_uses, expires_at_epoch: expires_at, metadata } })
}

fn check_metadata(metadata: Option<&BTreeMap<String, String>>) -> Result<(), Refusal> {
    let Some(metadata) = metadata else { return Ok(()) };
    if metadata.len() > MAX_METADATA {
        let count = metadata.len();
        return Err(invalid("metadata", format!("at most {MAX_METADATA} entries; it has {count}")));
    }
    for (key, value) in metadata {
        if key.is_empty() || key.len() > MAX_METADATA_KEY {
            let name = payload::shown(key);
            return Err(invalid(format!("metadata key {name}"), format!("1 to {MAX_METADATA_KEY} bytes long")));
        }
        if value.len() > MAX_METADATA_VALUE {
            let (name, size) = (payload::shown(key), value.len());
            let bound = format!("at most {MAX_METADATA_VALUE} bytes long; it has {size}");
            return Err(invalid(format!("the value of metadata key {name}"), bound));
        }
    }
    Ok(())
}

/// The answer to `invite.list`.
#[derive(Debug, Serialize)]
pub struct InviteList {
    /// Sorted by fingerprint.
    pub invites: Vec<Row>,
    /// Pass it as `after` to go on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// An invite without what makes it one.
#[derive(Debug, Serialize)]
pub struct Row {
    pub token_fingerprint: String,
    pub group: String,
    pub remaining_uses: u32,
    pub expires_at_epoch: u64,
    pub issued_at_epoch: u64,
    pub issued_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Live invites after the fingerprint `after`, at most `limit` (1 to 10000, 10000 unless given), fewer if they are
/// large. Expired ones that it passes, and those of an issuer who was deleted, are deleted.
pub fn list<P: Ports>(ports: &P, payload: &[u8]) -> Result<InviteList, Refusal> {
    let request: listing::Request = payload::read(payload)?;
    let limit = request.limit.map_or(Ok(MAX_ROWS), |limit| bounded("limit", &limit, 1..=MAX_ROWS))?;
    // `~` comes after every hexadecimal character, so this comes after every key with that beginning.
    let after = request.after.map(|after| read_fingerprint("after", &after)).transpose()?;
    let after = after.map(|fingerprint| format!("{fingerprint}~"));
    let now = ports.now();
    let (mut expired, mut issuers) = (Vec::new(), BTreeMap::new());
    let walked = listing::walk(ports, Bucket::Invites, after, limit as usize, |key, bytes| {
        let invite = Invite::read(key, bytes)?;
        let issued = match issuers.get(&invite.issued_by) {
            Some(known) => *known,
            None => {
                let known = ports.get(Bucket::Principals, &invite.issued_by)?.is_some();
                issuers.insert(invite.issued_by.clone(), known);
                known
            }
        };
        if !invite.is_live(now) || !issued {
            expired.push(key.to_owned());
            return Ok(None);
        }
        Ok(Some(Row {
            token_fingerprint: fingerprint(key).into(),
            group: invite.group,
            remaining_uses: invite.remaining_uses,
            expires_at_epoch: invite.expires_at,
            issued_at_epoch: invite.issued_at,
            issued_by: invite.issued_by,
            metadata: invite.metadata,
        }))
    })?;
    sweep(ports, &expired);
    Ok(InviteList { invites: walked.rows, next_after: walked.next_after.map(|key| fingerprint(&key).into()) })
}

/// Deletes dead invites. Nobody can use them, so whatever fails here is left to the next sweep.
fn sweep<P: Ports>(ports: &P, expired: &[String]) {
    for some in expired.chunks(SWEEP) {
        let mut transaction = ports.begin();
        let staged = some.iter().try_for_each(|key| transaction.delete(Bucket::Invites, key));
        if staged.and_then(|()| transaction.commit()).is_err() {
            return;
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeRequest {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    fingerprint: Option<String>,
}

/// The answer to `invite.revoke`: an empty object.
#[derive(Debug, Serialize)]
pub struct Revoked {}

/// Ends an invite, named by its token or by its fingerprint. One that is not there, or is expired, is not found.
pub fn revoke<P: Ports>(ports: &P, payload: &[u8]) -> Result<Revoked, Refusal> {
    let unknown = || Refusal::NotFound("there is no such invite".into());
    let request: RevokeRequest = payload::read(payload)?;
    let beginning = match (request.token, request.fingerprint) {
        (Some(token), None) => key_of(&token).ok_or_else(unknown)?,
        (None, Some(fingerprint)) => read_fingerprint("fingerprint", &fingerprint)?,
        _ => return Err(Refusal::Invalid("exactly one of token and fingerprint must be given".into())),
    };
    let page = ports.scan(Bucket::Invites, &beginning, None, 1)?;
    let (key, bytes) = page.entries.first().ok_or_else(unknown)?;
    let live = Invite::read(key, bytes)?.is_live(ports.now());
    let deleted = ports.delete(Bucket::Invites, key)?;
    if live && deleted { Ok(Revoked {}) } else { Err(unknown()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedeemRequest {
    token: String,
    public_key: String,
    #[serde(default)]
    display_name: Option<String>,
}

/// The answer to `invite.redeem`, for the redeemer alone.
#[derive(Serialize)]
pub struct Redeemed {
    pub principal: String,
    pub group: String,
    pub public_key_fingerprint: String,
    pub session_token: String,
    pub session_expires_at_epoch: u64,
}

/// Spends one use of an invite on a new principal with that key and signs its first bearer. A token that is malformed,
/// unknown, expired, used up or revoked is denied, as one whose issuer is disabled or deleted or whose group is gone; which
/// of these it is remains unsaid. A key that has a principal
/// already is a conflict, as is a distribution that has no room for one more principal, and no use is spent.
pub fn redeem<P: Ports>(ports: &P, payload: &[u8]) -> Result<Redeemed, Refusal> {
    let not_valid = || Refusal::Denied("the invite is not valid".into());
    let request: RedeemRequest = payload::read(payload)?;
    let public_key = PublicKey::parse("public_key", &request.public_key)?;
    let slug = principals::slug(request.display_name.as_deref())?;
    let key = key_of(&request.token).ok_or_else(not_valid)?;
    let key_fingerprint = public_key.fingerprint();

    transact(ports, |transaction| {
        let now = ports.now();
        let found = transaction.get(Bucket::Invites, &key)?.ok_or_else(not_valid)?;
        let mut invite = Invite::read(&key, &found)?;
        let issuer = principals::load_in(transaction, &invite.issued_by)?;
        if !invite.is_live(now) || invite.remaining_uses == 0 || issuer.is_none_or(|issuer| !issuer.enabled) {
            return Err(not_valid());
        }
        groups::to_join(transaction, &invite.group).map_err(|refusal| match refusal {
            Refusal::Invalid(_) | Refusal::Conflict(_) => not_valid(),
            other => other,
        })?;
        if transaction.get(Bucket::Keys, &key_fingerprint)?.is_some() {
            return Err(Refusal::Conflict("the public key belongs to a principal already".into()));
        }
        policy::admit(ports, transaction)?;
        let id = principals::free_id(ports, transaction, &slug)?;
        let mut principal = Principal::new(&[&invite.group], now);
        let device = principal.add_key(public_key, now, None, None);
        // Signed before the commit: if it fails, no use is spent.
        let session = sessions::begin(ports, transaction, &id, &principal, &device)?;
        principals::save_new(transaction, &id, &principal)?;
        transaction.put(Bucket::Keys, &key_fingerprint, id.as_bytes())?;
        invite.remaining_uses -= 1;
        match invite.remaining_uses {
            0 => transaction.delete(Bucket::Invites, &key)?,
            _ => transaction.put(Bucket::Invites, &key, &invite.bytes()?)?,
        }
        Ok(Redeemed {
            principal: id,
            group: invite.group,
            public_key_fingerprint: key_fingerprint.clone(),
            session_token: session.token,
            session_expires_at_epoch: session.expires_at,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use serde_json::{Value, json};

    use super::*;
    use crate::bearer;
    use crate::testing::{Fake, NOW, all_different, public_key};

    fn issue_with(fake: &Fake, request: &Value) -> Result<IssuedInvite, Refusal> {
        issue(fake, "default", request.to_string().as_bytes()).map(|issued| issued.invite)
    }

    fn token(fake: &Fake, max_uses: u32) -> String {
        issue_with(fake, &json!({"group": "agent", "max_uses": max_uses})).unwrap().token
    }

    fn redeem_with(fake: &Fake, token: &str, seed: u32) -> Result<Redeemed, Refusal> {
        redeem(fake, json!({"token": token, "public_key": public_key(seed)}).to_string().as_bytes())
    }

    fn named(fake: &Fake, token: &str, seed: u32, name: &str) -> String {
        let request = json!({"token": token, "public_key": public_key(seed), "display_name": name});
        redeem(fake, request.to_string().as_bytes()).unwrap_or_else(|refusal| panic!("{refusal:?}")).principal
    }

    fn listed(fake: &Fake, request: &Value) -> Value {
        serde_json::to_value(list(fake, request.to_string().as_bytes()).unwrap()).unwrap()
    }

    fn revoke_with(fake: &Fake, request: &Value) -> Result<Revoked, Refusal> {
        revoke(fake, request.to_string().as_bytes())
    }

    fn reason<T>(result: Result<T, Refusal>) -> String {
        match result.map(drop).unwrap_err() {
            Refusal::Invalid(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// What a redeemer learns of an invite that does not work.
    fn not_valid<T>(result: Result<T, Refusal>) {
        assert_eq!(result.map(drop), Err(Refusal::Denied("the invite is not valid".into())));
    }

    fn hash(token: &str) -> String {
        blake3::hash(token.as_bytes()).to_hex().to_string()
    }

    #[test]
    fn the_distribution_names_the_issuers_and_without_one_there_is_one_tenant() {
        let fake = Fake::started();
        let ask = |issuer: &str| issue(&fake, issuer, br#"{"group":"agent","max_uses":1}"#).map(drop);
        assert_eq!((ask("default"), ask("eve")), (Ok(()), Ok(())), "no rule");
        fake.say("DISTRO_ISSUERS", "default,ada");
        assert_eq!((ask("default"), ask("ada")), (Ok(()), Ok(())));
        for other in ["eve", "ad", "default,ada", ""] {
            assert!(matches!(ask(other), Err(Refusal::Denied(why)) if why.contains("as an issuer")), "{other}");
        }
        fake.say("DISTRO_ISSUERS", "");
        assert!(matches!(ask("default"), Err(Refusal::Denied(why)) if why.contains("one tenant")));
    }

    #[test]
    fn an_invite_without_group_and_time_has_those_of_the_distribution() {
        let fake = Fake::started();
        let bare = json!({"max_uses": 1});
        let invite = issue_with(&fake, &bare).unwrap();
        assert_eq!((&*invite.group, invite.expires_at_epoch), ("agent", NOW + 604_800));
        fake.say("DISTRO_DEFAULT_GROUP", "restricted");
        fake.say("DISTRO_DEFAULT_EXPIRES_SECS", "60");
        let invite = issue_with(&fake, &bare).unwrap();
        assert_eq!((&*invite.group, invite.expires_at_epoch), ("restricted", NOW + 60));
        let invite = issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "expires_secs": 5})).unwrap();
        assert_eq!((&*invite.group, invite.expires_at_epoch), ("agent", NOW + 5));
        fake.say("DISTRO_DEFAULT_GROUP", "gone");
        assert!(reason(issue_with(&fake, &bare)).contains("`gone` is not defined"));
        fake.say("DISTRO_DEFAULT_GROUP", "agent");
        fake.say("DISTRO_DEFAULT_EXPIRES_SECS", "soon");
        assert!(
            matches!(issue_with(&fake, &bare), Err(Refusal::Internal(_))),
            "a rule that does not read is no default"
        );
    }

    #[test]
    fn a_hundred_who_redeem_at_once_become_as_many_principals_as_there_is_room_for() {
        let fake = Fake::started();
        fake.say("DISTRO_MAX_PRINCIPALS", "12");
        // Invites of their own, so that nothing but the bound is between them.
        let tokens: Vec<String> = (0..100).map(|_| token(&fake, 1)).collect();
        let results: Vec<_> = thread::scope(|scope| {
            let fake = &fake;
            let threads: Vec<_> = (0..)
                .zip(&tokens)
                .map(|(seed, token)| scope.spawn(move || redeem_with(fake, token, seed).map(drop)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 11, "`default` is one of them");
        assert_eq!(fake.keys(Bucket::Principals).len(), 12);
        assert_eq!(fake.keys(Bucket::Invites).len(), 89, "whoever was refused has spent nothing");
        for refused in results.into_iter().filter_map(Result::err) {
            assert!(matches!(&refused, Refusal::Conflict(why) if why.contains("max-principals = 12")), "{refused:?}");
        }
    }

    #[test]
    fn a_bound_counts_every_page_and_room_that_comes_back_is_used() {
        let fake = Fake::started();
        for n in 0..2_499 {
            fake.set(Bucket::Principals, &format!("p{n:04}"), &json!({}));
        }
        let token = token(&fake, 10);
        fake.say("DISTRO_MAX_PRINCIPALS", "2500");
        assert!(matches!(redeem_with(&fake, &token, 1), Err(Refusal::Conflict(_))));
        fake.say("DISTRO_MAX_PRINCIPALS", "2501");
        assert!(redeem_with(&fake, &token, 1).is_ok());
        assert!(matches!(redeem_with(&fake, &token, 2), Err(Refusal::Conflict(_))));
        let first = fake.keys(Bucket::Principals).into_iter().find(|id| id.starts_with("agent")).unwrap();
        principals::delete(&fake, json!({ "principal": first }).to_string().as_bytes()).unwrap();
        fake.calls();
        assert!(redeem_with(&fake, &token, 2).is_ok());
        assert!(!fake.calls().iter().any(|call| call == "scan Principals"), "they are counted once");
        assert!(matches!(redeem_with(&fake, &token, 3), Err(Refusal::Conflict(_))));

        // While there is no bound, nobody counts; once there is one again, what was counted before is not believed.
        fake.unsay("DISTRO_MAX_PRINCIPALS");
        assert!(redeem_with(&fake, &token, 3).is_ok());
        fake.say("DISTRO_MAX_PRINCIPALS", "2502");
        assert!(matches!(redeem_with(&fake, &token, 4), Err(Refusal::Conflict(_))));
        fake.say("DISTRO_MAX_PRINCIPALS", "2503");
        assert!(redeem_with(&fake, &token, 4).is_ok());
        fake.say("DISTRO_MAX_PRINCIPALS", "many");
        assert!(matches!(redeem_with(&fake, &token, 9), Err(Refusal::Internal(_))));
    }

    #[test]
    fn issuing_is_one_durable_write_and_no_read() {
        let fake = Fake::started();
        token(&fake, 1);
        assert_eq!(fake.calls(), ["random", "put"]);
    }

    #[test]
    fn an_issued_invite_has_what_was_asked_for_and_the_store_has_only_the_hash_of_its_token() {
        let fake = Fake::started();
        let request = json!({"group": "agent", "max_uses": 3, "expires_secs": 60, "metadata": {"team": "blue"}});
        let issued = serde_json::to_value(issue(&fake, "alice", request.to_string().as_bytes()).unwrap()).unwrap();
        let token = issued["invite"]["token"].as_str().unwrap().to_owned();
        assert_eq!(
            issued,
            json!({"invite": {"token": token, "group": "agent", "remaining_uses": 3, "expires_at_epoch": NOW + 60,
                              "metadata": {"team": "blue"}}})
        );
        assert_eq!((token.len(), &token[..11]), (54, "astrid-inv-"));
        assert_eq!(
            fake.value(Bucket::Invites, &hash(&token)).unwrap(),
            json!({"group": "agent", "remaining_uses": 3, "expires_at": NOW + 60, "issued_at": NOW,
                   "issued_by": "alice", "metadata": {"team": "blue"}})
        );
        assert!(!fake.text().contains(&token[11..]));
    }

    #[test]
    fn an_invite_lasts_seven_days_unless_said_otherwise_and_has_no_metadata_unless_given() {
        let issued = issue(&Fake::started(), "default", br#"{"group":"agent","max_uses":1}"#).unwrap();
        assert_eq!(issued.invite.expires_at_epoch, NOW + 604_800);
        assert!(serde_json::to_value(issued).unwrap()["invite"].get("metadata").is_none());
    }

    #[test]
    fn every_bound_of_an_invite_is_inclusive_and_names_field_value_and_bound() {
        let fake = Fake::started();
        let with = |field: &str, value: Value| {
            let mut request = json!({"group": "agent", "max_uses": 1});
            request[field] = value;
            issue_with(&fake, &request)
        };
        for (field, value, want) in [
            ("max_uses", json!(0), "max_uses = 0 must be 1 to 10000"),
            ("max_uses", json!(10_001), "max_uses = 10001 must be 1 to 10000"),
            ("max_uses", json!(-1), "max_uses = -1 must be 1 to 10000"),
            ("max_uses", json!(1.5), "max_uses = 1.5 must be"),
            ("max_uses", json!(u64::MAX), "max_uses = 18446744073709551615 must be"),
            ("expires_secs", json!(0), "expires_secs = 0 must be 1 to 2592000"),
            ("expires_secs", json!(2_592_001), "expires_secs = 2592001 must be 1 to 2592000"),
            ("group", json!("nobody"), "group `nobody` is not defined"),
            ("uses", json!(1), "unknown field `uses`"),
            ("metadata", json!({"": "x"}), "metadata key `` must be 1 to 64 bytes long"),
            ("metadata", json!({"k".repeat(65): "x"}), "metadata key of 65 bytes must be 1 to 64 bytes long"),
            ("metadata", json!({"k": "v".repeat(257)}), "metadata key `k` must be at most 256 bytes long; it has 257"),
            ("metadata", json!({"k": 1}), "integer `1`"),
        ] {
            let got = reason(with(field, value));
            assert!(got.contains(want), "{got}");
        }
        let entries = |count: u32| (0..count).map(|n| (n.to_string(), json!("v"))).collect::<serde_json::Map<_, _>>();
        assert!(
            reason(with("metadata", entries(17).into())).contains("metadata must be at most 16 entries; it has 17")
        );
        assert!(reason(issue(&fake, "default", br#"{"group":"agent"}"#)).contains("missing field `max_uses`"));
        for (field, value) in [
            ("max_uses", json!(10_000)),
            ("expires_secs", json!(1)),
            ("expires_secs", json!(2_592_000)),
            ("group", json!("admin")),
            ("group", json!("restricted")),
            ("metadata", entries(16).into()),
            ("metadata", json!({"k".repeat(64): "v".repeat(256)})),
        ] {
            assert!(with(field, value.clone()).is_ok(), "{field} {value}");
        }
    }

    #[test]
    fn whoever_may_only_invite_invites_nobody_to_more_than_they_hold() {
        let fake = Fake::started();
        let group = json!({"name": "ops", "capabilities": ["invite:issue"]});
        groups::create(&fake, "default", group.to_string().as_bytes()).unwrap();
        let eve = json!({"name": "eve", "groups": ["ops"]});
        principals::create(&fake, "default", eve.to_string().as_bytes()).unwrap();
        let invite = |group: &str| {
            let request = json!({"group": group, "max_uses": 1}).to_string();
            issue(&fake, "eve", request.as_bytes()).map(drop)
        };
        assert_eq!(invite("admin"), Err(Refusal::Denied("an invite to `admin` needs caps:grant".into())));
        assert!(fake.keys(Bucket::Invites).is_empty());
        assert_eq!((invite("agent"), invite("ops")), (Ok(()), Ok(())));
        let more = json!({"name": "ops", "capabilities": ["invite:issue", "capsule:install"]});
        groups::modify(&fake, "default", more.to_string().as_bytes()).unwrap();
        assert_eq!(invite("ops"), Ok(()), "being in it, one holds the same");
    }

    #[test]
    fn an_invite_is_worth_nothing_while_its_issuer_is_disabled_and_once_it_is_deleted() {
        let fake = Fake::started();
        principals::create(&fake, "default", br#"{"name":"eve","groups":["admin"]}"#).unwrap();
        let request = json!({"group": "agent", "max_uses": 9}).to_string();
        let token = issue(&fake, "eve", request.as_bytes()).unwrap().invite.token;
        redeem_with(&fake, &token, 1).unwrap();
        let eve = br#"{"principal":"eve"}"#;
        principals::disable(&fake, eve).unwrap();
        not_valid(redeem_with(&fake, &token, 2));
        principals::enable(&fake, eve).unwrap();
        redeem_with(&fake, &token, 2).unwrap();
        principals::delete(&fake, eve).unwrap();
        not_valid(redeem_with(&fake, &token, 3));
        assert_eq!(listed(&fake, &json!({})), json!({"invites": []}));
        assert!(fake.keys(Bucket::Invites).is_empty(), "the list sweeps it");
    }

    #[test]
    fn an_invite_to_a_group_that_is_gone_is_not_valid() {
        let fake = Fake::started();
        groups::create(&fake, "default", br#"{"name":"ops","capabilities":["a:b"]}"#).unwrap();
        let token = issue_with(&fake, &json!({"group": "ops", "max_uses": 9})).unwrap().token;
        let made = redeem_with(&fake, &token, 1).unwrap().principal;
        assert!(matches!(groups::delete(&fake, br#"{"name":"ops"}"#), Err(Refusal::Conflict(_))));
        let leave = json!({"principal": made, "remove_groups": ["ops"]});
        principals::modify(&fake, "default", leave.to_string().as_bytes()).unwrap();
        groups::delete(&fake, br#"{"name":"ops"}"#).unwrap();
        not_valid(redeem_with(&fake, &token, 2));
    }

    #[test]
    fn the_list_shows_live_invites_by_fingerprint_and_sweeps_expired_ones() {
        let fake = Fake::started();
        let short = issue_with(&fake, &json!({"group": "admin", "max_uses": 1, "expires_secs": 10})).unwrap().token;
        let long = issue_with(&fake, &json!({"group": "agent", "max_uses": 2, "metadata": {"a": "b"}})).unwrap().token;
        assert_eq!(listed(&fake, &json!({}))["invites"].as_array().unwrap().len(), 2);
        fake.set_now(NOW + 10);
        let row = json!({"token_fingerprint": &hash(&long)[..32], "group": "agent", "remaining_uses": 2,
                         "expires_at_epoch": NOW + 604_800, "issued_at_epoch": NOW, "issued_by": "default",
                         "metadata": {"a": "b"}});
        assert_eq!(listed(&fake, &json!({})), json!({"invites": [row]}));
        assert_eq!(fake.keys(Bucket::Invites), [hash(&long)]);
        not_valid(redeem_with(&fake, &short, 1));
    }

    /// All rows, and the size of each answer.
    fn walk_pages(fake: &Fake, mut request: Value) -> (Vec<Value>, Vec<usize>) {
        let (mut rows, mut sizes) = (Vec::new(), Vec::new());
        loop {
            let mut page = listed(fake, &request);
            sizes.push(page.to_string().len());
            rows.append(page["invites"].as_array_mut().unwrap());
            let Some(next) = page.get("next_after") else { return (rows, sizes) };
            request["after"] = next.clone();
        }
    }

    #[test]
    fn the_list_pages_through_more_than_the_store_gives_at_once() {
        let fake = Fake::started();
        for _ in 0..2_500 {
            token(&fake, 1);
        }
        let whole = listed(&fake, &json!({}));
        assert_eq!(whole["invites"].as_array().unwrap().len(), 2_500);
        assert!(whole.get("next_after").is_none());

        let (paged, sizes) = walk_pages(&fake, json!({"limit": 1_200}));
        assert_eq!(sizes.len(), 3);
        assert_eq!(&paged, whole["invites"].as_array().unwrap());
    }

    #[test]
    fn an_answer_stays_deliverable_however_large_and_however_many_the_invites_are() {
        let fake = Fake::started();
        let metadata: Value =
            (0..16).map(|n| (n.to_string(), json!("v".repeat(256)))).collect::<serde_json::Map<_, _>>().into();
        for _ in 0..400 {
            issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "metadata": metadata})).unwrap();
        }
        let (rows, sizes) = walk_pages(&fake, json!({}));
        assert_eq!(rows.len(), 400);
        assert!(sizes.len() > 1 && sizes.iter().all(|size| *size <= listing::MAX_BYTES + 100), "{sizes:?}");
    }

    #[test]
    fn one_list_reads_a_bounded_number_of_expired_invites_and_the_next_goes_on() {
        let fake = Fake::started();
        for _ in 0..listing::MAX_READ + 10 {
            issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "expires_secs": 1})).unwrap();
        }
        fake.set_now(NOW + 1);
        let first = listed(&fake, &json!({}));
        assert!(first["invites"].as_array().unwrap().is_empty() && first["next_after"].is_string());
        assert_eq!(fake.keys(Bucket::Invites).len(), 10);
        assert_eq!(listed(&fake, &json!({})), json!({"invites": []}));
        assert!(fake.keys(Bucket::Invites).is_empty());
    }

    #[test]
    fn a_list_takes_only_its_own_bounds() {
        let fake = Fake::started();
        for (request, want) in [
            (json!({"limit": 0}), "limit = 0 must be 1 to 10000"),
            (json!({"limit": 10_001}), "limit = 10001 must be 1 to 10000"),
            (json!({"after": "xyz"}), "after must be 32 hexadecimal characters; it has 3 bytes"),
            (json!({"all": true}), "unknown field `all`"),
        ] {
            let got = reason(list(&fake, request.to_string().as_bytes()));
            assert!(got.contains(want), "{got}");
        }
        assert!(list(&fake, b"").unwrap().invites.is_empty());
    }

    #[test]
    fn an_invite_is_revoked_by_its_token_or_its_fingerprint_and_works_no_more() {
        let fake = Fake::started();
        let (first, second) = (token(&fake, 5), token(&fake, 5));
        redeem_with(&fake, &first, 1).unwrap();
        assert_eq!(serde_json::to_value(revoke_with(&fake, &json!({"token": first})).unwrap()).unwrap(), json!({}));
        revoke_with(&fake, &json!({"fingerprint": hash(&second)[..32].to_uppercase()})).unwrap();
        not_valid(redeem_with(&fake, &first, 2));
        not_valid(redeem_with(&fake, &second, 3));
        assert!(fake.keys(Bucket::Invites).is_empty());
        for request in [json!({"token": first}), json!({"fingerprint": &hash(&second)[..32]})] {
            assert!(matches!(revoke_with(&fake, &request), Err(Refusal::NotFound(_))), "{request}");
        }
    }

    #[test]
    fn revoking_what_is_unknown_or_expired_is_not_found_and_needs_exactly_one_name() {
        let fake = Fake::started();
        let expired = issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "expires_secs": 1})).unwrap().token;
        fake.set_now(NOW + 1);
        let foreign = format!("astrid-inv-{}", "A".repeat(43));
        for request in [
            json!({"token": expired}),
            json!({"token": foreign}),
            json!({"token": "rubbish"}),
            json!({"token": ""}),
            json!({"fingerprint": "0".repeat(32)}),
        ] {
            assert!(matches!(revoke_with(&fake, &request), Err(Refusal::NotFound(_))), "{request}");
        }
        for request in [json!({}), json!({"token": foreign, "fingerprint": "0".repeat(32)})] {
            assert!(reason(revoke_with(&fake, &request)).starts_with("exactly one of token and fingerprint"));
        }
        for bad in ["", "0", &"0".repeat(33), &"g".repeat(32), foreign.as_str()] {
            let got = reason(revoke_with(&fake, &json!({"fingerprint": bad})));
            assert!(got.starts_with("fingerprint must be 32 hexadecimal characters"), "{got}");
        }
    }

    #[test]
    fn redeeming_makes_a_principal_with_its_key_its_standing_and_a_working_bearer() {
        let fake = Fake::started();
        let token = token(&fake, 2);
        let redeemed = redeem_with(&fake, &token, 1).unwrap();
        let key = PublicKey::parse("public_key", &public_key(1)).unwrap();
        assert_eq!((redeemed.principal.as_str(), redeemed.group.as_str()), ("agent", "agent"));
        assert_eq!(redeemed.public_key_fingerprint, key.fingerprint());
        assert_eq!(redeemed.session_expires_at_epoch, NOW + 28_800);
        let who = bearer::authenticate(&fake, &redeemed.session_token).unwrap().unwrap();
        assert_eq!((who.principal.as_str(), who.expires_at), ("agent", NOW + 28_800));

        assert_eq!(
            fake.value(Bucket::Principals, "agent").unwrap(),
            json!({"enabled": true, "groups": ["agent"], "grants": [], "revokes": [], "created_at": NOW, "keys_had": 1,
                   "keys": [{"fingerprint": key.fingerprint(), "public_key": public_key(1), "added_at": NOW,
                             "number": 0}]})
        );
        let told = &fake.told()["agent"];
        assert!(told.enabled && told.groups == ["agent"] && told.grants.is_empty() && told.revokes.is_empty());
        assert!(fake.text().contains(&format!("Keys {} agent\n", key.fingerprint())));
        assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
        let fields = serde_json::to_value(&redeemed).unwrap();
        let mut fields: Vec<_> = fields.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            ["group", "principal", "public_key_fingerprint", "session_expires_at_epoch", "session_token"]
        );
    }

    #[test]
    fn wrong_expired_used_up_and_revoked_tokens_get_the_same_refusal() {
        let fake = Fake::started();
        let used_up = token(&fake, 1);
        redeem_with(&fake, &used_up, 1).unwrap();
        let revoked = token(&fake, 1);
        revoke_with(&fake, &json!({"token": revoked})).unwrap();
        let expired = issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "expires_secs": 5})).unwrap().token;
        fake.set_now(NOW + 5);
        let live = token(&fake, 1);
        let foreign = format!("astrid-inv-{}", "A".repeat(43));
        let endless = "x".repeat(100_000);
        for wrong in [&used_up, &revoked, &expired, &foreign, "", "astrid-inv-", &live[..53], &endless] {
            not_valid(redeem_with(&fake, wrong, 2));
        }
        assert_eq!(fake.keys(Bucket::Principals), ["agent", "default"]);
        redeem_with(&fake, &live, 2).unwrap();
    }

    #[test]
    fn a_key_that_has_a_principal_is_a_conflict_and_spends_no_use() {
        let fake = Fake::started();
        let token = token(&fake, 2);
        redeem_with(&fake, &token, 1).unwrap();
        assert!(matches!(redeem_with(&fake, &token, 1), Err(Refusal::Conflict(_))));
        assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
        assert_eq!(fake.keys(Bucket::Principals).len(), 2);
        let foreign = format!("astrid-inv-{}", "A".repeat(43));
        not_valid(redeem_with(&fake, &foreign, 1));
    }

    #[test]
    fn a_bad_key_or_field_is_invalid_and_spends_no_use() {
        let fake = Fake::started();
        let token = token(&fake, 1);
        for (request, want) in [
            (json!({"token": token, "public_key": "00"}), "public_key must be 64 hexadecimal"),
            (json!({"token": token, "public_key": "0".repeat(64)}), "weak"),
            (json!({"token": token, "public_key": public_key(1), "display_name": "n".repeat(257)}), "display_name"),
            (json!({"token": token, "public_key": public_key(1), "group": "admin"}), "unknown field `group`"),
            (json!({"token": token}), "missing field `public_key`"),
        ] {
            let got = reason(redeem(&fake, request.to_string().as_bytes()));
            assert!(got.contains(want) && !got.contains(&token), "{got}");
        }
        assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
    }

    #[test]
    fn names_become_ids_and_taken_or_reserved_ones_get_a_suffix() {
        let fake = Fake::started();
        let token = token(&fake, 100);
        assert_eq!(named(&fake, &token, 1, "Ada  Lovelace (2)"), "ada-lovelace-2");
        let second = named(&fake, &token, 2, "ada lovelace 2");
        assert!(second.starts_with("ada-lovelace-2-") && second.len() == "ada-lovelace-2-".len() + 8, "{second}");
        for (seed, reserved) in (3..).zip(["anonymous", "Default", "host", "SYSTEM"]) {
            let id = named(&fake, &token, seed, reserved);
            assert!(id.starts_with(&format!("{}-", reserved.to_lowercase())), "{id}");
        }
        assert_eq!(named(&fake, &token, 10, "\u{202e}日本"), "agent");
        assert!(named(&fake, &token, 11, "--").starts_with("agent-"));
        assert_eq!(named(&fake, &token, 12, &"x".repeat(256)), "x".repeat(48));
        assert_eq!(named(&fake, &token, 13, &"x".repeat(256)).len(), 57);
        assert_eq!(fake.told()["default"].groups, ["admin"]);
    }

    #[test]
    fn a_suffix_that_is_taken_is_drawn_again() {
        let fake = Fake::started();
        let token = token(&fake, 3);
        redeem_with(&fake, &token, 1).unwrap();
        fake.repeat_random(3);
        let ids = [redeem_with(&fake, &token, 2).unwrap().principal, redeem_with(&fake, &token, 3).unwrap().principal];
        assert!(all_different(ids));
    }

    #[test]
    fn a_conflict_is_read_again_and_tried_again_and_after_64_times_given_up() {
        let fake = Fake::started();
        let token = token(&fake, 2);
        fake.force_conflicts(63);
        redeem_with(&fake, &token, 1).unwrap();
        fake.force_conflicts(64);
        assert!(matches!(redeem_with(&fake, &token, 2), Err(Refusal::Unavailable(_))));
        assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
        redeem_with(&fake, &token, 2).unwrap();
    }

    #[test]
    fn an_invite_revoked_while_it_is_redeemed_makes_nobody() {
        let fake = Fake::started();
        let token = token(&fake, 1);
        let request = json!({"token": token});
        fake.before_commit(move |fake| assert!(revoke_with(fake, &request).is_ok()));
        not_valid(redeem_with(&fake, &token, 1));
        assert_eq!(fake.keys(Bucket::Principals), ["default"]);
        assert!(fake.keys(Bucket::Keys).is_empty());
    }

    #[test]
    fn two_who_want_the_same_name_at_once_get_different_ones() {
        let fake = Fake::started();
        let token = token(&fake, 2);
        let same = token.clone();
        fake.before_commit(move |fake| drop(redeem_with(fake, &same, 1).unwrap()));
        assert_ne!(redeem_with(&fake, &token, 2).unwrap().principal, "agent");
        assert_eq!(fake.keys(Bucket::Principals).len(), 3);
    }

    #[test]
    fn one_key_redeemed_twice_at_once_is_one_principal() {
        let fake = Fake::started();
        let token = token(&fake, 2);
        let same = token.clone();
        fake.before_commit(move |fake| drop(redeem_with(fake, &same, 1).unwrap()));
        assert!(matches!(redeem_with(&fake, &token, 1), Err(Refusal::Conflict(_))));
        assert_eq!(fake.value(Bucket::Invites, &hash(&token)).unwrap()["remaining_uses"], 1);
    }

    #[test]
    fn a_hundred_at_once_on_an_invite_for_ten_make_ten_principals() {
        let fake = Fake::started();
        let token = token(&fake, 10);
        fake.force_conflicts(30);
        let outcomes: Vec<_> = thread::scope(|scope| {
            let started: Vec<_> = (0..100)
                .map(|seed| {
                    scope.spawn({
                        let (fake, token) = (&fake, &token);
                        move || redeem_with(fake, token, seed)
                    })
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (redeemed, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!((redeemed.len(), refused.len()), (10, 90));
        refused.into_iter().for_each(not_valid);
        assert!(all_different(redeemed.into_iter().map(|redeemed| redeemed.unwrap().principal)));
        assert_eq!(fake.keys(Bucket::Principals).len(), 11);
        assert_eq!(fake.keys(Bucket::Keys).len(), 10);
        assert_eq!(fake.told().len(), 11);
        assert!(fake.keys(Bucket::Invites).is_empty());
    }

    #[test]
    fn without_a_store_everything_is_unavailable() {
        let fake = Fake::started();
        let token = token(&fake, 1);
        fake.go_away();
        assert!(matches!(redeem_with(&fake, &token, 1), Err(Refusal::Unavailable(_))));
        assert!(matches!(issue_with(&fake, &json!({"group": "agent", "max_uses": 1})), Err(Refusal::Unavailable(_))));
        assert!(matches!(list(&fake, b"{}"), Err(Refusal::Unavailable(_))));
        assert!(matches!(revoke_with(&fake, &json!({"token": token})), Err(Refusal::Unavailable(_))));
    }
}
