//! Certificates of a test's own, and clients that speak TLS: HTTP/1.1, HTTP/2, or whatever bytes they like.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::DEADLINE;
use crate::http::{Request, Response, build};

/// The name that certificates are for.
const NAME: &str = "localhost";

/// A certificate that vouches for itself, and its key.
pub struct Pair {
    cert: String,
    key: String,
    /// By which an authority calls it; 0 where none has issued it.
    serial: u64,
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a name");
        Self { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), serial: 0 }
    }

    /// Replaces a file at once, as those do who renew certificates.
    fn replace(path: &Path, pem: &str) {
        let beside = path.with_extension("new");
        std::fs::write(&beside, pem).expect("a folder of the test's");
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).expect("its owner may");
        std::fs::rename(beside, path).expect("a folder of the test's");
    }

    /// Writes `cert.pem`.
    pub fn write_cert(&self, folder: &Path) {
        Self::replace(&folder.join("cert.pem"), &self.cert);
    }

    /// Writes `key.pem`.
    pub fn write_key(&self, folder: &Path) {
        Self::replace(&folder.join("key.pem"), &self.key);
    }

    /// The SHA-256 of the certificate's DER, in hex.
    pub fn fingerprint(&self) -> String {
        Sha256::digest(self.der()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("it was made so")
    }
}

/// Somebody who vouches for clients' certificates.
pub struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    pub fn new() -> Self {
        Self::named("an authority")
    }

    pub fn named(common_name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate").pem();
        Self { cert, issuer: Issuer::new(params, key) }
    }

    /// Writes `ca.pem`.
    pub fn write(&self, folder: &Path) {
        Pair::replace(&folder.join("ca.pem"), &self.cert);
    }

    /// Writes `crl.pem`: the certificates that were revoked, good until `year` begins.
    pub fn write_list(&self, folder: &Path, revoked: &[&Pair], year: i32) {
        let revoked = revoked.iter().map(|pair| RevokedCertParams {
            serial_number: SerialNumber::from(pair.serial),
            revocation_time: date_time_ymd(2001, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list");
        Pair::replace(&folder.join("crl.pem"), &list.pem().expect("text"));
    }

    /// A client's certificate with this common name, and its key.
    pub fn client(&self, common_name: &str) -> Pair {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { cert, key: key.serialize_pem(), serial }
    }
}

/// Shakes hands with a host that has to show `shown`, offering `alpn`.
pub async fn shake(address: SocketAddr, shown: &Pair, alpn: &[&str]) -> Result<TlsStream<TcpStream>, String> {
    shake_as(address, shown, alpn, None).await
}

/// As [`shake`], and shows a certificate of one's own. A host may refuse it only behind the handshake.
pub async fn shake_as(
    address: SocketAddr,
    shown: &Pair,
    alpn: &[&str],
    own: Option<&Pair>,
) -> Result<TlsStream<TcpStream>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(shown.der()).expect("a certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has them").with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("it was made so");
            builder.with_client_auth_cert(vec![own.der()], key).expect("a key of its own")
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let shaking = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let shaken = tokio::time::timeout(DEADLINE, shaking).await;
    shaken.unwrap_or_else(|_| panic!("no handshake after {DEADLINE:?}")).map_err(|error| error.to_string())
}

/// What was agreed on with ALPN.
pub fn agreed(stream: &TlsStream<TcpStream>) -> Option<String> {
    stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
}

/// A kept connection of HTTP/2 that takes many requests at once.
pub struct Connection {
    sender: http2::SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Over TLS, where the host agrees to HTTP/2. `window`: how many bytes of one answer it takes before it reads.
    pub async fn open(address: SocketAddr, shown: &Pair, window: u32) -> Self {
        Self::over(shake(address, shown, &["h2"]).await.expect("a handshake"), window).await
    }

    /// As [`Self::open`], with a certificate of one's own.
    pub async fn open_as(address: SocketAddr, shown: &Pair, own: &Pair) -> Self {
        Self::over(shake_as(address, shown, &["h2"], Some(own)).await.expect("a handshake"), u16::MAX.into()).await
    }

    async fn over(stream: TlsStream<TcpStream>, window: u32) -> Self {
        assert_eq!(agreed(&stream).as_deref(), Some("h2"));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("a greeting");
        let driver = tokio::spawn(async {
            // What breaks the connection fails the request too.
            let _ = connection.await;
        });
        Self { sender, driver }
    }

    /// Sends, and reads the head of the answer, at most until [`DEADLINE`].
    pub async fn begin(&self, request: Request) -> Result<hyper::Response<Incoming>, String> {
        let mut sender = self.sender.clone();
        let sending = async {
            sender.ready().await?;
            let (mut head, body) = build(request).into_parts();
            head.headers.remove("host");
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            head.uri = format!("https://{NAME}{path}").parse().expect("a path");
            sender.send_request(hyper::Request::from_parts(head, body)).await
        };
        let begun = tokio::time::timeout(DEADLINE, sending).await;
        begun.unwrap_or_else(|_| panic!("no answer after {DEADLINE:?}")).map_err(|error| format!("{error:?}"))
    }

    /// As [`Self::begin`], and the whole answer.
    pub async fn send(&self, request: Request) -> Result<Response, String> {
        let (head, body) = self.begin(request).await?.into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect()).await;
        let body =
            body.unwrap_or_else(|_| panic!("no end after {DEADLINE:?}")).map_err(|error| format!("{error:?}"))?;
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
    }

    /// Waits for the end of the connection, at most until [`DEADLINE`].
    pub async fn ended(&mut self) {
        let ended = tokio::time::timeout(DEADLINE, &mut self.driver).await;
        ended.unwrap_or_else(|_| panic!("still open after {DEADLINE:?}")).expect("it does not panic");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
