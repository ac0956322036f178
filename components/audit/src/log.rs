//! The host's log of facts as this capsule reads it, so that what decides can be tested without a host.

use astrid_sdk::bus::Refusal;
use astrid_sdk::journal::{self, Error, Filter, Page};

/// `astrid:journal/facts`, as much as is needed of it.
pub trait Log {
    /// As `size`.
    fn size(&self) -> u64;
    /// As `query`.
    fn query(&self, filter: &Filter, before: Option<u64>, limit: u32) -> Result<Page, Error>;
    /// As `entries`.
    fn entries(&self, first: u64, limit: u32) -> Result<Page, Error>;
    /// As `checkpoint`.
    fn checkpoint(&self) -> Option<String>;
    /// As `prove`.
    fn prove(&self, index: u64, size: u64) -> Result<Vec<Vec<u8>>, Error>;
}

/// The real one.
pub struct Host;

impl Log for Host {
    fn size(&self) -> u64 {
        journal::size()
    }

    fn query(&self, filter: &Filter, before: Option<u64>, limit: u32) -> Result<Page, Error> {
        journal::query(filter, before, limit)
    }

    fn entries(&self, first: u64, limit: u32) -> Result<Page, Error> {
        journal::entries(first, limit)
    }

    fn checkpoint(&self) -> Option<String> {
        journal::checkpoint()
    }

    fn prove(&self, index: u64, size: u64) -> Result<Vec<Vec<u8>>, Error> {
        journal::prove(index, size)
    }
}

/// For whoever asked.
pub fn refusal(error: Error) -> Refusal {
    match error {
        Error::Damaged(what) => Refusal::unavailable(format!("the log is damaged: {what}")),
        Error::NotFound => Refusal::not_found("the log has no such tile"),
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use std::cell::{Cell, RefCell};

    use astrid_sdk::journal::Recorded;
    use serde_json::{Value, json};

    use super::*;
    use crate::query::fits;

    /// A log in memory.
    #[derive(Default)]
    pub(crate) struct Memory {
        pub(crate) facts: RefCell<Vec<String>>,
        pub(crate) first: Cell<u64>,
        /// The most facts that one page looks through; 0 for all.
        pub(crate) look: Cell<usize>,
        /// How many facts its checkpoint covers.
        pub(crate) signed: Cell<u64>,
    }

    impl Memory {
        /// One more, of so many nanoseconds after the epoch as there were facts.
        pub(crate) fn add(&self, principal: Option<&str>, action: &str) {
            let time = self.facts.borrow().len();
            let mut fact = json!({ "id": time.to_string(), "time": time, "action": action, "outcome": "ok" });
            if let Some(principal) = principal {
                fact["principal"] = Value::from(principal);
            }
            self.facts.borrow_mut().push(fact.to_string());
        }

        fn recorded(&self) -> Vec<Recorded> {
            let facts = self.facts.borrow();
            let kept = facts.iter().enumerate().skip(self.first.get() as usize);
            kept.map(|(index, fact)| Recorded { index: index as u64, fact: fact.clone() }).collect()
        }
    }

    impl Log for Memory {
        fn size(&self) -> u64 {
            self.facts.borrow().len() as u64
        }

        fn query(&self, filter: &Filter, before: Option<u64>, limit: u32) -> Result<Page, Error> {
            let look = if self.look.get() == 0 { usize::MAX } else { self.look.get() };
            let rows = self.recorded().into_iter().rev().filter(|row| before.is_none_or(|before| row.index < before));
            let (mut facts, mut next) = (Vec::new(), None);
            for row in rows.take(look) {
                if facts.len() == limit as usize {
                    break;
                }
                next = Some(row.index);
                if crate::fact::Fact::parse(&row.fact).is_some_and(|fact| fits(filter, &fact)) {
                    facts.push(row);
                }
            }
            Ok(Page { facts, next: next.filter(|next| *next > self.first.get()) })
        }

        fn entries(&self, first: u64, limit: u32) -> Result<Page, Error> {
            let rows = self.recorded().into_iter().skip_while(|row| row.index < first);
            let facts: Vec<Recorded> = rows.take(limit as usize).collect();
            let next = facts.last().map(|last| last.index + 1).filter(|next| *next < self.size());
            Ok(Page { facts, next })
        }

        fn checkpoint(&self) -> Option<String> {
            Some(self.signed.get()).filter(|size| *size > 0).map(|size| format!("log\n{size}\nroot\n\nsigned\n"))
        }

        fn prove(&self, index: u64, size: u64) -> Result<Vec<Vec<u8>>, Error> {
            if size > self.signed.get() { Err(Error::NotFound) } else { Ok(vec![format!("{index} of {size}").into()]) }
        }
    }
}
