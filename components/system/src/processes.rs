//! Sandboxed children as JSON. Pure: nothing here calls the host.

use astrid_sdk::host;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize)]
pub struct Listed {
    /// Sorted by id.
    pub processes: Vec<Process>,
}

#[derive(Debug, Serialize)]
pub struct Process {
    pub id: String,
    pub principal: String,
    pub capsule: String,
    pub program: String,
    /// Seconds since the Unix epoch.
    pub started_at: u64,
}

impl From<Vec<host::Process>> for Listed {
    fn from(processes: Vec<host::Process>) -> Self {
        let row = |process: host::Process| Process {
            id: process.id,
            principal: process.principal,
            capsule: process.capsule,
            program: process.program,
            started_at: process.started_ms / 1000,
        };
        Self { processes: processes.into_iter().map(row).collect() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    pub process: String,
}
