//! What the kernel says of this process, under the names that every Prometheus client uses. Read from `/proc` when
//! somebody scrapes; what can't be read is left out. Written here, because the recorder's counters are whole numbers.

use std::fmt::Write as _;
use std::fs;

use super::{Kind, SERIES};

/// The `process_*` series in the text format.
pub(super) fn render() -> String {
    let mut text = String::new();
    let samples = [
        ("process_cpu_seconds_total", cpu_seconds()),
        ("process_resident_memory_bytes", resident_bytes()),
        ("process_open_fds", open_fds()),
        ("process_start_time_seconds", start_time()),
    ];
    for (name, value) in samples {
        let described = SERIES.iter().find(|series| series.name == name);
        if let (Some(series), Some(value)) = (described, value) {
            let kind = if series.kind == Kind::Counter { "counter" } else { "gauge" };
            let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n{name} {value}\n\n", series.help);
        }
    }
    text
}

/// Fields of `/proc/self/stat` after the command, which may hold anything; the first is field 3.
fn stat(field: usize) -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(field - 3)?.parse().ok()
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

fn cpu_seconds() -> Option<f64> {
    Some((stat(14)? + stat(15)?) / ticks_per_second())
}

fn resident_bytes() -> Option<f64> {
    Some(stat(24)? * rustix::param::page_size() as f64)
}

fn open_fds() -> Option<f64> {
    // One of them is the folder that is being read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn start_time() -> Option<f64> {
    let stat_of_all = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = stat_of_all.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + stat(22)? / ticks_per_second())
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_kernels_figures_are_of_this_process() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let started = start_time().unwrap();
        assert!(started <= now + 2.0 && started > now - 86_400.0, "{started} {now}");
        assert!(cpu_seconds().unwrap() < 86_400.0);
        assert!((1e6..1e11).contains(&resident_bytes().unwrap()));
        let before = open_fds().unwrap();
        assert!(before >= 3.0);
        assert_eq!(render().matches("# HELP process_").count(), 4);
    }
}
