//! Answers that go on: events and prompts.

use super::*;

#[test]
fn events_begin_with_what_was_missed_and_go_on_with_what_is_told() {
    let mut gateway = gateway();
    gateway.grant("alice", "audit:read_all");
    let entries = json!([{ "index": 42, "line": "a" }, { "index": 44, "line": "b" }]);
    gateway.on_request("audit.v1.query", answering(json!({ "entries": entries, "next_from": 45, "size": 50 })));
    let request = Request::get("/api/events").header("last-event-id", "41");
    let response = as_alice(&mut gateway, request);
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")));
    let body = String::from_utf8(response.body.clone()).unwrap();
    let events: Vec<&str> = body.split_terminator("\n\n").collect();
    assert_eq!(events[0], "event: ready\ndata: {\"firehose\":true,\"principal\":\"alice\"}");
    assert!(events[1].starts_with("id: 42\nevent: audit\ndata: ") && events[2].starts_with("id: 44\n"), "{body}");
    assert_eq!(events[3..], ["event: gap\ndata: {\"lost\":5}"], "what is too much is told");
    assert_eq!(payload(&gateway.requested()[0]), json!({ "from": 42, "limit": 1000 }));
    let [follow] = gateway.published() else { panic!("{:?}", gateway.published()) };
    assert_eq!((follow.topic.as_str(), follow.principal.as_str()), ("audit.v1.follow", "alice"));
    assert_eq!(payload(follow), json!({ "from": 50 }));

    let told = json!({ "entries": [{ "index": 49 }, { "index": 50 }], "lost": 0, "renew_from": 51 });
    let told = Event::message("alice", "audit.v1.fact", told.to_string());
    let relayed = gateway.as_principal("alice").relay(br#"{"from":50}"#, &[told, Event::Idle]).unwrap();
    assert_eq!(String::from_utf8(relayed.body).unwrap(), "id: 50\nevent: audit\ndata: {\"index\":50}\n\n: here\n\n");
    let renewed: Vec<Value> = gateway.published().iter().skip(1).map(payload).collect();
    assert_eq!(renewed, [json!({ "from": 51 }), json!({})]);
    assert_error(&as_alice(&mut gateway, Request::get("/api/events").header("last-event-id", "x")), 400, "bad_request");
}

#[test]
fn a_prompt_is_published_for_whoever_asks_and_its_stream_is_told_what_comes_of_its_session() {
    let mut gateway = gateway();
    let body = || json!({ "text": "hello", "session_id": "s-1", "context": { "page": 1 } });
    let ask = || Request::post("/api/agent/prompt", body());
    assert_error(&as_alice(&mut gateway, ask()), 403, "forbidden");
    gateway.grant("alice", "self:agent:prompt");
    gateway.set_delivered(0);
    let nobody = as_alice(&mut gateway, ask());
    assert_error(&nobody, 503, "overloaded");
    assert_eq!(nobody.header("retry-after"), Some("1"));

    gateway.set_delivered(1);
    let response = as_alice(&mut gateway, ask());
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(response.route.as_deref(), Some("/api/agent/prompt"));
    let body = String::from_utf8(response.body.clone()).unwrap();
    assert_eq!(body, "event: ready\ndata: {\"principal\":\"alice\",\"session_id\":\"s-1\"}\n\n");
    let sent = gateway.published().last().unwrap();
    assert_eq!((sent.topic.as_str(), sent.principal.as_str(), &sent.target), ("user.v1.prompt", "alice", &None));
    let prompt = json!({ "session_id": "s-1", "principal": "alice", "text": "hello", "context": { "page": 1 } });
    assert_eq!(payload(sent), prompt);
    let published = gateway.published().len();

    let unnamed = || Request::post("/api/agent/prompt", json!({ "text": "hello" }));
    let names = [as_alice(&mut gateway, unnamed()), as_alice(&mut gateway, unnamed())].map(|answer| answer.body);
    assert_ne!(names[0], names[1], "nobody guesses the name of a session that nobody named");
    assert_eq!(gateway.published().len(), published + 2);

    let context = json!({ "session_id": "s-1", "request": "r", "heard_at": u64::MAX, "idle_secs": 60 }).to_string();
    let said = |session: &str| {
        let delta = json!({ "session_id": session, "text": "a\nb" });
        Event::message("alice", "agent.v1.stream.delta", delta.to_string())
    };
    let events = [said("s-2"), said("s-1"), Event::Idle];
    let relayed = gateway.as_principal("alice").relay(context.as_bytes(), &events).unwrap();
    let delta = "event: delta\ndata: {\"session_id\":\"s-1\",\"text\":\"a\\nb\"}\n\n: here\n\n";
    assert_eq!((String::from_utf8(relayed.body).unwrap(), relayed.last), (delta.to_owned(), false));
    let context = relayed.context.expect("when it was heard of last");
    let end = Event::message("alice", "agent.v1.response", json!({ "session_id": "s-1" }).to_string());
    assert!(gateway.as_principal("alice").relay(&context, &[end]).unwrap().last);
}
