//! Sessions beside their bearers: renewing one, ending one, and changing the key that signs them all.
//!
//! A bearer says when it was made and nothing of what it renews, so a principal's record remembers the renewed ones with the
//! beginning of their session, and those that were ended, each until it would have expired, [`MAX_KNOWN`] at most. Only
//! fingerprints are kept.

use serde::{Deserialize, Serialize};

use crate::bearer::{self, LIFETIME_SECS};
use crate::payload;
use crate::ports::{Bucket, Ports, transact};
use crate::principals::{self, Principal};
use crate::refusal::Refusal;
use crate::signing;

/// How long a session may be renewed, in seconds since its first bearer: 7 days.
pub const MAX_AGE_SECS: u64 = 604_800;
/// The most bearers that a principal's record remembers.
pub const MAX_KNOWN: usize = 128;
/// How many principals one transaction tells the host of.
const PAGE: u32 = 500;

/// What is remembered of a bearer until it has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub fingerprint: String,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
    /// When the session began that it renews. Seconds since the Unix epoch.
    pub started_at: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
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

/// The principal of a bearer that is the caller's and good now, in a transaction that depends on that.
fn own<P: Ports>(
    ports: &P,
    transaction: &mut P::Transaction,
    caller: &str,
    token: &str,
) -> Result<(Principal, Known), Refusal> {
    let not_valid = || Refusal::Denied("the bearer is not valid".into());
    let claims = bearer::verified(ports, token)?.ok_or_else(not_valid)?;
    let fingerprint = bearer::fingerprint(token);
    let mut principal = principals::load_in(transaction, caller)?.ok_or_else(not_valid)?;
    if claims.principal.as_str() != caller || !bearer::stands(&principal, &claims, &fingerprint) {
        return Err(not_valid());
    }
    principal.bearers.retain(|known| known.expires_at > ports.now());
    let known = principal.bearers.iter().find(|known| known.fingerprint == fingerprint).cloned();
    let new = Known { fingerprint, expires_at: claims.expires_at, started_at: claims.issued_at, ended: false };
    Ok((principal, known.unwrap_or(new)))
}

/// A new bearer for whoever presents one, good for [`LIFETIME_SECS`] but never longer than [`MAX_AGE_SECS`] after the first one of
/// the session was made. The old one stays good until it expires.
pub fn refresh<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Refreshed, Refusal> {
    let TokenRequest { token } = payload::read(payload)?;
    transact(ports, |transaction| {
        let (mut principal, known) = own(ports, transaction, caller, &token)?;
        let (now, end) = (ports.now(), known.started_at.saturating_add(MAX_AGE_SECS));
        if now >= end {
            return Err(Refusal::Denied("the session has reached its age; log in anew".into()));
        }
        let session = bearer::issue(ports, caller, &principal, now, end.min(now + LIFETIME_SECS))?;
        let fingerprint = bearer::fingerprint(&session.token);
        if principal.bearers.iter().all(|known| known.fingerprint != fingerprint) {
            if principal.bearers.len() >= MAX_KNOWN {
                return Err(Refusal::Conflict(format!(
                    "{MAX_KNOWN} bearers were renewed already and have not expired"
                )));
            }
            let (expires_at, started_at) = (session.expires_at, known.started_at);
            principal.bearers.push(Known { fingerprint, expires_at, started_at, ended: false });
            principals::save_record(transaction, caller, &principal)?;
        }
        Ok(Refreshed {
            principal: caller.into(),
            session_token: session.token,
            session_expires_at_epoch: session.expires_at,
        })
    })
}

/// The answer to `session.end`: an empty object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Ended {}

/// Ends a bearer of the caller's: nobody is let in with it from then on. Where the record has no room for another, all that
/// were made until now end.
pub fn end<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Ended, Refusal> {
    let TokenRequest { token } = payload::read(payload)?;
    transact(ports, |transaction| {
        let (mut principal, known) = own(ports, transaction, caller, &token)?;
        principal.bearers.retain(|other| other.fingerprint != known.fingerprint);
        if principal.bearers.len() >= MAX_KNOWN {
            principal.bearers.clear();
            principal.revoked_at = Some(ports.now());
        } else {
            principal.bearers.push(Known { ended: true, ..known });
        }
        // With the standing, whose change makes the host forget what it remembers of bearers.
        principals::save(transaction, caller, &principal)?;
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
/// is told anew to the host, page by page, so that it forgets what it remembers. Repeating it finishes what was cut short.
pub fn rotate<P: Ports>(ports: &P, payload: &[u8]) -> Result<Rotated, Refusal> {
    let RotateRequest { now } = payload::read(payload)?;
    let generation = signing::rotate(ports, now)?;
    if now {
        tell_of_everybody(ports)?;
    }
    Ok(Rotated { generation, ended: now })
}

fn tell_of_everybody<P: Ports>(ports: &P) -> Result<(), Refusal> {
    let mut after: Option<String> = None;
    loop {
        let page = ports.scan(Bucket::Principals, "", after.as_deref(), PAGE)?;
        let ids: Vec<String> = page.entries.into_iter().map(|(id, _)| id).collect();
        transact(ports, |transaction| {
            for id in &ids {
                if let Some(principal) = principals::load_in(transaction, id)? {
                    principals::publish(transaction, id, &principal)?;
                }
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
    use crate::principals::{DEFAULT, bootstrap, create};
    use crate::testing::{Fake, NOW};

    const HOUR: u64 = 3_600;

    fn with_bo() -> (Fake, String) {
        let fake = Fake::new();
        bootstrap(&fake).unwrap();
        create(&fake, DEFAULT, br#"{"name":"bo"}"#).unwrap();
        let bo = principals::load(&fake, "bo").unwrap().unwrap();
        let token = bearer::issue(&fake, "bo", &bo, NOW, NOW + LIFETIME_SECS).unwrap().token;
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
        end(&fake, "bo", &with(&second)).unwrap();
        assert!(!good(&fake, &second));
        let bo = principals::load(&fake, "bo").unwrap().unwrap();
        let third = bearer::issue(&fake, "bo", &bo, NOW + 1, NOW + 1 + LIFETIME_SECS).unwrap().token;
        assert!(third != second && good(&fake, &third), "never the spelling of an ended one");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_a_logout_without_room_ends_everything() {
        let (fake, first) = with_bo();
        for second in 1..=MAX_KNOWN as u64 {
            fake.set_now(NOW + second);
            refresh(&fake, "bo", &with(&first)).unwrap();
        }
        fake.set_now(NOW + 200);
        assert!(matches!(refresh(&fake, "bo", &with(&first)), Err(Refusal::Conflict(_))));
        end(&fake, "bo", &with(&first)).unwrap();
        let bo = principals::load(&fake, "bo").unwrap().unwrap();
        assert_eq!((bo.revoked_at, bo.bearers.len()), (Some(NOW + 200), 0));
        let next = bearer::issue(&fake, "bo", &bo, NOW + 200, NOW + 300).unwrap().token;
        assert!(good(&fake, &next), "made after the revocation, in the same second");
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
        let bo = principals::load(&fake, "bo").unwrap().unwrap();
        let third = bearer::issue(&fake, "bo", &bo, NOW + 20, NOW + 30).unwrap().token;
        assert!(good(&fake, &third));
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
