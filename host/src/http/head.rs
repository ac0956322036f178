//! What the head of a request may be, before anybody reads what it asks.
//!
//! Owns that a head has one reading: its size, whom it is addressed to, how its body is framed. Two readers of a head that can
//! be read in two ways, a proxy and a front end, would else not mean the same request. What is no HTTP at all never comes to
//! this: the HTTP library ends its connection.
//!
//! Bounded by: [`MAX_HEADERS`], [`MAX_HEAD_BYTES`]. Refuses to know: names of hosts. Nothing is chosen by them.

use hyper::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Scheme};
use hyper::{StatusCode, Version};

use super::wire::{MAX_HEAD_BYTES, MAX_HEADERS};

/// Why a head is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    TooLarge(String),
    Bad(&'static str),
}

impl Fault {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Fault::TooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Fault::Bad(_) => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn reason(&self) -> &str {
        match self {
            Fault::TooLarge(reason) => reason,
            Fault::Bad(reason) => reason,
        }
    }
}

pub(super) fn check(head: &Parts) -> Result<(), Fault> {
    size(head)?;
    addressee(head)?;
    framing(head)
}

fn size(head: &Parts) -> Result<(), Fault> {
    // HTTP/1 ends the connection before it comes to this.
    if head.headers.len() > MAX_HEADERS {
        return Err(Fault::TooLarge(format!("a request may have {MAX_HEADERS} headers")));
    }
    let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let query = head.uri.query().map_or(0, |query| 1 + query.len());
    if headers + head.uri.path().len() + query > MAX_HEAD_BYTES {
        return Err(Fault::TooLarge(format!("path, query and headers may have {MAX_HEAD_BYTES} bytes")));
    }
    Ok(())
}

/// One name for the host, or none where the version has none (RFC 9112, section 3.2; RFC 9113, section 8.3.1).
fn addressee(head: &Parts) -> Result<(), Fault> {
    if head.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(Fault::Bad("the scheme of the request target must be http or https"));
    }
    let named = head.uri.authority();
    if named.is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Fault::Bad("the request target may hold no name of a user"));
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(Fault::Bad("a request has one Host header")),
        (None, None) if named.is_none() && head.version >= Version::HTTP_11 => {
            Err(Fault::Bad("a request names its host"))
        }
        (None, None) => Ok(()),
        (Some(host), None) => match (host.is_empty(), authority(host), named) {
            (true, _, None) => Ok(()),
            (_, Some(host), Some(named)) if host != *named => {
                Err(Fault::Bad("the Host header and the request target name different hosts"))
            }
            (_, Some(_), _) => Ok(()),
            _ => Err(Fault::Bad("the Host header must be the name of a host, perhaps with a port")),
        },
    }
}

fn authority(host: &HeaderValue) -> Option<Authority> {
    Authority::try_from(host.as_bytes()).ok().filter(|authority| !authority.as_str().contains('@'))
}

/// Whatever else a body is encoded in for the way, nobody here would take off.
fn framing(head: &Parts) -> Result<(), Fault> {
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, None) => Ok(()),
        (Some(one), None) if one.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Fault::Bad("the only transfer-encoding is chunked")),
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn refused(version: Version, target: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0).is_err()
    }

    #[test]
    fn a_head_names_one_host_and_the_same_wherever_it_does() {
        for host in ["a", "a.example:8080", "127.0.0.1", "[::1]:2787", ""] {
            assert!(!refused(Version::HTTP_11, "/x", &[("host", host)]), "{host}");
        }
        assert!(!refused(Version::HTTP_10, "/x", &[]));
        assert!(!refused(Version::HTTP_11, "http://a/x", &[("host", "A")]));
        assert!(!refused(Version::HTTP_2, "https://a/x", &[]));
        assert!(!refused(Version::HTTP_2, "/x", &[("host", "a")]));
        for (version, target, headers) in [
            (Version::HTTP_11, "/x", &[][..]),
            (Version::HTTP_2, "/x", &[]),
            (Version::HTTP_10, "/x", &[("host", "a"), ("host", "a")]),
            (Version::HTTP_11, "/x", &[("host", "a"), ("host", "b")]),
            (Version::HTTP_11, "/x", &[("host", "a/b")]),
            (Version::HTTP_11, "/x", &[("host", "a b")]),
            (Version::HTTP_11, "/x", &[("host", "a@b")]),
            (Version::HTTP_11, "/x", &[("host", "a, b")]),
            (Version::HTTP_11, "http://a/x", &[("host", "b")]),
            (Version::HTTP_11, "http://a/x", &[("host", "")]),
            (Version::HTTP_2, "https://a/x", &[("host", "b")]),
            (Version::HTTP_2, "https://a@b/x", &[]),
            (Version::HTTP_11, "ftp://a/x", &[("host", "a")]),
        ] {
            assert!(refused(version, target, headers), "{version:?} {target} {headers:?}");
        }
    }

    #[test]
    fn a_body_is_in_chunks_or_has_a_length_and_is_encoded_in_nothing_else() {
        let encoded = |values: &[&str]| {
            let mut headers = vec![("host", "a")];
            headers.extend(values.iter().map(|value| ("transfer-encoding", *value)));
            refused(Version::HTTP_11, "/x", &headers)
        };
        assert!(!encoded(&[]) && !encoded(&["chunked"]) && !encoded(&["\tChunked "]));
        for bad in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked", "chunked"], &["identity"], &[""]] {
            assert!(encoded(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_bounds_of_a_head_are_inclusive() {
        let of = |headers: usize, bytes: usize| {
            let mut all = vec![("host", String::new())];
            all.extend((1..headers).map(|_| ("x", String::new())));
            let taken = all.iter().map(|(name, _)| name.len()).sum::<usize>() + "/x".len();
            all[1].1 = "y".repeat(bytes - taken);
            let all: Vec<_> = all.iter().map(|(name, value)| (*name, value.as_str())).collect();
            refused(Version::HTTP_11, "/x", &all)
        };
        assert!(!of(MAX_HEADERS, MAX_HEAD_BYTES));
        assert!(of(MAX_HEADERS + 1, 1000) && of(2, MAX_HEAD_BYTES + 1));
    }
}
