//! The process's three streams. Documents and tables go to stdout, errors and remarks to stderr; with `--json` nothing
//! but JSON is written to either. What a person may be asked is asked only where a person sits.

use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::client::MAX_ANSWER_BYTES;
use super::failure::{Exit, Failure};
use super::{json, text};

/// Which streams are terminals.
#[derive(Clone, Copy)]
pub(super) struct Terminals {
    pub(super) input: bool,
    pub(super) output: bool,
}

pub(super) struct Console<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    input: &'a mut dyn Read,
    terminals: Terminals,
    pub(super) json: bool,
    closed: bool,
}

impl<'a> Console<'a> {
    pub(super) fn new(
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
        input: &'a mut dyn Read,
        terminals: Terminals,
    ) -> Self {
        Self { out, err, input, terminals, json: false, closed: false }
    }

    /// Whether somebody reads stdout on a screen.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminals.output
    }

    /// Whether the reader of stdout is gone, so that printing more has no purpose.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Text that is fit for a terminal, and a line break unless it ends in one.
    pub(super) fn print(&mut self, text: &str) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let line_break = if text.ends_with('\n') { "" } else { "\n" };
        match write!(self.out, "{text}{line_break}").and_then(|()| self.out.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(e) => Err(Failure::failed("io", format!("writing to stdout failed: {e}"))),
        }
    }

    /// A JSON document that somebody else wrote, on one line; nothing for an empty body.
    pub(super) fn document(&mut self, body: &[u8]) -> Result<(), Failure> {
        if body.trim_ascii().is_empty() {
            return Ok(());
        }
        let wrong = |e: String| Failure::failed("protocol", format!("the answer is no JSON document: {e}"));
        let document = std::str::from_utf8(body).map_err(|e| wrong(e.to_string()))?;
        json::check(document).map_err(wrong)?;
        let line = json::one_line(document);
        if self.terminals.output { self.print(&text::shown_json(&line)) } else { self.print(&line) }
    }

    /// A remark on stderr for a person; programs don't get it.
    pub(super) fn remark(&mut self, text: &str) {
        if !self.json {
            let _ = writeln!(self.err, "{text}");
        }
    }

    /// Text on stderr as it is.
    pub(super) fn complain(&mut self, text: &str) {
        let _ = write!(self.err, "{text}");
    }

    /// Reports the failure and answers with its exit code.
    pub(super) fn fail(&mut self, failure: &Failure) -> Exit {
        let text = if self.json { failure.to_json() } else { failure.to_text() };
        self.complain(&(text + "\n"));
        failure.exit
    }

    /// Whether somebody can answer a question.
    pub(super) fn can_ask(&self) -> bool {
        self.terminals.input && !self.json
    }

    /// Asks on stderr; only a line of `y` or `yes` is a yes.
    pub(super) fn ask(&mut self, question: &str) -> bool {
        self.complain(&format!("{question} [y/N] "));
        let (mut line, mut byte) = (Vec::new(), [0]);
        while line.len() < 16 && matches!(self.input.read(&mut byte), Ok(1)) && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        matches!(line.trim_ascii().to_ascii_lowercase().as_slice(), b"y" | b"yes")
    }

    /// A value that nobody should see: a line typed without echo where a person sits, else all of stdin without its last
    /// line break.
    pub(super) fn read_hidden(&mut self, prompt: &str) -> Result<Zeroizing<String>, Failure> {
        if !self.can_ask() {
            let text = Zeroizing::new(self.read_input()?);
            let value = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
            return Ok(Zeroizing::new(value.to_owned()));
        }
        self.complain(prompt);
        let hidden = Hidden::begin();
        let line = self.typed();
        drop(hidden);
        self.complain("\n");
        line
    }

    /// A line that is typed where a person sits.
    pub(super) fn read_line(&mut self, prompt: &str) -> Result<Zeroizing<String>, Failure> {
        self.complain(prompt);
        self.typed()
    }

    fn typed(&mut self) -> Result<Zeroizing<String>, Failure> {
        let (mut line, mut byte) = (Zeroizing::new(Vec::new()), [0]);
        while line.len() < MAX_LINE_BYTES && matches!(self.input.read(&mut byte), Ok(1)) && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        let value = std::str::from_utf8(&line).map_err(|_| Failure::usage("what was typed is no UTF-8 text"))?;
        Ok(Zeroizing::new(value.to_owned()))
    }

    /// All of stdin, as text of at most [`MAX_ANSWER_BYTES`].
    pub(super) fn read_input(&mut self) -> Result<String, Failure> {
        let mut bytes = Vec::new();
        let limit = MAX_ANSWER_BYTES as u64;
        (&mut *self.input)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Failure::failed("io", format!("reading stdin failed: {e}")))?;
        if bytes.len() as u64 > limit {
            return Err(Failure::usage(format!("stdin has more than {limit} bytes")));
        }
        String::from_utf8(bytes).map_err(|e| Failure::usage(format!("stdin is no UTF-8 text: {}", e.utf8_error())))
    }
}

/// The longest line that is typed unseen, in bytes: more than any value has.
const MAX_LINE_BYTES: usize = 16 << 10;

/// The terminal shows nothing that is typed while this lives.
struct Hidden(Option<Termios>);

impl Hidden {
    /// Where stdin is no terminal there is nothing to hide.
    fn begin() -> Self {
        let Ok(before) = tcgetattr(io::stdin()) else { return Self(None) };
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        let done = tcsetattr(io::stdin(), OptionalActions::Flush, &silent);
        Self(done.is_ok().then_some(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A pipe whose reader is gone, or a full disk.
    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn with<T>(out: &mut dyn Write, input: &str, terminal: bool, act: impl FnOnce(&mut Console<'_>) -> T) -> T {
        let terminals = Terminals { input: terminal, output: terminal };
        act(&mut Console::new(out, &mut Vec::new(), &mut Cursor::new(input.to_owned()), terminals))
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure_and_any_other_fault_is() {
        with(&mut Broken(io::ErrorKind::BrokenPipe), "", false, |console| {
            assert!(console.print("x").is_ok() && console.closed() && console.print("y").is_ok());
        });
        let full = with(&mut Broken(io::ErrorKind::StorageFull), "", false, |console| console.print("x"));
        assert!(full.unwrap_err().to_text().contains("writing to stdout failed"));
    }

    #[test]
    fn a_document_is_one_line_unchanged_unless_a_terminal_would_act_on_it() {
        let document = "{\"b\":\n\"\u{9b}2J\",\"a\":1}\n".as_bytes();
        let mut out = Vec::new();
        with(&mut out, "", false, |console| console.document(document)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"b\":\"\u{9b}2J\",\"a\":1}\n");
        let mut out = Vec::new();
        with(&mut out, "", true, |console| console.document(document)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"b\":\"\\u009b2J\",\"a\":1}\n");
    }

    #[test]
    fn what_is_no_document_is_refused_and_no_body_prints_nothing() {
        let mut out = Vec::new();
        for bad in [&b"<html>"[..], b"{} {}", b"\"\xff\""] {
            assert_eq!(with(&mut out, "", false, |console| console.document(bad)).unwrap_err().code, "protocol");
        }
        with(&mut out, "", false, |console| console.document(b"")).unwrap();
        assert!(out.is_empty());
    }

    #[test]
    fn only_a_line_of_y_or_yes_is_a_yes() {
        for (line, yes) in
            [("y\n", true), (" YES \n", true), ("", false), ("\n", false), ("n\ny\n", false), ("yesterday\n", false)]
        {
            assert_eq!(with(&mut Vec::new(), line, true, |console| console.ask("?")), yes, "{line:?}");
        }
    }
}
