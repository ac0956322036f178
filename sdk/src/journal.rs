//! The host's facts, and how long their entries are kept. Needs the grants `journal:read` and `journal:prune`.

pub use crate::bindings::imports::astrid::journal::facts::{
    Error, Filter, Outcome, Page, Recorded, TileKind, checkpoint, entries, key, prove, query, size, tile, wait,
};
pub use crate::bindings::imports::astrid::journal::retention::{first, prune};
