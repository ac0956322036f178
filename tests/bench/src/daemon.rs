//! Daemons to measure: the release build in a home of its own, with the default distribution.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use astrid_capsule::archive::Archive;
use astrid_capsule::distro::Distro;
use astrid_capsule::signature::SecretKey;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::Setup;
use crate::load::{self, Target};

const DISTRO: &str = include_str!("../../../registry/Distro.toml");
/// How long a daemon may take to do what it is told.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Lays out the default distribution and returns its folder.
pub(crate) fn distribution(setup: &Setup) -> anyhow::Result<PathBuf> {
    let folder = setup.place("distro");
    fs::create_dir_all(&folder)?;
    for entry in Distro::parse(DISTRO)?.capsule {
        let from = setup.capsule(&entry.name);
        fs::copy(&from, folder.join(entry.file()))
            .with_context(|| format!("{}: `cargo astrid build` packs it", from.display()))?;
    }
    fs::write(folder.join("Distro.toml"), DISTRO)?;
    Ok(folder)
}

/// A home, and how to start a daemon in it.
pub(crate) struct Home {
    program: PathBuf,
    root: PathBuf,
    distro: PathBuf,
}

impl Home {
    pub(crate) fn new(setup: &Setup, name: &str) -> anyhow::Result<Self> {
        Ok(Self { program: setup.daemon(), root: setup.place(name), distro: distribution(setup)? })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("run/astrid.sock")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Starts a daemon and returns at once.
    pub(crate) fn spawn(&self) -> anyhow::Result<Daemon> {
        let child = Command::new(&self.program)
            .args(["--listen", "127.0.0.1:0", "--home"])
            .arg(&self.root)
            .arg("--distro")
            .arg(&self.distro)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}: build it in release first", self.program.display()))?;
        Ok(Daemon { child })
    }

    /// Starts a daemon and waits until it is ready.
    pub(crate) fn start(&self) -> anyhow::Result<Server> {
        let mut daemon = self.spawn()?;
        let stdout = daemon.child.stdout.take().context("the daemon has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line)
            .with_context(|| format!("the daemon did not get ready; {} says why", self.root.join("log").display()))?;
        let address = ready["address"].as_str().unwrap_or_default().parse().context("the daemon's address")?;
        let bearer = administrator(&self.socket(), 0)?;
        Ok(Server { daemon, address, bearer, socket: self.socket() })
    }
}

/// A process that ends with its handle.
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(began.elapsed() < PATIENCE, "the daemon does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon that serves, and a credential of one of its administrators.
pub(crate) struct Server {
    pub(crate) daemon: Daemon,
    address: SocketAddr,
    bearer: String,
    socket: PathBuf,
}

impl Server {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// For a thread that makes requests of its own.
    pub(crate) fn requests(&self) -> Requests {
        Requests { address: self.address, bearer: self.bearer.clone() }
    }

    /// Makes another administrator, whose requests these are. `n` is 1 for the first of them.
    pub(crate) fn another_person(&self, n: u8) -> anyhow::Result<Requests> {
        let bearer = administrator(&self.socket, n)?;
        Ok(Requests { address: self.address, bearer })
    }

    pub(crate) fn get(&self, path: &str) -> Arc<Target> {
        self.target(vec![self.requests().get(path)], 200)
    }

    /// One path after the other.
    pub(crate) fn get_each(&self, paths: impl IntoIterator<Item = String>) -> Arc<Target> {
        let requests = self.requests();
        self.target(paths.into_iter().map(|path| requests.get(&path)).collect(), 200)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Arc<Target> {
        self.target(vec![self.requests().post(path, body)], 200)
    }

    /// One body after the other, each answered with a 201.
    pub(crate) fn create_each(&self, path: &str, bodies: impl IntoIterator<Item = Value>) -> Arc<Target> {
        let requests = self.requests();
        self.target(bodies.into_iter().map(|body| requests.post(path, &body)).collect(), 201)
    }

    /// Installs an archive with everything that it asks.
    pub(crate) fn install(&self, archive: &Path) -> anyhow::Result<()> {
        let asked: Vec<String> =
            read(archive)?.manifest.asked().iter().map(|asked| asked.as_str().to_owned()).collect();
        let (status, body) =
            self.send(self.post("/api/capsules", &json!({ "source": archive, "grants": asked })).request())?;
        ensure!(status == 200, "installing {} was answered {status}: {body}", archive.display());
        Ok(())
    }

    /// One request on a connection of its own: its status, and its body if that is JSON.
    pub(crate) fn send(&self, request: &[u8]) -> anyhow::Result<(u16, Value)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        exchange(&mut stream, request)
    }

    fn target(&self, requests: Vec<Vec<u8>>, status: u16) -> Arc<Target> {
        Arc::new(Target { address: self.address, pid: self.daemon.pid(), requests, status })
    }
}

/// Writes whole requests of one person.
pub(crate) struct Requests {
    address: SocketAddr,
    bearer: String,
}

impl Requests {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        self.request(format!("GET {path} HTTP/1.1\r\n"), "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Vec<u8> {
        self.request(format!("POST {path} HTTP/1.1\r\ncontent-type: application/json\r\n"), &body.to_string())
    }

    fn request(&self, head: String, body: &str) -> Vec<u8> {
        let (bearer, length) = (&self.bearer, body.len());
        let framing = if body.is_empty() { String::new() } else { format!("content-length: {length}\r\n") };
        format!("{head}host: {}\r\nauthorization: Bearer {bearer}\r\n{framing}\r\n{body}", self.address).into_bytes()
    }
}

/// A bearer of a new administrator: an invite that the owner issues over the Unix socket and that is redeemed there, where
/// attempts are not counted.
fn administrator(socket: &Path, n: u8) -> anyhow::Result<String> {
    let invite = json!({ "group": "admin", "max_uses": 1 });
    let issued = post(UnixStream::connect(socket)?, "/api/sys/invites", &invite)?;
    let public_key = SecretKey::from_bytes(&[n; 32]).public().to_hex();
    let redemption = json!({ "token": issued["invite"]["token"], "public_key": public_key });
    let redeemed = post(UnixStream::connect(socket)?, "/api/auth/redeem", &redemption)?;
    Ok(redeemed["session_token"].as_str().context("no bearer was given")?.to_owned())
}

fn post(stream: impl Read + Write, path: &str, body: &Value) -> anyhow::Result<Value> {
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.1\r\nhost: local\r\ncontent-type: application/json\r\n");
    let answer = ask(stream, &format!("{head}content-length: {}\r\n\r\n{body}", body.len()))?;
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |end| end + 4);
    serde_json::from_slice(&answer[body..]).with_context(|| format!("the answer to POST {path}"))
}

/// A packed capsule.
pub(crate) fn read(path: &Path) -> anyhow::Result<Archive> {
    let file =
        File::open(path).with_context(|| format!("opening {}: `cargo astrid build` packs it", path.display()))?;
    Archive::read(BufReader::new(file)).with_context(|| format!("reading {}", path.display()))
}

/// One request on a kept connection: its status, and its body if that is JSON.
pub(crate) fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> anyhow::Result<(u16, Value)> {
    stream.write_all(request)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some((status, length)) = load::answer(&bytes)?
            && bytes.len() >= length
        {
            let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |end| end + 4);
            return Ok((status, serde_json::from_slice(&bytes[head..length]).unwrap_or_default()));
        }
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the server hung up");
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// One request and its whole answer, which must be a 200.
pub(crate) fn ask(mut stream: impl Read + Write, request: &str) -> anyhow::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match load::answer(&bytes)? {
            Some((_, length)) if bytes.len() < length => {}
            Some((200, _)) => return Ok(bytes),
            Some(_) => bail!("an answer was not 200: {}", String::from_utf8_lossy(&bytes)),
            None => {}
        }
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the server hung up");
        bytes.extend_from_slice(&buffer[..read]);
    }
}
