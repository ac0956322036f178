//! Walking a bucket for an answer: in key order, page by page, within the bounds that keep an answer deliverable.
//!
//! Bounds: the caller's number of rows, [`MAX_BYTES`] of them, and [`MAX_READ`] entries read. Whoever hits one is told
//! where to go on.

use serde::Deserialize;
use serde_json::Number;

use crate::ports::{Bucket, Ports};
use crate::refusal::Refusal;

/// The largest number of bytes of rows in one answer: well below the 1 MiB that the bus delivers.
pub const MAX_BYTES: usize = 768 << 10;
/// The most entries that one walk reads, rows or not.
pub const MAX_READ: usize = 20_000;

/// What a row has beyond the bytes of the stored key and value, at most.
const ROW_OVERHEAD: usize = 16;
/// The most entries that the store gives at once.
const PAGE: usize = 1_000;

/// What a list is asked for; each list has bounds of its own for both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Only what comes after this key.
    #[serde(default)]
    pub after: Option<String>,
    #[serde(default)]
    pub limit: Option<Number>,
}

/// The rows, and the key after which the rest begins, if a bound ended the walk.
#[derive(Debug)]
pub struct Rows<T> {
    pub rows: Vec<T>,
    pub next_after: Option<String>,
}

/// Reads the entries after `after`; `row` makes a row of an entry, or none to pass over it.
pub fn walk<P: Ports, T>(
    ports: &P,
    bucket: Bucket,
    after: Option<String>,
    limit: usize,
    mut row: impl FnMut(&str, &[u8]) -> Result<Option<T>, Refusal>,
) -> Result<Rows<T>, Refusal> {
    let mut rows = Vec::new();
    let (mut bytes, mut read, mut last) = (0, 0, after);
    loop {
        let wanted = (limit - rows.len() + 1).min(PAGE);
        let page = ports.scan(bucket, "", last.as_deref(), wanted as u32)?;
        for (key, value) in page.entries {
            let size = key.len() + value.len() + ROW_OVERHEAD;
            if rows.len() == limit || read == MAX_READ || (bytes + size > MAX_BYTES && !rows.is_empty()) {
                return Ok(Rows { rows, next_after: last });
            }
            read += 1;
            if let Some(made) = row(&key, &value)? {
                rows.push(made);
                bytes += size;
            }
            last = Some(key);
        }
        if !page.more {
            return Ok(Rows { rows, next_after: None });
        }
    }
}
