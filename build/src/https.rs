//! Requests over HTTP/1.1, with TLS or without: a connection for each, and whole answers.
//!
//! Trusts the roots that the system trusts, or those of the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, and
//! presents no certificate. Follows no redirect and keeps no cookie. Bounded: answers of [`MAX_ANSWER_BYTES`]; a minute for
//! each exchange, and a second more for each 64 KiB that it sends. Refuses to know what is asked, and who asks.

use std::cell::OnceCell;
use std::fmt;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const LIMIT: Duration = Duration::from_secs(60);
/// The slowest that a large body may be sent, in bytes a second.
const LEAST_RATE: u64 = 64 << 10;

/// A server: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Whether it is spoken to over TLS.
    pub(crate) tls: bool,
    /// A name or an address, an IPv6 address in brackets.
    host: String,
    port: u16,
}

impl Origin {
    /// Of `HOST[:PORT]`; the port is that of the scheme unless it is named.
    pub(crate) fn new(tls: bool, authority: &str) -> Result<Self> {
        let scheme = if tls { "https" } else { "http" };
        let url: Uri = format!("{scheme}://{authority}/").parse().with_context(|| format!("no server: {authority}"))?;
        Ok(Self::of(&url).with_context(|| format!("no server: {authority}"))?.0)
    }

    /// Of a whole URL without a user, with its path and query.
    pub(crate) fn of(url: &Uri) -> Option<(Self, String)> {
        let tls = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let usual = if tls { 443 } else { 80 };
        // What stands behind the host is a port, or nothing at all.
        let port = if authority.as_str() == authority.host() { usual } else { authority.port_u16()? };
        let origin = Self { tls, host: authority.host().to_ascii_lowercase(), port };
        Some((origin, url.path_and_query().map_or("/", |path| path.as_str()).to_owned()))
    }

    /// Whether all its addresses are this machine's.
    pub(crate) fn is_local(&self) -> Result<bool> {
        let mut addresses =
            (self.name(), self.port).to_socket_addrs().with_context(|| format!("can't find {}", self.host))?;
        Ok(addresses.all(|address| address.ip().is_loopback()))
    }

    /// The host without brackets.
    fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// As a `host` header has it: without the port that goes without saying.
    fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// What is asked of a server.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// With its query, beginning with `/`.
    pub(crate) path: &'a str,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: &'a [u8],
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first header of this name, where it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    /// Made for the first request over TLS.
    connector: OnceCell<TlsConnector>,
}

impl Client {
    pub(crate) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { runtime: runtime.context("can't wait for the network")?, connector: OnceCell::new() })
    }

    /// Sends a request and reads its answer. Errors name the method and the URL without its query.
    pub(crate) fn send(&self, origin: &Origin, request: &Request<'_>) -> Result<Answer> {
        let limit = LIMIT + Duration::from_secs(request.body.len() as u64 / LEAST_RATE);
        let answer = || {
            let connector = origin.tls.then(|| self.connector()).transpose()?;
            self.runtime.block_on(async {
                let exchange = exchange(connector, origin, request);
                tokio::time::timeout(limit, exchange).await.context("it took too long")?
            })
        };
        let path = request.path.split('?').next().unwrap_or_default();
        answer().with_context(|| format!("{} {origin}{path}", request.method))
    }

    fn connector(&self) -> Result<&TlsConnector> {
        if self.connector.get().is_none() {
            let known = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            let (taken, _) = roots.add_parsable_certificates(known.certs);
            let why = known.errors.first().map_or(String::new(), |error| format!(" ({error})"));
            ensure!(
                taken > 0,
                "no certificates are trusted here{why}; the variable SSL_CERT_FILE names a file of some"
            );
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .context("TLS can't be set up")?
                .with_root_certificates(roots)
                .with_no_client_auth();
            let _ = self.connector.set(TlsConnector::from(Arc::new(config)));
        }
        self.connector.get().context("TLS can't be set up")
    }
}

async fn exchange(connector: Option<&TlsConnector>, origin: &Origin, request: &Request<'_>) -> Result<Answer> {
    let stream = TcpStream::connect((origin.name(), origin.port)).await.context("can't connect")?;
    stream.set_nodelay(true).context("can't connect")?;
    match connector {
        None => over(TokioIo::new(stream), origin, request).await,
        Some(connector) => {
            let name = ServerName::try_from(origin.name().to_owned()).context("no name that a certificate can have")?;
            let stream = connector.connect(name, stream).await.context("TLS")?;
            over(TokioIo::new(stream), origin, request).await
        }
    }
}

async fn over<S>(stream: S, origin: &Origin, request: &Request<'_>) -> Result<Answer>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut message = hyper::Request::builder().method(request.method.clone()).uri(request.path);
    message = message.header(HOST, origin.authority());
    for (name, value) in &request.headers {
        message = message.header(name, value);
    }
    let message = message.body(Full::new(Bytes::copy_from_slice(request.body))).context("it can't be asked")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let (head, body) = sender.send_request(message).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| anyhow!("its answer: {error}"))?;
    connection.abort();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_a_host_and_a_port_and_no_user() {
        let of = |url: &str| Origin::of(&url.parse().unwrap()).map(|(origin, path)| (origin.to_string(), path));
        let pair = |origin: &str, path: &str| Some((origin.to_owned(), path.to_owned()));
        assert_eq!(of("https://Auth.example/token?a=b"), pair("https://auth.example", "/token?a=b"));
        assert_eq!(of("https://auth.example:443"), pair("https://auth.example", "/"));
        assert_eq!(of("http://[::1]:5000/x"), pair("http://[::1]:5000", "/x"));
        for bad in ["ftp://a/b", "/token", "https://user:word@a/b", "https://a:port/b", "https://a:65536/b"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert!(Origin::new(false, "127.0.0.1:1").unwrap().is_local().unwrap());
        assert!(Origin::new(false, "[::1]:1").unwrap().is_local().unwrap());
        assert!(!Origin::new(true, "192.0.2.1").unwrap().is_local().unwrap());
    }
}
