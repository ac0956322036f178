//! What a capsule may ask the operator for: each grant opens one interface of the host. Without any it has none of these.

use crate::{Capability, shown};

/// Import `astrid:authority/sessions`.
pub const SESSIONS: &str = "authority:sessions";
/// Export `astrid:authority/authenticator`. One capsule holds it.
pub const AUTHENTICATOR: &str = "authority:authenticator";
/// Import `astrid:authority/registrar`. One capsule holds it.
pub const REGISTRAR: &str = "authority:registrar";
/// Import `astrid:sys/host`.
pub const HOST: &str = "sys:host";
/// Import `astrid:journal/facts`: read everybody's facts.
pub const JOURNAL_READ: &str = "journal:read";
/// Import `astrid:journal/retention`: delete old entries of the log of facts.
pub const JOURNAL_PRUNE: &str = "journal:prune";
/// Import `astrid:sys/sink`: deliver to the places outside that the operator has named.
pub const SINK: &str = "sink:deliver";
/// `bus:send:<topic>`, dots written as colons: send to topics that are not the capsule's own. Not written in `asks`:
/// every `[[publish]]` of such a topic asks for it ([`Manifest::asked`](super::Manifest::asked)).
pub const SEND: &str = "bus:send";
/// `bus:intercept:<topic>`, dots written as colons: see, change and deny messages of topics that are not the capsule's
/// own. Derived from `[[intercept]]` as [`SEND`] is from `[[publish]]`.
pub const INTERCEPT: &str = "bus:intercept";
/// `bus:receive:<topic>`, dots written as colons: get messages of topics that are not the capsule's own. Derived from
/// `[[subscribe]]` as [`SEND`] is from `[[publish]]`.
pub const RECEIVE: &str = "bus:receive";
/// `process:start:<program>`: start a program of the system. Derived from `[[process]]`, as
/// [`Process::grant`](super::Process::grant) writes it.
pub const START: &str = "process:start";
/// Serve HTTP under the manifest's mounts.
pub const MOUNT: &str = "http:mount";
/// Export `astrid:capsule/run-loop`, with `isolation = "run"`.
pub const RUN: &str = "component:run";
/// `keys:<purpose>`: sign and verify with that purpose's key.
pub const KEYS: &str = "keys";

/// The purpose whose grant a key needs: of `purpose` itself, and of `purpose.N`, its generation N (1 to 2^32 - 1, no
/// leading zero). A purpose is 1 to 64 of `[a-z0-9-]`. None if it is neither.
pub fn key_purpose(key: &str) -> Option<&str> {
    let (purpose, generation) = key.split_once('.').map_or((key, None), |(purpose, n)| (purpose, Some(n)));
    let fits = (1..=64).contains(&purpose.len())
        && purpose.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let numbered = generation
        .is_none_or(|n| n.bytes().all(|b| b.is_ascii_digit()) && !n.starts_with('0') && n.parse::<u32>().is_ok());
    (fits && numbered).then_some(purpose)
}

/// Every grant by its fixed name; `keys:<purpose>` is the only family.
pub const FIXED: [&str; 9] = [SESSIONS, AUTHENTICATOR, REGISTRAR, HOST, JOURNAL_READ, JOURNAL_PRUNE, SINK, MOUNT, RUN];

/// Whether `asks` may name it.
pub(super) fn check(asked: &Capability) -> Result<(), String> {
    let text = asked.as_str();
    let purpose = text
        .strip_prefix(KEYS)
        .and_then(|rest| rest.strip_prefix(':'))
        .is_some_and(|purpose| key_purpose(purpose) == Some(purpose));
    if !FIXED.contains(&text) && !purpose {
        return Err(format!(
            "asks `{}`, which no host offers; there are {} and keys:<purpose> (1 to 64 of a-z 0-9 -)",
            shown(text),
            FIXED.join(", ")
        ));
    }
    Ok(())
}
