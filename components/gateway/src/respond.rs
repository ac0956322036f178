//! Responses that are a success, and the headers that all have.

use astrid_sdk::http::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::errors::Problem;

/// Set on every response that has none of that name.
const HEADERS: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
];
const HSTS: (&str, &str) = ("strict-transport-security", "max-age=63072000; includeSubDomains");

/// A handler's answer, byte for byte. One that is not JSON is labelled as bytes, so that nobody takes it for JSON.
pub fn answered(status: u16, answer: Vec<u8>) -> Response {
    let mut response = Response::new(status);
    if status == 204 || answer.is_empty() {
        return response;
    }
    let json = serde_json::from_slice::<serde::de::IgnoredAny>(&answer).is_ok() && str::from_utf8(&answer).is_ok();
    response.body = answer;
    response.with_header("content-type", if json { "application/json" } else { "application/octet-stream" })
}

/// A handler's answer as it is, of a type that the route knows.
pub fn bytes(content_type: &str, bytes: Vec<u8>) -> Response {
    Response { body: bytes, ..Response::new(200) }.with_header("content-type", content_type)
}

/// Who the caller is, as identity says, and until when the session lasts.
pub fn me(answer: &[u8], expires_at_epoch: u64) -> Result<Response, Problem> {
    let mut me: Map<String, Value> =
        serde_json::from_slice(answer).map_err(|_| Problem::unavailable("identity's answer is not a JSON object"))?;
    me.insert("expires_at_epoch".into(), expires_at_epoch.into());
    Ok(Response::json(200, &me))
}

/// How many bindings took a publication.
pub fn delivered(delivered: u32) -> Response {
    #[derive(Serialize)]
    struct Delivered {
        delivered: u32,
    }

    Response::json(202, &Delivered { delivered })
}

/// Adds the headers that every response has.
pub fn finished(mut response: Response, tls: bool) -> Response {
    for (name, value) in HEADERS.into_iter().chain(tls.then_some(HSTS)) {
        if response.header(name).next().is_none() {
            response = response.with_header(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(response: &Response, name: &str) -> Option<String> {
        let values: Vec<_> = response.header(name).collect();
        assert!(values.len() <= 1, "{name} stands {} times", values.len());
        values.first().map(|v| String::from_utf8(v.to_vec()).unwrap())
    }

    #[test]
    fn an_answer_is_passed_on_untouched_and_labelled_for_what_it_is() {
        let response = answered(200, b" {\"a\" : 1}".to_vec());
        assert_eq!((response.status, &response.body[..]), (200, &b" {\"a\" : 1}"[..]));
        assert_eq!(header(&response, "content-type").unwrap(), "application/json");
        for bytes in [&b"<script>"[..], b"\"\xff\"", b"{}{}"] {
            assert_eq!(header(&answered(200, bytes.to_vec()), "content-type").unwrap(), "application/octet-stream");
        }
    }

    #[test]
    fn what_has_no_body_has_no_content_type() {
        for response in [answered(200, vec![]), answered(204, b"{}".to_vec())] {
            assert!(response.body.is_empty());
            assert_eq!(header(&response, "content-type"), None);
        }
    }

    #[test]
    fn me_is_the_answer_of_identity_and_the_end_of_the_session() {
        let response = me(br#"{"principal":"a","groups":[]}"#, 9).unwrap();
        let body: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(body, serde_json::json!({"principal": "a", "groups": [], "expires_at_epoch": 9}));
        assert!(me(b"[]", 9).is_err());
    }

    #[test]
    fn a_publication_says_how_many_took_it() {
        let response = delivered(3);
        assert_eq!((response.status, &response.body[..]), (202, &br#"{"delivered":3}"#[..]));
    }

    #[test]
    fn every_response_has_the_security_headers_and_tls_ones_have_hsts() {
        for (tls, hsts) in [(false, None), (true, Some("max-age=63072000; includeSubDomains"))] {
            let response = finished(Response::new(204), tls);
            for (name, value) in HEADERS {
                assert_eq!(header(&response, name).unwrap(), value);
            }
            assert_eq!(header(&response, HSTS.0).as_deref(), hsts);
        }
        let response = finished(Response::new(200).with_header("cache-control", "private"), false);
        assert_eq!(header(&response, "cache-control").unwrap(), "private");
    }
}
