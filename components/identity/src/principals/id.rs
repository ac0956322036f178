//! Ids for new principals: made from a display name, and never one that somebody has or had.

use astrid_capsule::principal::ANONYMOUS;

use super::DEFAULT;
use crate::payload::{self, invalid};
use crate::ports::{Bucket, Ports, Transaction};
use crate::refusal::Refusal;

/// The longest display name, in bytes.
const MAX_DISPLAY_NAME: usize = 256;
/// The longest id made from a display name, in bytes, without the suffix of a taken one.
const MAX_SLUG: usize = 48;
/// Ids that stand for something else in logs and messages.
pub(super) const RESERVED: [&str; 4] = [ANONYMOUS, DEFAULT, "host", "system"];
/// How many random suffixes are tried for a taken id; each has 32 bits.
const SUFFIXES: usize = 8;

/// An id made from a display name, or `agent`: lower case letters, digits and single dashes, at most 48 bytes.
pub fn slug(display_name: Option<&str>) -> Result<String, Refusal> {
    let name = display_name.unwrap_or_default();
    if name.len() > MAX_DISPLAY_NAME {
        let bound = format!("at most {MAX_DISPLAY_NAME} bytes long");
        return Err(invalid(format!("display_name {}", payload::shown(name)), bound));
    }
    let mut slug = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(MAX_SLUG);
    let slug = slug.trim_end_matches('-');
    Ok(if slug.is_empty() { "agent".into() } else { slug.into() })
}

/// Whether nobody has the id and nobody had it. Still so at the commit, or the commit is a conflict.
pub(super) fn is_free(transaction: &mut impl Transaction, id: &str) -> Result<bool, Refusal> {
    Ok(transaction.get(Bucket::Principals, id)?.is_none() && transaction.get(Bucket::Gone, id)?.is_none())
}

/// `slug` itself if it is free, else with a random suffix.
pub fn free_id<P: Ports>(ports: &P, transaction: &mut P::Transaction, slug: &str) -> Result<String, Refusal> {
    if !RESERVED.contains(&slug) && is_free(transaction, slug)? {
        return Ok(slug.into());
    }
    for _ in 0..SUFFIXES {
        let mut suffix = [0; 4];
        ports.random(&mut suffix)?;
        let id = format!("{slug}-{}", hex::encode(suffix));
        if is_free(transaction, &id)? {
            return Ok(id);
        }
    }
    Err(Refusal::Unavailable("no free principal id was found; try again".into()))
}
