//! What the record of a call says beside what the host knows itself (who, which topic, about whom, how it ended): what was
//! asked for, what came of it, and why not.
//!
//! Fields are taken over by name, never left out by name: what is not known here does not reach a record. Tokens, keys and
//! bearers stand there as fingerprints, and so does every text that is long enough to be one in the wrong place.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::keys::{PublicKey, fingerprint};
use crate::refusal::Refusal;

/// The longest text that is taken over as it is, in bytes. Every token, key and bearer is longer.
const MAX_SHOWN: usize = 32;
/// The most elements of a list that are taken over.
const MAX_LISTED: usize = 16;
/// The longest reason of a refusal that is taken over, in bytes.
const MAX_REASON: usize = 512;
/// The most bytes of a detail; what would exceed them loses its lists, which are the only long part.
const MAX_DETAIL: usize = 2048;

/// What is taken over of a request.
const ASKED: [&str; 25] = [
    "principal",
    "name",
    "group",
    "groups",
    "grants",
    "add_groups",
    "remove_groups",
    "capability",
    "capabilities",
    "scope",
    "label",
    "fingerprint",
    "description",
    "unsafe_admin",
    "max_uses",
    "expires_secs",
    "display_name",
    "now",
    "quotas",
    "id",
    "decision",
    "action",
    "resource",
    "after",
    "limit",
];
/// What is taken over of an answer, unless the request said the same.
const CAME: [&str; 9] =
    ["principal", "group", "scope", "public_key_fingerprint", "enabled", "changed", "generation", "approved", "by"];
/// What stands in a record as a fingerprint.
const SECRET: [&str; 3] = ["token", "public_key", "session_token"];

/// A JSON object of at most [`MAX_DETAIL`] bytes.
pub fn detail<T: Serialize>(payload: &[u8], result: &Result<T, Refusal>) -> String {
    let mut detail = Map::new();
    let asked = serde_json::from_slice::<Value>(payload).unwrap_or_default();
    take(&mut detail, &asked, &ASKED);
    match result {
        Ok(answer) => {
            let answer = serde_json::to_value(answer).unwrap_or_default();
            take(&mut detail, &answer, &CAME);
            // An invite's is one level down.
            take(&mut detail, &answer["invite"], &["group", "remaining_uses", "expires_at_epoch"]);
        }
        Err(refusal) => {
            let reason = refusal.reason();
            let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
            detail.insert("refused".into(), reason.into());
        }
    }
    let text = Value::Object(detail.clone()).to_string();
    if text.len() <= MAX_DETAIL {
        return text;
    }
    detail.retain(|_, value| !value.is_array());
    let text = Value::Object(detail).to_string();
    if text.len() <= MAX_DETAIL { text } else { "{}".into() }
}

fn take(detail: &mut Map<String, Value>, from: &Value, names: &[&str]) {
    let Value::Object(from) = from else { return };
    for name in names {
        if let Some(value) = from.get(*name).filter(|value| !value.is_null() && !detail.contains_key(*name)) {
            let shown = if *name == "fingerprint" { beginning(value) } else { None };
            detail.insert((*name).into(), shown.unwrap_or_else(|| self::shown(value)));
        }
    }
    for name in SECRET {
        if let Some(Value::String(secret)) = from.get(name) {
            let print = match PublicKey::parse(name, secret) {
                Ok(key) => key.fingerprint(),
                Err(_) => fingerprint(&blake3::hash(secret.as_bytes())),
            };
            detail.insert(format!("{name}_fingerprint"), print.into());
        }
    }
}

/// What people compare of the SHA-256 of a certificate, which is no secret; none of anything else.
fn beginning(fingerprint: &Value) -> Option<Value> {
    let text = fingerprint.as_str().filter(|text| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    Some(text[..MAX_SHOWN].into())
}

/// A value without what could be a secret.
fn shown(value: &Value) -> Value {
    match value {
        Value::String(text) if text.len() > MAX_SHOWN => {
            format!("blake3:{}", fingerprint(&blake3::hash(text.as_bytes()))).into()
        }
        Value::Array(list) => list.iter().take(MAX_LISTED).map(shown).collect(),
        // A name in it may be anything; of what is known, only quotas are objects, and they have numbers.
        Value::Object(fields) => {
            let numbers = fields.iter().filter(|(name, value)| name.len() <= MAX_SHOWN && !value.is_string());
            let shallow = numbers.filter(|(_, value)| !value.is_array() && !value.is_object());
            Value::Object(shallow.take(MAX_LISTED).map(|(name, value)| (name.clone(), value.clone())).collect())
        }
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::public_key;

    fn of(payload: &Value, result: Result<Value, Refusal>) -> Value {
        serde_json::from_str(&detail(payload.to_string().as_bytes(), &result)).unwrap()
    }

    #[test]
    fn what_was_asked_and_what_came_of_it_is_said_and_secrets_only_by_their_fingerprints() {
        let token = format!("astrid-inv-{}", "x".repeat(43));
        let payload = json!({ "token": token, "public_key": public_key(1), "display_name": "Bo", "other": "left out" });
        let bearer = "y".repeat(200);
        let detail = of(&payload, Ok(json!({ "principal": "bo", "group": "agent", "session_token": bearer })));
        let key = PublicKey::parse("k", &public_key(1)).unwrap();
        let print = |text: &str| fingerprint(&blake3::hash(text.as_bytes()));
        assert_eq!(
            detail,
            json!({ "display_name": "Bo", "token_fingerprint": print(&token), "principal": "bo", "group": "agent",
                    "public_key_fingerprint": key.fingerprint(), "session_token_fingerprint": print(&bearer) })
        );
        let issued = of(&json!({ "max_uses": 2 }), Ok(json!({ "invite": { "token": token, "group": "agent" } })));
        assert_eq!(issued, json!({ "max_uses": 2, "group": "agent", "token_fingerprint": print(&token) }));
    }

    #[test]
    fn a_refusal_has_its_reason_and_a_secret_in_the_wrong_place_stays_one() {
        let token = format!("astrid-inv-{}", "x".repeat(43));
        let payload = json!({ "principal": token, "capabilities": [token, "a:b"], "quotas": { "max": 1, "s": token } });
        let detail = of(&payload, Err(Refusal::Denied("no".into())));
        assert_eq!(detail["refused"], "no");
        assert_eq!((&detail["capabilities"][1], &detail["quotas"]), (&json!("a:b"), &json!({ "max": 1 })));
        assert!(!detail.to_string().contains("xxx"), "{detail}");
    }

    #[test]
    fn a_detail_is_an_object_within_its_bound_whatever_comes() {
        let long = "r".repeat(9_999);
        let lists = vec!["c".repeat(32); 500];
        for payload in [
            json!({ "capabilities": lists, "grants": lists, "groups": lists, "scope": lists, "add_groups": lists }),
            json!([1]),
            json!({ "quotas": { "a": { "b": long } }, "label": long, "token": long, "description": [[[long]]] }),
        ] {
            for result in [Ok(json!({ "by": long })), Err(Refusal::Invalid("ä".repeat(9_999)))] {
                let text = detail(payload.to_string().as_bytes(), &result);
                assert!(text.len() <= MAX_DETAIL && text.starts_with('{'), "{text}");
                assert!(serde_json::from_str::<Value>(&text).unwrap().is_object());
            }
        }
        assert_eq!(detail::<()>(b"\xff{", &Ok(())), "{}");
    }
}
