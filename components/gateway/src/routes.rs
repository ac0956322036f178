//! The route table: which method on which path does what. Pure, and the only place that knows a path.

use crate::errors::Problem;

/// Who may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Everybody, as `anonymous`: a look at what the host says of itself.
    Public,
    /// As `Public`: an attempt to become somebody, of which an address has fewer.
    Attempt,
    /// Whoever has a session.
    Bearer,
}

/// What the request's body must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There may be none.
    Nothing,
    /// JSON, which becomes the message's payload as it is.
    Json,
    /// As `Json`; an absent one stands for `{}`.
    JsonOrNothing,
}

/// How a value of the query becomes JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Text,
    /// An unsigned integer of 64 bits.
    Number,
    /// `true` or `false`.
    Flag,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A request of this topic, answered with this status. Its payload is the body; on a route without one, an object
    /// of the path's parameters and the query.
    Topic(&'static str, u16),
    /// As `Topic`, about the principal that the path or the query names, else about the caller. The path's parameters are fields of
    /// the payload beside those of the body.
    About(&'static str, u16),
    /// As `Topic`, with the path's parameters as fields of the payload in front of those of the body. Without a target:
    /// about oneself, the `self:` form of what it requires is not enough.
    Change(&'static str, u16),
    /// As `Topic`, with the bearer that the request came with as the field `token`; 400 without one.
    Presented(&'static str, u16),
    /// Who the caller is, with the end of the session.
    Me,
    /// A list by a request of this topic: everything, or, for whoever may not see that, what is about the caller.
    Listed(&'static str),
    /// As `Change`; for whoever may not do that to everybody's, to the caller's own.
    Nearest(&'static str, u16),
    /// As `Topic`, answered with bytes as they are, of this type; the answer may come in pieces.
    Bytes(&'static str, &'static str),
    /// The facts as they are recorded, as server-sent events.
    Events,
    /// Log lines: a request, or, with `follow`, server-sent events.
    Logs,
    /// The description of this surface.
    Document,
    /// A prompt, and what comes of it as server-sent events.
    Prompt,
    /// A request of the topic in the path.
    BusRequest,
    /// A publication on the topic in the path.
    BusPublish,
}

#[derive(Debug)]
pub struct Route {
    pub method: &'static str,
    /// Segments after a `/`; `{name}` is a parameter of one segment, `{+name}` at the end one of one or more.
    pub template: &'static str,
    pub auth: Auth,
    pub query: &'static [(&'static str, Value)],
    pub body: Body,
    pub action: Action,
}

const PAGE: &[(&str, Value)] = &[("after", Value::Text), ("limit", Value::Number)];
const LOGS: &[(&str, Value)] = &[
    ("capsule", Value::Text),
    ("level", Value::Text),
    ("since", Value::Number),
    ("after", Value::Number),
    ("limit", Value::Number),
    ("follow", Value::Flag),
];
const LOAD: &[(&str, Value)] = &[("limit", Value::Number)];
const AUDIT: &[(&str, Value)] = &[
    ("since", Value::Number),
    ("until", Value::Number),
    ("method", Value::Text),
    ("principal", Value::Text),
    ("outcome", Value::Text),
    ("limit", Value::Number),
    ("cursor", Value::Number),
    ("from", Value::Number),
    ("format", Value::Text),
];
const PROOFS: &[(&str, Value)] = &[("from", Value::Number), ("size", Value::Number), ("limit", Value::Number)];
const ABOUT: &[(&str, Value)] = &[("principal", Value::Text)];
const CHECK: &[(&str, Value)] = &[("capability", Value::Text)];
const REMOVE: &[(&str, Value)] = &[("purge", Value::Flag)];
const REQUEST: &[(&str, Value)] = &[("target", Value::Text), ("timeout_ms", Value::Number)];
const PUBLISH: &[(&str, Value)] = &[("target", Value::Text)];

const fn route(
    method: &'static str,
    template: &'static str,
    auth: Auth,
    query: &'static [(&'static str, Value)],
    body: Body,
    action: Action,
) -> Route {
    Route { method, template, auth, query, body, action }
}

#[rustfmt::skip]
pub const ROUTES: [Route; 73] = {
    use Action::{About, BusPublish, BusRequest, Bytes, Change, Document, Events, Listed, Logs, Me, Nearest, Presented, Prompt, Topic};
    use Auth::{Attempt, Bearer, Public};
    use Body::{Json, JsonOrNothing, Nothing};
    [
        route("GET",    "/api/openapi.json",              Public, &[],     Nothing,       Document),
        route("GET",    "/api/distribution",              Public, &[],     Nothing,       Topic("system.v1.distribution.show", 200)),
        route("GET",    "/api/distribution/onboarding",   Public, &[],     Nothing,       Topic("system.v1.distribution.onboarding", 200)),
        route("POST",   "/api/auth/redeem",               Attempt, &[],    Json,          Topic("identity.v1.invite.redeem", 200)),
        route("GET",    "/api/auth/me",                   Bearer, &[],     Nothing,       Me),
        route("POST",   "/api/auth/pair-device",          Bearer, &[],     JsonOrNothing, About("identity.v1.device.pair", 200)),
        route("POST",   "/api/auth/pair-device/redeem",   Attempt, &[],    Json,          Topic("identity.v1.device.redeem", 200)),
        route("POST",   "/api/auth/challenge",            Attempt, &[],    Json,          Topic("identity.v1.login.challenge", 200)),
        route("POST",   "/api/auth/login",                Attempt, &[],    Json,          Topic("identity.v1.login", 200)),
        route("GET",    "/api/sys/principals/{principal}/devices", Bearer, &[], Nothing,  About("identity.v1.device.list", 200)),
        route("DELETE", "/api/sys/principals/{principal}/devices/{fingerprint}", Bearer, &[], Nothing, About("identity.v1.device.remove", 204)),
        route("GET",    "/api/sys/principals/{principal}/certificates", Bearer, &[], Nothing, About("identity.v1.certificate.list", 200)),
        route("POST",   "/api/sys/principals/{principal}/certificates", Bearer, &[], Json, About("identity.v1.certificate.bind", 201)),
        route("DELETE", "/api/sys/principals/{principal}/certificates/{fingerprint}", Bearer, &[], Nothing, About("identity.v1.certificate.remove", 204)),
        route("GET",    "/api/approvals",                 Bearer, &[],     Nothing,       About("identity.v1.approval.list", 200)),
        route("POST",   "/api/approvals/{id}",            Bearer, &[],     Json,          About("identity.v1.approval.answer", 200)),
        route("DELETE", "/api/approvals/{id}",            Bearer, &[],     Nothing,       About("identity.v1.approval.withdraw", 204)),
        route("POST",   "/api/auth/refresh",              Bearer, &[],     JsonOrNothing, Presented("identity.v1.session.refresh", 200)),
        route("DELETE", "/api/auth/session",              Bearer, &[],     Nothing,       Presented("identity.v1.session.end", 204)),
        route("POST",   "/api/sys/sessions/rotate",       Bearer, &[],     JsonOrNothing, Topic("identity.v1.session.rotate", 200)),
        route("GET",    "/api/sys/invites",               Bearer, PAGE,    Nothing,       Topic("identity.v1.invite.list", 200)),
        route("POST",   "/api/sys/invites",               Bearer, &[],     Json,          Topic("identity.v1.invite.issue", 200)),
        route("DELETE", "/api/sys/invites/{fingerprint}", Bearer, &[],     Nothing,       Topic("identity.v1.invite.revoke", 204)),
        route("GET",    "/api/sys/principals",            Bearer, PAGE,    Nothing,       Listed("identity.v1.principal.list")),
        route("POST",   "/api/sys/principals",            Bearer, &[],     Json,          Topic("identity.v1.principal.create", 201)),
        route("GET",    "/api/sys/principals/{principal}", Bearer, &[],    Nothing,       About("identity.v1.principal.show", 200)),
        route("PATCH",  "/api/sys/principals/{principal}", Bearer, &[],    Json,          Change("identity.v1.principal.modify", 200)),
        route("DELETE", "/api/sys/principals/{principal}", Bearer, &[],    Nothing,       Change("identity.v1.principal.delete", 204)),
        route("POST",   "/api/sys/principals/{principal}/enable",  Bearer, &[], JsonOrNothing, Change("identity.v1.principal.enable", 200)),
        route("POST",   "/api/sys/principals/{principal}/disable", Bearer, &[], JsonOrNothing, Change("identity.v1.principal.disable", 200)),
        route("GET",    "/api/sys/principals/{principal}/caps",   Bearer, &[], Nothing,   About("identity.v1.caps.show", 200)),
        route("POST",   "/api/sys/principals/{principal}/caps",   Bearer, &[], Json,      Change("identity.v1.caps.grant", 200)),
        route("DELETE", "/api/sys/principals/{principal}/caps",   Bearer, &[], Json,      Change("identity.v1.caps.revoke", 204)),
        route("GET",    "/api/sys/principals/{principal}/caps/check", Bearer, CHECK, Nothing, About("identity.v1.caps.check", 200)),
        route("GET",    "/api/sys/groups",                Bearer, PAGE,    Nothing,       Listed("identity.v1.group.list")),
        route("POST",   "/api/sys/groups",                Bearer, &[],     Json,          Topic("identity.v1.group.create", 201)),
        route("GET",    "/api/sys/groups/{name}",         Bearer, &[],     Nothing,       Topic("identity.v1.group.show", 200)),
        route("PATCH",  "/api/sys/groups/{name}",         Bearer, &[],     Json,          Change("identity.v1.group.modify", 200)),
        route("DELETE", "/api/sys/groups/{name}",         Bearer, &[],     Nothing,       Change("identity.v1.group.delete", 204)),
        route("GET",    "/api/sys/principals/{principal}/quotas", Bearer, &[], Nothing,   About("identity.v1.quota.get", 200)),
        route("PUT",    "/api/sys/principals/{principal}/quotas", Bearer, &[], Json,      Change("identity.v1.quota.set", 200)),
        route("GET",    "/api/sys/principals/{principal}/usage",  Bearer, &[], Nothing,   About("system.v1.usage", 200)),
        route("GET",    "/api/sys/processes",             Bearer, &[],     Nothing,       Listed("system.v1.process.list")),
        route("POST",   "/api/sys/processes/{process}/stop", Bearer, &[],  JsonOrNothing, Nearest("system.v1.process.stop", 204)),
        route("GET",    "/api/sys/status",                Bearer, &[],     Nothing,       Topic("system.v1.status", 200)),
        route("GET",    "/api/sys/logs",                  Bearer, LOGS,    Nothing,       Logs),
        route("GET",    "/api/sys/audit",                 Bearer, AUDIT,   Nothing,       Topic("audit.v1.query", 200)),
        route("GET",    "/api/sys/audit/checkpoint",      Bearer, &[],     Nothing,       Bytes("audit.v1.checkpoint", "text/plain; charset=utf-8")),
        route("GET",    "/api/sys/audit/proofs",          Bearer, PROOFS,  Nothing,       Topic("audit.v1.proofs", 200)),
        route("GET",    "/api/sys/audit/tile/{+path}",    Bearer, &[],     Nothing,       Bytes("audit.v1.tile", "application/octet-stream")),
        route("GET",    "/api/events",                    Bearer, &[],     Nothing,       Events),
        route("POST",   "/api/agent/prompt",              Bearer, &[],     Json,          Prompt),
        route("GET",    "/api/sys/capabilities",          Bearer, &[],     Nothing,       Topic("system.v1.capabilities", 200)),
        route("GET",    "/api/sys/config",                Bearer, &[],     Nothing,       Topic("system.v1.config", 200)),
        route("POST",   "/api/sys/config/reload",         Bearer, &[],     JsonOrNothing, Topic("system.v1.config.reload", 200)),
        route("GET",    "/api/sys/load",                  Bearer, LOAD,    Nothing,       Topic("system.v1.load", 200)),
        route("POST",   "/api/sys/shutdown",              Bearer, &[],     JsonOrNothing, Topic("system.v1.shutdown", 202)),
        route("GET",    "/api/capsules",                  Bearer, &[],     Nothing,       Topic("system.v1.capsule.list", 200)),
        route("POST",   "/api/capsules",                  Bearer, &[],     Json,          Topic("system.v1.capsule.install", 200)),
        route("GET",    "/api/capsules/{capsule}",             Bearer, &[],     Nothing,       Topic("system.v1.capsule.show", 200)),
        route("DELETE", "/api/capsules/{capsule}",             Bearer, REMOVE,  Nothing,       Topic("system.v1.capsule.remove", 204)),
        route("POST",   "/api/capsules/{capsule}/rollback",    Bearer, &[],     JsonOrNothing, Change("system.v1.capsule.rollback", 200)),
        route("POST",   "/api/capsules/{capsule}/swap",        Bearer, &[],     JsonOrNothing, Change("system.v1.capsule.swap", 200)),
        route("GET",    "/api/capsules/{capsule}/history",     Bearer, &[],     Nothing,       Topic("system.v1.capsule.history", 200)),
        route("POST",   "/api/sys/capsules/reload",       Bearer, &[],     JsonOrNothing, Topic("system.v1.capsule.reload", 204)),
        route("POST",   "/api/sys/capsules/gc",           Bearer, &[],     JsonOrNothing, Topic("system.v1.capsule.gc", 200)),
        route("POST",   "/api/sys/distro/apply",          Bearer, &[],     JsonOrNothing, Topic("system.v1.distro.apply", 200)),
        route("GET",    "/api/capsules/{capsule}/topics", Bearer, &[],     Nothing,       Topic("system.v1.capsule.topics", 200)),
        route("GET",    "/api/capsules/{capsule}/env",         Bearer, ABOUT,   Nothing,       About("system.v1.env.get", 200)),
        route("POST",   "/api/capsules/{capsule}/env/{field}", Bearer, ABOUT,   Json,          About("system.v1.env.set", 204)),
        route("DELETE", "/api/capsules/{capsule}/env/{field}", Bearer, ABOUT,   Nothing,       About("system.v1.env.clear", 204)),
        route("POST",   "/api/bus/request/{topic}",       Bearer, REQUEST, Json,          BusRequest),
        route("POST",   "/api/bus/publish/{topic}",       Bearer, PUBLISH, Json,          BusPublish),
    ]
};

/// A route, and the path's parameters as they stand on the wire.
#[derive(Debug)]
pub struct Matched<'p> {
    pub route: &'static Route,
    pub parameters: Vec<(&'static str, &'p str)>,
}

#[derive(Debug)]
pub enum Found<'p> {
    Route(Matched<'p>),
    /// `OPTIONS` on a path that exists: the value of `Allow`.
    Options(String),
}

/// 404 if no template fits the path, 405 if none of those that do has the method. `HEAD` is `GET`.
pub fn find<'p>(method: &str, path: &'p str) -> Result<Found<'p>, Problem> {
    let wanted = if method == "HEAD" { "GET" } else { method };
    let mut methods = Vec::new();
    for route in &ROUTES {
        let Some(parameters) = parameters(route.template, path) else { continue };
        if route.method == wanted {
            return Ok(Found::Route(Matched { route, parameters }));
        }
        methods.push(route.method);
    }
    if methods.is_empty() {
        return Err(Problem::not_found("nothing is served at this path"));
    }
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.push("OPTIONS");
    let allow = methods.join(", ");
    if method == "OPTIONS" { Ok(Found::Options(allow)) } else { Err(Problem::method_not_allowed(allow)) }
}

/// The parameters if the path fits: the same literal segments, and something for each parameter.
fn parameters<'p>(template: &'static str, path: &'p str) -> Option<Vec<(&'static str, &'p str)>> {
    if let Some((template, last)) = template.split_once("{+") {
        let (name, rest) = (last.strip_suffix('}')?, path.strip_prefix(template)?);
        return rest.split('/').all(|segment| !segment.is_empty()).then(|| vec![(name, rest)]);
    }
    let mut parameters = Vec::new();
    let mut segments = path.split('/');
    for want in template.split('/') {
        let have = segments.next()?;
        match want.strip_prefix('{').and_then(|want| want.strip_suffix('}')) {
            Some(name) if !have.is_empty() => parameters.push((name, have)),
            None if have == want => {}
            _ => return None,
        }
    }
    segments.next().is_none().then_some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &str, path: &str) -> u16 {
        match find(method, path) {
            Ok(Found::Route(_)) => 200,
            Ok(Found::Options(_)) => 204,
            Err(problem) => problem.kind.status(),
        }
    }

    fn matched<'p>(method: &str, path: &'p str) -> Matched<'p> {
        match find(method, path) {
            Ok(Found::Route(matched)) => matched,
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    #[test]
    fn every_route_is_found_at_its_own_path() {
        for route in &ROUTES {
            let path = route.template.replace(['{', '+', '}'], "");
            let found = matched(route.method, &path).route;
            assert_eq!((found.method, found.template), (route.method, route.template));
        }
    }

    #[test]
    fn without_a_session_there_are_only_attempts_at_one_and_what_the_host_says_of_itself() {
        let of = |auth| ROUTES.iter().filter(move |r| r.auth == auth).map(|r| r.template).collect::<Vec<_>>();
        let attempts = ["/api/auth/redeem", "/api/auth/pair-device/redeem", "/api/auth/challenge", "/api/auth/login"];
        assert_eq!(of(Auth::Attempt), attempts);
        let open = ["/api/openapi.json", "/api/distribution", "/api/distribution/onboarding"];
        assert_eq!(of(Auth::Public), open);
        assert!(ROUTES.iter().all(|route| route.auth != Auth::Public || route.method == "GET"));
    }

    #[test]
    fn parameters_come_as_they_stand_on_the_wire() {
        assert_eq!(matched("DELETE", "/api/sys/invites/a%2Fb").parameters, [("fingerprint", "a%2Fb")]);
        assert_eq!(matched("POST", "/api/bus/request/echo.v1.say").parameters, [("topic", "echo.v1.say")]);
        let tile = "/api/sys/audit/tile/entries/x001/234.p/5";
        assert_eq!(matched("GET", tile).parameters, [("path", "entries/x001/234.p/5")]);
    }

    #[test]
    fn what_is_no_path_of_ours_is_404_whatever_the_method() {
        for path in [
            "",
            "/",
            "/api",
            "/api/",
            "/api/auth/me/",
            "//api/auth/me",
            "/api//auth/me",
            "/api/auth/Me",
            "/api/auth/m%65",
            "/api/sys/invites/",
            "/api/sys/invites/a/",
            "/api/sys/invites/a/b",
            "/api/bus/request",
            "/api/bus/request/",
            "/api/bus/other/a",
            "/api/sys/audit/tile",
            "/api/sys/audit/tile/",
            "/api/sys/audit/tile/0//000",
            "/api/sys/audit/tile/0/000/",
            "/api/../api/auth/me",
            "/apiauth/me",
        ] {
            for method in ["GET", "OPTIONS", "BREW"] {
                assert_eq!(status(method, path), 404, "{method} {path}");
            }
        }
    }

    #[test]
    fn a_known_path_with_another_method_says_which_it_takes() {
        for (method, path, want) in [
            ("DELETE", "/api/sys/invites", "GET, POST, HEAD, OPTIONS"),
            ("GET", "/api/sys/invites/a", "DELETE, OPTIONS"),
            ("HEAD", "/api/auth/redeem", "POST, OPTIONS"),
            ("get", "/api/auth/me", "GET, HEAD, OPTIONS"),
            ("TRACE", "/api/auth/me", "GET, HEAD, OPTIONS"),
        ] {
            let problem = find(method, path).unwrap_err();
            assert_eq!((problem.kind.status(), problem.allow.as_deref()), (405, Some(want)), "{method} {path}");
        }
    }

    #[test]
    fn head_is_get_and_options_lists_the_methods() {
        assert_eq!(matched("HEAD", "/api/auth/me").route.method, "GET");
        assert!(
            matches!(find("OPTIONS", "/api/capsules"), Ok(Found::Options(allow)) if allow == "GET, POST, HEAD, OPTIONS")
        );
    }
}
