//! What is known of each request when it is answered: counted and timed by method, route and status, and one line in the log.
//!
//! A route is what a front end says that it was, so the labels are held to bounds: [`MAX_ROUTES`] of a mount and what
//! begins with its prefix, [`MAX_SERIES`] of a mount in all. Beyond the one a route is [`OTHER`], beyond both the status is
//! its class alone. Refuses to know: which routes there are.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use astrid_capsule::PrincipalId;
use metrics::{Counter, Histogram, counter, histogram};

use crate::bus::cause::Cause;

/// Templates of one mount.
pub(super) const MAX_ROUTES: usize = 256;
/// Series of one mount before those whose status is a class alone.
pub(super) const MAX_SERIES: usize = 2048;
/// The longest template, in bytes.
pub(super) const MAX_ROUTE: usize = 128;
/// What has no template of its own.
pub(super) const OTHER: &str = "other";
/// A path at which nothing is mounted.
pub(super) const UNMOUNTED: &str = "none";
/// The most of a path that stands in the log, in bytes.
const MAX_PATH: usize = 256;
/// Under whose name the lines are, so that they drive out no other's.
const LOGGED_AS: &str = crate::log::REQUESTS;

/// What a front end says that the request was, as it stands in the extensions of its answer.
#[derive(Debug, Clone)]
pub struct Route(pub Arc<str>);

/// For whom a request was made, once its credential was taken.
pub type Whom = Arc<OnceLock<PrincipalId>>;

/// A request that has its answer.
pub(super) struct Answered<'r> {
    pub cause: &'r Cause,
    pub method: &'static str,
    pub path: &'r str,
    /// The prefix of its mount; empty for what the host answers itself.
    pub mount: &'r str,
    pub route: Option<&'r str>,
    pub status: u16,
    pub took: Duration,
    pub bytes_in: u64,
    /// None where the answer goes on.
    pub bytes_out: Option<u64>,
    pub whom: &'r Whom,
    /// Whether the host is merely asked how it is.
    pub probe: bool,
}

/// The series of all mounts, looked up once each.
#[derive(Default)]
pub struct Requests {
    /// By prefix.
    mounts: RwLock<HashMap<String, Mount>>,
}

#[derive(Default)]
struct Mount {
    routes: HashMap<String, Vec<Series>>,
    series: usize,
}

struct Series {
    method: &'static str,
    /// A status, or what its class begins with.
    status: u16,
    count: Counter,
    seconds: Histogram,
}

impl Requests {
    /// Counts a request and writes its line.
    pub(super) fn answered(&self, request: &Answered<'_>) {
        let route = request.route.filter(|route| is_route(request.mount, route)).unwrap_or(OTHER);
        self.count(request.mount, request.method, route, request.status, request.took);
        write_line(request, route);
    }

    fn count(&self, prefix: &str, method: &'static str, route: &str, status: u16, took: Duration) {
        let mounts = self.mounts.read().expect("no panic under this lock");
        if let Some(mount) = mounts.get(prefix) {
            let (route, status) = mount.fit(method, route, status);
            if let Some(series) = mount.find(method, route, status) {
                return series.add(took);
            }
        }
        drop(mounts);
        let mut mounts = self.mounts.write().expect("no panic under this lock");
        let mount = mounts.entry(prefix.to_owned()).or_default();
        let (route, status) = mount.fit(method, route, status);
        mount.find_or_make(method, route, status).add(took);
    }
}

impl Mount {
    /// As what a request counts, within the bounds.
    fn fit<'l>(&self, method: &str, route: &'l str, status: u16) -> (&'l str, u16) {
        if self.find(method, route, status).is_some() {
            (route, status)
        } else if self.series >= MAX_SERIES {
            (OTHER, status / 100)
        } else if !self.routes.contains_key(route) && self.routes.len() >= MAX_ROUTES {
            (OTHER, status)
        } else {
            (route, status)
        }
    }

    fn find(&self, method: &str, route: &str, status: u16) -> Option<&Series> {
        self.routes.get(route)?.iter().find(|series| series.method == method && series.status == status)
    }

    fn find_or_make(&mut self, method: &'static str, route: &str, status: u16) -> &Series {
        let of_route = self.routes.entry(route.to_owned()).or_default();
        let found = of_route.iter().position(|series| series.method == method && series.status == status);
        let at = found.unwrap_or_else(|| {
            of_route.push(Series::new(method, route, status));
            self.series += 1;
            of_route.len() - 1
        });
        &of_route[at]
    }
}

impl Series {
    fn new(method: &'static str, route: &str, status: u16) -> Self {
        let label = if status < 100 { format!("{status}xx") } else { status.to_string() };
        let labels = [("method", method.to_owned()), ("route", route.to_owned()), ("status", label)];
        Self {
            method,
            status,
            count: counter!("astrid_http_requests_total", &labels),
            seconds: histogram!("astrid_http_request_seconds", &labels),
        }
    }

    fn add(&self, took: Duration) {
        self.count.increment(1);
        self.seconds.record(took);
    }
}

/// Whether a front end at this prefix may say so.
fn is_route(prefix: &str, route: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"/{}+*._~:-".contains(&b);
    // What the host answers itself has a name that no path is.
    prefix.is_empty()
        || (route.starts_with('/')
            && route.len() <= MAX_ROUTE
            && route.bytes().all(legal)
            && super::mounts::covers(prefix, route))
}

fn write_line(request: &Answered<'_>, route: &str) {
    let Answered { cause, method, path, status, bytes_in, bytes_out, .. } = *request;
    let ms = request.took.as_secs_f64() * 1000.0;
    let principal = request.whom.get().map(PrincipalId::as_str);
    let trace = cause.trace.as_ref().map(|trace| trace.trace_id());
    let path = &path[..path.floor_char_boundary(MAX_PATH)];
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                capsule = LOGGED_AS,
                request = &*cause.id,
                method,
                route,
                path,
                status,
                ms = %format_args!("{ms:.2}"),
                bytes_in,
                bytes_out,
                principal,
                trace,
                "answered"
            )
        };
    }
    if request.probe { line!(debug) } else { line!(info) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(requests: &Requests, prefix: &str) -> (usize, usize) {
        let mounts = requests.mounts.read().unwrap();
        (mounts[prefix].routes.len(), mounts[prefix].series)
    }

    #[test]
    fn however_many_routes_and_statuses_a_front_end_names_its_series_are_bounded_and_nobody_elses_suffer() {
        let requests = Requests::default();
        requests.count("/api", "GET", "/api/a", 200, Duration::ZERO);
        for n in 0..10 * MAX_ROUTES {
            requests.count("/x", "GET", &format!("/x/{n}"), 200, Duration::ZERO);
        }
        assert_eq!(routes(&requests, "/x"), (MAX_ROUTES + 1, MAX_ROUTES + 1));
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", OTHER] {
            for n in 0..MAX_ROUTES {
                for status in 200..600 {
                    requests.count("/x", method, &format!("/x/{n}"), status, Duration::ZERO);
                }
            }
        }
        // And a class for each method.
        assert_eq!(routes(&requests, "/x"), (MAX_ROUTES + 1, MAX_SERIES + 8 * 4));
        requests.count("/api", "GET", "/api/b", 404, Duration::ZERO);
        assert_eq!(routes(&requests, "/api"), (2, 2));
    }

    #[test]
    fn a_route_lies_below_its_mount_and_is_plain() {
        for good in ["/api", "/api/a/{id}", "/api/tile/{+path}", "/api/a.b_c~d-e:f/*"] {
            assert!(is_route("/api", good), "{good}");
        }
        let long = format!("/api/{}", "x".repeat(MAX_ROUTE));
        for bad in ["", "api", "/", "/apix", "/other", "/api/\"", "/api/a b", "/api/a\n", "/api/ä", &long] {
            assert!(!is_route("/api", bad), "{bad}");
        }
        assert!(is_route("/", "/anything") && is_route("", UNMOUNTED));
        assert!(["", "a", UNMOUNTED, OTHER].iter().all(|bad| !is_route("/", bad)), "those names are the host's");
    }
}
