//! Letting others run, also between host calls.
//!
//! A guest yields when it has used a slice of fuel, but a host call costs it next to none however long it takes. So
//! whoever comes back from the host after having run for a while yields as well: then deadlines are looked at, and other
//! calls get their turn, whatever a guest asks of the host.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use wasmtime::{CallHook, CallHookHandler, StoreContextMut};

/// How long a guest may run from host call to host call without yielding.
const SLICE: Duration = Duration::from_millis(1);

/// One call's breath: when it last let others run.
pub struct Breath(Mutex<Instant>);

impl Breath {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(now))
    }

    /// Whether it is time to yield at `now`; then the next slice begins.
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().expect("no panic under this lock");
        let due = now.saturating_duration_since(*last) >= SLICE;
        if due {
            *last = now;
        }
        due
    }
}

#[async_trait::async_trait]
impl<T: Send> CallHookHandler<T> for Breath {
    async fn handle_call_event(&self, _: StoreContextMut<'_, T>, event: CallHook) -> wasmtime::Result<()> {
        if matches!(event, CallHook::ReturningFromHost) && self.is_due(Instant::now()) {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breath_is_due_once_for_each_slice_however_many_calls_there_are() {
        let start = Instant::now();
        let breath = Breath::new(start);
        let due = (0..1000).filter(|n| breath.is_due(start + Duration::from_micros(10 * n))).count();
        assert_eq!(due, 9);
    }
}
