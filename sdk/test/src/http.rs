//! Writing requests and reading responses in a line each.

use serde::Serialize;
use serde_json::Value;

use crate::bindings::astrid::http::types;
use crate::engine::State;
use crate::{Certificate, Connection, Request, Response};

impl types::Host for State {}

impl Request {
    /// A request without a body from 127.0.0.1, without TLS. `target` is the path, and what follows a `?` the query.
    pub fn new(method: &str, target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        Self {
            id: "request-under-test".into(),
            method: method.into(),
            path: path.into(),
            query,
            headers: Vec::new(),
            body: Vec::new(),
            connection: Connection { address: Some("127.0.0.1".into()), unix_uid: None, tls: false, certificate: None },
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn delete(target: &str) -> Self {
        Self::new("DELETE", target)
    }

    /// A POST with a JSON body.
    pub fn post(target: &str, body: impl Serialize) -> Self {
        Self::new("POST", target).json(body)
    }

    /// Adds a header; the name is put in lower case, as the listener does.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// Adds `Authorization: Bearer <token>`.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Sets the body and its content type.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("content-type", content_type)
    }

    /// Sets a JSON body.
    ///
    /// # Panics
    /// If `body` can't be written as JSON.
    pub fn json(self, body: impl Serialize) -> Self {
        self.body("application/json", serde_json::to_vec(&body).expect("the test's own body is JSON"))
    }

    /// Comes in over TLS, from a client that has shown this certificate.
    pub fn with_certificate(mut self, fingerprint: &str, common_name: Option<&str>) -> Self {
        let shown = Certificate { fingerprint: fingerprint.into(), common_name: common_name.map(Into::into) };
        (self.connection.tls, self.connection.certificate) = (true, Some(shown));
        self
    }

    /// Comes in on the Unix socket, from a process of `uid`.
    pub fn from_unix(mut self, uid: u32) -> Self {
        self.connection = Connection { address: None, unix_uid: Some(uid), tls: false, certificate: None };
        self
    }
}

impl Response {
    /// The first header of this name (in any case) that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not JSON; the message has the status and the body.
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{}: {error}: {:?}", self.status, String::from_utf8_lossy(&self.body)),
        }
    }
}
