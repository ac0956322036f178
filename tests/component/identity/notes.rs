//! What the log and the record of a call say.

use super::*;

#[test]
fn the_log_says_who_changed_whom_and_why_not_and_never_a_token_or_a_key() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 1);
    let redeemed = redeem_named(&mut identity, &token, 0, "bo").unwrap();
    let bearer = text(&redeemed["session_token"]);
    ask(&mut identity, "principal-disable", json!({ "principal": "bo" })).unwrap();
    ask(&mut identity, "principal-disable", json!({ "principal": "default" })).unwrap_err();
    ask(&mut identity, "principal-delete", json!({ "principal": token })).unwrap_err();
    ask(&mut identity, "invite-revoke", json!({ "fingerprint": bearer })).unwrap_err();
    redeem(&mut identity, &token, 1).unwrap_err();
    let lines: Vec<String> = identity.logs().iter().map(|logged| logged.message.clone()).collect();
    for part in [
        "by `default` about the name `bo`",
        "about the name `default` refused: `default` is never disabled",
        "refused: the invite",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:?}");
    }
    for secret in [&token, &bearer, &public_key(0), &public_key(1)] {
        assert!(!lines.iter().any(|line| line.contains(&secret[12..])), "{lines:?}");
    }
}

#[test]
fn the_record_of_a_call_says_what_was_asked_and_why_not_and_never_a_token_or_a_key() {
    let mut identity = identity();
    let token = issue(&mut identity, "agent", 1);
    let issued = identity.take_detail().unwrap();
    assert_eq!(issued["group"], "agent");
    let redeemed = redeem_named(&mut identity, &token, 0, "bo").unwrap();
    let joined = identity.take_detail().unwrap();
    assert_eq!(joined["token_fingerprint"], issued["token_fingerprint"], "{joined}");
    assert_eq!(joined["public_key_fingerprint"], redeemed["public_key_fingerprint"]);
    assert_eq!(joined["principal"], "bo");
    redeem(&mut identity, &token, 1).unwrap_err();
    let refused = identity.take_detail().unwrap();
    assert_eq!(refused["refused"], "the invite is not valid");
    let login = json!({ "principal": "bo", "challenge": token, "public_key": public_key(0), "signature": "00" });
    ask_as(&mut identity, "anonymous", "login", login).unwrap_err();
    let failed = identity.take_detail().unwrap();
    assert!(failed["principal"] == "bo" && failed["refused"].is_string(), "{failed}");
    let bearer = text(&redeemed["session_token"]);
    ask_as(&mut identity, "bo", "session-end", json!({ "token": bearer })).unwrap();
    let ended = identity.take_detail().unwrap();
    assert_eq!(ended["token_fingerprint"], joined["session_token_fingerprint"]);
    for detail in [issued, joined, refused, failed, ended].map(|detail| detail.to_string()) {
        for secret in [&token, &bearer, &public_key(0), &public_key(1)] {
            assert!(!detail.contains(&secret[12..]), "{detail}");
        }
    }
}
