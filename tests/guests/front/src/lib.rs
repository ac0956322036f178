//! A front end whose paths misbehave, each in one way; `/front/echo` does not, and answers what the listener told it.
//! `/front/route` says that its query was the route.

use std::hint::black_box;

use astrid_sdk::http::{Request, Response};
use serde_json::{Value, json};

/// The size of `/front/big`, in bytes.
const BIG: usize = 8 << 20;

fn serve(request: Request) -> Response {
    match request.path.as_str() {
        "/front/echo" => echo(request),
        "/front/big" => Response { body: vec![b'x'; BIG], ..Response::new(200) },
        "/front/trap" => panic!("asked to by {}", request.id),
        "/front/spin" => spin(),
        "/front/route" => Response::new(200).with_route(request.query.as_deref().unwrap_or_default()),
        "/front/status" => Response::new(99),
        "/front/header" => Response::new(200).with_header("x-split", "a\r\nset-cookie: b"),
        _ => Response::new(404),
    }
}

fn echo(request: Request) -> Response {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let headers: Vec<Value> = request.headers.into_iter().map(|(name, value)| json!([name, text(value)])).collect();
    let body = json!({
        "id": request.id,
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": headers,
        "body": text(request.body),
        "address": request.connection.address,
        "unix_uid": request.connection.unix_uid,
        "tls": request.connection.tls,
        "certificate": request.connection.certificate.map(|shown| json!([shown.fingerprint, shown.common_name])),
    });
    Response::json(200, &body)
}

fn spin() -> ! {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

astrid_sdk::front_end!(serve);
