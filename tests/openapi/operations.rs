//! What no type and no table says of a route: its name for programs, what it is for, what its handler refuses beside what
//! every route may, and an example of each thing that goes in and out.

use serde_json::{Value, json};

use Answers::{Bytes, Events, Json, Nothing, Text};

/// What comes with a success.
pub(crate) enum Answers {
    Nothing,
    /// Of the topic's answer type, else of [`Operation::own`].
    Json(Value),
    Text(&'static str),
    Bytes,
    /// Server-sent events: the name of each, the schema of its data and what it says.
    Events(&'static [(&'static str, &'static str, &'static str)]),
}

/// One route of the gateway's table.
pub(crate) struct Operation {
    /// Method and template as in the table.
    pub route: &'static str,
    pub id: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub notes: &'static str,
    /// The statuses of what its handler refuses.
    pub refuses: &'static [u16],
    /// Everything that goes in: parameters, query and body together.
    pub takes: Value,
    pub answers: Answers,
    /// Of a route that is not one request of one topic: status, and the schemas of body and answer.
    pub own: Option<Own>,
}

/// What the gateway itself takes and answers.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    pub status: u16,
    pub body: Option<&'static str>,
    pub answer: Option<&'static str>,
}

impl Operation {
    fn notes(self, notes: &'static str) -> Self {
        Self { notes, ..self }
    }

    fn refuses(self, refuses: &'static [u16]) -> Self {
        Self { refuses, ..self }
    }

    fn own(self, status: u16, body: Option<&'static str>, answer: Option<&'static str>) -> Self {
        Self { own: Some(Own { status, body, answer }), ..self }
    }
}

fn op(
    route: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    takes: Value,
    answers: Answers,
) -> Operation {
    Operation { route, id, tag, summary, notes: "", refuses: &[], takes, answers, own: None }
}

/// Every tag and what it is about.
pub(crate) const TAGS: &[(&str, &str)] = &[
    ("distribution", "What a host says of itself to whoever has no session yet."),
    ("sessions", "How one becomes somebody, stays so, and stops being so."),
    ("devices", "The keys by which a principal logs in."),
    ("approvals", "What capsules ask their principals' consent for."),
    ("invites", "Who may become a principal."),
    ("principals", "On whose behalf things happen, and what they hold."),
    ("groups", "What many principals hold together."),
    ("quotas", "What a principal may use, and has used."),
    ("capsules", "What is installed, and what becomes of it."),
    ("environment", "What capsules are told from outside."),
    ("audit", "What has happened, as it was recorded."),
    ("agent", "What somebody asks the agent that is installed, and what comes of it."),
    ("host", "The host process itself."),
    ("bus", "Messages of any topic, for capsules that have no routes of their own."),
];

const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const FINGERPRINT: &str = "5f2c0a9d8e7b6143c2d1f0e9a8b7c6d5";
const HASH: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
const INVITE: &str = "astrid-inv-c2FtcGxlLXRva2VuLW5vdC1hLXJlYWwtb25lLTAwMDE";
const PAIRING: &str = "astrid-pair-YWRh.c2FtcGxlLXRva2VuLW5vdC1hLXJlYWwtb25lLTAwMDE";
const BEARER: &str = "YWRh.MTc5OTk3MTIwMA.MTgwMDAwMDAwMA.00ff";
const CHALLENGE: &str = "astrid-login:ada:1799999000:c2FtcGxl";
const SOON: u64 = 1_800_000_000;
const NOW: u64 = 1_799_971_200;

/// Every route, in the order of the table.
pub(crate) fn operations() -> Vec<Operation> {
    [
        outside(),
        sessions(),
        devices(),
        approvals(),
        invites(),
        principals(),
        groups(),
        quotas(),
        host(),
        capsules(),
        bus(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn outside() -> Vec<Operation> {
    vec![
        op("GET /api/openapi.json", "describe", "distribution", "This document", json!({}), Json(json!({ "openapi": "3.1.0" })))
            .own(200, None, Some("gateway.document")),
        op(
            "GET /api/distribution",
            "showDistribution",
            "distribution",
            "What the host is called and whether it lets others in",
            json!({}),
            Json(json!({
                "id": "notes", "name": "Notes", "description": "Notes for small teams", "homepage": "https://notes.example",
                "invites_enabled": true, "branding": { "primary_color": "#204060", "accent_color": "#fa0" },
            })),
        )
        .refuses(&[404]),
        op(
            "GET /api/distribution/onboarding",
            "showOnboarding",
            "distribution",
            "What whoever sets the host up is asked",
            json!({}),
            Json(json!({ "fields": [
                { "key": "api-key", "secret": true, "description": "The key of the model's provider" },
                { "key": "region", "secret": false, "default": "eu" },
            ] })),
        )
        .refuses(&[404]),
    ]
}

fn sessions() -> Vec<Operation> {
    let logged_in = || {
        json!({
            "principal": "ada", "public_key_fingerprint": FINGERPRINT, "session_token": BEARER,
            "session_expires_at_epoch": SOON,
        })
    };
    vec![
        op(
            "POST /api/auth/redeem",
            "redeemInvite",
            "sessions",
            "Become a principal by an invite",
            json!({ "token": INVITE, "public_key": KEY, "display_name": "Ada Lovelace" }),
            Json(json!({
                "principal": "ada-lovelace", "group": "agent", "public_key_fingerprint": FINGERPRINT,
                "session_token": BEARER, "session_expires_at_epoch": SOON,
            })),
        )
        .refuses(&[409]),
        op(
            "GET /api/auth/me",
            "whoAmI",
            "sessions",
            "Who the caller is and what it holds",
            json!({}),
            Json(json!({
                "principal": "ada", "groups": ["agent"], "capabilities": ["self:*"], "expires_at_epoch": SOON,
            })),
        )
        .own(200, None, Some("gateway.me")),
        op(
            "POST /api/auth/pair-device",
            "pairDevice",
            "devices",
            "A token for one more device of the caller",
            json!({ "expires_secs": 300, "label": "phone" }),
            Json(json!({ "token": PAIRING, "principal": "ada", "expires_at_epoch": SOON, "label": "phone" })),
        )
        .refuses(&[409]),
        op(
            "POST /api/auth/pair-device/redeem",
            "redeemPairing",
            "devices",
            "Add a device by a pair token",
            json!({ "token": PAIRING, "public_key": KEY }),
            Json(logged_in()),
        )
        .refuses(&[409]),
        op(
            "POST /api/auth/challenge",
            "requestChallenge",
            "sessions",
            "A challenge to be signed for a login",
            json!({ "principal": "ada" }),
            Json(json!({ "challenge": CHALLENGE, "expires_at_epoch": SOON })),
        )
        .notes("Answers the same whether or not there is such a principal. Good for 60 seconds and one login."),
        op(
            "POST /api/auth/login",
            "logIn",
            "sessions",
            "Begin a session by a signature",
            json!({ "principal": "ada", "challenge": CHALLENGE, "public_key": KEY, "signature": KEY.repeat(2) }),
            Json(logged_in()),
        )
        .notes("The signature is Ed25519 over the challenge as it is, in ASCII."),
        op(
            "POST /api/auth/refresh",
            "refreshSession",
            "sessions",
            "A new bearer for the one that is presented",
            json!({}),
            Json(json!({ "principal": "ada", "session_token": BEARER, "session_expires_at_epoch": SOON })),
        )
        .notes("Until seven days after the session's first bearer; the old one stays good until it expires.")
        .refuses(&[409]),
        op(
            "DELETE /api/auth/session",
            "endSession",
            "sessions",
            "End the bearer that is presented",
            json!({}),
            Nothing,
        )
        .notes("It is dead from now on, and the principal's open streams end."),
        op(
            "POST /api/sys/sessions/rotate",
            "rotateSessionKey",
            "sessions",
            "Change the key that signs bearers",
            json!({ "now": false }),
            Json(json!({ "generation": 2, "ended": false })),
        )
        .refuses(&[409]),
    ]
}

fn devices() -> Vec<Operation> {
    vec![
        op(
            "GET /api/sys/principals/{principal}/devices",
            "listDevices",
            "devices",
            "The devices of a principal",
            json!({}),
            Json(json!({ "devices": [{ "fingerprint": FINGERPRINT, "label": "phone", "added_at_epoch": NOW }] })),
        )
        .refuses(&[404]),
        op(
            "DELETE /api/sys/principals/{principal}/devices/{fingerprint}",
            "removeDevice",
            "devices",
            "Remove a device",
            json!({ "fingerprint": FINGERPRINT }),
            Nothing,
        )
        .notes("The sessions that began with it end, and the principal's open streams.")
        .refuses(&[404]),
        op(
            "GET /api/sys/principals/{principal}/certificates",
            "listCertificates",
            "devices",
            "The certificates that stand for a principal",
            json!({}),
            Json(json!({ "certificates": [{ "fingerprint": HASH, "label": "build", "added_at_epoch": NOW }] })),
        )
        .refuses(&[404]),
        op(
            "POST /api/sys/principals/{principal}/certificates",
            "bindCertificate",
            "devices",
            "Let a client certificate stand for a principal",
            json!({ "fingerprint": HASH, "label": "build", "scope": ["self:quota:get"] }),
            Json(json!({ "fingerprint": HASH, "label": "build", "scope": ["self:quota:get"], "added_at_epoch": NOW })),
        )
        .notes("Whoever shows it over TLS, and no bearer, is that principal.")
        .refuses(&[404, 409]),
        op(
            "DELETE /api/sys/principals/{principal}/certificates/{fingerprint}",
            "removeCertificate",
            "devices",
            "A certificate stands for a principal no more",
            json!({ "fingerprint": HASH }),
            Nothing,
        )
        .refuses(&[404]),
    ]
}

fn approvals() -> Vec<Operation> {
    vec![
        op(
            "GET /api/approvals",
            "listApprovals",
            "approvals",
            "What waits for the caller's answer and what it has approved",
            json!({}),
            Json(json!({
                "requests": [{
                    "id": FINGERPRINT, "capsule": "notes", "action": "delete", "resource": "/inbox",
                    "reason": "to tidy up", "asked_at_epoch": NOW, "expires_at_epoch": SOON,
                }],
                "standing": [{
                    "id": FINGERPRINT, "capsule": "notes", "action": "read", "session": false, "granted_at_epoch": NOW,
                }],
            })),
        ),
        op(
            "POST /api/approvals/{id}",
            "answerApproval",
            "approvals",
            "Answer a request",
            json!({ "id": FINGERPRINT, "decision": "approve_once" }),
            Json(json!({})),
        )
        .refuses(&[404, 409]),
        op(
            "DELETE /api/approvals/{id}",
            "withdrawApproval",
            "approvals",
            "Withdraw an approval that stands",
            json!({ "id": FINGERPRINT }),
            Nothing,
        )
        .refuses(&[404]),
    ]
}

fn invites() -> Vec<Operation> {
    vec![
        op(
            "GET /api/sys/invites",
            "listInvites",
            "invites",
            "The open invites",
            json!({ "after": FINGERPRINT, "limit": 100 }),
            Json(json!({ "invites": [{
                "token_fingerprint": FINGERPRINT, "group": "agent", "remaining_uses": 1, "expires_at_epoch": SOON,
                "issued_at_epoch": NOW, "issued_by": "default", "metadata": { "for": "Ada" },
            }] })),
        ),
        op(
            "POST /api/sys/invites",
            "issueInvite",
            "invites",
            "Issue an invite",
            json!({ "group": "agent", "max_uses": 1, "expires_secs": 86_400, "metadata": { "for": "Ada" } }),
            Json(json!({ "invite": {
                "token": INVITE, "group": "agent", "remaining_uses": 1, "expires_at_epoch": SOON,
                "metadata": { "for": "Ada" },
            } })),
        )
        .notes("The token is shown this once."),
        op(
            "DELETE /api/sys/invites/{fingerprint}",
            "revokeInvite",
            "invites",
            "Revoke an invite",
            json!({ "fingerprint": FINGERPRINT }),
            Nothing,
        )
        .refuses(&[404]),
    ]
}

fn principals() -> Vec<Operation> {
    let row = || json!({ "principal": "ada", "enabled": true, "groups": ["agent"], "grants": [], "revokes": [] });
    let enabled = |enabled: bool| Json(json!({ "principal": "ada", "enabled": enabled, "changed": true }));
    let named = || json!({ "principal": "ada" });
    let change = || json!({ "principal": "ada", "capabilities": ["capsule:list"] });
    vec![
        op(
            "GET /api/sys/principals",
            "listPrincipals",
            "principals",
            "The principals",
            json!({ "after": "ada", "limit": 100 }),
            Json(json!({ "principals": [row()], "next_after": "ada" })),
        )
        .notes("Whoever holds the `self:` form alone sees its own row."),
        op(
            "POST /api/sys/principals",
            "createPrincipal",
            "principals",
            "Make a principal",
            json!({ "name": "ada", "groups": ["agent"] }),
            Json(row()),
        )
        .refuses(&[409]),
        op(
            "GET /api/sys/principals/{principal}",
            "showPrincipal",
            "principals",
            "One principal",
            json!({}),
            Json(row()),
        )
        .refuses(&[404]),
        op(
            "PATCH /api/sys/principals/{principal}",
            "modifyPrincipal",
            "principals",
            "Change the groups of a principal",
            json!({ "principal": "ada", "add_groups": ["restricted"] }),
            Json(json!({ "principal": "ada", "groups": ["agent", "restricted"], "changed": true })),
        )
        .refuses(&[404, 409]),
        op(
            "DELETE /api/sys/principals/{principal}",
            "deletePrincipal",
            "principals",
            "Delete a principal",
            named(),
            Nothing,
        )
        .notes("Its id is never given again.")
        .refuses(&[404]),
        op(
            "POST /api/sys/principals/{principal}/enable",
            "enablePrincipal",
            "principals",
            "Enable a principal",
            named(),
            enabled(true),
        )
        .refuses(&[404]),
        op(
            "POST /api/sys/principals/{principal}/disable",
            "disablePrincipal",
            "principals",
            "Disable a principal",
            named(),
            enabled(false),
        )
        .notes("Its sessions end.")
        .refuses(&[404]),
        op(
            "GET /api/sys/principals/{principal}/caps",
            "showCapabilities",
            "principals",
            "Everything that decides what a principal may do",
            json!({}),
            Json(json!({
                "principal": "ada", "enabled": true, "groups": [{ "name": "agent", "capabilities": ["self:*"] }],
                "grants": ["capsule:list"], "revokes": [], "capabilities": ["capsule:list", "self:*"],
            })),
        )
        .refuses(&[404]),
        op(
            "POST /api/sys/principals/{principal}/caps",
            "grantCapabilities",
            "principals",
            "Grant capabilities to a principal",
            change(),
            Json(json!({ "principal": "ada", "capabilities": ["capsule:list", "self:*"] })),
        )
        .refuses(&[404]),
        op(
            "DELETE /api/sys/principals/{principal}/caps",
            "revokeCapabilities",
            "principals",
            "Revoke capabilities of a principal",
            change(),
            Nothing,
        )
        .notes("With a body, which some clients do not send with DELETE.")
        .refuses(&[404]),
        op(
            "GET /api/sys/principals/{principal}/caps/check",
            "checkCapability",
            "principals",
            "Whether a principal may do something and which rule says so",
            json!({ "capability": "capsule:list" }),
            Json(json!({
                "principal": "ada", "capability": "capsule:list", "allowed": true, "rule": "granted",
                "by": "capsule:list",
                "about_oneself": { "capability": "self:capsule:list", "allowed": true, "rule": "group", "by": "self:*", "group": "agent" },
            })),
        )
        .refuses(&[404]),
    ]
}

fn groups() -> Vec<Operation> {
    let row = || {
        json!({
            "name": "ops", "capabilities": ["capsule:list"], "description": "whoever keeps it running",
            "unsafe_admin": false, "builtin": false,
        })
    };
    vec![
        op(
            "GET /api/sys/groups",
            "listGroups",
            "groups",
            "The groups",
            json!({ "after": "ops", "limit": 100 }),
            Json(json!({ "groups": [row()] })),
        )
        .notes("Whoever holds the `self:` form alone sees the groups that it is in."),
        op(
            "POST /api/sys/groups",
            "createGroup",
            "groups",
            "Make a group",
            json!({ "name": "ops", "capabilities": ["capsule:list"], "description": "whoever keeps it running" }),
            Json(row()),
        )
        .refuses(&[409]),
        op("GET /api/sys/groups/{name}", "showGroup", "groups", "One group", json!({ "name": "ops" }), Json(row()))
            .refuses(&[404]),
        op(
            "PATCH /api/sys/groups/{name}",
            "modifyGroup",
            "groups",
            "Change a group",
            json!({ "name": "ops", "description": null }),
            Json(json!({ "name": "ops", "capabilities": ["capsule:list"], "unsafe_admin": false, "builtin": false })),
        )
        .notes("A field that is absent stays as it is; null clears.")
        .refuses(&[404, 409]),
        op(
            "DELETE /api/sys/groups/{name}",
            "deleteGroup",
            "groups",
            "Delete a group",
            json!({ "name": "ops" }),
            Nothing,
        )
        .notes("Only one that nobody is in.")
        .refuses(&[404, 409]),
    ]
}

fn quotas() -> Vec<Operation> {
    let quotas = || {
        json!({
            "max_memory_bytes": null, "max_timeout_secs": 60, "max_cpu_fuel_per_sec": null,
            "max_ipc_throughput_bytes": null, "max_storage_bytes": 104_857_600, "max_concurrent_calls": null,
            "max_background_processes": null,
        })
    };
    let answer = || Json(json!({ "principal": "ada", "quotas": quotas() }));
    vec![
        op(
            "GET /api/sys/principals/{principal}/quotas",
            "showQuotas",
            "quotas",
            "The quotas of a principal",
            json!({}),
            answer(),
        )
        .refuses(&[404]),
        op(
            "PUT /api/sys/principals/{principal}/quotas",
            "setQuotas",
            "quotas",
            "Set quotas of a principal",
            json!({ "principal": "ada", "quotas": { "max_timeout_secs": 60, "max_storage_bytes": 104_857_600 } }),
            answer(),
        )
        .notes("A field that is absent stays as it is; null is the host's default.")
        .refuses(&[404]),
        op(
            "GET /api/sys/principals/{principal}/usage",
            "showUsage",
            "quotas",
            "What a principal has used",
            json!({}),
            Json(json!({
                "principal": "ada", "cpu_fuel_consumed_total": 91_000_000, "cpu_fuel_per_sec_limit": 1_000_000_000,
                "exempt": false, "memory_bytes_limit_per_instance": 67_108_864, "memory_bytes_peak_total": 1_310_720,
                "storage_bytes_used": 4096, "storage_bytes_limit": 104_857_600, "ipc_bytes_sent_total": 2048,
                "ipc_bytes_per_sec_limit": 10_485_760, "calls_total": 12, "concurrent_calls_limit": 64,
                "wall_ms_total": 35, "timeout_secs_limit": 60, "processes_running": 1, "processes_limit": 8,
            })),
        )
        .notes("Totals begin with the host's process; what is stored is exact across restarts.")
        .refuses(&[404]),
    ]
}

fn host() -> Vec<Operation> {
    vec![
        op(
            "GET /api/sys/processes",
            "listProcesses",
            "host",
            "Sandboxed programs that capsules have started",
            json!({}),
            Json(json!({ "processes": [{
                "id": "8f14e45fceea167a", "principal": "ada", "capsule": "notes", "program": "/usr/bin/git", "started_at": NOW,
            }] })),
        )
        .notes("Everybody's, or one's own."),
        op(
            "POST /api/sys/processes/{process}/stop",
            "stopProcess",
            "host",
            "End such a program, with everything that it has started",
            json!({ "process": "8f14e45fceea167a" }),
            Nothing,
        )
        .refuses(&[404]),
        op(
            "GET /api/sys/status",
            "showStatus",
            "host",
            "Version, connections and loaded capsules",
            json!({}),
            Json(json!({
                "pid": 4711, "uptime_secs": 3600, "version": "0.1.0", "connected_clients": 2,
                "connections_by_principal": { "ada": 1, "default": 1 },
                "loaded_capsules": ["audit", "gateway", "identity", "system"],
            })),
        ),
        op(
            "GET /api/sys/logs",
            "readLogs",
            "host",
            "Log lines, oldest first",
            json!({ "capsule": "gateway", "level": "warn", "since": NOW * 1000, "after": 0, "limit": 200 }),
            Json(json!({ "lines": [{
                "sequence": 17, "time_ms": NOW * 1000, "level": "warn", "capsule": "gateway", "message": "no other origin is let in",
            }] })),
        ),
        op(
            "GET /api/sys/audit",
            "queryFacts",
            "audit",
            "Facts, newest first or from an index on",
            json!({ "since": NOW, "method": "capsule", "outcome": "ok", "limit": 100, "format": "json" }),
            Json(json!({
                "entries": [{ "index": 41, "fact": {
                    "id": "01k2x", "time": NOW * 1_000_000_000, "action": "capsule.install", "outcome": "ok",
                    "principal": "default", "capsule": "notes",
                } }],
                "next_cursor": 41, "size": 42,
            })),
        )
        .notes("One's own; everybody's with `audit:read_all`. With `from` oldest first, and not with `cursor`."),
        op(
            "GET /api/sys/audit/checkpoint",
            "readCheckpoint",
            "audit",
            "The signed checkpoint of the log",
            json!({}),
            Text("example.org/log\n42\nqINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=\n\n\u{2014} example.org/log c2FtcGxl\n"),
        )
        .notes("A signed note of C2SP tlog-checkpoint. Requires `audit:read_all`.")
        .refuses(&[404]),
        op(
            "GET /api/sys/audit/proofs",
            "proveFacts",
            "audit",
            "Facts as the log attests them, each with its inclusion proof",
            json!({ "from": 0, "size": 42, "limit": 100 }),
            Json(json!({
                "entries": [{ "index": 41, "fact": "{\"id\":\"01k2x\"}", "proof": ["qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs="] }],
                "size": 42,
            })),
        )
        .notes("One's own; everybody's with `audit:read_all`. Without `size` the newest checkpoint comes with them.")
        .refuses(&[404]),
        op(
            "GET /api/sys/audit/tile/{+path}",
            "readTile",
            "audit",
            "A tile or an entry bundle of the log",
            json!({ "path": "entries/000.p/42" }),
            Bytes,
        )
        .notes("As C2SP tlog-tiles has it. Requires `audit:read_all`.")
        .refuses(&[404]),
        op(
            "GET /api/events",
            "followFacts",
            "audit",
            "Facts as they are recorded",
            json!({}),
            Events(&[
                ("ready", "gateway.ready", "First: whose facts come."),
                ("audit", "audit.facts.entry", "A fact; the event's id is its index."),
                ("gap", "gateway.gap", "At least so many are missing here; they are in the history."),
            ]),
        )
        .notes(
            "One's own; everybody's with `audit:read_all`. A comment comes after 15 s of silence. It ends with its session, or \
             when its principal's standing changes: connect again with `Last-Event-ID`.",
        )
        .own(200, None, None),
        op(
            "POST /api/agent/prompt",
            "promptAgent",
            "agent",
            "Prompt the agent that is installed, and follow what comes of it",
            json!({ "text": "What is new?", "session_id": "morning", "context": { "language": "en" } }),
            Events(&[
                ("ready", "gateway.prompt-ready", "First: somebody has taken the prompt."),
                ("delta", "gateway.prompt-event", "A piece of the answer, in order."),
                ("session_changed", "gateway.prompt-event", "The agent's session has changed."),
                ("elicit", "gateway.prompt-event", "The agent asks something; with `approval`, a request for approval waits."),
                ("response", "gateway.prompt-event", "The answer, which ends the stream."),
                ("gap", "gateway.gap", "At least so many messages are missing here, of whatever session."),
                ("error", "gateway.problem", "The last event, where there is no response."),
            ]),
        )
        .notes(
            "Requires `agent:prompt`; about oneself `self:agent:prompt` is enough. A comment comes after 15 s of silence. It ends \
             with its session, or when its principal's standing changes.",
        )
        .own(200, Some("gateway.prompt"), None),
        op(
            "GET /api/sys/capabilities",
            "listCapabilities",
            "host",
            "Every capability that installed manifests declare",
            json!({}),
            Json(json!({
                "capabilities": [{
                    "id": "capsule:list", "label": "List capsules", "description": "See the installed capsules",
                    "category": "capsule", "scope": "both", "danger": "safe",
                }],
                "categories": ["capsule"],
            })),
        ),
        op(
            "GET /api/sys/config",
            "showConfig",
            "host",
            "The configuration that the host runs with",
            json!({}),
            Json(json!({ "settings": [{ "key": "http.listen", "value": "\"127.0.0.1:2787\"", "source": "default" }] })),
        ),
        op(
            "POST /api/sys/config/reload",
            "reloadConfig",
            "host",
            "Read the configuration again",
            json!({}),
            Json(json!({ "changes": [{
                "key": "log.level", "before": "\"info\"", "value": "\"debug\"", "source": "file", "applied": true,
            }] })),
        )
        .notes("What does not read or is out of bounds is a 400, and changes nothing."),
        op(
            "GET /api/sys/load",
            "showLoad",
            "host",
            "What capsules and principals have used",
            json!({ "limit": 100 }),
            Json(json!({
                "uptime_ms": 3_600_000, "instances": 1000, "instances_in_use": 2, "calls_waiting": 0,
                "capsules": [{
                    "id": "notes", "calls_total": 17, "fuel_total": 1_000_000, "memory_peak_bytes": 1_048_576,
                    "queue_bytes": 0,
                }],
                "principals": [{
                    "principal": "ada", "calls_total": 17, "fuel_total": 1_000_000, "memory_peak_bytes": 1_048_576,
                    "bus_bytes_total": 4096,
                }],
            })),
        )
        .notes("Totals begin with the host's process."),
        op("POST /api/sys/shutdown", "shutDown", "host", "Drain and end the host", json!({}), Json(json!({}))),
    ]
}

fn capsules() -> Vec<Operation> {
    let capsule = || json!({ "id": "notes", "version": "1.1.0", "state": "live", "hash": HASH });
    let named = || json!({ "capsule": "notes" });
    vec![
        op(
            "GET /api/capsules",
            "listCapsules",
            "capsules",
            "The installed capsules",
            json!({}),
            Json(json!({ "capsules": [capsule()] })),
        ),
        op(
            "POST /api/capsules",
            "installCapsule",
            "capsules",
            "Install a capsule or replace it by another version",
            json!({ "source": "/srv/notes.capsule", "grants": ["bus:send:identity:v1:me"] }),
            Json(json!({
                "id": "notes", "target_dir": "/home/astrid/.astrid/bin", "phase": "upgrade", "installed_version": "1.1.0",
                "previous_version": "1.0.0", "wasm_hash": HASH, "env_path": "/api/capsules/notes/env",
                "env_needs_prompt": false,
                "missing_imports": [{ "namespace": "translate", "interface": "translate.v1.text", "requirement": "handler" }],
                "export_conflicts": [{ "interface": "/api/notes", "existing_capsule": "gateway" }],
                "asks": ["bus:send:identity:v1:me"], "grants": ["bus:send:identity:v1:me"], "publisher": "acme",
            })),
        )
        .notes("Compiles, for up to minutes. 403 also where nobody whom the operator trusts vouches for the archive and somebody must.")
        .refuses(&[404, 409]),
        op("GET /api/capsules/{capsule}", "showCapsule", "capsules", "One capsule", named(), Json(capsule()))
            .refuses(&[404]),
        op(
            "DELETE /api/capsules/{capsule}",
            "removeCapsule",
            "capsules",
            "Uninstall a capsule",
            json!({ "capsule": "notes", "purge": false }),
            Nothing,
        )
        .refuses(&[404, 409]),
        op(
            "POST /api/capsules/{capsule}/rollback",
            "rollBackCapsule",
            "capsules",
            "Go back to the version before",
            named(),
            Json(json!({ "version": "1.0.0", "previous_version": "1.1.0" })),
        )
        .refuses(&[404, 409]),
        op(
            "POST /api/capsules/{capsule}/swap",
            "swapCapsule",
            "capsules",
            "The same version again, as a new generation",
            named(),
            Json(json!({ "version": "1.1.0" })),
        )
        .refuses(&[404, 409]),
        op(
            "GET /api/capsules/{capsule}/history",
            "showHistory",
            "capsules",
            "What happened to a capsule",
            named(),
            Json(json!({ "steps": [{ "time_ms": NOW * 1000, "what": "installed", "version": "1.1.0", "hash": HASH }] })),
        )
        .refuses(&[404]),
        op("POST /api/sys/capsules/reload", "reloadCapsules", "capsules", "Swap every capsule", json!({}), Nothing)
            .refuses(&[404, 409]),
        op(
            "POST /api/sys/capsules/gc",
            "collectGarbage",
            "capsules",
            "Delete components that nothing needs any more",
            json!({}),
            Json(json!({ "files": 2, "bytes": 1_048_576 })),
        ),
        op(
            "POST /api/sys/distro/apply",
            "applyDistribution",
            "capsules",
            "Apply the distribution that lies in the host's folder",
            json!({}),
            Json(json!({ "capsules": [
                { "name": "identity", "version": "0.1.0", "what": "unchanged" },
                { "name": "notes", "what": "failed", "why": "notes.capsule: there is none" },
            ] })),
        )
        .refuses(&[404, 409]),
        op(
            "GET /api/capsules/{capsule}/topics",
            "listTopics",
            "capsules",
            "The topics of a capsule with their types",
            named(),
            Json(json!({ "topics": [{
                "topic": "notes.v1.add", "direction": "subscribe", "handler": "add",
                "wit": { "payload": "notes.add", "answer": "nothing" },
                "schema": { "payload": { "type": "object" }, "answer": { "type": "object" } },
            }] })),
        )
        .refuses(&[404]),
        op(
            "GET /api/capsules/{capsule}/env",
            "showEnvironment",
            "environment",
            "The fields of a capsule's environment",
            named(),
            Json(json!({ "capsule_id": "notes", "fields": { "API_KEY": {
                "type": "secret", "description": "The key of the provider", "enum_values": [], "is_set": true,
            } } })),
        )
        .notes("As they stand for `principal`, else for the caller. Values never come back.")
        .refuses(&[404]),
        op(
            "POST /api/capsules/{capsule}/env/{field}",
            "setField",
            "environment",
            "Set a field of a capsule's environment",
            json!({ "capsule": "notes", "field": "API_KEY", "value": "sk-sample" }),
            Nothing,
        )
        .notes("For `principal`, else for the caller.")
        .refuses(&[404]),
        op(
            "DELETE /api/capsules/{capsule}/env/{field}",
            "clearField",
            "environment",
            "Clear a field of a capsule's environment",
            json!({ "capsule": "notes", "field": "API_KEY" }),
            Nothing,
        )
        .notes("For `principal`, else for the caller. Fine if there was no value.")
        .refuses(&[404]),
    ]
}

fn bus() -> Vec<Operation> {
    vec![
        op(
            "POST /api/bus/request/{topic}",
            "requestTopic",
            "bus",
            "Send a request and get the handler's answer",
            json!({ "text": "milk" }),
            Json(json!({ "added": 1 })),
        )
        .notes(
            "Requires `bus:request`, and what the topic's binding requires. The answer is the handler's, byte for byte: \
             `application/octet-stream` if it is no JSON, and without a body if it is empty.",
        )
        .refuses(&[404, 409])
        .own(200, Some("gateway.any"), Some("gateway.any")),
        op(
            "POST /api/bus/publish/{topic}",
            "publishTopic",
            "bus",
            "Publish a message",
            json!({ "text": "milk" }),
            Json(json!({ "delivered": 2 })),
        )
        .notes("Requires `bus:publish`; it reaches those bindings that the caller may reach.")
        .own(202, Some("gateway.any"), Some("gateway.delivered")),
    ]
}
