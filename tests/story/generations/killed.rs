//! A daemon that dies in the middle of a change.

use super::*;

/// What a home with `fickle` in this version looks like, whole: it answers, and its record, its hooks, its history and its
/// file agree.
async fn assert_whole(daemon: &Daemon, version: &str, hooks: &str, history_ends: &str) {
    assert_eq!(live(daemon).await, version);
    assert_eq!(kept(daemon).await["hooks"], hooks);
    let (what, of, _) = last(daemon).await;
    assert_eq!((what.as_str(), of.as_str()), (history_ends, version));
    let row = daemon.unix(Request::get("/api/capsules/fickle")).await.expect(200);
    let file = daemon.home().path().join("bin").join(format!("{}.wasm", row["hash"].as_str().unwrap()));
    assert_eq!(blake3::hash(&fs::read(file).unwrap()).to_hex().as_str(), row["hash"].as_str().unwrap());
    assert_well(daemon).await;
}

/// A daemon that dies at this point of what `act` asks for, and the next one on its home.
fn killed_at(home: &Home, point: Point, act: &[&str]) -> Daemon {
    let daemon = home.start_with(&["--fault", &format!("fickle:{}", point.name())]);
    // It may have answered before it died.
    let _ = daemon.astrid(act);
    let ended = daemon.wait();
    assert_eq!(ended.code, None, "{point:?}: {ended:?}");
    home.start()
}

/// Those that a capsule without a run loop comes by.
fn points() -> impl Iterator<Item = Point> {
    Point::ALL.into_iter().filter(|point| *point != Point::HandedOver)
}

/// Whether what is done at a point has happened.
fn is_done(point: Point) -> bool {
    matches!(point, Point::Committed | Point::Flipped | Point::Retired)
}

#[tokio::test]
async fn killed_anywhere_in_an_installation_nothing_or_all_of_it_is_there() {
    let home = Home::new();
    let first = made(&home, "1.0.0", "well");
    let act = ["capsule", "install", first.to_str().unwrap(), "--grant", "http:mount"];
    // Nothing is retired where nothing was.
    for point in points().filter(|point| *point != Point::Retired) {
        let daemon = killed_at(&home, point, &act);
        if is_done(point) {
            assert_whole(&daemon, "1.0.0", "1", "installed").await;
            daemon.astrid(&["capsule", "remove", "fickle", "--purge"]).out();
        } else {
            daemon.unix(Request::get("/api/capsules/fickle")).await.refusal(404, "not_found");
            assert_well(&daemon).await;
            // What was left over is in nobody's way.
            if point == Point::Kept {
                install(&daemon, &first);
                assert_whole(&daemon, "1.0.0", "1", "installed").await;
                daemon.astrid(&["capsule", "remove", "fickle", "--purge"]).out();
            }
        }
        assert_eq!(daemon.stop().code, Some(0), "{point:?}");
    }
}

#[tokio::test]
async fn killed_anywhere_in_an_upgrade_or_a_rollback_the_old_or_the_new_version_is_whole() {
    let home = Home::new();
    let daemon = home.start();
    install(&daemon, &made(&home, "1.0.0", "well"));
    assert_eq!(daemon.stop().code, Some(0));
    let next = made(&home, "2.0.0", "well");
    let upgrade = ["capsule", "install", next.to_str().unwrap()];
    let mut hooks = 1;
    let mut ends = "installed";
    for point in points() {
        let daemon = killed_at(&home, point, &upgrade);
        if is_done(point) {
            hooks += 1;
            assert_whole(&daemon, "2.0.0", &hooks.to_string(), "upgraded").await;
            assert_eq!(daemon.stop().code, Some(0));
            let daemon = killed_at(&home, point, &["capsule", "rollback", "fickle"]);
            ends = "rolled-back";
            assert_whole(&daemon, "1.0.0", &hooks.to_string(), ends).await;
            assert_eq!(daemon.stop().code, Some(0), "{point:?}");
        } else {
            assert_whole(&daemon, "1.0.0", &hooks.to_string(), ends).await;
            assert_eq!(daemon.stop().code, Some(0), "{point:?}");
        }
    }
}
