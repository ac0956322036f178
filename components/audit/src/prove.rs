//! `audit.v1.proofs`: facts with what proves them, for whoever may see them and not the whole log.
//!
//! A proof leads from a fact to the root of a signed checkpoint; what it tells of other facts is their hashes. All pages of one
//! export are proven against one checkpoint, so that it is kept once. A fact of which something is cut out can't be proven: its
//! bytes are not those that were attested.
//!
//! Bounded by [`MAX_LIMIT`] entries, [`MAX_BYTES`] and [`MAX_LOOKS`] pages of the log for one answer; whoever hits a bound is told
//! where to go on.

use astrid_sdk::bus::Refusal;
use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use crate::fact::Redaction;
use crate::log::{Log, refusal};
use crate::query::{MAX_BYTES, MAX_LOOKS, Reader, read};

/// The most entries of one answer.
pub const MAX_LIMIT: u32 = 500;
const DEFAULT_LIMIT: u32 = 100;
/// Facts that are looked at in one page of the log.
const PAGE: u32 = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    #[serde(default)]
    pub from: Option<u64>,
    #[serde(default)]
    pub size: Option<u64>,
    #[serde(default)]
    pub limit: Option<u32>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Proven {
    pub entries: Vec<Proof>,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_from: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub index: u64,
    pub fact: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Vec<String>>,
}

/// How many facts a checkpoint covers: its second line.
fn covered(checkpoint: &str) -> Option<u64> {
    checkpoint.lines().nth(1)?.parse().ok()
}

impl Request {
    /// The page that this asks for, as `reader` may see it.
    ///
    /// # Errors
    /// `invalid` where a field is out of bounds, `not-found` before the first checkpoint and for a size that none covers,
    /// `unavailable` where the log can't be read.
    pub fn answer(self, reader: Reader<'_>, log: &impl Log, redaction: &Redaction) -> Result<Proven, Refusal> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Refusal::invalid(format!("limit = {limit} must be 1 to {MAX_LIMIT}")));
        }
        let newest = log.checkpoint().and_then(|note| Some((covered(&note)?, note)));
        let (signed, note) =
            newest.ok_or_else(|| Refusal::not_found("nothing is signed yet; try again in a second"))?;
        let size = self.size.unwrap_or(signed);
        if size > signed {
            return Err(Refusal::not_found(format!("size = {size}: the newest checkpoint covers {signed} facts")));
        }
        let checkpoint = self.size.is_none().then_some(note);
        let (mut entries, mut bytes, mut from) = (Vec::new(), 0, self.from.unwrap_or(0));
        'looks: for _ in 0..MAX_LOOKS {
            if from >= size {
                break;
            }
            let page = log.entries(from, PAGE).map_err(refusal)?;
            for recorded in page.facts.iter().filter(|recorded| recorded.index < size) {
                if let Some(fact) = read(recorded).filter(|fact| reader.sees(fact)) {
                    if entries.len() >= limit as usize || bytes >= MAX_BYTES {
                        break 'looks;
                    }
                    let shown = redaction.apply(fact.clone());
                    let entry = if shown == fact {
                        let hashes = log.prove(recorded.index, size).map_err(refusal)?;
                        let proof = Some(hashes.iter().map(|hash| Base64::encode_string(hash)).collect());
                        Proof { index: recorded.index, fact: recorded.fact.clone(), proof }
                    } else {
                        let fact =
                            serde_json::to_string(&shown).map_err(|error| Refusal::internal(error.to_string()))?;
                        Proof { index: recorded.index, fact, proof: None }
                    };
                    // Measured as it will be written, but for a little.
                    bytes += serde_json::to_vec(&entry).map_or(0, |text| text.len() + 1);
                    entries.push(entry);
                }
                from = recorded.index + 1;
            }
            from = page.next.map_or(size, |next| next.max(from));
        }
        Ok(Proven { entries, size, checkpoint, next_from: (from < size).then_some(from) })
    }
}

#[cfg(test)]
mod tests {
    use astrid_sdk::bus::RefusalCode;

    use super::*;
    use crate::log::fake::Memory;

    const ALICE: Reader<'_> = Reader { principal: "alice", all: false };

    fn log(facts: usize, signed: u64) -> Memory {
        let log = Memory::default();
        (0..facts).for_each(|n| log.add(Some(["alice", "bob"][n % 2]), "a"));
        log.signed.set(signed);
        log
    }

    #[test]
    fn every_own_fact_below_one_checkpoint_is_proven_against_it_and_no_other_fact_is_told() {
        let log = log(3001, 2500);
        let mut request = Request { limit: Some(70), ..Request::default() };
        let (mut indices, mut pages) = (Vec::new(), 0);
        loop {
            let page = request.answer(ALICE, &log, &Redaction::default()).unwrap();
            assert_eq!((page.size, page.checkpoint.is_some()), (2500, pages == 0));
            for entry in &page.entries {
                assert!(entry.fact.contains("alice"), "{entry:?}");
                let proof = Base64::encode_string(format!("{} of 2500", entry.index).as_bytes());
                assert_eq!(entry.proof.as_deref(), Some(&[proof][..]));
            }
            indices.extend(page.entries.iter().map(|entry| entry.index));
            log.signed.set(3001);
            pages += 1;
            let Some(from) = page.next_from else { break };
            request = Request { from: Some(from), size: Some(page.size), limit: Some(70) };
        }
        assert_eq!(indices, (0..2500).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_cut_out_of_a_fact_takes_its_proof_with_it() {
        let redaction = Redaction::parse("principal").unwrap();
        let page = Request::default().answer(ALICE, &log(2, 2), &redaction).unwrap();
        assert!(page.entries[0].proof.is_none() && page.entries[0].fact.contains("[redacted]"), "{page:?}");
    }

    #[test]
    fn what_is_out_of_bounds_or_not_signed_is_refused() {
        let code = |request: Request, log: &Memory| request.answer(ALICE, log, &Redaction::default()).unwrap_err().code;
        for limit in [0, 501] {
            assert_eq!(code(Request { limit: Some(limit), ..Request::default() }, &log(1, 1)), RefusalCode::Invalid);
        }
        assert_eq!(code(Request::default(), &log(1, 0)), RefusalCode::NotFound);
        assert_eq!(code(Request { size: Some(2), ..Request::default() }, &log(3, 1)), RefusalCode::NotFound);
    }
}
