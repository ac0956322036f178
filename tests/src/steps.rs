//! Steps that many stories take: requests of a topic, installations, load.

use std::path::Path;

use serde_json::Value;

use crate::daemon::Daemon;
use crate::http::{Connection, Request};
use crate::pack;

/// A request of a topic through the surface.
pub fn bus(topic: &str, payload: &Value) -> Request {
    Request::post(&format!("/api/bus/request/{topic}"), payload)
}

/// Installs a capsule as the owner would, and grants what it asks for.
#[track_caller]
pub fn install(daemon: &Daemon, archive: &Path) -> Value {
    let asked = pack::asked(archive);
    install_with(daemon, archive, &asked.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Installs a capsule with these grants.
#[track_caller]
pub fn install_with(daemon: &Daemon, archive: &Path, grants: &[&str]) -> Value {
    let mut arguments = vec!["--json", "capsule", "install", archive.to_str().expect("a text")];
    grants.iter().for_each(|grant| arguments.extend(["--grant", grant]));
    daemon.astrid(&arguments).json()
}

/// One request again and again until it is told to stop: how many were answered, all of them with 200.
pub struct Load {
    stop: tokio::sync::watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<usize>>,
}

impl Load {
    /// `connections` at once; returns when each has had an answer.
    pub async fn start(connections: Vec<Connection>, request: &Request) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut tasks = Vec::new();
        for mut connection in connections {
            let (request, stopped) = (request.clone(), stopped.clone());
            connection.send(request.clone()).await.expect("an answer").expect(200);
            tasks.push(tokio::spawn(async move {
                let mut answered = 1;
                while !*stopped.borrow() {
                    connection.send(request.clone()).await.expect("an answer").expect(200);
                    answered += 1;
                }
                answered
            }));
        }
        Self { stop, tasks }
    }

    /// How many were answered in all.
    pub async fn end(self) -> usize {
        let _ = self.stop.send(true);
        let mut answered = 0;
        for task in self.tasks {
            answered += task.await.expect("every answer was 200");
        }
        answered
    }
}
