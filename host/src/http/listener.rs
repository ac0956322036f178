//! From accepted socket to answered request.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::patient::Patient;
use super::{Body, Config, Connection, Entered, Exchange, own};
use crate::home;
use crate::host::Host;

/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 32 * 1024;
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
    let shared = match config.shared() {
        None => None,
        Some(path) => {
            let at = || format!("http.shared-socket = {}", path.display());
            Some(bind_shared(path, config.shared_socket_users.mode()).await.with_context(at)?)
        }
    };
    Ok(Listeners { address: tcp.local_addr()?, tcp, unix, shared, socket: socket.to_owned() })
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
    let tcp_room = Arc::new(Semaphore::new(host.config.http.max_connections));
    let tcp = async {
        loop {
            let Ok(permit) = tcp_room.clone().acquire_owned().await else { return };
            match listeners.tcp.accept().await {
                Ok((stream, peer)) => {
                    // Small answers must not wait for the client's delayed acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let entered = host.connections.enter(Some(peer.ip()), None);
                    tokio::spawn(connection(host.clone(), stream, entered, permit));
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
    let _ = host.config.http.shared().map(std::fs::remove_file);
}

/// Lets clients of a Unix socket in, as many at once as it has places.
async fn accept_unix(host: &Arc<Host>, listener: &UnixListener) {
    let room = Arc::new(Semaphore::new(UNIX_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(peer) => {
                    let entered = host.connections.enter(None, Some(peer.uid()));
                    tokio::spawn(connection(host.clone(), stream, entered, permit));
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

async fn connection<S>(host: Arc<Host>, stream: S, entered: Entered, _room: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let known = entered.connection.clone();
    let stream = Patient::new(stream, Duration::from_secs(host.config.http.write_timeout_secs));
    let service = service_fn(|request| {
        let (host, known) = (host.clone(), known.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(host, known, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(host.config.http.header_timeout_secs))
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = host.shutdown.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!("a connection ended early: {error}");
    }
}

async fn answer(host: Arc<Host>, connection: Arc<Connection>, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let id = request_id();
    let method = known_method(request.method());
    let mut answer = match own::probe(&host, request.method(), request.uri().path()) {
        Some(answer) => answer,
        // In a box of its own: hyper keeps room for this future for as long as the connection is open.
        None => Box::pin(mounted(&host, connection, request, id.clone())).await,
    };
    own::harden(answer.headers_mut());
    if let Ok(value) = HeaderValue::from_str(&id) {
        answer.headers_mut().entry("x-request-id").or_insert(value);
    }
    let status = answer.status().as_str().to_owned();
    metrics::counter!("astrid_http_requests_total", "method" => method, "status" => status).increment(1);
    metrics::histogram!("astrid_http_request_seconds").record(started.elapsed());
    answer
}

async fn mounted(host: &Host, connection: Arc<Connection>, request: Request<Incoming>, id: Arc<str>) -> Response<Body> {
    let path = request.uri().path();
    if !path.starts_with('/') {
        return own::failure(StatusCode::BAD_REQUEST, "bad_request", "the request target must be a path");
    }
    let head_bytes: usize = request.headers().iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    let query_bytes = request.uri().query().map_or(0, |query| 1 + query.len());
    if head_bytes + path.len() + query_bytes > MAX_HEAD_BYTES {
        let reason = format!("path, query and headers may have {MAX_HEAD_BYTES} bytes");
        return own::failure(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "bad_request", &reason);
    }
    let Some(mount) = host.mounts.find(path) else {
        return own::failure(StatusCode::NOT_FOUND, "not_found", "nothing is mounted at this path");
    };
    let limit = mount.max_body_bytes();
    let (head, body) = request.into_parts();
    let body = match read_body(body, limit, Duration::from_secs(host.config.http.body_timeout_secs)).await {
        Ok(body) => body,
        Err(answer) => return *answer,
    };
    let exchange = Exchange { id: id.clone(), head, body, connection, rehearsal: false };
    match mount.serve(exchange).await {
        Ok(answer) => answer,
        Err(failure) => {
            tracing::warn!(request = &*id, failure = failure.kind(), "a mount gave no answer");
            own::from_failure(failure)
        }
    }
}

async fn read_body(body: Incoming, limit: u64, patience: Duration) -> Result<Bytes, Box<Response<Body>>> {
    let too_large = || {
        let reason = format!("at most {limit} bytes are taken");
        let mut answer = own::failure(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", &reason);
        // What is still coming will not be read.
        answer.headers_mut().insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
        Box::new(answer)
    };
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let limited = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    match tokio::time::timeout(patience, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Box::new(own::failure(StatusCode::BAD_REQUEST, "bad_request", "the body broke off"))),
        Err(_) => {
            let mut answer = own::failure(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long");
            answer.headers_mut().insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
            Err(Box::new(answer))
        }
    }
}

/// A label must not be whatever a client sends.
fn known_method(method: &hyper::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Unique for the life of the process, and hardly ever the same in two.
fn request_id() -> Arc<str> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static BOOT: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let mut bytes = [0; 8];
        let _ = getrandom::fill(&mut bytes);
        u64::from_le_bytes(bytes)
    });
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}-{n:08x}", *BOOT as u32).into()
}
