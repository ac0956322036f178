//! `[sinks.NAME]`: what the operator writes, and which place it means.
//!
//! Bounded by: [`MAX_SINKS`]. Refuses to know: whether the place is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use astrid_capsule::near::meant;
use hyper::Uri;
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::pki_types::ServerName;

/// The most sinks.
const MAX_SINKS: usize = 64;

/// `[sinks.NAME]` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Config(BTreeMap<String, Named>);

/// One sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Named {
    /// `file:///PATH`, `udp://HOST:PORT`, `tcp://HOST:PORT`, `unix:///PATH`, `http://HOST[:PORT]/PATH` or `https://…`.
    to: String,
    /// A file that holds the Authorization header for a collector. Read for each delivery.
    #[serde(skip_serializing_if = "String::is_empty")]
    authorization_file: String,
    /// A file of certificates in PEM that vouch for a collector by `https://`. Read once, at the start.
    #[serde(skip_serializing_if = "String::is_empty")]
    ca_file: String,
}

const FIELDS: [&str; 3] = ["to", "authorization-file", "ca-file"];

/// Whether a key below `sinks.` is one, `NAME.FIELD`; the error says which part is not.
pub fn check_key(key: &str) -> Result<(), String> {
    let Some((name, field)) = key.split_once('.') else {
        return Err(format!("`sinks.{key}` is no key; write [sinks.{key}] with to = \"…\" below it"));
    };
    check_name(name)?;
    if FIELDS.contains(&field) {
        return Ok(());
    }
    Err(format!("there is no key `sinks.{key}`{}", meant(field, FIELDS.iter().copied())))
}

/// The key that a variable's name stands for in which dots are dashes, if it is one of a sink.
pub fn key_of_variable(name: &str) -> Option<String> {
    FIELDS.iter().find_map(|field| Some(format!("{}.{field}", name.strip_suffix(field)?.strip_suffix('-')?)))
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(()) } else { Err(format!("sinks.{name}: a sink's name must be 1 to 64 of a-z 0-9 -")) }
}

impl Config {
    /// The error names the key, its value and what would do.
    pub fn check(&self) -> Result<(), String> {
        self.targets().map(drop)
    }

    pub(super) fn targets(&self) -> Result<BTreeMap<String, Target>, String> {
        if self.0.len() > MAX_SINKS {
            return Err(format!("sinks: there are {}, and {MAX_SINKS} at most", self.0.len()));
        }
        let target = |(name, named): (&String, &Named)| {
            check_name(name)?;
            Ok((name.clone(), named.target().map_err(|(field, why)| format!("sinks.{name}.{field} {why}"))?))
        };
        self.0.iter().map(target).collect()
    }
}

/// Where bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    File(PathBuf),
    Udp(String),
    Tcp(String),
    Unix(PathBuf),
    Http(Collector),
}

/// An HTTP collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Collector {
    /// Where to connect to.
    pub(super) address: String,
    /// As it stands in the Host header.
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) authorization: Option<PathBuf>,
    /// Whose certificate it must have, and who may vouch for that.
    pub(super) tls: Option<(ServerName<'static>, PathBuf)>,
}

impl Named {
    /// The error is the field and what is wrong with it.
    fn target(&self) -> Result<Target, (&'static str, String)> {
        let to = self.to.as_str();
        let wrong = |why: &str| ("to", format!("= {to:?}: {why}"));
        let Some((scheme, rest)) = to.split_once("://") else {
            return Err(wrong(
                "write file:///PATH, udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH or https://HOST/PATH",
            ));
        };
        let collector = ["http", "https"].contains(&scheme);
        if !collector && !self.authorization_file.is_empty() {
            return Err(("authorization-file", "is for http:// and https:// alone; leave it out".to_owned()));
        }
        if scheme != "https" && !self.ca_file.is_empty() {
            return Err(("ca-file", "is for https:// alone; leave it out".to_owned()));
        }
        let absolute = |rest: &str| match rest.strip_prefix('/') {
            Some(path) if !path.is_empty() => Ok(PathBuf::from(rest)),
            _ => Err(wrong(&format!("the path must be absolute, as in {scheme}:///var/log/facts"))),
        };
        let address =
            |rest: &str| match rest.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
                Some((host, port)) if port > 0 && !host.is_empty() && !rest.contains(['/', '@', ' ']) => {
                    Ok(rest.to_owned())
                }
                _ => Err(wrong(&format!("write {scheme}://HOST:PORT"))),
            };
        match scheme {
            "file" => absolute(rest).map(Target::File),
            "unix" => absolute(rest).map(Target::Unix),
            "udp" => address(rest).map(Target::Udp),
            "tcp" => address(rest).map(Target::Tcp),
            _ if collector => self.collector(scheme == "https").map_err(|why| wrong(&why)),
            _ => Err(wrong("the scheme must be file, udp, tcp, unix, http or https")),
        }
    }

    fn collector(&self, tls: bool) -> Result<Target, String> {
        let url: Uri = self.to.parse().map_err(|error| format!("no URL: {error}"))?;
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or("name a host, and no user: that is for authorization-file")?;
        let address = match authority.port_u16() {
            Some(_) => authority.as_str().to_owned(),
            None => format!("{}:{}", authority.host(), if tls { 443 } else { 80 }),
        };
        let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let file = |field: &str, path: &str| match Path::new(path).is_absolute() {
            _ if path.is_empty() => Ok(None),
            true => Ok(Some(PathBuf::from(path))),
            false => Err(format!("{field} must be an absolute path")),
        };
        let authorization = file("authorization-file", &self.authorization_file)?;
        let tls = match (tls, file("ca-file", &self.ca_file)?) {
            (false, _) => None,
            (true, None) => {
                let why = "name in ca-file who vouches for it; of public ones that is often ";
                return Err(format!("{why}/etc/ssl/certs/ca-certificates.crt"));
            }
            (true, Some(roots)) => {
                let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name).map_err(|_| "no name that a certificate can have".to_owned())?;
                Some((name, roots))
            }
        };
        Ok(Target::Http(Collector { address, authority: authority.as_str().to_owned(), path, authorization, tls }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(to: &str) -> Named {
        Named { to: to.to_owned(), ..Named::default() }
    }

    #[test]
    fn a_sink_says_by_its_url_where_it_is_and_what_would_do_where_it_does_not() {
        for to in [
            "file:///var/log/facts.jsonl",
            "udp://siem:514",
            "tcp://[::1]:601",
            "unix:///dev/log",
            "http://127.0.0.1:8088/in?x=1",
            "http://collector",
        ] {
            assert!(named(to).target().is_ok(), "{to}");
        }
        for (to, want) in [
            ("", "write file:///PATH"),
            ("file://facts", "absolute, as in file:///var"),
            ("unix:///", "absolute"),
            ("udp://siem", "write udp://HOST:PORT"),
            ("udp://siem:0", "write udp://HOST:PORT"),
            ("tcp://:5", "write tcp://HOST:PORT"),
            ("tcp://a@b:5", "write tcp://HOST:PORT"),
            ("https://siem/", "name in ca-file who vouches"),
            ("http://a:b@c/", "authorization-file"),
            ("ftp://a/", "scheme must be"),
        ] {
            let (field, why) = named(to).target().unwrap_err();
            assert!(field == "to" && why.starts_with(&format!("= {to:?}")) && why.contains(want), "{to}: {why}");
        }
        let udp = Named { authorization_file: "/a".into(), ..named("udp://a:1") };
        assert_eq!(udp.target().unwrap_err().0, "authorization-file");
        let with_ca = |to: &str| Named { ca_file: "/ca.pem".into(), ..named(to) };
        assert_eq!(with_ca("http://a/").target().unwrap_err().0, "ca-file");
        assert!(with_ca("https://a/").target().is_ok());
        assert!(check_key("siem.to").is_ok() && check_key("siem").is_err() && check_key("Siem.to").is_err());
        assert!(check_key("siem.too").unwrap_err().contains("did you mean `to`"));
        assert_eq!(key_of_variable("my-siem-authorization-file"), Some("my-siem.authorization-file".into()));
    }
}
