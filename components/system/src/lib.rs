//! The operator's desk: the host's own operations as topics.
//!
//! The host trusts whoever holds the grant `sys:host` with everything; this capsule is the one that holds it, and its
//! manifest states what each operation requires of the caller. It keeps nothing and decides nothing else: [`desk`], [`mod@env`]
//! and [`topics`] say how the host's records read as JSON.

pub mod desk;
pub mod env;
pub mod topics;

use astrid_sdk::host;
use astrid_sdk::prelude::{Answer, Message, Refusal, handlers, json, log};

use desk::{Install, Logs, Nothing};
use env::{Clear, Get, Set};
use topics::{Request, Topics};

fn status(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&desk::Status::from(host::status()))
}

fn logs(message: Message) -> Answer {
    let query = message.object::<Logs>()?.query()?;
    json(&desk::Lines::from(host::logs(&query)))
}

fn shutdown(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    log::info!("{} stops the host", message.principal);
    host::shutdown();
    json(&Nothing {})
}

fn capsule_list(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&desk::Capsules::from(host::capsules()))
}

fn config(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&desk::Settings::from(host::config()))
}

fn capsule_install(message: Message) -> Answer {
    let Install { source, grants } = message.object::<Install>()?.checked()?;
    let installed = host::install(&source, &grants.unwrap_or_default()).map_err(desk::refusal)?;
    log::info!("{} installed {} {}", message.principal, installed.id, installed.version);
    json(&desk::Installed::from(installed))
}

fn capsule_topics(message: Message) -> Answer {
    let Request { capsule } = message.object()?;
    let found = host::topics(&capsule).ok_or_else(|| Refusal::not_found(format!("no capsule `{capsule}`")))?;
    json(&Topics::new(found)?)
}

fn usage(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    let principal = owner(&message);
    let found = host::usage(principal).ok_or_else(|| Refusal::not_found(format!("no principal `{principal}`")))?;
    json(&desk::Usage::new(principal, found))
}

/// Who it is about: the target, else the caller. The host has checked `requires` for either.
fn owner(message: &Message) -> &str {
    message.target.as_deref().unwrap_or(&message.principal)
}

fn env_get(message: Message) -> Answer {
    let Get { capsule } = message.object()?;
    let fields = host::env_fields(&capsule, owner(&message)).map_err(env::refusal)?;
    json(&env::Listed::new(capsule, fields))
}

fn env_set(message: Message) -> Answer {
    let Set { capsule, field, value } = message.object()?;
    host::env_set(&capsule, &field, owner(&message), &value.text()).map_err(env::refusal)?;
    log::info!("{} set {field} of {capsule} for {}", message.principal, owner(&message));
    json(&Nothing {})
}

fn env_clear(message: Message) -> Answer {
    let Clear { capsule, field } = message.object()?;
    host::env_clear(&capsule, &field, owner(&message)).map_err(env::refusal)?;
    log::info!("{} cleared {field} of {capsule} for {}", message.principal, owner(&message));
    json(&Nothing {})
}

handlers! {
    "env-get" => env_get,
    "env-set" => env_set,
    "env-clear" => env_clear,
    "status" => status,
    "logs" => logs,
    "shutdown" => shutdown,
    "config" => config,
    "capsule-list" => capsule_list,
    "capsule-install" => capsule_install,
    "capsule-topics" => capsule_topics,
    "usage" => usage,
}
