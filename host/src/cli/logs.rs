//! `astrid logs`: the lines that the host still holds. Following is asking again each second for what came after.

use std::time::Duration;

use clap::{Args, ValueEnum, value_parser};
use serde::Deserialize;

use super::failure::{Exit, Failure};
use super::{Context, daemon, text, time};

/// The most lines that one call answers with.
const MAX_LINES: u32 = 1000;
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct Options {
    /// Only this capsule's lines; `host` for the host's own
    capsule: Option<String>,
    /// Only this level and what is more severe
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// How many of the newest lines
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=MAX_LINES.into()))]
    lines: u32,
    /// Only lines that are no older, such as 30s or 5m
    #[arg(long, value_name = "SPAN", value_parser = time::parse_span)]
    since: Option<u64>,
    /// Go on with new lines as they come
    #[arg(short, long)]
    follow: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Deserialize)]
struct Lines {
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    sequence: u64,
    time_ms: u64,
    level: String,
    capsule: String,
    message: String,
}

impl Options {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        // Sequence numbers begin again with the host's process.
        let mut process = daemon::called(context);
        let mut after = 0;
        let mut limit = self.lines;
        let since = self.since.map(|span| time::now().saturating_sub(span).saturating_mul(1000));
        loop {
            let answer = context.client.get("read the log", &self.path(since, after, limit)).await?;
            let Lines { lines } = answer.read()?;
            if context.console.json {
                if !self.follow || !lines.is_empty() {
                    context.console.document(&answer.body)?;
                }
            } else if !lines.is_empty() {
                let first = lines.iter().map(|l| l.sequence).min().unwrap_or(0);
                // Every number is some line's; among a capsule's or a level's they are not all expected.
                let all = self.capsule.is_none() && self.level.is_none();
                if after > 0 && first > after + 1 && (all || lines.len() >= MAX_LINES as usize) {
                    context.console.remark("(lines were left out here: there were too many)");
                }
                let text: Vec<String> = lines.iter().map(Line::shown).collect();
                context.console.print(&text.join("\n"))?;
            }
            if !self.follow || context.console.closed() {
                return Ok(Exit::Done);
            }
            // The newest stands last; its number is lower where the host began anew.
            after = lines.last().map_or(after, |line| line.sequence);
            limit = MAX_LINES;
            tokio::time::sleep(INTERVAL).await;
            let now = daemon::called(context);
            if now != process {
                (process, after) = (now, 0);
            }
        }
    }

    fn path(&self, since: Option<u64>, after: u64, limit: u32) -> String {
        let mut path = format!("/api/sys/logs?after={after}&limit={limit}");
        if let Some(since) = since {
            path += &format!("&since={since}");
        }
        if let Some(capsule) = &self.capsule {
            path += &format!("&capsule={}", text::encoded(capsule));
        }
        if let Some(level) = self.level.and_then(|l| l.to_possible_value()) {
            path += &format!("&level={}", level.get_name());
        }
        path
    }
}

impl Line {
    fn shown(&self) -> String {
        let Line { time_ms, level, capsule, message, .. } = self;
        let (level, capsule, message) = (text::shown(level), text::shown(capsule), text::shown(message));
        format!("{}  {level:<5}  {capsule:<10}  {message}", time::moment_ms(*time_ms))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::cli::testing::Host;

    fn lines(sequences: &[u64]) -> String {
        let line = |n: &u64| {
            format!(r#"{{"sequence":{n},"time_ms":{n},"level":"warn","capsule":"echo","message":"m{n}\u001b\n"}}"#)
        };
        format!(r#"{{"lines":[{}]}}"#, sequences.iter().map(line).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn lines_are_shown_on_one_line_each_without_control_characters() {
        let host = Host::answering(200, &lines(&[7]));
        let ran = host.astrid(&["logs", "ec/ho", "--level", "warn", "--lines", "5"]);
        assert_eq!(ran.out, "1970-01-01 00:00:00.007Z  warn   echo        m7\\u{1b}\\n\n", "{ran:?}");
        assert_eq!(host.astrid(&["logs", "--json"]).out, lines(&[7]) + "\n");
        assert_eq!(
            host.requests(),
            ["GET /api/sys/logs?after=0&limit=5&capsule=ec%2Fho&level=warn", "GET /api/sys/logs?after=0&limit=100"]
        );
        host.astrid(&["logs", "--since", "5m"]);
        let asked = host.requests().pop().unwrap();
        let since: u64 = asked.strip_prefix("GET /api/sys/logs?after=0&limit=100&since=").unwrap().parse().unwrap();
        assert!(since + 299_000 <= 1000 * time::now() && since.is_multiple_of(1000), "{asked}");
        for bad in [["--lines", "0"], ["--lines", "1001"], ["--level", "loud"], ["--since", "5"]] {
            assert_eq!(host.astrid(&["logs", bad[0], bad[1]]).exit, Exit::Usage);
        }
    }

    #[test]
    fn following_asks_for_what_came_after_until_the_host_fails() {
        let calls = AtomicU64::new(0);
        let host = Host::with(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => (200, lines(&[3, 4])),
            1 => (200, lines(&[])),
            2 => (200, lines(&[9])),
            _ => (503, r#"{"error":"overloaded"}"#.to_owned()),
        });
        let ran = host.astrid(&["logs", "-f", "--lines", "2"]);
        assert_eq!(ran.exit, Exit::Failed);
        assert_eq!(ran.out.lines().count(), 3, "{}", ran.out);
        let asked: Vec<String> = host.requests().iter().map(|r| r.replace("GET /api/sys/logs?", "")).collect();
        assert_eq!(asked, ["after=0&limit=2", "after=4&limit=1000", "after=4&limit=1000", "after=9&limit=1000"]);
    }
}
