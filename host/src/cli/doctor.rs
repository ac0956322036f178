//! `astrid doctor`: what is well, what is not, and what to do about it. Looks at the home, this machine and `/healthz`;
//! changes nothing.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::start;
use super::failure::{Exit, Failure};
use super::{Context, table, text, time};
use crate::config::Config;
use crate::distro::Folder;
use crate::home::Home;
use crate::http::tls::Tls;
use crate::trust;

/// Free space under which a disk is worth a warning, and under which it is a fault, in bytes.
const LOW_DISK_BYTES: u64 = 1 << 30;
const FULL_DISK_BYTES: u64 = 64 << 20;
/// The most key files that are looked at.
const MAX_KEY_FILES: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn ok(check: &'static str, detail: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, detail: detail.into(), next: None }
}

fn warn(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { check, level: Level::Warn, detail: detail.into(), next: Some(next.into()) }
}

fn fail(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { level: Level::Fail, ..warn(check, detail, next) }
}

pub(super) async fn run(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let home = &context.home;
    let mut findings =
        vec![check_home(home), check_keys(home), check_trust(home), check_distro(home), check_disk(home)];
    findings.extend(check_tls(home));
    let answer = context.client.exchange(Method::GET, "/healthz", None).await;
    if context.client.is_at_home() {
        findings.push(check_lock(home, answer.is_ok()));
    }
    match answer {
        Ok(answer) => {
            findings.push(ok("host", "answers"));
            findings.extend(check_health(answer.status.is_success(), &answer.body));
        }
        Err(failure) => findings.push(Finding {
            check: "host",
            level: Level::Fail,
            next: failure.next_step().map(str::to_owned),
            detail: failure.reason,
        }),
    }

    let failed = findings.iter().any(|f| f.level == Level::Fail);
    if context.console.json {
        context.console.print(&json!({ "ok": !failed, "checks": findings }).to_string())?;
    } else {
        context.console.print(&report(&findings))?;
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

fn report(findings: &[Finding]) -> String {
    let rows: Vec<[String; 3]> = findings
        .iter()
        .map(|f| {
            let level = match f.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            [level.to_owned(), f.check.to_owned(), f.detail.clone()]
        })
        .collect();
    let mut out = Vec::new();
    for (line, finding) in table::columns(&rows).into_iter().zip(findings) {
        out.push(line);
        out.extend(finding.next.as_ref().map(|next| format!("      next: {}", text::shown(next))));
    }
    out.join("\n")
}

fn check_home(home: &Home) -> Finding {
    let at = home.root().display();
    if let Err(e) = home.check() {
        return fail("home", format!("{}: {}", e.path.display(), e.problem), e.fix);
    }
    match fs::metadata(home.root()) {
        Ok(meta) if meta.mode() & 0o077 == 0 => ok("home", format!("{at}, private")),
        Ok(meta) => {
            let detail = format!("{at} may be read by others (mode {:04o})", meta.mode() & 0o7777);
            warn("home", detail, format!("chmod 700 {}", text::quoted(&home.root().to_string_lossy())))
        }
        Err(_) => fail("home", format!("{at} does not exist"), start(home.root())),
    }
}

/// The lock is looked at only while nothing answers: a host that does holds it.
fn check_lock(home: &Home, answers: bool) -> Finding {
    let lock = home.lock();
    let at = lock.display();
    if answers {
        return ok("lock", format!("{at}, held by the host that answers"));
    }
    let file = match File::open(&lock) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return ok("lock", "free: no host has run here"),
        Err(e) => return warn("lock", format!("{at}: {e}"), "make it readable for its owner"),
    };
    match file.try_lock_shared() {
        // Closing the file gives it back.
        Ok(()) => ok("lock", format!("{at}, free")),
        Err(TryLockError::WouldBlock) => {
            let process = super::daemon::pid(home).map_or_else(String::new, |pid| format!(" (pid {pid})"));
            let detail = format!("{at} is held, but no host{process} answers: it is starting, ending, or hangs");
            fail("lock", detail, format!("wait a few seconds; then see {}", home.log().display()))
        }
        Err(TryLockError::Error(e)) => warn("lock", format!("{at}: {e}"), "is the home on a file system with locks?"),
    }
}

/// What `/healthz` answers.
#[derive(Deserialize)]
struct Health {
    status: String,
    version: String,
    uptime_secs: u64,
    capsules: CapsuleHealth,
    pool: PoolHealth,
    audit: AuditHealth,
}

/// Whether facts are recorded.
#[derive(Deserialize)]
struct AuditHealth {
    facts: u64,
    /// Why not.
    fault: Option<String>,
}

#[derive(Deserialize)]
struct CapsuleHealth {
    live: u64,
    /// Ids.
    failed: Vec<String>,
}

/// How instances are allocated.
#[derive(Deserialize)]
struct PoolHealth {
    instances: u64,
    in_use: u64,
    /// What the machine did not give the pool.
    warnings: Vec<String>,
}

fn check_health(success: bool, body: &[u8]) -> Vec<Finding> {
    let health: Health = match serde_json::from_slice(body) {
        Ok(health) => health,
        Err(e) => {
            let detail = format!("/healthz does not answer what it promises: {e}");
            return vec![fail(
                "health",
                detail,
                "is `astrid` of the host's own version, and is that address the host's?",
            )];
        }
    };
    let log = "the cause is in the log: `astrid logs --level warn`";
    let detail = format!("{}, version {}, up for {}", health.status, health.version, time::span(health.uptime_secs));
    let process = if success { ok("health", detail) } else { fail("health", detail, log) };
    let capsules = match &health.capsules.failed[..] {
        [] => ok("capsules", format!("{} live", health.capsules.live)),
        failed => fail("capsules", format!("{} live, failed: {}", health.capsules.live, failed.join(", ")), log),
    };
    let pool = format!("{} of {} instances in use", health.pool.in_use, health.pool.instances);
    let pool = match &health.pool.warnings[..] {
        [] => ok("pool", pool),
        warnings => warn(
            "pool",
            format!("{pool}; {}", warnings.join("; ")),
            "use Linux 6.7 or newer, and allow the process all the address space it asks for (ulimit -v unlimited)",
        ),
    };
    let audit = match &health.audit.fault {
        None => ok("audit", format!("{} facts", health.audit.facts)),
        Some(fault) => fail(
            "audit",
            format!("no facts are recorded: {fault}"),
            "see whether the disk is full; then `astrid audit verify`",
        ),
    };
    vec![process, capsules, pool, audit]
}

/// Whether only the owner can read what is secret: everything in `keys/` that doesn't say it is public.
fn check_keys(home: &Home) -> Finding {
    let mut files = Vec::new();
    collect_keys(&home.keys(), 2, &mut files);
    if files.len() >= MAX_KEY_FILES {
        return warn("keys", format!("more than {MAX_KEY_FILES} files in {}", home.keys().display()), "look into it");
    }
    for (path, meta) in &files {
        let public = path.ends_with(".pub.hex") || path.ends_with(".meta.toml");
        if meta.is_symlink() {
            return fail("keys", format!("{path} is a symlink"), "put the file itself in its place");
        }
        if !public && meta.mode() & 0o077 != 0 {
            let detail = format!("{path} is open to others (mode {:04o})", meta.mode() & 0o7777);
            let mode = if meta.is_dir() { 700 } else { 600 };
            return fail("keys", detail, format!("chmod {mode} {}; replace it if it was copied", text::quoted(path)));
        }
    }
    let count = files.iter().filter(|(path, meta)| meta.is_file() && !path.ends_with(".toml")).count();
    ok("keys", format!("{count} key files, secrets private"))
}

fn collect_keys(folder: &Path, depth: u32, files: &mut Vec<(String, fs::Metadata)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if files.len() >= MAX_KEY_FILES {
            return;
        }
        let path = entry.path();
        if let Ok(meta) = fs::symlink_metadata(&path) {
            let is_dir = meta.is_dir();
            files.push((path.to_string_lossy().into_owned(), meta));
            if is_dir && depth > 1 {
                collect_keys(&path, depth - 1, files);
            }
        }
    }
}

fn check_trust(home: &Home) -> Finding {
    let folder = home.trust();
    let roots = match trust::read(&folder) {
        Ok(roots) => roots,
        Err(e) => return warn("trust", format!("{}: {e}", folder.display()), "make it readable for its owner"),
    };
    match roots.iter().find_map(|(_, root)| root.as_ref().err()) {
        Some(broken) => warn("trust", broken.as_str(), "correct the file, or remove it: it vouches for nothing"),
        None => ok("trust", format!("{} may sign capsules", roots.len())),
    }
}

fn check_distro(home: &Home) -> Finding {
    let next = format!("cargo astrid up --home {} puts one there", text::quoted(&home.root().to_string_lossy()));
    let folder = match Folder::read(&home.distro()) {
        Ok(Some(folder)) => folder,
        Ok(None) => {
            return warn("distribution", format!("{} has no Distro.toml", home.distro().display()), next);
        }
        Err(why) => return fail("distribution", why, next),
    };
    let archives = || folder.distro.capsule.iter().try_for_each(|entry| folder.packed(entry).map(|_| ()));
    match folder.check().and_then(|()| archives()) {
        Err(why) => fail("distribution", why, next),
        Ok(()) => {
            let (about, count) = (&folder.distro.distro, folder.distro.capsule.len());
            let pinned = if folder.lock.is_some() { "locked" } else { "without a lock" };
            ok("distribution", format!("{} {}, {count} capsules, {pinned}", about.name, about.version))
        }
    }
}

/// As far as the file and the environment say; `astrid config check` says what is wrong with those.
fn check_tls(home: &Home) -> Option<Finding> {
    let http = Config::load(&home.config(), &[], crate::home::environment()).ok()?.http;
    let tls = match Tls::open(&http.tls, &home.etc()) {
        Ok(tls) => tls,
        Err(e) => return Some(fail("tls", format!("{e:#}"), "correct [http.tls] of the configuration, or the file")),
    };
    Some(match http.warning().or_else(|| tls.as_ref()?.overdue()).or_else(|| tls.as_ref()?.warning()) {
        Some((what, next)) => warn("tls", what, next),
        None if tls.is_some() => ok("tls", "the certificate and its key can be read"),
        None => ok("tls", format!("off; {} can't be reached from elsewhere", http.listen)),
    })
}

fn check_disk(home: &Home) -> Finding {
    // What is not there yet will be made on the file system of the folder above it.
    let place = home.root().ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = match rustix::fs::statvfs(place) {
        Ok(stat) => stat,
        Err(e) => return warn("disk", format!("{}: {e}", place.display()), "look at the file system"),
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let detail = format!("{} MiB free at {}", free >> 20, place.display());
    match free {
        ..FULL_DISK_BYTES => fail("disk", detail, "free some space: durable writes are about to fail"),
        FULL_DISK_BYTES..LOW_DISK_BYTES => warn("disk", detail, "free some space soon"),
        LOW_DISK_BYTES.. => ok("disk", detail),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use astrid_capsule::archive::Archive;
    use astrid_capsule::manifest::Manifest;
    use serde_json::Value;

    use super::*;
    use crate::cli::testing::{Host, astrid, home};

    fn level(report: &Value, check: &str) -> String {
        let finding = report["checks"].as_array().unwrap().iter().find(|f| f["check"] == check);
        finding.unwrap_or_else(|| panic!("{check} in {report}"))["level"].as_str().unwrap().to_owned()
    }

    fn examine(home: &Home) -> (Exit, Value) {
        let ran = astrid(home, &["doctor", "--json"]);
        (ran.exit, serde_json::from_str(&ran.out).unwrap())
    }

    const WELL: &str = r#"{"status":"ok","version":"0.1.0","uptime_secs":9,"capsules":{"live":3,"failed":[]},"pool":{"instances":64,"in_use":1,"warnings":[]},"audit":{"facts":5,"fault":null}}"#;

    #[test]
    fn a_host_that_is_well_passes() {
        let host = Host::answering(200, WELL);
        host.astrid(&["keypair", "generate", "a"]);
        let (exit, report) = examine(&host.home);
        assert_eq!((exit, report["ok"].as_bool()), (Exit::Done, Some(true)), "{report}");
        for check in ["home", "keys", "lock", "host", "health", "capsules", "pool", "audit"] {
            assert_eq!(level(&report, check), "ok", "{report}");
        }
        assert_eq!(level(&report, "distribution"), "warn");
        assert_eq!(host.requests(), ["GET /healthz"]);
        let text = host.astrid(&["doctor"]).out;
        assert!(text.contains("warn  distribution") && text.contains("\n      next: cargo astrid up"), "{text}");
    }

    #[test]
    fn a_smaller_pool_is_a_warning_and_a_failed_capsule_or_an_ending_host_a_fault() {
        let of = |status, body: &str| examine(&Host::answering(status, body).home);
        let (exit, report) = of(200, &WELL.replace("\"warnings\":[]", "\"warnings\":[\"no scan\"]"));
        assert_eq!((exit, level(&report, "pool")), (Exit::Done, "warn".into()), "{report}");
        let (exit, report) = of(200, &WELL.replace("\"failed\":[]", "\"failed\":[\"echo\"]"));
        assert_eq!((exit, level(&report, "capsules")), (Exit::Failed, "fail".into()), "{report}");
        assert_eq!(level(&of(503, &WELL.replace("\"ok\"", "\"stopping\"")).1, "health"), "fail");
        assert_eq!(level(&of(200, "<html>").1, "health"), "fail");
    }

    #[test]
    fn a_certificate_that_can_not_be_used_is_a_fault_and_an_open_address_without_one_a_warning() {
        let (_dir, home) = home();
        assert_eq!(level(&examine(&home).1, "tls"), "ok");
        let write = |text: &str| {
            fs::create_dir_all(home.etc()).unwrap();
            fs::write(home.config(), text).unwrap();
        };
        write("[http]\nlisten = \"0.0.0.0:2787\"\n");
        let (_, report) = examine(&home);
        assert_eq!(level(&report, "tls"), "warn", "{report}");
        write("[http.tls]\ncert = \"none.pem\"\nkey = \"none.pem\"\n");
        let (exit, report) = examine(&home);
        assert_eq!((exit, level(&report, "tls")), (Exit::Failed, "fail".into()), "{report}");
        assert!(report.to_string().contains("etc/none.pem"), "{report}");
    }

    #[test]
    fn without_a_host_it_fails_and_says_how_to_start_one() {
        let (_dir, home) = home();
        let (exit, report) = examine(&home);
        assert_eq!((exit, level(&report, "host"), level(&report, "lock")), (Exit::Failed, "fail".into(), "ok".into()));
        assert!(report.to_string().contains("cargo astrid up --home"), "{report}");
    }

    #[test]
    fn a_lock_that_is_held_by_a_host_that_does_not_answer_is_a_fault() {
        let (_dir, home) = home();
        let lock = File::create(home.lock()).unwrap();
        lock.lock().unwrap();
        assert_eq!(level(&examine(&home).1, "lock"), "fail");
        lock.unlock().unwrap();
        assert_eq!(level(&examine(&home).1, "lock"), "ok");
    }

    #[test]
    fn secrets_and_homes_that_are_open_to_others_are_found() {
        let (_dir, home) = home();
        astrid(&home, &["keypair", "generate", "a"]);
        let secret = home.keys().join("local/a.ed25519");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o604)).unwrap();
        fs::set_permissions(home.root(), fs::Permissions::from_mode(0o755)).unwrap();
        let (_, report) = examine(&home);
        assert_eq!((level(&report, "keys"), level(&report, "home")), ("fail".into(), "warn".into()), "{report}");
        assert!(report.to_string().contains("a.ed25519"), "{report}");
        fs::set_permissions(home.root(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(level(&examine(&home).1, "home"), "fail");
    }

    #[test]
    fn a_root_of_trust_that_is_broken_is_a_warning() {
        let (_dir, home) = home();
        assert_eq!(level(&examine(&home).1, "trust"), "ok");
        fs::write(home.trust().join("acme.toml"), "name = \"acme\"\n").unwrap();
        assert_eq!(level(&examine(&home).1, "trust"), "warn");
    }

    #[test]
    fn a_distribution_with_a_missing_capsule_is_a_fault() {
        let (_dir, home) = home();
        let toml = "[distro]\nid = \"d\"\nname = \"D\"\nversion = \"1.0.0\"\n[[capsule]]\nname = \"echo\"\nsource = \"echo.capsule\"\n";
        fs::write(home.distro().join("Distro.toml"), toml).unwrap();
        let (_, report) = examine(&home);
        assert!(level(&report, "distribution") == "fail" && report.to_string().contains("echo.capsule: No such file"));
        let manifest = Manifest::parse("[package]\nname = \"echo\"\nversion = \"1.0.0\"\n").unwrap();
        let path = home.distro().join("echo.capsule");
        Archive::new(&manifest, b"wasm".to_vec()).write(File::create(&path).unwrap()).unwrap();
        assert_eq!(level(&examine(&home).1, "distribution"), "ok");
        let folder = Folder::read(&home.distro()).unwrap().unwrap();
        let mut lock = folder.lock_now().unwrap();
        lock.capsule[0].archive = "0".repeat(64);
        fs::write(home.distro().join("Distro.lock"), lock.to_toml()).unwrap();
        let (_, report) = examine(&home);
        assert!(
            level(&report, "distribution") == "fail" && report.to_string().contains("pins archive 000"),
            "{report}"
        );
    }
}
