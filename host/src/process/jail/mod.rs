//! The jail: what the daemon's own program does when it is started as one, before it becomes somebody's program.
//!
//! Two processes of one thread each. The outer one makes the namespaces and waits; the inner one is the first process of
//! its PID namespace, so that with it everything that it has started is gone. It builds the root that the program sees
//! ([`root`]), takes away what the program has no use for ([`rules`]), and becomes the program. If either process loses
//! its parent, the kernel kills it.
//!
//! Everything that can't be set up is an error that names it, and then nothing runs: no part is optional but those of
//! Landlock that the kernel is too old for and that a namespace covers as well.
//! Refuses to know: who asked for the program, and whether they may.

mod root;
mod rules;

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{DumpableBehavior, Signal};
use uapi::c;

use super::control;

/// The first argument of the daemon's program that makes it a jail.
pub const WORD: &str = "jail";
const OUTER: &str = "outer";
const INNER: &str = "inner";

/// What stands before an exit status and before a signal, where the outer process says how the program ended.
pub(super) const EXITED: char = 'e';
pub(super) const KILLED: char = 'k';

/// This program, whatever has become of its file.
pub const SELF: &str = "/proc/self/exe";

/// As whom children of a daemon that runs as root run: nobody.
const NOBODY: u32 = 65_534;

/// Whether a program could see this path.
pub(super) fn shows(path: &Path) -> bool {
    root::SYSTEM.iter().any(|system| Path::new(system).canonicalize().is_ok_and(|system| path.starts_with(system)))
}

/// Why there is no child: which part, and what the kernel said.
type Fault = String;

/// Names the part that failed.
trait Part<T> {
    fn part(self, name: &str) -> Result<T, Fault>;
}

impl<T, E: std::fmt::Display> Part<T> for Result<T, E> {
    fn part(self, name: &str) -> Result<T, Fault> {
        self.map_err(|error| format!("{name}: {error}"))
    }
}

/// The arguments of a jail's outer process, for a daemon with this process id.
pub(super) fn arguments(daemon: u32) -> [String; 3] {
    [WORD.to_owned(), OUTER.to_owned(), daemon.to_string()]
}

/// What `astrid-daemon jail ...` does. Meant for the daemon alone: its standard input is the [control] socket, and its
/// standard output takes how the program ended.
pub fn main(arguments: &[String]) -> ExitCode {
    let socket = uapi::close_range(3, c::c_uint::MAX, 0)
        .map_err(io::Error::from)
        .and_then(|()| io::stdin().as_fd().try_clone_to_owned())
        .map(UnixStream::from);
    // Nobody to tell: the daemon sees that there was no word.
    let Ok(socket) = socket else { return ExitCode::FAILURE };
    let failed = match arguments {
        [word, daemon] if word == OUTER => match outer(daemon) {
            Ok(inner) => {
                drop(socket);
                return report(inner);
            }
            Err(why) => why,
        },
        [word] if word == INNER => match inner(&socket) {
            Ok(never) => match never {},
            Err(why) => why,
        },
        _ => "the jail is started by the daemon alone".to_owned(),
    };
    control::fail(&socket, &failed);
    ExitCode::FAILURE
}

/// When whoever started this process ends, so does this one.
fn follow_parent() -> Result<(), Fault> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).part("the signal at the parent's death")
}

/// Starts the inner process, in namespaces of its own.
fn outer(daemon: &str) -> Result<Child, Fault> {
    let (uid, gid) = leave_root()?;
    follow_parent()?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
    if parent.as_deref() != Some(daemon) {
        return Err("the daemon is gone".to_owned());
    }
    let namespaces = c::CLONE_NEWUSER
        | c::CLONE_NEWNS
        | c::CLONE_NEWPID
        | c::CLONE_NEWNET
        | c::CLONE_NEWIPC
        | c::CLONE_NEWUTS
        | c::CLONE_NEWCGROUP;
    uapi::unshare(namespaces).part("user, mount, PID, network, IPC, UTS and cgroup namespaces")?;
    let maps = [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))];
    for (file, line) in maps {
        let file = format!("/proc/self/{file}");
        let opened = OpenOptions::new().write(true).open(&file);
        opened.and_then(|mut opened| opened.write_all(line.as_bytes())).part(&file)?;
    }
    let mut inner = Command::new(SELF);
    inner.args([WORD, INNER]).env_clear().stdout(Stdio::null()).stderr(Stdio::null());
    inner.spawn().part("the first process of the PID namespace")
}

/// As whom the program runs: as the daemon does, or as nobody where that is root.
fn leave_root() -> Result<(u32, u32), Fault> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        return Ok((uid.as_raw(), gid.as_raw()));
    }
    let left = uapi::setgroups(&[])
        .and_then(|()| uapi::setresgid(NOBODY, NOBODY, NOBODY))
        .and_then(|()| uapi::setresuid(NOBODY, NOBODY, NOBODY));
    left.part("leaving root for nobody")?;
    // The kernel has taken its own files from it, with the maps below.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).part("its own files in /proc")?;
    Ok((NOBODY, NOBODY))
}

/// Waits for the inner process and says on standard output how it ended.
fn report(mut inner: Child) -> ExitCode {
    // The last of this process's hold on the control socket: the daemon waits for the end of it.
    let closed = uapi::close_range(0, 0, 0).map_err(io::Error::from);
    let Ok(status) = closed.and_then(|()| inner.wait()) else { return ExitCode::FAILURE };
    let line = match (status.code(), status.signal()) {
        (Some(code), _) => format!("{EXITED}{code}"),
        (None, signal) => format!("{KILLED}{}", signal.unwrap_or_default()),
    };
    let mut out = io::stdout();
    match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Builds the jail around this process and becomes the program.
fn inner(socket: &UnixStream) -> Result<Infallible, Fault> {
    follow_parent()?;
    let (plan, [stdin, stdout, stderr]) = control::receive(socket).part("the plan")?;
    root::enter(&plan.file)?;
    rules::limit(&plan)?;
    // A namespace without a single user: the next program has no capability anywhere, and can't get one.
    uapi::unshare(c::CLONE_NEWUSER).part("the user namespace without users")?;
    follow_parent()?;
    rules::confine(&plan.file)?;
    let mut socket = socket;
    let mut word = [0];
    socket.write_all(&[control::READY]).and_then(|()| socket.read_exact(&mut word)).part("the daemon's word")?;
    if word != [control::GO] {
        return Err("the daemon said something else than to go".to_owned());
    }
    let mut program = Command::new(&plan.file);
    program.arg0(&plan.name).args(&plan.args).env_clear().envs(plan.env.iter().map(|(name, value)| (name, value)));
    program.stdin(stdin).stdout(stdout).stderr(stderr);
    Err(format!("{}: {}", plan.name, program.exec()))
}
