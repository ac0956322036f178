//! Publications that nobody takes, and the warning when they become a storm: a sender that talks to a capsule which is
//! gone, or in a topic that was misspelt.
//!
//! Pure but for the lock. Costs a message that somebody takes nothing, one that nobody takes a counter in a table of
//! [`MAX_TOPICS`]; more topics than that share one counter until the window ends.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use astrid_capsule::Topic;

/// Topics that are counted apart in one window.
const MAX_TOPICS: usize = 256;
/// Messages a second above which a topic is a storm.
const STORM_PER_SECOND: u64 = 100;
/// Topics that a warning names.
const MAX_NAMED: usize = 5;
const OTHERS: &str = "other topics";

#[derive(Debug, Default)]
pub struct Storms {
    untaken: Mutex<HashMap<String, u64>>,
}

impl Storms {
    /// A publication reached no binding: there is none, its principal may reach none, or every queue was full.
    pub(super) fn untaken(&self, topic: &Topic) {
        let mut untaken = self.untaken.lock().expect("no panic under this lock");
        if let Some(count) = untaken.get_mut(topic.as_str()) {
            *count += 1;
        } else {
            let name = if untaken.len() < MAX_TOPICS { topic.as_str() } else { OTHERS };
            *untaken.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// Ends a window that was so long, and warns of the hottest topics in it if they were a storm.
    pub fn report(&self, window: Duration) {
        let hottest = self.end(window);
        if !hottest.is_empty() {
            let topics: Vec<String> = hottest.iter().map(|(topic, rate)| format!("{topic} {rate}/s")).collect();
            tracing::warn!(topics = topics.join(", "), "event storm: publications that no binding takes");
        }
    }

    /// The topics above the limit with their messages a second, the hottest first.
    fn end(&self, window: Duration) -> Vec<(String, u64)> {
        let counted = std::mem::take(&mut *self.untaken.lock().expect("no panic under this lock"));
        let seconds = window.as_secs().max(1);
        let mut hottest: Vec<_> = counted
            .into_iter()
            .filter(|(_, count)| *count > STORM_PER_SECOND * seconds)
            .map(|(topic, count)| (topic, count / seconds))
            .collect();
        hottest.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        hottest.truncate(MAX_NAMED);
        hottest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(storms: &Storms, topic: &str, times: usize) {
        let topic = Topic::parse(topic).unwrap();
        (0..times).for_each(|_| storms.untaken(&topic));
    }

    #[test]
    fn the_hottest_topics_of_a_window_are_named_and_the_next_window_begins_anew() {
        let storms = Storms::default();
        let window = Duration::from_secs(5);
        publish(&storms, "calm.v1", 500);
        publish(&storms, "hot.v1", 501);
        publish(&storms, "hotter.v1", 5000);
        assert_eq!(storms.end(window), [("hotter.v1".to_owned(), 1000), ("hot.v1".to_owned(), 100)]);
        assert_eq!(storms.end(window), []);
    }

    #[test]
    fn however_many_topics_there_are_the_table_is_bounded_and_no_storm_is_missed() {
        let storms = Storms::default();
        (0..10_000).for_each(|n| publish(&storms, &format!("t.n{n}"), 1));
        assert_eq!(storms.untaken.lock().unwrap().len(), MAX_TOPICS + 1);
        assert_eq!(storms.end(Duration::from_secs(5)), [(OTHERS.to_owned(), (10_000 - MAX_TOPICS as u64) / 5)]);
        (0..20).for_each(|n| publish(&storms, &format!("t.n{n}"), 1000));
        assert_eq!(storms.end(Duration::from_secs(5)).len(), MAX_NAMED);
    }
}
