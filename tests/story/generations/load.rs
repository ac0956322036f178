//! Swaps under load.

use super::*;

/// How often each of three capsules is swapped under load.
const SWAPS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_again_and_again_under_load_no_request_fails_and_no_stream_loses_an_event() {
    let daemon = Daemon::start();
    install_guests(&daemon, &["live"]);
    let ada = join(&daemon, "admin", "ada", 1).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(stream(&daemon, &ada).await);
    }
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(daemon.connect().await);
    }
    // Each request is a session by identity and an answer by the gateway.
    let load = Load::start(connections, &Request::get("/api/auth/me").bearer(&ada.bearer)).await;
    let mut sender = daemon.connect_unix().await;
    for n in 0..SWAPS {
        for capsule in ["gateway", "identity", "live"] {
            let swap = Request::new("POST", &format!("/api/capsules/{capsule}/swap"));
            let swapped = sender.send(swap.bearer(&ada.bearer)).await.expect("an answer").expect(200);
            assert_eq!(swapped["version"], "0.1.0");
            let alive = generations(&daemon, capsule).await;
            assert!((1.0..=2.0).contains(&alive), "{capsule} has {alive} generations");
            let event = json!({ "n": n, "after": capsule });
            let said = Request::post("/api/bus/publish/live.v1.said", &event).bearer(&ada.bearer);
            assert_eq!(sender.send(said).await.expect("an answer").expect(202)["delivered"], 4);
        }
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        for n in 0..SWAPS {
            for capsule in ["gateway", "identity", "live"] {
                let text = stream.next().await.expect("whole").expect("one more");
                let data = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
                let event: Value = serde_json::from_str(data).unwrap();
                assert_eq!(event, json!({ "n": n, "after": capsule }), "stream {number}");
            }
        }
    }
    assert!(load.end().await > 8 * SWAPS);
    let swapped = history(&daemon, "gateway").await;
    assert_eq!(swapped.iter().filter(|(what, ..)| what == "swapped").count(), SWAPS);
    assert_well(&daemon).await;
}

/// An open stream of what is said, past its beginning.
async fn stream(daemon: &Daemon, person: &Person) -> Streaming {
    let socket = TcpStream::connect(daemon.address()).await.expect("a listener");
    let mut stream = Streaming::open(socket, Request::get("/live/said").bearer(&person.bearer)).await;
    assert_eq!((stream.status, stream.next().await), (200, Ok(Some(": live-one".into()))));
    stream
}
