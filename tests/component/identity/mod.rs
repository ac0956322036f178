//! Principals, invites and bearers: from the bootstrap to a session, and every way in which that must not work.

mod approvals;
mod bearers;
mod bootstrap;
mod devices;
mod inviting;
mod notes;
mod principals;
mod redeeming;
mod requests;
mod sessions;

use std::collections::BTreeSet;

use astrid_sdk_test::{CallError, Capsule, ClientCertificate, Identified, Presented, Refusal, RefusalCode, UnixPeer};
use base64ct::{Base64UrlUnpadded, Encoding};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

const DAY: u64 = 86_400;
const SESSION: u64 = 28_800;
const HANDLERS: [&str; 39] = [
    "invite-issue",
    "invite-list",
    "invite-revoke",
    "invite-redeem",
    "principal-create",
    "principal-list",
    "principal-show",
    "principal-modify",
    "principal-enable",
    "principal-disable",
    "principal-delete",
    "group-create",
    "group-list",
    "group-show",
    "group-modify",
    "group-delete",
    "caps-grant",
    "caps-revoke",
    "caps-show",
    "caps-check",
    "me",
    "device-pair",
    "device-redeem",
    "device-list",
    "device-remove",
    "certificate-bind",
    "certificate-list",
    "certificate-remove",
    "login-challenge",
    "login",
    "session-refresh",
    "session-end",
    "session-rotate",
    "approval-request",
    "approval-list",
    "approval-answer",
    "approval-withdraw",
    "quota-get",
    "quota-set",
];

/// After its first start.
fn identity() -> Capsule {
    let mut identity = crate::capsule("identity");
    start(&mut identity).unwrap();
    identity
}

fn start(identity: &mut Capsule) -> Result<(), String> {
    identity.start().unwrap_or_else(|error| panic!("start: {error}"))
}

fn ask_as(identity: &mut Capsule, principal: &str, handler: &str, payload: Value) -> Result<Value, Refusal> {
    let call = identity.as_principal(principal);
    let answer = call.handle(handler, payload).unwrap_or_else(|error| panic!("{handler}: {error}"));
    answer.inspect(|answer| crate::types::check_answer("identity", handler, answer))
}

/// About another, or about oneself in a `self:` form.
fn ask_about(
    identity: &mut Capsule,
    principal: &str,
    target: &str,
    handler: &str,
    payload: Value,
) -> Result<Value, Refusal> {
    let call = identity.as_principal(principal).with_target(target);
    let answer = call.handle(handler, payload).unwrap_or_else(|error| panic!("{handler}: {error}"));
    answer.inspect(|answer| crate::types::check_answer("identity", handler, answer))
}

/// As the administrator.
fn ask(identity: &mut Capsule, handler: &str, payload: Value) -> Result<Value, Refusal> {
    ask_as(identity, "default", handler, payload)
}

/// As everybody who holds a token.
fn redeem(identity: &mut Capsule, token: &str, key: u8) -> Result<Value, Refusal> {
    ask_as(identity, "anonymous", "invite-redeem", json!({ "token": token, "public_key": public_key(key) }))
}

fn redeem_named(identity: &mut Capsule, token: &str, key: u8, name: &str) -> Result<Value, Refusal> {
    let payload = json!({ "token": token, "public_key": public_key(key), "display_name": name });
    ask_as(identity, "anonymous", "invite-redeem", payload)
}

fn issue(identity: &mut Capsule, group: &str, max_uses: u32) -> String {
    let answer = ask(identity, "invite-issue", json!({ "group": group, "max_uses": max_uses })).unwrap();
    text(&answer["invite"]["token"])
}

fn bearer(identity: &mut Capsule, token: &str) -> Option<Identified> {
    identity.authenticate(Presented::Bearer(token.into())).unwrap_or_else(|error| panic!("{token}: {error}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

/// A real key, another for every number.
fn public_key(n: u8) -> String {
    hex::encode(SigningKey::from_bytes(&[n + 1; 32]).verifying_key().as_bytes())
}

/// A challenge of a principal, signed with the key of this number.
fn signed_login(identity: &mut Capsule, principal: &str, key: u8) -> Value {
    let challenge = ask_as(identity, "anonymous", "login-challenge", json!({ "principal": principal })).unwrap();
    let signature = SigningKey::from_bytes(&[key + 1; 32]).sign(text(&challenge["challenge"]).as_bytes());
    json!({ "principal": principal, "challenge": challenge["challenge"], "public_key": public_key(key),
            "signature": hex::encode(signature.to_bytes()) })
}

fn log_in(identity: &mut Capsule, principal: &str, key: u8) -> Result<Value, Refusal> {
    let login = signed_login(identity, principal, key);
    ask_as(identity, "anonymous", "login", login)
}

/// A bearer as the specification spells it, signed with the key of a purpose.
fn forged(identity: &Capsule, purpose: &str, principal: &str, issued: u64, expires: u64) -> String {
    let signature = identity.sign(purpose, format!("{principal}:{issued}:{expires}").as_bytes());
    spelled(principal, issued, expires, &signature)
}

fn spelled(principal: &str, issued: u64, expires: u64, signature: &[u8]) -> String {
    let part = |text: String| Base64UrlUnpadded::encode_string(text.as_bytes());
    let parts = [part(principal.into()), part(issued.to_string()), part(expires.to_string()), hex::encode(signature)];
    parts.join(".")
}

fn ids(list: &Value) -> Vec<String> {
    list["principals"].as_array().unwrap().iter().map(|row| text(&row["principal"])).collect()
}

fn fingerprints(list: &Value) -> Vec<String> {
    list["invites"].as_array().unwrap().iter().map(|row| text(&row["token_fingerprint"])).collect()
}

fn invites(identity: &mut Capsule) -> Value {
    ask(identity, "invite-list", json!({})).unwrap()
}

fn standings(identity: &Capsule) -> Vec<String> {
    identity.registrar().principals().map(str::to_owned).collect()
}
