//! Metrics: one recorder for the process, rendered in Prometheus' text format.
//!
//! Owns help texts and histogram bounds. Names begin with `astrid_` and carry their unit; labels have few values, never
//! a principal. Samples are folded into buckets every five seconds, so nothing grows while nobody scrapes.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Seconds; from a warm call to a deadline.
const SECONDS: [f64; 12] = [0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];
const COUNTS: [f64; 8] = [1.0, 2.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

/// How often histogram samples are folded.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder, once for the process, and returns what renders it.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(metrics_exporter_prometheus::Matcher::Suffix("_seconds".into()), &SECONDS)
                .and_then(|b| {
                    b.set_buckets_for_metric(metrics_exporter_prometheus::Matcher::Suffix("_commits".into()), &COUNTS)
                })
                .expect("the bounds are not empty")
                .build_recorder();
            let handle = recorder.handle();
            // A second recorder in one process (tests) is the same one.
            let _ = metrics::set_global_recorder(recorder);
            describe();
            handle
        })
        .clone()
}

fn describe() {
    describe_gauge!("astrid_build_info", "Always 1; the labels say what runs");
    describe_gauge!("astrid_pool_instances", "Instances that may be alive at once");
    describe_gauge!("astrid_pool_degraded", "1 if the machine could not give the configured instance pool");
    describe_gauge!("astrid_pool_in_use", "Instances that are alive");
    describe_counter!("astrid_bus_requests_total", "Requests on the bus by outcome");
    describe_counter!("astrid_bus_published_total", "Messages published");
    describe_counter!("astrid_bus_deliveries_total", "Publications queued for a binding");
    describe_counter!("astrid_bus_lost_messages_total", "Publications dropped from a queue over its budget");
    describe_counter!("astrid_interceptions_total", "Messages that interceptors judged, by capsule and verdict");
    describe_counter!("astrid_authentications_total", "Credentials presented, by outcome");
    describe_counter!("astrid_invocations_total", "Calls of capsules by capsule and outcome");
    describe_histogram!("astrid_invocation_seconds", "Duration of calls of capsules");
    describe_counter!("astrid_fuel_total", "Fuel used by capsule");
    describe_gauge!("astrid_http_connections", "Open connections");
    describe_counter!("astrid_http_requests_total", "HTTP requests by method and status");
    describe_histogram!("astrid_http_request_seconds", "Time from a request's head to its answer's head");
    describe_gauge!("astrid_capsules", "Installed capsules by state");
    crate::store::describe();
}
