//! Sandboxed children: programs of the system that capsules start, each in a jail of its own.
//!
//! Owns the children that run, the thread that starts them, and their end: when the program ends, its time is over, somebody
//! stops it, its [`Child`] is dropped, or the daemon ends, however that ends. With a program goes everything that it has
//! started. How a child is kept in is the business of [`jail`], which is this same program, started again.
//!
//! Bounded by [`MAX_CHILDREN`], the principal's quota, and the constants below; what a child writes waits in the kernel's
//! pipe until it is read, and holds the child up. Refuses to know: which programs a capsule may start, what they do.

mod child;
mod control;
pub mod jail;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use astrid_capsule::PrincipalId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

pub use child::{Child, Piece, Stream};
use control::Plan;

/// Children of the whole host at once.
pub const MAX_CHILDREN: usize = 256;
/// Arguments of one child, and fields of its environment.
pub const MAX_FIELDS: usize = 256;
/// Bytes of both.
pub const MAX_FIELD_BYTES: usize = 64 << 10;
/// The longest path of a program, in bytes.
pub const MAX_PROGRAM_BYTES: usize = 256;
/// The longest life of a child.
pub const MAX_LIFE: Duration = Duration::from_secs(86_400);
/// How long a jail may take to be ready.
const SETUP: Duration = Duration::from_secs(10);

/// What somebody wants to run.
#[derive(Debug, Clone)]
pub struct Wish {
    pub principal: PrincipalId,
    pub capsule: Arc<str>,
    /// An absolute path.
    pub program: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub life: Duration,
}

/// Why there is no child.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Says what is out of bounds.
    #[error("{0}")]
    Invalid(String),
    /// The principal has as many as it may.
    #[error("max_background_processes = {0} children run")]
    Quota(usize),
    #[error("{MAX_CHILDREN} children run")]
    Busy,
    /// Names the part of the jail that could not be set up, or why the program is not there.
    #[error("{0}")]
    Failed(String),
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exited(u8),
    /// By a signal, not of ours.
    Killed(u8),
    /// Its time was over.
    TimedOut,
    /// Somebody stopped it.
    Stopped,
    /// Whoever started it has let go of it, or has ended.
    Dropped,
    /// The daemon ends.
    Shutdown,
    /// Its jail was ended from outside.
    Lost,
}

impl End {
    /// As figures and facts call it.
    pub fn as_str(self) -> &'static str {
        match self {
            End::Exited(_) => "exited",
            End::Killed(_) => "killed",
            End::TimedOut => "timeout",
            End::Stopped => "stopped",
            End::Dropped => "dropped",
            End::Shutdown => "shutdown",
            End::Lost => "lost",
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Exited(code) => write!(f, "exited with {code}"),
            End::Killed(signal) => write!(f, "killed by signal {signal}"),
            End::TimedOut => f.write_str("its time was over"),
            End::Stopped => f.write_str("stopped"),
            End::Dropped => f.write_str("whoever started it has let go of it"),
            End::Shutdown => f.write_str("the host stops"),
            End::Lost => f.write_str("its jail was ended from outside"),
        }
    }
}

/// A child that runs, as it is listed.
#[derive(Debug, Clone)]
pub struct Running {
    /// 16 hex digits, never used again.
    pub id: String,
    pub principal: PrincipalId,
    pub capsule: Arc<str>,
    pub program: String,
    pub started: SystemTime,
}

/// The children of this host.
pub struct Processes {
    children: Arc<Children>,
    spawner: mpsc::Sender<Job>,
    /// The daemon's home: no program may see it.
    home: PathBuf,
    /// The program that becomes a jail.
    jail: PathBuf,
}

#[derive(Default)]
struct Children(Mutex<Register>);

#[derive(Default)]
struct Register {
    running: BTreeMap<String, Arc<Entry>>,
    closed: bool,
}

struct Entry {
    about: Running,
    /// Why it is to end. The first word counts.
    stop: watch::Sender<Option<End>>,
}

impl Entry {
    fn stop(&self, why: End) {
        self.stop.send_if_modified(|stop| stop.is_none() && stop.replace(why).is_none());
    }
}

/// A place among the children, from before the child is there until it is gone.
struct Place {
    children: Arc<Children>,
    entry: Arc<Entry>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.children.register().running.remove(&self.entry.about.id);
    }
}

impl Children {
    fn register(&self) -> std::sync::MutexGuard<'_, Register> {
        self.0.lock().expect("no panic under this lock")
    }

    fn place(self: &Arc<Self>, wish: &Wish, quota: usize) -> Result<Place, Error> {
        let id = getrandom::u64().map_err(|error| Error::Failed(format!("no randomness for an id: {error}")))?;
        let about = Running {
            id: format!("{id:016x}"),
            principal: wish.principal.clone(),
            capsule: wish.capsule.clone(),
            program: wish.program.clone(),
            started: SystemTime::now(),
        };
        let mut register = self.register();
        if register.closed {
            return Err(Error::Failed("the host stops".to_owned()));
        }
        let own = register.running.values().filter(|entry| entry.about.principal == wish.principal).count();
        if own >= quota {
            return Err(Error::Quota(quota));
        }
        if register.running.len() >= MAX_CHILDREN {
            return Err(Error::Busy);
        }
        let entry = Arc::new(Entry { about, stop: watch::Sender::new(None) });
        register.running.insert(entry.about.id.clone(), entry.clone());
        drop(register);
        Ok(Place { children: self.clone(), entry })
    }
}

/// Work of the thread that starts children.
enum Job {
    Start(Box<Command>, oneshot::Sender<io::Result<std::process::Child>>),
    /// One that ends now.
    Bury(std::process::Child),
}

/// A jail's outer process: killed and buried when this is dropped.
struct Jailer {
    process: Option<std::process::Child>,
    spawner: mpsc::Sender<Job>,
}

impl Jailer {
    /// Ends the jail with everything in it. Fine if it has ended.
    fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
        }
    }
}

impl Drop for Jailer {
    fn drop(&mut self) {
        self.kill();
        if let Some(process) = self.process.take() {
            let _ = self.spawner.send(Job::Bury(process));
        }
    }
}

impl Processes {
    /// The thread that this starts lives as long as the room: the kernel kills a child when the *thread* that has started it
    /// is gone. `jail` is the daemon's program: [`jail::SELF`] in the daemon.
    pub fn new(home: &Path, jail: &Path) -> io::Result<Self> {
        let (spawner, jobs) = mpsc::channel::<Job>();
        thread::Builder::new().name("processes".into()).spawn(move || {
            for job in jobs {
                match job {
                    Job::Start(mut command, reply) => {
                        // Its pipes must be closed on this side before whoever asked hears of it.
                        let started = command.spawn();
                        drop(command);
                        if let Err(Ok(mut unwanted)) = reply.send(started) {
                            let _ = unwanted.kill();
                            let _ = unwanted.wait();
                        }
                    }
                    Job::Bury(mut ending) => {
                        let _ = ending.wait();
                    }
                }
            }
        })?;
        Ok(Self { children: Arc::default(), spawner, home: home.canonicalize()?, jail: jail.to_owned() })
    }

    /// Starts a program in a jail. `quota`: how many children its principal may have. `ended` is called once, when the child
    /// is gone, with how long it was there.
    ///
    /// A caller that goes away while this waits leaves no child.
    pub async fn start(
        &self,
        wish: Wish,
        quota: usize,
        ended: impl FnOnce(End, Duration) + Send + 'static,
    ) -> Result<Child, Error> {
        check(&wish)?;
        let place = self.children.place(&wish, quota)?;
        let (home, jail, spawner) = (self.home.clone(), self.jail.clone(), self.spawner.clone());
        let started = tokio::spawn(async move { begin(&home, &jail, spawner, wish, place, ended).await }).await;
        let started = started.unwrap_or_else(|error| Err(Error::Failed(error.to_string())));
        let outcome = if started.is_ok() { "ok" } else { "failed" };
        metrics::counter!("astrid_processes_started_total", "outcome" => outcome).increment(1);
        started
    }

    /// Sorted by id.
    pub fn list(&self) -> Vec<Running> {
        self.children.register().running.values().map(|entry| entry.about.clone()).collect()
    }

    /// Children of this principal, those that are about to be there included.
    pub fn count(&self, principal: &PrincipalId) -> usize {
        self.children.register().running.values().filter(|entry| entry.about.principal == *principal).count()
    }

    pub fn running(&self) -> usize {
        self.children.register().running.len()
    }

    /// Ends a child, of everybody's or of one principal's. What it was; none if there is none.
    pub fn stop(&self, id: &str, principal: Option<&str>) -> Option<Running> {
        let entry = self.children.register().running.get(id).cloned()?;
        if principal.is_some_and(|only| entry.about.principal.as_str() != only) {
            return None;
        }
        entry.stop(End::Stopped);
        Some(entry.about.clone())
    }

    /// Ends all, and returns when they are gone. None is started any more.
    pub async fn close(&self) {
        {
            let mut register = self.children.register();
            register.closed = true;
            register.running.values().for_each(|entry| entry.stop(End::Shutdown));
        }
        while self.running() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The error names what is out of bounds.
fn check(wish: &Wish) -> Result<(), Error> {
    let invalid = |text: String| Err(Error::Invalid(text));
    let Wish { program, args, env, life, .. } = wish;
    if !program.starts_with('/') || program.len() > MAX_PROGRAM_BYTES {
        return invalid(format!("the program must be an absolute path of at most {MAX_PROGRAM_BYTES} bytes"));
    }
    if args.len() > MAX_FIELDS || env.len() > MAX_FIELDS {
        return invalid(format!("more than {MAX_FIELDS} arguments, or fields of the environment"));
    }
    let bytes = args.iter().map(String::len).sum::<usize>()
        + env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if bytes > MAX_FIELD_BYTES {
        return invalid(format!("arguments and environment have {bytes} bytes, more than {MAX_FIELD_BYTES}"));
    }
    if let Some((name, _)) = env.iter().find(|(name, _)| !is_name(name)) {
        let shown = crate::log::clean(name);
        return invalid(format!("`{shown}` is no name of an environment's field: letters, digits, _"));
    }
    let texts = args.iter().chain(env.iter().map(|(_, value)| value)).chain([program]);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return invalid("a zero byte in the program, an argument or the environment".to_owned());
    }
    if life.is_zero() || *life > MAX_LIFE {
        return invalid(format!("the time limit must be 1 ms to {} ms", MAX_LIFE.as_millis()));
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(word)
}

/// The program's file. It is looked for once, and what is run is what was found.
fn find(home: &Path, program: &str) -> Result<PathBuf, Error> {
    let failed = |text: String| Error::Failed(text);
    let file = Path::new(program).canonicalize().map_err(|error| failed(format!("{program}: {error}")))?;
    if !file.is_file() {
        return Err(failed(format!("{program} is no file")));
    }
    if jail::shows(home) {
        return Err(failed("the host's home lies where programs can read".to_owned()));
    }
    if file.starts_with(home) {
        return Err(failed(format!("{program} lies in the host's home")));
    }
    Ok(file)
}

/// What is between this side and the program.
struct Ends {
    stdin: io::PipeWriter,
    stdout: io::PipeReader,
    stderr: io::PipeReader,
}

async fn begin(
    home: &Path,
    jail: &Path,
    spawner: mpsc::Sender<Job>,
    wish: Wish,
    place: Place,
    ended: impl FnOnce(End, Duration) + Send + 'static,
) -> Result<Child, Error> {
    let until = Instant::now() + wish.life;
    let file = find(home, &wish.program)?;
    let plan = Plan {
        file,
        name: wish.program,
        args: wish.args,
        env: wish.env,
        cpu_secs: wish.life.as_secs().max(1).saturating_add(1),
    };
    let setting_up = set_up(jail, spawner, &plan);
    let (jailer, status, ends) = match tokio::time::timeout(SETUP, setting_up).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(Error::Failed(format!("the jail was not ready after {SETUP:?}"))),
    };
    let child = Child::new(place.entry.clone(), ends).map_err(|error| Error::Failed(format!("its pipes: {error}")))?;
    let over = child.over();
    tokio::spawn(async move {
        let started = Instant::now();
        let end = attend(jailer, status, &place.entry, until).await;
        drop(place);
        metrics::counter!("astrid_processes_ended_total", "outcome" => end.as_str()).increment(1);
        ended(end, started.elapsed());
        over.send_replace(Some(end));
    });
    Ok(child)
}

/// Starts a jail and has it become the program.
async fn set_up(jail: &Path, spawner: mpsc::Sender<Job>, plan: &Plan) -> Result<(Jailer, pipe::Receiver, Ends), Error> {
    let failed = |what: &str, error: io::Error| Error::Failed(format!("{what}: {error}"));
    let pipes = || -> io::Result<_> { Ok((io::pipe()?, io::pipe()?, io::pipe()?, io::pipe()?)) };
    let ((stdin, to), (from, stdout), (from_errors, stderr), (status, says)) =
        pipes().map_err(|error| failed("pipes", error))?;
    let socket = || -> io::Result<_> {
        let (ours, theirs) = UnixStream::pair()?;
        control::send_pipes(&ours, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
        ours.set_nonblocking(true)?;
        Ok((tokio::net::UnixStream::from_std(ours)?, theirs))
    };
    let (mut ours, theirs) = socket().map_err(|error| failed("the control socket", error))?;
    drop((stdin, stdout, stderr));
    let mut command = Command::new(jail);
    command.args(jail::arguments(std::process::id())).env_clear().current_dir("/");
    command.stdin(OwnedFd::from(theirs)).stdout(says).stderr(Stdio::null());
    let (reply, started) = oneshot::channel();
    let gone = || Error::Failed("the thread that starts children is gone".to_owned());
    spawner.send(Job::Start(Box::new(command), reply)).map_err(|_| gone())?;
    let process = started.await.map_err(|_| gone())?.map_err(|error| failed("the jail", error))?;
    let jailer = Jailer { process: Some(process), spawner };
    let plan = plan.to_bytes().map_err(|error| failed("the plan", error))?;
    // Where this fails there is a word that says why.
    let _ = ours.write_all(&plan).await;
    let mut word = [0];
    if ours.read_exact(&mut word).await.is_err() {
        return Err(Error::Failed("the jail ended without a word".to_owned()));
    }
    if word == [control::READY] {
        let _ = ours.write_all(&[control::GO]).await;
        if let Err(error) = ours.read_exact(&mut word).await {
            // The end in order: the program has taken the jail's place. Anything else is none.
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return Err(failed("the jail ended before the program began", error));
            }
            let status = pipe::Receiver::from_owned_fd(status.into()).map_err(|error| failed("pipes", error))?;
            return Ok((jailer, status, Ends { stdin: to, stdout: from, stderr: from_errors }));
        }
    }
    // What has arrived counts, also if the jail ended in the middle of it.
    let mut text = Vec::new();
    let _ = ours.take(control::MAX_TEXT).read_to_end(&mut text).await;
    Err(Error::Failed(crate::log::clean(&String::from_utf8_lossy(&text))))
}

/// Waits for the end of a child, or brings it about.
async fn attend(mut jailer: Jailer, mut status: pipe::Receiver, entry: &Entry, until: Instant) -> End {
    let mut stop = entry.stop.subscribe();
    let mut said = Vec::new();
    let why = {
        let mut status = (&mut status).take(16);
        let ends = status.read_to_end(&mut said);
        tokio::select! {
            biased;
            _ = ends => None,
            // The sender is in the entry.
            why = stop.wait_for(Option::is_some) => why.ok().and_then(|why| *why),
            () = tokio::time::sleep_until(until) => Some(End::TimedOut),
        }
    };
    if let Some(why) = why {
        jailer.kill();
        // Nobody has the other end once the jail is gone.
        let _ = status.read_to_end(&mut said).await;
        return why;
    }
    parse_end(&said).unwrap_or(End::Lost)
}

fn parse_end(said: &[u8]) -> Option<End> {
    let said = std::str::from_utf8(said).ok()?;
    match (said.strip_prefix(jail::EXITED), said.strip_prefix(jail::KILLED)) {
        (Some(code), _) => Some(End::Exited(code.parse().ok()?)),
        (_, Some(signal)) => Some(End::Killed(signal.parse().ok()?)),
        _ => None,
    }
}
