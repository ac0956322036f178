//! What takes a version back: its callers, an operator, a start that fails.

use super::*;

/// Makes this call again and again until it is answered with 200; how often it was not.
async fn failures(daemon: &Daemon, requests: &[Request]) -> usize {
    let mut failed = 0;
    for request in requests.iter().cycle() {
        if daemon.tcp(request.clone()).await.status == 200 {
            return failed;
        }
        failed += 1;
        assert!(failed < FAILURES, "it is never taken back");
    }
    unreachable!("requests go round")
}

#[tokio::test]
async fn a_version_that_fails_its_callers_gives_way_by_itself_after_a_few_calls() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let calls = [say("x").bearer(&ada.bearer), say("x").bearer(&bob.bearer)];
    let pages = [Request::get("/fickle/page")];
    for (n, (mode, requests)) in
        [("trap", &calls[..]), ("hang", &calls[..]), ("leak", &calls[..]), ("oops", &calls[..]), ("oops", &pages[..])]
            .into_iter()
            .enumerate()
    {
        let number = format!("2.0.{n}");
        install(&daemon, &changed(&home, &number, mode, |manifest| manifest.limits.timeout_ms = 500));
        let failed = failures(&daemon, requests).await;
        assert!(failed >= 5, "{mode}: taken back after {failed}");
        // The record follows.
        let started = Instant::now();
        let why = loop {
            match last(&daemon).await {
                (what, version, Some(why)) if (what.as_str(), version.as_str()) == ("rolled-back", "1.0.0") => {
                    break why;
                }
                step => assert!(started.elapsed() < DEADLINE, "{mode}: {step:?}"),
            }
        };
        assert!(why.contains("budget of errors"), "{mode}: {why}");
        assert_eq!(live(&daemon).await, "1.0.0", "{mode}");
    }
    assert_eq!(sum(&metrics(&daemon).await, "astrid_capsule_rollbacks_total", &[("capsule", "fickle")]), 5.0);
    assert!(daemon.stderr().contains("rolled back: it used up its budget of errors"), "it is logged");
    assert_eq!(daemon.stop().code, Some(0));
    assert_eq!(live(&home.start()).await, "1.0.0");
}

#[tokio::test]
async fn whoever_makes_their_own_calls_fail_takes_nothing_back_from_the_others() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    install(&daemon, &made(&home, "2.0.0", "well"));
    daemon.tcp(say("x").bearer(&ada.bearer)).await.expect(200);
    for _ in 0..30 {
        daemon.tcp(say("poison").bearer(&bob.bearer)).await.refusal(502, "unavailable");
    }
    assert_eq!(live(&daemon).await, "2.0.0");
    assert_eq!(last(&daemon).await, step("upgraded", "2.0.0"));
}

#[tokio::test]
async fn an_operator_goes_back_and_forth_and_deletes_what_nobody_needs() {
    let home = Home::new();
    let daemon = home.start();
    let change = |verb: &str| daemon.astrid(&["--json", "capsule", verb, "fickle"]).json();
    daemon.astrid(&["capsule", "rollback", "fickle"]).refusal(1);
    let hash = |done: Value| done["wasm_hash"].as_str().unwrap().to_owned();
    let mut hashes = Vec::new();
    for (number, mode) in [("1.0.0", "trap"), ("2.0.0", "well"), ("3.0.0", "once")] {
        hashes.push(hash(install(&daemon, &made(&home, number, mode))));
        if hashes.len() == 1 {
            let said = daemon.astrid(&["capsule", "rollback", "fickle"]);
            assert!(said.refusal(1).contains("no version before"), "{said:?}");
        }
    }
    let bin = || -> BTreeSet<String> {
        let files = fs::read_dir(home.path().join("bin")).unwrap();
        files.map(|file| file.unwrap().file_name().to_string_lossy().split('.').next().unwrap().to_owned()).collect()
    };
    assert!(hashes.iter().all(|hash| bin().contains(hash)));
    let gone = daemon.astrid(&["--json", "capsule", "gc"]).json();
    assert_eq!(gone["files"], 2, "the first component and its compiled code: {gone}");
    assert!(!bin().contains(&hashes[0]) && bin().contains(&hashes[1]) && bin().contains(&hashes[2]));

    assert_eq!(change("rollback")["version"], "2.0.0");
    // Not the same again, but another generation of it: what to go back to stays.
    assert_eq!(change("swap")["version"], "2.0.0");
    let done = install(&daemon, &made(&home, "2.0.0", "well"));
    assert_eq!(done["previous_version"], "2.0.0");
    let shown = daemon.astrid(&["capsule", "history", "fickle"]);
    assert!(shown.out().contains("rolled-back") && shown.out().contains("swapped"), "{shown:?}");
    assert_eq!(
        history(&daemon, "fickle")
            .await
            .into_iter()
            .map(|(what, version, _)| what + " " + &version)
            .collect::<Vec<_>>(),
        ["installed 1.0.0", "upgraded 2.0.0", "upgraded 3.0.0", "rolled-back 2.0.0", "swapped 2.0.0", "upgraded 2.0.0"]
    );
    // It starts once, and has.
    let said = daemon.astrid(&["capsule", "rollback", "fickle"]);
    assert!(said.refusal(1).contains("starts once"), "{said:?}");
    assert_eq!(live(&daemon).await, "2.0.0");
}

#[tokio::test]
async fn a_version_that_does_not_start_with_the_host_gives_way_to_the_one_before() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    install(&daemon, &made(&home, "2.0.0", "once"));
    assert_eq!(live(&daemon).await, "2.0.0");
    let mut daemon = daemon;
    for _ in 0..2 {
        assert_eq!(daemon.stop().code, Some(0));
        daemon = home.start();
        assert_eq!(live(&daemon).await, "1.0.0");
        let (what, version, why) = last(&daemon).await;
        assert_eq!((what.as_str(), version.as_str()), ("rolled-back", "1.0.0"));
        assert!(why.unwrap().contains("this version starts once"));
        assert_well(&daemon).await;
    }
}
