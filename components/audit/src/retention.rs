//! How long entries are kept. Whole bundles of the oldest go; every hash stays, so what is kept can still be proven.

use astrid_sdk::journal::Error;

use crate::log::Log;

const DAY_NANOS: u64 = 86_400_000_000_000;

/// What is kept; nothing is deleted where neither says so.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub days: Option<u64>,
    pub facts: Option<u64>,
}

impl Retention {
    /// Reads both fields of the environment.
    ///
    /// # Errors
    /// Which field is not a whole number.
    pub fn parse(days: &str, facts: &str) -> Result<Self, String> {
        let number = |name: &str, text: &str| match text.parse::<u64>() {
            Ok(number) => Ok(Some(number).filter(|number| *number > 0)),
            Err(_) => Err(format!("{name} must be a whole number, 0 for no bound")),
        };
        Ok(Self { days: number("RETAIN_DAYS", days)?, facts: number("RETAIN_FACTS", facts)? })
    }

    /// The first index that is to be kept, at a moment in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Log::entries`].
    pub fn first(self, now: u64, log: &impl Log) -> Result<u64, Error> {
        let size = log.size();
        let by_number = self.facts.map_or(0, |facts| size.saturating_sub(facts));
        let by_age = match self.days {
            None => 0,
            Some(days) => oldest(now.saturating_sub(days.saturating_mul(DAY_NANOS)), size, log)?,
        };
        Ok(by_number.max(by_age))
    }
}

/// The first index of a fact that is not older than `since`: facts are in the order of their times.
fn oldest(since: u64, size: u64, log: &impl Log) -> Result<u64, Error> {
    let (mut low, mut high) = (0, size);
    while low < high {
        let middle = low + (high - low) / 2;
        let page = log.entries(middle, 1)?;
        let found = page.facts.first().and_then(|recorded| Some((recorded.index, crate::query::read(recorded)?.time)));
        match found {
            // What was pruned before it is older still.
            Some((index, time)) if time < since => low = index + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::fake::Memory;

    #[test]
    fn what_is_older_or_beyond_the_number_goes_and_nothing_newer() {
        let log = Memory::default();
        (0..1000).for_each(|_| log.add(None, "a"));
        let first = |days, facts, now| Retention { days, facts }.first(now, &log).unwrap();
        assert_eq!(first(None, None, u64::MAX), 0);
        assert_eq!(first(None, Some(300), 0), 700);
        assert_eq!(first(None, Some(5000), 0), 0);
        assert_eq!(first(Some(1), None, DAY_NANOS + 421), 421);
        assert_eq!(first(Some(1), None, DAY_NANOS), 0);
        assert_eq!(first(Some(1), None, 7), 0);
        assert_eq!(first(Some(1), None, 5 * DAY_NANOS), 1000);
        assert_eq!(first(Some(1), Some(900), DAY_NANOS + 421), 421);
        assert_eq!(first(Some(1), Some(100), DAY_NANOS + 421), 900);
        log.first.set(512);
        assert_eq!(first(Some(1), None, DAY_NANOS + 421), 0, "it is gone already");
        assert_eq!(first(Some(1), None, DAY_NANOS + 800), 800);
    }

    #[test]
    fn a_value_that_is_no_whole_number_is_refused_by_name() {
        assert_eq!(Retention::parse("0", "0"), Ok(Retention::default()));
        assert_eq!(Retention::parse("7", "10"), Ok(Retention { days: Some(7), facts: Some(10) }));
        assert!(Retention::parse("1.5", "0").unwrap_err().contains("RETAIN_DAYS"));
        assert!(Retention::parse("0", "-1").unwrap_err().contains("RETAIN_FACTS"));
    }
}
