//! Path parameters and queries: decoded once, and refused where they could be read in two ways.

use crate::errors::Problem;

/// The longest part of a path or query that an error repeats, in characters.
const SHOWN: usize = 64;

/// A path parameter. One with `/` in it is refused: somebody behind us might take it for two.
pub fn parameter(name: &str, raw: &str) -> Result<String, Problem> {
    let value = decoded(raw).ok_or_else(|| malformed(&format!("path parameter {name}"), raw))?;
    if value.is_empty() {
        return Err(Problem::bad_request(format!("path parameter {name} has an empty part")));
    }
    if value.contains('/') {
        return Err(malformed(&format!("path parameter {name}"), raw));
    }
    Ok(value)
}

/// The pairs of a query, in order. Every key must be one of `known` and stand once.
pub fn query(raw: Option<&str>, known: &[&'static str]) -> Result<Vec<(&'static str, String)>, Problem> {
    let mut pairs: Vec<(&'static str, String)> = Vec::new();
    for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (raw_key, raw_value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = form_decoded(raw_key).ok_or_else(|| malformed("query key", raw_key))?;
        let Some(key) = known.iter().copied().find(|k| *k == key) else {
            let what = if known.is_empty() { "no query".into() } else { known.join(", ") };
            return Err(Problem::bad_request(format!("unknown query key `{}`; this route takes {what}", shown(&key))));
        };
        if pairs.iter().any(|(k, _)| *k == key) {
            return Err(Problem::bad_request(format!("query key {key} stands twice")));
        }
        let value = form_decoded(raw_value).ok_or_else(|| malformed(&format!("query value of {key}"), raw_value))?;
        pairs.push((key, value));
    }
    Ok(pairs)
}

fn malformed(what: &str, raw: &str) -> Problem {
    Problem::bad_request(format!(
        "{what}: `{}` is not UTF-8 in percent-encoding, or has characters that are not allowed",
        shown(raw)
    ))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

/// As forms are encoded: a `+` is a space.
fn form_decoded(raw: &str) -> Option<String> {
    if raw.contains('+') { decoded(&raw.replace('+', " ")) } else { decoded(raw) }
}

/// None if a percent sequence is incomplete, or what comes out is not UTF-8 or has control characters.
fn decoded(raw: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' { digit(rest.next()?)? << 4 | digit(rest.next()?)? } else { byte });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_decoded_once() {
        for (raw, want) in
            [("a", "a"), ("%61.b", "a.b"), ("%2561", "%61"), ("a+b", "a+b"), ("%C3%A4", "ä"), ("..", "..")]
        {
            assert_eq!(parameter("p", raw).unwrap(), want);
        }
    }

    #[test]
    fn a_parameter_that_reads_in_two_ways_is_refused_by_name() {
        for raw in ["%", "%6", "%6g", "%+1", "%2F", "a%2fb", "%00", "a%0Ab", "%7F", "%C2%85", "%FF", "%C3"] {
            let problem = parameter("topic", raw).unwrap_err();
            assert_eq!(problem.kind.status(), 400);
            assert!(problem.reason.unwrap().contains("path parameter topic"), "{raw}");
        }
    }

    #[test]
    fn a_query_is_read_in_order_and_decoded_as_a_form() {
        let known = ["target", "timeout_ms"];
        assert_eq!(query(None, &known).unwrap(), []);
        assert_eq!(query(Some(""), &known).unwrap(), []);
        assert_eq!(
            query(Some("timeout_ms=5&&t%61rget=a+b%2B"), &known).unwrap(),
            [("timeout_ms", "5".to_string()), ("target", "a b+".to_string())]
        );
        assert_eq!(query(Some("target"), &known).unwrap(), [("target", String::new())]);
    }

    #[test]
    fn unknown_repeated_and_malformed_keys_are_refused_by_name() {
        for (raw, want) in [
            ("a=1", "unknown query key `a`"),
            ("target=a&target=a", "target stands twice"),
            ("target=a&t%61rget=b", "target stands twice"),
            ("target=%", "query value of target"),
            ("target=%0a", "query value of target"),
            ("%ff=1", "query key"),
        ] {
            let problem = query(Some(raw), &["target"]).unwrap_err();
            assert_eq!(problem.kind.status(), 400);
            assert!(problem.reason.as_ref().unwrap().contains(want), "{raw}: {problem:?}");
        }
        assert!(query(Some("a=1"), &[]).unwrap_err().reason.unwrap().contains("takes no query"));
    }
}
