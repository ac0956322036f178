//! What waits for the handlers of one generation of a capsule, and who works on it.
//!
//! Owns the order: publications of one principal are handled one after the other whatever binding they came by (unless
//! that says otherwise), principals take turns. Bounded by each binding's byte budget and [`WORKERS`].
//! Refuses to know what a handler is.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use astrid_capsule::PrincipalId;
use astrid_capsule::manifest::Subscribe;
use bytes::Bytes;

use super::fair::{FairQueue, Pushed};
use super::typed::Typed;
use super::waiting::Waiting;
use super::{Config, Failure, Message, RETRY_MS, Responder, events};

/// Publications that one generation has in flight at once.
pub(super) const WORKERS: usize = 16;
/// Principals that one worker serves one after the other before it gets help: a worker costs more than a short call.
const TURNS_PER_WORKER: usize = 8;

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
    fair: FairQueue<PrincipalId, (Arc<Route>, Arc<Message>)>,
    workers: usize,
    /// Workers whose handler waits for something.
    waiting: usize,
}

/// What a worker is done with.
struct Done {
    message: Arc<Message>,
    /// Its principal's next may be handled now, and not before.
    ordered: bool,
    waited: bool,
}

impl Route {
    /// The routes of a generation: one for each of its bindings that has a handler.
    pub fn all(responder: Arc<dyn Responder>, bindings: &[Subscribe], config: &Config) -> Vec<Arc<Self>> {
        let budget = |binding: &Subscribe| binding.queue_bytes.unwrap_or(config.queue_bytes);
        let handled: Vec<(&Subscribe, &String)> =
            bindings.iter().filter_map(|binding| Some((binding, binding.handler.as_ref()?))).collect();
        let fair = FairQueue::with_budgets(handled.iter().map(|(binding, _)| budget(binding)));
        let types: Vec<_> = handled.iter().map(|(binding, _)| responder.typed(&binding.topic)).collect();
        let inbox = Arc::new(Inbox { responder, queue: Mutex::new(Queue { fair, workers: 0, waiting: 0 }) });
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

    /// Bytes of publications that wait for any handler of its generation.
    pub fn queued_bytes(&self) -> usize {
        self.inbox.waiting().0
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Calls the handler with a request. Overloaded, at once, if too much waits for this binding and its principal holds
    /// most of that, now or before it has begun to run.
    pub(super) async fn ask(&self, message: Message) -> Result<Bytes, Failure> {
        let overloaded = || {
            events("refused").increment(1);
            Failure::Overloaded { retry_ms: RETRY_MS }
        };
        let (place, evicted) = self.requests.enter(&message.principal, message.size()).ok_or_else(overloaded)?;
        let answer = self.inbox.responder.clone().call(self.handler.clone(), Arc::new(message), Some(place));
        tokio::select! {
            biased;
            answer = answer => answer,
            () = evicted.wait() => Err(overloaded()),
        }
    }

    /// Queues a publication and sees to it that somebody works on it. False: there was no room for it.
    pub(super) fn enqueue(self: Arc<Self>, message: Arc<Message>) -> bool {
        let (inbox, class) = (self.inbox.clone(), self.class);
        let (principal, size) = (message.principal.clone(), message.size());
        let mut queue = inbox.queue.lock().expect("no panic under this lock");
        match queue.fair.push_in(class, principal, size, (self, message)) {
            Pushed::Queued => {}
            Pushed::Evicted(lost) => {
                events("lost").increment(lost.len() as u64);
                tracing::warn!(
                    topic = %lost[0].1.topic, lost = lost.len(), principal = %lost[0].1.principal,
                    "queue over budget: newest publications of the heaviest principal dropped"
                );
            }
            Pushed::Refused(_) => {
                events("refused").increment(1);
                return false;
            }
        }
        inbox.take_on(queue);
        true
    }
}

impl Inbox {
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
        let mut done = None;
        while let Some((route, message)) = self.next(done) {
            let (outcome, waited) = self.call(&route, message.clone()).await;
            if let Err(failure) = outcome {
                if matches!(failure, Failure::Overloaded { .. }) {
                    events("lost").increment(1);
                }
                let (topic, principal) = (&message.topic, &message.principal);
                tracing::warn!(%topic, %principal, failure = failure.kind(), "a publication's handler failed");
            }
            done = Some(Done { message, ordered: route.binding.ordered, waited });
            // Handlers that never wait must not keep the thread from everybody else while the queue is refilled.
            tokio::task::consume_budget().await;
        }
    }

    /// Calls the handler. True: it waited, and this worker counts as one that waits. If the handler panics, its message is
    /// what is lost, not the worker.
    async fn call(self: &Arc<Self>, route: &Route, message: Arc<Message>) -> (Result<Bytes, Failure>, bool) {
        let mut call = pin!(async { self.responder.clone().call(route.handler.clone(), message, None).await });
        let mut waited = false;
        let answer = poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
            let polled = polled.unwrap_or(Poll::Ready(Err(Failure::Trapped)));
            if polled.is_pending() && !waited {
                waited = true;
                let mut queue = self.queue.lock().expect("no panic under this lock");
                queue.waiting += 1;
                self.take_on(queue);
            }
            polled
        });
        (answer.await, waited)
    }

    /// Takes on a worker if there is too much for those that get on.
    fn take_on(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        let busy = queue.workers - queue.waiting;
        if queue.workers < WORKERS && queue.fair.ready() > busy * TURNS_PER_WORKER {
            queue.workers += 1;
            drop(queue);
            tokio::spawn(self.clone().work());
        }
    }

    /// The next publication; none, and one worker less, if nothing may be handled now.
    fn next(&self, done: Option<Done>) -> Option<(Arc<Route>, Arc<Message>)> {
        let mut queue = self.queue.lock().expect("no panic under this lock");
        if let Some(done) = done {
            queue.waiting -= usize::from(done.waited);
            if done.ordered {
                queue.fair.release(&done.message.principal);
            }
        }
        let next = queue.fair.pop();
        let starved = queue.fair.take_starved();
        match &next {
            Some((principal, (route, _))) if !route.binding.ordered => queue.fair.release(principal),
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
