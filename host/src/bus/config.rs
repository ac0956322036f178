//! `[bus]` of the configuration, and its bounds.

use serde::{Deserialize, Serialize};

/// `[bus]` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The largest payload and the largest answer, in bytes (1 KiB to 16 MiB).
    pub max_payload_bytes: usize,
    /// How deep requests may be nested (1 to 64).
    pub max_depth: u8,
    /// What may wait for one binding or subscription whose manifest does not say, in bytes (at least
    /// `max-payload-bytes`). One message that waits alone may be larger, by its topic and the like.
    pub queue_bytes: usize,
    /// Whether payloads and answers are held to the types that manifests declare.
    pub strict: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_payload_bytes: 1 << 20, max_depth: 16, queue_bytes: 1 << 20, strict: false }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        if !(1024..=16 << 20).contains(&self.max_payload_bytes) {
            return Err(format!("bus.max-payload-bytes = {} must be 1024 to 16777216", self.max_payload_bytes));
        }
        if !(1..=64).contains(&self.max_depth) {
            return Err(format!("bus.max-depth = {} must be 1 to 64", self.max_depth));
        }
        if self.queue_bytes < self.max_payload_bytes {
            return Err(format!("bus.queue-bytes = {} must be at least bus.max-payload-bytes", self.queue_bytes));
        }
        Ok(())
    }
}
