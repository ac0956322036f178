//! Which pages of other origins may use the surface from a browser. Off while the list is empty.
//!
//! No cookie is ever a credential here, so a page may be let in without letting in its visitors: whoever calls still needs
//! a bearer, which the browser adds for nobody.

use astrid_sdk::http::{Request, Response};

/// The field of `[env]` with the list.
pub const FIELD: &str = "CORS_ORIGINS";

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
const HEADERS: &str = "authorization, content-type, accept, last-event-id";
/// How long a browser may remember what it was told, in seconds.
const MAX_AGE: &str = "3600";

/// Origins as browsers write them.
#[derive(Debug, PartialEq, Eq)]
pub struct Origins<'a>(Vec<&'a str>);

impl<'a> Origins<'a> {
    /// Reads a list, separated by commas or spaces.
    ///
    /// # Errors
    /// What is wrong with which entry, and what to write instead.
    pub fn read(text: &'a str) -> Result<Self, String> {
        let entries: Vec<_> = text.split([',', ' ', '\n', '\t']).filter(|entry| !entry.is_empty()).collect();
        match entries.iter().find_map(|entry| fault(entry).map(|fix| (entry, fix))) {
            Some((entry, fix)) => Err(format!("{FIELD} = `{}`: {fix}", entry.escape_debug())),
            None => Ok(Self(entries)),
        }
    }

    /// Adds to a response what lets the page of the request's origin read it, if it may.
    pub fn apply(&self, request: &Request, mut response: Response) -> Response {
        if self.0.is_empty() {
            return response;
        }
        response = response.with_header("vary", "Origin");
        let mut values = request.header("origin");
        let (Some(origin), None) = (values.next(), values.next()) else { return response };
        let Some(allowed) = self.0.iter().find(|allowed| allowed.as_bytes() == origin) else { return response };
        response = response.with_header("access-control-allow-origin", *allowed);
        if request.method == "OPTIONS" && request.header("access-control-request-method").next().is_some() {
            response = response
                .with_header("access-control-allow-methods", METHODS)
                .with_header("access-control-allow-headers", HEADERS)
                .with_header("access-control-max-age", MAX_AGE);
        }
        response
    }
}

/// What is to be changed about an entry that no browser would send as an origin.
fn fault(entry: &str) -> Option<String> {
    let Some((scheme, rest)) = entry.split_once("://") else {
        return Some("write the scheme too, as in https://console.example".into());
    };
    if scheme != "http" && scheme != "https" {
        return Some("the scheme must be http or https".into());
    }
    if let Some(bare) = rest.strip_suffix('/').filter(|bare| !bare.contains('/')) {
        return Some(format!("leave out the slash at the end: {scheme}://{}", bare.escape_debug()));
    }
    for (mark, what) in [('#', "a fragment"), ('?', "a query"), ('@', "a user"), ('/', "a path")] {
        if rest.contains(mark) {
            return Some(format!("an origin has no {}; leave it out", &what[2..]));
        }
    }
    if !rest.is_ascii() {
        return Some("write the host in its ASCII form (xn--…)".into());
    }
    if rest.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(format!("write the host in lower case: {scheme}://{}", rest.to_ascii_lowercase().escape_debug()));
    }
    let (host, port) = match rest.rfind(':').filter(|at| !rest[*at..].contains(']')) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let name = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    let v6 = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    if !name(host) && !v6(host) {
        return Some("this is not the name or address of a host".into());
    }
    let standard = if scheme == "http" { "80" } else { "443" };
    match port {
        Some(port) if port == standard => Some(format!("leave out :{standard}, as browsers do: {scheme}://{host}")),
        Some(port)
            if port.starts_with('0') || !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err() =>
        {
            Some("the port must be a number up to 65535".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use astrid_sdk::http::Connection;

    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        Request {
            id: "1".into(),
            method: method.into(),
            path: "/".into(),
            query: None,
            headers: headers.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec())).collect(),
            body: vec![],
            connection: Connection { address: None, unix_uid: None, tls: false, certificate: None },
        }
    }

    fn headers(origins: &str, request: &Request) -> Vec<(String, String)> {
        let response = Origins::read(origins).unwrap().apply(request, Response::new(200));
        response.headers.into_iter().map(|(name, value)| (name, String::from_utf8(value).unwrap())).collect()
    }

    #[test]
    fn an_allowed_origin_is_echoed_and_no_other() {
        let list = "https://console.example, http://localhost:5173 http://[::1]:8080";
        for origin in ["https://console.example", "http://localhost:5173", "http://[::1]:8080"] {
            let found = headers(list, &request("GET", &[("origin", origin)]));
            let want = [("vary", "Origin"), ("access-control-allow-origin", origin)];
            assert_eq!(found, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        let vary = [("vary".to_owned(), "Origin".to_owned())];
        for origin in
            ["null", "", "*", "http://console.example", "https://console.example.evil", "https://console.example/"]
        {
            assert_eq!(headers(list, &request("GET", &[("origin", origin)])), vary, "{origin}");
        }
        assert_eq!(headers(list, &request("GET", &[])), vary);
        let twice = [("origin", "https://console.example"), ("origin", "https://console.example")];
        assert_eq!(headers(list, &request("GET", &twice)), vary);
        for nothing in ["", " , "] {
            assert_eq!(headers(nothing, &request("GET", &[("origin", "https://console.example")])), []);
        }
    }

    #[test]
    fn a_preflight_learns_methods_and_headers_and_for_how_long() {
        let ask = [("origin", "https://a.example"), ("access-control-request-method", "PATCH")];
        let found = headers("https://a.example", &request("OPTIONS", &ask));
        assert!(found.contains(&("access-control-allow-methods".into(), METHODS.into())), "{found:?}");
        assert!(found.contains(&("access-control-allow-headers".into(), HEADERS.into())), "{found:?}");
        assert!(found.contains(&("access-control-max-age".into(), "3600".into())), "{found:?}");
        for plain in [request("OPTIONS", &ask[..1]), request("GET", &ask)] {
            assert_eq!(headers("https://a.example", &plain).len(), 2);
        }
        assert_eq!(headers("https://b.example", &request("OPTIONS", &ask)).len(), 1);
    }

    #[test]
    fn what_no_browser_would_send_is_refused_with_what_to_write() {
        for (entry, want) in [
            ("*", "write the scheme too"),
            ("console.example", "write the scheme too"),
            ("null", "write the scheme too"),
            ("ftp://a.example", "http or https"),
            ("HTTPS://a.example", "http or https"),
            ("https://a.example/", "leave out the slash at the end: https://a.example"),
            ("https://a.example/x", "no path"),
            ("https://a.example/x/", "no path"),
            ("https://a.example?x", "no query"),
            ("https://a.example/?x", "no query"),
            ("https://a.example#x", "no fragment"),
            ("https://me@a.example", "no user"),
            ("https://bücher.example", "xn--"),
            ("https://A.example", "lower case: https://a.example"),
            ("https://", "not the name or address"),
            ("https://*.example", "not the name or address"),
            ("https://a_b.example", "not the name or address"),
            ("https://[::g]", "not the name or address"),
            ("https://::1", "not the name or address"),
            ("https://a.example:", "the port"),
            ("https://a.example:0", "the port"),
            ("https://a.example:+1", "the port"),
            ("https://a.example:65536", "the port"),
            ("https://a.example:443", "leave out :443"),
            ("http://a.example:80", "leave out :80"),
        ] {
            let why = Origins::read(&format!("https://fine.example {entry}")).unwrap_err();
            assert!(why.contains(want) && why.contains(FIELD) && why.contains(entry), "{entry}: {why}");
        }
    }
}
