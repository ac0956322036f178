//! Requests that wait for an instance, under their binding's byte budget.
//!
//! Owns who of those that wait has to go when there is no room for one more: the newest of whoever holds most bytes, or
//! the newcomer if that would be the heaviest. Whoever has to go is told at once.
//! Bounded by the budget, or one request that is larger. Refuses to know what a request is, and who runs it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use astrid_capsule::PrincipalId;
use tokio::sync::oneshot;

/// The requests of one binding.
pub struct Waiting {
    budget: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    serial: u64,
    principals: HashMap<PrincipalId, Line>,
}

/// A principal's requests, the newest last.
#[derive(Default)]
struct Line {
    bytes: usize,
    requests: Vec<Request>,
}

struct Request {
    serial: u64,
    bytes: usize,
    /// Told when it has to go.
    go: oneshot::Sender<()>,
}

/// A request's place, given up when this is dropped: when its call has an instance, or nobody wants it any more.
pub struct Place {
    waiting: Arc<Waiting>,
    principal: PrincipalId,
    serial: u64,
}

/// Where a request learns that it has to go.
pub struct Evicted(oneshot::Receiver<()>);

impl Evicted {
    /// Ends when the place has been taken away; never if it was given up.
    pub async fn wait(self) {
        if self.0.await.is_err() {
            std::future::pending().await
        }
    }
}

impl Waiting {
    /// `budget`: the bytes of requests that may wait.
    pub fn new(budget: usize) -> Arc<Self> {
        Arc::new(Self { budget, held: Mutex::default() })
    }

    /// A place for a request of `bytes`, if there is room for it or can be made.
    pub fn enter(self: &Arc<Self>, principal: &PrincipalId, bytes: usize) -> Option<(Place, Evicted)> {
        let mut held = self.held.lock().expect("no panic under this lock");
        let victims = held.make_room(principal, bytes, self.budget)?;
        held.serial += 1;
        held.bytes += bytes;
        let (go, evicted) = oneshot::channel();
        let serial = held.serial;
        let line = held.principals.entry(principal.clone()).or_default();
        line.bytes += bytes;
        line.requests.push(Request { serial, bytes, go });
        drop(held);
        for victim in victims {
            let _ = victim.go.send(());
        }
        Some((Place { waiting: self.clone(), principal: principal.clone(), serial }, Evicted(evicted)))
    }
}

impl Held {
    /// What has to go for `bytes` more of `principal`; none, and nothing goes, if it would be the heaviest itself.
    fn make_room(&mut self, principal: &PrincipalId, bytes: usize, budget: usize) -> Option<Vec<Request>> {
        if self.bytes == 0 {
            return Some(Vec::new());
        }
        if bytes > budget {
            return None;
        }
        let own = self.principals.get(principal).map_or(0, |line| line.bytes) + bytes;
        let mut victims = Vec::new();
        while self.bytes + bytes > budget {
            // Ties go to the smaller id, so that a run can be repeated.
            let heaviest = self.principals.iter().map(|(id, line)| (line.bytes, Reverse(id))).max();
            let (most, id) = heaviest.map(|(most, Reverse(id))| (most, id.clone()))?;
            if most <= own {
                self.restore(victims);
                return None;
            }
            let request = self.principals.get_mut(&id)?.requests.last()?.serial;
            victims.extend(self.remove(&id, request).map(|request| (id, request)));
        }
        Some(victims.into_iter().map(|(_, request)| request).collect())
    }

    fn restore(&mut self, victims: Vec<(PrincipalId, Request)>) {
        for (id, request) in victims.into_iter().rev() {
            self.bytes += request.bytes;
            let line = self.principals.entry(id).or_default();
            line.bytes += request.bytes;
            line.requests.push(request);
        }
    }

    fn remove(&mut self, id: &PrincipalId, serial: u64) -> Option<Request> {
        let line = self.principals.get_mut(id)?;
        let at = line.requests.iter().rposition(|request| request.serial == serial)?;
        let request = line.requests.remove(at);
        line.bytes -= request.bytes;
        self.bytes -= request.bytes;
        if line.requests.is_empty() {
            self.principals.remove(id);
        }
        Some(request)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing to remove if it was taken away.
        self.waiting.held.lock().expect("no panic under this lock").remove(&self.principal, self.serial);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> PrincipalId {
        PrincipalId::parse(text).unwrap()
    }

    /// Whether it has been told to go by now.
    fn told(evicted: &mut Evicted) -> bool {
        evicted.0.try_recv().is_ok()
    }

    #[test]
    fn whoever_holds_most_goes_first_with_its_newest_and_the_heaviest_gets_no_place() {
        let waiting = Waiting::new(100);
        let (_first, mut first) = waiting.enter(&id("flood"), 40).unwrap();
        let (_second, mut second) = waiting.enter(&id("flood"), 40).unwrap();
        let (polite, mut third) = waiting.enter(&id("polite"), 30).unwrap();
        assert_eq!((told(&mut first), told(&mut second), told(&mut third)), (false, true, false));
        assert!(waiting.enter(&id("flood"), 40).is_none());
        drop(polite);
        assert!(waiting.enter(&id("flood"), 40).is_some());
        assert!(waiting.enter(&id("huge"), 101).is_none());
    }

    #[test]
    fn one_that_is_larger_than_the_budget_has_a_place_where_nothing_else_waits() {
        let waiting = Waiting::new(100);
        let (_place, mut large) = waiting.enter(&id("large"), 500).unwrap();
        assert!(waiting.enter(&id("large"), 1).is_none() && !told(&mut large));
        assert!(waiting.enter(&id("polite"), 50).is_some() && told(&mut large));
    }

    #[test]
    fn one_that_gets_no_place_in_the_end_costs_nobody_theirs() {
        let waiting = Waiting::new(100);
        let (_a, mut a) = waiting.enter(&id("a"), 50).unwrap();
        let (_b, mut b) = waiting.enter(&id("a"), 10).unwrap();
        let (_c, mut c) = waiting.enter(&id("c"), 40).unwrap();
        assert!(waiting.enter(&id("d"), 55).is_none());
        assert!(!told(&mut a) && !told(&mut b) && !told(&mut c));
        assert_eq!(waiting.held.lock().unwrap().bytes, 100);
    }

    #[tokio::test]
    async fn a_place_that_is_given_up_is_never_taken_away_and_leaves_nothing_behind() {
        let waiting = Waiting::new(100);
        let (place, evicted) = waiting.enter(&id("a"), 60).unwrap();
        drop(place);
        let mut evicted = Box::pin(evicted.wait());
        assert!(waiting.enter(&id("b"), 100).is_some());
        let now = std::future::poll_fn(|context| std::task::Poll::Ready(evicted.as_mut().poll(context).is_ready()));
        assert!(!now.await);
        let held = waiting.held.lock().unwrap();
        assert!(held.bytes == 0 && held.principals.is_empty());
    }

    proptest! {
        /// Against plain lists that do what the rule says, one step after the other.
        #[test]
        fn who_waits_is_what_a_plain_list_says(
            steps in prop::collection::vec((0usize..4, 1usize..60, prop::bool::weighted(0.7)), 1..120)
        ) {
            const BUDGET: usize = 100;
            let waiting = Waiting::new(BUDGET);
            let mut lines: [Vec<(usize, Place, Evicted)>; 4] = Default::default();
            for (who, bytes, enters) in steps {
                if !enters {
                    lines[who].pop();
                    continue;
                }
                let mut model: [Vec<usize>; 4] = lines.each_ref().map(|line| line.iter().map(|one| one.0).collect());
                let held = |model: &[Vec<usize>; 4], who: usize| model[who].iter().sum::<usize>();
                let own = held(&model, who) + bytes;
                let fits = loop {
                    if model.iter().flatten().sum::<usize>() + bytes <= BUDGET {
                        break true;
                    }
                    let heaviest = (0..4).rev().max_by_key(|other| held(&model, *other)).unwrap();
                    if held(&model, heaviest) <= own {
                        break false;
                    }
                    model[heaviest].pop();
                };
                let entered = waiting.enter(&id(["a", "b", "c", "d"][who]), bytes);
                prop_assert_eq!(entered.is_some(), fits);
                for (line, left) in lines.iter_mut().zip(&model) {
                    if fits {
                        line.drain(left.len()..).for_each(|(.., mut evicted)| assert!(told(&mut evicted)));
                    }
                    prop_assert!(line.iter_mut().all(|(.., evicted)| !told(evicted)));
                }
                lines[who].extend(entered.map(|(place, evicted)| (bytes, place, evicted)));
                let bytes: usize = lines.iter().flatten().map(|one| one.0).sum();
                prop_assert_eq!(waiting.held.lock().unwrap().bytes, bytes);
            }
        }
    }
}
