//! How entries get to a place, and the sign that they have arrived.
//!
//! Owns the framing: a line for each entry in a file, a datagram over UDP and a Unix socket, an octet count before each over TCP
//! (RFC 6587), one POST of lines to a collector. An entry is sent again where it is not known whether it has arrived.
//!
//! Bounded by: [`MAX_ANSWER`], [`MAX_AUTHORIZATION`], [`MAX_ROOTS`]; how much is sent and for how long, whoever calls this says.
//! Refuses to know: when to try again.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::config::{Collector, Target};
use super::{Sink, Turn};
use crate::files;
use crate::runtime::Blocking;

/// The longest answer of a collector that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// The longest Authorization header, in bytes.
const MAX_AUTHORIZATION: u64 = 8 << 10;
/// The largest file of certificates, in bytes.
const MAX_ROOTS: u64 = 4 << 20;

/// Sends them all; returns when they have arrived, as far as the place can say.
pub(super) async fn send(sink: &Sink, entries: Vec<Vec<u8>>, blocking: &Blocking, turn: Turn) -> io::Result<()> {
    match &sink.target {
        Target::File(path) => {
            let path = path.clone();
            let work = move || {
                let _turn = turn;
                append(&path, &entries)
            };
            return blocking.run(work).await.map_err(io::Error::other)?;
        }
        Target::Udp(address) => {
            let to = lookup_host(address).await?.next().ok_or_else(|| io::Error::other("its name has no address"))?;
            let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(to).await?;
            for entry in &entries {
                socket.send(entry).await?;
            }
        }
        Target::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            for entry in &entries {
                socket.send(entry).await?;
            }
        }
        Target::Tcp(address) => stream(address, &entries).await?,
        Target::Http(collector) => {
            let stream = TcpStream::connect(&collector.address).await?;
            stream.set_nodelay(true)?;
            match (&sink.connector, &collector.tls) {
                (Some(connector), Some((name, _))) => {
                    let stream = connector.connect(name.clone(), stream).await?;
                    post(stream, collector, &entries).await?;
                }
                _ => post(stream, collector, &entries).await?,
            }
        }
    }
    drop(turn);
    Ok(())
}

/// Durable when it returns. What a crash has left of a line stays a line of its own.
fn append(path: &Path, entries: &[Vec<u8>]) -> io::Result<()> {
    let mut file = File::options().create(true).read(true).append(true).mode(0o600).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        bytes.extend((last != *b"\n").then_some(b'\n'));
    }
    bytes.extend(lines(entries));
    file.write_all(&bytes)?;
    file.sync_data()
}

fn lines(entries: &[Vec<u8>]) -> Vec<u8> {
    entries.iter().flat_map(|entry| [entry.as_slice(), b"\n"]).flatten().copied().collect()
}

/// A connection for each delivery, because its orderly end is the only sign that the other side has read it all.
async fn stream(address: &str, entries: &[Vec<u8>]) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(format!("{} ", entry.len()).bytes());
        bytes.extend(entry);
    }
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    let mut said = [0; 1024];
    while stream.read(&mut said).await? > 0 {}
    Ok(())
}

/// The Authorization header that the file holds.
fn header(path: &Path) -> io::Result<HeaderValue> {
    let text = File::open(path).and_then(|file| files::read_capped(file, MAX_AUTHORIZATION));
    let text = text.map_err(|error| io::Error::new(error.kind(), format!("authorization-file: {error}")))?;
    let mut value = HeaderValue::from_bytes(text.trim_ascii())
        .map_err(|_| io::Error::other("authorization-file: its content is no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Trusts whoever the file of certificates vouches for.
pub(super) fn connector(roots: &Path) -> anyhow::Result<TlsConnector> {
    let pem = files::read_capped(File::open(roots)?, MAX_ROOTS)?;
    let mut store = RootCertStore::empty();
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().context("it is no PEM")?;
    let (taken, _) = store.add_parsable_certificates(found);
    anyhow::ensure!(taken > 0, "it holds no certificate in PEM that can vouch for anybody");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_root_certificates(store).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Without its cause it says little.
fn with_cause(error: hyper::Error) -> io::Error {
    let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    io::Error::other(format!("{error}{cause}"))
}

async fn post(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    collector: &Collector,
    entries: &[Vec<u8>],
) -> io::Result<()> {
    let mut request = Request::builder().method(Method::POST).uri(&collector.path).header(HOST, &collector.authority);
    request = request.header(CONTENT_TYPE, "application/x-ndjson");
    if let Some(file) = &collector.authorization {
        request = request.header(AUTHORIZATION, header(file)?);
    }
    let request = request.body(Full::new(Bytes::from(lines(entries)))).map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(with_cause)?;
    let work = async {
        let answer = sender.send_request(request).await.map_err(with_cause)?;
        let status = answer.status();
        let said = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map(|said| said.to_bytes());
        if status.is_success() {
            return Ok(());
        }
        let mut why = format!("the collector answered {status}");
        if let Ok(said) = said {
            let said: String = String::from_utf8_lossy(&said).chars().take(200).collect();
            let _ = write!(why, ": {}", crate::log::clean(&said));
        }
        Err(io::Error::other(why))
    };
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        // It ends by itself where the other side closes it, in order or not. The answer has come by then, or never does.
        _ = connection => work.await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_crash_has_left_of_a_line_is_never_joined_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facts");
        append(&path, &[b"one".to_vec(), b"two".to_vec()]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        fs::write(&path, "one\ntw").unwrap();
        append(&path, &[b"two".to_vec()]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntw\ntwo\n");
        assert!(append(folder.path(), &[]).is_err());
    }
}
