//! Users of the same machine: whoever is not the host's owner gets no rights by being there, and logs in as over TCP.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use astrid_tests::daemon::{self, Daemon, Ended, Home};
use astrid_tests::http::{Connection, Request};
use serde_json::json;
use tempfile::TempDir;

use crate::{assert_well, invite};

/// Whoever has this uid is nobody on most machines.
const UID: u32 = 54_321;

/// A folder that everybody may look into.
fn open_folder() -> TempDir {
    let mode = Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("astrid-open-").permissions(mode).tempdir().expect("a temporary folder")
}

/// Somebody with a home of their own, who knows where the host's socket is.
struct Neighbour {
    /// None: this user, because only root can be another.
    uid: Option<u32>,
    folder: TempDir,
    program: PathBuf,
    socket: PathBuf,
}

impl Neighbour {
    fn new(socket: &Path) -> Self {
        let uid = rustix::process::geteuid().is_root().then_some(UID);
        if uid.is_none() {
            eprintln!("NOT TRIED: another uid on the socket. Only root can be one; this user stands in for it.");
        }
        let folder = open_folder();
        let (built, program) = (daemon::path("astrid"), folder.path().join("astrid"));
        // Where it was built others may not be allowed to look.
        fs::hard_link(&built, &program).or_else(|_| fs::copy(&built, &program).map(drop)).expect("a copy");
        if uid.is_some() {
            chown(folder.path(), uid, uid).expect("root may");
        }
        Self { uid, folder, program, socket: socket.to_owned() }
    }

    fn is_another(&self) -> bool {
        self.uid.is_some()
    }

    /// Runs `astrid` with the host's socket in its environment and a home of this neighbour's.
    #[track_caller]
    fn astrid(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(&self.program);
        command.env_clear().env("ASTRID_HOME", self.folder.path().join("home")).env("ASTRID_SOCKET", &self.socket);
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        let output = command.args(arguments).current_dir("/").stdin(Stdio::null()).output().expect("a program");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

fn sharing(socket: &Path, users: &str) -> [String; 4] {
    let set = "--set".to_owned();
    [set.clone(), format!("http.shared-socket={}", socket.display()), set, format!("http.shared-socket-users={users}")]
}

#[track_caller]
fn start(home: &Home, socket: &Path, users: &str) -> Result<Daemon, Ended> {
    home.try_start(&sharing(socket, users).each_ref().map(String::as_str))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_of_the_machine_logs_in_with_a_key_on_the_shared_socket_and_is_never_the_owner() {
    let (folder, home) = (open_folder(), Home::new());
    let socket = folder.path().join("astrid.sock");
    let daemon = start(&home, &socket, "all").expect("a folder that fits");
    assert_eq!((mode(&daemon.socket()), mode(&socket)), (0o600, 0o666));
    let ada = Neighbour::new(&socket);

    let nobody = ada.astrid(&["who"]);
    if ada.is_another() {
        assert!(nobody.refusal(1).contains("[unauthorized]") && nobody.stderr.contains("astrid login"), "{nobody:?}");
        let own = daemon.socket();
        let closed = ada.astrid(&["--socket", own.to_str().expect("text"), "who"]);
        assert!(closed.refusal(1).contains("Permission denied"), "{closed:?}");
    }

    let token = invite(&daemon, "agent", 1).await;
    ada.astrid(&["keypair", "generate", "laptop"]).out();
    ada.astrid(&["invite", "redeem", &token, "--name", "ada", "--key", "laptop"]).out();
    assert_eq!(ada.astrid(&["--json", "who"]).json()["principal"], "ada");
    ada.astrid(&["logout"]).out();
    assert!(!ada.astrid(&["--json", "who"]).stdout.contains("ada"), "the session has ended");

    assert!(ada.astrid(&["login", "ada", "--key", "laptop"]).out().starts_with("ada has a session until"));
    let me = ada.astrid(&["--json", "who"]).json();
    assert_eq!((&me["principal"], &me["groups"]), (&json!("ada"), &json!(["agent"])), "{me}");
    let denied = ada.astrid(&["status"]);
    assert!(denied.refusal(1).contains("system:status"), "{denied:?}");

    // A key of somebody else's opens nothing, and who has no session is nobody again.
    ada.astrid(&["keypair", "generate", "other"]).out();
    ada.astrid(&["login", "ada", "--key", "other"]).refusal(1);
    ada.astrid(&["agent", "switch", "default"]).out();
    let nobody = ada.astrid(&["who"]);
    if ada.is_another() {
        assert!(nobody.refusal(1).contains("[unauthorized]"), "{nobody:?}");
    }

    // The owner is the owner there as well, and what they decide counts for ada's next call.
    let mut own = Connection::unix(&socket).await.expect("a listener");
    let me = own.send(Request::get("/api/auth/me")).await.expect("an answer").expect(200);
    assert_eq!(me["principal"], "default");
    ada.astrid(&["agent", "switch", "ada"]).out();
    ada.astrid(&["who"]).out();
    daemon.astrid(&["agent", "disable", "ada"]).out();
    assert!(ada.astrid(&["who"]).refusal(1).contains("[unauthorized]"));
    assert_well(&daemon).await;
    daemon.stop().out();
    assert!(!socket.exists(), "a host that ends leaves no socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_socket_is_bound_only_where_it_takes_nobodys_place_and_nobody_can_take_its() {
    let (folder, home) = (open_folder(), Home::new());
    let socket = folder.path().join("astrid.sock");
    let refused = |why: &str| {
        let ended = start(&home, &socket, "group").err().expect("it must not start");
        let told = ended.refusal(1);
        assert!(told.contains("http.shared-socket") && told.contains(why), "{told}");
    };
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("its owner may");
    refused("others may write to it (mode 1777)");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("its owner may");
    fs::write(&socket, "somebody's").expect("its owner may");
    refused("something else has that name");
    assert_eq!(fs::read_to_string(&socket).expect("it is there"), "somebody's");
    fs::remove_file(&socket).expect("its owner may");
    let listener = UnixListener::bind(&socket).expect("a free name");
    refused("another program listens to it");
    drop(listener);
    assert!(fs::symlink_metadata(&socket).expect("it is there").file_type().is_socket());

    // Nobody listens to that one any more.
    let daemon = start(&home, &socket, "group").expect("a stale socket is replaced");
    assert_eq!(mode(&socket), 0o660);
    let bob = Neighbour::new(&socket);
    let who = bob.astrid(&["who"]);
    if bob.is_another() {
        assert!(who.refusal(1).contains("[permission]"), "who is not in the group can't connect: {who:?}");
    }
    let second = start(&Home::new(), &socket, "group").err().expect("it is taken");
    assert!(second.refusal(1).contains("another program listens to it"), "{second:?}");
    let mut own = Connection::unix(&socket).await.expect("the first still has it");
    own.send(Request::get("/api/auth/me")).await.expect("an answer").expect(200);
    daemon.kill();
    start(&home, &socket, "group").expect("so is one of a host that was killed").stop().out();
}
