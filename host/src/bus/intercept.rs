//! Interceptors: capsules that see a message before anybody gets it, and pass, replace or deny it.
//!
//! Owns their order, what becomes of a message by each verdict, and what becomes of it when an interceptor fails.
//! Bounded by the message's time; costs the interceptions that match, and nothing where there are none.
//! Refuses to know: wasm, what is in a payload, who may install an interceptor.

use std::sync::Arc;

use astrid_capsule::Topic;
use astrid_capsule::manifest::{Fail, Intercept};
use bytes::Bytes;
use metrics::{Counter, counter};

use super::routes::Index;
use super::{Failure, Message};
use crate::Boxed;

/// What an interceptor says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Goes on with this payload.
    Replace(Bytes),
    /// Ends with this reason, which the sender is told.
    Deny(String),
}

/// Whatever can be asked about a message: a generation of a capsule.
pub trait Interceptor: Send + Sync {
    /// Asks the named interceptor. Ends by the message's deadline, whatever it does.
    fn intercept(self: Arc<Self>, handler: Arc<str>, message: Message) -> Boxed<'static, Result<Verdict, Failure>>;
}

/// Stands in for a capsule that is installed and not running: what it denies when it runs must not pass without it.
pub struct Absent;

impl Interceptor for Absent {
    fn intercept(self: Arc<Self>, _: Arc<str>, _: Message) -> Boxed<'static, Result<Verdict, Failure>> {
        Box::pin(std::future::ready(Err(Failure::NoResponder)))
    }
}

/// One `[[intercept]]` of an installed capsule.
pub struct Interception {
    capsule: Arc<str>,
    handler: Arc<str>,
    declared: Intercept,
    interceptor: Arc<dyn Interceptor>,
    figures: Figures,
}

/// Handles of this capsule's series, looked up once.
struct Figures {
    pass: Counter,
    replace: Counter,
    deny: Counter,
    failed: Counter,
}

impl Interception {
    pub fn new(capsule: Arc<str>, declared: Intercept, interceptor: Arc<dyn Interceptor>) -> Self {
        let verdict =
            |verdict| counter!("astrid_interceptions_total", "capsule" => capsule.to_string(), "verdict" => verdict);
        let figures = Figures {
            pass: verdict("pass"),
            replace: verdict("replace"),
            deny: verdict("deny"),
            failed: verdict("failed"),
        };
        Self { handler: declared.handler.as_str().into(), capsule, declared, interceptor, figures }
    }

    /// What goes on to the next interceptor: the message's payload, or another. `limit`: bytes of a payload.
    fn judge(&self, outcome: Result<Verdict, Failure>, message: &Message, limit: usize) -> Result<Bytes, Failure> {
        match outcome {
            Ok(Verdict::Pass) => {
                self.figures.pass.increment(1);
                Ok(message.payload.clone())
            }
            Ok(Verdict::Replace(payload)) if payload.len() <= limit => {
                self.figures.replace.increment(1);
                Ok(payload)
            }
            Ok(Verdict::Replace(_)) => self.failed(message, &format!("answered with more than {limit} bytes")),
            Ok(Verdict::Deny(reason)) => {
                self.figures.deny.increment(1);
                Err(Failure::Denied(reason))
            }
            Err(Failure::Timeout) => self.failed(message, "took too long"),
            Err(Failure::Overloaded { .. }) => self.failed(message, "found no room to run"),
            Err(Failure::NoResponder) => self.failed(message, "is not running"),
            Err(_) => self.failed(message, "died"),
        }
    }

    fn failed(&self, message: &Message, how: &str) -> Result<Bytes, Failure> {
        self.figures.failed.increment(1);
        let (capsule, topic) = (&*self.capsule, &message.topic);
        match self.declared.fail {
            Fail::Closed => {
                tracing::warn!(capsule, %topic, "an interceptor {how}; the message was denied");
                Err(Failure::Denied(format!("the interceptor `{capsule}` {how}, and nothing passes without it")))
            }
            Fail::Open => {
                tracing::warn!(capsule, %topic, "an interceptor {how}; the message went on without it");
                Ok(message.payload.clone())
            }
        }
    }
}

/// All interceptions, by topic. Immutable; a change builds a new one.
pub struct Interceptions {
    /// Each with its place in the order.
    index: Index<(usize, Arc<Interception>)>,
    empty: bool,
}

impl Interceptions {
    /// Orders them by priority, then by capsule id, then as they came.
    pub fn new(interceptions: impl IntoIterator<Item = Interception>) -> Self {
        let mut all: Vec<Arc<Interception>> = interceptions.into_iter().map(Arc::new).collect();
        all.sort_by(|a, b| (a.declared.priority, &a.capsule).cmp(&(b.declared.priority, &b.capsule)));
        let empty = all.is_empty();
        let placed = all.into_iter().enumerate();
        Self { index: Index::new(placed.map(|(place, one)| (one.declared.topic.clone(), (place, one)))), empty }
    }

    /// Those that a message of `sender` on this topic meets, in their order. A capsule does not meet itself.
    pub fn of(&self, topic: &Topic, sender: &str) -> Chain {
        if self.empty {
            return Chain(Vec::new());
        }
        let mut met = self.index.matches(topic);
        met.retain(|(_, one)| &*one.capsule != sender);
        met.sort_unstable_by_key(|(place, _)| *place);
        Chain(met.into_iter().map(|(_, one)| one.clone()).collect())
    }
}

/// The interceptors that one message meets, in their order.
pub struct Chain(Vec<Arc<Interception>>);

impl Chain {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks one after the other. The payload that the message goes on with, or why it does not go on. `limit`: bytes of a
    /// payload.
    pub async fn run(self, mut message: Message, limit: usize) -> Result<Bytes, Failure> {
        for one in self.0 {
            let outcome = one.interceptor.clone().intercept(one.handler.clone(), message.clone()).await;
            message.payload = one.judge(outcome, &message, limit)?;
        }
        Ok(message.payload)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use astrid_capsule::{Pattern, PrincipalId};
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::authority::Mandate;
    use crate::bus::Origin;

    const LIMIT: usize = 16;

    /// Always says the same, and remembers what it was asked.
    struct Fake {
        says: Result<Verdict, Failure>,
        seen: Arc<Mutex<Vec<(String, Bytes)>>>,
    }

    impl Interceptor for Fake {
        fn intercept(self: Arc<Self>, handler: Arc<str>, message: Message) -> Boxed<'static, Result<Verdict, Failure>> {
            self.seen.lock().unwrap().push((handler.to_string(), message.payload));
            Box::pin(std::future::ready(self.says.clone()))
        }
    }

    #[derive(Default)]
    struct Scene {
        seen: Arc<Mutex<Vec<(String, Bytes)>>>,
        all: Vec<Interception>,
    }

    impl Scene {
        /// The interceptor is called by `<capsule>/<priority>`.
        fn with(mut self, capsule: &str, priority: u16, fail: Fail, says: Result<Verdict, Failure>) -> Self {
            let topic = Pattern::parse("a.*").unwrap();
            let declared = Intercept { topic, handler: format!("{capsule}/{priority}"), priority, fail };
            let fake = Arc::new(Fake { says, seen: self.seen.clone() });
            self.all.push(Interception::new(capsule.into(), declared, fake));
            self
        }

        /// What comes of a message with the payload `x`, and who saw which payload.
        async fn play(self, topic: &str, sender: &str) -> (Result<Bytes, Failure>, Vec<String>) {
            let message = Message {
                id: 1,
                topic: Topic::parse(topic).unwrap(),
                principal: PrincipalId::anonymous(),
                mandate: Mandate::default(),
                origin: Origin::new(sender, ""),
                target: None,
                payload: Bytes::from_static(b"x"),
                deadline: Instant::now() + Duration::from_secs(5),
                publication: false,
                depth: 1,
                cause: None,
                reply: None,
                rehearsal: false,
                note: None,
            };
            let chain = Interceptions::new(self.all).of(&message.topic, sender);
            let outcome = chain.run(message, LIMIT).await;
            let seen = self.seen.lock().unwrap();
            (outcome, seen.iter().map(|(who, what)| format!("{who} {}", String::from_utf8_lossy(what))).collect())
        }
    }

    fn replace(payload: &'static [u8]) -> Result<Verdict, Failure> {
        Ok(Verdict::Replace(Bytes::from_static(payload)))
    }

    const PASS: Result<Verdict, Failure> = Ok(Verdict::Pass);

    #[tokio::test]
    async fn the_lower_priority_runs_first_and_capsule_ids_break_ties() {
        let scene = Scene::default()
            .with("b", 100, Fail::Closed, replace(b"2"))
            .with("c", 0, Fail::Closed, replace(b"1"))
            .with("a", 100, Fail::Closed, PASS)
            .with("a", 1000, Fail::Closed, replace(b"3"));
        let (outcome, seen) = scene.play("a.b", "s").await;
        assert_eq!(seen, ["c/0 x", "a/100 1", "b/100 1", "a/1000 2"]);
        assert_eq!(outcome.unwrap(), "3");
    }

    #[tokio::test]
    async fn a_denial_ends_it_with_its_reason_and_nobody_later_is_asked() {
        let deny = Ok(Verdict::Deny("no".into()));
        let scene = Scene::default().with("a", 1, Fail::Open, deny).with("b", 2, Fail::Closed, PASS);
        assert_eq!(scene.play("a.b", "s").await, (Err(Failure::Denied("no".into())), vec!["a/1 x".into()]));
    }

    #[tokio::test]
    async fn one_that_fails_denies_and_is_named_or_is_passed_over_as_it_declares() {
        let ways = [
            (Err(Failure::Trapped), "died"),
            (Err(Failure::Timeout), "took too long"),
            (Err(Failure::Overloaded { retry_ms: 1 }), "no room"),
            (Err(Failure::NoResponder), "not running"),
            (replace(b"seventeen bytes !"), "more than 16 bytes"),
        ];
        for (says, how) in ways {
            let scene = Scene::default().with("f", 1, Fail::Closed, says.clone()).with("z", 2, Fail::Closed, PASS);
            let (outcome, seen) = scene.play("a.b", "s").await;
            assert!(matches!(&outcome, Err(Failure::Denied(w)) if w.contains("`f`") && w.contains(how)), "{outcome:?}");
            assert_eq!(seen, ["f/1 x"]);

            let scene = Scene::default().with("f", 1, Fail::Open, says).with("z", 2, Fail::Closed, PASS);
            assert_eq!(scene.play("a.b", "s").await, (Ok("x".into()), vec!["f/1 x".into(), "z/2 x".into()]));
        }
        let scene = Scene::default().with("f", 1, Fail::Closed, replace(b"sixteen bytes ok"));
        assert_eq!(scene.play("a.b", "s").await.0.unwrap(), "sixteen bytes ok");
    }

    #[tokio::test]
    async fn a_capsule_does_not_meet_its_own_messages_and_nobody_meets_other_topics() {
        let scene = || Scene::default().with("a", 1, Fail::Closed, PASS).with("b", 2, Fail::Closed, PASS);
        assert_eq!(scene().play("a.b", "a").await.1, ["b/2 x"]);
        assert_eq!(scene().play("a.b", "b").await.1, ["a/1 x"]);
        assert!(scene().play("b.a", "s").await.1.is_empty());
    }

    #[tokio::test]
    async fn what_an_absent_capsule_would_judge_does_not_pass_unless_it_says_so() {
        for (fail, passes) in [(Fail::Closed, false), (Fail::Open, true)] {
            let mut scene = Scene::default().with("a", 1, fail, PASS);
            scene.all[0].interceptor = Arc::new(Absent);
            assert_eq!(scene.play("a.b", "s").await.0.is_ok(), passes);
        }
    }

    proptest! {
        #[test]
        fn however_they_come_the_order_is_the_same(
            chosen in prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), 0_u16..4), 0..8),
        ) {
            let order = |chosen: &[(&str, u16)]| {
                let scene = chosen.iter().fold(Scene::default(), |s, (c, p)| s.with(c, *p, Fail::Closed, PASS));
                let Chain(chain) = Interceptions::new(scene.all).of(&Topic::parse("a.b").unwrap(), "s");
                chain.iter().map(|one| (one.declared.priority, one.capsule.to_string())).collect::<Vec<_>>()
            };
            let found = order(&chosen);
            let mut expected: Vec<_> = chosen.iter().map(|(c, p)| (*p, (*c).to_owned())).collect();
            expected.sort();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(order(&chosen.iter().rev().copied().collect::<Vec<_>>()), expected);
        }
    }
}
