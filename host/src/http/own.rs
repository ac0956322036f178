//! What the host answers itself: probes, and failures that happen before or instead of a capsule's answer.

use http_body_util::BodyExt;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, REFERRER_POLICY, RETRY_AFTER,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Response, StatusCode};
use serde_json::json;

use super::Body;
use crate::bus::Failure;
use crate::host::Host;
use crate::observe;

/// The host's own paths; none for everybody else's.
pub(super) fn probe(host: &Host, method: &Method, path: &str) -> Option<Response<Body>> {
    let answer: fn(&Host) -> Response<Body> = match path {
        "/healthz" => health,
        "/metrics" => exposition,
        _ => return None,
    };
    if method == Method::GET || method == Method::HEAD {
        return Some(answer(host));
    }
    let mut refused = failure(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "only GET and HEAD");
    refused.headers_mut().insert(hyper::header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(refused)
}

/// 200 while the host serves, with what is wrong; 503 while it goes down.
fn health(host: &Host) -> Response<Body> {
    let capsules = host.loader.list();
    let failed: Vec<_> = capsules.iter().filter(|c| c.state != "live").map(|c| c.id.clone()).collect();
    let probe = host.pool.probe();
    let fault = host.journal.fault();
    let (status, word) = if host.shutdown.has_begun() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if failed.is_empty() && probe.warnings.is_empty() && fault.is_none() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::OK, "degraded")
    };
    let body = json!({
        "status": word,
        "version": crate::VERSION,
        "uptime_secs": host.started.elapsed().as_secs(),
        "capsules": { "live": capsules.len() - failed.len(), "failed": failed },
        "pool": { "instances": probe.instances, "in_use": host.pool.in_use(), "warnings": probe.warnings },
        "audit": { "facts": host.journal.size(), "fault": fault },
    });
    reply(status, "application/json", body.to_string())
}

fn exposition(host: &Host) -> Response<Body> {
    reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", observe::render(host))
}

/// The error shape of the surface.
pub(super) fn failure(status: StatusCode, error: &str, reason: &str) -> Response<Body> {
    reply(status, "application/json", json!({ "error": error, "reason": reason }).to_string())
}

/// What a client learns when a mount has no answer of its own.
pub(super) fn from_failure(failure_of: Failure) -> Response<Body> {
    match failure_of {
        Failure::Overloaded { retry_ms } => {
            let secs = retry_ms.div_ceil(1000).max(1);
            let body = json!({ "error": "overloaded", "reason": "no room now", "retry_after_secs": secs });
            let mut answer = reply(StatusCode::SERVICE_UNAVAILABLE, "application/json", body.to_string());
            answer.headers_mut().insert(RETRY_AFTER, secs.into());
            answer
        }
        Failure::Timeout => failure(StatusCode::GATEWAY_TIMEOUT, "timeout", "the capsule took too long"),
        _ => failure(StatusCode::BAD_GATEWAY, "unavailable", "the capsule that serves this path failed"),
    }
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut answer = Response::new(crate::link::http::full(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The security headers, where the answer does not set its own.
pub(super) fn harden(headers: &mut HeaderMap, tls: bool) {
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if tls {
        let value = HeaderValue::from_static("max-age=63072000; includeSubDomains");
        headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(value);
    }
}
