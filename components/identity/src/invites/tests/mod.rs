//! What the tests of all verbs do: issue, redeem, list and revoke with little said.

mod issue;
mod list;
mod redeem;

use serde_json::{Value, json};

use super::*;
use crate::testing::{Fake, public_key};

fn issue_with(fake: &Fake, request: &Value) -> Result<IssuedInvite, Refusal> {
    issue(fake, "default", request.to_string().as_bytes()).map(|issued| issued.invite)
}

fn token(fake: &Fake, max_uses: u32) -> String {
    issue_with(fake, &json!({"group": "agent", "max_uses": max_uses})).unwrap().token
}

fn redeem_with(fake: &Fake, token: &str, seed: u32) -> Result<Redeemed, Refusal> {
    redeem(fake, json!({"token": token, "public_key": public_key(seed)}).to_string().as_bytes())
}

fn named(fake: &Fake, token: &str, seed: u32, name: &str) -> String {
    let request = json!({"token": token, "public_key": public_key(seed), "display_name": name});
    redeem(fake, request.to_string().as_bytes()).unwrap_or_else(|refusal| panic!("{refusal:?}")).principal
}

fn listed(fake: &Fake, request: &Value) -> Value {
    serde_json::to_value(list(fake, request.to_string().as_bytes()).unwrap()).unwrap()
}

fn revoke_with(fake: &Fake, request: &Value) -> Result<Revoked, Refusal> {
    revoke(fake, request.to_string().as_bytes())
}

fn reason<T>(result: Result<T, Refusal>) -> String {
    match result.map(drop).unwrap_err() {
        Refusal::Invalid(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// What a redeemer learns of an invite that does not work.
fn not_valid<T>(result: Result<T, Refusal>) {
    assert_eq!(result.map(drop), Err(Refusal::Denied("the invite is not valid".into())));
}

fn hash(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}
