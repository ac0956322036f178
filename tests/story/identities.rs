//! Another identity in the place of the first-party one: the host and the gateway stay as they are.

use std::fs;
use std::path::PathBuf;

use astrid_tests::daemon::Home;
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::json;

use crate::{assert_well, bus, join};

const KEY: &str = "key-of-the-robot.0123456789";

/// The default distribution, but for its identity: the guest `api-key` under that name.
fn distribution(home: &Home) -> PathBuf {
    let folder = home.beside().join("keyed/distro");
    home.fill(&folder);
    pack::repacked(&folder, "identity", "api-key", |manifest| {
        manifest.package.name = "identity".into();
        manifest.package.version = "0.2.0".parse().expect("a version");
    });
    let path = folder.join("Distro.toml");
    let text = fs::read_to_string(&path).expect("it was put there");
    let ours = "grants = [\"authority:authenticator\", \"authority:registrar\", \"keys:session\"]\n";
    let theirs = "grants = [\"authority:authenticator\", \"authority:registrar\"]\nenv = { API_KEY = \"{{ key }}\" }\n";
    assert!(text.contains(ours), "{text}");
    fs::write(&path, text.replace(ours, theirs) + "\n[variables.key]\nsecret = true\n").expect("its owner may");
    folder
}

#[tokio::test]
async fn an_identity_that_knows_one_api_key_takes_the_place_of_ours_and_gives_it_back_while_the_host_runs() {
    let home = Home::new();
    let daemon = home.start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let folder = distribution(&home);
    let apply = |key: Option<&str>| {
        let mut arguments = vec!["--json", "distro", "apply", folder.to_str().expect("text")];
        let given = key.map(|key| format!("key={key}"));
        arguments.extend(given.iter().flat_map(|given| ["--var", given]));
        daemon.astrid(&arguments)
    };
    let me = || Request::get("/api/auth/me");

    // What can't begin changes nothing: the identity that is there still knows everybody.
    let without = apply(None);
    assert!(without.refusal(1).contains("env.API_KEY: variable `key` has no value"), "{without:?}");
    let short = apply(Some("short"));
    assert!(short.code == Some(1) && short.stdout.contains("API_KEY must be 16 to 256"), "{short:?}");
    assert_well(&daemon).await;
    daemon.tcp(me().bearer(&ada.bearer)).await.expect(200);

    let swapped = apply(Some(KEY)).json();
    assert_eq!(swapped["capsules"][0]["what"], "upgraded", "{swapped}");
    let robot = daemon.tcp(me().bearer(KEY)).await.expect(200);
    let held = json!(["bus:request", "capsule:*", "system:status"]);
    assert_eq!((&robot["principal"], &robot["groups"], &robot["capabilities"]), (&json!("robot"), &json!([]), &held));
    let status = daemon.tcp(Request::get("/api/sys/status").bearer(KEY)).await.expect(200);
    assert!(status["connections_by_principal"]["robot"].as_u64() >= Some(1), "{status}");
    let denied = daemon.tcp(Request::get("/api/sys/logs").bearer(KEY)).await.refusal(403, "forbidden");
    assert!(denied.contains("system:logs"), "{denied}");

    // Nobody else is anybody, whatever they were before.
    let wrong = KEY.replace('9', "8");
    for request in
        [me(), me().bearer(&ada.bearer), me().bearer(&wrong), me().bearer("k"), me().header("authorization", KEY)]
    {
        assert_eq!(daemon.tcp(request).await.refusal(401, "unauthorized"), "");
    }
    assert_eq!(daemon.unix(me()).await.refusal(401, "unauthorized"), "");

    // What it does not serve is said to be missing: to whoever holds the key, and to strangers.
    let missing = daemon.tcp(Request::get("/api/sys/principals").bearer(KEY)).await.refusal(502, "unavailable");
    assert!(missing.contains("identity.v1.principal.list"), "{missing}");
    let redemption = json!({ "token": "t", "public_key": "k" });
    let missing = daemon.tcp(Request::post("/api/auth/redeem", &redemption)).await.refusal(502, "unavailable");
    assert!(missing.contains("identity.v1.invite.redeem"), "{missing}");
    let named = daemon.tcp(bus("identity.v1.principal.list", &json!({})).bearer(KEY)).await;
    assert!(named.refusal(404, "not_found").contains("identity.v1.principal.list"), "{named:?}");

    let back = daemon.astrid(&["--bearer", KEY, "--json", "capsule", "rollback", "identity"]).json();
    assert_eq!((&back["version"], &back["previous_version"]), (&json!("0.1.0"), &json!("0.2.0")));
    daemon.tcp(me().bearer(&ada.bearer)).await.expect(200);
    assert_eq!(daemon.tcp(me().bearer(KEY)).await.refusal(401, "unauthorized"), "", "the key is worth nothing here");
    assert_well(&daemon).await;
    daemon.stop().out();
    let daemon = home.start();
    assert_eq!(daemon.tcp(me().bearer(&ada.bearer)).await.expect(200)["principal"], "ada");
    assert_well(&daemon).await;
}
