//! From the first invite to a session; who is let in and what they may do.

use astrid_tests::daemon::Daemon;
use astrid_tests::http::{Connection, Request, Response};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use crate::{bus, fingerprint, invite, join, key, public_hex, redemption};

fn rows(list: &Value) -> Vec<&str> {
    list["principals"].as_array().unwrap().iter().map(|row| row["principal"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_invite_from_the_command_line_becomes_a_session_that_sees_itself_and_is_seen_by_the_owner() {
    let daemon = Daemon::start();
    let issued = daemon.astrid(&["invite", "issue", "--metadata", "for=ada", "--json"]).json();
    let token = issued["invite"]["token"].as_str().unwrap();

    let body = json!({ "token": token, "public_key": public_hex(&key(1)), "display_name": "Ada L." });
    let redeemed = daemon.tcp(Request::post("/api/auth/redeem", &body)).await.expect(200);
    assert_eq!((&redeemed["principal"], &redeemed["group"]), (&json!("ada-l"), &json!("agent")));
    let bearer = redeemed["session_token"].as_str().unwrap();

    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = Request::get("/api/auth/me").header("authorization", &format!("{scheme} {bearer}"));
        for me in [daemon.tcp(request.clone()).await, daemon.unix(request).await] {
            let me = me.expect(200);
            assert_eq!((&me["principal"], &me["groups"]), (&json!("ada-l"), &json!(["agent"])));
            assert_eq!(me["expires_at_epoch"], redeemed["session_expires_at_epoch"]);
        }
    }

    let principals = Request::get("/api/sys/principals");
    let own = daemon.tcp(principals.clone().bearer(bearer)).await.expect(200);
    assert_eq!(rows(&own), ["ada-l"], "the self form shows one's own row alone");
    let all = daemon.unix(principals).await.expect(200);
    assert_eq!(rows(&all), ["ada-l", "default"]);
}

#[tokio::test]
async fn a_token_is_good_until_it_is_used_up_or_revoked_and_a_refusal_never_says_which() {
    let daemon = Daemon::start();
    let used_up = invite(&daemon, "agent", 1).await;
    daemon.tcp(redemption(&used_up, &public_hex(&key(1)))).await.expect(200);
    let revoked = invite(&daemon, "agent", 5).await;
    let revoke = Request::delete(&format!("/api/sys/invites/{}", fingerprint(&revoked)));
    assert_eq!(daemon.unix(revoke.clone()).await.status, 204);
    daemon.unix(revoke).await.refusal(404, "not_found");

    let unknown = format!("{}A", &used_up[..used_up.len() - 1]);
    for token in [used_up.as_str(), &revoked, &unknown, "", "x", &"x".repeat(60_000)] {
        let refused = daemon.tcp(redemption(token, &public_hex(&key(2)))).await;
        assert_eq!(refused.refusal(401, "unauthorized"), "", "a token is a credential");
    }

    // What is wrong with a key is said, and a key that is taken costs no use of the invite.
    let token = invite(&daemon, "agent", 1).await;
    let short = &public_hex(&key(2))[..62];
    let no_point = "02".repeat(32);
    let weak = format!("01{}", "00".repeat(31));
    for bad in [short, "", "zz", &no_point, &weak, &"ab".repeat(30_000)] {
        let reason = daemon.tcp(redemption(&token, bad)).await.refusal(400, "bad_request");
        assert!(reason.contains("public_key"), "{reason}");
    }
    daemon.tcp(redemption(&token, &public_hex(&key(1)))).await.refusal(409, "conflict");
    let good = json!({ "token": token, "public_key": public_hex(&key(2)) });
    for (field, value) in [("principal", json!("default")), ("group", json!("admin")), ("token", json!(7))] {
        let mut body = good.clone();
        body[field] = value;
        let reason = daemon.tcp(Request::post("/api/auth/redeem", &body)).await.refusal(400, "bad_request");
        assert!(field == "token" || reason.contains(field), "{reason}");
    }
    daemon.tcp(Request::post("/api/auth/redeem", &good)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixty_who_redeem_at_once_exactly_as_many_get_in_as_the_invite_has_uses() {
    let daemon = Daemon::start();
    let token = invite(&daemon, "agent", 5).await;
    let mut attempts = tokio::task::JoinSet::new();
    for number in 1..=60 {
        let mut connection = daemon.connect().await;
        let request = redemption(&token, &public_hex(&key(number)));
        attempts.spawn(async move { connection.send(request).await.expect("an answer").status });
    }
    let mut statuses = attempts.join_all().await;
    statuses.sort_unstable();
    let (won, lost) = statuses.split_at(5);
    assert!(won.iter().all(|status| *status == 200) && lost.iter().all(|status| *status == 401), "{statuses:?}");
    let all = daemon.unix(Request::get("/api/sys/principals")).await.expect(200);
    assert_eq!(rows(&all).len(), 6, "the five and the owner: {all}");
}

/// A bearer with these claims, signed by this key.
fn forged(principal: &str, key: &SigningKey) -> String {
    use base64ct::{Base64UrlUnpadded, Encoding};
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (issued, expires) = (now, now + 1000);
    let signature = key.sign(format!("{principal}:{issued}:{expires}").as_bytes());
    let part = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
    let (issued, expires) = (part(&issued.to_string()), part(&expires.to_string()));
    format!("{}.{issued}.{expires}.{}", part(principal), hex::encode(signature.to_bytes()))
}

#[tokio::test]
async fn whatever_is_wrong_with_a_credential_the_answer_is_the_same_401_on_either_socket() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let mut flipped = ada.bearer.clone();
    let last = if flipped.pop() == Some('0') { '1' } else { '0' };
    flipped.push(last);
    let owner = daemon.unix(Request::get("/api/auth/me")).await.expect(200);
    assert_eq!(owner["principal"], "default");

    let (_, signature) = ada.bearer.rsplit_once('.').unwrap();
    let another = forged("default", &key(9));
    let (claims, _) = another.rsplit_once('.').unwrap();
    let values = [
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Bearer rubbish".to_owned(),
        "Bearer ....".to_owned(),
        format!("Bearer {}", "a".repeat(20_000)),
        format!("Bearer {}", &ada.bearer[..ada.bearer.len() - 1]),
        format!("Bearer {flipped}"),
        format!("Bearer {} x", ada.bearer),
        format!("Bearer {}", ada.bearer.to_uppercase()),
        format!("Bearer {claims}.{signature}"),
        format!("Bearer {another}"),
        format!("Basic {}", ada.bearer),
        format!("Token {}", ada.bearer),
        ada.bearer.clone(),
    ];
    let check = |response: Response, what: &str| {
        assert_eq!(response.status, 401, "{what}: {response:?}");
        assert_eq!(&response.body[..], br#"{"error":"unauthorized"}"#, "{what}");
        assert_eq!(response.header("www-authenticate"), Some("Bearer"), "{what}");
    };
    for value in &values {
        let request = Request::get("/api/auth/me").header("authorization", value);
        check(daemon.tcp(request.clone()).await, value);
        check(daemon.unix(request).await, value);
    }
    let twice = Request::get("/api/auth/me").bearer(&ada.bearer).bearer(&ada.bearer);
    check(daemon.tcp(twice).await, "two headers");
    // The connection remembers nobody: a good request before a bad one helps it no further.
    let mut kept: Connection = daemon.connect().await;
    kept.send(Request::get("/api/auth/me").bearer(&ada.bearer)).await.unwrap().expect(200);
    check(kept.send(Request::get("/api/auth/me")).await.unwrap(), "no header after a good one");
    check(kept.send(Request::get("/api/auth/me").bearer(&flipped)).await.unwrap(), "a bad one after a good one");
}

#[tokio::test]
async fn an_agent_may_see_itself_and_nothing_else_and_a_stranger_may_only_redeem() {
    let daemon = Daemon::start();
    let agent = join(&daemon, "agent", "ada", 1).await;
    let restricted = join(&daemon, "restricted", "bob", 2).await;
    let token = invite(&daemon, "admin", 1).await;
    let only_for_others = [
        (Request::post("/api/sys/invites", &json!({ "group": "admin", "max_uses": 1 })), "invite:issue"),
        (Request::get("/api/sys/invites"), "invite:list"),
        (Request::delete(&format!("/api/sys/invites/{}", fingerprint(&token))), "invite:revoke"),
        (Request::get("/api/sys/status"), "system:status"),
        (Request::get("/api/sys/logs"), "system:logs"),
        (Request::new("POST", "/api/sys/shutdown"), "system:shutdown"),
        (Request::get("/api/capsules"), "capsule:list"),
        (Request::post("/api/capsules", &json!({ "source": "/x.capsule" })), "capsule:install"),
        (bus("identity.v1.me", &json!({})), "bus:request"),
        (Request::post("/api/bus/publish/identity.v1.me", &json!({})), "bus:publish"),
    ];
    for (request, capability) in &only_for_others {
        for person in [&agent, &restricted] {
            let reason = daemon.tcp(request.clone().bearer(&person.bearer)).await.refusal(403, "forbidden");
            assert!(reason.contains(capability), "{reason}");
        }
        assert_eq!(daemon.tcp(request.clone()).await.refusal(401, "unauthorized"), "");
    }
    let target = Request::post(&format!("/api/bus/request/system.v1.status?target={}", agent.principal), &json!({}));
    daemon.tcp(target.bearer(&agent.bearer)).await.refusal(403, "forbidden");

    for person in [&agent, &restricted] {
        let me = daemon.tcp(Request::get("/api/auth/me").bearer(&person.bearer)).await.expect(200);
        assert_eq!(me["principal"], person.principal);
    }
    let principals = Request::get("/api/sys/principals");
    daemon.tcp(principals.clone().bearer(&restricted.bearer)).await.refusal(403, "forbidden");
    for own in ["/api/auth/me", "/api/sys/principals"] {
        daemon.tcp(Request::get(own)).await.refusal(401, "unauthorized");
    }

    // Nothing of that happened, and what is public is so.
    daemon.tcp(redemption(&token, &public_hex(&key(3)))).await.expect(200);
    daemon.tcp(Request::get("/healthz")).await.expect(200);
    assert_eq!(daemon.tcp(Request::get("/metrics")).await.status, 200);
}
