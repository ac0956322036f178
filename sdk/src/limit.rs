//! How often something may happen: by address, by account, by whatever a capsule wants to bound. Remembered by the host,
//! between calls and not beyond its process.
//!
//! ```no_run
//! use astrid_sdk::limit::{self, Refusal};
//!
//! // Five at once, and one more each second.
//! match limit::take("203.0.113.9", 1000, 5) {
//!     Ok(()) => {}
//!     Err(Refusal::Later(milliseconds)) => println!("again in {milliseconds} ms"),
//!     Err(Refusal::Invalid(why)) => println!("{why}"),
//! }
//! ```

pub use crate::bindings::imports::astrid::sys::limit::{Refusal, take};
