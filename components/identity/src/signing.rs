//! The keys that sign bearers: generations of one purpose, of which the newest signs and the others verify until what they
//! signed has expired.
//!
//! The key itself is the host's; what stands in the store is which generations count, and from when on each was used.
//! Bounded by [`MAX_GENERATIONS`] that count at once. docs/decisions/0020-generations-of-a-key.md says why.

use serde::{Deserialize, Serialize};

use crate::bearer::LIFETIME_SECS;
use crate::payload::{stored, to_store};
use crate::ports::{Bucket, Ports, Transaction, transact};
use crate::refusal::Refusal;

/// The purpose of the keys.
pub const PURPOSE: &str = "session";
/// The most generations whose bearers may be good at once.
pub const MAX_GENERATIONS: usize = 8;

/// One generation, and when it was first used, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Generation {
    number: u32,
    begun_at: u64,
}

/// Those that count, oldest first; never none.
fn read(bytes: Option<Vec<u8>>) -> Result<Vec<Generation>, Refusal> {
    let first = Generation { number: 0, begun_at: 0 };
    let known = bytes.map_or_else(|| Ok(vec![first]), |bytes| stored("the signing keys", &bytes))?;
    if known.is_empty() { Err(Refusal::Internal("there is no signing key".into())) } else { Ok(known) }
}

/// As the key service knows it: `session`, then `session.1`, `session.2`, …
fn purpose(number: u32) -> String {
    if number == 0 { PURPOSE.into() } else { format!("{PURPOSE}.{number}") }
}

/// Signs with the newest generation.
pub fn sign<P: Ports>(ports: &P, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let known = read(ports.get(Bucket::Signing, PURPOSE)?)?;
    let newest = known.last().map_or(0, |generation| generation.number);
    Ok(ports.sign(&purpose(newest), bytes)?)
}

/// Whether a generation that counts signed it, and was in use at `issued_at`: at most two are asked.
pub fn verify<P: Ports>(ports: &P, bytes: &[u8], issued_at: u64, signature: &[u8]) -> Result<bool, Refusal> {
    let known = read(ports.get(Bucket::Signing, PURPOSE)?)?;
    for (at, generation) in known.iter().enumerate() {
        let ended_at = known.get(at + 1).map_or(u64::MAX, |next| next.begun_at);
        // Bearers can be dated a little ahead, and two generations share the second between them.
        let in_use =
            generation.begun_at <= issued_at && issued_at <= ended_at.saturating_add(crate::bearer::MAX_SKEW_SECS);
        if in_use && ports.verify(&purpose(generation.number), bytes, signature)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Begins a new generation and answers its number. The others count until everything that they signed has expired; with
/// `alone` none of them does from now on. Too many at once are a conflict.
pub fn rotate<P: Ports>(ports: &P, alone: bool) -> Result<u32, Refusal> {
    transact(ports, |transaction| {
        let now = ports.now();
        let mut known = read(transaction.get(Bucket::Signing, PURPOSE)?)?;
        let number = known.last().map_or(0, |generation| generation.number).checked_add(1);
        let number = number.ok_or_else(|| Refusal::Internal("no signing key is left".into()))?;
        known.push(Generation { number, begun_at: now });
        if alone {
            known.drain(..known.len() - 1);
        }
        while known.get(1).is_some_and(|next| next.begun_at + LIFETIME_SECS + crate::bearer::MAX_SKEW_SECS <= now) {
            known.remove(0);
        }
        if known.len() > MAX_GENERATIONS {
            let reason =
                "bearers of the oldest key are still good; try again later, or end those of all keys with now = true";
            return Err(Refusal::Conflict(reason.into()));
        }
        transaction.put(Bucket::Signing, PURPOSE, &to_store(&known)?)?;
        Ok(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fake, NOW};

    fn signed(fake: &Fake) -> Vec<u8> {
        sign(fake, b"x").unwrap()
    }

    fn verifies(fake: &Fake, issued_at: u64, signature: &[u8]) -> bool {
        verify(fake, b"x", issued_at, signature).unwrap()
    }

    #[test]
    fn the_newest_key_signs_and_those_of_before_verify_what_they_signed_while_it_may_be_good() {
        let fake = Fake::new();
        let first = signed(&fake);
        fake.set_now(NOW + 100);
        assert_eq!(rotate(&fake, false).unwrap(), 1);
        let second = signed(&fake);
        assert_ne!(first, second);
        assert!(verifies(&fake, NOW, &first) && verifies(&fake, NOW + 100, &second));
        assert!(!verifies(&fake, NOW, &second), "it was not in use then");
        assert!(!verifies(&fake, NOW + 200, &first), "it was in use no more");
        fake.set_now(NOW + 200 + LIFETIME_SECS);
        assert_eq!(rotate(&fake, false).unwrap(), 2);
        assert!(!verifies(&fake, NOW, &first), "dropped, with all that it signed");
        assert!(verifies(&fake, NOW + 100, &second));
        assert_eq!(rotate(&fake, true).unwrap(), 3);
        assert!(!verifies(&fake, NOW + 100, &second));
    }

    #[test]
    fn keys_that_count_at_once_are_bounded() {
        let fake = Fake::new();
        for number in 1..MAX_GENERATIONS as u32 {
            assert_eq!(rotate(&fake, false).unwrap(), number);
        }
        assert!(matches!(rotate(&fake, false), Err(Refusal::Conflict(_))));
        assert_eq!(rotate(&fake, true).unwrap(), MAX_GENERATIONS as u32);
        assert!(rotate(&fake, false).is_ok());
    }
}
