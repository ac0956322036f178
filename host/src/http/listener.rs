//! The sockets: bound, accepted, and over TCP encrypted where the operator has a certificate.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;

use super::tls::Tls;
use super::wire::{self, Version};
use super::{Certificate, Config, Who};
use crate::home;
use crate::host::Host;

/// TCP clients that wait to be let in; as many as the system allows, if those are fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;
/// Connections to each Unix socket at once.
const UNIX_CONNECTIONS: usize = 256;

/// Bound sockets, before anything is served.
pub struct Listeners {
    tcp: TcpListener,
    unix: UnixListener,
    /// For other users.
    shared: Option<UnixListener>,
    pub address: SocketAddr,
    pub socket: PathBuf,
}

/// Binds all of them. `socket` is replaced: the caller holds the lock of its home.
pub async fn bind(config: &Config, socket: &Path) -> anyhow::Result<Listeners> {
    let tcp = bind_tcp(config.listen).with_context(|| {
        format!(
            "http.listen = {}: is another program on that port? --listen 127.0.0.1:0 takes a free one",
            config.listen
        )
    })?;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing the old {}", socket.display()));
        }
        _ => {}
    }
    let unix = UnixListener::bind(socket).with_context(|| format!("binding {}", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let shared = match config.shared() {
        None => None,
        Some(path) => {
            let at = || format!("http.shared-socket = {}", path.display());
            Some(bind_shared(path, config.shared_socket_users.mode()).await.with_context(at)?)
        }
    };
    Ok(Listeners { address: tcp.local_addr()?, tcp, unix, shared, socket: socket.to_owned() })
}

/// As the runtime's own `bind`, but for its queue of 128: a crowd that connects at once would be told to come again in a second.
fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds a socket in a folder that is no home: nobody's lock protects it, so what is there is replaced only if it is a socket
/// that nobody listens to.
async fn bind_shared(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    let (owner, user) = (home::check_socket_folder(path)?, rustix::process::geteuid().as_raw());
    if owner != user && owner != 0 {
        bail!("its folder belongs to user {owner}, and this program runs as {user}");
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => bail!("something else has that name, and is left there"),
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).context("removing the old one")?;
            }
            _ => bail!("another program listens to it"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Serves all listeners until the host's shutdown begins; connections end after the request that they are in.
pub async fn serve(host: Arc<Host>, listeners: Listeners) {
    let tcp_room = Arc::new(Semaphore::new(host.config.now().http.max_connections));
    let tcp = async {
        loop {
            let Ok(permit) = tcp_room.clone().acquire_owned().await else { return };
            match listeners.tcp.accept().await {
                Ok((stream, peer)) => {
                    // Small answers must not wait for the client's delayed acknowledgement.
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(connection(host.clone(), stream, peer, permit));
                }
                Err(error) => pause(&error).await,
            }
        }
    };
    // Whatever clients of the others do, the operator gets in.
    let unix = accept_unix(&host, &listeners.unix);
    let shared = async {
        match &listeners.shared {
            Some(listener) => accept_unix(&host, listener).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = host.shutdown.begun() => {}
        () = tcp => {}
        () = unix => {}
        () = shared => {}
    }
    // While it still is ours: once nobody listens, another host may put its own there.
    let _ = host.config.now().http.shared().map(std::fs::remove_file);
}

/// Lets clients of a Unix socket in, as many at once as it has places.
async fn accept_unix(host: &Arc<Host>, listener: &UnixListener) {
    let room = Arc::new(Semaphore::new(UNIX_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(peer) => {
                    let entered = host.connections.enter(Who::Unix(peer.uid()));
                    tokio::spawn(wire::serve(host.clone(), stream, entered, Version::One, permit));
                }
                Err(error) => tracing::warn!("a Unix peer without credentials was turned away: {error}"),
            },
            Err(error) => pause(&error).await,
        }
    }
}

/// Out of file handles, say: accepting again at once would only spin.
async fn pause(error: &io::Error) {
    tracing::warn!("a connection could not be accepted: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// One TCP connection, from its handshake on if there is one.
async fn connection(host: Arc<Host>, stream: TcpStream, peer: SocketAddr, room: OwnedSemaphorePermit) {
    let address = peer.ip().to_canonical();
    match &host.tls {
        None => {
            let entered = host.connections.enter(Who::Clear(address));
            wire::serve(host, stream, entered, Version::One, room).await;
        }
        // In a box of its own: what TLS needs is no matter of connections in the clear.
        Some(tls) => Box::pin(over_tls(&host, tls, stream, address, room)).await,
    }
}

async fn over_tls(host: &Arc<Host>, tls: &Tls, stream: TcpStream, address: IpAddr, room: OwnedSemaphorePermit) {
    let Some(stream) = encrypted(host, tls, stream).await else { return };
    let session = stream.get_ref().1;
    let version = if session.alpn_protocol() == Some(b"h2") { Version::Two } else { Version::One };
    let shown = session.peer_certificates().and_then(<[_]>::first).map(|der| Certificate::of(der));
    let entered = host.connections.enter(Who::Tls(address, shown));
    wire::serve(host.clone(), stream, entered, version, room).await;
}

/// None if the client fails, takes too long, or the host stops.
async fn encrypted(host: &Host, tls: &Tls, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let patience = Duration::from_secs(host.config.now().http.handshake_timeout_secs);
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(patience, tls.acceptor().accept(stream)) => shaken,
        () = host.shutdown.begun() => return None,
    };
    let (outcome, stream) = match shaken {
        Ok(Ok(stream)) => ("done", Some(stream)),
        Ok(Err(error)) => {
            tracing::debug!("a TLS handshake failed: {error}");
            ("failed", None)
        }
        Err(_) => ("late", None),
    };
    metrics::counter!("astrid_http_handshakes_total", "outcome" => outcome).increment(1);
    stream
}
