//! What a run loop carries over to the next version: a test is the version before, and the one after.

use astrid_capsule::principal::ANONYMOUS;

use crate::bindings::exports::astrid::capsule::run_loop::GuestIndices as RunLoopExport;
use crate::bindings::exports::astrid::capsule::state::{GuestIndices as StateExport, Snapshot};
use crate::engine::Caller;
use crate::{CallError, Capsule};

impl Capsule {
    /// One version's life between two others, in a fresh instance: it gets the state of the one before, if there is one, runs
    /// on what the test lets arrive ([`Self::arrive`]) until its subscriptions end, and gives its state. The error is the
    /// capsule's own: it refuses the state, `run` fails, or it gives none.
    ///
    /// All of it together is within the manifest's fuel. How large a state may be is the host's part.
    ///
    /// # Errors
    /// When an export is missing or the instance dies.
    pub fn hand_over(&mut self, state: Option<&Snapshot>) -> Result<Result<Snapshot, String>, CallError> {
        let run_loop = RunLoopExport::new(&self.linked).map_err(|_| CallError::NoExport("astrid:capsule/run-loop"))?;
        let carrier = StateExport::new(&self.linked).map_err(|_| CallError::NoExport("astrid:capsule/state"))?;
        let caller = Caller { everybody: true, ..self.caller(ANONYMOUS) };
        self.run(caller, |store, instance| {
            let carrier = carrier.load(&mut *store, instance)?;
            if let Some(state) = state
                && let Err(why) = carrier.call_import_state(&mut *store, state)?
            {
                return Ok(Err(why));
            }
            if let Err(why) = run_loop.load(&mut *store, instance)?.call_run(&mut *store)? {
                return Ok(Err(why));
            }
            carrier.call_export_state(store)
        })
    }
}
