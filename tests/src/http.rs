//! A plain HTTP/1.1 client over TCP and Unix sockets, and raw bytes for what no client would send.

use std::net::SocketAddr;
use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::DEADLINE;

#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Request {
    /// `path` as it stands on the wire, query included.
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn post(path: &str, json: &Value) -> Self {
        Self::new("POST", path).header("content-type", "application/json").body(json.to_string())
    }

    pub fn delete(path: &str) -> Self {
        Self::new("DELETE", path)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into().into();
        self
    }
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    /// The only value of a header, as text.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} stands twice: {:?}", self.headers);
        Some(value.to_str().expect("text"))
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of an answer with this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// Checks the one shape of a failure, and returns its reason, or nothing if it has none.
    #[track_caller]
    pub fn refusal(&self, status: u16, error: &str) -> String {
        let body = self.expect(status);
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        assert_eq!(body["error"], error, "{body}");
        let known = ["error", "reason", "retry_after_secs"];
        assert!(body.as_object().is_some_and(|b| b.keys().all(|key| known.contains(&key.as_str()))), "{body}");
        body.get("reason").map(|reason| reason.as_str().expect("a text").to_owned()).unwrap_or_default()
    }
}

/// A kept connection. Every error is a text that says what broke.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Connection {
    pub async fn tcp(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Self::over(stream).await
    }

    pub async fn unix(socket: &Path) -> Result<Self, String> {
        Self::over(UnixStream::connect(socket).await.map_err(|error| error.to_string())?).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, String> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(async {
            // What breaks the connection fails the request too.
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }

    /// Sends and reads the whole answer, at most until [`DEADLINE`].
    pub async fn send(&mut self, request: Request) -> Result<Response, String> {
        let shown = format!("{} {}", request.method, request.path);
        let exchange = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(build(request)).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Response { status: head.status.as_u16(), headers: head.headers, body })
        };
        match tokio::time::timeout(DEADLINE, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(format!("{shown}: {error:?}")),
            Err(_) => Err(format!("{shown}: no answer after {DEADLINE:?}")),
        }
    }
}

pub(crate) fn build(request: Request) -> hyper::Request<Full<Bytes>> {
    let mut builder = hyper::Request::builder().method(&*request.method).uri(request.path).header("host", "localhost");
    for (name, value) in request.headers {
        builder = builder.header(name, value);
    }
    builder.body(Full::new(request.body)).expect("a request that a client can send")
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Writes bytes and reads until the peer closes, at most until [`DEADLINE`].
pub async fn raw(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    let exchange = async {
        let mut answer = Vec::new();
        // A peer that has seen enough refuses the rest, and has answered nevertheless.
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap_or_else(|_| panic!("still open after {DEADLINE:?}"))
}

/// An answer that goes on, read as it comes.
pub struct Streaming {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    /// Read and not given out yet.
    rest: String,
    _driver: Driver,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Streaming {
    /// Sends over a connection of its own and reads the head, at most until [`DEADLINE`].
    pub async fn open(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, request: Request) -> Self {
        let exchange = async {
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
            let driver = Driver(tokio::spawn(async {
                let _ = connection.await;
            }));
            let (head, body) = sender.send_request(build(request)).await?.into_parts();
            let (status, headers) = (head.status.as_u16(), head.headers);
            Ok::<_, hyper::Error>(Self { status, headers, body, rest: String::new(), _driver: driver })
        };
        let opened = tokio::time::timeout(DEADLINE, exchange).await;
        opened.unwrap_or_else(|_| panic!("no answer after {DEADLINE:?}")).expect("an answer")
    }

    /// What comes up to the next empty line; none at a clean end. The error says how it broke.
    pub async fn next(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some((event, rest)) = self.rest.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.rest = rest;
                return Ok(Some(event));
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("nothing came for {DEADLINE:?}"));
            match frame {
                None if self.rest.is_empty() => return Ok(None),
                None => return Err(format!("it ended within {:?}", self.rest)),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.rest.push_str(std::str::from_utf8(&data).expect("text"));
                }
            }
        }
    }
}
