//! Results: the table that people read and the JSON that programs compare.

use std::fmt::Write as _;
use std::fs;

use serde::Serialize;

/// What was measured, in order.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// One figure.
#[derive(Serialize)]
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// What it is compared with, in the same unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Peer>,
    /// `value` by the peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

/// A figure of something else, measured in the same run.
#[derive(Serialize)]
struct Peer {
    name: &'static str,
    value: f64,
}

impl Report {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.rows.push(Row { name: name.into(), value, unit, peer: None, ratio: None });
    }

    pub(crate) fn add_beside(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        peer: &'static str,
        peer_value: f64,
    ) {
        let ratio = (peer_value > 0.0).then_some(value / peer_value);
        let peer = Some(Peer { name: peer, value: peer_value });
        self.rows.push(Row { name: name.into(), value, unit, peer, ratio });
    }

    /// Aligned columns under the machine's description.
    pub(crate) fn table(&self) -> String {
        let head = ["bench", "value", "unit", "peer", "peer value", "ratio"].map(str::to_owned);
        let rows = self.rows.iter().map(|row| {
            let peer = row.peer.as_ref();
            [
                row.name.clone(),
                figure(row.value),
                row.unit.to_owned(),
                peer.map_or_else(String::new, |peer| peer.name.to_owned()),
                peer.map_or_else(String::new, |peer| figure(peer.value)),
                row.ratio.map_or_else(String::new, figure),
            ]
        });
        let cells: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
        let width = |n: usize| cells.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        let mut table = format!("{}, load {}\n", machine(), load_average());
        for [name, value, unit, peer, peer_value, ratio] in &cells {
            let [a, b, c, d, e, f] = widths;
            let line = format!("{name:a$}  {value:>b$} {unit:c$}  {peer:d$}  {peer_value:>e$}  {ratio:>f$}");
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }

    /// An array of rows, each with the machine that it was measured on.
    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        struct On<'a> {
            #[serde(flatten)]
            row: &'a Row,
            machine: &'a str,
        }
        let machine = machine();
        let rows: Vec<_> = self.rows.iter().map(|row| On { row, machine: &machine }).collect();
        let mut text = serde_json::to_string_pretty(&rows).expect("plain records serialise");
        text.push('\n');
        text
    }
}

/// Three significant digits, whole where they are enough.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0..1.0 => format!("{value:.3}"),
        1.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, {model}, Linux {}", kernel.trim())
}

/// Runnable tasks on average over one, five and fifteen minutes: whether anybody else was working.
fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_heads_and_the_json_names_the_machine() {
        let mut report = Report::default();
        report.add("a.long.name", 1.5, "MiB");
        report.add_beside("b", 50.0, "/s", "native", 200.0);
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1].find("unit"), lines[2].find("MiB"));
        assert!(lines[3].ends_with("0.250"), "{table}");
        let rows: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(rows[1]["ratio"], 0.25);
        assert_eq!(rows[1]["peer"]["value"], 200.0);
        assert!(rows[0].get("peer").is_none());
        assert!(rows[0]["machine"].as_str().unwrap().contains("cores"));
    }
}
