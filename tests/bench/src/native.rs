//! The native HTTP peer: hyper alone, which answers every request with the same bytes.
//!
//! It is this program again in a process of its own, so that its CPU time can be told from the generator's. It takes
//! one response from standard input and prints its address. As many workers as the daemon has: one for each core.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::load::Target;

/// The running peer; it ends with this handle.
pub(crate) struct Peer {
    child: Child,
    pub(crate) target: Arc<Target>,
}

impl Peer {
    /// Starts a peer that answers `request` with `response`, a whole one with its head.
    pub(crate) fn start(request: &[u8], response: &[u8]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--native-peer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the native peer")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let target = Target {
            address: ([127, 0, 0, 1], 0).into(),
            pid: child.id(),
            requests: vec![request.to_vec()],
            status: 200,
        };
        let mut peer = Self { child, target: Arc::new(target) };
        stdin.context("no standard input")?.write_all(response)?;
        let mut line = String::new();
        BufReader::new(stdout.context("no standard output")?).read_line(&mut line)?;
        let address = line.trim().parse().context("the native peer's address")?;
        peer.target = Arc::new(Target { address, pid: peer.target.pid, requests: vec![request.to_vec()], status: 200 });
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peer itself, until it is killed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let mut response = Vec::new();
    std::io::stdin().read_to_end(&mut response)?;
    let (headers, body) = split(&response)?;
    let answer = Arc::new((headers, body));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(stream, answer.clone()));
        }
    })
}

async fn connection(stream: TcpStream, answer: Arc<(HeaderMap, Bytes)>) {
    let service = service_fn(|_: Request<hyper::body::Incoming>| {
        let mut response = Response::new(Full::new(answer.1.clone()));
        *response.headers_mut() = answer.0.clone();
        async move { Ok::<_, Infallible>(response) }
    });
    // The generator hangs up when it is done.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The headers, without those that hyper writes itself, and the body.
fn split(response: &[u8]) -> anyhow::Result<(HeaderMap, Bytes)> {
    let end = response.windows(4).position(|window| window == b"\r\n\r\n").context("a response without a head")?;
    let mut headers = HeaderMap::new();
    for line in std::str::from_utf8(&response[..end])?.split("\r\n").skip(1) {
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        let name: HeaderName = name.parse()?;
        if name != CONTENT_LENGTH && name != DATE {
            headers.append(name, HeaderValue::from_str(value.trim())?);
        }
    }
    Ok((headers, Bytes::copy_from_slice(&response[end + 4..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_repeated_with_its_headers_and_body() {
        let (headers, body) = split(b"HTTP/1.1 200 OK\r\na: b\r\ndate: x\r\ncontent-length: 2\r\n\r\nok").unwrap();
        assert_eq!((headers.len(), &headers["a"], &body[..]), (1, &HeaderValue::from_static("b"), &b"ok"[..]));
        assert!(split(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
