//! JSON as text: documents pass through unchanged in order, numbers and spelling, so they are never parsed into a tree
//! only to be printed.

use serde::de::IgnoredAny;

/// Whether the text is one JSON value; the error has the line, the column and what is wrong there.
pub(super) fn check(text: &str) -> Result<(), String> {
    // A parse error ends in "at line L column C".
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|e| e.to_string())
}

/// A valid document on one line: the line breaks between its values are dropped.
pub(super) fn one_line(document: &str) -> String {
    document.trim().chars().filter(|c| *c != '\n' && *c != '\r').collect()
}

/// A valid document with two spaces of indentation.
pub(super) fn pretty(document: &str) -> String {
    let mut out = String::with_capacity(document.len() * 2);
    let mut depth = 0;
    let mut chars = document.chars().filter(|c| *c != '\n' && *c != '\r').peekable();
    let break_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push(c);
                while let Some(c) = chars.next() {
                    out.push(c);
                    match c {
                        '"' => break,
                        '\\' => out.extend(chars.next()),
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                match chars.next_if(|c| matches!(c, '}' | ']')) {
                    Some(close) => out.push(close),
                    None => {
                        depth += 1;
                        break_line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                break_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_named_with_line_and_column() {
        assert!(check(r#"{"a":[1,2.5e3,"ä",null]}"#).is_ok());
        let error = check("{\"a\":1,\n \"b\" 2}").unwrap_err();
        assert!(error.contains("line 2 column 6"), "{error}");
        for bad in ["", "{", "{} x", "{'a':1}", "[1,]"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn printing_keeps_order_numbers_and_strings() {
        let document = "{\"z\":1.10,\n\"a\":[ ],\"s\":\"{,:\\\"}\",\"n\":[1, {\"x\":18446744073709551616}]}\n";
        assert_eq!(
            one_line(document),
            "{\"z\":1.10,\"a\":[ ],\"s\":\"{,:\\\"}\",\"n\":[1, {\"x\":18446744073709551616}]}"
        );
        let expected = "{\n  \"z\": 1.10,\n  \"a\": [],\n  \"s\": \"{,:\\\"}\",\n  \"n\": [\n    1,\n    {\n      \"x\": 18446744073709551616\n    }\n  ]\n}";
        assert_eq!(pretty(document), expected);
        assert_eq!(pretty("\"text\""), "\"text\"");
    }
}
