//! Who pushes to a registry: a name and a password, and what a registry asks before it takes them.
//!
//! They come from a file or the environment, never from an argument, which other users of the machine can see, and are
//! never printed. Owns the form of both, and of a challenge (RFC 9110, 11.6.1). Refuses to know where they are sent.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64ct::{Base64, Encoding};
use hyper::header::{HeaderMap, WWW_AUTHENTICATE};

use crate::files;

/// The variable that holds a login where no file is named.
pub(crate) const VARIABLE: &str = "ASTRID_REGISTRY_LOGIN";
/// The largest login, in bytes: some passwords are signed tokens.
const MAX_BYTES: u64 = 16 << 10;

/// A name and a password.
pub(crate) struct Login(String);

impl Login {
    /// From this file, which its owner alone may read, else from [`VARIABLE`], if it is set.
    pub(crate) fn find(file: Option<&Path>) -> Result<Option<Self>> {
        if let Some(path) = file {
            let text = files::read_private(path, MAX_BYTES)?;
            return Self::parse(text.trim_end_matches(['\r', '\n']))
                .with_context(|| path.display().to_string())
                .map(Some);
        }
        match env::var(VARIABLE) {
            Err(env::VarError::NotPresent) => Ok(None),
            Err(error) => Err(error).context(VARIABLE),
            Ok(text) => Self::parse(&text).context(VARIABLE).map(Some),
        }
    }

    /// The error does not repeat what it reads.
    fn parse(text: &str) -> Result<Self> {
        let name = text.split_once(':').map_or("", |(name, _)| name);
        let whole = !name.is_empty() && !text.chars().any(char::is_control) && text.len() as u64 <= MAX_BYTES;
        ensure!(whole, "a login is one line, NAME:PASSWORD");
        Ok(Self(text.into()))
    }

    /// What an `authorization` header says, by the scheme `Basic`.
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", Base64::encode_string(self.0.as_bytes()))
    }
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Name and password, with each request.
    Basic,
    /// A token, which another server gives for name and password, or for nothing.
    Bearer { realm: String, service: Option<String> },
}

/// The challenge of an answer; a token, where both are taken. None that is known: none.
pub(crate) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<(String, BTreeMap<String, String>)> = texts.flat_map(challenges).collect();
    let bearer = all.iter().find_map(|(scheme, parameters)| {
        let realm = parameters.get("realm").filter(|_| scheme == "bearer")?;
        Some(Challenge::Bearer { realm: realm.clone(), service: parameters.get("service").cloned() })
    });
    bearer.or_else(|| all.iter().any(|(scheme, _)| scheme == "basic").then_some(Challenge::Basic))
}

/// Schemes and their parameters, names in lower case. Reading ends where the text is no challenge.
fn challenges(text: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        if word.is_empty() {
            return found;
        }
        let name = word.to_ascii_lowercase();
        match (behind.trim_start().strip_prefix('='), found.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let Some((value, behind)) = parameter(value.trim_start()) else { return found };
                parameters.insert(name, value);
                rest = behind;
            }
            (Some(_), None) => return found,
            (None, _) => {
                found.push((name, BTreeMap::new()));
                rest = behind;
            }
        }
    }
}

/// A value, quoted or not, and what is behind it.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, behind) = text.split_at(text.find([' ', '\t', ',', '"']).unwrap_or(text.len()));
        return Some((value.into(), behind));
    };
    let (mut value, mut chars) = (String::new(), quoted.chars());
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(chars.next()?),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        challenge(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
    }

    #[test]
    fn a_challenge_is_read_however_it_is_written_and_a_token_is_preferred() {
        let whole = r#"Bearer realm="https://a.example/token",service="r.example",scope="repository:a:pull,push""#;
        assert_eq!(of(&[whole]), bearer("https://a.example/token", Some("r.example")));
        assert_eq!(of(&[r#"BEARER  Realm = "a\"b" , error=invalid_token"#]), bearer("a\"b", None));
        assert_eq!(of(&[r#"Basic realm="x", Bearer realm=y"#]), bearer("y", None));
        assert_eq!(of(&[r#"Basic realm="x""#, "Bearer realm=y"]), bearer("y", None));
        assert_eq!(of(&["basic"]), Some(Challenge::Basic));
    }

    #[test]
    fn what_is_no_challenge_or_none_that_is_known_is_none() {
        for text in
            ["", ",", "=", "Negotiate", "Bearer", "Bearer realm=\"open", "realm=\"x\"", "\"Basic\"", "Bearer service=a"]
        {
            assert_eq!(of(&[text]), None, "{text}");
        }
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_login_has_a_name_and_a_password_which_may_hold_colons_and_no_error_repeats_it() {
        assert_eq!(Login::parse("Aladdin:open sesame").unwrap().basic(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(Login::parse("a:b:c").unwrap().basic(), "Basic YTpiOmM=");
        for bad in ["hunter2", ":hunter2", "a:hunter2\nb:c", "a\u{7}:hunter2", ""] {
            let Err(error) = Login::parse(bad) else { panic!("{bad:?} is taken") };
            assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
        }
    }
}
