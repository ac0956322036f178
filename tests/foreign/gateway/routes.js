// What the command line needs of the host's HTTP surface, and no more.

import { Problem } from "./problems.js";
import { unescaped } from "./text.js";

// What becomes of a request: `plain` is one message with the fields of path, query and body; `about` has the principal in
// the path as its target; `listed` is about everybody, or about the caller for whoever may not see that; `me` adds the end
// of the session; `bus` names its topic itself; `public` needs no session. The last is the status of a success.
const ROUTES = [
    ["POST", "/api/auth/redeem", "public", "identity.v1.invite.redeem", 200],
    ["GET", "/api/auth/me", "me", "identity.v1.me", 200],
    ["GET", "/api/sys/invites", "plain", "identity.v1.invite.list", 200],
    ["POST", "/api/sys/invites", "plain", "identity.v1.invite.issue", 200],
    ["DELETE", "/api/sys/invites/{fingerprint}", "plain", "identity.v1.invite.revoke", 204],
    ["GET", "/api/sys/principals", "listed", "identity.v1.principal.list", 200],
    ["GET", "/api/sys/principals/{principal}", "about", "identity.v1.principal.show", 200],
    ["GET", "/api/sys/principals/{principal}/caps", "about", "identity.v1.caps.show", 200],
    ["GET", "/api/sys/principals/{principal}/caps/check", "about", "identity.v1.caps.check", 200],
    ["GET", "/api/sys/status", "plain", "system.v1.status", 200],
    ["GET", "/api/sys/logs", "plain", "system.v1.logs", 200],
    ["GET", "/api/capsules", "plain", "system.v1.capsule.list", 200],
    ["POST", "/api/capsules", "plain", "system.v1.capsule.install", 200],
    ["GET", "/api/capsules/{capsule}/history", "plain", "system.v1.capsule.history", 200],
    ["POST", "/api/capsules/{capsule}/rollback", "plain", "system.v1.capsule.rollback", 200],
    ["POST", "/api/bus/request/{topic}", "bus", null, 200],
].map(([method, template, kind, topic, success]) => ({ method, segments: template.split("/"), kind, topic, success }));

/** The route of a request and the parameters of its path; throws a 404 or a 405. */
export function found(method, path) {
    const segments = path.split("/");
    const allowed = [];
    for (const route of ROUTES) {
        const parameters = fitting(route.segments, segments);
        if (parameters === null) continue;
        if (route.method === method) return { route, parameters };
        allowed.push(route.method);
    }
    if (allowed.length === 0) throw new Problem("not_found", "nothing is served at this path");
    const allow = allowed.join(", ");
    throw new Problem("method_not_allowed", `this path takes ${allow}`, { allow });
}

function fitting(wanted, segments) {
    if (wanted.length !== segments.length) return null;
    const parameters = {};
    for (const [n, want] of wanted.entries()) {
        if (!want.startsWith("{")) {
            if (want !== segments[n]) return null;
            continue;
        }
        if (segments[n] === "") return null;
        const value = unescaped(segments[n]);
        // Somebody behind this might take it for two segments.
        if (value.includes("/")) throw new Problem("bad_request", "a parameter of the path has a / in it");
        parameters[want.slice(1, -1)] = value;
    }
    return parameters;
}
