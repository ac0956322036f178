//! Server-sent events as every stream of this surface writes them, and the id from which a client goes on. Pure.

use astrid_sdk::http::{Request, Response};
use serde_json::{Value, json};

use crate::errors::Problem;

/// A comment: it keeps a quiet stream open, and clients pass over it.
pub const COMMENT: &str = ": here\n\n";

/// A response that is a stream and begins with these events.
pub fn stream(body: String) -> Response {
    Response { body: body.into(), ..Response::new(200) }.with_header("content-type", "text/event-stream")
}

/// One event. JSON has no line ends of its own, so its data is one line.
pub fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// One event from which a client can go on; see [`resumed`].
pub fn event_with_id(id: u64, name: &str, data: &Value) -> String {
    format!("id: {id}\n{}", event(name, data))
}

/// At least so many events are missing here.
pub fn gap(lost: u64) -> String {
    event("gap", &json!({ "lost": lost }))
}

/// Why the stream ends, in the shape of every failure.
pub fn error(error: &str, reason: &str) -> String {
    event("error", &json!({ "error": error, "reason": reason }))
}

/// The id after the one in `Last-Event-ID`, if there is that header.
///
/// # Errors
/// 400 where it is no id.
pub fn resumed(request: &Request) -> Result<Option<u64>, Problem> {
    let mut values = request.header("last-event-id");
    let (Some(value), None) = (values.next(), values.next()) else { return Ok(None) };
    let index = str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let index = index.ok_or_else(|| {
        Problem::bad_request("last-event-id must be the id of an event of this stream, a whole number")
    })?;
    Ok(Some(index.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use astrid_sdk::http::Connection;

    use super::*;

    #[test]
    fn a_last_event_id_is_an_index_or_refused() {
        let ask = |values: &[&str]| {
            let headers = values.iter().map(|value| ("last-event-id".to_owned(), value.as_bytes().to_vec())).collect();
            resumed(&Request {
                id: "1".into(),
                method: "GET".into(),
                path: "/api/events".into(),
                query: None,
                headers,
                body: vec![],
                connection: Connection { address: None, unix_uid: None, tls: false, certificate: None },
            })
        };
        assert_eq!((ask(&[]).unwrap(), ask(&["41"]).unwrap(), ask(&[" 0 "]).unwrap()), (None, Some(42), Some(1)));
        for bad in ["x", "-1", "1.0", "18446744073709551616", ""] {
            assert_eq!(ask(&[bad]).unwrap_err().kind.status(), 400, "{bad}");
        }
    }
}
