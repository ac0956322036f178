//! Homes that are made from a distribution: applied as a whole, pinned by its lock, told what the operator says, held to
//! its rules for invites.

use std::fs;
use std::path::{Path, PathBuf};

use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Connection, Request};
use astrid_tests::pack;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{assert_well, bus, invite, key, public_hex, redemption};

const SECRET: &str = "sk-hummingbird-1903";

/// Names a capsule that is told two variables, of which one is a secret.
const TELLS: &str = r#"
[variables.limit]
description = "How much"
[variables.key]
secret = true

[[capsule]]
name = "env"
source = "guests/env.capsule"
version = ">=0.1"
role = "guest"
grants = ["*"]
env = { LIMIT = "{{ limit }}", KEY = "{{ key }}", MODEL = "large" }
"#;

/// A folder beside the home with the default distribution, the capsule `env`, and more TOML behind that.
fn source(home: &Home, more: &str) -> PathBuf {
    let folder = home.beside().join("source/distro");
    home.fill(&folder);
    fs::create_dir_all(folder.join("guests")).unwrap();
    fs::copy(pack::packed("env"), folder.join("guests/env.capsule")).unwrap();
    let path = folder.join("Distro.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{more}")).unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A private file with the secret.
fn vars(home: &Home) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = home.beside().join("vars.toml");
    fs::write(&path, format!("key = \"{SECRET}\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

async fn told(daemon: &Daemon, field: &str) -> Value {
    daemon.unix(bus("env.v1.get", &json!({ "name": field }))).await.expect(200)["value"].clone()
}

fn what(answer: &Value) -> Vec<String> {
    let rows = answer["capsules"].as_array().unwrap().iter();
    rows.map(|row| format!("{} {}", row["name"].as_str().unwrap(), row["what"].as_str().unwrap())).collect()
}

/// Whether any file below the folder holds the text.
fn holds(folder: &Path, needle: &str) -> bool {
    fs::read_dir(folder).unwrap().map(Result::unwrap).any(|entry| {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            return holds(&path, needle);
        }
        entry.file_type().unwrap().is_file()
            && fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}

#[tokio::test]
async fn a_home_is_made_offline_and_its_capsules_are_told_what_the_operator_says() {
    let home = Home::absent();
    let (source, vars) = (source(&home, TELLS), vars(&home));
    let undefined = home.astrid(&["init", "--distro", text(&source), "--var", "limit=7"]);
    let undefined = undefined.refusal(1);
    assert!(undefined.contains("capsule env, env.KEY: variable `key` has no value"), "{undefined}");
    assert!(!home.path().join("distro/Distro.toml").exists(), "nothing is put there by halves");
    let misfit = ["init", "--distro", text(&source), "--vars", text(&vars), "--var", "limit=lots"];
    let misfit = home.astrid(&misfit);
    let misfit = misfit.refusal(1);
    assert!(misfit.contains("capsule env: env.LIMIT: the value must be a decimal number"), "{misfit}");
    let mistyped = home.astrid(&["init", "--distro", text(&source), "--var", "limti=7"]);
    assert!(mistyped.refusal(2).contains("did you mean `limit`?"));

    let init = ["--json", "init", "--distro", text(&source), "--vars", text(&vars), "--var", "limit=7"];
    let made = home.astrid(&init).json();
    let next = ["identity", "system", "audit", "gateway", "env"].map(|name| format!("{name} at-next-start"));
    assert_eq!((what(&made), &made["distro"]["id"]), (next.to_vec(), &json!("astrid")));
    assert_eq!(home.astrid(&init).json(), made, "again is the same");
    assert!(home.path().join("distro/Distro.lock").exists());

    let daemon = home.start();
    assert_well(&daemon).await;
    let doctor = daemon.astrid(&["--json", "doctor"]).json();
    let distribution = doctor["checks"].as_array().unwrap().iter().find(|row| row["check"] == "distribution").unwrap();
    assert_eq!(distribution["level"], "ok", "{doctor}");
    assert_eq!((told(&daemon, "LIMIT").await, told(&daemon, "MODEL").await), (json!("7"), json!("large")));
    // One's own value is the stronger one, and only one's own.
    let own = Request::post("/api/capsules/env/env/LIMIT", &json!({ "value": 9 }));
    assert_eq!(daemon.unix(own).await.status, 204);
    assert_eq!(told(&daemon, "LIMIT").await, "9");
    daemon.unix(Request::delete("/api/capsules/env/env/LIMIT")).await;
    assert_eq!(told(&daemon, "LIMIT").await, "7");
    let shown = daemon.astrid(&["--json", "distro", "show"]);
    assert!(shown.json()["capsules"].as_array().unwrap().iter().all(|row| row["drift"].is_null()), "{shown:?}");
    assert_eq!(shown.json()["variables"][0], json!({ "name": "key", "secret": true, "defined": true }));
    assert!(
        !holds(&home.path(), SECRET) && !format!("{shown:?}").contains(SECRET),
        "a secret is sealed wherever it is"
    );
    let running = daemon.astrid(&["init", "--distro", text(&source)]);
    assert!(running.refusal(1).contains("a host serves this home already"));
}

#[tokio::test]
async fn applying_twice_is_applying_once_and_a_new_value_needs_no_new_generation() {
    let home = Home::new();
    let daemon = home.start();
    let (source, vars) = (source(&home, TELLS), vars(&home));
    let apply = ["--json", "distro", "apply", text(&source), "--vars", text(&vars), "--var", "limit=7"];
    let first = daemon.astrid(&apply).json();
    let unchanged = ["identity unchanged", "system unchanged", "audit unchanged", "gateway unchanged"];
    assert_eq!(what(&first), [&unchanged[..], &["env installed"]].concat());
    assert_eq!(told(&daemon, "LIMIT").await, "7");
    let again = daemon.astrid(&apply).json();
    assert_eq!(what(&again), [&unchanged[..], &["env unchanged"]].concat());
    let history = daemon.unix(Request::get("/api/capsules/env/history")).await.expect(200);
    assert_eq!(history["steps"].as_array().unwrap().len(), 1, "{history}");

    daemon.astrid(&["--json", "distro", "apply", "--var", "limit=8"]).json();
    assert_eq!(told(&daemon, "LIMIT").await, "8");
    let history = daemon.unix(Request::get("/api/capsules/env/history")).await.expect(200);
    assert_eq!(history["steps"].as_array().unwrap().len(), 1, "{history}");
    drop(daemon);
    let daemon = home.start();
    assert_eq!(told(&daemon, "LIMIT").await, "8", "it is in force after a start as well");
}

#[tokio::test]
async fn an_archive_that_the_lock_does_not_pin_is_refused_by_name_and_an_update_pins_it() {
    let home = Home::new();
    let source = source(&home, "[[capsule]]\nname = \"env\"\nsource = \"guests/env.capsule\"\ngrants = [\"*\"]\n");
    let locked = home.astrid(&["--json", "distro", "update", text(&source)]).json();
    assert_eq!(what(&locked)[4], "env new");
    fs::copy(pack::packed("echo"), source.join("guests/env.capsule")).unwrap();
    let wrong = home.astrid(&["distro", "apply", text(&source)]);
    assert!(wrong.refusal(1).contains("capsule env: guests/env.capsule holds the capsule `echo`"));

    fs::copy(pack::packed("env"), source.join("guests/env.capsule")).unwrap();
    let lock = source.join("Distro.lock");
    let pinned = fs::read_to_string(&lock).unwrap();
    let hash = blake3::hash(&fs::read(source.join("guests/env.capsule")).unwrap()).to_hex().to_string();
    fs::write(&lock, pinned.replace(&hash, &"0".repeat(64))).unwrap();
    let mismatch = home.astrid(&["distro", "apply", text(&source)]);
    let mismatch = mismatch.refusal(1);
    assert!(mismatch.contains("Distro.lock pins archive 000") && mismatch.contains("of `env`"), "{mismatch}");
    let updated = home.astrid(&["--json", "distro", "update", text(&source)]).json();
    assert_eq!(
        what(&updated),
        ["identity unchanged", "system unchanged", "audit unchanged", "gateway unchanged", "env changed"]
    );
    home.astrid(&["--json", "distro", "apply", text(&source)]).json();

    // What somebody did to the home's own folder is found at the start, and the others serve.
    fs::write(home.path().join("distro/Distro.lock"), pinned.replace(&hash, &"0".repeat(64))).unwrap();
    let daemon = home.start();
    let health = daemon.tcp(Request::get("/healthz")).await.json();
    assert_eq!(health["capsules"]["failed"], json!(["env"]), "{health}");
    assert!(fs::read_to_string(home.path().join("log/astrid.log")).unwrap().contains("pins archive 000"));
    let shown = daemon.astrid(&["--json", "distro", "show"]).json();
    assert!(shown["capsules"][4]["drift"].as_str().unwrap().contains("pins archive"), "{shown}");
    let applied = daemon.astrid(&["--json", "distro", "apply"]);
    assert!(applied.refusal(1).contains("pins archive"), "{applied:?}");
}

#[tokio::test]
async fn whoever_has_no_session_sees_what_the_distribution_says_of_itself_and_no_value_of_its_variables() {
    let home = Home::absent();
    let branding = "[branding]\nicon = \"i.svg\"\nprimary-color = \"#204060\"\n[invites]\nissuers = []\n";
    let (source, vars) = (source(&home, &format!("{TELLS}{branding}")), vars(&home));
    fs::write(source.join("i.svg"), "<svg/>").unwrap();
    home.astrid(&["--json", "init", "--distro", text(&source), "--vars", text(&vars), "--var", "limit=7"]).json();
    let daemon = home.start();
    let (show, onboarding) = (Request::get("/api/distribution"), Request::get("/api/distribution/onboarding"));
    let shown = daemon.tcp(show.clone()).await.expect(200);
    let want = json!({
        "id": "astrid", "name": "Astrid", "description": "Identity, gateway, audit and the operator's desk",
        "invites_enabled": false,
        "branding": { "icon": "data:image/svg+xml;base64,PHN2Zy8+", "primary_color": "#204060" },
    });
    assert_eq!(shown, want);
    let fields = json!({ "fields": [
        { "key": "key", "secret": true },
        { "key": "limit", "secret": false, "description": "How much" },
    ] });
    assert_eq!(daemon.tcp(onboarding).await.expect(200), fields);

    // What is applied is what is shown; an icon that is none is left out.
    fs::write(home.path().join("distro/i.svg"), "<script/>").unwrap();
    let path = home.path().join("distro/Distro.toml");
    let text_of = fs::read_to_string(&path).unwrap();
    fs::write(&path, text_of.replace("name = \"Astrid\"", "name = \"Notes\"")).unwrap();
    assert_eq!(daemon.tcp(show.clone()).await.expect(200), want);
    daemon.unix(Request::post("/api/sys/distro/apply", &json!({}))).await.expect(200);
    let shown = daemon.tcp(show.clone()).await.expect(200);
    assert_eq!((&shown["name"], &shown["branding"]), (&json!("Notes"), &json!({ "primary_color": "#204060" })));

    // One that does not read is nobody's.
    fs::write(&path, "nonsense").unwrap();
    let refused = daemon.unix(Request::post("/api/sys/distro/apply", &json!({}))).await;
    assert!(refused.status >= 400, "{refused:?}");
    daemon.tcp(show).await.refusal(404, "not_found");
}

#[tokio::test]
async fn a_distribution_for_other_hosts_is_not_applied() {
    let home = Home::new();
    let source = source(&home, "");
    let path = source.join("Distro.toml");
    let text_of = fs::read_to_string(&path).unwrap();
    fs::write(&path, text_of.replace("astrid-version = \">=0.1.0\"", "astrid-version = \">=9\"")).unwrap();
    let refused = home.astrid(&["distro", "apply", text(&source)]);
    assert!(refused.refusal(1).contains("distro.astrid-version = \">=9\", and this is Astrid"));
}

#[tokio::test]
async fn a_bundle_makes_the_same_home_on_a_machine_that_has_nothing_else() {
    let home = Home::absent();
    let (source, vars) = (source(&home, TELLS), vars(&home));
    home.astrid(&["--json", "init", "--distro", text(&source), "--vars", text(&vars), "--var", "limit=7"]).json();
    let bundle = home.beside().join("astrid.bundle");
    home.astrid(&["--json", "distro", "bundle", "export", text(&bundle)]).json();
    assert!(!fs::read(&bundle).unwrap().windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));

    let other = Home::absent();
    let missing = other.astrid(&["distro", "bundle", "import", text(&bundle)]);
    assert!(missing.refusal(1).contains("variable `key` has no value"));
    let import = ["--json", "distro", "bundle", "import", text(&bundle), "--vars", text(&vars), "--var", "limit=5"];
    assert_eq!(what(&other.astrid(&import).json()).len(), 5);
    let lock = |home: &Home| fs::read(home.path().join("distro/Distro.lock")).unwrap();
    assert_eq!(lock(&home), lock(&other));
    let daemon = other.start();
    assert_well(&daemon).await;
    assert_eq!(told(&daemon, "LIMIT").await, "5");
    let left: Vec<_> = fs::read_dir(other.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains('.') || name == "store.redb"), "{left:?}");

    // One bit of a component, and it is refused by name before anything changes.
    let mut bytes = fs::read(&bundle).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    let damaged = daemon.astrid(&["distro", "bundle", "import", text(&bundle)]);
    let damaged = damaged.refusal(1);
    assert!(damaged.contains("not a bundle: capsule "), "{damaged}");
    assert_well(&daemon).await;
}

/// A home whose distribution says this of invites.
fn with_invites(rules: &str) -> (Home, Daemon) {
    let home = Home::absent();
    let folder = source(&home, &format!("[invites]\n{rules}"));
    home.astrid(&["--json", "init", "--distro", text(&folder)]).json();
    let daemon = home.start();
    (home, daemon)
}

#[tokio::test]
async fn without_issuers_a_host_has_one_tenant_and_says_so() {
    let (_home, daemon) = with_invites("issuers = []\n");
    let refused = daemon.astrid(&["invite", "issue"]);
    let refused = refused.refusal(1);
    assert!(refused.contains("one tenant") && refused.contains("names no issuers"), "{refused}");
    // Nobody talks themselves out of it: the rule is no value of anybody's own.
    let own = Request::post("/api/capsules/identity/env/DISTRO_ISSUERS", &json!({ "value": "default" }));
    let answer = daemon.unix(own).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(daemon.astrid(&["invite", "issue"]).refusal(1).contains("one tenant"));
}

#[tokio::test]
async fn an_invite_takes_what_it_leaves_out_from_the_distribution_and_the_bound_on_principals_holds() {
    let rules =
        "issuers = [\"default\"]\ndefault-group = \"restricted\"\ndefault-expires = \"2h\"\nmax-principals = 4\n";
    let (_home, daemon) = with_invites(rules);
    let issued = daemon.astrid(&["--json", "invite", "issue", "--uses", "20"]).json();
    assert_eq!(issued["invite"]["group"], "restricted");
    let token = issued["invite"]["token"].as_str().unwrap().to_owned();
    let another = invite(&daemon, "agent", 20).await;
    let redeem = |number: u8| {
        let token = if number.is_multiple_of(2) { &token } else { &another };
        redemption(token, &public_hex(&key(number)))
    };
    let mut crowd = JoinSet::new();
    for number in 1..=100 {
        let (address, request) = (daemon.address(), redeem(number));
        crowd.spawn(async move { Connection::tcp(address).await.unwrap().send(request).await.unwrap() });
    }
    let mut made = 0;
    for answer in crowd.join_all().await {
        match answer.status {
            200 => made += 1,
            _ => drop(answer.refusal(409, "conflict")),
        }
    }
    assert_eq!(made, 3, "`default` is the fourth");
    let late = daemon.tcp(redeem(200)).await;
    let reason = late.refusal(409, "conflict");
    assert!(reason.contains("max-principals = 4"), "{reason}");
    let principals = daemon.unix(Request::get("/api/sys/principals")).await.expect(200);
    assert_eq!(principals["principals"].as_array().unwrap().len(), 4);
    let left = daemon.unix(Request::get("/api/sys/invites")).await.expect(200);
    let uses: u64 = left["invites"].as_array().unwrap().iter().map(|row| row["remaining_uses"].as_u64().unwrap()).sum();
    assert_eq!(uses, 40 - 3, "whoever was refused has spent nothing");
}
