//! What people see of what has happened: their own, page by page and live, however the capsule that shows it changes.

use std::fs;

use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Streaming};
use astrid_tests::pack;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{Person, assert_well, install, join, until};

const STATUS: &str = "bus.system.v1.status";

async fn page(daemon: &Daemon, person: &Person, query: &str) -> Value {
    daemon.tcp(Request::get(&format!("/api/sys/audit{query}")).bearer(&person.bearer)).await.expect(200)
}

fn indices(page: &Value) -> Vec<u64> {
    page["entries"].as_array().unwrap().iter().map(|entry| entry["index"].as_u64().unwrap()).collect()
}

async fn look(daemon: &Daemon, person: &Person) {
    daemon.tcp(Request::get("/api/sys/status").bearer(&person.bearer)).await.expect(200);
}

/// Looks so often, twenty at a time. Each time is a fact.
async fn look_often(daemon: &Daemon, person: &Person, times: usize) {
    let mut looking = JoinSet::new();
    for _ in 0..20 {
        let mut connection = daemon.connect().await;
        let request = Request::get("/api/sys/status").bearer(&person.bearer);
        looking.spawn(async move {
            for _ in 0..times / 20 {
                connection.send(request.clone()).await.expect("an answer").expect(200);
            }
        });
    }
    looking.join_all().await;
}

/// The page, once it has so many entries: facts are recorded a moment after what they tell.
async fn until_page(daemon: &Daemon, person: &Person, query: &str, entries: usize) -> Value {
    let request = Request::get(&format!("/api/sys/audit{query}")).bearer(&person.bearer);
    until(daemon, request, |answer| answer.status == 200 && indices(&answer.json()).len() >= entries).await.json()
}

/// Waits until a checkpoint has signed at least so many facts.
pub(crate) async fn until_signed(daemon: &Daemon, size: u64) {
    let signed = |body: &[u8]| {
        let text = String::from_utf8_lossy(body).into_owned();
        text.lines().nth(1).and_then(|line| line.parse::<u64>().ok()).unwrap_or(0)
    };
    until(daemon, Request::get("/api/sys/audit/checkpoint"), |answer| signed(&answer.body) >= size).await;
}

/// A stream of events, past its `ready`.
async fn events(daemon: &Daemon, person: &Person, last: Option<u64>, all: bool) -> Streaming {
    let socket = TcpStream::connect(daemon.address()).await.expect("a listener");
    let mut request = Request::get("/api/events").bearer(&person.bearer);
    if let Some(last) = last {
        request = request.header("last-event-id", &last.to_string());
    }
    let mut stream = Streaming::open(socket, request).await;
    assert_eq!(stream.status, 200);
    let ready = stream.next().await.unwrap().unwrap();
    let (head, data) = ready.split_once("\ndata: ").expect("data");
    assert_eq!(head, "event: ready");
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data, json!({ "principal": person.principal, "firehose": all }));
    stream
}

/// Somebody who follows, and connects again where a stream ends.
struct Follower<'d> {
    daemon: &'d Daemon,
    person: &'d Person,
    all: bool,
    stream: Streaming,
    last: Option<u64>,
}

impl<'d> Follower<'d> {
    async fn new(daemon: &'d Daemon, person: &'d Person, last: Option<u64>, all: bool) -> Self {
        Self { daemon, person, all, stream: events(daemon, person, last, all).await, last }
    }

    /// The next fact: its id, and what it says.
    async fn fact(&mut self) -> (u64, Value) {
        loop {
            let Some(event) = self.stream.next().await.expect("whole") else {
                self.stream = events(self.daemon, self.person, self.last, self.all).await;
                continue;
            };
            if event.starts_with(':') {
                continue;
            }
            let (head, data) = event.split_once("\ndata: ").expect("data");
            let id = head.strip_prefix("id: ").and_then(|head| head.strip_suffix("\nevent: audit"));
            let id: u64 = id.unwrap_or_else(|| panic!("{event}")).parse().unwrap();
            let entry: Value = serde_json::from_str(data).unwrap();
            assert_eq!(entry["index"], id);
            self.last = Some(id);
            return (id, entry["fact"].clone());
        }
    }

    /// The ids of the next facts of this action.
    async fn looks(&mut self, many: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < many {
            let (id, fact) = self.fact().await;
            if fact["action"] == STATUS {
                ids.push(id);
            }
        }
        ids
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_hundred_reads_twenty_at_a_time_leave_six_hundred_facts_and_reading_those_leaves_none() {
    let daemon = Daemon::start();
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "agent", "bob", 2).await);
    look_often(&daemon, &ada, 600).await;
    let whole = until_page(&daemon, &ada, &format!("?method={STATUS}&principal=ada&limit=1000"), 600).await;
    assert_eq!(whole["entries"].as_array().unwrap().len(), 600);
    until_page(&daemon, &bob, "?method=session.begin", 1).await;
    let size = page(&daemon, &ada, "?limit=1").await["size"].clone();
    for _ in 0..20 {
        page(&daemon, &bob, "?limit=1000").await;
        page(&daemon, &ada, "?limit=1000").await;
    }
    assert_eq!(page(&daemon, &ada, "?limit=1").await["size"], size);

    let own = page(&daemon, &bob, "?limit=1000").await;
    let principals = own["entries"].as_array().unwrap().iter().map(|entry| &entry["fact"]["principal"]);
    assert!(!indices(&own).is_empty() && principals.clone().all(|principal| principal == "bob"), "{own}");
    let others = Request::get("/api/sys/audit?principal=ada").bearer(&bob.bearer);
    daemon.tcp(others).await.refusal(403, "forbidden");
    for path in ["/api/sys/audit/checkpoint", "/api/sys/audit/tile/0/000"] {
        daemon.tcp(Request::get(path).bearer(&bob.bearer)).await.refusal(403, "forbidden");
    }

    // Pages join while facts are added.
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let next = page(&daemon, &ada, &format!("?method={STATUS}&principal=ada&limit=70{cursor}")).await;
        seen.extend(indices(&next));
        look(&daemon, &ada).await;
        match next["next_cursor"].as_u64() {
            Some(on) => cursor = format!("&cursor={on}"),
            None => break,
        }
    }
    assert_eq!(seen, indices(&whole));
    for bad in ["?limit=0", "?limit=1001", "?cursor=1&from=1", "?format=xml", "?outcome=fine"] {
        daemon.unix(Request::get(&format!("/api/sys/audit{bad}"))).await.refusal(400, "bad_request");
    }
    let shown = daemon.astrid(&["audit", "query", "--principal", "bob", "--method", "session"]);
    assert!(shown.out().contains(" bob session.begin ok"), "{shown:?}");
    assert!(daemon.astrid(&["audit", "query", "--format", "cef", "--limit", "1"]).out().starts_with("CEF:0|Astrid|"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_tells_everybody_their_own_once_and_in_order_though_audit_is_swapped_twenty_times() {
    let daemon = Daemon::start();
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "admin", "bob", 2).await);
    let revoke = Request::delete("/api/sys/principals/bob/caps").header("content-type", "application/json");
    let revoke = revoke.body(json!({ "capabilities": ["audit:read_all"] }).to_string());
    assert_eq!(daemon.unix(revoke).await.status, 204);
    let mut all = Follower::new(&daemon, &ada, None, true).await;
    let mut own = Follower::new(&daemon, &bob, None, false).await;
    for round in 0..20 {
        look(&daemon, &bob).await;
        daemon.unix(Request::post("/api/capsules/audit/swap", &json!({}))).await.expect(200);
        look(&daemon, &ada).await;
        if round % 5 == 0 {
            page(&daemon, &ada, "").await;
        }
    }
    let of_bob = own.looks(20).await;
    let of_both = all.looks(40).await;
    let recorded = page(&daemon, &ada, &format!("?method={STATUS}&limit=1000")).await;
    let entries = recorded["entries"].as_array().unwrap();
    let wanted = |who: Option<&str>| -> Vec<u64> {
        let whose = |entry: &&Value| who.is_none_or(|who| entry["fact"]["principal"] == who);
        entries.iter().rev().filter(whose).map(|entry| entry["index"].as_u64().unwrap()).collect()
    };
    assert_eq!(of_bob, wanted(Some("bob")));
    assert_eq!(of_both, wanted(None));

    // Somebody who was away gets what was missed, and then what comes.
    drop(own);
    look_often(&daemon, &bob, 40).await;
    let mut own = Follower::new(&daemon, &bob, of_bob.last().copied(), false).await;
    look(&daemon, &bob).await;
    let missed = own.looks(41).await;
    let again = page(&daemon, &ada, &format!("?method={STATUS}&principal=bob&limit=41")).await;
    assert_eq!(missed, indices(&again).into_iter().rev().collect::<Vec<_>>());
    let wrong = Request::get("/api/events").header("last-event-id", "x").bearer(&bob.bearer);
    daemon.tcp(wrong).await.refusal(400, "bad_request");
    assert_well(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_entries_go_and_everything_that_is_kept_or_exported_can_still_be_proven() {
    let home = Home::new();
    let distro = home.path().join("distro/Distro.toml");
    let text = fs::read_to_string(&distro).unwrap();
    let kept =
        text.replace("role = \"audit\"\n", "role = \"audit\"\nenv = { RETAIN_FACTS = 300, REDACT = \"cause\" }\n");
    assert_ne!(kept, text);
    fs::write(&distro, kept).unwrap();
    let daemon = home.start();
    let ada = join(&daemon, "admin", "ada", 1).await;
    look_often(&daemon, &ada, 900).await;
    until_signed(&daemon, 900).await;
    daemon.unix(Request::post("/api/capsules/audit/swap", &json!({}))).await.expect(200);
    let oldest = "/api/sys/audit?from=0&limit=1";
    let kept =
        until(&daemon, Request::get(oldest), |answer| answer.status == 200 && indices(&answer.json())[0] > 0).await;
    let (first, size) = (indices(&kept.json())[0], kept.json()["size"].as_u64().unwrap());
    assert!(first % 256 == 0 && size - first >= 300, "{first} of {size}");
    let begun = page(&daemon, &ada, "?from=0&method=journal.prune").await;
    assert_eq!(begun["entries"][0]["fact"]["outcome"], "ok", "{begun}");
    until_signed(&daemon, size).await;

    let out = home.beside().join("export");
    let out = out.to_str().unwrap();
    let exported = daemon.astrid(&["--json", "audit", "export", "--out", out]).json();
    assert_eq!(exported["pruned"], first, "{exported}");
    let key = daemon.astrid(&["--json", "audit", "key"]).json()["key"].as_str().unwrap().to_owned();
    let other = Home::new();
    let verified = other.astrid(&["--json", "audit", "verify", out, "--key", &key]).json();
    assert_eq!((&verified["facts"], &verified["pruned"]), (&exported["facts"], &json!(first)));
    let lines = fs::read_to_string(format!("{out}/facts.jsonl")).unwrap();
    assert_eq!(lines.lines().count() as u64, exported["facts"].as_u64().unwrap() - first);
    other.astrid(&["audit", "prove", &first.to_string(), out, "--key", &key]).out();
    other.astrid(&["audit", "show", "1", out, "--key", &key]).refusal(1);
    // What is cut out is cut out of what is shown, not of what is attested.
    assert!(lines.contains(r#""cause":""#) && !lines.contains("[redacted]"));
    let shown = page(&daemon, &ada, &format!("?method={STATUS}&limit=1000")).await;
    let mut shown = shown["entries"].as_array().unwrap().iter().map(|entry| &entry["fact"]["cause"]);
    assert!(shown.all(|cause| cause == "[redacted]"));
    assert_eq!(daemon.stop().code, Some(0));
    assert_eq!(home.astrid(&["--json", "audit", "verify"]).json()["pruned"], first);
}

#[tokio::test]
async fn who_sees_only_their_own_facts_takes_them_away_with_proofs_that_anybody_can_check() {
    let daemon = Daemon::start();
    let (ada, bob) = (join(&daemon, "admin", "ada", 1).await, join(&daemon, "agent", "bob", 2).await);
    look_often(&daemon, &ada, 600).await;
    for _ in 0..20 {
        daemon.tcp(Request::get("/api/sys/status").bearer(&bob.bearer)).await;
    }
    let own = until_page(&daemon, &bob, "?limit=1000", 21).await;
    let size = own["size"].as_u64().unwrap();
    until_signed(&daemon, size).await;
    let key = daemon.astrid(&["--json", "audit", "key"]).json()["key"].as_str().unwrap().to_owned();
    let out = daemon.home().beside().join("own");
    let out = out.to_str().unwrap();
    let export = ["--bearer", &bob.bearer, "--json", "audit", "export", "--out", out, "--key", &key];
    let exported = daemon.astrid(&export).json();
    assert!(exported["proven"].as_u64().unwrap() >= indices(&own).len() as u64, "{exported}");
    let lines = fs::read_to_string(format!("{out}/facts.jsonl")).unwrap();
    for line in lines.lines() {
        let fact: Value = serde_json::from_str(line).unwrap();
        let fact: Value = serde_json::from_str(fact["fact"].as_str().unwrap()).unwrap();
        assert_eq!(fact["principal"], "bob");
    }
    // Somebody else, with the public key alone.
    let other = Home::new();
    let verified = other.astrid(&["--json", "audit", "verify", out, "--key", &key]).json();
    assert_eq!((&verified["proven"], &verified["size"]), (&exported["proven"], &exported["size"]));
    fs::write(format!("{out}/facts.jsonl"), lines.replacen("bob", "eve", 1)).unwrap();
    let refused = other.astrid(&["audit", "verify", out, "--key", &key]);
    assert!(refused.refusal(1).contains("facts.jsonl, entry 0"), "{refused:?}");
    daemon.unix(Request::get("/api/sys/audit/proofs?limit=501")).await.refusal(400, "bad_request");
}

#[tokio::test]
async fn another_capsule_changes_how_lines_read_and_never_what_is_attested() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "admin", "ada", 1).await;
    look(&daemon, &ada).await;
    let before = until_page(&daemon, &ada, &format!("?method={STATUS}"), 1).await;
    daemon.astrid(&["capsule", "remove", "audit"]).out();
    daemon.tcp(Request::get("/api/sys/audit").bearer(&ada.bearer)).await.refusal(502, "unavailable");
    install(&daemon, &pack::packed("verse"));
    let verses = page(&daemon, &ada, "").await;
    let index = indices(&before)[0];
    let mut entries = verses["entries"].as_array().unwrap().iter();
    let verse = entries.find(|entry| entry["index"] == index).unwrap();
    assert_eq!(verse["line"], format!("o {STATUS}, how ok you were"));
    let home = daemon.home().clone();
    daemon.stop();
    let attested = home.astrid(&["--json", "audit", "show", &index.to_string()]).json();
    assert_eq!(attested, before["entries"][0]["fact"]);
}
