//! `http://HOST:PORT` and `https://HOST:PORT`: where a host listens on TCP.

use std::fmt;

use hyper::Uri;

/// Where a host listens on TCP, from `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct TcpAddress {
    /// Whether it speaks TLS.
    pub(in crate::cli) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
}

impl TcpAddress {
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|e| format!("no URL: {e}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("the URL must begin with https:// or http://".to_owned()),
        };
        let authority = uri.authority().ok_or("the URL names no host")?;
        if authority.as_str().contains('@') {
            return Err("the URL may hold no user name; pass --bearer".to_owned());
        }
        if uri.path_and_query().is_some_and(|rest| rest != "/") {
            return Err("the URL may hold no path; write https://HOST:PORT".to_owned());
        }
        let host = authority.host();
        let port = match &authority.as_str()[host.len()..] {
            "" if tls => 443,
            "" => 80,
            port => port.trim_start_matches(':').parse().map_err(|_| "the URL's port is no port".to_owned())?,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("the URL names no host".to_owned());
        }
        Ok(Self { tls, host: host.to_owned(), port })
    }

    /// As it stands in a Host header.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}
