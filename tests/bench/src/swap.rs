//! Versions that change under load: what callers, and readers of open streams, notice of it.
//!
//! Fifty connections ask again and again while a hundred streams are open and get events. In turns nothing is changed, the
//! gateway is replaced by another version of it, identity is, and audit is. Then come versions of the gateway that trap, hang, leak or
//! answer 500, which are taken back, and one that answers something else, which its predecessor's probe refuses. An answer
//! that is not the first one again, byte for byte, is a failed request.

use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Manifest;
use serde_json::json;

use crate::crowd::Crowd;
use crate::daemon::{Home, PATIENCE, Server, read};
use crate::events::Events;
use crate::report::Report;
use crate::{Setup, median};

/// Of each capsule.
const SWAPS: usize = 100;
/// In each of which nothing, the gateway, identity and audit are changed, one after the other.
const ROUNDS: usize = 5;
/// How long nothing is changed in a round.
const QUIET_FOR: Duration = Duration::from_secs(4);
const ASKED: &str = "/api/auth/me";
/// What goes wrong in versions that are taken back.
const WRONG: [&str; 4] = ["trap", "hang", "leak", "oops"];

/// Phases of the run: requests are counted by the one in which they are made.
const QUIET: usize = 0;
const WARMING: usize = 1;
const GATEWAY: usize = 2;
const IDENTITY: usize = 3;
const AUDIT: usize = 4;
const REFUSED: usize = 5;
/// And one for each of [`WRONG`].
const BROKEN: usize = 6;

pub(crate) fn bench(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let server = Home::new(setup, "swap")?.start()?;
    server.install(&setup.capsule("live"))?;
    let gateways = [another(setup, "gateway")?, setup.capsule("gateway")];
    let identities = [another(setup, "identity")?, setup.capsule("identity")];
    let audits = [another(setup, "audit")?, setup.capsule("audit")];

    let events = Events::start(&server)?;
    let crowd = Crowd::start(&server.get(ASKED), BROKEN + WRONG.len())?;
    // Compiling is done once for a version, whatever takes its place later.
    crowd.enter(WARMING);
    gateways.iter().chain(&identities).chain(&audits).try_for_each(|version| server.install(version))?;
    let (mut gateway, mut identity, mut audit) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        crowd.enter(QUIET);
        thread::sleep(QUIET_FOR);
        crowd.enter(GATEWAY);
        swap(&server, &gateways, &mut gateway)?;
        crowd.enter(IDENTITY);
        swap(&server, &identities, &mut identity)?;
        crowd.enter(AUDIT);
        swap(&server, &audits, &mut audit)?;
    }
    events.may_fail();
    for (n, mode) in WRONG.into_iter().enumerate() {
        crowd.enter(BROKEN + n);
        let well = version(&server)?.context("the gateway does not answer")?;
        server.install(&broken(setup, mode, n as u64)?)?;
        until_back(&server, &well).with_context(|| format!("a gateway that goes wrong by `{mode}`"))?;
    }
    crowd.enter(WARMING);
    server.install(&promising(setup)?)?;
    crowd.enter(REFUSED);
    ensure!(server.install(&broken(setup, "well", 9)?).is_err(), "a gateway that answers otherwise was installed");
    let phases = crowd.end()?;
    let (published, told) = events.end()?;

    let quiet = phases[QUIET].p99();
    report.add("swap.quiet", phases[QUIET].answered() as f64, "requests");
    for (name, phase, took) in
        [("gateway", GATEWAY, gateway), ("identity", IDENTITY, identity), ("audit", AUDIT, audit)]
    {
        report.add(format!("swap.{name}"), phases[phase].answered() as f64, "requests");
        report.add(format!("swap.{name}.failed"), phases[phase].failed as f64, "requests");
        report.add_beside(format!("swap.{name}.p99"), phases[phase].p99(), "ms", "nothing changes", quiet);
        report.add(format!("swap.{name}.each"), median(took), "ms");
    }
    report.add_beside("swap.warming.p99", phases[WARMING].p99(), "ms", "nothing changes", quiet);
    for (n, mode) in WRONG.into_iter().enumerate() {
        report.add(format!("swap.{mode}.failed"), phases[BROKEN + n].failed as f64, "requests");
    }
    report.add("swap.refused.failed", phases[REFUSED].failed as f64, "requests");
    report.add("swap.events", published as f64, "events");
    report.add("swap.events.lost", told.lost as f64, "events");
    report.add("swap.events.doubled", told.doubled as f64, "events");
    server.daemon.stop()?;
    let failed = [QUIET, WARMING, GATEWAY, IDENTITY, AUDIT, REFUSED].map(|phase| phases[phase].failed);
    ensure!(failed.iter().sum::<usize>() == 0, "requests failed though no version was broken: {failed:?}");
    ensure!(told.lost == 0 && told.doubled == 0, "streams have lost {} events and doubled {}", told.lost, told.doubled);
    Ok(())
}

/// A round's share of swaps, one after the other, and how long each took in milliseconds.
fn swap(server: &Server, versions: &[PathBuf; 2], took: &mut Vec<f64>) -> anyhow::Result<()> {
    for n in 0..SWAPS / ROUNDS {
        let began = Instant::now();
        server.install(&versions[n % 2])?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Another version of a capsule that ships, whose component is another one and does the same.
fn another(setup: &Setup, name: &str) -> anyhow::Result<PathBuf> {
    let Archive { mut manifest, mut component, .. } = read(&setup.capsule(name))?;
    manifest.package.version.minor += 1;
    // A custom section that says nothing: no content but its name.
    component.extend([0, 2, 1, b'o']);
    pack(setup, name, &format!("{name}-other"), &manifest, component)
}

/// A version of the gateway in which everything goes wrong in this way; with `well` it merely answers something else.
fn broken(setup: &Setup, mode: &str, patch: u64) -> anyhow::Result<PathBuf> {
    let mut manifest = read(&setup.capsule("gateway"))?.manifest;
    manifest.package.version.major += 9;
    manifest.package.version.patch = patch;
    manifest.limits.timeout_ms = 500;
    let mut component = read(&setup.capsule("fickle"))?.component;
    let word = b"fickle is well";
    let places = component.windows(word.len()).enumerate().filter(|(_, text)| text == word).map(|(n, _)| n);
    for place in places.collect::<Vec<_>>() {
        component[place + "fickle is ".len()..place + word.len()].copy_from_slice(mode.as_bytes());
    }
    pack(setup, "fickle", &format!("gateway-{mode}"), &manifest, component)
}

/// The gateway, with a probe.
fn promising(setup: &Setup) -> anyhow::Result<PathBuf> {
    let Archive { mut manifest, component, .. } = read(&setup.capsule("gateway"))?;
    manifest.package.version.minor += 2;
    manifest.probe.push(serde_json::from_value(json!({ "path": ASKED, "status": 401 }))?);
    pack(setup, "gateway", "gateway-promising", &manifest, component)
}

/// Writes an archive with the types of a capsule of this workspace.
fn pack(setup: &Setup, typed: &str, file: &str, manifest: &Manifest, component: Vec<u8>) -> anyhow::Result<PathBuf> {
    let path = setup.place(&format!("{file}.capsule"));
    let mut archive = Archive::new(manifest, component);
    if typed == manifest.package.name {
        archive.schemas = read(&setup.capsule(typed))?.schemas;
    }
    archive.write(File::create(&path)?)?;
    Ok(path)
}

/// The gateway's installed version; none while it does not answer.
fn version(server: &Server) -> anyhow::Result<Option<String>> {
    let (status, body) = server.send(server.get("/api/capsules/gateway").request())?;
    Ok(body["version"].as_str().filter(|_| status == 200).map(str::to_owned))
}

fn until_back(server: &Server, wanted: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    while version(server)?.as_deref() != Some(wanted) {
        ensure!(began.elapsed() < PATIENCE, "it is never taken back");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
