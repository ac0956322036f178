//! What the tests of the verbs share: a home in a temporary folder, a real HTTP server on its socket, and the command
//! run in this process with captured streams.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::console::{Console, Terminals};
use super::failure::Exit;
use crate::home::Home;

/// A home with all its folders, gone when the first is dropped.
pub(super) fn home() -> (TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::resolve(Some(dir.path().join("h"))).unwrap();
    home.create().unwrap();
    (dir, home)
}

/// A server on the socket of a home of its own.
pub(super) struct Host {
    pub(super) home: Home,
    seen: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _dir: TempDir,
}

impl Host {
    /// Answers every request the same.
    pub(super) fn answering(status: u16, body: &str) -> Self {
        let body = body.to_owned();
        Self::with(move |_| (status, body.clone()))
    }

    /// Answers with what `answer` makes of each request: method, path, authorization and body, as in
    /// [`Host::requests`].
    pub(super) fn with(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let (dir, home) = home();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let listener = std::os::unix::net::UnixListener::bind(home.socket()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (record, answer) = (seen.clone(), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let (record, answer) = (record.clone(), answer.clone());
                        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                            TokioIo::new(stream),
                            service_fn(move |request| respond(request, record.clone(), answer.clone())),
                        ));
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        Self { home, seen, stop: Some(stop), thread: Some(thread), _dir: dir }
    }

    /// What was asked so far, one line each: method, path, authorization and body, without what was absent.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Runs `astrid --home HOME ARGS…` against it.
    pub(super) fn astrid(&self, args: &[&str]) -> Ran {
        astrid(&self.home, args)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn respond(
    request: Request<Incoming>,
    record: Arc<Mutex<Vec<String>>>,
    answer: Arc<impl Fn(&str) -> (u16, String)>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let authorization = head.headers.get("authorization").map_or("", |v| v.to_str().unwrap());
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let parts = [head.method.as_str(), &head.uri.to_string(), authorization, &body].map(str::to_owned);
    let line = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ");
    record.lock().unwrap().push(line.clone());
    let (status, body) = answer(&line);
    Ok(Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap())
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) exit: Exit,
    pub(super) out: String,
    pub(super) err: String,
}

/// Runs `astrid --home HOME ARGS…` without terminals and with nothing on stdin.
pub(super) fn astrid(home: &Home, args: &[&str]) -> Ran {
    astrid_at(home, args, "", false)
}

/// Runs `astrid --home HOME ARGS…`; `terminal` says whether its streams are terminals.
pub(super) fn astrid_at(home: &Home, args: &[&str], input: &str, terminal: bool) -> Ran {
    let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), Cursor::new(input.to_owned()));
    let terminals = Terminals { input: terminal, output: terminal };
    let console = Console::new(&mut out, &mut err, &mut input, terminals);
    let root = home.root().to_str().unwrap();
    let args = ["astrid", "--home", root].into_iter().chain(args.iter().copied()).map(Into::into);
    let variables = super::Variables { bearer: Some("from-the-environment".to_owned()), socket: None };
    let exit = super::execute(args, variables, console);
    Ran { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}
