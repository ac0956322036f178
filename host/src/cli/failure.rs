//! What went wrong, in the four parts that a person needs: what was being done, why it failed, what to do next, and the
//! exit code. Knows how an error answer of the HTTP surface is read; server text is escaped when it is shown.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::json;

use super::text;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
        })
    }
}

/// A verb that did not do what it was asked.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// For programs: the server's `error`, or a word of the same kind.
    pub(super) code: String,
    /// What was being done, as it follows "cannot".
    what: Option<String>,
    pub(super) reason: String,
    next: Option<String>,
}

/// The body of every answer that is no success.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
    reason: Option<String>,
    retry_after_secs: Option<u64>,
}

/// The most of a server's text that an error shows, in characters.
const MAX_REASON_CHARS: usize = 4096;

impl Failure {
    pub(super) fn failed(code: &str, reason: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, code: code.to_owned(), what: None, reason: reason.into(), next: None }
    }

    /// The arguments were wrong, and nothing was done.
    pub(super) fn usage(reason: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::failed("usage", reason) }
    }

    /// Names what was being done; the innermost name stays.
    pub(super) fn doing(mut self, what: &str) -> Self {
        self.what.get_or_insert_with(|| what.to_owned());
        self
    }

    /// Says why in better words.
    pub(super) fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// What to do about it; replaces what was said before.
    pub(super) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// What to do about it, if there is anything.
    pub(super) fn next_step(&self) -> Option<&str> {
        self.next.as_deref()
    }

    /// An answer with a status that is no success.
    pub(super) fn answered(status: u16, body: &[u8]) -> Self {
        let (code, reason, retry) = match serde_json::from_slice::<ErrorBody>(body) {
            Ok(body) => (clipped(&body.error), body.reason.map(|r| clipped(&r)), body.retry_after_secs),
            Err(_) => {
                let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_REASON_CHARS)]);
                let reason = (!text.trim().is_empty()).then(|| clipped(text.trim()));
                ("protocol".to_owned(), reason, None)
            }
        };
        let reason = reason.unwrap_or_else(|| format!("the host answered {status} {code} without a reason"));
        let next = match (status, retry) {
            (_, Some(seconds)) => Some(format!("try again in {seconds} s")),
            (403, None) => {
                Some("ask an administrator for the capability, or speak as somebody who holds it".to_owned())
            }
            (413, None) => Some("send less: the host's limit on a request is 64 KiB unless it was raised".to_owned()),
            (429 | 503, None) => Some("try again in a moment".to_owned()),
            (500 | 502, None) => Some("the cause is in the log: `astrid logs --level warn`".to_owned()),
            (504, None) => {
                Some("the handler took too long: give it more with --timeout, or see `astrid logs`".to_owned())
            }
            _ => None,
        };
        Self { exit: Exit::Failed, code, what: None, reason, next }
    }

    /// One line of JSON.
    pub(super) fn to_json(&self) -> String {
        json!({ "error": self.code, "reason": self.reason }).to_string()
    }

    /// One or two lines for a person.
    pub(super) fn to_text(&self) -> String {
        let mut out = "astrid: ".to_owned();
        if let Some(what) = &self.what {
            out += &format!("cannot {}: ", text::shown(what));
        }
        out += &text::shown(&self.reason);
        if self.exit == Exit::Failed {
            out += &format!(" [{}]", text::shown(&self.code));
        }
        if let Some(next) = &self.next {
            out += &format!("\n  next: {}", text::shown(next));
        }
        out
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_answer_keeps_its_code_and_reason_and_says_what_to_do() {
        let failure = Failure::answered(403, br#"{"error":"forbidden","reason":"lacks `invite:issue`"}"#);
        let text = failure.doing("issue an invite").to_text();
        assert!(
            text.starts_with("astrid: cannot issue an invite: lacks `invite:issue` [forbidden]\n  next: ask"),
            "{text}"
        );
        let limited = Failure::answered(429, br#"{"error":"rate_limited","retry_after_secs":7}"#);
        assert!(limited.to_text().contains("try again in 7 s"), "{}", limited.to_text());
    }

    #[test]
    fn a_body_of_another_shape_is_shown_escaped_and_clipped() {
        let failure = Failure::answered(502, b"\x1b[2Jgone\nwrong");
        assert_eq!(failure.code, "protocol");
        let text = failure.to_text();
        assert!(text.contains(r"\u{1b}[2Jgone\nwrong") && !text.contains('\x1b'), "{text}");
        assert_eq!(Failure::answered(500, &vec![b'x'; 1 << 20]).reason.len(), MAX_REASON_CHARS);
        assert!(Failure::answered(404, b"").reason.contains("404"));
    }

    #[test]
    fn as_json_it_is_error_and_reason_on_one_line() {
        assert_eq!(Failure::usage("bad\nname").to_json(), r#"{"error":"usage","reason":"bad\nname"}"#);
    }
}
