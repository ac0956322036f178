//! `astrid:sys/sink`: sinks of the names that the test gives, which take everything at once or fail.

use std::collections::BTreeMap;

use wasmtime::Result as Wasm;
use wasmtime::component::Resource;

use crate::bindings::astrid::sys::sink::{self, Error};
use crate::engine::State;

/// The bounds of one delivery, as the host has them.
const MAX_ENTRIES: usize = 1000;
const MAX_BYTES: usize = 1 << 20;
const MAX_ENTRY: usize = 60 << 10;

/// What the operator has named, and what it got. The fields are the test's to set and to read.
#[derive(Debug, Default)]
pub struct FakeSinks {
    /// What was delivered to each sink; only those that stand here are known.
    pub taken: BTreeMap<String, Vec<Vec<u8>>>,
    /// Why the next deliveries fail.
    pub failing: Option<String>,
}

/// How it ended, until it is asked.
#[allow(unreachable_pub, reason = "the generated bindings name it")]
pub struct Delivery(Option<Result<(), Error>>);

impl FakeSinks {
    fn take(&mut self, name: &str, entries: Vec<Vec<u8>>) -> Result<Delivery, Error> {
        let taken = self.taken.get_mut(name).ok_or(Error::NotFound)?;
        let bytes: usize = entries.iter().map(Vec::len).sum();
        if entries.len() > MAX_ENTRIES || bytes > MAX_BYTES || entries.iter().any(|entry| entry.len() > MAX_ENTRY) {
            return Err(Error::TooLarge(format!("{} entries of {bytes} bytes", entries.len())));
        }
        if let Some(why) = &self.failing {
            return Ok(Delivery(Some(Err(Error::Failed(why.clone())))));
        }
        taken.extend(entries);
        Ok(Delivery(Some(Ok(()))))
    }
}

impl sink::Host for State {
    fn deliver(&mut self, name: String, entries: Vec<Vec<u8>>) -> Wasm<Result<Resource<Delivery>, Error>> {
        match self.fakes.sinks.take(&name, entries) {
            Ok(delivery) => Ok(Ok(self.table.push(delivery)?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl sink::HostDelivery for State {
    fn done(&mut self, delivery: Resource<Delivery>, _timeout_ms: u32) -> Wasm<Option<Result<(), Error>>> {
        let ended = self.table.get_mut(&delivery)?.0.take();
        Ok(Some(ended.unwrap_or_else(|| Err(Error::Failed("it has ended already".into())))))
    }

    fn drop(&mut self, delivery: Resource<Delivery>) -> Wasm<()> {
        self.table.delete(delivery)?;
        Ok(())
    }
}
