//! From a request to its answer: identified, bounded, given to whoever is mounted at its path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};

use super::wire::{MAX_HEAD_BYTES, MAX_HEADERS};
use super::{Body, Connection, Exchange, forwarded, own};
use crate::bus::Failure;
use crate::host::Host;

/// What a client is told to wait who found no place below a mount, in milliseconds.
const RETRY_MS: u32 = 1000;

pub(super) async fn answer(host: Arc<Host>, connection: Arc<Connection>, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let id = request_id();
    let method = known_method(request.method());
    let tls = connection.tls;
    let mut answer = match own::probe(&host, request.method(), request.uri().path()) {
        // HTTP/1 ends the connection before it comes to this.
        _ if request.headers().len() > MAX_HEADERS => too_large(format!("a request may have {MAX_HEADERS} headers")),
        Some(answer) => answer,
        // In a box of its own: hyper keeps room for this future for as long as the connection is open.
        None => Box::pin(mounted(&host, connection, request, id.clone())).await,
    };
    own::harden(answer.headers_mut(), tls);
    if let Ok(value) = HeaderValue::from_str(&id) {
        answer.headers_mut().entry("x-request-id").or_insert(value);
    }
    let status = answer.status().as_str().to_owned();
    metrics::counter!("astrid_http_requests_total", "method" => method, "status" => status).increment(1);
    metrics::histogram!("astrid_http_request_seconds").record(started.elapsed());
    answer
}

async fn mounted(host: &Host, connection: Arc<Connection>, request: Request<Incoming>, id: Arc<str>) -> Response<Body> {
    let path = request.uri().path();
    if !path.starts_with('/') {
        return own::failure(StatusCode::BAD_REQUEST, "bad_request", "the request target must be a path");
    }
    let head_bytes: usize = request.headers().iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    let query_bytes = request.uri().query().map_or(0, |query| 1 + query.len());
    if head_bytes + path.len() + query_bytes > MAX_HEAD_BYTES {
        return too_large(format!("path, query and headers may have {MAX_HEAD_BYTES} bytes"));
    }
    let Some(mount) = host.mounts.find(path) else {
        return own::failure(StatusCode::NOT_FOUND, "not_found", "nothing is mounted at this path");
    };
    // Before its body is read.
    let Some(_place) = mount.room.enter() else {
        return own::from_failure(Failure::Overloaded { retry_ms: RETRY_MS });
    };
    let limit = mount.room.max_body_bytes;
    let config = host.config.now();
    let (head, body) = request.into_parts();
    let connection = match connection.address {
        Some(peer) => {
            let client = forwarded::client(peer, &head.headers, &config.http.trust_forwarded_from);
            if client == peer { connection } else { connection.forwarded(client) }
        }
        None => connection,
    };
    let patience = Duration::from_secs(config.http.body_timeout_secs);
    drop(config);
    let body = match read_body(body, limit, patience).await {
        Ok(body) => body,
        Err(answer) => return *answer,
    };
    let exchange = Exchange { id: id.clone(), head, body, connection, rehearsal: false };
    match mount.served.serve(exchange).await {
        Ok(answer) => answer,
        Err(failure) => {
            tracing::warn!(request = &*id, failure = failure.kind(), "a mount gave no answer");
            own::from_failure(failure)
        }
    }
}

fn too_large(reason: String) -> Response<Body> {
    own::failure(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "bad_request", &reason)
}

async fn read_body(body: Incoming, limit: u64, patience: Duration) -> Result<Bytes, Box<Response<Body>>> {
    let too_large = || {
        let reason = format!("at most {limit} bytes are taken");
        let mut answer = own::failure(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", &reason);
        // What is still coming will not be read.
        answer.headers_mut().insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
        Box::new(answer)
    };
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let limited = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    match tokio::time::timeout(patience, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Box::new(own::failure(StatusCode::BAD_REQUEST, "bad_request", "the body broke off"))),
        Err(_) => {
            let mut answer = own::failure(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long");
            answer.headers_mut().insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
            Err(Box::new(answer))
        }
    }
}

/// A label must not be whatever a client sends.
fn known_method(method: &hyper::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Unique for the life of the process, and hardly ever the same in two.
fn request_id() -> Arc<str> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static BOOT: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let mut bytes = [0; 8];
        let _ = getrandom::fill(&mut bytes);
        u64::from_le_bytes(bytes)
    });
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}-{n:08x}", *BOOT as u32).into()
}
