//! What is spoken on a connection: HTTP/1 or HTTP/2, with one set of limits.
//!
//! Owns framing, what one connection may send at once, and its end: when the client is too slow or says nothing, when the
//! host stops. What a request says is answered by [`answer`](mod@super::answer).
//!
//! Bounded by: [`MAX_HEADERS`], [`MAX_HEAD_BYTES`]; over HTTP/2 also [`MAX_STREAMS`] and the windows below, and
//! [`MAX_RESET_STREAMS`] that a client has taken back and that are not yet forgotten: one more ends the connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use super::Entered;
use super::answer::answer;
use super::pace::{Kind, Late, Pace, Times, Watch};
use super::patient::Patient;
use crate::host::Host;

/// The most headers of a request.
pub(super) const MAX_HEADERS: usize = 100;
/// The most bytes of a request's path, query and headers.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1024;
/// The most requests of a connection at once.
const MAX_STREAMS: u32 = 32;
/// Of those, the most that a client takes back before they were begun.
const MAX_RESET_STREAMS: usize = 16;
/// Bytes of a body that may be under way; of all of a connection together.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of an answer that wait for the client's window.
const SEND_BUFFER: usize = 64 * 1024;
/// HTTP/2 counts 32 bytes for each header beside its name and value.
const MAX_HEADER_LIST: u32 = (MAX_HEAD_BYTES + 32 * (MAX_HEADERS + 4)) as u32;
/// How often a client of HTTP/2 is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);
/// How long a client may take to hear that its idle connection ends.
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.0 and 1.1.
    One,
    /// HTTP/2.
    Two,
}

/// Serves a connection to its end. `_room` is its place.
pub(super) async fn serve<S>(
    host: Arc<Host>,
    stream: S,
    entered: Entered,
    version: Version,
    _room: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let times = {
        let config = host.config.now();
        Times {
            head: Duration::from_secs(config.http.header_timeout_secs),
            idle: Duration::from_secs(config.http.idle_timeout_secs),
            write: Duration::from_secs(config.http.write_timeout_secs),
        }
    };
    let pace = Pace::new(times, if version == Version::One { Kind::Single } else { Kind::Multiplexed });
    let stream = TokioIo::new(Patient::new(stream, times.write, pace.clone()));
    let known = entered.connection.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let (host, known, running) = (host.clone(), known.clone(), pace.begin());
        // In a box: hyper keeps room for this future for as long as the connection is open.
        Box::pin(async move {
            let answer: Response<_> = answer(host, known, request).await;
            Ok::<_, Infallible>(answer.map(|body| running.with(body)))
        })
    });
    match version {
        Version::One => {
            let mut builder = http1::Builder::new();
            // Its own clock makes no difference between a head and the time before it.
            builder.timer(TokioTimer::new()).header_read_timeout(None);
            builder.max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD_BYTES);
            let connection = Box::pin(builder.serve_connection(stream, service));
            drive(&host, &pace, connection, http1::Connection::graceful_shutdown).await;
        }
        Version::Two => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
            builder.max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEADER_LIST);
            builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
            builder.max_pending_accept_reset_streams(MAX_RESET_STREAMS).max_send_buf_size(SEND_BUFFER);
            let connection = Box::pin(builder.serve_connection(stream, service));
            drive(&host, &pace, connection, http2::Connection::graceful_shutdown).await;
        }
    }
}

/// Polls a connection until it ends, or has to: `leave` lets it finish the requests that it is in. The connection is in a box,
/// because a future has room for each place that it was ever moved to.
async fn drive<C>(host: &Host, pace: &Pace, mut connection: Pin<Box<C>>, leave: fn(Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let sleep = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(sleep);
    let mut watch = Watch::new(pace, sleep);
    let mut leaving = false;
    let outcome = loop {
        let step = std::future::poll_fn(|context| {
            if let std::task::Poll::Ready(outcome) = connection.as_mut().poll(context) {
                return std::task::Poll::Ready(Ok(outcome));
            }
            watch.poll_late(context).map(Err)
        });
        let step = tokio::select! {
            step = step => step,
            () = host.shutdown.begun(), if !leaving => {
                leaving = true;
                leave(connection.as_mut());
                continue;
            }
        };
        break match step {
            Ok(outcome) => outcome,
            Err(Late::Slow) => {
                tracing::debug!("a connection was too slow and is closed");
                return;
            }
            Err(Late::Idle) => {
                leave(connection.as_mut());
                match tokio::time::timeout(FAREWELL, connection).await {
                    Ok(outcome) => outcome,
                    Err(_) => return,
                }
            }
        };
    };
    if let Err(error) = outcome {
        tracing::debug!("a connection ended early: {error}");
    }
}
