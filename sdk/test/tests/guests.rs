//! The promises of calls and fakes, kept with real components: the workspace's guests.

use std::fs::File;

use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Manifest;
use astrid_sdk_test::{
    CallError, Capsule, DEFAULT_TIME, Event, Failure, OpenError, Owner, Presented, Ran, RefusalCode, Request, Slot,
    Snapshot, Verdict,
};
use serde_json::{Value, json};

fn guest(name: &str) -> Capsule {
    Capsule::named(name).unwrap_or_else(|error| panic!("{error}"))
}

fn echo() -> Capsule {
    guest("echo")
}

/// The filter guest, with less fuel: here nothing else ends its loop.
fn filter() -> Capsule {
    let path = astrid_sdk_test::packed("filter").unwrap_or_else(|error| panic!("{error}"));
    let mut archive = Archive::read(File::open(path).unwrap()).unwrap();
    archive.manifest.limits.max_fuel = 10_000_000;
    Capsule::from_component(archive.manifest, &archive.component).unwrap()
}

/// The echo guest with another manifest.
fn echo_with(rest: &str) -> Result<Capsule, OpenError> {
    let path = astrid_sdk_test::packed("echo").unwrap_or_else(|error| panic!("{error}"));
    let archive = Archive::read(File::open(path).unwrap()).unwrap();
    let text = format!("{rest}\n[package]\nname = \"echo\"\nversion = \"0.1.0\"\n");
    Capsule::from_component(Manifest::parse(&text).unwrap(), &archive.component)
}

const SAY: &str = "[[subscribe]]\ntopic = \"echo.v1.say\"\nhandler = \"say\"\n";

#[test]
fn a_handler_answers_and_the_call_is_measured() {
    let mut echo = echo();
    assert_eq!(echo.last_call(), Default::default());
    let answer = echo.as_principal("alice").with_target("bob").handle("say", json!({ "a": [1, null] })).unwrap();
    assert_eq!(answer.unwrap(), json!({ "a": [1, null] }));
    let small = echo.last_call();
    assert!(small.fuel > 1_000 && small.peak_memory_bytes >= 64 << 10, "{small:?}");
    echo.handle("say", "x".repeat(512 << 10)).unwrap().unwrap();
    assert!(echo.last_call().peak_memory_bytes > small.peak_memory_bytes);
}

#[test]
fn the_same_call_costs_the_same_in_every_fresh_instance() {
    let mut echo = echo();
    let fuel = [0; 3].map(|_| {
        echo.handle("say", json!("again")).unwrap().unwrap();
        echo.last_call().fuel
    });
    assert!(fuel.iter().all(|f| *f == fuel[0]), "{fuel:?}");
}

#[test]
fn an_answer_that_is_no_json_is_said_and_its_bytes_are_to_be_had() {
    let mut echo = echo();
    let answer = echo.as_principal("alice").handle_bytes("say", b"\xff".to_vec()).unwrap();
    assert_eq!(answer.unwrap(), b"\xff");
}

#[test]
fn a_handler_that_nothing_binds_needs_a_topic() {
    let mut echo = echo();
    assert!(matches!(echo.handle("shout", json!(1)), Err(CallError::Unbound(name)) if name == "shout"));
    let refusal = echo.as_principal("alice").with_topic("echo.v1.shout").handle("shout", json!(1)).unwrap();
    assert_eq!(refusal.unwrap_err().code, RefusalCode::NotFound);
}

#[test]
fn an_export_that_is_missing_is_named() {
    let mut echo = echo();
    let missing = |error: CallError| match error {
        CallError::NoExport(name) => name,
        other => panic!("{other}"),
    };
    assert_eq!(missing(echo.start().unwrap_err()), "astrid:capsule/lifecycle");
    assert_eq!(missing(echo.http(Request::get("/")).unwrap_err()), "astrid:http/handler");
    let bearer = Presented::Bearer("x".into());
    assert_eq!(missing(echo.authenticate(bearer).unwrap_err()), "astrid:authority/authenticator");
}

#[test]
fn an_interceptor_passes_replaces_denies_or_dies() {
    let mut filter = filter();
    let mut judge = |payload: Value| filter.as_principal("ada").with_topic("echo.v1.say").intercept("judge", payload);
    assert_eq!(judge(json!({ "a": 1 })).unwrap(), Verdict::Pass);
    assert_eq!(judge(json!("replace")).unwrap(), Verdict::Replace(br#""replaced for ada""#.to_vec()));
    assert_eq!(judge(json!("deny")).unwrap(), Verdict::Deny("the filter says no".into()));
    assert!(matches!(judge(json!("oversize")), Err(CallError::TooLarge(_))));
    assert!(matches!(judge(json!("trap")), Err(CallError::Trapped(why)) if why.contains("asked to by ada")));
    assert!(matches!(judge(json!("loop")), Err(CallError::OutOfFuel(10_000_000))));
}

#[test]
fn an_interceptor_needs_its_interception_its_topic_and_its_export() {
    let mut filter = filter();
    assert!(matches!(filter.intercept("judge", json!(1)), Err(CallError::Unbound(name)) if name == "judge"));
    let unknown = filter.as_principal("ada").with_topic("echo.v1.say").intercept("nobody", json!(1));
    assert!(matches!(unknown, Err(CallError::Trapped(why)) if why.contains("no interceptor `nobody`")));
    let missing = echo().as_principal("ada").with_topic("echo.v1.say").intercept("judge", json!(1));
    assert!(matches!(missing, Err(CallError::NoExport("astrid:bus/interceptor"))));
    let intercept = "[[intercept]]\ntopic = \"echo.v1.say\"\nhandler = \"judge\"\n";
    let Err(error) = echo_with(intercept) else { panic!("the component exports no interceptor") };
    assert!(error.to_string().contains("astrid:bus/interceptor"), "{error}");
}

#[test]
fn fuel_ends_at_the_manifests_limit() {
    let mut echo = echo_with(&format!("{SAY}[limits]\nmax-fuel = 1000\n")).unwrap();
    assert!(matches!(echo.handle("say", json!(1)), Err(CallError::OutOfFuel(1000))));
    assert_eq!(echo.last_call().fuel, 1000);
}

#[test]
fn memory_ends_at_the_manifests_limit() {
    let mut echo = echo_with(&format!("{SAY}[limits]\nmax-memory-bytes = 1572864\n")).unwrap();
    echo.handle("say", "x".repeat(64 << 10)).unwrap().unwrap();
    assert!(matches!(echo.handle("say", "x".repeat(1_000_000)), Err(CallError::Trapped(_))));
    assert!(echo.last_call().peak_memory_bytes <= 1_572_864);
}

#[test]
fn a_payload_that_no_host_delivers_is_not_delivered() {
    let mut echo = echo();
    assert!(matches!(echo.handle("say", "x".repeat(1 << 20)), Err(CallError::TooLarge(_))));
    assert!(echo.handle("say", "x".repeat((1 << 20) - 2)).unwrap().is_ok());
}

#[test]
fn a_manifest_that_does_not_fit_the_component_is_refused() {
    let http = "asks = [\"http:mount\"]\n[http]\nmounts = [\"/echo\"]\n";
    let Err(error) = echo_with(http) else { panic!("the component exports no front end") };
    assert!(error.to_string().contains("astrid:http/handler"), "{error}");
}

#[test]
fn bytes_that_are_no_component_are_refused() {
    let manifest = Manifest::parse("[package]\nname = \"a\"\nversion = \"0.1.0\"\n").unwrap();
    assert!(matches!(Capsule::from_component(manifest, b"no wasm"), Err(OpenError::Unfit(_))));
}

#[test]
fn a_capsule_that_was_not_built_is_named_with_the_command_that_builds_it() {
    let Err(error) = Capsule::named("never-built") else { panic!("it exists") };
    let text = error.to_string();
    assert!(text.contains("never-built.capsule") && text.contains("cargo astrid build"), "{text}");
}

#[test]
fn nothing_but_the_store_is_remembered_between_calls() {
    let mut counter = guest("counter");
    for _ in 0..2 {
        assert_eq!(counter.handle("calls", json!({})).unwrap().unwrap(), json!({ "count": 1 }));
    }
    for count in 1..=2 {
        assert_eq!(counter.handle("increment", json!({ "key": "k" })).unwrap().unwrap(), json!({ "count": count }));
    }
    let slot = Slot::new("values", Owner::Capsule, "k");
    assert_eq!(counter.store().get(&slot).unwrap().value, b"2");
    counter.store().put(slot, "41");
    assert_eq!(counter.handle("increment", json!({ "key": "k" })).unwrap().unwrap(), json!({ "count": 42 }));
}

#[test]
fn principals_have_buckets_of_their_own() {
    let mut counter = guest("counter");
    let own = json!({ "key": "k", "value": "alice's", "own": true });
    counter.as_principal("alice").handle("put", own).unwrap().unwrap();
    let get = json!({ "key": "k", "own": true });
    assert_eq!(counter.as_principal("alice").handle("get", &get).unwrap().unwrap()["value"], "alice's");
    assert_eq!(counter.as_principal("bob").handle("get", &get).unwrap().unwrap_err().code, RefusalCode::NotFound);
    let slots: Vec<_> = counter.store().entries().map(|(slot, _)| slot.clone()).collect();
    assert_eq!(slots, [Slot::new("values", Owner::Principal("alice".into()), "k")]);
}

#[test]
fn forced_conflicts_reach_the_guest_and_so_does_a_store_that_is_away() {
    let mut counter = guest("counter");
    counter.store().conflict_next(3);
    assert_eq!(counter.handle("increment", json!({ "key": "k" })).unwrap().unwrap(), json!({ "count": 1 }));
    assert_eq!(counter.store().conflicts_left(), 0);
    counter.store().set_unavailable(true);
    let refusal = counter.handle("increment", json!({ "key": "k" })).unwrap().unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Unavailable);
}

#[test]
fn a_transaction_is_attempted_32_times_and_then_given_up() {
    let mut counter = guest("counter");
    counter.store().conflict_next(31);
    assert_eq!(counter.handle("increment", json!({ "key": "k" })).unwrap().unwrap(), json!({ "count": 1 }));
    counter.store().conflict_next(33);
    let refusal = counter.handle("increment", json!({ "key": "k" })).unwrap().unwrap_err();
    assert_eq!((refusal.code, counter.store().conflicts_left()), (RefusalCode::Conflict, 1));
    counter.store().conflict_next(0);
    assert_eq!(counter.handle("increment", json!({ "key": "k" })).unwrap().unwrap(), json!({ "count": 2 }));
}

#[test]
fn the_stores_bounds_are_the_contracts() {
    let mut counter = guest("counter");
    for (handler, payload) in [
        ("put", json!({ "key": "", "value": "v" })),
        ("put", json!({ "key": "k".repeat(513), "value": "v" })),
        ("list", json!({ "limit": 0 })),
        ("list", json!({ "limit": 1001 })),
    ] {
        let shown: String = payload.to_string().chars().take(60).collect();
        assert!(counter.handle(handler, payload).unwrap().is_err(), "{handler} {shown}");
    }
    assert_eq!(counter.store().entries().count(), 0);
}

fn send(caller: &mut Capsule, handler: &str, message: Value) -> Value {
    caller.as_principal("alice").handle(handler, message).unwrap().unwrap()
}

#[test]
fn requests_reach_the_responders_of_the_test_as_the_calls_principal() {
    let mut caller = guest("caller");
    caller.on_request("echo.v1.*", |message| Ok(message.payload.clone()));
    let request = json!({ "topic": "echo.v1.say", "payload": 7, "target": "bob", "timeout_ms": 250 });
    assert_eq!(send(&mut caller, "request", request), json!({ "answer": 7 }));
    let sent = &caller.requested()[0];
    assert_eq!((sent.principal.as_str(), sent.sender.as_str()), ("alice", "caller"));
    assert_eq!((sent.target.as_deref(), sent.remaining_ms, &sent.payload[..]), (Some("bob"), 250, &b"7"[..]));
    send(&mut caller, "request", json!({ "topic": "echo.v1.say", "payload": 7 }));
    assert_eq!(u64::from(caller.requested()[1].remaining_ms), caller.manifest().limits.timeout_ms);
}

#[test]
fn every_failure_of_a_request_can_be_met() {
    let mut caller = guest("caller");
    let ask = |caller: &mut Capsule, topic: &str| {
        send(caller, "request", json!({ "topic": topic, "payload": null }))["failure"]["name"].clone()
    };
    assert_eq!(ask(&mut caller, "echo.v1.say"), "no-responder");
    assert_eq!(ask(&mut caller, "system.v1.status"), "denied");
    assert_eq!(ask(&mut caller, "echo..say"), "invalid");
    for (failure, name) in [
        (Failure::Timeout, "timeout"),
        (Failure::Overloaded(5), "overloaded"),
        (Failure::TooLarge(5), "too-large"),
        (Failure::Trapped, "trapped"),
    ] {
        caller.on_request("echo.v1.say", move |_| Err(failure.clone()));
        assert_eq!(ask(&mut caller, "echo.v1.say"), name);
    }
    let topics: Vec<_> = caller.requested().iter().map(|m| m.topic.as_str()).collect();
    assert_eq!(topics, ["echo.v1.say"; 5], "what is not allowed is not sent");
}

#[test]
fn publications_are_recorded_and_delivered_to_as_many_as_the_test_says() {
    let mut caller = guest("caller");
    let publish = json!({ "topic": "nobody.v1.news", "payload": "x" });
    assert_eq!(send(&mut caller, "publish", publish.clone()), json!({ "delivered": 0 }));
    caller.set_delivered(3);
    assert_eq!(send(&mut caller, "publish", publish), json!({ "delivered": 3 }));
    let denied = send(&mut caller, "publish", json!({ "topic": "system.v1.x", "payload": "x" }));
    assert_eq!(denied["failure"]["name"], "denied");
    assert_eq!(caller.published().len(), 2);
    assert_eq!((caller.published()[0].principal.as_str(), caller.published()[0].remaining_ms), ("alice", 0));
}

#[test]
fn a_trap_says_what_the_guest_said_and_leaves_the_capsule_usable() {
    let mut trap = guest("trap");
    for _ in 0..2 {
        match trap.as_principal("alice").handle("panic", json!({})) {
            Err(CallError::Trapped(text)) => assert!(text.contains("asked to by alice"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    for handler in ["abort", "exit"] {
        assert!(matches!(trap.handle(handler, json!({})), Err(CallError::Trapped(_))), "{handler}");
    }
}

#[test]
fn a_front_end_sees_the_request_as_it_was_written() {
    let mut front = guest("front");
    let request = Request::new("POST", "/front/echo?a=b").header("X-Test", "1").json(json!([1])).from_unix(7);
    let response = front.http(request).unwrap();
    assert_eq!((response.status, response.header("Content-Type")), (200, Some("application/json")));
    let seen = response.json();
    assert_eq!(
        (&seen["method"], &seen["path"], &seen["query"]),
        (&json!("POST"), &json!("/front/echo"), &json!("a=b"))
    );
    assert_eq!(seen["headers"], json!([["x-test", "1"], ["content-type", "application/json"]]));
    assert_eq!((&seen["body"], &seen["unix_uid"], &seen["address"]), (&json!("[1]"), &json!(7), &json!(null)));
}

#[test]
fn the_clock_stands_still_until_the_test_moves_it() {
    let mut echo = echo();
    assert_eq!(echo.time(), DEFAULT_TIME);
    echo.advance(5);
    assert_eq!(echo.time(), DEFAULT_TIME + 5);
    echo.set_time(0);
    assert_eq!(echo.time(), 0);
}

#[test]
fn a_capsule_finds_the_values_of_its_caller_over_the_manifests_defaults() {
    let mut env = guest("env");
    env.set_env("alice", "KEY", "sk-1");
    env.set_env("alice", "LIMIT", "7");
    let mut get = |principal: &str, name: &str| {
        env.as_principal(principal)
            .handle("get", json!({ "name": name }))
            .unwrap()
            .map(|answer| answer["value"].clone())
    };
    assert_eq!((get("alice", "KEY"), get("alice", "LIMIT")), (Ok(json!("sk-1")), Ok(json!("7"))));
    for other in ["bob", "default", "anonymous"] {
        assert_eq!((get(other, "KEY"), get(other, "LIMIT")), (Ok(Value::Null), Ok(json!("3"))), "{other}");
    }
    assert_eq!(get("alice", "NONE").unwrap_err().code, RefusalCode::Internal);

    let listed = env.as_principal("alice").handle("list", json!({})).unwrap().unwrap();
    assert_eq!(listed["fields"], json!([["KEY", true], ["LIMIT", true], ["LOUD", false], ["MODEL", false]]));
    let missing = env.as_principal("bob").handle("require", json!({ "name": "KEY" })).unwrap().unwrap_err();
    assert!(missing.code == RefusalCode::Invalid && missing.reason.contains("KEY"), "{}", missing.reason);
}

#[test]
#[should_panic(expected = "true or false")]
fn a_value_that_a_host_would_refuse_can_not_be_set() {
    guest("env").set_env("alice", "LOUD", "yes");
}

#[test]
fn a_capsule_can_ask_what_it_and_its_caller_hold() {
    let mut env = guest("env");
    env.grant("alice", "self:notes:*");
    env.grant("alice", "bus:request");
    let held = env.as_principal("alice").handle("held", json!({})).unwrap().unwrap();
    assert_eq!(held, json!({ "capabilities": ["bus:request", "self:notes:*"], "grants": ["bus:send:echo:v1:say"] }));
    let mut holds = |capability: &str, target: Option<&str>| {
        env.as_principal("alice")
            .handle("holds", json!({ "capability": capability, "target": target }))
            .unwrap()
            .unwrap()
    };
    assert_eq!(holds("notes:add", Some("alice")), true);
    assert_eq!(holds("notes:add", None), false);
    assert_eq!(holds("bus:*", None), false);
}

#[test]
fn whoever_reads_pieces_gets_them_in_order_with_the_last_and_whoever_does_not_is_told() {
    let mut streamer = guest("streamer");
    let read = streamer.as_principal("alice").stream("count", json!({ "pieces": 3, "bytes": 8 })).unwrap();
    assert_eq!(read.pieces, [b"00000000", b"00000001", b"00000002"]);
    assert_eq!(read.end, Ok(()));
    let whole = streamer.handle("endless", json!({})).unwrap().unwrap();
    assert_eq!(whole["sent"], 0);
    let refused = streamer.as_principal("alice").stream("count", json!({})).unwrap();
    assert!(refused.pieces.is_empty() && refused.end.unwrap_err().code == RefusalCode::Invalid);
}

#[test]
fn a_responder_answers_in_pieces_and_its_failure_comes_after_them() {
    let mut streamer = guest("streamer");
    streamer.on_request_stream("streamer.v1.count", |message| {
        assert!(message.streams);
        (vec![b"a".to_vec(), b"b".to_vec()], Ok(b"c".to_vec()))
    });
    let ask = json!({ "topic": "streamer.v1.count", "payload": null });
    let relayed = streamer.as_principal("alice").stream("relay", &ask).unwrap();
    assert_eq!((relayed.pieces, relayed.end), (vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()], Ok(())));
    streamer.on_request_stream("streamer.v1.count", |_| (vec![b"a".to_vec()], Err(Failure::Trapped)));
    let collected = streamer.handle("collect", &ask).unwrap().unwrap();
    assert_eq!(collected["heads"], json!(["a"]));
    assert!(collected["end"].as_str().unwrap().contains("Trapped"));
    streamer.on_request("streamer.v1.count", |_| Ok(b"one".to_vec()));
    assert_eq!(streamer.handle("collect", &ask).unwrap().unwrap()["heads"], json!(["one"]));
}

#[test]
fn what_arrives_for_a_subscription_comes_in_order_with_its_gaps_and_nobody_elses() {
    let mut streamer = guest("streamer");
    let numbered = |n: u64| json!({ "n": n, "pad": "" });
    streamer.arrive("streamer.lossy.a", "alice", numbered(1));
    streamer.arrive("streamer.lossy.a", "bob", numbered(2));
    streamer.arrive_gap("streamer.lossy.a", "alice", 7);
    streamer.arrive("streamer.lossy.b", "alice", numbered(3));
    streamer.arrive("streamer.latest.a", "alice", numbered(4));
    let hear = json!({ "subscribe": ["streamer.lossy.*"], "events": 9 });
    let heard = streamer.as_principal("alice").handle("hear", &hear).unwrap().unwrap();
    let of = |topic: &str, n: u64| json!({ "topic": topic, "of": "alice", "caller": "alice", "payload": n });
    let gap = json!({ "gap": 7, "of": "alice" });
    assert_eq!(heard, json!([of("streamer.lossy.a", 1), gap, of("streamer.lossy.b", 3)]));
}

#[test]
fn a_run_loop_reads_what_everybody_sent_acts_for_them_and_ends_with_its_subscription() {
    let mut pump = guest("pump");
    pump.on_request("pump.v1.add", |_| Ok(b"{}".to_vec()));
    pump.arrive("pump.v1.work", "alice", json!({ "number": 1 }));
    pump.arrive_gap("pump.v1.work", "bob", 2);
    pump.arrive("pump.v1.work", "bob", json!({ "number": 3 }));
    assert_eq!(pump.run_loop().unwrap(), Ran { ready: true, end: Ok(()) });
    let asked: Vec<(&str, Value)> = pump
        .requested()
        .iter()
        .map(|message| (&*message.principal, serde_json::from_slice(&message.payload).unwrap()))
        .collect();
    let add = |number: u64, served: u64| json!({ "number": number, "served": served });
    assert_eq!(asked, [("alice", add(1, 1)), ("bob", add(3, 2))]);
    assert!(matches!(echo().run_loop(), Err(CallError::NoExport("astrid:capsule/run-loop"))));
}

#[test]
fn what_a_run_has_not_taken_waits_for_the_next_and_how_it_ended_is_told() {
    let mut pump = guest("pump");
    for (number, act) in [(1, "trap"), (2, "return"), (3, "")] {
        pump.arrive("pump.v1.work", "alice", json!({ "number": number, "act": act }));
    }
    let died = pump.run_loop().unwrap_err();
    assert!(matches!(&died, CallError::Trapped(why) if why.contains("told to trap")), "{died}");
    assert_eq!(pump.run_loop().unwrap(), Ran { ready: true, end: Err("told to return".into()) });
    assert!(pump.requested().is_empty());
    pump.run_loop().unwrap().end.unwrap();
    assert_eq!(pump.requested().len(), 1);
    let path = astrid_sdk_test::packed("pump").unwrap_or_else(|error| panic!("{error}"));
    let Archive { manifest, mut component, .. } = Archive::read(File::open(path).unwrap()).unwrap();
    let place = component.windows(10).position(|w| w == b"mode=serve").unwrap();
    component[place..place + 10].copy_from_slice(b"mode=never");
    let mut never = Capsule::from_component(manifest, &component).unwrap();
    assert_eq!(never.run_loop().unwrap(), Ran { ready: false, end: Ok(()) });
}

#[test]
fn a_value_is_held_to_the_types_that_are_packed() {
    let system = guest("system");
    system.fits("nothing", json!({})).unwrap();
    system.fits("host.status", json!([])).unwrap_err();
    let misfit = system.fits("host.settings", json!({ "settings": [{ "key": 1 }] })).unwrap_err();
    assert!(misfit.contains("/settings/0"), "{misfit}");
}

#[test]
fn topics_that_no_host_would_open_are_refused_in_its_words() {
    let mut streamer = guest("streamer");
    for (topics, why) in [
        (vec!["streamer.lossy.*"; 2], "named twice"),
        (vec!["streamer.lossy.*", "streamer.latest.*"], "another delivery"),
        (vec!["streamer.lossy.a"], "no [[subscribe]]"),
        (vec![], "1 to 16 topics"),
    ] {
        let body = json!({ "subscribe": topics, "publish": [], "bytes": 0 });
        let answer = streamer.handle("reflect", &body).unwrap().unwrap();
        assert!(answer["failure"].as_str().unwrap().contains(why), "{answer}");
    }
}

#[test]
fn a_relay_is_asked_for_the_bytes_of_events_and_dies_alone() {
    let mut live = guest("live");
    let said = |payload: &str| Event::message("alice", "live.v1.said", payload);
    let output = live.as_principal("alice").relay(b"", &[said("1"), Event::Idle, Event::End(None)]).unwrap();
    let text = String::from_utf8(output.body).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!((names, output.last), (vec!["message", "idle", "end"], false));
    assert!(live.relay(b"last", &[Event::Piece(b"2".to_vec())]).unwrap().last);
    let died = live.relay(b"trap", &[said("3")]).unwrap_err();
    assert!(matches!(died, CallError::Trapped(_)), "{died}");
    assert!(matches!(echo().relay(b"", &[Event::Idle]), Err(CallError::NoExport("astrid:http/relay"))));
}

/// The fickle guest, in which this goes wrong, with these probes.
fn fickle(mode: &str, probes: Value) -> Capsule {
    let path = astrid_sdk_test::packed("fickle").unwrap_or_else(|error| panic!("{error}"));
    let mut archive = Archive::read(File::open(path).unwrap()).unwrap();
    archive.manifest.probe = serde_json::from_value(probes).unwrap();
    let (from, to) = (b"fickle is well", format!("fickle is {mode}"));
    let place = archive.component.windows(from.len()).position(|w| w == from).unwrap();
    archive.component[place..place + from.len()].copy_from_slice(to.as_bytes());
    Capsule::from_component(archive.manifest, &archive.component).unwrap()
}

#[test]
fn a_hook_writes_with_its_transaction_or_not_at_all() {
    let kept = |key: &str| Slot::new("kept", Owner::Capsule, key);
    let mut well = fickle("well", json!([]));
    well.install().unwrap().unwrap();
    assert_eq!(well.store().get(&kept("phase")).unwrap().value, b"install");
    assert!(well.store().get(&kept("beside")).is_none(), "what it wrote beside its transaction");
    well.upgrade("1.0.0").unwrap().unwrap();
    assert_eq!(well.store().get(&kept("phase")).unwrap().value, b"upgrade from 1.0.0");
    assert_eq!(well.store().get(&kept("hooks")).unwrap().value, b"2");
    let mut deny = fickle("deny", json!([]));
    assert!(deny.install().unwrap().unwrap_err().contains("does not want"));
    let mut dies = fickle("dies", json!([]));
    assert!(matches!(dies.install(), Err(CallError::Trapped(_))));
    assert_eq!((deny.store().entries().count(), dies.store().entries().count()), (0, 0));
    assert!(matches!(echo().install(), Err(CallError::NoExport("astrid:capsule/installation"))));
}

#[test]
fn health_and_probes_are_asked_in_a_rehearsal() {
    let probes = json!([
        { "topic": "fickle.v1.say", "payload": { "text": "x" }, "answer": { "text": "x" } },
        { "topic": "fickle.v1.say", "payload": { "words": 1 }, "expect": "invalid" },
        { "topic": "fickle.v1.write" },
        { "path": "/fickle/a", "answer": { "text": "/fickle/a" } },
    ]);
    let mut well = fickle("well", probes.clone());
    well.check_health().unwrap().unwrap();
    well.probe().unwrap().unwrap();
    assert_eq!((well.store().entries().count(), well.published().len()), (0, 0));
    assert!(fickle("sick", json!([])).check_health().unwrap().unwrap_err().contains("sick"));
    let why = fickle("lies", probes.clone()).probe().unwrap().unwrap_err();
    assert!(why.contains("fickle.v1.say") && why.contains("/text"), "{why}");
    let why = fickle("oops", probes.clone()).probe().unwrap().unwrap_err();
    assert!(why.contains("this version fails"), "{why}");
    assert!(matches!(fickle("trap", probes).probe(), Err(CallError::Trapped(_))));
    let why = fickle("oops", json!([{ "path": "/fickle" }])).probe().unwrap().unwrap_err();
    assert!(why.contains("answered with 500, not 200"), "{why}");
    assert!(matches!(echo().check_health(), Err(CallError::NoExport("astrid:capsule/health"))));
}

#[test]
fn what_a_run_loop_carries_over_is_where_the_next_one_goes_on() {
    let mut tally = guest("tally");
    tally.on_request("tally.v1.keep", |_| Ok(b"{}".to_vec()));
    let come = |tally: &mut Capsule, number: u64| tally.arrive("tally.v1.come", "alice", json!({ "number": number }));
    come(&mut tally, 1);
    come(&mut tally, 2);
    let state = tally.hand_over(None).unwrap().unwrap();
    assert_eq!((state.schema, &*state.bytes), (1, &b"2"[..]));
    come(&mut tally, 3);
    assert_eq!(tally.hand_over(Some(&state)).unwrap().unwrap().bytes, b"3");
    let kept: Vec<Value> =
        tally.requested().iter().map(|message| serde_json::from_slice(&message.payload).unwrap()).collect();
    assert_eq!(kept, [json!([1, 1]), json!([2, 2]), json!([3, 3])]);
    let strange = Snapshot { schema: 9, bytes: Vec::new() };
    assert_eq!(tally.hand_over(Some(&strange)).unwrap().unwrap_err(), "no schema 9 here");
    assert!(matches!(guest("pump").hand_over(None), Err(CallError::NoExport("astrid:capsule/state"))));
}

#[test]
fn a_place_outside_takes_what_it_is_given_and_fails_when_it_is_told_to() {
    let mut reader = guest("reader");
    reader.sinks().taken.insert("siem".into(), vec![]);
    let deliver = |to: &str| json!({ "to": to, "entries": ["one", "two"], "wait_ms": 0 });
    assert_eq!(reader.handle("deliver", deliver("siem")).unwrap().unwrap(), "arrived");
    reader.sinks().failing = Some("away".into());
    let failed = reader.handle("deliver", deliver("siem")).unwrap().unwrap();
    assert!(failed.as_str().unwrap().contains("away"), "{failed}");
    assert_eq!(reader.sinks().taken["siem"], [b"one".to_vec(), b"two".to_vec()]);
    let refusal = reader.handle("deliver", deliver("elsewhere")).unwrap().unwrap_err();
    assert!(refusal.reason.contains("NotFound"), "{refusal:?}");
}
