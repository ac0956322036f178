//! `astrid:journal`.

use std::time::Duration;

use super::Call;
use super::bindings::handler::astrid::journal::{facts, retention};
use crate::Boxed;
use crate::journal::tiles::Kind;
use crate::journal::verify::PRUNED;
use crate::journal::{self, Filter, Journal, Outcome, ReadError};

impl From<ReadError> for facts::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(difference) => Self::Damaged(difference.to_string()),
            ReadError::NotFound => Self::NotFound,
        }
    }
}

impl From<journal::Page> for facts::Page {
    fn from(page: journal::Page) -> Self {
        let fact = |recorded: &journal::Recorded| facts::Recorded {
            index: recorded.index,
            fact: String::from_utf8_lossy(&recorded.bytes).into_owned(),
        };
        Self { facts: page.facts.iter().map(|recorded| fact(recorded)).collect(), next: page.next }
    }
}

impl From<facts::Filter> for Filter {
    fn from(filter: facts::Filter) -> Self {
        let outcome = |outcome| match outcome {
            facts::Outcome::Began => Outcome::Began,
            facts::Outcome::Ok => Outcome::Ok,
            facts::Outcome::Refused => Outcome::Refused,
            facts::Outcome::Failed => Outcome::Failed,
            facts::Outcome::Unknown => Outcome::Unknown,
        };
        Self {
            principal: filter.principal,
            action: filter.action,
            outcome: filter.outcome.map(outcome),
            since: filter.since,
            until: filter.until,
        }
    }
}

impl Call {
    /// Reads from the disk where that may block.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Journal) -> Result<T, ReadError> + Send + 'static,
    ) -> Boxed<'static, wasmtime::Result<Result<T, facts::Error>>> {
        let (host, waited) = (self.host.clone(), self.turn.waited.clone());
        Box::pin(async move {
            let journal = host.journal.clone();
            let read = waited.around(async move { host.blocking.run(move || read(&journal)).await }).await?;
            Ok(read.map_err(facts::Error::from))
        })
    }
}

impl facts::Host for Call {
    async fn size(&mut self) -> wasmtime::Result<u64> {
        Ok(self.host.journal.size())
    }

    async fn wait(&mut self, beyond: u64, timeout_ms: u32) -> wasmtime::Result<u64> {
        let latest = tokio::time::Instant::now() + Duration::from_millis(timeout_ms.into());
        let (journal, until) = (self.host.journal.clone(), latest.min(self.turn.sender.deadline));
        Ok(self.turn.waited.around(async move { journal.wait(beyond, until).await }).await)
    }

    async fn query(
        &mut self,
        filter: facts::Filter,
        before: Option<u64>,
        limit: u32,
    ) -> wasmtime::Result<Result<facts::Page, facts::Error>> {
        let filter = filter.into();
        let page = self.read(move |journal| journal.page(&filter, before, limit as usize)).await?;
        Ok(page.map(facts::Page::from))
    }

    async fn entries(&mut self, first: u64, limit: u32) -> wasmtime::Result<Result<facts::Page, facts::Error>> {
        let page = self.read(move |journal| journal.entries(first, limit as usize)).await?;
        Ok(page.map(facts::Page::from))
    }

    async fn checkpoint(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(Some(self.host.journal.checkpoint().to_string()).filter(|text| !text.is_empty()))
    }

    async fn key(&mut self) -> wasmtime::Result<String> {
        Ok(self.host.journal.key().to_string())
    }

    async fn prove(&mut self, index: u64, size: u64) -> wasmtime::Result<Result<Vec<Vec<u8>>, facts::Error>> {
        let hashes = self.read(move |journal| journal.prove(index, size)).await?;
        Ok(hashes.map(|hashes| hashes.into_iter().map(Vec::from).collect()))
    }

    async fn tile(
        &mut self,
        kind: facts::TileKind,
        index: u64,
        width: u32,
    ) -> wasmtime::Result<Result<Vec<u8>, facts::Error>> {
        let kind = match kind {
            facts::TileKind::Hashes(level) => Kind::Hashes(level),
            facts::TileKind::Entries => Kind::Entries,
        };
        self.read(move |journal| journal.tile(kind, index, width.into())).await
    }
}

impl retention::Host for Call {
    async fn first(&mut self) -> wasmtime::Result<u64> {
        Ok(self.host.journal.first())
    }

    async fn prune(&mut self, before: u64) -> wasmtime::Result<Result<u64, String>> {
        if self.turn.sender.rehearsal {
            return Ok(Err("this is a rehearsal: nothing is deleted".to_owned()));
        }
        let host = self.host.clone();
        let wish = self.fact(PRUNED);
        // A caller that goes away must not leave it half done.
        let pruning = tokio::spawn(async move { host.journal.prune(before, wish, &host.blocking).await });
        let outcome = self.turn.waited.around(pruning).await;
        Ok(outcome.unwrap_or_else(|error| Err(error.to_string())))
    }
}
