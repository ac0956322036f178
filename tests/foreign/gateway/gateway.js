// A gateway in JavaScript: enough of the host's HTTP surface for the command line.
//
// A request is looked up, its credential made a session by the host, and sent on as one message. Who may do what is
// decided at the other end.

import sessions from "astrid:authority/sessions@0.1.0";
import bus from "astrid:bus/bus@0.1.0";
import { Problem, problemOf, rejected, thrown, unauthorized } from "./problems.js";
import { found } from "./routes.js";
import { decoded, encoded, unescaped } from "./text.js";

const HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
};

// Query keys whose values are numbers.
const NUMBERS = ["after", "limit", "timeout_ms"];

export const handler = {
    handle(request) {
        try {
            return answered(request);
        } catch (problem) {
            if (!(problem instanceof Problem)) throw problem;
            return response(problem.status, json(problem.body), problem.headers);
        }
    },
};

function answered(request) {
    const { route, parameters } = found(request.method, request.path);
    const session = route.kind === "public" ? null : authenticated(request);
    const fields = { ...parameters, ...queried(request.query) };
    const body = bodyOf(request);
    switch (route.kind) {
        case "public":
            return response(route.success, redeemed(route.topic, joined(fields, body)));
        case "bus":
            return response(route.success, onBus(session, fields, body));
        case "me": {
            const me = JSON.parse(decoded(asked(session, route.topic, encoded("{}"), null)));
            return response(route.success, json({ ...me, expires_at_epoch: session.expiresAt() }));
        }
        case "listed":
            return response(route.success, listed(session, route.topic, joined(fields, body)));
        case "about": {
            const { principal, ...rest } = fields;
            return response(route.success, asked(session, route.topic, joined(rest, body), principal));
        }
        default:
            return response(route.success, asked(session, route.topic, joined(fields, body), null));
    }
}

function response(status, body, headers = {}) {
    const all = { ...HEADERS, ...headers };
    if (body.length > 0) all["content-type"] = "application/json";
    return {
        status,
        headers: Object.entries(all).map(([name, value]) => [name, encoded(value)]),
        body: status === 204 ? new Uint8Array() : body,
        relay: null,
        route: null,
    };
}

function json(value) {
    return encoded(JSON.stringify(value));
}

function values(request, wanted) {
    return request.headers.filter(([name]) => name === wanted).map(([, value]) => String.fromCharCode(...value));
}

function authenticated(request) {
    const credential = credentialOf(request);
    if (credential === null) throw unauthorized();
    try {
        return sessions.authenticate(credential);
    } catch (error) {
        throw rejected(thrown(error));
    }
}

/** A header that does not read is never passed over in favour of the connection. */
function credentialOf(request) {
    const given = values(request, "authorization");
    const { unixUid, certificate } = request.connection;
    const proves = (unixUid ?? certificate ?? null) !== null;
    if (given.length === 0) return proves ? { tag: "connection" } : null;
    const bearer = given.length === 1 ? /^bearer +([A-Za-z0-9._~+/-]+=*) *$/i.exec(given[0]) : null;
    return bearer === null ? null : { tag: "bearer", val: bearer[1] };
}

function queried(raw) {
    const fields = {};
    for (const pair of (raw ?? "").split("&").filter((pair) => pair !== "")) {
        const [key, value = ""] = pair.split("=", 2).map((part) => unescaped(part.replaceAll("+", " ")));
        if (Object.hasOwn(fields, key)) throw new Problem("bad_request", `query key ${key} stands twice`);
        fields[key] = NUMBERS.includes(key) && /^[0-9]{1,15}$/.test(value) ? Number(value) : value;
    }
    return fields;
}

/** The body's text, checked to be JSON; null if there is none. */
function bodyOf(request) {
    if (request.body.length === 0) return null;
    const types = values(request, "content-type");
    if (types.length !== 1 || !/^application\/json *(;|$)/i.test(types[0])) {
        throw new Problem("unsupported_media_type", "the body must have content-type application/json");
    }
    try {
        const text = decoded(request.body);
        JSON.parse(text);
        return text.trim();
    } catch {
        throw new Problem("bad_request", "the body is not JSON");
    }
}

/** The fields of path and query, and behind them those of the body as they stand there, so that numbers stay what they are. */
function joined(fields, body) {
    const own = JSON.stringify(fields);
    if (body === null) return encoded(own);
    if (!body.startsWith("{")) throw new Problem("bad_request", "the body must be a JSON object");
    if (own === "{}") return encoded(body);
    const rest = body.slice(1).trim();
    return encoded(own.slice(0, -1) + (rest === "}" ? "" : ",") + rest);
}

function asked(session, topic, payload, target) {
    try {
        return session.request(topic, payload, { target, timeoutMs: 0 });
    } catch (error) {
        throw problemOf(thrown(error));
    }
}

/** Everything, or, if that is denied, what is about the caller. */
function listed(session, topic, payload) {
    try {
        return session.request(topic, payload, { target: null, timeoutMs: 0 });
    } catch (error) {
        const failure = thrown(error);
        if (failure.tag !== "denied") throw problemOf(failure);
        return asked(session, topic, payload, session.principal());
    }
}

/** By `anonymous`. The body is the credential: one that is denied is not valid. */
function redeemed(topic, payload) {
    try {
        return bus.request(topic, payload, { target: null, timeoutMs: 0 });
    } catch (error) {
        const failure = thrown(error);
        throw failure.tag === "refused" && failure.val.code === "denied" ? unauthorized() : problemOf(failure);
    }
}

/** Any topic may be named here, so the way itself needs a capability. */
function onBus(session, { topic, target = null, timeout_ms: timeoutMs = 0 }, body) {
    if (!session.holds("bus:request", null)) throw new Problem("forbidden", "requires bus:request");
    try {
        return session.request(topic, encoded(body ?? "{}"), { target, timeoutMs });
    } catch (error) {
        const failure = thrown(error);
        if (failure.tag === "no-responder") throw new Problem("not_found", "nothing handles this topic");
        throw problemOf(failure);
    }
}
