//! `audit.v1.query`: which facts somebody gets to see, page by page.
//!
//! A cursor is an index of the log, so what is recorded meanwhile does not move it. Bounded by [`MAX_LIMIT`] entries,
//! [`MAX_BYTES`] and [`MAX_LOOKS`] pages of the log for one answer; whoever hits a bound is told where to go on.

use astrid_sdk::bus::Refusal;
use astrid_sdk::journal::{self, Filter, Recorded};
use astrid_sdk::log;
use serde::{Deserialize, Serialize};

use crate::fact::{Fact, Outcome, Redaction};
use crate::format::{Entry, Format};
use crate::log::{Log, refusal};

/// The most entries of one page.
pub const MAX_LIMIT: u32 = 1000;
/// Bytes of entries in one page: well below the 1 MiB that the bus delivers.
pub const MAX_BYTES: usize = 768 << 10;
/// The most pages of the log that are looked through for one answer.
pub const MAX_LOOKS: usize = 16;
const DEFAULT_LIMIT: u32 = 100;
const NANOS: u64 = 1_000_000_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Seconds since the Unix epoch.
    #[serde(default)]
    pub since: Option<u64>,
    #[serde(default)]
    pub until: Option<u64>,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub principal: Option<String>,
    #[serde(default)]
    pub outcome: Option<Outcome>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub cursor: Option<u64>,
    #[serde(default)]
    pub from: Option<u64>,
    #[serde(default)]
    pub format: Option<Format>,
}

#[derive(Debug, Serialize)]
pub struct Page {
    pub entries: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_from: Option<u64>,
    pub size: u64,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    pub principal: &'a str,
    /// Whether it may see everybody's.
    pub all: bool,
}

impl Reader<'_> {
    /// Whether it may see this one.
    pub fn sees(self, fact: &Fact) -> bool {
        self.all || fact.principal.as_deref() == Some(self.principal)
    }
}

/// Whether an action is this one, or begins with these words.
pub fn begins(action: &str, wanted: &str) -> bool {
    action.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a fact is what the filter wants.
pub fn fits(filter: &Filter, fact: &Fact) -> bool {
    filter.principal.as_ref().is_none_or(|wanted| fact.principal.as_ref() == Some(wanted))
        && filter.action.as_deref().is_none_or(|wanted| begins(&fact.action, wanted))
        && filter.outcome.is_none_or(|wanted| wanted == fact.outcome.into())
        && filter.since.is_none_or(|since| fact.time >= since)
        && filter.until.is_none_or(|until| fact.time < until)
}

impl From<Outcome> for journal::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Began => Self::Began,
            Outcome::Ok => Self::Ok,
            Outcome::Refused => Self::Refused,
            Outcome::Failed => Self::Failed,
            Outcome::Unknown => Self::Unknown,
        }
    }
}

/// Entries as they are collected, up to the bounds of an answer.
struct Collected<'a> {
    entries: Vec<Entry>,
    bytes: usize,
    limit: usize,
    format: Format,
    redaction: &'a Redaction,
}

impl Collected<'_> {
    fn is_full(&self) -> bool {
        self.entries.len() >= self.limit
    }

    /// False if it does not fit any more.
    fn add(&mut self, index: u64, fact: Fact) -> bool {
        let entry = Entry::new(index, self.redaction.apply(fact), self.format);
        // Measured as it will be written.
        let bytes = serde_json::to_vec(&entry).map_or(0, |text| text.len() + 1);
        if self.is_full() || (self.bytes + bytes > MAX_BYTES && !self.entries.is_empty()) {
            return false;
        }
        self.bytes += bytes;
        self.entries.push(entry);
        true
    }
}

/// A fact of the log; one that does not read is passed over with a line in the log.
pub fn read(recorded: &Recorded) -> Option<Fact> {
    let fact = Fact::parse(&recorded.fact);
    if fact.is_none() {
        log::error!("entry {} of the log is no fact that this version knows", recorded.index);
    }
    fact
}

impl Request {
    /// The page that this asks for, as `reader` may see it.
    ///
    /// # Errors
    /// `invalid` where a field is out of bounds, `denied` where another's facts are asked for, `unavailable` where the log can't
    /// be read.
    pub fn answer(self, reader: Reader<'_>, log: &impl Log, redaction: &Redaction) -> Result<Page, Refusal> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Refusal::invalid(format!("limit = {limit} must be 1 to {MAX_LIMIT}")));
        }
        if self.cursor.is_some() && self.from.is_some() {
            return Err(Refusal::invalid("give cursor, which goes back, or from, which goes on, and not both"));
        }
        let principal = match self.principal {
            Some(other) if !reader.all && other != reader.principal => {
                return Err(Refusal::denied("facts of others require audit:read_all"));
            }
            None if !reader.all => Some(reader.principal.to_owned()),
            asked => asked,
        };
        let filter = Filter {
            principal,
            action: self.method,
            outcome: self.outcome.map(Into::into),
            since: self.since.map(|seconds| seconds.saturating_mul(NANOS)),
            until: self.until.map(|seconds| seconds.saturating_mul(NANOS)),
        };
        let format = self.format.unwrap_or_default();
        let collected = Collected { entries: Vec::new(), bytes: 0, limit: limit as usize, format, redaction };
        match self.from {
            Some(from) => forward(collected, &filter, from, log),
            None => backward(collected, &filter, self.cursor, log),
        }
    }
}

/// Newest first, what comes before `cursor`.
fn backward(
    mut collected: Collected<'_>,
    filter: &Filter,
    cursor: Option<u64>,
    log: &impl Log,
) -> Result<Page, Refusal> {
    let size = log.size();
    let mut before = cursor;
    for _ in 0..MAX_LOOKS {
        let wanted = collected.limit - collected.entries.len();
        let page = log.query(filter, before, wanted as u32).map_err(refusal)?;
        for recorded in &page.facts {
            let Some(fact) = read(recorded) else { continue };
            if !collected.add(recorded.index, fact) {
                let next_cursor = Some(recorded.index + 1);
                return Ok(Page { entries: collected.entries, next_cursor, next_from: None, size });
            }
        }
        before = page.next;
        if before.is_none() || collected.is_full() {
            break;
        }
    }
    Ok(Page { entries: collected.entries, next_cursor: before, next_from: None, size })
}

/// Oldest first, from index `from`.
fn forward(mut collected: Collected<'_>, filter: &Filter, from: u64, log: &impl Log) -> Result<Page, Refusal> {
    let size = log.size();
    let mut first = from.min(size);
    'looks: for _ in 0..MAX_LOOKS {
        let page = log.entries(first, MAX_LIMIT).map_err(refusal)?;
        for recorded in &page.facts {
            if let Some(fact) = read(recorded).filter(|fact| fits(filter, fact))
                && !collected.add(recorded.index, fact)
            {
                break 'looks;
            }
            first = recorded.index + 1;
        }
        match page.next {
            Some(next) if !collected.is_full() => first = first.max(next),
            _ => break,
        }
    }
    Ok(Page { entries: collected.entries, next_cursor: None, next_from: Some(first), size })
}

#[cfg(test)]
mod tests {
    use astrid_sdk::bus::RefusalCode;

    use super::*;
    use crate::log::fake::Memory;

    const ALL: Reader<'_> = Reader { principal: "root", all: true };
    const ALICE: Reader<'_> = Reader { principal: "alice", all: false };

    fn log(facts: usize) -> Memory {
        let log = Memory::default();
        for n in 0..facts {
            log.add([Some("alice"), Some("bob"), None][n % 3], ["a.one", "a.two"][n % 2]);
        }
        log
    }

    fn ask(reader: Reader<'_>, log: &Memory, request: Request) -> Page {
        request.answer(reader, log, &Redaction::default()).unwrap()
    }

    fn indices(page: &Page) -> Vec<u64> {
        page.entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn somebody_sees_their_own_and_only_who_may_read_all_sees_the_rest() {
        let log = log(9);
        assert_eq!(indices(&ask(ALICE, &log, Request::default())), [6, 3, 0]);
        assert_eq!(indices(&ask(ALICE, &log, Request { from: Some(1), ..Request::default() })), [3, 6]);
        assert_eq!(indices(&ask(ALL, &log, Request::default())), [8, 7, 6, 5, 4, 3, 2, 1, 0]);
        let bobs = || Request { principal: Some("bob".into()), ..Request::default() };
        assert_eq!(indices(&ask(ALL, &log, bobs())), [7, 4, 1]);
        let refusal = bobs().answer(ALICE, &log, &Redaction::default()).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Denied);
        let own = Request { principal: Some("alice".into()), ..Request::default() };
        assert_eq!(indices(&ask(ALICE, &log, own)).len(), 3);
    }

    #[test]
    fn pages_join_without_a_gap_or_a_repetition_while_facts_are_added() {
        let log = log(100);
        log.look.set(7);
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = ask(ALICE, &log, Request { limit: Some(3), cursor, ..Request::default() });
            assert!(page.entries.len() <= 3);
            seen.extend(indices(&page));
            log.add(Some("alice"), "a.late");
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let mut wanted: Vec<u64> = (0..100).filter(|n| n % 3 == 0).collect();
        wanted.reverse();
        assert_eq!(seen, wanted);
    }

    #[test]
    fn going_on_from_an_index_gets_everything_once_and_knows_the_end() {
        let log = log(50);
        let (mut seen, mut from) = (Vec::new(), 0);
        loop {
            let page = ask(ALICE, &log, Request { limit: Some(4), from: Some(from), ..Request::default() });
            seen.extend(indices(&page));
            if page.entries.is_empty() {
                assert_eq!(page.next_from, Some(50));
                break;
            }
            from = page.next_from.unwrap();
        }
        assert_eq!(seen, (0..50).filter(|n| n % 3 == 0).collect::<Vec<_>>());
        let beyond = ask(ALICE, &log, Request { from: Some(u64::MAX), ..Request::default() });
        assert_eq!((beyond.next_from, beyond.entries.len()), (Some(50), 0));
    }

    #[test]
    fn what_was_pruned_is_passed_over() {
        let log = log(600);
        log.first.set(256);
        let page = ask(ALL, &log, Request { from: Some(0), limit: Some(1), ..Request::default() });
        assert_eq!((indices(&page), page.next_from), (vec![256], Some(257)));
    }

    #[test]
    fn both_directions_filter_alike() {
        let log = log(60);
        for (request, wanted) in [
            (Request { method: Some("a.two".into()), ..Request::default() }, 30),
            (Request { method: Some("a".into()), ..Request::default() }, 60),
            (Request { method: Some("a.t".into()), ..Request::default() }, 0),
            (Request { outcome: Some(Outcome::Failed), ..Request::default() }, 0),
            (Request { since: Some(1), ..Request::default() }, 0),
            (Request { until: Some(1), ..Request::default() }, 60),
            (Request { principal: Some("bob".into()), method: Some("a.one".into()), ..Request::default() }, 10),
        ] {
            let shown = format!("{request:?}");
            let on = Request {
                from: Some(0),
                method: request.method.clone(),
                principal: request.principal.clone(),
                ..request
            };
            let back = Request { from: None, method: on.method.clone(), principal: on.principal.clone(), ..on };
            assert_eq!(ask(ALL, &log, back).entries.len(), wanted, "{shown}");
            assert_eq!(ask(ALL, &log, on).entries.len(), wanted, "{shown}");
        }
    }

    #[test]
    fn an_answer_stays_deliverable_and_goes_on_where_it_was_cut() {
        let log = Memory::default();
        let long = "x".repeat(200 << 10);
        for n in 0..8 {
            log.add(Some(&long), &format!("a.{n}"));
        }
        let first = ask(ALL, &log, Request::default());
        assert_eq!((indices(&first), first.next_cursor), (vec![7, 6, 5], Some(5)));
        let on = ask(ALL, &log, Request { from: Some(0), ..Request::default() });
        assert_eq!((indices(&on), on.next_from), (vec![0, 1, 2], Some(3)));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let log = log(1);
        for (request, named) in [
            (Request { limit: Some(0), ..Request::default() }, "limit"),
            (Request { limit: Some(1001), ..Request::default() }, "limit"),
            (Request { cursor: Some(1), from: Some(1), ..Request::default() }, "cursor"),
        ] {
            let refusal = request.answer(ALL, &log, &Redaction::default()).unwrap_err();
            assert!(refusal.code == RefusalCode::Invalid && refusal.reason.contains(named), "{}", refusal.reason);
        }
    }
}
