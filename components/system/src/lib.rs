//! The operator's desk: the host's own operations as topics.
//!
//! The host trusts whoever holds the grant `sys:host` with everything; this capsule is the one that holds it, and its
//! manifest states what each operation requires of the caller. It keeps nothing and decides nothing else: [`desk`] says
//! how the host's records read as JSON.

pub mod desk;

use astrid_sdk::host;
use astrid_sdk::prelude::*;

use desk::{Install, Logs, Nothing};

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
    let installed = host::install(&source, &grants).map_err(desk::refusal)?;
    log::info!("{} installed {} {}", message.principal, installed.id, installed.version);
    json(&desk::Installed::from(installed))
}

handlers! {
    "status" => status,
    "logs" => logs,
    "shutdown" => shutdown,
    "config" => config,
    "capsule-list" => capsule_list,
    "capsule-install" => capsule_install,
}
