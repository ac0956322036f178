//! HTTP as two records, for capsules with a front end ([`crate::front_end!`]), and answers that go on after their handler
//! has returned ([`crate::relay!`]).

use serde::Serialize;

pub use crate::bindings::front_end::astrid::http::types::{Certificate, Connection, Relay, Request, Response, Source};
use crate::bindings::imports::astrid::bus::bus::{Answer, Subscription};
pub use crate::bindings::relay::exports::astrid::http::relay::{Event, Output};

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
        Self { status, headers: Vec::new(), body: Vec::new(), relay: None, route: None }
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

    /// Goes on after `body` with what [`crate::relay!`] makes of the source's events, without a call in between. `context`
    /// (at most 16 KiB) comes back with each of its calls, until one says otherwise ([`Output::with_context`]); every `idle_ms`
    /// (0 for never, else at least 1000) there is an [`Event::Idle`], whatever else comes.
    #[must_use]
    pub fn relaying(mut self, source: impl Into<Source>, context: impl Into<Vec<u8>>, idle_ms: u32) -> Self {
        self.relay = Some(Relay { source: source.into(), context: context.into(), idle_ms });
        self
    }

    /// Says which route the request was, by its template (`/api/notes/{id}`), for the host's metrics and log.
    #[must_use]
    pub fn with_route(mut self, template: &str) -> Self {
        self.route = Some(template.to_owned());
        self
    }

    /// Adds a header. The host answers 502 to a name or value that is not legal in HTTP.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl From<Subscription> for Source {
    fn from(subscription: Subscription) -> Self {
        Self::Subscription(subscription)
    }
}

impl From<Answer> for Source {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl Output {
    /// Goes on after these bytes, which may be none.
    pub fn more(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), last: false, context: None }
    }

    /// Ends with these bytes.
    pub fn last(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), last: true, context: None }
    }

    /// Later calls get `context` (at most 16 KiB) in place of the one that this call got.
    #[must_use]
    pub fn with_context(mut self, context: impl Into<Vec<u8>>) -> Self {
        self.context = Some(context.into());
        self
    }
}

fn values<'a>(headers: &'a [(String, Vec<u8>)], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_slice())
}
