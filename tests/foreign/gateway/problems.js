// Answers that are no success, and what becomes of the host's and the handlers' failures.

const STATUSES = {
    bad_request: 400,
    unauthorized: 401,
    forbidden: 403,
    not_found: 404,
    method_not_allowed: 405,
    conflict: 409,
    payload_too_large: 413,
    unsupported_media_type: 415,
    internal: 500,
    unavailable: 502,
    overloaded: 503,
    timeout: 504,
};

const REFUSALS = {
    invalid: "bad_request",
    denied: "forbidden",
    "not-found": "not_found",
    conflict: "conflict",
    unavailable: "unavailable",
    internal: "internal",
};

export class Problem {
    constructor(error, reason, headers = {}, more = {}) {
        this.status = STATUSES[error];
        this.body = { error, reason, ...more };
        this.headers = headers;
    }
}

/** The error of a function of the host, as its WIT has it. Anything else is a fault of this program. */
export function thrown(error) {
    if (!Object.hasOwn(error, "payload")) throw error;
    return error.payload;
}

/** A 401 never says why. */
export function unauthorized() {
    return new Problem("unauthorized", undefined, { "www-authenticate": "Bearer" });
}

function overloaded(seconds) {
    const headers = { "retry-after": String(seconds) };
    return new Problem("overloaded", "no room now; try again later", headers, { retry_after_secs: seconds });
}

/** Of `sessions.authenticate`. */
export function rejected(rejection) {
    if (rejection === "rejected") return unauthorized();
    if (rejection === "overloaded") return overloaded(1);
    return new Problem("unavailable", "nobody can check credentials now");
}

/** Of a request whose topic is the route's own. */
export function problemOf({ tag, val }) {
    switch (tag) {
        case "no-responder":
            return new Problem("unavailable", "the capsule that serves this is not loaded");
        case "denied":
            return new Problem("forbidden", val);
        case "timeout":
            return new Problem("timeout", "the handler took too long");
        case "overloaded":
            return overloaded(Math.max(1, Math.ceil(val / 1000)));
        case "too-large":
            return new Problem("payload_too_large", `the payload or the answer has more than ${val} bytes`);
        case "invalid":
            return new Problem("bad_request", val);
        case "refused":
            return new Problem(REFUSALS[val.code], val.reason);
        default:
            return new Problem("unavailable", "the handler died");
    }
}
