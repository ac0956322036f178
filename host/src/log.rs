//! The log: one subscriber, three readers. Lines go to standard error for people, as JSON to `log/astrid.log`, and to a
//! ring in memory from which the surface answers.
//!
//! Owns the format of a line and its sequence number. A line is written at once, but for those of requests. Those that come
//! within [`LINGER`] of the last write wait for company: for the first line that comes later or is no request's, for
//! [`UNWRITTEN`] bytes, or, if nothing comes, for the host's upkeep, once a second. No line overtakes another.
//!
//! Bounded: 4,096 lines of at most 8 KiB in memory, and a file that is set aside at 16 MiB, one old one kept. Every line
//! belongs to the host or to a capsule (field `capsule`). When memory is full, whoever has most lines there loses its oldest: a
//! capsule that floods the log drives out its own lines alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// `[log]` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// `error`, `warn`, `info` or `debug`: lines below it are not written anywhere.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: "info".into() }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        level(&self.level)
            .map(|_| ())
            .ok_or_else(|| format!("log.level = \"{}\" must be error, warn, info or debug", self.level))
    }
}

/// The longest line that is kept, in bytes.
pub const MAX_LINE: usize = 8 * 1024;
/// Lines in memory, of all capsules together.
const HELD_LINES: usize = 4096;
const FILE_BYTES: u64 = 16 << 20;
/// As what requests are logged.
pub const REQUESTS: &str = "http";
/// How soon after the last write a request's line waits for company.
const LINGER: Duration = Duration::from_millis(10);
/// How many bytes wait, before one more is written with all of them.
const UNWRITTEN: usize = 64 << 10;

/// One line, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Starts at 1 with the process and never skips.
    pub sequence: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    pub level: &'static str,
    pub capsule: String,
    pub message: String,
}

/// Which lines a reader wants.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub capsule: Option<String>,
    /// This level and everything more severe.
    pub level: Option<String>,
    /// Written then or later; milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Only later ones, by sequence number; one that is not reached yet leaves nothing out.
    pub after: u64,
    pub limit: usize,
}

/// The lines in memory.
#[derive(Default)]
pub struct Log {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By capsule, each oldest first and never empty.
    lines: BTreeMap<String, VecDeque<Line>>,
    held: usize,
    written: u64,
    /// Once it is the process's log.
    to_stderr: bool,
    /// Changes what is written, once it is the process's log.
    least: Option<reload::Handle<LevelFilter, Registry>>,
    file: Option<LogFile>,
    /// What stands in memory and is not written yet: for standard error, and for the file.
    unwritten: [Vec<u8>; 2],
    /// When the last of it was.
    wrote: Option<Instant>,
}

struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    /// Starts writing to `path` as well. What came before is in memory only.
    pub fn open_file(&self, path: &Path) -> std::io::Result<()> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        self.state.lock().expect("no panic under this lock").file = Some(LogFile { path: path.into(), file, bytes });
        Ok(())
    }

    /// From now on lines below this level are not written anywhere.
    pub fn set_level(&self, config: &Config) {
        // Not under the lock: whoever looks at the level may write a line.
        let least = self.state.lock().expect("no panic under this lock").least.clone();
        if let Some(least) = least {
            // It fails only where the process has ended its log.
            let _ = least.reload(filter(config));
        }
    }

    /// The newest `limit` lines that fit, oldest first.
    pub fn query(&self, query: &Query) -> Vec<Line> {
        let least = query.level.as_deref().and_then(level).unwrap_or(Level::TRACE);
        let state = self.state.lock().expect("no panic under this lock");
        // No line of this process has such a number: it is from a process before, whose numbers began at one as well.
        let after = if query.after > state.written { 0 } else { query.after };
        let wanted = state.lines.iter().filter(|(id, _)| query.capsule.as_ref().is_none_or(|capsule| capsule == *id));
        let newest = wanted.flat_map(|(_, lines)| {
            let fit = lines.iter().rev().take_while(|line| line.sequence > after);
            let fit = fit.filter(|line| line.time_ms >= query.since_ms);
            fit.filter(|line| level(line.level).is_some_and(|l| l <= least)).take(query.limit)
        });
        let mut found: Vec<&Line> = newest.collect();
        found.sort_unstable_by_key(|line| Reverse(line.sequence));
        found.truncate(query.limit);
        found.into_iter().rev().cloned().collect()
    }

    fn append(&self, level: Level, capsule: String, message: String) {
        self.append_at(Instant::now(), level, capsule, message);
    }

    fn append_at(&self, now: Instant, level: Level, capsule: String, message: String) {
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let mut state = self.state.lock().expect("no panic under this lock");
        state.written += 1;
        let line = Line { sequence: state.written, time_ms, level: name(level), capsule, message };
        state.put(&line);
        let may_wait = line.capsule == REQUESTS
            && state.wrote.is_some_and(|wrote| now.saturating_duration_since(wrote) < LINGER)
            && state.unwritten.iter().all(|text| text.len() < UNWRITTEN);
        if !may_wait {
            state.write(now);
        }
        state.hold(line);
    }

    /// Writes what waits for company.
    pub fn flush(&self) {
        self.state.lock().expect("no panic under this lock").write(Instant::now());
    }
}

impl State {
    fn put(&mut self, line: &Line) {
        let [stderr, file] = &mut self.unwritten;
        if self.to_stderr {
            // It can't fail: memory takes everything.
            let _ = writeln!(stderr, "{:5} {:10} {}", line.level, line.capsule, line.message);
        }
        if self.file.is_some() {
            serde_json::to_writer(&mut *file, line).expect("plain records serialise");
            file.push(b'\n');
        }
    }

    fn write(&mut self, now: Instant) {
        let [stderr, file] = &mut self.unwritten;
        if !stderr.is_empty() {
            // In one: standard error has no buffer.
            let _ = std::io::stderr().write_all(stderr);
            stderr.clear();
        }
        if let Some(log) = self.file.as_mut().filter(|_| !file.is_empty()) {
            log.append(file);
            file.clear();
        }
        self.wrote = Some(now);
    }

    fn hold(&mut self, line: Line) {
        if self.held == HELD_LINES {
            let fullest = self.lines.values_mut().max_by_key(|lines| lines.len()).expect("somebody's lines are held");
            // It has more than one, unless there are as many capsules as lines.
            if fullest.pop_front().is_some() && fullest.is_empty() {
                self.lines.retain(|_, lines| !lines.is_empty());
            }
            self.held -= 1;
        }
        match self.lines.get_mut(&line.capsule) {
            Some(lines) => lines.push_back(line),
            None => {
                self.lines.insert(line.capsule.clone(), VecDeque::from([line]));
            }
        }
        self.held += 1;
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

impl LogFile {
    /// A full or broken disk must not stop the host: the lines are still in memory and on standard error.
    fn append(&mut self, text: &[u8]) {
        if self.bytes + text.len() as u64 > FILE_BYTES {
            let _ = std::fs::rename(&self.path, self.path.with_extension("log.1"));
            if let Ok(file) = open(&self.path) {
                self.file = file;
                self.bytes = 0;
            }
        }
        if self.file.write_all(text).is_ok() {
            self.bytes += text.len() as u64;
        }
    }
}

fn filter(config: &Config) -> LevelFilter {
    LevelFilter::from_level(level(&config.level).unwrap_or(Level::INFO))
}

/// Makes the log the process's subscriber.
pub fn install(log: Arc<Log>, config: &Config) {
    let (least, handle) = reload::Layer::new(filter(config));
    {
        let mut state = log.state.lock().expect("no panic under this lock");
        (state.to_stderr, state.least) = (true, Some(handle));
    }
    let _ = tracing_subscriber::registry().with(Sink(log).with_filter(least)).try_init();
}

struct Sink(Arc<Log>);

impl<S: Subscriber> Layer<S> for Sink {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let capsule = text.capsule.unwrap_or_else(|| "host".into());
        let mut message = clean(&text.message);
        message.push_str(&clean(&text.fields));
        self.0.append(*event.metadata().level(), capsule, message);
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
    capsule: Option<String>,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "capsule" => self.capsule = Some(format!("{value:?}")),
            name => {
                let _ = write!(self.fields, " {name}={value:?}");
            }
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            "capsule" => self.capsule = Some(value.to_owned()),
            name => {
                let _ = write!(self.fields, " {name}={value}");
            }
        }
    }
}

/// Escapes control characters and cuts what exceeds [`MAX_LINE`], with a mark.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_LINE));
    for c in text.chars() {
        if out.len() >= MAX_LINE {
            out.push_str("… (cut)");
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The most bytes of what a capsule says of a call for the record.
pub const MAX_DETAIL: usize = 2048;

/// What a capsule says of a call for the record, in its shortest spelling. The error says what does not fit.
pub fn detail(json: &str) -> Result<String, String> {
    if json.len() > MAX_DETAIL {
        return Err(format!("a detail has at most {MAX_DETAIL} bytes, not {}", json.len()));
    }
    let detail = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(json);
    let detail = detail.map_err(|error| format!("a detail is one JSON object: {error}"))?;
    Ok(serde_json::Value::Object(detail).to_string())
}

/// None for what is no level.
pub fn level(text: &str) -> Option<Level> {
    Some(match text {
        "error" => Level::ERROR,
        "warn" => Level::WARN,
        "info" => Level::INFO,
        "debug" => Level::DEBUG,
        _ => return None,
    })
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(log: &Log, query: Query) -> Vec<u64> {
        log.query(&query).iter().map(|l| l.sequence).collect()
    }

    #[test]
    fn a_detail_is_one_json_object_of_bounded_size() {
        assert_eq!(detail("{ \"a\": [1,\n2] }").unwrap(), r#"{"a":[1,2]}"#);
        let of_length = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
        assert!(detail(&of_length(MAX_DETAIL)).is_ok());
        for bad in ["", "null", "[]", "\"a\"", "{", "{}{}", &of_length(MAX_DETAIL + 1), &"[".repeat(2_000)] {
            assert!(detail(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reader_gets_the_newest_that_fit_in_order_and_memory_is_bounded() {
        let log = Log::default();
        for n in 0..HELD_LINES as u64 + 10 {
            let level = if n % 2 == 0 { Level::INFO } else { Level::ERROR };
            log.append(level, format!("c{}", n % 3), "x".into());
        }
        let last = HELD_LINES as u64 + 10;
        let all = |limit| Query { limit, ..Query::default() };
        assert_eq!(query(&log, all(2)), [last - 1, last]);
        assert_eq!(query(&log, all(100_000)).len(), HELD_LINES);
        assert_eq!(query(&log, Query { after: last - 1, ..all(9) }), [last]);
        assert_eq!(query(&log, Query { after: last, ..all(9) }), [0; 0]);
        assert_eq!(query(&log, Query { after: last + 1, ..all(2) }), [last - 1, last], "the host began anew");
        assert!(log.query(&Query { level: Some("error".into()), ..all(9) }).iter().all(|l| l.level == "error"));
        assert!(log.query(&Query { capsule: Some("c1".into()), ..all(9) }).iter().all(|l| l.capsule == "c1"));
    }

    #[test]
    fn who_floods_the_log_drives_out_its_own_lines_alone() {
        let log = Log::default();
        for n in 0..100 {
            log.append(Level::WARN, "quiet".into(), n.to_string());
        }
        for _ in 0..3 * HELD_LINES {
            log.append(Level::INFO, "flood".into(), "x".into());
        }
        log.append(Level::WARN, "late".into(), "x".into());
        let of =
            |capsule: &str| query(&log, Query { capsule: Some(capsule.into()), limit: usize::MAX, ..Query::default() });
        assert_eq!(of("quiet"), Vec::from_iter(1..=100));
        assert_eq!((of("late").len(), of("flood").len()), (1, HELD_LINES - 101));
        let all = query(&log, Query { limit: usize::MAX, ..Query::default() });
        assert!(all.len() == HELD_LINES && all.is_sorted(), "{}", all.len());
        // However many there are who write.
        for n in 0..2 * HELD_LINES {
            log.append(Level::INFO, format!("c{n}"), "x".into());
        }
        assert_eq!(query(&log, Query { limit: usize::MAX, ..Query::default() }).len(), HELD_LINES);
    }

    #[test]
    fn a_line_cannot_forge_another_or_fill_the_memory() {
        assert_eq!(clean("a\nb\x1b[2J"), "a\\nb\\u{1b}[2J");
        assert!(clean(&"x".repeat(1 << 20)).len() < MAX_LINE + 16);
    }

    #[test]
    fn lines_of_requests_wait_for_company_within_their_bounds_and_no_line_overtakes_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("astrid.log");
        let log = Log::default();
        log.open_file(&path).unwrap();
        let start = Instant::now();
        let append = |ms: u64, capsule: &str, message: &str| {
            log.append_at(start + Duration::from_millis(ms), Level::INFO, capsule.into(), message.into());
        };
        let written = || {
            let text = std::fs::read_to_string(&path).unwrap();
            let sequence =
                |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"].as_u64().unwrap();
            text.lines().map(sequence).collect::<Vec<_>>()
        };
        // (when, whose, how many lines are in the file then)
        for (ms, capsule, lines) in [
            (0, REQUESTS, 1),
            (5, REQUESTS, 1),
            (9, REQUESTS, 1),
            (10, REQUESTS, 4),
            (19, REQUESTS, 4),
            (19, "host", 6),
            (20, REQUESTS, 6),
        ] {
            append(ms, capsule, "x");
            assert_eq!(written(), Vec::from_iter(1..=lines), "at {ms} ms");
        }
        log.flush();
        assert_eq!(written(), Vec::from_iter(1..=7));

        let log = Log::default();
        std::fs::remove_file(&path).unwrap();
        log.open_file(&path).unwrap();
        for _ in 0..=UNWRITTEN / MAX_LINE + 1 {
            log.append_at(start, Level::INFO, REQUESTS.into(), "x".repeat(MAX_LINE));
        }
        assert!(written().len() > UNWRITTEN / MAX_LINE, "{:?}", written());
    }

    #[test]
    fn the_file_is_set_aside_when_it_is_full_and_one_old_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("astrid.log");
        let log = Log::default();
        log.open_file(&path).unwrap();
        for _ in 0..2 * FILE_BYTES / MAX_LINE as u64 {
            log.append(Level::INFO, "c".into(), "x".repeat(MAX_LINE));
        }
        assert!(path.metadata().unwrap().len() <= FILE_BYTES);
        assert!(dir.path().join("astrid.log.1").metadata().unwrap().len() <= FILE_BYTES);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
