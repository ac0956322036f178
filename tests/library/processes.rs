//! Sandboxed children, without a capsule in between: what a program finds in its jail, and how it ends.
//!
//! The programs are those of any system: `sh`, `cat`, `ls`, `sleep`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use astrid_capsule::PrincipalId;
use astrid_host::process::{Child, End, Error, Piece, Processes, Stream, Wish};
use astrid_tests::daemon;
use tempfile::TempDir;
use tokio::time::Instant;

struct Room {
    processes: Processes,
    home: TempDir,
}

impl Room {
    fn new() -> Self {
        Self::with(Path::new(daemon::program("astrid-daemon").get_program()))
    }

    /// With this program for a jail.
    fn with(jail: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        Self { processes: Processes::new(home.path(), jail).unwrap(), home }
    }

    /// With the daemon's program, as a script starts it.
    fn wrapped(script: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let wrapper = home.path().join("jail");
        let daemon = daemon::program("astrid-daemon").get_program().display().to_string();
        std::fs::write(&wrapper, format!("#!/bin/sh\n{}\n", script.replace("DAEMON", &daemon))).unwrap();
        std::fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
        Self { processes: Processes::new(home.path(), &wrapper).unwrap(), home }
    }

    async fn start(&self, wish: Wish) -> Result<Child, Error> {
        self.processes.start(wish, 8, |_, _| ()).await
    }

    async fn shell(&self, script: &str) -> Child {
        self.start(shell(script)).await.unwrap()
    }

    /// How a script ends, and what it says until then, errors behind the rest.
    async fn run(&self, script: &str) -> (End, String) {
        finish(self.shell(script).await).await
    }
}

fn shell(script: &str) -> Wish {
    Wish {
        principal: PrincipalId::parse("ada").unwrap(),
        capsule: Arc::from("test"),
        program: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        life: Duration::from_secs(60),
    }
}

fn late() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn all(child: &Child, stream: Stream) -> String {
    let mut said = Vec::new();
    loop {
        match child.read(stream, 4096, late()).await {
            Piece::Bytes(bytes) => said.extend(bytes),
            Piece::End => return String::from_utf8(said).unwrap(),
            Piece::Nothing => panic!("it says nothing more: {}", String::from_utf8_lossy(&said)),
        }
    }
}

/// Waits until nothing runs with this word among its arguments.
async fn gone(word: &str) {
    let until = late();
    while runs(word) > 0 {
        assert!(Instant::now() < until, "{word} still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processes with this word among their arguments, wherever they run.
fn runs(word: &str) -> usize {
    let folders = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = folders.filter_map(|folder| std::fs::read(folder.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())).count()
}

/// Waits until a child has said that it is there.
async fn there(child: &Child) {
    assert!(matches!(child.read(Stream::Output, 16, late()).await, Piece::Bytes(_)));
}

async fn finish(mut child: Child) -> (End, String) {
    child.close_input();
    let said = all(&child, Stream::Output).await + &all(&child, Stream::Errors).await;
    (child.wait(late()).await.expect("it does not end"), said)
}

#[tokio::test]
async fn a_child_reads_what_it_is_given_and_says_how_it_ended() {
    let room = Room::new();
    let mut child = room.shell("cat; echo oops >&2; exit 7").await;
    assert_eq!(child.write(b"hello", late()).await, Some(5));
    assert_eq!(finish(child).await, (End::Exited(7), "hellooops\n".to_owned()));
    assert_eq!(room.processes.running(), 0);
}

#[tokio::test]
async fn a_child_has_the_environment_that_was_asked_for_and_no_other() {
    let room = Room::new();
    let mut wish = shell("");
    (wish.program, wish.args) = ("/usr/bin/env".to_owned(), vec![]);
    wish.env = vec![("WORD".to_owned(), "sesame".to_owned())];
    let child = room.start(wish).await.unwrap();
    assert_eq!(finish(child).await, (End::Exited(0), "WORD=sesame\n".to_owned()));
}

#[tokio::test]
async fn a_child_sees_the_systems_programs_and_its_own_folder_and_nothing_else() {
    let room = Room::new();
    let (end, said) = room.run("pwd; ls -a; echo x > file && cat file").await;
    assert_eq!((end, said.as_str()), (End::Exited(0), "/work\n.\n..\nx\n"));
    assert_eq!(room.run("test -e /bin/sh").await.0, End::Exited(0));
    for hidden in ["/etc/shadow", "/proc/self", "/root", "/home", "/tmp", "/var", "/sys"] {
        assert_eq!(room.run(&format!("test -e {hidden}")).await.0, End::Exited(1), "{hidden}");
    }
    assert_eq!(room.run("ls /").await.0, End::Exited(2));
    let secret = room.home.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    for path in [Path::new("/etc/shadow"), Path::new("/etc/passwd"), Path::new("/proc/1/environ"), &secret] {
        let (end, said) = room.run(&format!("cat {}", path.display())).await;
        assert!(end == End::Exited(1) && !said.contains("secret\n"), "{}: {end}: {said}", path.display());
    }
    for elsewhere in ["/x", "/usr/x", "/etc/x", "/dev/x"] {
        let (end, said) = room.run(&format!("echo x > {elsewhere}")).await;
        assert_ne!(end, End::Exited(0), "{elsewhere}: {said}");
    }
    let (end, said) = room.run("cp /bin/true mine && chmod +x mine && ./mine").await;
    assert_ne!(end, End::Exited(0), "{said}");
    assert_ne!(room.run("chmod 777 /usr/bin/env").await.0, End::Exited(0));
}

#[tokio::test]
async fn a_child_has_no_network_not_even_to_its_own_machine() {
    let room = Room::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for kind in ["tcp", "udp"] {
        let (end, said) = room.run(&format!("bash -c 'echo x > /dev/{kind}/127.0.0.1/{port}'")).await;
        assert!(end == End::Exited(1) && said.contains("not permitted"), "{end}: {said}");
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

#[tokio::test]
async fn a_child_makes_no_namespace_no_mount_and_not_too_many_processes() {
    let room = Room::new();
    for script in ["unshare -U true", "unshare -m true", "mount -t tmpfs x /work"] {
        let (end, said) = room.run(script).await;
        assert!(matches!(end, End::Exited(code) if code != 0), "{script}: {end}: {said}");
    }
    let (_, said) = room.run("for n in $(seq 100); do sleep 600 & done; echo all").await;
    assert!(said.contains("fork") && !said.contains("all"), "{said}");
    let (end, said) = room.run("head -c 65M /dev/zero > big").await;
    assert!(matches!(end, End::Exited(code) if code != 0), "{end}: {said}");
}

#[tokio::test]
async fn the_time_limit_a_stop_and_a_dropped_handle_end_all_that_a_child_has_started() {
    let room = Room::new();
    let script = |word: &str| format!("setsid sleep {word} & (sleep {word} &) ; echo there; sleep {word}");
    let mut wish = shell(&script("1000001"));
    wish.life = Duration::from_millis(700);
    let child = room.start(wish).await.unwrap();
    there(&child).await;
    assert_eq!(finish(child).await.0, End::TimedOut);
    gone("1000001").await;

    let child = room.shell(&script("1000002")).await;
    there(&child).await;
    assert!(runs("1000002") > 0);
    let listed = room.processes.list();
    assert_eq!((listed.len(), listed[0].id.as_str(), listed[0].program.as_str()), (1, child.id(), "/bin/sh"));
    assert!(room.processes.stop(child.id(), Some("bob")).is_none());
    assert!(room.processes.stop(child.id(), Some("ada")).is_some());
    assert_eq!(finish(child).await.0, End::Stopped);
    gone("1000002").await;
    assert!(room.processes.stop(&listed[0].id, None).is_none());

    let child = room.shell(&script("1000003")).await;
    there(&child).await;
    drop(child);
    gone("1000003").await;

    let child = room.shell(&script("1000004")).await;
    there(&child).await;
    room.processes.close().await;
    gone("1000004").await;
    assert_eq!(child.wait(late()).await, Some(End::Shutdown));
    assert!(matches!(room.start(shell("")).await, Err(Error::Failed(_))));
}

#[tokio::test]
async fn who_does_not_read_holds_the_child_up_and_a_child_that_does_not_read_its_writer() {
    let room = Room::new();
    let mut child = room.shell("sleep 600").await;
    let much = vec![0; 1 << 20];
    let soon = || Instant::now() + Duration::from_millis(50);
    let mut taken = 0;
    while let Some(more @ 1..) = child.write(&much, soon()).await {
        taken += more;
    }
    assert!((1..much.len()).contains(&taken), "{taken}");
    assert_eq!(child.read(Stream::Output, 16, soon()).await, Piece::Nothing);
    let child = room.shell("yes; echo done >&2").await;
    there(&child).await;
    assert_eq!(child.read(Stream::Errors, 16, soon()).await, Piece::Nothing, "it writes into a full pipe");
}

#[tokio::test]
async fn a_principal_has_no_more_children_than_its_quota_and_what_ends_makes_room() {
    let room = Room::new();
    let (told, ends) = mpsc::channel();
    let first = room.processes.start(shell("sleep 600"), 1, move |end, _| told.send(end).unwrap()).await.unwrap();
    assert_eq!(room.processes.start(shell(""), 1, |_, _| ()).await.err(), Some(Error::Quota(1)));
    let mut other = shell("");
    other.principal = PrincipalId::parse("bob").unwrap();
    finish(room.processes.start(other, 1, |_, _| ()).await.unwrap()).await;
    first.stop();
    assert_eq!(finish(first).await.0, End::Stopped);
    assert_eq!(ends.recv().unwrap(), End::Stopped);
    finish(room.processes.start(shell(""), 1, |_, _| ()).await.unwrap()).await;
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused_by_name() {
    let room = Room::new();
    let refused = async |change: fn(&mut Wish), what: &str| {
        let mut wish = shell("");
        change(&mut wish);
        let error = room.start(wish).await.err().expect("it is refused").to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(|w| w.program = "sh".into(), "absolute path").await;
    refused(|w| w.program = "/usr/bin".into(), "no file").await;
    refused(|w| w.program = "/no/such".into(), "/no/such: ").await;
    refused(|w| w.args = vec![String::new(); 257], "256 arguments").await;
    refused(|w| w.args = vec!["x".repeat(65_537)], "more than 65536").await;
    refused(|w| w.args = vec!["a\0b".into()], "zero byte").await;
    refused(|w| w.env = vec![("A=B".into(), String::new())], "`A=B`").await;
    refused(|w| w.life = Duration::ZERO, "time limit").await;
    refused(|w| w.life = Duration::from_secs(86_401), "time limit").await;
    let mut own = shell("");
    own.program = room.home.path().join("program").display().to_string();
    std::fs::copy("/bin/true", &own.program).unwrap();
    let error = room.start(own).await.err().expect("it is refused").to_string();
    assert!(error.ends_with("lies in the host's home"), "{error}");
    assert_eq!(room.processes.running(), 0);
}

#[tokio::test]
async fn where_a_part_of_the_jail_is_missing_nothing_runs_and_the_part_is_named() {
    // Root has rights in it that the script takes away before; the program is open by then, as it may lie where nobody can look.
    let root = rustix::process::geteuid().is_root();
    let nobody = if root { "exec setpriv --reuid 65534 --regid 65534 --clear-groups" } else { "exec" };
    let without_namespaces = format!(
        "exec 9<DAEMON; {nobody} unshare -U --keep-caps \
         sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; exec /proc/self/fd/9 \"$@\"' sh \"$@\""
    );
    for (wrapper, part) in [
        ("exit 0", "the jail ended without a word"),
        ("exec unshare -U DAEMON \"$@\"", ""),
        (without_namespaces.as_str(), "user, mount, PID, network, IPC, UTS and cgroup namespaces: "),
        ("DAEMON \"$@\"", "the daemon is gone"),
    ] {
        let room = Room::wrapped(wrapper);
        let error = room.start(shell("sleep 1000005")).await.err().expect("it is refused").to_string();
        assert!(error.starts_with(part), "{wrapper}: {error}");
        assert_eq!((room.processes.running(), runs("1000005")), (0, 0));
    }
}
