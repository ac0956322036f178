//! The surface describes itself, and is as it says: every route of the gateway's table answers on a socket and stands in the
//! document, and what stands there is in the table.

use std::collections::{BTreeMap, BTreeSet};

use astrid_gateway::openapi::DOCUMENT;
use astrid_gateway::routes::{Auth, Body, ROUTES, Route};
use astrid_tests::daemon::Daemon;
use astrid_tests::http::{Request, Streaming};
use serde_json::Value;
use tokio::net::UnixStream;

use crate::{assert_well, join};

/// Paths that the host answers itself.
const OWN: [&str; 2] = ["/healthz", "/metrics"];
/// A route that does not end with its answer.
const STREAM: &str = "/api/events";
const PROMPT: &str = "/api/agent/prompt";

/// The document as somebody without a session gets it.
async fn document(daemon: &Daemon) -> Value {
    let document = daemon.tcp(Request::get("/api/openapi.json")).await;
    assert_eq!(document.header("content-type"), Some("application/json"));
    assert_eq!(document.body, DOCUMENT.as_bytes());
    document.expect(200)
}

/// How the document writes a route's path.
fn path(route: &Route) -> String {
    route.template.replace("{+", "{")
}

fn described<'d>(document: &'d Value, route: &Route) -> &'d Value {
    let operation = &document["paths"][path(route)][route.method.to_ascii_lowercase()];
    assert!(operation.is_object(), "the document has no {} {}", route.method, route.template);
    operation
}

/// The request that the document gives as an example, percent-encoded as generated clients do.
fn example(operation: &Value, method: &str, path: &str) -> Request {
    let mut path = path.to_owned();
    for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|one| one["in"] == "path") {
        let example = parameter["example"].as_str().unwrap().replace('/', "%2F");
        path = path.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), &example);
    }
    let body = &operation["requestBody"]["content"]["application/json"]["example"];
    if body.is_null() {
        return Request::new(method, &path);
    }
    Request::new(method, &path).header("content-type", "application/json").body(body.to_string())
}

#[tokio::test]
async fn every_route_answers_on_a_socket_and_with_a_status_that_the_document_has() {
    let daemon = Daemon::start();
    let document = document(&daemon).await;
    // What undoes comes after what does, and the end at the end.
    let order = |route: &&Route| (route.template == "/api/sys/shutdown", route.method == "DELETE");
    let mut routes: Vec<&Route> = ROUTES.iter().collect();
    routes.sort_by_key(order);
    let mut fine = 0;
    for route in routes {
        let operation = described(&document, route);
        let request = example(operation, route.method, &path(route));
        let at = format!("{} {}", route.method, route.template);
        let (status, body) = if route.template == STREAM {
            let mut stream = Streaming::open(UnixStream::connect(daemon.socket()).await.unwrap(), request).await;
            let first = stream.next().await.unwrap().unwrap();
            assert!(first.starts_with("event: ready\n"), "{first}");
            (stream.status, first)
        } else {
            let answer = daemon.unix(request).await;
            (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
        };
        assert!(operation["responses"][status.to_string()].is_object(), "{at}: {status} {body}");
        // Without an agent nobody takes a prompt.
        let served = status < 500 || (status, route.template) == (503, PROMPT);
        assert!(served && status != 405 && !body.contains("nothing is served"), "{at}: {status} {body}");
        fine += usize::from(status < 300);
    }
    assert!(fine > ROUTES.len() / 2, "only {fine} of {} went well", ROUTES.len());
}

#[tokio::test]
async fn who_may_come_in_what_a_body_is_and_what_a_query_takes_are_as_described() {
    let daemon = Daemon::start();
    let document = document(&daemon).await;
    let root = join(&daemon, "admin", "root", 1).await;
    for route in &ROUTES {
        let operation = described(&document, route);
        let at = format!("{} {}", route.method, route.template);
        let open = operation["security"].as_array().is_some_and(Vec::is_empty);
        assert_eq!(open, route.auth != Auth::Bearer, "{at}");
        let request = || example(operation, route.method, &path(route));
        if !open {
            daemon.tcp(request()).await.refusal(401, "unauthorized");
        }
        let unknown = Request::new(route.method, &format!("{}?no_such_key=1", path(route).replace(['{', '}'], "")));
        let reason = daemon.tcp(unknown.bearer(&root.bearer)).await.refusal(400, "bad_request");
        assert!(reason.contains("no_such_key"), "{at}: {reason}");
        let body = &operation["requestBody"];
        assert_eq!(
            (body.is_null(), &body["required"] == true),
            (route.body == Body::Nothing, route.body == Body::Json),
            "{at}"
        );
        let keys = operation["parameters"].as_array().into_iter().flatten().filter(|one| one["in"] == "query");
        let keys: Vec<&str> = keys.map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(keys, route.query.iter().map(|(key, _)| *key).collect::<Vec<_>>(), "{at}");
    }
    assert_well(&daemon).await;
}

#[tokio::test]
async fn what_the_document_has_is_there_and_head_and_options_are_as_it_says() {
    let daemon = Daemon::start();
    let document = document(&daemon).await;
    let mut table = BTreeMap::<String, BTreeSet<String>>::new();
    for route in &ROUTES {
        table.entry(path(route)).or_default().insert(route.method.to_ascii_lowercase());
    }
    for own in OWN {
        table.entry(own.into()).or_default().insert("get".into());
    }
    let described: BTreeMap<String, BTreeSet<String>> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, item)| (path.clone(), item.as_object().unwrap().keys().cloned().collect()))
        .collect();
    assert_eq!(described, table);

    for (path, methods) in &described {
        let item = &document["paths"][path];
        let at = |method: &str| example(&item[methods.first().unwrap()], method, path);
        let allowed = |allow: &str| {
            let allow: BTreeSet<String> = allow.split(", ").map(str::to_ascii_lowercase).collect();
            let mut want = methods.clone();
            if want.contains("get") {
                want.insert("head".into());
            }
            if !OWN.contains(&path.as_str()) {
                want.insert("options".into());
            }
            assert_eq!(allow, want, "{path}");
        };
        if !OWN.contains(&path.as_str()) {
            // Without a credential, as browsers ask.
            let options = daemon.tcp(at("OPTIONS").body("")).await;
            assert_eq!((options.status, options.body.len()), (204, 0), "{path}");
            allowed(options.header("allow").unwrap());
        }
        let brewed = daemon.tcp(at("BREW")).await;
        brewed.refusal(405, "method_not_allowed");
        allowed(brewed.header("allow").unwrap());
        if methods.contains("get") {
            let get = |method: &str| example(&item["get"], method, path);
            let head = daemon.unix(get("HEAD")).await;
            assert_eq!(head.body.len(), 0, "{path}");
            assert!(item["get"]["responses"][head.status.to_string()].is_object(), "{path}: {head:?}");
            if path != STREAM {
                let got = daemon.unix(get("GET")).await;
                assert_eq!(
                    (head.status, head.header("content-type")),
                    (got.status, got.header("content-type")),
                    "{path}"
                );
            }
        } else {
            assert_eq!(daemon.tcp(at("HEAD")).await.status, 405, "{path}");
        }
    }
    assert_well(&daemon).await;
}
