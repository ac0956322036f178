//! What is removed, and what repairs a host whose gateway is broken.

use super::*;

#[tokio::test]
async fn what_is_removed_stays_removed_and_what_is_purged_leaves_nothing() {
    let home = Home::new();
    // As the distribution brings it.
    let described = changed(&home, "1.0.0", "well", |manifest| {
        manifest.env = serde_json::from_value(json!({ "WORD": { "type": "string" } })).expect("an environment");
    });
    let distro = home.path().join("distro");
    fs::copy(&described, distro.join("fickle.capsule")).unwrap();
    let mut text = fs::read_to_string(distro.join("Distro.toml")).unwrap();
    text += "\n[[capsule]]\nname = \"fickle\"\nsource = \"fickle.capsule\"\ngrants = [\"http:mount\"]\n";
    fs::write(distro.join("Distro.toml"), text).unwrap();
    let daemon = home.start();
    let ada = join(&daemon, "admin", "ada", 1).await;
    let held = async |daemon: &Daemon| {
        let usage = daemon.unix(Request::get("/api/sys/principals/ada/usage")).await.expect(200);
        usage["storage_bytes_used"].as_u64().unwrap_or_else(|| panic!("{usage}"))
    };
    daemon.tcp(bus("fickle.v1.write", &json!({})).bearer(&ada.bearer)).await.expect(200);
    assert!(held(&daemon).await > 1000);
    let set = Request::post("/api/capsules/fickle/env/WORD", &json!({ "value": "x" }));
    assert_eq!(daemon.unix(set).await.status, 204);
    let written = kept(&daemon).await;

    daemon.astrid(&["capsule", "remove", "fickle"]).out();
    daemon.unix(say("x")).await.refusal(404, "not_found");
    assert_eq!(daemon.stop().code, Some(0));
    let daemon = home.start();
    daemon.unix(Request::get("/api/capsules/fickle")).await.refusal(404, "not_found");
    assert_eq!(last(&daemon).await, step("removed", "1.0.0"));

    // What it has stored waits for it; the hook knows that it is installed anew.
    install(&daemon, &described);
    let again = kept(&daemon).await;
    assert_eq!((&again["writes"], &again["phase"]), (&written["writes"], &json!("install")), "{again}");
    let field = async |daemon: &Daemon| {
        let fields = daemon.unix(Request::get("/api/capsules/fickle/env")).await.expect(200);
        fields["fields"]["WORD"]["is_set"].clone()
    };
    assert_eq!(field(&daemon).await, true);

    daemon.astrid(&["capsule", "remove", "fickle", "--purge"]).out();
    assert_eq!(held(&daemon).await, 0);
    install(&daemon, &described);
    assert_eq!(kept(&daemon).await, json!({ "hooks": "1", "phase": "install" }));
    assert_eq!(field(&daemon).await, false);
    assert_well(&daemon).await;
}

/// A gateway that serves its mounts, and with everything but what it should.
#[track_caller]
fn broken_gateway(home: &Home, version: &str) -> PathBuf {
    let manifest = |mut manifest: Manifest| {
        manifest.package.version = version.parse().expect("a version");
        manifest
    };
    let component = pack::patched(&pack::read("fickle").component, "fickle is well", "fickle is oops");
    pack::write(home.beside(), &format!("gateway-{version}"), &manifest(pack::read("gateway").manifest), &component)
}

#[tokio::test]
async fn in_safe_mode_the_distribution_runs_and_a_broken_gateway_is_repaired() {
    let home = Home::new();
    let daemon = home.start();
    install_guests(&daemon, &["echo"]);
    assert_eq!(daemon.stop().code, Some(0));
    let newer = pack::repacked(home.beside(), "newer", "gateway", |manifest| manifest.package.version.patch = 9);
    for (number, (repair, repaired)) in [
        (vec!["capsule", "rollback", "gateway"], "0.1.0"),
        (vec!["capsule", "remove", "gateway"], "0.1.0"),
        (vec!["capsule", "install", newer.to_str().unwrap()], "0.1.9"),
    ]
    .into_iter()
    .enumerate()
    {
        let daemon = home.start();
        install(&daemon, &broken_gateway(&home, &format!("0.2.{number}")));
        daemon.astrid(&["capsule", "list"]).refusal(1);
        assert_eq!(daemon.stop().code, Some(0));
        let daemon = home.start();
        assert_eq!(daemon.unix(Request::get("/api/capsules")).await.status, 500, "it is broken after a restart, too");
        assert_eq!(daemon.stop().code, Some(0));

        let daemon = home.start_with(&["--safe-mode"]);
        assert_eq!(version(&daemon, "gateway").await, "0.1.0");
        daemon.unix(bus("echo.v1.say", &json!(1))).await.refusal(404, "not_found");
        assert!(daemon.stderr().contains("safe mode"), "it says so");
        daemon.astrid(&repair).out();
        assert_well(&daemon).await;
        assert_eq!(daemon.stop().code, Some(0));

        let daemon = home.start();
        assert_eq!(version(&daemon, "gateway").await, repaired, "{repair:?}");
        daemon.unix(bus("echo.v1.say", &json!(1))).await.expect(200);
        assert_well(&daemon).await;
        assert_eq!(daemon.stop().code, Some(0));
    }
    // What the distribution does not bring is repaired as well.
    let daemon = home.start_with(&["--safe-mode"]);
    daemon.astrid(&["capsule", "remove", "echo"]).out();
    assert_eq!(daemon.stop().code, Some(0));
    home.start().unix(bus("echo.v1.say", &json!(1))).await.refusal(404, "not_found");
}

/// The home's distribution in one file.
fn bundled(home: &Home) -> Vec<u8> {
    let folder = home.path().join("distro");
    let text = fs::read_to_string(folder.join("Distro.toml")).unwrap();
    let distro = Distro::parse(&text).unwrap();
    let locked = distro.capsule.iter().map(|entry| {
        let bytes = fs::read(folder.join(entry.file())).unwrap();
        Locked::of(&Archive::read(&bytes[..]).unwrap(), &bytes)
    });
    let (lock, mut bundle) = (Lock::new(&distro, locked.collect()), Vec::new());
    bundle::write(&distro, (&text, &lock), |path| fs::read(folder.join(path)), &mut bundle).unwrap();
    bundle
}

#[tokio::test]
async fn the_distribution_in_the_program_starts_in_safe_mode_whatever_has_become_of_the_one_beside_it() {
    let home = Home::new();
    let program = home.embedding(&bundled(&home));
    let daemon = home.start();
    install(&daemon, &broken_gateway(&home, "0.2.0"));
    assert_eq!(daemon.stop().code, Some(0));
    let file = home.path().join("distro/Distro.toml");
    let text = fs::read(&file).unwrap();
    fs::write(&file, "nothing that reads").unwrap();
    let ended = home.try_start(&["--safe-mode"]).err().expect("this program holds no distribution");
    assert!(ended.stderr.contains("Distro.toml"), "{ended:?}");

    // Nobody has to vouch for what is the program's own.
    let daemon = home.start_program(&program, &["--safe-mode", "--set", "trust.distro=require"]);
    assert!(daemon.stderr().contains("the distribution in this program"), "{}", daemon.stderr());
    assert_eq!(version(&daemon, "gateway").await, "0.1.0");
    assert_well(&daemon).await;
    daemon.astrid(&["capsule", "rollback", "gateway"]).out();
    assert_eq!(daemon.stop().code, Some(0));
    // Another time, and with another one named.
    assert_eq!(home.start_program(&program, &["--safe-mode"]).stop().code, Some(0));
    let named = home.path().join("distro");
    let ended = home.try_start_program(&program, &["--safe-mode", "--distro", named.to_str().unwrap()]).err();
    assert!(ended.is_some(), "what is named counts");

    fs::write(&file, text).unwrap();
    let daemon = home.start_program(&program, &[]);
    assert_eq!(version(&daemon, "gateway").await, "0.1.0");
    assert_well(&daemon).await;
}
