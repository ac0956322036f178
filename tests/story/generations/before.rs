//! What a version must show before it goes live.

use super::*;

#[tokio::test]
async fn hooks_run_once_for_each_installation_and_what_they_write_lasts_only_with_it() {
    let home = Home::new();
    let daemon = home.start();
    for mode in ["deny", "dies", "stop", "sick"] {
        refused(&daemon, &made(&home, "1.0.0", mode), &[]);
    }
    install(&daemon, &made(&home, "1.0.0", "well"));
    let first = json!({ "hooks": "1", "phase": "install" });
    assert_eq!(kept(&daemon).await, first, "what the hook wrote, and nothing of what it wrote beside its transaction");

    for (mode, reason) in [
        ("deny", "this version does not want to be installed"),
        ("dies", "installation hook failed: trapped"),
        ("stop", "this version does not start"),
        ("sick", "this version is sick"),
    ] {
        let said = refused(&daemon, &made(&home, "2.0.0", mode), &[]);
        assert!(said.contains(reason) && said.contains("fickle"), "{mode}: {said}");
        assert_eq!((live(&daemon).await, kept(&daemon).await), ("1.0.0".into(), first.clone()), "{mode}");
    }
    let lies = changed(&home, "2.0.0", "lies", |manifest| {
        manifest.probe.push(probe(json!({
            "topic": "fickle.v1.say", "payload": { "text": "x" }, "answer": { "text": "x" }
        })));
    });
    let said = refused(&daemon, &lies, &[]);
    assert!(said.contains("fickle.v1.say") && said.contains("/text"), "{said}");
    assert_eq!((live(&daemon).await, kept(&daemon).await), ("1.0.0".into(), first));

    install(&daemon, &made(&home, "2.0.0", "well"));
    let second = json!({ "hooks": "2", "phase": "upgrade from 1.0.0" });
    assert_eq!((live(&daemon).await, kept(&daemon).await), ("2.0.0".into(), second.clone()));
    assert_eq!(history(&daemon, "fickle").await, [step("installed", "1.0.0"), step("upgraded", "2.0.0")]);
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    assert_eq!((live(&daemon).await, kept(&daemon).await), ("2.0.0".into(), second));
}

#[tokio::test]
async fn what_a_version_has_promised_holds_for_the_next_and_a_rehearsal_leaves_no_trace() {
    let home = Home::new();
    let daemon = home.start();
    let promising = changed(&home, "1.0.0", "well", |manifest| {
        manifest.probe = [
            json!({ "topic": "fickle.v1.say", "payload": { "text": "x" }, "answer": { "text": "x" } }),
            json!({ "topic": "fickle.v1.say", "payload": { "words": 1 }, "expect": "invalid" }),
            json!({ "topic": "fickle.v1.write" }),
            json!({ "path": "/fickle/a", "status": 200, "answer": { "text": "/fickle/a" } }),
        ]
        .map(probe)
        .to_vec();
    });
    install(&daemon, &promising);
    let first = json!({ "hooks": "1", "phase": "install" });
    assert_eq!(kept(&daemon).await, first);
    // None of these promises anything itself.
    for (mode, reason) in [
        ("lies", "something else at /text"),
        ("oops", "Internal: this version fails"),
        ("trap", "fails: trapped"),
        ("leak", "fails: trapped"),
    ] {
        let said = refused(&daemon, &made(&home, "2.0.0", mode), &[]);
        assert!(said.contains("fickle.v1.say") && said.contains(reason), "{mode}: {said}");
    }
    let slow = changed(&home, "2.0.0", "hang", |manifest| manifest.limits.timeout_ms = 200);
    let said = refused(&daemon, &slow, &[]);
    assert!(said.contains("fickle.v1.say") && said.contains("fails: "), "{said}");
    assert_eq!((live(&daemon).await, kept(&daemon).await), ("1.0.0".into(), first));
    // The same, not in a rehearsal.
    daemon.unix(bus("fickle.v1.write", &json!({}))).await.expect(200);
    assert_eq!(kept(&daemon).await["writes"], "1");
    // What is not served any more is not asked for.
    let narrow = changed(&home, "2.0.0", "well", |manifest| {
        manifest.subscribe.retain(|bound| bound.topic.as_str() != "fickle.v1.write");
    });
    install(&daemon, &narrow);
    assert_eq!(live(&daemon).await, "2.0.0");
}

#[tokio::test]
async fn whoever_asks_for_more_waits_for_consent_and_whoever_asks_for_no_more_needs_none() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    let done = install_with(&daemon, &made(&home, "1.1.0", "well"), &[]);
    assert_eq!(done["grants"], json!(["http:mount"]), "granted before");
    let more = |version: &str| {
        changed(&home, version, "well", |manifest| {
            manifest.publish.push(serde_json::from_value(json!({ "topic": "echo.v1.say" })).unwrap());
        })
    };
    let asking = more("2.0.0");
    let said = refused(&daemon, &asking, &[]);
    assert!(said.contains("bus:send:echo:v1:say") && !said.contains("asks for http:mount"), "{said}");
    assert_eq!(live(&daemon).await, "1.1.0");
    let grant = Capability::parse("bus:send:echo:v1:say").unwrap();
    install_with(&daemon, &asking, &[grant.as_str()]);
    install_with(&daemon, &more("2.1.0"), &[]);
    // What is asked no more is not kept for later.
    install_with(&daemon, &made(&home, "3.0.0", "well"), &[]);
    let said = refused(&daemon, &more("4.0.0"), &[]);
    assert!(said.contains("bus:send:echo:v1:say"), "{said}");
    assert_eq!(live(&daemon).await, "3.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_is_compared_with_live_calls_whose_callers_never_notice() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    let connections = vec![daemon.connect_unix().await, daemon.connect_unix().await];
    let load = Load::start(connections, &say("x")).await;
    let arguments = |archive: &std::path::Path| {
        ["--json", "capsule", "install", archive.to_str().unwrap(), "--shadow", "20"].map(str::to_owned)
    };
    let same = arguments(&made(&home, "2.0.0", "well"));
    let done = daemon.astrid(&same.each_ref().map(String::as_str)).json();
    assert_eq!((&done["shadowed"], &done["installed_version"]), (&json!(20), &json!("2.0.0")), "{done}");
    for mode in ["lies", "trap"] {
        let said = refused(&daemon, &made(&home, "3.0.0", mode), &["--shadow", "20"]);
        assert!(said.contains("20 of 20 live calls were answered differently: fickle.v1.say"), "{said}");
        assert_eq!(live(&daemon).await, "2.0.0");
    }
    assert!(load.end().await > 60);
    // The same for what a front end answers.
    let page = Request::get("/fickle/page");
    let load = Load::start(vec![daemon.connect().await, daemon.connect().await], &page).await;
    let said = refused(&daemon, &made(&home, "3.0.0", "oops"), &["--shadow", "10"]);
    assert!(said.contains("10 of 10 live calls were answered differently: /fickle/page: 200 became 500"), "{said}");
    load.end().await;

    // Whoever waits for calls holds nobody up.
    let waiting = arguments(&made(&home, "4.0.0", "well"));
    let shadowing = {
        let home = home.clone();
        thread::spawn(move || home.astrid(&waiting.each_ref().map(String::as_str)))
    };
    until_generations(&daemon, "fickle", 2.0).await;
    install_guests(&daemon, &["echo"]);
    assert_eq!(version(&daemon, "fickle").await, "2.0.0");
    while !shadowing.is_finished() {
        daemon.unix(say("x")).await.expect(200);
    }
    assert_eq!(shadowing.join().unwrap().json()["shadowed"], 20);
    assert_eq!(live(&daemon).await, "4.0.0");
}
