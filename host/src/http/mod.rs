//! The listeners, and which capsule serves a path.
//!
//! Owns sockets, framing limits, connections and mounts, and answers `/healthz` and `/metrics` itself, so that they
//! work while every capsule is broken. TCP and the Unix socket serve the same surface. An answer may go on after its
//! handler ([`relay`]).
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

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 2787)),
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
        Ok(())
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
        let uid = self.unix_uid?;
        Some(Presented::Unix { uid, owner: uid == rustix::process::geteuid().as_raw() })
    }

    /// Whose share this connection's requests count against.
    pub fn lane(&self) -> Lane {
        match (&*self.principal.lock().expect("no panic under this lock"), self.address) {
            (Some(principal), _) => Lane::Principal(principal.clone()),
            (None, Some(address)) => Lane::Address(address),
            (None, None) => Lane::Host,
        }
    }

    pub fn set_principal(&self, principal: PrincipalId) {
        *self.principal.lock().expect("no panic under this lock") = Some(principal);
    }
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
