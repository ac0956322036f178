//! The listeners, and which capsule serves a path.
//!
//! Owns sockets, TLS ([`tls`]), framing limits, connections and mounts, and answers `/healthz` and `/metrics` itself, so
//! that they work while every capsule is broken. TCP, the Unix socket of the home and the one for other users serve the same
//! surface. An answer may go on after its handler ([`relay`]). Each request is counted, timed and logged ([`requests`]).
//!
//! Bounded by: connections, requests of one connection at once, relays, header and body sizes, time for handshakes, headers,
//! bodies and the next request, and for clients to read; series of each mount. A body is counted while it arrives and cut at
//! its mount's limit; a mount may bound how many requests are below it at once, and shorten the time for bodies and answers.
//! Refuses to know: routes, what a credential says, what an answer means.

mod answer;
pub mod certificate;
mod config;
mod der;
mod forwarded;
mod head;
mod listener;
mod mounts;
mod own;
mod pace;
mod patient;
pub mod relay;
mod requests;
mod revocation;
pub mod tls;
mod wire;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use astrid_capsule::PrincipalId;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::Response;

use crate::Boxed;
use crate::authority::Presented;
use crate::bus::Failure;
use crate::bus::cause::Cause;
use crate::pool::Lane;
pub use certificate::Certificate;
pub use config::Config;
pub use listener::{Listeners, bind, serve};
pub use mounts::{Mount, Mounts, Room};
pub use relay::Relays;
pub use requests::{Requests, Route, Whom};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// An answer's body broke off; the connection is closed so that the client notices.
#[derive(Debug, thiserror::Error)]
#[error("the body broke off: {0}")]
pub struct BodyError(pub String);

/// A request with its body, as a mount gets it.
#[derive(Clone)]
pub struct Exchange {
    /// Its id is minted here, and stands in the answer's `x-request-id`.
    pub cause: Arc<Cause>,
    pub head: hyper::http::request::Parts,
    pub body: Bytes,
    pub connection: Arc<Connection>,
    /// Whose its credential was when the authenticator was last asked about it. A hint for scheduling, which lets nobody in.
    pub expected: Option<PrincipalId>,
    /// Told once, by whoever takes its credential.
    pub whom: Whom,
    /// Time for its answer, where its mount has less than any call of the capsule.
    pub time: Option<Duration>,
    /// Whether nothing that comes of it may last.
    pub rehearsal: bool,
}

impl Exchange {
    /// Whose share it counts against: on a new connection as well, whoever is known does not wait behind a crowd of
    /// strangers at their address.
    pub fn lane(&self) -> Lane {
        if self.rehearsal {
            return Lane::Host;
        }
        match (self.connection.lane(), &self.expected) {
            (known @ Lane::Principal(_), _) => known,
            (_, Some(principal)) => Lane::Expected(principal.clone()),
            (stranger, None) => stranger,
        }
    }
}

/// Whatever serves a mount.
pub trait Mounted: Send + Sync {
    fn serve(self: Arc<Self>, exchange: Exchange) -> Boxed<'static, Result<Response<Body>, Failure>>;
}

/// What the listener knows of a connection. No client can set any of it.
pub struct Connection {
    id: u64,
    /// The client's; none on the Unix socket.
    pub address: Option<IpAddr>,
    /// None on TCP.
    pub unix_uid: Option<u32>,
    /// Whether it is encrypted.
    pub tls: bool,
    /// What the client has shown of itself; only over TLS, and only where the operator says who vouches for it.
    pub certificate: Option<Certificate>,
    /// Whose the latest accepted credential was.
    principal: Mutex<Option<PrincipalId>>,
}

impl Connection {
    /// Of a request that the host makes itself: it proves nothing.
    pub fn own() -> Arc<Self> {
        Arc::new(Self {
            id: 0,
            address: None,
            unix_uid: None,
            tls: false,
            certificate: None,
            principal: Mutex::new(None),
        })
    }

    /// Of one request of this connection, which a proxy has made for a client with another address: the certificate is
    /// the proxy's.
    fn forwarded(&self, client: IpAddr) -> Arc<Self> {
        Arc::new(Self {
            id: self.id,
            address: Some(client),
            unix_uid: None,
            tls: self.tls,
            certificate: None,
            principal: Mutex::new(None),
        })
    }

    /// What the connection itself proves.
    pub fn presented(&self) -> Option<Presented> {
        let unix = self.unix_uid.map(|uid| Presented::Unix { uid, owner: is_owner(uid) });
        unix.or_else(|| self.certificate.clone().map(Presented::Certificate))
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

/// Where a connection comes from.
enum Who {
    Unix(u32),
    /// TCP in the clear.
    Clear(IpAddr),
    /// TCP with TLS, and what the client has shown of itself.
    Tls(IpAddr, Option<Certificate>),
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
    fn enter(self: &Arc<Self>, who: Who) -> Entered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (mut address, mut unix_uid, mut tls, mut certificate) = (None, None, false, None);
        match who {
            Who::Unix(uid) => unix_uid = Some(uid),
            Who::Clear(from) => address = Some(from),
            Who::Tls(from, shown) => (address, tls, certificate) = (Some(from), true, shown),
        }
        let principal = Mutex::new(None);
        let connection = Arc::new(Connection { id, address, unix_uid, tls, certificate, principal });
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
        let connection = |uid| Connection {
            id: 0,
            address: None,
            unix_uid: Some(uid),
            tls: false,
            certificate: None,
            principal: Mutex::new(None),
        };
        let (own, other) = (connection(owner), connection(owner + 1));
        assert!(own.presented() == Some(Presented::Unix { uid: owner, owner: true }) && own.lane() == Lane::Host);
        assert!(other.presented() == Some(Presented::Unix { uid: owner + 1, owner: false }));
        assert_eq!(other.lane(), Lane::User(owner + 1));
        other.set_principal(PrincipalId::parse("ada").unwrap());
        assert_eq!(other.lane(), Lane::Principal(PrincipalId::parse("ada").unwrap()));
        assert!(other.presented() == Some(Presented::Unix { uid: owner + 1, owner: false }), "a login changes no uid");
    }

    #[test]
    fn a_certificate_is_a_credential_unless_it_is_a_proxys() {
        let shown = Certificate { fingerprint: "ab".repeat(32), common_name: None };
        let all = Arc::new(Connections::default());
        let peer = IpAddr::from([127, 0, 0, 1]);
        let entered = all.enter(Who::Tls(peer, Some(shown.clone())));
        let connection = &entered.connection;
        assert!(connection.presented() == Some(Presented::Certificate(shown)) && connection.tls);
        let forwarded = connection.forwarded(IpAddr::from([192, 0, 2, 1]));
        assert!(forwarded.presented().is_none() && forwarded.tls);
        assert!(all.enter(Who::Tls(peer, None)).connection.presented().is_none());
        assert!(all.enter(Who::Clear(peer)).connection.presented().is_none());
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
