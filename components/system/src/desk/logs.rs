//! Log lines: which somebody wants to see, and an answer of them that the bus can deliver.

use astrid_sdk::bus::Refusal;
use astrid_sdk::host::{self, LogQuery};
use serde::{Deserialize, Serialize};

/// How many log lines are answered if the query doesn't say.
const DEFAULT_LINES: u32 = 200;
/// The most log lines that one query may ask for.
const MAX_LINES: u32 = 1000;
/// The most bytes of log lines in one answer, well below what the bus delivers by default (1 MiB), escapes included.
const MAX_LINES_BYTES: usize = 512 << 10;
/// What the names of a line's fields and its numbers add to it, at most.
const LINE_OVERHEAD: usize = 128;
const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// Which log lines somebody wants to see.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    pub capsule: Option<String>,
    /// This level and everything more severe.
    pub level: Option<String>,
    /// Only lines that were written then or later. Milliseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Only lines with a greater sequence number.
    pub after: Option<u64>,
    /// 1 to [`MAX_LINES`].
    pub limit: Option<u32>,
}

impl Logs {
    /// The query for the host; `invalid` if a field is out of bounds.
    pub fn query(self) -> Result<LogQuery, Refusal> {
        let limit = self.limit.unwrap_or(DEFAULT_LINES);
        if !(1..=MAX_LINES).contains(&limit) {
            return Err(Refusal::invalid(format!("limit = {limit} must be 1 to {MAX_LINES}")));
        }
        if let Some(level) = &self.level
            && !LEVELS.contains(&level.as_str())
        {
            return Err(Refusal::invalid(format!("level `{}` must be {}", level.escape_debug(), LEVELS.join(", "))));
        }
        let (since_ms, after) = (self.since.unwrap_or(0), self.after.unwrap_or(0));
        Ok(LogQuery { capsule: self.capsule, level: self.level, since_ms, after, limit })
    }
}

/// Oldest first, and the newest ones if not all fit: sequence numbers show what is missing.
#[derive(Debug, Serialize)]
pub struct Lines {
    pub lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
pub struct Line {
    pub sequence: u64,
    pub time_ms: u64,
    pub level: String,
    pub capsule: String,
    pub message: String,
}

impl From<Vec<host::LogLine>> for Lines {
    fn from(lines: Vec<host::LogLine>) -> Self {
        let mut bytes = 0;
        let newest = lines.into_iter().rev().map(|line| Line {
            sequence: line.sequence,
            time_ms: line.time_ms,
            level: line.level,
            capsule: line.capsule,
            message: line.message,
        });
        let fitting = newest.take_while(|line| {
            bytes += LINE_OVERHEAD + escaped(&line.level) + escaped(&line.capsule) + escaped(&line.message);
            bytes <= MAX_LINES_BYTES
        });
        let mut lines: Vec<_> = fitting.collect();
        lines.reverse();
        Self { lines }
    }
}

/// How long a text is as a JSON string, at most.
fn escaped(text: &str) -> usize {
    text.bytes()
        .map(|b| {
            if b < b' ' {
                6
            } else if b == b'"' || b == b'\\' {
                2
            } else {
                1
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, to_value};

    use super::*;

    fn logs(query: Value) -> Result<LogQuery, String> {
        let logs: Logs = serde_json::from_value(query).map_err(|e| e.to_string())?;
        logs.query().map_err(|r| r.reason)
    }

    #[test]
    fn a_log_query_has_defaults_and_bounds() {
        let query = logs(json!({})).unwrap();
        assert_eq!((query.capsule, query.level, query.after, query.limit), (None, None, 0, 200));
        let query = logs(json!({"capsule": "echo", "level": "warn", "since": 9, "after": 7, "limit": 1000})).unwrap();
        assert_eq!(query.since_ms, 9);
        assert_eq!((query.capsule.as_deref(), query.level.as_deref()), (Some("echo"), Some("warn")));
        assert_eq!((query.after, query.limit), (7, 1000));
        for (query, want) in [
            (json!({"limit": 0}), "limit = 0 must be 1 to 1000"),
            (json!({"limit": 1001}), "limit = 1001"),
            (json!({"limit": -1}), "invalid value"),
            (json!({"level": "loud\n"}), "level `loud\\n` must be error, warn, info, debug"),
            (json!({"until": 1}), "unknown field `until`"),
        ] {
            let error = logs(query).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn an_answer_of_log_lines_stays_deliverable_and_keeps_the_newest() {
        let line = |sequence| host::LogLine {
            sequence,
            time_ms: u64::MAX,
            level: "debug".into(),
            capsule: "c".repeat(64),
            message: "\"\\\u{1}ä".repeat(1000),
        };
        let lines = Lines::from((1..=1000).map(line).collect::<Vec<_>>());
        let size = serde_json::to_vec(&lines).unwrap().len();
        assert!((400 << 10..=MAX_LINES_BYTES).contains(&size), "{size}");
        let sequences: Vec<_> = lines.lines.iter().map(|l| l.sequence).collect();
        let oldest = 1001 - sequences.len() as u64;
        assert_eq!(sequences, (oldest..=1000).collect::<Vec<_>>());
    }

    #[test]
    fn lines_have_the_documented_shape() {
        let lines = Lines::from(vec![host::LogLine {
            sequence: 1,
            time_ms: 2,
            level: "info".into(),
            capsule: "host".into(),
            message: "m".into(),
        }]);
        assert_eq!(
            to_value(&lines).unwrap(),
            json!({"lines": [{"sequence": 1, "time_ms": 2, "level": "info", "capsule": "host", "message": "m"}]})
        );
    }
}
