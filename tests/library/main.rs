//! The host as a library, where a story can't reach: standings that no route changes, and a clock that is put forward.

mod processes;

use std::sync::Arc;
use std::time::Duration;

use astrid_capsule::PrincipalId;
use astrid_host::authority::{Change, Mandate, Standing};
use astrid_host::bus::{Failure, Origin, Outgoing, Sender};
use astrid_host::config::Config;
use astrid_host::host::{Host, LockedHome};
use astrid_host::loader::Options;
use astrid_tests::pack;
use tempfile::TempDir;
use tokio::time::Instant;

/// A host that serves the hoarder and nothing else.
struct World {
    host: Arc<Host>,
    _home: LockedHome,
    _folder: TempDir,
    revision: u64,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = LockedHome::take(Some(folder.path().join("home"))).unwrap();
        let config = Config::load(&home.home.config(), &[], []).unwrap();
        let host = Host::build(home.home.clone(), config, Arc::default(), Arc::default()).unwrap();
        host.loader.boot(&host, folder.path()).await.unwrap();
        let hoarder = pack::packed("hoarder");
        host.loader.install(&host, &hoarder, &Options { grants: pack::asked(&hoarder), shadow: 0 }).await.unwrap();
        let mut world = Self { host, _home: home, _folder: folder, revision: 1000 };
        world.change(Some(true));
        world
    }

    /// Publishes a standing of ada's: enabled, disabled, or none any more.
    fn change(&mut self, enabled: Option<bool>) {
        self.revision += 1;
        let ada = ada();
        let change = match enabled {
            Some(enabled) => Change::SetPrincipal(ada, Standing::new(enabled, vec![], vec![], vec![])),
            None => Change::RemovePrincipal(ada),
        };
        self.host.authority.apply(self.revision, vec![change]);
    }

    async fn ask(&self, handler: &str, patience: Duration) -> Result<String, Failure> {
        let deadline = Instant::now() + patience;
        let sender = Sender {
            principal: ada(),
            mandate: Mandate::default(),
            origin: Origin::new("test", ""),
            deadline,
            depth: 0,
            cause: None,
            rehearsal: false,
        };
        let topic = format!("hoarder.v1.{handler}");
        let outgoing = Outgoing { topic, payload: b"{}"[..].into(), ..Outgoing::default() };
        let answer = self.host.bus.request(sender, outgoing).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn count(&self) -> String {
        self.ask("count", astrid_tests::DEADLINE).await.unwrap()
    }
}

fn ada() -> PrincipalId {
    PrincipalId::parse("ada").unwrap()
}

#[tokio::test]
async fn who_was_disabled_or_removed_meanwhile_finds_nothing_of_before() {
    let mut world = World::new().await;
    for between in [Some(false), None] {
        assert_eq!((world.count().await, world.count().await), ("1".into(), "2".into()));
        world.change(between);
        let refused = world.ask("count", astrid_tests::DEADLINE).await;
        assert!(matches!(refused, Err(Failure::Denied(_))), "{refused:?}");
        world.change(Some(true));
    }
    // Gone with the tick, not only out of reach.
    assert_eq!(world.count().await, "1");
    world.change(Some(false));
    world.host.sweep();
    assert_eq!(world.host.warm.idle(), 0);
}

#[tokio::test]
async fn what_nobody_needs_for_a_minute_goes_and_what_was_cut_off_is_not_kept() {
    let world = World::new().await;
    assert_eq!(world.count().await, "1");
    let sweep = |seconds| world.host.warm.sweep(world.host.started.elapsed() + seconds, |_, _| None);
    sweep(Duration::from_secs(50));
    assert_eq!(world.count().await, "2");
    sweep(Duration::from_secs(60));
    assert_eq!((world.host.warm.idle(), world.count().await), (0, "1".into()));

    // Its deadline passes, or its caller goes away.
    let late = world.ask("meet", Duration::from_micros(1)).await;
    assert_eq!(late, Err(Failure::Timeout));
    assert_eq!(world.count().await, "1");
    let mut asked = Box::pin(world.ask("meet", astrid_tests::DEADLINE));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(asked.as_mut().poll(&mut context).is_pending(), "it is longer than a slice");
    drop(asked);
    assert_eq!(world.host.warm.idle(), 0);
    assert_eq!(world.count().await, "1");
}
