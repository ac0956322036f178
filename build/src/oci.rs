//! Pushing to an OCI registry: two blobs and a manifest, by the distribution specification 1.1.
//!
//! Plain HTTP/1.1 and no login: for a registry on this machine, or one behind something that adds both. The archive's
//! signatures, not the way that it took, are what its readers trust. A tag that stands for something else is never
//! moved. Bounded: answers of 64 KiB, a minute for each step of the network.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use astrid_capsule::archive::Archive;
use serde_json::json;
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.astrid.capsule.v1";
const LAYER: &str = "application/vnd.astrid.capsule.v1.tar+gzip";
/// The configuration of an artifact that has none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

const MAX_ANSWER_BYTES: u64 = 64 << 10;
const LIMIT: Duration = Duration::from_secs(60);

/// `oci://HOST[:PORT]/REPOSITORY:TAG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// With its port.
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
        let port = authority.rsplit(']').next().unwrap_or_default().contains(':');
        let authority = if port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority, repository: repository.into(), tag: tag.into() })
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
pub(crate) fn push(to: &Reference, plain_http: bool, archive: &Archive, bytes: &[u8]) -> Result<(String, bool)> {
    let registry = Registry::find(to, plain_http)?;
    let manifest = manifest(archive, bytes);
    let digest = digest(&manifest);
    let at = format!("oci://{}/{}@{digest}", to.authority, to.repository);
    let tag = to.path(&format!("manifests/{}", to.tag));
    let there = registry.send("HEAD", &tag, &[("accept", MANIFEST)], b"")?;
    match (there.status, there.header("docker-content-digest")) {
        (404, _) => {}
        (200, Some(same)) if same == digest => return Ok((at, false)),
        (200, _) => bail!("{to} is published already, with another archive; a published tag never changes"),
        _ => return Err(there.unexpected("looking for the tag")),
    }
    for blob in [b"{}", bytes] {
        registry.upload(to, blob)?;
    }
    let put = registry.send("PUT", &tag, &[("content-type", MANIFEST)], &manifest)?;
    if put.status != 201 {
        return Err(put.unexpected("pushing the manifest"));
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

/// An HTTP/1.1 server; each request has a connection of its own.
struct Registry {
    authority: String,
}

struct Answer {
    status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn unexpected(&self, what: &str) -> anyhow::Error {
        let login = if self.status == 401 { "; it wants a login, which is not supported" } else { "" };
        let body: String = self.body.chars().take(500).flat_map(char::escape_default).collect();
        anyhow::anyhow!("{what}: the registry answered {}{login} {body}", self.status)
    }
}

impl Registry {
    fn find(to: &Reference, plain_http: bool) -> Result<Self> {
        let addresses = to.authority.to_socket_addrs().with_context(|| format!("can't find {}", to.authority))?;
        let local = addresses.into_iter().all(|address| address.ip().is_loopback());
        ensure!(
            local || plain_http,
            "{} is another machine, and this program speaks plain HTTP alone; --plain-http pushes all the same",
            to.authority
        );
        Ok(Self { authority: to.authority.clone() })
    }

    fn upload(&self, to: &Reference, blob: &[u8]) -> Result<()> {
        let digest = digest(blob);
        if self.send("HEAD", &to.path(&format!("blobs/{digest}")), &[], b"")?.status == 200 {
            return Ok(());
        }
        let begun = self.send("POST", &to.path("blobs/uploads/"), &[], b"")?;
        let location = match (begun.status, begun.header("location")) {
            (202, Some(location)) => location,
            _ => return Err(begun.unexpected("beginning an upload")),
        };
        // Where the registry says, but nowhere else than there.
        let own = format!("http://{}", self.authority);
        let path = location.strip_prefix(&own).unwrap_or(location);
        ensure!(path.starts_with('/'), "the registry sends the upload elsewhere: {}", location.escape_default());
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}digest={}", digest.replace(':', "%3A"));
        let put = self.send("PUT", &path, &[("content-type", "application/octet-stream")], blob)?;
        if put.status == 201 { Ok(()) } else { Err(put.unexpected("uploading")) }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        self.exchange(method, path, headers, body).with_context(|| format!("{method} http://{}{path}", self.authority))
    }

    fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        ensure!(path.bytes().all(|b| b.is_ascii_graphic()), "the path is no path of HTTP");
        let mut stream = TcpStream::connect(&self.authority)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.authority,
            body.len()
        );
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        stream.write_all((head + "\r\n").as_bytes())?;
        // One that has seen enough may answer before it has read all of it.
        let sent = stream.write_all(body);
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
        if answer.is_empty() {
            sent?;
        }
        parse(&answer).context("it answered with something that is not HTTP")
    }
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.map(header).collect::<Option<_>>()?;
    Some(Answer { status, headers, body: String::from_utf8_lossy(&answer[end + 4..]).into_owned() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use astrid_capsule::manifest::Manifest;

    use super::*;

    /// What was pushed, by path.
    type Store = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

    /// A registry that keeps what it is given, and says of nothing else that it is there.
    fn registry() -> (u16, Store) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, store) = (listener.local_addr().unwrap().port(), Store::default());
        let kept = store.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut lines = Vec::new();
                while !lines.last().is_some_and(String::is_empty) {
                    let mut line = String::new();
                    stream.read_line(&mut line).unwrap();
                    lines.push(line.trim_end().to_owned());
                }
                let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                let mut body = vec![0; length.parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                let (status, headers) = answer(&kept, &lines[0], body);
                let answer = format!("HTTP/1.1 {status} x\r\n{headers}content-length: 0\r\n\r\n");
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        (port, store)
    }

    fn answer(store: &Store, request: &str, body: Vec<u8>) -> (u16, String) {
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap().to_owned());
        let mut store = store.lock().unwrap();
        match method {
            "HEAD" => match store.get(&path) {
                Some(bytes) => (200, format!("Docker-Content-Digest: {}\r\n", digest(bytes))),
                None => (404, String::new()),
            },
            "POST" => (202, "Location: /upload/7?state=a\r\n".into()),
            "PUT" if path.starts_with("/upload/7?state=a&digest=") => {
                let said = path.rsplit('=').next().unwrap().replace("%3A", ":");
                assert_eq!(said, digest(&body));
                store.insert(format!("/v2/a/notes/blobs/{said}"), body);
                (201, String::new())
            }
            "PUT" => {
                store.insert(path, body);
                (201, String::new())
            }
            _ => (405, String::new()),
        }
    }

    fn archive() -> Archive {
        Archive::new(&Manifest::parse("[package]\nname = \"notes\"\nversion = \"1.0.0\"\n").unwrap(), Vec::new())
    }

    #[test]
    fn a_push_is_two_blobs_and_a_manifest_and_a_tag_never_moves() {
        let (port, store) = registry();
        let to = Reference::parse(&format!("oci://127.0.0.1:{port}/a/notes:1.0.0")).unwrap();
        let (at, changed) = push(&to, false, &archive(), b"archive").unwrap();
        assert!(changed);
        let kept = store.lock().unwrap().clone();
        assert_eq!(kept.len(), 3);
        let manifest = &kept["/v2/a/notes/manifests/1.0.0"];
        assert!(at.ends_with(&digest(manifest)), "{at}");
        let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
        for blob in [&manifest["config"], &manifest["layers"][0]] {
            let bytes = &kept[&format!("/v2/a/notes/blobs/{}", blob["digest"].as_str().unwrap())];
            assert_eq!(blob["size"], bytes.len());
        }
        assert_eq!(push(&to, false, &archive(), b"archive").unwrap(), (at, false));
        let error = push(&to, false, &archive(), b"other").unwrap_err().to_string();
        assert!(error.contains("never changes"), "{error}");
        assert_eq!(*store.lock().unwrap(), kept);
    }

    #[test]
    fn a_reference_has_a_host_a_repository_and_a_tag() {
        let parsed = |text: &str| Reference::parse(text).map(|reference| reference.to_string());
        assert_eq!(parsed("oci://localhost/a/b-c:1.0.0").unwrap(), "oci://localhost:80/a/b-c:1.0.0");
        assert_eq!(parsed("oci://[::1]/a:b").unwrap(), "oci://[::1]:80/a:b");
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
            "oci:///a:b",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_machine_is_not_pushed_to_by_plain_http_unless_that_is_said() {
        let to = Reference::parse("oci://192.0.2.1:5000/a:b").unwrap();
        let error = push(&to, false, &archive(), b"").unwrap_err().to_string();
        assert!(error.contains("--plain-http"), "{error}");
    }

    #[test]
    fn what_is_no_answer_of_http_is_none() {
        assert!(
            parse(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody")
                .is_some_and(|a| a.header("a") == Some("b") && a.body == "body")
        );
        for bad in [&b""[..], b"SSH-2.0\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] {
            assert!(parse(bad).is_none());
        }
    }
}
