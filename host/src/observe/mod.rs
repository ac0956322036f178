//! Metrics: one recorder for the process, rendered in Prometheus' text format.
//!
//! Owns the list of series with their help texts, and histogram bounds. Names begin with `astrid_` (`process_` for what
//! the kernel counts) and carry their unit; labels have few values, never a principal. Samples are folded into buckets
//! every second, so nothing grows while nobody scrapes.

mod process;

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::host::Host;
use crate::loader::Phase;

/// Seconds; from a warm call to a deadline.
const SECONDS: [f64; 12] = [0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];
const COUNTS: [f64; 8] = [1.0, 2.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];
/// Bytes; from one page of memory to more than a guest gets without asking.
const BYTES: [f64; 8] =
    [65_536.0, 262_144.0, 1_048_576.0, 2_097_152.0, 4_194_304.0, 16_777_216.0, 67_108_864.0, 268_435_456.0];

/// How often histogram samples are folded: until then each costs a few bytes.
pub const UPKEEP: Duration = Duration::from_secs(1);
/// How long a window of the storm monitor is.
pub const STORM_WINDOW: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A series, and what it counts.
#[derive(Debug, Clone, Copy)]
pub struct Series {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Series {
    Series { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Series {
    Series { name, kind: Kind::Gauge, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Series {
    Series { name, kind: Kind::Histogram, help }
}

/// Everything that is measured. A test proves that each of these moves, and that nothing else is exposed.
#[rustfmt::skip]
pub const SERIES: &[Series] = &[
    gauge("astrid_build_info", "Always 1; the labels say what runs"),
    gauge("astrid_capsules", "Installed capsules by state"),
    gauge("astrid_run_loops", "Run loops by state"),
    counter("astrid_run_loop_restarts_total", "Runs of run loops after their first, by capsule"),
    gauge("astrid_capsule_generations", "Versions of capsules in memory: two of each at most"),
    counter("astrid_capsule_rollbacks_total", "Versions that gave way to the one before, by capsule"),
    gauge("astrid_pool_instances", "Instances that may be alive at once"),
    gauge("astrid_pool_in_use", "Instances that are alive"),
    gauge("astrid_pool_waiting", "Calls that wait for an instance"),
    gauge("astrid_warm_instances", "Instances that wait for their principal's next call"),
    counter("astrid_warm_calls_total", "Calls that could meet an instance again, by whether they did (hit) or not (miss)"),
    counter("astrid_warm_dropped_total", "Instances that could have been met again and were dropped, by why"),
    gauge("astrid_pool_degraded", "1 if the machine could not give the configured instance pool"),
    gauge("astrid_processes", "Sandboxed children that run"),
    counter("astrid_processes_started_total", "Sandboxed children, by whether they were started (ok) or not (failed)"),
    counter("astrid_processes_ended_total", "Sandboxed children that have ended, by how"),
    counter("astrid_blocking_jobs_total", "Pieces of blocking work: archives read, components compiled or loaded"),
    counter("astrid_async_io_total", "Commits of guests, by whether they got their turn to wait for the disk"),
    counter("astrid_background_ticks_total", "Rounds of the host's periodic work by task"),
    gauge("astrid_http_connections", "Open connections"),
    counter("astrid_http_handshakes_total", "TLS handshakes by outcome"),
    counter("astrid_http_requests_total", "HTTP requests by method, route and status"),
    histogram("astrid_http_request_seconds", "Time from a request's head to its answer's head, by method, route and status"),
    gauge("astrid_http_relays", "Answers that go on after their handler"),
    counter("astrid_http_relay_calls_total", "Calls for the bytes of such answers, by capsule and outcome"),
    counter("astrid_authentications_total", "Credentials presented, by kind and outcome"),
    counter("astrid_bus_events_total", "Messages by what happened to them"),
    counter("astrid_bus_requests_total", "Requests on the bus by outcome"),
    counter("astrid_bus_starved_rounds_total", "Turns in which a publication was larger than its credit"),
    gauge("astrid_bus_subscriptions", "Open subscriptions"),
    gauge("astrid_bus_queue_bytes", "Bytes of publications that wait"),
    gauge("astrid_bus_active_principals", "Principals with publications that wait, summed over capsules"),
    counter("astrid_invocations_total", "Calls of capsules by capsule and outcome"),
    histogram("astrid_invocation_seconds", "Duration of calls of capsules, waiting for an instance included"),
    histogram("astrid_invocation_host_wait_seconds", "Time that calls of capsules waited inside host functions"),
    histogram("astrid_invocation_peak_memory_bytes", "Most linear memory that calls of capsules had"),
    counter("astrid_quota_refusals_total", "Calls (fuel) and messages (bus-bytes) refused by a rate"),
    counter("astrid_fuel_total", "Fuel used by capsule"),
    counter("astrid_interceptions_total", "Messages that interceptors judged, by capsule and verdict"),
    counter("astrid_facts_total", "Facts by what became of them"),
    histogram("astrid_facts_write_seconds", "Time to write one batch of facts, checkpoint included where it needs one"),
    gauge("astrid_facts_failing", "1 if facts can't be recorded"),
    counter("astrid_store_commits_total", "Commits by outcome"),
    histogram("astrid_store_batch_commits", "Commits that shared one sync"),
    histogram("astrid_store_commit_seconds", "Time to check, apply and sync one batch"),
    gauge("astrid_store_queue_commits", "Commits waiting when the writer last looked"),
    counter("process_cpu_seconds_total", "CPU time of the process, user and system"),
    gauge("process_resident_memory_bytes", "Memory of the process that is resident"),
    gauge("process_open_fds", "Open files of the process"),
    gauge("process_start_time_seconds", "When the process started, in seconds since the Unix epoch"),
];

/// Installs the recorder, once for the process, and returns what renders it.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = buckets().expect("the bounds are not empty").build_recorder();
            let handle = recorder.handle();
            // A second recorder in one process (tests) is the same one.
            let _ = metrics::set_global_recorder(recorder);
            for series in SERIES {
                match series.kind {
                    Kind::Counter => describe_counter!(series.name, series.help),
                    Kind::Gauge => describe_gauge!(series.name, series.help),
                    Kind::Histogram => describe_histogram!(series.name, series.help),
                }
            }
            let (sha, rustc) = (env!("ASTRID_GIT_SHA"), env!("ASTRID_RUSTC"));
            metrics::gauge!("astrid_build_info", "version" => crate::VERSION, "git_sha" => sha, "rustc" => rustc)
                .set(1);
            handle
        })
        .clone()
}

fn buckets() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_commits".into()), &COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)
}

/// Everything that was counted, and what can be looked up now.
pub fn render(host: &Host) -> String {
    let (bytes, principals) = host.bus.queued();
    metrics::gauge!("astrid_bus_queue_bytes").set(bytes as f64);
    metrics::gauge!("astrid_bus_active_principals").set(principals as f64);
    metrics::gauge!("astrid_bus_subscriptions").set(host.bus.subscriptions() as f64);
    for state in Phase::ALL {
        metrics::gauge!("astrid_run_loops", "state" => state).set(host.loader.run_loops(state) as f64);
    }
    metrics::gauge!("astrid_pool_in_use").set(host.pool.in_use() as f64);
    metrics::gauge!("astrid_warm_instances").set(host.warm.idle() as f64);
    metrics::gauge!("astrid_processes").set(host.processes.running() as f64);
    metrics::gauge!("astrid_pool_waiting").set(host.pool.waiting() as f64);
    host.metrics.render() + &process::render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_a_name_with_its_unit_and_a_help_text_and_stands_once() {
        for series in SERIES {
            let name = series.name;
            assert!(name.starts_with("astrid_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), series.kind == Kind::Counter, "{name}");
            if series.kind == Kind::Histogram {
                let units = ["_seconds", "_bytes", "_commits"];
                assert!(units.iter().any(|unit| name.ends_with(unit)), "{name} has buckets of its own");
            }
            assert!(!series.help.is_empty() && !series.help.ends_with('.'), "{name}: {}", series.help);
            assert_eq!(SERIES.iter().filter(|other| other.name == name).count(), 1, "{name}");
        }
    }
}
