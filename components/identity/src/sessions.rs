//! Sessions: what stands behind a bearer. How one begins, is renewed and ends, and changing the key that signs all bearers.
//!
//! A bearer says whose it is and for how long, and nothing else. Which device it came from, which session it continues and
//! whether that was ended is written down for each, under the second at which it expires; whoever begins a session deletes
//! some of those that have expired. Only fingerprints are kept. Bounded by the logins of a minute, by pair tokens and by
//! [`MAX_RENEWALS`], for each principal.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::approvals;
use crate::bearer::{self, Bearer, LIFETIME_SECS, MAX_SKEW_SECS};
use crate::payload::{self, stored, to_store};
use crate::ports::{Bucket, Ports, Transaction, transact};
use crate::principals::{self, Key, Principal};
use crate::refusal::Refusal;
use crate::signing;

/// How long a session may be renewed, in seconds since its first bearer: 7 days.
pub const MAX_AGE_SECS: u64 = 604_800;
/// The most bearers of a principal that renewals have given and that have not expired.
pub const MAX_RENEWALS: usize = 128;
/// How many principals one transaction tells the host of, and how many sessions are read at once.
const PAGE: u32 = 500;
/// What the record says of sessions that end with the key that signed their bearers.
const KEY_CHANGED: &str = "the key that signs bearers was changed";
/// How many sessions are looked at, for whether they have expired, when one begins or is renewed.
const SWEEP: u32 = 8;
/// How many seconds earlier than asked a bearer may expire, to be spelled like no other one.
const MAX_EARLIER_SECS: u64 = 3;

/// What is remembered of a bearer until it expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The fingerprint of the key with which the session began, and which of the principal's keys that was.
    device: String,
    number: u64,
    /// What all bearers of the session share: the fingerprint of the first.
    pub name: String,
    /// When the session began. Seconds since the Unix epoch.
    pub started_at: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
}

impl Session {
    /// The device from which it came, while its principal has it.
    pub fn device<'p>(&self, principal: &'p Principal) -> Option<&'p Key> {
        principal.keys.iter().find(|key| key.fingerprint == self.device && key.number == self.number)
    }
}

/// The key of a bearer in [`Bucket::Sessions`]: those that expire first come first.
pub fn key_of(token: &str, expires_at: u64) -> String {
    format!("{expires_at:020}.{}", bearer::fingerprint(token))
}

/// Reads a session; none if there is none, or it was ended.
pub fn live(bytes: Option<Vec<u8>>) -> Result<Option<Session>, Refusal> {
    let session: Option<Session> = bytes.map(|bytes| stored("a session", &bytes)).transpose()?;
    Ok(session.filter(|session| !session.ended))
}

fn save(transaction: &mut impl Transaction, key: &str, session: &Session) -> Result<(), Refusal> {
    Ok(transaction.put(Bucket::Sessions, key, &to_store(session)?)?)
}

/// Stages a session of a device, and signs its first bearer. The transaction must save the principal's record as well.
pub fn begin<P: Ports>(
    ports: &P,
    transaction: &mut P::Transaction,
    id: &str,
    principal: &Principal,
    device: &Key,
) -> Result<Bearer, Refusal> {
    let (device, number, started_at) = (device.fingerprint.clone(), device.number, ports.now());
    let session = Session { device, number, name: String::new(), started_at, ended: false };
    stage(ports, transaction, id, principal, session, started_at + LIFETIME_SECS)
}

/// Signs a bearer that is spelled like no other one, so that none shares the fate of another: it may be dated ahead, by at
/// most [`MAX_SKEW_SECS`], and expire up to [`MAX_EARLIER_SECS`] earlier. A session without a name is called by it.
fn stage<P: Ports>(
    ports: &P,
    transaction: &mut P::Transaction,
    id: &str,
    principal: &Principal,
    mut session: Session,
    expires_at: u64,
) -> Result<Bearer, Refusal> {
    let now = ports.now();
    let first = now.max(principal.revoked_at.map_or(0, |revoked_at| revoked_at + 1));
    let times = (0..=MAX_EARLIER_SECS)
        .flat_map(|earlier| (first..=now + MAX_SKEW_SECS).map(move |issued_at| (issued_at, expires_at - earlier)));
    for (issued_at, expires_at) in times {
        let bearer = bearer::sign(ports, id, issued_at, expires_at)?;
        let key = key_of(&bearer.token, expires_at);
        if transaction.get(Bucket::Sessions, &key)?.is_none() {
            if session.name.is_empty() {
                session.name = bearer::fingerprint(&bearer.token);
            }
            save(transaction, &key, &session)?;
            sweep(ports, transaction)?;
            return Ok(bearer);
        }
    }
    Err(Refusal::Unavailable("no bearer can be made now; try again in a minute".into()))
}

fn sweep<P: Ports>(ports: &P, transaction: &mut P::Transaction) -> Result<(), Refusal> {
    let living = format!("{:020}", ports.now() + 1);
    for (key, _) in ports.scan(Bucket::Sessions, "", None, SWEEP)?.entries {
        if key < living {
            transaction.delete(Bucket::Sessions, &key)?;
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    token: String,
}

/// The answer to `session.refresh`, for the caller alone.
#[derive(Serialize)]
pub struct Refreshed {
    pub principal: String,
    pub session_token: String,
    pub session_expires_at_epoch: u64,
}

/// The principal of a bearer that is the caller's and good now, and its session with its key, in a transaction that depends
/// on both.
fn own<P: Ports>(
    ports: &P,
    transaction: &mut P::Transaction,
    caller: &str,
    token: &str,
) -> Result<(Principal, String, Session), Refusal> {
    let not_valid = || Refusal::Denied("the bearer is not valid".into());
    let claims = bearer::verified(ports, token)?.ok_or_else(not_valid)?;
    let principal = principals::load_in(transaction, caller)?.ok_or_else(not_valid)?;
    if claims.principal.as_str() != caller || !bearer::stands(&principal, &claims) {
        return Err(not_valid());
    }
    let key = key_of(token, claims.expires_at);
    let session = live(transaction.get(Bucket::Sessions, &key)?)?.ok_or_else(not_valid)?;
    session.device(&principal).ok_or_else(not_valid)?;
    Ok((principal, key, session))
}

/// A new bearer for whoever presents one, of the same session, good for [`LIFETIME_SECS`] but never longer than
/// [`MAX_AGE_SECS`] after its first one was made. The old one stays good until it expires.
pub fn refresh<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Refreshed, Refusal> {
    let TokenRequest { token } = payload::read(payload)?;
    transact(ports, |transaction| {
        let (mut principal, _, session) = own(ports, transaction, caller, &token)?;
        let (now, end) = (ports.now(), session.started_at.saturating_add(MAX_AGE_SECS));
        if now >= end {
            return Err(Refusal::Denied("the session is 7 days old and is not renewed any more; log in again".into()));
        }
        principal.renewals.retain(|expires_at| *expires_at > now);
        if principal.renewals.len() >= MAX_RENEWALS {
            return Err(Refusal::Conflict(format!(
                "{MAX_RENEWALS} renewed bearers are still good; wait for one to expire"
            )));
        }
        let bearer = stage(ports, transaction, caller, &principal, session, end.min(now + LIFETIME_SECS))?;
        principal.renewals.push(bearer.expires_at);
        principals::save_record(transaction, caller, &principal)?;
        Ok(Refreshed {
            principal: caller.into(),
            session_token: bearer.token,
            session_expires_at_epoch: bearer.expires_at,
        })
    })
}

/// The answer to `session.end`: an empty object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Ended {}

/// Ends a bearer of the caller's: nobody is let in with it from then on, and what was approved for its session is asked again.
pub fn end<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Ended, Refusal> {
    let TokenRequest { token } = payload::read(payload)?;
    transact(ports, |transaction| {
        let (principal, key, session) = own(ports, transaction, caller, &token)?;
        approvals::end_session(transaction, caller, &session.name, ports.now())?;
        transaction.end_session(caller, Some(&session.name), "logged out")?;
        // Kept until it would have expired: its spelling is not given again.
        save(transaction, &key, &Session { ended: true, ..session })?;
        // A change of the standing makes the host forget what it remembers of bearers.
        principals::publish(transaction, caller, &principal)?;
        Ok(Ended {})
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateRequest {
    #[serde(default, deserialize_with = "payload::or_default")]
    now: bool,
}

/// The answer to `session.rotate`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Rotated {
    /// The number of the key that signs from now on.
    pub generation: u32,
    /// Whether all bearers of before have ended.
    pub ended: bool,
}

/// Signs with a new key from now on. Bearers of before are good until they expire, or, with `now`, no longer: then everybody
/// is told anew to the host, page by page, so that it forgets what it remembers, and the record has whose sessions ended.
/// Repeating it finishes what was cut short.
pub fn rotate<P: Ports>(ports: &P, payload: &[u8]) -> Result<Rotated, Refusal> {
    let RotateRequest { now } = payload::read(payload)?;
    // Before the change: whoever begins a session after it keeps that.
    let ending = if now { devices_in_use(ports)? } else { BTreeSet::new() };
    let generation = signing::rotate(ports, now)?;
    if now {
        tell_of_everybody(ports, &ending)?;
    }
    Ok(Rotated { generation, ended: now })
}

/// The devices that have a session which neither has expired nor was ended, as [`Session`] names them.
fn devices_in_use<P: Ports>(ports: &P) -> Result<BTreeSet<(String, u64)>, Refusal> {
    let mut devices = BTreeSet::new();
    let mut after = Some(format!("{:020}", ports.now() + 1));
    loop {
        let page = ports.scan(Bucket::Sessions, "", after.as_deref(), PAGE)?;
        for (key, bytes) in page.entries {
            if let Some(session) = live(Some(bytes))? {
                devices.insert((session.device, session.number));
            }
            after = Some(key);
        }
        if !page.more {
            return Ok(devices);
        }
    }
}

/// Publishes every standing as it is, and records the end of the sessions of those who have one of the devices.
fn tell_of_everybody<P: Ports>(ports: &P, ending: &BTreeSet<(String, u64)>) -> Result<(), Refusal> {
    let mut after: Option<String> = None;
    loop {
        let page = ports.scan(Bucket::Principals, "", after.as_deref(), PAGE)?;
        let ids: Vec<String> = page.entries.into_iter().map(|(id, _)| id).collect();
        transact(ports, |transaction| {
            for id in &ids {
                let Some(principal) = principals::load_in(transaction, id)? else { continue };
                let has_one = |key: &Key| ending.contains(&(key.fingerprint.clone(), key.number));
                if principal.enabled && principal.keys.iter().any(has_one) {
                    transaction.end_session(id, None, KEY_CHANGED)?;
                }
                principals::publish(transaction, id, &principal)?;
            }
            Ok(())
        })?;
        if !page.more {
            return Ok(());
        }
        after = ids.into_iter().next_back();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::devices;
    use crate::principals::{DEFAULT, create};
    use crate::testing::{self, Fake, NOW};

    const HOUR: u64 = 3_600;

    fn with_bo() -> (Fake, String) {
        let fake = Fake::with(&["bo"]);
        let token = testing::begin(&fake, "bo", None).token;
        (fake, token)
    }

    fn with(token: &str) -> Vec<u8> {
        json!({ "token": token }).to_string().into_bytes()
    }

    fn good(fake: &Fake, token: &str) -> bool {
        bearer::authenticate(fake, token).unwrap().is_some()
    }

    #[test]
    fn a_session_is_renewed_until_seven_days_after_its_first_bearer_and_no_longer() {
        let (fake, mut token) = with_bo();
        let mut now = NOW;
        let mut told = fake.told();
        while now + 7 * HOUR < NOW + MAX_AGE_SECS {
            now += 7 * HOUR;
            fake.set_now(now);
            let next = refresh(&fake, "bo", &with(&token)).unwrap();
            assert_eq!(next.session_expires_at_epoch, (now + LIFETIME_SECS).min(NOW + MAX_AGE_SECS));
            assert!(good(&fake, &token) && good(&fake, &next.session_token), "the old one stays good");
            assert_eq!(fake.told(), told, "the host need not know");
            token = next.session_token;
        }
        fake.set_now(NOW + MAX_AGE_SECS - 1);
        assert!(good(&fake, &token));
        let last = refresh(&fake, "bo", &with(&token)).unwrap();
        assert_eq!(last.session_expires_at_epoch, NOW + MAX_AGE_SECS);
        fake.set_now(NOW + MAX_AGE_SECS);
        assert!(!good(&fake, &last.session_token));
        assert!(matches!(refresh(&fake, "bo", &with(&last.session_token)), Err(Refusal::Denied(_))));
        told.clear();
        let record = fake.text();
        assert!(!record.contains(&token) && !record.contains(token.rsplit('.').next().unwrap()), "fingerprints alone");
    }

    #[test]
    fn only_ones_own_good_bearer_is_renewed_or_ended() {
        let (fake, token) = with_bo();
        for f in [
            |f: &Fake, who: &str, p: &[u8]| refresh(f, who, p).map(drop),
            |f: &Fake, who: &str, p: &[u8]| end(f, who, p).map(drop),
        ] {
            for (who, text) in [(DEFAULT, token.as_str()), ("nobody", &token), ("bo", "x"), ("bo", "")] {
                assert!(matches!(f(&fake, who, &with(text)), Err(Refusal::Denied(_))), "{who} {text}");
            }
        }
        principals::disable(&fake, br#"{"principal":"bo"}"#).unwrap();
        assert!(matches!(refresh(&fake, "bo", &with(&token)), Err(Refusal::Denied(_))));
    }

    #[test]
    fn an_ended_bearer_is_dead_and_the_others_are_not() {
        let (fake, first) = with_bo();
        fake.set_now(NOW + 1);
        let second = refresh(&fake, "bo", &with(&first)).unwrap().session_token;
        end(&fake, "bo", &with(&first)).unwrap();
        assert!(!good(&fake, &first) && good(&fake, &second));
        assert!(matches!(refresh(&fake, "bo", &with(&first)), Err(Refusal::Denied(_))));
        let name = bearer::fingerprint(&first);
        assert_eq!(fake.ended(), [("bo".to_owned(), Some(name), "logged out".to_owned())]);
        end(&fake, "bo", &with(&second)).unwrap();
        assert!(!good(&fake, &second));
        let third = testing::begin(&fake, "bo", None).token;
        assert!(third != second && good(&fake, &third), "never the spelling of an ended one");
    }

    #[test]
    fn bearers_of_the_same_second_differ_and_share_no_fate() {
        let (fake, first) = with_bo();
        let second = refresh(&fake, "bo", &with(&first)).unwrap().session_token;
        let other = testing::begin(&fake, "bo", None).token;
        assert!(first != second && first != other && second != other);
        end(&fake, "bo", &with(&second)).unwrap();
        assert!(good(&fake, &first) && !good(&fake, &second) && good(&fake, &other));
        for _ in 3..(MAX_EARLIER_SECS + 1) * (MAX_SKEW_SECS + 1) {
            assert!(good(&fake, &testing::begin(&fake, "bo", None).token));
        }
        assert!(matches!(refresh(&fake, "bo", &with(&first)), Err(Refusal::Unavailable(_))), "all are given");
    }

    #[test]
    fn renewals_are_bounded_until_they_expire() {
        let (fake, first) = with_bo();
        for second in 1..=MAX_RENEWALS as u64 {
            fake.set_now(NOW + second);
            refresh(&fake, "bo", &with(&first)).unwrap();
        }
        let last = fake.now();
        assert!(matches!(refresh(&fake, "bo", &with(&first)), Err(Refusal::Conflict(_))));
        end(&fake, "bo", &with(&first)).unwrap();
        assert!(!good(&fake, &first), "there is always room for an end");
        fake.set_now(last + LIFETIME_SECS);
        let next = testing::begin(&fake, "bo", None).token;
        assert!(refresh(&fake, "bo", &with(&next)).is_ok());
    }

    #[test]
    fn a_renewed_bearer_has_the_name_and_the_scope_of_its_session() {
        let (fake, _) = with_bo();
        let first = testing::begin(&fake, "bo", Some(&["self:agent:list"])).token;
        fake.set_now(NOW + HOUR);
        let second = refresh(&fake, "bo", &with(&first)).unwrap().session_token;
        let [one, two] = [first, second].map(|token| bearer::authenticate(&fake, &token).unwrap().unwrap());
        assert_eq!((&two.session, two.ceiling.as_deref()), (&one.session, Some(&["self:agent:list".to_owned()][..])));
    }

    #[test]
    fn sessions_that_have_expired_are_swept_by_those_that_begin() {
        let (fake, _) = with_bo();
        for _ in 0..20 {
            testing::begin(&fake, "bo", None);
        }
        fake.set_now(NOW + LIFETIME_SECS);
        let before = fake.keys(Bucket::Sessions).len();
        testing::begin(&fake, "bo", None);
        assert_eq!(fake.keys(Bucket::Sessions).len(), before + 1 - SWEEP as usize);
        testing::begin(&fake, "bo", None);
        let last = testing::begin(&fake, "bo", None).token;
        assert_eq!(fake.keys(Bucket::Sessions).len(), 3);
        assert!(good(&fake, &last));
    }

    #[test]
    fn a_device_that_is_removed_while_its_session_refreshes_gets_no_bearer() {
        let (fake, token) = with_bo();
        fake.before_commit(|fake| {
            let bo = principals::load(fake, "bo").unwrap().unwrap();
            let request = json!({ "fingerprint": bo.keys[0].fingerprint }).to_string();
            devices::remove(fake, "bo", request.as_bytes()).unwrap();
        });
        fake.set_now(NOW + 1);
        assert!(matches!(refresh(&fake, "bo", &with(&token)), Err(Refusal::Denied(_))));
        assert_eq!(fake.keys(Bucket::Sessions).len(), 1, "nothing was written");
    }

    #[test]
    fn a_delete_while_refreshing_wins() {
        let (fake, token) = with_bo();
        fake.before_commit(|fake| {
            principals::delete(fake, br#"{"principal":"bo"}"#).unwrap();
        });
        fake.set_now(NOW + 1);
        assert!(matches!(refresh(&fake, "bo", &with(&token)), Err(Refusal::Denied(_))));
        assert!(principals::load(&fake, "bo").unwrap().is_none());
    }

    #[test]
    fn a_rotation_leaves_bearers_until_they_expire_unless_they_shall_end_at_once() {
        let (fake, first) = with_bo();
        fake.set_now(NOW + 10);
        assert_eq!(rotate(&fake, b"").unwrap(), Rotated { generation: 1, ended: false });
        let second = refresh(&fake, "bo", &with(&first)).unwrap().session_token;
        assert!(good(&fake, &first) && good(&fake, &second));
        fake.set_now(NOW + 20);
        let before = fake.told();
        assert_eq!(rotate(&fake, br#"{"now":true}"#).unwrap(), Rotated { generation: 2, ended: true });
        assert!(!good(&fake, &first) && !good(&fake, &second));
        assert_eq!(fake.told(), before, "everybody holds what they held");
        assert_eq!(fake.ended(), [("bo".to_owned(), None, KEY_CHANGED.to_owned())], "`default` had no session");
        let third = testing::begin(&fake, "bo", None).token;
        assert!(good(&fake, &third));
    }

    #[test]
    fn only_whose_session_is_ended_by_a_rotation_is_recorded() {
        let fake = Fake::with(&["bo", "al", "cy", "di"]);
        let ended = testing::begin(&fake, "al", None).token;
        end(&fake, "al", &with(&ended)).unwrap();
        testing::begin(&fake, "cy", None);
        fake.set_now(NOW + LIFETIME_SECS);
        testing::begin(&fake, "bo", None);
        testing::begin(&fake, "bo", None);
        testing::begin(&fake, "di", None);
        principals::disable(&fake, br#"{"principal":"di"}"#).unwrap();
        rotate(&fake, br#"{"now":true}"#).unwrap();
        let of_keys: Vec<_> = fake.ended().into_iter().filter(|(_, _, why)| why == KEY_CHANGED).collect();
        assert_eq!(of_keys, [("bo".to_owned(), None, KEY_CHANGED.to_owned())], "ended, expired, disabled");
    }

    #[test]
    fn rotating_at_once_tells_the_host_of_everybody_page_by_page() {
        let (fake, _) = with_bo();
        for n in 0..1_200 {
            let name = json!({ "name": format!("p{n:04}") }).to_string();
            create(&fake, DEFAULT, name.as_bytes()).unwrap();
        }
        fake.forget_told();
        rotate(&fake, br#"{"now":true}"#).unwrap();
        assert_eq!(fake.told().len(), 1_202);
    }
}
