//! Prompts: what an agent answers comes to whoever asked, all of it and in order, and to nobody else.

use std::fs;
use std::net::SocketAddr;

use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, Streaming};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::observation::{metrics, sum};
use crate::relays::until_measured;
use crate::{Person, RESIDENT, assert_well, install_guests, join};

pub(crate) fn prompt(text: &str) -> Request {
    Request::post("/api/agent/prompt", &json!({ "text": text }))
}

fn within(session: &str, text: &str) -> Request {
    Request::post("/api/agent/prompt", &json!({ "text": text, "session_id": session }))
}

/// The answer to a prompt, as it comes.
pub(crate) struct Stream {
    streaming: Streaming,
    pub(crate) session: String,
}

impl Stream {
    /// Past its `ready`, which names who asked.
    pub(crate) async fn open(daemon: &Daemon, person: &Person, request: Request) -> Self {
        Self::open_at(daemon.address(), person, request).await
    }

    async fn open_at(address: SocketAddr, person: &Person, request: Request) -> Self {
        let socket = TcpStream::connect(address).await.expect("a listener");
        let streaming = Streaming::open(socket, request.bearer(&person.bearer)).await;
        assert_eq!(
            (streaming.status, &streaming.headers["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        let mut stream = Self { streaming, session: String::new() };
        let (name, ready) = stream.next().await.expect("one event at least");
        assert_eq!((name.as_str(), &ready["principal"]), ("ready", &json!(person.principal)), "{ready}");
        stream.session = ready["session_id"].as_str().expect("a text").to_owned();
        stream
    }

    /// Name and data of the next event; none at a clean end. Signs of life are passed over.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            let text = self.streaming.next().await.expect("whole")?;
            if text == ": here" {
                continue;
            }
            let (name, data) = text.split_once("\ndata: ").unwrap_or_else(|| panic!("{text}"));
            let name = name.strip_prefix("event: ").unwrap_or_else(|| panic!("{text}")).to_owned();
            return Some((name, serde_json::from_str(data).expect("JSON")));
        }
    }

    /// The next event is this one, and of the stream's session.
    async fn expect(&mut self, name: &str) -> Value {
        let (found, data) = self.next().await.expect("one more");
        assert_eq!((found.as_str(), &data["session_id"]), (name, &json!(self.session)), "{data}");
        data
    }

    /// So many deltas in order, the response, and nothing else.
    async fn expect_count(mut self, to: u64) {
        for n in 1..=to {
            assert_eq!(self.expect("delta").await["n"], n);
        }
        assert_eq!(self.expect("response").await["text"], format!("count {to}"));
        assert_eq!(self.next().await, None);
    }
}

/// Streams and subscriptions that are open beside the host's own are none, sooner or later.
async fn until_free(daemon: &Daemon) {
    until_measured(daemon, "astrid_http_relays", |open| open == 0.0).await;
    until_measured(daemon, "astrid_bus_subscriptions", |open| open == RESIDENT as f64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_is_answered_in_deltas_and_a_response_with_what_the_agent_asks_in_between() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["agent"]);
    // Whoever holds it for themselves alone may prompt: everybody in the group `agent`.
    let ada = join(&daemon, "agent", "ada", 1).await;
    let first = Stream::open(&daemon, &ada, prompt("count 20")).await;
    let second = Stream::open(&daemon, &ada, prompt("count 3")).await;
    assert!(first.session.len() == 32 && first.session != second.session, "{}", first.session);
    first.expect_count(20).await;
    second.expect_count(3).await;

    let body = json!({ "text": "hello", "session_id": "notes-1", "context": { "page": [1, 2] } });
    let mut stream = Stream::open(&daemon, &ada, Request::post("/api/agent/prompt", &body)).await;
    assert_eq!(stream.session, "notes-1");
    let response =
        json!({ "session_id": "notes-1", "text": "hello", "principal": "ada", "context": { "page": [1, 2] } });
    assert_eq!(stream.expect("response").await, response);
    assert_eq!(stream.next().await, None);

    let mut stream = Stream::open(&daemon, &ada, prompt("ask")).await;
    assert_eq!(stream.expect("elicit").await["message"], "Which one?");
    stream.expect("response").await;
    let mut stream = Stream::open(&daemon, &ada, prompt("move")).await;
    assert_eq!(stream.expect("session_changed").await["title"], "A new name");
    stream.expect("response").await;

    // Two prompts that wait for consent: each stream is told of its own request alone.
    let mut stream = Stream::open(&daemon, &ada, prompt("approve")).await;
    let approval = stream.expect("elicit").await["approval"].clone();
    let mut other = Stream::open(&daemon, &ada, prompt("approve")).await;
    let others = other.expect("elicit").await["approval"].clone();
    assert_ne!(approval["id"], others["id"]);
    for (id, decision, approved, stream) in
        [(&approval["id"], "approve_once", true, &mut stream), (&others["id"], "deny", false, &mut other)]
    {
        let path = format!("/api/approvals/{}", id.as_str().expect("an id"));
        let answer = Request::post(&path, &json!({ "decision": decision })).bearer(&ada.bearer);
        daemon.tcp(answer).await.expect(200);
        assert_eq!(stream.expect("response").await["approval"]["approved"], approved);
        assert_eq!(stream.next().await, None);
    }
    until_free(&daemon).await;
    assert_well(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_sees_anything_of_it_neither_in_a_session_of_the_same_name_nor_in_another_of_their_own() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["agent"]);
    let (ada, bob) = (join(&daemon, "agent", "ada", 1).await, join(&daemon, "agent", "bob", 2).await);
    let mut of_bob = Stream::open(&daemon, &bob, within("same", "silent")).await;
    let mut elsewhere = Stream::open(&daemon, &ada, within("elsewhere", "silent")).await;
    Stream::open(&daemon, &ada, within("same", "count 50")).await.expect_count(50).await;
    let mut asked = Stream::open(&daemon, &ada, within("same", "approve")).await;
    let approval = asked.expect("elicit").await["approval"]["id"].as_str().expect("an id").to_owned();
    // Somebody else's answer changes nothing.
    let answer = |who: &Person| {
        let request = Request::post(&format!("/api/approvals/{approval}"), &json!({ "decision": "approve_once" }));
        request.bearer(&who.bearer)
    };
    daemon.tcp(answer(&bob)).await.refusal(404, "not_found");
    daemon.tcp(answer(&ada)).await.expect(200);
    asked.expect("response").await;

    // What they get next is the first that they get.
    Stream::open(&daemon, &bob, within("same", "count 2")).await.expect_count(2).await;
    Stream::open(&daemon, &ada, within("elsewhere", "ask")).await.expect("elicit").await;
    of_bob.expect("delta").await;
    of_bob.expect("delta").await;
    assert_eq!(of_bob.expect("response").await["principal"], "bob");
    assert_eq!(elsewhere.expect("elicit").await["id"], "q1");
    assert_eq!(elsewhere.expect("response").await["text"], "ask");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_at_once_each_get_their_whole_answer_in_order() {
    const PEOPLE: u8 = 20;
    const PROMPTS: u64 = 10;
    let daemon = Daemon::start();
    install_guests(&daemon, &["agent"]);
    let mut answers = JoinSet::new();
    for number in 1..=PEOPLE {
        let person = join(&daemon, "agent", &format!("p{number}"), number).await;
        for n in 1..=PROMPTS {
            let (address, person) = (daemon.address(), person.clone());
            answers.spawn(async move {
                let stream = Stream::open_at(address, &person, prompt(&format!("count {}", 10 + n))).await;
                stream.expect_count(10 + n).await;
            });
        }
    }
    let mut whole = 0;
    while let Some(answer) = answers.join_next().await {
        answer.expect("a whole answer");
        whole += 1;
    }
    assert_eq!(whole, 200);
    until_free(&daemon).await;
    assert_well(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_client_goes_everything_of_its_prompts_stream_is_gone() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["agent"]);
    let ada = join(&daemon, "agent", "ada", 1).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(Stream::open(&daemon, &ada, prompt("silent")).await);
    }
    let samples = metrics(&daemon).await;
    assert_eq!(sum(&samples, "astrid_http_relays", &[]), 20.0);
    assert_eq!(sum(&samples, "astrid_bus_subscriptions", &[]), (20 + RESIDENT) as f64);
    drop(streams);
    until_free(&daemon).await;
    until_measured(&daemon, "astrid_pool_in_use", |used| used == RESIDENT as f64).await;
    Stream::open(&daemon, &ada, prompt("count 5")).await.expect_count(5).await;
}

#[tokio::test]
async fn a_prompt_that_nobody_takes_or_that_is_none_is_an_error_and_no_stream() {
    let daemon = Daemon::start();
    let ada = join(&daemon, "agent", "ada", 1).await;
    let eve = join(&daemon, "restricted", "eve", 2).await;
    let nobody = daemon.tcp(prompt("count 1").bearer(&ada.bearer)).await;
    assert!(nobody.refusal(503, "overloaded").contains("no agent"), "{nobody:?}");
    install_guests(&daemon, &["agent"]);
    daemon.tcp(prompt("count 1")).await.refusal(401, "unauthorized");
    let reason = daemon.tcp(prompt("count 1").bearer(&eve.bearer)).await.refusal(403, "forbidden");
    assert!(reason.contains("agent:prompt"), "{reason}");
    for bad in [
        json!({}),
        json!({ "text": "" }),
        json!({ "text": "x".repeat(32_769) }),
        json!({ "text": "a", "session_id": "../x" }),
        json!({ "text": "a", "principal": "root" }),
    ] {
        let request = Request::post("/api/agent/prompt", &bad).bearer(&ada.bearer);
        daemon.tcp(request).await.refusal(400, "bad_request");
    }
    until_free(&daemon).await;
    Stream::open(&daemon, &ada, prompt("count 1")).await.expect_count(1).await;
}

/// A home whose gateway waits four seconds for an agent.
fn impatient() -> Home {
    let home = Home::new();
    let path = home.path().join("distro/Distro.toml");
    let text = fs::read_to_string(&path).unwrap();
    let told = "PUBLIC_INTERVAL_MS = 0";
    assert!(text.contains(told), "{text}");
    fs::write(&path, text.replace(told, &format!("{told}, PROMPT_IDLE_SECS = 4"))).unwrap();
    home
}

#[tokio::test]
async fn an_agent_that_dies_or_says_nothing_ends_its_stream_with_an_error_after_the_configured_time() {
    let daemon = impatient().start();
    install_guests(&daemon, &["agent"]);
    let ada = join(&daemon, "agent", "ada", 1).await;
    let mut dead = Stream::open(&daemon, &ada, prompt("die")).await;
    let mut silent = Stream::open(&daemon, &ada, prompt("silent")).await;
    assert_eq!(dead.expect("delta").await["n"], 1);
    for stream in [&mut dead, &mut silent] {
        let (name, data) = stream.next().await.expect("one more");
        assert_eq!((name.as_str(), &data["error"]), ("error", &json!("timeout")), "{data}");
        assert_eq!(stream.next().await, None);
    }
    until_free(&daemon).await;
    Stream::open(&daemon, &ada, prompt("count 2")).await.expect_count(2).await;
    assert_well(&daemon).await;
}
