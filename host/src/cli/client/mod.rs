//! One HTTP call at a time: HTTP/1.1 over the home's Unix socket, another one or TCP, with TLS or without, a new connection
//! for each.
//!
//! Bounded by one deadline from connecting to the last byte, and by [`MAX_ANSWER_BYTES`]; an answer that goes on for as long
//! as somebody listens ([`Stream`]) by the deadline for its head and [`SILENCE`] for each piece. Knows how connections fail
//! and what to do about each; refuses to know what any route means.

mod address;
mod reasons;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::failure::Failure;
use super::tls;
use crate::home::{self, Home};
pub(super) use address::TcpAddress;
pub(super) use reasons::start;
use reasons::{shared_failure, tcp_failure};

/// How long a call may take in all, unless the user has said it.
const DEADLINE: Duration = Duration::from_secs(30);
/// The same for a call in which code may be compiled: as long as the default distribution's components have for it.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a stream may be silent: the surface gives a sign of life three times as often.
const SILENCE: Duration = Duration::from_secs(45);

/// The largest answer that is taken.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Where calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// To the host of the home.
    Home,
    /// To a Unix socket outside of the home: another user's host, on this machine.
    Socket(PathBuf),
    /// To this address, possibly of another machine.
    Tcp(TcpAddress),
}

#[derive(Clone)]
pub(super) struct Client {
    home: Home,
    place: Place,
    /// The value of the Authorization header.
    authorization: Option<HeaderValue>,
    /// As the user has said it.
    deadline: Option<Duration>,
    /// For a place that speaks TLS.
    tls: Option<TlsConnector>,
    /// Whether a certificate of the user's own is shown there.
    shows_certificate: bool,
}

/// Bytes in both directions.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A connection with one request on it; closed when this is dropped.
struct Connection {
    _sender: http1::SendRequest<Full<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An answer that goes on.
pub(super) struct Stream {
    client: Client,
    body: Incoming,
    _connection: Connection,
}

impl Stream {
    /// Waits for more of it, whatever that is; false: it has ended in order.
    pub(super) async fn goes_on(&mut self) -> Result<bool, Failure> {
        match tokio::time::timeout(SILENCE, self.body.frame()).await {
            Ok(Some(Ok(_))) => Ok(true),
            Ok(None) => Ok(false),
            Ok(Some(Err(error))) => Err(self.client.broken(&error)),
            Err(_) => {
                let reason = format!("nothing from {} for {} s", self.client.place(), SILENCE.as_secs());
                Err(Failure::failed("timeout", reason))
            }
        }
    }
}

/// An answer read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as the document that the route promises.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Failure::failed("protocol", format!("the answer is not what this route promises: {e}"))
                .next("is this `astrid` of the host's own version? With --json the answer is printed as it is")
        })
    }
}

impl Client {
    pub(super) fn new(
        home: Home,
        place: Place,
        bearer: Option<String>,
        deadline: Option<Duration>,
    ) -> Result<Self, Failure> {
        let authorization = match bearer {
            None => None,
            Some(bearer) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", bearer.trim()))
                    .map_err(|_| Failure::usage("the bearer holds characters that no bearer has"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { home, place, authorization, deadline, tls: None, shows_certificate: false })
    }

    /// Speaks TLS from now on. `shows_certificate`: one of the user's own.
    pub(super) fn over_tls(self, connector: TlsConnector, shows_certificate: bool) -> Self {
        Self { tls: Some(connector), shows_certificate, ..self }
    }

    /// How long a call may take in all.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline.unwrap_or(DEADLINE)
    }

    /// The same for calls in which code may be compiled: they take [`PATIENCE`] unless the user has said how long.
    pub(super) fn patient(&self) -> Self {
        Self { deadline: self.deadline.or(Some(PATIENCE)), ..self.clone() }
    }

    /// Whether calls go over TCP, possibly to another machine.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.place, Place::Tcp(_))
    }

    /// Whether calls go to the host of the home, whose files are at hand.
    pub(super) fn is_at_home(&self) -> bool {
        self.place == Place::Home
    }

    /// Whether anything accepts a connection within a second.
    pub(super) async fn is_listened_to(&self) -> bool {
        let attempt = async {
            match &self.place {
                Place::Tcp(address) => TcpStream::connect((address.host.as_str(), address.port)).await.is_ok(),
                Place::Socket(socket) => UnixStream::connect(socket).await.is_ok(),
                Place::Home => UnixStream::connect(self.home.socket()).await.is_ok(),
            }
        };
        tokio::time::timeout(Duration::from_secs(1), attempt).await.unwrap_or(true)
    }

    pub(super) async fn get(&self, what: &str, path: &str) -> Result<Answer, Failure> {
        self.call(what, Method::GET, path, None).await
    }

    pub(super) async fn post(&self, what: &str, path: &str, json: String) -> Result<Answer, Failure> {
        self.call(what, Method::POST, path, Some(json)).await
    }

    pub(super) async fn put(&self, what: &str, path: &str, json: String) -> Result<Answer, Failure> {
        self.call(what, Method::PUT, path, Some(json)).await
    }

    pub(super) async fn patch(&self, what: &str, path: &str, json: String) -> Result<Answer, Failure> {
        self.call(what, Method::PATCH, path, Some(json)).await
    }

    /// A DELETE with a body.
    pub(super) async fn delete_with(&self, what: &str, path: &str, json: String) -> Result<Answer, Failure> {
        self.call(what, Method::DELETE, path, Some(json)).await
    }

    pub(super) async fn delete(&self, what: &str, path: &str) -> Result<Answer, Failure> {
        self.call(what, Method::DELETE, path, None).await
    }

    /// One call; an answer that is no success is a failure.
    async fn call(&self, what: &str, method: Method, path: &str, json: Option<String>) -> Result<Answer, Failure> {
        let answer = self.exchange(method, path, json).await.map_err(|f| f.doing(what))?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refused(what, &answer)) }
    }

    fn refused(&self, what: &str, answer: &Answer) -> Failure {
        let failure = Failure::answered(answer.status.as_u16(), &answer.body).doing(what);
        if answer.status == StatusCode::UNAUTHORIZED { self.unauthorized(failure) } else { failure }
    }

    /// One call, whatever its status. `path` is percent-encoded.
    pub(super) async fn exchange(&self, method: Method, path: &str, json: Option<String>) -> Result<Answer, Failure> {
        self.in_time(async {
            let (answer, _connection) = self.send(method, path, json, "application/json").await?;
            self.whole(answer).await
        })
        .await
    }

    /// An answer that goes on, once it has begun. One that is no success is a failure.
    pub(super) async fn stream(&self, what: &str, path: &str) -> Result<Stream, Failure> {
        let begun = self.in_time(async {
            let (answer, connection) = self.send(Method::GET, path, None, "text/event-stream").await?;
            if !answer.status().is_success() {
                return Ok(Err(self.whole(answer).await?));
            }
            Ok(Ok(Stream { client: self.clone(), body: answer.into_body(), _connection: connection }))
        });
        begun.await.map_err(|failure| failure.doing(what))?.map_err(|answer| self.refused(what, &answer))
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::time::timeout(self.deadline(), work).await.unwrap_or_else(|_| {
            let reason = format!("no answer from {} within {} s", self.place(), self.deadline().as_secs());
            Err(Failure::failed("timeout", reason).next("allow more with --timeout SECS, or see `astrid doctor`"))
        })
    }

    /// A new connection, and what stands in the Host header on it.
    async fn connect(&self) -> Result<(Box<dyn Wire>, String), Failure> {
        Ok(match &self.place {
            Place::Tcp(address) => {
                let stream = TcpStream::connect((address.host.as_str(), address.port))
                    .await
                    .map_err(|e| tcp_failure(address, &e))?;
                stream.set_nodelay(true).map_err(|e| tcp_failure(address, &e))?;
                let Some(connector) = &self.tls else { return Ok((Box::new(stream), address.authority())) };
                let name = ServerName::try_from(address.host.clone())
                    .map_err(|e| Failure::usage(format!("{address}: no name for a certificate: {e}")))?;
                let shaken = connector.connect(name, stream).await;
                let stream = shaken.map_err(|e| tls::failure(&address.to_string(), &e))?;
                (Box::new(stream), address.authority())
            }
            Place::Socket(socket) => {
                // Whoever could put a socket there would be told the bearer.
                home::check_socket_folder(socket).map_err(|e| Failure::failed("socket", e.to_string()))?;
                let stream = UnixStream::connect(socket).await.map_err(|e| shared_failure(socket, &e))?;
                (Box::new(stream), "localhost".to_owned())
            }
            Place::Home => {
                self.home.check().map_err(|e| Failure::failed("home", e.to_string()))?;
                let stream = UnixStream::connect(self.home.socket()).await.map_err(|e| self.socket_failure(&e))?;
                (Box::new(stream), "localhost".to_owned())
            }
        })
    }

    /// A request, and its answer as far as its head.
    async fn send(
        &self,
        method: Method,
        path: &str,
        json: Option<String>,
        accept: &str,
    ) -> Result<(Response<Incoming>, Connection), Failure> {
        let (stream, host) = self.connect().await?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, host).header(ACCEPT, accept);
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        if json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(json.unwrap_or_default())))
            .map_err(|e| Failure::failed("internal", format!("`{path}` makes no request: {e}")))?;

        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(&e))?;
        // What breaks the connection also fails the request.
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(request).await;
        let connection = Connection { _sender: sender, driver };
        Ok((answer.map_err(|e| self.broken(&e))?, connection))
    }

    async fn whole(&self, answer: Response<Incoming>) -> Result<Answer, Failure> {
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|e| {
            if e.is::<LengthLimitError>() {
                let reason = format!("the answer has more than {} MiB", MAX_ANSWER_BYTES >> 20);
                Failure::failed("too_large", reason).next("ask for less")
            } else {
                self.broken(&*e)
            }
        })?;
        Ok(Answer { status: head.status, body: body.to_bytes() })
    }

    /// Where calls go, for a sentence.
    fn place(&self) -> String {
        match &self.place {
            Place::Home => self.home.socket().display().to_string(),
            Place::Socket(socket) => socket.display().to_string(),
            Place::Tcp(address) => address.to_string(),
        }
    }
}
