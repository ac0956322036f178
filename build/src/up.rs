//! `up`: from a checkout to a running host with the default distribution.
//!
//! Owns what it writes below the home, atomically and only where bytes differ: `distro/` with a signed index, and the
//! key of this checkout for this home, `keys/checkout.ed25519`, with the root of trust that goes with it. Everything else
//! there is the daemon's. In the foreground the daemon has a process group of its own, so that a signal reaches it once: `up` passes
//! it on and ends with the daemon's exit code. Detached, it has a session of its own and outlives `up`.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use astrid_capsule::distro::lock::{self, Lock, Locked};
use astrid_capsule::distro::{self, Distro, bundle, embedded};
use astrid_capsule::registry::{self, Index};
use astrid_capsule::signature::{self, Purpose, SecretKey};
use astrid_capsule::trust::Root;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::workspace::Workspace;
use crate::{bench, component, files, publish, run, say, sign};

/// The hidden verb that a detached daemon begins as.
pub(crate) const SESSION_VERB: &str = "in-session";

/// What a home calls the checkout that it was brought up from.
const CHECKOUT: &str = "this-checkout";

/// How long a detached daemon may take until it is ready. The first start compiles the components.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// How much of a failed daemon's last words is shown.
const LAST_WORDS: u64 = 8 * 1024;

/// How large a detached daemon's stderr may have grown before the next start empties it. The log is elsewhere.
const STDERR_BYTES: u64 = 1 << 20;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The host's folder, instead of $ASTRID_HOME or ~/.astrid.
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// The address to listen on, instead of the daemon's default.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Short for --listen 127.0.0.1:PORT; 0 takes any free port.
    #[arg(long, conflicts_with = "listen")]
    port: Option<u16>,
    /// Come back when the host is ready, and leave it running.
    #[arg(long)]
    detach: bool,
    /// Set a configuration key; may be repeated.
    #[arg(long, value_name = "ROOM.KEY=VALUE", value_parser = setting)]
    set: Vec<String>,
}

fn setting(text: &str) -> Result<String, String> {
    let key = text.split_once('=').map(|(key, _)| key);
    match key.and_then(|key| key.split_once('.')) {
        Some((room, key)) if !room.is_empty() && !key.is_empty() => Ok(text.into()),
        _ => Err("must be ROOM.KEY=VALUE".into()),
    }
}

/// The daemon's one line on stdout.
#[derive(Deserialize)]
struct Ready {
    address: String,
    socket: PathBuf,
}

/// `up`.
pub(crate) fn verb(options: &Options, json: bool) -> Result<ExitCode> {
    let home = Home::choose(options.home.clone())?;
    let workspace = Workspace::checkout()?;
    let registry = workspace.root.join("registry/Distro.toml");
    let text = fs::read_to_string(&registry).with_context(|| format!("can't read {}", registry.display()))?;
    let distro = Distro::parse(&text).with_context(|| format!("in {}", registry.display()))?;
    let (_, mut capsules) = component::find(&workspace.root)?;
    capsules.retain(|capsule| distro.capsule.iter().any(|entry| entry.name == capsule.manifest.package.name));
    component::build(Some(&workspace), &capsules)?;
    bench::build_host(&workspace)?;
    let archive = |name: &str| {
        let capsule = capsules.iter().find(|capsule| capsule.manifest.package.name == name);
        let capsule = capsule.with_context(|| format!("{} names `{name}`, which no member is", registry.display()))?;
        Ok(capsule.archive().to_owned())
    };
    let lock = furnish(&home.folder, &distro, &text, archive)?;
    embed(&workspace.target.join("release/astrid-daemon"), &home.folder.join("distro"), (&distro, &text, &lock))?;
    start(options, &home, &workspace.target.join("release"), json)
}

/// Puts the distribution into the daemon's file as well, for its safe mode.
fn embed(daemon: &Path, folder: &Path, (distro, text, lock): (&Distro, &str, &Lock)) -> Result<()> {
    let mut bundle = Vec::new();
    bundle::write(distro, (text, lock), |path| fs::read(folder.join(path)), &mut bundle)?;
    embedded::put(daemon, &bundle).with_context(|| format!("can't put the distribution into {}", daemon.display()))?;
    Ok(())
}

/// Puts the distribution into a home, signed and with a signed index. Returns what pins it.
fn furnish(home: &Path, distro: &Distro, text: &str, archive: impl Fn(&str) -> Result<PathBuf>) -> Result<Lock> {
    for folder in ["", "distro", "etc", "etc/trust", "keys", "log"] {
        files::private_folder(&home.join(folder))?;
    }
    let key = checkout_key(home, distro)?;
    let folder = home.join("distro");
    let (mut index, mut locked) = (Index::default(), Vec::new());
    for entry in &distro.capsule {
        let (archive, bytes) = sign::signed(sign::read_archive(&archive(&entry.name)?)?.0, &key)?;
        distro.check_archive(entry, &archive).map_err(|why| anyhow!(why))?;
        index.publish(publish::entry(&archive, &bytes)?)?;
        locked.push(Locked::of(&archive, &bytes));
        files::write_if_changed(&folder.join(entry.file()), &bytes)?;
    }
    let lock = Lock::new(distro, locked);
    let index = index.to_toml();
    let signature = signature::lines(&[key.sign(Purpose::Index, index.as_bytes())]);
    files::write_if_changed(&folder.join(lock::FILE), lock.to_toml().as_bytes())?;
    files::write_if_changed(&folder.join(distro::FILE), text.as_bytes())?;
    files::write_if_changed(&folder.join(registry::INDEX), index.as_bytes())?;
    files::write_if_changed(&folder.join(registry::SIGNATURES), signature.as_bytes())?;
    Ok(lock)
}

/// The key with which this checkout signs what it puts into this home, made on first use; the home trusts it for the
/// distribution's capsules. Nobody but the home's owner has it, so that it vouches for one thing alone: that the archives
/// are those that `up` wrote.
fn checkout_key(home: &Path, distro: &Distro) -> Result<SecretKey> {
    let path = home.join("keys/checkout.ed25519");
    let key = if path.exists() {
        sign::read_key(&path)?
    } else {
        say::note(format_args!("this checkout signs for this home with a new key, {}", path.display()));
        sign::make_key(&path)?
    };
    let capsules = distro.capsule.iter().map(|entry| entry.name.clone()).collect();
    let comment = "what `astrid-build up` built and put into distro/".to_owned();
    let root = Root::new(CHECKOUT, &key.public().to_hex(), capsules, Some(comment))?;
    let file = home.join("etc/trust").join(format!("{CHECKOUT}.toml"));
    if files::write_if_changed(&file, root.to_toml().as_bytes())? {
        say::note(format_args!("the home trusts its signatures: {}", file.display()));
    }
    Ok(key)
}

/// Where the host lives.
struct Home {
    folder: PathBuf,
    /// Whether every tool finds it by itself.
    is_default: bool,
}

impl Home {
    fn choose(flag: Option<PathBuf>) -> Result<Self> {
        let default = env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".astrid"));
        let variable = env::var_os("ASTRID_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = match (flag, variable) {
            (Some(flag), _) => std::path::absolute(flag).context("--home")?,
            (None, Some(variable)) => {
                ensure!(variable.is_absolute(), "ASTRID_HOME={} is not an absolute path", variable.display());
                variable
            }
            (None, None) => default.clone().context("there is no home folder; name one with --home DIR")?,
        };
        Ok(Self { is_default: default.as_ref() == Some(&folder), folder })
    }
}

fn start(options: &Options, home: &Home, programs: &Path, json: bool) -> Result<ExitCode> {
    let mut words: Vec<OsString> =
        vec![programs.join("astrid-daemon").into(), "--home".into(), home.folder.clone().into()];
    let listen = options.listen.clone().or_else(|| options.port.map(|port| format!("127.0.0.1:{port}")));
    listen.into_iter().for_each(|address| words.extend(["--listen".into(), address.into()]));
    options.set.iter().for_each(|setting| words.extend(["--set".into(), setting.into()]));
    let step = say::step(format_args!("starting the host in {}", home.folder.display()));
    let ready = |ready: Ready| {
        step.done("ready");
        if json {
            let log = home.folder.join("log/astrid.log");
            println!(
                "{}",
                json!({
                    "address": format!("http://{}", ready.address), "socket": ready.socket, "home": home.folder,
                    "log": log, "invite": invite(programs, home),
                })
            );
            return;
        }
        println!("Astrid is up.");
        println!("  address      http://{}", ready.address);
        println!("  Unix socket  {}", ready.socket.display());
        println!("  make an invite:");
        println!("{}", invite(programs, home));
    };
    if options.detach { detached(&words, home, json, ready) } else { foreground(&words, ready) }
}

/// The line to paste for a first invite.
fn invite(programs: &Path, home: &Home) -> String {
    let astrid = run::quoted(programs.join("astrid"));
    if home.is_default {
        format!("{astrid} invite issue")
    } else {
        format!("{astrid} --home {} invite issue", run::quoted(&home.folder))
    }
}

fn foreground(words: &[OsString], ready: impl FnOnce(Ready)) -> Result<ExitCode> {
    // Caught before there is anybody to pass them on to, so that none is missed.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("can't catch signals")?;
    let mut command = Command::new(&words[0]);
    let mut daemon = spawn(command.args(&words[1..]).process_group(0))?;
    let id = pid(&daemon)?;
    thread::spawn(move || {
        for signal in signals.forever() {
            // A terminal that is closed asks for the same as Ctrl-C.
            let pass = if signal == SIGINT { Signal::INT } else { Signal::TERM };
            let _ = kill_process(id, pass);
        }
    });
    let line = first_line(&mut daemon)?.recv().unwrap_or_default();
    let was_ready = !line.is_empty();
    if was_ready {
        ready(parse(&line)?);
    }
    let status = daemon.wait().context("can't wait for the daemon")?;
    if !was_ready {
        eprintln!("error: the host ended before it was ready ({}); its messages stand above", run::ended(status));
        return Ok(if status.success() { ExitCode::FAILURE } else { run::exit_code(status) });
    }
    Ok(run::exit_code(status))
}

fn detached(words: &[OsString], home: &Home, json: bool, ready: impl FnOnce(Ready)) -> Result<ExitCode> {
    let path = home.folder.join("log/daemon.stderr");
    // Appended to, because a daemon that serves this home already may be writing there as well.
    let log = File::options().create(true).append(true).mode(0o600).open(&path);
    let log = log.with_context(|| format!("can't write {}", path.display()))?;
    let mut begin = log.metadata().map_or(0, |m| m.len());
    if begin > STDERR_BYTES {
        log.set_len(0).with_context(|| format!("can't empty {}", path.display()))?;
        begin = 0;
    }
    let own = env::current_exe().context("this program's own path is unknown")?;
    let mut command = Command::new(own);
    let mut daemon = spawn(command.arg(SESSION_VERB).arg("--").args(words).stdin(Stdio::null()).stderr(log))?;
    let line = wait_until_ready(&mut daemon, READY_LIMIT)
        .map_err(|error| anyhow!("{error:#}. Its last words:\n{}", last_words(&path, begin)))?;
    ready(parse(&line)?);
    if !json {
        println!("It goes on by itself; its log is {}.", home.folder.join("log/astrid.log").display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The line that says that the daemon is ready. One that says nothing for so long is told to stop.
fn wait_until_ready(daemon: &mut Child, limit: Duration) -> Result<String> {
    match first_line(daemon)?.recv_timeout(limit) {
        Ok(line) => Ok(line),
        Err(RecvTimeoutError::Disconnected) => {
            let status = daemon.wait().context("can't wait for the daemon")?;
            bail!("the host ended before it was ready ({})", run::ended(status));
        }
        Err(RecvTimeoutError::Timeout) => {
            let _ = kill_process(pid(daemon)?, Signal::TERM);
            bail!("the host was not ready after {} s and was told to stop", limit.as_secs());
        }
    }
}

/// What [`SESSION_VERB`] does: leaves the terminal's session and becomes the daemon.
pub(crate) fn session(command: &[OsString]) -> Result<ExitCode> {
    rustix::process::setsid().context("can't begin a session")?;
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    Err(error).with_context(|| format!("can't run {}", command[0].to_string_lossy()))
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.stdout(Stdio::piped()).spawn().with_context(|| format!("can't run `{}`", run::shown(command)))
}

fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the daemon has no process id")
}

/// The first line of its stdout, or a closed channel when there is none. Reads on, so that nothing ever blocks there.
fn first_line(child: &mut Child) -> Result<mpsc::Receiver<String>> {
    let mut stdout: BufReader<ChildStdout> = BufReader::new(child.stdout.take().context("the daemon has no stdout")?);
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        if stdout.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            let _ = send.send(line);
        }
        drop(send);
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
    });
    Ok(receive)
}

fn parse(line: &str) -> Result<Ready> {
    serde_json::from_str(line)
        .with_context(|| format!("the daemon printed `{}` instead of where it listens", line.trim()))
}

/// The end of what was written to the file after its first `begin` bytes.
fn last_words(path: &Path, begin: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(begin.max(length.saturating_sub(LAST_WORDS))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().into())
    };
    read().unwrap_or_else(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use astrid_capsule::archive::Archive;
    use astrid_capsule::manifest::Manifest;
    use astrid_capsule::trust;

    use super::*;

    #[test]
    fn a_setting_has_a_room_a_key_and_a_value() {
        assert_eq!(setting("http.listen=a=b").unwrap(), "http.listen=a=b");
        for bad in ["", "a", "a=b", "a.b", ".b=c", "a.=c"] {
            assert!(setting(bad).is_err(), "{bad}");
        }
    }

    /// A home with the default distribution, whose components are empty ones.
    fn furnished(home: &Path) -> Root {
        let text = fs::read_to_string(crate::workspace::checkout().join("registry/Distro.toml")).unwrap();
        let built = tempfile::tempdir().unwrap();
        let archive = |name: &str| {
            let manifest = Manifest::parse(&format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\n")).unwrap();
            let path = built.path().join(name);
            let component = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
            Archive::new(&manifest, component.to_vec()).write(File::create(&path)?)?;
            Ok(path)
        };
        furnish(home, &Distro::parse(&text).unwrap(), &text, archive).unwrap();
        let root = fs::read_to_string(home.join("etc/trust/this-checkout.toml")).unwrap();
        Root::parse(CHECKOUT, &root).unwrap()
    }

    #[test]
    fn what_is_put_into_a_home_is_signed_with_a_key_that_this_home_alone_trusts_for_the_distribution_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        let root = furnished(&home);
        assert!(root.may_sign("gateway") && !root.may_sign("notes"));
        let index = fs::read_to_string(home.join("distro/index.toml")).unwrap();
        let signatures = signature::parse_lines(&fs::read_to_string(home.join("distro/index.sig")).unwrap()).unwrap();
        assert!(root.key.verifies(Purpose::Index, index.as_bytes(), &signatures[0]));
        let index = Index::parse(&index).unwrap();
        assert_eq!(index.entries().len(), 4);
        let lock = Lock::parse(&fs::read_to_string(home.join("distro/Distro.lock")).unwrap()).unwrap();
        let pinned = |entry: &registry::Entry| {
            lock.capsule.iter().any(|locked| locked.name == entry.name && locked.archive == entry.hash)
        };
        assert!(index.entries().iter().all(pinned), "the lock is of what was signed");
        for entry in index.entries() {
            let bytes = fs::read(home.join(format!("distro/{}.capsule", entry.name))).unwrap();
            assert_eq!(blake3::hash(&bytes).to_hex().as_str(), entry.hash);
            assert!(trust::voucher(std::slice::from_ref(&root), &Archive::read(&bytes[..]).unwrap()).is_ok());
        }
        // Again it is the same key, and in another home another one.
        assert_eq!(furnished(&home), root);
        assert_ne!(furnished(&folder.path().join("other")).key, root.key);
    }

    #[test]
    fn the_line_to_paste_names_the_home_only_where_it_must() {
        let home = |is_default| Home { folder: "/a b".into(), is_default };
        assert_eq!(invite(Path::new("/p"), &home(true)), "/p/astrid invite issue");
        assert_eq!(invite(Path::new("/p"), &home(false)), "/p/astrid --home '/a b' invite issue");
    }

    #[test]
    fn a_daemon_is_ready_when_it_says_so_and_one_that_ends_or_says_nothing_is_not_waited_for() {
        use std::os::unix::process::ExitStatusExt;

        let daemon = |script: &str| spawn(Command::new("sh").args(["-c", script])).unwrap();
        let mut ready = daemon("echo here; exec sleep 600");
        assert_eq!(wait_until_ready(&mut ready, READY_LIMIT).unwrap(), "here\n");
        ready.kill().unwrap();
        ready.wait().unwrap();
        let ended = wait_until_ready(&mut daemon("exit 3"), READY_LIMIT).unwrap_err().to_string();
        assert!(ended.contains("ended before it was ready") && ended.contains('3'), "{ended}");
        let mut silent = daemon("exec sleep 600");
        let told = wait_until_ready(&mut silent, Duration::from_secs(1)).unwrap_err().to_string();
        assert!(told.contains("not ready after 1 s and was told to stop"), "{told}");
        assert_eq!(silent.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn the_last_words_are_the_end_of_a_long_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, format!("before\n{}\nthe reason\n", "x".repeat(1 << 20))).unwrap();
        let words = last_words(&path, 0);
        assert!(words.ends_with("the reason") && words.len() as u64 <= LAST_WORDS);
        fs::write(&path, "before\nthe reason\n").unwrap();
        assert_eq!(last_words(&path, 7), "the reason");
    }
}
