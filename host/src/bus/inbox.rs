//! What waits for the handlers of one generation of a capsule, and who works on it.
//!
//! Owns the order: publications of one principal are handled one after the other whatever binding they came by (unless
//! that says otherwise), principals take turns. Bounded by each binding's byte budget and [`WORKERS`].
//! Refuses to know what a handler is.

use std::sync::{Arc, Mutex};

use astrid_capsule::PrincipalId;
use astrid_capsule::manifest::Subscribe;
use bytes::Bytes;

use super::fair::{FairQueue, Pushed};
use super::typed::Typed;
use super::waiting::Waiting;
use super::{Config, Failure, Message, RETRY_MS, Responder, event};

/// Publications that one generation has in flight at once.
const WORKERS: usize = 16;

/// A binding of a live generation to one of its handlers.
pub struct Route {
    binding: Subscribe,
    handler: Arc<str>,
    /// Its class in the inbox's queue.
    class: usize,
    inbox: Arc<Inbox>,
    requests: Arc<Waiting>,
    typed: Option<Arc<Typed>>,
}

/// Where publications for one generation wait.
pub struct Inbox {
    responder: Arc<dyn Responder>,
    queue: Mutex<Queue>,
}

struct Queue {
    fair: FairQueue<PrincipalId, (Arc<Route>, Message)>,
    workers: usize,
}

impl Route {
    /// The routes of a generation: one for each of its bindings that has a handler.
    pub fn all(responder: Arc<dyn Responder>, bindings: &[Subscribe], config: &Config) -> Vec<Arc<Self>> {
        let budget = |binding: &Subscribe| binding.queue_bytes.unwrap_or(config.queue_bytes);
        let handled: Vec<(&Subscribe, &String)> =
            bindings.iter().filter_map(|binding| Some((binding, binding.handler.as_ref()?))).collect();
        let fair = FairQueue::with_budgets(handled.iter().map(|(binding, _)| budget(binding)));
        let types: Vec<_> = handled.iter().map(|(binding, _)| responder.typed(&binding.topic)).collect();
        let inbox = Arc::new(Inbox { responder, queue: Mutex::new(Queue { fair, workers: 0 }) });
        let routes = handled.into_iter().zip(types).enumerate().map(|(class, ((binding, handler), typed))| {
            Arc::new(Self {
                binding: binding.clone(),
                handler: handler.as_str().into(),
                class,
                inbox: inbox.clone(),
                requests: Waiting::new(budget(binding)),
                typed,
            })
        });
        routes.collect()
    }

    pub(super) fn binding(&self) -> &Subscribe {
        &self.binding
    }

    /// What its messages are held to, if to anything.
    pub(super) fn typed(&self) -> Option<&Typed> {
        self.typed.as_deref()
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Calls the handler with a request. Overloaded, at once, if too much waits for this binding and its principal holds
    /// most of that, now or before it has begun to run.
    pub(super) async fn ask(&self, message: Message) -> Result<Bytes, Failure> {
        let overloaded = || {
            event("refused", 1);
            Failure::Overloaded { retry_ms: RETRY_MS }
        };
        let (place, evicted) = self.requests.enter(&message.principal, message.size()).ok_or_else(overloaded)?;
        let answer = self.inbox.responder.clone().call(self.handler.clone(), message, Some(place));
        tokio::select! {
            biased;
            answer = answer => answer,
            () = evicted.wait() => Err(overloaded()),
        }
    }

    /// Queues a publication and sees to it that somebody works on it. False: there was no room for it.
    pub(super) fn enqueue(self: &Arc<Self>, message: Message) -> bool {
        let mut queue = self.inbox.queue.lock().expect("no panic under this lock");
        let (principal, size) = (message.principal.clone(), message.size());
        match queue.fair.push_in(self.class, principal, size, (self.clone(), message)) {
            Pushed::Queued => {}
            Pushed::Evicted(lost) => {
                event("lost", lost.len() as u64);
                tracing::warn!(
                    topic = %lost[0].1.topic, lost = lost.len(), principal = %lost[0].1.principal,
                    "queue over budget: newest publications of the heaviest principal dropped"
                );
            }
            Pushed::Refused(_) => {
                event("refused", 1);
                return false;
            }
        }
        self.inbox.hire(&mut queue);
        true
    }
}

impl Inbox {
    /// One worker more, if there may be.
    fn hire(self: &Arc<Self>, queue: &mut Queue) {
        if queue.workers < WORKERS {
            queue.workers += 1;
            tokio::spawn(self.clone().work());
        }
    }

    /// Publications that wait or are being handled.
    pub(super) fn pending(&self) -> usize {
        let queue = self.queue.lock().expect("no panic under this lock");
        queue.fair.len() + queue.workers
    }

    /// Bytes that wait, and for how many principals.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let queue = self.queue.lock().expect("no panic under this lock");
        (queue.fair.bytes(), queue.fair.active())
    }

    async fn work(self: Arc<Self>) {
        while let Some((route, message)) = self.next() {
            let (topic, principal) = (message.topic.clone(), message.principal.clone());
            if let Err(failure) = self.responder.clone().call(route.handler.clone(), message, None).await {
                if matches!(failure, Failure::Overloaded { .. }) {
                    event("lost", 1);
                }
                tracing::warn!(%topic, %principal, failure = failure.kind(), "a publication's handler failed");
            }
            if route.binding.ordered {
                self.queue.lock().expect("no panic under this lock").fair.release(&principal);
            }
        }
    }

    /// The next publication; none, and one worker less, if nothing may be handled now.
    fn next(self: &Arc<Self>) -> Option<(Arc<Route>, Message)> {
        let mut queue = self.queue.lock().expect("no panic under this lock");
        let next = queue.fair.pop();
        let starved = queue.fair.take_starved();
        match &next {
            Some((principal, (route, _))) if !route.binding.ordered => {
                queue.fair.release(principal);
                // Workers that found nothing because this waited behind one in order are gone.
                if queue.fair.is_ready() {
                    self.hire(&mut queue);
                }
            }
            Some(_) => {}
            None => queue.workers -= 1,
        }
        drop(queue);
        if starved > 0 {
            metrics::counter!("astrid_bus_starved_rounds_total").increment(starved);
        }
        next.map(|(_, item)| item)
    }
}
