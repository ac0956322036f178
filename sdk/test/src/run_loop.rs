//! One run of a run loop: a test says beforehand what arrives, and sees afterwards what became of it.

use astrid_capsule::principal::ANONYMOUS;

use crate::bindings::exports::astrid::capsule::run_loop::GuestIndices as RunLoopExport;
use crate::engine::Caller;
use crate::{CallError, Capsule};

/// A run that ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Whether it has said so. A host ends a run that has not, after 10 seconds.
    pub ready: bool,
    /// What it returned.
    pub end: Result<(), String>,
}

impl Capsule {
    /// Runs the run loop in a fresh instance, on what the test lets arrive ([`Self::arrive`]): everybody's messages, and
    /// when no more come its subscriptions end as they do when another version is live. What it has not taken waits for
    /// the next run, as after a restart.
    ///
    /// The whole run is within the manifest's fuel. Who pays for a message, and how long it may take, is the host's part.
    ///
    /// # Errors
    /// When the export is missing or the instance dies.
    pub fn run_loop(&mut self) -> Result<Ran, CallError> {
        let missing = |_| CallError::NoExport("astrid:capsule/run-loop");
        let indices = RunLoopExport::new(&self.linked).map_err(missing)?;
        self.fakes().ready = false;
        let caller = Caller { everybody: true, ..self.caller(ANONYMOUS) };
        let end = self.run(caller, |store, instance| indices.load(&mut *store, instance)?.call_run(store))?;
        Ok(Ran { ready: self.fakes().ready, end })
    }
}
