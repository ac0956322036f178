//! What a host asks of a version before it goes live: its hook, its health, its probes. As there, all of it is a rehearsal:
//! what is written or published is dropped, but for the transaction of a hook that says that all is well.

use astrid_capsule::manifest::{Expect, Probe};
use astrid_capsule::principal::ANONYMOUS;
use serde_json::Value;
use wasmtime::component::Resource;

use crate::bindings::exports::astrid::capsule::health::GuestIndices as HealthExport;
use crate::bindings::exports::astrid::capsule::installation::GuestIndices as InstallationExport;
use crate::store::Transaction;
use crate::{CallError, Capsule, RefusalCode, Request};

impl Capsule {
    /// Calls `astrid:capsule/installation.install`, and commits what it has written in its transaction if it succeeds.
    ///
    /// # Errors
    /// When the export is missing or the instance dies.
    pub fn install(&mut self) -> Result<Result<(), String>, CallError> {
        self.hook(None)
    }

    /// As [`Self::install`], for `upgrade` from that version.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub fn upgrade(&mut self, from: &str) -> Result<Result<(), String>, CallError> {
        self.hook(Some(from))
    }

    fn hook(&mut self, from: Option<&str>) -> Result<Result<(), String>, CallError> {
        let missing = |_| CallError::NoExport("astrid:capsule/installation");
        let indices = InstallationExport::new(&self.linked).map_err(missing)?;
        let done = self.rehearse(|capsule| {
            let caller = capsule.caller(ANONYMOUS);
            capsule.run(caller, |store, instance| {
                let transaction = store.data_mut().table.push(Transaction::default())?;
                let borrowed = Resource::new_borrow(transaction.rep());
                let hooks = indices.load(&mut *store, instance)?;
                let done = match from {
                    None => hooks.call_install(&mut *store, borrowed)?,
                    Some(from) => hooks.call_upgrade(&mut *store, borrowed, from)?,
                };
                let transaction = store.data_mut().table.delete(transaction)?;
                Ok(done.map(|()| transaction))
            })
        })?;
        Ok(done.and_then(|transaction| {
            let fakes = self.fakes();
            let committed = fakes.store.available().and_then(|()| fakes.store.commit(transaction));
            let changes = committed.map_err(|error| format!("its transaction is not committed: {error:?}"))?;
            fakes.registrar.apply(changes);
            Ok(())
        }))
    }

    /// Calls `astrid:capsule/health.check`.
    ///
    /// # Errors
    /// When the export is missing or the instance dies.
    pub fn check_health(&mut self) -> Result<Result<(), String>, CallError> {
        let indices = HealthExport::new(&self.linked).map_err(|_| CallError::NoExport("astrid:capsule/health"))?;
        self.rehearse(|capsule| {
            let caller = capsule.caller(ANONYMOUS);
            capsule.run(caller, |store, instance| indices.load(&mut *store, instance)?.call_check(store))
        })
    }

    /// Makes the calls of the manifest's probes, in order. The error says which of them is answered otherwise, and how.
    ///
    /// # Errors
    /// When an export is missing or the instance dies.
    pub fn probe(&mut self) -> Result<Result<(), String>, CallError> {
        for probe in self.manifest().probe.clone() {
            let what = probe.topic.clone().or_else(|| probe.path.clone()).unwrap_or_default();
            let done = self.rehearse(|capsule| capsule.probe_one(&probe))?;
            if let Err(why) = done {
                return Ok(Err(format!("the probe of {what} {why}")));
            }
        }
        Ok(Ok(()))
    }

    fn probe_one(&mut self, probe: &Probe) -> Result<Result<(), String>, CallError> {
        if let Some(path) = &probe.path {
            let answer = self.http(Request::get(path))?;
            let wanted = probe.status.unwrap_or(200);
            if answer.status != wanted {
                return Ok(Err(format!("is answered with {}, not {wanted}", answer.status)));
            }
            return Ok(probe.answered(&answer.body));
        }
        let topic = probe.topic.as_deref().unwrap_or_default();
        let parsed = astrid_capsule::Topic::parse(topic).ok();
        let binding = parsed.and_then(|topic| self.manifest().handled(&topic));
        let handler = binding.and_then(|binding| binding.handler.clone());
        let Some(handler) = handler else { return Err(CallError::Unbound(topic.into())) };
        let payload = Value::Object(serde_json::Map::new());
        let payload = match &probe.payload {
            None => payload,
            Some(table) => serde_json::to_value(table).map_err(|error| CallError::NotJson(error.to_string()))?,
        };
        let call = self.as_principal(ANONYMOUS).with_topic(topic);
        let answer = call.handle_bytes(&handler, payload.to_string().into_bytes())?;
        let expected = code(probe.expect.unwrap_or_default());
        Ok(match (answer, expected) {
            (Ok(answer), None) => probe.answered(&answer),
            (Ok(_), Some(_)) => Err("is answered, and should be refused".to_owned()),
            (Err(refusal), Some(code)) if refusal.code == code => Ok(()),
            (Err(refusal), _) => Err(format!("is refused: {:?}: {}", refusal.code, refusal.reason)),
        })
    }

    /// What the call writes or publishes is dropped.
    fn rehearse<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, CallError>) -> Result<T, CallError> {
        let fakes = self.fakes();
        let (store, registrar) = (fakes.store.clone(), fakes.registrar.clone());
        let published = fakes.bus.published.len();
        let done = call(self);
        let fakes = self.fakes();
        (fakes.store, fakes.registrar) = (store, registrar);
        fakes.bus.published.truncate(published);
        done
    }
}

fn code(expected: Expect) -> Option<RefusalCode> {
    Some(match expected {
        Expect::Ok => return None,
        Expect::Invalid => RefusalCode::Invalid,
        Expect::Denied => RefusalCode::Denied,
        Expect::NotFound => RefusalCode::NotFound,
        Expect::Conflict => RefusalCode::Conflict,
        Expect::Unavailable => RefusalCode::Unavailable,
    })
}
