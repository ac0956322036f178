//! From a request to its answer: identified, bounded, given to whoever is mounted at its path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};

use super::requests::{Answered, OTHER, UNMOUNTED};
use super::{Body, Connection, Exchange, Route, Whom, forwarded, head, own};
use crate::bus::Failure;
use crate::bus::cause::{Cause, Traceparent};
use crate::host::Host;

/// What a client is told to wait who found no place below a mount, in milliseconds.
const RETRY_MS: u32 = 1000;

pub(super) async fn answer(host: Arc<Host>, connection: Arc<Connection>, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let cause = Arc::new(Cause { id: request_id(), trace: trace(&head.headers) });
    let method = known_method(&head.method);
    let (tls, uri) = (connection.tls, head.uri.clone());
    let fault = head::check(&head).err();
    let probe = if fault.is_none() { own::probe(&host, &head.method, uri.path()) } else { None };
    let is_probe = probe.is_some();
    let mut served = match (fault, probe) {
        (Some(fault), _) => {
            let mut refused = own::failure(fault.status(), "bad_request", fault.reason());
            // What comes behind it might not be meant for a request.
            refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            Served::of(refused, OTHER)
        }
        (None, Some(answer)) => Served::of(answer, if uri.path() == "/metrics" { "/metrics" } else { "/healthz" }),
        (None, None) => mounted(&host, connection, head, body, cause.clone()).await,
    };
    let answer = &mut served.answer;
    own::harden(answer.headers_mut(), tls);
    if let Ok(value) = HeaderValue::from_str(&cause.id) {
        answer.headers_mut().entry("x-request-id").or_insert(value);
    }
    let route = answer.extensions_mut().remove::<Route>();
    host.requests.answered(&Answered {
        cause: &cause,
        method,
        path: uri.path(),
        mount: &served.mount,
        route: route.as_ref().map(|route| &*route.0).or(served.route),
        status: answer.status().as_u16(),
        took: started.elapsed(),
        bytes_in: served.bytes_in,
        bytes_out: answer.body().size_hint().exact(),
        whom: &served.whom,
        probe: is_probe,
    });
    served.answer
}

/// The client's trace; none where it has several, or one that does not read.
fn trace(headers: &HeaderMap) -> Option<Traceparent> {
    let mut values = headers.get_all("traceparent").iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    Traceparent::parse(value.as_bytes())
}

/// An answer, and what is known of its request.
struct Served {
    answer: Response<Body>,
    /// The prefix of its mount; empty where it came to none.
    mount: Arc<str>,
    /// Where no front end can say it.
    route: Option<&'static str>,
    bytes_in: u64,
    whom: Whom,
}

impl Served {
    /// By the host itself.
    fn of(answer: Response<Body>, route: &'static str) -> Self {
        Self { answer, mount: "".into(), route: Some(route), bytes_in: 0, whom: Whom::default() }
    }
}

async fn mounted(host: &Host, connection: Arc<Connection>, head: Parts, body: Incoming, cause: Arc<Cause>) -> Served {
    let path = head.uri.path();
    if !path.starts_with('/') {
        let reason = "the request target must be a path";
        return Served::of(own::failure(StatusCode::BAD_REQUEST, "bad_request", reason), OTHER);
    }
    let Some(mount) = host.mounts.find(path) else {
        let reason = "nothing is mounted at this path";
        return Served::of(own::failure(StatusCode::NOT_FOUND, "not_found", reason), UNMOUNTED);
    };
    // Before its body is read.
    let Some(_place) = mount.room.enter() else {
        let answer = own::from_failure(Failure::Overloaded { retry_ms: RETRY_MS });
        return Served { mount: mount.prefix, ..Served::of(answer, OTHER) };
    };
    let limit = mount.room.max_body_bytes;
    let config = host.config.now();
    let connection = match connection.address {
        Some(peer) => {
            let client = forwarded::client(peer, &head.headers, &config.http.trust_forwarded_from);
            if client == peer { connection } else { connection.forwarded(client) }
        }
        None => connection,
    };
    let served = |answer, bytes_in, whom| Served { answer, mount: mount.prefix, route: None, bytes_in, whom };
    let operators = Duration::from_secs(config.http.body_timeout_secs);
    let patience = mount.room.body_time.map_or(operators, |own| own.min(operators));
    drop(config);
    let body = match read_body(body, limit, patience).await {
        Ok(body) => body,
        Err(answer) => return served(*answer, 0, Whom::default()),
    };
    let (bytes_in, whom) = (body.len() as u64, Whom::default());
    let expected = bearer(&head.headers).and_then(|token| host.authority.remembered(token));
    let exchange = Exchange {
        cause: cause.clone(),
        head,
        body,
        connection,
        whom: whom.clone(),
        expected,
        time: mount.room.answer_time,
        rehearsal: false,
    };
    let answer = mount.served.serve(exchange).await.unwrap_or_else(|failure| {
        tracing::warn!(request = &*cause.id, failure = failure.kind(), "a mount gave no answer");
        own::from_failure(failure)
    });
    served(answer, bytes_in, whom)
}

async fn read_body(body: Incoming, limit: u64, patience: Duration) -> Result<Bytes, Box<Response<Body>>> {
    let too_large = || {
        let reason = format!("at most {limit} bytes are taken");
        let mut answer = own::failure(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", &reason);
        // What is still coming will not be read.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
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
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            Err(Box::new(answer))
        }
    }
}

/// The token of the only `Authorization` header, if its scheme is bearer (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
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
