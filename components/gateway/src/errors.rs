//! The error shape, and where the failures of the bus land in it.
//!
//! Every body of a status that is not 2xx is `{error, reason?, retry_after_secs?}`. What a reason holds comes from the
//! host or from a handler and is meant for the caller; a 401 never has one.

use astrid_sdk::authority::Rejection;
use astrid_sdk::bus::{Failure, Refusal, RefusalCode};
use astrid_sdk::http::Response;
use serde::Serialize;

/// What went wrong, as a program sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    PayloadTooLarge,
    UnsupportedMediaType,
    RateLimited,
    Internal,
    Unavailable,
    Overloaded,
    Timeout,
}

impl Kind {
    pub fn status(self) -> u16 {
        match self {
            Kind::BadRequest => 400,
            Kind::Unauthorized => 401,
            Kind::Forbidden => 403,
            Kind::NotFound => 404,
            Kind::MethodNotAllowed => 405,
            Kind::Conflict => 409,
            Kind::PayloadTooLarge => 413,
            Kind::UnsupportedMediaType => 415,
            Kind::RateLimited => 429,
            Kind::Internal => 500,
            Kind::Unavailable => 502,
            Kind::Overloaded => 503,
            Kind::Timeout => 504,
        }
    }
}

/// A response that is not a success.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    /// One sentence for the caller.
    pub reason: Option<String>,
    pub retry_after_secs: Option<u32>,
    /// The methods that the path takes, with a 405.
    pub allow: Option<String>,
}

impl Problem {
    fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self { kind, reason: Some(reason.into()), retry_after_secs: None, allow: None }
    }

    /// Without a reason: nobody outside learns why a credential is not valid.
    pub fn unauthorized() -> Self {
        Self { kind: Kind::Unauthorized, reason: None, retry_after_secs: None, allow: None }
    }

    pub fn forbidden(reason: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, reason)
    }

    pub fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(Kind::BadRequest, reason)
    }

    pub fn not_found(reason: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, reason)
    }

    /// `allow` is the value of the header.
    pub fn method_not_allowed(allow: String) -> Self {
        Self { allow: Some(allow.clone()), ..Self::new(Kind::MethodNotAllowed, format!("this path takes {allow}")) }
    }

    pub fn unsupported_media_type(reason: impl Into<String>) -> Self {
        Self::new(Kind::UnsupportedMediaType, reason)
    }

    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, reason)
    }

    pub fn internal(reason: impl Into<String>) -> Self {
        Self::new(Kind::Internal, reason)
    }

    /// Too many attempts; there is room for one in so many milliseconds.
    pub fn rate_limited(milliseconds: u32) -> Self {
        let retry_after_secs = Some(milliseconds.div_ceil(1000).max(1));
        Self {
            retry_after_secs,
            ..Self::new(Kind::RateLimited, "too many requests from this address without a session; try again later")
        }
    }

    /// Nobody is there for it, or nobody has room.
    pub fn nobody(reason: impl Into<String>) -> Self {
        Self { retry_after_secs: Some(1), ..Self::new(Kind::Overloaded, reason) }
    }

    fn overloaded(retry_after_secs: u32) -> Self {
        Self { retry_after_secs: Some(retry_after_secs), ..Self::new(Kind::Overloaded, "no room now; try again later") }
    }

    pub fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Kind,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after_secs: Option<u32>,
        }

        let body = Body { error: self.kind, reason: self.reason.as_deref(), retry_after_secs: self.retry_after_secs };
        let mut response = Response::json(self.kind.status(), &body);
        if self.kind == Kind::Unauthorized {
            response = response.with_header("www-authenticate", "Bearer");
        }
        if let Some(allow) = self.allow {
            response = response.with_header("allow", allow);
        }
        if let Some(seconds) = self.retry_after_secs {
            response = response.with_header("retry-after", seconds.to_string());
        }
        response
    }
}

/// Which topic a failed request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// The route's own: that nobody handles it is not the client's mistake.
    OwnTopic(&'a str),
    /// One that the client named.
    NamedTopic(&'a str),
}

pub fn of_failure(failure: Failure, asked: Asked<'_>) -> Problem {
    match failure {
        Failure::NoResponder => match asked {
            Asked::OwnTopic(topic) => Problem::unavailable(format!("no capsule here handles {topic}")),
            Asked::NamedTopic(topic) => Problem::not_found(format!("nothing handles {topic}")),
        },
        Failure::Denied(reason) => Problem::forbidden(reason),
        Failure::Timeout => Problem::new(Kind::Timeout, "the handler took too long"),
        Failure::Overloaded(milliseconds) => Problem::overloaded(milliseconds.div_ceil(1000).max(1)),
        Failure::TooLarge(most) => {
            Problem::new(Kind::PayloadTooLarge, format!("the payload or the answer has more than {most} bytes"))
        }
        Failure::Invalid(reason) => Problem::bad_request(reason),
        Failure::Trapped | Failure::Closed => Problem::unavailable("the handler died"),
        Failure::Refused(Refusal { code, reason }) => {
            let kind = match code {
                RefusalCode::Invalid => Kind::BadRequest,
                RefusalCode::Denied => Kind::Forbidden,
                RefusalCode::NotFound => Kind::NotFound,
                RefusalCode::Conflict => Kind::Conflict,
                RefusalCode::Unavailable => Kind::Unavailable,
                RefusalCode::Internal => Kind::Internal,
            };
            Problem::new(kind, reason)
        }
    }
}

/// Of a public route and its topic, whose body is the credential: what its handler denies is a credential that is not valid.
pub fn of_public_failure(failure: Failure, topic: &str) -> Problem {
    match failure {
        Failure::Refused(Refusal { code: RefusalCode::Denied, .. }) => Problem::unauthorized(),
        failure => of_failure(failure, Asked::OwnTopic(topic)),
    }
}

pub fn of_rejection(rejection: Rejection) -> Problem {
    match rejection {
        Rejection::Rejected => Problem::unauthorized(),
        Rejection::Unavailable => Problem::unavailable("nobody can check credentials now"),
        Rejection::Overloaded => Problem::overloaded(1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body(problem: Problem) -> (u16, Value) {
        let response = problem.into_response();
        assert_eq!(response.header("content-type").collect::<Vec<_>>(), [b"application/json"]);
        (response.status, serde_json::from_slice(&response.body).unwrap())
    }

    #[test]
    fn every_failure_has_its_status_and_name() {
        let refused = |code| Failure::Refused(Refusal::new(code, "because"));
        let cases = [
            (Failure::Denied("requires a:b".into()), 403, "forbidden"),
            (Failure::Timeout, 504, "timeout"),
            (Failure::Overloaded(1), 503, "overloaded"),
            (Failure::TooLarge(7), 413, "payload_too_large"),
            (Failure::Invalid("no topic".into()), 400, "bad_request"),
            (Failure::Trapped, 502, "unavailable"),
            (refused(RefusalCode::Invalid), 400, "bad_request"),
            (refused(RefusalCode::Denied), 403, "forbidden"),
            (refused(RefusalCode::NotFound), 404, "not_found"),
            (refused(RefusalCode::Conflict), 409, "conflict"),
            (refused(RefusalCode::Unavailable), 502, "unavailable"),
            (refused(RefusalCode::Internal), 500, "internal"),
        ];
        for (failure, status, name) in cases {
            for asked in [Asked::OwnTopic("a.b"), Asked::NamedTopic("a.b")] {
                let (found, body) = body(of_failure(failure.clone(), asked));
                assert_eq!((found, body["error"].as_str()), (status, Some(name)), "{failure:?}");
                assert!(body["reason"].is_string(), "{failure:?}");
            }
        }
    }

    #[test]
    fn a_topic_without_a_handler_is_404_only_if_the_client_named_it() {
        for (asked, kind) in [(Asked::OwnTopic("a.b"), Kind::Unavailable), (Asked::NamedTopic("a.b"), Kind::NotFound)] {
            let problem = of_failure(Failure::NoResponder, asked);
            assert!(problem.kind == kind && problem.reason.unwrap().ends_with(" handles a.b"), "{asked:?}");
        }
    }

    #[test]
    fn the_handlers_sentence_reaches_the_client() {
        let failure = Failure::Refused(Refusal::conflict("the name is taken"));
        let (_, body) = body(of_failure(failure, Asked::OwnTopic("a.b")));
        assert_eq!(body, json!({"error": "conflict", "reason": "the name is taken"}));
    }

    #[test]
    fn overloaded_says_when_to_try_again_in_whole_seconds() {
        for (milliseconds, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2)] {
            let response = of_failure(Failure::Overloaded(milliseconds), Asked::OwnTopic("a.b")).into_response();
            let header = response.header("retry-after").next().unwrap().to_vec();
            assert_eq!(header, seconds.to_string().into_bytes());
            let body: Value = serde_json::from_slice(&response.body).unwrap();
            assert_eq!(body["retry_after_secs"], seconds);
        }
    }

    #[test]
    fn too_many_attempts_are_a_429_that_says_when_to_try_again_and_not_by_how_many_there_were_too_many() {
        for (milliseconds, seconds) in [(0, 1), (1, 1), (1000, 1), (4001, 5)] {
            let response = Problem::rate_limited(milliseconds).into_response();
            assert_eq!(response.header("retry-after").next().unwrap(), seconds.to_string().as_bytes());
            let (status, body) = body(Problem::rate_limited(milliseconds));
            assert_eq!(
                (status, &body["error"], &body["retry_after_secs"]),
                (429, &json!("rate_limited"), &json!(seconds))
            );
        }
    }

    #[test]
    fn a_401_names_the_scheme_and_no_reason() {
        let problem = of_rejection(Rejection::Rejected);
        let response = problem.into_response();
        assert_eq!(response.status, 401);
        assert_eq!(response.header("www-authenticate").next().unwrap(), b"Bearer");
        assert_eq!(response.body, br#"{"error":"unauthorized"}"#);
    }

    #[test]
    fn a_token_that_is_not_valid_is_a_401_and_a_missing_handler_is_not() {
        assert_eq!(of_public_failure(Failure::Refused(Refusal::denied("used up")), "a.b"), Problem::unauthorized());
        assert_eq!(of_public_failure(Failure::Refused(Refusal::conflict("taken")), "a.b").kind, Kind::Conflict);
        assert_eq!(of_public_failure(Failure::NoResponder, "a.b").kind, Kind::Unavailable);
    }

    #[test]
    fn an_authenticator_that_is_away_is_not_a_401() {
        assert_eq!(body(of_rejection(Rejection::Unavailable)).0, 502);
        assert_eq!(body(of_rejection(Rejection::Overloaded)).0, 503);
    }

    #[test]
    fn a_405_lists_the_methods() {
        let response = Problem::method_not_allowed("GET, HEAD, OPTIONS".into()).into_response();
        assert_eq!(response.header("allow").next().unwrap(), b"GET, HEAD, OPTIONS");
        assert_eq!(response.status, 405);
    }
}
