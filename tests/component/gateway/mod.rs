//! The HTTP surface: every route with fakes at the other end, every failure, and the shape of everything.

mod answers;
mod attempts;
mod bodies;
mod bus;
mod credentials;
mod failures;
mod routes;
mod streams;

use astrid_sdk_test::{
    Capsule, Event, Failure, Identified, Message, OWNER_UID, Presented, Refusal, RefusalCode, Rejection, Request,
    Response,
};
use serde_json::{Value, json};

/// When every session of these tests ends.
const EXPIRES: u64 = 1_800_000_000;

/// The fingerprint of a certificate that stands for `alice`.
const ALICES: &str = "abababababababababababababababababababababababababababababababab";

/// A gateway that knows the bearer `alice-token`, her certificate and the user that runs the host, and counts no attempts.
fn gateway() -> Capsule {
    let mut gateway = crate::capsule("gateway");
    gateway.set_distribution_env("PUBLIC_INTERVAL_MS", "0");
    gateway.on_authenticate(|presented| match presented {
        Presented::Bearer(token) => match token.as_str() {
            "alice-token" => Ok(Identified::new("alice", EXPIRES)),
            "nobody-to-ask" => Err(Rejection::Unavailable),
            "too-many-asking" => Err(Rejection::Overloaded),
            _ => Err(Rejection::Rejected),
        },
        Presented::Unix(peer) if peer.owner => Ok(Identified::new("default", EXPIRES)),
        Presented::Certificate(shown) if shown.fingerprint == ALICES => Ok(Identified::new("alice", EXPIRES)),
        Presented::Unix(_) | Presented::Certificate(_) => Err(Rejection::Rejected),
    });
    gateway
}

fn send(gateway: &mut Capsule, request: Request) -> Response {
    let shown = format!("{} {}", request.method, request.path);
    gateway.http(request).unwrap_or_else(|error| panic!("{shown}: {error}"))
}

fn as_alice(gateway: &mut Capsule, request: Request) -> Response {
    send(gateway, request.bearer("alice-token"))
}

fn answering(value: Value) -> impl FnMut(&Message) -> Result<Vec<u8>, Failure> + Send + 'static {
    move |_| Ok(value.to_string().into_bytes())
}

fn failing(failure: Failure) -> impl FnMut(&Message) -> Result<Vec<u8>, Failure> + Send + 'static {
    move |_| Err(failure.clone())
}

fn refused(code: RefusalCode) -> Failure {
    Failure::Refused(Refusal { code, reason: "because".into() })
}

fn payload(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

/// The status and the one error shape.
#[track_caller]
fn assert_error(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status, status, "{:?}", String::from_utf8_lossy(&response.body));
    assert_eq!(response.header("content-type"), Some("application/json"));
    let body = response.json();
    assert_eq!(body["error"], error, "{body}");
    let known = ["error", "reason", "retry_after_secs"];
    assert!(body.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{body}");
}
