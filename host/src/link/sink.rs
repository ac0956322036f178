//! `astrid:sys/sink`.

use std::time::Duration;

use wasmtime::component::Resource;

use super::Call;
use super::bindings::handler::astrid::sys::sink;
pub use crate::sink::Delivery;
use crate::sink::Error;

impl From<Error> for sink::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(_) => Self::NotFound,
            Error::TooLarge(why) => Self::TooLarge(why),
            Error::Busy => Self::Busy,
            Error::Failed(why) => Self::Failed(why),
        }
    }
}

impl sink::Host for Call {
    async fn deliver(
        &mut self,
        name: String,
        entries: Vec<Vec<u8>>,
    ) -> wasmtime::Result<Result<Resource<Delivery>, sink::Error>> {
        if self.turn.sender.rehearsal {
            return Ok(Err(sink::Error::Failed("this is a rehearsal: nothing is delivered".to_owned())));
        }
        match self.host.sinks.deliver(&name, entries, self.fact("sink.deliver")) {
            Ok(delivery) => Ok(Ok(self.table.push(delivery)?)),
            Err(error) => Ok(Err(error.into())),
        }
    }
}

impl sink::HostDelivery for Call {
    async fn done(
        &mut self,
        delivery: Resource<Delivery>,
        timeout_ms: u32,
    ) -> wasmtime::Result<Option<Result<(), sink::Error>>> {
        let latest = tokio::time::Instant::now() + Duration::from_millis(timeout_ms.into());
        let (until, waited) = (latest.min(self.turn.sender.deadline), self.turn.waited.clone());
        let delivery = self.table.get_mut(&delivery)?;
        Ok(waited.around(delivery.done(until)).await.map(|done| done.map_err(Into::into)))
    }

    async fn drop(&mut self, delivery: Resource<Delivery>) -> wasmtime::Result<()> {
        self.table.delete(delivery)?;
        Ok(())
    }
}
