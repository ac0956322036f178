//! One HTTP call at a time: HTTP/1.1 over the home's Unix socket, another one or TCP, with TLS or without, a new connection
//! for each.
//!
//! Bounded by one deadline from connecting to the last byte, and by [`MAX_ANSWER_BYTES`]; an answer that goes on for as long
//! as somebody listens ([`Stream`]) by the deadline for its head and [`SILENCE`] for each piece. Knows how connections fail
//! and what to do about each; refuses to know what any route means.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::failure::Failure;
use super::text::quoted;
use super::tls;
use crate::home::{self, Home};

/// How long a call may take in all, unless the user has said it.
const DEADLINE: Duration = Duration::from_secs(30);
/// The same for a call in which code may be compiled: as long as the default distribution's components have for it.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a stream may be silent: the surface gives a sign of life three times as often.
const SILENCE: Duration = Duration::from_secs(45);

/// The largest answer that is taken.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Where a host listens on TCP, from `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TcpAddress {
    /// Whether it speaks TLS.
    pub(super) tls: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
}

impl TcpAddress {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|e| format!("no URL: {e}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("the URL must begin with https:// or http://".to_owned()),
        };
        let authority = uri.authority().ok_or("the URL names no host")?;
        if authority.as_str().contains('@') {
            return Err("the URL may hold no user name; pass --bearer".to_owned());
        }
        if uri.path_and_query().is_some_and(|rest| rest != "/") {
            return Err("the URL may hold no path; write https://HOST:PORT".to_owned());
        }
        let host = authority.host();
        let port = match &authority.as_str()[host.len()..] {
            "" if tls => 443,
            "" => 80,
            port => port.trim_start_matches(':').parse().map_err(|_| "the URL's port is no port".to_owned())?,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("the URL names no host".to_owned());
        }
        Ok(Self { tls, host: host.to_owned(), port })
    }

    /// As it stands in a Host header.
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

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

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let place = self.place();
        match error.downcast_ref::<hyper::Error>() {
            Some(e) if e.is_parse() => {
                Failure::failed("protocol", format!("what listens at {place} speaks no HTTP: {e}"))
                    .next("is that address another program's?")
            }
            _ => {
                let mut reason = format!("{place} ended the connection before the answer was complete: {error}");
                if let Some(cause) = error.source() {
                    reason += &format!(": {cause}");
                }
                Failure::failed("disconnected", reason).next(self.see_log())
            }
        }
    }

    fn see_log(&self) -> String {
        if self.is_at_home() {
            format!("is the host ending? Its log has the cause: {}", self.home.log().display())
        } else {
            "is the host ending? Its log has the cause".to_owned()
        }
    }

    fn socket_failure(&self, error: &io::Error) -> Failure {
        let (home, socket) = (self.home.root(), self.home.socket());
        let at = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound => Failure::failed(
                "not_running",
                format!("no host is running for {}: there is no socket {at}", home.display()),
            )
            .next(start(home)),
            io::ErrorKind::ConnectionRefused => {
                Failure::failed("stale_socket", format!("the host that made the socket {at} is gone"))
                    .next(format!("{} (a new host replaces the socket)", start(home)))
            }
            io::ErrorKind::PermissionDenied => Failure::failed("permission", format!("this user may not open {at}"))
                .next("run as the user who runs the host, or pass --socket with its `http.shared-socket`, or --url"),
            // The listener's queue is full.
            io::ErrorKind::WouldBlock => Failure::failed("overloaded", format!("{at} takes no more connections now"))
                .next("try again in a moment"),
            _ => Failure::failed("unreachable", format!("{at}: {error}")).next("see `astrid doctor`"),
        }
    }

    fn unauthorized(&self, failure: Failure) -> Failure {
        let (reason, next) = if self.authorization.is_some() {
            (
                "the bearer was not accepted: it may have expired or been revoked, or another host made it".to_owned(),
                "get a new one: `astrid login PRINCIPAL`, or `astrid invite redeem TOKEN`; if `astrid agent current` names who it was, \
                 `astrid agent switch default` speaks as the host's owner again"
                    .to_owned(),
            )
        } else if self.shows_certificate {
            (
                "the certificate that was shown stands for nobody there, or for somebody who is disabled".to_owned(),
                "an administrator binds it: `astrid cert bind PRINCIPAL FILE`; or pass --bearer".to_owned(),
            )
        } else if self.is_remote() {
            (
                "no bearer was sent".to_owned(),
                format!("set ${} or pass --bearer; `astrid invite redeem TOKEN` makes one", super::BEARER_VARIABLE),
            )
        } else {
            let owner = match &self.place {
                Place::Home => format!("run as the user who owns {}", self.home.root().display()),
                _ => "log in with a key: `astrid login PRINCIPAL`, then `astrid agent switch PRINCIPAL`".to_owned(),
            };
            ("the host does not take this user for its owner".to_owned(), format!("{owner}, or pass --bearer"))
        };
        failure.because(reason).next(next)
    }
}

/// How a host of this home is started.
pub(super) fn start(home: &Path) -> String {
    let home = quoted(&home.to_string_lossy());
    format!("start it with `cargo astrid up --home {home}` or `astrid-daemon --home {home}`")
}

fn shared_failure(socket: &Path, error: &io::Error) -> Failure {
    let at = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure::failed("not_running", format!("no host listens at {at}"))
                .next("does it run, and is that its `http.shared-socket`? Who runs it knows")
        }
        io::ErrorKind::PermissionDenied => Failure::failed("permission", format!("this user may not open {at}"))
            .next("ask who runs the host: `http.shared-socket-users` and the folder's mode say who may"),
        io::ErrorKind::WouldBlock => {
            Failure::failed("overloaded", format!("{at} takes no more connections now")).next("try again in a moment")
        }
        _ => Failure::failed("unreachable", format!("{at}: {error}")).next("is it a socket, and a host's?"),
    }
}

fn tcp_failure(address: &TcpAddress, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        Failure::failed("not_running", format!("nothing listens at {address}"))
            .next("start the host with `cargo astrid up`, or check host and port")
    } else {
        Failure::failed("unreachable", format!("{address}: {error}")).next("check host and port")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use super::*;
    use crate::cli::failure::Exit;
    use crate::cli::testing::{Host, home};

    fn client(home: &Home, seconds: u64) -> Client {
        Client::new(home.clone(), Place::Home, None, Some(Duration::from_secs(seconds))).unwrap()
    }

    fn get(client: &Client) -> Result<Answer, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client.get("ask", "/api/x?y=1"))
    }

    #[test]
    fn an_address_is_a_plain_origin() {
        let parse = |text| TcpAddress::parse(text).map(|a| a.to_string());
        assert_eq!(parse("http://127.0.0.1:2787").unwrap(), "http://127.0.0.1:2787");
        assert_eq!(parse("http://host/").unwrap(), "http://host:80");
        assert_eq!(parse("https://host/").unwrap(), "https://host:443");
        assert_eq!(parse("https://[::1]:1").unwrap(), "https://[::1]:1");
        assert_eq!(parse("http://[::1]:1").unwrap(), "http://[::1]:1");
        for bad in
            ["ftp://h", "h:1", "127.0.0.1:2787", "http://u@h", "http://h/p", "http://h/?q", "http://", "http://h:x", ""]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_arrives_with_status_and_body_and_the_request_as_it_was_meant() {
        let host = Host::answering(200, "{\"ok\":true}");
        let answer = get(&client(&host.home, 5)).unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"{\"ok\":true}"[..]));
        assert_eq!(host.requests(), ["GET /api/x?y=1"]);
    }

    #[test]
    fn a_missing_socket_says_how_to_start_a_host() {
        let (_dir, home) = home();
        let failure = get(&client(&home, 5)).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Failed, "not_running"));
        let text = failure.to_text();
        assert!(
            text.contains("cannot ask") && text.contains("astrid.sock") && text.contains("cargo astrid up"),
            "{text}"
        );
    }

    #[test]
    fn a_stale_socket_is_told_from_a_missing_one() {
        let (_dir, home) = home();
        drop(UnixListener::bind(home.socket()).unwrap());
        let failure = get(&client(&home, 5)).unwrap_err();
        assert_eq!(failure.code, "stale_socket");
        assert!(failure.to_text().contains("replaces the socket"));
    }

    #[test]
    fn what_installs_is_waited_for_longer_unless_the_user_says_how_long() {
        let (_dir, home) = home();
        let unsaid = Client::new(home.clone(), Place::Home, None, None).unwrap();
        assert_eq!((unsaid.deadline(), unsaid.patient().deadline()), (DEADLINE, PATIENCE));
        assert_eq!(client(&home, 5).patient().deadline(), Duration::from_secs(5));
        // Longer than the components on the way have would be of no use.
        for name in ["gateway", "system"] {
            let path = format!("{}/../components/{name}/Capsule.toml", env!("CARGO_MANIFEST_DIR"));
            let manifest = astrid_capsule::manifest::Manifest::parse(&fs::read_to_string(path).unwrap()).unwrap();
            assert_eq!(u128::from(manifest.limits.timeout_ms), PATIENCE.as_millis(), "{name}");
        }
    }

    #[test]
    fn a_host_that_never_answers_costs_no_more_than_the_deadline() {
        let (_dir, home) = home();
        let _silent = UnixListener::bind(home.socket()).unwrap();
        let begun = Instant::now();
        let failure = get(&client(&home, 1)).unwrap_err();
        assert_eq!(failure.code, "timeout");
        assert!(failure.to_text().contains("within 1 s") && begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_speaks_no_http_and_what_hangs_up_are_told_apart() {
        for (says, code) in [
            ("220 mail ready\r\n", "protocol"),
            ("", "disconnected"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "disconnected"),
        ] {
            let (_dir, home) = home();
            let listener = UnixListener::bind(home.socket()).unwrap();
            let server = std::thread::spawn(move || {
                use std::io::{Read, Write};
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]);
                stream.write_all(says.as_bytes()).unwrap();
            });
            assert_eq!(get(&client(&home, 5)).unwrap_err().code, code, "{says:?}");
            server.join().unwrap();
        }
    }

    #[test]
    fn an_answer_over_the_limit_is_refused_and_not_held() {
        let (_dir, home) = home();
        let listener = UnixListener::bind(home.socket()).unwrap();
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let length = MAX_ANSWER_BYTES + 1;
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").unwrap();
            let chunk = vec![b' '; 1 << 20];
            while stream.write_all(&chunk).is_ok() {}
        });
        assert_eq!(get(&client(&home, 30)).unwrap_err().code, "too_large");
        server.join().unwrap();
    }

    #[test]
    fn a_401_says_who_could_do_it_instead() {
        let host = Host::answering(401, r#"{"error":"unauthorized"}"#);
        let text = get(&client(&host.home, 5)).unwrap_err().to_text();
        assert!(text.contains("owner") && text.contains("--bearer") && text.contains("[unauthorized]"), "{text}");
        let with =
            Client::new(host.home.clone(), Place::Home, Some("a.b.c.d".into()), Some(Duration::from_secs(5))).unwrap();
        let text = get(&with).unwrap_err().to_text();
        assert!(text.contains("bearer was not accepted"), "{text}");
        assert_eq!(host.requests()[1], "GET /api/x?y=1 Bearer a.b.c.d");
    }

    #[test]
    fn a_home_that_others_may_write_to_is_not_spoken_to() {
        use std::os::unix::fs::PermissionsExt;
        let host = Host::answering(200, "{}");
        fs::set_permissions(host.home.root(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(get(&client(&host.home, 5)).unwrap_err().code, "home");
        assert!(host.requests().is_empty());
    }
}
