//! `astrid:http` and `wasi:http`, as the listener's mounts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};

use super::Call;
use super::bindings::front_end::astrid::http::types::{
    Certificate as WitCertificate, Connection as WitConnection, Relay as WitRelay, Source as WitSource,
};
use super::bindings::front_end::exports::astrid::http::handler::{Request as WitRequest, Response as WitResponse};
use super::bindings::handler::astrid::bus::types::Gap;
use super::bindings::relay::exports::astrid::http::relay as wit_relay;
use crate::bus::Failure;
use crate::bus::stream::Answer;
use crate::http::relay::{Event, MAX_CONTEXT_BYTES, MIN_IDLE, Output, Source, Wanted};
use crate::http::{Body, Exchange, Route};

impl super::bindings::front_end::astrid::http::types::Host for Call {}

/// Headers that belong to the connection, not to the answer.
const FRAMING: [&str; 5] = ["connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"];

pub fn to_wit(exchange: Exchange) -> WitRequest {
    let (parts, body) = (exchange.head, exchange.body);
    let named = parts.uri.authority().filter(|_| !parts.headers.contains_key(hyper::header::HOST));
    let host = named.map(|authority| ("host".to_owned(), authority.as_str().as_bytes().to_vec()));
    let headers = parts.headers.iter().map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec()));
    let headers = host.into_iter().chain(headers).collect();
    WitRequest {
        id: exchange.cause.id.to_string(),
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
        headers,
        body: body.to_vec(),
        connection: WitConnection {
            address: exchange.connection.address.map(|a| a.to_string()),
            unix_uid: exchange.connection.unix_uid,
            tls: exchange.connection.tls,
            certificate: exchange.connection.certificate.as_ref().map(|shown| WitCertificate {
                fingerprint: shown.fingerprint.clone(),
                common_name: shown.common_name.clone(),
            }),
        },
    }
}

/// An answer that is not legal HTTP is the capsule's failure.
pub fn from_wit(answer: WitResponse) -> Result<Response<Bytes>, Failure> {
    let status = StatusCode::from_u16(answer.status).ok().filter(|s| (200..600).contains(&s.as_u16()));
    let mut response = Response::new(Bytes::from(answer.body));
    *response.status_mut() = status.ok_or(Failure::Trapped)?;
    if let Some(route) = answer.route {
        response.extensions_mut().insert(Route(route.into()));
    }
    // And room for what the listener adds.
    *response.headers_mut() = HeaderMap::with_capacity(answer.headers.len() + 8);
    for (name, value) in answer.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Failure::Trapped)?;
        let value = HeaderValue::from_maybe_shared(Bytes::from(value)).map_err(|_| Failure::Trapped)?;
        if !FRAMING.contains(&name.as_str()) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

/// Takes a relay out of the call that wants it. What is out of bounds is the capsule's failure.
pub fn take_relay(call: &mut Call, relay: WitRelay) -> wasmtime::Result<Wanted> {
    let bytes = relay.context.len();
    if bytes > MAX_CONTEXT_BYTES {
        return Err(wasmtime::Error::msg(format!(
            "the context of its relay has {bytes} bytes, more than {MAX_CONTEXT_BYTES}"
        )));
    }
    let idle = (relay.idle_ms > 0).then(|| Duration::from_millis(relay.idle_ms.into()));
    if idle.is_some_and(|idle| idle < MIN_IDLE) {
        let idle_ms = relay.idle_ms;
        return Err(wasmtime::Error::msg(format!(
            "the idle-ms of its relay is {idle_ms}; it must be 0 or at least 1000"
        )));
    }
    let (source, behalf) = match relay.source {
        WitSource::Subscription(subscription) => {
            let subscription = call.take_of_call(subscription)?;
            (Source::Subscription(subscription.open), subscription.behalf)
        }
        WitSource::Answer(answer) => {
            let answer = call.take_of_call(answer)?;
            let begun = answer.answer.unwrap_or_else(|failure| Answer::begin(|_| async { Err(failure) }));
            (Source::Answer(Arc::new(begun)), answer.behalf)
        }
    };
    Ok(Wanted { source, behalf, context: relay.context.into(), idle })
}

pub fn to_event(event: &Event) -> wit_relay::Event {
    match event {
        Event::Message(message) => wit_relay::Event::Message(super::bus::to_wit(message)),
        Event::Gap(whose, lost) => wit_relay::Event::Gap(Gap { principal: whose.to_string(), lost: *lost }),
        Event::Piece(piece) => wit_relay::Event::Piece(piece.to_vec()),
        Event::Idle => wit_relay::Event::Idle,
        Event::End(failure) => wit_relay::Event::End(failure.clone().map(Into::into)),
    }
}

pub fn from_output(output: wit_relay::Output) -> Output {
    Output { body: output.body.into(), last: output.last, context: output.context.map(Into::into) }
}

pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

type Outcome = Result<Response<wasmtime_wasi_http::p2::body::HyperOutgoingBody>, ErrorCode>;

/// Puts a request and the place for its answer into a store.
pub fn to_wasi(
    call: &mut Call,
    exchange: Exchange,
    answer: tokio::sync::oneshot::Sender<Outcome>,
) -> wasmtime::Result<(
    wasmtime::component::Resource<wasmtime_wasi_http::p2::types::HostIncomingRequest>,
    wasmtime::component::Resource<wasmtime_wasi_http::p2::types::HostResponseOutparam>,
)> {
    let mut head = exchange.head;
    // wasi:http wants an authority; over a Unix socket or HTTP/1.0 there may be none.
    let authority = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let authority = authority.unwrap_or(HeaderValue::from_static("localhost"));
    head.headers.entry(hyper::header::HOST).or_insert(authority);
    let scheme = if exchange.connection.tls { Scheme::Https } else { Scheme::Http };
    let request = Request::from_parts(head, Full::new(exchange.body));
    let request = call.http().new_incoming_request(scheme, request)?;
    Ok((request, call.http().new_response_outparam(answer)?))
}

pub fn from_wasi(outcome: Outcome) -> Result<Response<Body>, Failure> {
    let mut response = outcome.map_err(|_| Failure::Trapped)?;
    for name in FRAMING {
        response.headers_mut().remove(name);
    }
    Ok(response.map(|body| body.map_err(|error| crate::http::BodyError(format!("{error:?}"))).boxed_unsync()))
}
