//! Text that others wrote, made fit for a terminal, a shell or a URL.

use std::fmt::Write;

/// The text with control characters, and characters that reorder a line, escaped as in Rust source.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_debug());
        } else if reorders(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Line and paragraph separators, and what overrides the direction of text.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A JSON document with the same meaning in which every such character is escaped as JSON has it.
pub(super) fn shown_json(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for c in document.chars() {
        // Below U+0020 there is only white space between values: in strings it must be escaped already.
        if (c.is_control() && c >= ' ') || reorders(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// One word for a POSIX shell.
pub(super) fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// One path segment or query value of a URL.
pub(super) fn encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_reorders_a_line_survives() {
        assert_eq!(shown("ä \x1b[31m\r\n\u{9b}\u{202e}x"), r"ä \u{1b}[31m\r\n\u{9b}\u{202e}x");
        assert_eq!(shown_json("{\"a\":\"\u{9b}\u{7f}ä\u{202e}\"}"), r#"{"a":"\u009b\u007fä\u202e"}"#);
    }

    #[test]
    fn a_word_is_quoted_only_where_a_shell_would_need_it() {
        assert_eq!(quoted("/a/b-c.capsule"), "/a/b-c.capsule");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$(x)"), "'$(x)'");
    }

    #[test]
    fn a_url_part_holds_only_unreserved_characters() {
        assert_eq!(encoded("a.b_c-d~"), "a.b_c-d~");
        assert_eq!(encoded("a/b?c=d&ä"), "a%2Fb%3Fc%3Dd%26%C3%A4");
    }
}
