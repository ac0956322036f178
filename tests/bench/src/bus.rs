//! The bus alone: publications through the host's own routes, admission and fair queues to handlers that only count.
//! No wasm, no sockets.
//!
//! The peers are tokio's channels, which know neither topics nor principals: one broadcast channel, and one mpsc channel
//! for each subscriber. All three carry topic, principal and payload, and publishers wait for subscribers in the same
//! way. Work of the process is counted as a whole: publishing, queueing, handling.

use std::future::{Future, ready};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use astrid_capsule::manifest::Subscribe;
use astrid_capsule::{Pattern, PrincipalId, Topic};
use astrid_host::Boxed;
use astrid_host::authority::{Authority, Change, Mandate, Standing};
use astrid_host::bus::waiting::Place;
use astrid_host::bus::{Bus, Config, Failure, Message, Origin, Outgoing, Responder, Route, Sender};
use astrid_host::observe;
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::report::Report;
use crate::{Setup, median, quantile, usage};

/// Measured rounds of each kind, after one that does not count.
const ROUNDS: usize = 5;
/// Deliveries of one round.
const DELIVERIES: u64 = 400_000;
const TOPIC: &str = "bench.v1.tick";
const PAYLOAD: &[u8] = &[b'x'; 256];
/// Many principals.
const MANY: usize = 5000;
/// Publications between two looks of a publisher, or of a subscriber, at how far the others are.
const BURST: u32 = 32;
/// Publications under way, for each subscriber on average.
const WINDOW: u32 = 1024;
/// Room for all of them, so that nothing is lost where loss is not the question.
const ROOMY: usize = 64 << 20;
const MPSC: &str = "tokio mpsc";
const BROADCAST: &str = "tokio broadcast";

/// Who takes part in a round.
#[derive(Clone, Copy)]
struct Cast {
    publishers: usize,
    subscribers: usize,
    principals: usize,
    /// Routes that match nothing.
    others: usize,
}

const CAST: Cast = Cast { publishers: 1, subscribers: 1, principals: 1, others: 0 };

/// Deliveries a second.
pub(crate) fn deliver(_: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let crowd = Cast { publishers: 4, subscribers: 16, ..CAST };
    let casts = [
        ("1to1", CAST),
        ("1to1.5000", Cast { principals: MANY, ..CAST }),
        ("4to16", crowd),
        ("4to16.5000", Cast { principals: MANY, ..crowd }),
    ];
    let mut samples: [[Vec<Sample>; 3]; 4] = Default::default();
    for _ in 0..=ROUNDS {
        for ((_, cast), [bus, mpsc, broadcast]) in casts.iter().zip(&mut samples) {
            bus.push(round::<Bus>(&runtime, *cast)?);
            mpsc.push(round::<Mpsc>(&runtime, *cast)?);
            broadcast.push(round::<Broadcast>(&runtime, *cast)?);
        }
    }
    for ((name, _), ways) in casts.iter().zip(&samples) {
        let [bus, mpsc, broadcast] = ways.each_ref().map(|samples| Sample::median(samples));
        let name = format!("bus.deliver.{name}");
        report.add_beside(&name, bus.rate, "/s", MPSC, mpsc.rate);
        report.add_beside(format!("{name}.cpu"), bus.per_cpu, "/CPU s", MPSC, mpsc.per_cpu);
        report.add_beside(format!("{name}.cpu.broadcast"), bus.per_cpu, "/CPU s", BROADCAST, broadcast.per_cpu);
    }
    Ok(())
}

/// What a publication costs among few routes that it does not match, and among many.
pub(crate) fn routes(_: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        few.push(round::<Bus>(&runtime, Cast { others: 10, ..CAST })?);
        many.push(round::<Bus>(&runtime, Cast { others: 10_000, ..CAST })?);
    }
    let [few, many] = [few, many].map(|samples| 1e9 / Sample::median(&samples).per_cpu);
    report.add_beside("bus.routes.10000", many, "CPU ns", "10 routes", few);
    Ok(())
}

fn runtime() -> anyhow::Result<Runtime> {
    // Counters cost what they cost in the daemon.
    observe::install();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// One round.
struct Sample {
    /// Deliveries per second.
    rate: f64,
    /// Deliveries per second of CPU time.
    per_cpu: f64,
}

impl Sample {
    /// Each figure's median, without the first round.
    fn median(samples: &[Sample]) -> Sample {
        let of = |figure: fn(&Sample) -> f64| median(samples[1..].iter().map(figure));
        Sample { rate: of(|s| s.rate), per_cpu: of(|s| s.per_cpu) }
    }
}

/// A way for messages to get from publishers to subscribers.
trait Way: Sized + Send + Sync + 'static {
    /// Sets the subscribers up; each tells `flow` of what it gets.
    fn open(cast: Cast, principals: &[PrincipalId], flow: &Arc<Flow>) -> anyhow::Result<Self>;
    /// Hands a message to all subscribers.
    fn send(&self, topic: &Topic, principal: &PrincipalId) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Who has got how much, and who may go on.
struct Flow {
    /// Publications of the round.
    publications: u64,
    got: Vec<Got>,
    /// Room for deliveries.
    room: Semaphore,
    /// Subscribers that have got everything.
    done: Semaphore,
}

/// One subscriber's count, which shares its cache line with nobody's.
#[derive(Default)]
#[repr(align(64))]
struct Got(AtomicU64);

impl Flow {
    fn got(&self, subscriber: usize) {
        let got = self.got[subscriber].0.fetch_add(1, Ordering::Relaxed) + 1;
        if got.is_multiple_of(BURST.into()) {
            self.room.add_permits(BURST as usize);
        }
        if got == self.publications {
            self.done.add_permits(1);
        }
    }
}

fn round<W: Way>(runtime: &Runtime, cast: Cast) -> anyhow::Result<Sample> {
    let deliveries = cast.subscribers as u32;
    let flow = Arc::new(Flow {
        publications: DELIVERIES / cast.subscribers as u64,
        got: (0..cast.subscribers).map(|_| Got::default()).collect(),
        room: Semaphore::new((WINDOW * deliveries) as usize),
        done: Semaphore::new(0),
    });
    let topic = Topic::parse(TOPIC)?;
    let principals: Arc<[PrincipalId]> = people(cast.principals)?.into();
    runtime.block_on(async {
        let way = Arc::new(W::open(cast, &principals, &flow)?);
        let (began, before) = (Instant::now(), usage::own_cpu());
        let mut publishers = JoinSet::new();
        for publisher in 0..cast.publishers {
            let (way, flow, topic, principals) = (way.clone(), flow.clone(), topic.clone(), principals.clone());
            let mine = (publisher as u64..flow.publications).step_by(cast.publishers);
            publishers.spawn(async move {
                for (n, serial) in mine.enumerate() {
                    if (n as u32).is_multiple_of(BURST) {
                        flow.room.acquire_many(BURST * deliveries).await?.forget();
                    }
                    way.send(&topic, &principals[serial as usize % principals.len()]).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(published) = publishers.join_next().await {
            published??;
        }
        flow.done.acquire_many(deliveries).await?.forget();
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), (usage::own_cpu() - before).as_secs_f64());
        Ok(Sample { rate: DELIVERIES as f64 / seconds, per_cpu: DELIVERIES as f64 / cpu })
    })
}

fn people(number: usize) -> anyhow::Result<Vec<PrincipalId>> {
    (0..number).map(|n| Ok(PrincipalId::parse(&format!("principal-{n}"))?)).collect()
}

impl Way for Bus {
    fn open(cast: Cast, principals: &[PrincipalId], flow: &Arc<Flow>) -> anyhow::Result<Self> {
        /// Counts what it gets.
        struct Counter {
            subscriber: usize,
            flow: Arc<Flow>,
        }
        impl Responder for Counter {
            fn call(
                self: Arc<Self>,
                _: Arc<str>,
                _: Arc<Message>,
                _: Option<Place>,
            ) -> Boxed<'static, Result<Bytes, Failure>> {
                self.flow.got(self.subscriber);
                Box::pin(ready(Ok(Bytes::new())))
            }
        }
        let counters = (0..cast.subscribers).map(|subscriber| Arc::new(Counter { subscriber, flow: flow.clone() }));
        bus(ROOMY, principals, counters, cast.others)
    }

    async fn send(&self, topic: &Topic, principal: &PrincipalId) -> anyhow::Result<()> {
        let taken = publish(self, topic.as_str(), principal, Bytes::from_static(PAYLOAD)).await?;
        ensure!(taken > 0, "nobody took a message");
        Ok(())
    }
}

/// A bus with one capsule for each responder, all bound to the topic, and as many bindings besides that match nothing.
fn bus<R: Responder + 'static>(
    queue_bytes: usize,
    principals: &[PrincipalId],
    responders: impl IntoIterator<Item = Arc<R>>,
    others: usize,
) -> anyhow::Result<Bus> {
    let standing = |id: &PrincipalId| Change::SetPrincipal(id.clone(), Standing::new(true, vec![], vec![], vec![]));
    let authority = Arc::new(Authority::new());
    authority.apply(1, principals.iter().map(standing).collect());
    let bus = Bus::new(Config { queue_bytes, ..Config::default() }, authority);
    let tick = |topic: &str| anyhow::Ok(Subscribe::handled(Pattern::parse(topic)?, "tick"));
    let mut bindings = vec![tick(TOPIC)?];
    for n in 0..others {
        // Neighbours of the topic, so that a lookup meets them.
        bindings.push(tick(&if n % 2 == 0 { format!("bench.v1.n{n}") } else { format!("bench.n{n}.*") })?);
    }
    // What matches nothing belongs to the first.
    let of = |(n, responder)| Route::all(responder, if n == 0 { &bindings[..] } else { &bindings[..1] }, bus.config());
    bus.set_routes(responders.into_iter().map(|r| r as Arc<dyn Responder>).enumerate().flat_map(of), [], []);
    Ok(bus)
}

/// As a capsule's publication comes to the bus. Returns how many took it.
async fn publish(bus: &Bus, topic: &str, principal: &PrincipalId, payload: Bytes) -> anyhow::Result<u32> {
    let sender = Sender {
        principal: principal.clone(),
        mandate: Mandate::default(),
        origin: Origin::new("bench", ""),
        deadline: tokio::time::Instant::now() + Duration::from_secs(10),
        depth: 0,
        cause: None,
        rehearsal: false,
    };
    let outgoing = Outgoing { topic: topic.to_owned(), payload, ..Outgoing::default() };
    bus.publish(sender, outgoing).await.map_err(|failure| anyhow!("{topic}: {failure:?}"))
}

/// What the peers carry.
type Parcel = (Topic, PrincipalId, Bytes);

struct Mpsc(Vec<mpsc::Sender<Parcel>>);

impl Way for Mpsc {
    fn open(cast: Cast, _: &[PrincipalId], flow: &Arc<Flow>) -> anyhow::Result<Self> {
        let subscribe = |subscriber| {
            let (sender, mut receiver) = mpsc::channel(WINDOW as usize);
            let flow = flow.clone();
            tokio::spawn(async move {
                while receiver.recv().await.is_some() {
                    flow.got(subscriber);
                }
            });
            sender
        };
        Ok(Self((0..cast.subscribers).map(subscribe).collect()))
    }

    async fn send(&self, topic: &Topic, principal: &PrincipalId) -> anyhow::Result<()> {
        for subscriber in &self.0 {
            subscriber.send((topic.clone(), principal.clone(), Bytes::from_static(PAYLOAD))).await?;
        }
        Ok(())
    }
}

struct Broadcast(broadcast::Sender<Parcel>);

impl Way for Broadcast {
    fn open(cast: Cast, _: &[PrincipalId], flow: &Arc<Flow>) -> anyhow::Result<Self> {
        // Even if all that is under way waits for the same one.
        let (sender, _) = broadcast::channel(WINDOW as usize * cast.subscribers);
        for subscriber in 0..cast.subscribers {
            let (mut receiver, flow) = (sender.subscribe(), flow.clone());
            tokio::spawn(async move {
                while receiver.recv().await.is_ok() {
                    flow.got(subscriber);
                }
            });
        }
        Ok(Self(sender))
    }

    async fn send(&self, topic: &Topic, principal: &PrincipalId) -> anyhow::Result<()> {
        self.0.send((topic.clone(), principal.clone(), Bytes::from_static(PAYLOAD)))?;
        Ok(())
    }
}

/// Polite principals beside one that floods.
const POLITE: usize = 100;
/// A polite publication of how many principals every millisecond: of each, one in ten.
const TURN: usize = POLITE / 10;
/// How long one message keeps its handler busy.
const WORK: Duration = Duration::from_micros(5);
const FLOOD: Duration = Duration::from_secs(1);
const FIFO: &str = "first come, first served";

/// What polite principals feel of one that publishes far more than can be handled, beside the same queue where all are
/// the same principal.
pub(crate) fn flood(_: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let (mut fair, mut fifo) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        fair.push(flooded(&runtime, people(POLITE + 1)?)?);
        fifo.push(flooded(&runtime, people(1)?)?);
    }
    let mut row = |name: &str, unit, figure: fn(&Felt) -> f64| {
        let [fair, fifo] = [&fair, &fifo].map(|samples| median(samples[1..].iter().map(figure)));
        report.add_beside(format!("bus.flood.{name}"), fair, unit, FIFO, fifo);
    };
    row("p50", "ms", |felt| felt.p50);
    row("p99", "ms", |felt| felt.p99);
    row("lost", "%", |felt| felt.lost);
    Ok(())
}

/// What polite principals felt.
struct Felt {
    /// From publishing to the handler, in milliseconds.
    p50: f64,
    p99: f64,
    /// Messages that did not get there, in percent.
    lost: f64,
}

/// Works on each message, and takes down how long polite ones waited: those that say when they were sent.
struct Busy {
    began: Instant,
    handled: AtomicU64,
    waits: Mutex<Vec<Duration>>,
}

impl Responder for Busy {
    fn call(
        self: Arc<Self>,
        _: Arc<str>,
        message: Arc<Message>,
        _: Option<Place>,
    ) -> Boxed<'static, Result<Bytes, Failure>> {
        let now = self.began.elapsed();
        if let Some(sent) = message.payload.first_chunk().map(|sent| Duration::from_nanos(u64::from_be_bytes(*sent)))
            && !sent.is_zero()
        {
            self.waits.lock().expect("no panic under this lock").push(now - sent);
        }
        while self.began.elapsed() < now + WORK {
            std::hint::spin_loop();
        }
        self.handled.fetch_add(1, Ordering::Relaxed);
        Box::pin(ready(Ok(Bytes::new())))
    }
}

/// One round. The first of the principals floods; the others, or itself if it is alone, are polite.
fn flooded(runtime: &Runtime, principals: Vec<PrincipalId>) -> anyhow::Result<Felt> {
    let began = Instant::now();
    let busy = Arc::new(Busy { began, handled: AtomicU64::new(0), waits: Mutex::default() });
    runtime.block_on(async {
        let bus = Arc::new(bus(Config::default().queue_bytes, &principals, [busy.clone()], 0)?);
        let (flooder, through) = (principals[0].clone(), bus.clone());
        let flood = tokio::spawn(async move {
            let mut offered = 0;
            while began.elapsed() < FLOOD {
                for _ in 0..WINDOW {
                    publish(&through, TOPIC, &flooder, Bytes::from_static(&[0; PAYLOAD.len()])).await?;
                    offered += 1;
                }
                tokio::task::yield_now().await;
            }
            anyhow::Ok(offered)
        });
        let (polite, through) = (if principals.len() > 1 { principals[1..].to_vec() } else { principals }, bus.clone());
        let politeness = tokio::spawn(async move {
            let (mut sent, mut turns) = (0, tokio::time::interval(Duration::from_millis(1)));
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while began.elapsed() < FLOOD {
                turns.tick().await;
                for _ in 0..TURN {
                    let mut payload = vec![0; PAYLOAD.len()];
                    payload[..8].copy_from_slice(&(began.elapsed().as_nanos() as u64).to_be_bytes());
                    publish(&through, TOPIC, &polite[sent % polite.len()], payload.into()).await?;
                    sent += 1;
                }
            }
            anyhow::Ok(sent)
        });
        let (offered, sent): (u64, usize) = (flood.await??, politeness.await??);
        drained(&bus).await;
        let handled = busy.handled.load(Ordering::Relaxed);
        ensure!(offered > 2 * handled, "{offered} messages are no flood where {handled} can be handled");
        let mut waits = std::mem::take(&mut *busy.waits.lock().expect("no panic under this lock"));
        ensure!(!waits.is_empty(), "no polite message got through");
        waits.sort_unstable();
        let part = |part| quantile(&waits, part).as_secs_f64() * 1e3;
        Ok(Felt { p50: part(0.5), p99: part(0.99), lost: 100.0 * (1.0 - waits.len() as f64 / sent as f64) })
    })
}

async fn drained(bus: &Bus) {
    while bus.pending() > 0 {
        tokio::task::yield_now().await;
    }
}

/// Crowds of principals that come and go.
const CROWDS: usize = 10;

/// What is left of principals whose publications are handled: memory after crowds of new ones, each of which waited as a
/// whole, beside memory after the first crowd.
pub(crate) fn idle(_: &Setup, report: &mut Report) -> anyhow::Result<()> {
    /// Holds what it gets until there is a permit.
    struct Gate(Semaphore);
    impl Responder for Gate {
        fn call(
            self: Arc<Self>,
            _: Arc<str>,
            _: Arc<Message>,
            _: Option<Place>,
        ) -> Boxed<'static, Result<Bytes, Failure>> {
            Box::pin(async move {
                let _pass = self.0.acquire().await;
                Ok(Bytes::new())
            })
        }
    }
    let (gate, principals) = (Arc::new(Gate(Semaphore::new(0))), people(MANY * (CROWDS + 1))?);
    runtime()?.block_on(async {
        let bus = bus(ROOMY, &principals, [gate.clone()], 0)?;
        let mut resident = Vec::new();
        for crowd in principals.chunks(MANY) {
            for principal in crowd {
                ensure!(publish(&bus, TOPIC, principal, Bytes::from_static(PAYLOAD)).await? == 1, "no room");
            }
            gate.0.add_permits(1);
            drained(&bus).await;
            gate.0.acquire().await?.forget();
            resident.push(usage::memory(std::process::id())?.rss);
        }
        let grown = (resident[CROWDS] - resident[0]) * f64::from(1 << 20);
        report.add("bus.idle", grown / (MANY * CROWDS) as f64, "B/principal");
        Ok(())
    })
}
