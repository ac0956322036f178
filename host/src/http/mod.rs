//! The listeners, and which capsule serves a path.
//!
//! Owns sockets, framing limits, connections and mounts, and answers `/healthz` and `/metrics` itself, so that they
//! work while every capsule is broken. TCP, the Unix socket of the home and the one for other users serve the same surface.
//! An answer may go on after its handler ([`relay`]).
//!
//! Bounded by: connections, relays, header and body sizes, time for headers and bodies, and for
//! clients to read. A body is counted while it arrives and
//! cut at its mount's limit.
//! Refuses to know: routes, credentials, what an answer means.

mod listener;
mod mounts;
mod own;
mod patient;
pub mod relay;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use astrid_capsule::PrincipalId;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::Response;
use serde::{Deserialize, Serialize};

use crate::Boxed;
use crate::authority::Presented;
use crate::bus::Failure;
use crate::home;
use crate::pool::Lane;
pub use listener::{Listeners, bind, serve};
pub use mounts::Mounts;
pub use relay::Relays;

/// `[http]` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The TCP address; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// A second Unix socket, for this machine's other users; empty for none. An absolute path of at most
    /// [`home::MAX_SOCKET_BYTES`], in a folder of the host's user or root's that nobody else may write to.
    pub shared_socket: PathBuf,
    /// Which other users may connect to it.
    pub shared_socket_users: SharedWith,
    /// Time for a request's headers, and for the next request on a connection, in seconds (1 to 3600).
    pub header_timeout_secs: u64,
    /// Time for a request's body, in seconds (1 to 3600).
    pub body_timeout_secs: u64,
    /// Time without a byte that a client takes of its answer, in seconds (1 to 3600); then its connection is closed.
    pub write_timeout_secs: u64,
    /// TCP connections at once (1 to 100,000); the next ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// Answers at once that go on after their handler (1 to 100,000); the next one is a 503.
    pub max_relays: usize,
}

/// The users who may connect to the shared socket. Whoever they are, their uid gives them no rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SharedWith {
    /// The group of the socket: that of its folder if it is setgid, else the host's own.
    #[default]
    Group,
    All,
}

impl SharedWith {
    /// The mode of the socket.
    fn mode(self) -> u32 {
        match self {
            SharedWith::Group => 0o660,
            SharedWith::All => 0o666,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 2787)),
            shared_socket: PathBuf::new(),
            shared_socket_users: SharedWith::default(),
            header_timeout_secs: 10,
            body_timeout_secs: 30,
            write_timeout_secs: 60,
            max_connections: 10_000,
            max_relays: 10_000,
        }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in [
            ("header-timeout-secs", self.header_timeout_secs),
            ("body-timeout-secs", self.body_timeout_secs),
            ("write-timeout-secs", self.write_timeout_secs),
        ] {
            if !(1..=3600).contains(&value) {
                return Err(format!("http.{key} = {value} must be 1 to 3600"));
            }
        }
        for (key, value) in [("max-connections", self.max_connections), ("max-relays", self.max_relays)] {
            if !(1..=100_000).contains(&value) {
                return Err(format!("http.{key} = {value} must be 1 to 100000"));
            }
        }
        if let Some(socket) = self.shared() {
            home::check_socket_path(socket).map_err(|e| format!("http.shared-socket: {e}"))?;
        }
        Ok(())
    }

    /// The socket for other users, if there is to be one.
    pub fn shared(&self) -> Option<&Path> {
        Some(self.shared_socket.as_path()).filter(|path| !path.as_os_str().is_empty())
    }
}

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// An answer's body broke off; the connection is closed so that the client notices.
#[derive(Debug, thiserror::Error)]
#[error("the body broke off: {0}")]
pub struct BodyError(pub String);

/// A request with its body, as a mount gets it.
#[derive(Clone)]
pub struct Exchange {
    /// Minted here; it stands in the answer's `x-request-id`.
    pub id: Arc<str>,
    pub head: hyper::http::request::Parts,
    pub body: Bytes,
    pub connection: Arc<Connection>,
    /// Whether nothing that comes of it may last.
    pub rehearsal: bool,
}

/// Whatever serves a mount.
pub trait Mounted: Send + Sync {
    /// The largest body that it takes.
    fn max_body_bytes(&self) -> u64;
    fn serve(self: Arc<Self>, exchange: Exchange) -> Boxed<'static, Result<Response<Body>, Failure>>;
}

/// What the listener knows of a connection. No client can set any of it.
pub struct Connection {
    id: u64,
    /// None on the Unix socket.
    pub address: Option<IpAddr>,
    /// None on TCP.
    pub unix_uid: Option<u32>,
    /// Whose the latest accepted credential was.
    principal: Mutex<Option<PrincipalId>>,
}

impl Connection {
    /// Of a request that the host makes itself: it proves nothing.
    pub fn own() -> Arc<Self> {
        Arc::new(Self { id: 0, address: None, unix_uid: None, principal: Mutex::new(None) })
    }

    /// What the connection itself proves.
    pub fn presented(&self) -> Option<Presented> {
        self.unix_uid.map(|uid| Presented::Unix { uid, owner: is_owner(uid) })
    }

    /// Whose share this connection's requests count against.
    pub fn lane(&self) -> Lane {
        match (&*self.principal.lock().expect("no panic under this lock"), self.address, self.unix_uid) {
            (Some(principal), _, _) => Lane::Principal(principal.clone()),
            (None, Some(address), _) => Lane::Address(address),
            (None, None, Some(uid)) if !is_owner(uid) => Lane::User(uid),
            (None, None, _) => Lane::Host,
        }
    }

    pub fn set_principal(&self, principal: PrincipalId) {
        *self.principal.lock().expect("no panic under this lock") = Some(principal);
    }
}

/// Whether it is the user who runs the host.
fn is_owner(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw()
}

/// The open connections.
#[derive(Default)]
pub struct Connections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
}

/// Who is connected.
pub struct Summary {
    pub clients: u32,
    /// Sorted by principal.
    pub by_principal: Vec<(String, u32)>,
}

impl Connections {
    fn enter(self: &Arc<Self>, address: Option<IpAddr>, unix_uid: Option<u32>) -> Entered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection { id, address, unix_uid, principal: Mutex::new(None) });
        self.open.lock().expect("no panic under this lock").insert(id, connection.clone());
        metrics::gauge!("astrid_http_connections").increment(1);
        Entered { all: self.clone(), connection }
    }

    pub fn count(&self) -> usize {
        self.open.lock().expect("no panic under this lock").len()
    }

    pub fn summary(&self) -> Summary {
        let open = self.open.lock().expect("no panic under this lock");
        let mut by_principal = std::collections::BTreeMap::new();
        for connection in open.values() {
            if let Some(principal) = &*connection.principal.lock().expect("no panic under this lock") {
                *by_principal.entry(principal.as_str().to_owned()).or_insert(0) += 1;
            }
        }
        Summary { clients: open.len() as u32, by_principal: by_principal.into_iter().collect() }
    }
}

/// A connection's place among the open ones, until it is dropped.
struct Entered {
    all: Arc<Connections>,
    connection: Arc<Connection>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.all.open.lock().expect("no panic under this lock").remove(&self.connection.id);
        metrics::gauge!("astrid_http_connections").decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_users_process_is_not_the_owner_and_has_a_share_of_its_own() {
        let owner = rustix::process::geteuid().as_raw();
        let connection = |uid| Connection { id: 0, address: None, unix_uid: Some(uid), principal: Mutex::new(None) };
        let (own, other) = (connection(owner), connection(owner + 1));
        assert!(own.presented() == Some(Presented::Unix { uid: owner, owner: true }) && own.lane() == Lane::Host);
        assert!(other.presented() == Some(Presented::Unix { uid: owner + 1, owner: false }));
        assert_eq!(other.lane(), Lane::User(owner + 1));
        other.set_principal(PrincipalId::parse("ada").unwrap());
        assert_eq!(other.lane(), Lane::Principal(PrincipalId::parse("ada").unwrap()));
        assert!(other.presented() == Some(Presented::Unix { uid: owner + 1, owner: false }), "a login changes no uid");
    }

    #[test]
    fn a_shared_socket_is_an_absolute_path_that_a_socket_can_have() {
        let check = |path: String| Config { shared_socket: path.into(), ..Config::default() }.check();
        check(String::new()).unwrap();
        check("/run/astrid/astrid.sock".into()).unwrap();
        for bad in ["astrid.sock".to_owned(), format!("/{}", "s".repeat(107)), "/".into()] {
            let why = check(bad).unwrap_err();
            assert!(why.starts_with("http.shared-socket: "), "{why}");
        }
    }
}
