//! `astrid top`: what the host is at, by capsule and by principal, again and again. Rates are the difference of two answers.
//!
//! On a terminal the screen is drawn anew each time; elsewhere one report follows the other. Bounded by the principals that
//! one answer has. Knows how figures are shown; what they count is the host's business.

use std::collections::HashMap;
use std::time::Duration;

use clap::{Args, value_parser};
use serde::{Deserialize, Serialize};

use super::failure::{Exit, Failure};
use super::{Context, table, time};

/// How many principals are asked for: more than a screen has lines.
const PRINCIPALS: u32 = 100;
/// Puts the cursor in the upper left corner and empties the screen below it.
const REDRAW: &str = "\u{1b}[H\u{1b}[J";

#[derive(Args)]
pub(super) struct Options {
    /// Show it once and end
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECS", default_value_t = 2, value_parser = value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// How many lines of each table
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = value_parser!(u32).range(1..=PRINCIPALS.into()))]
    lines: u32,
}

/// What the host answers. Totals begin with its process.
#[derive(Debug, Deserialize)]
struct Load {
    uptime_ms: u64,
    instances: u32,
    instances_in_use: u32,
    calls_waiting: u32,
    capsules: Vec<CapsuleLoad>,
    principals: Vec<PrincipalLoad>,
}

#[derive(Debug, Deserialize)]
struct CapsuleLoad {
    id: String,
    calls_total: u64,
    fuel_total: u64,
    memory_peak_bytes: u64,
    queue_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct PrincipalLoad {
    principal: String,
    calls_total: u64,
    fuel_total: u64,
    memory_peak_bytes: u64,
    bus_bytes_total: u64,
}

/// What was done between two looks, for people and for programs.
#[derive(Debug, Serialize)]
struct Report {
    uptime_secs: u64,
    /// Between the two looks.
    seconds: f64,
    instances: u32,
    instances_in_use: u32,
    calls_waiting: u32,
    /// Those that use most fuel first.
    capsules: Vec<Row>,
    principals: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    calls_per_sec: f64,
    fuel_per_sec: f64,
    /// The most that one instance has had.
    memory_peak_bytes: u64,
    /// Of capsules: what waits for its handlers.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_bytes: Option<u64>,
    /// Of principals: what it sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes_per_sec: Option<f64>,
}

impl Options {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let mut before = look(context).await?;
        loop {
            tokio::time::sleep(Duration::from_secs(self.interval)).await;
            let now = look(context).await?;
            let report = Report::between(&before, &now);
            if context.console.json {
                let document = serde_json::to_string(&report).expect("plain records serialise");
                context.console.print(&document)?;
            } else {
                let redraw = if context.console.is_terminal() && !self.once { REDRAW } else { "" };
                context.console.print(&format!("{redraw}{}", report.shown(self.lines as usize)))?;
            }
            if self.once || context.console.closed() {
                return Ok(Exit::Done);
            }
            before = now;
        }
    }
}

async fn look(context: &Context<'_>) -> Result<Load, Failure> {
    context.client.get("see the load", &format!("/api/sys/load?limit={PRINCIPALS}")).await?.read()
}

impl Report {
    /// After a restart in between, the second answer is all that was done since.
    fn between(before: &Load, now: &Load) -> Self {
        let same = now.uptime_ms > before.uptime_ms;
        let millis = if same { now.uptime_ms - before.uptime_ms } else { now.uptime_ms };
        let seconds = millis.max(1) as f64 / 1000.0;
        let rate = |before: Option<u64>, now: u64| {
            now.saturating_sub(before.filter(|_| same).unwrap_or_default()) as f64 / seconds
        };
        let known: HashMap<&str, &CapsuleLoad> = before.capsules.iter().map(|one| (one.id.as_str(), one)).collect();
        let capsules = now.capsules.iter().map(|one| {
            let known = known.get(one.id.as_str());
            Row {
                name: one.id.clone(),
                calls_per_sec: rate(known.map(|k| k.calls_total), one.calls_total),
                fuel_per_sec: rate(known.map(|k| k.fuel_total), one.fuel_total),
                memory_peak_bytes: one.memory_peak_bytes,
                queue_bytes: Some(one.queue_bytes),
                sent_bytes_per_sec: None,
            }
        });
        let known: HashMap<&str, &PrincipalLoad> =
            before.principals.iter().map(|one| (one.principal.as_str(), one)).collect();
        // One that was not among the latest before may have totals of long ago: its rate is not known yet.
        let principals = now.principals.iter().map(|one| {
            let known = known.get(one.principal.as_str());
            let new = before.principals.len() < PRINCIPALS as usize;
            let since = |total: fn(&PrincipalLoad) -> u64| match known {
                Some(known) => Some(total(known)),
                None if new => None,
                None => Some(total(one)),
            };
            Row {
                name: one.principal.clone(),
                calls_per_sec: rate(since(|k| k.calls_total), one.calls_total),
                fuel_per_sec: rate(since(|k| k.fuel_total), one.fuel_total),
                memory_peak_bytes: one.memory_peak_bytes,
                queue_bytes: None,
                sent_bytes_per_sec: Some(rate(since(|k| k.bus_bytes_total), one.bus_bytes_total)),
            }
        });
        let busiest = |rows: &mut Vec<Row>| {
            rows.sort_by(|a, b| b.fuel_per_sec.total_cmp(&a.fuel_per_sec).then_with(|| a.name.cmp(&b.name)));
        };
        let (mut capsules, mut principals): (Vec<Row>, Vec<Row>) = (capsules.collect(), principals.collect());
        busiest(&mut capsules);
        busiest(&mut principals);
        Self {
            uptime_secs: now.uptime_ms / 1000,
            seconds,
            instances: now.instances,
            instances_in_use: now.instances_in_use,
            calls_waiting: now.calls_waiting,
            capsules,
            principals,
        }
    }

    fn shown(&self, lines: usize) -> String {
        let up = time::span(self.uptime_secs);
        let (used, all, waiting) = (self.instances_in_use, self.instances, self.calls_waiting);
        let row = |row: &Row, last: String| {
            let memory = bytes(row.memory_peak_bytes as f64);
            [row.name.clone(), figure(row.calls_per_sec), figure(row.fuel_per_sec), memory, last]
        };
        let capsules: Vec<[String; 5]> =
            self.capsules.iter().take(lines).map(|one| row(one, bytes(one.queue_bytes.unwrap_or(0) as f64))).collect();
        let principals: Vec<[String; 5]> = self
            .principals
            .iter()
            .take(lines)
            .map(|one| row(one, bytes(one.sent_bytes_per_sec.unwrap_or(0.0))))
            .collect();
        format!(
            "up {up}  instances {used} of {all}  waiting {waiting}\n\n{}\n\n{}",
            table::table(["CAPSULE", "CALLS/S", "FUEL/S", "PEAK MEMORY", "QUEUE"], &capsules),
            table::table(["PRINCIPAL", "CALLS/S", "FUEL/S", "PEAK MEMORY", "SENT/S"], &principals),
        )
    }
}

/// A number in three digits and a unit of thousands.
fn figure(number: f64) -> String {
    scaled(number, 1000.0, ["", "k", "M", "G", "T", "P"])
}

/// Bytes in three digits and a binary unit.
fn bytes(number: f64) -> String {
    scaled(number, 1024.0, [" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

fn scaled(mut number: f64, step: f64, units: [&str; 6]) -> String {
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let unit = units[unit];
    if number.fract() == 0.0 || number >= 99.95 { format!("{number:.0}{unit}") } else { format!("{number:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::cli::testing::Host;

    /// Looks a second apart, by the host's own clock.
    fn host() -> Host {
        let looks = AtomicU64::new(0);
        Host::with(move |_| {
            let n = looks.fetch_add(1, Ordering::Relaxed) + 1;
            let body = format!(
                r#"{{"uptime_ms":{},"instances":64,"instances_in_use":3,"calls_waiting":1,
                "capsules":[{{"id":"a","calls_total":{n},"fuel_total":5,"memory_peak_bytes":2097152,"queue_bytes":0}},
                {{"id":"b\u001b","calls_total":{},"fuel_total":{},"memory_peak_bytes":1,"queue_bytes":2048}}],
                "principals":[{{"principal":"ada","calls_total":{},"fuel_total":{},"memory_peak_bytes":9,"bus_bytes_total":{}}}]}}"#,
                n * 1000,
                n * 10,
                n * 2_500_000,
                n * 7,
                n * 100,
                n * 4096,
            );
            (200, body)
        })
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks_and_the_busiest_comes_first() {
        let ran = host().astrid(&["top", "--once", "--interval", "1"]);
        assert_eq!(ran.exit, Exit::Done, "{ran:?}");
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(lines[0], "up 2s  instances 3 of 64  waiting 1");
        assert_eq!(lines[3].split_whitespace().collect::<Vec<_>>(), ["b\\u{1b}", "10", "2.5M", "1", "B", "2", "KiB"]);
        assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["a", "1", "0", "2", "MiB", "0", "B"]);
        assert_eq!(lines[7].split_whitespace().collect::<Vec<_>>(), ["ada", "7", "100", "9", "B", "4", "KiB"]);
        let one = host().astrid(&["top", "--once", "--interval", "1", "--lines", "1"]).out;
        assert!(one.contains("b\\u{1b}") && !one.lines().any(|line| line.starts_with("a ")), "{one}");
    }

    #[test]
    fn programs_get_one_document_for_each_look() {
        let ran = host().astrid(&["top", "--once", "--interval", "1", "--json"]);
        let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((&document["capsules"][0]["queue_bytes"], &document["seconds"]), (&2048.into(), &1.0.into()));
        assert_eq!(document["principals"][0]["calls_per_sec"], 7.0);
    }

    #[test]
    fn a_host_that_began_anew_has_done_all_that_it_counts_since() {
        let load = |uptime_ms, calls_total| Load {
            uptime_ms,
            instances: 1,
            instances_in_use: 0,
            calls_waiting: 0,
            capsules: vec![CapsuleLoad {
                id: "a".into(),
                calls_total,
                fuel_total: 0,
                memory_peak_bytes: 0,
                queue_bytes: 0,
            }],
            principals: Vec::new(),
        };
        assert_eq!(Report::between(&load(9000, 500), &load(2000, 50)).capsules[0].calls_per_sec, 25.0);
        assert_eq!(Report::between(&load(9000, 500), &load(10_000, 550)).capsules[0].calls_per_sec, 50.0);
    }

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        for (number, want) in [
            (0.0, "0"),
            (7.0, "7"),
            (12.34, "12.3"),
            (999.4, "999"),
            (1500.0, "1.5k"),
            (2.5e9, "2.5G"),
            (1e18, "1000P"),
        ] {
            assert_eq!(figure(number), want);
        }
        assert_eq!(bytes(1023.0), "1.0 KiB");
        assert_eq!(bytes(65_536.0), "64 KiB");
    }
}
