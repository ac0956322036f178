//! The credential that a request carries. What it is worth, the host and its authenticator decide.

use astrid_sdk::authority::Credential;
use astrid_sdk::http::Request;

/// The bearer token of an `Authorization` header; without a header the Unix peer or the certificate that the client has
/// shown, if there is one. None is a 401: a header that does not read is never passed over in favour of the connection.
pub fn of(request: &Request) -> Option<Credential> {
    let mut values = request.header("authorization");
    match (values.next(), values.next()) {
        (Some(value), None) => bearer(value).map(|token| Credential::Bearer(token.into())),
        (Some(_), Some(_)) => None,
        (None, _) => {
            let proves = request.connection.unix_uid.is_some() || request.connection.certificate.is_some();
            proves.then_some(Credential::Connection)
        }
    }
}

/// `Bearer token`, the scheme in any case, the token of the characters that RFC 6750 allows.
fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = str::from_utf8(value).ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    let body = token.trim_end_matches('=');
    let legal = !body.is_empty() && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b));
    (scheme.eq_ignore_ascii_case("bearer") && legal).then_some(token)
}

#[cfg(test)]
mod tests {
    use astrid_sdk::http::{Certificate, Connection};

    use super::*;

    fn credential(headers: &[&[u8]], unix_uid: Option<u32>) -> Option<String> {
        presented(headers, Connection { address: None, unix_uid, tls: false, certificate: None })
    }

    fn presented(headers: &[&[u8]], connection: Connection) -> Option<String> {
        let request = Request {
            id: "1".into(),
            method: "GET".into(),
            path: "/".into(),
            query: None,
            headers: headers.iter().map(|v| ("authorization".into(), v.to_vec())).collect(),
            body: vec![],
            connection,
        };
        of(&request).map(|credential| match credential {
            Credential::Bearer(token) => token,
            Credential::Connection => "connection".into(),
        })
    }

    #[test]
    fn the_scheme_is_taken_in_any_case() {
        for value in ["Bearer a.b-c_d~e+f/g=", "bearer a.b-c_d~e+f/g=", "BEARER   a.b-c_d~e+f/g= "] {
            assert_eq!(credential(&[value.as_bytes()], None).unwrap(), "a.b-c_d~e+f/g=");
        }
    }

    #[test]
    fn a_malformed_header_is_no_credential_even_on_the_unix_socket() {
        let malformed: [&[u8]; 11] = [
            b"",
            b"Bearer",
            b"Bearer ",
            b"Bearer a b",
            b"Bearer a,b",
            b"Bearer =",
            b"Bearer a=b",
            b"Basic a",
            b"a",
            b"Bearer \xff",
            b"Bearer\ta",
        ];
        for value in malformed {
            assert_eq!(credential(&[value], Some(0)), None, "{value:?}");
        }
        assert_eq!(credential(&[b"Bearer a", b"Bearer a"], Some(0)), None);
    }

    #[test]
    fn without_a_header_only_a_unix_peer_and_a_certificate_are_somebody() {
        assert_eq!(credential(&[], Some(1000)).unwrap(), "connection");
        assert_eq!(credential(&[], None), None);
        let shown = || Certificate { fingerprint: "ab".into(), common_name: None };
        let over_tls = || Connection { address: None, unix_uid: None, tls: true, certificate: Some(shown()) };
        assert_eq!(presented(&[], over_tls()).unwrap(), "connection");
        assert_eq!(presented(&[b"Bearer a"], over_tls()).unwrap(), "a", "a header is stronger");
        assert_eq!(presented(&[b"Bearer a,b"], over_tls()), None, "also one that does not read");
    }
}
