//! The host itself: for the one capsule that operators trust with its operations. Needs the grant `sys:host`.

pub use crate::bindings::imports::astrid::sys::host::{
    Applied, Capability, Capsule, CapsuleLoad, Change, Direction, EnvError, HostStatus, InstallError, InstallOptions,
    Installed, Load, LogLine, LogQuery, PrincipalLoad, PrincipalUsage, Setting, Step, Topic, TopicType, apply_distro,
    capabilities, capsules, config, env_clear, env_fields, env_set, gc, history, install, logs, measure, reload_config,
    remove, rollback, shutdown, status, swap, topics, usage,
};
