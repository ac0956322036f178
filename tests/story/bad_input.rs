//! Input that no client should send: each file of `tests/cases/http` through a real socket, with the answer that it says.
//!
//! A case begins with a line that says what it is (`# …`), then what is expected: `status:` (or `none`, for a connection
//! that is closed without an answer), `error:` of the answer's body (`-` for an empty body), `answers:` (how many, 1 unless
//! said), and how it is sent: `to:` (`tcp` or `unix`), `close: yes` where the client goes away behind its last byte. After
//! an empty line come the bytes; ends of lines in the file don't count. `\r`, `\n`, `\t`, `\0`, `\\` and `\xNN` are bytes,
//! `\{N:text}` is a text N times.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use astrid_tests::DEADLINE;
use astrid_tests::daemon::Daemon;
use astrid_tests::http::raw;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::assert_well;
use crate::observation::{metrics, sum};

/// How much more memory may be resident after the corpus was sent again, in bytes: what an allocator keeps for later.
pub(crate) const SLACK: f64 = 32.0 * 1024.0 * 1024.0;

#[derive(Clone)]
struct Case {
    name: String,
    /// None for no answer.
    status: Option<u16>,
    /// None for any, an empty text for no body.
    error: Option<String>,
    answers: usize,
    unix: bool,
    close: bool,
    bytes: Vec<u8>,
}

impl Case {
    #[track_caller]
    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        let (head, body) = text.split_once("\n\n").unwrap_or_else(|| panic!("{name}: no empty line"));
        let mut case =
            Self { name, status: None, error: None, answers: 1, unix: false, close: false, bytes: Vec::new() };
        let mut lines = head.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("# ")), "{}: it does not say what it is", case.name);
        for line in lines {
            match line.split_once(": ") {
                Some(("status", "none")) => case.answers = 0,
                Some(("status", status)) => case.status = Some(status.parse().unwrap()),
                Some(("error", "-")) => case.error = Some(String::new()),
                Some(("error", error)) => case.error = Some(error.into()),
                Some(("answers", answers)) => case.answers = answers.parse().unwrap(),
                Some(("to", "unix")) => case.unix = true,
                Some(("close", "yes")) => case.close = true,
                _ => panic!("{}: what is `{line}`?", case.name),
            }
        }
        for line in body.lines() {
            bytes(line, &mut case.bytes);
        }
        case
    }

    async fn send(&self, address: SocketAddr, socket: &Path) {
        let answer = if self.unix {
            self.exchange(UnixStream::connect(socket).await.unwrap()).await
        } else {
            self.exchange(TcpStream::connect(address).await.unwrap()).await
        };
        let name = &self.name;
        assert_eq!(answer.matches("HTTP/1.").count(), self.answers, "{name}: {answer}");
        let Some(status) = self.status else { return };
        assert!(answer[8..].starts_with(&format!(" {status} ")), "{name}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        match self.error.as_deref() {
            None => {}
            Some("") => assert_eq!(body, "", "{name}"),
            Some(error) => assert!(body.starts_with(&format!("{{\"error\":\"{error}\"")), "{name}: {answer}"),
        }
    }

    async fn exchange(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
        if !self.close {
            return raw(stream, &self.bytes).await;
        }
        stream.write_all(&self.bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        raw(stream, b"").await
    }
}

/// The bytes that a line stands for.
#[track_caller]
fn bytes(line: &str, into: &mut Vec<u8>) {
    let mut rest = line;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        into.extend(plain.as_bytes());
        let kind = escaped.chars().next().unwrap_or_else(|| panic!("a backslash at the end: {line}"));
        rest = &escaped[1..];
        match kind {
            'r' => into.push(b'\r'),
            'n' => into.push(b'\n'),
            't' => into.push(b'\t'),
            '0' => into.push(0),
            '\\' => into.push(b'\\'),
            'x' => {
                into.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            '{' => {
                let (count, text) = rest.split_once(':').unwrap();
                // A brace in the text does not end it, unless it is the only one left.
                let end = text[1..].find('}').unwrap() + 1;
                let mut piece = Vec::new();
                bytes(&text[..end], &mut piece);
                into.extend(piece.repeat(count.parse().unwrap()));
                rest = &text[end + 1..];
            }
            other => panic!("what is \\{other}? {line}"),
        }
    }
    into.extend(rest.as_bytes());
}

/// Open files and resident memory of the daemon.
pub(crate) async fn held(daemon: &Daemon) -> (f64, f64) {
    let samples = metrics(daemon).await;
    (sum(&samples, "process_open_fds", &[]), sum(&samples, "process_resident_memory_bytes", &[]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_no_client_should_send_has_its_answer_and_leaves_nothing_behind() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/http");
    let mut cases: Vec<Case> = fs::read_dir(&folder).unwrap().map(|entry| Case::read(&entry.unwrap().path())).collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= 107, "{} cases in {}", cases.len(), folder.display());
    // A second for what never ends.
    let sets = ["http.header-timeout-secs=1", "http.body-timeout-secs=1", "http.idle-timeout-secs=1"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let daemon = Daemon::start_with(&sets);
    let all_at_once = async || {
        let mut sent = JoinSet::new();
        for case in cases.clone() {
            let (address, socket) = (daemon.address(), daemon.socket());
            sent.spawn(async move { case.send(address, &socket).await });
        }
        while let Some(done) = sent.join_next().await {
            done.expect("its answer");
        }
    };
    all_at_once().await;
    let before = held(&daemon).await;
    for _ in 0..5 {
        all_at_once().await;
    }
    let started = Instant::now();
    loop {
        let now = held(&daemon).await;
        if now.0 <= before.0 && now.1 <= before.1 + SLACK {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "files and bytes were {before:?}, and are {now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_well(&daemon).await;
}
