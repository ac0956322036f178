//! That whatever a capsule does through the host beyond itself is a fact: which function leaves which stands in `wit/`, behind
//! `Fact:` in its own documentation or in that of its interface, and is read from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use astrid_tests::daemon::Home;
use astrid_tests::http::Request;
use astrid_tests::pack;
use serde_json::{Value, json};
use wit_parser::{Docs, Resolve, UnresolvedPackageGroup, WorldItem};

use crate::{bus, install, install_guests, join, until};

/// The actions behind `Fact:`, none for `Fact: none`; nothing where there is no such line.
fn marked(docs: &Docs) -> Option<BTreeSet<String>> {
    let text = docs.contents.as_deref()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Fact: "))?;
    let actions: BTreeSet<String> = line.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(line.starts_with("none") == actions.is_empty(), "neither none nor an action: {line}");
    Some(actions)
}

/// Every function that the host offers capsules, with the facts that it leaves.
fn offered() -> BTreeMap<String, BTreeSet<String>> {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let mut resolve = Resolve::default();
    let parse = |folder: &Path| UnresolvedPackageGroup::parse_dir(folder).unwrap();
    let folders = fs::read_dir(&wit).unwrap().map(|folder| folder.unwrap().path());
    let others = folders.filter(|folder| !folder.ends_with("capsule")).map(|folder| parse(&folder)).collect();
    resolve.push_groups(parse(&wit.join("capsule")), others).unwrap();
    let (_, world) = resolve.worlds.iter().find(|(_, world)| world.name == "imports").expect("the world of imports");
    let mut found = BTreeMap::new();
    for item in world.imports.values() {
        let WorldItem::Interface { id, .. } = item else { continue };
        let interface = &resolve.interfaces[*id];
        let general = marked(&interface.docs);
        for (name, function) in &interface.functions {
            let name = format!("{}: {name}", interface.name.as_deref().unwrap_or_default());
            let facts = marked(&function.docs).or_else(|| general.clone());
            let facts = facts.unwrap_or_else(|| panic!("wit/ does not say which fact {name} leaves: write `Fact: …`"));
            assert!(found.insert(name, facts).is_none());
        }
    }
    found
}

#[tokio::test]
async fn every_function_of_the_host_that_reaches_outside_leaves_the_fact_that_its_interface_names() {
    let offered = offered();
    assert!(offered.len() > 40 && offered["keys: sign"].contains("keys.sign"), "{offered:?}");
    let wanted: BTreeSet<&String> = offered.values().flatten().collect();

    let home = Home::new();
    let distro = home.path().join("distro/Distro.toml");
    let text = fs::read_to_string(&distro).unwrap();
    let text = text.replace("role = \"audit\"\n", "role = \"audit\"\nenv = { FORWARD = \"file=json\" }\n");
    fs::write(&distro, text).unwrap();
    let file = home.beside().join("facts");
    let daemon = home.start_with(&["--set", &format!("sinks.file.to=file://{}", file.display())]);
    install_guests(&daemon, &["env", "reader", "shell"]);
    let child = json!({ "program": "/bin/sh", "args": ["-c", "exit"], "timeout_ms": 10_000 });
    daemon.unix(bus("shell.v1.run", &child)).await.expect(200);
    let nobodys = Request::post("/api/sys/processes/0123456789abcdef/stop", &json!({}));
    daemon.unix(nobodys).await.refusal(404, "not_found");
    let newer = pack::repacked(home.beside(), "newer.capsule", "env", |manifest| {
        manifest.package.version = "9.0.0".parse().unwrap();
    });
    install(&daemon, &newer);
    for arguments in
        [&["capsule", "rollback", "env"][..], &["capsule", "swap", "env"], &["capsule", "gc"], &["distro", "apply"]]
    {
        daemon.astrid(arguments).out();
    }
    let set = Request::post("/api/capsules/env/env/KEY", &json!({ "value": "hidden" }));
    assert_eq!(daemon.unix(set).await.status, 204);
    daemon.unix(bus("env.v1.get", &json!({ "name": "KEY" }))).await.expect(200);
    assert_eq!(daemon.unix(Request::delete("/api/capsules/env/env/KEY")).await.status, 204);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let group = json!({ "name": "readers", "capabilities": ["self:agent:list"] });
    daemon.unix(Request::post("/api/sys/groups", &group)).await;
    assert_eq!(daemon.unix(Request::delete("/api/sys/groups/readers")).await.status, 204);
    for _ in 0..600 {
        daemon.tcp(Request::get("/api/sys/status").bearer(&ada.bearer)).await.expect(200);
    }
    let prune = bus("reader.v1.prune", &json!({ "before": 520 }));
    until(&daemon, prune, |answer| answer.status == 200 && answer.json() == 512).await;
    assert_eq!(daemon.unix(Request::delete("/api/sys/principals/ada")).await.status, 204);
    daemon.astrid(&["capsule", "remove", "env"]).out();
    until(&daemon, Request::get("/healthz"), |_| file.exists()).await;
    daemon.unix(Request::post("/api/sys/shutdown", &json!({}))).await.expect(202);
    assert_eq!(daemon.wait().code, Some(0));

    // Entries were pruned; what was forwarded before is whole, and what came after it is in the log.
    let forwarded = fs::read_to_string(&file).unwrap();
    let forwarded = forwarded.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["fact"].clone());
    let left: BTreeSet<String> =
        forwarded.chain(crate::audit::facts(&home)).map(|fact| fact["action"].as_str().unwrap().to_owned()).collect();
    let missing: Vec<_> = wanted.into_iter().filter(|action| !left.contains(*action)).collect();
    assert!(missing.is_empty(), "{missing:?} are in no fact, of {left:?}");
}
