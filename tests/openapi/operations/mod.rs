//! What no type and no table says of a route: its name for programs, what it is for, what its handler refuses beside what
//! every route may, and an example of each thing that goes in and out. The rows stand by their tag, a file for each.

mod agent;
mod approvals;
mod audit;
mod bus;
mod capsules;
mod devices;
mod distribution;
mod environment;
mod groups;
mod host;
mod invites;
mod principals;
mod quotas;
mod sessions;

use serde_json::{Value, json};

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

/// What whoever has become somebody is told.
fn logged_in() -> Value {
    json!({
        "principal": "ada", "public_key_fingerprint": FINGERPRINT, "session_token": BEARER,
        "session_expires_at_epoch": SOON,
    })
}

/// Every route, by its tag.
pub(crate) fn operations() -> Vec<Operation> {
    [
        distribution::rows(),
        sessions::rows(),
        devices::rows(),
        approvals::rows(),
        invites::rows(),
        principals::rows(),
        groups::rows(),
        quotas::rows(),
        capsules::rows(),
        environment::rows(),
        audit::rows(),
        agent::rows(),
        host::rows(),
        bus::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
