//! What a version must show before it goes live: its hook for the store, its health, its probes, and answers like those
//! of the version that it replaces.
//!
//! All of this is a rehearsal: what is written is dropped, what is published reaches nobody, and requests carry that on.
//! Only the hook's transaction lasts, committed with the installation; until then nobody sees what it has written.
//! Bounded by the manifest's limits for each call, 32 probes, and for a shadow [`MAX_SHADOWED`] calls in
//! [`SHADOW_PATIENCE`].

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use astrid_capsule::manifest::{Expect, Isolation, Probe};
use astrid_capsule::{PrincipalId, Topic};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;
use wasmtime::component::Resource;

use super::generation::{Generation, Inbound};
use crate::authority::Mandate;
use crate::buckets::{Transaction, counted};
use crate::bus::cause::Cause;
use crate::bus::{Failure, Message, Origin, RefusalCode, Responder};
use crate::host::Host;
use crate::http::{Connection, Exchange, Mounted, Whom};
use crate::link::Turn;
use crate::link::store::carry;
use crate::log::clean;
use crate::pool::{Lane, Rank};
use crate::store::Commit;

/// Calls that a shadow can compare.
pub(super) const MAX_SHADOWED: u32 = 10_000;
/// How long a shadow waits for calls.
pub(super) const SHADOW_PATIENCE: Duration = Duration::from_secs(20);
/// Calls that are compared at once, each with its message in memory; what comes meanwhile is not compared.
const MAX_COMPARING: u32 = 64;
/// Differences that are told.
const MAX_TOLD: usize = 3;
/// The largest body of a probed path.
const MAX_BODY: usize = 1 << 20;

impl Generation {
    /// Runs the installation hook; what it wrote is what is to be committed with the installation.
    pub(super) async fn hook(self: &Arc<Self>, host: &Host, previous: Option<String>) -> Result<Commit, String> {
        let Some(export) = self.exports.installer.clone() else { return Ok(Commit::default()) };
        let mut sender = self.nobody(Instant::now() + self.bounds.timeout);
        // But for its transaction: what it writes or sends beside that could not be taken back.
        sender.rehearsal = true;
        let turn = Turn::new(sender, Inbound::default());
        let outcome = self.enter(Rank::First, Lane::Host, turn, Isolation::Call, |store, instance| {
            Box::pin(async move {
                let transaction = store.data_mut().push_of_call(Transaction::default())?;
                let borrowed = Resource::new_borrow(transaction.rep());
                let export = export.load(&mut *store, &instance)?;
                let hooks = export.astrid_capsule_installation();
                let done = match &previous {
                    None => hooks.call_install(&mut *store, borrowed).await?,
                    Some(from) => hooks.call_upgrade(&mut *store, borrowed, from).await?,
                };
                let call = store.data_mut();
                let (commit, changes, ended) = call.take_of_call(transaction)?.finish();
                let facts = call.facts_of(&changes, ended);
                Ok(done.map(|()| (commit, changes, facts)))
            })
        });
        let (mut commit, changes, facts) = match outcome.await {
            Ok(done) => done.map_err(|why| format!("its installation hook refused: {}", clean(&why)))?,
            Err(failure) => return Err(format!("its installation hook failed: {}; see the log", failure.kind())),
        };
        commit.counted = Some(counted(&self.id, &PrincipalId::anonymous(), u64::MAX));
        carry(host, changes, facts, &mut commit).await.map_err(|_| "the store is away".to_owned())?;
        Ok(commit)
    }

    /// Asks its health export, if it has one.
    pub(super) async fn check_health(self: &Arc<Self>) -> Result<(), String> {
        let Some(export) = self.exports.healthy.clone() else { return Ok(()) };
        let mut sender = self.nobody(Instant::now() + self.bounds.timeout);
        sender.rehearsal = true;
        let turn = Turn::new(sender, Inbound::default());
        let outcome = self.enter(Rank::First, Lane::Host, turn, Isolation::Call, |store, instance| {
            Box::pin(async move {
                let export = export.load(&mut *store, &instance)?;
                export.astrid_capsule_health().call_check(store).await
            })
        });
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(format!("it says that it is not healthy: {}", clean(&why))),
            Err(failure) => Err(format!("its health check failed: {}; see the log", failure.kind())),
        }
    }

    /// Makes a probe's call and says how the answer differs.
    pub(super) async fn probe(self: &Arc<Self>, probe: &Probe) -> Result<(), String> {
        let (what, answer) = match (&probe.topic, &probe.path) {
            (Some(topic), _) => (topic, self.probe_topic(topic, probe).await),
            (None, Some(path)) => (path, self.probe_path(path, probe.status.unwrap_or(200)).await),
            (None, None) => return Ok(()),
        };
        let answer = answer.map_err(|why| format!("the probe of {what} {why}"))?;
        probe.answered(&answer).map_err(|why| format!("the probe of {what} {why}"))
    }

    async fn probe_topic(self: &Arc<Self>, topic: &str, probe: &Probe) -> Result<Bytes, String> {
        let topic = Topic::parse(topic).map_err(|error| error.to_string())?;
        let bound = self.manifest.subscribe.iter().filter(|b| b.handler.is_some() && b.topic.matches(&topic));
        let handler = bound.max_by_key(|b| b.topic.specificity()).and_then(|b| b.handler.as_deref());
        let handler = handler.ok_or("reaches no handler")?;
        let payload = probe.payload.clone().unwrap_or_default();
        let payload = serde_json::to_vec(&payload).map_err(|error| error.to_string())?;
        let message = Message {
            id: 0,
            topic,
            principal: PrincipalId::anonymous(),
            mandate: Mandate::default(),
            origin: Origin::new("host", ""),
            target: None,
            payload: payload.into(),
            deadline: Instant::now() + self.bounds.timeout,
            publication: false,
            depth: 1,
            cause: None,
            reply: None,
            rehearsal: true,
            note: None,
        };
        let answer = self.clone().call(handler.into(), Arc::new(message), None).await;
        let expected = probe.expect.unwrap_or_default();
        match (answer, expected) {
            (Ok(answer), Expect::Ok) => Ok(answer),
            (Ok(_), _) => Err("is answered, and should be refused".into()),
            (Err(Failure::Refused(refusal)), expected) if code(expected) == Some(refusal.code) => Ok(Bytes::new()),
            (Err(Failure::Refused(refusal)), _) => Err(format!("is refused: {:?}: {}", refusal.code, refusal.reason)),
            (Err(failure), _) => Err(format!("fails: {}", failure.kind())),
        }
    }

    async fn probe_path(self: &Arc<Self>, path: &str, status: u16) -> Result<Bytes, String> {
        let request = Request::get(path).header("host", "probe").body(()).map_err(|error| error.to_string())?;
        let exchange = Exchange {
            cause: Arc::new(Cause { id: "probe".into(), trace: None }),
            head: request.into_parts().0,
            body: Bytes::new(),
            connection: Connection::own(),
            expected: None,
            whom: Whom::default(),
            time: None,
            rehearsal: true,
        };
        let answer = self.clone().serve(exchange).await.map_err(|failure| format!("fails: {}", failure.kind()))?;
        if answer.status().as_u16() != status {
            return Err(format!("is answered with {}, not {status}", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), MAX_BODY).collect();
        match tokio::time::timeout(self.bounds.timeout, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(format!("breaks off: {error}")),
            Err(_) => Err("does not end".into()),
        }
    }
}

fn code(expected: Expect) -> Option<RefusalCode> {
    Some(match expected {
        Expect::Ok => return None,
        Expect::Invalid => RefusalCode::Invalid,
        Expect::Denied => RefusalCode::Denied,
        Expect::NotFound => RefusalCode::NotFound,
        Expect::Conflict => RefusalCode::Conflict,
        Expect::Unavailable => RefusalCode::Unavailable,
    })
}

/// A version that gets what the live one gets, so that their answers can be compared.
pub(super) struct Shadow {
    candidate: Arc<Generation>,
    /// Calls that are still to be taken.
    left: AtomicU32,
    /// Calls that were taken and are not compared yet, or still to be taken.
    open: AtomicU32,
    differences: Mutex<Vec<String>>,
    count: AtomicU32,
    done: Notify,
}

/// What a shadow found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    pub calls: u32,
    pub differences: u32,
    /// The first of them, in a sentence each.
    pub told: Vec<String>,
}

impl Shadow {
    pub(super) fn new(candidate: Arc<Generation>, calls: u32) -> Arc<Self> {
        Arc::new(Self {
            candidate,
            left: AtomicU32::new(calls),
            open: AtomicU32::new(calls),
            differences: Mutex::default(),
            count: AtomicU32::new(0),
            done: Notify::new(),
        })
    }

    /// Waits until as many calls as it was made for are compared, or for its patience.
    pub(super) async fn wait(&self, calls: u32) -> Compared {
        let all = async {
            loop {
                let done = self.done.notified();
                if self.open.load(Ordering::Acquire) == 0 {
                    return;
                }
                done.await;
            }
        };
        let _ = tokio::time::timeout(SHADOW_PATIENCE, all).await;
        // Nothing more is taken from here on.
        self.left.store(0, Ordering::Release);
        let told = self.differences.lock().expect("no panic under this lock").clone();
        Compared {
            calls: calls - self.open.load(Ordering::Acquire),
            differences: self.count.load(Ordering::Acquire),
            told,
        }
    }

    /// Whether one more call is to be compared.
    fn takes(&self) -> bool {
        let (open, left) = (self.open.load(Ordering::Acquire), self.left.load(Ordering::Acquire));
        if open.saturating_sub(left) >= MAX_COMPARING {
            return false;
        }
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }

    /// The live version has answered this message so.
    pub(super) fn compare_answer(
        self: &Arc<Self>,
        handler: Arc<str>,
        message: Arc<Message>,
        live: Result<Bytes, Failure>,
    ) {
        if !self.takes() {
            return;
        }
        let shadow = self.clone();
        tokio::spawn(async move {
            let topic = message.topic.clone();
            let message = Message {
                rehearsal: true,
                deadline: Instant::now() + shadow.candidate.bounds.timeout,
                reply: None,
                note: None,
                ..Message::clone(&message)
            };
            let answer = shadow.candidate.clone().call(handler, Arc::new(message), None).await;
            let same = match (&live, &answer) {
                (Ok(live), Ok(new)) => same_bytes(live, new),
                (Err(Failure::Refused(live)), Err(Failure::Refused(new))) => live.code == new.code,
                (Err(live), Err(new)) => live.kind() == new.kind(),
                _ => false,
            };
            let word = |answer: &Result<Bytes, Failure>| answer.as_ref().map_or_else(Failure::kind, |_| "an answer");
            shadow.compared(same, || format!("{topic}: {} became {}", word(&live), word(&answer)));
        });
    }

    /// The live version has answered a request for this path with this status and body.
    pub(super) fn compare_response(self: &Arc<Self>, exchange: Exchange, live: (u16, Bytes)) {
        if !self.takes() {
            return;
        }
        let shadow = self.clone();
        tokio::spawn(async move {
            let path = exchange.head.uri.path().to_owned();
            let exchange = Exchange { rehearsal: true, ..exchange };
            let answer = match shadow.candidate.clone().serve(exchange).await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
                    (status, body.map(|body| body.to_bytes()).unwrap_or_default())
                }
                Err(_) => (502, Bytes::new()),
            };
            let same = live.0 == answer.0 && same_bytes(&live.1, &answer.1);
            shadow.compared(same, || format!("{}: {} became {}", clean(&path), live.0, answer.0));
        });
    }

    fn compared(&self, same: bool, difference: impl FnOnce() -> String) {
        if !same {
            self.count.fetch_add(1, Ordering::AcqRel);
            let mut told = self.differences.lock().expect("no panic under this lock");
            if told.len() < MAX_TOLD {
                told.push(difference());
            }
        }
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }
}

/// The same bytes, or the same JSON whatever the order of its fields.
fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    let json = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    one == other || json(one).is_some_and(|one| json(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answers_are_the_same_whatever_the_order_of_their_fields() {
        assert!(same_bytes(b"{\"a\":1,\"b\":2}", b"{ \"b\": 2, \"a\": 1 }"));
        assert!(same_bytes(b"plain", b"plain") && !same_bytes(b"plain", b"other") && !same_bytes(b"1", b"2"));
    }
}
