//! `astrid:journal`: a log whose facts the test sets, and which may be pruned. Nothing in it is signed.

use wasmtime::Result as Wasm;

use crate::bindings::astrid::journal::facts::{self, Error, Filter, Outcome, Page, Recorded, TileKind};
use crate::bindings::astrid::journal::retention;
use crate::engine::State;

/// Facts in one bundle: what is pruned is a multiple of it.
const BUNDLE: u64 = 256;

/// What `astrid:journal` answers and what was pruned. The fields are the test's to set and to read.
#[derive(Debug, Default)]
pub struct FakeJournal {
    /// Each a fact as the host writes it: a JSON object. The first has index 0.
    pub facts: Vec<String>,
    pub checkpoint: Option<String>,
    pub key: String,
    /// What the next questions for proofs answer, whatever they are about.
    pub proof: Option<Vec<Vec<u8>>>,
    /// What the next questions for tiles answer.
    pub tile: Option<Vec<u8>>,
    /// The first index that is kept.
    pub first: u64,
}

impl FakeJournal {
    fn recorded(&self) -> impl DoubleEndedIterator<Item = Recorded> {
        let numbered = self.facts.iter().enumerate().skip(self.first as usize);
        numbered.map(|(index, fact)| Recorded { index: index as u64, fact: fact.clone() })
    }
}

fn fits(filter: &Filter, fact: &str) -> bool {
    let fact: serde_json::Value = serde_json::from_str(fact).expect("a fact is JSON");
    let (action, time) = (fact["action"].as_str().unwrap_or_default(), fact["time"].as_u64().unwrap_or_default());
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::Began => "began",
        Outcome::Ok => "ok",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
    };
    let begins = |wanted: &String| {
        action.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    filter.principal.as_ref().is_none_or(|wanted| fact["principal"] == wanted.as_str())
        && filter.action.as_ref().is_none_or(begins)
        && filter.outcome.as_ref().is_none_or(|wanted| fact["outcome"] == outcome(wanted))
        && filter.since.is_none_or(|since| time >= since)
        && filter.until.is_none_or(|until| time < until)
}

impl facts::Host for State {
    fn size(&mut self) -> Wasm<u64> {
        Ok(self.fakes.journal.facts.len() as u64)
    }

    fn wait(&mut self, _beyond: u64, _timeout_ms: u32) -> Wasm<u64> {
        Ok(self.fakes.journal.facts.len() as u64)
    }

    fn query(&mut self, filter: Filter, before: Option<u64>, limit: u32) -> Wasm<Result<Page, Error>> {
        let recorded =
            self.fakes.journal.recorded().rev().skip_while(|r| before.is_some_and(|before| r.index >= before));
        let limit = limit.clamp(1, 1000) as usize;
        let facts: Vec<Recorded> = recorded.filter(|r| fits(&filter, &r.fact)).take(limit).collect();
        let next = facts.last().filter(|_| facts.len() == limit).map(|last| last.index).filter(|index| *index > 0);
        Ok(Ok(Page { facts, next }))
    }

    fn entries(&mut self, first: u64, limit: u32) -> Wasm<Result<Page, Error>> {
        let recorded = self.fakes.journal.recorded().skip_while(|recorded| recorded.index < first);
        let facts: Vec<Recorded> = recorded.take(limit.clamp(1, 1000) as usize).collect();
        let after = facts.last().map_or(first, |last| last.index + 1);
        let next = Some(after).filter(|after| *after < self.fakes.journal.facts.len() as u64);
        Ok(Ok(Page { facts, next }))
    }

    fn checkpoint(&mut self) -> Wasm<Option<String>> {
        Ok(self.fakes.journal.checkpoint.clone())
    }

    fn key(&mut self) -> Wasm<String> {
        Ok(self.fakes.journal.key.clone())
    }

    fn prove(&mut self, _index: u64, _size: u64) -> Wasm<Result<Vec<Vec<u8>>, Error>> {
        Ok(self.fakes.journal.proof.clone().ok_or(Error::NotFound))
    }

    fn tile(&mut self, _kind: TileKind, _index: u64, _width: u32) -> Wasm<Result<Vec<u8>, Error>> {
        Ok(self.fakes.journal.tile.clone().ok_or(Error::NotFound))
    }
}

impl retention::Host for State {
    fn first(&mut self) -> Wasm<u64> {
        Ok(self.fakes.journal.first)
    }

    fn prune(&mut self, before: u64) -> Wasm<Result<u64, String>> {
        let journal = &mut self.fakes.journal;
        let whole = before.min(journal.facts.len() as u64) / BUNDLE * BUNDLE;
        journal.first = journal.first.max(whole);
        Ok(Ok(journal.first))
    }
}
