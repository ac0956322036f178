//! `astrid audit query`, `tail` and `export`: what a host says of its facts, and a copy of its log. How lines read is for the
//! host's audit capsule to say; a copy is checked before it is called one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum, value_parser};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::{Context, text, time};
use crate::files;
use crate::journal::note::{Checkpoint, Key};
use crate::journal::tiles::{self, Kind, WIDTH};
use crate::journal::verify;

/// The most entries of one answer.
const MAX_ENTRIES: u32 = 1000;
/// The same with proofs.
const MAX_PROOFS: u32 = 500;
/// Between the end of a stream and the next.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Json,
    Ocsf,
    Cef,
    Line,
}

#[derive(Clone, Copy, ValueEnum)]
enum Outcome {
    Began,
    Ok,
    Refused,
    Failed,
    Unknown,
}

/// Which facts, and how they read.
#[derive(Args)]
struct Filter {
    /// Only this action, or what begins with these words: `capsule`, `bus.identity`
    #[arg(long, value_name = "ACTION")]
    method: Option<String>,
    /// Only this principal's; those of others need audit:read_all
    #[arg(long)]
    principal: Option<String>,
    #[arg(long, value_enum)]
    outcome: Option<Outcome>,
    /// The form of each [default: line; with --json json]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(Args)]
pub(super) struct Query {
    #[command(flatten)]
    filter: Filter,
    /// Only what is not older than this, such as 2h
    #[arg(long, value_name = "SPAN", value_parser = time::parse_span)]
    since: Option<u64>,
    /// Only what is older than this
    #[arg(long, value_name = "SPAN", value_parser = time::parse_span)]
    until: Option<u64>,
    /// How many of the newest
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=MAX_ENTRIES.into()))]
    limit: u32,
    /// Go on where the page before ended
    #[arg(long, value_name = "INDEX")]
    cursor: Option<u64>,
}

#[derive(Args)]
pub(super) struct Tail {
    #[command(flatten)]
    filter: Filter,
    /// How many of the newest come first
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..=MAX_ENTRIES.into()))]
    entries: u32,
}

#[derive(Args)]
pub(super) struct Export {
    /// A folder that does not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The public key of the log's checkpoints, as `astrid audit key` prints it [default: that of the home]
    #[arg(long, value_name = "NAME+ID+KEY", value_parser = super::audit::parse_key)]
    key: Option<Key>,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<Entry>,
    next_cursor: Option<u64>,
    next_from: Option<u64>,
    size: u64,
}

#[derive(Deserialize)]
struct ProvenPage {
    entries: Vec<verify::Proven>,
    size: u64,
    checkpoint: Option<String>,
    next_from: Option<u64>,
}

#[derive(Deserialize)]
struct Entry {
    index: u64,
    fact: Option<Value>,
    line: Option<String>,
}

impl Entry {
    fn shown(&self) -> String {
        match (&self.line, &self.fact) {
            (Some(line), _) => text::shown(line),
            (None, Some(fact)) => text::shown(&json!({ "index": self.index, "fact": fact }).to_string()),
            (None, None) => self.index.to_string(),
        }
    }
}

fn named(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Filter {
    fn path(&self, context: &Context<'_>, rest: &[(&str, Option<u64>)]) -> String {
        let format = self.format.unwrap_or(if context.console.json { Format::Json } else { Format::Line });
        let mut path = format!("/api/sys/audit?format={}", named(format));
        let texts = [("method", &self.method), ("principal", &self.principal), ("outcome", &self.outcome.map(named))];
        for (key, value) in texts {
            if let Some(value) = value {
                path += &format!("&{key}={}", text::encoded(value));
            }
        }
        for (key, value) in rest {
            if let Some(value) = value {
                path += &format!("&{key}={value}");
            }
        }
        path
    }
}

fn print(context: &mut Context<'_>, entries: &[Entry]) -> Result<(), Failure> {
    if entries.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = entries.iter().map(Entry::shown).collect();
    context.console.print(&lines.join("\n"))
}

impl Query {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let ago = |span: Option<u64>| span.map(|span| time::now().saturating_sub(span));
        let rest = [
            ("limit", Some(self.limit.into())),
            ("cursor", self.cursor),
            ("since", ago(self.since)),
            ("until", ago(self.until)),
        ];
        let answer = context.client.get("read the facts", &self.filter.path(context, &rest)).await?;
        if context.console.json {
            context.console.document(&answer.body)?;
            return Ok(Exit::Done);
        }
        let page: Page = answer.read()?;
        print(context, &page.entries)?;
        if let Some(cursor) = page.next_cursor {
            context.console.remark(&format!("(there may be older ones: --cursor {cursor})"));
        }
        Ok(Exit::Done)
    }
}

impl Tail {
    /// Goes on until it is interrupted, or the host fails.
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let first = self.filter.path(context, &[("limit", Some(self.entries.into()))]);
        let mut page: Page = context.client.get("read the facts", &first).await?.read()?;
        page.entries.reverse();
        // One may have been recorded between the count and the page.
        let mut from = page.entries.last().map_or(0, |newest| newest.index + 1).max(page.size);
        print(context, &page.entries)?;
        // A stream says that there is something; how it reads, and which of it is wanted, the history says. So nothing is
        // lost where a stream ends or leaves something out. Asking leaves no fact: following does not feed itself.
        loop {
            let mut stream = context.client.stream("follow the facts", "/api/events").await?;
            loop {
                loop {
                    let next = self.filter.path(context, &[("limit", Some(MAX_ENTRIES.into())), ("from", Some(from))]);
                    page = context.client.get("read the facts", &next).await?.read()?;
                    from = page.next_from.unwrap_or(from);
                    print(context, &page.entries)?;
                    if page.entries.len() < MAX_ENTRIES as usize && from >= page.size {
                        break;
                    }
                }
                if context.console.closed() {
                    return Ok(Exit::Done);
                }
                match stream.goes_on().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(failure) => {
                        context.console.remark(&format!("({}; following again)", failure.reason));
                        break;
                    }
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

impl Export {
    /// The newest checkpoint and everything that it signs, as C2SP tlog-tiles lays it out, and the facts once more, one on
    /// each line of `facts.jsonl`.
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let key = self.key.map_or_else(|| super::audit::own_key(context), Ok)?;
        let out = self.out;
        fs::create_dir(&out).map_err(|error| unwritten(&out, error))?;
        let answer = context.client.exchange(Method::GET, "/api/sys/audit/checkpoint", None).await?;
        if answer.status == StatusCode::FORBIDDEN {
            return own(context, &out, &key).await;
        }
        if !answer.status.is_success() {
            return Err(Failure::answered(answer.status.as_u16(), &answer.body).doing("read the checkpoint"));
        }
        let note = answer.body;
        let size = Checkpoint::open(&note, &key)
            .map_err(|error| Failure::failed("export", format!("the host's checkpoint: {error}")))?
            .size;
        let mut facts = Vec::new();
        for (kind, index, width) in files_of(size) {
            let path = tiles::path(kind, index, width);
            let answer = context.client.exchange(Method::GET, &format!("/api/sys/audit/{path}"), None).await?;
            // What was pruned has no entries any more; its hashes are there.
            if kind == Kind::Entries && answer.status == StatusCode::NOT_FOUND {
                continue;
            }
            if !answer.status.is_success() {
                return Err(Failure::answered(answer.status.as_u16(), &answer.body).doing(&format!("read {path}")));
            }
            let file = out.join(&path);
            let folder = file.parent().unwrap_or(&out);
            fs::create_dir_all(folder)
                .and_then(|()| fs::write(&file, &answer.body))
                .map_err(|e| unwritten(&file, e))?;
            if kind == Kind::Entries {
                let entries = tiles::entries(&answer.body, width)
                    .map_err(|misfit| Failure::failed("different", misfit.of(path).to_string()))?;
                for entry in entries {
                    facts.extend_from_slice(entry);
                    facts.push(b'\n');
                }
            }
        }
        files::write(&out.join(verify::FACTS), &facts, 0o644).map_err(|error| unwritten(&out, error))?;
        files::write(&out.join("checkpoint"), &note, 0o644).map_err(|error| unwritten(&out, error))?;
        let verified = verify::verify(&out, &key, &[])
            .map_err(|difference| Failure::failed("different", difference.to_string()))?;
        let document = json!({ "out": out, "facts": size, "pruned": verified.pruned });
        let said = format!("{size} facts are in {}, all as they were signed", text::shown(&out.to_string_lossy()));
        context.console.print(&if context.console.json { document.to_string() } else { said })?;
        Ok(Exit::Done)
    }
}

/// Facts that one may see without seeing the whole log, each with its proof, and the checkpoint that they are proven against.
async fn own(context: &mut Context<'_>, out: &Path, key: &Key) -> Result<Exit, Failure> {
    let (mut lines, mut path) = (Vec::new(), format!("/api/sys/audit/proofs?limit={MAX_PROOFS}"));
    let mut note = None;
    loop {
        let page: ProvenPage = context.client.get("read the proofs", &path).await?.read()?;
        for entry in &page.entries {
            lines.extend(serde_json::to_vec(entry).expect("plain records serialise"));
            lines.push(b'\n');
        }
        note = note.or(page.checkpoint);
        let Some(from) = page.next_from else { break };
        path = format!("/api/sys/audit/proofs?limit={MAX_PROOFS}&size={}&from={from}", page.size);
    }
    let note = note.ok_or_else(|| Failure::failed("protocol", "the host has sent proofs without a checkpoint"))?;
    for (name, bytes) in [(verify::FACTS, lines.as_slice()), ("checkpoint", note.as_bytes())] {
        let path = out.join(name);
        files::write(&path, bytes, 0o644).map_err(|error| unwritten(&path, error))?;
    }
    let verified =
        verify::verify_facts(out, key).map_err(|difference| Failure::failed("different", difference.to_string()))?;
    let (proven, size) = (verified.proven, verified.checkpoint.size);
    let document = json!({ "out": out, "proven": proven, "redacted": verified.redacted, "size": size });
    let said = format!(
        "{proven} facts of your own, of the log's {size}, are in {}, each with its proof; {} more have something cut out",
        text::shown(&out.to_string_lossy()),
        verified.redacted
    );
    context.console.print(&if context.console.json { document.to_string() } else { said })?;
    Ok(Exit::Done)
}

fn unwritten(path: &Path, why: std::io::Error) -> Failure {
    Failure::failed("export", format!("{}: {why}", path.display()))
}

/// Every tile and bundle of a log of this size: kind, index, width.
fn files_of(size: u64) -> Vec<(Kind, u64, u64)> {
    let mut all = Vec::new();
    let mut level = 0;
    let mut hashes = size;
    while hashes > 0 {
        for index in 0..hashes.div_ceil(WIDTH) {
            let width = (hashes - index * WIDTH).min(WIDTH);
            if level == 0 {
                all.push((Kind::Entries, index, width));
            }
            all.push((Kind::Hashes(level), index, width));
        }
        hashes /= WIDTH;
        level += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::testing::Host;
    use super::*;

    fn page(indices: &[u64], rest: &str) -> String {
        let entries: Vec<String> =
            indices.iter().map(|n| format!(r#"{{"index":{n},"line":"fact {n}\u001b"}}"#)).collect();
        format!(r#"{{"entries":[{}],"size":9{rest}}}"#, entries.join(","))
    }

    #[test]
    fn a_query_asks_for_what_was_said_and_shows_lines_that_no_fact_can_break() {
        let host = Host::answering(200, &page(&[7], r#","next_cursor":7"#));
        let ran = host.astrid(&[
            "audit",
            "query",
            "--method",
            "a b",
            "--outcome",
            "refused",
            "--limit",
            "5",
            "--cursor",
            "8",
        ]);
        assert_eq!((ran.exit, ran.out.as_str()), (Exit::Done, "fact 7\\u{1b}\n"), "{ran:?}");
        assert!(ran.err.contains("--cursor 7"), "{ran:?}");
        assert_eq!(host.astrid(&["--json", "audit", "query"]).out, page(&[7], r#","next_cursor":7"#) + "\n");
        assert_eq!(
            host.requests(),
            [
                "GET /api/sys/audit?format=line&method=a%20b&outcome=refused&limit=5&cursor=8",
                "GET /api/sys/audit?format=json&limit=100",
            ]
        );
        assert_eq!(host.astrid(&["audit", "query", "--limit", "1001"]).exit, Exit::Usage);
    }

    #[test]
    fn a_tail_shows_the_newest_oldest_first_and_goes_on_where_it_was_when_something_comes_on_another_stream_too() {
        let calls = AtomicU64::new(0);
        let host = Host::with(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => (200, page(&[8, 7], "")),
            1 | 4 => (200, "event: ready\ndata: {}\n\n".to_owned()),
            2 => (200, page(&[], r#","next_from":9"#)),
            3 => (200, page(&[9, 11], r#","next_from":12"#)),
            5 => (200, page(&[12], r#","next_from":13"#)),
            _ => (503, r#"{"error":"overloaded"}"#.to_owned()),
        });
        let ran = host.astrid(&["audit", "tail", "--principal", "bo", "--entries", "2"]);
        assert_eq!(ran.exit, Exit::Failed);
        assert_eq!(ran.out.replace("\\u{1b}", ""), "fact 7\nfact 8\nfact 9\nfact 11\nfact 12\n");
        let asked: Vec<String> =
            host.requests().iter().map(|r| r.replace("GET /api/sys/audit?format=line&principal=bo&", "")).collect();
        let stream = "GET /api/events";
        let wanted = ["limit=2", stream, "limit=1000&from=9", "limit=1000&from=9", stream, "limit=1000&from=12"];
        assert_eq!(asked[..6], wanted);
    }

    #[test]
    fn a_log_has_a_bundle_for_each_256_facts_and_tiles_above_them() {
        assert!(files_of(0).is_empty());
        assert_eq!(files_of(1), [(Kind::Entries, 0, 1), (Kind::Hashes(0), 0, 1)]);
        let files = files_of(70_000);
        assert_eq!(files.iter().filter(|file| file.0 == Kind::Entries).count(), 274);
        assert!(files.contains(&(Kind::Entries, 273, 112)));
        let above: Vec<_> = files.iter().filter(|file| matches!(file.0, Kind::Hashes(level) if level > 0)).collect();
        assert_eq!(above, [&(Kind::Hashes(1), 0, 256), &(Kind::Hashes(1), 1, 17), &(Kind::Hashes(2), 0, 1)]);
    }
}
