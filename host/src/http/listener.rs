//! The sockets: bound, accepted, and over TCP encrypted where the operator has a certificate.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;

use super::Config;
use super::tls::Tls;
use super::wire::{self, Version};
use crate::host::Host;

/// Connections to the Unix socket at once.
const UNIX_CONNECTIONS: usize = 256;

/// Bound sockets, before anything is served.
pub struct Listeners {
    tcp: TcpListener,
    unix: UnixListener,
    pub address: SocketAddr,
    pub socket: PathBuf,
}

/// Binds both. `socket` is replaced: the caller holds the lock of its home.
pub async fn bind(config: &Config, socket: &Path) -> anyhow::Result<Listeners> {
    let tcp = TcpListener::bind(config.listen).await.with_context(|| {
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
    Ok(Listeners { address: tcp.local_addr()?, tcp, unix, socket: socket.to_owned() })
}

/// Serves both listeners until the host's shutdown begins; connections end after the request that they are in.
pub async fn serve(host: Arc<Host>, listeners: Listeners) {
    let tcp_room = Arc::new(Semaphore::new(host.config.http.max_connections));
    // Whatever TCP clients do, the operator gets in.
    let unix_room = Arc::new(Semaphore::new(UNIX_CONNECTIONS));
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
    let unix = async {
        loop {
            let Ok(permit) = unix_room.clone().acquire_owned().await else { return };
            match listeners.unix.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) => {
                        let entered = host.connections.enter(None, Some(peer.uid()), false);
                        tokio::spawn(wire::serve(host.clone(), stream, entered, Version::One, permit));
                    }
                    Err(error) => tracing::warn!("a Unix peer without credentials was turned away: {error}"),
                },
                Err(error) => pause(&error).await,
            }
        }
    };
    tokio::select! {
        () = host.shutdown.begun() => {}
        () = tcp => {}
        () = unix => {}
    }
}

/// Out of file handles, say: accepting again at once would only spin.
async fn pause(error: &io::Error) {
    tracing::warn!("a connection could not be accepted: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// One TCP connection, from its handshake on if there is one.
async fn connection(host: Arc<Host>, stream: TcpStream, peer: SocketAddr, room: OwnedSemaphorePermit) {
    let address = Some(peer.ip().to_canonical());
    match &host.tls {
        None => {
            let entered = host.connections.enter(address, None, false);
            wire::serve(host, stream, entered, Version::One, room).await;
        }
        Some(tls) => {
            let Some(stream) = encrypted(&host, tls, stream).await else { return };
            let version = if stream.get_ref().1.alpn_protocol() == Some(b"h2") { Version::Two } else { Version::One };
            let entered = host.connections.enter(address, None, true);
            wire::serve(host, stream, entered, version, room).await;
        }
    }
}

/// None if the client fails, takes too long, or the host stops.
async fn encrypted(host: &Host, tls: &Tls, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let patience = Duration::from_secs(host.config.http.handshake_timeout_secs);
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
