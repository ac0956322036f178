//! Stories: what a host promises to whoever runs it, uses it or attacks it, told through the programs that ship, as
//! processes with a home of their own, on real sockets. Nothing in here calls the host's code; [`measured`] reads its list of series.
//!
//! - [`session`]: from the first invite to a session; who is let in and what they may do
//! - [`surface`]: paths, methods, shapes, and clients that send anything but requests
//! - [`authors`]: what a project begins as, installed and used
//! - [`bad_input`]: what no client should send, and the answer to each
//! - [`capsules`]: installed, replaced, refused; what they serve
//! - [`certificates`]: clients that show one instead of a bearer
//! - [`consent`]: devices with less than their principal, and what capsules ask their principals' consent for
//! - [`distributions`]: homes made from a distribution, and what it pins, tells and forbids
//! - [`edge`]: who a request is from, how often strangers may try, which pages of other origins may ask
//! - [`field`]: faults that hosts of plugins had in the field
//! - [`forwarding`]: what is carried outside of what is written down
//! - [`generations`]: what a version must show before it goes live, and what takes it back
//! - [`hostile`]: capsules that die, loop or eat, and who never notices
//! - [`hostile_crowd`]: a thousand of them at once
//! - [`identities`]: another identity in the place of the first-party one
//! - [`interceptors`]: who sees a message before its handler, and what becomes of it when they fail
//! - [`isolation`]: what one call, one capsule, one principal sees of another
//! - [`environment`]: what capsules are told from outside, and what they learn of rights
//! - [`durability`]: killed, stopped, started twice, started on what can't be trusted
//! - [`measured`]: every series moves, every key says where it came from
//! - [`neighbours`]: other users of the same machine
//! - [`openapi`]: the surface's own description, and that it describes what there is
//! - [`observation`]: health, metrics, and files that somebody changed
//! - [`operations`]: a configuration that is read again, what is shown of the load, mounts with limits, backup
//! - [`people`]: an admin, an operator, an agent; what each may do and what becomes of it when others change it
//! - [`prompts`]: what an agent answers, to whoever asked
//! - [`quotas`]: what a principal may use, and has used
//! - [`reach`]: that what reaches outside is written down, function by function
//! - [`relays`]: answers that go on after their handler
//! - [`streams`]: answers in pieces, and reading what is published
//! - [`warm`]: instances that serve a principal for more than one call
//! - [`run_loops`]: work that goes on without being asked
//! - [`supply`]: who signed a capsule, and whom the operator trusts
//! - [`tls`]: TLS, both versions of HTTP over it, and certificates that change
//! - [`types`]: what capsules say of their topics' types, and a host that holds them to it
//! - [`audit`]: what is written down of what happened
//! - [`history`]: what people see of it
//! - [`console`]: the command line
//!
//! `cargo astrid test story` builds the programs and the capsules first.

mod audit;
mod authors;
mod bad_input;
mod capsules;
mod certificates;
mod consent;
mod console;
mod distributions;
mod durability;
mod edge;
mod environment;
mod field;
mod forwarding;
mod generations;
mod history;
mod hostile;
mod hostile_crowd;
mod identities;
mod interceptors;
mod isolation;
mod measured;
mod neighbours;
mod observation;
mod openapi;
mod operations;
mod people;
mod processes;
mod prompts;
mod quotas;
mod reach;
mod relays;
mod run_loops;
mod session;
mod streams;
mod supply;
mod surface;
mod tls;
mod types;
mod warm;

use std::time::Instant;

use astrid_tests::DEADLINE;
use astrid_tests::daemon::Daemon;
use astrid_tests::http::{Request, Response};
use astrid_tests::pack;
use astrid_tests::steps::{Load, bus, install, install_with};
use ed25519_dalek::SigningKey;
use serde_json::json;

/// Instances that are there as long as the host: the run loop of `audit`, which has as many subscriptions.
const RESIDENT: u64 = 1;

/// A principal with its session.
#[derive(Clone)]
struct Person {
    principal: String,
    bearer: String,
}

/// A key pair that is always the same for the same number.
fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public_hex(key: &SigningKey) -> String {
    hex::encode(key.verifying_key().to_bytes())
}

/// How people name a token without showing it.
fn fingerprint(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex()[..32].to_owned()
}

/// An invite of the owner's.
async fn invite(daemon: &Daemon, group: &str, uses: u32) -> String {
    let request = Request::post("/api/sys/invites", &json!({ "group": group, "max_uses": uses }));
    let issued = daemon.unix(request).await.expect(200);
    issued["invite"]["token"].as_str().expect("a token").to_owned()
}

fn redemption(token: &str, public_key: &str) -> Request {
    Request::post("/api/auth/redeem", &json!({ "token": token, "public_key": public_key }))
}

/// Somebody new in a group, by an invite.
async fn join(daemon: &Daemon, group: &str, name: &str, number: u8) -> Person {
    let token = invite(daemon, group, 1).await;
    let body = json!({ "token": token, "public_key": public_hex(&key(number)), "display_name": name });
    let redeemed = daemon.tcp(Request::post("/api/auth/redeem", &body)).await.expect(200);
    let text = |field: &str| redeemed[field].as_str().expect("a text").to_owned();
    assert_eq!(text("principal"), name);
    Person { principal: text("principal"), bearer: text("session_token") }
}

/// Installs guests of this workspace.
#[track_caller]
fn install_guests(daemon: &Daemon, names: &[&str]) {
    for name in names {
        install(daemon, &pack::packed(name));
    }
}

/// Sends until an answer fits, at most until the deadline.
async fn until(daemon: &Daemon, request: Request, fits: impl Fn(&Response) -> bool) -> Response {
    let started = Instant::now();
    loop {
        let response = daemon.unix(request.clone()).await;
        if fits(&response) {
            return response;
        }
        assert!(started.elapsed() < DEADLINE, "after {DEADLINE:?} it still is {response:?}");
        tokio::task::yield_now().await;
    }
}

/// That the host is there and well, and so is everything on the way to a session.
async fn assert_well(daemon: &Daemon) {
    let health = daemon.tcp(Request::get("/healthz")).await.expect(200);
    assert_eq!(health["capsules"]["failed"], json!([]), "{health}");
    let me = daemon.unix(Request::get("/api/auth/me")).await.expect(200);
    assert_eq!(me["principal"], "default");
}
