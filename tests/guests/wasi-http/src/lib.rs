//! A wasi:http 0.2 handler, as a third party would write it: answers `METHOD PATH-WITH-QUERY`, a newline and the
//! request's body.
//!
//! It uses nothing of Astrid. Natively there is no WASI, and the crate is empty.
#![cfg(target_family = "wasm")]

use std::io::{Read, Write};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Component;

impl Guest for Component {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let mut text =
            format!("{} {}\n", name(&request.method()), request.path_with_query().unwrap_or_default()).into_bytes();
        let status = match read(&request, &mut text) {
            Ok(()) => 200,
            Err(error) => {
                text = format!("the body ended early: {error}\n").into_bytes();
                400
            }
        };
        let headers = Fields::new();
        headers.set("content-type", &[b"text/plain".to_vec()]).expect("a legal header");
        let response = OutgoingResponse::new(headers);
        response.set_status_code(status).expect("a legal status");
        let body = response.body().expect("taken once");
        ResponseOutparam::set(out, Ok(response));
        let mut stream = body.write().expect("taken once");
        // A client that has gone away is nobody's mistake.
        if stream.write_all(&text).is_ok() {
            drop(stream);
            let _ = OutgoingBody::finish(body, None);
        }
    }
}

/// Appends the request's body.
fn read(request: &IncomingRequest, to: &mut Vec<u8>) -> std::io::Result<()> {
    let body = request.consume().map_err(|()| std::io::Error::other("taken before"))?;
    let mut stream = body.stream().map_err(|()| std::io::Error::other("taken before"))?;
    stream.read_to_end(to)?;
    Ok(())
}

fn name(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(other) => other,
    }
}

wasip2::http::proxy::export!(Component);
