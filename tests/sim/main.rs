//! Seeded simulation: the host's pure cores (fair queue, shares, ledger, routes) together on fake time, with crashes and
//! with callers that give up at any await. A seed names a run and repeats it exactly.
//!
//! `ASTRID_SIM_SEEDS` (200) and `ASTRID_SIM_FROM` (0) say which seeds; `cargo astrid test sim --seeds N --from S` sets
//! them. What fails says how to repeat it.

mod accounts;
mod gate;
mod inbox;
mod reader;
mod rng;
mod world;

use std::env;
use std::ops::RangeInclusive;

use astrid_capsule::manifest::Delivery;
use astrid_capsule::{Pattern, Topic};
use astrid_host::sched::Bounds;

use rng::Rng;
use world::{Capsule, Client, MILLI, Plan, Principal, Subscription, Time, Work, World};

/// Runs every seed that was asked for.
fn each_seed(run: impl Fn(u64)) {
    /// Says how to repeat what just fails.
    struct Replay(u64);
    impl Drop for Replay {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {0} fails; repeat it with: cargo astrid test sim --seeds 1 --from {0}", self.0);
            }
        }
    }
    let number = |name: &str, default| match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} = {text:?} is no number")),
        Err(_) => default,
    };
    let (from, seeds): (u64, u64) = (number("ASTRID_SIM_FROM", 0), number("ASTRID_SIM_SEEDS", 200));
    assert!(seeds > 0, "ASTRID_SIM_SEEDS is 0: nothing would be tested");
    for seed in from..from.saturating_add(seeds) {
        let replay = Replay(seed);
        run(seed);
        drop(replay);
    }
}

/// A host under whatever chance makes of it: bounds tight enough to be met, clients of every kind.
fn anything(seed: u64) -> World {
    let mut rng = Rng::new(seed);
    let topics: Vec<Topic> = ["a.b", "a.c", "a.b.c", "b.a", "b.c.d", "nobody"].map(topic).into();
    let patterns = ["a.*", "a.b", "*.c", "b.*", "b.c.*", "a.*.c", "a.b.c", "b.a"];
    let principals = (0..rng.within(&(2..=6)))
        .map(|_| Principal {
            fuel: rng.percent(70).then(|| rng.within(&(5_000_000..=500_000_000))),
            bytes: rng.percent(70).then(|| rng.within(&(500..=1_000_000))),
            most: rng.within(&(1..=3)) as usize,
        })
        .collect::<Vec<_>>();
    let capsules = (0..rng.within(&(1..=4))).map(|_| Capsule {
        bindings: (0..rng.within(&(1..=3))).map(|_| pattern(patterns[rng.index(patterns.len())])).collect(),
        budget: rng.within(&(2_000..=30_000)) as usize,
        workers: rng.within(&(1..=4)) as usize,
    });
    let capsules = capsules.collect();
    let clients = (0..principals.len() as u64 + rng.within(&(0..=4))).map(|n| Client {
        principal: n as usize % principals.len(),
        front: rng.percent(30),
        every: rng.percent(75).then(|| rng.within(&(100_000..=5 * MILLI))),
        work: Work {
            fuel: 1..=rng.within(&(100_000..=10 * MILLI)),
            timeout: MILLI..=rng.within(&(2 * MILLI..=60 * MILLI)),
            size: 1..=rng.within(&(100..=6_000)),
            publishes: rng.within(&(0..=80)),
            asks: rng.within(&(0..=60)),
            crashes: rng.within(&(0..=30)),
            gives_up: rng.within(&(0..=40)),
        },
    });
    let clients = clients.collect();
    let mut bounds = || Bounds { slots: rng.within(&(1..=5)) as usize, waiting: rng.within(&(0..=12)) as usize };
    let (outer, nested) = (bounds(), bounds());
    let subscriptions = (0..rng.within(&(0..=4))).map(|_| Subscription {
        pattern: pattern(patterns[rng.index(patterns.len())]),
        principal: rng.percent(60).then(|| rng.index(principals.len())),
        delivery: [Delivery::Lossless, Delivery::Lossy, Delivery::Latest][rng.index(3)],
        budget: rng.within(&(6_000..=20_000)) as usize,
        every: rng.within(&(100_000..=20 * MILLI)),
        dies: rng.within(&(0..=20)),
        back: rng.within(&(MILLI..=100 * MILLI)),
    });
    let subscriptions = subscriptions.collect();
    let until = 250 * MILLI;
    let plan = Plan { outer, nested, principals, capsules, subscriptions, topics, clients, until };
    let mut world = World::new(plan, rng);
    world.run();
    world.drain();
    world
}

#[test]
fn whatever_happens_no_bound_is_passed_no_slot_idles_and_every_message_has_one_end() {
    each_seed(|seed| drop(anything(seed)));
}

/// Else the simulation would prove nothing about it.
#[test]
fn every_end_of_a_message_happens() {
    let runs: Vec<World> = (0..20).map(anything).collect();
    let all = |end: fn(&inbox::Fates) -> u64| runs.iter().flat_map(World::fates).map(|fates| end(&fates)).sum::<u64>();
    for end in [all(|f| f.refused), all(|f| f.evicted), all(|f| f.overloaded), all(|f| f.handled)] {
        assert!(end >= 100, "{end}");
    }
    let letters =
        |end: fn(&reader::Fates) -> u64| -> u64 { runs.iter().flat_map(World::letters).map(|fates| end(&fates)).sum() };
    for end in
        [letters(|f| f.read), letters(|f| f.lost), letters(|f| f.replaced), letters(|f| f.held), letters(|f| f.stalled)]
    {
        assert!(end >= 20, "{end}");
    }
}

#[test]
fn a_seed_names_one_run() {
    each_seed(|seed| {
        if seed % 20 == 0 {
            assert_eq!(anything(seed).digest, anything(seed).digest);
        }
    });
}

/// A host with one capsule, without rates, for whoever is always busy.
fn plan(slots: usize, principals: Vec<Principal>, clients: Vec<Client>, until: Time) -> Plan {
    let bounds = Bounds { slots, waiting: 4096 };
    let capsules = vec![Capsule { bindings: vec![pattern("a.*")], budget: 64 << 10, workers: 16 }];
    let (subscriptions, topics) = (Vec::new(), vec![topic("a.b")]);
    Plan { outer: bounds, nested: bounds, principals, capsules, subscriptions, topics, clients, until }
}

/// Calls and publications that end by themselves.
fn steady(fuel: RangeInclusive<u64>, publishes: u64) -> Work {
    Work { fuel, timeout: Time::MAX / 4..=Time::MAX / 4, size: 1..=5_000, publishes, asks: 0, crashes: 0, gives_up: 0 }
}

/// Jain's index: 1 if all have the same, 1/n if one has everything.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / (shares.len() as f64 * squares)
}

fn p99(mut times: Vec<Time>) -> Time {
    times.sort_unstable();
    times[(times.len() * 99).div_ceil(100) - 1]
}

/// Equal principals, each with the same bound of calls at once and always with callers that wait, whose calls are up to
/// 16 times as long as those of others. Each has time for 40 of the longest calls, so that one more or less is no
/// matter.
#[test]
fn principals_that_are_always_busy_get_equal_fuel_however_they_cut_it() {
    each_seed(|seed| {
        let mut rng = Rng::new(seed);
        let (count, most) = (rng.within(&(2..=8)) as usize, rng.within(&(1..=3)) as usize);
        let slots = rng.within(&(1..=(count * most) as u64 - 1)) as usize;
        let longest = 16 * MILLI;
        let until = 40 * longest * count as Time / slots as Time;
        let principals = (0..count).map(|_| Principal { fuel: None, bytes: None, most }).collect();
        // In every other run there are only the two extremes.
        let (step, steps) = if rng.percent(50) { (4, 1) } else { (1, 4) };
        let clients = (0..count).flat_map(|principal| {
            let call = longest >> (step * rng.within(&(0..=steps)));
            let client = Client { principal, front: false, every: None, work: steady(call / 2..=call, 0) };
            vec![client; most + slots]
        });
        let clients = clients.collect();
        let mut world = World::new(plan(slots, principals, clients, until), rng);
        world.run();
        let shares: Vec<f64> = (0..count).map(|principal| world.fuel(principal) as f64).collect();
        let index = jain(&shares);
        assert!(index >= 0.95, "Jain {index:.3} of {shares:?} on {slots} slots, {most} calls at once each");
        world.drain();
    });
}

/// A light tenant comes again after two and a half of the flooder's longest calls at least. By then it has paid its
/// debt, so its tag is the lowest and the next slot is its own: it waits for the end of one call at most (and to wake),
/// however many the flooder has sent; then it takes the time that it takes.
#[test]
fn a_light_tenant_waits_for_one_call_at_most_while_another_floods() {
    each_seed(|seed| {
        let mut rng = Rng::new(seed);
        let slots = rng.within(&(1..=4)) as usize;
        let longest = rng.within(&(2 * MILLI..=20 * MILLI));
        let publishes = rng.within(&(0..=50));
        let until = 120 * 5 * longest;
        let run = |floods: bool| {
            let tenant = || Principal { fuel: None, bytes: None, most: slots };
            let light = Client {
                principal: 0,
                front: false,
                every: Some(5 * longest),
                work: steady(MILLI / 2..=MILLI, publishes),
            };
            let mut clients = vec![light];
            if floods {
                let work = steady(longest / 2..=longest, publishes);
                clients.extend(vec![Client { principal: 1, front: false, every: None, work }; slots + 20]);
            }
            let mut world = World::new(plan(slots, vec![tenant(), tenant()], clients, until), Rng::new(seed));
            world.run();
            world.drain();
            world.seen.swap_remove(0)
        };
        let (idle, flooded) = (run(false), run(true));
        let (idle_p99, flooded_p99) = (p99(idle.took), p99(flooded.took));
        assert!(flooded_p99 <= 3 * idle_p99 + longest, "p99 {flooded_p99} ns, idle {idle_p99}, a call {longest}");
        let waited = p99(flooded.waited);
        assert!(waited <= longest + MILLI, "waited {waited} ns, a call {longest}");
    });
}

fn topic(text: &str) -> Topic {
    Topic::parse(text).expect("a topic")
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("a pattern")
}
