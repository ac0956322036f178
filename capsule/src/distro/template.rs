//! `{{ variable }}` in the texts of a distribution.
//!
//! `{{{{` stands for `{{`. Nothing else is special, so that JSON may stand in a text as it is.

use super::is_variable;
use crate::shown;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Text(&'t str),
    Variable(&'t str),
}

/// What a text is made of, in order. The error says what is wrong and repeats at most the name.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        pieces.push(Piece::Text(&rest[..open]));
        let after = &rest[open + 2..];
        if let Some(literal) = after.strip_prefix("{{") {
            pieces.push(Piece::Text("{{"));
            rest = literal;
            continue;
        }
        let Some(close) = after.find("}}") else {
            return Err("`{{` has no `}}`; write `{{{{` for the two braces themselves".into());
        };
        let name = after[..close].trim();
        if !is_variable(name) {
            return Err(format!("`{{{{ {} }}}}` names no variable: 1 to 64 of a-z 0-9 - _", shown(name)));
        }
        pieces.push(Piece::Variable(name));
        rest = &after[close + 2..];
    }
    pieces.push(Piece::Text(rest));
    pieces.retain(|piece| *piece != Piece::Text(""));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Piece::{Text, Variable};

    #[test]
    fn a_text_is_taken_apart_at_its_variables_and_json_is_left_alone() {
        for (text, want) in [
            ("", &[][..]),
            ("plain", &[Text("plain")]),
            ("{{a}}", &[Variable("a")]),
            ("x{{ a-b }}{{ c_1 }}y", &[Text("x"), Variable("a-b"), Variable("c_1"), Text("y")]),
            (r#"{"a":{"b":1}}"#, &[Text(r#"{"a":{"b":1}}"#)]),
            ("a {{{{ b }}", &[Text("a "), Text("{{"), Text(" b }}")]),
            ("{{{{{{ a }}", &[Text("{{"), Variable("a")]),
            ("}} {", &[Text("}} {")]),
        ] {
            assert_eq!(pieces(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_closed_or_names_nothing_is_refused() {
        for (text, want) in [
            ("a {{ b", "has no `}}`"),
            ("{{}}", "names no variable"),
            ("{{ A }}", "names no variable"),
            ("{{ a b }}", "names no variable"),
            ("{{ \u{1b}[2J }}", r"\u{1b}"),
        ] {
            let error = pieces(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_escaped_comes_back(text in "[a{} ]{0,20}") {
            let escaped = text.replace("{{", "{{{{");
            let mut out = String::new();
            for piece in pieces(&escaped).unwrap() {
                match piece {
                    Text(text) => out.push_str(text),
                    Variable(name) => panic!("{name}"),
                }
            }
            proptest::prop_assert_eq!(out, text);
        }
    }
}
