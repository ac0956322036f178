//! What a route makes of the answer of its topic.

use super::*;

#[test]
fn me_is_identitys_answer_with_the_end_of_the_session() {
    let mut gateway = gateway();
    let who = json!({ "principal": "alice", "groups": ["agent"], "capabilities": ["self:*"] });
    gateway.on_request("identity.v1.me", answering(who));
    let response = as_alice(&mut gateway, Request::get("/api/auth/me"));
    let want = json!({
        "principal": "alice", "groups": ["agent"], "capabilities": ["self:*"], "expires_at_epoch": EXPIRES,
    });
    assert_eq!((response.status, response.json()), (200, want));
}

#[test]
fn who_may_only_see_themselves_gets_their_own_row() {
    let mut gateway = gateway();
    gateway.on_request("identity.v1.principal.list", |message| match &message.target {
        None => Err(Failure::Denied("requires agent:list".into())),
        Some(target) => Ok(json!({ "principals": [{ "principal": target }] }).to_string().into_bytes()),
    });
    let response = as_alice(&mut gateway, Request::get("/api/sys/principals?limit=5"));
    assert_eq!(response.json(), json!({ "principals": [{ "principal": "alice" }] }));
    let sent: Vec<_> = gateway.requested().iter().map(|m| (m.target.as_deref(), payload(m))).collect();
    assert_eq!(sent, [(None, json!({ "limit": 5 })), (Some("alice"), json!({ "limit": 5 }))]);
}

#[test]
fn who_may_not_even_see_themselves_is_forbidden_and_nothing_else_is_tried_again() {
    for (failure, status, error, times) in [
        (Failure::Denied("requires agent:list".into()), 403, "forbidden", 2),
        (Failure::Timeout, 504, "timeout", 1),
        (refused(RefusalCode::Denied), 403, "forbidden", 1),
    ] {
        let mut gateway = gateway();
        gateway.on_request("identity.v1.principal.list", failing(failure));
        assert_error(&as_alice(&mut gateway, Request::get("/api/sys/principals")), status, error);
        assert_eq!(gateway.requested().len(), times);
    }
}

#[test]
fn an_environment_is_about_the_caller_unless_the_query_names_somebody() {
    let request = |method: &str, query: &str| match method {
        "GET" => Request::get(&format!("/api/capsules/notes/env{query}")),
        "POST" => Request::post(&format!("/api/capsules/notes/env/KEY{query}"), json!({ "value": "v" })),
        _ => Request::new(method, &format!("/api/capsules/notes/env/KEY{query}")),
    };
    let key = json!({ "capsule": "notes", "field": "KEY" });
    let value = json!({ "capsule": "notes", "field": "KEY", "value": "v" });
    let routes = [
        ("GET", "system.v1.env.get", json!({ "capsule": "notes" }), 200),
        ("POST", "system.v1.env.set", value, 204),
        ("DELETE", "system.v1.env.clear", key, 204),
    ];
    for (method, topic, want, status) in routes {
        for (query, target) in [("", "alice"), ("?principal=bob", "bob")] {
            let mut gateway = gateway();
            gateway.on_request(topic, answering(json!({ "fields": {} })));
            let response = as_alice(&mut gateway, request(method, query));
            assert_eq!((response.status, response.body.is_empty()), (status, status == 204), "{topic}");
            let [sent] = gateway.requested() else { panic!("{topic}: {:?}", gateway.requested()) };
            assert_eq!((sent.topic.as_str(), payload(sent)), (topic, want.clone()));
            assert_eq!((sent.principal.as_str(), sent.target.as_deref()), ("alice", Some(target)));

            gateway.on_request(topic, failing(Failure::Denied("requires env".into())));
            assert_error(&as_alice(&mut gateway, request(method, query)), 403, "forbidden");
            gateway.on_request(topic, failing(refused(RefusalCode::NotFound)));
            assert_error(&as_alice(&mut gateway, request(method, query)), 404, "not_found");
            gateway.on_request(topic, failing(refused(RefusalCode::Invalid)));
            assert_error(&as_alice(&mut gateway, request(method, query)), 400, "bad_request");
        }
    }
    let mut gateway = gateway();
    assert_error(
        &as_alice(&mut gateway, Request::post("/api/capsules/notes/env/KEY", json!(["v"]))),
        400,
        "bad_request",
    );
    assert!(gateway.requested().is_empty());
}

#[test]
fn shutdown_is_accepted_with_and_without_a_body() {
    for request in [Request::new("POST", "/api/sys/shutdown"), Request::post("/api/sys/shutdown", json!({}))] {
        let mut gateway = gateway();
        gateway.on_request("system.v1.shutdown", answering(json!({})));
        assert_eq!(as_alice(&mut gateway, request).status, 202);
        assert_eq!(payload(&gateway.requested()[0]), json!({}));
    }
}

#[test]
fn a_tile_and_a_checkpoint_pass_as_they_are() {
    let mut gateway = gateway();
    gateway.on_request("audit.v1.checkpoint", |_| Ok(b"origin\n7\n".to_vec()));
    gateway.on_request_stream("audit.v1.tile", |_| (vec![vec![0, 255], vec![1]], Ok(vec![])));
    let note = as_alice(&mut gateway, Request::get("/api/sys/audit/checkpoint"));
    assert_eq!((note.status, &note.body[..]), (200, &b"origin\n7\n"[..]));
    assert_eq!(note.header("content-type"), Some("text/plain; charset=utf-8"));
    let tile = as_alice(&mut gateway, Request::get("/api/sys/audit/tile/entries/x001/234.p/5"));
    assert_eq!((tile.status, &tile.body[..]), (200, &[0, 255, 1][..]));
    assert_eq!(tile.header("content-type"), Some("application/octet-stream"));
    assert_eq!(payload(gateway.requested().last().unwrap()), json!({ "path": "entries/x001/234.p/5" }));
    assert_error(&as_alice(&mut gateway, Request::get("/api/sys/audit/tile/0%2F%2F0")), 400, "bad_request");
}
