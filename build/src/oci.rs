//! Pushing to an OCI registry: two blobs and a manifest, by the distribution specification 1.1.
//!
//! Over TLS, or plain HTTP where that is said; with a name and a password, or a token got for them, where the registry asks.
//! A login never travels unencrypted to another machine. The archive's signatures, not the way that it took, are what its
//! readers trust. A tag that stands for something else is never moved.

use std::cell::RefCell;

use anyhow::{Context, Result, bail, ensure};
use astrid_capsule::archive::Archive;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::https::{Answer, Client, Origin, Request};
use crate::login::{self, Challenge, Login};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.astrid.capsule.v1";
const LAYER: &str = "application/vnd.astrid.capsule.v1.tar+gzip";
/// The configuration of an artifact that has none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// `oci://HOST[:PORT]/REPOSITORY:TAG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// With its port, if it is named.
    authority: String,
    repository: String,
    tag: String,
}

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = || {
            let (authority, path) = text.strip_prefix("oci://")?.split_once('/')?;
            let (repository, tag) = path.rsplit_once(':')?;
            Some((authority, repository, tag))
        };
        let (authority, repository, tag) = parts().ok_or("must be oci://HOST[:PORT]/REPOSITORY:TAG")?;
        let host = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
        if authority.is_empty() || !authority.bytes().all(host) {
            return Err("HOST must be a name or an address, without a user".into());
        }
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let segment = |part: &str| {
            part.bytes().all(|b| lower(b) || b"._-".contains(&b))
                && part.bytes().next().is_some_and(lower)
                && part.bytes().last().is_some_and(lower)
        };
        if repository.len() > 255 || !repository.split('/').all(segment) {
            return Err("REPOSITORY must be segments of a-z 0-9 . _ -, each with a letter or digit at both ends".into());
        }
        let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !first || tag.len() > 128 || !tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err("TAG must be 1 to 128 of A-Z a-z 0-9 . _ -".into());
        }
        Origin::new(true, authority).map_err(|_| "HOST must be a name or an address, and PORT a number")?;
        Ok(Self { authority: authority.into(), repository: repository.into(), tag: tag.into() })
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "oci://{}/{}:{}", self.authority, self.repository, self.tag)
    }
}

/// Pushes; where it stands now, by its digest, and whether it was not there before.
pub(crate) fn push(
    to: &Reference,
    plain_http: bool,
    login: Option<Login>,
    archive: &Archive,
    bytes: &[u8],
) -> Result<(String, bool)> {
    let registry = Registry::new(to, plain_http, login)?;
    let manifest = manifest(archive, bytes);
    let digest = digest(&manifest);
    let at = format!("oci://{}/{}@{digest}", to.authority, to.repository);
    let tag = to.path(&format!("manifests/{}", to.tag));
    let there = registry.send(Method::HEAD, &tag, Some((ACCEPT, MANIFEST)), b"")?;
    match (there.status, there.header("docker-content-digest")) {
        (404, _) => {}
        (200, Some(same)) if same == digest => return Ok((at, false)),
        (200, _) => bail!("{to} is published already, with another archive; a published tag never changes"),
        _ => return Err(registry.unexpected(&there, "looking for the tag")),
    }
    for blob in [b"{}", bytes] {
        registry.upload(blob)?;
    }
    let put = registry.send(Method::PUT, &tag, Some((CONTENT_TYPE, MANIFEST)), &manifest)?;
    if put.status != 201 {
        return Err(registry.unexpected(&put, "pushing the manifest"));
    }
    Ok((at, true))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn manifest(archive: &Archive, bytes: &[u8]) -> Vec<u8> {
    let package = &archive.manifest.package;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": { "mediaType": EMPTY, "digest": digest(b"{}"), "size": 2 },
        "layers": [{
            "mediaType": LAYER,
            "digest": digest(bytes),
            "size": bytes.len(),
            "annotations": { "org.opencontainers.image.title": format!("{}.capsule", package.name) },
        }],
        "annotations": {
            "org.opencontainers.image.title": package.name,
            "org.opencontainers.image.version": package.version.to_string(),
        },
    });
    manifest.to_string().into_bytes()
}

/// The registry of one push.
struct Registry<'a> {
    client: Client,
    origin: Origin,
    to: &'a Reference,
    login: Option<Login>,
    /// What the registry was last content with.
    authorization: RefCell<Option<HeaderValue>>,
}

/// What gives tokens answers.
#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

impl<'a> Registry<'a> {
    fn new(to: &'a Reference, plain_http: bool, login: Option<Login>) -> Result<Self> {
        let origin = Origin::new(!plain_http, &to.authority)?;
        ensure!(
            origin.tls || login.is_none() || origin.is_local()?,
            "{origin} is another machine, and a login is not sent there unencrypted: leave --plain-http away, or the login"
        );
        Ok(Self { client: Client::new()?, origin, to, login, authorization: RefCell::new(None) })
    }

    fn upload(&self, blob: &[u8]) -> Result<()> {
        let digest = digest(blob);
        if self.send(Method::HEAD, &self.to.path(&format!("blobs/{digest}")), None, b"")?.status == 200 {
            return Ok(());
        }
        let begun = self.send(Method::POST, &self.to.path("blobs/uploads/"), None, b"")?;
        let location = match (begun.status, begun.header("location")) {
            (202, Some(location)) => location,
            _ => return Err(self.unexpected(&begun, "beginning an upload")),
        };
        let path = self.own_path(location)?;
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}digest={}", encoded(&digest));
        let put = self.send(Method::PUT, &path, Some((CONTENT_TYPE, "application/octet-stream")), blob)?;
        if put.status == 201 { Ok(()) } else { Err(self.unexpected(&put, "uploading")) }
    }

    /// The path of a place that the registry names: anywhere in it, and nowhere else.
    fn own_path(&self, location: &str) -> Result<String> {
        let url: Option<Uri> = location.parse().ok();
        let path = url.and_then(|url| match (url.authority(), Origin::of(&url)) {
            (None, _) => url.path_and_query().map(|path| path.as_str().to_owned()),
            (Some(_), Some((origin, path))) if origin == self.origin => Some(path),
            _ => None,
        });
        let path = path.filter(|path| path.starts_with('/') && !path.starts_with("//"));
        path.with_context(|| format!("the registry sends the upload elsewhere: {}", location.escape_default()))
    }

    /// Sends a request; if the registry wants to know who asks, tells it and sends the request again, once.
    fn send(&self, method: Method, path: &str, header: Option<(HeaderName, &str)>, body: &[u8]) -> Result<Answer> {
        let once = || {
            let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
            if let Some((name, value)) = &header {
                headers.push((name.clone(), HeaderValue::from_str(value)?));
            }
            headers.extend(self.authorization.borrow().clone().map(|value| (AUTHORIZATION, value)));
            self.client.send(&self.origin, &Request { method: method.clone(), path, headers, body })
        };
        let answer = once()?;
        if answer.status != 401 {
            return Ok(answer);
        }
        let authorization = match login::challenge(&answer.headers) {
            Some(Challenge::Basic) => self.login.as_ref().map(Login::basic),
            Some(Challenge::Bearer { realm, service }) => Some(self.token(&realm, service.as_deref())?),
            None => {
                bail!("{} wants a kind of login other than Basic and Bearer, and no other is supported", self.origin)
            }
        };
        let Some(authorization) = authorization else { return Ok(answer) };
        let mut value = HeaderValue::from_str(&authorization)
            .context("the registry's token holds characters that no HTTP header can")?;
        value.set_sensitive(true);
        *self.authorization.borrow_mut() = Some(value);
        once()
    }

    /// A token to push to the repository, for the login or, without one, for anybody.
    fn token(&self, realm: &str, service: Option<&str>) -> Result<String> {
        let url: Option<Uri> = realm.parse().ok();
        let Some((origin, path)) = url.as_ref().and_then(Origin::of) else {
            bail!("{} names no usable URL for its tokens: {}", self.origin, realm.escape_default());
        };
        ensure!(
            origin.tls || (!self.origin.tls && origin.is_local()?),
            "{} gives its tokens at {origin}, without encryption",
            self.origin
        );
        let joint = if path.contains('?') { '&' } else { '?' };
        let scope = encoded(&format!("repository:{}:pull,push", self.to.repository));
        let service = service.map_or(String::new(), |service| format!("&service={}", encoded(service)));
        let path = format!("{path}{joint}scope={scope}{service}");
        let mut headers = Vec::new();
        if let Some(login) = &self.login {
            headers.push((AUTHORIZATION, HeaderValue::from_str(&login.basic())?));
        }
        let answer = self.client.send(&origin, &Request { method: Method::GET, path: &path, headers, body: b"" })?;
        if answer.status != 200 {
            return Err(self.unexpected(&answer, &format!("asking {origin} for a token")));
        }
        // What is no token is not repeated: it may be a part of one.
        let token: Option<Token> = serde_json::from_slice(&answer.body).ok();
        let token = token.with_context(|| format!("{origin} answered with something other than a token"))?;
        Ok(format!("Bearer {}", token.token))
    }

    fn unexpected(&self, answer: &Answer, what: &str) -> anyhow::Error {
        let login = match (answer.status, &self.login) {
            (401 | 403, None) => format!("; it wants a login: --login FILE, or {}", login::VARIABLE),
            (401 | 403, Some(_)) => "; it does not take this login".into(),
            _ => String::new(),
        };
        let body = String::from_utf8_lossy(&answer.body);
        let body: String = body.chars().take(500).flat_map(char::escape_default).collect();
        anyhow::anyhow!("{what}: the registry answered {}{login} {body}", answer.status)
    }
}

/// As a value in a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_a_host_a_repository_and_a_tag() {
        let parsed = |text: &str| Reference::parse(text).map(|reference| reference.to_string());
        for fine in
            ["oci://localhost/a/b-c:1.0.0", "oci://[::1]/a:b", "oci://[::1]:5000/a:b", "oci://r.example:443/a:b"]
        {
            assert_eq!(parsed(fine).unwrap(), fine);
        }
        for bad in [
            "oci://",
            "oci://host",
            "oci://host/repo",
            "oci://host/Repo:1",
            "oci://host/a//b:1",
            "oci://host/../b:1",
            "oci://host/a:",
            "oci://host/a:b c",
            "oci://user@host/a:b",
            "oci://host:port/a:b",
            "oci://host:65536/a:b",
            "oci://::1/a:b",
            "oci:///a:b",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_upload_goes_nowhere_but_to_the_registry() {
        let to = Reference::parse("oci://r.example/a:b").unwrap();
        let registry = Registry::new(&to, false, None).unwrap();
        for own in ["/up?state=a", "https://r.example/up?state=a", "https://R.example:443/up?state=a"] {
            assert_eq!(registry.own_path(own).unwrap(), "/up?state=a");
        }
        for other in
            ["http://r.example/up", "https://r.example:444/up", "https://s.example/up", "//s.example/up", "up", ""]
        {
            let error = registry.own_path(other).unwrap_err().to_string();
            assert!(error.contains("elsewhere"), "{error}");
        }
    }

    #[test]
    fn what_stands_in_a_query_is_encoded() {
        assert_eq!(encoded("repository:a/b:pull,push é&"), "repository%3Aa%2Fb%3Apull%2Cpush%20%C3%A9%26");
    }
}
