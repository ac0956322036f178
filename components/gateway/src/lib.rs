//! The HTTP surface: routes, shapes and statuses, and nothing else.
//!
//! A request is looked up ([`routes`]), its credential turned into a session by the host, its parts checked and made
//! into a plan ([`plan`]), and the plan is one or two messages on the bus. Who may do what is decided at the other
//! end: by what the bindings require and what the handlers refuse. The order of the checks is the order of
//! [`answer`]: path, method, credential or how often an address may try without one ([`throttle`]), parameters and query,
//! content type, body. Which pages of other origins may read the answer, [`cors`] says last.
//!
//! What the bus says is passed on as JSON with the status of [`errors`]; [`respond`] adds the headers that every
//! response has. Answers that go on ([`events`], [`logs`], [`prompt`]) are server-sent events, as [`sse`] writes them.

pub mod cors;
pub mod credential;
pub mod errors;
pub mod events;
pub mod logs;
pub mod openapi;
pub mod plan;
pub mod prompt;
pub mod respond;
pub mod routes;
pub mod sse;
pub mod throttle;
pub mod uri;

use astrid_sdk::authority::{self, Session};
use astrid_sdk::bus::{self, Failure, Options};
use astrid_sdk::http::{Event, Output, Request, Response};
use astrid_sdk::{env, limit, log};

use cors::Origins;
use errors::{Asked, Problem};
use logs::Follower;
use plan::Plan;
use prompt::Followed;
use routes::{Auth, Found};
use throttle::Rate;

fn serve(request: Request) -> Response {
    let found = routes::find(&request.method, &request.path);
    let route = if let Ok(Found::Route(matched)) = &found { Some(matched.route.template) } else { None };
    let response = found.and_then(|found| answer(found, &request)).unwrap_or_else(Problem::into_response);
    let response = respond::finished(response, request.connection.tls);
    let response = route.into_iter().fold(response, Response::with_route);
    let origins = setting(cors::FIELD).unwrap_or_default();
    match Origins::read(&origins) {
        Ok(origins) => origins.apply(&request, response),
        Err(why) => {
            log::error!("no other origin is let in: {why}");
            response
        }
    }
}

/// Refuses to start where a field of the distribution can't be read.
fn start() -> Result<(), String> {
    Origins::read(&setting(cors::FIELD).unwrap_or_default())?;
    Rate::read(setting(throttle::INTERVAL).as_deref(), setting(throttle::BURST).as_deref())?;
    prompt::idle(setting(prompt::IDLE).as_deref())?;
    Ok(())
}

/// What the distribution, else the manifest says.
fn setting(field: &str) -> Option<String> {
    env::get(field).unwrap_or_else(|error| {
        log::error!("{field} can't be read: {error:?}");
        None
    })
}

/// How long a prompt's stream waits, in seconds.
fn prompt_idle() -> u64 {
    prompt::idle(setting(prompt::IDLE).as_deref()).unwrap_or_else(|why| {
        log::error!("a prompt's stream waits as long as usual: {why}");
        prompt::USUAL_IDLE_SECS
    })
}

/// Counts an attempt or a look by somebody who has no credential yet.
fn throttled(request: &Request, auth: Auth) -> Result<(), Problem> {
    let Some(key) = throttle::key(&request.connection) else { return Ok(()) };
    let rate = Rate::read(setting(throttle::INTERVAL).as_deref(), setting(throttle::BURST).as_deref());
    let rate = rate.unwrap_or_else(|why| {
        log::error!("the limit on public routes is the default: {why}");
        Some(Rate::DEFAULT)
    });
    let Some(rate) = rate else { return Ok(()) };
    let (key, rate) = match auth {
        Auth::Public => (format!("look {key}"), rate.of_looks()),
        Auth::Attempt | Auth::Bearer => (key, rate),
    };
    match limit::take(&key, rate.interval_ms, rate.burst) {
        Ok(()) => Ok(()),
        Err(limit::Refusal::Later(milliseconds)) => Err(Problem::rate_limited(milliseconds)),
        Err(limit::Refusal::Invalid(why)) => Err(Problem::internal(why)),
    }
}

fn answer(found: Found<'_>, request: &Request) -> Result<Response, Problem> {
    let matched = match found {
        Found::Route(matched) => matched,
        Found::Options(allow) => return Ok(Response::new(204).with_header("allow", allow)),
    };
    let session = match matched.route.auth {
        auth @ (Auth::Public | Auth::Attempt) => {
            throttled(request, auth)?;
            None
        }
        Auth::Bearer => Some(session(request)?),
    };
    let plan = plan::of(&matched, request)?;
    match session {
        None => anonymously(plan),
        Some(session) => on_behalf(&session, request, plan),
    }
}

fn session(request: &Request) -> Result<Session, Problem> {
    let credential = credential::of(request).ok_or_else(Problem::unauthorized)?;
    authority::authenticate(&credential).map_err(errors::of_rejection)
}

fn anonymously(plan: Plan) -> Result<Response, Problem> {
    match plan {
        Plan::Request { topic, payload, success } => {
            let answer = bus::request_raw(topic, &payload, &Options::default());
            Ok(respond::answered(success, answer.map_err(|failure| errors::of_public_failure(failure, topic))?))
        }
        Plan::Document => Ok(respond::bytes("application/json", openapi::DOCUMENT.into())),
        Plan::About { .. }
        | Plan::Me
        | Plan::Nearest { .. }
        | Plan::Bytes { .. }
        | Plan::Events { .. }
        | Plan::Logs { .. }
        | Plan::Prompt(_)
        | Plan::BusRequest { .. }
        | Plan::BusPublish { .. } => Err(Problem::unauthorized()),
    }
}

fn on_behalf(session: &Session, request: &Request, plan: Plan) -> Result<Response, Problem> {
    let own = |topic| move |failure| errors::of_failure(failure, Asked::OwnTopic(topic));
    let named = |topic| move |failure| errors::of_failure(failure, Asked::NamedTopic(topic));
    match plan {
        Plan::Request { topic, payload, success } => {
            let answer = session.request(topic, &payload, &Options::default()).map_err(own(topic))?;
            Ok(respond::answered(success, answer))
        }
        Plan::About { topic, payload, success, principal } => {
            let target = Some(principal.unwrap_or_else(|| session.principal()));
            let options = Options { target, ..Options::default() };
            let answer = session.request(topic, &payload, &options).map_err(own(topic))?;
            Ok(respond::answered(success, answer))
        }
        Plan::Me => {
            let answer = session.request(plan::ME, b"{}", &Options::default()).map_err(own(plan::ME))?;
            respond::me(&answer, session.expires_at())
        }
        Plan::Nearest { topic, payload, success } => {
            let answer = nearest(session, topic, &payload).map_err(own(topic))?;
            Ok(respond::answered(success, answer))
        }
        Plan::Bytes { topic, payload, content_type } => {
            let pieces = session.pieces(topic, &payload, &Options::default());
            let bytes = pieces.collect::<Result<Vec<_>, _>>().map_err(own(topic))?.concat();
            Ok(respond::bytes(content_type, bytes))
        }
        Plan::Events { from } => events::open(session, from),
        Plan::Logs { query, from } => logs::open(session, query, from),
        Plan::Document => Ok(respond::bytes("application/json", openapi::DOCUMENT.into())),
        Plan::Prompt(prompt) => prompt.open(session, request, prompt_idle()),
        Plan::BusRequest { topic, payload, options } => {
            require(session, "bus:request")?;
            let answer = session.request(&topic, &payload, &options).map_err(named(&topic))?;
            Ok(respond::answered(200, answer))
        }
        Plan::BusPublish { topic, payload, target } => {
            require(session, "bus:publish")?;
            let delivered = session.publish(&topic, &payload, target.as_deref()).map_err(named(&topic))?;
            Ok(respond::delivered(delivered))
        }
    }
}

/// About everybody, or, if that is denied, about the caller: for that the self form of the capability is enough.
fn nearest(session: &Session, topic: &str, payload: &[u8]) -> Result<Vec<u8>, Failure> {
    match session.request(topic, payload, &Options::default()) {
        Err(Failure::Denied(_)) => {
            let options = Options { target: Some(session.principal()), ..Options::default() };
            session.request(topic, payload, &options)
        }
        answer => answer,
    }
}

/// The bytes of a stream, of whichever kind its context is.
fn relay(context: Vec<u8>, events: Vec<Event>) -> Output {
    if let Some(followed) = Followed::read(&context) {
        return followed.relay(events);
    }
    match Follower::read(&context) {
        Some(follower) => follower.relay(events),
        None => events::relay(context, events),
    }
}

/// The rule that no binding can state: any topic may be named on `/api/bus`, so the route itself needs a capability.
fn require(session: &Session, capability: &str) -> Result<(), Problem> {
    if session.holds(capability, None) { Ok(()) } else { Err(Problem::forbidden(format!("requires {capability}"))) }
}

astrid_sdk::front_end!(serve);
astrid_sdk::starter!(start);
astrid_sdk::relay!(relay);
