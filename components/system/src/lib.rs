//! The operator's desk: the host's own operations as topics.
//!
//! The host trusts whoever holds the grant `sys:host` with everything; this capsule is the one that holds it, and its
//! manifest states what each operation requires of the caller. It keeps nothing and decides nothing else: [`desk`],
//! [`distribution`], [`mod@env`], [`processes`] and [`topics`] say how the host's records read as JSON.

pub mod desk;
pub mod distribution;
pub mod env;
pub mod processes;
pub mod topics;

use astrid_sdk::authority::held;
use astrid_sdk::host;
use astrid_sdk::prelude::{Answer, Message, Refusal, audit, handlers, json, log};
use serde_json::json as object;

use desk::{Collected, History, Install, Logs, Nothing, Remove, RolledBack, Swapped, Which};
use distribution::{Onboarding, Shown};
use env::{Clear, Get, Set};
use processes::{Listed, Stop};
use topics::Topics;

/// What [`logs`] requires in the manifest.
const READ_LOGS: &str = "system:logs";

fn status(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&desk::Status::from(host::status()))
}

fn logs(message: Message) -> Answer {
    let query = message.object::<Logs>()?.query()?;
    json(&desk::Lines::from(host::logs(&query)))
}

/// As [`logs`], for streams: whoever began one has been recorded.
fn logs_more(message: Message) -> Answer {
    let query = message.object::<Logs>()?.query()?;
    if !held::holds(READ_LOGS, None) {
        return Err(Refusal::denied(format!("requires {READ_LOGS}")));
    }
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

fn capabilities(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&desk::Catalogue::from(host::capabilities()))
}

fn config(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&desk::Settings::from(host::config()))
}

fn config_reload(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    let changes = host::reload_config().map_err(Refusal::invalid)?;
    let applied: Vec<_> = changes.iter().filter(|change| change.applied).map(|change| &change.key).collect();
    audit::detail(&object!({ "applied": applied }));
    log::info!("{} had the configuration read again", message.principal);
    json(&desk::Reloaded::from(changes))
}

fn load(message: Message) -> Answer {
    let limit = message.object::<desk::LoadRequest>()?.checked()?;
    json(&desk::Load::from(host::measure(limit)))
}

fn capsule_install(message: Message) -> Answer {
    let Install { source, grants, shadow } = message.object::<Install>()?.checked()?;
    audit::detail(&object!({ "file": file_name(&source), "grants": grants, "shadow": shadow }));
    let options = host::InstallOptions { grants: grants.unwrap_or_default(), shadow: shadow.unwrap_or(0) };
    let installed = host::install(&source, &options).map_err(desk::refusal)?;
    let (id, version, hash) = (&installed.id, &installed.version, &installed.hash);
    audit::detail(
        &object!({ "capsule": id, "version": version, "hash": hash, "grants": installed.grants, "publisher": installed.publisher }),
    );
    log::info!("{} installed {} {}", message.principal, installed.id, installed.version);
    json(&desk::Installed::from(installed))
}

fn capsule_topics(message: Message) -> Answer {
    let Which { capsule } = message.object()?;
    let found = host::topics(&capsule).ok_or_else(|| not_installed(&capsule))?;
    json(&Topics::new(found)?)
}

fn capsule_show(message: Message) -> Answer {
    let Which { capsule } = message.object()?;
    let found = host::capsules().into_iter().find(|row| row.id == capsule);
    json(&desk::Capsule::from(found.ok_or_else(|| not_installed(&capsule))?))
}

fn not_installed(capsule: &str) -> Refusal {
    Refusal::not_found(format!("no capsule `{}` is installed", shown(capsule).escape_debug()))
}

fn capsule_rollback(message: Message) -> Answer {
    let Which { capsule } = message.object()?;
    audit::detail(&object!({ "capsule": shown(&capsule) }));
    let (version, previous_version) = host::rollback(&capsule).map_err(desk::refusal)?;
    audit::detail(&object!({ "capsule": capsule, "version": version, "previous_version": previous_version }));
    log::info!("{} rolled {capsule} back to {version}", message.principal);
    json(&RolledBack { version, previous_version })
}

fn capsule_swap(message: Message) -> Answer {
    let Which { capsule } = message.object()?;
    audit::detail(&object!({ "capsule": shown(&capsule) }));
    let version = host::swap(&capsule).map_err(desk::refusal)?;
    log::info!("{} swapped {capsule}", message.principal);
    json(&Swapped { version })
}

/// Every capsule again, as new generations. The first that fails ends it; those before it are swapped.
fn capsule_reload(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    for row in host::capsules() {
        host::swap(&row.id).map_err(desk::refusal)?;
    }
    log::info!("{} reloaded every capsule", message.principal);
    json(&Nothing {})
}

fn capsule_remove(message: Message) -> Answer {
    let Remove { capsule, purge } = message.object()?;
    let purge = purge.unwrap_or(false);
    audit::detail(&object!({ "capsule": shown(&capsule), "purge": purge }));
    host::remove(&capsule, purge).map_err(desk::refusal)?;
    log::info!("{} {} {capsule}", message.principal, if purge { "purged" } else { "removed" });
    json(&Nothing {})
}

fn capsule_history(message: Message) -> Answer {
    let Which { capsule } = message.object()?;
    let steps = host::history(&capsule);
    if steps.is_empty() {
        return Err(Refusal::not_found(format!("no capsule `{}` was ever installed", shown(&capsule).escape_debug())));
    }
    json(&History::from(steps))
}

fn distro_apply(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    let applied = host::apply_distro().map_err(desk::refusal)?;
    log::info!("{} applied the distribution", message.principal);
    json(&desk::Distribution::from(applied))
}

fn distribution_show(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&Shown::from(here()?))
}

fn distribution_onboarding(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&Onboarding::from(here()?))
}

fn here() -> Result<host::Distribution, Refusal> {
    host::distro().ok_or_else(|| Refusal::not_found("this host runs no distribution"))
}

fn capsule_gc(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    let (files, bytes) = host::gc().map_err(Refusal::unavailable)?;
    audit::detail(&object!({ "files": files, "bytes": bytes }));
    log::info!("{} collected {files} files", message.principal);
    json(&Collected { files, bytes })
}

/// The most bytes of a text of a caller that the record and a refusal repeat.
const MAX_SHOWN: usize = 64;

/// The beginning of a text that a caller has sent.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_SHOWN)]
}

/// The last part of a path: the folders above it say more of the host's machine than of what was installed.
fn file_name(path: &str) -> &str {
    shown(path.rsplit('/').next().unwrap_or_default())
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
    audit::detail(&object!({ "capsule": shown(&capsule) }));
    let fields = host::env_fields(&capsule, owner(&message)).map_err(env::refusal)?;
    json(&env::Listed::new(capsule, fields))
}

fn env_set(message: Message) -> Answer {
    let Set { capsule, field, value } = message.object()?;
    audit::detail(&object!({ "capsule": shown(&capsule), "field": shown(&field) }));
    host::env_set(&capsule, &field, owner(&message), &value.text()).map_err(env::refusal)?;
    log::info!("{} set {field} of {capsule} for {}", message.principal, owner(&message));
    json(&Nothing {})
}

fn env_clear(message: Message) -> Answer {
    let Clear { capsule, field } = message.object()?;
    audit::detail(&object!({ "capsule": shown(&capsule), "field": shown(&field) }));
    host::env_clear(&capsule, &field, owner(&message)).map_err(env::refusal)?;
    log::info!("{} cleared {field} of {capsule} for {}", message.principal, owner(&message));
    json(&Nothing {})
}

fn process_list(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&Listed::from(host::processes(message.target.as_deref())))
}

fn process_stop(message: Message) -> Answer {
    let Stop { process } = message.object()?;
    audit::detail(&object!({ "process": shown(&process) }));
    if !host::stop_process(&process, message.target.as_deref()) {
        return Err(Refusal::not_found(format!("no process `{}` runs", shown(&process).escape_debug())));
    }
    log::info!("{} stopped the process {process}", message.principal);
    json(&Nothing {})
}

handlers! {
    "env-get" => env_get,
    "env-set" => env_set,
    "env-clear" => env_clear,
    "status" => status,
    "logs" => logs,
    "logs-more" => logs_more,
    "shutdown" => shutdown,
    "capabilities" => capabilities,
    "config" => config,
    "config-reload" => config_reload,
    "load" => load,
    "capsule-list" => capsule_list,
    "capsule-install" => capsule_install,
    "capsule-topics" => capsule_topics,
    "capsule-show" => capsule_show,
    "capsule-rollback" => capsule_rollback,
    "capsule-swap" => capsule_swap,
    "capsule-reload" => capsule_reload,
    "capsule-remove" => capsule_remove,
    "capsule-history" => capsule_history,
    "capsule-gc" => capsule_gc,
    "distribution-onboarding" => distribution_onboarding,
    "distribution-show" => distribution_show,
    "distro-apply" => distro_apply,
    "usage" => usage,
    "process-list" => process_list,
    "process-stop" => process_stop,
}
