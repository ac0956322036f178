//! The operator's desk: every topic, and what of it reaches the host.

mod capsules;
mod distribution;
mod environment;
mod host;
mod logs;
mod requests;

use astrid_sdk_test::{
    Applied, Branding, Capability, Capsule, CapsuleLoad, CapsuleRow, Change, Direction, Distribution, EnvError, Field,
    HostStatus, Icon, InstallError, Installed, Kind, Load, LogLine, PrincipalLoad, PrincipalUsage, Process, Refusal,
    RefusalCode, Setting, Step, Topic, TopicType, Variable,
};
use serde_json::{Value, json};

const HANDLERS: [&str; 26] = [
    "status",
    "logs",
    "shutdown",
    "capabilities",
    "config",
    "config-reload",
    "load",
    "capsule-list",
    "capsule-install",
    "capsule-topics",
    "capsule-show",
    "capsule-rollback",
    "capsule-swap",
    "capsule-reload",
    "capsule-remove",
    "capsule-history",
    "capsule-gc",
    "distribution-show",
    "distribution-onboarding",
    "distro-apply",
    "env-get",
    "env-set",
    "env-clear",
    "usage",
    "process-list",
    "process-stop",
];

fn system() -> Capsule {
    crate::capsule("system")
}

fn ask(system: &mut Capsule, handler: &str, payload: Value) -> Result<Value, Refusal> {
    let answer = system.as_principal("alice").handle(handler, payload);
    let answer = answer.unwrap_or_else(|error| panic!("{handler}: {error}"));
    answer.inspect(|answer| crate::types::check_answer("system", handler, answer))
}
