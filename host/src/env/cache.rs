//! What was read of principals' values, opened and kept in memory until it changes.
//!
//! Bounded by [`MAX_CACHED`] overlays and [`MAX_CACHED_BYTES`]. Refuses to know how they are stored and sealed.

use std::collections::HashMap;
use std::sync::Arc;

use super::Overlay;

/// The most pairs of principal and capsule whose values are kept in memory.
pub const MAX_CACHED: usize = 10_000;
/// The most bytes of values that are kept in memory.
pub const MAX_CACHED_BYTES: usize = 64 << 20;

/// What the names and the bookkeeping of one cached value cost beside it, about.
const ENTRY_BYTES: usize = 128;

/// Overlays by the prefix of their keys.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) overlays: HashMap<Vec<u8>, Arc<Overlay>>,
    pub(super) bytes: usize,
    /// Counts what was forgotten, so that nothing read before a change is kept after it.
    pub(super) era: u64,
}

impl Cache {
    /// Keeps what was read in `era`, unless something changed since.
    pub(super) fn keep(&mut self, prefix: Vec<u8>, overlay: &Arc<Overlay>, era: u64) {
        if era != self.era {
            return;
        }
        let bytes = cost(&prefix, overlay);
        if self.overlays.len() >= MAX_CACHED || self.bytes + bytes > MAX_CACHED_BYTES {
            // Everything can be read again; a rarely reached bound needs no cleverer choice.
            self.overlays.clear();
            self.bytes = 0;
        }
        if self.overlays.insert(prefix, overlay.clone()).is_none() {
            self.bytes += bytes;
        }
    }

    /// Forgets every place whose prefix begins with one of these.
    pub(super) fn forget(&mut self, beginnings: &[Vec<u8>]) {
        self.era += 1;
        self.overlays.retain(|prefix, overlay| {
            let gone = beginnings.iter().any(|beginning| prefix.starts_with(beginning));
            if gone {
                self.bytes -= cost(prefix, overlay);
            }
            !gone
        });
    }
}

fn cost(prefix: &[u8], overlay: &Overlay) -> usize {
    let values = overlay.iter().map(|(name, value)| ENTRY_BYTES + name.len() + value.as_ref().map_or(0, |v| v.len()));
    ENTRY_BYTES + prefix.len() + values.sum::<usize>()
}
