//! What a capsule's tests used: a table of the lines that `astrid-sdk-test` writes, one for each call.
//!
//! The lines come from a test program, which is somebody else's code: what does not read is passed over, and what is
//! printed is escaped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Names the file that a test program writes to.
pub(crate) const VARIABLE: &str = "ASTRID_USAGE";

/// A file for the calls of one run.
pub(crate) struct Notes(PathBuf);

#[derive(Deserialize)]
struct Line {
    program: String,
    test: String,
    fuel: u64,
    peak_memory_bytes: u64,
}

/// The calls of one test together.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Test {
    program: String,
    test: String,
    calls: u64,
    /// Of all calls together.
    fuel: u64,
    /// The most that one call had.
    peak_memory_bytes: u64,
}

impl Notes {
    /// An empty file below a target directory, of this process alone.
    pub(crate) fn begin(target: &Path) -> Result<Self> {
        let path = target.join(format!("usage.{}.jsonl", std::process::id()));
        let made = fs::create_dir_all(target).and_then(|()| File::create(&path));
        made.with_context(|| format!("can't write {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the file and removes it. By program and test.
    pub(crate) fn end(self) -> Result<Vec<Test>> {
        let file = File::open(&self.0).with_context(|| format!("can't read {}", self.0.display()))?;
        let tests = tests(BufReader::new(file).lines().map_while(Result::ok));
        fs::remove_file(&self.0).with_context(|| format!("can't remove {}", self.0.display()))?;
        Ok(tests)
    }
}

fn tests(lines: impl Iterator<Item = String>) -> Vec<Test> {
    let mut tests: BTreeMap<(String, String), Test> = BTreeMap::new();
    for line in lines {
        let Ok(Line { program, test, fuel, peak_memory_bytes }) = serde_json::from_str(&line) else { continue };
        let key = (program.clone(), test.clone());
        let sum = tests.entry(key).or_insert(Test { program, test, calls: 0, fuel: 0, peak_memory_bytes: 0 });
        sum.calls += 1;
        sum.fuel = sum.fuel.saturating_add(fuel);
        sum.peak_memory_bytes = sum.peak_memory_bytes.max(peak_memory_bytes);
    }
    tests.into_values().collect()
}

/// The table, if there is anything in it.
pub(crate) fn print(tests: &[Test]) {
    if tests.is_empty() {
        return;
    }
    let named: Vec<(String, &Test)> = tests
        .iter()
        .map(|test| (format!("{}::{}", test.program, test.test).escape_debug().to_string(), test))
        .collect();
    let width = named.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(4);
    println!("{:width$}  {:>6}  {:>14}  {:>12}", "test", "calls", "fuel", "peak memory");
    for (name, test) in named {
        let memory = format!("{} KiB", test.peak_memory_bytes.div_ceil(1024));
        println!("{name:width$}  {:>6}  {:>14}  {memory:>12}", test.calls, test.fuel);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn calls_are_summed_for_each_test_and_noise_is_passed_over() {
        let line = |test: &str, fuel: u64, memory: u64| {
            format!("{{\"program\":\"capsule\",\"test\":\"{test}\",\"fuel\":{fuel},\"peak_memory_bytes\":{memory}}}")
        };
        let lines = [line("b", 5, 100), line("a", 1, 7), "noise".into(), line("b", 6, 90), line("a", u64::MAX, 0)];
        let sums: Vec<_> = super::tests(lines.into_iter())
            .into_iter()
            .map(|t| (t.test, t.calls, t.fuel, t.peak_memory_bytes))
            .collect();
        assert_eq!(sums, [("a".into(), 2, u64::MAX, 7), ("b".into(), 2, 11, 100)]);
    }
}
