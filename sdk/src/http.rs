//! HTTP as two records, for capsules with a front end ([`crate::front_end!`]).

use serde::Serialize;

pub use crate::bindings::front_end::astrid::http::types::{Connection, Request, Response};

impl Request {
    /// The values of a header, in order. `name` is in lower case.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        values(&self.headers, name)
    }
}

impl Response {
    /// The values of a header that was added under exactly this name, in order.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        values(&self.headers, name)
    }

    /// Without headers or body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), relay: None }
    }

    /// A body of JSON. A value that can't be written as JSON (a map with keys that are no strings) is a 500 without a
    /// body, and a line in the log.
    pub fn json<T: Serialize + ?Sized>(status: u16, body: &T) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self { body, ..Self::new(status) }.with_header("content-type", "application/json"),
            Err(error) => {
                crate::log::error!("a response can't be written as JSON: {error}");
                Self::new(500)
            }
        }
    }

    /// Adds a header. The host answers 502 to a name or value that is not legal in HTTP.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

fn values<'a>(headers: &'a [(String, Vec<u8>)], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_slice())
}
