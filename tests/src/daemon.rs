//! Homes, and the programs that serve and use them, as processes.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, PipeReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::DEADLINE;
use crate::http::{Connection, Request, Response};

/// How often the end of a process is looked for.
const POLL: Duration = Duration::from_millis(10);

/// A home of its own; gone from the disk with its last clone.
#[derive(Clone)]
pub struct Home {
    folder: Arc<TempDir>,
}

/// What a program said until it ended.
#[derive(Debug)]
pub struct Ended {
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The standard output of a run that went well.
    #[track_caller]
    pub fn out(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout.trim_end()
    }

    /// [`Self::out`] as one line of JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let out = self.out();
        assert!(!out.contains('\n'), "{out}");
        serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// The standard error of a run that ended with `code` and put nothing on its standard output.
    #[track_caller]
    pub fn refusal(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:?}");
        &self.stderr
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// The name of a home that is not there yet.
    pub fn absent() -> Self {
        let folder = tempfile::Builder::new().prefix("astrid-").tempdir().expect("a temporary folder");
        Self { folder: Arc::new(folder) }
    }

    /// A private home with `distro/` as it stands in the registry and the first-party capsules as they are packed.
    pub fn new() -> Self {
        let home = Self::absent();
        home.fill(&home.path().join("distro"));
        home
    }

    /// Makes a private folder with `Distro.toml` as it stands in the registry, but for the limit on public routes, which is
    /// off, and its capsules as they are packed.
    pub fn fill(&self, distro: &Path) {
        fs::create_dir_all(distro).expect("a folder in the temporary folder");
        for folder in [distro.parent().expect("a folder below another"), distro] {
            fs::set_permissions(folder, Permissions::from_mode(0o700)).expect("its owner may");
        }
        let copy = |from: PathBuf, name: &str| {
            fs::copy(&from, distro.join(name)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        };
        copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../registry/Distro.toml"), "Distro.toml");
        // Stories redeem and log in as fast as they can, all from one address. The gateway's entry is the last.
        let distro_toml = distro.join("Distro.toml");
        let text = fs::read_to_string(&distro_toml).expect("it was copied");
        fs::write(&distro_toml, text + "env = { PUBLIC_INTERVAL_MS = 0 }\n").expect("a folder of the test's");
        for name in ["identity", "system", "audit", "gateway"] {
            copy(crate::pack::packed(name), &format!("{name}.capsule"));
        }
    }

    /// Gives the home the key and the compiled code that [`Self::keep_compiled`] has put aside, if it has: a host takes what
    /// it has compiled under this key.
    pub fn take_compiled(&self, aside: &Path) {
        copy_compiled(aside, &self.path());
    }

    /// Puts the home's key and compiled code aside for [`Self::take_compiled`] of a later run.
    pub fn keep_compiled(&self, aside: &Path) {
        let _ = fs::remove_dir_all(aside);
        copy_compiled(&self.path(), aside);
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A folder beside the home, for a test's own files.
    pub fn beside(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `astrid --home` of this home to its end. Blocks.
    #[track_caller]
    pub fn astrid(&self, arguments: &[&str]) -> Ended {
        let mut command = program("astrid");
        let output = command.arg("--home").arg(self.path()).args(arguments).stdin(Stdio::null()).output();
        let output = output.expect("a program that was built");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Starts a daemon on any free port and waits until it is ready.
    #[track_caller]
    pub fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    /// As [`Self::start`], with more arguments.
    #[track_caller]
    pub fn start_with(&self, arguments: &[&str]) -> Daemon {
        self.try_start(arguments).unwrap_or_else(|ended| panic!("the daemon did not start: {ended:?}"))
    }

    /// As [`Self::start_with`], for a daemon that may end instead.
    #[track_caller]
    pub fn try_start(&self, arguments: &[&str]) -> Result<Daemon, Ended> {
        self.try_start_at("127.0.0.1:0", arguments)
    }

    /// As [`Self::try_start`], on this address.
    #[track_caller]
    pub fn try_start_at(&self, address: &str, arguments: &[&str]) -> Result<Daemon, Ended> {
        self.try_start_as(program("astrid-daemon"), address, arguments)
    }

    /// A copy of the daemon's program beside the home, with a distribution in it.
    pub fn embedding(&self, bundle: &[u8]) -> PathBuf {
        let copy = self.beside().join("daemon-of-its-own");
        std::fs::copy(program("astrid-daemon").get_program(), &copy).expect("room for a copy");
        astrid_capsule::distro::embedded::put(&copy, bundle).expect("it takes a distribution");
        copy
    }

    /// As [`Self::start_with`], of another program.
    #[track_caller]
    pub fn start_program(&self, program: &Path, arguments: &[&str]) -> Daemon {
        let started = self.try_start_program(program, arguments);
        started.unwrap_or_else(|ended| panic!("the daemon did not start: {ended:?}"))
    }

    /// As [`Self::start_program`], for a daemon that may end instead.
    #[track_caller]
    pub fn try_start_program(&self, program: &Path, arguments: &[&str]) -> Result<Daemon, Ended> {
        self.try_start_as(Command::new(program), "127.0.0.1:0", arguments)
    }

    /// As [`Self::start_with`], in so many KiB of address space.
    #[track_caller]
    pub fn start_in_address_space(&self, kib: u64, arguments: &[&str]) -> Daemon {
        let daemon = program("astrid-daemon");
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().arg("-c").arg(format!("ulimit -v {kib} && exec \"$0\" \"$@\"")).arg(daemon.get_program());
        let started = self.try_start_as(shell, "127.0.0.1:0", arguments);
        started.unwrap_or_else(|ended| panic!("the daemon did not start: {ended:?}"))
    }

    /// As [`Self::start`], with its standard error in a pipe, which fills up unless somebody reads it.
    #[track_caller]
    pub fn start_unread(&self) -> (Daemon, PipeReader) {
        let (unread, stderr) = std::io::pipe().expect("two file handles");
        let started = self.spawn(program("astrid-daemon"), "127.0.0.1:0", &[], stderr.into(), PathBuf::new());
        (started.unwrap_or_else(|ended| panic!("the daemon did not start: {ended:?}")), unread)
    }

    #[track_caller]
    fn try_start_as(&self, command: Command, address: &str, arguments: &[&str]) -> Result<Daemon, Ended> {
        static SERIAL: AtomicUsize = AtomicUsize::new(0);
        // A file, because nobody reads a pipe while a test is busy.
        let path = self.beside().join(format!("stderr-{}", SERIAL.fetch_add(1, Ordering::Relaxed)));
        let stderr = File::create(&path).expect("a new file").into();
        self.spawn(command, address, arguments, stderr, path)
    }

    /// `path` is where its standard error can be read, if anywhere.
    #[track_caller]
    fn spawn(
        &self,
        mut command: Command,
        address: &str,
        arguments: &[&str],
        stderr: Stdio,
        path: PathBuf,
    ) -> Result<Daemon, Ended> {
        command.arg("--home").arg(self.path()).args(["--listen", address]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().expect("a program that was built");
        let stdout = lines(child.stdout.take().expect("it is piped"));
        let first = stdout.recv_timeout(DEADLINE);
        let mut daemon = Daemon { home: self.clone(), child, stdout, stderr: path, ready: Value::Null };
        match first {
            Ok(line) => {
                daemon.ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                Ok(daemon)
            }
            Err(RecvTimeoutError::Disconnected) => Err(daemon.wait()),
            Err(RecvTimeoutError::Timeout) => panic!("not ready after {DEADLINE:?}: {}", daemon.stderr()),
        }
    }
}

fn copy_compiled(from: &Path, to: &Path) {
    for folder in ["keys", "cache"] {
        let Ok(entries) = fs::read_dir(from.join(folder)) else { continue };
        let to = to.join(folder);
        fs::create_dir_all(&to).expect("a folder of the test's own");
        fs::set_permissions(&to, Permissions::from_mode(0o700)).expect("its owner may");
        for entry in entries {
            let entry = entry.expect("a folder that nobody changes");
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a file that is there");
        }
    }
}

/// Where one of the host's programs lies.
#[track_caller]
pub fn path(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in a folder of the profile's");
    let path = profile.join(name);
    assert!(path.is_file(), "{} is not built; `cargo astrid test story` builds it", path.display());
    path
}

/// One of the host's programs, with an empty environment.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(path(name));
    command.env_clear();
    command
}

/// The lines of a stream, until it ends.
fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A daemon that was ready once. Killed when it is dropped.
pub struct Daemon {
    home: Home,
    child: Child,
    stdout: Receiver<String>,
    stderr: PathBuf,
    /// The line that said so.
    pub ready: Value,
}

impl Daemon {
    /// On a home of its own.
    #[track_caller]
    pub fn start() -> Self {
        Home::new().start()
    }

    /// As [`Self::start`], with more arguments.
    #[track_caller]
    pub fn start_with(arguments: &[&str]) -> Self {
        Home::new().start_with(arguments)
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    /// See [`Home::astrid`].
    #[track_caller]
    pub fn astrid(&self, arguments: &[&str]) -> Ended {
        self.home.astrid(arguments)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        let address = self.ready["address"].as_str().expect("it says so when it is ready");
        address.parse().expect("an address")
    }

    pub fn socket(&self) -> PathBuf {
        self.ready["socket"].as_str().expect("it says so when it is ready").into()
    }

    /// One request on a new TCP connection.
    pub async fn tcp(&self, request: Request) -> Response {
        self.connect().await.send(request).await.expect("an answer")
    }

    /// One request on a new connection of the Unix socket, as the host's owner.
    pub async fn unix(&self, request: Request) -> Response {
        self.connect_unix().await.send(request).await.expect("an answer")
    }

    pub async fn connect(&self) -> Connection {
        Connection::tcp(self.address()).await.expect("a listener")
    }

    pub async fn connect_unix(&self) -> Connection {
        Connection::unix(&self.socket()).await.expect("a listener")
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is not reaped before this is dropped");
    }

    /// SIGKILL: it can't prepare for that. Returns when it is gone.
    pub fn kill(self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// SIGTERM, and all that it said until it ended.
    pub fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        let status = self.end();
        let mut stdout: Vec<String> = Vec::from_iter((!self.ready.is_null()).then(|| self.ready.to_string()));
        // Ends with the process: nobody else writes to it.
        stdout.extend(self.stdout.iter());
        Ended { code: status.code(), stdout: stdout.join("\n"), stderr: self.stderr() }
    }

    fn end(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(started.elapsed() < DEADLINE, "it still runs after {DEADLINE:?}: {}", self.stderr());
            thread::sleep(POLL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("what the daemon said:\n{}", self.stderr());
        }
    }
}
